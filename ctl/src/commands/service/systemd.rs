//! A unit of the user's systemd: the one that is shipped, with pomd's path and places filled in.

use std::{
    collections::BTreeMap,
    env, fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::process::Command;

use super::{
    Found, Owner,
    files::{cannot, text_of},
    launch::Launch,
    tool::{self, ToolError},
};
use crate::{
    commands::ssh_config,
    context::Context,
    error::{CliError, Exit, Report},
    sanitise,
};

const UNIT: &str = "pomd.service";
const SHIPPED: &str = include_str!("../../../../systemd/pomd.service");
/// The first line of what pomctl writes.
const MARK: &str = "# Written by `pomctl service install`, and written anew by the next one. Settings of your own: systemctl --user edit pomd";
/// How long a question may take.
const LIMIT: Duration = Duration::from_secs(10);
/// How long a start or a stop may take: systemd gives up after 90 s.
const JOB: Duration = Duration::from_secs(100);

/// The manager, which answered.
pub(super) struct Manager {
    variables: BTreeMap<String, String>,
}

impl Manager {
    pub(super) async fn find() -> Result<Self, CliError> {
        let told = systemctl(&["show-environment"], LIMIT).await;
        let told = told.map_err(nobody_answers)?;
        let lines = told.lines().filter_map(|it| it.split_once('='));
        // What it had to quote is a path with a blank at most: `$'/a b'`.
        let plain = |it: &str| match it.strip_prefix("$'").and_then(|it| it.strip_suffix('\'')) {
            Some(quoted) => quoted.replace("\\'", "'").replace("\\\\", "\\"),
            None => it.to_owned(),
        };
        Ok(Self {
            variables: lines.map(|it| (it.0.to_owned(), plain(it.1))).collect(),
        })
    }

    /// Returns a variable of what the manager starts.
    pub(super) fn var(&self, name: &str) -> Option<String> {
        let value = self.variables.get(name)?;
        (!value.is_empty()).then(|| value.clone())
    }

    fn file(&self) -> Result<PathBuf, CliError> {
        let folder = match (self.var("XDG_CONFIG_HOME"), self.var("HOME")) {
            (Some(folder), _) => PathBuf::from(folder),
            (None, Some(home)) => Path::new(&home).join(".config"),
            (None, None) => return Err(CliError::failed("systemd knows no home of this user")),
        };
        Ok(folder.join("systemd/user").join(UNIT))
    }

    pub(super) async fn look(&self, _: &Context) -> Result<Found, CliError> {
        let names = "LoadState,FragmentPath,UnitFileState,ActiveState,MainPID,StatusText";
        let shown = systemctl(&["show", UNIT, "-p", names], LIMIT).await?;
        let property = |name: &str| {
            let mut lines = shown.lines().filter_map(|it| it.split_once('='));
            lines.find(|it| it.0 == name).map_or("", |it| it.1)
        };
        if property("LoadState") == "masked" {
            let report = Report::new(Exit::Failed, "failed", format!("{UNIT} is masked"));
            let hint = "to allow it again: systemctl --user unmask pomd".to_owned();
            return Err(CliError::told(report.hint(Some(hint))));
        }
        let ours = self.file()?;
        let fragment = Some(property("FragmentPath")).filter(|it| !it.is_empty());
        let (owner, definition, text) = match (owner_of(&ours)?, fragment) {
            (Some((owner, text)), _) => (owner, Some(ours), Some(text)),
            // A file that is gone, which the manager remembers.
            (None, Some(other)) if Path::new(other) == ours => (Owner::Nobody, None, None),
            (None, Some(other)) => {
                let home = self.var("HOME").unwrap_or_default();
                let is_persons = Path::new(other).starts_with(home);
                let owner = if is_persons {
                    Owner::Person
                } else {
                    Owner::Package
                };
                (owner, Some(PathBuf::from(other)), None)
            }
            (None, None) => (Owner::Nobody, None, None),
        };
        let running = matches!(
            property("ActiveState"),
            "active" | "reloading" | "activating" | "deactivating"
        );
        let pid = property("MainPID").parse().ok().filter(|it| *it != 0);
        let says = Some(property("StatusText")).filter(|it| !it.is_empty() && running);
        Ok(Found {
            manager: "systemd",
            definition,
            owner,
            text,
            starts_at_login: property("UnitFileState") == "enabled",
            running,
            pid,
            says: says.map(str::to_owned),
            runs_while_logged_out: lingers().await,
        })
    }

    /// Returns the unit that runs this.
    pub(super) fn definition(launch: &Launch) -> Result<String, CliError> {
        let mut words = vec![launch.program.as_str()];
        words.extend(launch.arguments.iter().map(String::as_str));
        // By a shell: systemd takes no program whose path has a quote or a backslash.
        let words: Vec<String> = words
            .iter()
            .map(|it| quoted(it).replace('$', "$$"))
            .collect();
        let start = format!(
            "Environment={}\nExecStart=/bin/sh -c 'exec \"$$0\" \"$$@\"' {}",
            quoted(&format!("PATH={}", launch.search_path)),
            words.join(" ")
        );
        let mut lines = vec![MARK];
        for line in SHIPPED.lines().skip(1) {
            match line {
                it if it.starts_with("ExecStart=") => lines.push(&start),
                it if it.starts_with("# pomd is found ") => {}
                it => lines.push(it),
            }
        }
        Ok(lines.join("\n") + "\n")
    }

    /// Writes the unit, if there is one to write, and has it start at each login.
    pub(super) async fn install(&self, text: Option<&str>) -> Result<(), CliError> {
        if let Some(text) = text {
            let file = self.file()?;
            ssh_config::write(&file, text).map_err(|it| cannot("write", &file, &it))?;
        }
        systemctl(&["daemon-reload"], LIMIT).await?;
        systemctl(&["enable", UNIT], LIMIT).await?;
        Ok(())
    }

    /// Returns once pomd says that it is ready.
    pub(super) async fn start(&self, _: &Context, again: bool) -> Result<(), CliError> {
        let _ = systemctl(&["reset-failed", UNIT], LIMIT).await;
        let verb = if again { "restart" } else { "start" };
        match systemctl(&[verb, UNIT], JOB).await {
            Ok(_) => Ok(()),
            Err(ToolError::Failed(why)) => {
                let report = Report::new(
                    Exit::Failed,
                    "failed",
                    format!("pomd does not start: {why}"),
                );
                let hint = "what it said last: journalctl --user -u pomd -n 20".to_owned();
                Err(CliError::told(report.hint(Some(hint))))
            }
            Err(other) => Err(other.into()),
        }
    }

    pub(super) async fn stop(&self, _: &Context) -> Result<(), CliError> {
        systemctl(&["stop", UNIT], JOB).await?;
        Ok(())
    }

    /// Stops it and forgets it. `ours`: takes the file away too.
    pub(super) async fn remove(&self, _: &Context, ours: bool) -> Result<(), CliError> {
        systemctl(&["disable", "--now", UNIT], JOB).await?;
        if ours {
            let file = self.file()?;
            match fs::remove_file(&file) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(cannot("remove", &file, &error));
                }
                _ => {}
            }
            // The folders that were made for it, as far as they are empty.
            let folder = file.parent().unwrap_or(Path::new("/"));
            let folders = folder.ancestors().take(2);
            folders
                .map(fs::remove_dir)
                .take_while(Result::is_ok)
                .count();
        }
        systemctl(&["daemon-reload"], LIMIT).await?;
        let _ = systemctl(&["reset-failed", UNIT], LIMIT).await;
        Ok(())
    }

    pub(super) fn hint_on_logout(stays: Option<bool>) -> Option<String> {
        (stays != Some(true)).then(|| {
            "it ends when you log out; to keep it running while you are logged out: loginctl enable-linger"
                .to_owned()
        })
    }
}

