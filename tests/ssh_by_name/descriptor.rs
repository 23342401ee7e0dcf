//! A route handed out as a descriptor, by a pomd that is well, busy or stuck, to receivers that are not.

use std::{
    os::{fd::OwnedFd, unix::net::UnixStream as StdUnixStream},
    process::Stdio,
};

use control::{descriptor, wire};
use gateway::Upstream;
use integration::bystander::{at_rest, usage};
use rustix::process::Signal;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UnixStream},
};

use super::*;

const ECHO: &str = "echo.corp.test:7000";

async fn lab() -> (Deployment, Pomd) {
    let deployment = Deployment::gateway(|it| it.route(ECHO, Upstream::Echo)).await;
    let pomd = deployment.logged_in(&[]).await;
    (deployment, pomd)
}

async fn echoes(stream: std::net::TcpStream) {
    stream.set_nonblocking(true).unwrap();
    let mut stream = TcpStream::from_std(stream).unwrap();
    stream.write_all(b"word").await.unwrap();
    let mut heard = [0; 4];
    let read = stream.read_exact(&mut heard);
    tokio::time::timeout(PATIENCE, read).await.unwrap().unwrap();
    assert_eq!(&heard, b"word");
}

/// Asks as a program that knows the protocol, up to pomd's 101.
async fn asked(pomd: &Pomd) -> UnixStream {
    let mut stream = UnixStream::connect(pomd.setup().socket()).await.unwrap();
    let request = format!(
        "POST /v1/connect?route={ECHO} HTTP/1.1\r\nHost: pomd\r\nPomd-Protocol: 1\r\n\
         Connection: upgrade\r\nUpgrade: {}\r\n\r\n",
        wire::CONNECT_DESCRIPTOR
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    assert!(head.starts_with(b"HTTP/1.1 101"), "{}", text(&head));
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn q5_a_receiver_that_leaves_at_any_moment_leaves_no_descriptor_open_in_pomd() {
    let (_corp, pomd) = lab().await;
    echoes(pomd.client().connect_descriptor(ECHO, true).await.unwrap()).await;
    at_rest(&pomd).await;
    let before = usage(&pomd).await.descriptors;
    for _ in 0..20 {
        drop(asked(&pomd).await);
        let mut ready = asked(&pomd).await;
        ready.write_all(&[0]).await.unwrap();
        drop(ready);
        let mut more = asked(&pomd).await;
        more.write_all(&[b'x'; 4096]).await.unwrap();
        drop(more);
        let mut taken = asked(&pomd).await;
        taken.write_all(&[0]).await.unwrap();
        taken.readable().await.unwrap();
        drop(taken);
        drop(pomd.client().connect_descriptor(ECHO, true).await.unwrap());
    }
    eventually("pomd has as many descriptors open as before", async || {
        (usage(&pomd).await.descriptors <= before).then_some(())
    })
    .await;
    echoes(pomd.client().connect_descriptor(ECHO, true).await.unwrap()).await;
}

/// `pomctl connect --fdpass` as ssh runs it: what ssh is handed, how long it waited, and how it ended.
async fn handed(setup: &Setup) -> (std::net::TcpStream, Duration, Output) {
    let (ours, theirs) = StdUnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    let ours = UnixStream::from_std(ours).unwrap();
    let mut command = tokio::process::Command::from(setup.command(&binary("pomctl")));
    command.args(["connect", "--fdpass", ECHO]);
    command.stdin(Stdio::null()).stderr(Stdio::null());
    command.stdout(OwnedFd::from(theirs));
    let began = Instant::now();
    let child = command.spawn().unwrap();
    drop(command);
    let taken = tokio::time::timeout(PATIENCE, descriptor::receive(&ours));
    let taken = taken.await.unwrap().unwrap();
    let output = child.wait_with_output();
    let output = tokio::time::timeout(PATIENCE, output)
        .await
        .unwrap()
        .unwrap();
    (taken, began.elapsed(), output)
}

#[tokio::test(flavor = "multi_thread")]
async fn ssh_is_handed_its_connection_soon_also_by_a_pomd_that_is_stuck() {
    let (_corp, mut pomd) = lab().await;
    let (stream, well, output) = handed(pomd.setup()).await;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(pomctls(pomd.setup()), Vec::<String>::new());
    echoes(stream).await;
    pomd.process().signal(Signal::STOP);
    let (stream, stuck, output) = handed(pomd.setup()).await;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    pomd.process().signal(Signal::CONT);
    echoes(stream).await;
    println!("handed over in {well:?}, by a stuck pomd in {stuck:?}");
    // Room for a machine that does other things too: a pomd that is waited for is waited for ten seconds.
    assert!(stuck < Duration::from_secs(2), "{stuck:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn q5_at_its_limit_of_descriptors_pomd_hands_out_none_and_is_well_afterwards() {
    let deployment = Deployment::gateway(|it| it.route(ECHO, Upstream::Echo)).await;
    let setup = Setup::new(&deployment.config(&[])).before("ulimit -n 64");
    let pomd = setup.start().await;
    deployment.log_in(&pomd).await;
    // What stayed open of one round would be missing in the next.
    for _ in 0..12 {
        let hands_out = async || pomd.client().connect_descriptor(ECHO, true).await.ok();
        let mut held = vec![eventually("pomd hands one out", hands_out).await];
        let error = loop {
            match pomd.client().connect_descriptor(ECHO, true).await {
                Ok(stream) => held.push(stream),
                Err(error) => break error,
            }
            assert!(held.len() < 64, "it has no limit");
        };
        let said = error.to_string();
        assert!(said.starts_with("talking to pomd over "), "{said}");
        drop(held);
        pomd.wait_for("all have ended", |it| {
            it.tunnels.iter().all(|it| it.connections.open == 0)
        })
        .await;
    }
    let hands_out = async || pomd.client().connect_descriptor(ECHO, true).await.ok();
    echoes(eventually("pomd hands one out", hands_out).await).await;
}
