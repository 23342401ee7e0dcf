//! What pomd and pomctl say to each other.
//!
//! [`wire`] holds every type that crosses the control socket: each is a promise to whoever drives pomd by `curl`.
//! [`paths`] says where files and the socket are, [`holder`] which pomd has them, [`browser`] which browser shows a login.
//! [`client`] is a typed client for the socket, [`descriptor`] hands an open connection to another process. [`log_line`] is how a line of pomd's log is written and read.
//! [`ssh_refusal`] is how both tell an ssh client why it can't connect.
//! [`stdio`] reads and writes the standard streams of both programs; [`humanize`], [`text`] and [`suggest`] are how both
//! write amounts, show text of others, and guess what was meant.
//! Only with the feature `io` there is what touches the machine; without it, types and texts.
//! Nothing here knows how pomd works inside or how pomctl draws its answers.

#[cfg(feature = "io")]
pub mod browser;
#[cfg(feature = "io")]
pub mod client;
#[cfg(feature = "io")]
pub mod descriptor;
#[cfg(feature = "io")]
pub mod frames;
#[cfg(feature = "io")]
pub mod holder;
pub mod humanize;
pub mod log_line;
#[cfg(feature = "io")]
pub mod paths;
#[cfg(feature = "io")]
pub mod socket;
pub mod ssh_refusal;
#[cfg(feature = "io")]
pub mod stdio;
pub mod suggest;
pub mod text;
#[cfg(all(feature = "io", windows))]
pub mod user;
pub mod wire;

/// The version that both programs say: that of the release, and the commit where a release is built from a checkout.
pub const VERSION: &str = env!("POMD_VERSION");
