//! A real `systemd --user` with a journal, for one test: a user of its own in namespaces of its own.
//!
//! Nothing of it is seen from outside but its folder, its processes and a control group, which end with it. Needs root.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    time::Duration,
};

use tempfile::TempDir;

use crate::{
    PATIENCE,
    binary::{binary, root},
    eventually, pomd,
    process::Process,
};

/// Nobody's number.
const UID: u32 = 64_242;
/// How long one command may take.
const LIMIT: Duration = Duration::from_secs(60);
const PROGRAMS: [&str; 5] = ["unshare", "nsenter", "setpriv", "systemctl", "journalctl"];
const MANAGER: [&str; 2] = ["/usr/lib/systemd/systemd", "/lib/systemd/systemd"];

/// Makes the world inside of the namespaces; `$1` is the folder, `$2` the user, `$3` the group's name, `$4` where
/// systemd's programs are, `$5` and `$6` are pomd and pomctl.
const INSIDE: &str = r#"
set -eu
mount -t tmpfs -o mode=0755 tmpfs /run/systemd 2>/dev/null || { mkdir -p /run/systemd; mount -t tmpfs -o mode=0755 tmpfs /run/systemd; }
mkdir -p /run/log /run/user /run/systemd/system /run/systemd/journal /run/systemd/journald.conf.d
mount -t tmpfs -o mode=0755 tmpfs /run/log
mount -t tmpfs -o mode=0755 tmpfs /run/user
mkdir -m 0700 "/run/user/$2" && chown "$2:$2" "/run/user/$2"
printf '[Journal]\nStorage=volatile\nReadKMsg=no\nAudit=no\nForwardToSyslog=no\nRateLimitBurst=0\n' > /run/systemd/journald.conf.d/test.conf
cp /etc/passwd "$1/passwd" && echo "pomd-test:x:$2:$2::$1/the home:/bin/sh" >> "$1/passwd" && chmod 0644 "$1/passwd"
mount --bind "$1/passwd" /etc/passwd
tr -d - < /proc/sys/kernel/random/uuid > "$1/machine-id"
[ -e /etc/machine-id ] || : > /etc/machine-id
mount --bind "$1/machine-id" /etc/machine-id
mkdir -p "/run/log/journal/$(cat "$1/machine-id")"
: > "$1/bin/pomd" && mount --bind "$5" "$1/bin/pomd"
: > "$1/the home/.cargo/bin/pomd" && mount --bind "$5" "$1/the home/.cargo/bin/pomd"
: > "$1/bin/pomctl" && mount --bind "$6" "$1/bin/pomctl"
mount -t cgroup2 none /sys/fs/cgroup
group="/sys/fs/cgroup/$3/user@$2.service"
mkdir -p "$group" && chown -R "$2:$2" "$group"
"$4/systemd-journald" &
# The first process stays at the top: the journal takes its place for the root of all units.
sh -c 'echo $$ > "$0/cgroup.procs" && exec "$@"' "$group" \
    setpriv --reuid "$2" --regid "$2" --clear-groups env -i HOME="$1/the home" PATH="$PATH" LANG=C \
        XDG_RUNTIME_DIR="/run/user/$2" DBUS_SESSION_BUS_ADDRESS="unix:path=/run/user/$2/bus" "$4/systemd" --user &
: > "$1/made"
wait
"#;

/// Empties a control group that nobody is in any more; `$1` is a folder to mount on, `$2` the group's name.
const CLEAN: &str =
    r#"mount -t cgroup2 none "$1" && find "$1/$2" -depth -type d -exec rmdir {} \;"#;

/// The manager, with pomd's unit as it is shipped, not started yet.
#[derive(Debug)]
pub struct Systemd {
    folder: TempDir,
    group: String,
    outside: Option<Process>,
    inside: u32,
}

