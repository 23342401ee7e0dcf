//! Watches on one way, by Linux' inotify.
//!
//! Each folder, symlink and file of the way tells by itself that it was moved, removed or replaced, so no folder is
//! asked for its entries: the kernel wakes us for nothing that is read or written beside the way. Only where something
//! is missing the folder that would hold it is asked what comes. What is mounted over the way is told by the list of
//! mounts; file systems that other machines write to do not tell at all, which [`PathWatcher::look`] says.

use std::{
    collections::BTreeMap,
    fs::File,
    future::pending,
    io,
    path::{Path, PathBuf},
};

use futures_util::StreamExt;
use inotify::{EventMask, EventOwned, EventStream, Inotify, WatchDescriptor, WatchMask};
use rustix::{fs::statfs, io::Errno};
use tokio::io::{Interest, unix::AsyncFd};

use super::{
    MOST_WALKS,
    path::{Kind, LookupPath, PathNode, resolve},
};

/// What is watched is no longer where it was.
const SELF: WatchMask = WatchMask::DELETE_SELF
    .union(WatchMask::MOVE_SELF)
    .union(WatchMask::DONT_FOLLOW);
/// The file is written, its mode changes, or one of its names goes: another file was put in its place.
const CONTENT: WatchMask = WatchMask::MODIFY
    .union(WatchMask::CLOSE_WRITE)
    .union(WatchMask::ATTRIB);
/// An entry comes or goes.
const ENTRIES: WatchMask = WatchMask::CREATE
    .union(WatchMask::DELETE)
    .union(WatchMask::MOVE);
/// The mounts that this process sees.
const MOUNTS: &str = "/proc/self/mountinfo";
/// What is read of events at once, in bytes.
const READ: usize = 4096;

/// How to come by an inotify.
pub type Make = fn() -> io::Result<Inotify>;

/// The usual way.
pub fn make() -> io::Result<Inotify> {
    Inotify::init()
}

/// The watches on one way.
pub struct PathWatcher {
    make: Make,
    events: Option<EventStream<Vec<u8>>>,
    /// Readable as urgent once something was mounted or unmounted; `None` where the system does not tell.
    mounts: Option<AsyncFd<File>>,
    watched: Watched,
    /// How many events there were.
    #[cfg(test)]
    heard: usize,
}

/// What is watched, however often the way leads through it.
type Watched = BTreeMap<WatchDescriptor, Vec<PathNode>>;

impl PathWatcher {
    /// Returns a watcher that watches nothing yet.
    pub fn new(make: Make) -> Self {
        Self {
            make,
            events: None,
            mounts: None,
            watched: Watched::new(),
            #[cfg(test)]
            heard: 0,
        }
    }

    #[cfg(test)]
    pub(crate) fn heard(&self) -> usize {
        self.heard
    }

    /// Walks the way and watches everything on it, until the way is the same after as before. An error means that
    /// changes may go unnoticed.
    pub fn look(&mut self, path: &Path) -> Result<(), String> {
        if self.mounts.is_none() {
            self.mounts = watch_mounts().ok();
        }
        let mut way = resolve(path);
        for _ in 0..MOST_WALKS {
            let res = self.follow(&way);
            let after = resolve(path);
            if after == way {
                res.map_err(|it| explain(&it))?;
                return way
                    .keys()
                    .map(PathBuf::as_path)
                    .find_map(silent)
                    .map_or(Ok(()), Err);
            }
            way = after;
        }
        // It is changing all the time: the next event is near.
        self.follow(&way).map_err(|it| explain(&it))
    }

    fn follow(&mut self, way: &LookupPath) -> io::Result<()> {
        let mut watches = match &self.events {
            Some(it) => it.watches(),
            None => {
                let events = (self.make)()?.into_event_stream(vec![0; READ])?;
                self.events.insert(events).watches()
            }
        };
        let mut res = Ok(());
        let mut watched = Watched::new();
        for (path, spot) in way {
            // A later mask replaces an earlier one: the way may lead to the same thing by several paths.
            let same = way.values().filter(|it| it.id == spot.id);
            let asked = same.map(mask).fold(WatchMask::empty(), WatchMask::union);
            // Also where there is a watch, which answers for itself: a new folder may have the number of the one that it
            // replaces.
            match watches.add(path, asked) {
                Ok(it) => watched.entry(it).or_default().push(spot.clone()),
                Err(error) => res = Err(error),
            }
        }
        let old = std::mem::replace(&mut self.watched, watched);
        for (it, _) in old {
            if !self.watched.contains_key(&it) {
                // It fails where the folder is no more, and with it the watch.
                let _ = watches.remove(it);
            }
        }
        res
    }

