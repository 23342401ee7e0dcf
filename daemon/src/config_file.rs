//! Reads the configuration's file, if it may be trusted: it can name commands, so nobody else may write it (A20).
//!
//! Knows files and modes. Must not know what stands in the file.

use std::{
    borrow::Cow,
    io::{self, Read},
    path::Path,
};

use pomd_core::config::MOST_BYTES;

use crate::system::{
    file_trust::{self, Opened},
    home::shown,
};

/// What was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    /// As it is on disk.
    pub bytes: Vec<u8>,
    /// What a person should hear about the file's mode, in sentences.
    pub warnings: Vec<String>,
}

/// Why the file cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// There is none. A valid start.
    #[error("there is no file {path}")]
    Absent {
        /// The file's name as a person knows it.
        path: String,
    },
    /// There is something, and it cannot be used until a person does something about it.
    #[error("{0}")]
    Unusable(String),
    /// The system refused.
    #[error("cannot read {path}: {source}")]
    Io {
        /// The file's name as a person knows it.
        path: String,
        /// What the system said.
        source: io::Error,
    },
}

impl Text {
    /// The text to show in a report; what is not UTF-8 is replaced.
    pub fn shown(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.bytes)
    }
}

/// Reads the whole file. Never waits for the other end of a pipe.
pub fn read(path: &Path) -> Result<Text, FileError> {
    let name = shown(path);
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => FileError::Absent { path: name.clone() },
        _ => FileError::Io {
            path: name.clone(),
            source,
        },
    };
    let Opened { file, findings } = file_trust::open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        let kind = if metadata.is_dir() {
            "a folder"
        } else {
            "not a file"
        };
        return Err(FileError::Unusable(format!(
            "{name} is {kind}: a configuration is a plain text file"
        )));
    }
    let warnings =
        file_trust::settle(&findings, "it can name commands").map_err(FileError::Unusable)?;
    let mut bytes = Vec::new();
    file.take(MOST_BYTES as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    if bytes.len() > MOST_BYTES {
        return Err(FileError::Unusable(format!(
            "{name} is larger than 1 MiB: is it a configuration at all?"
        )));
    }
    Ok(Text { bytes, warnings })
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{PermissionsExt, chown, symlink},
        path::PathBuf,
    };

    use tempfile::TempDir;

    use super::*;

    struct Place {
        dir: TempDir,
        file: PathBuf,
    }

    fn place() -> Place {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pomd.toml");
        fs::write(&file, "# x").unwrap();
        mode(&file, 0o644);
        Place { dir, file }
    }

    fn mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn refusal(path: &Path) -> String {
        read(path).unwrap_err().to_string()
    }

    #[test]
    fn a_file_of_ours_is_read_without_a_word() {
        let place = place();
        let text = read(&place.file).unwrap();
        assert_eq!(text.bytes, b"# x");
        assert_eq!(text.warnings, Vec::<String>::new());
    }

    #[test]
    fn no_file_is_told_apart_from_one_that_cannot_be_read() {
        let place = place();
        let gone = place.dir.path().join("none.toml");
        assert!(matches!(read(&gone), Err(FileError::Absent { .. })));
        let dangling = place.dir.path().join("link.toml");
        symlink("nowhere", &dangling).unwrap();
        assert!(matches!(read(&dangling), Err(FileError::Absent { .. })));
        let below_a_file = place.file.join("pomd.toml");
        assert!(matches!(read(&below_a_file), Err(FileError::Io { .. })));
        let in_a_circle = place.dir.path().join("circle.toml");
        symlink("circle.toml", &in_a_circle).unwrap();
        assert!(matches!(read(&in_a_circle), Err(FileError::Io { .. })));
    }

    #[test]
    fn what_is_no_file_is_refused_at_once() {
        let place = place();
        assert!(
            refusal(place.dir.path())
                .ends_with("is a folder: a configuration is a plain text file")
        );
        let pipe = place.dir.path().join("pipe.toml");
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RWXU).unwrap();
        assert!(refusal(&pipe).contains("is not a file"));
        assert!(refusal(Path::new("/dev/null")).contains("is not a file"));
    }

    #[test]
    fn a_file_that_is_too_large_is_refused() {
        let place = place();
        fs::write(&place.file, vec![b'#'; MOST_BYTES]).unwrap();
        assert_eq!(read(&place.file).unwrap().bytes.len(), MOST_BYTES);
        fs::write(&place.file, vec![b'#'; MOST_BYTES + 1]).unwrap();
        assert!(refusal(&place.file).contains("larger than 1 MiB"));
    }

    #[test]
    fn a20_what_everybody_may_write_is_refused_with_the_command_that_mends_it() {
        for (file, folder, wrong) in [
            (0o646, 0o755, "pomd.toml"),
            (0o666, 0o755, "pomd.toml"),
            (0o644, 0o757, "the folder"),
            (0o644, 0o1777, "the folder"),
        ] {
            let place = place();
            mode(&place.file, file);
            mode(place.dir.path(), folder);
            let text = refusal(&place.file);
            assert!(
                text.contains(wrong) && text.contains("chmod go-w "),
                "{text}"
            );
        }
    }

    #[test]
    fn a20_what_a_group_may_write_is_a_warning() {
        let place = place();
        mode(&place.file, 0o664);
        mode(place.dir.path(), 0o770);
        let warnings = read(&place.file).unwrap().warnings;
        assert_eq!(warnings.len(), 2, "{warnings:?}");
        assert!(warnings.iter().all(|it| it.contains("chmod g-w ")));
    }

    #[test]
    fn a20_the_folder_behind_a_link_counts_too() {
        let place = place();
        let other = tempfile::tempdir().unwrap();
        let link = other.path().join("pomd.toml");
        symlink(&place.file, &link).unwrap();
        assert!(read(&link).is_ok());
        mode(place.dir.path(), 0o777);
        assert!(refusal(&link).contains("the folder"));
        mode(place.dir.path(), 0o755);
        mode(other.path(), 0o777);
        assert!(refusal(&link).contains("the folder"));
    }

    #[test]
    fn a20_what_belongs_to_another_user_is_refused() {
        if !rustix::process::geteuid().is_root() {
            eprintln!(
                "SKIPPED a20_what_belongs_to_another_user_is_refused: only root can give files away"
            );
            return;
        }
        let file = place();
        chown(&file.file, Some(65_534), None).unwrap();
        assert!(refusal(&file.file).contains("uid 65534"));
        let folder = place();
        chown(folder.dir.path(), Some(65_534), None).unwrap();
        assert!(refusal(&folder.file).starts_with("the folder "));
    }
}