impl Systemd {
    /// Starts it with this configuration of pomd; `Err`: why that cannot be had here.
    pub async fn start(config: &str) -> Result<Self, String> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        if !rustix::process::geteuid().is_root() {
            return Err("needs root".to_owned());
        }
        let manager = MANAGER.iter().map(Path::new).find(|it| it.is_file());
        let manager = manager.ok_or("there is no systemd")?;
        let missing = |it: &&&str| Command::new(it).arg("--version").output().is_err();
        if let Some(program) = PROGRAMS.iter().find(missing) {
            return Err(format!("there is no {program}"));
        }
        let group = format!(
            "pomd_test_{}_{}.slice",
            std::process::id(),
            NUMBER.fetch_add(1, Relaxed)
        );
        let folder = prepared(config);
        let mut command = Command::new("unshare");
        command
            .args(["-m", "-p", "-f", "--kill-child", "--mount-proc"])
            .args(["/bin/sh", "-c", INSIDE, "sh"])
            .arg(folder.path())
            .args([&UID.to_string(), &group])
            .arg(manager.parent().unwrap_or(Path::new("/")))
            .args([binary("pomd"), binary("pomctl")]);
        let words = folder.path().join("words");
        let mut outside = Process::start("systemd", &mut command, &words);
        let made = folder.path().join("made");
        let made = eventually("a world for systemd", async || {
            let ended = outside.ended().is_some();
            (made.exists() || ended).then_some(made.exists())
        })
        .await;
        if !made {
            return Err(format!("no namespaces: {}", outside.words().trim()));
        }
        let inside = child_of(outside.pid());
        let res = Self {
            folder,
            group,
            outside: Some(outside),
            inside,
        };
        eventually("systemd runs", async || {
            let state = res
                .user(&["systemctl", "--user", "is-system-running"])
                .await;
            let state = String::from_utf8_lossy(&state.stdout).into_owned();
            matches!(state.trim(), "running" | "degraded").then_some(())
        })
        .await;
        Ok(res)
    }

    /// pomd's configuration file.
    pub fn config_file(&self) -> PathBuf {
        self.folder.path().join("the home/.config/pomd/pomd.toml")
    }

    /// Adds settings to the unit.
    pub async fn amend(&self, settings: &str) {
        let folder = units(self.folder.path()).join("pomd.service.d");
        make(&folder);
        crate::setup::write(&folder.join("test.conf"), settings);
        self.systemctl(&["daemon-reload"]).await;
    }

    /// Adds a unit.
    pub async fn unit(&self, name: &str, text: &str) {
        crate::setup::write(&units(self.folder.path()).join(name), text);
        self.systemctl(&["daemon-reload"]).await;
    }

    /// Adds pomd's unit as it is shipped, where packages of all users may be.
    pub async fn package_unit(&self) {
        let shipped = root().join("systemd/pomd.service");
        let folder = "/run/systemd/user";
        let put = "mkdir -p \"$0\" && cat > \"$0/pomd.service\" && chmod 0644 \"$0/pomd.service\"";
        let mut command = self.enter();
        command.args(["sh", "-c", put, folder]);
        let unit = fs::File::open(&shipped).unwrap_or_else(|error| panic!("the unit: {error}"));
        let made = command.stdin(unit).status();
        assert!(made.is_ok_and(|it| it.success()), "{folder}");
        self.systemctl(&["daemon-reload"]).await;
    }

    /// `systemctl --user`, which must succeed; what it says.
    pub async fn systemctl(&self, arguments: &[&str]) -> String {
        let words = [&["systemctl", "--user"], arguments].concat();
        let output = self.user(&words).await;
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "{words:?}: {told}\n{}",
            self.log().await
        );
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// A property of pomd's unit.
    pub async fn property(&self, name: &str) -> String {
        self.systemctl(&["show", "pomd", "--value", "-p", name])
            .await
    }

    /// Waits until a property of pomd's unit is this.
    pub async fn wait_for(&self, name: &str, value: &str) {
        let mut last = String::new();
        let end = tokio::time::Instant::now() + PATIENCE;
        while tokio::time::Instant::now() < end {
            last = self.property(name).await;
            if last == value {
                return;
            }
        }
        panic!("{name} is {last:?}, not {value:?}\n{}", self.log().await);
    }

    /// Runs this as the user; pomd's programs are on its path.
    pub async fn user(&self, words: &[&str]) -> Output {
        let home = self.folder.path().join("the home");
        let path = std::env::var("PATH").unwrap_or_default();
        let bin = self.folder.path().join("bin");
        let mut command = self.enter();
        command
            .args(["setpriv", "--clear-groups"])
            .args(["--reuid", &UID.to_string(), "--regid", &UID.to_string()])
            .args(["env", "-i", "LANG=C", "POMD_NO_START=1"])
            .arg(format!("HOME={}", home.display()))
            .arg(format!("PATH={}:{path}", bin.display()))
            .arg(format!("XDG_RUNTIME_DIR=/run/user/{UID}"))
            .args(words);
        pomd::run(command, LIMIT).await
    }

    /// A program of the user's; its path has no blank.
    pub fn program(&self, name: &str, script: &str) -> PathBuf {
        let path = self.folder.path().join("bin").join(name);
        crate::setup::write(&path, &format!("#!/bin/sh\n{script}\n"));
        let executable = fs::Permissions::from_mode(0o755);
        fs::set_permissions(&path, executable).unwrap_or_else(|error| panic!("{error}"));
        path
    }

    /// A folder that the user may write to; its path has no blank.
    pub fn files(&self) -> PathBuf {
        self.folder.path().join("files")
    }

    /// The file of one of the namespace's processes below `/proc`.
    pub async fn proc(&self, pid: u32, file: &str) -> String {
        let output = self.user(&["cat", &format!("/proc/{pid}/{file}")]).await;
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// The lines of the journal that match, as JSON objects.
    pub async fn journal(&self, matches: &[&str]) -> Vec<serde_json::Value> {
        let mut command = self.enter();
        command.args(["journalctl", "--no-pager", "-o", "json"]);
        let output = pomd::run(
            {
                command.args(matches);
                command
            },
            LIMIT,
        )
        .await;
        let lines = String::from_utf8_lossy(&output.stdout).into_owned();
        let parsed = lines.lines().map(serde_json::from_str);
        parsed.filter_map(Result::ok).collect()
    }

    /// Everything in the journal, for people.
    async fn log(&self) -> String {
        let mut command = self.enter();
        command.args(["journalctl", "--no-pager"]);
        let output = pomd::run(command, LIMIT).await;
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// A command, so far only its way into the namespaces.
    fn enter(&self) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-m", "-p", "-t", &self.inside.to_string()]);
        command
    }
}

