//! A15, A24, A28: names that come from outside, by the control API, ssh and git, and where the token goes for them.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    process::{Command, Output},
    sync::{Arc, Mutex},
    time::Duration,
};

use control::client::ClientError;
use gateway::{Stats, Upstream};
use integration::{
    PATIENCE,
    binary::binary,
    deployment::{Deployment, tunnel},
    pomd::{Pomd, Setup, run},
    skipped,
};
use proptest::{prelude::*, strategy::ValueTree, test_runner::TestRunner};
use tokio::{io::AsyncReadExt, net::TcpListener, task::JoinSet};

/// How long ssh and git may take.
const LIMIT: Duration = Duration::from_secs(60);

/// A server without TLS that is no Pomerium, and what it was told.
struct Plain {
    port: u16,
    heard: Arc<Mutex<Vec<Vec<u8>>>>,
    _accepting: JoinSet<()>,
}

impl Plain {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let all = heard.clone();
        let mut accepting = JoinSet::new();
        accepting.spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut said = vec![0; 4096];
                let n = stream.read(&mut said).await.unwrap_or(0);
                said.truncate(n);
                all.lock().unwrap().push(said);
            }
        });
        Self {
            port,
            heard,
            _accepting: accepting,
        }
    }

    fn heard_nothing(&self, after: &str) {
        let heard = self.heard.lock().unwrap();
        let said: Vec<_> = heard.iter().map(|it| String::from_utf8_lossy(it)).collect();
        assert!(said.is_empty(), "after {after:?}: {said:?}");
    }
}

/// A pomd that finds all these names at this machine; `None` aloud where there can be none.
async fn pomd_that_finds(test: &str, names: &[&str], config: &str) -> Option<Pomd> {
    if !rustix::process::geteuid().is_root() {
        skipped(test, "needs root");
        return None;
    }
    let setup = Setup::new(config);
    let hosts = setup.folder().join("hosts");
    let lines: Vec<_> = names.iter().map(|it| format!("127.0.0.1 {it}\n")).collect();
    fs::write(&hosts, lines.concat()).unwrap();
    let words = format!("mount --bind {} /etc/hosts", hosts.display());
    Some(setup.inside(&["--mount"], &words).start().await)
}

/// `[cluster.NAME]` that is dialled where its names lead, at the gateway's own port.
fn cluster(deployment: &Deployment, name: &str, host: &str) -> String {
    let hosts = if host == "p.test" {
        String::new()
    } else {
        format!("hosts = [\"*.{host}\"]\n")
    };
    format!(
        "[cluster.{name}]\nurl = \"https://{host}:{}\"\n{hosts}ca_file = {:?}\nbrowser = {}\n",
        deployment.address().port(),
        deployment.ca_file(),
        deployment.links.key()
    )
}

/// A company at `*.corp.test`, a plain server that attackers know, and a pomd that is logged in and could reach both.
struct Scenario {
    deployment: Deployment,
    plain: Plain,
    pomd: Pomd,
}

impl Scenario {
    async fn new(test: &str) -> Option<Self> {
        let deployment = Deployment::gateway(|it| it).await;
        let plain = Plain::start().await;
        let config = cluster(&deployment, "corp", "corp.test");
        let names = [
            "corp.test",
            "web.corp.test",
            "attacker.corp.test",
            "evilcorp.test",
        ];
        let pomd = pomd_that_finds(test, &names, &config).await?;
        deployment.log_in(&pomd).await;
        Some(Self {
            deployment,
            plain,
            pomd,
        })
    }

    /// ssh's option that the README tells to write.
    fn proxy_command(&self) -> String {
        let setup = self.pomd.setup();
        format!(
            "ProxyCommand env POMD_NO_START=1 POMD_CONFIG={} POMD_STATE_DIR={} POMD_SOCKET={} '{}' connect --ssh '%h:%p'",
            setup.config_file().display(),
            setup.state_dir().display(),
            setup.socket().display(),
            binary("pomctl").display()
        )
    }

