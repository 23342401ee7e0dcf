//! The local side of one tunnel: accept, ask for a grant, ask upstream to open the route, relay.
//!
//! Knows its listeners, a [`Session`] and an [`Upstream`]. Must not know the configuration file, other tunnels or the
//! control protocol's routes.
//!
//! `accept` lets in from either kind of socket (`local`), `connection` carries one, `attempt` decides when to try again,
//! `dialect` knows what differs between the languages of clients, `probe` shows that the route works, `doctor` shows each step. `guarded` keeps web
//! pages out, as `pomd_core::guard` decides. Pure: `dialect`.

pub mod bind;
pub mod local;
pub mod peer;
pub mod relay;

mod accept;
mod attempt;
mod connection;
mod counters;
mod dialect;
mod doctor;
mod guarded;
mod holder;
mod outcome;
mod probe;

use std::{
    fmt, io,
    ops::Deref,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use control::wire::{self, Code};
use pomd_core::{
    config::{Authority, ClusterSpec, TunnelName, TunnelSpec},
    guard::Rules,
    route::refusal::{OpenError, Refusal, RefusalKind},
    session::token::Grant,
    words::open,
};
use tokio::{
    net::TcpStream,
    sync::{Notify, watch},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::Instrument;

pub use counters::{Carried, Counters, Totals};
use guarded::Guarded;
use local::{Ends, Local};
use outcome::Outcome;
pub use probe::ProbeError;

use crate::{
    env::Env,
    failpoints::Failpoint,
    portal,
    session::Session,
    system::{errors, limits},
    upstream::Upstream,
};

/// One tunnel of the configuration, from the reload that brought it to the one that takes it away. Its connections hold
/// it, so that they outlive its listeners.
pub struct Tunnel {
    parts: Parts,
    /// Its counts.
    pub counters: Counters,
    /// How the newest attempt ended.
    pub outcome: Outcome,
    /// Its connections.
    pub connections: TaskTracker,
    /// Ends its connections.
    pub cut: CancellationToken,
    probes: probe::Probes,
    /// Lets through one line a minute about connections that a missing login refused.
    complaints: Mutex<accept::Once>,
    /// The same about requests that the browser guard refused.
    guarded: Mutex<accept::Once>,
    /// Whom the browser guard lets in; `None`: everybody.
    rules: Option<Arc<Rules>>,
}

/// What a [`Tunnel`] is made of, and reads as its own.
#[derive(Clone)]
pub struct Parts {
    /// What people call it.
    pub name: TunnelName,
    /// Its settings.
    pub spec: TunnelSpec,
    /// The settings of its cluster: for hints that name them.
    pub cluster: ClusterSpec,
    /// Its cluster's session.
    pub session: Session,
    /// How its cluster is reached.
    pub upstream: Arc<Upstream>,
    /// What all relays share.
    pub relay: Arc<relay::Shared>,
    /// Who may connect.
    pub owners: Arc<peer::Owners>,
    /// The seams to the machine and the people around it.
    pub env: Env,
    /// Told when the tunnel's counters or outcome changed.
    pub changed: Arc<Notify>,
    /// The number of the newest connection of all tunnels; the same for all.
    pub numbers: Arc<AtomicU64>,
}

impl Deref for Tunnel {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.parts
    }
}

/// On whose behalf pomd connects to a tunnel itself: a client of the control socket that understands notes.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Cancelled once the client is gone.
    pub gone: CancellationToken,
    /// How far its connection is.
    pub stage: watch::Sender<Stage>,
}

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// It waits for the server.
    Opening,
    /// It waits for a login, which the client is to ask for.
    WaitsForLogin,
    /// Bytes flow.
    Open,
}

