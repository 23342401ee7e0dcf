//! A Pomerium look-alike in process, for tests and the demo.
//!
//! [`Gateway`] speaks HTTP/1.1 as Pomerium does: CONNECT with `Authorization: Pomerium <token>`, the login, the portal.
//! [`Script`], [`Door`] and [`Certificate`] make it misbehave; [`Stats`] says what it saw. [`browser`] is the person's
//! side of a login. It knows the protocol and nothing of pomd.
//!
//! One port serves TLS and, for labs and for a proxy in front, plain HTTP.

pub mod browser;
mod certificates;
mod head;
mod portal;
mod script;
mod server;
mod sessions;
mod stats;
mod tunnel;
mod upstream;
mod wire;

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rustls::ServerConfig;
use tokio::{net::TcpListener, sync::watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use certificates::{Certificate, Identity};
pub use script::{ANY, Door, End, Gate, Pace, Script};
pub use stats::{Seen, Stats};
pub use upstream::{Caller, Service, Upstream};

use head::{Answer, Request};

/// The user who signs in unless told otherwise.
pub const DEMO_USER: &str = "demo@example.com";

/// What a gateway starts with.
#[derive(Debug)]
pub struct Builder {
    domain: String,
    names: Vec<String>,
    routes: BTreeMap<String, Upstream>,
    listen: SocketAddr,
    linger: Duration,
    automatic: bool,
    user: String,
    certificate: Certificate,
    client_certificates: bool,
}

/// A running gateway; it ends when dropped.
pub struct Gateway {
    shared: Arc<Shared>,
    address: SocketAddr,
    authority: certificates::Authority,
    certificate: Mutex<(Certificate, bool)>,
    stop: CancellationToken,
}

/// What every connection of the gateway sees.
pub(crate) struct Shared {
    pub(crate) domain: String,
    pub(crate) linger: Duration,
    pub(crate) automatic: watch::Sender<bool>,
    pub(crate) user: watch::Sender<String>,
    pub(crate) door: watch::Sender<Door>,
    pub(crate) tls: watch::Sender<Arc<ServerConfig>>,
    pub(crate) sever: watch::Sender<End>,
    pub(crate) sessions: sessions::Sessions,
    pub(crate) scripts: script::Scripts,
    pub(crate) counters: stats::Counters,
    pub(crate) tasks: TaskTracker,
    routes: Mutex<BTreeMap<String, Upstream>>,
    forbidden: Mutex<BTreeSet<(String, String)>>,
}

impl Builder {
    /// The deployment's domain: the certificate is for it and its names, people sign in at `authenticate.DOMAIN`.
    pub fn domain(mut self, domain: &str) -> Self {
        self.domain = domain.to_owned();
        self
    }

    /// Another name that the certificate is for.
    pub fn name(mut self, name: &str) -> Self {
        self.names.push(name.to_owned());
        self
    }

    /// Publishes `HOST:PORT`; the certificate is for its host too.
    pub fn route(mut self, authority: &str, upstream: Upstream) -> Self {
        self.routes.insert(authority.to_owned(), upstream);
        self
    }

    /// Listens there instead of on a free loopback port: a restart on the same port.
    pub fn listen(mut self, address: SocketAddr) -> Self {
        self.listen = address;
        self
    }

    /// How long after its last word the gateway closes; Pomerium takes 1.0 s, and so does this.
    pub fn linger(mut self, linger: Duration) -> Self {
        self.linger = linger;
        self
    }

    /// The sign-in page presses its own button.
    pub fn automatic(mut self) -> Self {
        self.automatic = true;
        self
    }

    /// Who signs in.
    pub fn user(mut self, user: &str) -> Self {
        self.user = user.to_owned();
        self
    }

    /// Which certificate is shown.
    pub fn certificate(mut self, certificate: Certificate) -> Self {
        self.certificate = certificate;
        self
    }

    /// Only clients with a certificate of [`Gateway::client_identity`] get through; TLS 1.3 tells the others late.
    pub fn client_certificates(mut self) -> Self {
        self.client_certificates = true;
        self
    }

    /// Starts to listen.
    pub async fn start(self) -> anyhow::Result<Gateway> {
        let mut names = self.names;
        names.push(self.domain.clone());
        names.push(format!("*.{}", self.domain));
        names.extend(self.routes.keys().map(|it| host_of(it).to_owned()));
        let authority = certificates::Authority::new(names)?;
        let tls = authority.server(self.certificate, self.client_certificates)?;
        let listener = TcpListener::bind(self.listen).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            domain: self.domain,
            linger: self.linger,
            automatic: watch::Sender::new(self.automatic),
            user: watch::Sender::new(self.user),
            door: watch::Sender::new(Door::Open),
            tls: watch::Sender::new(tls),
            sever: watch::Sender::new(End::Cut),
            sessions: sessions::Sessions::default(),
            scripts: script::Scripts::default(),
            counters: stats::Counters::default(),
            tasks: TaskTracker::new(),
            routes: Mutex::new(self.routes),
            forbidden: Mutex::default(),
        });
        let stop = CancellationToken::new();
        let server = server::run(shared.clone(), listener, stop.clone());
        shared.tasks.spawn(server);
        Ok(Gateway {
            shared,
            address,
            authority,
            certificate: Mutex::new((self.certificate, self.client_certificates)),
            stop,
        })
    }
}

