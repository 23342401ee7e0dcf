//! `pomctl top`: what a person sees, what a pipe gets, and how the terminal is left.

use std::{
    io::{BufRead, BufReader},
    process::Stdio,
};

use control::wire::TunnelState;
use serde_json::{Value, json};
use snapbox::{assert_data_eq, str};

use crate::{
    fake::{self, Reply},
    runner::{World, start},
    samples,
    terminal::Terminal,
};

/// The first whole page with rates, which are there from the second look on: later ones have more of the last minute.
fn first_page_with_rates(terminal: &mut Terminal) -> String {
    let mut text = String::new();
    let page = loop {
        text += &terminal.read_until("\u{1b}[J");
        let mut pages = text.split("\u{1b}[H");
        if let Some(page) = pages.find(|it| it.contains("0 B/s") && it.ends_with("\u{1b}[J")) {
            break page;
        }
    };
    page.replace("\u{1b}[K", "")
        .replace('\r', "")
        .replace("\u{1b}[J", "")
}

fn size(width: u16, ascii: bool) -> String {
    let (mut world, _fake) = World::with(&samples::mixed());
    world.var("NO_COLOR", "1");
    if ascii {
        world.var("POMD_ASCII", "1");
    }
    let mut terminal = Terminal::run(&world, width, &["top"]);
    let shown = first_page_with_rates(&mut terminal);
    terminal.type_keys(b"q");
    let (rest, code) = terminal.end();
    assert_eq!(code, 0);
    assert!(rest.ends_with("\u{1b}[?25h\u{1b}[?1049l"), "{rest:?}");
    world.settled(&shown)
}

