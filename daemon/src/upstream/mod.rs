//! One route through Pomerium: dialling, TLS, the CONNECT, and GETs to the same cluster.
//!
//! The transport policy is here in one place. Knows one route, one token, one connection. Must not know sessions, what
//! happens after a refusal, or the local side beyond "a stream of early bytes".

mod dial;
mod exhausted;
mod get;
mod h1;
mod open;
pub mod pool;
pub mod proxy;
pub mod record;
pub mod stream;
pub mod tls;
pub mod transport;

use std::{
    collections::BTreeSet,
    io,
    net::IpAddr,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use pomd_core::{
    config::{Address, Authority, ClusterName, ClusterSpec, Host, Route},
    route::{
        refusal::{OpenError, Step, Unreachable},
        token_policy::TokenPolicy,
    },
    session::token::Token,
};
use rustls::ProtocolVersion;
use tokio::{io::AsyncRead, time::timeout};
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

use crate::{clock::Clock, failpoints::Failpoints};

use dial::{Dialer, recent::Reached, shown};
use h1::Peer;
use pool::{Budget, Pool};
use proxy::{Environment, Proxies};
use record::{HandshakeError, Remote};
pub use tls::check_files;
use tls::{Secure, Tls, handshake};
use transport::Carrier;

/// How to reach one cluster. Cheap to make: certificates and keys are read when first needed, and again when their
/// files change.
#[derive(Debug)]
pub struct Upstream {
    name: ClusterName,
    spec: ClusterSpec,
    tokens: TokenPolicy,
    limits: Limits,
    /// Where a person would change this cluster's settings.
    place: String,
    dialer: Dialer,
    reached: Reached,
    proxies: Proxies,
    tls: Tls,
    /// `None`: each connection is made when it is asked for.
    pool: Option<Pool>,
    /// A server of this cluster refused with early bytes what it accepted without: they wait for its answer.
    guarded: AtomicBool,
}

/// How long each step may take before the error names it.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The name lookup.
    pub name: Duration,
    /// A TCP connection to any of the addresses.
    pub tcp: Duration,
    /// The answer of a forward proxy, which has to do the same meanwhile.
    pub proxy: Duration,
    /// The TLS handshake.
    pub tls: Duration,
    /// The answer to a CONNECT: longer than the 10 s after which Pomerium gives a silent service up.
    pub answer: Duration,
    /// A whole GET after TLS.
    pub get: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            name: Duration::from_secs(5),
            tcp: Duration::from_secs(10),
            proxy: Duration::from_secs(20),
            tls: Duration::from_secs(10),
            answer: Duration::from_secs(20),
            get: Duration::from_secs(10),
        }
    }
}

/// The local side, as far as whoever opens a route has to know it.
pub trait EarlySource: AsyncRead + Unpin + Send {
    /// An error if the local side is gone with an error, even if bytes of it can still be read. Whoever stops reading
    /// before the end asks this before the bytes are passed on: they may be all that is left of a client.
    fn check(&self) -> io::Result<()> {
        Ok(())
    }
}

/// What the local side says before the route is open: read from `source` while the CONNECT is under way, sent at once,
/// and kept (at most 64 KiB, then `source` is left unread) so that it can be said again on another connection.
#[derive(Debug)]
pub struct Early<R> {
    /// The local side.
    pub source: R,
    /// Everything read so far; on success all of it was sent or waits in the connection's queue.
    pub kept: Vec<u8>,
    /// `source` came to its end.
    pub ended: bool,
}

/// An open route.
#[derive(Debug)]
pub struct Opened {
    /// The connection, past the answer's head.
    pub remote: Remote,
    /// Plaintext that came right behind the head.
    pub first: Vec<u8>,
}

/// The answer to a GET: any status, body of at most 4 MiB.
#[derive(Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The value of `x-request-id`, cleaned for display.
    pub request_id: Option<String>,
    /// The value of `location`.
    pub location: Option<String>,
    /// The value of `content-type`.
    pub content_type: Option<String>,
    /// The whole body.
    pub body: Vec<u8>,
}

