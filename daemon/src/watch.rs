//! "The file may have changed", settled.
//!
//! What a path leads to changes when an entry changes in any folder on the way there, symlinks included. So each of
//! these folders is watched, never the file itself: that would be lost with the first rename. Knows paths and folders;
//! must not know what stands in the file. Whoever is told compares the content.

mod way;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use notify::{Event, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;

use way::{Way, matters, walk};

/// How long nothing must have happened: an editor is done with its renames by then.
const QUIET: Duration = Duration::from_millis(200);
/// After so long it is told even if it does not become quiet.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often to look where the system does not tell.
const LOOK: Duration = Duration::from_secs(5);
/// How often the way may change under our eyes before we go on with what we have.
const MOST_WALKS: usize = 8;

/// Notifies `changed` after the file at `path` may have changed, until `stop`: also where it was made, replaced or
/// removed, or any folder or symlink on the way to it. Once also at the start, when nothing can be missed any more.
/// Where the system cannot tell of changes it notifies every 5 s.
pub async fn watch(path: PathBuf, changed: Arc<Notify>, stop: CancellationToken) {
    let path = std::path::absolute(&path).unwrap_or(path);
    watch_with(path, changed, stop, |handler| {
        notify::recommended_watcher(handler)
    })
    .await;
}

/// How to come by a watcher that tells events to this.
type Make = fn(Box<dyn FnMut(notify::Result<Event>) + Send>) -> notify::Result<RecommendedWatcher>;

async fn watch_with(path: PathBuf, changed: Arc<Notify>, stop: CancellationToken, make: Make) {
    let happened = Arc::new(Notify::new());
    let mut eyes = Eyes::new(Arc::clone(&happened), make);
    let mut warned = false;
    loop {
        let target = path.clone();
        // Folders may be far away, and the watcher answers from a thread of its own.
        let looked = tokio::task::spawn_blocking(move || {
            let res = eyes.look(&target);
            (eyes, res)
        });
        let res = tokio::select! {
            it = looked => it,
            () = stop.cancelled() => return,
        };
        let blind = match res {
            Ok((back, Ok(()))) => {
                eyes = back;
                false
            }
            Ok((back, Err(error))) => {
                eyes = back;
                if !warned {
                    tracing::warn!(
                        "cannot watch {} for changes, so it is read every {} s: {}",
                        path.display(),
                        LOOK.as_secs(),
                        explain(&error)
                    );
                    warned = true;
                }
                true
            }
            Err(_panicked) => {
                eyes = Eyes::new(Arc::clone(&happened), make);
                true
            }
        };
        changed.notify_one();
        tokio::select! {
            () = settled(&happened) => {}
            () = sleep(LOOK), if blind => {}
            () = stop.cancelled() => return,
        }
    }
}

/// Waits until something happened, and then until nothing more does.
async fn settled(happened: &Notify) {
    happened.notified().await;
    let end = Instant::now() + PATIENCE;
    let quiet = async { while timeout(QUIET, happened.notified()).await.is_ok() {} };
    // Whether it became quiet or patience ended: it is told.
    let _ = timeout_at(end, quiet).await;
}

/// The kernel says "no space left on device" for a limit on watches.
fn explain(error: &notify::Error) -> String {
    match &error.kind {
        notify::ErrorKind::MaxFilesWatch => {
            "the limit fs.inotify.max_user_watches is reached".to_owned()
        }
        notify::ErrorKind::Io(it) if it.raw_os_error() == Some(24) => {
            "the limit fs.inotify.max_user_instances or on open files is reached".to_owned()
        }
        _ => control::text::clean(&error.to_string(), 200),
    }
}

/// The watches on one way.
struct Eyes {
    happened: Arc<Notify>,
    watcher: Option<RecommendedWatcher>,
    watched: BTreeMap<PathBuf, Option<(u64, u64)>>,
    /// What the watcher's thread judges events by.
    way: watch::Sender<Way>,
    make: Make,
}

impl Eyes {
    fn new(happened: Arc<Notify>, make: Make) -> Self {
        Self {
            happened,
            watcher: None,
            watched: BTreeMap::new(),
            way: watch::Sender::new(Way::new()),
            make,
        }
    }

    /// Walks the way and watches every folder on it, until the way is the same after as before. An error means that
    /// changes may go unnoticed.
    fn look(&mut self, path: &Path) -> notify::Result<()> {
        let mut way = walk(path);
        for _ in 0..MOST_WALKS {
            let res = self.follow(&way);
            let after = walk(path);
            if after == way {
                return res;
            }
            way = after;
        }
        // It is changing all the time: the next event is near.
        self.follow(&way)
    }

    fn follow(&mut self, way: &Way) -> notify::Result<()> {
        self.way.send_replace(way.clone());
        let watcher = match &mut self.watcher {
            Some(it) => it,
            none => {
                let way = self.way.subscribe();
                let happened = Arc::clone(&self.happened);
                none.insert((self.make)(Box::new(move |event| {
                    if matters(&event, &way.borrow()) {
                        happened.notify_one();
                    }
                }))?)
            }
        };
        let gone = |name: &PathBuf, id: &Option<(u64, u64)>| {
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
        for (name, folder) in way {
            if !REPEAT && self.watched.contains_key(name) {
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
}

/// Whether to ask again for a watch that is there: a new folder may have the number of the one it replaces. Linux
/// answers with the same watch; elsewhere a watch would end and start again.
const REPEAT: bool = cfg!(target_os = "linux");

#[cfg(unix)]
#[cfg(test)]
mod tests;
