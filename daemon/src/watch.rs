//! "The file may have changed", settled.
//!
//! What a path leads to changes when something on the way there does: a folder, a symlink, the file. So all of these are
//! watched, and the way is walked anew after each change, when the mounts change, and with each reload that somebody asks
//! for. Knows paths and folders; must not know what stands in the file. Whoever is told compares the content.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{Notify, watch::Receiver, watch::Sender},
    time::{Instant, sleep, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;

use crate::system::path_watch::{self, Make, PathWatcher};

/// How long nothing must have happened: an editor is done with its renames by then.
pub const QUIET: Duration = Duration::from_millis(200);
/// After so long it is told even if it does not become quiet.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often to look where the system does not tell.
const LOOK: Duration = Duration::from_secs(5);

/// The watch's side of what it and the reader of the file tell each other.
#[derive(Debug)]
pub struct Watch {
    /// Told after the file may have changed.
    pub changed: Arc<Notify>,
    /// Tells to walk the way anew.
    pub walk: Arc<Notify>,
    /// The file cannot be read or trusted now. What stands in the way may be a mode, a mount, a server: it is looked at
    /// every 5 s then.
    pub unreadable: Receiver<bool>,
    /// Why changes may go unnoticed, if they may.
    pub trouble: Sender<Option<String>>,
}

/// Tells after the file at `path` may have changed, until `stop`: also where it was made, replaced or removed, or any
/// folder or symlink on the way to it. Once also at the start, when nothing can be missed any more. Where the system
/// cannot tell of changes it tells every 5 s.
pub async fn watch(path: PathBuf, with: Watch, stop: CancellationToken) {
    let path = std::path::absolute(&path).unwrap_or(path);
    watch_with(path, with, stop, path_watch::make).await;
}

async fn watch_with(path: PathBuf, mut with: Watch, stop: CancellationToken, make: Make) {
    let mut watcher = PathWatcher::new(make);
    loop {
        let target = path.clone();
        // Folders may be far away.
        let looked = tokio::task::spawn_blocking(move || {
            let res = watcher.look(&target);
            (watcher, res)
        });
        let res = tokio::select! {
            it = looked => it,
            () = stop.cancelled() => return,
        };
        let res = match res {
            Ok((back, res)) => {
                watcher = back;
                res
            }
            Err(panic) => {
                watcher = PathWatcher::new(make);
                Err(panic.to_string())
            }
        };
        let blind = res.is_err();
        tell(&path, &with.trouble, res);
        with.changed.notify_one();
        let unreadable = *with.unreadable.borrow_and_update();
        tokio::select! {
            () = settled(&mut watcher) => {}
            () = with.walk.notified() => {}
            Ok(()) = with.unreadable.changed() => {}
            () = sleep(LOOK), if blind || unreadable => {}
            () = stop.cancelled() => return,
        }
    }
}

/// Says once what is wrong with watching, and that it is right again.
fn tell(path: &Path, trouble: &Sender<Option<String>>, looked: Result<(), String>) {
    let now = looked.err().map(|why| {
        format!(
            "cannot watch {} for changes, so it is read every {} s: {why}",
            path.display(),
            LOOK.as_secs()
        )
    });
    trouble.send_if_modified(|before| {
        if *before == now {
            return false;
        }
        match &now {
            Some(now) => tracing::warn!("{now}"),
            None => tracing::info!("changes of {} are told again", path.display()),
        }
        *before = now;
        true
    });
}

/// Waits until something happened, and then until nothing more does.
async fn settled(watcher: &mut PathWatcher) {
    watcher.happened().await;
    let end = Instant::now() + PATIENCE;
    let quiet = async { while timeout(QUIET, watcher.happened()).await.is_ok() {} };
    // Whether it became quiet or patience ended: it is told.
    let _ = timeout_at(end, quiet).await;
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests;
