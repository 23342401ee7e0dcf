//! Pages on a terminal: its width, its colours, and what moves.

use std::{
    io::{ErrorKind, Read, Write},
    os::fd::OwnedFd,
    process::{Child, Stdio},
};

use control::wire::{ClusterState, TunnelState};
use rustix::{
    fs::OFlags,
    process::{Pid, Signal, kill_process},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize},
};
use serde_json::json;
use snapbox::{assert_data_eq, str};

use crate::{
    fake::{self, Fake, Reply},
    runner::{World, start},
    samples,
};

/// A terminal of this width with a pomctl on it.
pub(crate) struct Terminal {
    child: Child,
    master: std::fs::File,
    /// Its other side, to look at how it is set.
    slave: OwnedFd,
}

impl Terminal {
    pub(crate) fn run(world: &World, width: u16, args: &[&str]) -> Self {
        let master =
            openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let size = Winsize {
            ws_row: 40,
            ws_col: width,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&master, size).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let slave = rustix::fs::open(name.as_c_str(), flags, rustix::fs::Mode::empty()).unwrap();
        let mut command = world.command(args);
        command
            .stdin(slave.try_clone().unwrap())
            .stdout(slave.try_clone().unwrap())
            .stderr(Stdio::from(slave.try_clone().unwrap()));
        let child = start(&mut command);
        drop(command);
        Self {
            child,
            master: master.into(),
            slave,
        }
    }

    pub(crate) fn shows_what_is_typed(&self) -> bool {
        let modes = tcgetattr(&self.slave).unwrap().local_modes;
        modes.contains(LocalModes::ECHO)
    }

