//! `pomctl service`: pomd under the service manager of this user's sessions, without root.
//!
//! What is installed is one definition: a unit, an agent or a task. One that pomctl did not write is never overwritten; one of a
//! package is used as it is. What differs by manager is in a module for each, with the same functions.

mod files;
mod launch;
#[cfg_attr(
    not(target_os = "macos"),
    expect(dead_code, reason = "compiled and tried everywhere, used on macOS")
)]
mod launchd;
#[cfg(not(any(target_os = "macos", windows)))]
mod systemd;
#[cfg_attr(
    not(windows),
    expect(dead_code, reason = "compiled and tried everywhere, used on Windows")
)]
mod task_scheduler;
mod tool;

#[cfg(target_os = "macos")]
use launchd as platform;
#[cfg(not(any(target_os = "macos", windows)))]
use systemd as platform;
#[cfg(windows)]
use task_scheduler as platform;

use std::{env, path::PathBuf, time::Duration};

use control::holder::{self, Holder};
use serde::Serialize;
use tokio::time::Instant;

use self::{launch::launch, platform::Manager};
use super::{
    restart::{agrees, connections},
    status_if_running,
};
use crate::{
    args::{ServiceAction, ServiceArgs},
    context::Context,
    error::{CliError, Exit, Report},
    sanitise, start, waiting,
};

/// How long a pomd that its manager started may take until it answers.
const LIMIT: Duration = Duration::from_secs(15);
/// The variables of forward proxies, which a service does not get from a shell.
const PROXIES: [&str; 4] = ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];

/// Whose the definition is that a manager would use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Owner {
    Nobody,
    Pomctl,
    #[cfg_attr(
        any(target_os = "macos", windows),
        expect(dead_code, reason = "packages bring units of systemd")
    )]
    Package,
    Person,
}

/// What the manager knows of pomd.
#[derive(Debug, Serialize)]
struct Found {
    manager: &'static str,
    /// The file of the definition, or its name where it is no file.
    definition: Option<PathBuf>,
    owner: Owner,
    /// Its text, if it is pomctl's.
    #[serde(skip)]
    text: Option<String>,
    starts_at_login: bool,
    running: bool,
    pid: Option<u32>,
    /// What pomd tells its manager for people.
    says: Option<String>,
    /// Whether it goes on after the last logout; `None` where nobody tells.
    runs_while_logged_out: Option<bool>,
}

pub(crate) async fn run(cx: &Context, args: &ServiceArgs) -> Result<Exit, CliError> {
    let manager = Manager::find().await?;
    let found = manager.look(cx).await?;
    match args.action {
        ServiceAction::Install => install(cx, &manager, found, args.yes).await,
        ServiceAction::Uninstall => uninstall(cx, &manager, found, args.yes).await,
        ServiceAction::Start => {
            is_installed(&found)?;
            if found.running {
                return told(cx, &found, &format!("pomd runs already{}.", pid(&found)));
            }
            begin(cx, &manager, false).await?;
            started(cx, &manager, "Started").await
        }
        ServiceAction::Stop => {
            is_installed(&found)?;
            if !found.running {
                return told(
                    cx,
                    &found,
                    "pomd is not running as a service; nothing to do",
                );
            }
            waiting::shown(&cx.screen, "stopping pomd", manager.stop(cx)).await?;
            let now = manager.look(cx).await?;
            told(cx, &now, &format!("Stopped pomd{}.", pid(&found)))
        }
        ServiceAction::Restart => {
            is_installed(&found)?;
            if !is_agreed(cx, args.yes, "Restart pomd?").await? {
                return Ok(Exit::Failed);
            }
            begin(cx, &manager, found.running).await?;
            started(cx, &manager, "Restarted").await
        }
        ServiceAction::Status => status(cx, &found).await,
    }
}

