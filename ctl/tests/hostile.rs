//! A13: whatever pomd, and Pomerium through it, puts into a string, no terminal is steered by it.

use control::wire::{ClusterState, Code, ConfigError, ForwardProxy, Leaving, TunnelState};
use serde_json::{Map, Value, json};

use crate::{
    fake::{Fake, Reply},
    runner::World,
    samples::{self, ago, corp, login_answer, node, open_login, reason, ssh_prod, up_answer},
};

/// A title for the terminal, a line of its own, a change of direction, a C1 control, a wildcard.
const EVIL: &str = "\u{1b}]0;x\u{7}\n\r\u{202e}\u{9b}2J\u{2028}../Host *\u{0}\u{7f}";

/// Words that pomctl understands stay; every other string becomes hostile.
fn hostile(value: Value, key: &str) -> Value {
    const UNDERSTOOD: [&str; 11] = [
        "state",
        "start",
        "protocol",
        "token_source",
        "until_known_by",
        "code",
        "at",
        "since",
        "until",
        "browser",
        "opener",
    ];
    match value {
        Value::String(_) if UNDERSTOOD.contains(&key) || key.ends_with("_at") => value,
        Value::String(_) => Value::from(EVIL),
        Value::Array(items) => items.into_iter().map(|it| hostile(it, key)).collect(),
        Value::Object(fields) => {
            let fields: Map<_, _> = fields
                .into_iter()
                .map(|(key, value)| {
                    let value = hostile(value, &key);
                    (key, value)
                })
                .collect();
            Value::from(fields)
        }
        other => other,
    }
}

fn evil(value: Value) -> Value {
    hostile(value, "")
}

fn evil_status(tunnel: TunnelState, session: ClusterState) -> Value {
    let mut tunnel = ssh_prod(tunnel);
    let mut why = reason(Code::AddressInUse, "x");
    why.hint = Some("x".to_owned());
    why.request_id = Some("x".to_owned());
    why.holder = Some(node());
    tunnel.reason = Some(why.clone());
    let mut cluster = corp();
    cluster.state = session;
    cluster.reason = Some(why);
    cluster.forward_proxy = Some(ForwardProxy {
        url: "x".to_owned(),
        variable: Some("x".to_owned()),
    });
    let mut status = samples::status(vec![tunnel], vec![cluster]);
    status.pomd.log = Some("x".to_owned());
    status.pomd.warnings = vec!["x".to_owned()];
    status.pomd.config.error = Some(ConfigError {
        at: ago(1),
        message: "x".to_owned(),
        report: "x".to_owned(),
        count: 1,
    });
    status.leaving = vec![Leaving {
        name: "x".to_owned(),
        connections: 1,
    }];
    evil(serde_json::to_value(&status).unwrap())
}

fn evil_pomd(tunnel: TunnelState, session: ClusterState) -> (World, Fake) {
    let world = World::new();
    let fake = Fake::start_with(&world.socket(), evil_status(tunnel, session));
    (world, fake)
}

/// Runs it as text and as JSON, on streams that take every byte.
fn no_control_byte(world: &World, args: &[&str]) {
    for json in [false, true] {
        let mut args = args.to_vec();
        if json {
            args.push("--json");
        }
        let output = world.run(&args);
        for text in [output.stdout, output.stderr] {
            let text = String::from_utf8(text).unwrap();
            let bad = text
                .chars()
                .find(|it| (it.is_control() && *it != '\n') || "\u{202e}\u{2028}".contains(*it));
            assert_eq!(bad, None, "{args:?}: {text:?}");
            assert!(!text.contains("\n../Host"), "{args:?}: {text:?}");
        }
    }
}

/// `POST /v1/tunnels/EVIL/…` as it is on the wire.
fn path(kind: &str, what: &str) -> String {
    let name: String = EVIL
        .bytes()
        .map(|it| match it {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                char::from(it).to_string()
            }
            _ => format!("%{it:02X}"),
        })
        .collect();
    format!("POST /v1/{kind}/{name}/{what}")
}

