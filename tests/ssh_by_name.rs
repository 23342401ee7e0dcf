//! ssh and what runs it, with nothing but what `pomctl ssh-config --install` put into a person's files.

mod descriptor;
mod programs;

use std::{
    ffi::OsStr,
    fs,
    path::PathBuf,
    process::{Command, Output},
    time::{Duration, Instant},
};

use control::wire::ClusterState;
use integration::{
    PATIENCE,
    binary::{binary, system},
    deployment::{CLUSTER, Deployment},
    eventually,
    pomd::{self, Pomd, Setup},
    ssh::Sshd,
};

const HOST: &str = "web-1.corp.test";
const ROUTE: &str = "web-1.corp.test:22";
/// How many connections begin at once where none is there yet.
const COLD: usize = 12;
const COLD_AT_NIGHT: usize = 200;

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A person's files, with the Include in them, and where they lead.
struct Person {
    deployment: Deployment,
    sshd: Sshd,
}

impl Person {
    async fn new() -> Self {
        let sshd = Sshd::start().await;
        let deployment = Deployment::envoy(&[(ROUTE, sshd.address())]).await;
        Self { deployment, sshd }
    }

    /// Puts the person's own lines and then ours into their files.
    async fn install(&self, setup: &Setup, flags: &[&str]) -> Output {
        fs::create_dir(setup.folder().join(".ssh")).unwrap();
        let own = self.sshd.through(self.sshd.address()).config();
        fs::write(config(setup), own).unwrap();
        let mut pomctl = setup.command(&binary("pomctl"));
        pomctl.args(["ssh-config", "--install"]).args(flags);
        let output = pomd::run(pomctl, PATIENCE).await;
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        output
    }

    /// A pomd that is logged in, and the person's files.
    async fn at_work(&self, tunnels: &[(&str, &str)], flags: &[&str]) -> Pomd {
        let pomd = self.deployment.logged_in(tunnels).await;
        self.install(pomd.setup(), flags).await;
        pomd
    }
}

fn config(setup: &Setup) -> PathBuf {
    setup.folder().join(".ssh/config")
}

/// One of OpenSSH's programs with the person's files, without a word of pomd in its environment.
fn program(setup: &Setup, name: &str) -> Command {
    let mut command = setup.command(&system(name));
    for variable in ["POMD_CONFIG", "POMD_STATE_DIR", "POMD_SOCKET"] {
        command.env_remove(variable);
    }
    command.arg("-F").arg(config(setup));
    command
}

async fn ssh(setup: &Setup, args: &[impl AsRef<OsStr>]) -> Output {
    let mut command = program(setup, "ssh");
    command.args(args);
    pomd::run(command, PATIENCE * 3).await
}

