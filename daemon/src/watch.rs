//! "The file may have changed", settled.
//!
//! What a path leads to changes when something on the way there does: a folder, a symlink, the file. So all of these are
//! watched, and the way is walked anew after each change, when the mounts change, and with each reload that somebody asks
//! for. Knows paths and folders; must not know what stands in the file. Whoever is told compares the content.

#[cfg(target_os = "linux")]
#[path = "watch/inotify.rs"]
mod eyes;
#[cfg(not(target_os = "linux"))]
#[path = "watch/notified.rs"]
mod eyes;
mod path;

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

use eyes::{Eyes, Make};

/// How long nothing must have happened: an editor is done with its renames by then.
pub const QUIET: Duration = Duration::from_millis(200);
/// After so long it is told even if it does not become quiet.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often to look where the system does not tell.
const LOOK: Duration = Duration::from_secs(5);
/// How often the way may change under our eyes before we go on with what we have.
const MOST_WALKS: usize = 8;

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
    watch_with(path, with, stop, eyes::make).await;
}

async fn watch_with(path: PathBuf, mut with: Watch, stop: CancellationToken, make: Make) {
    let mut eyes = Eyes::new(make);
    loop {
        let target = path.clone();
        // Folders may be far away.
        let looked = tokio::task::spawn_blocking(move || {
            let res = eyes.look(&target);
            (eyes, res)
        });
        let res = tokio::select! {
            it = looked => it,
            () = stop.cancelled() => return,
        };
        let res = match res {
            Ok((back, res)) => {
                eyes = back;
                res
            }
            Err(panic) => {
                eyes = Eyes::new(make);
                Err(panic.to_string())
            }
        };
        let blind = res.is_err();
        tell(&path, &with.trouble, res);
        with.changed.notify_one();
        let unreadable = *with.unreadable.borrow_and_update();
        tokio::select! {
            () = settled(&mut eyes) => {}
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
async fn settled(eyes: &mut Eyes) {
    eyes.happened().await;
    let end = Instant::now() + PATIENCE;
    let quiet = async { while timeout(QUIET, eyes.happened()).await.is_ok() {} };
    // Whether it became quiet or patience ended: it is told.
    let _ = timeout_at(end, quiet).await;
}

#[cfg(target_os = "linux")]
#[cfg(test)]
mod tests;
