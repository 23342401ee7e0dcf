//! `pomctl stop`: ends pomd, and answers when nothing of it is in the way of the next one.

use std::time::Duration;

use control::{
    client::ClientError,
    holder::{self, Holder, Phase},
    wire::Code,
};
use serde_json::json;
use tokio::time::Instant;

use super::ended_with_it;
use crate::{
    context::Context,
    error::{CliError, Exit, Report},
    process_end::ProcessEnd,
};

/// pomd ends within 5 s, whatever hangs.
const LIMIT: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(20);

pub(crate) async fn run(cx: &Context) -> Result<Exit, CliError> {
    // Asked before it ends: afterwards its id may be another's.
    let process = cx.client.process().await.ok().flatten();
    let end = process.and_then(ProcessEnd::of);
    let answer = match cx.client.stop().await {
        Err(ClientError::NotRunning | ClientError::Cut { .. }) => {
            return ended_already(cx, false).await;
        }
        // Somebody else was first.
        Err(ClientError::Api(error)) if error.code == Code::Stopping && !restarts(cx) => {
            return ended_already(cx, true).await;
        }
        answer => answer?,
    };
    cx.screen.goes_on("pomd goes on stopping");
    let deadline = Instant::now() + LIMIT;
    // A process of another namespace has another number there.
    let end = end.filter(|_| process == Some(answer.pid));
    let ended = match &end {
        Some(end) => end.wait(deadline).await,
        None => is_gone(cx, answer.pid, deadline).await,
    };
    if !ended {
        return Err(hangs(answer.pid));
    }
    if cx.screen.json() {
        cx.screen.answer_json(&answer)?;
        return Ok(Exit::Done);
    }
    let ended = ended_with_it(answer.connections);
    cx.screen
        .answer(&format!("Stopped pomd (pid {}).{ended}", answer.pid))?;
    Ok(Exit::Done)
}

/// Waits until the socket of the process `pid` is not its own any more, and its lock is free.
async fn is_gone(cx: &Context, pid: u32, deadline: Instant) -> bool {
    loop {
        let gone = match cx.client.status().await {
            Err(ClientError::NotRunning) => !holder::is_held(&cx.paths.state),
            // Another one was started meanwhile.
            answer => answer.is_ok_and(|it| it.pomd.pid != pid),
        };
        if gone || Instant::now() >= deadline {
            return gone;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Answers where nobody does; a pomd that somebody else told to stop may be in the way for a moment yet.
/// `is_ending`: it said so itself.
async fn ended_already(cx: &Context, is_ending: bool) -> Result<Exit, CliError> {
    let deadline = Instant::now() + LIMIT;
    let state = &cx.paths.state;
    loop {
        let holder = Holder::read(state);
        // A text that is being written is none.
        let may_be_ending = is_ending
            || holder
                .as_ref()
                .is_none_or(|it| matches!(it.phase(), Phase::Ending | Phase::Ended));
        if !may_be_ending || !holder::is_held(state) {
            return nothing_to_do(cx);
        }
        if Instant::now() >= deadline {
            return match holder {
                Some(holder) => Err(hangs(holder.pid)),
                None => nothing_to_do(cx),
            };
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Tells whether a restart is under way, which is no stop.
fn restarts(cx: &Context) -> bool {
    Holder::read(&cx.paths.state).is_some_and(|it| it.phase() == Phase::Restarting)
}

fn nothing_to_do(cx: &Context) -> Result<Exit, CliError> {
    if cx.screen.json() {
        cx.screen
            .answer_json(&json!({ "pid": null, "connections": 0 }))?;
    } else {
        cx.screen.answer("pomd is not running; nothing to do")?;
    }
    Ok(Exit::Done)
}

fn hangs(pid: u32) -> CliError {
    let message = format!(
        "pomd (pid {pid}) has not ended within {} s",
        LIMIT.as_secs()
    );
    let report = Report::new(Exit::Failed, "timeout", message);
    CliError::told(report.hint(Some(format!("to end it at once: kill -9 {pid}"))))
}
