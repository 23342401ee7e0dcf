//! Reads the configuration file, one read at a time, and hands what it holds to the agent.
//!
//! A file that vanished or became empty counts as broken: an editor may be half-way, and all tunnels would close. A pomd
//! that starts with a broken file uses the last good configuration, of which `last_good` keeps a copy.

mod check;
mod last_good;
mod ssh_config;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use control::{paths::Paths, wire};
use pomd_core::{
    config::{self, Config, Machine},
    ssh_config::Hosts,
};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::{
    agent::{AgentError, AgentHandle, Broken, Loaded},
    config_file::{self, FileError},
    env::Env,
    system::home::shown,
    system::{
        file_stamp::FileStamp,
        service::{Notification, Service},
    },
    watch::{QUIET, Watch},
};
pub use check::{Checked, check};
use last_good::{Kept, LastGood};

/// How long reading the file may take before it counts as broken: it may lie on a network that is gone.
const READ: Duration = Duration::from_secs(5);
/// How often a file that changes all the time is looked at before an answer goes without it.
const MOST_LOOKS: usize = 5;
/// How long an answer waits for the file to be looked at.
const SETTLE: Duration = Duration::from_secs(2);
/// How soon after a failed write of the last good configuration the next one is tried.
const RETRY: Duration = Duration::from_secs(30);

/// Asks for the file to be read. Clones ask the same reader.
#[derive(Clone, Debug)]
pub struct Reloads(mpsc::Sender<Request>);

#[derive(Debug)]
enum Request {
    /// Read the file now and say what changed.
    Reload(oneshot::Sender<Result<wire::ReloadAnswer, AgentError>>),
    /// Read the file if it is not the one that was read last; whether what holds now is what it says.
    Settle(oneshot::Sender<bool>),
}

impl Reloads {
    /// Reads the file now and says what changed.
    pub async fn reload(&self) -> Result<wire::ReloadAnswer, AgentError> {
        let (reply, answer) = oneshot::channel();
        let sent = self.0.send(Request::Reload(reply)).await;
        sent.map_err(|_| AgentError::Stopping)?;
        answer.await.map_err(|_| AgentError::Stopping)?
    }

    /// Lets a save of a moment ago come into force, so that an answer does not tell what stood before it. Looks at the
    /// file's times and reads it only where they are new. Returns false where that takes too long: the answer is then
    /// about what stood before.
    pub async fn settle(&self) -> bool {
        let (reply, answer) = oneshot::channel();
        let settling = async {
            self.0.send(Request::Settle(reply)).await.ok()?;
            answer.await.ok()
        };
        let settled = tokio::time::timeout(SETTLE, settling).await;
        settled.ok().flatten().unwrap_or(false)
    }
}

/// The one reader of the file.
pub struct Loader {
    path: PathBuf,
    /// Where pomctl put what tells ssh of the hosts, if it did.
    ssh_config: PathBuf,
    agent: AgentHandle,
    look: Arc<Notify>,
    service: Service,
    env: Env,
    requests: mpsc::Receiver<Request>,
    changed: Arc<Notify>,
    walk: Arc<Notify>,
    unreadable: watch::Sender<bool>,
    trouble: watch::Receiver<Option<String>>,
    last_good: LastGood,
    seen: Option<Seen>,
    /// The settings in force were written in a file.
    had_text: bool,
    /// What was last said of watching and keeping.
    warnings: Vec<String>,
}

/// What was found when the file was last read.
#[derive(Debug)]
struct Seen {
    content: Content,
    warnings: Vec<String>,
    stamp: FileStamp,
}

/// What the file held.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Content {
    Absent,
    Text(Vec<u8>),
    Unreadable(String),
}

impl Loader {
    /// Returns the reader, the handle that asks it, and what its watch needs. The reader hands what the file holds to
    /// `agent`, tells `service` of reloads, and reads when `look` is told, as by SIGHUP.
    pub fn new(
        place: &Paths,
        env: &Env,
        agent: AgentHandle,
        look: Arc<Notify>,
        service: Service,
    ) -> (Self, Reloads, Watch) {
        let (sender, requests) = mpsc::channel(4);
        let (unreadable, is_unreadable) = watch::channel(false);
        let (says, trouble) = watch::channel(None);
        let watch = Watch {
            changed: Arc::default(),
            walk: Arc::default(),
            unreadable: is_unreadable,
            trouble: says,
        };
        let loader = Self {
            last_good: LastGood::new(place, env.fs.clone()),
            path: place.config.clone(),
            ssh_config: place.ssh_config(),
            env: env.clone(),
            agent,
            look,
            service,
            requests,
            changed: watch.changed.clone(),
            walk: watch.walk.clone(),
            unreadable,
            trouble,
            seen: None,
            had_text: false,
            warnings: Vec::new(),
        };
        (loader, Reloads(sender), watch)
    }

