//! What the program `pomd` says at the terminal, and its exit codes.

#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::{
    fs,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::Path,
    process::{Command, Output},
};

use tempfile::TempDir;

/// Runs pomd in `folder` as its home.
fn pomd(folder: &TempDir, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pomd"));
    command
        .env_clear()
        .env("HOME", folder.path())
        .current_dir(folder.path())
        .args(arguments);
    command.output().unwrap()
}

fn folder() -> TempDir {
    let res = tempfile::tempdir().unwrap();
    fs::set_permissions(res.path(), fs::Permissions::from_mode(0o700)).unwrap();
    res
}

fn told(output: &Output) -> (Option<i32>, String, String) {
    let text = |it: &[u8]| String::from_utf8(it.to_vec()).unwrap();
    (
        output.status.code(),
        text(&output.stdout),
        text(&output.stderr),
    )
}

const GOOD: &str = "[tunnel.a]\nroute = \"a.example.com:22\"\n";

#[test]
fn check_says_how_many_tunnels_a_good_file_has() {
    let home = folder();
    fs::write(home.path().join("good.toml"), GOOD).unwrap();
    let (code, stdout, stderr) = told(&pomd(&home, &["check", "good.toml"]));
    assert_eq!(
        (code, &*stdout, &*stderr),
        (Some(0), "~/good.toml is good: 1 tunnel\n", "")
    );
}

#[test]
fn check_shows_what_is_wrong_and_exits_2() {
    let home = folder();
    let text = format!("{GOOD}lissten = 3000\n");
    fs::write(home.path().join("bad.toml"), text).unwrap();
    let (code, stdout, stderr) = told(&pomd(&home, &["--config", "bad.toml", "check"]));
    assert_eq!((code, &*stdout), (Some(2), ""));
    assert_eq!(
        stderr,
        "\
error: unknown key `lissten` in [tunnel.a]
 --> ~/bad.toml:3:1
  |
3 | lissten = 3000
  | ^^^^^^^ did you mean `listen`?
1 error in ~/bad.toml
"
    );
}

#[test]
fn a_file_that_was_named_must_be_there_and_the_usual_one_need_not() {
    let home = folder();
    let named = told(&pomd(&home, &["check", "none.toml"]));
    let expected = "error: there is no file ~/none.toml\n";
    assert_eq!(named, (Some(2), String::new(), expected.to_owned()));
    let (code, stdout, stderr) = told(&pomd(&home, &["check"]));
    assert_eq!((code, &*stderr), (Some(0), ""));
    assert!(stdout.starts_with("there is no ~/"), "{stdout}");
    assert!(
        stdout.ends_with("yet, so pomd starts with no tunnels\n"),
        "{stdout}"
    );
}

/// Starts it in the background, with everything in `home`.
fn start(home: &TempDir, more: &[&str]) -> Output {
    let mut arguments = vec!["--daemonize", "--state-dir", "state", "--socket", "run/s"];
    arguments.extend(more);
    pomd(home, &arguments)
}

#[test]
fn what_keeps_pomd_from_starting_is_one_line_with_a_way_out() {
    let home = folder();
    fs::write(home.path().join("file"), "").unwrap();
    fs::create_dir_all(home.path().join("taken/s/x")).unwrap();
    let closed = fs::Permissions::from_mode(0o700);
    fs::set_permissions(home.path().join("taken"), closed).unwrap();
    for (more, why, way_out) in [
        (
            ["--state-dir", "file"],
            "file is not a folder; move it away, or",
            "give another: --state-dir DIR, or POMD_STATE_DIR\n",
        ),
        (
            ["--state-dir", "file/x"],
            "file/x cannot be made: ",
            "; give another: --state-dir DIR, or POMD_STATE_DIR\n",
        ),
        (
            ["--socket", "file/s"],
            "file is not a folder; move it away, or",
            "give another: --socket PATH, or POMD_SOCKET\n",
        ),
        (
            ["--socket", "taken/s"],
            "taken/s: Is a directory (os error 21)",
            "; give another: --socket PATH, or POMD_SOCKET\n",
        ),
    ] {
        let mut arguments = vec!["--daemonize"];
        if more[0] != "--state-dir" {
            arguments.extend(["--state-dir", "state"]);
        }
        if more[0] != "--socket" {
            arguments.extend(["--socket", "run/s"]);
        }
        arguments.extend(more);
        let (code, stdout, stderr) = told(&pomd(&home, &arguments));
        assert_eq!((code, &*stdout), (Some(1), ""), "{stderr}");
        assert!(
            stderr.starts_with("error: ") && stderr.lines().count() == 1,
            "{stderr}"
        );
        assert!(stderr.contains(why), "{why}: {stderr}");
        assert!(stderr.ends_with(way_out), "{way_out}: {stderr}");
    }
}

#[test]
fn a_second_pomd_says_which_one_runs_and_how_to_end_it() {
    let home = folder();
    assert_eq!(told(&start(&home, &[])).0, Some(0));
    let pid = fs::read_to_string(home.path().join("state/pomd.lock")).unwrap();
    let pid = pid.lines().next().unwrap();
    let second = told(&start(&home, &[]));
    // Ended before anything is asserted: it must not outlive the test.
    let _ = Command::new("kill").arg(pid).status().unwrap();
    let words = format!("error: pomd runs already (pid {pid}); to end it: pomctl stop\n");
    assert_eq!(second, (Some(1), String::new(), words));
}

#[test]
fn a_folder_of_another_user_is_named_with_its_owner() {
    if !Path::new("/proc/self").exists() || !is_root() {
        eprintln!("skipped: a_folder_of_another_user_is_named_with_its_owner: needs root");
        return;
    }
    let home = folder();
    fs::set_permissions(home.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let program = home.path().join("pomd");
    // By another process: a child that another test starts meanwhile would hold a file open that is written here, and what
    // is open for writing cannot be run.
    let copied = Command::new("cp")
        .arg(env!("CARGO_BIN_EXE_pomd"))
        .arg(&program)
        .status();
    assert!(copied.unwrap().success());
    let theirs = home.path().join("theirs");
    fs::create_dir(&theirs).unwrap();
    fs::set_permissions(&theirs, fs::Permissions::from_mode(0o777)).unwrap();
    let state = home.path().join("state");
    fs::create_dir(&state).unwrap();
    fs::set_permissions(&state, fs::Permissions::from_mode(0o700)).unwrap();
    std::os::unix::fs::chown(&state, Some(65534), Some(65534)).unwrap();
    let output = Command::new(&program)
        .env_clear()
        .uid(65534)
        .gid(65534)
        .arg("--daemonize")
        .arg("--state-dir")
        .arg(&state)
        .arg("--socket")
        .arg(theirs.join("s"))
        .current_dir("/")
        .output()
        .unwrap();
    let (code, _, stderr) = told(&output);
    assert_eq!(code, Some(1), "{stderr}");
    let words = "belongs to root; give another: --socket PATH, or POMD_SOCKET\n";
    assert!(stderr.ends_with(words), "{stderr}");
}

fn is_root() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let uid = status.lines().find(|it| it.starts_with("Uid:"));
    uid.and_then(|it| it.split_whitespace().nth(2)) == Some("0")
}
