//! A31: clients that say nothing, or follow something, and those that ask meanwhile.

use std::time::{Duration, Instant};

use control::wire::{ClusterState, LoginRequest};
use gateway::Upstream;
use integration::{
    PATIENCE,
    deployment::{CLUSTER, Deployment},
    pomd::{Pomd, cluster},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UnixStream},
    time::timeout,
};

/// In which somebody is answered who need not wait: far less than the 10 s after which the silent are sent away.
const SOON: Duration = Duration::from_secs(4);

async fn client(pomd: &Pomd, says: &str) -> UnixStream {
    let mut stream = UnixStream::connect(pomd.setup().socket()).await.unwrap();
    stream.write_all(says.as_bytes()).await.unwrap();
    stream
}

async fn is_answered_soon(pomd: &Pomd, while_what: &str) {
    for _ in 0..3 {
        let asked = Instant::now();
        pomd.status().await;
        assert!(
            asked.elapsed() < SOON,
            "{while_what}: {:?}",
            asked.elapsed()
        );
    }
    let page = pomd.pomctl(&["status"]).await;
    assert!(!page.stdout.is_empty(), "{while_what}: {page:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a31_readers_without_an_end_take_no_place_from_those_who_ask() {
    let pomd = Pomd::start("").await;
    let mut readers = Vec::new();
    for n in 0..200 {
        let path = ["/v1/events", "/v1/logs?follow=true"][n % 2];
        let mut stream = client(&pomd, &format!("GET {path} HTTP/1.1\r\nhost: pomd\r\n\r\n")).await;
        let mut head = [0; 15];
        let read = timeout(PATIENCE, stream.read_exact(&mut head)).await;
        read.unwrap_or_else(|_| panic!("reader {n} waits")).unwrap();
        assert_eq!(&head, b"HTTP/1.1 200 OK");
        readers.push(stream);
    }
    is_answered_soon(&pomd, "200 read without an end").await;
    // The newest are told on, the oldest gave way.
    pomd.reload("[settings]\nallow_users = [1]\n").await;
    let mut newest = readers.pop().unwrap();
    let mut room = vec![0; 64 << 10];
    let told = timeout(PATIENCE, newest.read(&mut room)).await.unwrap();
    assert!(told.unwrap() > 0);
    let mut oldest = readers.swap_remove(0);
    let mut rest = Vec::new();
    let ended = timeout(PATIENCE, oldest.read_to_end(&mut rest)).await;
    ended.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a31_clients_of_the_control_socket_that_say_nothing_or_half_of_it_give_way() {
    let pomd = Pomd::start("").await;
    let whole = "GET /v1/status HTTP/1.1\r\nhost: pomd\r\n\r\n";
    for (what, says) in [
        ("silent", ""),
        ("half a head", "GET /v1/status HTTP/1.1\r\nhost: po"),
        (
            "half a body",
            "POST /v1/reload HTTP/1.1\r\nhost: pomd\r\ncontent-length: 100\r\n\r\nx",
        ),
        ("answered and idle", whole),
    ] {
        let mut all = Vec::new();
        for _ in 0..150 {
            all.push(client(&pomd, says).await);
        }
        is_answered_soon(&pomd, what).await;
        drop(all);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a31_silent_visitors_of_the_login_page_do_not_keep_the_person_out() {
    let deployment = Deployment::gateway(|it| it.route("echo.corp.test:7", Upstream::Echo)).await;
    let pomd = deployment.pomd(&[("echo", "echo.corp.test:7")]).await;
    for says in ["", "GET / HTTP/1.1\r\nHost: 127"] {
        let answer = pomd.client().login(CLUSTER, LoginRequest::default()).await;
        let link = answer.unwrap().login.unwrap().link;
        let address = link
            .strip_prefix("http://")
            .unwrap()
            .split_once('/')
            .unwrap()
            .0;
        let mut silent = Vec::new();
        for _ in 0..50 {
            let mut stream = TcpStream::connect(address).await.unwrap();
            // It may have given way before it said anything.
            let _ = stream.write_all(says.as_bytes()).await;
            silent.push(stream);
        }
        let begun = Instant::now();
        let page = deployment.browser.visit(&link).await.unwrap();
        assert_eq!(page.status, 200, "{page:?}");
        assert!(begun.elapsed() < SOON, "{says:?}: {:?}", begun.elapsed());
        pomd.wait_for("logged in", |it| {
            cluster(it, CLUSTER).state == ClusterState::LoggedIn
        })
        .await;
        drop(silent);
        pomd.client().logout(CLUSTER).await.unwrap();
    }
}
