//! The types of the control protocol, as JSON over HTTP/1.1.
//!
//! Fields are only ever added. A reader ignores fields it does not know and shows states it does not know as
//! `unknown`; absent facts are `null`. Times are RFC 3339 in UTC, sizes are bytes. Only [`TokenAnswer`]
//! holds a token, and only [`OpenLogin`] a login link.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use self::{asked::*, diagnosis::*, told::*};

mod asked;
mod diagnosis;
mod told;

/// The version of the protocol itself, sent as header `Pomd-Protocol` both ways.
pub const PROTOCOL: u32 = 1;
/// The header that carries [`PROTOCOL`].
pub const PROTOCOL_HEADER: &str = "pomd-protocol";
/// The header of every answer that names the life of pomd that gave it: another value after a restart, which keeps the
/// process id.
pub const LIFE_HEADER: &str = "pomd-life";
/// Counts breaking changes of [`Status`].
pub const SCHEMA: u32 = 1;

/// Everything that pomd shows: the answer of `GET /v1/status` and each line of `GET /v1/events`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Status {
    /// See [`SCHEMA`].
    pub schema: u32,
    /// No tunnel is in `login`, `error` or `busy`, the configuration has no error and no cluster in use lacks a login.
    pub healthy: bool,
    /// The daemon itself.
    pub pomd: Pomd,
    /// Every tunnel of the configuration, by name.
    pub tunnels: Vec<Tunnel>,
    /// Every cluster that a tunnel or the configuration names, by name.
    pub clusters: Vec<Cluster>,
    /// Connections of tunnels that were removed or changed; they live on until they end.
    #[serde(default)]
    pub leaving: Vec<Leaving>,
}

/// The daemon itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Pomd {
    /// Its release, such as `0.1.0`.
    pub version: String,
    /// See [`PROTOCOL`].
    pub protocol: u32,
    /// Its process id.
    pub pid: u32,
    /// When it started.
    pub started_at: Timestamp,
    /// The file it obeys.
    pub config: ConfigState,
    /// Where its log can be read by a person: a path or a command; `null` if it goes to the terminal that started it.
    #[serde(default)]
    pub log: Option<String>,
    /// Standing warnings in words, such as a forward proxy that is set but of no use.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// What it takes of the machine; only where it was asked for the status, never in events.
    #[serde(default)]
    pub usage: Option<Usage>,
}

/// What the daemon takes of the machine, as far as the system tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Usage {
    /// Open descriptors.
    pub descriptors: Option<u64>,
    /// The most of them that it may open.
    pub descriptors_most: Option<u64>,
    /// Tasks that have not ended.
    pub tasks: u64,
    /// Memory that is resident.
    pub memory: Option<u64>,
}

/// The configuration file and what became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ConfigState {
    /// Its absolute path, whether or not there is such a file.
    pub path: String,
    /// When the settings now in force were read.
    pub loaded_at: Timestamp,
    /// Why a newer version of the file is not in force.
    pub error: Option<ConfigError>,
    /// The file is being written or read: what else is told here may be older than it. Only in the answer of
    /// `GET /v1/status`.
    #[serde(default)]
    pub pending: bool,
}

/// Why the file on disk is not in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ConfigError {
    /// Since when.
    pub at: Timestamp,
    /// The first problem in one line, with its line number.
    pub message: String,
    /// All problems, annotated, for a terminal without colour.
    pub report: String,
    /// How many problems there are.
    pub count: u32,
}

/// One tunnel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Tunnel {
    /// Its name in the configuration.
    pub name: String,
    /// What it does now.
    pub state: TunnelState,
    /// Whether it listens by itself.
    pub start: Start,
    /// Made by a command and gone when pomd restarts.
    pub temporary: bool,
    /// What it carries.
    pub protocol: Protocol,
    /// The cluster its login comes from.
    pub cluster: String,
    /// The route it leads to, `HOST:PORT`.
    pub route: String,
    /// The server that is dialled for it, `HOST:PORT`, where that is not the route's own host.
    #[serde(default)]
    pub server: Option<String>,
    /// Whether its route was tried since pomd started; `null` from an older pomd. A tunnel that is up and was not tried
    /// listens, and nothing more is known.
    #[serde(default)]
    pub tried: Option<bool>,
    /// The addresses it listens on, or would if it could; `[]` only until a free port was chosen.
    pub listen: Vec<String>,
    /// Refusals are told in ssh's own words.
    #[serde(default)]
    pub ssh: bool,
    /// It may be reached from other machines.
    #[serde(default)]
    pub exposed: bool,
    /// What is wrong, if something is.
    pub reason: Option<Reason>,
    /// Counts of connections.
    pub connections: Connections,
    /// Bytes carried since pomd started.
    pub bytes: Bytes,
    /// When the newest connection was accepted.
    pub last_connection_at: Option<Timestamp>,
}