    /// Presses keys.
    pub(crate) fn type_keys(&mut self, bytes: &[u8]) {
        self.master.write_all(bytes).unwrap();
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// What was written on it until pomctl ended, and its exit code.
    pub(crate) fn end(mut self) -> (String, i32) {
        drop(self.slave);
        let mut text = Vec::new();
        let mut part = [0; 4096];
        // The end of a terminal is an error on Linux.
        while let Ok(length @ 1..) = self.master.read(&mut part) {
            text.extend_from_slice(&part[..length]);
        }
        let code = self.child.wait().unwrap().code().unwrap();
        (String::from_utf8(text).unwrap().replace("\r\n", "\n"), code)
    }

    /// The same, and whether the terminal is left as it was.
    pub(crate) fn end_and_look(mut self) -> (String, i32, bool) {
        let code = self.child.wait().unwrap().code().unwrap();
        rustix::io::ioctl_fionbio(&self.master, true).unwrap();
        let mut text = Vec::new();
        let unread = self.master.read_to_end(&mut text).unwrap_err();
        assert_eq!(unread.kind(), ErrorKind::WouldBlock);
        let modes = tcgetattr(&self.slave).unwrap().local_modes;
        let plain = modes.contains(LocalModes::ECHO | LocalModes::ICANON);
        (String::from_utf8(text).unwrap(), code, plain)
    }

    /// Reads until this was written.
    pub(crate) fn read_until(&mut self, words: &str) -> String {
        let mut text = Vec::new();
        let mut part = [0; 4096];
        loop {
            let length = self.master.read(&mut part).unwrap();
            text.extend_from_slice(&part[..length]);
            let so_far = String::from_utf8_lossy(&text);
            if so_far.contains(words) {
                return so_far.into_owned();
            }
        }
    }
}

fn page(width: u16, vars: &[(&str, &str)]) -> String {
    let (mut world, _fake) = World::with(&samples::mixed());
    for (name, value) in vars {
        world.var(name, value);
    }
    let (text, code) = Terminal::run(&world, width, &["status"]).end();
    assert_eq!(code, 1);
    world.settled(&text)
}

const PLAIN: (&str, &str) = ("NO_COLOR", "1");

fn widest(page: &str) -> usize {
    let table = page.lines().filter(|it| !it.starts_with("    "));
    table.map(|it| it.chars().count()).max().unwrap()
}

#[test]
fn g5_at_80_columns() {
    let page = page(80, &[PLAIN]);
    assert_eq!(widest(&page), 80);
    assert_data_eq!(
        page,
        str![[r#"
  TUNNEL    STATE  LOCAL            CONN    RECV    SENT  ROUTE
● ssh-prod  up     localhost:2202      2   12 MB  3.1 MB  ssh-prod.corp.example…
● dns       up     localhost:5353      0   88 kB   41 kB  udp dns.corp.example.…
◐ reports   login  localhost:15432     1       –       –  reports-db.lab.exampl…
    1 connection waits for a login to lab since HH:MM. Run: pomctl login lab
✗ grafana   busy   localhost:3000      –       –       –  grafana.corp.example.…
    node (pid 4242) holds the port; pomd takes it when it is free
○ ssh-old   down   localhost:2210      –       –       –  ssh-old.corp.example.…

  CLUSTER   SESSION
● corp      alice@example.com, until HH:MM (9h 12m)
◐ lab       login needed since HH:MM

"#]]
    );
}

#[test]
fn g5_long_names_of_clusters_cost_no_column_and_a_missing_login_is_told_once() {
    let (mut world, _fake) = World::with(&samples::newcomer());
    world.var(PLAIN.0, PLAIN.1);
    let (text, code) = Terminal::run(&world, 80, &["status"]).end();
    assert_eq!(code, 4);
    assert_data_eq!(
        world.settled(&text),
        str![[r#"
  TUNNEL    STATE  LOCAL           CONN    RECV    SENT  ROUTE
◐ ssh-prod  login  localhost:2202     0       –       –  ssh-prod.corp.example.…
    ssh-prod.corp.example.com needs a login. Run: pomctl login ssh-prod.corp.example.com
◐ grafana   login  localhost:3000     0       –       –  grafana.corp.example.c…
    grafana.corp.example.com needs a login. Run: pomctl login grafana.corp.example.com

  CLUSTER                    SESSION
◐ ssh-prod.corp.example.com  login needed since HH:MM
◐ grafana.corp.example.com   login needed since HH:MM

"#]]
    );
}

#[test]
fn g5_at_140_columns_there_is_room_for_more() {
    assert_data_eq!(
        page(140, &[PLAIN]),
        str![[r#"
  TUNNEL    STATE  LOCAL            CONN    RECV    SENT  ROUTE                            LAST
● ssh-prod  up     localhost:2202      2   12 MB  3.1 MB  ssh-prod.corp.example.com:22     HH:MM
● dns       up     localhost:5353      0   88 kB   41 kB  udp dns.corp.example.com:53      –
◐ reports   login  localhost:15432     1       –       –  reports-db.lab.example.net:5432  –
    1 connection waits for a login to lab since HH:MM. Run: pomctl login lab
✗ grafana   busy   localhost:3000      –       –       –  grafana.corp.example.com:443     –
    node (pid 4242) holds the port; pomd takes it when it is free
○ ssh-old   down   localhost:2210      –       –       –  ssh-old.corp.example.com:22      –

  CLUSTER   SESSION                                  HOSTS
● corp      alice@example.com, until HH:MM (9h 12m)  *.corp.example.com
◐ lab       login needed since HH:MM                 *.lab.example.com

"#]]
    );
}

#[test]
fn g5_at_60_columns_it_still_fits() {
    let page = page(60, &[PLAIN]);
    assert!(page.contains("TUNNEL"), "{page}");
    assert!(widest(&page) <= 60, "{page}");
    assert_data_eq!(
        page,
        str![[r#"
  TUNNEL    STATE  LOCAL            CONN  ROUTE
● ssh-prod  up     localhost:2202      2  ssh-prod.corp.exa…
● dns       up     localhost:5353      0  udp dns.corp.exam…
◐ reports   login  localhost:15432     1  reports-db.lab.ex…
    1 connection waits for a login to lab since HH:MM. Run: pomctl login lab
✗ grafana   busy   localhost:3000      –  grafana.corp.exam…
    node (pid 4242) holds the port; pomd takes it when it is free
○ ssh-old   down   localhost:2210      –  ssh-old.corp.exam…

  CLUSTER   SESSION
● corp      alice@example.com, until HH:MM (9h 12m)
◐ lab       login needed since HH:MM

"#]]
    );
}

#[test]
fn g5_below_60_columns_each_row_is_a_block() {
    assert_data_eq!(
        page(50, &[PLAIN]),
        str![[r#"
● ssh-prod  up  localhost:2202
    → ssh-prod.corp.example.com:22
● dns  up  localhost:5353
    → udp dns.corp.example.com:53
◐ reports  login  localhost:15432
    → reports-db.lab.example.net:5432
    1 connection waits for a login to lab since HH:MM. Run: pomctl login lab
✗ grafana  busy  localhost:3000
    → grafana.corp.example.com:443
    node (pid 4242) holds the port; pomd takes it when it is free
○ ssh-old  down  localhost:2210
    → ssh-old.corp.example.com:22

● corp  alice@example.com, until HH:MM (9h 12m)
◐ lab  login needed since HH:MM

"#]]
    );
}

#[test]
fn g5_at_80_columns_in_ascii() {
    let page = page(80, &[PLAIN, ("POMD_ASCII", "1")]);
    assert!(page.is_ascii(), "{page}");
    assert_data_eq!(
        page,
        str![[r#"
  TUNNEL    STATE  LOCAL            CONN    RECV    SENT  ROUTE
* ssh-prod  up     localhost:2202      2   12 MB  3.1 MB  ssh-prod.corp.examp...
* dns       up     localhost:5353      0   88 kB   41 kB  udp dns.corp.exampl...
? reports   login  localhost:15432     1       -       -  reports-db.lab.exam...
    1 connection waits for a login to lab since HH:MM. Run: pomctl login lab
! grafana   busy   localhost:3000      -       -       -  grafana.corp.exampl...
    node (pid 4242) holds the port; pomd takes it when it is free
- ssh-old   down   localhost:2210      -       -       -  ssh-old.corp.exampl...

  CLUSTER   SESSION
* corp      alice@example.com, until HH:MM (9h 12m)
? lab       login needed since HH:MM

"#]]
    );
}

#[test]
fn columns_that_a_person_exported_win_over_the_terminal() {
    assert_eq!(widest(&page(140, &[PLAIN, ("COLUMNS", "80")])), 80);
}

#[test]
fn colours_are_the_terminal_s_own_sixteen_and_can_be_switched_off() {
    let coloured = page(80, &[]);
    assert!(coloured.contains("\u{1b}[31mbusy\u{1b}[0m"), "{coloured:?}");
    assert!(!coloured.contains("[38;"), "{coloured:?}");
    for off in [PLAIN, ("TERM", "dumb"), ("CLICOLOR", "0")] {
        assert!(!page(80, &[off]).contains('\u{1b}'), "{off:?}");
    }
    let (world, _fake) = World::with(&samples::mixed());
    let (never, _) = Terminal::run(&world, 80, &["status", "--color", "never"]).end();
    assert!(!never.contains('\u{1b}'));
    let always = world.run(&["status", "--color=always"]);
    assert!(always.stdout.contains(&0x1b));
    assert!(!world.run(&["status"]).stdout.contains(&0x1b));
}

#[test]
fn watching_redraws_in_place_and_ends_with_ctrl_c() {
    let (mut world, fake) = World::with(&samples::fine());
    world.var("NO_COLOR", "1");
    let mut terminal = Terminal::run(&world, 80, &["status", "--watch"]);
    let first = terminal.read_until("alice@example.com");
    assert!(first.contains("\u{1b}[H"), "{first:?}");
    fake.change(fake::tunnel_is("ssh-prod", TunnelState::Down));
    terminal.read_until("○ ssh-prod  down");
    terminal.signal(Signal::INT);
    let (_, code) = terminal.end();
    assert_eq!(code, 130);
}

#[test]
fn g4_on_a_terminal_the_address_is_shown_and_waited_for() {
    let (mut world, fake) = World::with(&samples::logged_out());
    world.var("NO_COLOR", "1");
    let login = samples::login_answer(ClusterState::LoginRunning, Some(samples::open_login(true)));
    let reply = fake::Reply::ok(login).before(fake::is("corp", ClusterState::LoginRunning));
    fake.on("POST /v1/clusters/corp/login", [reply]);
    let mut terminal = Terminal::run(&world, 100, &["login", "--no-browser"]);
    let shown = terminal.read_until("waiting for you to sign in, 0:0");
    assert!(
        shown.contains("\nhttps://authenticate.corp.example.com/"),
        "{shown}"
    );
    fake.change(|it| *fake::cluster(it, "corp") = samples::corp());
    let (rest, code) = terminal.end();
    assert_eq!(code, 0);
    // The line of the wait is gone, and the answer stands in its place.
    let last = rest.rsplit("\u{1b}[2K").next().unwrap();
    let last = last.strip_prefix("\u{1b}[?2004l").unwrap();
    assert_data_eq!(
        world.settled(last),
        str![[r#"
Logged in to corp as alice@example.com, until HH:MM (9h 12m).

"#]]
    );
}

/// A login to corp that waits on a terminal for a pasted address.
fn asked_to_paste() -> (World, Fake, Terminal) {
    let (mut world, fake) = World::with(&samples::logged_out());
    world.var("NO_COLOR", "1");
    let login = samples::login_answer(ClusterState::LoginRunning, Some(samples::open_login(true)));
    let reply = Reply::ok(login).before(fake::is("corp", ClusterState::LoginRunning));
    fake.on("POST /v1/clusters/corp/login", [reply]);
    let mut terminal = Terminal::run(&world, 100, &["login", "--no-browser"]);
    terminal.read_until("isn't shown");
    terminal.read_until("waiting for you to sign in");
    assert!(!terminal.shows_what_is_typed());
    (world, fake, terminal)
}

#[test]
fn g4_a_pasted_address_of_6000_characters_is_taken_and_never_shown() {
    let (_world, fake, mut terminal) = asked_to_paste();
    fake.on(
        "POST /v1/clusters/corp/login/answer",
        [
            Reply::error(
                400,
                json!({ "code": "bad_request", "message": "that address belongs to another login" }),
            ),
            Reply::ok(samples::corp()).before(|it| *fake::cluster(it, "corp") = samples::corp()),
        ],
    );
    terminal
        .master
        .write_all(b"https://authenticate.corp.example.com/canary\r")
        .unwrap();
    let told = terminal.read_until("Ctrl-C\r\n");
    let whole = "error: that is not the whole address, which begins with http://127.0.0.1:41235/. Paste again, or Ctrl-C";
    assert!(told.contains(whole), "{told}");
    let address = format!(
        "http://127.0.0.1:41235/cb?pomerium_jwt={}",
        "canary".repeat(1000)
    );
    let typed = format!("{address}\r");
    terminal.master.write_all(typed.as_bytes()).unwrap();
    let told = terminal.read_until("Ctrl-C\r\n");
    let foreign = "error: that address belongs to another login. Paste again, or Ctrl-C";
    assert!(told.contains(foreign) && !told.contains("canary"), "{told}");
    let (half, rest) = address.split_at(3000);
    let pasted = format!("\x1b[200~{half}\r\n{rest}\x1b[201~");
    terminal.master.write_all(pasted.as_bytes()).unwrap();
    let (rest, code, plain) = terminal.end_and_look();
    assert_eq!((code, plain), (0, true), "{rest}");
    assert!(rest.contains("Logged in to corp as alice@example.com"));
    assert!(!rest.contains("canary"), "{rest}");
    let asked = format!(r#"POST /v1/clusters/corp/login/answer {{"address":"{address}"}}"#);
    assert_eq!(fake.seen().iter().filter(|it| **it == asked).count(), 2);
}

#[test]
fn g4_the_terminal_shows_what_is_typed_again_on_every_way_out() {
    for (signal, ends) in [
        (rustix::process::Signal::INT, 130),
        (rustix::process::Signal::TERM, 143),
        (rustix::process::Signal::HUP, 129),
    ] {
        let (_world, _fake, terminal) = asked_to_paste();
        let pid = rustix::process::Pid::from_child(&terminal.child);
        rustix::process::kill_process(pid, signal).unwrap();
        let (text, code, plain) = terminal.end_and_look();
        assert_eq!((code, plain), (ends, true), "{signal:?}: {text}");
        assert!(text.contains("\u{1b}[?2004l"), "{signal:?}: {text}");
    }
    let (_world, fake, terminal) = asked_to_paste();
    fake.end();
    let (text, code, plain) = terminal.end_and_look();
    assert_eq!((code, plain), (3, true), "{text}");
}

#[test]
fn a_slow_proof_is_shown_to_be_under_way() {
    let (world, fake) = World::with(&samples::fine());
    let answer = samples::up_answer(samples::ssh_prod(TunnelState::Up));
    let go = fake.hold("POST /v1/tunnels/ssh-prod/up", fake::Reply::ok(answer));
    let mut terminal = Terminal::run(&world, 100, &["up", "ssh-prod"]);
    terminal.read_until("  opening ssh-prod, 0:0");
    drop(go);
    let (rest, code) = terminal.end();
    assert_eq!(code, 0);
    assert!(rest.contains("ssh-prod is up"), "{rest}");
}

#[test]
fn a_restart_says_what_ends_and_asks_on_a_terminal() {
    let question = "2 connections are open and end with it. Restart pomd? [y/N] ";
    let mut used = samples::fine();
    used.tunnels[0].connections.open = 2;
    for answer in ["n\n", "\n", "maybe\n"] {
        let (world, fake) = World::with(&used);
        let mut terminal = Terminal::run(&world, 80, &["restart"]);
        terminal.read_until(question);
        terminal.master.write_all(answer.as_bytes()).unwrap();
        let (rest, code) = terminal.end();
        assert_eq!(code, 1);
        assert!(rest.contains("Nothing was done."), "{rest}");
        assert!(!fake.seen().iter().any(|it| it == "POST /v1/restart"));
    }
    for (arguments, answer) in [
        (&["restart"][..], Some("y\n")),
        (&["restart", "--yes"], None),
    ] {
        let (world, fake) = World::with(&used);
        let reply = Reply::ok(json!({ "pid": 2811, "version": "0.1.0", "connections": 2 }));
        fake.on("POST /v1/restart", [reply]);
        let mut terminal = Terminal::run(&world, 80, arguments);
        if let Some(answer) = answer {
            terminal.read_until(question);
            terminal.master.write_all(answer.as_bytes()).unwrap();
        }
        fake.wait_for("POST /v1/restart", 1);
        fake.end();
        let _heir = Fake::start(&world.socket(), &samples::fine());
        let (rest, code) = terminal.end();
        assert_eq!(code, 0, "{rest}");
        assert!(!rest.contains("[y/N]"), "{rest}");
    }
}
