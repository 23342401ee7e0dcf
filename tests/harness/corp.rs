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

/// A gateway, perhaps with Envoy before it, and a person.
#[derive(Debug)]
pub struct Corp {
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

impl Corp {
    /// Only the gateway, set up by `build`.
    pub async fn gateway(build: impl FnOnce(Builder) -> Builder) -> Self {
        let gateway = build(Gateway::builder()).start().await;
        let gateway = gateway.unwrap_or_else(|error| panic!("the gateway: {error:#}"));
        let folder = crate::pomd::folder();
        let browser = gateway.browser();
        let browser = browser.unwrap_or_else(|error| panic!("a browser: {error:#}"));
        let res = Self {
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
        let mut res = Self::gateway(|mut builder| {
            for (authority, upstream) in routes {
                builder = builder.route(authority, Upstream::Tcp(*upstream));
            }
            builder
        })
        .await;
        let envoy = Envoy::start(&res.gateway, routes).await;
        let browser = Browser::new(&res.gateway.ca_pem(), envoy.address());
        res.browser = browser.unwrap_or_else(|error| panic!("a browser: {error:#}"));
        res.envoy = Some(envoy);
        res
    }

    /// Where Pomerium is dialled.
    pub fn address(&self) -> SocketAddr {
        let envoy = self.envoy.as_ref().map(Envoy::address);
        envoy.unwrap_or_else(|| self.gateway.address())
    }

    /// The authority's certificate.
    pub fn ca_file(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// `[cluster.corp]`, with the person's browser and these lines more.
    pub fn cluster(&self, more: &str) -> String {
        format!(
            "[cluster.{CLUSTER}]\nhosts = [\"corp.test\", \"*.corp.test\"]\nurl = \"https://corp.test\"\n\
             connect = \"{}\"\nca_file = {:?}\nbrowser = {}\n{more}\n",
            self.address(),
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

    /// A pomd with [`Corp::config`].
    pub async fn pomd(&self, tunnels: &[(&str, &str)]) -> Pomd {
        Pomd::start(&self.config(tunnels)).await
    }

    /// A pomd with [`Corp::config`] that is logged in already.
    pub async fn logged_in(&self, tunnels: &[(&str, &str)]) -> Pomd {
        let pomd = self.pomd(tunnels).await;
        self.log_in(&pomd).await;
        pomd
    }

    /// Logs pomd in, with the person's browser.
    pub async fn log_in(&self, pomd: &Pomd) {
        let answer = pomd.client().login(CLUSTER, Default::default()).await;
        let answer = answer.unwrap_or_else(|error| panic!("login: {error}"));
        let Some(login) = answer.login else { return };
        let page = self.browser.visit(&login.link).await;
        let page = page.unwrap_or_else(|error| panic!("signing in: {error:#}"));
        assert_eq!(page.status, 200, "signing in: {page:?}");
        pomd.wait_for("logged in", |status| {
            pomd::cluster(status, CLUSTER).state == control::wire::ClusterState::LoggedIn
        })
        .await;
    }
}

/// `[tunnel.NAME]` with these lines more.
pub fn tunnel(name: &str, route: &str, more: &str) -> String {
    format!("[tunnel.{name}]\nroute = {route:?}\n{more}\n")
}
