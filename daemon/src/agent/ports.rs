//! The ports that were chosen for tunnels without `listen`: chosen once, kept in a file.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use pomd_core::config::TunnelName;
use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::{
    system::disk::{self, Folder, Fs, Opened, describe},
    tunnel::bind,
};

const NAME: &str = "ports.json";
const ASIDE: &str = "ports.json.broken";
/// A file with more is not ours.
const FILE_MOST: usize = 1 << 20;

/// Which port belongs to which tunnel.
#[derive(Debug)]
pub(super) struct Ports {
    state: PathBuf,
    fs: Arc<dyn Fs>,
    kept: BTreeMap<String, u16>,
    /// Why the file does not know all of it.
    unsaved: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct Shape {
    version: u32,
    ports: BTreeMap<String, u16>,
}

/// Returns the ports that were chosen for tunnels, by their names, as the folder `state` keeps them.
pub fn kept_ports(state: &Path, fs: Arc<dyn Fs>) -> BTreeMap<String, u16> {
    Ports::load(state, fs).kept
}

impl Ports {
    /// Reads the file in the folder `state`. A file that cannot be understood is set aside, not overwritten.
    pub(super) fn load(state: &Path, fs: Arc<dyn Fs>) -> Self {
        let kept = match fs.open_folder(state, None, false) {
            Ok(folder) => load(&*fs, &folder),
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => {
                warn!(
                    "cannot open the folder of the chosen ports: {}",
                    describe(&error)
                );
                BTreeMap::new()
            }
        };
        Self {
            state: state.to_owned(),
            fs,
            kept,
            unsaved: None,
        }
    }

    /// The port that was chosen for `tunnel`.
    pub(super) fn get(&self, tunnel: &TunnelName) -> Option<u16> {
        self.kept.get(tunnel.as_str()).copied()
    }

    /// Chooses a port for `tunnel` and keeps it. Tunnels that are not `in_use` keep theirs too, while there are others.
    pub(super) fn choose(
        &mut self,
        tunnel: &TunnelName,
        in_use: impl Fn(&str) -> bool,
    ) -> Option<u16> {
        let port = bind::choose(tunnel.as_str(), &self.state, &self.taken()).or_else(|| {
            self.kept.retain(|name, _| in_use(name));
            bind::choose(tunnel.as_str(), &self.state, &self.taken())
        })?;
        self.keep(tunnel, port);
        Some(port)
    }

    fn taken(&self) -> BTreeSet<u16> {
        self.kept.values().copied().collect()
    }

    /// In memory at once, and in the file as soon as that can be written.
    fn keep(&mut self, tunnel: &TunnelName, port: u16) {
        self.kept.insert(tunnel.as_str().to_owned(), port);
        self.write();
    }

    /// Tries again what could not be written.
    pub(super) fn retry(&mut self) {
        if self.unsaved.is_some() {
            self.write();
        }
    }

    /// What a person should know: that the file does not know all ports.
    pub(super) fn warning(&self) -> Option<&str> {
        self.unsaved.as_deref()
    }

    fn write(&mut self) {
        let trouble = self.try_write().err();
        let trouble = trouble.map(|it| format!("cannot save the chosen ports: {}", describe(&it)));
        if let Some(trouble) = trouble
            .as_ref()
            .filter(|it| self.unsaved.as_ref() != Some(*it))
        {
            warn!("{trouble}");
        }
        self.unsaved = trouble;
    }

    fn try_write(&self) -> io::Result<()> {
        let shape = Shape {
            version: 1,
            ports: self.kept.clone(),
        };
        let bytes = serde_json::to_vec_pretty(&shape)?;
        let folder = self.fs.open_folder(&self.state, None, true)?;
        disk::replace(&*self.fs, &folder, NAME, &bytes)
    }
}

fn load(fs: &dyn Fs, folder: &Folder) -> BTreeMap<String, u16> {
    disk::clear_half_written(fs, folder, &[NAME.to_owned()]);
    let why = match read(fs, folder) {
        Ok(Ok(kept)) => return kept,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return BTreeMap::new(),
        Ok(Err(why)) => why,
        Err(error) => describe(&error),
    };
    // Also where the disk only fails to read it now: the next choice would overwrite it.
    match fs.rename(folder, NAME, ASIDE) {
        Ok(()) => warn!("cannot read the chosen ports, set aside as {ASIDE}: {why}"),
        Err(error) => warn!(
            "cannot read the chosen ports: {why}; {NAME} cannot be set aside: {}",
            describe(&error)
        ),
    }
    BTreeMap::new()
}

/// `Ok(Err)`: why the file is none of ours.
fn read(fs: &dyn Fs, folder: &Folder) -> io::Result<Result<BTreeMap<String, u16>, String>> {
    let file = match fs.open(folder, NAME)? {
        Opened::File(file) => file,
        Opened::Suspect(why) => return Ok(Err(why)),
    };
    let bytes = fs.read(file, FILE_MOST)?;
    if bytes.len() > FILE_MOST {
        return Ok(Err("it is too large".to_owned()));
    }
    Ok(match serde_json::from_slice::<Shape>(&bytes) {
        Err(error) => Err(format!("line {} is broken", error.line())),
        Ok(it) if it.version != 1 => Err(format!("it is of version {}", it.version)),
        Ok(it) => Ok(it.ports),
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::system::disk::Disk;

    #[test]
    fn a_kept_port_is_there_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        load(dir.path()).keep(&name("db"), 20_017);
        assert_eq!(load(dir.path()).get(&name("db")), Some(20_017));
    }

    #[test]
    fn a_broken_file_is_set_aside_and_the_next_choice_is_kept() {
        for text in ["", "{", r#"{"version":9,"ports":{}}"#, "\0\0"] {
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join("ports.json"), text).unwrap();
            let mut ports = load(dir.path());
            assert_eq!(ports.get(&name("db")), None);
            ports.keep(&name("db"), 20_000);
            assert_eq!(
                fs::read_to_string(dir.path().join("ports.json.broken")).unwrap(),
                text
            );
            assert_eq!(load(dir.path()).get(&name("db")), Some(20_000));
        }
    }

    #[test]
    fn ports_of_tunnels_that_are_gone_are_given_away_only_when_no_other_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let mut ports = load(dir.path());
        ports.kept = bind::CHOICE.map(|it| (format!("t{it}"), it)).collect();
        let gone = |it: &str| it != "t20005";
        let mut one_gone = load(dir.path());
        one_gone.kept = ports.kept.clone();
        assert_eq!(one_gone.choose(&name("new"), |_| true), None);
        assert_eq!(one_gone.kept.len(), bind::CHOICE.len());
        // Another program may hold the one port that is left.
        let given = one_gone.choose(&name("new"), gone);
        assert!(given.is_none_or(|it| it == 20_005), "{given:?}");
        assert_eq!(one_gone.get(&name("t20005")), None);
        assert_eq!(one_gone.get(&name("t20006")), Some(20_006));
    }

    fn load(state: &Path) -> Ports {
        Ports::load(state, Arc::new(Disk))
    }

    fn name(text: &str) -> TunnelName {
        TunnelName::parse(text).unwrap()
    }
}
