//! Which file a name or a descriptor leads to, as far as the system tells files apart.

use std::{
    fs::{self, File, Metadata},
    path::Path,
};

/// Tells a file from another one of the same name.
pub type FileId = (u64, u64);

/// Returns the id of the file that this is about.
#[cfg(unix)]
pub fn of(metadata: &Metadata) -> Option<FileId> {
    use std::os::unix::fs::MetadataExt;
    Some((metadata.dev(), metadata.ino()))
}

/// Returns the time when the file was made, which stands in for a number. Windows keeps a watched folder from being
/// replaced.
#[cfg(not(unix))]
pub fn of(metadata: &Metadata) -> Option<FileId> {
    let made = metadata.created().ok()?;
    let age = made.duration_since(std::time::UNIX_EPOCH).ok()?;
    Some((age.as_secs(), u64::from(age.subsec_nanos())))
}

/// Whether both descriptors are of one file.
pub fn is_same(one: &File, other: &File) -> bool {
    let id = |file: &File| file.metadata().ok().as_ref().and_then(of);
    id(one).is_some() && id(one) == id(other)
}

/// Whether both paths lead to one file.
pub fn is_same_path(one: &Path, other: &Path) -> bool {
    let id = |path: &Path| fs::metadata(path).ok().as_ref().and_then(of);
    id(one).is_some() && id(one) == id(other)
}
