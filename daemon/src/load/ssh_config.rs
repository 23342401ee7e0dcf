//! What tells ssh of the hosts, rewritten when the configuration changes: only where `pomctl ssh-config --install` put it.

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

use pomd_core::ssh_config::{Hosts, Proxy};
use tracing::{info, warn};

/// More is no file of ours.
const MOST: u64 = 4 << 20;

/// Lets the file at `path` tell of `hosts`, by the same way as before. A failure is in the log: nothing else depends on it.
pub(super) async fn rewrite(path: PathBuf, hosts: Hosts) {
    let shown = path.display().to_string();
    let rewritten = tokio::task::spawn_blocking(move || rewrite_now(&path, &hosts)).await;
    match rewritten.unwrap_or_else(|panic| Err(io::Error::other(panic))) {
        Ok(true) => info!("{shown} tells ssh of the tunnels and domains as they are now"),
        Ok(false) => {}
        Err(error) => warn!("{shown} does not tell ssh of the change: {error}"),
    }
}

/// Returns whether there was something to write.
fn rewrite_now(path: &Path, hosts: &Hosts) -> io::Result<bool> {
    // A link was put there by somebody else, who keeps it up to date.
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_file() && found.len() <= MOST => {}
        Ok(_) => return Ok(false),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    }
    let before = fs::read(path)?;
    let Some(proxy) = std::str::from_utf8(&before).ok().and_then(Proxy::read) else {
        return Ok(false);
    };
    let now = hosts.render(env!("CARGO_PKG_VERSION"), &proxy);
    if now.as_bytes() == before {
        return Ok(false);
    }
    let mut file = tempfile::NamedTempFile::new_in(path.parent().unwrap_or(Path::new("/")))?;
    file.write_all(now.as_bytes())?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use pomd_core::config::Config;

    use super::*;

    fn hosts(file: &str) -> Hosts {
        Hosts::of(&Config::parse(file, Path::new("/")).unwrap())
    }

    #[test]
    fn only_a_file_of_ours_is_rewritten_and_keeps_its_way() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ssh_config");
        let now = hosts("[tunnel.a]\nroute = \"a.example.com:22\"\n");
        assert!(!rewrite_now(&path, &now).unwrap());
        assert!(!path.exists(), "nobody asked for it");
        fs::write(&path, "Host mine\n").unwrap();
        assert!(!rewrite_now(&path, &now).unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap(), "Host mine\n");
        let proxy = Proxy::new("/opt/pomctl", &[], false).unwrap();
        fs::write(&path, Hosts::default().render("0.1.0", &proxy)).unwrap();
        assert!(rewrite_now(&path, &now).unwrap());
        assert!(!rewrite_now(&path, &now).unwrap());
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(
            "\nHost a a.example.com\n    ProxyCommand '/opt/pomctl' connect --ssh '%h:%p'\n"
        ));
    }
}
