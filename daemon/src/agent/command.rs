//! What the agent can be asked.

use std::{sync::Arc, time::Duration};

use control::wire;
use jiff::Timestamp;
use pomd_core::config::{BrowserChoice, Config};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::task::TaskTracker;

use super::{AgentError, Measured};
use crate::{session::Session, tunnel::Tunnel};

/// How long connections that are cut may take to end before whoever cut them is answered.
const CUT: Duration = Duration::from_secs(1);

/// A request to the agent; each is answered once.
#[derive(Debug)]
pub enum Command {
    /// What everything looks like now, counters included.
    Status {
        /// Takes the answer.
        reply: oneshot::Sender<Arc<wire::Status>>,
    },
    /// The same in figures, for a monitoring system.
    Measure {
        /// Takes the answer.
        reply: oneshot::Sender<Box<Measured>>,
    },
    /// Follow what everything looks like: at once after a change, at most once a second where only counters moved.
    Watch {
        /// Takes the answer.
        reply: oneshot::Sender<watch::Receiver<Arc<wire::Status>>>,
    },
    /// Listen, until told otherwise or restarted. The answer comes before the route is tried.
    Up {
        /// The tunnel.
        tunnel: String,
        /// Takes the answer.
        reply: oneshot::Sender<Result<Arc<Tunnel>, AgentError>>,
    },
    /// Listen for a route that may have no tunnel yet. The answer tells whether one was made.
    MakeTemporary {
        /// What was asked.
        request: wire::TunnelRequest,
        /// Takes the answer.
        reply: oneshot::Sender<Result<(Arc<Tunnel>, bool), AgentError>>,
    },
    /// Stop listening, until told otherwise or restarted; a temporary tunnel is gone then.
    Down {
        /// The tunnel.
        tunnel: String,
        /// End its connections too.
        now: bool,
        /// Takes the answer, and the connections that are ending.
        reply: oneshot::Sender<Result<(wire::DownAnswer, Vec<TaskTracker>), AgentError>>,
    },
    /// A tunnel to a route, for one connection that did not come in by a port.
    Connect {
        /// The route, `HOST:PORT`.
        route: String,
        /// Refusals are told in ssh's own words.
        ssh: bool,
        /// Takes the answer.
        reply: oneshot::Sender<Result<Arc<Tunnel>, AgentError>>,
    },
    /// Hand out a tunnel, whether it listens or not.
    Tunnel {
        /// The tunnel.
        tunnel: String,
        /// Takes the answer.
        reply: oneshot::Sender<Result<Arc<Tunnel>, AgentError>>,
    },
    /// Hand out the session of a cluster.
    Session {
        /// The cluster.
        cluster: String,
        /// Takes the answer.
        reply: oneshot::Sender<Result<ClusterHandle, AgentError>>,
    },
    /// Go over to what the configuration file holds now.
    Apply {
        /// What was read.
        loaded: Loaded,
        /// Takes the answer.
        reply: oneshot::Sender<Result<wire::ReloadAnswer, AgentError>>,
    },
    /// Go over to the last good configuration of an earlier life.
    FallBack {
        /// It.
        config: Box<Config>,
        /// When it was read from its file.
        read_at: Timestamp,
        /// Takes the answer.
        reply: oneshot::Sender<()>,
    },
    /// What the reader of the file has to say to a person, in place of what it said before.
    ReaderWarns {
        /// Sentences.
        warnings: Vec<String>,
        /// Takes the answer.
        reply: oneshot::Sender<()>,
    },
}

/// What a request about one cluster needs.
#[derive(Clone, Debug)]
pub struct ClusterHandle {
    /// Its session.
    pub session: Session,
    /// How it wants a browser to be opened.
    pub browser: BrowserChoice,
    /// The files of its client certificate.
    pub client_identity: Option<wire::ClientIdentityFiles>,
}

