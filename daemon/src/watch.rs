//! "The file may have changed", settled.
//!
//! What a path leads to changes when an entry changes in any folder on the way there, symlinks included. So each of
//! these folders is watched, never the file itself: that would be lost with the first rename. Knows paths and folders;
//! must not know what stands in the file. Whoever is told compares the content.

#[cfg(target_os = "linux")]
#[path = "watch/inotify.rs"]
mod eyes;
#[cfg(not(target_os = "linux"))]
#[path = "watch/notified.rs"]
mod eyes;
mod way;

use std::{path::PathBuf, sync::Arc, time::Duration};

use tokio::{
    sync::Notify,
    time::{Instant, sleep, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;

use eyes::{Eyes, Make};

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
    watch_with(path, changed, stop, eyes::make).await;
}

async fn watch_with(path: PathBuf, changed: Arc<Notify>, stop: CancellationToken, make: Make) {
    let mut eyes = Eyes::new(make);
    let mut warned = false;
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
                        error
                    );
                    warned = true;
                }
                true
            }
            Err(_panicked) => {
                eyes = Eyes::new(make);
                true
            }
        };
        changed.notify_one();
        tokio::select! {
            () = settled(&mut eyes) => {}
            () = sleep(LOOK), if blind => {}
            () = stop.cancelled() => return,
        }
    }
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
