//! A Pomerium look-alike in process, for tests and the demo.
//!
//! [`Gateway`] speaks HTTP/1.1 as Pomerium does: CONNECT with `Authorization: Pomerium <token>`, the login, the portal.
//! [`Script`], [`PortBehaviour`] and [`Certificate`] make it misbehave; [`Stats`] says what it saw. [`browser`] is the person's
//! side of a login. It knows the protocol and nothing of pomd.
//!
//! One port serves TLS and, for labs and for a proxy in front, plain HTTP.

pub mod browser;
mod builder;
mod certificates;
pub mod forward_proxy;
mod head;
mod portal;
mod script;
mod server;
mod sessions;
mod shared;
mod stats;
mod tunnel;
mod upstream;
mod wire;

#[cfg(test)]
mod tests;

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio_util::sync::CancellationToken;

pub use builder::Builder;
pub use certificates::{Certificate, Identity};
pub use script::{ANY, End, Gate, Pace, PortBehaviour, Script};
pub use stats::{Seen, Stats};
pub use upstream::{Caller, Service, Upstream};

use shared::Shared;

/// The user who signs in unless told otherwise.
pub const DEMO_USER: &str = "demo@example.com";

/// A running gateway; it ends when dropped.
pub struct Gateway {
    shared: Arc<Shared>,
    address: SocketAddr,
    authority: certificates::Authority,
    certificate: Mutex<(Certificate, bool)>,
    stop: CancellationToken,
}

impl Gateway {
    /// A gateway of the domain `corp.test` without routes.
    pub fn builder() -> Builder {
        Builder::new()
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

    /// Issues a token for `user` as an identity provider does, that routes take as `Bearer` for as long as it lives.
    pub fn bearer(&self, user: &str, life: Duration) -> String {
        self.shared.sessions.issue_bearer(user, life)
    }

    /// Takes no such token any more.
    pub fn end_bearer(&self, token: &str) {
        self.shared.sessions.end_bearer(token);
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

    /// The `exp` of tokens from now on, which the server itself does not go by.
    pub fn say_exp(&self, exp: Option<serde_json::Value>) {
        self.shared.sessions.say_exp(exp);
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

    /// Forgets all scripts and lets connections in again.
    pub fn forgive(&self) {
        self.clear_scripts();
        self.port_behaviour(PortBehaviour::Open);
    }

    /// Answers as it should again; no connection ends.
    pub fn clear_scripts(&self) {
        self.shared.scripts.clear();
    }

    /// What the port does before any HTTP, for new connections; those on which nothing was said yet end, if it did
    /// something else until now.
    pub fn port_behaviour(&self, port_behaviour: PortBehaviour) {
        self.shared.port_behaviour.send_if_modified(|now| {
            let is_another = *now != port_behaviour;
            *now = port_behaviour;
            is_another
        });
    }

    /// Shows this certificate from now on; connections on which nothing was said yet end.
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

    /// Waits until no connection is left on which nothing was said, nor one in its handshake: after the port became
    /// another one, a client finds the new one only.
    pub async fn nobody_waits(&self) {
        self.wait_for(|it| it.entering + it.waiting == 0).await;
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

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
