//! Becoming pomd anew: the same process goes on as the program that is installed now.
//!
//! Its id stays, so whoever started it (a service manager, a terminal) notices nothing but an orderly end of all
//! connections. What is needed for that is found out at the start, while the folder and `PATH` are those of the start.

use std::{
    env,
    ffi::OsString,
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

use crate::system::handed::Handed;

/// How long the program may take to say its version.
const LIMIT: Duration = Duration::from_secs(10);

/// The way to become pomd anew. Clones know of each other.
#[derive(Clone, Debug)]
pub struct Restart {
    program: PathBuf,
    asked: Arc<AtomicBool>,
}

impl Restart {
    /// As this process was started. Call before the current folder changes.
    pub fn as_started() -> io::Result<Self> {
        let said = env::args_os().next().and_then(|it| whole(Path::new(&it)));
        // What was said leads to a newer program after an upgrade, also where it is a link; our own file may be gone then.
        let program = said.map_or_else(env::current_exe, Ok)?;
        Ok(Self::to(program))
    }

    pub(crate) fn to(program: PathBuf) -> Self {
        Self {
            program,
            asked: Arc::default(),
        }
    }

    /// Whether the program that would be run is one, before anything is ended for it; its version.
    pub async fn check(&self) -> Result<String, String> {
        let program = self.program.display();
        if cfg!(not(unix)) {
            return Err("pomd cannot restart itself on this system: stop it and start it".into());
        }
        let asking = Command::new(&self.program)
            .arg("--version")
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .output();
        let output = match tokio::time::timeout(LIMIT, asking).await {
            Ok(Ok(output)) => output,
            Ok(Err(error)) => return Err(format!("cannot run {program}: {error}")),
            Err(_) => return Err(format!("{program} does not say its version")),
        };
        let said = String::from_utf8_lossy(&output.stdout);
        match said.trim().strip_prefix("pomd ") {
            Some(version) if output.status.success() => Ok(clean(version, 80)),
            _ => Err(format!("{program} is not pomd")),
        }
    }

    /// After the orderly end, go on anew.
    pub fn ask(&self) {
        self.asked.store(true, SeqCst);
    }

    /// Somebody asked for it.
    pub fn is_asked(&self) -> bool {
        self.asked.load(SeqCst)
    }

    /// Goes on as the program with these arguments; returns only why that failed. What is open and not meant to be
    /// passed on is closed by that, the locks among it: the heir takes them again. Only what was handed over to us, which
    /// nobody could take again, goes on to the heir.
    #[cfg(unix)]
    pub fn go_on(&self, arguments: &[OsString], handed: &Handed) -> io::Error {
        use std::os::unix::process::CommandExt;

        let mut heir = std::process::Command::new(&self.program);
        heir.args(arguments);
        match handed.pass_on(&mut heir) {
            Ok(()) => heir.exec(),
            Err(error) => error,
        }
    }

    /// There is no such thing here.
    #[cfg(not(unix))]
    pub fn go_on(&self, _: &[OsString], _: &Handed) -> io::Error {
        io::ErrorKind::Unsupported.into()
    }
}

/// The absolute path of a program as a shell finds it; `None` if it finds none.
fn whole(program: &Path) -> Option<PathBuf> {
    let found = if program.components().count() > 1 {
        std::path::absolute(program).ok()?
    } else {
        let path = env::var_os("PATH")?;
        let mut candidates = env::split_paths(&path).map(|it| it.join(program));
        candidates.find(|it| it.is_absolute() && it.is_file())?
    };
    found.is_file().then_some(found)
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_found_as_a_shell_finds_it() {
        assert!(whole(Path::new("sh")).is_some_and(|it| it.ends_with("sh") && it.is_absolute()));
        assert_eq!(whole(Path::new("/bin/sh")), Some("/bin/sh".into()));
        for none in ["no such program", "/no/such/program", "", "/"] {
            assert_eq!(whole(Path::new(none)), None, "{none}");
        }
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
