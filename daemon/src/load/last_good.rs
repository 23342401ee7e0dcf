//! The last good configuration, kept in the state folder: a pomd that starts with a broken file uses it.
//!
//! It holds the file's text, not what was read from it, so that each release reads it by its own rules, and the path of
//! the file, to which relative paths in the text belong; a pomd with another file does not take it. Knows the text;
//! must not know what stands in it.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use control::paths::Paths;
use jiff::Timestamp;
use pomd_core::config::MOST_BYTES;
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;

use crate::system::disk::{self, Fs, Opened, describe};

const NAME: &str = "last-good.json";
const ASIDE: &str = "last-good.json.broken";
/// Counts changes after which an older pomd cannot read the file.
const VERSION: u32 = 1;
/// The text, with every line end and quotation mark escaped, and a long path.
const FILE_MOST: usize = 2 * MOST_BYTES + (64 << 10);
/// How long the reader of the configuration waits for the disk.
const LIMIT: Duration = Duration::from_secs(2);

/// What rested in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) text: Vec<u8>,
    /// When it was read from the configuration file for the first time.
    pub(super) read_at: Timestamp,
}

#[derive(Serialize, Deserialize)]
struct Record {
    version: u32,
    /// The configuration file.
    config: PathBuf,
    read_at: Timestamp,
    text: String,
}

/// The copy, and what it should be.
#[derive(Debug)]
pub(super) struct LastGood {
    disk: OnDisk,
    /// What rests on the disk, as far as it is known.
    kept: Option<Kept>,
    wanted: Option<Kept>,
    writing: Option<(Kept, JoinHandle<io::Result<()>>)>,
    /// Why what is wanted is not kept.
    unsaved: Option<String>,
    /// Why what was kept could not be used.
    useless: Option<String>,
}

#[derive(Clone, Debug)]
struct OnDisk {
    state: PathBuf,
    config: PathBuf,
    fs: Arc<dyn Fs>,
}

impl LastGood {
    pub(super) fn new(place: &Paths, fs: Arc<dyn Fs>) -> Self {
        Self {
            disk: OnDisk {
                state: place.state.clone(),
                config: place.config.clone(),
                fs,
            },
            kept: None,
            wanted: None,
            writing: None,
            unsaved: None,
            useless: None,
        }
    }

    /// What rests on the disk for this configuration file. A file that cannot be understood is set aside.
    pub(super) async fn load(&mut self) -> Option<Kept> {
        let disk = self.disk.clone();
        let loading = tokio::task::spawn_blocking(move || disk.load());
        match tokio::time::timeout(LIMIT, loading).await {
            Ok(Ok(Ok(kept))) => self.kept = kept,
            Ok(Ok(Err(trouble))) => self.is_useless(trouble),
            Ok(Err(panic)) => self.is_useless(panic.to_string()),
            Err(_) => self.is_useless(no_answer()),
        }
        self.kept.clone()
    }

    /// Whether one rests on the disk for this configuration file. Changes nothing there.
    pub(super) async fn is_there(&self) -> bool {
        let disk = self.disk.clone();
        let looking = tokio::task::spawn_blocking(move || matches!(disk.read(), Ok(Ok(Some(_)))));
        let looked = tokio::time::timeout(LIMIT, looking).await;
        looked.is_ok_and(|it| it.unwrap_or(false))
    }

    /// The text is good: it is the one to go back to. Written only if it is another one than before.
    pub(super) async fn keep(&mut self, text: &[u8], read_at: Timestamp) {
        self.useless = None;
        let is_same = |it: &Option<Kept>| it.as_ref().is_some_and(|it| it.text == text);
        if is_same(&self.wanted) && self.unsaved.is_none() {
            return;
        }
        self.wanted = match is_same(&self.kept) {
            true => self.kept.clone(),
            false if is_same(&self.wanted) => self.wanted.take(),
            false => Some(Kept {
                text: text.to_owned(),
                read_at,
            }),
        };
        self.write().await;
    }