/// Accepts on `listeners` until `stop`, and gives them back: the addresses are free once they are dropped. Connections run
/// on `tunnel.connections` and are not ended. `Err`: a listener is broken and must be bound again.
pub async fn serve(
    tunnel: Arc<Tunnel>,
    listeners: Vec<bind::Listener>,
    stop: CancellationToken,
) -> Result<Vec<bind::Listener>, wire::Reason> {
    let span = tracing::error_span!(
        parent: None, "tunnel", tunnel = %tunnel.name, cluster = %tunnel.spec.cluster
    );
    let mut entrance = Entrance {
        tunnel: tunnel.clone(),
        strangers: accept::Once::default(),
        lack: Lack::default(),
    };
    accept::accept(&mut entrance, &listeners, &stop)
        .instrument(span)
        .await
        .map_err(|error| tunnel.local_trouble(format!("cannot accept connections: {error}")))?;
    Ok(listeners)
}

impl Tunnel {
    /// A tunnel without connections, which counts on from where the one before it was.
    pub fn new(parts: Parts, before: Option<&Self>) -> Self {
        let same_route = before.is_some_and(|it| it.spec.route == parts.spec.route);
        Self {
            rules: guarded::rules(&parts.name, &parts.spec),
            parts,
            counters: before.map_or_else(Counters::default, |it| {
                Counters::adding_to(it.counters.totals().clone())
            }),
            outcome: before.map_or_else(Outcome::default, |it| it.outcome.carried_over(same_route)),
            connections: TaskTracker::new(),
            cut: CancellationToken::new(),
            probes: probe::Probes::default(),
            complaints: Mutex::default(),
            guarded: Mutex::default(),
        }
    }

    /// Shows that the route works: one CONNECT, closed at the 200; at most one in 5 s, else the last answer again.
    /// Returns how long it took. Never starts a login: without a grant it is an error with code `login_needed`.
    pub async fn probe(&self) -> Result<Duration, ProbeError> {
        probe::probe(self, probe::Fresh::Enough).await
    }

    /// As [`Tunnel::probe`], but never an answer from before: for a connection that follows right away.
    pub async fn probe_anew(&self) -> Result<Duration, ProbeError> {
        probe::probe(self, probe::Fresh::Anew).await
    }

    /// Walks the steps that a new connection takes, and tells of each. Whatever is found, the session, the outcome and what
    /// the status shows stay as they are.
    pub async fn diagnose(&self) -> wire::Diagnosis {
        doctor::diagnose(self).await
    }

    /// Carries a connection that did not come in by a port, such as one end of a pair that pomd made itself: no web page
    /// can be behind it.
    pub fn adopt(self: &Arc<Self>, local: TcpStream, caller: Option<Caller>) -> io::Result<()> {
        let ends = Ends::Tcp {
            theirs: local.peer_addr()?,
            ours: local.local_addr()?,
        };
        self.enter(local.into(), ends, caller);
        Ok(())
    }

    /// There is a token that no server has refused; else the error that asks for a login.
    pub fn has_grant(&self) -> Result<(), Box<ProbeError>> {
        match self.session.view().grant {
            Some(_) => Ok(()),
            None => Err(Box::new(probe::login_needed(self))),
        }
    }

    /// The network is another one, or the machine slept: that the route could not be reached before says nothing now.
    pub fn look_again(&self) {
        self.probes.forget();
        if self.outcome.look_again() {
            self.changed.notify_one();
        }
    }

    /// The same tunnel for new connections: the old ones can be ended without them. Keeps what was counted.
    pub fn renewed(&self) -> Self {
        Self::new(self.parts.clone(), Some(self))
    }

    fn enter(self: &Arc<Self>, local: Guarded, ends: Ends, caller: Option<Caller>) {
        let number = self.numbers.fetch_add(1, Relaxed) + 1;
        let now = u64::try_from(self.env.clock.now().as_second()).unwrap_or(0);
        self.counters.total.fetch_add(1, Relaxed);
        self.counters.last_connection_at.store(now, Relaxed);
        self.changed.notify_one();
        // At the highest level, so that no filter takes the fields from a line that is shown.
        let span = tracing::error_span!(
            parent: None,
            "connection",
            tunnel = %self.name,
            cluster = %self.spec.cluster,
            connection = number
        );
        let carried = connection::carry(self.clone(), local, ends, number, caller);
        self.connections.spawn(carried.instrument(span));
    }

