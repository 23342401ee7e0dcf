//! Which commit a build is said to be of.

#[path = "../build/commit.rs"]
mod commit;

use std::{fs, path::Path, process::Command};

fn git(folder: &Path, arguments: &[&str]) -> bool {
    let identity = ["-c", "user.name=a", "-c", "user.email=a@example.com"];
    let ended = Command::new("git")
        .args(identity)
        .args([
            "-c",
            "commit.gpgsign=false",
            "-c",
            "init.defaultBranch=main",
        ])
        .args(arguments)
        .current_dir(folder)
        .env_remove("GIT_DIR")
        .env("GIT_COMMITTER_DATE", "2026-11-28T12:00:00Z")
        .output();
    ended.is_ok_and(|it| it.status.success())
}

#[test]
fn a_checkout_is_at_its_commit_and_what_lies_in_one_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    assert!(commit::of(folder).is_none());
    if !git(folder, &["init", "-q"]) {
        eprintln!("skipped: no git here");
        return;
    }
    assert!(commit::of(folder).is_none(), "there is no commit yet");
    git(folder, &["commit", "-q", "--allow-empty", "-m", "one"]);
    let one = commit::of(folder).unwrap();
    let (hash, day) = one.name.split_once(", ").unwrap();
    assert!(hash.len() == 9 && hash.chars().all(|it| it.is_ascii_hexdigit()));
    assert_eq!(day, "2026-11-28");

    let inside = folder.join("vendor");
    fs::create_dir(&inside).unwrap();
    assert!(commit::of(&inside).is_none());
}

#[test]
fn a_move_to_another_commit_changes_something_that_is_watched() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    if !git(folder, &["init", "-q"]) {
        eprintln!("skipped: no git here");
        return;
    }
    let commit = |message| git(folder, &["commit", "-q", "--allow-empty", "-m", message]);
    assert!(commit("one"));
    let moves: [&dyn Fn() -> bool; 4] = [
        &|| commit("two"),
        // The branch is no file of its own then.
        &|| git(folder, &["pack-refs", "--all"]) && commit("three"),
        &|| git(folder, &["checkout", "-q", "HEAD~1"]),
        &|| git(folder, &["checkout", "-q", "main"]),
    ];
    for (n, go) in moves.into_iter().enumerate() {
        let before = commit::of(folder).unwrap();
        let contents = |it: &commit::Commit| -> Vec<_> {
            it.watched.iter().map(|it| fs::read(it).ok()).collect()
        };
        assert!(!before.watched.is_empty());
        let old = contents(&before);
        assert!(go(), "move {n}");
        assert_ne!(commit::of(folder).unwrap().name, before.name, "move {n}");
        assert_ne!(contents(&before), old, "move {n}");
    }
}
