//! Failures → text or JSON. Pure.

use serde_json::{Value, json};

use super::{
    View,
    paint::{Role, paint},
};
use crate::error::Report;

/// Returns `error: …`, its facts, and what to do.
pub(crate) fn text(report: &Report, view: &View<'_>) -> String {
    let mut lines = vec![format!("{} {}", paint(Role::Bad, "error:"), report.message)];
    lines.extend(report.block.iter().cloned());
    let request = report.request_id.as_ref().map(|it| {
        let now = view.time(view.now);
        let text = format!("{it}, {now} (finds it in Pomerium's log)");
        ("request id".to_owned(), text)
    });
    let known: Vec<_> = request
        .into_iter()
        .chain(report.facts.iter().cloned())
        .collect();
    lines.extend(facts(&known));
    for (command, what) in &report.commands {
        let gap = " ".repeat(27_usize.saturating_sub(command.chars().count()).max(2));
        lines.push(format!("    {}{gap}{what}", paint(Role::Command, command)));
    }
    lines.extend(report.hint.as_deref().map(hint));
    lines.join("\n")
}

/// Returns the report as JSON.
pub(crate) fn json(report: &Report) -> Value {
    let mut message = report.message.clone();
    for line in &report.block {
        message.push('\n');
        message.push_str(line);
    }
    let commands = report.commands.first();
    let command = commands.map(|(command, what)| format!("{command} {what}"));
    let hint = report.hint.clone().or(command);
    let error = json!({ "code": report.code, "message": message, "hint": hint });
    match &report.login {
        Some(login) => json!({ "error": error, "login": login }),
        None => json!({ "error": error }),
    }
}

/// Returns `key   value`, the values below each other.
fn facts(facts: &[(String, String)]) -> Vec<String> {
    const LEAST: usize = 10;
    let widest = facts.iter().map(|it| it.0.chars().count()).max();
    let widest = widest.unwrap_or_default().max(LEAST);
    facts
        .iter()
        .map(|(key, value)| format!("  {key:<widest$}   {value}"))
        .collect()
}

/// Returns a line of advice: a whole sentence stands for itself, a clause is introduced.
fn hint(hint: &str) -> String {
    if hint.starts_with(char::is_uppercase) {
        return hint.to_owned();
    }
    format!("{} {hint}", paint(Role::Command, "hint:"))
}