    /// Reads the file for the first time. If it is broken, the last good configuration comes into force, as far as there
    /// is one.
    pub async fn start(&mut self) {
        let kept = self.last_good.load().await;
        let seen = read(self.path.clone()).await;
        let loaded = evaluate(&seen.content, &self.path, kept.is_some(), Vec::new());
        if let (Loaded::Broken(_), Some(kept)) = (loaded, kept) {
            self.fall_back(kept).await;
        }
        // An agent that is ending takes nothing, and that a file is broken is in its status.
        let _ = self.apply(seen).await;
    }

    async fn fall_back(&mut self, kept: Kept) {
        match parse(&kept.text, &self.path) {
            Ok((config, _)) => {
                let taken = self.agent.fall_back(config, kept.read_at).await;
                self.had_text = taken.is_ok();
            }
            // A release that reads it may come back: it stays where it is.
            Err(problems) => self.last_good.is_of_no_use(&kept, &problems.first_line()),
        }
    }

    /// Reads the file whenever it is told or asked, until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            self.warn().await;
            let retry = self.last_good.needs_retry();
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                Some(request) = self.requests.recv() => self.answer(request).await,
                () = self.look.notified() => {
                    self.walk.notify_one();
                    self.reload_and_tell(false).await;
                }
                () = self.changed.notified() => {
                    self.reload_and_tell(false).await;
                }
                Ok(()) = self.trouble.changed() => {}
                () = tokio::time::sleep(RETRY), if retry => self.last_good.write().await,
            }
        }
    }

    /// Lets the status say what is wrong with watching and keeping.
    async fn warn(&mut self) {
        let watching = self.trouble.borrow_and_update().clone();
        let keeping = self.last_good.trouble();
        let warnings: Vec<String> = watching.into_iter().chain(keeping).collect();
        if warnings != self.warnings && self.agent.reader_warns(warnings.clone()).await.is_ok() {
            self.warnings = warnings;
        }
    }

    async fn answer(&mut self, request: Request) {
        // Whoever asked may have gone meanwhile.
        match request {
            Request::Reload(reply) => {
                self.walk.notify_one();
                if let Some(answer) = self.reload_and_tell(true).await {
                    let _ = reply.send(answer);
                }
            }
            Request::Settle(reply) => {
                let settled = self.settle().await;
                self.warn().await;
                let _ = reply.send(settled);
            }
        }
    }

    /// Reads the file if it may have changed since it was last read, and lets what it says come into force once the same
    /// has stood there for a moment: whoever writes it is done by then. Returns false if it does not come to rest.
    async fn settle(&mut self) -> bool {
        let Some(seen) = &self.seen else {
            return true;
        };
        let path = self.path.clone();
        let now = tokio::task::spawn_blocking(move || FileStamp::of(&path)).await;
        if now.is_ok_and(|it| seen.stamp.is_surely(&it)) {
            return true;
        }
        let mut before: Option<Seen> = None;
        for _ in 0..MOST_LOOKS {
            let now = read(self.path.clone()).await;
            if self.is_seen(&now) {
                self.seen = Some(now);
                return true;
            }
            if before.is_some_and(|it| it.content == now.content) {
                // That the file is broken is in the status.
                let _ = self.apply_and_tell(now).await;
                return true;
            }
            before = Some(now);
            tokio::time::sleep(QUIET).await;
        }
        false
    }

    /// Reads the file; `None` if it is as before and nobody asked.
    async fn reload_and_tell(
        &mut self,
        asked: bool,
    ) -> Option<Result<wire::ReloadAnswer, AgentError>> {
        let Env {
            surroundings,
            proxies,
            ..
        } = &self.env;
        surroundings.look_at_proxies(proxies).await;
        let now = read(self.path.clone()).await;
        if !asked && self.is_seen(&now) {
            self.seen = Some(now);
            return None;
        }
        Some(self.apply_and_tell(now).await)
    }

    fn is_seen(&self, now: &Seen) -> bool {
        let seen = self.seen.as_ref();
        seen.is_some_and(|it| it.content == now.content && it.warnings == now.warnings)
    }

    async fn apply_and_tell(&mut self, now: Seen) -> Result<wire::ReloadAnswer, AgentError> {
        self.service.notify(Notification::Reloading).await;
        let answer = self.apply(now).await;
        self.service.notify(Notification::Running).await;
        answer
    }

    async fn apply(&mut self, now: Seen) -> Result<wire::ReloadAnswer, AgentError> {
        let loaded = evaluate(
            &now.content,
            &self.path,
            self.had_text,
            now.warnings.clone(),
        );
        let is_good = matches!(loaded, Loaded::Good(..));
        let for_ssh = match &loaded {
            Loaded::Good(config, _) => Some(Hosts::of(config)),
            _ => None,
        };
        let is_unreadable = matches!(&now.content, Content::Unreadable(_));
        self.unreadable
            .send_if_modified(|it| std::mem::replace(it, is_unreadable) != is_unreadable);
        let answer = self.agent.apply(loaded).await;
        if let Some(hosts) = for_ssh.filter(|_| answer.is_ok()) {
            ssh_config::rewrite(self.ssh_config.clone(), hosts).await;
        }
        if is_good && answer.is_ok() {
            self.had_text = false;
            if let Content::Text(text) = &now.content
                && !is_blank(text)
            {
                self.had_text = true;
                self.last_good.keep(text, self.env.clock.now()).await;
            }
        }
        self.seen = Some(now);
        answer
    }
}

