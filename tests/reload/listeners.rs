//! Ports: busy, chosen, kept, given up and taken again.

use std::{
    process::{Command, Stdio},
    time::Duration,
};

use control::wire::{Code, TunnelState};
use integration::{
    binary::binary,
    client::{Ending, read_all},
    deployment::tunnel,
    pomd::{Pomd, find_tunnel, free_port},
};
use tokio::{io::AsyncReadExt, net::TcpStream, time::Instant};

use super::{A, B, Line, deployment, text};

/// A program that holds a port until this is dropped.
struct Holder {
    child: std::process::Child,
}

impl Holder {
    async fn new(port: u16) -> Self {
        let mut command = Command::new(binary("other-user"));
        command.args(["hold", &format!("127.0.0.1:{port}")]);
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut res = Self {
            child: child.unwrap(),
        };
        let stdout = res.child.stdout.take().unwrap();
        let mut stdout = tokio::process::ChildStdout::from_std(stdout).unwrap();
        let mut said = [0; 4];
        stdout.read_exact(&mut said).await.unwrap();
        assert_eq!(&said, b"held");
        res
    }

    fn let_go(mut self) {
        drop(self.child.stdin.take());
        self.child.wait().unwrap();
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The promise is a second; the rest is for a busy machine.
const SOON: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread")]
async fn e4_a_busy_port_names_its_holder_and_is_taken_when_it_is_free() {
    let deployment = deployment().await;
    let port = free_port();
    let holder = Holder::new(port).await;
    let pid = holder.child.id();
    let config = deployment.config(&[("other", B)]) + &tunnel("db", A, &format!("listen = {port}"));
    let pomd = Pomd::start(&config).await;
    deployment.log_in(&pomd).await;
    let db = pomd.wait_for_tunnel("db", TunnelState::Busy).await;
    let reason = db.reason.unwrap();
    assert_eq!(reason.code, Code::AddressInUse);
    assert!(
        reason.message.contains(&format!("other-user (pid {pid})")),
        "{reason:?}"
    );
    let held_by = reason.holder.unwrap();
    assert_eq!(held_by.pid, Some(pid));
    assert_eq!(held_by.program.as_deref(), Some("other-user"));
    assert_eq!(db.listen[0], format!("127.0.0.1:{port}"));
    let output = pomd.pomctl(&["up", "db"]).await;
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    for words in [
        format!("port {port} is in use, so db can't listen yet"),
        format!("other-user (pid {pid})"),
        format!("listen = {}", port + 1),
    ] {
        assert!(said.contains(&words), "{said}");
    }
    let mut other = Line::open(&pomd, "other").await;
    holder.let_go();
    let freed = Instant::now();
    pomd.wait_for_tunnel("db", TunnelState::Up).await;
    assert!(freed.elapsed() < SOON, "{:?}", freed.elapsed());
    Line::open(&pomd, "db").await;
    other.carries().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s7_a_chosen_port_is_kept_and_waited_for_if_somebody_takes_it() {
    let deployment = deployment().await;
    let mut pomd = deployment
        .logged_in(&[("chosen", A), ("chosen-too", B)])
        .await;
    let addresses = [
        pomd.address("chosen").await,
        pomd.address("chosen-too").await,
    ];
    assert!((20_000..30_000).contains(&addresses[0].port()));
    // A reload that takes it away and brings it back, a restart, a kill.
    pomd.reload(&deployment.config(&[("chosen-too", B)])).await;
    pomd.reload(&deployment.config(&[("chosen", A), ("chosen-too", B)]))
        .await;
    assert_eq!(pomd.address("chosen").await, addresses[0]);
    pomd.restart().await;
    assert_eq!(pomd.address("chosen").await, addresses[0]);
    pomd.kill_and_restart().await;
    assert_eq!(pomd.address("chosen").await, addresses[0]);
    assert_eq!(pomd.address("chosen-too").await, addresses[1]);
    Line::open(&pomd, "chosen").await;
    assert!(pomd.stop().await.success());
    let holder = Holder::new(addresses[0].port()).await;
    pomd.start_again().await;
    let busy = pomd.wait_for_tunnel("chosen", TunnelState::Busy).await;
    assert_eq!(busy.listen[0], addresses[0].to_string());
    let held_by = busy.reason.unwrap().holder.unwrap();
    assert_eq!(held_by.pid, Some(holder.child.id()));
    Line::open(&pomd, "chosen-too").await;
    holder.let_go();
    let freed = Instant::now();
    pomd.wait_for_tunnel("chosen", TunnelState::Up).await;
    assert!(freed.elapsed() < SOON, "{:?}", freed.elapsed());
    assert_eq!(pomd.address("chosen").await, addresses[0]);
    Line::open(&pomd, "chosen").await;
    assert_eq!(deployment.gateway.stats().sessions_made, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn down_closes_the_door_and_now_ends_who_is_inside() {
    let deployment = deployment().await;
    let pomd = deployment.logged_in(&[("updown", A), ("other", B)]).await;
    let address = pomd.address("updown").await;
    let mut inside = Line::open(&pomd, "updown").await;
    let mut other = Line::open(&pomd, "other").await;
    for _ in 0..20 {
        let answer = pomd.client().down("updown", false).await.unwrap();
        assert_eq!(answer.still_open, 1);
        assert_eq!(answer.tunnel.state, TunnelState::Down);
        assert!(TcpStream::connect(address).await.is_err());
        let answer = pomd.client().up("updown").await.unwrap();
        assert_eq!(answer.tunnel.state, TunnelState::Up);
        assert_eq!(pomd.address("updown").await, address);
    }
    inside.carries().await;
    let mut second = Line::open(&pomd, "updown").await;
    let answer = pomd.client().down("updown", true).await.unwrap();
    assert_eq!(answer.still_open, 0);
    for line in [&mut inside, &mut second] {
        let (_, ending) = read_all(&mut line.stream).await;
        assert_eq!(ending, Ending::Reset);
    }
    other.carries().await;
    pomd.client().up("updown").await.unwrap();
    let mut again = Line::open(&pomd, "updown").await;
    // What was counted is not forgotten: two bytes of the first, one of each other. Bytes are counted once they are said.
    pomd.wait_for("all is counted", |status| {
        let tunnel = find_tunnel(status, "updown").unwrap();
        let (connections, bytes) = (tunnel.connections, tunnel.bytes);
        (connections.open, connections.total) == (1, 3) && (bytes.sent, bytes.received) == (4, 4)
    })
    .await;
    again.carries().await;
    deployment.gateway.wait_for(|it| it.open_tunnels == 2).await;
}
