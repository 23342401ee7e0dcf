//! `pomctl restart`: restarts pomd in its place, as the program that is installed now.

use std::time::Duration;

use control::{
    client::{ClientError, Lines},
    stdio,
    wire::{Code, Status},
};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    time::Instant,
};

use super::{ended_with_it, reload, subscribe};
use crate::{
    args::RestartArgs,
    context::Context,
    error::{CliError, Exit, Report},
    render::count,
    sanitise, waiting,
};

/// pomd ends within 5 s, whatever hangs, and begins at once.
const LIMIT: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(20);

pub(crate) async fn run(cx: &Context, args: &RestartArgs) -> Result<Exit, CliError> {
    let (events, status) = subscribe(cx).await?;
    let open = connections(&status);
    if open > 0
        && !args.yes
        && cx.screen.is_asked_by_a_person()
        && !agrees(cx, open, "Restart pomd?").await?
    {
        cx.screen.say("Nothing was done.");
        return Ok(Exit::Failed);
    }
    let mut answer = match cx.client.restart(args.force).await {
        Err(error) => return Err(refused(cx, error).await),
        Ok(answer) => answer,
    };
    cx.screen.goes_on("pomd goes on restarting");
    let successor = waiting::shown(
        &cx.screen,
        "restarting pomd",
        successor(cx, events, answer.pid),
    )
    .await?;
    for warning in &successor.pomd.warnings {
        cx.screen.warn(&sanitise::line(warning));
    }
    // What was installed when it was asked need not be what runs now.
    answer.version.clone_from(&successor.pomd.version);
    if cx.screen.json() {
        cx.screen.answer_json(&answer)?;
        return Ok(Exit::Done);
    }
    let ended = ended_with_it(answer.connections);
    let version = sanitise::line(&answer.version);
    cx.screen.answer(&format!(
        "Restarted pomd {version} (pid {}).{ended}",
        successor.pomd.pid
    ))?;
    Ok(Exit::Done)
}

/// Returns why nothing was restarted; of a broken file what a reload would say of it.
async fn refused(cx: &Context, error: ClientError) -> CliError {
    let is_broken = matches!(&error, ClientError::Api(it) if it.code == Code::ConfigBroken);
    let mut failure = reload::refused(cx, error).await;
    if let CliError::Told(report) = &mut failure
        && is_broken
    {
        report.message = format!("Not restarted: {}", report.message);
        let hint = "fix the file first; to restart all the same: pomctl restart --force";
        report.hint = Some(hint.to_owned());
    }
    failure
}

pub(super) fn connections(status: &Status) -> u64 {
    let open = status.tunnels.iter().map(|it| it.connections.open);
    let leaving = status.leaving.iter().map(|it| it.connections);
    open.chain(leaving).sum()
}

/// Asks on the terminal; whatever is no clear yes is a no.
pub(super) async fn agrees(cx: &Context, open: u64, question: &str) -> Result<bool, CliError> {
    let (are, end) = if open == 1 {
        ("is", "ends")
    } else {
        ("are", "end")
    };
    let open = count(open, "connection");
    cx.screen.ask(&format!(
        "{open} {are} open and {end} with it. {question} [y/N] "
    ));
    let mut line = String::new();
    let read = BufReader::new(stdio::AsyncInput::default())
        .read_line(&mut line)
        .await;
    read.map_err(|it| CliError::failed(format!("cannot read the answer: {it}")))?;
    Ok(matches!(
        line.trim().to_ascii_lowercase().as_str(),
        "y" | "yes"
    ))
}

/// Returns the pomd of the new life, once it answers. `events` are those of the old one: they end with it.
async fn successor(cx: &Context, mut events: Lines<Status>, pid: u32) -> Result<Status, CliError> {
    let deadline = Instant::now() + LIMIT;
    let ended = async { while let Ok(Some(_)) = events.next().await {} };
    if tokio::time::timeout_at(deadline, ended).await.is_err() {
        return Err(lost(pid));
    }
    loop {
        match cx.client.status().await {
            Ok(status) => return Ok(status),
            // The old one may leave in the middle of a word.
            Err(
                ClientError::NotRunning
                | ClientError::Broken { .. }
                | ClientError::Cut { .. }
                | ClientError::Api(_),
            ) if Instant::now() < deadline => {
                tokio::time::sleep(PAUSE).await;
            }
            Err(ClientError::NotRunning) => return Err(lost(pid)),
            Err(error) => return Err(error.into()),
        }
    }
}

fn lost(pid: u32) -> CliError {
    let message = format!(
        "pomd (pid {pid}) does not answer {} s after its restart",
        LIMIT.as_secs()
    );
    let report = Report::new(Exit::Failed, "timeout", message);
    CliError::told(report.hint(Some("what it said last: pomctl logs".to_owned())))
}
