//! One pomd for one state folder and one socket: a lock of the kernel's, which a crash cannot leave behind.

use std::{
    fs::{File, TryLockError},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use control::holder::{Facts, Holder, LOCK_FILE, Phase};

use crate::{
    failpoints::{Failpoint, Failpoints},
    system::{disk, file_id, plain_file, private_folder},
};

/// How long a holder that has only just started may take to say who it is.
const NAMING: Duration = Duration::from_secs(2);
/// How long a holder may take to end or to restart.
const ENDING: Duration = Duration::from_secs(5);
/// How long a signal to end may take to reach a holder that says that it runs.
const SIGNAL: Duration = Duration::from_millis(200);
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Held for the life of the process; survives the forks of `--daemonize` and, if it is handed on, a re-exec.
#[derive(Debug)]
pub struct Lock {
    file: Arc<File>,
    path: PathBuf,
    /// What was put right about its folder, for the log, which is not there yet.
    put_right: Option<String>,
    /// The disk knows no locks, as one of the network may: what that means, in words.
    refused: Option<String>,
}

/// Why the lock was not had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another pomd holds it.
    #[error("{}", held(holder.as_ref()))]
    Held {
        /// Which, if it has said so yet.
        holder: Option<Holder>,
    },
    /// The folder is not fit for secrets.
    #[error("{} {fault}", folder.display())]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// What is wrong with it, and what to do.
        fault: String,
    },
    /// The file cannot be made.
    #[error("cannot lock {}: {source}", path.display())]
    Io {
        /// The lock file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

fn held(holder: Option<&Holder>) -> String {
    let Some(holder) = holder else {
        return "pomd runs already; to end it: pomctl stop".to_owned();
    };
    let pid = holder.pid;
    match holder.phase() {
        Phase::Ending | Phase::Ended => format!(
            "pomd (pid {pid}) has not ended within {} s; to end it at once: kill -9 {pid}",
            ENDING.as_secs()
        ),
        Phase::Running | Phase::Restarting | Phase::Other => {
            format!("pomd runs already (pid {pid}); to end it: pomctl stop")
        }
    }
}

impl LockError {
    /// Says which option or variable names another folder.
    pub fn or_give(mut self, other: &str) -> Self {
        if let Self::Folder { fault, .. } = &mut self {
            let gap = if fault.contains(';') { ", or" } else { ";" };
            *fault = format!("{fault}{gap} give another: {other}");
        }
        self
    }
}

impl Lock {
    /// Locks `folder`, which is made (0700) if it is missing. Waits for a holder that is ending. Where the disk refuses to
    /// lock anything, pomd works without. `inherited` are lock files that an earlier life of this process handed on: one
    /// that is this folder's is held already, and is taken out.
    pub fn take(
        folder: &Path,
        failpoints: &Failpoints,
        inherited: &mut Vec<File>,
    ) -> Result<Self, LockError> {
        let put_right = private_folder::make(folder).map_err(|fault| LockError::Folder {
            folder: folder.to_owned(),
            fault,
        })?;
        let path = folder.join(LOCK_FILE);
        let io = |source| LockError::Io {
            path: path.clone(),
            source,
        };
        let opened = open(&path).map_err(io)?;
        // Only the description that was locked is the lock: the same file opened anew is not.
        let ours = inherited
            .iter()
            .position(|it| file_id::is_same(it, &opened));
        let file = ours.map_or(opened, |at| inherited.swap_remove(at));
        let start = Instant::now();
        let refused = loop {
            let tried = failpoints
                .check(Failpoint::Lock)
                .map_err(TryLockError::Error);
            match tried.and_then(|()| file.try_lock()) {
                Ok(()) => {
                    // What a crash left there is not our name.
                    file.set_len(0).map_err(io)?;
                    break None;
                }
                Err(TryLockError::WouldBlock) => {
                    let holder = Holder::read_from(&file).ok().flatten();
                    if start.elapsed() >= patience(holder.as_ref()) {
                        return Err(LockError::Held { holder });
                    }
                    thread::sleep(LOOK_EVERY);
                }
                Err(TryLockError::Error(error)) => {
                    break Some(format!(
                        "{} cannot be locked ({}): nothing keeps a second pomd from writing there",
                        folder.display(),
                        disk::describe(&error)
                    ));
                }
            }
        };
        Ok(Self {
            file: Arc::new(file),
            path,
            put_right,
            refused,
        })
    }

    /// A standing warning where there is no lock.
    pub fn refused(&self) -> Option<&str> {
        self.refused.as_deref()
    }

    /// What a person should hear about the folder.
    pub fn put_right(&self) -> Option<&str> {
        self.put_right.as_deref()
    }

    /// The lock file, and the same lock by another descriptor.
    pub fn hand_on(&self) -> io::Result<(PathBuf, File)> {
        Ok((self.path.clone(), self.file.try_clone()?))
    }
}

/// How long a lock that is held by this one is worth waiting for. On Windows a file that is locked cannot be read, and
/// nobody is named.
fn patience(holder: Option<&Holder>) -> Duration {
    match holder.map(Holder::phase) {
        None => NAMING,
        Some(Phase::Ending | Phase::Ended | Phase::Restarting) => ENDING,
        Some(Phase::Running | Phase::Other) => SIGNAL,
    }
}

/// Says in the lock files what this process does with the place, for whoever finds them locked. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Marker(Option<Arc<Marked>>);

#[derive(Debug)]
struct Marked {
    files: Vec<Arc<File>>,
    facts: Mutex<Facts>,
}

impl Marker {
    /// For these locks; says nothing yet.
    pub fn new<'a>(locks: impl IntoIterator<Item = &'a Lock>, facts: Facts) -> Self {
        // Without a lock the file may be another's, who has it.
        let locked = locks.into_iter().filter(|it| it.refused.is_none());
        Self(Some(Arc::new(Marked {
            files: locked.map(|it| it.file.clone()).collect(),
            facts: Mutex::new(facts),
        })))
    }

    /// Says so. Whoever finds the lock held is told less where it fails; nothing else depends on it. Call after the last
    /// fork, and of an end before the control socket is gone: who misses that looks here.
    pub fn mark(&self, phase: Phase) {
        let Some(marked) = &self.0 else {
            return;
        };
        let mut facts = marked.facts.lock().unwrap_or_else(PoisonError::into_inner);
        facts.phase = phase;
        let holder = Holder {
            pid: std::process::id(),
            facts: Some(facts.clone()),
        };
        for file in &marked.files {
            let _ = holder.write_to(file);
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    let mut options = plain_file::private();
    options.create(true).truncate(false).read(true).write(true);
    let file = options.open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn take(folder: &Path) -> Result<Lock, LockError> {
        Lock::take(folder, &Failpoints::none(), &mut Vec::new())
    }

    fn marker(lock: &Lock) -> Marker {
        let facts = Facts {
            phase: Phase::Running,
            in_background: false,
            socket: None,
            log: None,
        };
        Marker::new([lock], facts)
    }

    /// A folder that is closed to others.
    #[cfg(unix)]
    fn closed() -> tempfile::TempDir {
        use std::os::unix::fs::PermissionsExt;
        let mode = fs::Permissions::from_mode(0o700);
        tempfile::Builder::new()
            .permissions(mode)
            .tempdir()
            .unwrap()
    }

    #[cfg(unix)]
    #[test]
    fn s6_a_disk_that_knows_no_locks_is_a_warning_and_no_end() {
        let dir = closed();
        let none = Failpoints::from_fn(|_| Err(rustix::io::Errno::NOLCK.into()));
        let lock = Lock::take(dir.path(), &none, &mut Vec::new()).unwrap();
        let said = lock.refused().unwrap();
        let start = format!(
            "{} cannot be locked (no locks available)",
            dir.path().display()
        );
        assert!(said.starts_with(&start), "{said}");
        // Who holds one where another was refused is still found.
        let held = take(dir.path()).unwrap();
        assert_eq!(held.refused(), None);
        assert!(matches!(take(dir.path()), Err(LockError::Held { .. })));
    }

    #[test]
    fn x1_a_second_lock_names_the_holder_and_a_drop_frees_it() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("deep/state");
        let lock = take(&folder).unwrap();
        assert!(matches!(
            take(&folder),
            Err(LockError::Held { holder: None })
        ));
        // Whoever comes before the holder has said who it is waits for that.
        let late = thread::scope(|scope| {
            let second = scope.spawn(|| take(&folder));
            thread::sleep(LOOK_EVERY * 5);
            marker(&lock).mark(Phase::Running);
            second.join().unwrap()
        });
        let said = format!(
            "pomd runs already (pid {}); to end it: pomctl stop",
            std::process::id()
        );
        assert_eq!(late.unwrap_err().to_string(), said);
        drop(lock);
        let _lock = take(&folder).unwrap();
        let text = fs::read_to_string(folder.join(LOCK_FILE)).unwrap();
        assert_eq!(text, "", "the name of the one before is left");
    }

    #[test]
    fn x9_who_finds_a_holder_that_is_ending_waits_for_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("state");
        for phase in [Phase::Ending, Phase::Restarting] {
            let lock = take(&folder).unwrap();
            marker(&lock).mark(phase);
            thread::scope(|scope| {
                let second = scope.spawn(|| take(&folder));
                thread::sleep(SIGNAL * 2);
                assert!(!second.is_finished(), "{phase:?}");
                drop(lock);
                second.join().unwrap().unwrap();
            });
        }
    }

    #[test]
    fn x9_how_long_is_waited_depends_on_what_the_holder_does() {
        let holder = |phase| Holder {
            pid: 1,
            facts: Some(Facts {
                phase,
                in_background: false,
                socket: None,
                log: None,
            }),
        };
        for (phase, expected) in [
            (Phase::Running, SIGNAL),
            (Phase::Other, SIGNAL),
            (Phase::Ending, ENDING),
            (Phase::Ended, ENDING),
            (Phase::Restarting, ENDING),
        ] {
            assert_eq!(patience(Some(&holder(phase))), expected, "{phase:?}");
        }
        assert_eq!(patience(None), NAMING);
        let said = LockError::Held {
            holder: Some(holder(Phase::Ending)),
        };
        assert!(said.to_string().contains("kill -9 1"), "{said}");
    }

    #[cfg(unix)]
    #[test]
    fn x10_a_lock_that_was_handed_on_is_never_free() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("state");
        let lock = take(&folder).unwrap();
        let other = tempfile::tempfile().unwrap();
        let mut inherited = vec![other, lock.hand_on().unwrap().1];
        marker(&lock).mark(Phase::Restarting);
        drop(lock);
        let successor = Lock::take(&folder, &Failpoints::none(), &mut inherited).unwrap();
        assert_eq!(inherited.len(), 1, "what is another file's is left");
        marker(&successor).mark(Phase::Running);
        assert!(take(&folder).is_err());
    }

    #[cfg(unix)]
    #[test]
    fn a_folder_that_others_can_read_is_closed_and_a_link_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("pomd");
        fs::create_dir(&folder).unwrap();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
        let lock = take(&folder).unwrap();
        assert!(
            lock.put_right()
                .is_some_and(|it| it.contains("was open to other users"))
        );
        drop(lock);
        assert_eq!(take(&folder).unwrap().put_right(), None);
        assert_eq!(
            fs::metadata(&folder).unwrap().permissions().mode() & 0o777,
            0o700
        );

        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&folder, &link).unwrap();
        assert!(matches!(take(&link), Err(LockError::Folder { .. })));
    }

    #[cfg(unix)]
    #[test]
    fn a_lock_file_that_is_a_link_or_a_fifo_is_refused_without_waiting() {
        let dir = closed();
        fs::write(dir.path().join("target"), "").unwrap();
        std::os::unix::fs::symlink("target", dir.path().join("pomd.lock")).unwrap();
        assert!(matches!(take(dir.path()), Err(LockError::Io { .. })));

        let dir = closed();
        let fifo = dir.path().join("pomd.lock");
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        assert!(matches!(take(dir.path()), Err(LockError::Io { .. })));
    }
}