#[test]
fn g22_top_at_80_columns() {
    assert_data_eq!(
        size(80, false),
        str![[r#"
 pomd 0.1.0   2 of 5 up   corp: alice@example.com until HH:MM, lab: logi…  HH:MM
   TUNNEL    STATE  CONN       ↓/s       ↑/s  LAST 60 s
▸● ssh-prod  up        2     0 B/s     0 B/s             ▁
 ● dns       up        0     0 B/s     0 B/s             ▁
 ◐ reports   login     1         –         –  lab needs a login. Run: pomctl lo…
 ✗ grafana   busy      –         –         –  node (pid 4242) holds the port
 ○ ssh-old   down      –         –         –
 q quit  ↑↓ choose  u up  d down  l log

"#]]
    );
}

#[test]
fn g22_top_on_a_narrow_terminal_and_in_ascii() {
    let page = size(44, true);
    let widest = page.lines().map(|it| it.chars().count()).max();
    assert!(widest.unwrap() <= 44, "{page}");
    assert_data_eq!(
        page,
        str![[r#"
 pomd 0.1.0   2 of 5 up   corp: al...  HH:MM
   TUNNEL    STATE      IN/s     OUT/s
>* ssh-prod  up        0 B/s     0 B/s
 * dns       up        0 B/s     0 B/s
 ? reports   login         -         -
 ! grafana   busy          -         -
 - ssh-old   down          -         -
 q quit  jk choose  u up  d down  l log

"#]]
    );
}

#[test]
fn g22_top_fits_where_there_is_room_for_little_more_than_names() {
    for width in [26, 30, 36, 40, 50, 60, 70] {
        let (world, _fake) = World::with(&samples::mixed());
        let mut terminal = Terminal::run(&world, width, &["top", "--color", "never"]);
        let page = terminal.read_until("\u{1b}[J");
        terminal.type_keys(b"q");
        assert_eq!(terminal.end().1, 0);
        let page = page.rsplit("\u{1b}[H").next().unwrap();
        let page = page.replace("\u{1b}[K", "").replace("\u{1b}[J", "");
        for line in page.lines() {
            assert!(
                line.trim_end().chars().count() <= width.into(),
                "{width}: {page}"
            );
        }
        assert!(page.contains("▸● ssh-prod"), "{page}");
    }
}

#[test]
fn keys_choose_and_act_and_the_rates_are_what_flowed() {
    let (mut world, fake) = World::with(&samples::mixed());
    world.var("NO_COLOR", "1");
    let error = json!({ "code": "login_needed", "message": "corp needs a login", "hint": null });
    fake.on(
        "POST /v1/tunnels/dns/down?now=false",
        [Reply::error(409, error)],
    );
    let mut terminal = Terminal::run(&world, 80, &["top"]);
    terminal.read_until("▸● ssh-prod");
    terminal.type_keys(b"\x1b[B");
    terminal.read_until("▸● dns");
    // Another second, another megabyte; how long the second was is not known, so only the unit is.
    fake.change(|status| {
        status.tunnels[0].bytes.received += 500_000_000_000;
    });
    terminal.read_until(" GB/s");
    terminal.read_until("█");
    terminal.type_keys(b"d");
    terminal.read_until("corp needs a login");
    fake.change(fake::tunnel_is("ssh-prod", TunnelState::Down));
    terminal.read_until("○ ssh-prod  down");
    terminal.type_keys(b"k");
    terminal.read_until("▸○ ssh-prod");
    fake.on(
        "GET /v1/logs?follow=false&tunnel=ssh-prod",
        std::iter::repeat_n(Reply::lines(&[log("it went \u{1b}[2J well")]), 20),
    );
    terminal.type_keys(b"l");
    let log = terminal.read_until("well");
    assert!(!log.contains("\u{1b}[2J w"), "{log:?}");
    terminal.type_keys(b"q");
    assert_eq!(terminal.end().1, 0);
}

fn log(message: &str) -> Value {
    json!({
        "at": samples::ago(1), "level": "info", "tunnel": "ssh-prod", "cluster": "corp", "connection": null,
        "message": message,
    })
}

#[test]
fn the_terminal_is_put_back_however_it_ends() {
    use rustix::process::Signal;
    for (signal, code) in [(Signal::INT, Some(130)), (Signal::TERM, Some(143))] {
        let (world, _fake) = World::with(&samples::fine());
        let mut terminal = Terminal::run(&world, 80, &["top"]);
        terminal.read_until("ssh-prod");
        assert!(!terminal.shows_what_is_typed());
        terminal.signal(signal);
        let (rest, ended, plain) = terminal.end_and_look();
        assert_eq!(Some(ended), code);
        assert!(
            plain && rest.contains("\u{1b}[?25h\u{1b}[?1049l"),
            "{rest:?}"
        );
    }
    let (world, fake) = World::with(&samples::fine());
    let mut terminal = Terminal::run(&world, 80, &["top"]);
    terminal.read_until("ssh-prod");
    fake.end();
    let (rest, code, plain) = terminal.end_and_look();
    assert_eq!((code, plain), (3, true), "{rest:?}");
    let (_, said) = rest.rsplit_once("\u{1b}[?1049l").unwrap();
    assert!(said.contains("pomd ended meanwhile"), "{rest:?}");
}

#[test]
fn g22_a_pipe_gets_one_second_and_json_gets_each() {
    let (world, _fake) = World::with(&samples::mixed());
    assert_data_eq!(
        world.transcript(&["top"]),
        str![[r#"
$ pomctl top  # exit 0
 pomd 0.1.0   2 of 5 up   corp: alice@example.com until HH:MM, lab: login needed since HH:MM
   TUNNEL    STATE  CONN       ↓/s       ↑/s  LAST 60 s
 ● ssh-prod  up        2     0 B/s     0 B/s             ▁
 ● dns       up        0     0 B/s     0 B/s             ▁
 ◐ reports   login     1         –         –  lab needs a login. Run: pomctl login lab
 ✗ grafana   busy      –         –         –  node (pid 4242) holds the port
 ○ ssh-old   down      –         –         –

"#]]
    );
    let mut command = world.command(&["top", "--json"]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = start(&mut command);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    for _ in 0..2 {
        let line: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        assert_eq!(line["tunnels"][0]["name"], "ssh-prod");
        assert_eq!(line["tunnels"][0]["received_per_second"], 0);
        assert_eq!(line["tunnels"][0]["connections"]["open"], 2);
    }
    // A reader that leaves ends it, and that is no failure.
    drop(lines);
    assert!(child.wait().unwrap().success());
}

#[test]
fn where_no_pomd_runs_top_says_so_and_starts_none() {
    let world = World::new();
    let said = world.run(&["top"]);
    assert_eq!(said.status.code(), Some(3));
    assert!(said.stdout.is_empty());
}
