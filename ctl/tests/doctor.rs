//! G15 and G16: what a doctor found, for a person and for a program.

use std::time::Duration;

use control::wire::{
    Check, CheckName, CheckOutcome, Code, ConfigError, Diagnosis, Reason, Status, TunnelState,
};
use pomd_core::{
    route::{
        error::Step,
        trail::{TlsFound, Trail},
    },
    words::doctor::{Failed, Walk},
};
use serde_json::Value;
use snapbox::{assert_data_eq, str};

use crate::{
    fake::{Fake, Reply},
    runner::World,
    samples::{corp, grafana, now, reason, ssh_prod, status},
};

/// A walk on which all went well.
fn walk() -> Walk {
    let ms = Duration::from_millis;
    Walk {
        steps: vec![
            (Step::Resolve, ms(3)),
            (Step::Connect, ms(18)),
            (Step::Tls, ms(41)),
            (Step::Http, ms(20)),
            (Step::Policy, ms(31)),
            (Step::Upstream, ms(6)),
        ],
        trail: Trail {
            addresses: vec![
                "198.51.100.7".parse().unwrap(),
                "2001:db8::7".parse().unwrap(),
            ],
            peer: Some("198.51.100.7:443".parse().unwrap()),
            tls: Some(TlsFound {
                version: "1.3".to_owned(),
                group: Some("X25519MLKEM768".to_owned()),
                issuer: Some("Example CA R3".to_owned()),
                until: None,
            }),
        },
        forward_proxy: None,
        clocks: Some((now(), now())),
        user: Some("alice@example.com".to_owned()),
        first: Some(b"SSH-2.0-OpenSSH_9.6\r\n".to_vec()),
        failed: None,
        at: now(),
    }
}

/// The same, which ended at a certificate that was not taken.
fn intercepted() -> Walk {
    let message = "the certificate of ssh-prod.corp.example.com is not trusted: issued by \"Zscaler Intermediate Root CA\", which this machine does not know";
    let hint = "this network decrypts TLS: ask your IT department to exempt this host, or trust its CA by ca_file in [cluster.corp]";
    Walk {
        failed: Some(Failed {
            step: Step::Tls,
            reason: Reason {
                hint: Some(hint.to_owned()),
                ..reason(Code::Tls, message)
            },
            facts: Vec::new(),
        }),
        ..walk()
    }
}

fn diagnosis(tunnel: &str, walk: &Walk) -> Diagnosis {
    Diagnosis {
        tunnel: tunnel.to_owned(),
        cluster: "corp".to_owned(),
        checks: walk.checks(),
        opens_in_ms: walk.failed.is_none().then_some(31),
    }
}

fn service() -> Status {
    let mut status = status(
        vec![ssh_prod(TunnelState::Up), grafana(TunnelState::Up)],
        vec![corp()],
    );
    status.pomd.log = Some("journalctl --user -u pomd".to_owned());
    status
}

fn answer(fake: &Fake, tunnel: &str, walk: &Walk) {
    let request = format!("POST /v1/tunnels/{tunnel}/doctor");
    fake.on(&request, [Reply::ok(diagnosis(tunnel, walk))]);
}

