//! The calls by which state reaches the disk: a value, so that tests can watch them and make each fail.
//!
//! A folder is opened once for each operation, looked at, and then only names inside of it are used (A11): nobody can
//! exchange it for another in between. A file appears whole or not at all: written beside, synced, renamed. Must not
//! know what stands in the files.

use std::{
    fmt,
    fs::File,
    io::{self, Read, Write},
    path::Path,
};

use zeroize::Zeroizing;

pub use platform::Folder;

/// One method for each step that can fail.
pub trait Fs: Send + Sync + fmt::Debug {
    /// Opens the folder `state`, or `inner` inside of it, ours and open to nobody else; with `make`, makes what is
    /// missing.
    fn open_folder(&self, state: &Path, inner: Option<&str>, make: bool) -> io::Result<Folder>;
    /// The names in it.
    fn names(&self, folder: &Folder) -> io::Result<Vec<String>>;
    /// Opens an existing file for reading, without following a link or waiting for a pipe.
    fn open(&self, folder: &Folder, name: &str) -> io::Result<Opened>;
    /// Reads the whole of it, or one byte more than `most`.
    fn read(&self, file: File, most: usize) -> io::Result<Zeroizing<Vec<u8>>>;
    /// Makes a file that was not there, readable by us alone.
    fn create(&self, folder: &Folder, name: &str) -> io::Result<File>;
    /// Writes the whole of it.
    fn write(&self, file: &mut File, bytes: &[u8]) -> io::Result<()>;
    /// Waits until the file's bytes rest on the disk.
    fn sync(&self, file: &File) -> io::Result<()>;
    /// Puts a file in another's place.
    fn rename(&self, folder: &Folder, from: &str, to: &str) -> io::Result<()>;
    /// Waits until the folder's names rest on the disk.
    fn sync_folder(&self, folder: &Folder) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, folder: &Folder, name: &str) -> io::Result<()>;
}

/// What opening found.
#[derive(Debug)]
pub enum Opened {
    /// A file that may be read.
    File(File),
    /// Something that must not be believed; why.
    Suspect(String),
}

/// The machine's own.
#[derive(Debug)]
pub struct Disk;

/// Puts `bytes` in the place of the file `name`. On an error the older file is there, whole; only where the last step
/// failed it may be the new one.
pub fn replace(fs: &dyn Fs, folder: &Folder, name: &str, bytes: &[u8]) -> io::Result<()> {
    let fresh = format!("{}{}", half_written(name), random()?);
    let written = fs
        .create(folder, &fresh)
        .and_then(|mut file| {
            fs.write(&mut file, bytes)?;
            fs.sync(&file)
        })
        .and_then(|()| fs.rename(folder, &fresh, name));
    if let Err(error) = written {
        let _ = fs.remove(folder, &fresh);
        return Err(error);
    }
    fs.sync_folder(folder)
}

/// Clears away what a killed pomd left of these files, half-written.
pub fn clear_half_written(fs: &dyn Fs, folder: &Folder, names: &[String]) {
    let ours: Vec<_> = names.iter().map(|it| half_written(it)).collect();
    for name in fs.names(folder).unwrap_or_default() {
        if ours.iter().any(|it| name.starts_with(it)) {
            let _ = fs.remove(folder, &name);
        }
    }
}

/// An error of the disk in few words.
pub fn describe(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "no space left".to_owned(),
        io::ErrorKind::ReadOnlyFilesystem => "the disk is read-only".to_owned(),
        _ => {
            let text = error.to_string();
            let end = text.find(" (os error").unwrap_or(text.len());
            control::text::clean(&text[..end].to_lowercase(), 200)
        }
    }
}

/// How the name of a file begins that is not whole yet.
fn half_written(name: &str) -> String {
    format!(".{name}.new-")
}

fn random() -> io::Result<String> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    Ok(format!("{:016x}", u64::from_ne_bytes(bytes)))
}

impl Fs for Disk {
    fn open_folder(&self, state: &Path, inner: Option<&str>, make: bool) -> io::Result<Folder> {
        platform::open_folder(state, inner, make)
    }

