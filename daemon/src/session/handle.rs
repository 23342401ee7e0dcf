//! The handle on a session: what tunnels and the control protocol may ask of it.
//!
//! Knows the channels to the task that owns the session. A grant that is there is read without the task.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use control::wire::{self, ApiError, ClusterState, Code, OpenLogin, Opener};
use jiff::Timestamp;
use pomd_core::config::Address;
use tokio::{
    sync::{Mutex, Notify, mpsc, oneshot, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    Grant, Legacy, LoginOutcome, NoGrant, Patience, View,
    facts::{Standing, is_no_bound},
    machine::Stance,
    pomerium::{Failure, NotGood, Pomerium},
    wait::{Look, Wait, newer},
};
use crate::clock::Clock;

/// How often a login may be overtaken by others before the person is told to try again.
const TRIES: usize = 3;
/// For so long a sign-in URL is given to everybody who asks: it is good for five minutes, and people get a new one after
/// four.
pub(super) const SHARED: Duration = Duration::from_secs(30);

/// A handle on the session of one cluster. Clones share it.
#[derive(Clone)]
pub struct Session {
    shared: Arc<Shared>,
}

pub(super) struct Shared {
    pub(super) cluster: String,
    pub(super) clock: Clock,
    pub(super) pomerium: Arc<dyn Pomerium>,
    pub(super) inbox: mpsc::Sender<Command>,
    pub(super) view: watch::Receiver<View>,
    pub(super) standing: watch::Receiver<Standing>,
    pub(super) waiting: Arc<Waiting>,
    /// Told when what failed before counts no longer.
    pub(super) again: Arc<Notify>,
    /// The newest generation that is known to have opened a route.
    pub(super) carried: AtomicU64,
    /// The generation whose upper bound the server was seen to pass over.
    pub(super) disproved: AtomicU64,
    /// The newest sign-in URL. Locked while one is minted: whoever asks meanwhile waits for the same one, and if the
    /// first goes away the next takes over. Minting has limits of its own.
    pub(super) minted: Mutex<Option<Minted>>,
    /// Ends the task.
    pub(super) stop: CancellationToken,
    /// It ends because another session takes over.
    pub(super) gives_way: AtomicBool,
}

/// What the task is asked to do. It answers when the snapshots show what came of it.
pub(super) enum Command {
    /// A connection waits for a token newer than `after`. Answered with how often those who wait were sent away.
    Demand {
        after: Option<u64>,
        client_asks: bool,
        done: oneshot::Sender<u64>,
    },
    /// A route was opened with the token of this generation.
    Carried { generation: u64 },
    /// The server was asked about the token of this generation just now, and takes it.
    Confirmed {
        generation: u64,
        done: oneshot::Sender<()>,
    },
    /// The server refused the token of this generation.
    Refused {
        generation: u64,
        done: oneshot::Sender<()>,
    },
    /// A person wants to log in.
    Ask {
        shown_by_pomd: bool,
        reply: oneshot::Sender<Asked>,
    },
    /// A person wants to be logged out.
    Logout {
        reply: oneshot::Sender<Option<Grant>>,
    },
}

/// What became of a person's wish to log in.
pub(super) enum Asked {
    /// A token is there already.
    Granted,
    Open(OpenDoor),
    Failed(Failure),
}

/// A login that waits for the person.
pub(super) struct OpenDoor {
    pub(super) link: String,
    pub(super) port: u16,
    /// What to mint a sign-in URL for.
    pub(super) redirect: String,
    /// One that was minted a moment ago.
    pub(super) sign_in_url: Option<String>,
    pub(super) expires_at: Timestamp,
    pub(super) fresh: bool,
}

/// How many connections wait.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    count: AtomicU64,
    /// Told when one comes or goes.
    pub(super) changed: Notify,
}

impl Waiting {
    pub(super) fn count(&self) -> u64 {
        self.count.load(Ordering::Acquire)
    }
}

/// One connection that waits, until it is dropped.
struct Waiter<'a>(&'a Waiting);

impl<'a> Waiter<'a> {
    fn new(waiting: &'a Waiting) -> Self {
        waiting.count.fetch_add(1, Ordering::AcqRel);
        waiting.changed.notify_one();
        Self(waiting)
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.0.count.fetch_sub(1, Ordering::AcqRel);
        self.0.changed.notify_one();
    }
}

