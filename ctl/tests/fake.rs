//! A scripted pomd: it answers each request with what the test said, and streams its status after each change.

use std::{
    collections::{BTreeMap, VecDeque},
    io::{BufRead, BufReader, Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, mpsc},
    thread,
    time::Duration,
};

use control::wire::{Cluster, ClusterState, Status, Tunnel, TunnelState};
use serde::Serialize;
use serde_json::{Value, json};

/// The scripted pomd. Its threads end with the test's process.
#[derive(Clone)]
pub(crate) struct Fake {
    world: Arc<World>,
}

struct World {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    status: Value,
    version: u64,
    streamed: Option<u64>,
    /// Lines for the stream that are not how things stand.
    stale: VecDeque<Status>,
    ended: bool,
    protocol: String,
    replies: BTreeMap<String, VecDeque<Reply>>,
    seen: Vec<String>,
    socket: PathBuf,
}

/// One scripted answer.
#[derive(Clone)]
pub(crate) struct Reply {
    code: u16,
    body: String,
    change: Option<Arc<Change>>,
    held: Option<Arc<Mutex<mpsc::Receiver<()>>>>,
    last: bool,
}

type Change = dyn Fn(&mut Status) + Send + Sync;

impl Reply {
    /// 200 with this answer.
    pub(crate) fn ok(body: impl Serialize) -> Self {
        Self::new(200, serde_json::to_string(&body).unwrap())
    }

    /// An error as pomd tells it.
    pub(crate) fn error(code: u16, error: Value) -> Self {
        Self::new(code, json!({ "error": error }).to_string())
    }

    /// NDJSON that ends.
    pub(crate) fn lines(lines: &[Value]) -> Self {
        let lines: String = lines.iter().map(|it| format!("{it}\n")).collect();
        Self::new(200, lines)
    }

    /// pomd ends with it.
    pub(crate) fn last(mut self) -> Self {
        self.last = true;
        self
    }

    /// Changes the status before it is given.
    pub(crate) fn before(mut self, change: impl Fn(&mut Status) + Send + Sync + 'static) -> Self {
        self.change = Some(Arc::new(change));
        self
    }

    fn new(code: u16, body: String) -> Self {
        Self {
            code,
            body,
            change: None,
            held: None,
            last: false,
        }
    }
}

impl Fake {
    /// Listens on `socket` and shows `status`.
    pub(crate) fn start(socket: &Path, status: &Status) -> Self {
        Self::start_with(socket, serde_json::to_value(status).unwrap())
    }