async fn install(
    cx: &Context,
    manager: &Manager,
    found: Found,
    yes: bool,
) -> Result<Exit, CliError> {
    if found.owner == Owner::Person {
        return Err(persons_own(cx, &found));
    }
    let launch = launch(cx, manager)?;
    // A package's is as good, unless it would lead to another place.
    let text = match found.owner {
        Owner::Package if launch.arguments.is_empty() => None,
        _ => Some(Manager::definition(&launch)?),
    };
    let is_same = text.is_none() || text == found.text;
    if is_same && found.running && found.starts_at_login {
        let words = format!("pomd is installed, and runs already{}.", pid(&found));
        return told(cx, &found, &words);
    }
    let before = replaced(cx, &found).await?;
    if !is_agreed(cx, yes, "Install the service?").await? {
        return Ok(Exit::Failed);
    }
    let begun = async {
        manager.install(text.as_deref()).await?;
        begin(cx, manager, found.running).await
    };
    if let Err(failure) = begun.await {
        if found.owner == Owner::Nobody {
            // Of an installation that failed nothing stays.
            manager.remove(cx, true).await?;
        }
        return Err(failure);
    }
    let now = manager.look(cx).await?;
    if cx.screen.json() {
        return told(cx, &now, "");
    }
    let file = definition(cx, &now);
    cx.screen.answer(&match text {
        Some(_) => format!("Wrote {file}"),
        None => format!("{file} is a package's, and is used as it is"),
    })?;
    let version = match cx.client.status().await {
        Ok(status) => format!(" {}", sanitise::line(&status.pomd.version)),
        Err(_) => String::new(),
    };
    let when = match now.runs_while_logged_out {
        Some(true) => "It now starts with the machine, and runs while you are logged out too.",
        _ => "It now starts when you log in.",
    };
    cx.screen
        .answer(&format!("Started pomd{version}{}. {when}", pid(&now)))?;
    if let Some(before) = before {
        cx.screen.answer(&format!(
            "It took over from the pomd that ran (pid {before}): same ports, same logins."
        ))?;
    }
    cx.screen
        .answer("  log        pomctl logs -f            undo       pomctl service uninstall")?;
    if let Some(hint) = Manager::hint_on_logout(now.runs_while_logged_out) {
        cx.screen.hint(&hint);
    }
    if let Some(name) = PROXIES.iter().find(|it| lacks(manager, it)) {
        cx.screen.hint(&format!(
            "{name} is set here and not for a service: forward_proxy in the [cluster] holds for both"
        ));
    }
    Ok(Exit::Done)
}

/// Returns the process that the service takes over from, if there is one; a pomd that gives way to nobody is an error.
async fn replaced(cx: &Context, found: &Found) -> Result<Option<u32>, CliError> {
    if !holder::is_held(&cx.paths.state) {
        return Ok(None);
    }
    let Some(status) = status_if_running(cx).await? else {
        return Ok(None);
    };
    let pid = status.pomd.pid;
    if found.running {
        return Ok(None);
    }
    let facts = Holder::read(&cx.paths.state).and_then(|it| it.facts);
    if facts.is_some_and(|it| !it.in_background) {
        let message = format!("a pomd runs in a terminal or under another manager (pid {pid})");
        let hint = "end it, then run this again: pomctl stop".to_owned();
        return Err(CliError::told(
            Report::new(Exit::Failed, "failed", message).hint(Some(hint)),
        ));
    }
    Ok(Some(pid))
}

async fn uninstall(
    cx: &Context,
    manager: &Manager,
    found: Found,
    yes: bool,
) -> Result<Exit, CliError> {
    match found.owner {
        Owner::Person => return Err(persons_own(cx, &found)),
        Owner::Nobody => return told(cx, &found, "pomd is no service here; nothing to do"),
        Owner::Package if !found.running && !found.starts_at_login => {
            return told(cx, &found, "pomd is no service of yours; nothing to do");
        }
        Owner::Package | Owner::Pomctl => {}
    }
    if found.running && !is_agreed(cx, yes, "Uninstall the service?").await? {
        return Ok(Exit::Failed);
    }
    let is_ours = found.owner == Owner::Pomctl;
    waiting::shown(&cx.screen, "stopping pomd", manager.remove(cx, is_ours)).await?;
    let now = manager.look(cx).await?;
    if cx.screen.json() {
        return told(cx, &now, "");
    }
    if found.running {
        cx.screen.answer(&format!("Stopped pomd{}.", pid(&found)))?;
    }
    let file = definition(cx, &found);
    cx.screen.answer(&match is_ours {
        true => format!("Removed {file}"),
        false => format!(
            "{file} belongs to a package and stays; it does not start at your login any more"
        ),
    })?;
    cx.screen.answer("Configuration and logins stay.")?;
    Ok(Exit::Done)
}

