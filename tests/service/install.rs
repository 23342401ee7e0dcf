//! `pomctl service` under a real systemd: what it writes, takes over, refuses and takes away again.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Output,
};

use integration::{skipped, systemd::Systemd};
use serde_json::Value;

const TUNNEL: &str = "[tunnel.ssh]\nroute = \"ssh.corp.test:22\"\n\
    [cluster.corp]\nhosts = [\"*.corp.test\"]\nurl = \"https://corp.test\"\nbrowser = \"none\"\n";

/// A manager that knows no pomd yet; pomctl and pomd are in a folder whose path has a blank.
struct World {
    systemd: Systemd,
    pomctl: String,
}

impl World {
    async fn start(test: &str) -> Option<Self> {
        let systemd = match Systemd::start(TUNNEL).await {
            Ok(systemd) => systemd,
            Err(why) => {
                skipped(test, &why);
                return None;
            }
        };
        let home = home(&systemd);
        fs::remove_dir_all(home.join(".config/systemd")).unwrap();
        systemd.systemctl(&["daemon-reload"]).await;
        let pomctl = home.join(".cargo/bin/pomctl");
        let link = "ln -s \"$(command -v pomctl)\" \"$0\"";
        let pomctl = pomctl.to_str().unwrap().to_owned();
        let linked = systemd.user(&["sh", "-c", link, &pomctl]).await;
        assert!(linked.status.success(), "{linked:?}");
        Some(Self { systemd, pomctl })
    }

    fn unit(&self) -> PathBuf {
        home(&self.systemd).join(".config/systemd/user/pomd.service")
    }

    async fn pomctl(&self, arguments: &[&str]) -> Output {
        let words = [&[self.pomctl.as_str()], arguments].concat();
        self.systemd.user(&words).await
    }

    /// What a person sees of `pomctl service`: the exit code, stdout, then stderr marked by bars.
    async fn service(&self, arguments: &[&str]) -> String {
        let output = self.pomctl(&[&["service"], arguments].concat()).await;
        seen(&output)
    }

    async fn status(&self) -> Value {
        let output = self.pomctl(&["status", "--json"]).await;
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
    }
}

fn home(systemd: &Systemd) -> PathBuf {
    let config = systemd.config_file();
    config.ancestors().nth(3).map(Path::to_owned).unwrap()
}

fn seen(output: &Output) -> String {
    let text = |it: &[u8]| String::from_utf8_lossy(it).into_owned();
    let mut res = format!(
        "exit {}\n{}",
        output.status.code().unwrap(),
        text(&output.stdout)
    );
    for line in text(&output.stderr).lines() {
        res += &format!("| {line}\n");
    }
    res
}

/// The text with the numbers of processes and the version taken out.
fn settled(text: &str) -> String {
    let mut res = text.replace(control::VERSION, "VERSION");
    let mut from = 0;
    while let Some(at) = res[from..].find("(pid ") {
        let start = from + at + "(pid ".len();
        let digits = res[start..].bytes().take_while(u8::is_ascii_digit).count();
        res.replace_range(start..start + digits, "N");
        from = start;
    }
    res
}

