//! Watches on everything that the system looks up when it opens one path: folders, symlinks and the file.
//!
//! Knows paths and folders. Must not know what stands in the file.

#[cfg(target_os = "linux")]
#[path = "inotify.rs"]
mod imp;
#[cfg(not(target_os = "linux"))]
#[path = "notified.rs"]
mod imp;
mod path;

pub use imp::{Make, PathWatcher, make};

/// How often the path may change while it is looked at before the watcher takes what it has.
const MOST_WALKS: usize = 8;
