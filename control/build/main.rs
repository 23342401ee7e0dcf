//! Puts the commit into the version of a release that is built from a git checkout. Other builds show the version alone:
//! a developer's would be made anew with each commit.

mod commit;

use std::{env, path::Path};

#[expect(clippy::print_stdout, reason = "this is how a build script speaks")]
fn main() {
    println!("cargo::rerun-if-changed=build");
    let said = |name: &str| env::var(name).unwrap_or_default();
    let mut version = said("CARGO_PKG_VERSION");
    if said("PROFILE") == "release"
        && let Some(commit) = commit::of(&Path::new(&said("CARGO_MANIFEST_DIR")).join(".."))
    {
        for path in &commit.watched {
            println!("cargo::rerun-if-changed={}", path.display());
        }
        version = format!("{version} ({})", commit.name);
    }
    println!("cargo::rustc-env=POMD_VERSION={version}");
}