impl Gateway {
    /// A gateway of the domain `corp.test` without routes.
    pub fn builder() -> Builder {
        Builder {
            domain: "corp.test".to_owned(),
            names: Vec::new(),
            routes: BTreeMap::new(),
            listen: (Ipv4Addr::LOCALHOST, 0).into(),
            linger: Duration::from_secs(1),
            automatic: false,
            user: DEMO_USER.to_owned(),
            certificate: Certificate::Good,
            client_certificates: false,
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its authority's certificate, for `ca_file`.
    pub fn ca_pem(&self) -> String {
        self.authority.pem()
    }

    /// A client certificate that it takes.
    pub fn client_identity(&self, name: &str) -> anyhow::Result<Identity> {
        Ok(self.authority.client_identity(name)?)
    }

    /// A server certificate for its names, for a real proxy in front of it.
    pub fn server_identity(&self) -> anyhow::Result<Identity> {
        Ok(self.authority.server_identity(Certificate::Good)?)
    }

    /// A browser that dials this gateway for every name that is not of this machine.
    pub fn browser(&self) -> anyhow::Result<browser::Browser> {
        browser::Browser::new(&self.ca_pem(), self.address)
    }

    /// A new session of `user`, as if signed in.
    pub fn token(&self, user: &str) -> String {
        self.shared.sessions.issue(user).token
    }

    /// Whether the server takes this token.
    pub fn is_good(&self, token: &str) -> bool {
        self.shared.sessions.of(token).is_some()
    }

    /// Ends one session; `false` if there was none.
    pub fn end_session(&self, token: &str) -> bool {
        self.shared.sessions.end(token)
    }

    /// Ends all sessions, browsers' too, as a restart with storage in memory does.
    pub fn end_all_sessions(&self) {
        self.shared.sessions.end_all();
    }

    /// Lets every sign-in URL handed out so far run out.
    pub fn expire_logins(&self) {
        self.shared.sessions.expire_logins();
    }

    /// Who signs in from now on.
    pub fn sign_in_as(&self, user: &str) {
        self.shared.user.send_replace(user.to_owned());
    }

    /// Publishes one more route.
    pub fn publish(&self, authority: &str, upstream: Upstream) {
        lock(&self.shared.routes).insert(authority.to_owned(), upstream);
    }

    /// Takes a route away; open tunnels live on.
    pub fn withdraw(&self, authority: &str) {
        lock(&self.shared.routes).remove(authority);
    }

    /// The policy says no to `user` on `authority`.
    pub fn forbid(&self, user: &str, authority: &str) {
        lock(&self.shared.forbidden).insert((user.to_owned(), authority.to_owned()));
    }

    /// The policy says yes again.
    pub fn allow(&self, user: &str, authority: &str) {
        lock(&self.shared.forbidden).remove(&(user.to_owned(), authority.to_owned()));
    }

    /// Does `script` for CONNECTs to `authority` ([`ANY`] for those without one of their own), or for GETs and POSTs if
    /// it is a path such as `/.pomerium/user`. Scripts for one key queue up.
    pub fn script(&self, authority: &str, script: Script) {
        self.shared.scripts.add(authority, script);
    }

    /// Forgets all scripts and opens the door.
    pub fn forgive(&self) {
        self.shared.scripts.clear();
        self.door(Door::Open);
    }

    /// What the port does before any HTTP, for new connections.
    pub fn door(&self, door: Door) {
        self.shared.door.send_replace(door);
    }

    /// Shows this certificate from now on.
    pub fn show(&self, certificate: Certificate) -> anyhow::Result<()> {
        self.set_tls(|it| it.0 = certificate)
    }

    /// Asks for client certificates from now on, or no more.
    pub fn ask_for_client_certificates(&self, ask: bool) -> anyhow::Result<()> {
        self.set_tls(|it| it.1 = ask)
    }

    /// Ends every open connection so.
    pub fn sever(&self, end: End) {
        self.shared.sever.send_replace(end);
    }

    /// What it counted.
    pub fn stats(&self) -> Stats {
        self.shared.counters.now()
    }

    /// Waits until it counted that; panics with what it counted instead after 20 s.
    pub async fn wait_for(&self, what: impl Fn(&Stats) -> bool) -> Stats {
        self.shared.counters.wait_for(what).await
    }

    /// Ends it and waits until its port is free.
    pub async fn stop(self) {
        self.stop.cancel();
        self.shared.tasks.close();
        // Services made by closures may not end by themselves.
        let _ = tokio::time::timeout(Duration::from_secs(2), self.shared.tasks.wait()).await;
    }

    fn set_tls(&self, change: impl FnOnce(&mut (Certificate, bool))) -> anyhow::Result<()> {
        let mut now = lock(&self.certificate);
        change(&mut now);
        let config = self.authority.server(now.0, now.1)?;
        self.shared.tls.send_replace(config);
        Ok(())
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl std::fmt::Debug for Gateway {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Gateway({})", self.address)
    }
}

impl Shared {
    /// What a CONNECT to `authority` is told: the route and who asks, or the refusal.
    pub(crate) fn judge(
        &self,
        authority: &str,
        request: &Request,
        id: &str,
    ) -> Result<(Upstream, String), Answer> {
        let route = lock(&self.routes).get(authority).cloned();
        let Some(upstream) = route else {
            return Err(Answer::envoy(404, "route_not_found", id));
        };
        let session = request.token().and_then(|it| self.sessions.of(it));
        let Some(session) = session else {
            return Err(if request.accepts_json() {
                Answer::pomerium(401, "Unauthorized", id)
            } else {
                let at = format!("https://authenticate.{}/.pomerium/sign_in", self.domain);
                Answer::redirect(at)
            });
        };
        let case = (session.user.clone(), authority.to_owned());
        if lock(&self.forbidden).contains(&case) {
            return Err(Answer::pomerium(403, "Forbidden", id));
        }
        Ok((upstream, session.user))
    }

    /// The routes that `user` may use.
    pub(crate) fn offered(&self, user: &str) -> Vec<String> {
        let forbidden = lock(&self.forbidden);
        let routes = lock(&self.routes);
        let mut res: Vec<String> = routes.keys().cloned().collect();
        res.retain(|it| !forbidden.contains(&(user.to_owned(), it.clone())));
        res
    }

    /// Counts a CONNECT that a proxy in front asks about.
    pub(crate) fn saw_check(&self, authority: &str, request: &Request) {
        self.counters.saw(Seen {
            method: "CONNECT".to_owned(),
            target: authority.to_owned(),
            host: authority.to_owned(),
            server_name: None,
            token: request.header("authorization").is_some(),
            headers: Vec::new(),
            early: 0,
        });
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn host_of(authority: &str) -> &str {
    let host = authority.rsplit_once(':').map_or(authority, |it| it.0);
    host.trim_start_matches('[').trim_end_matches(']')
}
