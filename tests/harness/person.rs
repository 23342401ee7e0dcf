//! A person: a "browser" that pomd starts and that only notes the link, and hands that follow it later.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use gateway::browser::{Browser, Page};

use crate::eventually;

/// Notes the links that are opened. One for each test.
#[derive(Debug)]
pub struct Links {
    script: PathBuf,
    file: PathBuf,
}

impl Links {
    /// Notes them in `folder`.
    pub fn new(folder: &Path) -> Self {
        let script = folder.join("browser");
        let file = folder.join("links");
        write_script(&script, "printf '%s\\n' \"$2\" >> \"$1\"");
        Self { script, file }
    }

    /// The value of the key `browser`.
    pub fn key(&self) -> String {
        format!("[{:?}, {:?}]", self.script, self.file)
    }

    /// The links opened so far.
    pub fn all(&self) -> Vec<String> {
        let text = fs::read_to_string(&self.file).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// Waits for the link number `n`, counted from 1.
    pub async fn nth(&self, n: usize) -> String {
        let what = format!("link {n} is opened");
        eventually(&what, async || {
            // A line still being written has no end yet.
            let text = fs::read_to_string(&self.file).unwrap_or_default();
            let whole = text.split_inclusive('\n').filter(|it| it.ends_with('\n'));
            whole.map(str::trim).nth(n - 1).map(str::to_owned)
        })
        .await
    }

    /// Waits for the link number `n` and signs in there.
    pub async fn sign_in(&self, n: usize, browser: &Browser) -> Page {
        let link = self.nth(n).await;
        let page = browser.visit(&link).await;
        let page = page.unwrap_or_else(|error| panic!("signing in at {link}: {error:#}"));
        assert_eq!(page.status, 200, "signing in at {link}: {page:?}");
        page
    }
}

/// An executable shell script.
pub fn write_script(path: &Path, body: &str) {
    let written = fs::write(path, format!("#!/bin/sh\n{body}\n"));
    let written = written.and_then(|()| {
        let mode = fs::Permissions::from_mode(0o755);
        fs::set_permissions(path, mode)
    });
    written.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}
