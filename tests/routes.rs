//! `pomctl routes`: what a real pomd is offered, and tunnels made of it.

use std::fs;

use gateway::Upstream;
use integration::deployment::Deployment;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const ECHO: &str = "echo.corp.test:7000";
const DB: &str = "db.corp.test:5432";

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn g17_a_route_of_the_portal_becomes_a_tunnel_that_carries() {
    let deployment =
        Deployment::gateway(|it| it.route(ECHO, Upstream::Echo).route(DB, Upstream::Echo)).await;
    let pomd = deployment.pomd(&[("db", DB)]).await;
    let needed = pomd.pomctl(&["routes"]).await;
    assert_eq!(needed.status.code(), Some(4), "{needed:?}");

    deployment.log_in(&pomd).await;
    let listed = pomd.pomctl(&["routes", "corp"]).await;
    let listed = text(&listed.stdout);
    let lines: Vec<Vec<&str>> = listed
        .lines()
        .map(|it| it.split_whitespace().collect())
        .collect();
    assert_eq!(lines[1], [DB, "db", "db"], "{listed}");
    assert_eq!(lines[2], [ECHO, "–", "echo"], "{listed}");
    assert!(listed.ends_with("2 routes, TCP or UDP.\n"), "{listed}");

    let file = pomd.setup().config_file().to_owned();
    let before = fs::read_to_string(&file).unwrap();
    let added = pomd.pomctl(&["routes", "add", ECHO, "db"]).await;
    assert!(added.status.success(), "{added:?}");
    let added = text(&added.stdout);
    assert!(added.starts_with("Added echo: localhost:2"), "{added}");
    assert!(
        added.ends_with(&format!("db leads to {DB} already\n")),
        "{added}"
    );
    let after = fs::read_to_string(&file).unwrap();
    assert!(after.starts_with(&before), "{after}");

    let mut stream = pomd.connect("echo").await;
    stream.write_all(b"there").await.unwrap();
    let mut back = [0; 5];
    stream.read_exact(&mut back).await.unwrap();
    assert_eq!(&back, b"there");
}
