//! Opening what should be a plain file, whatever it is.

use std::{
    fs::{File, OpenOptions},
    io,
    path::Path,
};

/// Opens `path` for reading. Does not wait: opening a pipe would wait for its writer. What it is, only a look at the
/// open file tells.
pub fn open(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;

        use rustix::fs::OFlags;

        let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
        options.custom_flags(flags.bits().cast_signed());
    }
    // Windows opens no folder as a file: it would only say that access is denied.
    options.read(true).open(path)
}

/// Returns options that make a file for its owner alone, follow no link in its place and wait for no other end of a pipe.
#[cfg(unix)]
pub fn private() -> OpenOptions {
    use std::os::unix::fs::OpenOptionsExt;

    use rustix::fs::OFlags;

    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let mut options = File::options();
    options.mode(0o600).custom_flags(flags.bits().cast_signed());
    options
}

/// Returns plain options: a folder of the user's profile is closed to others by inheritance.
#[cfg(not(unix))]
pub fn private() -> OpenOptions {
    File::options()
}

/// Writes the mode of a file as a person knows it: ` (mode 0644)`, or nothing where the system has no modes.
pub fn mode(metadata: &std::fs::Metadata) -> String {
    imp::mode(metadata)
}

/// Whether others than its owner may read the file. Secrets that are mounted read-only into a container come with any
/// mode; they count as closed.
pub fn is_open_to_others(file: &File, metadata: &std::fs::Metadata) -> bool {
    imp::is_open_to_others(file, metadata)
}

#[cfg(unix)]
mod imp {
    use std::{
        fs::{File, Metadata},
        os::unix::fs::MetadataExt,
    };

    use rustix::fs::{StatVfsMountFlags, fstatvfs};

    pub(super) fn mode(metadata: &Metadata) -> String {
        format!(" (mode {:04o})", metadata.mode() & 0o7777)
    }

    pub(super) fn is_open_to_others(file: &File, metadata: &Metadata) -> bool {
        let mounted =
            || fstatvfs(file).is_ok_and(|it| it.f_flag.contains(StatVfsMountFlags::RDONLY));
        metadata.mode() & 0o077 != 0 && !mounted()
    }
}

#[cfg(not(unix))]
mod imp {
    use std::fs::{File, Metadata};

    pub(super) fn mode(_: &Metadata) -> String {
        String::new()
    }

    /// Who may read there is a matter of access lists, which keep a profile's folders to their owner.
    pub(super) fn is_open_to_others(_: &File, _: &Metadata) -> bool {
        false
    }
}