    fn names(&self, folder: &Folder) -> io::Result<Vec<String>> {
        platform::names(folder)
    }

    fn open(&self, folder: &Folder, name: &str) -> io::Result<Opened> {
        platform::open(folder, name)
    }

    fn read(&self, file: File, most: usize) -> io::Result<Zeroizing<Vec<u8>>> {
        // Room for all of it at once: growing would leave copies of a secret behind.
        let mut res = Zeroizing::new(Vec::with_capacity(most + 1));
        file.take(most as u64 + 1).read_to_end(&mut res)?;
        Ok(res)
    }

    fn create(&self, folder: &Folder, name: &str) -> io::Result<File> {
        platform::create(folder, name)
    }

    fn write(&self, file: &mut File, bytes: &[u8]) -> io::Result<()> {
        file.write_all(bytes)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        file.sync_all()
    }

    fn rename(&self, folder: &Folder, from: &str, to: &str) -> io::Result<()> {
        platform::rename(folder, from, to)
    }

    fn sync_folder(&self, folder: &Folder) -> io::Result<()> {
        platform::sync_folder(folder)
    }

    fn remove(&self, folder: &Folder, name: &str) -> io::Result<()> {
        platform::remove(folder, name)
    }
}

#[cfg(unix)]
mod platform {
    use std::{
        fs::{DirBuilder, File},
        io,
        os::{fd::OwnedFd, unix::fs::DirBuilderExt},
        path::Path,
    };

    use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat};

    use super::Opened;
    use crate::system::private_folder;

    /// A folder that was looked at.
    pub type Folder = OwnedFd;

    const OTHERS: Mode = Mode::RWXG.union(Mode::RWXO);

    pub(super) fn open_folder(state: &Path, inner: Option<&str>, make: bool) -> io::Result<Folder> {
        if make {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(state)?;
        }
        // The person may have put the state folder elsewhere by a link; a folder inside of it is made by us.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let parent = rustix::fs::openat(CWD, state, flags, Mode::empty())?;
        keep_ours(&parent, state, Mode::WGRP | Mode::WOTH)?;
        let Some(inner) = inner else {
            return Ok(parent);
        };
        if make {
            match rustix::fs::mkdirat(&parent, inner, Mode::RWXU) {
                Ok(()) | Err(rustix::io::Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let res = rustix::fs::openat(&parent, inner, flags | OFlags::NOFOLLOW, Mode::empty())?;
        keep_ours(&res, &state.join(inner), OTHERS)?;
        Ok(res)
    }

    pub(super) fn names(folder: &Folder) -> io::Result<Vec<String>> {
        let mut res = Vec::new();
        for entry in Dir::read_from(folder)? {
            if let Ok(name) = entry?.file_name().to_str() {
                res.push(name.to_owned());
            }
        }
        Ok(res)
    }

    pub(super) fn open(folder: &Folder, name: &str) -> io::Result<Opened> {
        let flags =
            OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let suspect = |why: &str| Ok(Opened::Suspect(why.to_owned()));
        let file = match rustix::fs::openat(folder, name, flags, Mode::empty()) {
            Ok(file) => file,
            Err(rustix::io::Errno::LOOP) => return suspect("it is a link"),
            Err(rustix::io::Errno::NXIO) => return suspect("it is no file"),
            Err(rustix::io::Errno::ACCESS | rustix::io::Errno::PERM) => {
                return suspect("it may not be read");
            }
            Err(error) => return Err(error.into()),
        };
        let stat = rustix::fs::fstat(&file)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return suspect("it is no file");
        }
        if !is_ours(&stat) {
            return suspect(&format!("it belongs to another user (uid {})", stat.st_uid));
        }
        if Mode::from_raw_mode(stat.st_mode).intersects(OTHERS) {
            rustix::fs::fchmod(&file, Mode::RUSR | Mode::WUSR)?;
            tracing::warn!("others could read {name}; its mode is put right");
        }
        Ok(Opened::File(File::from(file)))
    }

    pub(super) fn create(folder: &Folder, name: &str) -> io::Result<File> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(folder, name, flags, Mode::RUSR | Mode::WUSR)?;
        Ok(File::from(file))
    }

    pub(super) fn rename(folder: &Folder, from: &str, to: &str) -> io::Result<()> {
        Ok(rustix::fs::renameat(folder, from, folder, to)?)
    }

    pub(super) fn sync_folder(folder: &Folder) -> io::Result<()> {
        Ok(rustix::fs::fsync(folder)?)
    }

    pub(super) fn remove(folder: &Folder, name: &str) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(folder, name, AtFlags::empty())?)
    }

    /// A folder of somebody else is refused. A mode of ours that lets others in, or (for the state folder, which the
    /// person may share) lets them exchange what is inside, is put right.
    fn keep_ours(folder: &OwnedFd, at: &Path, forbidden: Mode) -> io::Result<()> {
        let stat = rustix::fs::fstat(folder)?;
        let path = at.display();
        if !is_ours(&stat) {
            let message = format!("{path} belongs to another user (uid {})", stat.st_uid);
            return Err(io::Error::other(message));
        }
        let mode = Mode::from_raw_mode(stat.st_mode);
        let sticky = mode.contains(Mode::SVTX) && !forbidden.contains(OTHERS);
        if mode.intersects(forbidden) && !sticky {
            // Every file of the folder inside is ours; the state folder itself may have become something else.
            if !forbidden.contains(OTHERS) && !private_folder::is_ours_alone(folder, at)? {
                let message = format!(
                    "others may change {path}, and it is not pomd's alone: give it a folder of its own"
                );
                return Err(io::Error::other(message));
            }
            rustix::fs::fchmod(folder, mode - forbidden)?;
            tracing::warn!("others could change {path}; its mode is put right");
        }
        Ok(())
    }

    fn is_ours(stat: &Stat) -> bool {
        stat.st_uid == rustix::process::geteuid().as_raw()
    }
}