/// What a tunnel does now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum TunnelState {
    /// Listening; the last attempt was fine, or there was none.
    Up,
    /// Listening; a login is needed or running.
    Login,
    /// Listening; the last connection was refused or failed.
    Error,
    /// Not listening: another program holds the address, or binding it failed; tried again until it works.
    Busy,
    /// Not listening, because somebody said so.
    Down,
    /// A state of a newer pomd.
    #[serde(other)]
    Unknown,
}

/// Whether a tunnel listens by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Start {
    /// As soon as pomd runs.
    #[default]
    Auto,
    /// Only after `up`.
    Manual,
}

/// What a tunnel carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// Byte streams.
    Tcp,
    /// Datagrams.
    Udp,
    /// A protocol of a newer pomd.
    #[serde(other)]
    Unknown,
}

/// The word of the `Upgrade` header of `POST /v1/connect`: the route's bytes as they are follow.
pub const CONNECT_RAW: &str = "pomd-connect";
/// As [`CONNECT_RAW`], but what comes from the route comes in [`crate::frames`], which tell a cut from an end.
pub const CONNECT_FRAMED: &str = "pomd-connect-framed";
/// The client sends one byte, and is then handed the route as a descriptor: one end of a loopback connection, on which
/// all that follows is told, refusals too.
pub const CONNECT_DESCRIPTOR: &str = "pomd-connect-descriptor";

/// A note among the frames of a route, for a client that asked by `notes=true`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "note", rename_all = "snake_case")]
pub enum ConnectNote {
    /// The connection waits for a login, which the client is to ask the person for.
    LoginNeeded {
        /// The cluster.
        cluster: String,
    },
    /// A note that this release does not know.
    #[serde(other)]
    Unknown,
}

/// Something a person must learn: what happened, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Reason {
    /// For programs.
    pub code: Code,
    /// For people: one line, the same in status, log and ssh.
    pub message: String,
    /// When it was last seen.
    pub at: Timestamp,
    /// What to do about it, one line.
    pub hint: Option<String>,
    /// Finds the case in Pomerium's log.
    pub request_id: Option<String>,
    /// The program that holds the address of a `busy` tunnel, where the system tells.
    pub holder: Option<Holder>,
}

impl Reason {
    /// One of which there is no more to say than `message`.
    pub fn new(code: Code, message: impl Into<String>, at: Timestamp) -> Self {
        Self {
            code,
            message: message.into(),
            at,
            hint: None,
            request_id: None,
            holder: None,
        }
    }
}

/// A program that holds an address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Holder {
    /// Its process id, if it is ours to see.
    pub pid: Option<u32>,
    /// Its name, if it is ours to see.
    pub program: Option<String>,
    /// The user it runs as.
    pub uid: Option<u32>,
    /// It is a program of the user who runs pomd.
    #[serde(default)]
    pub ours: bool,
}

