//! `pomctl up HOST:PORT`: a tunnel that is in no file.

use std::{fs, process::Output};

use control::{client::ClientError, wire::TunnelRequest};
use gateway::Upstream;
use integration::{
    deployment::Deployment,
    pomd::{Pomd, find_tunnel, free_port, tunnel},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

const ECHO: &str = "echo.corp.test:7000";
const KEPT: &str = "kept.corp.test:7001";

async fn deployment() -> Deployment {
    Deployment::gateway(|it| it.route(ECHO, Upstream::Echo).route(KEPT, Upstream::Echo)).await
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn done(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    text(&output.stdout)
}

async fn echoes(stream: &mut TcpStream) {
    stream.write_all(b"there").await.unwrap();
    let mut back = [0; 5];
    let read = tokio::time::timeout(integration::PATIENCE, stream.read_exact(&mut back));
    read.await.unwrap().unwrap();
    assert_eq!(&back, b"there");
}

fn asked(route: &str, listen: Option<&str>) -> TunnelRequest {
    TunnelRequest {
        route: route.to_owned(),
        listen: listen.map(str::to_owned),
    }
}

async fn names(pomd: &Pomd) -> Vec<String> {
    let status = pomd.status().await;
    status.tunnels.into_iter().map(|it| it.name).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn g29_a_temporary_tunnel_outlives_reloads_and_not_a_restart() {
    let deployment = deployment().await;
    let mut pomd = deployment.logged_in(&[("kept", KEPT)]).await;
    let file = fs::read(pomd.setup().config_file()).unwrap();
    let port = free_port().to_string();
    let up = pomd.pomctl(&["up", ECHO, "--listen", &port]).await;
    let said = done(&up);
    assert!(
        said.starts_with(&format!(
            "echo is up: localhost:{port} → {ECHO} (answers in "
        )),
        "{said}"
    );
    assert_eq!(
        text(&up.stderr),
        format!("hint: to keep it: pomctl add echo {ECHO} --listen {port}\n")
    );
    assert_eq!(fs::read(pomd.setup().config_file()).unwrap(), file);
    let mut stream = TcpStream::connect(format!("127.0.0.1:{port}"))
        .await
        .unwrap();
    echoes(&mut stream).await;
    let shown = done(&pomd.pomctl(&["status"]).await);
    assert!(
        shown.contains("Temporary, until pomd restarts: echo\n"),
        "{shown}"
    );
    // Again: the same one.
    done(&pomd.pomctl(&["up", ECHO]).await);
    assert_eq!(names(&pomd).await, ["echo", "kept"]);

    let answer = pomd
        .reload(&deployment.config(&[("kept", KEPT), ("more", KEPT)]))
        .await;
    assert_eq!(
        (answer.added, answer.unchanged),
        (vec!["more".to_owned()], 1)
    );
    assert!(tunnel(&pomd.status().await, "echo").temporary);
    echoes(&mut stream).await;

    pomd.restart().await;
    assert_eq!(names(&pomd).await, ["kept", "more"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn down_of_a_temporary_tunnel_takes_it_away_and_its_connections_stay() {
    let deployment = deployment().await;
    let pomd = deployment.logged_in(&[]).await;
    done(&pomd.pomctl(&["up", ECHO]).await);
    let mut stream = pomd.connect("echo").await;
    echoes(&mut stream).await;
    let down = done(&pomd.pomctl(&["down", ECHO]).await);
    assert!(
        down.starts_with("echo is down. 1 open connection stays until it ends"),
        "{down}"
    );
    assert_eq!(names(&pomd).await, [""; 0]);
    echoes(&mut stream).await;
    done(&pomd.pomctl(&["down", "--now", "echo"]).await);
    assert_eq!(stream.read(&mut [0]).await.unwrap_or(0), 0);

    done(&pomd.pomctl(&["up", ECHO]).await);
    let down = done(&pomd.pomctl(&["down", "echo"]).await);
    assert_eq!(down, "echo is down, and gone: it was temporary.\n");
    assert!(!pomd.pomctl(&["down", "echo"]).await.status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_kept_by_add_goes_on_as_it_is() {
    let deployment = deployment().await;
    let pomd = deployment.logged_in(&[]).await;
    let port = free_port().to_string();
    done(&pomd.pomctl(&["up", ECHO, "--listen", &port]).await);
    let mut stream = pomd.connect("echo").await;
    echoes(&mut stream).await;
    done(&pomd.pomctl(&["add", "echo", ECHO, "--listen", &port]).await);
    let status = pomd
        .wait_for("the file's", |it| {
            find_tunnel(it, "echo").is_some_and(|it| !it.temporary)
        })
        .await;
    assert_eq!(tunnel(&status, "echo").connections.open, 1);
    assert!(status.leaving.is_empty(), "{status:#?}");
    echoes(&mut stream).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_file_s_tunnel_takes_the_port_of_a_temporary_one() {
    let deployment = deployment().await;
    let pomd = deployment.logged_in(&[]).await;
    let port = free_port();
    done(
        &pomd
            .pomctl(&["up", ECHO, "--listen", &port.to_string()])
            .await,
    );
    let config = deployment.cluster("")
        + &integration::deployment::tunnel("kept", KEPT, &format!("listen = {port}"));
    pomd.reload(&config).await;
    assert_eq!(names(&pomd).await, ["kept"]);
    let mut stream = pomd.connect("kept").await;
    echoes(&mut stream).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_command_that_failed_nothing_is_left() {
    let deployment = deployment().await;
    let pomd = deployment.logged_in(&[("kept", KEPT)]).await;
    let unknown = pomd.pomctl(&["up", "no-such.corp.test:1"]).await;
    assert_eq!(unknown.status.code(), Some(1), "{unknown:?}");
    let holder = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = holder.local_addr().unwrap().port();
    let busy = pomd
        .pomctl(&["up", ECHO, "--listen", &port.to_string()])
        .await;
    assert_eq!(busy.status.code(), Some(1), "{busy:?}");
    let words = text(&busy.stderr);
    assert!(
        words.starts_with(&format!("error: port {port} is in use\n")),
        "{words}"
    );
    assert!(
        words.contains(&format!("pomctl up {ECHO} --listen {}", port + 1)),
        "{words}"
    );
    for wrong in [
        &["up", "tcp+https://corp.test/echo.corp.test:7000"][..],
        &["up", "echo.corp.test:0"],
        &["up", "echo.corp.test:"],
        &["up", "\u{1b}[2J:22"],
        &["up", ECHO, "--listen", "0.0.0.0:7000"],
        &["up", ECHO, KEPT, "--listen", "7000"],
        &["up", "kept", "--listen", "7000"],
        &["up", "--all", "--listen", "7000"],
    ] {
        let output = pomd.pomctl(wrong).await;
        assert_eq!(output.status.code(), Some(2), "{wrong:?}: {output:?}");
        assert!(!output.stderr.contains(&0x1b), "{output:?}");
    }
    let half = pomd.pomctl(&["up", ECHO, "nobody"]).await;
    assert_eq!(half.status.code(), Some(2), "{half:?}");
    assert_eq!(names(&pomd).await, ["kept"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn temporary_tunnels_are_a_hundred_at_most() {
    let deployment = deployment().await;
    let pomd = deployment.pomd(&[]).await;
    let client = pomd.client();
    for n in 1..=100 {
        let made = client
            .make_tunnel(&asked(&format!("h{n}.corp.test:22"), None))
            .await;
        assert!(made.unwrap().made);
    }
    for n in 101..=1_000 {
        let made = client
            .make_tunnel(&asked(&format!("h{n}.corp.test:22"), None))
            .await;
        let Err(ClientError::Api(error)) = made else {
            panic!("{made:?}");
        };
        assert_eq!(error.message, "there are 100 temporary tunnels already");
    }
    client.down("h7", false).await.unwrap();
    let made = client.make_tunnel(&asked("h.else.test:22", None)).await;
    assert_eq!(made.unwrap().name, "h");
    let status = pomd.status().await;
    assert_eq!(status.tunnels.len(), 100);
    // A host of no cluster has one of its own.
    assert_eq!(tunnel(&status, "h").cluster, "h.else.test");
}