impl Session {
    pub(super) fn of(shared: Shared) -> Self {
        Self {
            shared: Arc::new(shared),
        }
    }

    /// A snapshot, as things stand by the clock of this moment.
    pub fn view(&self) -> View {
        let mut view = self.shared.view.borrow().clone();
        // The task, which forgets the bound for good, may not have heard of it yet.
        let disproved = self.shared.disproved.load(Ordering::Relaxed);
        if view
            .grant
            .as_ref()
            .is_some_and(|it| it.generation == disproved)
        {
            view.until = None;
        }
        view.at(self.shared.clock.now(), &self.shared.cluster)
    }

    /// Follows the snapshots, in which a session that is past its upper bound is not over yet.
    pub fn watch(&self) -> watch::Receiver<View> {
        self.shared.view.clone()
    }

    /// A grant newer than `after` (any, if `None`): at once if there is one, else a login is demanded and awaited with
    /// all the others. Cancel-safe: dropping the future withdraws the demand.
    pub async fn grant(&self, after: Option<u64>, patience: Patience) -> Result<Grant, NoGrant> {
        let mut standing = self.shared.standing.clone();
        if let Some(grant) = newer(&standing.borrow(), after) {
            return Ok(grant);
        }
        let _waiter = Waiter::new(&self.shared.waiting);
        let client_asks = patience.client_asks;
        let demand = |done| Command::Demand {
            after,
            client_asks,
            done,
        };
        let Some(dismissals) = self.ask(demand).await else {
            return Err(self.gone());
        };
        let begun = Instant::now();
        let mut wait = Wait::new(after, patience, dismissals);
        loop {
            let now = standing.borrow_and_update().clone();
            let ends = match wait.look(&now, begun.elapsed()) {
                Look::Granted(grant) => return Ok(grant),
                Look::SentAway => return Err(NoGrant { reason: now.reason }),
                Look::Until(waited) => begun + waited,
            };
            tokio::select! {
                biased;
                () = tokio::time::sleep_until(ends) => {}
                changed = standing.changed() => if changed.is_err() {
                    return Err(self.gone());
                },
            }
        }
    }

    /// A route was opened with the token of this generation: if it is refused later, that is an end like any other and
    /// not a login that never worked. The task is told once for each.
    pub fn carried(&self, generation: u64) {
        let known = self.shared.carried.fetch_max(generation, Ordering::Relaxed) >= generation;
        let until = self.shared.view.borrow().until;
        let disproved = until.is_some_and(|it| is_no_bound(it, self.shared.clock.now()));
        if known && !disproved {
            return;
        }
        if disproved {
            self.shared.disproved.store(generation, Ordering::Relaxed);
        }
        if self
            .shared
            .inbox
            .try_send(Command::Carried { generation })
            .is_err()
        {
            // The next connection tells it.
            self.shared
                .carried
                .fetch_min(generation - 1, Ordering::Relaxed);
        }
    }

    /// The server refused the token of this generation: it is forgotten, unless a newer one is there already.
    pub async fn refused(&self, generation: u64) {
        self.ask(|done| Command::Refused { generation, done }).await;
    }

    /// The network is another one, or the machine slept: pauses after logins that failed are forgotten. Opens none.
    pub fn look_again(&self) {
        self.shared.again.notify_one();
    }

    /// A person wants to be logged in. Asks the server whether the token is still good, if there is one.
    pub async fn login(&self, request: wire::LoginRequest) -> Result<LoginOutcome, ApiError> {
        let shown_by_pomd = request.opener == Opener::Pomd;
        for _ in 0..TRIES {
            let held = self.shared.view.borrow().grant.clone();
            if let Some(grant) = held {
                match self.shared.pomerium.user(&grant.token).await {
                    Ok(_) => {
                        let generation = grant.generation;
                        self.ask(|done| Command::Confirmed { generation, done })
                            .await;
                        return Ok(LoginOutcome::LoggedIn);
                    }
                    Err(NotGood::Refused) => self.refused(grant.generation).await,
                    Err(NotGood::Unasked(failure)) => return Err(self.error(failure)),
                }
            }
            let asked = self.ask(|reply| Command::Ask {
                shown_by_pomd,
                reply,
            });
            match asked.await {
                Some(Asked::Granted) => {}
                Some(Asked::Open(door)) => return self.tell(door, request.mint).await,
                Some(Asked::Failed(failure)) => return Err(self.error(failure)),
                None => return Err(self.error(self.ended())),
            }
        }
        let cluster = &self.shared.cluster;
        Err(self.error(Failure {
            code: Code::LoginFailed,
            message: format!("the server refuses each login to {cluster} as soon as it is made"),
            hint: None,
            request_id: None,
        }))
    }