/// The processes of pomctl that serve this setup.
fn pomctls(setup: &Setup) -> Vec<String> {
    let folder = setup.folder().to_str().unwrap();
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let words = entries.filter_map(|it| fs::read_to_string(it.path().join("cmdline")).ok());
    let ours = |it: &String| {
        let program = it.split('\0').next().unwrap_or_default();
        program.ends_with("/pomctl") && it.contains(folder)
    };
    words.filter(ours).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn ssh_goes_to_a_host_of_the_domain_and_no_pomctl_stands_between() {
    let person = Person::new().await;
    let pomd = person.at_work(&[], &[]).await;
    let setup = pomd.setup();
    let before = fs::read_to_string(config(setup)).unwrap();
    let output = ssh(setup, &[HOST, "head -c 20000000 /dev/zero; echo end"]).await;
    assert_eq!(output.stdout.len(), 20_000_004, "{}", text(&output.stderr));
    let known = fs::read_to_string(person.sshd.through(person.sshd.address()).known_hosts());
    assert!(
        known.unwrap().starts_with("web-1.corp.test "),
        "its own name"
    );

    let mut command = tokio::process::Command::from(program(setup, "ssh"));
    command.args([HOST, "echo ready; cat"]);
    command.stdin(std::process::Stdio::piped());
    command.stdout(std::process::Stdio::piped());
    let mut child = command.kill_on_drop(true).spawn().unwrap();
    let mut ready = [0; 6];
    let mut stdout = child.stdout.take().unwrap();
    let reading = tokio::io::AsyncReadExt::read_exact(&mut stdout, &mut ready);
    tokio::time::timeout(PATIENCE, reading)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(pomctls(setup), Vec::<String>::new());
    drop(child);
    assert_eq!(fs::read_to_string(config(setup)).unwrap(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_fdpass_pomctl_carries_the_bytes() {
    let person = Person::new().await;
    let pomd = person.at_work(&[("web", ROUTE)], &["--no-fdpass"]).await;
    for name in [HOST, "web"] {
        let output = ssh(pomd.setup(), &[name, "echo $((6 * 7))"]).await;
        assert_eq!(text(&output.stdout), "42\n", "{name}: {output:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_shown_by_ssh_with_fdpass_also_with_a_control_master() {
    let person = Person::new().await;
    let pomd = person.at_work(&[], &[]).await;
    let master = ["-o", "ControlMaster=auto", "-o", "ControlPersist=5"];
    let path = format!("ControlPath={}", pomd.setup().folder().join("m").display());
    let persisting: Vec<&str> = master.into_iter().chain(["-o", &path]).collect();
    for options in [Vec::new(), persisting] {
        let args: Vec<&str> = options
            .into_iter()
            .chain(["web-9.corp.test", "true"])
            .collect();
        let output = ssh(pomd.setup(), &args).await;
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(255), "{said}");
        let words = "pomd: corp has no route web-9.corp.test:22";
        assert!(said.contains(words), "{args:?}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_only_pomctl_can_tell_is_told_in_ssh_s_words_too() {
    let person = Person::new().await;
    let setup = Setup::new(&person.deployment.config(&[]));
    person.install(&setup, &[]).await;
    let ours = setup.folder().join("ssh_config");
    let told = fs::read_to_string(&ours).unwrap();
    let refusing = told.replace(" connect --ssh", " --no-start connect --ssh");
    fs::write(&ours, refusing).unwrap();
    let began = Instant::now();
    let output = ssh(&setup, &[HOST, "true"]).await;
    let said = text(&output.stderr);
    assert!(said.contains("pomctl: pomd is not running"), "{said}");
    assert!(began.elapsed() < Duration::from_secs(5), "{said}");
    // Nobody starts pomd for a host of no cluster's; ssh asks only for those that are in the file.
    let elsewhere = told.replace("Host corp.test", "Host elsewhere.test corp.test");
    fs::write(&ours, elsewhere).unwrap();
    let output = ssh(&setup, &["elsewhere.test", "true"]).await;
    let said = text(&output.stderr);
    assert!(
        said.contains("no cluster has the host elsewhere.test"),
        "{said}"
    );
    stop(&setup).await;
}

/// Ends a pomd that pomctl started.
async fn stop(setup: &Setup) {
    let mut command = setup.command(&binary("pomctl"));
    command.arg("stop");
    pomd::run(command, PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_cold_starts_make_one_daemon_one_login_and_each_works() {
    cold_starts(COLD).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "200 of them take minutes on a small machine"]
async fn two_hundred_cold_starts_make_one_daemon_one_login_and_each_works() {
    cold_starts(COLD_AT_NIGHT).await;
}

async fn cold_starts(count: usize) {
    let person = Person::new().await;
    let setup = Setup::new(&person.deployment.config(&[]));
    person.install(&setup, &[]).await;
    let deployment = &person.deployment;
    let signing_in = deployment.links.sign_in(1, &deployment.browser);
    let sessions = async {
        let mut sessions = tokio::task::JoinSet::new();
        for n in 0..count {
            let mut command = program(&setup, "ssh");
            command.args([HOST, &format!("echo session-{n}")]);
            sessions.spawn(async move { (n, pomd::run(command, PATIENCE * 6).await) });
        }
        sessions.join_all().await
    };
    let (sessions, _) = tokio::join!(sessions, signing_in);
    for (n, output) in sessions {
        assert_eq!(text(&output.stdout), format!("session-{n}\n"), "{output:?}");
    }
    assert_eq!(deployment.links.all().len(), 1, "one login");
    let log = fs::read_to_string(setup.state_dir().join("pomd.log")).unwrap();
    let starts = log.lines().filter(|it| it.contains("starts")).count();
    assert!(starts <= 1, "{log}");
    eventually("no helper stays", async || {
        pomctls(&setup).is_empty().then_some(())
    })
    .await;
    stop(&setup).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pomctl_ssh_shows_the_login_and_becomes_ssh() {
    let person = Person::new().await;
    let pomd = person
        .deployment
        .pomd(&[("web", ROUTE), ("db", "db.corp.test:5432")])
        .await;
    let setup = pomd.setup();
    person.install(setup, &[]).await;
    let ssh = |words: &[&str]| {
        let mut command = setup.command(&binary("pomctl"));
        let config = config(setup);
        command
            .arg("ssh")
            .arg(words[0])
            .arg("-F")
            .arg(config)
            .args(&words[1..]);
        pomd::run(command, PATIENCE * 3)
    };
    let deployment = &person.deployment;
    let signing_in = deployment.links.sign_in(1, &deployment.browser);
    let (output, _) = tokio::join!(ssh(&["web", "echo", "$((6 * 7))"]), signing_in);
    assert_eq!(text(&output.stdout), "42\n", "{output:?}");
    let said = text(&output.stderr);
    assert!(
        said.starts_with("Logging in to corp: your browser was opened at\n"),
        "{said}"
    );
    assert_eq!(
        pomd::cluster(&pomd.status().await, CLUSTER).state,
        ClusterState::LoggedIn
    );
    let user = text(&self::ssh(setup, &[HOST, "id -un"]).await.stdout);
    let there = format!("{}@{HOST}", user.trim());
    for words in [vec![HOST, "exit 7"], vec![&*there, "-T", "exit 7"]] {
        let output = ssh(&words).await;
        assert_eq!(output.status.code(), Some(7), "{words:?}: {output:?}");
    }
    for (name, code, words) in [
        (
            "db",
            2,
            "db leads to port 5432; if that is ssh, set ssh = true",
        ),
        ("wep", 2, "no tunnel wep; did you mean web?"),
        (
            "host.elsewhere.test",
            2,
            "no tunnel leads to host.elsewhere.test",
        ),
        ("x$(id).corp.test", 2, "x$(id).corp.test"),
        ("-oProxyCommand=id", 2, ""),
    ] {
        let output = ssh(&[name]).await;
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{name}: {said}");
        assert!(said.contains(words), "{name}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pomd_rewrites_what_is_installed_when_tunnels_change() {
    let person = Person::new().await;
    let pomd = person.at_work(&[], &[]).await;
    let setup = pomd.setup();
    let ours = setup.folder().join("ssh_config");
    assert!(!fs::read_to_string(&ours).unwrap().contains("Host web\n"));
    let config = person.deployment.config(&[("web", ROUTE)]);
    fs::write(setup.config_file(), config).unwrap();
    eventually("the file names the tunnel", async || {
        let text = fs::read_to_string(&ours).unwrap();
        text.contains("Host web\n    HostName web-1.corp.test\n")
            .then_some(())
    })
    .await;
    let output = ssh(setup, &["web", "echo there"]).await;
    assert_eq!(text(&output.stdout), "there\n", "{output:?}");
    let mut pomctl = setup.command(&binary("pomctl"));
    pomctl.args(["ssh-config", "--uninstall"]);
    let output = pomd::run(pomctl, PATIENCE).await;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(!ours.exists());
    let own = person.sshd.through(person.sshd.address()).config();
    assert_eq!(fs::read_to_string(self::config(setup)).unwrap(), own);
    let config = person.deployment.config(&[]);
    fs::write(setup.config_file(), config).unwrap();
    pomd.wait_for("the tunnel is gone", |it| it.tunnels.is_empty())
        .await;
    assert!(!ours.exists(), "removed by hand, it does not come again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a13_ssh_reads_the_file_and_sees_only_our_hosts_in_it() {
    let person = Person::new().await;
    let pomd = person.at_work(&[("web", ROUTE)], &[]).await;
    let proxied = async |host: &str| {
        let output = ssh(pomd.setup(), &["-G", host]).await;
        assert!(output.status.success(), "{output:?}");
        let said = text(&output.stdout);
        let values = ["hostname ", "proxycommand "];
        values.map(|key| {
            let line = said.lines().find_map(|it| it.strip_prefix(key));
            line.map(str::to_owned)
        })
    };
    for (host, name) in [
        ("web", HOST),
        (HOST, HOST),
        ("a.b.corp.test", "a.b.corp.test"),
        ("corp.test", "corp.test"),
    ] {
        let [hostname, command] = proxied(host).await;
        assert_eq!(hostname.as_deref(), Some(name));
        assert!(command.unwrap().ends_with("connect --ssh --fdpass '%h:%p'"));
    }
    for host in [
        "github.com",
        "xcorp.test",
        "corp.test.example.com",
        "web2",
        "localhost",
    ] {
        assert_eq!(proxied(host).await[1], None, "{host}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a14_no_host_name_runs_anything_by_the_proxy_command() {
    let person = Person::new().await;
    let pomd = person.at_work(&[], &[]).await;
    let made = pomd.setup().folder().join("made");
    let at = made.display();
    let hostile = [
        format!("x$(touch {at})"),
        format!("x`touch {at}`"),
        format!("x;touch {at};"),
        format!("x|touch {at}|"),
        format!("x&touch {at}&"),
        format!("x'$(touch {at})'"),
        format!("x';touch {at};'"),
        format!("x\"$(touch {at})\""),
        format!("x\ntouch {at}\n"),
        format!("x>{at}"),
        format!("x %h;touch {at}"),
        format!("${{IFS}}touch{at}"),
        "x\u{202e}y".to_owned(),
        "x\u{1b}]0;x\u{7}y".to_owned(),
        "x\u{0}y".replace('\u{0}', "\\0"),
        "x\\".to_owned(),
        "x*".to_owned(),
        "../x".to_owned(),
        "x#y".to_owned(),
        "[::1]x".to_owned(),
    ];
    for name in hostile {
        let host = format!("{name}.corp.test");
        let output = ssh(pomd.setup(), &["--", &host, "true"]).await;
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(255), "{host:?}: {said}");
        assert_eq!(said.lines().count(), 1, "{host:?}: {said}");
        assert!(
            !said
                .trim_end()
                .contains(|it: char| it.is_control() && it != '\r'),
            "{said:?}"
        );
        assert!(!made.exists(), "{host:?}");
        // Older versions of ssh hand such a name on.
        let mut command = pomd.setup().command(&binary("pomctl"));
        command.args(["connect", "--", &format!("{host}:22")]);
        let output = pomd::run(command, PATIENCE).await;
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{host:?}: {said}");
        assert_eq!(said.lines().count(), 1, "{host:?}: {said}");
        assert!(!said.trim_end().contains(char::is_control), "{said:?}");
    }
}
