//! pomctl starts pomd where that is wanted, and tells how it went.

use snapbox::{assert_data_eq, str};

use crate::{
    fake::{Fake, Reply},
    runner::World,
    samples::{self, ssh_prod, up_answer},
};
use control::wire::TunnelState;

#[test]
fn g2_up_starts_the_pomd_beside_it_and_says_so() {
    let mut world = World::new();
    world.move_program();
    let hidden = world.path("hidden.sock");
    let mut shown = samples::fine();
    shown.pomd.warnings = vec!["corp takes any certificate (insecure_skip_verify)".to_owned()];
    let fake = Fake::start(&hidden, &shown);
    fake.on(
        "POST /v1/tunnels/ssh-prod/up",
        [Reply::ok(up_answer(ssh_prod(TunnelState::Up)))],
    );
    let args = world.path("args");
    world.script(
        "bin/pomd",
        &format!(
            "echo \"$@\" > {}\nmv {} {}",
            args.display(),
            hidden.display(),
            world.socket().display()
        ),
    );
    assert_data_eq!(
        world.transcript(&["up", "ssh-prod"]),
        str![[r#"
$ pomctl up ssh-prod  # exit 0
ssh-prod is up: localhost:2202 → ssh-prod.corp.example.com:22 (answers in 84 ms)

    ssh -p 2202 localhost
| Started pomd (pid 2811).
| warning: corp takes any certificate (insecure_skip_verify)

"#]]
    );
    let args = std::fs::read_to_string(args).unwrap();
    assert_data_eq!(
        world.settled(&args),
        str![[r#"
--daemonize --config /DIR/home/.config/pomd/pomd.toml --state-dir /DIR/home/.local/state/pomd --socket /DIR/pomd.sock

"#]]
    );
}

#[test]
fn g13_a_pomd_that_ends_at_once_is_told_with_its_words() {
    let mut world = World::new();
    world.move_program();
    world.script(
        "bin/pomd",
        "echo 'error: /run/user/1000/pomd belongs to root' >&2; exit 1",
    );
    assert_data_eq!(
        world.transcript(&["up", "ssh-prod"]),
        str![[r#"
$ pomctl up ssh-prod  # exit 1
| error: pomd ended right after its start: /run/user/1000/pomd belongs to root

"#]]
    );
    world.script(
        "bin/pomd",
        "printf 'error: bad\\n  --> x:1\\n\\033[2J\\n' >&2; exit 2",
    );
    assert_data_eq!(
        world.transcript(&["login"]),
        str![[r#"
$ pomctl login  # exit 2
| error: pomd ended right after its start: bad
|   --> x:1
| /u{1b}[2J

"#]]
    );
    world.script("bin/pomd", "exit 3");
    let text = world.transcript(&["up", "x"]);
    assert!(
        text.contains("pomd ended right after its start: exit status: 3"),
        "{text}"
    );
}

#[test]
fn a_start_that_ran_into_another_start_is_none_of_ours_to_tell() {
    let mut world = World::new();
    world.move_program();
    let hidden = world.path("hidden.sock");
    let fake = Fake::start(&hidden, &samples::fine());
    fake.on(
        "POST /v1/tunnels/ssh-prod/up",
        [Reply::ok(up_answer(ssh_prod(TunnelState::Up)))],
    );
    let (hidden, socket) = (hidden.display(), world.socket());
    let script = format!(
        "mv {hidden} {}; echo 'error: already running' >&2; exit 1",
        socket.display()
    );
    world.script("bin/pomd", &script);
    let output = world.run(&["up", "ssh-prod"]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
}

#[test]
fn a_pomd_that_cannot_be_found_is_told() {
    let mut world = World::new();
    world.move_program();
    world.var("PATH", "/nonexistent");
    assert_data_eq!(
        world.transcript(&["up", "x"]),
        str![[r#"
$ pomctl up x  # exit 1
| error: pomd is not running, and pomd cannot be started: No such file or directory (os error 2)
| hint: put pomd beside pomctl, or into a folder of PATH

"#]]
    );
    // As ssh runs it, too.
    let ended = world.run(&["connect", "a.test:22"]);
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(said.contains("pomd cannot be started"), "{said}");
}

#[test]
fn looking_never_starts_it_and_it_can_be_forbidden() {
    let mut world = World::new();
    world.move_program();
    let started = world.path("started");
    world.script("bin/pomd", &format!("touch {}", started.display()));
    for args in [
        &["status"][..],
        &["logs"],
        &["reload"],
        &["logout"],
        &["up", "a", "--no-start"],
    ] {
        assert_eq!(world.run(args).status.code(), Some(3), "{args:?}");
    }
    assert_eq!(world.run(&["down", "a"]).status.code(), Some(0));
    assert_eq!(world.run(&["stop"]).status.code(), Some(0));
    world.var("POMD_NO_START", "1");
    assert_eq!(world.run(&["login"]).status.code(), Some(3));
    assert!(!started.exists());
}