#[tokio::test(flavor = "multi_thread")]
async fn g23_a_service_is_installed_over_a_pomd_that_runs_and_uninstalled_without_a_trace() {
    let test = "g23_a_service_is_installed_over_a_pomd_that_runs_and_uninstalled_without_a_trace";
    let Some(world) = World::start(test).await else {
        return;
    };
    let systemd = &world.systemd;
    let told = world.service(&["status"]).await;
    let expected =
        "exit 3\npomd is no service here\n| hint: to make it one: pomctl service install\n";
    assert_eq!(told, expected);
    let words = ["env", "POMD_NO_START=0", "pomctl", "up", "ssh"];
    systemd.user(&words).await;
    let before = world.status().await;

    let told = world.service(&["install"]).await;
    let expected = "exit 0
Wrote ~/.config/systemd/user/pomd.service
Started pomd VERSION (pid N). It now starts when you log in.
It took over from the pomd that ran (pid N): same ports, same logins.
  log        pomctl logs -f            undo       pomctl service uninstall
| hint: it ends when you log out; to keep it running while you are logged out: loginctl enable-linger\n";
    assert_eq!(settled(&told), expected);
    let now = world.status().await;
    assert_eq!(now["tunnels"][0]["listen"], before["tunnels"][0]["listen"]);
    assert_ne!(now["pomd"]["pid"], before["pomd"]["pid"]);
    let main = systemd.property("MainPID").await;
    assert_eq!(now["pomd"]["pid"].to_string(), main);
    assert_eq!(systemd.property("UnitFileState").await, "enabled");
    let cgroup = systemd.proc(main.parse().unwrap(), "cgroup").await;
    assert!(cgroup.contains("/pomd.service"), "{cgroup}");
    let confined = systemd.proc(main.parse().unwrap(), "status").await;
    assert!(confined.contains("NoNewPrivs:\t1"), "{confined}");

    let told = world.service(&["status"]).await;
    let expected = "exit 0
service     running (pid N)
pomd        0 of 1 tunnel up, corp needs a login
definition  ~/.config/systemd/user/pomd.service (written by pomctl)
login       starts pomd
| hint: it ends when you log out; to keep it running while you are logged out: loginctl enable-linger\n";
    assert_eq!(settled(&told), expected);
    for (action, expected) in [
        (
            "install",
            "exit 0\npomd is installed, and runs already (pid N).\n",
        ),
        ("restart", "exit 0\nRestarted pomd (pid N).\n"),
        ("stop", "exit 0\nStopped pomd (pid N).\n"),
        (
            "stop",
            "exit 0\npomd is not running as a service; nothing to do\n",
        ),
        ("start", "exit 0\nStarted pomd (pid N).\n"),
        ("start", "exit 0\npomd runs already (pid N).\n"),
    ] {
        let told = world.service(&[action]).await;
        assert_eq!(settled(&told), expected, "{action}");
    }
    assert_ne!(systemd.property("MainPID").await, main);

    let told = world.service(&["uninstall"]).await;
    let expected = "exit 0\nStopped pomd (pid N).\nRemoved ~/.config/systemd/user/pomd.service\n\
        Configuration and logins stay.\n";
    assert_eq!(settled(&told), expected);
    // The folders that were made for it are gone too, the configuration is not.
    assert!(!home(systemd).join(".config/systemd").exists());
    assert!(systemd.config_file().exists());
    assert_eq!(systemd.property("LoadState").await, "not-found");
    let told = world.service(&["uninstall"]).await;
    assert_eq!(told, "exit 0\npomd is no service here; nothing to do\n");
    let told = world.service(&["start"]).await;
    let expected = "exit 1\n| error: pomd is no service here\n\
        | hint: to make it one: pomctl service install\n";
    assert_eq!(told, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unit_that_pomctl_did_not_write_stays_as_it_is() {
    let test = "a_unit_that_pomctl_did_not_write_stays_as_it_is";
    let Some(world) = World::start(test).await else {
        return;
    };
    let systemd = &world.systemd;
    let unit = world.unit();
    let folder = unit.parent().unwrap().to_str().unwrap();
    let made = systemd.user(&["mkdir", "-p", folder]).await;
    assert!(made.status.success(), "{made:?}");
    let refused = "exit 1\n| error: ~/.config/systemd/user/pomd.service was not written by pomctl, \
        and stays as it is\n| hint: move it away, then run this again\n";
    let own = "[Service]\nExecStart=/bin/true\n";
    fs::write(&unit, own).unwrap();
    // The manager has not read it yet.
    for action in ["install", "uninstall"] {
        assert_eq!(world.service(&[action]).await, refused);
        assert_eq!(fs::read_to_string(&unit).unwrap(), own);
    }
    fs::remove_file(&unit).unwrap();
    let kept = systemd.files().join("kept.service");
    fs::write(&kept, own).unwrap();
    std::os::unix::fs::symlink(&kept, &unit).unwrap();
    assert_eq!(world.service(&["install"]).await, refused);
    fs::remove_file(&unit).unwrap();
    std::os::unix::fs::symlink("/dev/null", &unit).unwrap();
    systemd.systemctl(&["daemon-reload"]).await;
    let masked = "exit 1\n| error: pomd.service is masked\n\
        | hint: to allow it again: systemctl --user unmask pomd\n";
    assert_eq!(world.service(&["install"]).await, masked);
    fs::remove_file(&unit).unwrap();

    // A package's is enabled, and disabled again; with another configuration there is one of our own in front of it.
    systemd.package_unit().await;
    let told = world.service(&["install", "--json"]).await;
    assert!(told.contains("\"owner\": \"package\""), "{told}");
    assert!(told.contains("\"running\": true"), "{told}");
    assert!(!unit.exists());
    let told = world.service(&["uninstall"]).await;
    assert!(
        told.contains("/run/systemd/user/pomd.service belongs to a package and stays"),
        "{told}"
    );
    assert_eq!(systemd.property("ActiveState").await, "inactive");
    let other = systemd.files().join("another one.toml");
    let words = ["--config", other.to_str().unwrap(), "service", "install"];
    let told = world.pomctl(&words).await;
    assert!(
        seen(&told).contains("Wrote ~/.config/systemd/user/pomd.service"),
        "{told:?}"
    );
    assert_eq!(
        world.status().await["pomd"]["config"]["path"],
        other.to_str().unwrap()
    );
    let told = world.service(&["uninstall", "--json"]).await;
    assert!(told.contains("\"owner\": \"package\""), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_an_installation_that_fails_nothing_stays_and_a_pomd_of_a_terminal_is_not_pushed_out() {
    let test =
        "of_an_installation_that_fails_nothing_stays_and_a_pomd_of_a_terminal_is_not_pushed_out";
    let Some(mut world) = World::start(test).await else {
        return;
    };
    let words = [
        "systemd-run",
        "--user",
        "--unit=by-hand",
        "-p",
        "Type=notify",
        "pomd",
    ];
    let path = format!("PATH={}", world.systemd.files().display());
    let begun = world.systemd.user(&words).await;
    assert!(begun.status.success(), "{begun:?}");
    let told = settled(&world.service(&["install"]).await);
    let expected = "exit 1\n| error: a pomd runs in a terminal or under another manager (pid N)\n\
        | hint: end it, then run this again: pomctl stop\n";
    assert_eq!(told, expected);
    assert!(!world.unit().exists());
    world.systemd.systemctl(&["stop", "by-hand"]).await;

    // After `su` the manager is found all the same.
    let words = [
        "env",
        "-u",
        "XDG_RUNTIME_DIR",
        &path,
        &world.pomctl,
        "service",
        "install",
    ];
    let told = seen(&world.systemd.user(&words).await);
    assert!(
        told.starts_with("exit 1\n| error: there is no systemd here"),
        "{told}"
    );
    let words = [
        "env",
        "-u",
        "XDG_RUNTIME_DIR",
        &world.pomctl,
        "service",
        "status",
    ];
    let told = seen(&world.systemd.user(&words).await);
    assert!(
        told.starts_with("exit 3\npomd is no service here\n"),
        "{told}"
    );

    let broken = world
        .systemd
        .program("pomd-that-fails", "echo no luck >&2; exit 1");
    let folder = world.systemd.files().join("b in");
    let make =
        "mkdir \"$0\" && ln -s \"$(command -v pomctl)\" \"$0/pomctl\" && ln -s \"$1\" \"$0/pomd\"";
    let folder = folder.to_str().unwrap().to_owned();
    let words = ["sh", "-c", make, &folder, broken.to_str().unwrap()];
    let made = world.systemd.user(&words).await;
    assert!(made.status.success(), "{made:?}");
    world.pomctl = format!("{folder}/pomctl");
    let told = world.service(&["install"]).await;
    assert!(
        told.starts_with("exit 1\n| error: pomd does not start: systemctl: "),
        "{told}"
    );
    assert!(
        told.ends_with("| hint: what it said last: journalctl --user -u pomd -n 20\n"),
        "{told}"
    );
    assert!(!home(&world.systemd).join(".config/systemd").exists());
    assert_eq!(world.systemd.property("LoadState").await, "not-found");
}
