//! The ports that were chosen for tunnels without `listen`: chosen once, kept in a file.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    io::Write,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::{config::TunnelName, tunnel::bind};

/// A file with more is not ours.
const FILE_MOST: u64 = 1 << 20;

/// Which port belongs to which tunnel.
#[derive(Debug)]
pub(super) struct Ports {
    path: PathBuf,
    kept: BTreeMap<String, u16>,
}

#[derive(Serialize, Deserialize)]
struct Shape {
    version: u32,
    ports: BTreeMap<String, u16>,
}

impl Ports {
    /// Reads the file in the folder `state`. A file that cannot be understood is set aside, not overwritten.
    pub(super) fn load(state: &Path) -> Self {
        let path = state.join("ports.json");
        let kept = match read(&path) {
            Ok(kept) => kept,
            Err(error) => {
                let aside = state.join("ports.json.broken");
                let moved = fs::rename(&path, &aside);
                warn!(
                    "cannot read the chosen ports in {}: {error}; {}",
                    path.display(),
                    match moved {
                        Ok(()) => format!("set aside as {}", aside.display()),
                        Err(error) => format!("and it cannot be set aside: {error}"),
                    }
                );
                BTreeMap::new()
            }
        };
        Self { path, kept }
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
        let port = bind::choose(tunnel.as_str(), &self.taken()).or_else(|| {
            self.kept.retain(|name, _| in_use(name));
            bind::choose(tunnel.as_str(), &self.taken())
        })?;
        self.keep(tunnel, port);
        Some(port)
    }

    fn taken(&self) -> BTreeSet<u16> {
        self.kept.values().copied().collect()
    }

    /// In memory at once, and in the file if that can be written.
    fn keep(&mut self, tunnel: &TunnelName, port: u16) {
        self.kept.insert(tunnel.as_str().to_owned(), port);
        if let Err(error) = self.write() {
            warn!(
                "cannot keep the chosen port of {tunnel} in {}: {error}",
                self.path.display()
            );
        }
    }

    /// The old file or the new one is there, whole, whenever the power goes.
    fn write(&self) -> io::Result<()> {
        let folder = self.path.parent().unwrap_or(Path::new("."));
        let shape = Shape {
            version: 1,
            ports: self.kept.clone(),
        };
        let mut file = tempfile::Builder::new()
            .prefix(".ports.")
            .tempfile_in(folder)?;
        file.write_all(&serde_json::to_vec_pretty(&shape)?)?;
        file.as_file().sync_all()?;
        file.persist(&self.path)?;
        fs::File::open(folder)?.sync_all()
    }
}

fn read(path: &Path) -> io::Result<BTreeMap<String, u16>> {
    let meta = match fs::symlink_metadata(path) {
        Ok(meta) => meta,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(error),
    };
    if !meta.is_file() || meta.len() > FILE_MOST {
        return Err(io::Error::other("it is not a file of pomd's"));
    }
    let shape: Shape = serde_json::from_slice(&fs::read(path)?)?;
    if shape.version != 1 {
        return Err(io::Error::other(format!(
            "its version is {}",
            shape.version
        )));
    }
    Ok(shape.ports)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kept_port_is_there_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        Ports::load(dir.path()).keep(&name("db"), 20_017);
        assert_eq!(Ports::load(dir.path()).get(&name("db")), Some(20_017));
    }

    #[test]
    fn a_broken_file_is_set_aside_and_the_next_choice_is_kept() {
        for text in ["", "{", r#"{"version":9,"ports":{}}"#, "\0\0"] {
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join("ports.json"), text).unwrap();
            let mut ports = Ports::load(dir.path());
            assert_eq!(ports.get(&name("db")), None);
            ports.keep(&name("db"), 20_000);
            assert_eq!(
                fs::read_to_string(dir.path().join("ports.json.broken")).unwrap(),
                text
            );
            assert_eq!(Ports::load(dir.path()).get(&name("db")), Some(20_000));
        }
    }

    #[test]
    fn ports_of_tunnels_that_are_gone_are_given_away_only_when_no_other_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let mut ports = Ports::load(dir.path());
        ports.kept = bind::CHOICE.map(|it| (format!("t{it}"), it)).collect();
        let gone = |it: &str| it != "t20005";
        let mut one_gone = Ports::load(dir.path());
        one_gone.kept = ports.kept.clone();
        assert_eq!(one_gone.choose(&name("new"), |_| true), None);
        assert_eq!(one_gone.kept.len(), bind::CHOICE.len());
        // Another program may hold the one port that is left.
        let given = one_gone.choose(&name("new"), gone);
        assert!(given.is_none_or(|it| it == 20_005), "{given:?}");
        assert_eq!(one_gone.get(&name("t20005")), None);
        assert_eq!(one_gone.get(&name("t20006")), Some(20_006));
    }

    fn name(text: &str) -> TunnelName {
        TunnelName::parse(text).unwrap()
    }
}
