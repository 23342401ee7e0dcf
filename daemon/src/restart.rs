//! Becoming pomd anew: the same process goes on as the program that is installed now.
//!
//! Its id stays, so whoever started it (a service manager, a terminal) notices nothing but an orderly end of all
//! connections. The program is the one that the name by which pomd was called leads to at that moment: a link that points to
//! another release meanwhile, or another folder of `PATH`, is followed anew.

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

use crate::system::{handover::Handover, socket_activation::Handed};

/// How long the program may take to say its version.
const LIMIT: Duration = Duration::from_secs(10);
/// Asks a program whether it takes what [`Handover`] gives: one of an older release refuses the option.
pub const TAKES_HANDOVER: &str = "--takes-handover";

/// The way to become pomd anew. Clones know of each other.
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

    #[cfg(unix)]
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
            program.is_some_and(|it| ours.is_none_or(|ours| is_same_file(&it, ours)))
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
        if cfg!(not(unix)) {
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

    /// After the orderly end, go on anew.
    pub fn ask(&self) {
        self.asked.store(true, SeqCst);
    }

    /// Somebody asked for it.
    pub fn is_asked(&self) -> bool {
        self.asked.load(SeqCst)
    }

    /// Goes on as the program with these arguments, or, if it cannot be run after all, as the one that runs now; returns
    /// only why neither was possible. A release that takes no handover finds everything free and takes it again; only what
    /// a service manager handed over, which nobody could take again, goes on to every release.
    #[cfg(unix)]
    pub fn go_on(
        &self,
        arguments: &[OsString],
        handed: &Handed,
        mut handover: Handover,
    ) -> io::Error {
        let become_it = |program: &Path, handover: Option<&Handover>| {
            use std::os::unix::process::CommandExt;

            let mut heir = std::process::Command::new(program);
            heir.args(arguments).arg0(self.called.as_argument());
            Handover::give_nothing(&mut heir);
            let given = handover.map_or(Ok(()), |it| it.give(&mut heir));
            match given.and_then(|()| handed.pass_on(&mut heir)) {
                Ok(()) => heir.exec(),
                Err(error) => error,
            }
        };
        let hands_over = self.hands_over.load(SeqCst);
        let error = match self.called.program() {
            Ok(program) => {
                let error = become_it(&program, hands_over.then_some(&handover));
                format!("{}: {error}", program.display())
            }
            Err(error) => error,
        };
        let warning =
            format!("pomd was restarted as the release that ran before: cannot run {error}");
        tracing::error!("{warning}");
        handover.warning = Some(warning);
        become_it(&running_program(), Some(&handover))
    }

    /// There is no such thing here.
    #[cfg(not(unix))]
    pub fn go_on(&self, _: &[OsString], _: &Handed, _: Handover) -> io::Error {
        io::ErrorKind::Unsupported.into()
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

#[cfg(unix)]
fn is_same_file(one: &Path, other: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let id = |it: &Path| std::fs::metadata(it).map(|it| (it.dev(), it.ino())).ok();
    id(one).is_some() && id(one) == id(other)
}

#[cfg(not(unix))]
fn is_same_file(_: &Path, _: &Path) -> bool {
    true
}

/// The program that this process runs, also where its file is gone.
#[cfg(unix)]
fn running_program() -> PathBuf {
    let link = Path::new("/proc/self/exe");
    if link.exists() {
        return link.to_owned();
    }
    env::current_exe().unwrap_or_else(|_| link.to_owned())
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
