//! X13: the installed program moves while pomd runs.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
};

use integration::{
    binary::{binary, copy},
    pomd::{self, Setup},
};

use super::{LIMIT, answers, status, words};

/// A folder with both programs, as a release is installed.
fn install(folder: &Path) {
    fs::create_dir_all(folder).unwrap();
    for name in ["pomd", "pomctl"] {
        put(name, &folder.join(name));
    }
}

/// A link where that is possible.
fn put(name: &str, at: &Path) {
    if fs::hard_link(binary(name), at).is_err() {
        copy(&binary(name), at);
    }
}

fn point(link: &Path, target: &Path) {
    let new = link.with_extension("new");
    symlink(target, &new).unwrap();
    fs::rename(new, link).unwrap();
}

fn runs(pid: u32) -> PathBuf {
    let link = fs::read_link(format!("/proc/{pid}/exe"));
    link.unwrap_or_else(|it| panic!("the program of {pid}: {it}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn x13_a_restart_runs_the_release_that_the_link_leads_to_now() {
    let setup = Setup::new("");
    let folder = setup.folder().join("opt");
    install(&folder.join("1"));
    let current = folder.join("current");
    symlink(folder.join("1"), &current).unwrap();
    // By its path, and by PATH.
    for by_path in [true, false] {
        let program = if by_path {
            current.join("pomctl")
        } else {
            "pomctl".into()
        };
        let mut command = setup.command(&program);
        let path = std::env::var("PATH").unwrap();
        command
            .args(["up", "--all"])
            .env("PATH", format!("{}:{path}", current.display()));
        let up = pomd::run(command, LIMIT).await;
        assert!(words(&up).contains("Started pomd"), "{up:?}");
        let pid = status(&setup).await.pomd.pid;
        let (from, to) = if by_path { ("1", "2") } else { ("2", "3") };
        assert_eq!(runs(pid), folder.join(from).join("pomd"));
        install(&folder.join(to));
        point(&current, &folder.join(to));
        fs::remove_dir_all(folder.join(from)).unwrap();
        let told = answers(&setup, &["restart"]).await;
        assert!(told.starts_with("Restarted pomd "), "{told}");
        assert_eq!(runs(pid), folder.join(to).join("pomd"));
        answers(&setup, &["stop"]).await;
    }
}

/// A program that says what it is asked, and is gone when it is to be run.
fn vanishes(version: &str) -> String {
    format!(
        "#!/bin/sh\n[ \"$1\" = --version ] && echo 'pomd {version}' && exit\n\
         [ \"$1\" = --takes-handover ] && rm -- \"$0\" && exit\nexit 1\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn x13_where_the_new_program_cannot_be_run_after_all_the_old_one_goes_on_and_says_so() {
    let setup = Setup::new("[tunnel.a]\nroute = \"a.corp.test:22\"\n");
    let installed = setup.folder().join("pomd");
    symlink(binary("pomd"), &installed).unwrap();
    let mut pomd = setup.program(installed.clone()).start().await;
    let before = pomd.address("a").await;
    let script = pomd.setup().folder().join("new");
    fs::write(&script, vanishes("99.0.0")).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    fs::rename(&script, &installed).unwrap();
    let told = pomd.pomctl(&["restart", "--json"]).await;
    assert!(told.status.success(), "{}\n{}", words(&told), pomd.words());
    // The version is that of the pomd that runs now.
    let answer: serde_json::Value = serde_json::from_slice(&told.stdout).unwrap();
    assert_eq!(answer["version"], env!("CARGO_PKG_VERSION"));
    let warned = words(&told);
    assert!(
        warned.contains("as the release that ran before"),
        "{warned}"
    );
    pomd.process().assert_runs();
    assert_eq!(pomd.address("a").await, before);
    let status = pomd.status().await;
    assert!(
        status
            .pomd
            .warnings
            .iter()
            .any(|it| it.contains("cannot run")),
        "{:?}",
        status.pomd.warnings
    );
    // And the next one, with a good program, is as any other.
    symlink(binary("pomd"), &installed).unwrap();
    let told = pomd.pomctl(&["restart"]).await;
    assert!(told.status.success(), "{}", words(&told));
    assert_eq!(pomd.status().await.pomd.warnings, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn x13_a_folder_that_is_gone_and_a_program_that_was_replaced_stop_no_restart() {
    let setup = Setup::new("");
    let work = setup.folder().join("work");
    fs::create_dir(&work).unwrap();
    let installed = setup.folder().join("pomd");
    put("pomd", &installed);
    let words = format!("cd {}", work.display());
    let mut pomd = setup
        .before(&words)
        .program(installed.clone())
        .start()
        .await;
    fs::remove_dir(&work).unwrap();
    fs::remove_file(&installed).unwrap();
    // Nothing is ended for a program that is not there.
    let refused = pomd.client().restart(false).await.unwrap_err().to_string();
    assert!(refused.contains("goes on as it is"), "{refused}");
    pomd.process().assert_runs();
    put("pomd", &installed);
    let told = pomd.pomctl(&["restart"]).await;
    assert!(told.status.success(), "{told:?}");
    let pid = pomd.pid();
    assert_eq!(runs(pid), fs::canonicalize(&installed).unwrap());
}
