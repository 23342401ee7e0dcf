//! The browser of a pomd that runs as the unit that is shipped: found in the environment of the moment, and outside of
//! the unit.

use std::net::SocketAddr;

use gateway::{DEMO_USER, Gateway, Upstream};
use integration::{chromium, eventually, skipped, systemd::Systemd};
use serde_json::Value;

/// A Pomerium without TLS, whose people sign in by themselves; the page behind it, and pomd's unit.
struct World {
    systemd: Systemd,
    gateway: Gateway,
}

impl World {
    async fn start(test: &str, settings: &str) -> Option<Self> {
        let gateway = Gateway::builder()
            .domain("demo")
            .user(DEMO_USER)
            .automatic();
        let gateway = gateway.route("hello.demo:80", Upstream::Hello).start();
        let gateway = gateway.await.unwrap();
        let config = config(gateway.address(), settings);
        match Systemd::start(&config).await {
            Ok(systemd) => Some(Self { systemd, gateway }),
            Err(why) => {
                skipped(test, &why);
                None
            }
        }
    }

    async fn status(&self) -> Value {
        let output = self.systemd.user(&["pomctl", "status", "--json"]).await;
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
    }

    /// Where the tunnel listens.
    async fn port(&self) -> u16 {
        let status = self.status().await;
        let listen = status["tunnels"][0]["listen"][0]
            .as_str()
            .unwrap()
            .to_owned();
        listen.rsplit(':').next().unwrap().parse().unwrap()
    }

    /// The page through the tunnel. pomd answers only its own user, so that one asks.
    async fn page(&self) -> String {
        let url = format!("http://localhost:{}/", self.port().await);
        let output = self.systemd.user(&["curl", "-sS", "-m", "60", &url]).await;
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    }

    /// The control group of pomd's unit, and of a process.
    async fn groups(&self, pid: u32) -> (String, String) {
        let main = self.systemd.property("MainPID").await.parse().unwrap();
        let of = async |pid| {
            let all = self.systemd.proc(pid, "cgroup").await;
            let line = all.lines().find(|it| it.starts_with("0::"));
            line.unwrap_or_default().to_owned()
        };
        (of(main).await, of(pid).await)
    }
}

fn config(pomerium: SocketAddr, settings: &str) -> String {
    format!(
        "[tunnel.hello]\nroute = \"tcp+http://{pomerium}/hello.demo:80\"\n\
         [cluster.demo]\nhosts = [\"127.0.0.1\"]\nurl = \"http://{pomerium}\"\n{settings}"
    )
}

/// What a status file of a process says under this name.
fn field<'a>(status: &'a str, name: &str) -> &'a str {
    let mut lines = status.lines();
    let value = lines.find_map(|it| it.strip_prefix(name)?.strip_prefix(':'));
    value.unwrap_or_default().trim()
}

