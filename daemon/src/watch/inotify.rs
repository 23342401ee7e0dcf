//! Watches on one way, by Linux' inotify. A folder is asked only for what can change the way: the kernel wakes us for
//! nothing that is read there, and on the way to the file's folder for nothing that is written.

use std::{collections::BTreeMap, future::pending, io, path::Path};

use futures_util::StreamExt;
use inotify::{EventMask, EventOwned, EventStream, Inotify, WatchDescriptor, WatchMask};
use rustix::io::Errno;

use super::{
    MOST_WALKS,
    way::{Folder, Way, walk},
};

/// An entry comes, goes or leads elsewhere, or the folder itself does.
const ENTRIES: WatchMask = WatchMask::CREATE
    .union(WatchMask::DELETE)
    .union(WatchMask::MOVE)
    .union(WatchMask::DELETE_SELF)
    .union(WatchMask::MOVE_SELF)
    .union(WatchMask::ONLYDIR);
/// In the folder of the file also: it is written in its place, or its mode or the folder's changes.
const CONTENT: WatchMask = WatchMask::MODIFY
    .union(WatchMask::CLOSE_WRITE)
    .union(WatchMask::ATTRIB);
/// What is read of events at once, in bytes.
const READ: usize = 4096;

/// How to come by an inotify.
pub(super) type Make = fn() -> io::Result<Inotify>;

/// The usual way.
pub(super) fn make() -> io::Result<Inotify> {
    Inotify::init()
}

/// The watches on one way.
pub(super) struct Eyes {
    make: Make,
    events: Option<EventStream<Vec<u8>>>,
    watched: Watched,
}

/// What matters in each folder, however often the way leads through it.
type Watched = BTreeMap<WatchDescriptor, Vec<Folder>>;

impl Eyes {
    pub(super) fn new(make: Make) -> Self {
        Self {
            make,
            events: None,
            watched: Watched::new(),
        }
    }

    /// Walks the way and watches every folder on it, until the way is the same after as before. An error means that
    /// changes may go unnoticed.
    pub(super) fn look(&mut self, path: &Path) -> Result<(), String> {
        let mut way = walk(path);
        for _ in 0..MOST_WALKS {
            let res = self.follow(&way);
            let after = walk(path);
            if after == way {
                return res.map_err(|it| explain(&it));
            }
            way = after;
        }
        // It is changing all the time: the next event is near.
        self.follow(&way).map_err(|it| explain(&it))
    }

    fn follow(&mut self, way: &Way) -> io::Result<()> {
        let mut watches = match &self.events {
            Some(it) => it.watches(),
            None => {
                let events = (self.make)()?.into_event_stream(vec![0; READ])?;
                self.events.insert(events).watches()
            }
        };
        let mut res = Ok(());
        let mut watched = Watched::new();
        for (name, folder) in way {
            let holds_file = way.values().any(|it| it.id == folder.id && it.last);
            let asked = match holds_file {
                true => ENTRIES.union(CONTENT),
                false => ENTRIES,
            };
            // Also where there is a watch, which answers for itself: a new folder may have the number of the one that it
            // replaces.
            match watches.add(name, asked) {
                Ok(it) => watched.entry(it).or_default().push(folder.clone()),
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
    pub(super) async fn happened(&mut self) {
        let Some(events) = &mut self.events else {
            return pending().await;
        };
        loop {
            match events.next().await {
                Some(Ok(event)) if !matters(&self.watched, &event) => {}
                // Of an error too: whoever looks again finds what it hid.
                Some(_) => return,
                None => return pending().await,
            }
        }
    }
}

fn matters(watched: &Watched, event: &EventOwned) -> bool {
    if event.mask.contains(EventMask::Q_OVERFLOW) {
        return true;
    }
    // A watch that was given up has its last word.
    let Some(folders) = watched.get(&event.wd) else {
        return false;
    };
    // Without a name it is about the folder itself.
    let name = event.name.as_ref();
    name.is_none_or(|name| folders.iter().any(|it| it.matters(name)))
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