    /// Returns once something happened that may be about the file. Cancel-safe.
    pub async fn happened(&mut self) {
        let mounts = mounts_changed(&self.mounts);
        let Some(events) = &mut self.events else {
            return mounts.await;
        };
        tokio::pin!(mounts);
        loop {
            let event = tokio::select! {
                event = events.next() => event,
                () = &mut mounts => return,
            };
            #[cfg(test)]
            {
                self.heard += 1;
            }
            match event {
                Some(Ok(event)) if !matters(&self.watched, &event) => {}
                // Of an error too: whoever looks again finds what it hid.
                Some(_) => return,
                None => return mounts.await,
            }
        }
    }
}

async fn mounts_changed(mounts: &Option<AsyncFd<File>>) {
    let Some(mounts) = mounts else {
        return pending().await;
    };
    match mounts.ready(Interest::PRIORITY).await {
        Ok(mut ready) => ready.clear_ready(),
        Err(_) => pending().await,
    }
}

#[expect(
    deprecated,
    reason = "what is in its place is unsafe, for the sake of types that change or share their descriptor: a file does not"
)]
fn watch_mounts() -> io::Result<AsyncFd<File>> {
    AsyncFd::with_interest(File::open(MOUNTS)?, Interest::PRIORITY)
}

fn mask(spot: &PathNode) -> WatchMask {
    let mut res = SELF;
    match spot.kind {
        Kind::Folder => res |= WatchMask::ONLYDIR,
        // It loses its name where another one is put in its place.
        Kind::Link(_) => res |= WatchMask::ATTRIB,
        Kind::File => res |= CONTENT,
    }
    if spot.last {
        res |= WatchMask::ATTRIB;
    }
    if !spot.awaited.is_empty() {
        res |= ENTRIES | WatchMask::ATTRIB;
    }
    if !spot.held.is_empty() {
        res |= WatchMask::DELETE;
    }
    res
}

fn matters(watched: &Watched, event: &EventOwned) -> bool {
    if event.mask.contains(EventMask::Q_OVERFLOW) {
        return true;
    }
    // A watch that was given up has its last word.
    let Some(spots) = watched.get(&event.wd) else {
        return false;
    };
    // Without a name it is about the folder, link or file itself.
    let name = event.name.as_ref();
    name.is_none_or(|name| spots.iter().any(|it| it.needs(name)))
}

/// Why changes at `path` may go unnoticed: a file system that others write to, past this machine's kernel.
fn silent(path: &Path) -> Option<String> {
    let kind = silent_kind(u64::try_from(statfs(path).ok()?.f_type).unwrap_or_default())?;
    let path = control::text::clean(&path.display().to_string(), 200);
    Some(format!(
        "{path} is on {kind}, which does not tell of changes that are made elsewhere"
    ))
}

/// By the numbers of `statfs(2)` and the kernel's `linux/magic.h`.
fn silent_kind(magic: u64) -> Option<&'static str> {
    Some(match magic & 0xffff_ffff {
        0x6969 => "NFS",
        0x517b | 0xff53_4d42 | 0xfe53_4d42 => "SMB",
        0x6573_5546 => "FUSE",
        0x0102_1997 => "9P",
        0x00c3_6400 => "Ceph",
        0x5346_414f | 0x6b41_4653 => "AFS",
        0x7375_7245 => "Coda",
        0x0bd0_0bd0 => "Lustre",
        0x4750_4653 => "GPFS",
        0x0116_1970 => "GFS2",
        0x7461_636f => "OCFS2",
        0x2003_0528 => "OrangeFS",
        0xbacb_acbc => "a VMware shared folder",
        0x786f_4256 => "a VirtualBox shared folder",
        0x7c7c_6673 => "a Parallels shared folder",
        _ => return None,
    })
}

/// The kernel says "no space left on device" for a limit on watches.
fn explain(error: &io::Error) -> String {
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::NOSPC) => "the limit fs.inotify.max_user_watches is reached".to_owned(),
        Some(Errno::MFILE) => {
            "the limit fs.inotify.max_user_instances or on open files is reached".to_owned()
        }
        _ => control::text::clean(&error.to_string(), 200),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c7_file_systems_that_others_write_to_are_known_and_local_ones_tell() {
        for (magic, kind) in [
            (0x6969, Some("NFS")),
            (0xff53_4d42, Some("SMB")),
            (0x6573_5546, Some("FUSE")),
            (0x0102_1997, Some("9P")),
            // ext4, btrfs, xfs, tmpfs, overlay, zfs
            (0xef53, None),
            (0x9123_683e, None),
            (0x5846_5342, None),
            (0x0102_1994, None),
            (0x794c_7630, None),
            (0x2fc1_2fc1, None),
        ] {
            assert_eq!(silent_kind(magic), kind, "{magic:x}");
        }
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(silent(&dir.path().join("no such")), None);
    }
}
