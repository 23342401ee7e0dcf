//! What commands are asked with, and what they answer; log lines and errors.

use std::{collections::BTreeMap, fmt, path::PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Cluster, Code, Holder, Leaving, Tunnel};

/// The answer of `POST /v1/tunnels/{name}/up` and `…/probe`: one CONNECT was answered with 200, a moment ago at most (5 s).
/// After `up` the tunnel listens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct UpAnswer {
    /// The tunnel as it stands.
    pub tunnel: Tunnel,
    /// How long the proof took, from dialling to the 200, in milliseconds.
    pub answers_in_ms: u64,
}

/// The body of `POST /v1/tunnels`: a tunnel that lasts until `down`, or until pomd restarts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct TunnelRequest {
    /// The route, a bare `HOST:PORT`.
    pub route: String,
    /// Where it listens, as the key `listen` says it; `null`: a free port is chosen.
    #[serde(default)]
    pub listen: Option<String>,
}

/// The answer of `POST /v1/tunnels`: a tunnel that leads to the route, and listens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct MadeTunnel {
    /// Its name.
    pub name: String,
    /// It was made by this request; else it was there already.
    pub made: bool,
}

/// The answer of `POST /v1/tunnels/{name}/down`; with `?now=true` its connections were ended too.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct DownAnswer {
    /// The tunnel as it stands.
    pub tunnel: Tunnel,
    /// Connections that stay open until they end.
    pub still_open: u64,
}

/// The body of `POST /v1/clusters/{name}/login`. An empty body means the defaults.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct LoginRequest {
    /// Who shows the login to the person.
    pub opener: Opener,
    /// Mint the sign-in URL into the answer, for a person who carries it to another machine.
    pub mint: bool,
}

/// The body of `POST /v1/clusters/{name}/login/answer`: the address that a sign-in ended on, for a browser that cannot
/// reach this machine. The answer is the cluster as it stands.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PastedAnswer {
    /// All of it. It may hold a good token, and is never shown.
    pub address: String,
}

impl fmt::Debug for PastedAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PastedAnswer")
    }
}

/// Who shows a login to the person.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Opener {
    /// Whoever made the request.
    #[default]
    Caller,
    /// pomd opens the browser itself, as the cluster's `browser` says.
    Pomd,
}

/// The answer of `POST /v1/clusters/{name}/login`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct LoginAnswer {
    /// The cluster as it stands.
    pub cluster: Cluster,
    /// The login that waits for the person; `null` if the session is good already (the server was asked).
    pub login: Option<OpenLogin>,
    /// How the configuration wants a browser to be opened.
    pub browser: BrowserChoice,
}

/// A login that waits for a person. The only place where the link is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct OpenLogin {
    /// The short local link; every visit mints a fresh sign-in URL.
    pub link: String,
    /// The loopback port it is on, for `ssh -L`.
    pub port: u16,
    /// The host where the person signs in, as the server named it.
    pub sign_in_host: Option<String>,
    /// A freshly minted sign-in URL, good for 5 minutes, if the request asked for it.
    pub sign_in_url: Option<String>,
    /// When the link stops working.
    pub expires_at: Timestamp,
    /// This very request started the login; else one was open already.
    pub fresh: bool,
    /// When it was started.
    #[serde(default)]
    pub started_at: Option<Timestamp>,
}

/// The key `browser` of a cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum BrowserChoice {
    /// Whatever the platform opens links with.
    #[default]
    Default,
    /// None: only the address is shown.
    None,
    /// This program with these arguments, then the link.
    Command(Vec<String>),
}

/// The answer of `POST /v1/clusters/{name}/logout`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct LogoutAnswer {
    /// The cluster as it stands.
    pub cluster: Cluster,
    /// Who was logged in.
    pub user: Option<String>,
    /// There was a token, and it is forgotten now.
    pub forgotten: bool,
    /// Connections of its tunnels that stay open.
    pub still_open: u64,
    /// The page that ends the session at the server too; it needs the browser's cookie.
    pub sign_out_url: String,
}

/// The answer of `POST /v1/clusters/{name}/token`: what proves the login to the cluster's hosts. The only answer that holds a
/// secret; without a login it is an error with code `login_needed` instead.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct TokenAnswer {
    /// The cluster's name.
    pub cluster: String,
    /// The token.
    pub token: Secret,
    /// It is sent as it stands behind `Bearer`, and not as a token of Pomerium's own.
    #[serde(default)]
    pub bearer: bool,
    /// When the session ends at the latest, if anybody said so.
    pub until: Option<Timestamp>,
    /// The files of the client certificate that the cluster's hosts want to see beside it.
    #[serde(default)]
    pub client_identity: Option<ClientIdentityFiles>,
}