/// Reads and judges the file once: an absent file is an empty configuration.
pub async fn load_once(path: &Path) -> Loaded {
    let seen = read(path.to_owned()).await;
    evaluate(&seen.content, path, false, seen.warnings)
}

async fn read(path: PathBuf) -> Seen {
    let shown = shown(&path);
    let reading = tokio::task::spawn_blocking(move || {
        // A change after this is told by the next stamp, whether or not it is read now.
        let stamp = FileStamp::of(&path);
        (config_file::read(&path), stamp)
    });
    let mut warnings = Vec::new();
    let (content, stamp) = match tokio::time::timeout(READ, reading).await {
        Ok(Ok((Ok(text), stamp))) => {
            warnings = text.warnings;
            (Content::Text(text.bytes), stamp)
        }
        Ok(Ok((Err(FileError::Absent { .. }), stamp))) => (Content::Absent, stamp),
        Ok(Ok((Err(error), stamp))) => (Content::Unreadable(error.to_string()), stamp),
        Ok(Err(panic)) => {
            let message = format!("cannot read {shown}: {panic}");
            (Content::Unreadable(message), FileStamp::unknown())
        }
        Err(_) => {
            let message = format!("cannot read {shown}: no answer within {} s", READ.as_secs());
            (Content::Unreadable(message), FileStamp::unknown())
        }
    };
    Seen {
        content,
        warnings,
        stamp,
    }
}

/// The settings that a text means, with the warnings that are to stand as long as they are in force.
fn parse(text: &[u8], path: &Path) -> Result<(Config, Vec<String>), config::Problems> {
    let base = path.parent().unwrap_or(Path::new("/"));
    let (config, warnings) = Config::read_for(&Machine::default(), text, base)?;
    Ok((config, warnings.standing()))
}

fn evaluate(content: &Content, path: &Path, had_text: bool, warnings: Vec<String>) -> Loaded {
    let shown = shown(path);
    match content {
        Content::Absent if had_text => missed(&format!("{shown} is gone")),
        Content::Absent => Loaded::Good(Box::default(), warnings),
        Content::Unreadable(message) => broken(message.clone(), ""),
        Content::Text(text) if had_text && is_blank(text) => missed(&format!("{shown} is empty")),
        Content::Text(text) => match parse(text, path) {
            Ok((config, standing)) => {
                let warnings = warnings.into_iter().chain(standing);
                Loaded::Good(Box::new(config), warnings.collect())
            }
            Err(problems) => Loaded::Broken(Broken {
                message: format!("{shown}: {}", inside(&problems.first_line())),
                report: format!(
                    "{}\n",
                    problems.render(&String::from_utf8_lossy(text), &shown, false)
                ),
                count: u32::try_from(problems.count()).unwrap_or(u32::MAX),
            }),
        },
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

/// There is nothing where a configuration was. How to say that nothing is meant has to be told.
fn missed(message: &str) -> Loaded {
    let help = "if you want no tunnels at all, save a file with the one line [settings]";
    broken(message.to_owned(), &format!("help: {help}\n"))
}

fn broken(message: String, help: &str) -> Loaded {
    Loaded::Broken(Broken {
        report: format!("error: {message}\n{help}"),
        message,
        count: 1,
    })
}