#[tokio::test(flavor = "multi_thread")]
async fn l12_a32_a_connection_opens_a_real_chromium_though_the_unit_began_before_any_display() {
    let test =
        "l12_a32_a_connection_opens_a_real_chromium_though_the_unit_began_before_any_display";
    let Some(chromium) = chromium::chromium() else {
        skipped(test, "there is no Chromium");
        return;
    };
    if std::process::Command::new("Xvfb")
        .arg("-help")
        .output()
        .is_err()
    {
        skipped(test, "there is no Xvfb");
        return;
    }
    let Some(world) = World::start(test, "").await else {
        return;
    };
    let systemd = &world.systemd;
    systemd.systemctl(&["start", "pomd"]).await;
    let main: u32 = systemd.property("MainPID").await.parse().unwrap();
    let own = systemd.proc(main, "status").await;
    assert_eq!(field(&own, "NoNewPrivs"), "1", "the unit is confined");

    // A desktop comes up.
    let files = systemd.files();
    let number = files.join("display");
    let script = format!(
        "exec Xvfb -displayfd 3 -nolisten tcp 3> '{}'",
        number.display()
    );
    let words = ["systemd-run", "--user", "--unit=xvfb", "sh", "-c", &script];
    let begun = systemd.user(&words).await;
    assert!(begun.status.success(), "{begun:?}");
    let display = eventually("a display", async || {
        let text = std::fs::read_to_string(&number).ok()?;
        text.ends_with('\n').then(|| format!(":{}", text.trim()))
    })
    .await;
    let fails = systemd.program("no-browser", "exit 4");
    let browser = systemd.program(
        "a-browser",
        &format!(
            "echo $$ > '{0}/pid'\nexport TMPDIR='{0}'\nexec '{1}' {2} --user-data-dir='{0}/profile' \"$@\" 2> '{0}/words'",
            files.display(),
            chromium.display(),
            chromium::QUIET.join(" "),
        ),
    );
    let browser = format!("BROWSER={}:{}", fails.display(), browser.display());
    let display = format!("DISPLAY={display}");
    systemd
        .systemctl(&["set-environment", &display, &browser])
        .await;

    // The connection waits, a page opens, and the person is signed in there.
    let page = world.page().await;
    let words = std::fs::read_to_string(files.join("words")).unwrap_or_default();
    assert!(
        page.starts_with(&format!("Hello, {DEMO_USER}.")),
        "{page}\n{words}"
    );
    assert_eq!(world.gateway.stats().sign_ins, 1);

    let pid = std::fs::read_to_string(files.join("pid")).unwrap();
    let pid: u32 = pid.trim().parse().unwrap();
    let status = systemd.proc(pid, "status").await;
    assert_eq!(field(&status, "NoNewPrivs"), "0", "{status}");
    assert_eq!(field(&status, "Seccomp"), "0", "{status}");
    let (ours, its) = world.groups(pid).await;
    assert!(ours.ends_with("/pomd.service"), "{ours}");
    assert!(!its.is_empty() && !its.starts_with(&ours), "{its}");
    // Nothing of the unit's went along.
    let environment = systemd.proc(pid, "environ").await;
    let names: Vec<_> = environment
        .split('\0')
        .filter_map(|it| it.split_once('='))
        .collect();
    for name in [
        "NOTIFY_SOCKET",
        "WATCHDOG_USEC",
        "LISTEN_FDS",
        "POMD_SOCKET",
    ] {
        assert!(!names.iter().any(|it| it.0 == name), "{name}: {names:?}");
    }

    systemd.systemctl(&["stop", "pomd"]).await;
    assert_eq!(systemd.property("ActiveState").await, "inactive");
    let status = systemd.proc(pid, "status").await;
    assert!(
        field(&status, "State").starts_with(['S', 'R']),
        "it was ended too: {status}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a32_a_browser_of_the_clusters_own_runs_outside_and_gets_its_words_as_they_are() {
    let test = "a32_a_browser_of_the_clusters_own_runs_outside_and_gets_its_words_as_they_are";
    let Some(world) = World::start(test, "browser = \"none\"\n").await else {
        return;
    };
    let systemd = &world.systemd;
    let out = systemd.files().join("told");
    let program = systemd.program(
        "own",
        &format!(
            "for it in \"$@\"; do echo \"<$it>\"; done > '{0}.new'\n\
             grep NoNewPrivs /proc/self/status >> '{0}.new'\necho \"$MARK\" >> '{0}.new'\nmv '{0}.new' '{0}'\n\
             sleep 300 & echo $! > '{0}.pid'",
            out.display()
        ),
    );
    let settings = format!(
        "browser = [\"{}\", \"a$HOME\", \"$$\", \"%h\", \"b c\", \"--to=%s\"]\n",
        program.display()
    );
    std::fs::write(
        systemd.config_file(),
        config(world.gateway.address(), &settings),
    )
    .unwrap();
    systemd.amend("[Service]\nEnvironment=MARK=ours\n").await;
    systemd.systemctl(&["start", "pomd"]).await;
    let port = world.port().await;
    let script = format!("exec 3<>/dev/tcp/127.0.0.1/{port}; echo x >&3; cat <&3");
    let words = ["timeout", "60", "bash", "-c", &script];
    let client = systemd.user(&words);
    let told = eventually("it is told", async || std::fs::read_to_string(&out).ok());
    tokio::pin!(client);
    let told = tokio::select! {
        told = told => told,
        ended = &mut client => panic!("{ended:?}"),
    };
    let lines: Vec<_> = told.lines().collect();
    assert_eq!(lines[..4], ["<a$HOME>", "<$$>", "<%h>", "<b c>"]);
    assert!(lines[4].starts_with("<--to=http://127.0.0.1:"), "{told}");
    assert_eq!(lines[5..], ["NoNewPrivs:\t0", ""], "{told}");

    // What it left behind lives on, as browsers do.
    let left = out.with_extension("pid");
    let pid: u32 = eventually("what it left", async || {
        std::fs::read_to_string(&left).ok()?.trim().parse().ok()
    })
    .await;
    systemd.systemctl(&["stop", "pomd"]).await;
    let status = systemd.proc(pid, "status").await;
    assert!(field(&status, "State").starts_with('S'), "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn l12_no_browser_before_a_display_and_a_refusal_that_says_so() {
    let test = "l12_no_browser_before_a_display_and_a_refusal_that_says_so";
    let Some(world) = World::start(test, "").await else {
        return;
    };
    let systemd = &world.systemd;
    let out = systemd.files().join("opened");
    let opener = systemd.program("xdg-open", &format!("echo \"$1\" > '{}'", out.display()));
    let path = std::env::var("PATH").unwrap();
    systemd.systemctl(&["start", "pomd"]).await;
    let port = world.port().await;
    let script = format!("exec 3<>/dev/tcp/127.0.0.1/{port}; echo x >&3; cat <&3");
    let words = ["timeout", "60", "bash", "-c", &script];
    let client = systemd.user(&words);
    tokio::pin!(client);
    let waits = eventually("a login is needed", async || {
        let status = world.status().await;
        (status["clusters"][0]["waiting"] == 1).then_some(status)
    });
    let status = tokio::select! {
        status = waits => status,
        ended = &mut client => panic!("{ended:?}"),
    };
    assert_eq!(status["clusters"][0]["state"], "login_needed", "{status:#}");

    // Both the display and the folder of the opener are new.
    let folder = opener.parent().unwrap().display().to_string();
    let path = format!("PATH={folder}:{path}");
    systemd
        .systemctl(&["set-environment", "DISPLAY=:7", &path])
        .await;
    // An answer of the manager counts for a moment: who comes behind it opens the page.
    let words = ["timeout", "0.5", "bash", "-c", &script];
    let link = eventually("the opener is run", async || {
        systemd.user(&words).await;
        let text = std::fs::read_to_string(&out).ok()?;
        text.ends_with('\n').then_some(text)
    })
    .await;
    assert!(link.starts_with("http://127.0.0.1:"), "{link}");
}

#[tokio::test(flavor = "multi_thread")]
async fn l12_n11_a_forward_proxy_of_the_environment_is_taken_at_a_reload_and_shown() {
    let test = "l12_n11_a_forward_proxy_of_the_environment_is_taken_at_a_reload_and_shown";
    let systemd = "[tunnel.ssh]\nroute = \"ssh.corp.test:22\"\n\
        [cluster.corp]\nhosts = [\"*.corp.test\"]\nurl = \"https://corp.test\"\nbrowser = \"none\"\n";
    let systemd = match Systemd::start(systemd).await {
        Ok(it) => it,
        Err(why) => return skipped(test, &why),
    };
    systemd.systemctl(&["start", "pomd"]).await;
    let status = async || -> Value {
        let output = systemd.user(&["pomctl", "status", "--json"]).await;
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
    };
    let shown = async || status().await["clusters"][0]["forward_proxy"].to_string();
    assert_eq!(shown().await, "null");
    let set = "HTTPS_PROXY=socks://al:canary@proxy.lan";
    let no = "NO_PROXY=*.other.test http://bad";
    systemd.systemctl(&["set-environment", set, no]).await;
    let reloaded = systemd.user(&["pomctl", "reload"]).await;
    assert!(reloaded.status.success(), "{reloaded:?}");
    let now = eventually("the proxy is shown", async || {
        let now = status().await;
        let proxy = now["clusters"][0]["forward_proxy"].to_string();
        proxy.contains("socks5://proxy.lan:1080").then_some(now)
    })
    .await;
    let warnings = now["pomd"]["warnings"].to_string();
    assert!(
        warnings.contains("NO_PROXY: `http://bad` can match no host"),
        "{warnings}"
    );
    assert!(!now.to_string().contains("canary"));

    // An exception, a change, and none at all again, each without a restart.
    systemd
        .systemctl(&["set-environment", "NO_PROXY=*.corp.test,corp.test"])
        .await;
    systemd.systemctl(&["reload", "pomd"]).await;
    eventually("it is exempt", async || {
        (shown().await == "null").then_some(())
    })
    .await;
    systemd
        .systemctl(&["unset-environment", "NO_PROXY", "HTTPS_PROXY"])
        .await;
    systemd
        .systemctl(&["set-environment", "ALL_PROXY=http://two.lan:3128"])
        .await;
    systemd.systemctl(&["reload", "pomd"]).await;
    eventually("it is the other one", async || {
        let proxy = shown().await;
        (proxy.contains("http://two.lan:3128") && proxy.contains("ALL_PROXY")).then_some(())
    })
    .await;
}
