//! X10: a restart during which the place is never free and no connection is refused.

use std::{
    cell::Cell,
    fs, io,
    os::unix::fs::{MetadataExt, PermissionsExt},
    time::Duration,
};

use control::wire::TunnelState;
use integration::{
    binary::binary,
    deployment::tunnel,
    pomd::{Pomd, Setup, free_port},
};
use tokio::net::{TcpStream, UnixStream};

use super::{deployment, echoes, logged_in, pomctl, words};

/// Restarts a pomd under clients who connect, and who start one where they find none.
async fn restarts(times: usize) {
    let deployment = deployment().await;
    let (setup, port) = logged_in(&deployment).await;
    let mut pomd = setup.start().await;
    let pid = pomd.pid();
    let over = Cell::new(false);
    let (connections, commands) = (Cell::new(0), Cell::new(0));
    let connect = async || {
        while !over.get() {
            let connected = TcpStream::connect(("127.0.0.1", port)).await;
            let refused = |it: io::Error| it.kind() == io::ErrorKind::ConnectionRefused;
            assert!(
                !connected.is_err_and(refused),
                "after {}",
                connections.get()
            );
            connections.set(connections.get() + 1);
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let command = async |arguments: &[&str]| {
        while !over.get() {
            let output = pomctl(pomd.setup(), arguments).await;
            assert!(output.status.success(), "{arguments:?}: {output:?}");
            commands.set(commands.get() + 1);
        }
    };
    let restart = async || {
        for n in 0..times {
            let told = pomctl(pomd.setup(), &["restart", "--yes"]).await;
            assert!(told.status.success(), "{n}: {}", words(&told));
        }
        over.set(true);
    };
    let up = command(&["up", "echo"]);
    let status = command(&["status", "--json"]);
    tokio::join!(connect(), connect(), up, status, restart());
    pomd.process().assert_runs();
    assert_eq!(
        pomd.status().await.pomd.pid,
        pid,
        "another one took the place"
    );
    assert!(commands.get() > 0 && connections.get() > times);
    echoes(port).await;
    integration::report(&format!(
        "{times} restarts: {} connections, none refused; {} commands, none failed",
        connections.get(),
        commands.get()
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn x10_a_restart_refuses_nobody_and_nobody_takes_the_place() {
    restarts(5).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "for the night: fifty times"]
async fn x10_fifty_restarts_refuse_nobody_and_nobody_takes_the_place() {
    restarts(50).await;
}

fn inode(pomd: &Pomd, name: &str) -> u64 {
    let path = pomd.setup().runtime().join(name);
    fs::metadata(path).unwrap().ino()
}

#[tokio::test(flavor = "multi_thread")]
async fn x10_listeners_pass_over_and_those_of_no_tunnel_any_more_are_closed() {
    let [stays, goes, comes] = [(); 3].map(|()| free_port());
    let route = "a.corp.test:22";
    let listen = |port: u16| format!("listen = {port}");
    let file = tunnel("file", route, "listen = \"unix:file.sock\"");
    let first = tunnel("stays", route, &listen(stays)) + &tunnel("goes", route, &listen(goes));
    let mut pomd = Pomd::start(&(first + &file)).await;
    let before = (inode(&pomd, "file.sock"), inode(&pomd, "pomd.sock"));
    // Renamed, but at the same port; and one that was handed on by nobody.
    let second = tunnel("renamed", route, &listen(stays)) + &tunnel("comes", route, &listen(comes));
    pomd.replace_config(&(second + &file));
    let told = pomd.pomctl(&["restart", "--force"]).await;
    assert!(told.status.success(), "{}", words(&told));
    for name in ["renamed", "comes", "file"] {
        pomd.wait_for_tunnel(name, TunnelState::Login).await;
    }
    assert_eq!(
        (inode(&pomd, "file.sock"), inode(&pomd, "pomd.sock")),
        before
    );
    UnixStream::connect(pomd.setup().runtime().join("file.sock"))
        .await
        .unwrap();
    for port in [stays, comes] {
        for address in ["127.0.0.1", "::1"] {
            TcpStream::connect((address, port)).await.unwrap();
        }
    }
    let refused = TcpStream::connect(("127.0.0.1", goes)).await.unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    assert!(pomd.stop().await.success());
    let left = fs::read_dir(pomd.setup().runtime()).unwrap();
    let left: Vec<_> = left.map(|it| it.unwrap().file_name()).collect();
    assert_eq!(left, ["pomd.lock"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn x10_a_restart_leaves_no_descriptor_behind() {
    let mut pomd = Pomd::start("[tunnel.a]\nroute = \"a.corp.test:22\"\n").await;
    let open = |pid: u32| fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    let once = async |pomd: &Pomd| {
        let told = pomd.pomctl(&["restart"]).await;
        assert!(told.status.success(), "{}", words(&told));
        pomd.wait_for_tunnel("a", TunnelState::Login).await;
    };
    once(&pomd).await;
    let first = open(pomd.pid());
    for _ in 0..5 {
        once(&pomd).await;
    }
    let last = open(pomd.pid());
    assert!(last <= first + 2, "{first} descriptors, then {last}");
    pomd.process().assert_runs();
}

#[tokio::test(flavor = "multi_thread")]
async fn x10_a_restart_with_a_broken_file_is_refused_with_its_report() {
    let good = "[tunnel.a]\nroute = \"a.corp.test:22\"\n";
    let pomd = Pomd::start(good).await;
    pomd.replace_config("[tunnel.a]\nroute = \"a.corp.test\"\n");
    let reload = pomd.pomctl(&["reload"]).await;
    let refused = pomd.pomctl(&["restart"]).await;
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    let (refused, reload) = (words(&refused), words(&reload));
    assert!(refused.starts_with("error: Not restarted: "), "{refused}");
    // Line by line what `pomctl reload` says of the file.
    let report: Vec<&str> = reload.lines().skip(1).collect();
    assert!(
        report.iter().all(|it| refused.contains(it)),
        "{refused}\n{reload}"
    );
    assert!(refused.contains("pomctl restart --force"), "{refused}");
    let runs = || pomd.words().matches(" runs (pid ").count();
    assert_eq!((runs(), pomd.status().await.tunnels.len()), (1, 1));
    // A file that is gone is broken, too.
    fs::remove_file(pomd.setup().config_file()).unwrap();
    assert_eq!(pomd.pomctl(&["restart"]).await.status.code(), Some(2));
    let forced = pomd.pomctl(&["restart", "--force"]).await;
    assert!(forced.status.success(), "{}", words(&forced));
    pomd.status().await;
    assert_eq!(runs(), 2);
}

/// A release that knows nothing of handovers finds everything free.
#[tokio::test(flavor = "multi_thread")]
async fn x7_x10_a_restart_as_an_older_release_begins_anew() {
    let setup = Setup::new("[tunnel.a]\nroute = \"a.corp.test:22\"\n");
    let installed = setup.folder().join("pomd");
    std::os::unix::fs::symlink(binary("pomd"), &installed).unwrap();
    let mut pomd = setup.program(installed.clone()).start().await;
    let before = pomd.address("a").await;
    let old = format!(
        "#!/bin/sh\n[ \"$1\" = --version ] && echo 'pomd 0.0.1' && exit\n\
         [ \"$1\" = --takes-handover ] && exit 2\n\
         [ -n \"$POMD_HANDOVER\" ] && echo 'it was given a handover' >&2 && exit 9\n\
         exec '{}' \"$@\"\n",
        binary("pomd").display()
    );
    let new = pomd.setup().folder().join("new");
    fs::write(&new, old).unwrap();
    fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).unwrap();
    fs::rename(&new, &installed).unwrap();
    let told = pomd.pomctl(&["restart"]).await;
    assert!(told.status.success(), "{}\n{}", words(&told), pomd.words());
    pomd.process().assert_runs();
    assert_eq!(pomd.address("a").await, before);
}
