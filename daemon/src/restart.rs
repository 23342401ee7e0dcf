//! Restart: the same process runs the program that is installed now, by a re-exec.
//!
//! The process id stays, so whoever started it (a service manager, a terminal) notices nothing but an orderly end of all
//! connections. The program is the one that the name by which pomd was called leads to at that moment: a link that points to
//! another release meanwhile, or another folder of `PATH`, is followed.

use std::{
    env,
    ffi::{OsStr, OsString},
    io,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use control::text::clean;
use tokio::process::Command;

use crate::{
    surroundings::EnvironmentChanges,
    system::{exec, file_id, handover::Handover, socket_activation::InheritedSockets},
};

/// How long the program may take to say its version.
const LIMIT: Duration = Duration::from_secs(10);
/// Asks a program whether it takes what [`Handover`] gives: one of an older release refuses the option.
pub const TAKES_HANDOVER: &str = "--takes-handover";

/// The restart of this process, requested or not. Clones know of each other.
#[derive(Clone, Debug)]
pub struct Restart {
    called: Called,
    asked: Arc<AtomicBool>,
    hands_over: Arc<AtomicBool>,
}

/// The name by which pomd was called.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Called {
    /// To be looked for in `PATH`.
    Name(OsString),
    /// A path; its links are followed when it is used.
    Path(PathBuf),
}

impl Called {
    /// The program that it leads to now.
    fn program(&self) -> Result<PathBuf, String> {
        match self {
            Self::Path(path) => Ok(path.clone()),
            Self::Name(name) => in_path(name)
                .ok_or_else(|| format!("no folder of PATH has a {}", name.to_string_lossy())),
        }
    }

    fn as_argument(&self) -> &OsStr {
        match self {
            Self::Name(name) => name,
            Self::Path(path) => path.as_os_str(),
        }
    }
}

impl Restart {
    /// As this process was started. Call before the current folder changes.
    pub fn as_started() -> io::Result<Self> {
        let ours = env::current_exe();
        let said = env::args_os().next().and_then(|it| called(&it));
        // A name that leads to another program was not ours: whoever starts a program is free to say any.
        let said = said.filter(|it| {
            let program = it.program().ok();
            let ours = ours.as_ref().ok();
            program.is_some_and(|it| ours.is_none_or(|ours| file_id::is_same_path(&it, ours)))
        });
        Ok(Self::of(match said {
            Some(called) => called,
            None => Called::Path(without_deleted(ours?)),
        }))
    }

    /// Restarts into the program at this path.
    pub fn to(program: PathBuf) -> Self {
        Self::of(Called::Path(program))
    }

    fn of(called: Called) -> Self {
        Self {
            called,
            asked: Arc::default(),
            hands_over: Arc::default(),
        }
    }

    /// Whether the program that would be run is one, before anything is ended for it; its version.
    pub async fn check(&self) -> Result<String, String> {
        if !exec::IS_POSSIBLE {
            return Err("pomd cannot restart itself on this system: stop it and start it".into());
        }
        let program = self.called.program()?;
        let shown = program.display();
        let (is_done, words) = answer(&program, "--version").await?;
        let version = match words.trim().strip_prefix("pomd ") {
            Some(version) if is_done => clean(version, 80),
            _ => return Err(format!("{shown} is not pomd")),
        };
        let takes = answer(&program, TAKES_HANDOVER).await;
        self.hands_over.store(takes.is_ok_and(|it| it.0), SeqCst);
        Ok(version)
    }

    /// Makes the orderly end be followed by a restart.
    pub fn request(&self) {
        self.asked.store(true, SeqCst);
    }

    /// Whether somebody requested a restart.
    pub fn is_requested(&self) -> bool {
        self.asked.load(SeqCst)
    }

