//! What goes wrong on one machine, and what must not be lost by it; each test names its row of the fault matrix.

mod config;
mod control_api;
mod crowd;
mod descriptors;
mod envoy;
mod expiry;
mod growth;
mod http;
mod limits;
mod login;
mod logins;
mod loopback;
mod network;
mod offline;
mod process;
mod secrets;
mod soak;
mod state;
mod time;
mod tls;
mod token;
mod watching;

use control::wire::{Code, Status};
use integration::{
    bystander::echoes,
    deployment::CLUSTER,
    pomd::{Pomd, cluster},
    ssh::told as ssh_is_told,
};

/// Refusals on it are told in ssh's own words.
const SSH: &str = "ssh.corp.test:22";
/// Says back what it hears; refusals on it are resets.
const ECHO: &str = "echo.corp.test:7000";
const TUNNELS: [(&str, &str); 2] = [("ssh", SSH), ("echo", ECHO)];
const LOGIN_NEEDED: &str = "corp needs a login. Run: pomctl login corp";

/// A new connection to the tunnel carries bytes.
async fn carries(pomd: &Pomd, tunnel: &str) {
    let mut stream = pomd.connect(tunnel).await;
    echoes(&mut stream, format!("hello {tunnel}").as_bytes()).await;
}

/// The cluster's trouble.
fn login_reason(status: &Status) -> Option<(Code, &str)> {
    let reason = cluster(status, CLUSTER).reason.as_ref()?;
    Some((reason.code, reason.message.as_str()))
}
