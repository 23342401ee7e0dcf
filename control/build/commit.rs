//! Which commit a folder is at, if it is a git checkout and git is there to ask.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// The checkout's commit.
pub(crate) struct Commit {
    /// Short hash and day: `2fa43de1c, 2026-11-28`.
    pub(crate) name: String,
    /// What changes when the checkout moves to another commit.
    pub(crate) watched: Vec<PathBuf>,
}

/// The commit of `folder`; `None` if it is not itself the top of a checkout.
pub(crate) fn of(folder: &Path) -> Option<Commit> {
    // A release that was unpacked inside of somebody else's checkout is not at their commit.
    let is_top = git(folder, &["rev-parse", "--show-prefix"])?.is_empty();
    if !is_top {
        return None;
    }
    let name = git(folder, &["log", "-1", "--format=%h, %cs", "--abbrev=9"])?;
    // A branch is a file of its own, or a line of the packed ones; the log of HEAD tells of both.
    let branch = git(folder, &["symbolic-ref", "--quiet", "HEAD"]);
    let moved = ["HEAD", "logs/HEAD", "packed-refs"].map(str::to_owned);
    let watched = moved
        .into_iter()
        .chain(branch)
        .filter_map(|it| git(folder, &["rev-parse", "--git-path", &it]))
        .map(|it| folder.join(it))
        .filter(|it| it.exists())
        .collect();
    Some(Commit { name, watched })
}

fn git(folder: &Path, arguments: &[&str]) -> Option<String> {
    let output = Command::new("git")
        .args(arguments)
        .current_dir(folder)
        // Set where a hook of another repository runs the build.
        .env_remove("GIT_DIR")
        .env_remove("GIT_WORK_TREE")
        .env_remove("GIT_INDEX_FILE")
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()
        .filter(|it| it.status.success())?;
    let said = String::from_utf8(output.stdout).ok()?;
    Some(said.trim().to_owned())
}
