//! Folders of their owner, for secrets and sockets.

use std::{fs, io, path::Path};

/// Makes `folder` if it is missing, for its owner only. One of ours that others may use is closed to them, and that is
/// returned in words; one of somebody else's is refused (A11). `Err`: what is wrong with it, behind its name.
pub fn make(folder: &Path) -> Result<Option<String>, String> {
    let cannot = |it: io::Error| format!("cannot be made: {it}");
    if let Some(parent) = folder.parent() {
        fs::create_dir_all(parent).map_err(cannot)?;
    }
    match platform::create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(cannot(error)),
        _ => (),
    }
    let meta = fs::symlink_metadata(folder).map_err(|it| format!("cannot be looked at: {it}"))?;
    if !meta.is_dir() {
        return Err("is not a folder; move it away".to_owned());
    }
    platform::close(folder, &meta)
}

#[cfg(unix)]
mod platform {
    use std::{
        fs::{self, DirBuilder, Metadata, Permissions},
        io,
        os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
        path::Path,
    };

    pub(super) fn create(folder: &Path) -> io::Result<()> {
        DirBuilder::new().mode(0o700).create(folder)
    }

    pub(super) fn close(folder: &Path, meta: &Metadata) -> Result<Option<String>, String> {
        match meta.uid() {
            it if it == rustix::process::geteuid().as_raw() => {}
            0 => return Err("belongs to root".to_owned()),
            other => return Err(format!("belongs to uid {other}")),
        }
        if meta.mode() & 0o077 == 0 {
            return Ok(None);
        }
        fs::set_permissions(folder, Permissions::from_mode(0o700))
            .map_err(|it| format!("is open to others and cannot be closed: {it}"))?;
        Ok(Some(format!(
            "{} was open to other users; it is closed now",
            folder.display()
        )))
    }
}

/// Access lists keep a profile's folders to their owner, and what is made in them inherits that.
#[cfg(not(unix))]
mod platform {
    use std::{
        fs::{self, Metadata},
        io,
        path::Path,
    };

    pub(super) fn create(folder: &Path) -> io::Result<()> {
        fs::create_dir(folder)
    }

    pub(super) fn close(_: &Path, _: &Metadata) -> Result<Option<String>, String> {
        Ok(None)
    }
}
