//! `pomctl stop`: ends pomd, and waits until it has ended.

use std::time::Duration;

use control::client::ClientError;
use serde_json::json;
use tokio::time::Instant;

use super::ended_with_it;
use crate::{
    context::Context,
    failure::{Exit, Failure, Report},
};

/// pomd ends within 5 s, whatever hangs.
const LIMIT: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(20);

pub(crate) async fn run(cx: &Context) -> Result<Exit, Failure> {
    let answer = match cx.client.stop().await {
        Err(ClientError::NotRunning) => {
            return nothing_to_do(cx);
        }
        answer => answer?,
    };
    cx.screen.goes_on("pomd goes on stopping");
    let deadline = Instant::now() + LIMIT;
    loop {
        match cx.client.status().await {
            Err(ClientError::NotRunning) => break,
            // Another one was started meanwhile.
            Ok(status) if status.pomd.pid != answer.pid => break,
            _ if Instant::now() >= deadline => return Err(hangs(answer.pid)),
            _ => tokio::time::sleep(PAUSE).await,
        }
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

fn nothing_to_do(cx: &Context) -> Result<Exit, Failure> {
    if cx.screen.json() {
        cx.screen
            .answer_json(&json!({ "pid": null, "connections": 0 }))?;
    } else {
        cx.screen.answer("pomd is not running; nothing to do")?;
    }
    Ok(Exit::Done)
}

fn hangs(pid: u32) -> Failure {
    let message = format!(
        "pomd (pid {pid}) has not ended within {} s",
        LIMIT.as_secs()
    );
    let report = Report::new(Exit::Failed, "timeout", message);
    Failure::told(report.hint(Some(format!("to end it at once: kill -9 {pid}"))))
}
