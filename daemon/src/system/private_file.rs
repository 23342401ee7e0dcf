//! Secrets in files of their owner: read whole, if nobody else can.

use std::{fs::File, io, io::Read, path::Path};

use zeroize::Zeroizing;

use super::plain_file;

/// Why a secret was not read.
#[derive(Debug, thiserror::Error)]
pub enum PrivateFileError {
    /// It cannot be opened or read.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// A folder, a pipe, a device.
    #[error("it is not a file")]
    NotAFile,
    /// No secret is that long.
    #[error("it is longer than {0} bytes")]
    TooLong(u64),
    /// Others can read or change it.
    #[error("others can read it")]
    Open,
    /// It belongs to this user, who is neither us nor root.
    #[error("it belongs to another user (uid {0})")]
    Owner(u32),
}

/// The contents of `path`, at most `most` bytes of them.
pub fn read(path: &Path, most: u64) -> Result<Zeroizing<Vec<u8>>, PrivateFileError> {
    let file = plain_file::open(path)?;
    let found = file.metadata()?;
    if !found.is_file() {
        return Err(PrivateFileError::NotAFile);
    }
    platform::judge(&file, &found)?;
    read_all(file, most)
}

fn read_all(file: File, most: u64) -> Result<Zeroizing<Vec<u8>>, PrivateFileError> {
    // As long as it gets: growing would leave copies of the secret behind.
    let room = usize::try_from(most)
        .unwrap_or(usize::MAX)
        .saturating_add(1);
    let mut res = Zeroizing::new(Vec::with_capacity(room));
    file.take(most + 1).read_to_end(&mut res)?;
    if res.len() as u64 > most {
        return Err(PrivateFileError::TooLong(most));
    }
    Ok(res)
}

#[cfg(unix)]
mod platform {
    use std::{
        fs::{File, Metadata},
        os::unix::fs::MetadataExt,
    };

    use rustix::fs::{StatVfsMountFlags, fstatvfs};

    use super::PrivateFileError;

    pub(super) fn judge(file: &File, found: &Metadata) -> Result<(), PrivateFileError> {
        let owner = found.uid();
        if owner != 0 && owner != rustix::process::geteuid().as_raw() {
            return Err(PrivateFileError::Owner(owner));
        }
        // Secrets that are mounted into a container come with any mode; they can only be read there.
        let mounted =
            || fstatvfs(file).is_ok_and(|it| it.f_flag.contains(StatVfsMountFlags::RDONLY));
        if found.mode() & 0o077 != 0 && !mounted() {
            return Err(PrivateFileError::Open);
        }
        Ok(())
    }
}

#[cfg(not(unix))]
mod platform {
    use std::fs::{File, Metadata};

    use super::PrivateFileError;

    /// Who may read there is a matter of access lists, which keep a profile's folders to their owner.
    pub(super) fn judge(_: &File, _: &Metadata) -> Result<(), PrivateFileError> {
        Ok(())
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;

    #[test]
    fn a_secret_is_read_only_from_a_file_that_is_closed_to_others() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        fs::write(&path, "canary").unwrap();
        for (mode, good) in [
            (0o600, true),
            (0o400, true),
            (0o640, false),
            (0o604, false),
            (0o622, false),
        ] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            match read(&path, 6) {
                Ok(it) => assert!(good && **it == *b"canary", "{mode:o}"),
                Err(PrivateFileError::Open) => assert!(!good, "{mode:o}"),
                Err(other) => panic!("{mode:o}: {other}"),
            }
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(matches!(read(&path, 5), Err(PrivateFileError::TooLong(5))));
        assert!(matches!(
            read(folder.path(), 5),
            Err(PrivateFileError::NotAFile)
        ));
        let gone = read(&folder.path().join("gone"), 5);
        assert!(matches!(gone, Err(PrivateFileError::Io(_))));
    }

    #[test]
    fn a_secret_of_another_user_is_refused() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: needs root");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        fs::write(&path, "canary").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        std::os::unix::fs::chown(&path, Some(65534), None).unwrap();
        assert!(matches!(
            read(&path, 9),
            Err(PrivateFileError::Owner(65534))
        ));
    }
}