/// Returns whose the file at the place of our own is, and its text; `None`: there is none.
fn owner_of(file: &Path) -> Result<Option<(Owner, String)>, CliError> {
    match fs::symlink_metadata(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(cannot("read", file, &error)),
        Ok(found) if !found.is_file() => return Ok(Some((Owner::Person, String::new()))),
        Ok(_) => {}
    }
    let text = text_of(file)?.unwrap_or_default();
    // A copy of what is shipped, made by hand, holds nothing of the person's.
    let is_ours = text.lines().next() == Some(MARK) || text == SHIPPED;
    let owner = if is_ours {
        Owner::Pomctl
    } else {
        Owner::Person
    };
    Ok(Some((owner, text)))
}

/// Returns a word as systemd's files have it, whatever it holds but control characters.
fn quoted(word: &str) -> String {
    let word = word.replace('\\', "\\\\").replace('"', "\\\"");
    format!("\"{}\"", word.replace('%', "%%"))
}

/// Tells whether the user's manager runs without a session; `None` where logind does not say.
async fn lingers() -> Option<bool> {
    let mut command = Command::new("loginctl");
    let user = rustix::process::geteuid().as_raw().to_string();
    command.args(["show-user", &user, "--property=Linger", "--value"]);
    let told = tool::output(command, LIMIT).await.ok()?;
    match told.trim() {
        "yes" => Some(true),
        "no" => Some(false),
        _ => None,
    }
}

