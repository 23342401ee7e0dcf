//! What a doctor found: the steps of a connection, each with what it met, how long it took, and what to do where it failed.

use serde::{Deserialize, Serialize};

use super::Code;

/// The answer of `POST /v1/tunnels/{name}/doctor` and `POST /v1/doctor?route=HOST:PORT&ssh=BOOL`: the steps that a new
/// connection of the tunnel, or to the route, takes, walked once.
/// The session is as it was before, whatever the server said of its token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Diagnosis {
    /// The tunnel.
    pub tunnel: String,
    /// Its cluster.
    pub cluster: String,
    /// The steps, in the order in which they are taken.
    pub checks: Vec<Check>,
    /// How long the route took to open, in milliseconds; `null` if it did not open.
    pub opens_in_ms: Option<u64>,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Check {
    /// What was looked at.
    pub name: CheckName,
    /// How it went.
    pub outcome: CheckOutcome,
    /// What was tried with what and what came of it, in one line.
    pub message: String,
    /// How long it took, in milliseconds.
    pub took_ms: Option<u64>,
    /// Why it failed, for programs.
    pub code: Option<Code>,
    /// What to do, one line.
    pub hint: Option<String>,
    /// More, as pairs for a terminal.
    pub facts: Vec<(String, String)>,
}

/// What a [`Check`] looks at. A closed list that may grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum CheckName {
    /// The daemon.
    Pomd,
    /// The configuration file.
    Config,
    /// The addresses that the tunnel listens on.
    Listener,
    /// The name of the server.
    Dns,
    /// The forward proxy on the way.
    ForwardProxy,
    /// The connection.
    Tcp,
    /// The handshake and the server's certificate.
    Tls,
    /// Whether Pomerium answers, and the clocks.
    Http,
    /// The login.
    Session,
    /// Whether the login may use the route.
    Policy,
    /// The service behind Pomerium.
    Upstream,
    /// The browser for the next login.
    Browser,
    /// What lets ssh find tunnels by their names.
    SshConfig,
    /// A check of a newer release.
    #[serde(other)]
    Unknown,
}

/// How a [`Check`] went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum CheckOutcome {
    /// All is well.
    Good,
    /// Something is wrong.
    Bad,
    /// It was not tried, or there is nothing to try.
    NotDone,
    /// An outcome of a newer release.
    #[serde(other)]
    Unknown,
}

impl Check {
    /// Returns a check of which there is no more to say than `message`.
    pub fn new(name: CheckName, outcome: CheckOutcome, message: impl Into<String>) -> Self {
        Self {
            name,
            outcome,
            message: message.into(),
            took_ms: None,
            code: None,
            hint: None,
            facts: Vec::new(),
        }
    }
}

/// What `pomctl doctor --json` answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Examination {
    /// See [`super::SCHEMA`].
    pub schema: u32,
    /// No check is `bad`.
    pub healthy: bool,
    /// What was looked at on this machine.
    pub checks: Vec<Check>,
    /// The tunnels, by name; without steps where pomd does not run.
    pub tunnels: Vec<Diagnosis>,
}