/// What became of reading the configuration file.
#[derive(Clone, Debug)]
pub enum Loaded {
    /// It is good; with warnings for the status.
    Good(Box<Config>, Vec<String>),
    /// It has problems, or cannot be read.
    Broken(Broken),
}

/// Why the file is not in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// The first problem in one line.
    pub message: String,
    /// All problems, annotated.
    pub report: String,
    /// How many.
    pub count: u32,
}

/// Asks the agent. Clones ask the same one.
#[derive(Clone, Debug)]
pub struct AgentHandle(pub(super) mpsc::Sender<Command>);

impl AgentHandle {
    /// See [`Command::Status`].
    pub async fn status(&self) -> Result<Arc<wire::Status>, AgentError> {
        self.ask(|reply| Command::Status { reply }).await
    }

    /// See [`Command::Measure`].
    pub async fn measure(&self) -> Result<Box<Measured>, AgentError> {
        self.ask(|reply| Command::Measure { reply }).await
    }

    /// See [`Command::Watch`].
    pub async fn watch(&self) -> Result<watch::Receiver<Arc<wire::Status>>, AgentError> {
        self.ask(|reply| Command::Watch { reply }).await
    }

    /// See [`Command::Up`].
    pub async fn up(&self, tunnel: String) -> Result<Arc<Tunnel>, AgentError> {
        self.ask(|reply| Command::Up { tunnel, reply }).await?
    }

    /// See [`Command::MakeTemporary`].
    pub async fn make_temporary(
        &self,
        request: wire::TunnelRequest,
    ) -> Result<(Arc<Tunnel>, bool), AgentError> {
        self.ask(|reply| Command::MakeTemporary { request, reply })
            .await?
    }

    /// See [`Command::Down`]. Returns once the connections that end with it have ended, or have had their time.
    pub async fn down(&self, tunnel: String, now: bool) -> Result<wire::DownAnswer, AgentError> {
        let asked = self.ask(|reply| Command::Down { tunnel, now, reply });
        let (answer, ending) = asked.await??;
        let all_ended = async {
            for connections in &ending {
                connections.close();
                connections.wait().await;
            }
        };
        // One that tells ssh why may take longer, and is none that carries anything any more.
        let _ = tokio::time::timeout(CUT, all_ended).await;
        Ok(answer)
    }

    /// See [`Command::Connect`].
    pub async fn connect(&self, route: String, ssh: bool) -> Result<Arc<Tunnel>, AgentError> {
        self.ask(|reply| Command::Connect { route, ssh, reply })
            .await?
    }

    /// See [`Command::Tunnel`].
    pub async fn tunnel(&self, tunnel: String) -> Result<Arc<Tunnel>, AgentError> {
        self.ask(|reply| Command::Tunnel { tunnel, reply }).await?
    }

    /// See [`Command::Session`].
    pub async fn session(&self, cluster: String) -> Result<ClusterHandle, AgentError> {
        self.ask(|reply| Command::Session { cluster, reply })
            .await?
    }

    /// See [`Command::Apply`].
    pub async fn apply(&self, loaded: Loaded) -> Result<wire::ReloadAnswer, AgentError> {
        self.ask(|reply| Command::Apply { loaded, reply }).await?
    }

    /// See [`Command::FallBack`].
    pub async fn fall_back(&self, config: Config, read_at: Timestamp) -> Result<(), AgentError> {
        let config = Box::new(config);
        self.ask(|reply| Command::FallBack {
            config,
            read_at,
            reply,
        })
        .await
    }

    /// See [`Command::ReaderWarns`].
    pub async fn reader_warns(&self, warnings: Vec<String>) -> Result<(), AgentError> {
        self.ask(|reply| Command::ReaderWarns { warnings, reply })
            .await
    }

    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Result<T, AgentError> {
        let (reply, answer) = oneshot::channel();
        let sent = self.0.send(command(reply)).await;
        sent.map_err(|_| AgentError::Stopping)?;
        answer.await.map_err(|_| AgentError::Stopping)
    }
}
