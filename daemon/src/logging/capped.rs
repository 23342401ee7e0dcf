//! A log file that never grows without end: when it is full it becomes `NAME.1`, and a new one is begun.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use crate::system::plain_file;

/// How large one file may grow; two are kept.
const MOST: u64 = 4 << 20;

/// The file, shared by all threads that log.
#[derive(Debug)]
pub(super) struct CappedFile {
    path: PathBuf,
    most: u64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    file: File,
    length: u64,
}

impl CappedFile {
    /// Opens `path` for appending; a new file is for its owner only.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        Self::with_most(path, MOST)
    }

    fn with_most(path: &Path, most: u64) -> io::Result<Self> {
        let file = open(path)?;
        let length = file.metadata()?.len();
        Ok(Self {
            path: path.to_owned(),
            most,
            state: Mutex::new(State { file, length }),
        })
    }

    /// Writes one line in one piece.
    pub(super) fn append(&self, line: &[u8]) -> io::Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.length > 0 && state.length + line.len() as u64 > self.most {
            let mut full = self.path.clone().into_os_string();
            full.push(".1");
            // A folder that cannot be changed any more costs the older lines, never the newest ones.
            match fs::rename(&self.path, full).and_then(|()| open(&self.path)) {
                Ok(file) => state.file = file,
                Err(_) => state.file.set_len(0)?,
            }
            state.length = 0;
        }
        state.file.write_all(line)?;
        state.length += line.len() as u64;
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<File> {
    // What a link leads to is not ours to append to.
    let mut options = plain_file::private();
    options.create(true).append(true);
    options.open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_files_hold_the_newest_lines_and_no_more_than_their_cap() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pomd.log");
        let file = CappedFile::with_most(&path, 100).unwrap();
        for n in 0..100 {
            file.append(format!("line {n:02}\n").as_bytes()).unwrap();
        }
        let newest = fs::read_to_string(&path).unwrap();
        let older = fs::read_to_string(dir.path().join("pomd.log.1")).unwrap();
        assert!(newest.ends_with("line 99\n"), "{newest}");
        assert!(newest.len() <= 100 && older.len() <= 100);
        assert!(older.len() > 80, "{older}");
    }

    #[test]
    fn a_folder_that_is_gone_costs_only_old_lines() {
        let dir = tempfile::tempdir().unwrap();
        let file = CappedFile::with_most(&dir.path().join("pomd.log"), 100).unwrap();
        fs::remove_dir_all(dir.path()).unwrap();
        for _ in 0..100 {
            file.append(b"a line of log\n").unwrap();
        }
        let state = file.state.lock().unwrap();
        assert!(state.file.metadata().unwrap().len() <= 100);
    }

    #[test]
    fn an_old_file_is_continued() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pomd.log");
        fs::write(&path, "before\n").unwrap();
        CappedFile::open(&path).unwrap().append(b"after\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "before\nafter\n");
    }
}
