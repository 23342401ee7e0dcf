//! A company behind Pomerium: a gateway, or a real Envoy before it, and the configuration that leads there.

use std::{fs, net::SocketAddr, path::PathBuf};

use gateway::{Builder, Gateway, Upstream, browser::Browser};
use tempfile::TempDir;

use crate::{
    envoy::Envoy,
    person::Links,
    pomd::{self, Pomd},
};

/// The cluster's name in every configuration made here.
pub const CLUSTER: &str = "corp";

/// Who plays Pomerium.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// The gateway alone.
    Gateway,
    /// A real Envoy carries the bytes.
    Envoy,
}

/// A gateway, perhaps with Envoy before it, and a person.
#[derive(Debug)]
pub struct Deployment {
    name: &'static str,
    domain: &'static str,
    /// Who decides, and where people sign in.
    pub gateway: Gateway,
    /// The real proxy before it.
    pub envoy: Option<Envoy>,
    /// What pomd's browser was asked to open.
    pub links: Links,
    /// The person's browser.
    pub browser: Browser,
    folder: TempDir,
}

impl Deployment {
    /// Only the gateway, set up by `build`.
    pub async fn gateway(build: impl FnOnce(Builder) -> Builder) -> Self {
        Self::named(CLUSTER, "corp.test", build).await
    }

    /// Another company, whose cluster and domain have these names.
    pub async fn named(
        name: &'static str,
        domain: &'static str,
        build: impl FnOnce(Builder) -> Builder,
    ) -> Self {
        let gateway = build(Gateway::builder().domain(domain)).start().await;
        let gateway = gateway.unwrap_or_else(|error| panic!("the gateway: {error:#}"));
        let folder = crate::pomd::folder();
        let browser = gateway.browser();
        let browser = browser.unwrap_or_else(|error| panic!("a browser: {error:#}"));
        let res = Self {
            name,
            domain,
            links: Links::new(folder.path()),
            gateway,
            envoy: None,
            browser,
            folder,
        };
        let written = fs::write(res.ca_file(), res.gateway.ca_pem());
        written.unwrap_or_else(|error| panic!("{error}"));
        res
    }

    /// A real Envoy carries the bytes to these services; the gateway behind it decides and signs people in.
    pub async fn envoy(routes: &[(&str, SocketAddr)]) -> Self {
        let mut res = Self::alone(routes).await;
        let envoy = Envoy::start(&res.gateway, routes).await;
        res.browse_at(envoy.address());
        res.envoy = Some(envoy);
        res
    }

    /// `who` carries the bytes to these services.
    pub async fn of(who: Who, routes: &[(&str, SocketAddr)]) -> Self {
        match who {
            Who::Envoy => Self::envoy(routes).await,
            Who::Gateway => Self::alone(routes).await,
        }
    }

    async fn alone(routes: &[(&str, SocketAddr)]) -> Self {
        let add = |builder: Builder, (authority, upstream): &(&str, SocketAddr)| {
            builder.route(authority, Upstream::Tcp(*upstream))
        };
        Self::gateway(|builder| routes.iter().fold(builder, add)).await
    }

    /// Where Pomerium is dialled.
    pub fn address(&self) -> SocketAddr {
        let envoy = self.envoy.as_ref().map(Envoy::address);
        envoy.unwrap_or_else(|| self.gateway.address())
    }

    /// From now on the person dials this instead.
    pub fn browse_at(&mut self, address: SocketAddr) {
        let browser = Browser::new(&self.gateway.ca_pem(), address);
        self.browser = browser.unwrap_or_else(|error| panic!("a browser: {error:#}"));
    }

    /// The authority's certificate.
    pub fn ca_file(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// `[cluster.corp]`, with the person's browser and these lines more.
    pub fn cluster(&self, more: &str) -> String {
        self.cluster_at(self.address(), more)
    }

    /// The same, dialled elsewhere: what is there leads here.
    pub fn cluster_at(&self, address: SocketAddr, more: &str) -> String {
        self.cluster_by_name(&format!("connect = \"{address}\"\n{more}"))
    }

    /// The same, dialled where its names lead.
    pub fn cluster_by_name(&self, more: &str) -> String {
        let Self { name, domain, .. } = self;
        format!(
            "[cluster.{name}]\nhosts = [\"{domain}\", \"*.{domain}\"]\nurl = \"https://{domain}\"\n\
             ca_file = {:?}\nbrowser = {}\n{more}\n",
            self.ca_file(),
            self.links.key(),
        )
    }

    /// The cluster and these tunnels, as `(name, route)`; their ports are chosen by pomd.
    pub fn config(&self, tunnels: &[(&str, &str)]) -> String {
        let mut res = self.cluster("");
        for (name, route) in tunnels {
            res.push_str(&tunnel(name, route, ""));
        }
        res
    }

    /// A pomd with [`Deployment::config`].
    pub async fn pomd(&self, tunnels: &[(&str, &str)]) -> Pomd {
        Pomd::start(&self.config(tunnels)).await
    }

    /// A pomd with [`Deployment::config`] that is logged in already.
    pub async fn logged_in(&self, tunnels: &[(&str, &str)]) -> Pomd {
        let pomd = self.pomd(tunnels).await;
        self.log_in(&pomd).await;
        pomd
    }

    /// Logs pomd in, with the person's browser.
    pub async fn log_in(&self, pomd: &Pomd) {
        let answer = pomd.client().login(self.name, Default::default()).await;
        let answer = answer.unwrap_or_else(|error| panic!("login: {error}"));
        let Some(login) = answer.login else { return };
        let page = match pomd.setup().machine() {
            Some(machine) => machine
                .visit(&self.browser, &login.link)
                .map_err(Into::into),
            None => self.browser.visit(&login.link).await,
        };
        let page = page.unwrap_or_else(|error| panic!("signing in: {error:#}"));
        assert_eq!(page.status, 200, "signing in: {page:?}");
        pomd.wait_for("logged in", |status| {
            pomd::cluster(status, self.name).state == control::wire::ClusterState::LoggedIn
        })
        .await;
    }
}

/// `[tunnel.NAME]` with these lines more.
pub fn tunnel(name: &str, route: &str, more: &str) -> String {
    format!("[tunnel.{name}]\nroute = {route:?}\n{more}\n")
}