    /// Runs the program with these arguments in the place of this process, or, if it cannot be run after all, the one that
    /// runs now; returns only why neither was possible. `environment` is what changed since this process was started. A release that takes no handover finds everything free and takes it again; only what
    /// a service manager handed over, which nobody could take again, goes on to every release.
    pub fn re_exec(
        &self,
        arguments: &[OsString],
        environment: &EnvironmentChanges,
        inherited: &InheritedSockets,
        mut handover: Handover,
    ) -> io::Error {
        let replace_by = |program: &Path, handover: Option<&Handover>| {
            let mut successor = std::process::Command::new(program);
            successor.args(arguments);
            for (name, value) in environment {
                match value {
                    Some(value) => successor.env(name, value),
                    None => successor.env_remove(name),
                };
            }
            Handover::give_nothing(&mut successor);
            let given = handover.map_or(Ok(()), |it| it.give(&mut successor));
            match given.and_then(|()| inherited.pass_on(&mut successor)) {
                Ok(()) => exec::replace(&mut successor, self.called.as_argument()),
                Err(error) => error,
            }
        };
        let hands_over = self.hands_over.load(SeqCst);
        let error = match self.called.program() {
            Ok(program) => {
                let error = replace_by(&program, hands_over.then_some(&handover));
                format!("{}: {error}", program.display())
            }
            Err(error) => error,
        };
        let warning =
            format!("pomd was restarted as the release that ran before: cannot run {error}");
        tracing::error!("{warning}");
        handover.warning = Some(warning);
        replace_by(&exec::running_program(), Some(&handover))
    }
}

/// Whether the program ended well when asked this, and what it said.
async fn answer(program: &Path, question: &str) -> Result<(bool, String), String> {
    let asking = Command::new(program)
        .arg(question)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .output();
    let shown = program.display();
    match tokio::time::timeout(LIMIT, asking).await {
        Ok(Ok(output)) => {
            let words = String::from_utf8_lossy(&output.stdout).into_owned();
            Ok((output.status.success(), words))
        }
        Ok(Err(error)) => Err(format!("cannot run {shown}: {error}")),
        Err(_) => Err(format!("{shown} does not say its version")),
    }
}

/// What a program's first argument says of where it is.
fn called(argument: &OsStr) -> Option<Called> {
    let path = Path::new(argument);
    match path.components().count() {
        0 => None,
        1 if !path.has_root() && !argument.to_string_lossy().contains('/') => {
            Some(Called::Name(argument.to_owned()))
        }
        _ => std::path::absolute(path).ok().map(Called::Path),
    }
}

/// The program of that name as a shell finds it. A relative folder of `PATH` may be another one by now.
fn in_path(name: &OsStr) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    let mut candidates = env::split_paths(&path).map(|it| it.join(name));
    candidates.find(|it| it.is_absolute() && it.is_file())
}

/// Where the program that runs lay before it was replaced or removed, as Linux tells it.
fn without_deleted(program: PathBuf) -> PathBuf {
    let text = program
        .to_str()
        .and_then(|it| it.strip_suffix(" (deleted)"));
    text.map(PathBuf::from).unwrap_or(program)
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use super::*;

    #[test]
    fn x13_a_program_is_looked_for_each_time_by_the_name_it_was_called_by() {
        let name = called(OsStr::new("sh")).unwrap();
        assert_eq!(name, Called::Name("sh".into()));
        assert!(name.program().unwrap().ends_with("sh"));
        let none = called(OsStr::new("no such program")).unwrap();
        assert!(none.program().is_err());
        let here = env::current_dir().unwrap();
        for (said, path) in [
            ("/bin/sh", "/bin/sh".into()),
            ("/opt/current/bin/pomd", "/opt/current/bin/pomd".into()),
            ("./pomd", here.join("pomd")),
            ("bin/pomd", here.join("bin/pomd")),
        ] {
            assert_eq!(called(OsStr::new(said)), Some(Called::Path(path)), "{said}");
        }
        assert_eq!(called(OsStr::new("")), None);
    }

    #[test]
    fn x13_a_program_that_was_removed_is_looked_for_where_it_was() {
        let plain = |it: &str| without_deleted(it.into());
        assert_eq!(plain("/usr/bin/pomd (deleted)"), Path::new("/usr/bin/pomd"));
        assert_eq!(plain("/usr/bin/pomd"), Path::new("/usr/bin/pomd"));
    }

    #[tokio::test]
    async fn what_is_not_pomd_is_never_gone_over_to() {
        for (program, why) in [
            ("/no/such/program", "cannot run /no/such/program: "),
            ("/etc/passwd", "cannot run /etc/passwd: "),
            ("/bin/true", "/bin/true is not pomd"),
        ] {
            let error = Restart::to(program.into()).check().await.unwrap_err();
            assert!(error.starts_with(why), "{error}");
        }
    }
}