async fn status(cx: &Context, found: &Found) -> Result<Exit, CliError> {
    if cx.screen.json() {
        return told(cx, found, "");
    }
    if found.owner == Owner::Nobody {
        cx.screen.answer("pomd is no service here")?;
        cx.screen.hint("to make it one: pomctl service install");
        return Ok(Exit::NotRunning);
    }
    let yes_no = |it: bool, yes: &'static str, no: &'static str| if it { yes } else { no };
    let owner = match found.owner {
        Owner::Pomctl => "written by pomctl",
        Owner::Package => "a package's",
        Owner::Person | Owner::Nobody => "yours",
    };
    let mut facts = vec![
        (
            "service",
            format!(
                "{}{}",
                yes_no(found.running, "running", "not running"),
                pid(found)
            ),
        ),
        ("definition", format!("{} ({owner})", definition(cx, found))),
        (
            "login",
            yes_no(found.starts_at_login, "starts pomd", "does not start pomd").to_owned(),
        ),
    ];
    if !found.running
        && let Some(other) = status_if_running(cx).await?
    {
        let words = format!("runs outside of the service (pid {})", other.pomd.pid);
        facts.insert(1, ("pomd", words));
    }
    if let Some(says) = &found.says {
        facts.insert(1, ("pomd", sanitise::line(says)));
    }
    if let Some(stays) = found.runs_while_logged_out {
        let words = yes_no(stays, "pomd goes on", "ends pomd");
        facts.push(("logout", words.to_owned()));
    }
    for (name, value) in facts {
        cx.screen.answer(&format!("{name:<12}{value}"))?;
    }
    if let Some(hint) = Manager::hint_on_logout(found.runs_while_logged_out) {
        cx.screen.hint(&hint);
    }
    Ok(if found.running {
        Exit::Done
    } else {
        Exit::NotRunning
    })
}

/// Has the manager start pomd, or restart it, and waits until pomd answers.
async fn begin(cx: &Context, manager: &Manager, again: bool) -> Result<(), CliError> {
    cx.screen.goes_on("the service goes on starting");
    let begun = waiting::shown(&cx.screen, "starting pomd", manager.start(cx, again)).await;
    begun?;
    let answer = start::answering(cx, Instant::now() + LIMIT, false).await?;
    cx.screen.goes_on("");
    match answer {
        Some(_) => Ok(()),
        None => {
            let message = format!(
                "the service runs, but pomd does not answer after {} s",
                LIMIT.as_secs()
            );
            Err(CliError::failed(message))
        }
    }
}

async fn started(cx: &Context, manager: &Manager, word: &str) -> Result<Exit, CliError> {
    let now = manager.look(cx).await?;
    told(cx, &now, &format!("{word} pomd{}.", pid(&now)))
}

fn told(cx: &Context, found: &Found, words: &str) -> Result<Exit, CliError> {
    if cx.screen.json() {
        cx.screen.answer_json(found)?;
    } else {
        cx.screen.answer(words)?;
    }
    Ok(Exit::Done)
}

/// Asks on a terminal where connections would end.
async fn is_agreed(cx: &Context, yes: bool, question: &str) -> Result<bool, CliError> {
    if yes || !cx.screen.is_asked_by_a_person() {
        return Ok(true);
    }
    let status = cx.client.status().await.ok();
    let open = status.as_ref().map_or(0, connections);
    if open == 0 || agrees(cx, open, question).await? {
        return Ok(true);
    }
    cx.screen.say("Nothing was done.");
    Ok(false)
}

fn is_installed(found: &Found) -> Result<(), CliError> {
    if found.owner != Owner::Nobody {
        return Ok(());
    }
    let report = Report::new(Exit::Failed, "failed", "pomd is no service here");
    let hint = "to make it one: pomctl service install".to_owned();
    Err(CliError::told(report.hint(Some(hint))))
}

fn persons_own(cx: &Context, found: &Found) -> CliError {
    let file = definition(cx, found);
    let message = format!("{file} was not written by pomctl, and stays as it is");
    let hint = "move it away, then run this again".to_owned();
    CliError::told(Report::new(Exit::Failed, "failed", message).hint(Some(hint)))
}

fn definition(cx: &Context, found: &Found) -> String {
    let shown = found.definition.as_deref();
    let shown = shown.map(|it| cx.screen.view().path(it));
    sanitise::line(&shown.unwrap_or_default())
}

fn pid(found: &Found) -> String {
    found.pid.map_or(String::new(), |it| format!(" (pid {it})"))
}

fn lacks(manager: &Manager, name: &str) -> bool {
    let here = env::var(name).unwrap_or_default();
    !here.is_empty() && manager.var(name).is_none()
}
