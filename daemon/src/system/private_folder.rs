//! Folders of their owner, for secrets and sockets.
//!
//! Only a folder that is pomd's alone has its mode changed (A25): `--socket /run/x.sock` must not close `/run` to
//! everybody else. What a folder is, its descriptor tells, and the same descriptor is changed.

use std::{fs, io, path::Path};

/// Makes `folder` if it is missing, for its owner only. One of pomd's own that others may use is closed to them, and that
/// is returned in words; any other that others may use, or that belongs to somebody else, is refused (A11, A25). `Err`:
/// what is wrong with it, behind its name.
pub fn make(folder: &Path) -> Result<Option<String>, String> {
    let cannot = |it: io::Error| format!("cannot be made: {it}");
    if let Some(parent) = folder.parent() {
        fs::create_dir_all(parent).map_err(cannot)?;
    }
    match platform::create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(cannot(error)),
        _ => (),
    }
    platform::close(folder)
}

#[cfg(unix)]
pub(crate) use platform::is_ours_alone;

#[cfg(unix)]
mod platform {
    use std::{
        fs::DirBuilder,
        io,
        os::{fd::OwnedFd, unix::fs::DirBuilderExt},
        path::Path,
    };

    use rustix::{
        fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags},
        io::Errno,
    };

    /// How the names of what pomd keeps in its folders begin: lock, socket, log, settings; tokens, chosen ports, and
    /// these half-written. Sockets of `unix:` listeners may have any name.
    const NAMES: [&str; 7] = [
        "pomd.",
        "tokens",
        "ports.json",
        ".ports.json",
        ".pomd.",
        "last-good",
        ".last-good",
    ];
    /// Pomd's folders hold a few files and a socket for some tunnels.
    const MOST_ENTRIES: usize = 1_000;
    const LOCK: &str = "pomd.lock";
    const TOKENS: &str = "tokens";
    const OTHERS: Mode = Mode::RWXG.union(Mode::RWXO);

    pub(super) fn create(folder: &Path) -> io::Result<()> {
        DirBuilder::new().mode(0o700).create(folder)
    }

    pub(super) fn close(folder: &Path) -> Result<Option<String>, String> {
        let looked = |it: Errno| format!("cannot be looked at: {}", io::Error::from(it));
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open = match rustix::fs::openat(CWD, folder, flags, Mode::empty()) {
            Ok(it) => it,
            Err(Errno::NOTDIR | Errno::LOOP) => {
                return Err("is not a folder; move it away".to_owned());
            }
            Err(error) => return Err(looked(error)),
        };
        let stat = rustix::fs::fstat(&open).map_err(looked)?;
        match stat.st_uid {
            it if it == rustix::process::geteuid().as_raw() => {}
            0 => return Err("belongs to root".to_owned()),
            other => return Err(format!("belongs to uid {other}")),
        }
        let mode = Mode::from_raw_mode(stat.st_mode);
        if !mode.intersects(OTHERS) {
            return Ok(None);
        }
        if !is_ours_alone(&open, folder).map_err(looked)? {
            return Err(format!(
                "is open to other users (mode {:04o}) and may not be pomd's alone; give it a folder of its own, such as {}",
                mode.bits(),
                folder.join("pomd").display()
            ));
        }
        rustix::fs::fchmod(&open, Mode::RWXU).map_err(|it| {
            let error = io::Error::from(it);
            format!("is open to others and cannot be closed: {error}")
        })?;
        Ok(Some(format!(
            "{} was open to other users; it is closed now",
            folder.display()
        )))
    }

    /// Whether the open `folder` is pomd's and nobody else's: it is called `pomd` or holds the lock or the tokens of a
    /// pomd, and nothing that pomd does not keep there.
    pub(crate) fn is_ours_alone(folder: &OwnedFd, path: &Path) -> Result<bool, Errno> {
        let us = rustix::process::geteuid().as_raw();
        let mut is_ours = path.file_name().is_some_and(|it| it == "pomd");
        let mut count = 0;
        for entry in Dir::read_from(folder)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy();
            if matches!(&*name, "." | "..") {
                continue;
            }
            count += 1;
            let stat =
                match rustix::fs::statat(folder, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(it) => it,
                    Err(Errno::NOENT) => continue,
                    Err(error) => return Err(error),
                };
            let kind = FileType::from_raw_mode(stat.st_mode);
            let known = kind == FileType::Socket || NAMES.iter().any(|it| name.starts_with(it));
            if stat.st_uid != us || !known || count > MOST_ENTRIES {
                return Ok(false);
            }
            // A link to a lock elsewhere says nothing of this folder.
            is_ours |= match &*name {
                LOCK => kind == FileType::RegularFile && stat.st_nlink == 1,
                TOKENS => kind == FileType::Directory,
                _ => false,
            };
        }
        Ok(is_ours)
    }
}

