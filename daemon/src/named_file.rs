//! Reads the files that the configuration names: certificates, keys, passwords. One reader for all of them (A27, C8).
//!
//! It reads as tolerantly as the configuration itself is read: a byte-order mark, UTF-16 as Windows writes it and line
//! ends of any kind do no harm. It trusts as strictly: nobody else may change a file or a folder on the way to it, and
//! a secret is for its owner's eyes only.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
    time::SystemTime,
};

use pomd_core::{
    config::TokenKind,
    route::error::SystemError,
    session::{error::SourceError, token::Token},
};
use zeroize::{Zeroize, Zeroizing};

use crate::system::{
    file_trust::{self, Opened},
    plain_file,
};

/// The most bytes of a token's file: a token has 16 KiB at most, and may stand in blanks.
pub const TOKEN_MOST: u64 = 64 << 10;

/// Whose eyes a file is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Everybody may read it.
    Public,
    /// Only its owner may read it.
    Secret,
    /// Only its owner should read it; where a platform puts it for everybody, as Kubernetes and Docker do, a person is
    /// told.
    Token,
}

/// What was read.
#[derive(Clone, Debug)]
pub struct Contents {
    /// The text without a byte-order mark, in UTF-8 if it was in UTF-16; else as it is on disk.
    pub bytes: Zeroizing<Vec<u8>>,
    /// What a person should hear about owners and modes, in sentences.
    pub warnings: Vec<String>,
    /// When the file was last changed.
    pub modified: Option<SystemTime>,
    /// The file's length in bytes.
    pub length: u64,
}

/// Why a file was not read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It cannot be opened or read.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It can, and it must not be used. A whole sentence.
    #[error("{0}")]
    Distrusted(String),
    /// It is not what it should be, as a sentence goes on after the file's name.
    #[error("{0}")]
    Unusable(String),
}

/// Reads the file at `path`, at most `most` bytes of it.
pub fn read(path: &Path, kind: Kind, most: u64) -> Result<Contents, ReadError> {
    let Opened { file, findings } = file_trust::open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(ReadError::Unusable("it is not a file".to_owned()));
    }
    let harm = match kind {
        Kind::Public => "it says whom pomd trusts",
        Kind::Secret | Kind::Token => "it says who you are",
    };
    let mut warnings = file_trust::settle(&findings, harm).map_err(ReadError::Distrusted)?;
    if kind != Kind::Public && plain_file::is_open_to_others(&file, &metadata) {
        let what = format!(
            "others can read it{}: chmod 600 {}",
            plain_file::mode(&metadata),
            file_trust::shell_word(path)
        );
        match kind {
            Kind::Token => warnings.push(what),
            _ => return Err(ReadError::Distrusted(what)),
        }
    }
    if metadata.len() > most {
        return Err(ReadError::Unusable(format!(
            "it is longer than {most} bytes"
        )));
    }
    let bytes = read_all(file, most)?;
    if bytes.len() as u64 > most {
        return Err(ReadError::Unusable(format!(
            "it is longer than {most} bytes"
        )));
    }
    Ok(Contents {
        bytes: plain(bytes),
        warnings,
        modified: metadata.modified().ok(),
        length: metadata.len(),
    })
}

/// Returns what is wrong with the file of a token, and what a person should know of it, in sentences.
pub fn check_token(path: &Path, kind: TokenKind) -> Vec<String> {
    match read(path, Kind::Token, TOKEN_MOST) {
        Ok(contents) => {
            let problem = match Token::read(&contents.bytes, kind) {
                Ok(_) => None,
                Err(SourceError::Empty) => Some("it is empty".to_owned()),
                Err(_) => {
                    Some("it holds no token: one word of 1 to 16,384 visible characters".to_owned())
                }
            };
            contents.warnings.into_iter().chain(problem).collect()
        }
        Err(ReadError::Io(error)) => vec![SystemError::from(error).text],
        Err(ReadError::Distrusted(why) | ReadError::Unusable(why)) => vec![why],
    }
}

fn read_all(file: File, most: u64) -> io::Result<Zeroizing<Vec<u8>>> {
    // As long as it gets: growing would leave copies of a secret behind.
    let length = file.metadata()?.len().min(most);
    let room = usize::try_from(length).unwrap_or(0).saturating_add(1);
    let mut res = Zeroizing::new(Vec::with_capacity(room));
    file.take(most + 1).read_to_end(&mut res)?;
    Ok(res)
}