    /// Writes what is wanted. A write that hangs is waited for before another begins: which of two comes last would be
    /// a matter of chance.
    pub(super) async fn write(&mut self) {
        while self.writing.is_some() || self.wanted != self.kept {
            let (what, mut writing) = match self.writing.take() {
                Some(it) => it,
                None => {
                    let Some(wanted) = self.wanted.clone() else {
                        return;
                    };
                    let (disk, what) = (self.disk.clone(), wanted.clone());
                    let writing = tokio::task::spawn_blocking(move || disk.write(&wanted));
                    (what, writing)
                }
            };
            let trouble = match tokio::time::timeout(LIMIT, &mut writing).await {
                Ok(Ok(Ok(()))) => {
                    self.kept = Some(what);
                    self.unsaved = None;
                    continue;
                }
                Ok(Ok(Err(error))) => describe(&error),
                Ok(Err(panic)) => panic.to_string(),
                Err(_) => {
                    self.writing = Some((what, writing));
                    no_answer()
                }
            };
            let trouble = format!(
                "cannot save the last good configuration, which a start with a broken one needs: {trouble}"
            );
            if self.unsaved.as_ref() != Some(&trouble) {
                tracing::warn!("{trouble}");
            }
            self.unsaved = Some(trouble);
            return;
        }
        self.unsaved = None;
    }

    /// What is wanted could not be written.
    pub(super) fn needs_retry(&self) -> bool {
        self.unsaved.is_some()
    }

    /// What was kept has `problem` for this release.
    pub(super) fn is_of_no_use(&mut self, kept: &Kept, problem: &str) {
        self.is_useless(format!("that of {} has an error: {problem}", kept.read_at));
    }

    fn is_useless(&mut self, why: String) {
        let trouble = format!("cannot use the last good configuration: {why}");
        tracing::warn!("{trouble}");
        self.useless = Some(trouble);
    }

    /// What a person should know.
    pub(super) fn trouble(&self) -> impl Iterator<Item = String> {
        [&self.useless, &self.unsaved]
            .into_iter()
            .flatten()
            .cloned()
    }
}

impl OnDisk {
    /// Clears away what a killed pomd left, too.
    fn load(&self) -> Result<Option<Kept>, String> {
        if let Ok(folder) = self.fs.open_folder(&self.state, None, false) {
            disk::clear_half_written(&*self.fs, &folder, &[NAME.to_owned()]);
        }
        let why = match self.read() {
            Ok(Ok(kept)) => return Ok(kept),
            Ok(Err(why)) => why,
            // It may be whole: it stays where it is.
            Err(error) => return Err(describe(&error)),
        };
        let aside = self
            .fs
            .open_folder(&self.state, None, false)
            .and_then(|folder| self.fs.rename(&folder, NAME, ASIDE));
        Err(match aside {
            Ok(()) => format!("{why}; it is set aside as {ASIDE}"),
            Err(error) => format!("{why}; it cannot be set aside: {}", describe(&error)),
        })
    }

    /// `Ok(Err)`: why the file is none of ours.
    fn read(&self) -> io::Result<Result<Option<Kept>, String>> {
        let opened = self
            .fs
            .open_folder(&self.state, None, false)
            .and_then(|folder| self.fs.open(&folder, NAME));
        let file = match opened {
            Ok(Opened::File(file)) => file,
            Ok(Opened::Suspect(why)) => return Ok(Err(why)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Ok(None)),
            Err(error) => return Err(error),
        };
        let bytes = self.fs.read(file, FILE_MOST)?;
        Ok(decode(&bytes, &self.config))
    }

    fn write(&self, kept: &Kept) -> io::Result<()> {
        let bytes = encode(kept, &self.config)?;
        let folder = self.fs.open_folder(&self.state, None, true)?;
        disk::replace(&*self.fs, &folder, NAME, &bytes)
    }
}

