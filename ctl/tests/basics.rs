//! The overview, help, usage errors, exit codes, and how pomctl leaves.

use std::process::Stdio;

use control::wire::{ClusterState, TunnelState};
use serde_json::Value;
use snapbox::{assert_data_eq, str};

use crate::{
    runner::{World, start},
    samples::{self, cluster, ssh_prod, status},
};

#[test]
fn g1_pomctl_alone_shows_what_there_is() {
    assert_data_eq!(
        World::new().transcript(&[]),
        str![[r#"
$ pomctl   # exit 0
Services behind Pomerium as local ports.      Usage: pomctl COMMAND [OPTIONS]
Every day     status  up  down  ssh  login  logout
For programs  connect  ssh-config  token  kube-credential  wait
Change        add  remove  enable  disable  edit
Look inside   logs  events  top  doctor
The daemon    reload  restart  stop  service
More          demo  completions  man  help
Options       --json  --color WHEN  --no-start  --config FILE  --socket PATH

"#]]
    );
}

#[test]
fn g1_the_overview_is_also_the_top_of_the_help() {
    let world = World::new();
    let overview = String::from_utf8(world.run(&[]).stdout).unwrap();
    for args in [&["--help"][..], &["help"]] {
        let help = world.run(args);
        assert!(help.status.success());
        let help = String::from_utf8(help.stdout).unwrap();
        assert!(help.starts_with(&overview), "{help}");
        assert!(help.contains("--state-dir"), "{help}");
    }
    let short = String::from_utf8(world.run(&["-h"]).stdout).unwrap();
    assert_eq!(short, overview);
}

#[test]
fn each_command_s_short_help_is_one_screen() {
    let world = World::new();
    for command in [
        "status",
        "up",
        "down",
        "login",
        "logout",
        "ssh",
        "connect",
        "ssh-config",
        "logs",
        "reload",
        "stop",
        "demo",
    ] {
        let short = String::from_utf8(world.run(&[command, "-h"]).stdout).unwrap();
        assert!(short.lines().count() <= 24, "{short}");
        assert!(short.contains("see more with '--help'"), "{short}");
        let long = String::from_utf8(world.run(&[command, "--help"]).stdout).unwrap();
        for option in [
            "--json",
            "--color",
            "--no-start",
            "--config",
            "--socket",
            "--state-dir",
        ] {
            assert!(long.contains(option), "{long}");
        }
    }
}

#[test]
fn each_command_s_help_ends_with_examples() {
    let world = World::new();
    for command in [
        "status", "up", "down", "login", "logout", "logs", "reload", "restart", "stop", "demo",
    ] {
        let help = world.run(&[command, "--help"]);
        let help = String::from_utf8(help.stdout).unwrap();
        let examples = help.split_once("Examples\n").unwrap().1;
        assert!(
            examples.starts_with(&format!("  pomctl {command}")),
            "{help}"
        );
    }
}

#[test]
fn the_version_is_one_line() {
    assert_data_eq!(
        World::new().transcript(&["--version"]),
        str![[r#"
$ pomctl --version  # exit 0
pomctl 0.1.0

"#]]
    );
}

#[test]
fn g30_words_of_other_tools_lead_to_the_right_command() {
    let world = World::new();
    let guesses = [
        &["tcp", "db.corp.example.com:5432"][..],
        &["disconnect", "db"],
        &["check"],
    ];
    let text: String = guesses.iter().map(|it| world.transcript(it)).collect();
    assert_data_eq!(
        text,
        str![[r#"
$ pomctl tcp db.corp.example.com:5432  # exit 2
| error: there is no command tcp
| hint: pomctl connect HOST:PORT
$ pomctl disconnect db  # exit 2
| error: there is no command disconnect
| hint: pomctl down NAME
$ pomctl check  # exit 2
| error: there is no command check
| hint: pomd check

"#]]
    );
    assert_eq!(world.run(&["ls"]).stdout, world.run(&["status"]).stdout);
    let file = "[tunnel.db]\nroute = \"a.b:1\"\n[tunnel.web]\nroute = \"a.b:2\"\n";
    std::fs::write(world.config(), file).unwrap();
    assert_data_eq!(
        world.transcript(&["down"]),
        str![[r#"
$ pomctl down  # exit 2
| error: which tunnel? db, web or --all

"#]]
    );
}

#[test]
fn a_cluster_is_shown_with_its_tunnels() {
    let (world, _fake) = World::with(&samples::mixed());
    let output = world.run(&["status", "corp", "--json"]);
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    let of_corp = |it: &Value| it["cluster"] == "corp";
    let tunnels = json["tunnels"].as_array().unwrap();
    assert!(!tunnels.is_empty() && tunnels.iter().all(of_corp), "{json}");
    assert_eq!(json["clusters"].as_array().unwrap().len(), 1);
}

#[test]
fn a_usage_error_is_told_and_as_json_where_json_is_wanted() {
    let world = World::new();
    assert_data_eq!(
        world.transcript(&["statsu"]),
        str![[r#"
$ pomctl statsu  # exit 2
| error: unrecognized subcommand 'statsu'
|
|   tip: a similar subcommand exists: 'status'
|
| Usage: pomctl [OPTIONS] [COMMAND]
|
| For more information, try '--help'.

"#]]
    );
    assert_data_eq!(
        world.transcript(&["up", "--json"]),
        str![[r#"
$ pomctl up --json  # exit 2
{"error":{"code":"bad_request","hint":null,"message":"which tunnel? NAME or --all"}}

"#]]
    );
}

#[test]
fn the_exit_code_of_status_says_what_is_the_matter() {
    let table = [
        (TunnelState::Up, ClusterState::LoggedIn, 0),
        (TunnelState::Down, ClusterState::LoginNeeded, 0),
        (TunnelState::Up, ClusterState::LoginNeeded, 4),
        (TunnelState::Login, ClusterState::LoginRunning, 4),
        (TunnelState::Up, ClusterState::LoggedOut, 4),
        (TunnelState::Error, ClusterState::LoginNeeded, 1),
        (TunnelState::Busy, ClusterState::LoggedIn, 1),
    ];
    for (tunnel, session, code) in table {
        let shown = status(vec![ssh_prod(tunnel)], vec![cluster("corp", session)]);
        let (world, _fake) = World::with(&shown);
        let exit = |args: &[&str]| world.run(args).status.code().unwrap();
        assert_eq!(exit(&["status"]), code, "{tunnel:?} {session:?}");
        assert_eq!(exit(&["status", "ssh-prod"]), code);
        assert_eq!(exit(&["status", "--json"]), 0);
    }
}

#[test]
fn g13_what_needs_pomd_says_that_it_is_not_running() {
    let world = World::new();
    std::fs::write(world.config(), "[tunnel.a]\n").unwrap();
    for command in ["status", "logs", "reload", "logout"] {
        let output = world.run(&[command]);
        assert_eq!(output.status.code(), Some(3), "{command}");
        assert!(output.stdout.is_empty());
    }
    assert_data_eq!(
        world.transcript(&["logs"]),
        str![[r#"
$ pomctl logs  # exit 3
| error: pomd is not running
|     pomctl up --all            starts it, with every tunnel

"#]]
    );
    assert_data_eq!(
        world.transcript(&["reload", "--json"]),
        str![[r#"
$ pomctl reload --json  # exit 3
{"error":{"code":"not_running","hint":"pomctl up --all starts it, with every tunnel","message":"pomd is not running"}}

"#]]
    );
    assert_data_eq!(
        world.transcript(&["up", "a", "--no-start"]),
        str![[r#"
$ pomctl up a --no-start  # exit 3
| error: pomd is not running
|     pomctl up --all            starts it, with every tunnel

"#]]
    );
}

#[test]
fn where_there_is_nothing_to_do_nothing_is_wrong() {
    let world = World::new();
    assert_data_eq!(
        world.transcript(&["down", "--all"]),
        str![[r#"
$ pomctl down --all  # exit 0
pomd is not running; nothing to do

"#]]
    );
    assert_data_eq!(
        world.transcript(&["stop"]),
        str![[r#"
$ pomctl stop  # exit 0
pomd is not running; nothing to do

"#]]
    );
    for args in [&["down", "x", "--json"][..], &["stop", "--json"]] {
        let output = world.run(args);
        assert!(output.status.success());
        serde_json::from_slice::<Value>(&output.stdout).unwrap();
    }
}

#[test]
fn g1_a_newcomer_is_shown_how_to_begin() {
    let world = World::new();
    assert_data_eq!(
        world.transcript(&["status"]),
        str![[r#"
$ pomctl status  # exit 3
No tunnels yet, and pomd is not running.
  See it work without Pomerium    pomctl demo
  Add one by hand                 write this into ~/.config/pomd/pomd.toml:

    [tunnel.ssh-prod]
    route = "ssh-prod.corp.example.com:22"
    listen = 2202

  Then log in and use it          pomctl up ssh-prod

"#]]
    );
    let json = world.run(&["status", "--json"]);
    assert_eq!(json.status.code(), Some(3));
    let json: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json["error"]["code"], "not_running");
    std::fs::write(world.config(), "# nothing yet\n").unwrap();
    let text = world.transcript(&["status"]);
    assert!(text.contains("No tunnels yet"), "{text}");
}

#[test]
fn no_message_names_what_is_not_built() {
    let not_built = ["pomctl routes", "--renew"];
    let source = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut folders = vec![source];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            for words in not_built {
                assert!(!text.contains(words), "{words} in {}", path.display());
            }
        }
    }
}

#[test]
fn a_reader_that_leaves_is_no_failure() {
    let (world, _fake) = World::with(&samples::mixed());
    for args in [&["status"][..], &["status", "--json"], &["--help"], &[]] {
        // The reading end is closed before pomctl has written a byte.
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = world.command(args);
        command.stdout(writer).stderr(Stdio::piped());
        let output = start(&mut command).wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{args:?}");
        assert!(output.stderr.is_empty(), "{:?}", output.stderr);
    }
}

#[test]
fn a_pomd_of_another_protocol_is_not_talked_to() {
    let (world, fake) = World::with(&samples::fine());
    fake.speak("2");
    assert_data_eq!(
        world.transcript(&["status"]),
        str![[r#"
$ pomctl status  # exit 1
| error: pomctl 0.1.0 can't talk to this pomd (protocols 1 and 2)
| hint: install pomd and pomctl of one release, then end the pomd that runs

"#]]
    );
}

#[test]
fn demo_becomes_the_program_beside_pomctl_with_the_same_flags() {
    let mut world = World::new();
    world.move_program();
    assert_data_eq!(
        world.transcript(&["demo"]),
        str![[r#"
$ pomctl demo  # exit 1
| error: pomd-demo is not beside pomctl (looked in /DIR/bin)
| hint: in the source tree, cargo install --locked --path tests/gateway brings it

"#]]
    );
    world.script("bin/pomd-demo", "echo \"demo $@\"; exit 7");
    assert_data_eq!(
        world.transcript(&["demo", "--fast"]),
        str![[r#"
$ pomctl demo --fast  # exit 7
demo --fast

"#]]
    );
}
