//! `pomctl reload`: reads the configuration again and tells what that changed.

use control::{
    client::ClientError,
    wire::{Code, ReloadAnswer},
};

use super::status_if_running;
use crate::{
    context::Context,
    error::{CliError, Exit},
    render::{count, page},
    sanitise,
};

pub(crate) async fn run(cx: &Context) -> Result<Exit, CliError> {
    let answer = match cx.client.reload().await {
        Err(error) => return Err(refused(cx, error).await),
        Ok(answer) => answer,
    };
    if cx.screen.json() {
        cx.screen.answer_json(&answer)?;
        return Ok(Exit::Done);
    }
    tell(cx, &answer)?;
    Ok(Exit::Done)
}

/// Says what changed, and what stays open.
pub(super) fn tell(cx: &Context, answer: &ReloadAnswer) -> Result<(), CliError> {
    cx.screen.answer(&summary(answer))?;
    for leaving in answer.leaving.iter().filter(|it| it.connections > 0) {
        let name = sanitise::name(&leaving.name);
        cx.screen
            .answer(&page::stays_open(leaving.connections, &name))?;
    }
    Ok(())
}

fn summary(answer: &ReloadAnswer) -> String {
    let names =
        |names: &[String]| -> Vec<String> { names.iter().map(|it| sanitise::name(it)).collect() };
    let changed: Vec<String> = answer
        .changed
        .iter()
        .map(|it| {
            format!(
                "{} ({})",
                sanitise::name(&it.name),
                names(&it.keys).join(", ")
            )
        })
        .collect();
    let groups = [
        ("added", names(&answer.added)),
        ("changed", changed),
        ("removed", names(&answer.removed)),
    ];
    let mut parts: Vec<String> = groups
        .iter()
        .filter(|it| !it.1.is_empty())
        .map(|(what, names)| format!("{} {what}: {}", names.len(), names.join(", ")))
        .collect();
    if parts.is_empty() {
        return format!("No tunnel changed ({})", count(answer.unchanged, "tunnel"));
    }
    if answer.unchanged > 0 {
        parts.push(format!("{} unchanged", answer.unchanged));
    }
    parts.join("; ")
}

/// Returns why a reload changed nothing; of a broken file also, what holds meanwhile.
pub(super) async fn refused(cx: &Context, error: ClientError) -> CliError {
    let is_broken = matches!(&error, ClientError::Api(it) if it.code == Code::ConfigBroken);
    let failure = CliError::from(error);
    let CliError::Told(mut report) = failure else {
        return failure;
    };
    let said = |it: &String| it.contains("pomd keeps the settings");
    if is_broken && !report.block.iter().any(said) {
        // Nice to know, but no reason to fail in another way.
        if let Ok(Some(status)) = status_if_running(cx).await {
            let state = &status.pomd.config;
            let errors = state.error.as_ref().map_or(1, |it| it.count.max(1));
            let errors = count(u64::from(errors), "error");
            let since = cx.screen.view().time(state.loaded_at);
            let meanwhile =
                page::meanwhile(&status, &format!("pomd keeps the settings of {since}"));
            report.block.push(format!("{errors}; {meanwhile}"));
        }
    }
    CliError::Told(report)
}

#[cfg(test)]
mod tests {
    use control::wire::ChangedTunnel;

    use super::*;

    #[test]
    fn only_what_happened_is_told() {
        let mut answer = ReloadAnswer {
            unchanged: 3,
            ..ReloadAnswer::default()
        };
        assert_eq!(summary(&answer), "No tunnel changed (3 tunnels)");
        answer.added = vec!["metrics".into(), "x".into()];
        answer.changed = vec![ChangedTunnel {
            name: "grafana".into(),
            keys: vec!["listen".into(), "route".into()],
        }];
        assert_eq!(
            summary(&answer),
            "2 added: metrics, x; 1 changed: grafana (listen, route); 3 unchanged"
        );
        answer.unchanged = 0;
        answer.removed = vec!["ssh-old".into()];
        assert!(summary(&answer).ends_with("; 1 removed: ssh-old"));
    }
}
