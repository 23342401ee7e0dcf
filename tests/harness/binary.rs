//! The programs of this workspace, built once, and the tools that the tests need.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

/// The workspace's root.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}

/// A binary of the workspace, such as `pomd`; built if needed.
pub fn binary(name: &str) -> PathBuf {
    let path = built()
        .join(name)
        .with_extension(env::consts::EXE_EXTENSION);
    assert!(path.is_file(), "{} was not built", path.display());
    path
}

/// Copies a program so that it can be run at once. Another process writes it: a descriptor of ours that is open for
/// writing would live on for a moment in whatever another test starts meanwhile, and a program that somebody writes is
/// "text file busy".
pub fn copy(program: &Path, to: &Path) {
    let status = Command::new(system("cp")).arg(program).arg(to).status();
    let copied = status.is_ok_and(|it| it.success());
    assert!(copied, "cp {} {}", program.display(), to.display());
}

/// The folder where the workspace's binaries are. `cargo test` alone builds those of a package only for that package's
/// own tests, so they are built here, once for all tests of a run.
fn built() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        if let Some(given) = env::var_os("POMD_TEST_BINARIES") {
            return given.into();
        }
        let program = env::current_exe().unwrap_or_default();
        // A test is one folder further down than a program.
        let folder = program.parent().map(|it| match it.ends_with("deps") {
            true => it.parent().unwrap_or(it),
            false => it,
        });
        let Some(profile) = folder else {
            panic!("no target folder above {}", program.display());
        };
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--quiet", "--workspace", "--bins"]);
        if profile.ends_with("release") {
            build.arg("--release");
        }
        // What cargo told this test is not for the build.
        for (name, _) in env::vars_os() {
            if name.to_string_lossy().starts_with("CARGO_PKG_") {
                build.env_remove(name);
            }
        }
        let status = build.current_dir(root()).status();
        let done = status.is_ok_and(|it| it.success());
        assert!(done, "cargo build --workspace --bins failed");
        profile.to_owned()
    })
}

/// The real Envoy: `POMD_TEST_ENVOY`, else what `test.sh` installed, else one on the path.
pub fn envoy() -> PathBuf {
    if let Some(given) = env::var_os("POMD_TEST_ENVOY") {
        return given.into();
    }
    // The program on the path of a Python package is only a script that starts the real one.
    let python = root().join("target/test-tools/lib");
    for version in fs::read_dir(python).into_iter().flatten().flatten() {
        let inside = version.path().join("site-packages/envoy/_bin/envoy");
        if inside.is_file() {
            return inside;
        }
    }
    let found = on_path("envoy");
    found.unwrap_or_else(|| {
        panic!("no Envoy: run ./test.sh once, or set POMD_TEST_ENVOY to its binary")
    })
}

/// A program of OpenSSH or another one of the system; daemons are looked for where daemons are.
pub fn system(name: &str) -> PathBuf {
    let found = on_path(name).or_else(|| {
        let places = ["/usr/sbin", "/usr/local/sbin", "/sbin"];
        places
            .iter()
            .map(|it| Path::new(it).join(name))
            .find(|it| it.is_file())
    });
    found.unwrap_or_else(|| panic!("no {name} on this machine: run ./test.sh once"))
}

fn on_path(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path)
        .map(|it| it.join(name))
        .find(|it| it.is_file())
}