impl Drop for Systemd {
    fn drop(&mut self) {
        // The first process of the namespace takes all others along.
        if let Some(outside) = self.outside.take() {
            outside.kill();
        }
        let mount = self.folder.path().join("group");
        let _ = fs::create_dir(&mount);
        let mut left = 200;
        loop {
            // What was killed is in its group until it is reaped.
            let cleaned = Command::new("unshare")
                .args(["-m", "/bin/sh", "-c", CLEAN, "sh"])
                .args([mount.as_os_str(), self.group.as_ref()])
                .output();
            left -= 1;
            if left == 0 || cleaned.is_ok_and(|it| it.status.success() && it.stderr.is_empty()) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// A folder with the user's home, whose path has a blank: the configuration, and the unit as it is shipped.
fn prepared(config: &str) -> TempDir {
    let folder = crate::pomd::folder();
    let open = fs::Permissions::from_mode(0o755);
    fs::set_permissions(folder.path(), open).unwrap_or_else(|error| panic!("{error}"));
    for part in [
        "bin",
        "files",
        "the home/.cargo/bin",
        "the home/.config/pomd",
        "the home/.local/state",
    ] {
        make(&folder.path().join(part));
    }
    make(&units(folder.path()));
    crate::setup::write(
        &folder.path().join("the home/.config/pomd/pomd.toml"),
        config,
    );
    let unit = fs::read_to_string(root().join("systemd/pomd.service"));
    let unit = unit.unwrap_or_else(|error| panic!("the unit: {error}"));
    crate::setup::write(&units(folder.path()).join("pomd.service"), &unit);
    let owned = Command::new("chown")
        .args(["-R", &format!("{UID}:{UID}")])
        .args(["the home", "files"].map(|it| folder.path().join(it)))
        .status();
    assert!(owned.is_ok_and(|it| it.success()), "chown");
    folder
}

fn units(folder: &Path) -> PathBuf {
    folder.join("the home/.config/systemd/user")
}

fn make(folder: &Path) {
    let made = fs::create_dir_all(folder);
    made.unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
}

/// The only child of a process.
fn child_of(pid: u32) -> u32 {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    let children = children.unwrap_or_default();
    let first = children.split_whitespace().next();
    first
        .and_then(|it| it.parse().ok())
        .unwrap_or_else(|| panic!("no child of {pid}: {children:?}"))
}
