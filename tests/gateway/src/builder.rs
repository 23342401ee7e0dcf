//! What a gateway starts with.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{net::TcpListener, sync::watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    Certificate, DEMO_USER, End, Gateway, PortBehaviour, Upstream, certificates, script, server,
    sessions, shared::Shared, stats,
};

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

impl Builder {
    pub(crate) fn new() -> Self {
        Self {
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
            port_behaviour: watch::Sender::new(PortBehaviour::Open),
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

fn host_of(authority: &str) -> &str {
    let host = authority.rsplit_once(':').map_or(authority, |it| it.0);
    host.trim_start_matches('[').trim_end_matches(']')
}