impl Upstream {
    /// For the cluster `name`. Never touches a file or the network yet.
    pub fn new(name: ClusterName, cluster: ClusterSpec, limits: Limits) -> Self {
        let place = place(&name, &cluster);
        Self {
            dialer: Dialer::new(limits, place.clone()),
            reached: Reached::default(),
            proxies: Proxies::new(&cluster, limits, &place),
            tls: Tls::new(&cluster, &place, limits.tls),
            tokens: TokenPolicy::new(name.clone(), cluster.clone(), place.clone()),
            name,
            spec: cluster,
            limits,
            place,
            pool: None,
            guarded: AtomicBool::new(false),
        }
    }

    /// Where the configuration names no forward proxy, this says whether there is one.
    pub fn with_environment(mut self, environment: Arc<Environment>) -> Self {
        self.proxies.set_environment(environment);
        self
    }

    /// Where tests step in.
    pub fn with_failpoints(mut self, failpoints: Failpoints) -> Self {
        self.dialer.set_failpoints(failpoints);
        self
    }

    /// Connections that are ready may be kept, within `budget`.
    pub fn with_pool(mut self, budget: Budget, clock: Clock) -> Self {
        self.pool = Some(Pool::new(budget, clock));
        self
    }

    /// Tunnels that were added to the cluster name these ports of servers.
    pub fn allow_ports(&self, ports: &BTreeSet<u16>) {
        self.tokens.allow_ports(ports);
    }

    /// Keeps connections ready until `stop`, where somebody was answered lately. Looks at the time when told to, by
    /// [`Upstream::refresh_pool`], and has no timer of its own.
    pub async fn run_pool(&self, stop: CancellationToken) {
        match &self.pool {
            // Apart, as its size would be that of every future around it.
            Some(it) => Box::pin(it.run(stop, |at| async move { self.fresh(&at).await })).await,
            None => stop.cancelled().await,
        }
    }

    /// To be called each half minute: ready connections that are too old go, and others are made.
    pub fn refresh_pool(&self) {
        if let Some(it) = &self.pool {
            it.refresh();
        }
    }

    /// The network is another one, or the machine slept: none of the ready connections is worth trying.
    pub fn invalidate_pool(&self) {
        if let Some(it) = &self.pool {
            it.invalidate_all();
        }
    }

    /// The addresses that were reached lately, newest last: the cluster's, or those of the forward proxy before it.
    pub fn reached(&self) -> Vec<IpAddr> {
        self.reached.all()
    }

    /// Nobody is logged in any more: no connection is kept ready until one is used again.
    pub fn clear_pool(&self) {
        if let Some(it) = &self.pool {
            it.clear();
        }
    }

    /// The forward proxy on the way to `address`.
    pub fn forward_proxy(&self, address: &Address) -> Option<proxy::Shown> {
        let proxy = self.proxies.proxy(address, &self.target(address));
        Some(proxy.ok()??.shown())
    }

    /// Opens `route` with `token`. The first bytes follow the CONNECT head in the same flight; on a refusal none of
    /// them reached the service.
    pub async fn open<R>(
        &self,
        route: &Route,
        token: &Token,
        early: &mut Early<R>,
    ) -> Result<Opened, OpenError>
    where
        R: EarlySource,
    {
        let permitted = self.tokens.permit(token, &route.address)?;
        // Apart, as it is large, and whoever waits for it would keep that room for as long as the route is open.
        let opened = Box::pin(self.open_somehow(&route.authority, permitted, early)).await;
        let answered = matches!(
            opened,
            Ok(_) | Err(OpenError::Refused(_) | OpenError::Unauthenticated { .. })
        );
        if let Some(pool) = &self.pool
            && answered
            && route.address.tls
        {
            pool.note_use(&self.key(&route.address));
        }
        opened
    }

    /// GETs `path` (with its query) of the cluster's `address`, always with `Accept: application/json`. Follows no
    /// redirect. A token is sent only where the cluster's settings allow it (A15, A24).
    pub async fn get(
        &self,
        address: &Address,
        path: &str,
        token: Option<&Token>,
    ) -> Result<Answer, OpenError> {
        let permitted = token
            .map(|token| self.tokens.permit(token, address))
            .transpose()?;
        let name = address.host_and_port();
        let socket = self.dial(address).await?;
        let mut peer = Peer {
            name: &name,
            identity: None,
            limit: self.limits.get,
            idle_state: None,
            borrowed: false,
            reach: self.limits.tcp,
        };
        if !address.tls {
            return get::get(socket, address, path, permitted, peer, false, true).await;
        }
        let secure = self.tls.secure().await?;
        let server_name = tls::server_name(self.verified(address))?;
        let shaking = TlsConnector::from(secure.config.clone()).connect(server_name, socket);
        let stream = match timeout(self.limits.tls, shaking).await {
            Ok(Ok(it)) => it,
            Ok(Err(error)) => {
                let error = handshake::error(error);
                return Err(self.handshake_failed(error, address, &secure).await);
            }
            Err(_) => return Err(self.handshake_late(address).into()),
        };
        peer.identity = Some(&secure.identity);
        let version = stream.get_ref().1.protocol_version();
        let late_verdict =
            version == Some(ProtocolVersion::TLSv1_3) && secure.identity.may_be_missed();
        let agreed = stream.get_ref().1.alpn_protocol().is_some();
        get::get(stream, address, path, permitted, peer, late_verdict, agreed).await
    }

