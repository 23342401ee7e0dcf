//! What goes wrong on one machine, and what must not be lost by it; each test names its row of the fault matrix.

mod config;
mod control_api;
mod descriptors;
mod growth;
mod login;
mod process;
mod secrets;
mod state;
mod time;
mod token;

use std::{net::SocketAddr, process::Command};

use control::wire::{Code, Status};
use integration::{
    PATIENCE,
    binary::system,
    corp::CLUSTER,
    pomd::{self, Pomd, cluster},
    witness::echoes,
};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    task::JoinSet,
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

/// What a real ssh prints when pomd refuses it.
async fn ssh_is_told(address: SocketAddr) -> String {
    let mut command = Command::new(system("ssh"));
    let (ip, port) = (address.ip().to_string(), address.port().to_string());
    command
        .args(["-F", "none", "-o", "BatchMode=yes", "-p", &port, "-l", "me"])
        .arg(&ip);
    let output = pomd::run(command, PATIENCE).await;
    let words = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(255), "{words}");
    let told = format!("Received disconnect from {ip} port {port}:2: pomd: ");
    let mut lines = words.lines().filter_map(|it| it.strip_prefix(&told));
    let Some(line) = lines.next() else {
        panic!("ssh was told nothing: {words:?}");
    };
    line.to_owned()
}

/// The cluster's trouble.
fn login_reason(status: &Status) -> Option<(Code, &str)> {
    let reason = cluster(status, CLUSTER).reason.as_ref()?;
    Some((reason.code, reason.message.as_str()))
}

/// A TCP cable to the gateway that can be cut and mended: as if the network went away under an unchanged server.
struct Cable {
    to: SocketAddr,
    at: SocketAddr,
    wires: Option<JoinSet<()>>,
}

impl Cable {
    async fn new(to: SocketAddr) -> Self {
        let mut res = Self {
            to,
            at: ([127, 0, 0, 1], 0).into(),
            wires: None,
        };
        res.mend().await;
        res
    }

    /// Connects again, at the same address.
    async fn mend(&mut self) {
        let listener = TcpListener::bind(self.at).await.unwrap();
        self.at = listener.local_addr().unwrap();
        let to = self.to;
        let mut wires = JoinSet::new();
        wires.spawn(async move {
            let mut under_way = JoinSet::new();
            loop {
                let (mut near, _) = listener.accept().await.unwrap();
                under_way.spawn(async move {
                    let mut far = TcpStream::connect(to).await.unwrap();
                    let _ = copy_bidirectional(&mut near, &mut far).await;
                });
            }
        });
        self.wires = Some(wires);
    }

    /// Ends all connections and closes the port.
    async fn cut(&mut self) {
        if let Some(mut wires) = self.wires.take() {
            wires.shutdown().await;
        }
    }

    /// A configuration that goes through the cable.
    fn config(&self, config: &str) -> String {
        config.replace(&self.to.to_string(), &self.at.to_string())
    }
}
