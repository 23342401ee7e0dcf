//! Opening what should be a plain file, whatever it is.

use std::{fs::File, io, path::Path};

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
