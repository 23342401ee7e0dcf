//! Faults by script: what the gateway does instead of the right thing, for one authority, one path or all.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::sync::watch;

/// The name under which a script is for every CONNECT.
pub const ANY: &str = "*";

/// What happens to one request. Made by [`Script::new`] and the methods that change it.
#[derive(Clone, Debug, Default)]
pub struct Script {
    pub(crate) times: Option<u32>,
    pub(crate) delay: Option<Duration>,
    pub(crate) gate: Option<Gate>,
    pub(crate) interim: Vec<u16>,
    pub(crate) say: Say,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) pace: Pace,
    pub(crate) first: Vec<u8>,
    pub(crate) new_keys: bool,
    pub(crate) end: Option<(u64, End)>,
}

/// What is said.
#[derive(Clone, Debug, Default)]
pub(crate) enum Say {
    /// The right thing.
    #[default]
    Truth,
    /// This refusal; `None`: the body that Pomerium or Envoy would send.
    Status(u16, Option<(String, Vec<u8>)>),
    /// Exactly these bytes, then a clean end.
    Bytes(Vec<u8>),
    /// A head that never ends.
    EndlessHead,
    /// Nothing, for ever.
    Silence,
    /// The end, without a word.
    Nothing(End),
}

/// How an answer's head is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pace {
    /// At once.
    #[default]
    Whole,
    /// Each byte in a TLS record of its own.
    ByteByByte,
}

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// As it should: close_notify, then FIN.
    Clean,
    /// FIN without close_notify.
    Cut,
    /// RST.
    Reset,
    /// It does not end; no more bytes pass.
    Stall,
}

impl Script {
    /// The right thing, until changed.
    pub fn new() -> Self {
        Self::default()
    }

    /// Refuses with `status` and the body that Pomerium (or Envoy) sends with it.
    pub fn refuse(status: u16) -> Self {
        Self::saying(Say::Status(status, None))
    }

    /// Answers with `status` and this body.
    pub fn answer(status: u16, content_type: &str, body: impl Into<Vec<u8>>) -> Self {
        let body = (content_type.to_owned(), body.into());
        Self::saying(Say::Status(status, Some(body)))
    }

    /// Answers with exactly these bytes and ends cleanly.
    pub fn bytes(bytes: impl Into<Vec<u8>>) -> Self {
        Self::saying(Say::Bytes(bytes.into()))
    }

    /// Answers with a head that never ends.
    pub fn endless_head() -> Self {
        Self::saying(Say::EndlessHead)
    }

    /// Never answers.
    pub fn silence() -> Self {
        Self::saying(Say::Silence)
    }

    /// Ends the connection instead of answering.
    pub fn hang_up(end: End) -> Self {
        Self::saying(Say::Nothing(end))
    }

    /// Only for the next `times` requests; without it until [`crate::Gateway::forgive`].
    pub fn times(mut self, times: u32) -> Self {
        self.times = Some(times);
        self
    }

    /// Waits before it answers.
    pub fn after(mut self, delay: Duration) -> Self {
        self.delay = Some(delay);
        self
    }

    /// Waits before it answers until `gate` is opened.
    pub fn held_by(mut self, gate: &Gate) -> Self {
        self.gate = Some(gate.clone());
        self
    }

    /// Says these 1xx before the answer.
    pub fn interim(mut self, statuses: impl IntoIterator<Item = u16>) -> Self {
        self.interim = statuses.into_iter().collect();
        self
    }

    /// Adds a header to the answer, also to a 200.
    pub fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    /// How the answer's head is written.
    pub fn pace(mut self, pace: Pace) -> Self {
        self.pace = pace;
        self
    }

    /// Bytes that ride in the same record as the 200's head.
    pub fn first(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.first = bytes.into();
        self
    }

    /// Goes on with new keys of TLS 1.3 behind the 200, and has the client do the same.
    pub fn new_keys(mut self) -> Self {
        self.new_keys = true;
        self
    }

    /// Ends the tunnel so after exactly `bytes` towards the client.
    pub fn end_after(mut self, bytes: u64, end: End) -> Self {
        self.end = Some((bytes, end));
        self
    }

    fn saying(say: Say) -> Self {
        Self {
            say,
            ..Self::default()
        }
    }
}

/// Holds answers back until it is opened.
#[derive(Clone, Debug)]
pub struct Gate(watch::Sender<bool>);

impl Default for Gate {
    fn default() -> Self {
        Self::new()
    }
}

impl Gate {
    /// A closed gate.
    pub fn new() -> Self {
        Self(watch::Sender::new(false))
    }

    /// Lets all through, from now on.
    pub fn open(&self) {
        self.0.send_replace(true);
    }

    pub(crate) async fn passed(&self) {
        let mut open = self.0.subscribe();
        // The sender is `self`, so this cannot fail.
        let _ = open.wait_for(|it| *it).await;
    }
}

/// What happens on the TCP port before any HTTP.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum PortBehaviour {
    /// TLS, or plain HTTP for who starts with it.
    #[default]
    Open,
    /// Accepts and never says a word.
    Silent,
    /// Answers whatever comes with a plain HTTP page.
    PlainHttp,
    /// Answers whatever comes with these bytes.
    Says(Vec<u8>),
    /// Reads the first bytes, then FIN.
    Hangs,
    /// Completes the handshake, then ends the connection so, whatever is asked.
    EndsAfterHandshake(End),
}

#[derive(Debug, Default)]
pub(crate) struct Scripts(Mutex<BTreeMap<String, VecDeque<Script>>>);

impl Scripts {
    pub(crate) fn add(&self, key: &str, script: Script) {
        let mut scripts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        scripts.entry(key.to_owned()).or_default().push_back(script);
    }

    pub(crate) fn clear(&self) {
        let mut scripts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        scripts.clear();
    }

    /// The script for this request; the right thing if there is none.
    pub(crate) fn take(&self, key: &str, any: bool) -> Script {
        let mut scripts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = if scripts.contains_key(key) || !any {
            key
        } else {
            ANY
        };
        let Some(queue) = scripts.get_mut(key) else {
            return Script::new();
        };
        let Some(script) = queue.front_mut() else {
            return Script::new();
        };
        let res = script.clone();
        if let Some(times) = &mut script.times {
            *times -= 1;
            if *times == 0 {
                queue.pop_front();
            }
        }
        if queue.is_empty() {
            scripts.remove(key);
        }
        res
    }
}
