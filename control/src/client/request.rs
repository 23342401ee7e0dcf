//! One request and its answer: finding the socket, making sure whose it is, and asking again where a restart came between.

use std::{
    error::Error,
    io,
    path::Path,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, Response, StatusCode, body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use interprocess::local_socket::tokio::Stream;
use tokio::time::Instant;

use super::{Client, ClientError, Connection, PATIENCE, broken};
use crate::{
    holder::{self, Holder, Phase},
    socket::{self, socket},
    wire::{self, PROTOCOL, PROTOCOL_HEADER},
};

/// How long a question waits for a pomd that restarts.
const RESTART: Duration = Duration::from_secs(10);
/// How often it is asked again meanwhile.
const AGAIN: Duration = Duration::from_millis(20);
/// How often a question is asked again whose connection ended without an answer: a restart ends few.
const CUT_MOST: u32 = 3;

/// What becomes of a question that a restart leaves without an answer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    /// The next life is asked, too.
    Again,
    /// Nothing: it was about that very life.
    Once,
}

/// What the lock file says of its holder, and since when.
#[derive(PartialEq, Eq)]
struct LockState {
    phase: Option<Phase>,
    written_at: Option<SystemTime>,
}

impl LockState {
    fn is_ending(&self) -> bool {
        matches!(
            self.phase,
            Some(Phase::Ending | Phase::Restarting | Phase::Ended)
        )
    }
}

impl Client {
    /// Sends a request, again where a restart left it without an answer. Every question may be asked twice: those that
    /// start something find it done.
    pub(super) async fn send_request(
        &self,
        asked: Asked,
        request: Request<Full<Bytes>>,
        patience: Duration,
    ) -> Result<(Response<Incoming>, Connection), ClientError> {
        let deadline = Instant::now() + RESTART;
        let mut cut = 0;
        let mut stopping = None;
        loop {
            let before = self.lock_state();
            let error = match self.send_once(request.clone(), patience).await {
                Ok(answered) => return Ok(answered),
                Err(error) => error,
            };
            let passes = match &error {
                _ if asked == Asked::Once => false,
                ClientError::Api(error) => error.code == wire::Code::Stopping,
                ClientError::Cut { .. } => {
                    cut += 1;
                    // A fault inside pomd cuts, too, and is no reason to meet it again.
                    // One that ends says so in its lock before it cuts.
                    cut <= CUT_MOST && (before.is_ending() || before != self.lock_state())
                }
                ClientError::NotRunning => self.restarts(&before),
                _ => false,
            };
            if !passes || Instant::now() >= deadline {
                // The question reached a pomd that ended; that none runs now is what came after.
                return Err(match error {
                    ClientError::NotRunning => stopping.unwrap_or(error),
                    error => error,
                });
            }
            if matches!(error, ClientError::Api(_)) {
                stopping = Some(error);
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    async fn send_once(
        &self,
        request: Request<Full<Bytes>>,
        patience: Duration,
    ) -> Result<(Response<Incoming>, Connection), ClientError> {
        let stream = self.open_socket().await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(socket(stream)))
            .await
            .map_err(|it| self.broken(it))?;
        let connection = Connection::drive(connection);
        let response = tokio::time::timeout(patience, sender.send_request(request))
            .await
            .map_err(|_| self.broken(format!("no answer within {} s", patience.as_secs())))?
            .map_err(|it| self.unanswered(it))?;
        let theirs = response.headers().get(PROTOCOL_HEADER);
        let theirs = theirs.map(|it| String::from_utf8_lossy(it.as_bytes()).into_owned());
        if theirs.as_deref() != Some(&PROTOCOL.to_string()) {
            let theirs = crate::text::clean(theirs.as_deref().unwrap_or("(none)"), 40);
            return Err(ClientError::OtherProtocol { theirs });
        }
        if response.status() == StatusCode::SERVICE_UNAVAILABLE {
            return Err(self.error(response).await);
        }
        Ok((response, connection))
    }

    /// Tells whether a pomd restarts: it holds the lock and is not there for a moment.
    fn restarts(&self, lock: &LockState) -> bool {
        let folder = self.lock_folder();
        lock.phase == Some(Phase::Restarting) && folder.is_some_and(holder::is_held)
    }

    fn lock_state(&self) -> LockState {
        let folder = self.lock_folder();
        LockState {
            phase: folder.and_then(Holder::read).map(|it| it.phase()),
            written_at: folder.and_then(holder::written_at),
        }
    }

    /// Returns the folder of the lock that tells of the pomd that is asked: beside its socket, if that is all that is known.
    fn lock_folder(&self) -> Option<&Path> {
        self.state.as_deref().or_else(|| self.socket.parent())
    }

    /// Connects, and makes sure that the socket belongs to this user.
    pub(super) async fn open_socket(&self) -> Result<Stream, ClientError> {
        let held = self.state.as_deref().and_then(Holder::read);
        let held = held.as_ref().and_then(Holder::socket);
        if let Some(named) = held.filter(|it| *it != self.socket) {
            match self.open(named).await {
                // The text may be that of one that was killed, and the path somebody else's by now.
                Err(ClientError::NotRunning | ClientError::NotOurs { .. }) => {}
                other => return other,
            }
        }
        self.open(&self.socket).await
    }

    async fn open(&self, path: &Path) -> Result<Stream, ClientError> {
        let connecting = socket::connect(path);
        let stream = match tokio::time::timeout(PATIENCE, connecting).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) if is_absence(&error) => return Err(ClientError::NotRunning),
            Ok(Err(error)) => return Err(broken(path, error)),
            Err(_) => return Err(broken(path, "it does not take connections")),
        };
        if let Some(user) = socket::other_user(&stream).map_err(|it| broken(path, it))? {
            return Err(ClientError::NotOurs {
                path: path.to_owned(),
                user,
            });
        }
        Ok(stream)
    }

    fn unanswered(&self, error: hyper::Error) -> ClientError {
        let reset = || {
            let cause = error.source().and_then(|it| it.downcast_ref::<io::Error>());
            let kind = cause.map(io::Error::kind);
            matches!(
                kind,
                Some(io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
            )
        };
        if error.is_incomplete_message() || error.is_canceled() || error.is_closed() || reset() {
            return ClientError::Cut {
                path: self.socket.clone(),
            };
        }
        self.broken(error)
    }
}

fn is_absence(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
    )
}
