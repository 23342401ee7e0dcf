//! Starts pomd when a command needs it, and says what came of it.

use std::{
    env,
    ffi::OsStr,
    io::{self, Read, Seek},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use control::{
    client::ClientError,
    holder,
    wire::{Diagnosis, Status},
};
use tokio::{process::Command, time::Instant};

use crate::{
    context::Context,
    error::{CliError, Exit, Report},
    sanitise, waiting,
};

/// How long pomd may take until it listens.
const LIMIT: Duration = Duration::from_secs(15);
/// How long another pomd, which ours ran into, may take until it answers: it starts, or restarts.
const OTHERS: Duration = Duration::from_secs(10);
/// How often is looked.
const PAUSE: Duration = Duration::from_millis(20);
/// The most that is read of what pomd says when it fails.
const WORDS_MOST: u64 = 64 << 10;

/// Returns the status of the pomd that runs, after starting one if none did.
pub(crate) async fn ensure(cx: &Context) -> Result<Status, CliError> {
    match cx.client.status().await {
        Err(ClientError::NotRunning) if cx.may_start => {
            let started = waiting::shown(&cx.screen, "starting pomd", start(cx)).await?;
            if started.ours {
                tell(cx, &started.status);
            }
            Ok(started.status)
        }
        answer => Ok(answer?),
    }
}

/// A pomd that answers now.
struct Started {
    status: Status,
    /// It is the one that we started.
    ours: bool,
}

async fn start(cx: &Context) -> Result<Started, CliError> {
    cx.screen.goes_on("pomd may start all the same");
    let deadline = Instant::now() + LIMIT;
    let program = program();
    let mut words = tempfile::tempfile().map_err(|it| cannot_run(&program, &it))?;
    let mut child = command(cx, &program, &words)
        .spawn()
        .map_err(|it| cannot_run(&program, &it))?;
    let ended = match tokio::time::timeout_at(deadline, child.wait()).await {
        Ok(ended) => ended.map_err(|it| cannot_run(&program, &it))?,
        Err(_) => return Err(too_slow(cx)),
    };
    if !ended.success() {
        // Another pomctl may have been faster; then ours ended because of the lock, and all is well.
        return match answering(cx, Instant::now() + OTHERS, true).await? {
            Some(status) => Ok(Started {
                status,
                ours: false,
            }),
            None => Err(ended_at_once(ended, &read_words(&mut words))),
        };
    }
    let Some(status) = answering(cx, deadline, false).await? else {
        return Err(too_slow(cx));
    };
    cx.screen.goes_on("");
    Ok(Started { status, ours: true })
}

fn tell(cx: &Context, status: &Status) {
    let pid = status.pomd.pid;
    cx.screen.say(&format!("Started pomd (pid {pid})."));
    for warning in &status.pomd.warnings {
        cx.screen.warn(&sanitise::line(warning));
    }
}

/// Returns pomd as it is to be run: the one beside pomctl, else one on `PATH`.
fn program() -> PathBuf {
    sibling("pomd").unwrap_or_else(|| PathBuf::from("pomd"))
}

/// Returns that program's path, if there is one.
pub(crate) fn installed() -> Option<PathBuf> {
    sibling("pomd").or_else(|| {
        let name = PathBuf::from("pomd").with_extension(env::consts::EXE_EXTENSION);
        on_path(&name)
    })
}

/// Returns the program that this word means in a shell.
fn on_path(word: &Path) -> Option<PathBuf> {
    let folders = env::var_os("PATH")?;
    let mut candidates = env::split_paths(&folders).map(|it| it.join(word));
    candidates.find(|it| it.is_absolute() && it.is_file())
}

/// Returns a command of pomd for the places that a person named.
fn pomd(cx: &Context, program: &Path, action: &str) -> Command {
    let mut command = Command::new(program);
    command
        .arg(action)
        .arg("--config")
        .arg(&cx.paths.config)
        .arg("--state-dir")
        .arg(&cx.paths.state)
        .arg("--socket")
        .arg(&cx.paths.socket)
        .stdin(Stdio::null());
    command
}

/// Has pomd, which does not run, look at the addresses of the file's tunnels and at who holds them. `None`: it cannot.
pub(crate) async fn listeners(cx: &Context) -> Option<Vec<Diagnosis>> {
    let mut command = pomd(cx, &program(), "listeners");
    command.stderr(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(LIMIT, command.output()).await;
    let output = output.ok()?.ok()?;
    serde_json::from_slice(&output.stdout).ok()
}

fn command(cx: &Context, program: &Path, words: &std::fs::File) -> Command {
    let mut command = pomd(cx, program, "--daemonize");
    command
        .stdout(Stdio::null())
        // A file, not a pipe: pomd lives on and may keep it, and nobody must wait for its end.
        .stderr(
            words
                .try_clone()
                .map_or_else(|_| Stdio::null(), Stdio::from),
        );
    // Ctrl-C ends our waiting, not pomd.
    #[cfg(unix)]
    command.process_group(0);
    command
}

/// Asks until somebody answers, or the time is over. `if_held`: only while somebody holds the lock, who may answer.
pub(crate) async fn answering(
    cx: &Context,
    deadline: Instant,
    if_held: bool,
) -> Result<Option<Status>, CliError> {
    loop {
        // Before it is asked: one that came and went is not waited for.
        let is_hopeless = if_held && !place_is_held(cx);
        match cx.client.status().await {
            Err(ClientError::NotRunning) if Instant::now() < deadline && !is_hopeless => {
                tokio::time::sleep(PAUSE).await;
            }
            Err(ClientError::NotRunning) => return Ok(None),
            answer => return Ok(Some(answer?)),
        }
    }
}

fn place_is_held(cx: &Context) -> bool {
    holder::is_held(&cx.paths.state) || holder::is_held(cx.paths.runtime())
}

/// Returns the program of this name in the folder that pomctl is in: by the name that pomctl was called by first, so that
/// a link to
/// the installed release stays a link; it may lead to another release at the next restart.
pub(crate) fn sibling(name: &str) -> Option<PathBuf> {
    let program = |folder: PathBuf| {
        let path = folder.join(name).with_extension(env::consts::EXE_EXTENSION);
        path.is_file().then_some(path)
    };
    called()
        .and_then(program)
        .or_else(|| folder().and_then(program))
}

/// Returns the folder of pomctl as it was called, links not followed; `None` if that leads to another program.
fn called() -> Option<PathBuf> {
    let said = PathBuf::from(env::args_os().next()?);
    let path = if said.components().count() > 1 {
        std::path::absolute(said).ok()?
    } else {
        on_path(&said)?
    };
    let ours = env::current_exe().and_then(|it| it.canonicalize()).ok()?;
    let leads_to = path.canonicalize().ok()?;
    (leads_to == ours).then(|| path.parent().map(Path::to_owned))?
}

/// Returns the folder that pomctl is in, links followed.
pub(crate) fn folder() -> Option<PathBuf> {
    let ours = env::current_exe().ok()?;
    let ours = ours.canonicalize().unwrap_or(ours);
    ours.parent().map(Path::to_owned)
}

fn read_words(words: &mut std::fs::File) -> String {
    let mut text = Vec::new();
    let read = words
        .rewind()
        .and_then(|()| words.take(WORDS_MOST).read_to_end(&mut text));
    read.map_or(String::new(), |_| {
        String::from_utf8_lossy(&text).into_owned()
    })
}

fn ended_at_once(ended: ExitStatus, words: &str) -> CliError {
    let lines = sanitise::lines(words);
    let mut lines = lines.into_iter().skip_while(|it| it.trim().is_empty());
    let first = lines.next().unwrap_or_else(|| ended.to_string());
    let first = ["error:", "pomd:"]
        .iter()
        .fold(first.as_str(), |it, prefix| {
            it.strip_prefix(prefix).unwrap_or(it).trim_start()
        });
    let message = format!("pomd ended right after its start: {first}");
    let (exit, code) = match ended.code() {
        Some(2) => (Exit::Usage, "config_broken"),
        _ => (Exit::Failed, "failed"),
    };
    let mut rest: Vec<String> = lines.collect();
    while rest.last().is_some_and(String::is_empty) {
        rest.pop();
    }
    CliError::told(Report::new(exit, code, message).block(rest))
}

fn cannot_run(program: &Path, error: &io::Error) -> CliError {
    let name = program.display();
    let report = Report::new(
        Exit::Failed,
        "failed",
        format!("pomd is not running, and {name} cannot be started: {error}"),
    );
    let hint = (program.as_os_str() == OsStr::new("pomd")
        && error.kind() == io::ErrorKind::NotFound)
        .then(|| "put pomd beside pomctl, or into a folder of PATH".to_owned());
    CliError::told(report.hint(hint))
}

fn too_slow(cx: &Context) -> CliError {
    let message = format!(
        "pomd was started, but does not listen after {} s",
        LIMIT.as_secs()
    );
    let log = cx.screen.view().path(&cx.paths.log_file());
    let report = Report::new(Exit::Failed, "timeout", message);
    CliError::told(report.hint(Some(format!("what it says is in {log}"))))
}
