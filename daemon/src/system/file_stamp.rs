//! What tells whether a file is still the one that was read, without reading it.

use std::{
    fs, io,
    path::Path,
    time::{Duration, SystemTime},
};

/// The coarsest clock of a file system in use, with some room: FAT counts in two seconds.
const TICK: Duration = Duration::from_millis(2_100);

/// A file as it was found.
#[derive(Clone, Debug)]
pub struct FileStamp {
    found: Result<Found, io::ErrorKind>,
    /// A change that came right after could leave the same stamp.
    fresh: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Found {
    id: (u64, u64),
    length: u64,
    modified: Option<SystemTime>,
    /// Unix' `ctime`, which no program can set back.
    changed: (i64, i64),
}

impl FileStamp {
    /// Looks at what `path` leads to now.
    pub fn of(path: &Path) -> Self {
        let found = fs::metadata(path).map(|it| Found {
            id: platform::id(&it),
            length: it.len(),
            modified: it.modified().ok(),
            changed: platform::changed(&it),
        });
        Self::at(found.map_err(|it| it.kind()), platform::now())
    }

    /// Where it could not be looked at.
    pub fn unknown() -> Self {
        Self {
            found: Err(io::ErrorKind::TimedOut),
            fresh: true,
        }
    }

    fn at(found: Result<Found, io::ErrorKind>, now: SystemTime) -> Self {
        let fresh = found.as_ref().is_ok_and(|it| {
            let changed = u64::try_from(it.changed.0).unwrap_or_default();
            let changed = SystemTime::UNIX_EPOCH + Duration::from_secs(changed);
            let newest = it.modified.map_or(changed, |it| it.max(changed));
            // One from the future too: the clocks differ.
            now.duration_since(newest).is_ok_and(|it| it < TICK) || newest > now
        });
        Self { found, fresh }
    }

    /// Whether what was read after `self` was taken is what is there at the time of `now`. A file that was changed just
    /// before `self` may have changed again without a trace: then nothing is sure.
    pub fn is_surely(&self, now: &Self) -> bool {
        !self.fresh && self.found == now.found
    }
}

#[cfg(unix)]
mod platform {
    use std::{fs::Metadata, os::unix::fs::MetadataExt, time::SystemTime};

    pub(super) fn id(it: &Metadata) -> (u64, u64) {
        (it.dev(), it.ino())
    }

    pub(super) fn changed(it: &Metadata) -> (i64, i64) {
        (it.ctime(), it.ctime_nsec())
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "compared with times that the file system wrote by the same clock"
    )]
    pub(super) fn now() -> SystemTime {
        SystemTime::now()
    }
}

#[cfg(not(unix))]
mod platform {
    use std::{fs::Metadata, time::SystemTime};

    /// Not told through the standard library; time and length must do.
    pub(super) fn id(_: &Metadata) -> (u64, u64) {
        (0, 0)
    }

    pub(super) fn changed(_: &Metadata) -> (i64, i64) {
        (0, 0)
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "compared with times that the file system wrote by the same clock"
    )]
    pub(super) fn now() -> SystemTime {
        SystemTime::now()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(length: u64, second: i64) -> Found {
        Found {
            id: (1, 2),
            length,
            modified: None,
            changed: (second, 0),
        }
    }

    fn at(second: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(second)
    }

    #[test]
    fn c2_only_an_old_file_is_known_by_its_stamp() {
        let old = |now| FileStamp::at(Ok(found(7, 100)), at(now));
        assert!(old(103).is_surely(&old(200)));
        assert!(!old(102).is_surely(&old(200)), "a tick may hide a change");
        assert!(!old(90).is_surely(&old(200)), "another clock wrote it");
        let longer = FileStamp::at(Ok(found(8, 100)), at(200));
        assert!(!old(103).is_surely(&longer));
        let later = FileStamp::at(Ok(found(7, 101)), at(200));
        assert!(!old(103).is_surely(&later));
        let none = FileStamp::at(Err(io::ErrorKind::NotFound), at(200));
        assert!(none.is_surely(&none.clone()) && !none.is_surely(&old(103)));
    }
}
