//! What pomd and pomctl say to each other.
//!
//! [`wire`] holds every type that crosses the control socket: each is a promise to whoever drives pomd by `curl`.
//! [`place`] says where files and the socket are, [`holder`] which pomd has them, [`browser`] which browser shows a login.
//! [`client`] is a typed client for the socket. [`log_line`] is how a line of pomd's log is written and read.
//! [`ssh_refusal`] is how both tell an ssh client why it can't connect.
//! [`stdio`] reads and writes the standard streams of both programs.
//! Nothing here knows how pomd works inside or how pomctl draws its answers.

pub mod browser;
pub mod client;
pub mod frames;
pub mod holder;
pub mod log_line;
pub mod near;
pub mod place;
pub mod socket;
pub mod ssh_refusal;
pub mod stdio;
pub mod text;
#[cfg(windows)]
pub mod user;
pub mod wire;

/// The version that both programs say: that of the release, and the commit where a release is built from a checkout.
pub const VERSION: &str = env!("POMD_VERSION");
