//! Every way in which a command can end badly, and its exit code. Knows no terminal.

use std::process::ExitCode;

use control::{
    client::ClientError,
    paths::PathsError,
    wire::{ApiError, Code},
};
use serde::Serialize;

use crate::sanitise;

/// Exit codes. People's scripts rely on them: changing one breaks playbooks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Exit {
    Done,
    Failed,
    /// The command line or the configuration is wrong.
    Usage,
    NotRunning,
    LoginNeeded,
    Interrupted,
}

/// The exit code of a command that Ctrl-C ended, as shells have it.
pub(crate) const INTERRUPTED: u8 = 130;

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::NotRunning => 3,
            Exit::LoginNeeded => 4,
            Exit::Interrupted => INTERRUPTED,
        })
    }
}

/// Why a command ended before its answer.
#[derive(Debug)]
pub(crate) enum CliError {
    /// To be told.
    Told(Box<Report>),
    /// Whoever read our answer is gone: nobody is left to tell, and nothing went wrong.
    ReaderGone,
    /// Ctrl-C.
    Interrupted,
}

/// What a person, or a program with `--json`, is told.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    pub(crate) exit: Exit,
    /// For programs.
    pub(crate) code: String,
    /// The first line, complete in itself.
    pub(crate) message: String,
    /// Lines that belong to the message and keep their shape.
    pub(crate) block: Vec<String>,
    /// Finds the case in Pomerium's log.
    pub(crate) request_id: Option<String>,
    /// Aligned below the message.
    pub(crate) facts: Vec<(String, String)>,
    /// Commands and what they do.
    pub(crate) commands: Vec<(String, String)>,
    pub(crate) hint: Option<String>,
    /// A login that stays open for the person to carry elsewhere; only with `--json`.
    pub(crate) login: Option<CarriedLogin>,
}

/// What a person needs who signs in on another machine.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct CarriedLogin {
    pub(crate) cluster: String,
    pub(crate) sign_in_url: String,
    pub(crate) link: String,
    pub(crate) ssh: String,
    pub(crate) expires_at: jiff::Timestamp,
}

impl Report {
    pub(crate) fn new(exit: Exit, code: &str, message: impl Into<String>) -> Self {
        Self {
            exit,
            code: code.to_owned(),
            message: message.into(),
            block: Vec::new(),
            request_id: None,
            facts: Vec::new(),
            commands: Vec::new(),
            hint: None,
            login: None,
        }
    }

    pub(crate) fn hint(mut self, hint: Option<String>) -> Self {
        self.hint = hint;
        self
    }

    pub(crate) fn block(mut self, lines: Vec<String>) -> Self {
        self.block = lines;
        self
    }
}

impl CliError {
    pub(crate) fn told(report: Report) -> Self {
        Self::Told(Box::new(report))
    }

    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self::told(Report::new(Exit::Failed, "failed", message))
    }

    pub(crate) fn usage(code: &str, message: impl Into<String>, hint: Option<String>) -> Self {
        Self::told(Report::new(Exit::Usage, code, message).hint(hint))
    }

    pub(crate) fn not_running() -> Self {
        let mut report = Report::new(Exit::NotRunning, "not_running", "pomd is not running");
        report.commands = vec![(
            "pomctl up --all".to_owned(),
            "starts it, with every tunnel".to_owned(),
        )];
        Self::told(report)
    }

    /// Returns [`CliError::not_running`] for a pomd whose log is elsewhere.
    pub(crate) fn not_running_said(log: &str) -> Self {
        let Self::Told(report) = Self::not_running() else {
            return Self::not_running();
        };
        Self::told(report.hint(Some(last_words(Some(log)))))
    }

    pub(crate) fn login_needed(cluster: &str) -> Self {
        let message = format!("{cluster} needs a login. Run: pomctl login {cluster}");
        Self::told(Report::new(Exit::LoginNeeded, "login_needed", message))
    }

    /// Returns its first line; nothing where there is nobody to tell.
    pub(crate) fn message(&self) -> &str {
        match self {
            Self::Told(report) => &report.message,
            Self::ReaderGone | Self::Interrupted => "",
        }
    }

    /// Returns the error for a pomd that went away in the middle of what it was asked. `log` is where it said
    /// that its log is, if it said anything of that.
    pub(crate) fn pomd_ended(log: Option<Option<&str>>) -> Self {
        let message = "pomd ended meanwhile";
        let report = Report::new(Exit::NotRunning, "not_running", message);
        Self::told(report.hint(log.map(last_words)))
    }
}

