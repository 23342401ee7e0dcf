//! What pomctl answers with `--json` where pomd alone does not say all of it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Cluster, Connections, DownAnswer, Start, TunnelState};

/// The answer of `pomctl down --json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct DownTold {
    /// Each tunnel, as it stands.
    pub tunnels: Vec<DownAnswer>,
}

/// The answer of `pomctl login --json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct LoginTold {
    /// Each cluster that is logged in now.
    pub clusters: Vec<Cluster>,
}

/// The answer of `pomctl add --json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct AddTold {
    /// The file that was written, as a person names it.
    pub file: String,
    /// Where it listens; `null`: at a free port.
    pub listen: Option<String>,
    /// The tunnel.
    pub name: String,
    /// Its route, as it was written.
    pub route: String,
}

/// The answer of `pomctl remove --json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct RemoveTold {
    /// The file that was written, as a person names it.
    pub file: String,
    /// The tunnel.
    pub name: String,
    /// Connections that stay open until they end.
    pub still_open: u64,
}

/// The answer of `pomctl enable --json` and `pomctl disable --json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct StartTold {
    /// The file that says so, as a person names it.
    pub file: String,
    /// Each tunnel.
    pub tunnels: Vec<TunnelStartTold>,
}

/// A tunnel of [`StartTold`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct TunnelStartTold {
    /// Its name.
    pub name: String,
    /// Whether it listens by itself from now on.
    pub start: Start,
    /// Connections that stay open until they end.
    pub still_open: u64,
}

/// One line of `pomctl top --json`, one each second.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct TopTold {
    /// The end of the second.
    pub at: Timestamp,
    /// Each tunnel.
    pub tunnels: Vec<TunnelFlowTold>,
}

/// A tunnel of [`TopTold`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct TunnelFlowTold {
    /// Its name.
    pub name: String,
    /// What it does.
    pub state: TunnelState,
    /// Counts of its connections.
    pub connections: Connections,
    /// Bytes from the route to local programs; `null` where the tunnel was not there a second ago.
    pub received_per_second: Option<u64>,
    /// Bytes from local programs to the route; `null` as well then.
    pub sent_per_second: Option<u64>,
}
