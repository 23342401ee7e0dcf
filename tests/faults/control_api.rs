//! The control socket in a storm. How it takes bad, slow and idle clients stands in `status::attacks`.

use control::{client::Client, wire::TunnelState};
use gateway::Upstream;
use integration::{
    bystander::{Bystander, at_rest, takes_no_more},
    deployment::Deployment,
    pomd::tunnel,
};
use tokio::{io::AsyncWriteExt, net::UnixStream, task::JoinSet};

use super::{ECHO, SSH, carries};

/// A chosen port that is given up for a moment may be taken by another pomd that has a tunnel of the same name, so these
/// names are used nowhere else.
const TUNNELS: [(&str, &str); 2] = [("storm", SSH), ("calm", ECHO)];

/// Commands at once.
const COMMANDS: usize = 1_000;
/// Clients that give commands at the same time: less than half as many as there are places, because a connection that its
/// client closed holds its place for a moment, and each command is one of its own.
const CLIENTS: usize = 25;

#[tokio::test(flavor = "multi_thread")]
async fn q4_a_storm_of_commands_ends_as_the_last_one_says() {
    let deployment =
        Deployment::gateway(|it| it.route(SSH, Upstream::Echo).route(ECHO, Upstream::Echo)).await;
    let pomd = deployment.logged_in(&TUNNELS).await;
    let mut bystander = Bystander::new(&pomd, "calm").await;
    let mut storm = JoinSet::new();
    for n in 0..CLIENTS {
        let client = pomd.client();
        storm.spawn(async move {
            for m in 0..COMMANDS / CLIENTS {
                match (n + m) % 3 {
                    0 => drop(client.down("storm", false).await.unwrap()),
                    1 => drop(client.up("storm").await.unwrap()),
                    _ => drop(client.reload().await.unwrap()),
                }
            }
        });
    }
    while let Some(ended) = storm.join_next().await {
        ended.unwrap();
        bystander.carries().await;
    }
    pomd.client().down("storm", false).await.unwrap();
    pomd.client().up("storm").await.unwrap();
    for n in 0..100 {
        let last = if n % 2 == 0 {
            pomd.client().down("storm", false).await.unwrap();
            TunnelState::Down
        } else {
            pomd.client().up("storm").await.unwrap();
            TunnelState::Up
        };
        assert_eq!(tunnel(&pomd.status().await, "storm").state, last);
    }
    carries(&pomd, "storm").await;
    bystander.all_is_well(&pomd, &["storm", "calm"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn q4_a_client_that_dies_before_its_answer_is_obeyed_and_leaves_nothing_behind() {
    let deployment =
        Deployment::gateway(|it| it.route(SSH, Upstream::Echo).route(ECHO, Upstream::Echo)).await;
    let pomd = deployment.logged_in(&TUNNELS).await;
    let bystander = Bystander::new(&pomd, "calm").await;
    let before = at_rest(&pomd).await;
    let command =
        |path: &str| format!("POST {path} HTTP/1.1\r\nhost: pomd\r\ncontent-length: 0\r\n\r\n");
    for _ in 0..50 {
        for path in [
            "/v1/tunnels/storm/up",
            "/v1/reload",
            "/v1/clusters/corp/login",
        ] {
            let mut stream = UnixStream::connect(pomd.setup().socket()).await.unwrap();
            stream.write_all(command(path).as_bytes()).await.unwrap();
        }
        // Half of one.
        let mut stream = UnixStream::connect(pomd.setup().socket()).await.unwrap();
        let half = command("/v1/tunnels/calm/down");
        stream.write_all(&half.as_bytes()[..40]).await.unwrap();
    }
    // An `up` that is still on its way would come behind what is asked next.
    takes_no_more(&pomd, before).await;
    let mut stream = UnixStream::connect(pomd.setup().socket()).await.unwrap();
    let down = command("/v1/tunnels/storm/down");
    stream.write_all(down.as_bytes()).await.unwrap();
    // Who goes before he was heard is not obeyed for certain; this one goes before his answer.
    pomd.wait_for_tunnel("storm", TunnelState::Down).await;
    drop(stream);
    Client::new(pomd.setup().socket())
        .up("storm")
        .await
        .unwrap();
    bystander.all_is_well(&pomd, &["storm", "calm"]).await;
    assert_eq!(deployment.gateway.stats().sign_ins, 1);
}