    /// The same with a status that need not be a well-meant one.
    pub(crate) fn start_with(socket: &Path, status: Value) -> Self {
        let listener = UnixListener::bind(socket).unwrap();
        let fake = Self {
            world: Arc::new(World {
                state: Mutex::new(State {
                    status,
                    version: 0,
                    streamed: None,
                    stale: VecDeque::new(),
                    ended: false,
                    protocol: "1".to_owned(),
                    replies: BTreeMap::new(),
                    seen: Vec::new(),
                    socket: socket.to_owned(),
                }),
                changed: Condvar::new(),
            }),
        };
        let accepting = fake.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                if accepting.state().ended {
                    return;
                }
                let (serving, stream) = (accepting.clone(), stream.unwrap());
                // A client that hangs up is no failure of the test.
                thread::spawn(move || serving.serve(stream));
            }
        });
        fake
    }

    /// `POST /v1/…` is answered by these, one after another; the last one stays.
    pub(crate) fn on(&self, request: &str, replies: impl IntoIterator<Item = Reply>) -> &Self {
        let mut state = self.state();
        state
            .replies
            .insert(request.to_owned(), replies.into_iter().collect());
        drop(state);
        self
    }

    /// The same with one answer that is given when what is returned is dropped.
    pub(crate) fn hold(&self, request: &str, mut reply: Reply) -> mpsc::Sender<()> {
        let (go, wait) = mpsc::channel();
        reply.held = Some(Arc::new(Mutex::new(wait)));
        self.on(request, [reply]);
        go
    }

    /// Speaks another protocol.
    pub(crate) fn speak(&self, protocol: &str) {
        self.state().protocol = protocol.to_owned();
    }

    /// What was asked so far.
    pub(crate) fn seen(&self) -> Vec<String> {
        self.state().seen.clone()
    }

    /// Waits until `request` was made `times` times.
    pub(crate) fn wait_for(&self, request: &str, times: usize) {
        let enough = |it: &mut State| it.seen.iter().filter(|it| *it == request).count() < times;
        let limit = Duration::from_secs(20);
        let changed = &self.world.changed;
        let waited = changed.wait_timeout_while(self.state(), limit, enough);
        assert!(!waited.unwrap().1.timed_out(), "nobody asked {request}");
    }

    /// Waits until the newest status was written to whoever follows. A stream that ends is read to its end.
    pub(crate) fn wait_until_streamed(&self) {
        let limit = Duration::from_secs(20);
        let changed = &self.world.changed;
        let old = |it: &mut State| it.streamed != Some(it.version);
        let waited = changed.wait_timeout_while(self.state(), limit, old);
        assert!(!waited.unwrap().1.timed_out(), "nobody follows");
    }

    /// Changes the status, and tells those who follow it.
    pub(crate) fn change(&self, change: impl Fn(&mut Status)) {
        self.state().change(change);
        self.world.changed.notify_all();
    }

    /// Streams this although things stand otherwise.
    pub(crate) fn stream_stale(&self, status: Status) {
        self.state().stale.push_back(status);
        self.world.changed.notify_all();
    }

    /// Ends: its streams end and nobody answers any more.
    pub(crate) fn end(&self) {
        let mut state = self.state();
        state.ended = true;
        let _ = std::fs::remove_file(&state.socket);
        self.world.changed.notify_all();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.world.state.lock().unwrap()
    }

    fn serve(&self, stream: UnixStream) -> Option<()> {
        let mut reader = BufReader::new(stream.try_clone().ok()?);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head).ok()? == 0 {
                return None;
            }
        }
        let length = head
            .to_ascii_lowercase()
            .lines()
            .find_map(|it| it.strip_prefix("content-length:")?.trim().parse().ok());
        let mut body = vec![0; length.unwrap_or(0)];
        reader.read_exact(&mut body).ok()?;
        let mut words = head.split_whitespace();
        let request = format!("{} {}", words.next()?, words.next()?);
        let request = [request, String::from_utf8(body).unwrap()].join(" ");
        self.answer(stream, request.trim())
    }

    fn answer(&self, mut stream: UnixStream, request: &str) -> Option<()> {
        let mut state = self.state();
        let path = request.split(' ').take(2).collect::<Vec<_>>().join(" ");
        let protocol = state.protocol.clone();
        if let Some(replies) = state.replies.get_mut(&path) {
            let reply = if replies.len() > 1 {
                replies.pop_front()?
            } else {
                replies.front()?.clone()
            };
            drop(state);
            if let Some(held) = reply.held {
                // Ends with an error: nothing is ever sent.
                let _ = held.lock().unwrap().recv();
            }
            if let Some(change) = reply.change {
                self.change(|status| change(status));
            }
            // Whoever waits for the request finds the change made.
            self.note(request);
            if reply.last {
                self.end();
            }
            let text = response(reply.code, &protocol, &reply.body);
            return stream.write_all(text.as_bytes()).ok();
        }
        state.seen.push(request.to_owned());
        self.world.changed.notify_all();
        match path.as_str() {
            "GET /v1/status" => {
                let text = response(200, &protocol, &state.status.to_string());
                drop(state);
                stream.write_all(text.as_bytes()).ok()
            }
            "GET /v1/events" => {
                drop(state);
                self.stream(stream, &protocol)
            }
            _ => {
                drop(state);
                let error = json!({ "error": { "code": "internal", "message": format!("not scripted: {request}") } });
                let text = response(500, &protocol, &error.to_string());
                stream.write_all(text.as_bytes()).ok()
            }
        }
    }

    fn note(&self, request: &str) {
        self.state().seen.push(request.to_owned());
        self.world.changed.notify_all();
    }

    fn stream(&self, mut stream: UnixStream, protocol: &str) -> Option<()> {
        let head =
            format!("HTTP/1.1 200 OK\r\npomd-protocol: {protocol}\r\nconnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).ok()?;
        let mut told = None;
        loop {
            let state = self.state();
            let old = |it: &mut State| Some(it.version) == told && it.stale.is_empty() && !it.ended;
            let mut state = self.world.changed.wait_while(state, old).unwrap();
            if state.ended {
                return Some(());
            }
            let stale = state.stale.pop_front();
            let stale = stale.map(|it| serde_json::to_value(&it).unwrap());
            told = if stale.is_some() {
                told
            } else {
                Some(state.version)
            };
            let line = format!("{}\n", stale.as_ref().unwrap_or(&state.status));
            drop(state);
            stream.write_all(line.as_bytes()).ok()?;
            self.state().streamed = told;
            self.world.changed.notify_all();
        }
    }
}

impl State {
    fn change(&mut self, change: impl Fn(&mut Status)) {
        let mut status: Status = serde_json::from_value(self.status.clone()).unwrap();
        change(&mut status);
        self.status = serde_json::to_value(&status).unwrap();
        self.version += 1;
    }
}

fn response(code: u16, protocol: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {code} X\r\npomd-protocol: {protocol}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
    )
}

/// The cluster of this name in a status.
pub(crate) fn cluster<'a>(status: &'a mut Status, name: &str) -> &'a mut Cluster {
    let mut clusters = status.clusters.iter_mut();
    clusters.find(|it| it.name == name).unwrap()
}

/// The tunnel of this name in a status.
pub(crate) fn tunnel<'a>(status: &'a mut Status, name: &str) -> &'a mut Tunnel {
    let mut tunnels = status.tunnels.iter_mut();
    tunnels.find(|it| it.name == name).unwrap()
}

/// A change to a status: this cluster is in this state.
pub(crate) fn is(name: &'static str, state: ClusterState) -> impl Fn(&mut Status) {
    move |status| cluster(status, name).state = state
}

/// A change to a status: this tunnel is in this state.
pub(crate) fn tunnel_is(name: &'static str, state: TunnelState) -> impl Fn(&mut Status) {
    move |status| tunnel(status, name).state = state
}
