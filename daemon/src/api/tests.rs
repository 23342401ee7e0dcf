use std::time::Duration;

use control::paths::Paths;
use futures_util::future::BoxFuture;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::{
    agent::{Agent, Setup},
    load::Loader,
    opener::LinkOpener,
    system::service::{Heartbeat, Service},
};

struct NoBrowser;

impl LinkOpener for NoBrowser {
    fn available(&self, _: &control::wire::BrowserChoice) -> BoxFuture<'static, bool> {
        Box::pin(std::future::ready(false))
    }

    fn open(
        &self,
        _: &control::wire::BrowserChoice,
        _: &str,
    ) -> BoxFuture<'static, Result<(), String>> {
        Box::pin(std::future::ready(Err("there is none".to_owned())))
    }
}

#[tokio::test(start_paused = true)]
async fn x9_no_client_is_cut_before_the_lock_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let place = Paths {
        config: folder.path().join("pomd.toml"),
        state: folder.path().to_owned(),
        socket: folder.path().join("pomd.sock"),
    };
    let env = Env::real(Arc::new(NoBrowser));
    let (agent, handle) = Agent::new(Setup {
        place: place.clone(),
        env: env.clone(),
        lost: Arc::default(),
        log: None,
        warnings: Vec::new(),
        inherited: Arc::default(),
        heartbeat: Heartbeat::for_watchdog(None),
    });
    let (_loader, reloads, _) = Loader::new(
        &place,
        &env,
        handle.clone(),
        Arc::default(),
        Service::none(),
    );
    let mut tasks = JoinSet::new();
    tasks.spawn(agent.run(CancellationToken::new()));
    let api = Arc::new(Api {
        agent: handle,
        reloads,
        recent: Recent::default(),
        env,
        socket: place.socket,
        lost: Arc::default(),
        stop: CancellationToken::new(),
        closing: CancellationToken::new(),
        restart: Restart::to(folder.path().join("no-such-program")),
        inherited: Arc::default(),
        marker: Marker::default(),
        in_background: true,
    });
    let (mut client, server) = tokio::io::duplex(64 << 10);
    let slot = Admission::new(CLIENTS).enter();
    tasks.spawn({
        let api = api.clone();
        async move { drop(serve_client(api, server, slot).await) }
    });
    let request = b"GET /v1/logs?follow=true HTTP/1.1\r\nHost: pomd\r\n\r\n";
    client.write_all(request).await.unwrap();
    let mut heard = Vec::new();
    client.read_buf(&mut heard).await.unwrap();
    assert!(heard.starts_with(b"HTTP/1.1 200"), "{heard:?}");

    api.stop.cancel();
    let moment = Duration::from_secs(5);
    let ended = tokio::time::timeout(moment, client.read_to_end(&mut heard)).await;
    assert!(ended.is_err(), "cut before the lock says why");
    api.closing.cancel();
    let ended = tokio::time::timeout(moment, client.read_to_end(&mut heard)).await;
    ended.unwrap().unwrap();
}
