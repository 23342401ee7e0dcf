//! Many connections that are open at once, while nothing is said on them.

use std::time::Duration;

use gateway::Upstream;
use integration::{
    bystander::{Bystander, at_rest, echoes, usage},
    deployment::Deployment,
    descriptors,
};
use tokio::net::TcpStream;

use super::{ECHO, SSH, TUNNELS};

/// What pomd may hold for one of them, with its TLS state, in KiB: F5 and performance.md.
const EACH_MOST: u64 = 10;

/// Descriptors that pomd and the test need for other things.
const OTHERS: u64 = 400;

/// F5: `count` connections in one pomd, none of which says a word for `idle`; then each has its byte answered.
async fn many_idle(count: usize, idle: Duration) {
    let deployment =
        Deployment::gateway(|it| it.route(SSH, Upstream::Echo).route(ECHO, Upstream::Echo)).await;
    let pomd = deployment.logged_in(&TUNNELS).await;
    let mut bystander = Bystander::new(&pomd, "ssh").await;
    let address = pomd.address("echo").await;
    let before = at_rest(&pomd).await;
    let mut open = Vec::with_capacity(count);
    for _ in 0..count {
        let mut stream = TcpStream::connect(address).await.unwrap();
        echoes(&mut stream, b"a").await;
        open.push(stream);
    }
    // Nothing can be awaited here: that nothing happens is what is tried.
    tokio::time::sleep(idle).await;
    let held = usage(&pomd).await;
    bystander.carries().await;
    for stream in &mut open {
        echoes(stream, b"b").await;
    }
    let grown = held
        .memory
        .unwrap_or(0)
        .saturating_sub(before.memory.unwrap_or(0))
        >> 10;
    let said = format!(
        "{count} connections idle for {idle:?}: {:.1} KiB each",
        grown as f64 / count as f64
    );
    assert!(grown <= EACH_MOST * count as u64, "{said}");
    integration::report(&said);
    drop(open);
    bystander.forget_burst();
    bystander.all_is_well(&pomd, &["ssh", "echo"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f5_a_thousand_idle_connections_take_little_and_answer() {
    descriptors::raise();
    // Longer than a connection looks after its last write.
    many_idle(1_000, Duration::from_secs(12)).await;
}

#[ignore = "an hour: best with --release"]
#[tokio::test(flavor = "multi_thread")]
async fn f5_ten_thousand_connections_or_as_many_as_the_system_allows_answer_after_an_idle_hour() {
    // Two for each in pomd, and three here, where the clients are and the server is.
    let most = (descriptors::raise_to(3 * 10_000 + OTHERS) - OTHERS) / 3;
    many_idle(most.min(10_000) as usize, Duration::from_secs(60 * 60)).await;
}
