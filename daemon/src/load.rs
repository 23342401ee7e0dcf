//! Reads the configuration file again, one read at a time, and hands what it holds to the agent.
//!
//! A file that vanished or became empty counts as broken: an editor may be half-way, and all tunnels would close.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use control::wire;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::{
    agent::{AgentHandle, Broken, Loaded, Refused, refusal},
    config::{self, Config},
    config_file::{self, FileError, shown},
    system::service::{Service, Word},
};

/// How long reading the file may take before it counts as broken: it may lie on a network that is gone.
const READ: Duration = Duration::from_secs(5);

/// Asks for the file to be read again. Clones ask the same reader.
#[derive(Clone, Debug)]
pub struct Reloads(mpsc::Sender<oneshot::Sender<Result<wire::ReloadAnswer, Refused>>>);

impl Reloads {
    /// Reads the file now and says what changed.
    pub async fn reload(&self) -> Result<wire::ReloadAnswer, Refused> {
        let stopping = || Box::new(refusal(wire::Code::Stopping, "pomd is stopping"));
        let (reply, answer) = oneshot::channel();
        self.0.send(reply).await.map_err(|_| stopping())?;
        answer.await.map_err(|_| stopping())?
    }
}

/// The one reader of the file.
pub struct Loader {
    path: PathBuf,
    agent: AgentHandle,
    maybe_changed: Arc<Notify>,
    service: Service,
    requests: mpsc::Receiver<oneshot::Sender<Result<wire::ReloadAnswer, Refused>>>,
    seen: Option<Content>,
    /// The settings in force were written in a file.
    had_text: bool,
}

/// What the file held when it was last read.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Content {
    Absent,
    Text(Vec<u8>),
    Unreadable(String),
}

impl Loader {
    /// Reads `path` whenever `maybe_changed` is told or the handle is asked, and tells `service` of it.
    pub fn new(
        path: PathBuf,
        agent: AgentHandle,
        maybe_changed: Arc<Notify>,
        service: Service,
    ) -> (Self, Reloads) {
        let (sender, requests) = mpsc::channel(4);
        let loader = Self {
            path,
            agent,
            maybe_changed,
            service,
            requests,
            seen: None,
            had_text: false,
        };
        (loader, Reloads(sender))
    }

    /// Reads the file once, then whenever it is told, until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            let reply = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                Some(reply) = self.requests.recv() => Some(reply),
                () = self.maybe_changed.notified() => None,
            };
            let answer = self.reload_and_tell(reply.is_some()).await;
            if let (Some(reply), Some(answer)) = (reply, answer) {
                // Whoever asked may have gone meanwhile.
                let _ = reply.send(answer);
            }
        }
    }

    async fn reload_and_tell(
        &mut self,
        asked: bool,
    ) -> Option<Result<wire::ReloadAnswer, Refused>> {
        let (content, warnings) = self.news(asked).await?;
        self.service.say(Word::Reloading).await;
        let answer = self.apply(content, warnings).await;
        self.service.say(Word::Running).await;
        Some(answer)
    }

    /// Reads the file; `None` if it is as before and nobody asked.
    pub async fn reload(&mut self, asked: bool) -> Option<Result<wire::ReloadAnswer, Refused>> {
        let (content, warnings) = self.news(asked).await?;
        Some(self.apply(content, warnings).await)
    }

    async fn news(&self, asked: bool) -> Option<(Content, Vec<String>)> {
        let (content, warnings) = read(self.path.clone()).await;
        let is_new = asked || self.seen.as_ref() != Some(&content);
        is_new.then_some((content, warnings))
    }

    async fn apply(
        &mut self,
        content: Content,
        warnings: Vec<String>,
    ) -> Result<wire::ReloadAnswer, Refused> {
        let loaded = judge(&content, &self.path, self.had_text, warnings);
        if matches!(loaded, Loaded::Good(..)) {
            self.had_text = matches!(&content, Content::Text(it) if !is_blank(it));
        }
        self.seen = Some(content);
        self.agent.apply(loaded).await
    }
}

/// Reads and judges the file once, as `pomd check` and the start do: an absent file is an empty configuration.
pub async fn load_once(path: &Path) -> Loaded {
    let (content, warnings) = read(path.to_owned()).await;
    judge(&content, path, false, warnings)
}

async fn read(path: PathBuf) -> (Content, Vec<String>) {
    let shown = shown(&path);
    let reading = tokio::task::spawn_blocking(move || config_file::read(&path));
    match tokio::time::timeout(READ, reading).await {
        Ok(Ok(Ok(text))) => (Content::Text(text.bytes), text.warnings),
        Ok(Ok(Err(FileError::Absent { .. }))) => (Content::Absent, Vec::new()),
        Ok(Ok(Err(error))) => (Content::Unreadable(error.to_string()), Vec::new()),
        Ok(Err(panic)) => (
            Content::Unreadable(format!("cannot read {shown}: {panic}")),
            Vec::new(),
        ),
        Err(_) => {
            let message = format!("cannot read {shown}: no answer within {} s", READ.as_secs());
            (Content::Unreadable(message), Vec::new())
        }
    }
}

fn judge(content: &Content, path: &Path, had_text: bool, warnings: Vec<String>) -> Loaded {
    let shown = shown(path);
    match content {
        Content::Absent if had_text => broken(format!("{shown} is gone")),
        Content::Absent => Loaded::Good(Box::default(), warnings),
        Content::Unreadable(message) => broken(message.clone()),
        Content::Text(text) if had_text && is_blank(text) => broken(format!("{shown} is empty")),
        Content::Text(text) => {
            let base = path.parent().unwrap_or(Path::new("/"));
            match Config::read(text, base) {
                Ok(config) => Loaded::Good(Box::new(config), warnings),
                Err(problems) => Loaded::Broken(Broken {
                    message: format!("{shown}: {}", inside(&problems.first_line())),
                    report: format!(
                        "{}\n",
                        problems.render(&String::from_utf8_lossy(text), &shown, false)
                    ),
                    count: u32::try_from(problems.count()).unwrap_or(u32::MAX),
                }),
            }
        }
    }
}

/// Nothing but white space and comments: an editor may be half-way.
fn is_blank(text: &[u8]) -> bool {
    std::str::from_utf8(text).is_ok_and(config::is_blank)
}

/// A sentence of its own as a part of another.
fn inside(sentence: &str) -> String {
    match sentence.strip_prefix("Line ") {
        Some(rest) => format!("line {rest}"),
        None => sentence.to_owned(),
    }
}

fn broken(message: String) -> Loaded {
    Loaded::Broken(Broken {
        report: format!("error: {message}\n"),
        message,
        count: 1,
    })
}