#[test]
fn a13_status_in_every_state() {
    for tunnel in [
        TunnelState::Up,
        TunnelState::Login,
        TunnelState::Error,
        TunnelState::Busy,
        TunnelState::Down,
    ] {
        for session in [
            ClusterState::LoggedIn,
            ClusterState::LoginNeeded,
            ClusterState::LoggedOut,
        ] {
            let (world, _fake) = evil_pomd(tunnel, session);
            no_control_byte(&world, &["status"]);
        }
    }
    let (world, _fake) = evil_pomd(TunnelState::Up, ClusterState::LoggedIn);
    no_control_byte(&world, &["status", "unknown\u{1b}[2J"]);
}

#[test]
fn a13_answers_and_errors() {
    // Null bytes cannot be typed, so the tunnel is asked for with --all.
    let (mut world, fake) = evil_pomd(TunnelState::Busy, ClusterState::LoginNeeded);
    let error = json!({
        "code": "address_in_use", "message": "x", "hint": "x", "request_id": "x", "facts": [["x", "x"]],
        "cluster": "x", "holder": node(),
    });
    let up = path("tunnels", "up");
    let failed = || Reply::error(409, evil(error.clone()));
    let fine = || Reply::ok(evil(up_answer(ssh_prod(TunnelState::Up))));
    fake.on(&up, [failed(), failed(), fine(), fine()]);
    no_control_byte(&world, &["up", "--all"]);
    no_control_byte(&world, &["up", "--all"]);
    let down = json!({ "tunnel": ssh_prod(TunnelState::Down), "still_open": 1 });
    fake.on(&path("tunnels", "down?now=false"), [Reply::ok(evil(down))]);
    no_control_byte(&world, &["down", "--all"]);
    let login = login_answer(ClusterState::LoginRunning, Some(open_login(true)));
    fake.on(&path("clusters", "login"), [Reply::ok(evil(login))]);
    no_control_byte(&world, &["login"]);
    world.var("POMD_BROWSER", "true");
    no_control_byte(&world, &["login"]);
    let done = login_answer(ClusterState::LoggedIn, None);
    fake.on(&path("clusters", "login"), [Reply::ok(evil(done))]);
    no_control_byte(&world, &["login"]);
    let logout = json!({
        "cluster": corp(), "user": "x", "forgotten": true, "still_open": 1, "sign_out_url": "x",
    });
    fake.on(&path("clusters", "logout"), [Reply::ok(evil(logout))]);
    no_control_byte(&world, &["logout"]);
}

#[test]
fn a13_reload_and_logs() {
    let (world, fake) = evil_pomd(TunnelState::Up, ClusterState::LoggedIn);
    let fine = json!({
        "added": ["x"], "changed": [{ "name": "x", "keys": ["x"] }], "removed": ["x"], "unchanged": 1,
        "leaving": [{ "name": "x", "connections": 2 }],
    });
    fake.on("POST /v1/reload", [Reply::ok(evil(fine))]);
    no_control_byte(&world, &["reload"]);
    let broken = json!({ "code": "config_broken", "message": "x", "hint": "x" });
    let mut broken = evil(broken);
    broken["message"] = json!("error: x\n  \u{1b}[2J |\u{202e}\n");
    fake.on("POST /v1/reload", [Reply::error(422, broken)]);
    no_control_byte(&world, &["reload"]);
    let line = json!({
        "at": ago(0), "level": "x", "tunnel": "x", "cluster": "x", "connection": 4, "message": "x",
    });
    fake.on("GET /v1/logs?follow=false", [Reply::lines(&[evil(line)])]);
    no_control_byte(&world, &["logs"]);
}

#[test]
fn a13_a_huge_string_is_cut() {
    let mut status = samples::fine();
    status.tunnels[0].route = "x".repeat(1 << 20);
    status.clusters[0].user = Some("y".repeat(1 << 20));
    let (world, _fake) = World::with(&status);
    let output = world.run(&["status"]);
    assert!(output.stdout.len() < 5000, "{}", output.stdout.len());
}
