//! A10: a socket of another user gets nothing.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    os::unix::{fs::PermissionsExt, net::UnixListener, process::CommandExt},
    process::{Command, Stdio},
    time::Duration,
};

use snapbox::{assert_data_eq, str};

use crate::runner::{World, copy_program, start};

const SOCKET: &str = "POMCTL_TEST_FOREIGN_SOCKET";

/// Not a test of its own: the other user's program. It says when it listens, and then how many bytes it was sent.
#[test]
#[ignore = "run by another test as another user"]
fn the_other_user_s_program() {
    let Ok(socket) = std::env::var(SOCKET) else {
        return;
    };
    let listener = UnixListener::bind(&socket).unwrap();
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o777)).unwrap();
    println!("\nlistens");
    let (mut stream, _) = listener.accept().unwrap();
    let limit = Some(Duration::from_secs(20));
    stream.set_read_timeout(limit).unwrap();
    let mut sent = Vec::new();
    stream.read_to_end(&mut sent).unwrap();
    println!("sent {}", sent.len());
    std::io::stdout().flush().unwrap();
}

#[test]
fn a10_a_server_of_another_user_is_sent_nothing() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: A10 needs root to run a server as another user");
        return;
    }
    let mut world = World::new();
    let open = fs::Permissions::from_mode(0o777);
    let folder = world.path("foreign");
    fs::create_dir(&folder).unwrap();
    for path in [world.path(""), folder.clone()] {
        fs::set_permissions(path, open.clone()).unwrap();
    }
    // Where that user can execute it.
    let program = folder.join("server");
    copy_program(&std::env::current_exe().unwrap(), &program);
    let socket = folder.join("s");
    let mut server = Command::new(&program);
    server
        .args(["--ignored", "--exact", "--nocapture"])
        .arg("foreign::the_other_user_s_program")
        .env(SOCKET, &socket)
        .current_dir("/")
        .uid(65534)
        .gid(65534)
        .stdout(Stdio::piped());
    let mut server = start(&mut server);
    let said = BufReader::new(server.stdout.take().unwrap());
    let mut said = said.lines().map(Result::unwrap);
    assert!(said.any(|it| it == "listens"));
    world.var("POMD_SOCKET", socket.to_str().unwrap());
    assert_data_eq!(
        world.transcript(&["status"]),
        str![[r#"
$ pomctl status  # exit 1
| error: /DIR/foreign/s belongs to another user (uid 65534), so nothing was sent to it

"#]]
    );
    let sent = said.find(|it| it.starts_with("sent ")).unwrap();
    assert_eq!(sent, "sent 0");
    server.wait().unwrap();
}