    fn clear_outcome(&self) {
        if self.outcome.worked() {
            self.changed.notify_one();
        }
    }

    fn replace_outcome(&self, other: impl FnOnce(Option<wire::Reason>) -> Option<wire::Reason>) {
        if self.outcome.replace(other) {
            self.changed.notify_one();
        }
    }

    fn failed(&self, begun: Instant, trouble: wire::Reason) {
        if self.outcome.failed(begun, trouble) {
            self.changed.notify_one();
        }
    }

    /// Returns what a sentence about an error names, which `grant` met, if there was one.
    fn context<'a>(
        &'a self,
        grant: Option<&'a Grant>,
        similar: &'a [Authority],
    ) -> open::Context<'a> {
        open::Context {
            cluster: &self.spec.cluster,
            spec: &self.cluster,
            route: &self.spec.route,
            user: grant.and_then(|it| it.user.as_deref()),
            token: grant.map(|it| &it.token),
            similar,
            open: self.counters.open.load(Relaxed),
            at: self.env.clock.now(),
        }
    }

    /// Routes like ours, where `error` says that ours does not exist. Takes 2 s at most.
    async fn similar(&self, error: &OpenError, grant: &Grant) -> Vec<Authority> {
        const LIMIT: Duration = Duration::from_secs(2);
        let unknown = matches!(
            error,
            OpenError::Refused(Refusal {
                kind: RefusalKind::NoSuchRoute,
                ..
            })
        );
        if !unknown {
            return Vec::new();
        }
        let route = &self.spec.route;
        let offered = portal::routes(&self.upstream, &route.address, &grant.token);
        match tokio::time::timeout(LIMIT, offered).await {
            Ok(Ok(offered)) => portal::similar(&route.authority, &offered),
            Ok(Err(_)) | Err(_) => Vec::new(),
        }
    }

    fn local_trouble(&self, message: String) -> wire::Reason {
        wire::Reason::new(Code::Local, message, self.env.clock.now())
    }
}

impl fmt::Debug for Tunnel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tunnel({})", self.name)
    }
}

/// The door of one tunnel.
struct Entrance {
    tunnel: Arc<Tunnel>,
    strangers: accept::Once,
    lack: Lack,
}

impl accept::AcceptHandler for Entrance {
    fn try_to_accept(&mut self) -> io::Result<()> {
        self.tunnel.env.failpoints.check(Failpoint::Accept)
    }

    fn check_peer(&mut self, local: &Local, ends: Ends) -> peer::PeerVerdict {
        let verdict = self.tunnel.owners.check(local, ends);
        admit(verdict, self.tunnel.spec.expose, ends)
    }

    fn enter(&mut self, local: Local, ends: Ends) {
        // No web page reaches a socket in the file system.
        let rules = match ends {
            Ends::Tcp { .. } => self.tunnel.rules.clone(),
            Ends::Unix { .. } => None,
        };
        self.tunnel.enter(Guarded::new(local, rules), ends, None);
    }

    fn turned_away(&mut self, uid: Option<u32>) {
        self.tunnel.counters.turned_away.fetch_add(1, Relaxed);
        self.tunnel.changed.notify_one();
        let Some(count) = self.strangers.note(Instant::now()) else {
            return;
        };
        let who = uid.map_or_else(
            || "a program that the system does not tell".to_owned(),
            |uid| format!("a program of another user (uid {uid})"),
        );
        match count {
            1 => tracing::warn!("turned away {who}"),
            _ => tracing::warn!("turned away {who}; {count} since the last such line"),
        }
    }

    fn exhausted(&mut self, error: &io::Error) {
        let message = match errors::is_out_of_descriptors(error) {
            true => limits::descriptors_reached(),
            false => format!("cannot accept connections for now: {error}"),
        };
        tracing::warn!("{message}");
        self.lack.trouble = Some(self.tunnel.local_trouble(message));
        self.still_exhausted();
    }

    fn still_exhausted(&mut self) {
        self.tunnel.replace_outcome(|now| self.lack.lasts(now));
    }

