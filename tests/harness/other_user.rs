//! Another local user: a helper program that does one thing under another user id and says what happened.
//!
//! Only root can become somebody else; elsewhere these tests are skipped aloud.

use std::{
    fs,
    net::SocketAddr,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::Path,
    process::{Command, Output, Stdio},
    time::Duration,
};

use tempfile::TempDir;
use tokio::net::{TcpSocket, TcpStream};

use crate::pomd;

/// The user id that nobody has for himself.
pub const UID: u32 = 65534;

/// Another local user with a copy of the helper that they may execute.
#[derive(Debug)]
pub struct OtherUser {
    folder: TempDir,
}

impl OtherUser {
    /// Returns another user who can run `helper`, or `None`, said aloud, where nobody can become one.
    pub fn new(test: &str, helper: &Path) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            crate::skipped(test, "needs root");
            return None;
        }
        let folder = pomd::folder();
        crate::binary::copy(helper, &folder.path().join("other-user"));
        let opened = fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755));
        opened.unwrap_or_else(|error| panic!("{error}"));
        Some(Self { folder })
    }

    /// The helper with these arguments, not run yet.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.folder.path().join("other-user"));
        command
            .args(arguments)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::null())
            .uid(UID)
            .gid(UID);
        command
    }

    /// Says `words` on a connection to `to` and resets it. Returns a connection of ours that has its address then.
    pub async fn leaves(&self, to: SocketAddr, words: &str) -> TcpStream {
        // None that the system could give to somebody else meanwhile.
        let from = SocketAddr::new(to.ip(), pomd::free_port());
        let said = self
            .does(&["leave", &from.to_string(), &to.to_string(), words])
            .await;
        assert_eq!(said.trim(), "left", "from {from}");
        let connecting = async {
            let socket = match from {
                SocketAddr::V4(_) => TcpSocket::new_v4(),
                SocketAddr::V6(_) => TcpSocket::new_v6(),
            }?;
            socket.set_reuseaddr(true)?;
            socket.bind(from)?;
            socket.connect(to).await
        };
        let connected = connecting.await;
        connected.unwrap_or_else(|error| panic!("from {from} to {to}: {error}"))
    }

    /// Runs the helper; its words.
    pub async fn does(&self, arguments: &[&str]) -> String {
        let Output {
            status,
            stdout,
            stderr,
        } = pomd::run(self.command(arguments), Duration::from_secs(60)).await;
        let words = String::from_utf8_lossy(&stderr);
        assert!(status.success(), "other-user {arguments:?}: {words}");
        String::from_utf8_lossy(&stdout).into_owned()
    }
}