/// Why something is wrong, for programs. A closed list that may grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// Another program holds the listening address.
    AddressInUse,
    /// The listening address cannot be bound for another reason, such as a missing privilege.
    AddressNotAvailable,
    /// The cluster wants a login first.
    LoginNeeded,
    /// A login was tried and failed.
    LoginFailed,
    /// The policy says no (403).
    Forbidden,
    /// The cluster has no such route (404).
    NoSuchRoute,
    /// Pomerium cannot reach the service (502, 503, 504).
    UpstreamUnavailable,
    /// A client certificate is missing or was not accepted (495, or a TLS alert).
    ClientCertificateRequired,
    /// The device is not enrolled (450).
    DeviceNotAllowed,
    /// The name could not be looked up.
    Dns,
    /// The forward proxy refused or failed.
    ForwardProxy,
    /// No TCP connection came about.
    Tcp,
    /// No TLS session came about.
    Tls,
    /// The answer was not the expected HTTP.
    Http,
    /// A step took too long; the message names it.
    Timeout,
    /// Accepting or carrying failed on this machine, for example for lack of descriptors.
    Local,
    /// The request names a tunnel that does not exist.
    NoSuchTunnel,
    /// The request names a cluster that does not exist.
    NoSuchCluster,
    /// The request cannot be understood, or its method, size or headers are not accepted.
    BadRequest,
    /// The configuration file has problems; the message holds them all.
    ConfigBroken,
    /// pomd is stopping.
    Stopping,
    /// A fault inside pomd.
    Internal,
    /// A code of a newer pomd.
    #[serde(other)]
    Unknown,
}

/// Its word on the wire.
impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

/// Counts of connections of one tunnel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Connections {
    /// Carrying bytes now.
    pub open: u64,
    /// Accepted, not yet carried: waiting for a login or for Pomerium.
    pub waiting: u64,
    /// Accepted since pomd started.
    pub total: u64,
    /// Turned away at the door: other users, or senders that cannot be told.
    #[serde(default)]
    pub turned_away: u64,
    /// Requests that the browser guard refused. Their connections are in `total`.
    #[serde(default)]
    pub guarded: u64,
}

/// Bytes carried by one tunnel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Bytes {
    /// From the route to local programs.
    pub received: u64,
    /// From local programs to the route.
    pub sent: u64,
}

/// Connections of a tunnel that was removed or changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Leaving {
    /// The tunnel's name when they were accepted.
    pub name: String,
    /// How many are still open.
    pub connections: u64,
}

/// One cluster: a Pomerium deployment whose hosts share a login.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Cluster {
    /// Its name in the configuration, or the host it stands for.
    pub name: String,
    /// The host patterns whose routes share this login.
    pub hosts: Vec<String>,
    /// Where its session stands.
    pub state: ClusterState,
    /// Who is logged in.
    pub user: Option<String>,
    /// Where its token comes from.
    pub token_source: TokenSource,
    /// When the login was made, or since when one is needed.
    pub since: Option<Timestamp>,
    /// When the session ends at the latest, if anybody said so.
    pub until: Option<Timestamp>,
    /// Who said `until`.
    pub until_known_by: Option<UntilKnownBy>,
    /// Connections that wait for its login.
    #[serde(default)]
    pub waiting: u64,
    /// The forward proxy on the way to it.
    #[serde(default)]
    pub forward_proxy: Option<ForwardProxy>,
    /// What is wrong, if something is.
    pub reason: Option<Reason>,
}

/// A forward proxy between this machine and a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ForwardProxy {
    /// Its address, without user and password.
    pub url: String,
    /// The variable in pomd's environment that names it; `null`: the configuration does.
    pub variable: Option<String>,
}

/// Where a session stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum ClusterState {
    /// There is a token that no server has refused.
    LoggedIn,
    /// There is none, and something asked for one; or nothing has asked yet.
    LoginNeeded,
    /// A login is open: somebody was asked and has not answered yet.
    LoginRunning,
    /// A person logged out; nothing asks for a login until a person does.
    LoggedOut,
    /// A state of a newer pomd.
    #[serde(other)]
    Unknown,
}

/// Where a cluster's token comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum TokenSource {
    /// A login in a browser.
    Browser,
    /// A file.
    File,
    /// An environment variable of pomd's.
    Env,
    /// A credential that systemd hands over.
    Credential,
    /// A program that prints it.
    Command,
    /// The token service of a GitHub Actions runner.
    GithubActions,
    /// A source of a newer pomd.
    #[serde(other)]
    Unknown,
}

/// Who said until when a session lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum UntilKnownBy {
    /// Pomerium's portal: an upper bound, a session may end earlier.
    Server,
    /// The token itself.
    Token,
    /// A source of a newer pomd.
    #[serde(other)]
    Unknown,
}
