//! Watches on one way, by what each system offers.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use notify::{
    Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher,
    event::{AccessKind, AccessMode},
};
use tokio::sync::Notify;

use crate::system::file_id::FileId;

use super::{
    MOST_WALKS,
    path::{Kind, LookupPath, resolve},
};

/// How to come by a watcher that tells events to this.
pub type Make =
    fn(Box<dyn FnMut(notify::Result<Event>) + Send>) -> notify::Result<RecommendedWatcher>;

/// The usual way.
pub fn make(
    handler: Box<dyn FnMut(notify::Result<Event>) + Send>,
) -> notify::Result<RecommendedWatcher> {
    notify::recommended_watcher(handler)
}

/// The watches on one way.
pub struct PathWatcher {
    happened: Arc<Notify>,
    watcher: Option<RecommendedWatcher>,
    watched: BTreeMap<PathBuf, Option<FileId>>,
    make: Make,
}

impl PathWatcher {
    /// Returns a watcher that watches nothing yet.
    pub fn new(make: Make) -> Self {
        Self {
            happened: Arc::new(Notify::new()),
            watcher: None,
            watched: BTreeMap::new(),
            make,
        }
    }

    /// Walks the way and watches every folder on it for its entries, until the way is the same after as before. An error means that
    /// changes may go unnoticed.
    pub fn look(&mut self, path: &Path) -> Result<(), String> {
        let mut way = resolve(path);
        for _ in 0..MOST_WALKS {
            let res = self.follow(&way);
            let after = resolve(path);
            if after == way {
                return res.map_err(|it| control::text::clean(&it.to_string(), 200));
            }
            way = after;
        }
        // It is changing all the time: the next event is near.
        let res = self.follow(&way);
        res.map_err(|it| control::text::clean(&it.to_string(), 200))
    }

    fn follow(&mut self, way: &LookupPath) -> notify::Result<()> {
        let watcher = match &mut self.watcher {
            Some(it) => it,
            none => {
                let happened = Arc::clone(&self.happened);
                none.insert((self.make)(Box::new(move |event| {
                    if matters(&event) {
                        happened.notify_one();
                    }
                }))?)
            }
        };
        let gone = |name: &PathBuf, id: &Option<FileId>| {
            way.get(name).is_none_or(|folder| folder.id != *id)
        };
        let old: Vec<PathBuf> = self
            .watched
            .iter()
            .filter(|(name, id)| gone(name, id))
            .map(|it| it.0.clone())
            .collect();
        for name in old {
            self.watched.remove(&name);
            // It fails where the folder is no more, and with it the watch.
            let _ = watcher.unwatch(&name);
        }
        let mut res = Ok(());
        for (name, folder) in way.iter().filter(|it| it.1.kind == Kind::Folder) {
            // Asked again, a watch would end and start again.
            if self.watched.contains_key(name) {
                continue;
            }
            match watcher.watch(name, RecursiveMode::NonRecursive) {
                Ok(()) => {
                    self.watched.insert(name.clone(), folder.id);
                }
                Err(error) => res = Err(error),
            }
        }
        res
    }

    /// Returns once something happened that may be about the file. Cancel-safe.
    pub async fn happened(&mut self) {
        self.happened.notified().await;
    }
}

/// Whether an event may be about the file. Reading is not: we do that ourselves. These systems name paths in their own
/// spelling, and may tell of a whole folder at once: names say nothing.
fn matters(event: &notify::Result<Event>) -> bool {
    let Ok(event) = event else { return true };
    match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => true,
        EventKind::Access(_) => false,
        _ => true,
    }
}
