//! One pomd for one state folder and one socket: a lock of the kernel's, which a crash cannot leave behind.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{self, Read, Seek, Write},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use crate::{
    disk,
    points::{Point, Points},
    system::private_folder,
};

/// How long a holder that has only just started may take to say who it is.
const NAMING: Duration = Duration::from_secs(2);
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Held for the life of the process; survives the forks of `--daemonize`.
#[derive(Debug)]
pub struct Lock {
    file: File,
    /// What was put right about its folder, for the log, which is not there yet.
    put_right: Option<String>,
    /// The disk knows no locks, as one of the network may: what that means, in words.
    refused: Option<String>,
}

/// Why the lock was not had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another pomd holds it.
    #[error("pomd runs already{}; to end it: pomctl stop", pid.map_or(String::new(), |it| format!(" (pid {it})")))]
    Held {
        /// Which, if it has said so yet.
        pid: Option<u32>,
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
    /// Locks `folder`, which is made (0700) if it is missing. Where the disk refuses to lock anything, pomd works without.
    pub fn take(folder: &Path, points: &Points) -> Result<Self, LockError> {
        let put_right = private_folder::make(folder).map_err(|fault| LockError::Folder {
            folder: folder.to_owned(),
            fault,
        })?;
        let path = folder.join("pomd.lock");
        let io = |source| LockError::Io {
            path: path.clone(),
            source,
        };
        let mut file = open(&path).map_err(io)?;
        let tried = points.pass(Point::Lock).map_err(TryLockError::Error);
        let refused = match tried.and_then(|()| file.try_lock()) {
            Ok(()) => {
                // What a crash left there is not our name.
                file.set_len(0).map_err(io)?;
                None
            }
            Err(TryLockError::WouldBlock) => {
                let pid = holder(&mut file);
                return Err(LockError::Held { pid });
            }
            Err(TryLockError::Error(error)) => Some(format!(
                "{} cannot be locked ({}): nothing keeps a second pomd from writing there",
                folder.display(),
                disk::words(&error)
            )),
        };
        Ok(Self {
            file,
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

    /// Writes this process's id into the file, for whoever finds it locked. Call after the last fork.
    pub fn name_holder(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.rewind()?;
        writeln!(self.file, "{}", std::process::id())
    }
}

fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).read(true).write(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
        options.mode(0o600).custom_flags(flags.bits().cast_signed());
    }
    let file = options.open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    Ok(file)
}

/// Who holds the lock. Waits for a moment for one that has not said so yet. On Windows a file that is locked cannot be
/// read either, and nobody is named.
fn holder(file: &mut File) -> Option<u32> {
    let mut left = NAMING;
    loop {
        if let Some(pid) = pid(file).ok()? {
            return Some(pid);
        }
        left = left.checked_sub(LOOK_EVERY)?;
        thread::sleep(LOOK_EVERY);
    }
}

fn pid(file: &mut File) -> io::Result<Option<u32>> {
    let mut text = Vec::new();
    file.rewind()?;
    file.take(20).read_to_end(&mut text)?;
    let text = String::from_utf8_lossy(&text);
    Ok(text.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn take(folder: &Path) -> Result<Lock, LockError> {
        Lock::take(folder, &Points::none())
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
        let none = Points::from_fn(|_| Err(rustix::io::Errno::NOLCK.into()));
        let lock = Lock::take(dir.path(), &none).unwrap();
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
    fn a_second_lock_names_the_holder_and_a_drop_frees_it() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("deep/state");
        let mut lock = take(&folder).unwrap();
        assert!(matches!(take(&folder), Err(LockError::Held { pid: None })));
        // Whoever comes before the holder has said who it is waits for that.
        let late = thread::scope(|scope| {
            let second = scope.spawn(|| take(&folder));
            thread::sleep(LOOK_EVERY * 5);
            lock.name_holder().unwrap();
            second.join().unwrap()
        });
        assert!(matches!(late, Err(LockError::Held { pid: Some(_) })));
        let ours = std::process::id();
        assert!(matches!(take(&folder), Err(LockError::Held { pid: Some(it) }) if it == ours));
        drop(lock);
        let _lock = take(&folder).unwrap();
        let text = fs::read_to_string(folder.join("pomd.lock")).unwrap();
        assert_eq!(text, "", "the name of the one before is left");
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
