//! Tunnels that listen on a socket in the file system: the same bytes, ends and refusals as on a port, for its owner
//! alone.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use control::wire::{Code, TunnelState};
use gateway::Upstream;
use integration::{
    client::{Ending, pattern, read_all},
    deployment::{Deployment, tunnel},
    eventually,
    other_user::{OtherUser, UID},
    pomd::{self, Pomd, Setup, free_port},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UnixStream},
};

const ECHO: &str = "echo.corp.test:7000";
const GREETER: &str = "greeter.corp.test:7001";
const LISTEN: &str = "listen = \"unix:db.sock\"";

async fn deployment() -> Deployment {
    let greeter = Upstream::service(|mut stream, _| async move {
        let _ = stream.write_all(b"welcome").await;
    });
    Deployment::gateway(|it| it.route(ECHO, Upstream::Echo).route(GREETER, greeter)).await
}

async fn logged_in(deployment: &Deployment, tunnels: &str) -> Pomd {
    let pomd = Pomd::start(&(deployment.cluster("") + tunnels)).await;
    deployment.log_in(&pomd).await;
    pomd
}

fn socket(pomd: &Pomd) -> PathBuf {
    pomd.setup().runtime().join("db.sock")
}

async fn up(pomd: &Pomd) -> UnixStream {
    pomd.wait_for_tunnel("db", TunnelState::Up).await;
    let stream = UnixStream::connect(socket(pomd)).await;
    stream.unwrap_or_else(|error| panic!("{}: {error}", socket(pomd).display()))
}

