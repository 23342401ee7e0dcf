//! A broken file costs nothing, whenever it is read: the last good configuration rests in the state folder.

use std::{os::unix::fs::PermissionsExt, path::Path};

use integration::{binary::binary, notify::Notify};
use rustix::process::Signal;

use super::*;

const BROKEN: &str = "[tunnel.ssh]\nroute = \"ssh.corp.test:22\"\nlissten = 1\n";

fn copy(pomd: &Pomd) -> PathBuf {
    pomd.setup().state_dir().join("last-good.json")
}

/// The text that rests in the copy, if it is whole.
fn kept(pomd: &Pomd) -> Option<String> {
    let record: serde_json::Value = serde_json::from_slice(&fs::read(copy(pomd)).ok()?).unwrap();
    Some(record["text"].as_str().unwrap().to_owned())
}

fn put(path: &Path, text: &str) {
    fs::write(path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

fn remove(path: &Path) {
    let _ = fs::remove_file(path);
    let _ = fs::remove_dir(path);
}

async fn check(pomd: &Pomd) -> std::process::Output {
    let mut command = pomd.setup().command(&binary("pomd"));
    command.arg("check");
    run(command, PATIENCE).await
}

fn warns(status: &Status, words: &str) -> bool {
    status.pomd.warnings.iter().any(|it| it.contains(words))
}

#[tokio::test(flavor = "multi_thread")]
async fn c1_a_pomd_that_starts_with_a_broken_file_uses_the_last_good_one_and_says_so() {
    let deployment = deployment().await;
    let setup = Setup::new("");
    // A path relative to the file's own folder, not to the copy's.
    let config = |more: &[(&str, &str)]| {
        let text = deployment.config(more);
        let named = text.lines().find_map(|it| it.strip_prefix("ca_file = "));
        let named = named.expect("the authority of the tests").to_owned();
        let path = named.trim_matches(['"', '\'']);
        fs::copy(path, setup.folder().join("ca.pem")).unwrap();
        text.replace(&named, "\"ca.pem\"")
    };
    let (good, mended) = (config(&TUNNELS), config(&[TUNNELS[1], ("new", ECHO)]));
    let file = setup.config_file();
    put(&file, &good);
    let notify = Notify::listen(setup.folder());
    let setup = setup.env("NOTIFY_SOCKET", notify.path());
    let mut pomd = setup.start().await;
    deployment.log_in(&pomd).await;
    let port = pomd.address("echo").await;
    let mode = fs::metadata(copy(&pomd)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let read_at = pomd.status().await.pomd.config.loaded_at;
    let cases: [(&str, &dyn Fn(), &str); 6] = [
        ("a typo", &|| put(&file, BROKEN), "lissten"),
        ("nothing", &|| put(&file, ""), "is empty"),
        ("a comment", &|| put(&file, "# soon\n"), "is empty"),
        ("no file", &|| (), "is gone"),
        (
            "a folder",
            &|| fs::create_dir(&file).unwrap(),
            "is a folder",
        ),
        (
            "writable for all",
            &|| {
                put(&file, &good);
                fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
            },
            "everybody may write",
        ),
    ];
    for (what, break_it, said) in cases {
        pomd.stop().await;
        remove(&file);
        break_it();
        pomd.start_again().await;
        let status = pomd.status().await;
        assert_eq!(status.tunnels.len(), 2, "{what}: {status:#?}");
        assert!(!status.healthy, "{what}");
        let state = &status.pomd.config;
        let error = state.error.as_ref().expect(what);
        assert!(error.message.contains(said), "{what}: {}", error.message);
        assert!(state.loaded_at <= status.pomd.started_at, "{what}");
        assert_eq!(state.loaded_at, read_at, "{what}");
        carries(&pomd, "ssh").await;
        assert_eq!(pomd.address("echo").await, port, "{what}");
        let output = pomd.pomctl(&["status"]).await;
        let page = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(output.status.code(), Some(1), "{what}: {page}");
        let told = page.contains(" apply. Run: pomd check") && page.contains("; the settings of ");
        assert!(told && page.contains(said), "{what}: {page}");
        let told = format!(" apply. Run: pomd check {}", file.display());
        assert!(pomd.words().contains(&told), "{what}: {}", pomd.words());
        let told = eventually("the service manager is told", async || {
            let heard = notify.heard();
            heard
                .into_iter()
                .rev()
                .find(|it| it.contains("the configuration is broken since "))
        })
        .await;
        let command = format!("run: pomd check {}", file.display());
        assert!(told.contains(&command) && told.contains(said), "{told}");
        let output = check(&pomd).await;
        assert_eq!(output.status.code(), Some(2), "{what}: {output:?}");
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        // The environment names the file, so there has to be one.
        let said = if what == "no file" {
            "there is no file "
        } else {
            said
        };
        assert!(words.contains(said), "{what}: {words}");
        assert_eq!(kept(&pomd).as_deref(), Some(good.as_str()), "{what}");
    }
    assert_eq!(deployment.gateway.stats().sign_ins, 1);
    // Mended, it holds at once, and is the next one to go back to.
    remove(&file);
    put(&file, &mended);
    let status = pomd.status().await;
    assert_eq!(status.pomd.config.error, None);
    assert!(find_tunnel(&status, "new").is_some());
    assert_eq!(kept(&pomd), Some(mended));
    // And whoever wants none has none.
    put(&file, "[settings]\n");
    let status = pomd.status().await;
    assert!(status.tunnels.is_empty() && status.healthy, "{status:#?}");
    pomd.restart().await;
    let status = pomd.status().await;
    assert!(status.tunnels.is_empty() && status.healthy, "{status:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn s4_a_copy_of_no_use_is_told_and_costs_no_start() {
    let deployment = deployment().await;
    let mut pomd = deployment.logged_in(&TUNNELS).await;
    let good = fs::read_to_string(copy(&pomd)).unwrap();
    let newer = good.replace("[tunnel.ssh]", "[tunnel.ssh]\\nof_a_later_release = true");
    type Make<'a> = &'a dyn Fn(&Path);
    let cases: [(&str, Make<'_>, bool); 8] = [
        ("empty", &|it| put(it, ""), true),
        ("half", &|it| put(it, &good[..good.len() / 2]), true),
        (
            "another version",
            &|it| put(it, &good.replace("\"version\": 1", "\"version\": 7")),
            true,
        ),
        ("binary", &|it| fs::write(it, [0xff; 3000]).unwrap(), true),
        (
            "1 GiB",
            &|it| fs::File::create(it).unwrap().set_len(1 << 30).unwrap(),
            true,
        ),
        (
            "a link",
            &|it| std::os::unix::fs::symlink("/etc/passwd", it).unwrap(),
            true,
        ),
        ("a folder", &|it| fs::create_dir(it).unwrap(), true),
        // A release that reads it may come back.
        ("of a later release", &|it| put(it, &newer), false),
    ];
    for (what, make, set_aside) in cases {
        pomd.stop().await;
        let copy = copy(&pomd);
        let aside = copy.with_extension("json.broken");
        remove(&copy);
        remove(&aside);
        make(&copy);
        put(&pomd.setup().config_file(), BROKEN);
        pomd.start_again().await;
        let status = pomd.status().await;
        assert!(status.tunnels.is_empty(), "{what}: {status:#?}");
        let words = "cannot use the last good configuration: ";
        assert!(warns(&status, words), "{what}: {status:#?}");
        assert_eq!(fs::symlink_metadata(&aside).is_ok(), set_aside, "{what}");
        assert_eq!(fs::symlink_metadata(&copy).is_ok(), !set_aside, "{what}");
        // The first good one replaces it, and nothing is said any more.
        pomd.reload(&deployment.config(&TUNNELS)).await;
        let status = pomd.status().await;
        assert!(!warns(&status, words), "{what}: {status:#?}");
        assert_eq!(kept(&pomd), Some(deployment.config(&TUNNELS)), "{what}");
        carries(&pomd, "ssh").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn s1_a_kill_at_every_call_of_a_copy_s_save_leaves_the_old_or_the_new_one_whole() {
    let deployment = deployment().await;
    let (faults, mut pomd) = with_faults(&deployment).await;
    // The ports are chosen: all that is written from now on is the copy.
    let mut before = deployment.config(&TUNNELS);
    let mut n = 0;
    loop {
        n += 1;
        let after = format!("{}# change {n}\n", deployment.config(&TUNNELS));
        faults.plan(&[&format!("disk {n} kill")]);
        pomd.replace_config(&after);
        let _ = pomd.client().reload().await;
        let calls = faults.calls();
        let killed = calls.iter().filter(|it| kind(it) == "disk").count() == n;
        faults.plan(&[]);
        if !killed {
            break;
        }
        let ended = pomd.process().wait().await;
        assert!(!ended.success());
        let copy = kept(&pomd).unwrap();
        assert!(
            copy == before || copy == after,
            "killed at call {n}: {copy}"
        );
        // The file is lost at the same time.
        pomd.replace_config(BROKEN);
        pomd.start_again().await;
        assert_eq!(litter(&pomd), Vec::<String>::new(), "killed at call {n}");
        let status = pomd.status().await;
        assert_eq!(status.tunnels.len(), 2, "killed at call {n}: {status:#?}");
        assert!(status.pomd.config.error.is_some());
        before = copy;
    }
    pomd.process().assert_runs();
    // Open the folder, make, write, sync, rename, sync the folder.
    assert!(n > 6, "{} calls", n - 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn s2_s3_a_copy_that_cannot_be_saved_is_told_until_it_is_and_the_old_one_stays() {
    let deployment = deployment().await;
    let (faults, mut pomd) = with_faults(&deployment).await;
    let first = deployment.config(&TUNNELS);
    for (n, (call, error, words)) in [
        ("create", 28, "no space left"),
        ("write", 28, "no space left"),
        ("write", 5, "input/output error"),
        ("sync", 5, "input/output error"),
        ("rename", 30, "the disk is read-only"),
    ]
    .into_iter()
    .enumerate()
    {
        let before = kept(&pomd).unwrap();
        // The look at the saved file and the command both come by.
        faults.plan(&[&format!("disk:{call} 1-9 error {error}")]);
        let after = format!("{first}# change {n}\n");
        pomd.reload(&after).await;
        let status = pomd.status().await;
        let told = format!(
            "cannot save the last good configuration, which a start with a broken one needs: {words}"
        );
        assert!(warns(&status, &told), "{call}: {status:#?}");
        assert_eq!(status.pomd.config.error, None, "it works from memory");
        assert_eq!(kept(&pomd), Some(before), "{call}");
        faults.plan(&[]);
        pomd.reload(&after).await;
        let status = pomd.status().await;
        assert!(!warns(&status, "last good"), "{call}: {status:#?}");
        assert_eq!(kept(&pomd), Some(after), "{call}");
        assert_eq!(litter(&pomd), Vec::<String>::new(), "{call}");
    }
    pomd.process().signal(Signal::TERM);
    assert!(pomd.process().wait().await.success());
}