/// The answer of `GET /v1/clusters/{name}/routes`: what the portal of the cluster offers the user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct RoutesAnswer {
    /// The cluster's name.
    pub cluster: String,
    /// The routes, at most 10,000, in the order of the portal.
    pub routes: Vec<OfferedRoute>,
}

/// A route of a portal. All of it but `route` and `target` is the portal's own text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct OfferedRoute {
    /// What the portal calls it.
    pub name: String,
    /// What its address says that it carries.
    pub kind: RouteKind,
    /// What the portal says that it carries.
    #[serde(rename = "type")]
    pub said: String,
    /// `HOST:PORT`, as a tunnel asks for it; `null` unless it carries TCP or UDP.
    pub target: Option<String>,
    /// What the key `route` of a tunnel would be; `null` where pomd can open none.
    pub route: Option<String>,
    /// Its address, as the portal says it.
    pub from: String,
    /// What the portal says about it.
    pub description: String,
}

/// What a route carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum RouteKind {
    /// Byte streams.
    Tcp,
    /// Datagrams.
    Udp,
    /// Pages for a browser.
    Web,
    /// Pomerium's own ssh server.
    Ssh,
    /// Something else.
    #[serde(other)]
    Unknown,
}

/// Text that is shown nowhere: its `Debug` is masked.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Takes a secret.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Returns the secret itself. The only way to it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Where a client certificate and its key are. The key itself is told by nobody.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ClientIdentityFiles {
    /// PEM, leaf first. Absolute.
    pub certificate: PathBuf,
    /// PEM. Absolute.
    pub key: PathBuf,
}

/// The answer of `POST /v1/reload`. A broken file is an error with code `config_broken` instead.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ReloadAnswer {
    /// Names of tunnels that are new.
    pub added: Vec<String>,
    /// Tunnels that differ, and in what.
    pub changed: Vec<ChangedTunnel>,
    /// Names of tunnels that are gone.
    pub removed: Vec<String>,
    /// How many tunnels are as before.
    pub unchanged: u64,
    /// Connections that stay open although their tunnel was changed or removed.
    pub leaving: Vec<Leaving>,
}

/// A tunnel that a reload changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ChangedTunnel {
    /// Its name.
    pub name: String,
    /// The keys that differ.
    pub keys: Vec<String>,
}

/// The answer of `POST /v1/stop`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct StopAnswer {
    /// The process that is ending.
    pub pid: u32,
    /// Connections that end with it.
    pub connections: u64,
}

/// The body of `POST /v1/give-way`, by which a pomd in the foreground takes the place of one in the background. The answer
/// is that of `POST /v1/stop`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct GiveWayRequest {
    /// The process that takes over.
    pub pid: u32,
}

/// The answer of `POST /v1/restart`: the process ends its connections and restarts, under the same id. The end of
/// `GET /v1/events` shows that the old life is over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct RestartAnswer {
    /// The process.
    pub pid: u32,
    /// The release that it goes on as.
    pub version: String,
    /// Connections that end with it.
    pub connections: u64,
}

/// One line of `GET /v1/logs[?follow=true][&tunnel=NAME]`, NDJSON, oldest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct LogLine {
    /// When.
    pub at: Timestamp,
    /// `error`, `warn`, `info`, `debug` or `trace`.
    pub level: String,
    /// The tunnel it is about.
    pub tunnel: Option<String>,
    /// The cluster it is about.
    pub cluster: Option<String>,
    /// The number of the connection it is about.
    pub connection: Option<u64>,
    /// What happened, in one line without control characters.
    pub message: String,
    /// The module that says it, as `pomd::tunnel`; empty in lines of releases that did not tell.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub target: String,
    /// What else belongs to it, such as `status` with `403`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub fields: BTreeMap<String, String>,
}

/// Every answer that is not 2xx.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ErrorAnswer {
    /// The error.
    pub error: ApiError,
}

/// What went wrong with a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[error("{message}")]
pub struct ApiError {
    /// For programs.
    pub code: Code,
    /// For people.
    pub message: String,
    /// What to do about it, one line.
    #[serde(default)]
    pub hint: Option<String>,
    /// Finds the case in Pomerium's log.
    #[serde(default)]
    pub request_id: Option<String>,
    /// More facts as aligned pairs for a terminal, such as `similar`.
    #[serde(default)]
    pub facts: Vec<(String, String)>,
    /// The cluster it is about, so that the caller can log in to it.
    #[serde(default)]
    pub cluster: Option<String>,
    /// The program that holds an address.
    #[serde(default)]
    pub holder: Option<Holder>,
}
