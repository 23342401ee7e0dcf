//! pomd makes services behind Pomerium look like plain local ports: always listening, always logged in.

pub mod clock;
pub mod config;
pub mod config_file;
pub mod lock;
pub mod logging;
pub mod system;
pub mod watch;
