//! The life of the process: its end and the next start, restarts, other starters, other environments, other releases.

mod follow;
mod places;
mod releases;
mod restarts;
mod stops;
mod takeover;

use std::{process::Output, time::Duration};

use control::{client::Client, wire::Status};
use gateway::Upstream;
use integration::{
    binary::binary,
    deployment::{Deployment, tunnel},
    pomd::{self, Setup, free_port},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const ECHO: &str = "echo.corp.test:7000";
/// How long pomctl may take.
const LIMIT: Duration = Duration::from_secs(60);

async fn deployment() -> Deployment {
    Deployment::gateway(|it| it.route(ECHO, Upstream::Echo)).await
}

/// Places with a login that rests there and the tunnel `echo` at the port; no pomd runs.
async fn logged_in(deployment: &Deployment) -> (Setup, u16) {
    let port = free_port();
    let config = deployment.cluster("") + &tunnel("echo", ECHO, &format!("listen = {port}"));
    let mut pomd = Setup::new(&config).start().await;
    deployment.log_in(&pomd).await;
    pomd.stop().await;
    (pomd.into_setup(), port)
}

/// pomctl, which may start pomd.
async fn pomctl(setup: &Setup, arguments: &[&str]) -> Output {
    let mut command = setup.command(&binary("pomctl"));
    command.args(arguments);
    pomd::run(command, LIMIT).await
}

/// As [`pomctl`], which must succeed; what it answers.
async fn answers(setup: &Setup, arguments: &[&str]) -> String {
    let output = pomctl(setup, arguments).await;
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn words(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

async fn status(setup: &Setup) -> Status {
    let status = Client::new(setup.socket()).status().await;
    status.unwrap_or_else(|error| panic!("status: {error}"))
}

async fn echoes(port: u16) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    stream.write_all(b"there").await.unwrap();
    let mut back = [0; 5];
    stream.read_exact(&mut back).await.unwrap();
    assert_eq!(&back, b"there");
}

/// Ends whatever pomd is left when a test ends.
struct Ended<'a>(&'a Setup);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        let mut command = self.0.command(&binary("pomctl"));
        let _ = command.arg("stop").output();
    }
}
