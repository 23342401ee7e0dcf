//! Why a login came to nothing.

use std::time::Duration;

use jiff::Timestamp;

use crate::{
    config::{Address, TokenSource},
    route::{
        error::{Step, StepError},
        refusal::{OpenError, Refusal, RefusalKind},
    },
    session::token::Claims,
};

/// Why a login came to nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoginError {
    /// A question to the server had no answer that helps.
    Server {
        /// What was asked.
        question: Question,
        /// Where.
        at: Address,
        /// What happened instead.
        cause: Cause,
    },
    /// None of the cluster's addresses answered in this time.
    NoAnswer {
        /// What was asked.
        question: Question,
        /// How long.
        within: Duration,
    },
    /// A source that asks nobody gave no token.
    Source {
        /// Which one.
        source: TokenSource,
        /// Why not.
        error: SourceError,
    },
    /// The source gives a token whose life is over.
    TokenExpired {
        /// Since when.
        at: Timestamp,
    },
    /// The source gives the token again that the server refused.
    TokenRefused(Claims),
    /// This machine gives the login page no port.
    CannotListen(String),
    /// The login was cancelled, or broke.
    Interrupted,
    /// Whenever a login was made, its token was refused right away.
    Overtaken,
    /// The session's settings changed, and another session runs instead.
    Replaced,
    /// pomd stops.
    Stopping,
    /// The session's task is gone, which is a fault of pomd's.
    Broken,
}

/// Why a source that asks nobody gave no token. No text of it can hold one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceError {
    /// The file cannot be read, or must not be used: in words.
    Unreadable(String),
    /// The variable is not set, or empty.
    NotSet,
    /// systemd handed over no credentials (`$CREDENTIALS_DIRECTORY` is not set).
    NoCredentials,
    /// There is nothing in what it gave.
    Empty,
    /// What it gave is no token.
    NotAToken,
    /// The program cannot be run: in words.
    CannotRun(String),
    /// The program ended otherwise than well.
    Failed {
        /// Its exit code; `None`: it was ended by a signal.
        code: Option<i32>,
    },
    /// It took too long.
    TimedOut(Duration),
    /// It gave more than this many bytes.
    TooLong(u64),
    /// This is no job of GitHub Actions that may ask for a token.
    NoRunner,
    /// The runner's token service answered otherwise.
    Service {
        /// Its status.
        status: u16,
    },
    /// The runner's token service cannot be reached, or speaks otherwise: in words.
    Unreachable(String),
}

/// What the server is asked for a login.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// Where to sign in.
    SignInUrl,
    /// Whether a token is good.
    IsTokenGood,
    /// Which routes there are.
    Routes,
}

/// What came instead of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// A step on the way failed.
    Unreachable {
        /// Which step, and why.
        error: Box<StepError>,
        /// Where the settings of the cluster are.
        section: String,
    },
    /// The server answered otherwise.
    Refused(Refusal),
    /// The server wants a login where none can be.
    WantsLogin {
        /// Finds the case in Pomerium's log.
        request_id: Option<String>,
    },
    /// A fault of pomd's, in words.
    Internal(String),
}

/// Why an address that a person pasted was not taken as a login's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotTaken {
    /// No login waits for one.
    NotOpen,
    /// It is not the address that this login ends on.
    Foreign,
    /// It holds no token that the server takes.
    Unusable,
    /// The sign-in did not succeed. Cleaned for display.
    Denied(String),
    /// The server could not be asked whether the token is good.
    Unasked(LoginError),
}

impl LoginError {
    /// Tells whether something spoke at the other end, though not as was hoped.
    pub fn was_answered(&self) -> bool {
        match self {
            Self::Server { cause, .. } => match cause {
                Cause::Unreachable { error, .. } => {
                    error.step() == Step::Http && !error.timed_out()
                }
                Cause::Refused(it) => !matches!(
                    it.kind,
                    RefusalKind::ClientCertificate | RefusalKind::DeviceNotEnrolled
                ),
                Cause::WantsLogin { .. } => true,
                Cause::Internal(_) => false,
            },
            _ => false,
        }
    }
}

impl Cause {
    /// Returns what came instead of an answer; `section` is where the settings of the cluster are.
    pub fn new(error: OpenError, section: impl FnOnce() -> String) -> Self {
        match error {
            OpenError::Unreachable(error) => Self::Unreachable {
                error,
                section: section(),
            },
            OpenError::Refused(it) => Self::Refused(it),
            OpenError::Unauthenticated { request_id } => Self::WantsLogin { request_id },
            OpenError::LocalGone(error) => Self::Internal(error.to_string()),
        }
    }
}
