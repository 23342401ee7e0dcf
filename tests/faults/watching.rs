//! Changes of the configuration file that no folder tells of.

use std::{fs, path::Path, process::Command};

use control::wire::Status;
use integration::pomd::{Pomd, Setup, find_tunnel};
use rustix::process::geteuid;
use tokio::time::{Duration, Instant};

/// How often pomd looks where the system does not tell.
const LOOK: Duration = Duration::from_secs(5);

/// A configuration with one tunnel of this name that does not listen.
fn tunnel(name: &str) -> String {
    format!("[tunnel.{name}]\nroute = \"a.corp.test:1\"\nstart = \"manual\"\n")
}

fn put(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn can_mount() -> bool {
    let mount = ["-m", "mount", "-t", "tmpfs", "tmpfs", "/mnt"];
    let mounted = Command::new("unshare").args(mount).output();
    geteuid().is_root() && mounted.is_ok_and(|it| it.status.success())
}

/// Runs these shell words where this pomd sees what they mount; `$1` is the folder of the test.
fn within(pomd: &Pomd, words: &str) {
    let mut command = Command::new("nsenter");
    command.args(["-m", "-t", &pomd.pid().to_string()]);
    command.args(["/bin/sh", "-c", words, "sh"]);
    let output = command.arg(pomd.setup().folder()).output().unwrap();
    assert!(output.status.success(), "{words}: {output:?}");
}

fn looks_slowly(status: &Status) -> bool {
    let mut warnings = status.pomd.warnings.iter();
    warnings.any(|it| it.contains("so it is read every 5 s"))
}

#[tokio::test(flavor = "multi_thread")]
async fn c7_what_is_mounted_over_the_way_and_unmounted_again_is_read_at_once() {
    let test = "c7_what_is_mounted_over_the_way_and_unmounted_again_is_read_at_once";
    if !can_mount() {
        return integration::skipped(test, "nothing can be mounted here");
    }
    let setup = Setup::new("").config_at("way/conf/pomd.toml");
    let setup = setup.inside(&["-m"], ":");
    put(&setup.config_file(), &tunnel("plain"));
    put(&setup.folder().join("next/conf/pomd.toml"), &tunnel("next"));
    put(&setup.folder().join("other.toml"), &tunnel("other"));
    let pomd = setup.start().await;
    for (words, name) in [
        ("mount --bind \"$1/next\" \"$1/way\"", "next"),
        (
            "mount --bind \"$1/other.toml\" \"$1/way/conf/pomd.toml\"",
            "other",
        ),
        ("umount \"$1/way/conf/pomd.toml\"", "next"),
        ("umount \"$1/way\"", "plain"),
        ("mount --bind \"$1/next/conf\" \"$1/way/conf\"", "next"),
        ("umount -l \"$1/way/conf\"", "plain"),
    ] {
        let start = Instant::now();
        within(&pomd, words);
        let status = pomd
            .wait_for(words, |it| find_tunnel(it, name).is_some())
            .await;
        assert_eq!(status.tunnels.len(), 1, "{words}: {status:#?}");
        assert!(!looks_slowly(&status), "{words}: {status:#?}");
        assert!(start.elapsed() < LOOK, "{words}: {:?}", start.elapsed());
    }
    // What is on it now is watched as before.
    put(&pomd.setup().config_file(), &tunnel("edited"));
    pomd.wait_for("an edit after all of it", |it| {
        find_tunnel(it, "edited").is_some()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c7_on_a_file_system_that_does_not_tell_it_looks_every_five_seconds_and_the_status_says_so()
{
    let test =
        "c7_on_a_file_system_that_does_not_tell_it_looks_every_five_seconds_and_the_status_says_so";
    if !can_mount() || !Path::new("/dev/fuse").exists() {
        return integration::skipped(test, "nothing can be mounted here");
    }
    if Command::new("bindfs").arg("--version").output().is_err() {
        return integration::skipped(test, "there is no bindfs");
    }
    // The server of the mount ends with pomd, and the mount with both.
    let mount = "setpriv --pdeathsig KILL bindfs -f \"$HOME/served\" \"$HOME/conf\" &\n\
         until mountpoint -q \"$HOME/conf\"; do kill -0 $! || exit 1; done";
    let setup = Setup::new("").config_at("conf/pomd.toml");
    let served = setup.folder().join("served/pomd.toml");
    put(&served, &tunnel("first"));
    fs::create_dir(setup.folder().join("conf")).unwrap();
    let pomd = setup.inside(&["-m"], mount).start().await;
    let status = pomd.wait_for("the status says so", looks_slowly).await;
    let told = status
        .pomd
        .warnings
        .iter()
        .any(|it| it.contains(" is on FUSE, which does not"));
    assert!(told, "{status:#?}");
    // Written past the mount, as another machine does.
    for name in ["second", "third"] {
        let saved = Instant::now();
        put(&served, &tunnel(name));
        pomd.wait_for(name, |it| find_tunnel(it, name).is_some())
            .await;
        assert!(saved.elapsed() < LOOK * 3, "{:?}", saved.elapsed());
    }
    assert_eq!(pomd.words().matches("read every 5 s").count(), 1);
    // Who asks does not wait for the next look.
    put(&served, &tunnel("fourth"));
    let start = Instant::now();
    let output = pomd.pomctl(&["status"]).await;
    let page = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(page.contains("fourth"), "{page}");
    assert!(start.elapsed() < LOOK, "{:?}", start.elapsed());
}