async fn systemctl(arguments: &[&str], limit: Duration) -> Result<String, ToolError> {
    let mut command = Command::new("systemctl");
    command
        .arg("--user")
        .args(arguments)
        .env("SYSTEMD_COLORS", "0");
    command.env("SYSTEMD_PAGER", "").env("LC_ALL", "C.UTF-8");
    if let Some(folder) = runtime_folder() {
        command.env("XDG_RUNTIME_DIR", folder);
    }
    tool::output(command, limit).await
}

/// Returns where the manager's socket is if the environment does not say: after `su` the user's own may run all the same.
fn runtime_folder() -> Option<PathBuf> {
    if env::var_os("XDG_RUNTIME_DIR").is_some_and(|it| !it.is_empty()) {
        return None;
    }
    let user = rustix::process::geteuid();
    let folder = PathBuf::from(format!("/run/user/{}", user.as_raw()));
    let found = fs::symlink_metadata(&folder).ok()?;
    let owner = std::os::unix::fs::MetadataExt::uid(&found);
    (found.is_dir() && owner == user.as_raw()).then_some(folder)
}

fn nobody_answers(error: ToolError) -> CliError {
    let is_set = env::var_os("XDG_RUNTIME_DIR").is_some_and(|it| !it.is_empty());
    let (message, advice) = match error {
        ToolError::Missing => (
            "there is no systemd here (systemctl is not installed)".to_owned(),
            "Run it without a service:",
        ),
        ToolError::Failed(_) if !is_set => (
            "no systemd user manager answers here (XDG_RUNTIME_DIR is not set)".to_owned(),
            "Log in directly instead of by sudo or su, or run it without a service:",
        ),
        ToolError::Failed(why) => (
            format!(
                "no systemd user manager answers here ({})",
                sanitise::line(&why)
            ),
            "Log in directly instead of by sudo or su, or run it without a service:",
        ),
    };
    let lines = vec![advice.to_owned(), "    pomd --daemonize".to_owned()];
    CliError::told(Report::new(Exit::Failed, "no_service_manager", message).block(lines))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_stands_in_a_unit_as_it_is() {
        let launch = Launch {
            program: "/a b/50% \"$HOME\" \\x/pomd".to_owned(),
            arguments: vec!["--config".to_owned(), "/it's/pomd.toml".to_owned()],
            search_path: "/usr/bin:/a b/bin".to_owned(),
        };
        let unit = Manager::definition(&launch).unwrap();
        let start = unit
            .lines()
            .find(|it| it.starts_with("ExecStart="))
            .unwrap();
        assert_eq!(
            start,
            "ExecStart=/bin/sh -c 'exec \"$$0\" \"$$@\"' \"/a b/50%% \\\"$$HOME\\\" \\\\x/pomd\" \
             \"--config\" \"/it's/pomd.toml\""
        );
        assert!(
            unit.contains("\nEnvironment=\"PATH=/usr/bin:/a b/bin\"\n"),
            "{unit}"
        );
        assert_eq!(unit.lines().next(), Some(MARK));
        // All else is as it is shipped.
        for line in SHIPPED.lines().skip(1) {
            let replaced = line.starts_with("ExecStart=") || line.starts_with("# pomd is found ");
            assert_eq!(
                unit.lines().any(|it| it == line),
                !replaced || line.is_empty(),
                "{line}"
            );
        }
    }
}
