//! One route through Pomerium: dialling, TLS, the CONNECT, and GETs to the same cluster.
//!
//! The transport policy is here in one place. Knows one route, one token, one connection. Must not know sessions, what
//! happens after a refusal, or the local side beyond "a stream of early bytes".

mod answer;
mod dial;
mod get;
mod h1;
mod open;
pub mod pool;
pub mod proxy;
pub mod record;
pub mod steps;
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
        error::{Step, StepError, Target, TlsError},
        refusal::{self, OpenError},
        token_policy::TokenPolicy,
    },
    session::token::Token,
    words,
};
use tokio::io::AsyncRead;
use tokio_util::sync::CancellationToken;

use crate::{clock::Clock, failpoints::Failpoints};

use answer::Asked;
use dial::{Dialer, recent::Reached};
use pool::{Budget, Pool};
use proxy::{Environment, Proxies};
use record::Remote;
use steps::Steps;
pub use tls::check_files;
use tls::{Secure, Tls};
use transport::Transport;

/// How to reach one cluster. Cheap to make: certificates and keys are read when first needed, and again when their
/// files change.
#[derive(Debug)]
pub struct Upstream {
    name: ClusterName,
    spec: ClusterSpec,
    tokens: TokenPolicy,
    limits: Limits,
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
    /// The value of `date`: the server's clock, as it writes it.
    pub date: Option<String>,
    /// The whole body.
    pub body: Vec<u8>,
}

impl Upstream {
    /// For the cluster `name`. Never touches a file or the network yet.
    pub fn new(name: ClusterName, cluster: ClusterSpec, limits: Limits) -> Self {
        Self {
            dialer: Dialer::new(limits),
            reached: Reached::default(),
            proxies: Proxies::new(&cluster, limits),
            tls: Tls::new(&cluster, limits.tls),
            tokens: TokenPolicy::new(name.clone(), cluster.clone()),
            name,
            spec: cluster,
            limits,
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
            Some(it) => {
                Box::pin(it.run(stop, |at| async move {
                    self.fresh(&at, &mut Steps::begin()).await
                }))
                .await
            }
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

    /// Returns where the settings of this cluster are, as advice names it.
    pub fn section(&self) -> String {
        words::section(&self.name, &self.spec)
    }

    /// Returns the forward proxy on the way to `address`.
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
        self.open_in_steps(route, token, early, &mut Steps::begin())
            .await
    }

    /// As [`Upstream::open`], with the steps that were taken in `steps`; the error says which of them failed.
    pub async fn open_in_steps<R>(
        &self,
        route: &Route,
        token: &Token,
        early: &mut Early<R>,
        steps: &mut Steps,
    ) -> Result<Opened, OpenError>
    where
        R: EarlySource,
    {
        let permitted = self.tokens.permit(token, &route.address)?;
        // Boxed: keeps the size of dialling out of every future that stays for as long as the route is open.
        let opened = Box::pin(self.open_somehow(&route.authority, permitted, early, steps)).await;
        match &opened {
            Ok(_) => steps.taken(Step::Upstream),
            Err(error) => error.step().into_iter().for_each(|it| steps.taken(it)),
        }
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
        self.get_in_steps(address, path, token, &mut Steps::begin())
            .await
    }

    /// As [`Upstream::get`], with the steps up to `http` in `steps`; the error says which of them failed.
    pub async fn get_in_steps(
        &self,
        address: &Address,
        path: &str,
        token: Option<&Token>,
        steps: &mut Steps,
    ) -> Result<Answer, OpenError> {
        let answer = self.get_somehow(address, path, token, steps).await;
        match &answer {
            Ok(_) => steps.taken(Step::Http),
            Err(error) => error.step().into_iter().for_each(|it| steps.taken(it)),
        }
        answer
    }

    async fn get_somehow(
        &self,
        address: &Address,
        path: &str,
        token: Option<&Token>,
        steps: &mut Steps,
    ) -> Result<Answer, OpenError> {
        let permitted = token
            .map(|token| self.tokens.permit(token, address))
            .transpose()?;
        let request = get::request(address, path, permitted)
            .map_err(|error| StepError::new(Target::Server(address.clone()), error))?;
        // Boxed: keeps the size of dialling out of every future around a GET.
        let fresh = Box::pin(self.fresh(address, steps)).await;
        let (remote, secure) = fresh?;
        let asked = Asked {
            server: address,
            identity: secure.as_ref().map(|it| &*it.identity),
            is_warm: false,
        };
        get::get(remote, &request, asked, self.limits.get).await
    }

    /// Returns a connection to `address`, past its handshake, that was made now: the steps up to `tls`.
    async fn fresh(
        &self,
        address: &Address,
        steps: &mut Steps,
    ) -> Result<(Remote, Option<Secure>), OpenError> {
        let socket = self.dial(address, steps).await?;
        if !address.tls {
            return Ok((Remote::plain(socket), None));
        }
        match self.tls.handshake(socket, self.verified(address)).await {
            Ok((remote, secure)) => {
                steps.taken(Step::Tls);
                steps.note(|it| it.tls = tls::handshake::found(&remote));
                Ok((remote, Some(secure)))
            }
            Err(error) => Err(self.handshake_failed(error, address).await),
        }
    }

    /// Returns a connection to `address` that has said nothing yet, through the forward proxy where there is one.
    async fn dial(&self, address: &Address, steps: &mut Steps) -> Result<Transport, OpenError> {
        let target = self.target(address);
        let proxy = self
            .proxies
            .proxy(address, &target)
            .map_err(|cause| StepError::new(Target::Server(address.clone()), cause))?;
        let dialled = match proxy {
            // Boxed: keeps the size of TLS to a proxy out of every dialling.
            Some(proxy) => {
                let opened = Box::pin(proxy.open(&self.dialer, &target)).await;
                steps.taken(Step::Proxy);
                opened
            }
            None => match self.dialer.dial(&target, steps).await {
                Ok(socket) => Ok(Transport::Tcp(socket)),
                Err(error) => Err(error.into()),
            },
        };
        let transport = dialled.map_err(|cause| StepError::new(Target::Dialled(target), cause))?;
        if let Ok(peer) = transport.socket().peer_addr() {
            self.reached.note(peer.ip());
        }
        Ok(transport)
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

    async fn handshake_failed(&self, error: TlsError, address: &Address) -> OpenError {
        let error = match error {
            TlsError::ClientCertificate(how) => return refusal::certificate_wanted(&how),
            TlsError::NotTls { .. } => {
                let mut steps = Steps::begin();
                let again = self.dial(address, &mut steps);
                let instead = Box::pin(dial::greeting(again)).await;
                TlsError::NotTls { instead }
            }
            other => other,
        };
        let mut error = StepError::new(Target::Server(address.clone()), error);
        error.through = self.forward_proxy(address).map(|it| it.url);
        error.into()
    }
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
