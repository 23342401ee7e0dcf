//! A real Chromium, as distributions install it.

use std::path::PathBuf;

/// What keeps it from asking, updating and calling home. It runs without its sandbox, which is not for root.
pub const QUIET: [&str; 9] = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--password-store=basic",
];

/// The program, if there is one; `POMD_TEST_CHROMIUM` names another.
pub fn chromium() -> Option<PathBuf> {
    let given = std::env::var_os("POMD_TEST_CHROMIUM").map(PathBuf::from);
    let usual = ["/usr/bin/chromium", "/usr/bin/chromium-browser"].map(PathBuf::from);
    given.into_iter().chain(usual).find(|it| it.is_file())
}
