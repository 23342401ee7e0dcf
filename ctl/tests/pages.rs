//! Pages without a terminal: status, reload, logout, logs.

use control::wire::{ClusterState, Code, ConfigError, ForwardProxy, Leaving, Status, TunnelState};
use serde_json::{Value, json};
use snapbox::{assert_data_eq, str};

use crate::{
    fake::{self, Reply},
    runner::World,
    samples::{self, ago, cluster, corp, grafana, reason, ssh_prod, status},
};

#[test]
fn g5_status_without_a_terminal_is_not_cut() {
    let (world, _fake) = World::with(&samples::mixed());
    assert_data_eq!(
        world.transcript(&["status"]),
        str![[r#"
$ pomctl status  # exit 1
  TUNNEL    STATE  LOCAL            CONN    RECV    SENT  ROUTE
● ssh-prod  up     localhost:2202      2   12 MB  3.1 MB  ssh-prod.corp.example.com:22
● dns       up     localhost:5353      0   88 kB   41 kB  udp dns.corp.example.com:53
◐ reports   login  localhost:15432     1       –       –  reports-db.lab.example.net:5432
    1 connection waits for a login to lab since HH:MM. Run: pomctl login lab
✗ grafana   busy   localhost:3000      –       –       –  grafana.corp.example.com:443
    node (pid 4242) holds the port; pomd takes it when it is free
○ ssh-old   down   localhost:2210      –       –       –  ssh-old.corp.example.com:22

  CLUSTER   SESSION
● corp      alice@example.com, until HH:MM (9h 12m)
◐ lab       login needed since HH:MM

"#]]
    );
}

#[test]
fn g5_status_in_ascii() {
    let (mut world, _fake) = World::with(&samples::mixed());
    world.var("LANG", "C");
    let text = world.transcript(&["status"]);
    assert!(text.is_ascii(), "{text}");
    assert_data_eq!(
        text,
        str![[r#"
$ pomctl status  # exit 1
  TUNNEL    STATE  LOCAL            CONN    RECV    SENT  ROUTE
* ssh-prod  up     localhost:2202      2   12 MB  3.1 MB  ssh-prod.corp.example.com:22
* dns       up     localhost:5353      0   88 kB   41 kB  udp dns.corp.example.com:53
? reports   login  localhost:15432     1       -       -  reports-db.lab.example.net:5432
    1 connection waits for a login to lab since HH:MM. Run: pomctl login lab
! grafana   busy   localhost:3000      -       -       -  grafana.corp.example.com:443
    node (pid 4242) holds the port; pomd takes it when it is free
- ssh-old   down   localhost:2210      -       -       -  ssh-old.corp.example.com:22

  CLUSTER   SESSION
* corp      alice@example.com, until HH:MM (9h 12m)
? lab       login needed since HH:MM

"#]]
    );
}

#[test]
fn g5_only_the_tunnels_that_were_asked_for_and_their_clusters() {
    let (world, _fake) = World::with(&samples::mixed());
    assert_data_eq!(
        world.transcript(&["status", "reports"]),
        str![[r#"
$ pomctl status reports  # exit 4
  TUNNEL   STATE  LOCAL            CONN    RECV    SENT  ROUTE
◐ reports  login  localhost:15432     1       –       –  reports-db.lab.example.net:5432
    1 connection waits for a login to lab since HH:MM. Run: pomctl login lab

  CLUSTER  SESSION
◐ lab      login needed since HH:MM

"#]]
    );
}

#[test]
fn g5_all_that_can_be_wrong_is_told_in_words() {
    let mut refused = ssh_prod(TunnelState::Error);
    let mut why = reason(
        Code::Forbidden,
        "alice@example.com may not use ssh-prod.corp.example.com:22 (403)",
    );
    why.request_id = Some("7f3a9c02-4b1e".to_owned());
    why.hint =
        Some("send the request id to your Pomerium administrator and ask for access".to_owned());
    refused.reason = Some(why);
    let mut waits = grafana(TunnelState::Login);
    waits.cluster = "lab".to_owned();
    let mut lab = cluster("lab", ClusterState::LoggedOut);
    lab.reason = Some(reason(Code::Dns, "no such name: lab.example.com"));
    lab.forward_proxy = Some(ForwardProxy {
        url: "http://proxy.lan:3128".to_owned(),
        variable: Some("HTTPS_PROXY".to_owned()),
    });
    let mut shown = status(vec![refused, waits], vec![corp(), lab]);
    shown.pomd.config.error = Some(ConfigError {
        at: ago(4),
        message: "line 14: unknown key `lissten` in [tunnel.grafana]".to_owned(),
        report: String::new(),
        count: 2,
    });
    shown.pomd.warnings = vec!["corp takes any certificate (insecure_skip_verify)".to_owned()];
    shown.leaving = vec![Leaving {
        name: "ssh-old".to_owned(),
        connections: 1,
    }];
    shown.pomd.version = "0.0.9".to_owned();
    let (world, _fake) = World::with(&shown);
    assert_data_eq!(
        world.transcript(&["status"]),
        str![[r#"
$ pomctl status  # exit 1
✗ pomd.toml has 2 errors since HH:MM; the settings of HH:MM apply. Run: pomd check /home/alice/.config/pomd/pomd.toml
    line 14: unknown key `lissten` in [tunnel.grafana]
warning: corp takes any certificate (insecure_skip_verify)
  TUNNEL    STATE  LOCAL           CONN    RECV    SENT  ROUTE
✗ ssh-prod  error  localhost:2202     0       –       –  ssh-prod.corp.example.com:22
    alice@example.com may not use ssh-prod.corp.example.com:22 (403), HH:MM, request id 7f3a9c02-4b1e. Send the request id to your Pomerium administrator and ask for access
◐ grafana   login  localhost:3000     0       –       –  grafana.corp.example.com:443
    lab needs a login since HH:MM. Run: pomctl login lab
1 connection of ssh-old stays open until it ends

  CLUSTER   SESSION
● corp      alice@example.com, until HH:MM (9h 12m)
○ lab       logged out since HH:MM
    through http://proxy.lan:3128 (HTTPS_PROXY)
    no such name: lab.example.com

pomd 0.0.9 runs, 0.1.0 is installed. When no connection matters (0 open): pomctl restart

"#]]
    );
}

#[test]
fn a_pomd_without_tunnels_shows_how_to_begin() {
    let mut shown = status(Vec::new(), Vec::new());
    shown.healthy = true;
    let (world, _fake) = World::with(&shown);
    assert_data_eq!(
        world.transcript(&["status"]),
        str![[r#"
$ pomctl status  # exit 0
No tunnels yet.
  See it work without Pomerium    pomctl demo
  Add one by hand                 write this into /home/alice/.config/pomd/pomd.toml:

    [tunnel.ssh-prod]
    route = "ssh-prod.corp.example.com:22"
    listen = 2202

  Then log in and use it          pomctl up ssh-prod

"#]]
    );
    assert_data_eq!(
        world.transcript(&["up", "--all"]),
        str![[r#"
$ pomctl up --all  # exit 0
No tunnels yet.
  See it work without Pomerium    pomctl demo
  Add one by hand                 write this into /home/alice/.config/pomd/pomd.toml:

    [tunnel.ssh-prod]
    route = "ssh-prod.corp.example.com:22"
    listen = 2202

  Then log in and use it          pomctl up ssh-prod

"#]]
    );
}

#[test]
fn g6_status_json_is_what_pomd_said() {
    let shown = samples::mixed();
    let (world, _fake) = World::with(&shown);
    let output = world.run(&["status", "--json"]);
    assert_eq!(output.status.code(), Some(0));
    let said: Status = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(said, shown);
    let named = world.run(&["status", "--json", "ssh-prod"]);
    let named: Value = serde_json::from_slice(&named.stdout).unwrap();
    assert_eq!(named["healthy"], true);
    assert_eq!(named["tunnels"].as_array().unwrap().len(), 1);
    assert_eq!(named["clusters"][0]["name"], "corp");
}

#[test]
fn watching_without_a_terminal_shows_what_changed_but_not_what_merely_counts() {
    let (world, fake) = World::with(&samples::fine());
    let child = world.spawn(&["status", "--watch"]);
    fake.wait_for("GET /v1/events", 1);
    fake.change(|it| fake::tunnel(it, "ssh-prod").bytes.sent += 1000);
    fake.change(fake::tunnel_is("ssh-prod", TunnelState::Down));
    fake.wait_until_streamed();
    fake.end();
    let output = child.wait_with_output().unwrap();
    let text = world.told(&["status", "--watch"], &output);
    let tables = text.matches("TUNNEL").count();
    assert!((1..=2).contains(&tables), "{text}");
    assert!(text.contains("○ ssh-prod  down"), "{text}");
    assert!(
        text.ends_with(
            "| error: pomd ended meanwhile\n| hint: what it said last is in the terminal that it was started in\n"
        )
    );
    assert_eq!(output.status.code(), Some(3));
}

#[test]
fn watching_as_json_gives_a_line_for_each_change() {
    let (world, fake) = World::with(&samples::fine());
    let child = world.spawn(&["status", "--watch", "--json"]);
    fake.wait_for("GET /v1/events", 1);
    fake.wait_until_streamed();
    fake.change(fake::tunnel_is("ssh-prod", TunnelState::Down));
    fake.wait_until_streamed();
    fake.end();
    let output = child.wait_with_output().unwrap();
    let lines: Vec<Value> = output
        .stdout
        .split(|it| *it == b'\n')
        .filter(|it| !it.is_empty())
        .map(|it| serde_json::from_slice(it).unwrap())
        .collect();
    let states: Vec<_> = lines.iter().map(|it| &it["tunnels"][0]["state"]).collect();
    assert_eq!(states[..2], ["up", "down"]);
    assert_eq!(lines[2]["error"]["code"], "not_running");
}

#[test]
fn g11_reload_tells_what_changed() {
    let (world, fake) = World::with(&samples::fine());
    fake.on(
        "POST /v1/reload",
        [Reply::ok(json!({
            "added": ["metrics"], "changed": [{ "name": "grafana", "keys": ["listen"] }],
            "removed": ["ssh-old"], "unchanged": 3, "leaving": [{ "name": "ssh-old", "connections": 2 }],
        }))],
    );
    assert_data_eq!(
        world.transcript(&["reload"]),
        str![[r#"
$ pomctl reload  # exit 0
1 added: metrics; 1 changed: grafana (listen); 1 removed: ssh-old; 3 unchanged
2 connections of ssh-old stay open until they end

"#]]
    );
}

#[test]
fn g11_a_broken_file_is_shown_where_it_is_broken() {
    let mut shown = samples::fine();
    let report = "\
error: unknown key `lissten` in [tunnel.grafana]
 --> ~/.config/pomd/pomd.toml:14:1
   |
14 | lissten = 3000
   | ^^^^^^^ did you mean `listen`?";
    shown.pomd.config.error = Some(ConfigError {
        at: ago(1),
        message: "line 14".to_owned(),
        report: report.to_owned(),
        count: 1,
    });
    let (world, fake) = World::with(&shown);
    let error = json!({ "code": "config_broken", "message": report, "hint": null });
    fake.on("POST /v1/reload", [Reply::error(422, error)]);
    assert_data_eq!(
        world.transcript(&["reload"]),
        str![[r#"
$ pomctl reload  # exit 2
| error: unknown key `lissten` in [tunnel.grafana]
|  --> ~/.config/pomd/pomd.toml:14:1
|    |
| 14 | lissten = 3000
|    | ^^^^^^^ did you mean `listen`?
| 1 error; pomd keeps the settings of HH:MM

"#]]
    );
    let json = world.run(&["reload", "--json"]);
    assert_eq!(json.status.code(), Some(2));
    let json: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json["error"]["code"], "config_broken");
}

#[test]
fn g25_logout_forgets_and_says_what_stays() {
    let (world, fake) = World::with(&samples::fine());
    let answer = |forgotten: bool| {
        Reply::ok(json!({
            "cluster": cluster("corp", ClusterState::LoggedOut), "user": "alice@example.com",
            "forgotten": forgotten, "still_open": 2,
            "sign_out_url": "https://ssh-prod.corp.example.com/.pomerium/sign_out",
        }))
    };
    fake.on(
        "POST /v1/clusters/corp/logout",
        [answer(true), answer(true), answer(false)],
    );
    assert_data_eq!(
        world.transcript(&["logout", "corp"]),
        str![[r#"
$ pomctl logout corp  # exit 0
Forgot the token of corp (alice@example.com). 2 open connections stay.
| hint: to end the session at the server too:
|     https://ssh-prod.corp.example.com/.pomerium/sign_out

"#]]
    );
    for said in ["ssh-prod", "https://x.corp.example.com/"] {
        assert!(world.run(&["logout", said]).status.success());
    }
    assert_data_eq!(
        world.transcript(&["logout"]),
        str![[r#"
$ pomctl logout  # exit 0
Nobody was logged in to corp.

"#]]
    );
    assert_data_eq!(
        world.transcript(&["logout", "crop"]),
        str![[r#"
$ pomctl logout crop  # exit 2
| error: no cluster crop; did you mean corp?

"#]]
    );
}

#[test]
fn logout_guesses_only_where_there_is_no_choice() {
    let clusters = vec![corp(), cluster("lab", ClusterState::LoggedIn)];
    let (world, _fake) = World::with(&status(vec![ssh_prod(TunnelState::Up)], clusters));
    assert_data_eq!(
        world.transcript(&["logout"]),
        str![[r#"
$ pomctl logout  # exit 2
| error: several clusters are logged in: corp, lab
| hint: say which: pomctl logout corp

"#]]
    );
}

#[test]
fn g21_the_journal_of_a_service_is_named() {
    let mut shown = samples::fine();
    shown.pomd.log = Some("journalctl --user -u pomd".to_owned());
    let (world, fake) = World::with(&shown);
    fake.on("GET /v1/logs?follow=false", [Reply::lines(&[])]);
    fake.on("GET /v1/logs?follow=true", [Reply::lines(&[]).last()]);
    assert_data_eq!(
        world.transcript(&["logs"]),
        str![[r#"
$ pomctl logs  # exit 0
| Reading the journal (journalctl --user -u pomd)

"#]]
    );
    assert_data_eq!(
        world.transcript(&["logs", "-f"]),
        str![[r#"
$ pomctl logs -f  # exit 3
| Following the journal (journalctl --user -u pomd -f)
| error: pomd ended meanwhile
| hint: what it said last: journalctl --user -u pomd

"#]]
    );
}

#[test]
fn g21_logs_come_from_pomd_while_it_runs() {
    let mut shown = samples::fine();
    shown.pomd.log = Some("/home/alice/.local/state/pomd/pomd.log".to_owned());
    let (world, fake) = World::with(&shown);
    let line = |level: &str, connection: Option<u64>, message: &str| {
        json!({ "at": ago(0), "level": level, "tunnel": "ssh-prod", "cluster": "corp",
                "connection": connection, "message": message })
    };
    let lines = [
        line(
            "info",
            Some(41),
            "connection 41 from ssh (pid 5120): open in 31 ms",
        ),
        line("warn", Some(42), "403 for alice@example.com (7f3a9c02)"),
        json!({ "at": ago(0), "level": "info", "tunnel": null, "cluster": null, "connection": null, "message": "ready" }),
    ];
    fake.on(
        "GET /v1/logs?follow=false&tunnel=ssh-prod",
        [Reply::lines(&lines)],
    );
    fake.on(
        "GET /v1/logs?follow=true",
        [Reply::lines(&lines[..1]).last()],
    );
    assert_data_eq!(
        world.transcript(&["logs", "ssh-prod"]),
        str![[r#"
$ pomctl logs ssh-prod  # exit 0
HH:MM:SS info  ssh-prod  connection 41 from ssh (pid 5120): open in 31 ms
HH:MM:SS warn  ssh-prod  connection 42: 403 for alice@example.com (7f3a9c02)
HH:MM:SS info            ready
| Reading the log of pomd (pid 2811); the whole log: /home/alice/.local/state/pomd/pomd.log

"#]]
    );
    assert_data_eq!(
        world.transcript(&["logs", "ssh-prd"]),
        str![[r#"
$ pomctl logs ssh-prd  # exit 2
| error: no tunnel ssh-prd; did you mean ssh-prod?

"#]]
    );
    assert_data_eq!(
        world.transcript(&["logs", "-f"]),
        str![[r#"
$ pomctl logs -f  # exit 3
HH:MM:SS info  ssh-prod  connection 41 from ssh (pid 5120): open in 31 ms
| Following the log of pomd (pid 2811); the whole log: /home/alice/.local/state/pomd/pomd.log
| error: pomd ended meanwhile
| hint: what it said last: pomctl logs

"#]]
    );
}

#[test]
fn g21_logs_of_a_pomd_that_has_ended_come_from_its_file() {
    let world = World::new();
    let log = world.path("home/.local/state/pomd/pomd.log");
    // Today's: older ones are shown with their day.
    let at = ago(1);
    let date = at.strftime("%Y-%m-%d").to_string();
    let time = at.strftime("%H:%M:%S");
    let line = |rest: &str| format!("{date}T{time}.123456Z {rest}\n");
    let text = [
        line(" INFO [pomd] ready"),
        line(" WARN [pomd::tunnel tunnel=ssh-prod cluster=corp connection=1 status=403] \u{1b}[31mrefused"),
        line(" INFO [pomd::tunnel tunnel=ssh cluster=corp connection=2] open"),
        "older INFO connection{tunnel=ssh-prod}: open\n".to_owned(),
        "thread 'main' panicked, and ssh knows why\n".to_owned(),
    ]
    .concat();
    std::fs::write(log, text).unwrap();
    assert_data_eq!(
        world.transcript(&["logs"]),
        str![[r#"
$ pomctl logs  # exit 0
HH:MM:SS info            ready
HH:MM:SS warn  ssh-prod  connection 1: /u{1b}[31mrefused status=403
HH:MM:SS info  ssh       connection 2: open
older INFO connection{tunnel=ssh-prod}: open
thread 'main' panicked, and ssh knows why
| Reading ~/.local/state/pomd/pomd.log (pomd is not running)

"#]]
    );
    assert_data_eq!(
        world
            .transcript(&["logs", "ssh", "--json"])
            .replace(&date, "YYYY-MM-DD"),
        str![[r#"
$ pomctl logs ssh --json  # exit 0
{"at":"YYYY-MM-DDTHH:MM:SS.123456Z","level":"info","tunnel":"ssh","cluster":"corp","connection":2,"message":"open","target":"pomd::tunnel"}
{"at":null,"cluster":null,"connection":null,"level":null,"message":"thread 'main' panicked, and ssh knows why","tunnel":null}
| Reading ~/.local/state/pomd/pomd.log (pomd is not running)

"#]]
    );
    assert_data_eq!(
        world.transcript(&["logs", "-f", "nothing"]),
        str![[r#"
$ pomctl logs -f nothing  # exit 3
| Reading ~/.local/state/pomd/pomd.log (pomd is not running)
| error: pomd is not running
|     pomctl up --all            starts it, with every tunnel

"#]]
    );
}