#[test]
fn g15_where_all_is_good_each_step_is_timed() {
    let (world, fake) = World::with(&service());
    answer(&fake, "ssh-prod", &walk());
    assert_data_eq!(
        world.transcript(&["doctor", "ssh-prod"]),
        str![[r#"
$ pomctl doctor ssh-prod  # exit 0
  ✓ pomd           0.1.0, pid 2811, log: journalctl --user -u pomd
  ✓ config         /home/alice/.config/pomd/pomd.toml, 2 tunnels
  ✓ listener       127.0.0.1:2202, [::1]:2202
  ✓ DNS            198.51.100.7, 2001:db8::7                               3 ms
  – forward proxy  none set, none in pomd's environment
  ✓ TCP            198.51.100.7:443                                       18 ms
  ✓ TLS            1.3, X25519MLKEM768, issued by Example CA R3           41 ms
  ✓ HTTP           Pomerium answers; clocks agree                         20 ms
  ✓ session        alice@example.com, until HH:MM (9h 12m)
  ✓ policy         allowed                                                31 ms
  ✓ upstream       SSH-2.0-OpenSSH_9.6                                     6 ms
All good: a new connection takes about 31 ms.

"#]]
    );
}

#[test]
fn g15_without_a_name_each_cluster_comes_once_and_each_tunnel_in_a_line() {
    let mut shown = service();
    shown.tunnels[1].state = TunnelState::Busy;
    shown.tunnels[1].reason = Some(reason(Code::AddressInUse, "node (pid 4242) holds the port"));
    let (world, fake) = World::with(&shown);
    answer(&fake, "ssh-prod", &walk());
    answer(
        &fake,
        "grafana",
        &Walk {
            first: None,
            ..walk()
        },
    );
    assert_data_eq!(
        world.transcript(&["doctor"]),
        str![[r#"
$ pomctl doctor  # exit 1
  ✓ pomd           0.1.0, pid 2811, log: journalctl --user -u pomd
  ✓ config         /home/alice/.config/pomd/pomd.toml, 2 tunnels
corp
  ✓ DNS            198.51.100.7, 2001:db8::7                               3 ms
  – forward proxy  none set, none in pomd's environment
  ✓ TCP            198.51.100.7:443                                       18 ms
  ✓ TLS            1.3, X25519MLKEM768, issued by Example CA R3           41 ms
  ✓ HTTP           Pomerium answers; clocks agree                         20 ms
  ✓ session        alice@example.com, until HH:MM (9h 12m)
  ✗ grafana        listener: 127.0.0.1:3000, [::1]:3000: node (pid 4242) holds the port
    Whatever connects there reaches that program, and not the tunnel: end it, or choose another port by listen
  ✓ ssh-prod       127.0.0.1:2202, [::1]:2202, allowed, SSH-2.0-OpenSSH_9.6    31 ms
1 check failed: listener. The session was not touched.

"#]]
    );
}

#[test]
fn g16_a_failed_step_is_told_with_what_to_do() {
    let (mut world, fake) = World::with(&service());
    answer(&fake, "ssh-prod", &intercepted());
    assert_data_eq!(
        world.transcript(&["doctor", "ssh-prod"]),
        str![[r#"
$ pomctl doctor ssh-prod  # exit 1
  ✓ pomd           0.1.0, pid 2811, log: journalctl --user -u pomd
  ✓ config         /home/alice/.config/pomd/pomd.toml, 2 tunnels
  ✓ listener       127.0.0.1:2202, [::1]:2202
  ✓ DNS            198.51.100.7, 2001:db8::7                               3 ms
  – forward proxy  none set, none in pomd's environment
  ✓ TCP            198.51.100.7:443                                       18 ms
  ✗ TLS            the certificate of ssh-prod.corp.example.com is not trusted: issued by "Zscaler Intermediate Root CA", which this machine does not know    41 ms
    This network decrypts TLS: ask your IT department to exempt this host, or trust its CA by ca_file in [cluster.corp]
  – HTTP, session, policy, upstream: not tried
1 step failed: TLS. The session was not touched.

"#]]
    );
    world.var("LANG", "C");
    assert_data_eq!(
        world.transcript(&["doctor", "ssh-prod"]),
        str![[r#"
$ pomctl doctor ssh-prod  # exit 1
  ok   pomd           0.1.0, pid 2811, log: journalctl --user -u pomd
  ok   config         /home/alice/.config/pomd/pomd.toml, 2 tunnels
  ok   listener       127.0.0.1:2202, [::1]:2202
  ok   DNS            198.51.100.7, 2001:db8::7                               3 ms
  --   forward proxy  none set, none in pomd's environment
  ok   TCP            198.51.100.7:443                                       18 ms
  FAIL TLS            the certificate of ssh-prod.corp.example.com is not trusted: issued by "Zscaler Intermediate Root CA", which this machine does not know    41 ms
    This network decrypts TLS: ask your IT department to exempt this host, or trust its CA by ca_file in [cluster.corp]
  --   HTTP, session, policy, upstream: not tried
1 step failed: TLS. The session was not touched.

"#]]
    );
}

#[test]
fn g16_the_same_steps_are_there_for_programs() {
    let (world, fake) = World::with(&service());
    answer(&fake, "ssh-prod", &intercepted());
    let output = world.run(&["doctor", "ssh-prod", "--json"]);
    assert_eq!(output.status.code(), Some(1));
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["healthy"], false);
    let checks = json["tunnels"][0]["checks"].as_array().unwrap();
    let told: Vec<String> = checks
        .iter()
        .map(|it| format!("{} {}", it["name"], it["outcome"]).replace('"', ""))
        .collect();
    assert_eq!(
        told,
        [
            "listener good",
            "dns good",
            "forward_proxy not_done",
            "tcp good",
            "tls bad",
            "http not_done",
            "session not_done",
            "policy not_done",
            "upstream not_done",
        ]
    );
    assert_eq!(checks[4]["code"], "tls");
}

#[test]
fn g16_without_pomd_this_machine_is_looked_at() {
    let mut world = World::new();
    world.move_program();
    world.var("POMD_BROWSER", "none");
    let file = "[tunnel.a]\nroute = \"a.example.com:22\"\nlisten = 2202\n\n[tunnel.b]\nroute = \"b.example.com:22\"\n";
    std::fs::write(world.config(), file).unwrap();
    let held = Check {
        code: Some(Code::AddressInUse),
        hint: Some("end it".to_owned()),
        ..Check::new(
            CheckName::Listener,
            CheckOutcome::Bad,
            "localhost:2202: node (pid 4242) holds the port",
        )
    };
    let free = Check::new(
        CheckName::Listener,
        CheckOutcome::NotDone,
        "a free port, chosen when pomd starts",
    );
    let found = [("a", held), ("b", free)].map(|(tunnel, check)| Diagnosis {
        tunnel: tunnel.to_owned(),
        cluster: format!("{tunnel}.example.com"),
        checks: vec![check],
        opens_in_ms: None,
    });
    let found = serde_json::to_string(&found).unwrap();
    world.script(
        "bin/pomd",
        &format!("[ \"$1\" = listeners ] && echo '{found}'"),
    );
    assert_data_eq!(
        world.transcript(&["doctor"]),
        str![[r#"
$ pomctl doctor  # exit 3
  ✗ pomd           not running: nothing answers on /DIR/pomd.sock
    Start it: pomctl up --all
  ✓ config         ~/.config/pomd/pomd.toml, 2 tunnels
      warning      2 tunnels under example.com log in separately; to share one login add: [cluster.example] hosts = ["a.example.com", "b.example.com"]
  – browser        none is wanted: pomctl login prints the address to open
  – ssh config     not installed
    To let ssh find tunnels by their names: pomctl ssh-config --install
a.example.com
  ✗ a              listener: localhost:2202: node (pid 4242) holds the port
    End it
b.example.com
  – b              a free port, chosen when pomd starts
2 checks failed: pomd, listener.

"#]]
    );
    assert_data_eq!(
        world.transcript(&["doctor", "b"]),
        str![[r#"
$ pomctl doctor b  # exit 3
  ✗ pomd           not running: nothing answers on /DIR/pomd.sock
    Start it: pomctl up --all
  ✓ config         ~/.config/pomd/pomd.toml, 2 tunnels
      warning      2 tunnels under example.com log in separately; to share one login add: [cluster.example] hosts = ["a.example.com", "b.example.com"]
  – listener       a free port, chosen when pomd starts
1 check failed: pomd.

"#]]
    );
    let unknown = world.transcript(&["doctor", "c"]);
    assert!(
        unknown.contains("no tunnel c") && unknown.contains("exit 2"),
        "{unknown}"
    );
    std::fs::write(world.config(), "[tunnel.a]\nrout = \"a.example.com:22\"\n").unwrap();
    assert_data_eq!(
        world.transcript(&["doctor"]),
        str![[r#"
$ pomctl doctor  # exit 3
  ✗ pomd           not running: nothing answers on /DIR/pomd.sock
    Start it: pomctl up --all
  ✗ config         ~/.config/pomd/pomd.toml is broken: Line 1: no route
    See all of it: pomd check
2 checks failed: pomd, config.

"#]]
    );
    let json = world.run(&["doctor", "--json"]);
    assert_eq!(json.status.code(), Some(3));
    let json: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json["checks"][1]["code"], "config_broken");
}

#[test]
fn what_lets_ssh_find_tunnels_is_looked_at() {
    let mut world = World::new();
    world.move_program();
    world.var("POMD_BROWSER", "none");
    let file = "[tunnel.a]\nroute = \"a.example.com:22\"\nlisten = 2202\n";
    std::fs::write(world.config(), file).unwrap();
    world.script("bin/pomd", "exit 1");
    world.script("path/ssh", "echo 'OpenSSH_9.2p1 Debian-2, OpenSSL 3.0' >&2");
    let path = world.path("path").display().to_string();
    world.var("PATH", &format!("{path}:/usr/bin:/bin"));
    let home = world.path("home");
    assert!(world.run(&["ssh-config", "--install"]).status.success());
    let told = world.transcript(&["doctor"]);
    assert!(
        told.contains("~/.ssh/config:2 includes ~/.config/pomd/ssh_config"),
        "{told}"
    );
    assert!(told.contains("This OpenSSH is 9.2"), "{told}");
    let ssh = home.join(".ssh/config");
    let below = format!("Host x\n{}", std::fs::read_to_string(&ssh).unwrap());
    std::fs::write(&ssh, below).unwrap();
    let told = world.transcript(&["doctor"]);
    assert!(
        told.contains("ssh does not read ~/.config/pomd/ssh_config"),
        "{told}"
    );
    assert!(
        told.contains("must stand above the first Host line: pomctl ssh-config --install"),
        "{told}"
    );
}

#[test]
fn the_exit_code_says_what_is_the_matter() {
    let login = |code| {
        let failed = Failed {
            step: Step::Session,
            reason: reason(code, "no"),
            facts: Vec::new(),
        };
        Walk {
            failed: Some(failed),
            ..walk()
        }
    };
    let (world, fake) = World::with(&service());
    for (walk, code) in [
        (walk(), 0),
        (login(Code::LoginNeeded), 4),
        (login(Code::LoginFailed), 1),
    ] {
        answer(&fake, "ssh-prod", &walk);
        let exit = |args: &[&str]| world.run(args).status.code().unwrap();
        assert_eq!(exit(&["doctor", "ssh-prod"]), code);
        assert_eq!(exit(&["doctor", "ssh-prod", "--json"]), code);
    }
    let mut broken = service();
    broken.pomd.config.error = Some(ConfigError {
        at: now(),
        message: "line 3: unknown key rout".to_owned(),
        report: "error: unknown key".to_owned(),
        count: 1,
    });
    let (world, fake) = World::with(&broken);
    answer(&fake, "ssh-prod", &login(Code::LoginNeeded));
    let output = world.run(&["doctor", "ssh-prod"]);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(
        world.run(&["doctor", "ssh-prd"]).status.code(),
        Some(2),
        "no such tunnel"
    );
}

#[test]
fn words_of_others_lose_their_teeth() {
    let (world, fake) = World::with(&service());
    let mut evil = diagnosis("ssh-prod", &walk());
    for check in &mut evil.checks {
        *check = Check {
            hint: Some("run\u{1b}[2J this".to_owned()),
            facts: vec![("a\u{7}".to_owned(), "b\nc\u{202e}".to_owned())],
            ..Check::new(check.name, CheckOutcome::Bad, "x\r\u{9b}31m")
        };
    }
    fake.on("POST /v1/tunnels/ssh-prod/doctor", [Reply::ok(evil)]);
    for args in [
        &["doctor", "ssh-prod"][..],
        &["doctor", "ssh-prod", "--json"],
    ] {
        let output = world.run(args);
        let said = String::from_utf8(output.stdout).unwrap();
        let is_evil = |it: char| it.is_control() && it != '\n' || it == '\u{202e}';
        assert!(!said.contains(is_evil), "{said:?}");
    }
}