/// Without byte-order mark, in UTF-8 where the mark is one of UTF-16.
fn plain(mut bytes: Zeroizing<Vec<u8>>) -> Zeroizing<Vec<u8>> {
    let unit: fn([u8; 2]) -> u16 = match bytes.as_slice() {
        [0xef, 0xbb, 0xbf, ..] => {
            bytes.drain(..3);
            return bytes;
        }
        [0xff, 0xfe, ..] => u16::from_le_bytes,
        [0xfe, 0xff, ..] => u16::from_be_bytes,
        _ => return bytes,
    };
    let (pairs, _) = bytes[2..].as_chunks::<2>();
    let mut text = String::with_capacity(pairs.len() * 3);
    for it in char::decode_utf16(pairs.iter().map(|it| unit(*it))) {
        text.push(it.unwrap_or(char::REPLACEMENT_CHARACTER));
    }
    bytes.zeroize();
    Zeroizing::new(text.into_bytes())
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;

    #[test]
    fn a27_a_secret_is_for_its_owner_only_and_the_rest_for_everybody_to_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "canary").unwrap();
        for (mode, secret, public) in [
            (0o600, true, true),
            (0o400, true, true),
            (0o644, false, true),
            (0o640, false, true),
            (0o604, false, true),
            (0o620, false, true),
            (0o660, false, true),
            (0o622, false, false),
            (0o666, false, false),
        ] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            for (kind, good) in [(Kind::Secret, secret), (Kind::Public, public)] {
                match read(&path, kind, 6) {
                    Ok(it) => assert!(good && *it.bytes == *b"canary", "{mode:o}"),
                    Err(ReadError::Distrusted(text)) => {
                        assert!(!good && text.contains("chmod "), "{mode:o}: {text}");
                    }
                    Err(other) => panic!("{mode:o}: {other}"),
                }
            }
        }
        let group = read(&path, Kind::Public, 6);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o660)).unwrap();
        assert!(group.is_err() && read(&path, Kind::Public, 6).unwrap().warnings.len() == 1);
    }

    #[test]
    fn a27_the_folder_of_a_key_counts_as_the_key_does() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        fs::write(&path, "canary").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
        for kind in [Kind::Secret, Kind::Public] {
            let error = read(&path, kind, 6).unwrap_err().to_string();
            assert!(
                error.starts_with("everybody may write the folder "),
                "{error}"
            );
        }
    }

    #[test]
    fn a27_what_belongs_to_another_user_is_refused() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: needs root");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        fs::write(&path, "canary").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        std::os::unix::fs::chown(&path, Some(65534), None).unwrap();
        for kind in [Kind::Secret, Kind::Public] {
            let error = read(&path, kind, 9).unwrap_err().to_string();
            assert!(error.contains("uid 65534"), "{error}");
        }
    }

    #[test]
    fn what_is_too_long_or_no_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "canary").unwrap();
        let refused = |path: &Path| read(path, Kind::Public, 5).unwrap_err().to_string();
        assert_eq!(refused(&path), "it is longer than 5 bytes");
        assert_eq!(refused(folder.path()), "it is not a file");
        let gone = read(&folder.path().join("gone"), Kind::Public, 5);
        assert!(matches!(gone, Err(ReadError::Io(_))));
    }

    #[test]
    fn c8_marks_and_encodings_of_windows_do_no_harm() {
        let utf16 = |order: fn(u16) -> [u8; 2]| {
            let units = "\u{feff}älice:x\r\n".encode_utf16();
            units.flat_map(order).collect::<Vec<u8>>()
        };
        for bytes in [
            "älice:x\r\n".as_bytes().to_vec(),
            "\u{feff}älice:x\r\n".as_bytes().to_vec(),
            utf16(u16::to_le_bytes),
            utf16(u16::to_be_bytes),
        ] {
            assert_eq!(*plain(Zeroizing::new(bytes)), "älice:x\r\n".as_bytes());
        }
        for odd in [&b""[..], b"\xff", b"\xff\xfe", b"\xff\xfea", b"\xef\xbb"] {
            plain(Zeroizing::new(odd.to_vec()));
        }
    }
}
