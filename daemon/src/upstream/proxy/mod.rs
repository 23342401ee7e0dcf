//! Forward proxies: which one leads to an address, and the way through it.
//!
//! The names of what lies behind a proxy are for the proxy to look up. Its credentials go to it and nowhere else, and
//! nothing of the cluster's goes to it: what it carries is TLS. Must not know routes or tokens.

mod credentials;
mod environment;
mod exceptions;
mod http;
mod socks;

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use pomd_core::{
    config::{Address, Authority, ClusterSpec, ForwardProxy, ProxyAddress, ProxyKind},
    route::error::{Cause, FileError, FileProblem, ProxyError, ProxyInUse},
    words,
};
use tokio::{task::spawn_blocking, time::timeout};

use super::{
    Limits,
    dial::Dialer,
    steps::Steps,
    tls::{self, Tls},
    transport::Transport,
};
use crate::named_file::{self, Kind};

use credentials::Credentials;
pub use environment::Environment;

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
    /// Touches no file yet.
    pub(super) fn new(spec: &ClusterSpec, limits: Limits) -> Self {
        let of_proxy = ClusterSpec {
            client_identity: None,
            insecure_skip_verify: false,
            ..spec.clone()
        };
        Self {
            setting: spec.forward_proxy.clone(),
            auth: spec.forward_proxy_auth.clone(),
            environment: Arc::default(),
            tls: Tls::new(&of_proxy, limits.tls),
            limits,
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
    ) -> Result<Option<Proxy<'_>>, Cause> {
        match &self.setting {
            ForwardProxy::None => Ok(None),
            ForwardProxy::At(proxy) if !address.tls => Err(Cause::Proxy {
                proxy: Box::new(ProxyInUse {
                    address: proxy.clone(),
                    variable: None,
                    password_in: None,
                }),
                error: ProxyError::Plain,
            }),
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

    /// Returns a connection to `target` through the proxy.
    pub(super) async fn open(
        &self,
        dialer: &Dialer,
        target: &Authority,
    ) -> Result<Transport, Cause> {
        let mut proxy = ProxyInUse {
            address: self.address.clone(),
            variable: self.variable,
            password_in: None,
        };
        let opened = self.connect(dialer, target, &mut proxy).await;
        opened.map_err(|error| Cause::Proxy {
            proxy: Box::new(proxy),
            error,
        })
    }

    async fn connect(
        &self,
        dialer: &Dialer,
        target: &Authority,
        proxy: &mut ProxyInUse,
    ) -> Result<Transport, ProxyError> {
        let credentials = self.credentials(proxy).await?;
        let authority = &self.address.authority;
        let dialled = dialer.dial(authority, &mut Steps::begin()).await;
        let socket = dialled.map_err(ProxyError::Dial)?;
        let mut transport = match self.address.kind {
            ProxyKind::Http | ProxyKind::Socks5 => Transport::Tcp(socket),
            ProxyKind::Https => {
                let shaken = self.all.tls.handshake(socket, &authority.host).await;
                shaken.map_err(ProxyError::Tls)?.0.into()
            }
        };
        let limit = self.all.limits.proxy;
        let credentials = credentials.as_ref();
        let asked = async {
            match self.address.kind {
                ProxyKind::Http | ProxyKind::Https => {
                    http::connect(&mut transport, target, credentials).await
                }
                ProxyKind::Socks5 => socks::connect(&mut transport, target, credentials).await,
            }
        };
        match timeout(limit, asked).await {
            Ok(answered) => answered.map(|()| transport),
            Err(_) => Err(ProxyError::TimedOut(limit)),
        }
    }

    /// Returns the user and password for the proxy, and notes in `proxy` where they are written: the file, or else the
    /// environment.
    async fn credentials(&self, proxy: &mut ProxyInUse) -> Result<Option<Credentials>, ProxyError> {
        if let Some(path) = &self.all.auth {
            proxy.password_in = Some(path.display().to_string());
            return read(path.clone()).await.map(Some);
        }
        if self.credentials.is_some() {
            proxy.password_in = self.variable.map(str::to_owned);
        }
        Ok(self.credentials.clone())
    }
}

/// Returns what is wrong with the file of the key `forward_proxy_auth`, in sentences.
pub(super) fn check(path: &Path) -> Vec<String> {
    match load(path) {
        Ok((credentials, mut warnings)) => {
            let password = &*credentials.password;
            if password.trim() != password {
                warnings.push(words::proxy::spaces_around_password(path));
            }
            warnings
        }
        Err(error) => vec![words::tls::file(&error)],
    }
}

/// Reads the file anew for each connection: a changed password needs no reload.
async fn read(path: PathBuf) -> Result<Credentials, ProxyError> {
    let loaded = spawn_blocking(move || load(&path)).await;
    // Only a process that is ending does not come to an answer.
    let loaded = loaded.map_err(io::Error::other)?;
    loaded.map(|it| it.0).map_err(ProxyError::Credentials)
}

fn load(path: &Path) -> Result<(Credentials, Vec<String>), FileError> {
    let error = |problem| FileError {
        key: "forward_proxy_auth",
        path: path.to_owned(),
        problem,
    };
    let found = named_file::read(path, Kind::Secret, FILE)
        .map_err(|it| error(tls::refused_by_reader(it)))?;
    let credentials = std::str::from_utf8(&found.bytes).ok();
    let credentials = credentials
        .and_then(Credentials::parse)
        .ok_or_else(|| error(FileProblem::NoCredentials))?;
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