    /// A file of ssh's with that option.
    fn ssh_config(&self) -> String {
        let file = self.pomd.setup().folder().join("ssh_config");
        let text = format!(
            "Host *\n  BatchMode yes\n  StrictHostKeyChecking no\n  UserKnownHostsFile /dev/null\n  {}\n",
            self.proxy_command()
        );
        fs::write(&file, text).unwrap();
        file.display().to_string()
    }

    async fn ssh(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new("ssh");
        command
            .args(["-F", &self.ssh_config()])
            .args(arguments)
            .current_dir(self.pomd.setup().folder());
        run(command, LIMIT).await
    }

    /// Nothing went to the plain server, and no token to another name than those of the cluster.
    fn is_safe(&self, after: &str) -> Stats {
        self.plain.heard_nothing(after);
        let stats = self.deployment.gateway.stats();
        let ours = |it: &String| it == "corp.test" || it.ends_with(".corp.test");
        let names = [&stats.tokens_by_name, &stats.tokens_by_host];
        let all = names.into_iter().flat_map(BTreeMap::keys);
        let others: Vec<_> = all.filter(|it| !ours(it)).collect();
        assert!(others.is_empty(), "after {after:?}: {others:?}");
        stats
    }
}

fn words(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a24_ssh_that_is_led_astray_sends_no_token_anywhere_else() {
    let test = "a24_ssh_that_is_led_astray_sends_no_token_anywhere_else";
    let Some(scenario) = Scenario::new(test).await else {
        return;
    };
    let port = scenario.plain.port;
    let mark = scenario.pomd.setup().folder().join("mark");
    let names = [
        format!("tcp+http://attacker.corp.test:{port}/x"),
        format!("tcp+https://attacker.corp.test:{port}/x"),
        format!("TCP+HTTP://attacker.corp.test:{port}/x"),
        format!("[tcp+http://attacker.corp.test:{port}/x]"),
        format!("tcp+http://attacker.corp.test:{port}"),
        "tcp+http://attacker.corp.test".to_owned(),
        format!("http://attacker.corp.test:{port}/x"),
        format!("udp+http://attacker.corp.test:{port}/x"),
        format!("//attacker.corp.test:{port}/x"),
        format!("attacker.corp.test:{port}/x"),
        format!("attacker.corp.test:{port}"),
        format!("[attacker.corp.test:{port}]"),
        "attacker.corp.test/x".to_owned(),
        "attacker.corp.test?x".to_owned(),
        "attacker.corp.test#x".to_owned(),
        "attacker.corp.test%2fx".to_owned(),
        "evilcorp.test".to_owned(),
        "attacker.corp.test.evilcorp.test".to_owned(),
        "127.1".to_owned(),
        "0x7f000001".to_owned(),
        format!("$(touch${{IFS}}{}).corp.test", mark.display()),
        format!("`touch${{IFS}}{}`.corp.test", mark.display()),
        "-oProxyCommand=touch.corp.test".to_owned(),
        "corp.test\u{202e}".to_owned(),
        "a\nHost *.corp.test".to_owned(),
    ];
    for name in &names {
        let before = scenario.deployment.gateway.stats().connects;
        let output = scenario.ssh(&["--", name, "true"]).await;
        assert_eq!(output.status.code(), Some(255), "{name}: {output:?}");
        assert!(!output.stderr.is_empty(), "{name}");
        assert!(!mark.exists(), "{name}");
        assert_eq!(scenario.is_safe(name).connects, before, "{name}");
    }
    // What is wrong and what to write instead, in one line.
    let output = scenario.ssh(&["--", &names[0], "true"]).await;
    let said = words(&output);
    assert!(
        said.contains("HOST:PORT") && said.contains("configuration file"),
        "{said}"
    );
    // An honest name on the same way arrives, with a token.
    let output = scenario
        .ssh(&["-p", "22", "--", "web.corp.test", "true"])
        .await;
    let stats = scenario.is_safe("web.corp.test");
    assert!(
        stats.tokens_by_host.contains_key("web.corp.test"),
        "{stats:?} {output:?}"
    );
}

fn git(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new("git");
    command
        .args([
            "-c",
            "protocol.file.allow=always",
            "-c",
            "user.name=a",
            "-c",
            "user.email=a@b",
        ])
        .args(arguments)
        .current_dir(folder)
        .env("HOME", folder)
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("GIT_CONFIG_NOSYSTEM", "1");
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn a24_git_that_clones_submodules_sends_no_token_anywhere_else() {
    let test = "a24_git_that_clones_submodules_sends_no_token_anywhere_else";
    if Command::new("git").arg("--version").output().is_err() {
        return skipped(test, "there is no git");
    }
    let Some(scenario) = Scenario::new(test).await else {
        return;
    };
    let port = scenario.plain.port;
    let folder = scenario.pomd.setup().folder();
    let ssh = format!("ssh -F {}", scenario.ssh_config());
    let urls = [
        format!("ssh://git@[tcp+http://attacker.corp.test:{port}/x]/r.git"),
        format!("ssh://git@[tcp+http://attacker.corp.test:{port}/x]:22/r.git"),
        format!("ssh://[tcp+http://attacker.corp.test:{port}/x]/r.git"),
        format!("git+ssh://git@[tcp+http://attacker.corp.test:{port}/x]/r.git"),
        format!("git@[tcp+http://attacker.corp.test:{port}/x]:r.git"),
        format!("ssh://git@[tcp+http://attacker.corp.test:{port}/x:22]/r.git"),
        format!("ssh://git@[attacker.corp.test:{port}]/r.git"),
        format!("ssh://git@attacker.corp.test:{port}/r.git"),
        format!("ssh://git@tcp+http:%2f%2fattacker.corp.test:{port}%2fx/r.git"),
    ];
    for (n, url) in urls.iter().enumerate() {
        let name = format!("super{n}");
        fs::create_dir(folder.join(&name)).unwrap();
        let place = folder.join(&name);
        let modules = format!("[submodule \"sub\"]\n\tpath = sub\n\turl = {url}\n");
        fs::write(place.join(".gitmodules"), modules).unwrap();
        let link = format!("160000,{},sub", "1".repeat(40));
        for arguments in [
            &["init", "-q", "."][..],
            &["add", ".gitmodules"],
            &["update-index", "--add", "--cacheinfo", &link],
            &["commit", "-q", "-m", "one"],
        ] {
            let output = run(git(&place, arguments), LIMIT).await;
            assert!(output.status.success(), "{arguments:?}: {}", words(&output));
        }
        let clone = format!("clone{n}");
        let mut cloning = git(
            folder,
            &["clone", "-q", "--recurse-submodules", &name, &clone],
        );
        cloning.env("GIT_SSH_COMMAND", &ssh);
        let output = run(cloning, LIMIT).await;
        assert!(!output.status.success(), "{url}");
        // git came as far as it does for an honest submodule.
        assert!(words(&output).contains("sub"), "{url}: {}", words(&output));
        scenario.is_safe(url);
    }
    let before = scenario.deployment.gateway.stats().tokens_by_host;
    let honest = run(
        {
            let mut asking = git(folder, &["ls-remote", "ssh://git@web.corp.test/r.git"]);
            asking.env("GIT_SSH_COMMAND", &ssh);
            asking
        },
        LIMIT,
    )
    .await;
    let after = scenario.is_safe("an honest address").tokens_by_host;
    assert_ne!(before, after, "{}", words(&honest));
}

/// What may stand in a name, drawn so that about every eighth is one.
fn drawn(plain: u16, gateway: u16) -> impl Strategy<Value = String> {
    let any = |all: &[&str]| {
        let all: Vec<String> = all.iter().map(|it| (*it).to_owned()).collect();
        prop::sample::select(all)
    };
    let often = |all: &[&str]| prop_oneof![3 => Just(String::new()), 1 => any(all)];
    let scheme = often(&[
        "tcp+http://",
        "tcp+https://",
        "TCP+HTTP://",
        "http://",
        "https://",
        "ssh://",
        "udp+https://",
        "//",
        "tcp+http:",
    ]);
    let user = prop_oneof![9 => Just(String::new()), 1 => any(&["git@", "a:b@"])];
    let host = any(&[
        "web.corp.test",
        "attacker.corp.test",
        "corp.test",
        "WEB.Corp.Test.",
        "evilcorp.test",
        "p.test",
        "127.0.0.1",
        "[::1]",
        "corp.test.evil",
    ]);
    let [plain, gateway] = [plain, gateway].map(|it| format!(":{it}"));
    let port = any(&[":22", ":22", &plain, &gateway, ":443", "", ":0", ":80"]);
    let rest = often(&[
        "/x:22",
        "/web.corp.test:22",
        "/",
        "?x",
        "#x",
        "\\x",
        "\n",
        " ",
        "%2fx",
        ":22",
    ]);
    (scheme, user, host, port, rest, prop::bool::weighted(0.1)).prop_map(
        |(scheme, user, host, port, rest, bracketed)| match bracketed {
            true => format!("[{scheme}{user}{host}{port}{rest}]:22"),
            false => format!("{scheme}{user}{host}{port}{rest}"),
        },
    )
}

/// The name's host, if it is nothing but a host of the cluster and a port.
fn host_of_ours(text: &str) -> Option<String> {
    let (host, port) = text.split_once(':')?;
    let host = host.to_ascii_lowercase();
    let host = host.strip_suffix('.').unwrap_or(&host);
    let is_port =
        port.bytes().all(|it| it.is_ascii_digit()) && port.parse().is_ok_and(|it: u16| it > 0);
    let is_name = host
        .bytes()
        .all(|it| it.is_ascii_alphanumeric() || it == b'.');
    let is_ours = host == "corp.test" || host.ends_with(".corp.test");
    (is_port && is_name && is_ours).then(|| host.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a15_a24_whatever_is_drawn_a_token_goes_by_tls_to_the_name_that_was_said_or_nowhere() {
    let test = "a15_a24_whatever_is_drawn_a_token_goes_by_tls_to_the_name_that_was_said_or_nowhere";
    let Some(scenario) = Scenario::new(test).await else {
        return;
    };
    let names = drawn(scenario.plain.port, scenario.deployment.address().port());
    let mut runner = TestRunner::deterministic();
    let (mut sent, mut refused) = (0, 0);
    for n in 0..600 {
        let name = names.new_tree(&mut runner).unwrap().current();
        let before = scenario.deployment.gateway.stats().tokens_by_name;
        let opened = scenario.pomd.client().connect(&name, n % 2 == 0).await;
        // Handed out at once where ssh is told of refusals; no name has a route, so there is an end.
        let answered = match opened {
            Ok(mut stream) => {
                let mut told = Vec::new();
                let reading = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut told));
                let read = reading.await.unwrap_or_else(|_| panic!("{name:?}: no end"));
                assert!(read.is_err() || !told.is_empty(), "{name:?}");
                true
            }
            Err(ClientError::Api(error)) => {
                let words = format!("{} {:?}", error.message, error.hint);
                assert!(!words.contains(char::is_control), "{words:?}");
                false
            }
            Err(error) => panic!("{name:?}: {error}"),
        };
        let after = scenario.is_safe(&name).tokens_by_name;
        let grown: Vec<&String> = after
            .iter()
            .filter(|it| before.get(it.0) != Some(it.1))
            .map(|it| it.0)
            .collect();
        match host_of_ours(&name) {
            Some(host) => {
                assert_eq!(grown, [&host], "{name:?}");
                sent += 1;
            }
            None => {
                assert!(grown.is_empty() && !answered, "{name:?}: {grown:?}");
                refused += 1;
            }
        }
    }
    assert!(sent > 40 && refused > 200, "{sent} and {refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a28_two_on_one_host_are_told_apart_and_neither_gets_the_other_s_token() {
    let test = "a28_two_on_one_host_are_told_apart_and_neither_gets_the_other_s_token";
    const DB: &str = "db.internal:5432";
    let company =
        async |name| Deployment::named(name, "p.test", |it| it.route(DB, Upstream::Echo)).await;
    let (a, b) = (company("a").await, company("b").await);
    let ports = [&a, &b].map(|it| it.address().port());
    let config = cluster(&a, "a", "p.test")
        + &cluster(&b, "b", "p.test")
        + &tunnel("db", &format!("tcp+https://p.test:{}/{DB}", ports[1]), "");
    let Some(pomd) = pomd_that_finds(test, &["p.test"], &config).await else {
        return;
    };
    a.log_in(&pomd).await;
    b.log_in(&pomd).await;
    let tokens = || [&a, &b].map(|it| it.gateway.stats().tokens_by_host.values().sum::<u64>());
    let before = tokens();
    // By its host alone it could be either's; and from outside nobody says by which port.
    for name in [
        "p.test:22".to_owned(),
        format!("p.test:{}", ports[0]),
        format!("tcp+https://p.test:{}/{DB}", ports[0]),
        format!("tcp+https://p.test:{}/x.internal:22", ports[1]),
    ] {
        for ssh in [true, false] {
            let refused = pomd.client().connect(&name, ssh).await;
            let Err(ClientError::Api(error)) = refused else {
                panic!("{name}: {refused:?}");
            };
            let said = format!("{} {}", error.message, error.hint.unwrap_or_default());
            let expected = match name.contains('/') {
                true => ["HOST:PORT", "configuration file"],
                false => ["that of a and that of b", "route = "],
            };
            assert!(
                expected.iter().all(|it| said.contains(it)),
                "{name}: {said}"
            );
        }
    }
    assert_eq!(tokens(), before);
    // The tunnel of the file says by which server.
    pomd.client().connect(DB, false).await.unwrap();
    let [at_a, at_b] = tokens();
    assert_eq!(at_a, before[0]);
    assert!(at_b > before[1]);
    for deployment in [&a, &b] {
        assert_eq!(
            deployment.gateway.stats().refused,
            0,
            "a token that is not its own"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a24_a_port_that_a_saved_file_names_is_good_from_then_on() {
    let test = "a24_a_port_that_a_saved_file_names_is_good_from_then_on";
    const DB: &str = "db.internal:5432";
    const WEB: &str = "web.corp.test:22";
    let deployment =
        Deployment::gateway(|it| it.route(DB, Upstream::Echo).route(WEB, Upstream::Echo)).await;
    let without = cluster(&deployment, "corp", "corp.test");
    let relay = integration::relay::Relay::start(deployment.address()).await;
    let other = relay.address().port();
    let names = ["corp.test", "web.corp.test", "b.corp.test"];
    let Some(pomd) = pomd_that_finds(test, &names, &without).await else {
        return;
    };
    deployment.log_in(&pomd).await;
    let through = format!("tcp+https://b.corp.test:{other}/{DB}");
    pomd.reload(&(without.clone() + &tunnel("db", &through, "")))
        .await;
    let mut stream = pomd.connect("db").await;
    integration::bystander::echoes(&mut stream, b"by the port of the tunnel").await;
    assert!(relay.counts().accepted > 0);
    // The login was not touched by that.
    pomd.client().connect(WEB, false).await.unwrap();
    assert!(deployment.links.all().is_empty(), "a login was asked for");
    let tokens = deployment.gateway.stats().tokens_by_name;
    for name in ["b.corp.test", "web.corp.test"] {
        assert!(tokens.contains_key(name), "{tokens:?}");
    }
}
