//! The handle on a session: what tunnels and the control protocol may ask of it.
//!
//! Knows the channels to the task that owns the session. A grant that is there is read without the task.
//!
//! Long because each thing that may be asked has its command and its method here.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use control::wire::{self, Opener};
use jiff::Timestamp;
use pomd_core::{
    config::{Address, TokenKind},
    route::refusal::{OpenError, RefusalKind},
    session::{
        Handover, Look, Patience, View, Wait, WaiterView,
        error::{LoginError, NotTaken},
        is_no_bound,
        token::Grant,
    },
    words::login::login_needed,
};
use tokio::{
    sync::{Mutex, Notify, mpsc, oneshot, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    LoginOutcome, NoGrant,
    server::{LoginServer, LoginTarget, NotGood},
    source::{Paste, PendingLogin},
};
use crate::clock::Clock;

/// How often a login may be overtaken by others before the person is told to try again.
const TRIES: usize = 3;
/// For so long a sign-in URL is given to everybody who asks: it is good for five minutes, and people get a new one after
/// four.
pub(super) const SHARED: Duration = Duration::from_secs(30);

/// For so long the server's word on a token holds for those who want it for a program of their own.
const CHECKED: Duration = Duration::from_secs(10);
/// How long they wait for that word: a server that does not answer says nothing against the token.
const CHECK_LIMIT: Duration = Duration::from_secs(5);

/// A handle on the session of one cluster. Clones share it.
#[derive(Clone)]
pub struct Session {
    shared: Arc<Shared>,
}

pub(super) struct Shared {
    pub(super) cluster: Arc<LoginTarget>,
    pub(super) server: Arc<dyn LoginServer>,
    pub(super) clock: Clock,
    /// Its tokens come from a person's login.
    pub(super) asks_a_person: bool,
    pub(super) inbox: mpsc::Sender<Command>,
    pub(super) view: watch::Receiver<View>,
    pub(super) waiter_view: watch::Receiver<WaiterView>,
    pub(super) waiting: Arc<Waiting>,
    /// Told when what failed before counts no longer.
    pub(super) environment_changed: Arc<Notify>,
    /// The newest generation that is known to have opened a route.
    pub(super) accepted: AtomicU64,
    /// The generation whose upper bound the server was seen to pass over.
    pub(super) disproved: AtomicU64,
    /// The newest sign-in URL. Locked while one is minted: whoever asks meanwhile waits for the same one, and if the
    /// first goes away the next takes over. Minting has limits of its own.
    pub(super) minted: Mutex<Option<Minted>>,
    /// Which generation the server was asked about last, and when. Locked while it is asked, as above.
    pub(super) checked: Mutex<Option<(u64, Instant)>>,
    /// Ends the task.
    pub(super) stop: CancellationToken,
    /// It ends because another session runs instead.
    pub(super) replaced: AtomicBool,
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
    Accepted { generation: u64 },
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
    /// The server refused the token of this generation in a way that may mean that it is stale. Answered once the source
    /// was asked again, if that could help.
    Doubted {
        generation: u64,
        reply: oneshot::Sender<Asked>,
    },
    /// A person wants to log in.
    Ask {
        shown_by_pomd: bool,
        reply: oneshot::Sender<Asked>,
    },
    /// A person brings the address that their sign-in ended on.
    Pasted(Paste),
    /// A person wants to be logged out.
    Logout {
        reply: oneshot::Sender<Option<Grant>>,
    },
}

/// What became of a person's wish to log in.
pub(super) enum Asked {
    /// A token is there already.
    Granted,
    Open(OpenLogin),
    Failed(LoginError),
}

/// A login that waits for the person who asked.
pub(super) struct OpenLogin {
    pub(super) login: PendingLogin,
    /// A sign-in URL that was minted a moment ago.
    pub(super) sign_in_url: Option<String>,
    pub(super) expires_at: Timestamp,
    pub(super) fresh: bool,
    pub(super) since: Instant,
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

    /// Returns a snapshot, by the clock of this moment.
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
        view.at(self.shared.clock.now(), self.name())
    }

    /// Follows the snapshots, in which a session that is past its upper bound is not over yet.
    pub fn watch(&self) -> watch::Receiver<View> {
        self.shared.view.clone()
    }

    /// Returns a grant newer than `after` (any, if `None`): at once if there is one, else a login is demanded and awaited
    /// with all the others. Cancel-safe: dropping the future withdraws the demand.
    pub async fn grant(&self, after: Option<u64>, patience: Patience) -> Result<Grant, NoGrant> {
        let mut views = self.shared.waiter_view.clone();
        let granted = views.borrow().newer(after);
        if let Some(grant) = granted {
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
            let view = views.borrow_and_update().clone();
            let ends = match wait.look(&view, begun.elapsed()) {
                Look::Granted(grant) => return Ok(grant),
                Look::SentAway => {
                    return Err(NoGrant {
                        reason: view.reason,
                    });
                }
                Look::Until(waited) => begun + waited,
            };
            tokio::select! {
                biased;
                () = tokio::time::sleep_until(ends) => {}
                changed = views.changed() => if changed.is_err() {
                    return Err(self.gone());
                },
            }
        }
    }

    /// Tells that a route was opened with the token of this generation: a later refusal is an end like any other, and not
    /// of a token that never worked. The task hears of each generation once.
    pub fn accepted(&self, generation: u64) {
        let shared = &self.shared;
        let known = shared.accepted.fetch_max(generation, Ordering::Relaxed) >= generation;
        let until = shared.view.borrow().until;
        let disproved = until.is_some_and(|it| is_no_bound(it, shared.clock.now()));
        if known && !disproved {
            return;
        }
        if disproved {
            shared.disproved.store(generation, Ordering::Relaxed);
        }
        let command = Command::Accepted { generation };
        if shared.inbox.try_send(command).is_err() {
            // The next connection tells it.
            shared.accepted.fetch_min(generation - 1, Ordering::Relaxed);
        }
    }

    /// Tells that the server refused the token of this generation: it is forgotten, unless a newer one is there already.
    pub async fn refused(&self, generation: u64) {
        self.ask(|done| Command::Refused { generation, done }).await;
    }

    /// Returns the grant to try instead of one that met `error`, if the server may have meant the token by it and the source
    /// gives another one: a stale bearer token is refused as the policy refuses a good one (403). The source is asked once for
    /// each token.
    pub async fn instead_of(&self, grant: &Grant, error: &OpenError) -> Option<Grant> {
        let is_forbidden =
            matches!(error, OpenError::Refused(it) if it.kind == RefusalKind::Forbidden);
        if !is_forbidden || grant.token.kind() != TokenKind::Bearer {
            return None;
        }
        let generation = grant.generation;
        self.ask(|reply| Command::Doubted { generation, reply })
            .await?;
        self.shared.waiter_view.borrow().newer(Some(generation))
    }

    /// Tells that the network is another one, or that the machine slept: pauses after logins that failed are forgotten.
    /// Opens none.
    pub fn on_environment_changed(&self) {
        self.shared.environment_changed.notify_one();
    }

    /// Logs a person in: asks the server whether the token is still good, or for a login.
    pub async fn login(&self, request: wire::LoginRequest) -> Result<LoginOutcome, LoginError> {
        let shown_by_pomd = request.opener == Opener::Pomd;
        if !self.shared.asks_a_person {
            let asked = self.ask(|reply| Command::Ask {
                shown_by_pomd,
                reply,
            });
            return match asked.await {
                Some(Asked::Failed(error)) => Err(error),
                Some(Asked::Granted | Asked::Open(_)) => Ok(LoginOutcome::LoggedIn),
                None => Err(self.ended()),
            };
        }
        for _ in 0..TRIES {
            let held = self.shared.view.borrow().grant.clone();
            if let Some(grant) = held {
                match self
                    .shared
                    .server
                    .user(&self.shared.cluster, &grant.token)
                    .await
                {
                    Ok(_) => {
                        let generation = grant.generation;
                        self.ask(|done| Command::Confirmed { generation, done })
                            .await;
                        return Ok(LoginOutcome::LoggedIn);
                    }
                    Err(NotGood::Refused) => self.refused(grant.generation).await,
                    Err(NotGood::Unasked(error)) => return Err(error),
                }
            }
            let asked = self.ask(|reply| Command::Ask {
                shown_by_pomd,
                reply,
            });
            match asked.await {
                Some(Asked::Granted) => {}
                Some(Asked::Open(open)) => return self.tell(open, request.mint).await,
                Some(Asked::Failed(error)) => return Err(error),
                None => return Err(self.ended()),
            }
        }
        Err(LoginError::Overtaken)
    }

    /// Returns the grant for a program that sends the token itself, and so cannot tell us of a refusal: the server is asked
    /// about it first, once for all who want it in a moment. Starts no login.
    pub async fn checked_grant(&self) -> Result<Grant, NoGrant> {
        let shared = &self.shared;
        if !shared.asks_a_person {
            return self.sourced_grant().await;
        }
        for _ in 0..TRIES {
            let mut checked = shared.checked.lock().await;
            let Some(grant) = self.view().grant else {
                break;
            };
            let generation = grant.generation;
            let is_known = checked.is_some_and(|it| it.0 == generation && it.1.elapsed() < CHECKED);
            if !is_known {
                let asking = shared.server.user(&shared.cluster, &grant.token);
                match tokio::time::timeout(CHECK_LIMIT, asking).await {
                    Ok(Ok(_)) => {
                        self.ask(|done| Command::Confirmed { generation, done })
                            .await;
                    }
                    Ok(Err(NotGood::Refused)) => {
                        self.refused(generation).await;
                        continue;
                    }
                    Ok(Err(NotGood::Unasked(_))) | Err(_) => {
                        if self.view().state != wire::ClusterState::LoggedIn {
                            break;
                        }
                    }
                }
                *checked = Some((generation, Instant::now()));
            }
            // Somebody may have logged out meanwhile.
            if self
                .view()
                .grant
                .is_some_and(|it| it.generation == generation)
            {
                return Ok(grant);
            }
        }
        let reason = login_needed(self.name(), shared.clock.now());
        Err(NoGrant { reason })
    }

    /// Returns what the portal offers whoever is logged in. Starts no login.
    pub async fn routes(&self) -> Result<Vec<wire::OfferedRoute>, NoGrant> {
        let shared = &self.shared;
        for _ in 0..TRIES {
            let grant = self.checked_grant().await?;
            match shared.server.routes(&shared.cluster, &grant.token).await {
                Ok(routes) => return Ok(routes),
                Err(NotGood::Refused) => self.refused(grant.generation).await,
                Err(NotGood::Unasked(error)) => {
                    let reason = error.reason(self.name(), shared.clock.now());
                    return Err(NoGrant { reason });
                }
            }
        }
        let reason = login_needed(self.name(), shared.clock.now());
        Err(NoGrant { reason })
    }

    /// Returns the grant of a source that needs no person, which is asked where there is none.
    async fn sourced_grant(&self) -> Result<Grant, NoGrant> {
        for _ in 0..TRIES {
            let view = self.view();
            if let Some(grant) = view
                .grant
                .filter(|_| view.state == wire::ClusterState::LoggedIn)
            {
                return Ok(grant);
            }
            let asked = self.ask(|reply| Command::Ask {
                shown_by_pomd: false,
                reply,
            });
            match asked.await {
                Some(Asked::Granted | Asked::Open(_)) => {}
                Some(Asked::Failed(error)) => {
                    let reason = error.reason(self.name(), self.shared.clock.now());
                    return Err(NoGrant { reason });
                }
                None => return Err(self.gone()),
            }
        }
        let reason = LoginError::Overtaken.reason(self.name(), self.shared.clock.now());
        Err(NoGrant { reason })
    }

    /// Takes the address that a sign-in ended on from a person whose browser cannot reach this machine.
    pub async fn paste(&self, address: String) -> Result<(), NotTaken> {
        self.ask(|done| Command::Pasted(Paste { address, done }))
            .await
            .unwrap_or(Err(NotTaken::NotOpen))
    }

    /// Logs a person out: the token and its file are forgotten, a pending login is closed, nothing asks until a person
    /// does. Returns who was logged in (`None` if nobody).
    pub async fn logout(&self) -> Option<Grant> {
        self.ask(|reply| Command::Logout { reply }).await.flatten()
    }

    /// Marks the session as replaced by another: whoever waits for this one is told so once it ends.
    pub fn mark_replaced(&self) {
        self.shared.replaced.store(true, Ordering::Relaxed);
    }

    /// Returns what the successor should know.
    pub fn handover(&self) -> Handover {
        self.shared.waiter_view.borrow().handover()
    }

    /// Returns where the login was made, or would be.
    pub fn address(&self) -> Address {
        self.shared.waiter_view.borrow().address.clone()
    }

    /// Returns the page that ends the session at the server too, at the address where the login was made.
    pub fn sign_out_url(&self) -> String {
        format!(
            "{}/.pomerium/sign_out",
            self.shared.waiter_view.borrow().address
        )
    }

    async fn tell(&self, open: OpenLogin, mint: bool) -> Result<LoginOutcome, LoginError> {
        let sign_in_url = match open.sign_in_url {
            _ if !mint => None,
            Some(url) => Some(url),
            None => Some(self.mint(open.login.redirect).await?),
        };
        Ok(LoginOutcome::Open(wire::OpenLogin {
            link: open.login.link,
            port: open.login.port,
            sign_in_host: sign_in_url.as_deref().and_then(host_of),
            sign_in_url,
            expires_at: open.expires_at,
            fresh: open.fresh,
            started_at: self.ago(open.since),
        }))
    }

    fn ago(&self, since: Instant) -> Option<Timestamp> {
        self.shared.clock.now().checked_sub(since.elapsed()).ok()
    }

    async fn mint(&self, redirect: String) -> Result<String, LoginError> {
        let mut newest = self.shared.minted.lock().await;
        let usable = newest.take_if(|it| it.is_for(&redirect));
        let minted = match usable {
            Some(it) => it,
            None => {
                let (server, cluster) = (&self.shared.server, &self.shared.cluster);
                let url = server.sign_in_url(cluster, &redirect).await;
                Minted {
                    url: url?,
                    redirect,
                    at: Instant::now(),
                }
            }
        };
        Ok(newest.insert(minted).url.clone())
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.shared.inbox.send(command(reply)).await.ok()?;
        answer.await.ok()
    }

    fn name(&self) -> &str {
        self.shared.cluster.name.as_str()
    }

    fn gone(&self) -> NoGrant {
        let reason = self.ended().reason(self.name(), self.shared.clock.now());
        NoGrant { reason }
    }

    /// Why the task is no more.
    fn ended(&self) -> LoginError {
        if !self.shared.stop.is_cancelled() {
            LoginError::Broken
        } else if self.shared.replaced.load(Ordering::Relaxed) {
            LoginError::Replaced
        } else {
            LoginError::Stopping
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
            .field(&self.shared.cluster.name)
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
