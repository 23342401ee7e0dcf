//! pomd makes services behind Pomerium look like plain local ports: always listening, always logged in.

pub mod buffer;
pub mod clock;
pub mod config;
pub mod config_file;
pub mod lock;
pub mod logging;
pub mod opener;
pub mod portal;
pub mod session;
pub mod system;
pub mod tunnel;
pub mod upstream;
pub mod watch;
