//! Forward proxies: which one leads to an address, and the way through it.
//!
//! The names of what lies behind a proxy are for the proxy to look up. Its credentials go to it and nowhere else, and
//! nothing of the cluster's goes to it: what it carries is TLS. Must not know routes or tokens.

mod credentials;
mod environment;
mod error;
mod exceptions;
mod http;
mod socks;

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use pomd_core::{
    config::{Address, Authority, ClusterSpec, ForwardProxy, ProxyAddress, ProxyKind},
    route::refusal::{OpenError, Step, Unreachable},
};
use tokio::{net::TcpStream, task::spawn_blocking, time::timeout};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{
    Limits,
    dial::{Dialer, reason, shown},
    tls::{self, Tls, handshake},
    transport::Carrier,
};
use crate::named_file::{self, Kind, ReadError};

use credentials::Credentials;
pub use environment::Environment;
use error::Context;

/// The most that a file with a user and a password holds.
const FILE: u64 = 1024;

/// What one cluster says of forward proxies.
#[derive(Debug)]
pub(super) struct Proxies {
    setting: ForwardProxy,
    auth: Option<PathBuf>,
    environment: Arc<Environment>,
    /// For the TLS of a proxy itself: the cluster's roots, but neither its client certificate nor its leniency.
    tls: Tls,
    limits: Limits,
    place: String,
}

/// The forward proxy on the way to one address.
#[derive(Debug)]
pub(super) struct Proxy<'a> {
    all: &'a Proxies,
    address: ProxyAddress,
    /// The variable that names it.
    variable: Option<&'static str>,
    /// What that variable says of user and password.
    credentials: Option<Credentials>,
}

/// A forward proxy as it may be shown: without user and password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// Its address.
    pub url: String,
    /// The environment variable that names it; `None`: the configuration does.
    pub variable: Option<&'static str>,
}

impl Proxies {
    /// Touches no file yet. `place` is where a person would change the settings.
    pub(super) fn new(spec: &ClusterSpec, limits: Limits, place: &str) -> Self {
        let of_proxy = ClusterSpec {
            client_identity: None,
            insecure_skip_verify: false,
            ..spec.clone()
        };
        Self {
            setting: spec.forward_proxy.clone(),
            auth: spec.forward_proxy_auth.clone(),
            environment: Arc::default(),
            tls: Tls::new(&of_proxy, place, limits.tls),
            limits,
            place: place.to_owned(),
        }
    }

    pub(super) fn set_environment(&mut self, environment: Arc<Environment>) {
        self.environment = environment;
    }

    /// The proxy on the way to `target`, which is dialled for `address`.
    pub(super) fn proxy(
        &self,
        address: &Address,
        target: &Authority,
    ) -> Result<Option<Proxy<'_>>, Unreachable> {
        match &self.setting {
            ForwardProxy::None => Ok(None),
            ForwardProxy::At(_) if !address.tls => {
                let message = format!(
                    "{address} is without TLS: the forward proxy would see the login, nothing was sent"
                );
                let hint = format!(
                    "to go without it set forward_proxy = \"none\" in {}",
                    self.place
                );
                Err(Unreachable::new(Step::ForwardProxy, &message).hint(&hint))
            }
            ForwardProxy::At(proxy) => Ok(Some(Proxy {
                all: self,
                address: proxy.clone(),
                variable: None,
                credentials: None,
            })),
            // What the environment says is for addresses with TLS.
            ForwardProxy::Environment if !address.tls => Ok(None),
            ForwardProxy::Environment => {
                let asked = Authority {
                    host: address.host.clone(),
                    port: address.port,
                };
                let set = self.environment.proxy(&asked, target);
                Ok(set.map(|it| Proxy {
                    all: self,
                    address: it.address,
                    variable: Some(it.variable),
                    credentials: it.credentials,
                }))
            }
        }
    }
}

