//! Clients of the control socket that speak something like HTTP.

use std::{future::ready, path::Path, sync::Arc, time::Duration};

use control::{paths::Paths, wire::BrowserChoice};
use futures_util::future::BoxFuture;
use jiff::Timestamp;
use pomd_core::config::Config;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use model::in_virtual_time;
use pomd::{
    admission::Admission,
    agent::{Agent, Loaded, Setup},
    api::{Api, CLIENTS, serve_client},
    clock::Clock,
    env::Env,
    load::Loader,
    lock::Marker,
    logging::Recent,
    opener::LinkOpener,
    restart::Restart,
    system::service::{Heartbeat, Service},
};

/// Nothing listens at port 1, and nothing is asked of any other machine.
const CONFIG: &str = "[cluster.corp]\nurl = \"http://corp.test\"\nconnect = \"127.0.0.1:1\"\nhosts = [\"*.corp.test\"]\n\
     [tunnel.db]\nroute = \"tcp+http://db.corp.test:5432\"\nlisten = \"192.0.2.1:1\"\nexpose = true\nstart = \"manual\"\n";
/// The most bytes of one client that are tried.
const MOST: usize = 128 << 10;
/// Longer than any limit of the socket for a client.
const PATIENCE: Duration = Duration::from_secs(100);

/// What one client sends: answers that are whole, at most one for each line that could begin a request, then a close; and
/// the next client is served as if nothing had been.
pub(super) fn api(bytes: &[u8]) {
    thread_local! {
        static STATE: TempDir = tempfile::tempdir().expect("a folder");
    }
    let bytes = &bytes[..bytes.len().min(MOST)];
    let state = STATE.with(|it| it.path().to_owned());
    in_virtual_time(async {
        let house = House::open(&state).await;
        let answers = statuses(&house.ask(bytes).await);
        let lines = bytes.split(|it| *it == b'\n').count();
        assert!(
            answers.len() <= lines,
            "{} answers to {lines} lines",
            answers.len()
        );
        if !house.api.stop.is_cancelled() {
            let next = house
                .ask(b"GET /v1/status HTTP/1.1\r\nConnection: close\r\n\r\n")
                .await;
            assert_eq!(statuses(&next), [200]);
        }
        house.close().await;
    });
}

/// A pomd without a socket.
struct House {
    api: Arc<Api>,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl House {
    async fn open(state: &Path) -> Self {
        let stop = CancellationToken::new();
        let place = Paths {
            config: state.join("pomd.toml"),
            state: state.to_owned(),
            socket: state.join("pomd.sock"),
        };
        let env = Env {
            clock: Clock::from_fn(|| Timestamp::UNIX_EPOCH),
            ..Env::real(Arc::new(NoBrowser))
        };
        let (agent, handle) = Agent::new(Setup {
            place: place.clone(),
            env: env.clone(),
            lost: Arc::default(),
            log: None,
            warnings: Vec::new(),
            inherited: Arc::default(),
            heartbeat: Heartbeat::for_watchdog(None),
        });
        let (loader, reloads, _) = Loader::new(
            &place,
            &env,
            handle.clone(),
            Arc::default(),
            Service::none(),
        );
        let mut tasks = JoinSet::new();
        tasks.spawn(agent.run(stop.clone()));
        tasks.spawn(loader.run(stop.clone()));
        let config = Config::parse(CONFIG, Path::new("/")).expect("a good configuration");
        let applied = handle
            .apply(Loaded::Good(Box::new(config), Vec::new()))
            .await;
        applied.expect("a configuration in force");
        let api = Arc::new(Api {
            agent: handle,
            reloads,
            recent: Recent::default(),
            env,
            socket: place.socket,
            lost: Arc::default(),
            stop: CancellationToken::new(),
            closing: CancellationToken::new(),
            restart: Restart::to(state.join("no-such-program")),
            inherited: Arc::default(),
            marker: Marker::default(),
            in_background: true,
        });
        Self { api, stop, tasks }
    }

    /// All that a client hears who sends `bytes` and waits, in the end no longer than it has patience.
    async fn ask(&self, bytes: &[u8]) -> Vec<u8> {
        let (mut client, server) = tokio::io::duplex(MOST);
        let asking = async {
            let mut heard = Vec::new();
            // A server that closes early need not have read everything.
            let _ = client.write_all(bytes).await;
            let hearing = tokio::time::timeout(PATIENCE, client.read_to_end(&mut heard));
            if hearing.await.is_err() {
                // Only a stream has no end of its own.
                let _ = client.shutdown().await;
                let hearing = tokio::time::timeout(PATIENCE, client.read_to_end(&mut heard));
                hearing.await.expect("a close").expect("no error of a pipe");
            }
            heard
        };
        let slot = Admission::new(CLIENTS).enter();
        let (upgraded, heard) = tokio::join!(serve_client(self.api.clone(), server, slot), asking);
        assert!(upgraded.is_none(), "a route was handed out without a login");
        heard
    }

    async fn close(mut self) {
        self.stop.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            ended.expect("no panic");
        }
    }
}

/// The status of each answer. Every answer is whole, but for a stream that its reader ended.
fn statuses(mut heard: &[u8]) -> Vec<u16> {
    let mut res = Vec::new();
    while !heard.is_empty() {
        let mut headers = [httparse::EMPTY_HEADER; 32];
        let mut answer = httparse::Response::new(&mut headers);
        let head = answer.parse(heard).expect("an answer of HTTP");
        let httparse::Status::Complete(head) = head else {
            panic!("half a head: {:?}", String::from_utf8_lossy(heard));
        };
        let status = answer.code.unwrap_or_default();
        res.push(status);
        let value = |name: &str| {
            let mut named = answer
                .headers
                .iter()
                .filter(|it| it.name.eq_ignore_ascii_case(name));
            named
                .next()
                .and_then(|it| std::str::from_utf8(it.value).ok())
        };
        heard = &heard[head..];
        match (
            status,
            value("content-length").and_then(|it| it.parse::<usize>().ok()),
        ) {
            (100, None) => {
                res.pop();
            }
            // A HEAD is answered without its body.
            (_, Some(_)) if heard.is_empty() || heard.starts_with(b"HTTP/1.") => {}
            (_, Some(length)) => heard = heard.get(length..).expect("a whole body"),
            (_, None) => return res,
        }
    }
    res
}

struct NoBrowser;

impl LinkOpener for NoBrowser {
    fn available(&self, _: &BrowserChoice) -> BoxFuture<'static, bool> {
        Box::pin(ready(false))
    }

    fn open(&self, _: &BrowserChoice, _: &str) -> BoxFuture<'static, Result<(), String>> {
        Box::pin(ready(Err("there is none".to_owned())))
    }
}