    fn gave_up(&mut self, count: usize) {
        let are = if count == 1 {
            "connection is"
        } else {
            "connections are"
        };
        tracing::warn!("{count} {are} reset that nothing could be done for in 10 s");
    }

    fn relieved(&mut self) {
        self.tunnel.replace_outcome(|now| self.lack.ends(now));
    }
}

/// What a tunnel tells while descriptors lack, and afterwards.
#[derive(Debug, Default)]
struct Lack {
    /// What there is to tell meanwhile.
    trouble: Option<wire::Reason>,
    /// What was told before, or by connections that are open.
    before: Option<wire::Reason>,
}

impl Lack {
    /// What to tell, where `now` is told.
    fn lasts(&mut self, now: Option<wire::Reason>) -> Option<wire::Reason> {
        if now != self.trouble {
            self.before = now;
        }
        self.trouble.clone()
    }

    /// The same when there is no lack any more.
    fn ends(&mut self, now: Option<wire::Reason>) -> Option<wire::Reason> {
        let before = self.before.take();
        if now == self.trouble.take() {
            before
        } else {
            now
        }
    }
}

/// The verdict, for a tunnel that a person may have exposed: who cannot be told may then be another machine, and come.
fn admit(verdict: peer::PeerVerdict, exposed: bool, ends: Ends) -> peer::PeerVerdict {
    let untold = verdict == peer::PeerVerdict::TurnAway { uid: None };
    let from_here = match ends {
        Ends::Tcp { theirs, .. } => theirs.ip().to_canonical().is_loopback(),
        Ends::Unix { .. } => true,
    };
    if exposed && untold && !from_here {
        peer::PeerVerdict::Welcome
    } else {
        verdict
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::{peer::PeerVerdict, *};

    #[test]
    fn e1_a_lack_is_told_while_it_lasts_and_what_came_meanwhile_afterwards() {
        let reason = |code| {
            Some(wire::Reason::new(
                code,
                String::new(),
                Timestamp::UNIX_EPOCH,
            ))
        };
        let trouble = reason(Code::Local);
        let lack = || Lack {
            trouble: trouble.clone(),
            before: None,
        };
        let mut it = lack();
        assert_eq!(it.lasts(reason(Code::Tcp)), trouble);
        assert_eq!(it.ends(trouble.clone()), reason(Code::Tcp));
        let mut it = lack();
        assert_eq!(it.lasts(reason(Code::Tcp)), trouble);
        assert_eq!(it.lasts(trouble.clone()), trouble);
        // A connection that was under way came through.
        assert_eq!(it.lasts(None), trouble, "it is told again");
        assert_eq!(it.ends(trouble.clone()), None, "all is well");
        let mut it = lack();
        assert_eq!(it.lasts(None), trouble);
        assert_eq!(it.ends(reason(Code::Forbidden)), reason(Code::Forbidden));
    }

    #[test]
    fn other_machines_come_in_only_where_a_tunnel_is_exposed() {
        let untold = PeerVerdict::TurnAway { uid: None };
        let told = PeerVerdict::TurnAway { uid: Some(7) };
        for (verdict, exposed, theirs, expected) in [
            (untold, true, "192.0.2.7:1", PeerVerdict::Welcome),
            (untold, false, "192.0.2.7:1", untold),
            (untold, true, "127.0.0.1:1", untold),
            (untold, true, "[::ffff:127.0.0.1]:1", untold),
            (untold, true, "[::1]:1", untold),
            (told, true, "192.0.2.7:1", told),
            (
                PeerVerdict::Welcome,
                false,
                "127.0.0.1:1",
                PeerVerdict::Welcome,
            ),
        ] {
            let ends = Ends::Tcp {
                theirs: theirs.parse().unwrap(),
                ours: ([127, 0, 0, 1], 2).into(),
            };
            assert_eq!(admit(verdict, exposed, ends), expected, "{theirs}");
        }
        let ends = Ends::Unix { uid: 7, pid: None };
        assert_eq!(admit(told, true, ends), told);
        assert_eq!(admit(untold, true, ends), untold);
    }
}