impl Proxy<'_> {
    /// As it may be shown.
    pub(super) fn shown(&self) -> Shown {
        Shown {
            url: self.address.to_string(),
            variable: self.variable,
        }
    }

    /// A connection to `target` through the proxy.
    pub(super) async fn open(
        &self,
        dialer: &Dialer,
        target: &Authority,
    ) -> Result<Carrier, Unreachable> {
        let mut context = Context {
            proxy: &self.address,
            variable: self.variable,
            password_in: None,
            target,
            place: &self.all.place,
        };
        let credentials = self.credentials(&mut context).await?;
        let dialled = dialer.dial(&self.address.authority).await;
        let socket = dialled.map_err(|it| context.unreached(it))?;
        let mut carrier = match self.address.kind {
            ProxyKind::Http | ProxyKind::Socks5 => Carrier::Tcp(socket),
            ProxyKind::Https => {
                let shaken = self.shake_hands(socket).await;
                Carrier::Tls(Box::new(shaken.map_err(|it| context.tls_failed(it))?))
            }
        };
        let limit = self.all.limits.proxy;
        let credentials = credentials.as_ref();
        let asked = match self.address.kind {
            ProxyKind::Http | ProxyKind::Https => {
                timeout(limit, http::connect(&mut carrier, target, credentials)).await
            }
            ProxyKind::Socks5 => {
                timeout(limit, socks::connect(&mut carrier, target, credentials)).await
            }
        };
        match asked {
            Ok(Ok(())) => Ok(carrier),
            Ok(Err(failure)) => Err(context.told(&failure)),
            Err(_) => Err(context.silent(limit)),
        }
    }

    /// Who we are to the proxy, and into `context` where that stands: the file, or else the environment.
    async fn credentials(
        &self,
        context: &mut Context<'_>,
    ) -> Result<Option<Credentials>, Unreachable> {
        if let Some(path) = &self.all.auth {
            context.password_in = Some(path.display().to_string());
            return read(path.clone(), context).await.map(Some);
        }
        if self.credentials.is_some() {
            context.password_in = self.variable.map(str::to_owned);
        }
        Ok(self.credentials.clone())
    }

    async fn shake_hands(&self, socket: TcpStream) -> Result<TlsStream<TcpStream>, Unreachable> {
        let authority = &self.address.authority;
        let peer = authority.to_string();
        let secure = self.all.tls.secure().await?;
        let name = tls::server_name(&authority.host)?;
        let shaking = TlsConnector::from(secure.config.clone()).connect(name, socket);
        let limit = self.all.limits.tls;
        let error = match timeout(limit, shaking).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => handshake::error(error),
            Err(_) => {
                let limit = shown(limit);
                let message = format!("the TLS handshake with {peer} took more than {limit}");
                return Err(Unreachable::new(Step::Tls, &message).timed_out());
            }
        };
        let place = &self.all.place;
        Err(
            match handshake::failed(&error, &peer, &secure.identity, place, None) {
                OpenError::Unreachable(it) => it,
                // Only about a client certificate, and this machine's is for the cluster.
                other => {
                    let message = format!("{peer} wants a client certificate: {other}");
                    Unreachable::new(Step::Tls, &message)
                }
            },
        )
    }
}

/// What is wrong with the file of the key `forward_proxy_auth`, in sentences.
pub(super) fn check(path: &Path) -> Vec<String> {
    match load(path) {
        Ok((credentials, mut warnings)) => {
            let password = &*credentials.password;
            if password.trim() != password {
                warnings.push(format!(
                    "the password in {} begins or ends with a space: is that meant?",
                    path.display()
                ));
            }
            warnings
        }
        Err(problem) => vec![problem],
    }
}

/// Read anew for each connection: a changed password needs no reload.
async fn read(path: PathBuf, context: &Context<'_>) -> Result<Credentials, Unreachable> {
    let loaded = spawn_blocking(move || load(&path)).await;
    let loaded = loaded.unwrap_or_else(|_| Err("pomd is ending".to_owned()));
    let hint = format!("see forward_proxy_auth in {}", context.place);
    loaded
        .map(|it| it.0)
        .map_err(|it| Unreachable::new(Step::ForwardProxy, &it).hint(&hint))
}

fn load(path: &Path) -> Result<(Credentials, Vec<String>), String> {
    let shown = path.display();
    let found = named_file::read(path, Kind::Secret, FILE).map_err(|error| match error {
        ReadError::Io(error) => {
            format!("cannot read forward_proxy_auth {shown}: {}", reason(&error))
        }
        error => format!("cannot use forward_proxy_auth {shown}: {error}"),
    })?;
    let credentials = std::str::from_utf8(&found.bytes).ok();
    let credentials = credentials.and_then(Credentials::parse).ok_or_else(|| {
        format!("cannot use forward_proxy_auth {shown}: it does not hold user:password in one line")
    })?;
    Ok((credentials, found.warnings))
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.url)?;
        match self.variable {
            Some(it) => write!(f, " ({it})"),
            None => Ok(()),
        }
    }
}