    /// A person wants to be logged out: the token and its file are forgotten, an open login is closed, nothing asks
    /// until a person does. Returns who was logged in (`None` if nobody).
    pub async fn logout(&self) -> Option<Grant> {
        self.ask(|reply| Command::Logout { reply }).await.flatten()
    }

    /// Another session takes over: whoever waits for this one is told so once it ends.
    pub fn give_way(&self) {
        self.shared.gives_way.store(true, Ordering::Relaxed);
    }

    /// What the session that takes over should know.
    pub fn legacy(&self) -> Legacy {
        let standing = self.shared.standing.borrow();
        Legacy {
            grant: standing.grant.clone(),
            address: Some(standing.address.clone()),
            quiet: standing.stance == Stance::Quiet,
            logged_out: self.shared.view.borrow().state == ClusterState::LoggedOut,
        }
    }

    /// Where its login was made, or would be.
    pub fn address(&self) -> Address {
        self.shared.standing.borrow().address.clone()
    }

    /// The page of the address where the login was made that ends the session at the server too.
    pub fn sign_out_url(&self) -> String {
        format!(
            "{}/.pomerium/sign_out",
            self.shared.standing.borrow().address
        )
    }

    async fn tell(&self, door: OpenDoor, mint: bool) -> Result<LoginOutcome, ApiError> {
        let pomerium = &self.shared.pomerium;
        let sign_in_url = match door.sign_in_url {
            _ if !mint => None,
            Some(url) => Some(url),
            None => {
                let mut newest = self.shared.minted.lock().await;
                let usable = newest.take_if(|it| it.is_for(&door.redirect));
                let minted = match usable {
                    Some(it) => it,
                    None => {
                        let minted = pomerium.sign_in_url(&door.redirect).await;
                        Minted {
                            url: minted.map_err(|it| self.error(it))?,
                            redirect: door.redirect,
                            at: Instant::now(),
                        }
                    }
                };
                Some(newest.insert(minted).url.clone())
            }
        };
        Ok(LoginOutcome::Open(OpenLogin {
            link: door.link,
            port: door.port,
            sign_in_host: sign_in_url.as_deref().and_then(host_of),
            sign_in_url,
            expires_at: door.expires_at,
            fresh: door.fresh,
        }))
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.shared.inbox.send(command(reply)).await.ok()?;
        answer.await.ok()
    }

    fn error(&self, failure: Failure) -> ApiError {
        failure.into_api_error(&self.shared.cluster)
    }

    fn gone(&self) -> NoGrant {
        let reason = self.ended().into_reason(self.shared.clock.now());
        NoGrant { reason }
    }

    /// Why the task is no more.
    fn ended(&self) -> Failure {
        let cluster = &self.shared.cluster;
        let (code, message) = if !self.shared.stop.is_cancelled() {
            (
                Code::Internal,
                format!("the session of {cluster} broke; connect again"),
            )
        } else if self.shared.gives_way.load(Ordering::Relaxed) {
            let message = format!("the settings of {cluster} changed meanwhile; connect again");
            (Code::LoginFailed, message)
        } else {
            (Code::Stopping, "pomd is stopping".to_owned())
        };
        Failure {
            code,
            message,
            hint: None,
            request_id: None,
        }
    }
}

/// A sign-in URL and what it was minted for.
pub(super) struct Minted {
    redirect: String,
    url: String,
    at: Instant,
}

impl Minted {
    fn is_for(&self, redirect: &str) -> bool {
        self.redirect == redirect && self.at.elapsed() < SHARED
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Session")
            .field(&self.shared.cluster)
            .finish()
    }
}

fn host_of(url: &str) -> Option<String> {
    let url = url::Url::parse(url).ok()?;
    let host = url.host_str()?;
    Some(match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    })
}
