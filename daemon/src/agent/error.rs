//! Why the agent does not do what it is asked: values, of which `api` makes sentences and codes.

use control::wire;
use pomd_core::config::{Authority, Listen, NoDestination, NoPlace, TunnelName, Wrong};

/// The agent's refusal of a request.
#[derive(Debug)]
pub enum AgentError {
    /// pomd is stopping, and takes no request any more.
    Stopping,
    /// There is no tunnel of this name, which may be a stranger's text.
    NoSuchTunnel(String),
    /// There is no cluster of this name, which may be a stranger's text.
    NoSuchCluster(String),
    /// The text names no route.
    NoRoute(Wrong),
    /// No cluster of the configuration leads to the route.
    NoDestination(NoDestination),
    /// The cluster of the route was removed meanwhile.
    ClusterRemoved(String),
    /// The configuration has no place for a temporary tunnel.
    NoPlace(NoPlace),
    /// There are as many temporary tunnels as there may be.
    TooManyTemporary(usize),
    /// A temporary tunnel cannot listen, so it was not made.
    CannotListenTemporary {
        /// Where it should lead.
        route: Authority,
        /// Where it should listen.
        listen: Listen,
        /// Why it cannot.
        reason: Box<wire::Reason>,
    },
    /// The tunnel should listen and cannot.
    CannotListen {
        /// The tunnel.
        tunnel: TunnelName,
        /// Where it should listen.
        listen: Listen,
        /// Why it cannot.
        reason: Box<wire::Reason>,
    },
    /// The configuration file has problems, or cannot be read.
    ConfigBroken {
        /// All problems, annotated.
        report: String,
    },
}
