//! Another local user: a helper program that does one thing under another user id and says what happened.
//!
//! Only root can become somebody else; elsewhere these tests are skipped aloud.

use std::{
    fs,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::Path,
    process::{Command, Output, Stdio},
    time::Duration,
};

use tempfile::TempDir;

use crate::pomd;

/// The user id that nobody has for himself.
pub const UID: u32 = 65534;

/// A stranger with a copy of the helper that he may execute.
#[derive(Debug)]
pub struct Stranger {
    folder: TempDir,
}

impl Stranger {
    /// A stranger who can run `helper`, or `None` aloud where nobody can become one.
    pub fn new(test: &str, helper: &Path) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            crate::skipped(test, "needs root");
            return None;
        }
        let folder = pomd::folder();
        let copied = fs::copy(helper, folder.path().join("stranger"));
        copied.unwrap_or_else(|error| panic!("{}: {error}", helper.display()));
        let opened = fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755));
        opened.unwrap_or_else(|error| panic!("{error}"));
        Some(Self { folder })
    }

    /// The helper with these arguments, not run yet.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.folder.path().join("stranger"));
        command
            .args(arguments)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::null())
            .uid(UID)
            .gid(UID);
        command
    }

    /// Runs the helper; its words.
    pub async fn does(&self, arguments: &[&str]) -> String {
        let Output {
            status,
            stdout,
            stderr,
        } = pomd::run(self.command(arguments), Duration::from_secs(60)).await;
        let words = String::from_utf8_lossy(&stderr);
        assert!(status.success(), "stranger {arguments:?}: {words}");
        String::from_utf8_lossy(&stdout).into_owned()
    }
}