fn encode(kept: &Kept, config: &Path) -> io::Result<Vec<u8>> {
    let text = String::from_utf8(kept.text.clone());
    Ok(serde_json::to_vec_pretty(&Record {
        version: VERSION,
        config: config.to_owned(),
        read_at: kept.read_at,
        text: text.map_err(io::Error::other)?,
    })?)
}

/// `None`: it belongs to another configuration file.
fn decode(bytes: &[u8], config: &Path) -> Result<Option<Kept>, String> {
    if bytes.len() > FILE_MOST {
        return Err("it is too large".to_owned());
    }
    let record: Record =
        serde_json::from_slice(bytes).map_err(|it| format!("line {} is broken", it.line()))?;
    if record.version != VERSION {
        return Err(format!("it is of version {}", record.version));
    }
    let kept = Kept {
        text: record.text.into_bytes(),
        read_at: record.read_at,
    };
    Ok((record.config == config).then_some(kept))
}

fn no_answer() -> String {
    format!("the disk does not answer within {} s", LIMIT.as_secs())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::system::disk::Disk;

    fn place(folder: &Path, config: &str) -> Paths {
        Paths {
            config: config.into(),
            state: folder.join("state"),
            socket: folder.join("pomd.sock"),
        }
    }

    async fn loaded(place: &Paths) -> (LastGood, Option<Kept>) {
        let mut res = LastGood::new(place, Arc::new(Disk));
        let kept = res.load().await;
        (res, kept)
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[tokio::test]
    async fn c1_the_copy_is_of_one_file_and_says_when_its_text_was_first_read() {
        let dir = tempfile::tempdir().unwrap();
        let ours = place(dir.path(), "/etc/ours.toml");
        let (mut it, kept) = loaded(&ours).await;
        assert_eq!(kept, None);
        it.keep("[settings]\r\n# \u{e4}\t\"".as_bytes(), at(7))
            .await;
        let (mut it, kept) = loaded(&ours).await;
        let kept = kept.unwrap();
        assert_eq!(kept.text, "[settings]\r\n# \u{e4}\t\"".as_bytes());
        assert_eq!(kept.read_at, at(7));
        // The same again is not written again, as after every start.
        let file = ours.state.join(NAME);
        let written = fs::metadata(&file).unwrap().modified().unwrap();
        it.keep(&kept.text, at(8)).await;
        assert_eq!(fs::metadata(&file).unwrap().modified().unwrap(), written);
        assert_eq!(loaded(&ours).await.1.unwrap().read_at, at(7));
        let theirs = place(dir.path(), "/etc/theirs.toml");
        let (it, kept) = loaded(&theirs).await;
        assert_eq!(kept, None);
        assert_eq!(it.trouble().next(), None, "that is no trouble");
        assert!(loaded(&ours).await.0.is_there().await);
    }

    #[test]
    fn s4_whatever_stands_in_the_file_is_read_or_refused() {
        let config = Path::new("/etc/pomd.toml");
        let kept = Kept {
            text: b"[settings]".to_vec(),
            read_at: at(7),
        };
        let good = encode(&kept, config).unwrap();
        for end in 0..good.len() {
            assert!(decode(&good[..end], config).is_err(), "{end} bytes");
        }
        assert_eq!(decode(&good, config), Ok(Some(kept)));
        assert!(decode(&vec![b' '; FILE_MOST + 1], config).is_err());
    }

    #[test]
    fn the_largest_configuration_fits() {
        let text = "\"".repeat(MOST_BYTES).into_bytes();
        let read_at = Timestamp::MAX;
        let long = format!("/{}", "x".repeat(4095));
        let bytes = encode(&Kept { text, read_at }, Path::new(&long)).unwrap();
        assert!(bytes.len() <= FILE_MOST, "{}", bytes.len());
    }
}