/// Where a folder under the user's profile is closed to others by inheritance, and names are all there is.
#[cfg(not(unix))]
mod platform {
    use std::{
        fs::{self, File, OpenOptions},
        io,
        path::{Path, PathBuf},
    };

    use super::Opened;

    /// A folder that was looked at.
    pub type Folder = PathBuf;

    pub(super) fn open_folder(state: &Path, inner: Option<&str>, make: bool) -> io::Result<Folder> {
        let res = inner.map_or_else(|| state.to_owned(), |it| state.join(it));
        if make {
            fs::create_dir_all(&res)?;
        }
        let found = fs::symlink_metadata(&res)?;
        if !found.is_dir() {
            let message = format!("{} is no folder", res.display());
            return Err(io::Error::other(message));
        }
        Ok(res)
    }

    pub(super) fn names(folder: &Folder) -> io::Result<Vec<String>> {
        let mut res = Vec::new();
        for entry in fs::read_dir(folder)? {
            if let Ok(name) = entry?.file_name().into_string() {
                res.push(name);
            }
        }
        Ok(res)
    }

    pub(super) fn open(folder: &Folder, name: &str) -> io::Result<Opened> {
        let path = folder.join(name);
        if !fs::symlink_metadata(&path)?.is_file() {
            return Ok(Opened::Suspect("it is no file".to_owned()));
        }
        Ok(Opened::File(File::open(path)?))
    }

    pub(super) fn create(folder: &Folder, name: &str) -> io::Result<File> {
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(folder.join(name))
    }

    pub(super) fn rename(folder: &Folder, from: &str, to: &str) -> io::Result<()> {
        fs::rename(folder.join(from), folder.join(to))
    }

    /// Names are written through there.
    pub(super) fn sync_folder(_: &Folder) -> io::Result<()> {
        Ok(())
    }

    pub(super) fn remove(folder: &Folder, name: &str) -> io::Result<()> {
        fs::remove_file(folder.join(name))
    }
}
