//! Shows a link in the person's browser: the candidates that `control::browser` decides on, one after the other.
//!
//! A program is run without a shell, its output thrown away, watched for a few seconds, reaped. Under a service manager
//! the manager runs it, outside of pomd's sandbox and control group, with the environment of that moment; by pomd's own
//! hand it is run only where no manager answers. Must not know what the link leads to.

use std::{
    ffi::OsStr,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use control::{
    browser::{self, BROWSER, Candidate, NoBrowser, Program, System, candidates, machine},
    wire::BrowserChoice,
};
use futures_util::future::BoxFuture;
use tokio::{io::AsyncReadExt, process::Command, time::timeout};

use crate::{
    surroundings::{Now, Surroundings},
    system::{
        default_browser, exec, limits,
        user_manager::{self, Variables},
    },
};

/// How long a program is watched for a failure; a browser that runs on is a good sign.
const WATCHED: Duration = Duration::from_secs(3);
/// How much of a complaint is read.
const COMPLAINT: u64 = 1024;
/// What is ours alone, or a promise of the service manager to us.
const NOT_INHERITED: [&str; 14] = [
    "CREDENTIALS_DIRECTORY",
    "JOURNAL_STREAM",
    "LISTEN_FDNAMES",
    "LISTEN_FDS",
    "LISTEN_PID",
    "NOTIFY_SOCKET",
    "POMD_BROWSER",
    "POMD_CONFIG",
    "POMD_LOG",
    "POMD_SOCKET",
    "POMD_STATE_DIR",
    "SYSTEMD_EXEC_PID",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
];
/// What a program outside is given where pomd's unit has another value than the manager.
const PASSED_ON: [&str; 6] = [
    BROWSER,
    "DBUS_SESSION_BUS_ADDRESS",
    "DISPLAY",
    "PATH",
    "WAYLAND_DISPLAY",
    "XAUTHORITY",
];

/// Shows a link to the person at the keyboard.
pub trait LinkOpener: Send + Sync {
    /// Tells whether there is somewhere to show it: a browser that is not a text browser, and a display. Answers at most
    /// after some seconds.
    fn available(&self, browser: &BrowserChoice) -> BoxFuture<'static, bool>;
    /// Opens `link`; `Err` says in words why not. Done soon, at most after some seconds for each program that is tried.
    fn open(&self, browser: &BrowserChoice, link: &str) -> BoxFuture<'static, Result<(), String>>;
}

/// The browser of this machine, as the cluster's settings and the environment of the moment say.
#[derive(Clone, Debug)]
pub struct SystemBrowser(Surroundings);

impl SystemBrowser {
    /// Where this process lives.
    pub fn new(surroundings: Surroundings) -> Self {
        Self(surroundings)
    }
}

impl LinkOpener for SystemBrowser {
    fn available(&self, browser: &BrowserChoice) -> BoxFuture<'static, bool> {
        let (here, browser) = (self.0.clone(), browser.clone());
        Box::pin(async move { decide(&browser, &here.now().await).is_ok() })
    }

    fn open(&self, browser: &BrowserChoice, link: &str) -> BoxFuture<'static, Result<(), String>> {
        let (here, browser, link) = (self.0.clone(), browser.clone(), link.to_owned());
        Box::pin(async move {
            let now = here.now().await;
            let found = decide(&browser, &now).map_err(|why| match why {
                NoBrowser::Unwanted => "none is wanted".to_owned(),
                NoBrowser::Missing(why) => format!("there is none ({why})"),
            })?;
            let mut failures = Vec::new();
            for candidate in found {
                let opened = match candidate {
                    Candidate::Program(program) => run(&program, &link, &now).await,
                    Candidate::Interface => default_browser::open(&link, WATCHED).await,
                };
                match opened {
                    Ok(()) => return Ok(()),
                    Err(why) => failures.push(why),
                }
            }
            Err(failures.join("; "))
        })
    }
}

fn decide(choice: &BrowserChoice, now: &Now) -> Result<Vec<Candidate>, NoBrowser> {
    with(now, |around| candidates(choice, around))
}