/// Access lists keep a profile's folders to their owner, and what is made in them inherits that.
#[cfg(not(unix))]
mod platform {
    use std::{fs, io, path::Path};

    pub(super) fn create(folder: &Path) -> io::Result<()> {
        fs::create_dir(folder)
    }

    pub(super) fn close(folder: &Path) -> Result<Option<String>, String> {
        let meta =
            fs::symlink_metadata(folder).map_err(|it| format!("cannot be looked at: {it}"))?;
        if !meta.is_dir() {
            return Err("is not a folder; move it away".to_owned());
        }
        Ok(None)
    }
}

#[cfg(unix)]
#[cfg(test)]
mod tests {
    use std::{
        os::unix::{
            fs::{PermissionsExt, chown, symlink},
            net::UnixListener,
        },
        path::PathBuf,
    };

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    fn folder(dir: &tempfile::TempDir, name: &str, mode: u32) -> PathBuf {
        let res = dir.path().join(name);
        fs::create_dir(&res).unwrap();
        fs::set_permissions(&res, fs::Permissions::from_mode(mode)).unwrap();
        res
    }

    #[test]
    fn a25_only_a_folder_that_is_pomds_alone_is_closed() {
        // Its name, what it holds, and whether it is closed.
        for (name, holds, closed) in [
            ("pomd", &[][..], true),
            ("pomd", &["pomd.lock", "ports.json", "tokens"], true),
            (
                "state",
                &["pomd.lock", "pomd.log.1", ".ports.json.new-7"],
                true,
            ),
            ("state", &[], false),
            ("state", &["tokens"], false),
            ("run", &["pomd.lock", "other.pid"], false),
            ("pomd", &[".bashrc"], false),
            ("pomd", &["pomd.lock", "Documents"], false),
        ] {
            for before in [0o755, 0o777, 0o1777, 0o750, 0o2770] {
                let dir = tempfile::tempdir().unwrap();
                let path = folder(&dir, name, before);
                for it in holds {
                    fs::write(path.join(it), "").unwrap();
                }
                let _socket = UnixListener::bind(path.join("reports.sock")).unwrap();
                let said = make(&path);
                let case = format!("{name} {holds:?} {before:o}: {said:?}");
                if closed {
                    assert_eq!(mode(&path), 0o700, "{case}");
                    let said = said.unwrap().unwrap();
                    assert!(said.contains("was open to other users"), "{case}");
                    assert_eq!(make(&path), Ok(None), "{case}");
                } else {
                    assert_eq!(mode(&path), before, "{case}");
                    let said = said.unwrap_err();
                    assert!(said.contains("give it a folder of its own"), "{case}");
                }
            }
        }
    }

    #[test]
    fn a25_a_folder_that_is_closed_already_may_hold_anything() {
        let dir = tempfile::tempdir().unwrap();
        let path = folder(&dir, "home", 0o700);
        fs::write(path.join(".bashrc"), "").unwrap();
        assert_eq!(make(&path), Ok(None));
        assert_eq!(make(&path.join("new/state")), Ok(None));
        assert_eq!(mode(&path.join("new/state")), 0o700);
    }

    #[test]
    fn a25_what_others_put_there_keeps_a_folder_from_being_pomds() {
        let dir = tempfile::tempdir().unwrap();
        let path = folder(&dir, "run", 0o755);
        // A link to a lock of ours that is elsewhere, by either kind of link.
        fs::write(dir.path().join("pomd.lock"), "").unwrap();
        symlink("../pomd.lock", path.join("pomd.lock")).unwrap();
        assert!(make(&path).is_err());
        fs::remove_file(path.join("pomd.lock")).unwrap();
        fs::hard_link(dir.path().join("pomd.lock"), path.join("pomd.lock")).unwrap();
        assert!(make(&path).is_err());
        assert_eq!(mode(&path), 0o755);
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped the rest: only root can give files away");
            return;
        }
        let path = folder(&dir, "pomd", 0o1777);
        fs::write(path.join("pomd.lock"), "").unwrap();
        chown(path.join("pomd.lock"), Some(65_534), None).unwrap();
        assert!(make(&path).is_err());
        assert_eq!(mode(&path), 0o1777);
    }

    #[test]
    fn a25_a_link_to_a_folder_is_refused_and_the_folder_stays_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = folder(&dir, "pomd", 0o755);
        let link = dir.path().join("link");
        symlink(&path, &link).unwrap();
        assert!(make(&link).unwrap_err().contains("is not a folder"));
        assert_eq!(mode(&path), 0o755);
    }
}