async fn carries(stream: &mut UnixStream) {
    stream.write_all(b"there").await.unwrap();
    let mut back = [0; 5];
    stream.read_exact(&mut back).await.unwrap();
    assert_eq!(&back, b"there");
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_go_both_ways_and_an_end_is_an_end() {
    let deployment = deployment().await;
    let tunnels = tunnel("db", ECHO, LISTEN) + &tunnel("greeter", GREETER, "listen = \"unix:g\"");
    let pomd = logged_in(&deployment, &tunnels).await;
    let all = pattern(3_000_000);
    let (mut from, mut to) = up(&pomd).await.into_split();
    let saying = async {
        to.write_all(&all).await.unwrap();
        // Held back, as on a port: the rest of the echo would be lost.
        to.shutdown().await.unwrap();
    };
    let mut heard = vec![0; all.len()];
    let (read, ()) = tokio::join!(from.read_exact(&mut heard), saying);
    read.unwrap();
    assert!(heard == all, "the bytes differ");
    let greeter = UnixStream::connect(pomd.setup().runtime().join("g")).await;
    let (said, ending) = read_all(&mut greeter.unwrap()).await;
    assert_eq!((&said[..], ending), (&b"welcome"[..], Ending::Clean));
    // Bytes are counted once they are said.
    let status = pomd
        .wait_for("all bytes are counted", |it| {
            pomd::tunnel(it, "db").bytes.sent == 3_000_000
        })
        .await;
    let shown = pomd::tunnel(&status, "db");
    assert_eq!(shown.listen, [format!("unix:{}", socket(&pomd).display())]);
    let said = pomd.pomctl(&["status"]).await.stdout;
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(said.contains(" unix:db.sock "), "{said}");
    let greeted = pomd.words();
    assert!(
        greeted.contains(&format!("(pid {})", std::process::id())),
        "{greeted}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_are_told_in_ssh_s_words_or_by_an_end() {
    let deployment = deployment().await;
    let nowhere = "nowhere.corp.test:22";
    let tunnels = tunnel("db", nowhere, LISTEN)
        + &tunnel("plain", nowhere, "listen = \"unix:p\"\nssh = false");
    let pomd = logged_in(&deployment, &tunnels).await;
    let mut client = up(&pomd).await;
    client.write_all(b"SSH-2.0-x\r\n").await.unwrap();
    let (said, ending) = read_all(&mut client).await;
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(
        said.starts_with("SSH-2.0-pomd\r\n") && said.contains(nowhere),
        "{said}"
    );
    assert_eq!(ending, Ending::Clean);
    let mut client = UnixStream::connect(pomd.setup().runtime().join("p"))
        .await
        .unwrap();
    client.write_all(b"hello").await.unwrap();
    let (said, _) = read_all(&mut client).await;
    assert_eq!(said, b"");
    let shown = pomd.wait_for_tunnel("plain", TunnelState::Error).await;
    assert_eq!(shown.reason.unwrap().code, Code::NoSuchRoute);
}

#[tokio::test(flavor = "multi_thread")]
async fn a22_a_socket_is_its_owner_s_alone_whatever_its_mode_becomes() {
    let test = "a22_a_socket_is_its_owner_s_alone_whatever_its_mode_becomes";
    let helper = Path::new(env!("CARGO_BIN_EXE_other-user"));
    let deployment = deployment().await;
    let config = deployment.cluster("") + &tunnel("db", GREETER, LISTEN);
    let pomd = Pomd::start(&config).await;
    deployment.log_in(&pomd).await;
    drop(up(&pomd).await);
    let path = socket(&pomd);
    let mode = |it: &Path| fs::metadata(it).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
    let Some(other_user) = OtherUser::new(test, helper) else {
        return;
    };
    let try_it = async || {
        let path = path.display().to_string();
        other_user.does(&["unix", &path, "hello"]).await
    };
    assert_eq!(try_it().await.trim(), "not connected: no permission");
    let open = || {
        let folders = path.ancestors().skip(1).take(2);
        for (it, mode) in folders.map(|it| (it, 0o755)).chain([(&*path, 0o666)]) {
            fs::set_permissions(it, fs::Permissions::from_mode(mode)).unwrap();
        }
    };
    open();
    let before = deployment.gateway.stats().opened;
    for _ in 0..5 {
        let said = try_it().await;
        assert!(said.trim().ends_with("after 0 bytes"), "{said}");
    }
    let status = pomd.status().await;
    assert_eq!(pomd::tunnel(&status, "db").connections.turned_away, 5);
    assert_eq!(deployment.gateway.stats().opened, before);
    // That the stranger can be served at all shows that the refusals mean something.
    let allowed = format!("[settings]\nallow_users = [{UID}]\n{config}");
    pomd.reload(&allowed).await;
    open();
    assert_eq!(try_it().await.trim(), "ended after 7 bytes");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_listens_there_already_is_named_and_waited_for() {
    let deployment = deployment().await;
    let pomd = logged_in(&deployment, "").await;
    let holder = std::os::unix::net::UnixListener::bind(socket(&pomd)).unwrap();
    pomd.reload(&(deployment.cluster("") + &tunnel("db", ECHO, LISTEN)))
        .await;
    let busy = pomd.wait_for_tunnel("db", TunnelState::Busy).await;
    let reason = busy.reason.unwrap();
    assert_eq!(reason.code, Code::AddressInUse);
    assert_eq!(reason.holder.unwrap().pid, Some(std::process::id()));
    let output = pomd.pomctl(&["up", "db"]).await;
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let first = "socket db.sock is in use, so db can't listen yet";
    assert!(said.contains(first), "{said}");
    // Its file stays, and nobody is behind it: it is stale.
    drop(holder);
    carries(&mut up(&pomd).await).await;
    // What is no socket is nobody's to replace.
    pomd.client().down("db", false).await.unwrap();
    fs::write(socket(&pomd), "mine").unwrap();
    let refused = pomd.client().up("db").await.unwrap_err().to_string();
    assert!(refused.contains("which pomd does not replace"), "{refused}");
    assert_eq!(fs::read_to_string(socket(&pomd)).unwrap(), "mine");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_file_is_there_while_the_tunnel_listens_and_no_longer() {
    let deployment = deployment().await;
    let on = |listen: &str| deployment.cluster("") + &tunnel("db", ECHO, listen);
    let mut pomd = logged_in(&deployment, &tunnel("db", ECHO, LISTEN)).await;
    let mut inside = up(&pomd).await;
    carries(&mut inside).await;
    for _ in 0..5 {
        pomd.client().down("db", false).await.unwrap();
        assert!(!socket(&pomd).exists());
        pomd.client().up("db").await.unwrap();
        carries(&mut up(&pomd).await).await;
    }
    let port = free_port();
    pomd.reload(&on(&format!("listen = {port}"))).await;
    assert!(!socket(&pomd).exists());
    assert!(TcpStream::connect(("127.0.0.1", port)).await.is_ok());
    pomd.reload(&on(LISTEN)).await;
    assert!(TcpStream::connect(("127.0.0.1", port)).await.is_err());
    carries(&mut up(&pomd).await).await;
    carries(&mut inside).await;
    // A kill leaves it, and the next start does not mind.
    drop(inside);
    pomd.kill_and_restart().await;
    carries(&mut up(&pomd).await).await;
    assert!(pomd.stop().await.success());
    assert!(!socket(&pomd).exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn q3_sockets_whose_files_are_deleted_are_bound_again_and_no_connection_notices() {
    let deployment = deployment().await;
    let tunnels = tunnel("db", ECHO, LISTEN) + &tunnel("port", ECHO, "");
    // Half a second instead of thirty: a service manager that is less patient makes the tick shorter.
    let pomd = Setup::new(&(deployment.cluster("") + &tunnels))
        .env("NOTIFY_SOCKET", "/nobody/listens")
        .env("WATCHDOG_USEC", "1500000")
        .start()
        .await;
    deployment.log_in(&pomd).await;
    let mut on_file = up(&pomd).await;
    carries(&mut on_file).await;
    let mut on_port = pomd.connect("port").await;
    let (control, runtime) = (pomd.setup().socket(), pomd.setup().runtime());
    for what in ["the control socket", "the socket of a tunnel", "the folder"] {
        match what {
            "the control socket" => fs::remove_file(&control).unwrap(),
            "the socket of a tunnel" => fs::remove_file(socket(&pomd)).unwrap(),
            _ => fs::remove_dir_all(&runtime).unwrap(),
        }
        eventually("both sockets are there again", async || {
            (control.exists() && socket(&pomd).exists()).then_some(())
        })
        .await;
        let mode = |it: &Path| fs::metadata(it).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&runtime), 0o700, "{what}");
        let shown = eventually("pomd answers", async || pomd.client().status().await.ok()).await;
        assert_eq!(pomd::tunnel(&shown, "db").state, TunnelState::Up, "{what}");
        carries(&mut up(&pomd).await).await;
        carries(&mut on_file).await;
        on_port.write_all(b"x").await.unwrap();
        assert_eq!(on_port.read_u8().await.unwrap(), b'x', "{what}");
    }
    assert_eq!(
        pomd.words().matches("was gone; it is there again").count(),
        2
    );
}
