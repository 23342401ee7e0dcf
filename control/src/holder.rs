//! The text of a lock file: which pomd holds the lock, what it is doing, and where it answers.
//!
//! The lock itself is the kernel's, and nothing but the waiting of others depends on this text: it is written in place, may
//! be that of a pomd that was killed, and is believed only as far as a wait or a connection to its socket goes.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{self, Read, Seek, Write},
    path::{Path, PathBuf},
    time::SystemTime,
};

use serde::{Deserialize, Serialize};

/// The name of the lock file in the state folder and beside the control socket.
pub const LOCK_FILE: &str = "pomd.lock";
/// The most bytes that are read of a lock file.
const MOST: u64 = 16 << 10;

/// A pomd that holds a lock, or was the last one to do so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Its process id.
    pub pid: u32,
    /// The rest of what it says; `None`: it is of a release that said no more.
    pub facts: Option<Facts>,
}

/// What a holder says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// What it is doing.
    pub phase: Phase,
    /// It went into the background by itself: it gives way to one in the foreground.
    #[serde(default)]
    pub in_background: bool,
    /// Its control socket.
    #[serde(default)]
    pub socket: Option<PathBuf>,
    /// Where a person finds its log: a path or a command; `None`: the terminal that started it.
    #[serde(default)]
    pub log: Option<String>,
}

/// What the holder of a lock is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// It serves, or is about to.
    Running,
    /// It ends: the lock is free in a moment.
    Ending,
    /// It re-executes itself and keeps the lock.
    Restarting,
    /// It has ended in order.
    Ended,
    /// A word of a newer release.
    #[serde(other)]
    Other,
}

impl Holder {
    /// Reads the lock file of `folder`. `None`: there is no text, it is half-written, or the file is not this user's.
    pub fn read(folder: &Path) -> Option<Self> {
        Self::read_from(&open(folder).ok()?).ok().flatten()
    }

    /// Reads an open lock file; `None`: it holds no whole text.
    pub fn read_from(mut file: &File) -> io::Result<Option<Self>> {
        let mut text = Vec::new();
        file.rewind()?;
        file.take(MOST).read_to_end(&mut text)?;
        Ok(Self::parse(&String::from_utf8_lossy(&text)))
    }

    /// Replaces the text of an open lock file. A reader sees the old text, this one, or no whole one.
    pub fn write_to(&self, mut file: &File) -> io::Result<()> {
        let text = self.render();
        file.set_len(0)?;
        file.rewind()?;
        file.write_all(text.as_bytes())
    }

    /// Returns what it is doing; a release that said nothing of it is taken to run.
    pub fn phase(&self) -> Phase {
        self.facts.as_ref().map_or(Phase::Running, |it| it.phase)
    }

    /// Returns its control socket, if it named one.
    pub fn socket(&self) -> Option<&Path> {
        self.facts.as_ref()?.socket.as_deref()
    }

    fn parse(text: &str) -> Option<Self> {
        let (pid, rest) = text.split_once('\n').unwrap_or((text, ""));
        let pid = pid.trim().parse().ok()?;
        let facts = match rest {
            "" => None,
            rest => Some(serde_json::from_str(rest.strip_suffix('\n')?).ok()?),
        };
        Some(Self { pid, facts })
    }

    fn render(&self) -> String {
        let facts = self.facts.as_ref().map(|it| {
            serde_json::to_string(it).or_else(|_| {
                // A path that is no text cannot be named here.
                let it = it.clone();
                serde_json::to_string(&Facts { socket: None, ..it })
            })
        });
        let facts = facts.and_then(Result::ok);
        let facts = facts.map_or(String::new(), |it| format!("{it}\n"));
        format!("{}\n{facts}", self.pid)
    }
}

/// Tells whether somebody holds the lock of `folder` now. A disk that knows no locks tells nothing.
pub fn is_held(folder: &Path) -> bool {
    let Ok(file) = open(folder) else {
        return false;
    };
    matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock))
}

/// Returns when the text in the lock file of `folder` was written.
pub fn written_at(folder: &Path) -> Option<SystemTime> {
    open(folder).ok()?.metadata().ok()?.modified().ok()
}

fn open(folder: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
        options.custom_flags(flags.bits().cast_signed());
    }
    let file = options.open(folder.join(LOCK_FILE))?;
    let found = file.metadata()?;
    if !found.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let ours = rustix::process::geteuid().as_raw();
        if found.uid() != ours {
            return Err(io::Error::other("it belongs to another user"));
        }
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder() -> Holder {
        Holder {
            pid: 7,
            facts: Some(Facts {
                phase: Phase::Running,
                in_background: true,
                socket: Some("/run/user/1/a \"b\"\n/pomd.sock".into()),
                log: Some("journalctl --user -u pomd".into()),
            }),
        }
    }

    #[test]
    fn x9_x12_a_text_is_read_as_it_was_written_and_never_by_halves() {
        let whole = holder().render();
        assert_eq!(Holder::parse(&whole), Some(holder()));
        let first_line = whole.find('\n').unwrap() + 1;
        for end in 0..whole.len() {
            let part = Holder::parse(&whole[..end]);
            // A process id alone is what older releases wrote.
            assert!(
                part.is_none_or(|it| it.facts.is_none() && end <= first_line),
                "{end}"
            );
        }
        for nonsense in ["", "\0nonsense", "x\n", "7\nnonsense\n", "7\n{}\n", "-1"] {
            assert_eq!(Holder::parse(nonsense), None, "{nonsense:?}");
        }
    }

    #[test]
    fn x7_texts_of_other_releases_are_understood() {
        let old = Holder::parse("123\n").unwrap();
        assert_eq!(
            (old.pid, old.phase(), old.socket()),
            (123, Phase::Running, None)
        );
        let new = Holder::parse("5\n{\"phase\":\"dreaming\",\"mood\":[]}\n").unwrap();
        assert_eq!((new.pid, new.phase()), (5, Phase::Other));
    }

    #[cfg(unix)]
    #[test]
    fn x12_a_socket_whose_path_is_no_text_is_left_out() {
        use std::os::unix::ffi::OsStringExt;
        let mut holder = holder();
        if let Some(facts) = &mut holder.facts {
            facts.socket = Some(std::ffi::OsString::from_vec(vec![b'/', 0xff]).into());
        }
        let read = Holder::parse(&holder.render()).unwrap();
        assert_eq!((read.pid, read.socket()), (7, None));
        assert!(read.facts.is_some_and(|it| it.in_background));
    }

    #[cfg(unix)]
    #[test]
    fn x9_whether_a_place_is_held_is_asked_without_taking_it() {
        let folder = tempfile::tempdir().unwrap();
        assert!(!is_held(folder.path()));
        let path = folder.path().join(LOCK_FILE);
        let file = File::create(&path).unwrap();
        assert!(!is_held(folder.path()));
        file.lock().unwrap();
        holder().write_to(&file).unwrap();
        assert!(is_held(folder.path()));
        assert_eq!(Holder::read(folder.path()), Some(holder()));
        drop(file);
        assert!(!is_held(folder.path()));
        // A link may lead to a file of somebody's choice.
        std::fs::rename(&path, folder.path().join("elsewhere")).unwrap();
        std::os::unix::fs::symlink("elsewhere", &path).unwrap();
        assert_eq!(Holder::read(folder.path()), None);
    }
}