/// Returns where the last words of a pomd that has ended can be read.
pub(crate) fn last_words(log: Option<&str>) -> String {
    match log {
        Some(command) if command.starts_with("journalctl ") => {
            format!("what it said last: {}", sanitise::line(command))
        }
        Some(_) => "what it said last: pomctl logs".to_owned(),
        None => "what it said last is in the terminal that it was started in".to_owned(),
    }
}

/// Returns a code's word on the wire.
pub(crate) fn word(code: Code) -> String {
    match serde_json::to_value(code) {
        Ok(serde_json::Value::String(word)) => word,
        _ => "unknown".to_owned(),
    }
}

fn exit_of(code: Code) -> Exit {
    match code {
        Code::NoSuchTunnel | Code::NoSuchCluster | Code::BadRequest | Code::ConfigBroken => {
            Exit::Usage
        }
        Code::LoginNeeded => Exit::LoginNeeded,
        _ => Exit::Failed,
    }
}

impl From<ClientError> for CliError {
    fn from(error: ClientError) -> Self {
        let report = match error {
            ClientError::NotRunning => return Self::not_running(),
            ClientError::Api(error) => report_of(error),
            ClientError::OtherProtocol { theirs } => Report::new(
                Exit::Failed,
                "other_protocol",
                format!(
                    "pomctl {} can't talk to this pomd (protocols {} and {theirs})",
                    env!("CARGO_PKG_VERSION"),
                    control::wire::PROTOCOL
                ),
            )
            .hint(Some(
                "install pomd and pomctl of one release, then end the pomd that runs".to_owned(),
            )),
            error @ ClientError::Cut { .. } => {
                Report::new(Exit::Failed, "failed", sanitise::line(&error.to_string()))
            }
            error @ ClientError::NotOurs { .. } => {
                Report::new(Exit::Failed, "not_ours", sanitise::line(&error.to_string()))
            }
            ClientError::Broken { path, message } => {
                let closed = message.contains("Permission denied");
                let path = path.display();
                let hint = "this belongs to another user: look at HOME and XDG_RUNTIME_DIR, or give --socket";
                let message = format!("talking to pomd over {path} failed: {message}");
                Report::new(Exit::Failed, "failed", sanitise::line(&message))
                    .hint(closed.then(|| hint.to_owned()))
            }
        };
        Self::told(report)
    }
}

fn report_of(error: ApiError) -> Report {
    let mut lines = sanitise::lines(&error.message).into_iter();
    let first = lines.next().unwrap_or_default();
    let first = first.strip_prefix("error:").unwrap_or(&first).trim_start();
    let mut report = Report::new(exit_of(error.code), &word(error.code), first);
    report.block = lines.collect();
    let error = sanitise::error(error);
    let has = |key: &str| error.facts.iter().any(|it| it.0 == key);
    report.request_id = error.request_id.filter(|_| !has("request id"));
    if let Some(holder) = error.holder.filter(|_| !has("held by")) {
        report
            .facts
            .push(("held by".to_owned(), sanitise::holder(&holder)));
    }
    report.facts.extend(error.facts);
    report.hint(error.hint)
}

impl From<PathsError> for CliError {
    fn from(error: PathsError) -> Self {
        let text = error.to_string();
        let mut lines = text.lines();
        let message = lines.next().unwrap_or_default();
        let hint = lines.next().map(str::to_owned);
        Self::usage("bad_request", message, hint)
    }
}