fn with<T>(now: &Now, ask: impl FnOnce(&browser::Surroundings<'_>) -> T) -> T {
    let var = |name: &str| now.var(name);
    let path = now.var("PATH");
    ask(&browser::Surroundings {
        var: &var,
        on_path: &|it| machine::on_path(it, path.as_deref().map(OsStr::new)),
        container: machine::is_container(var),
        wsl: machine::is_wsl(),
        system: System::HERE,
    })
}

async fn run(program: &Program, link: &str, now: &Now) -> Result<(), String> {
    let words = program.with_link(link);
    let mut changed = now.clone();
    if let Some(list) = with(now, browser::windowed_list) {
        changed.variables.insert(BROWSER.to_owned(), list);
    }
    if let Some(manager) = &now.manager {
        match run_outside(program, &words, &changed.variables, manager).await {
            Err(Outside::Unreachable(why)) => tracing::debug!("no unit for a browser: {why}"),
            Err(Outside::Failed(why)) => return Err(why),
            Ok(()) => return Ok(()),
        }
    }
    let mut child = command(&words, &changed.variables)
        .spawn()
        .map_err(|it| format!("cannot run {}: {it}", program.name()))?;
    if let Some(id) = child.id() {
        limits::give_back_descriptors(id);
    }
    match timeout(WATCHED, child.wait()).await {
        // It shows the page and stays. The runtime reaps it when it ends.
        Err(_) => Ok(()),
        Ok(Ok(status)) if status.success() || !program.exit_code_counts => Ok(()),
        Ok(Ok(status)) => Err(format!("{} {}", program.name(), ending(status))),
        Ok(Err(error)) => Err(format!("cannot watch {}: {error}", program.name())),
    }
}

enum Outside {
    /// The manager runs nothing.
    Unreachable(String),
    /// It ran the program, or tried to.
    Failed(String),
}

async fn run_outside(
    program: &Program,
    words: &[String],
    variables: &Variables,
    manager: &Variables,
) -> Result<(), Outside> {
    let words = user_manager::outside(words, &changes(variables, manager));
    let mut command = command(&words, variables);
    // So it finds the manager by its private socket or the user's bus.
    command.env_remove("DBUS_SESSION_BUS_ADDRESS");
    command.stderr(Stdio::piped()).kill_on_drop(true);
    let unreachable = |it: std::io::Error| Outside::Unreachable(it.to_string());
    let mut child = command.spawn().map_err(unreachable)?;
    let stderr = child.stderr.take();
    let watching = async {
        let mut told = Vec::new();
        if let Some(stderr) = stderr {
            stderr.take(COMPLAINT).read_to_end(&mut told).await?;
        }
        Ok((child.wait().await?, told))
    };
    let (status, told) = match timeout(WATCHED, watching).await {
        // Whoever waits for the unit goes, the unit stays.
        Err(_) => return Ok(()),
        Ok(ended) => ended.map_err(unreachable)?,
    };
    if status.success() || (!program.exit_code_counts && told.is_empty()) {
        return Ok(());
    }
    let name = program.name();
    Err(match user_manager::complaint(&told) {
        Some(it) if it.contains("connect to") => Outside::Unreachable(it),
        Some(it) => Outside::Failed(format!("cannot run {name}: {it}")),
        None => Outside::Failed(format!("{name} failed; journalctl --user may say why")),
    })
}

/// What the manager's environment lacks for a program that pomd's unit would have run.
fn changes(variables: &Variables, manager: &Variables) -> Variables {
    let named = PASSED_ON
        .iter()
        .filter_map(|it| variables.get_key_value(*it));
    named
        .filter(|(name, value)| manager.get(*name) != Some(*value))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

/// A command whose whole environment is this, less what is not for it.
fn command(words: &[String], variables: &Variables) -> Command {
    // In a group of its own: Ctrl-C for a pomd in a terminal is not meant for the browser.
    exec::program(
        words,
        variables
            .iter()
            .filter(|it| !NOT_INHERITED.contains(&it.0.as_str())),
    )
}

fn ending(status: ExitStatus) -> String {
    match status.code() {
        Some(code) => format!("ended with exit code {code}"),
        None => format!("was ended by a {status}"),
    }
}

#[cfg(test)]
mod tests;