    /// A handshaken connection, made now.
    async fn fresh(&self, address: &Address) -> Result<(Remote, Option<Secure>), OpenError> {
        let socket = self.dial(address).await?;
        if !address.tls {
            return Ok((Remote::plain(socket), None));
        }
        let secure = self.tls.secure().await?;
        let name = tls::server_name(self.verified(address))?;
        let shaking = Remote::handshake(socket, secure.config.clone(), name);
        match timeout(self.limits.tls, shaking).await {
            Ok(Ok(remote)) => Ok((remote, Some(secure))),
            Ok(Err(error)) => Err(self.handshake_failed(error, address, &secure).await),
            Err(_) => Err(self.handshake_late(address).into()),
        }
    }

    /// A connection to `address` that has said nothing yet, through the forward proxy where there is one.
    async fn dial(&self, address: &Address) -> Result<Carrier, Unreachable> {
        let target = self.target(address);
        let carrier = match self.proxies.proxy(address, &target)? {
            // Apart, as it is large, and whoever waits for it would keep that room for as long as the route is open.
            Some(proxy) => Box::pin(proxy.open(&self.dialer, &target)).await?,
            None => Carrier::Tcp(self.dialer.dial(&target).await?),
        };
        if let Ok(peer) = carrier.socket().peer_addr() {
            self.reached.note(peer.ip());
        }
        Ok(carrier)
    }

    fn target(&self, address: &Address) -> Authority {
        self.spec.connect.clone().unwrap_or_else(|| Authority {
            host: address.host.clone(),
            port: address.port,
        })
    }

    fn verified<'a>(&'a self, address: &'a Address) -> &'a Host {
        self.spec.server_name.as_ref().unwrap_or(&address.host)
    }

    async fn handshake_failed(
        &self,
        error: HandshakeError,
        address: &Address,
        secure: &Secure,
    ) -> OpenError {
        let another = match &error {
            HandshakeError::Tls(it) if handshake::speaks_no_tls(it) => {
                dial::greeting(self.dial(address)).await
            }
            _ => None,
        };
        let name = address.host_and_port();
        let error = handshake::failed(&error, &name, &secure.identity, &self.place, another);
        self.with_proxy(error, address)
    }

    /// A forward proxy that says it connected us may have lied: whoever looks for the cause has to know of it.
    fn with_proxy(&self, error: OpenError, address: &Address) -> OpenError {
        match (error, self.forward_proxy(address)) {
            (OpenError::Unreachable(mut it), Some(proxy)) => {
                it.message = format!("{} (through {})", it.message, proxy.url);
                it.into()
            }
            (error, _) => error,
        }
    }

    fn handshake_late(&self, address: &Address) -> Unreachable {
        let message = format!(
            "the TLS handshake with {} took more than {}",
            address.host_and_port(),
            shown(self.limits.tls)
        );
        Unreachable::new(Step::Tls, &message)
            .timed_out()
            .hint("is a firewall or a TLS inspection in the way?")
    }
}

/// `[cluster.corp]`, or how to make one for a host that has none.
fn place(name: &ClusterName, cluster: &ClusterSpec) -> String {
    if cluster.named {
        let name = name.as_str();
        return if name.contains('.') {
            format!("[cluster.\"{name}\"]")
        } else {
            format!("[cluster.{name}]")
        };
    }
    match cluster.login_at.first() {
        Some(it) => format!("a [cluster.NAME] with hosts = [\"{}\"]", it.host),
        None => "a [cluster.NAME]".to_owned(),
    }
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
