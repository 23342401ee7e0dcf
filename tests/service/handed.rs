//! Sockets that a service manager bound and handed over, by a small launcher and by a real systemd.

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    sync::{Arc, Mutex},
};

use control::wire::TunnelState;
use gateway::Upstream;
use integration::{
    binary::{binary, root},
    deployment::{Deployment, tunnel},
    other_user::OtherUser,
    pomd::{Pomd, Setup, free_port},
    skipped,
    systemd::Systemd,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpStream, UnixStream},
};

const ROUTE: &str = "echo.corp.test:7000";

/// Makes the sockets of its first argument and becomes the program of its third one, as systemd would.
const LAUNCHER: &str = r#"
import fcntl, os, socket, sys
kinds, names, argv = sys.argv[1].split(','), sys.argv[2], sys.argv[3:]
def make(kind):
    what, _, where = kind.partition('=')
    if what == 'closed':
        return None
    if what == 'file':
        return open('/dev/null')
    if what == 'unix':
        if os.path.exists(where):
            os.remove(where)
        made = socket.socket(socket.AF_UNIX)
        made.bind(where)
        made.listen()
        return made
    host, port = where.rsplit(':', 1)
    family = socket.AF_INET6 if ':' in host else socket.AF_INET
    made = socket.socket(family, socket.SOCK_DGRAM if what == 'udp' else socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    made.bind((host, int(port)))
    if what == 'tcp':
        made.listen()
    return made
made = [make(it) for it in kinds]
# Out of the way of the numbers that they are to have.
aside = [it and fcntl.fcntl(it.fileno(), fcntl.F_DUPFD_CLOEXEC, 100) for it in made]
for number, it in enumerate(aside, 3):
    if it is not None:
        os.dup2(it, number)
    else:
        try:
            os.close(number)
        except OSError:
            pass
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(kinds)), LISTEN_FDNAMES=names)
os.execv(argv[0], argv)
"#;

/// A pomd that is handed these sockets, each `KIND=WHERE` and its name.
async fn handed(setup: Setup, sockets: &[(String, &str)]) -> Pomd {
    let launcher = setup.folder().join("launcher.py");
    fs::write(&launcher, LAUNCHER).unwrap();
    let kinds: Vec<&str> = sockets.iter().map(|it| it.0.as_str()).collect();
    let names: Vec<&str> = sockets.iter().map(|it| it.1).collect();
    let script = format!(
        "#!/bin/sh\nexec python3 '{}' '{}' '{}' '{}' \"$@\"\n",
        launcher.display(),
        kinds.join(","),
        names.join(":"),
        binary("pomd").display()
    );
    let program = setup.folder().join("launch");
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    setup.program(program).start().await
}

async fn carries(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    stream.write_all(b"there").await.unwrap();
    let mut back = [0; 5];
    stream.read_exact(&mut back).await.unwrap();
    assert_eq!(&back, b"there");
}

async fn at(address: &str) {
    match address.strip_prefix("unix:") {
        Some(path) => carries(UnixStream::connect(path).await.unwrap()).await,
        None => carries(TcpStream::connect(address).await.unwrap()).await,
    }
}

async fn deployment() -> Deployment {
    Deployment::gateway(|it| it.route(ROUTE, Upstream::Echo)).await
}

/// Every address of these tunnels, as it is expected, carries bytes.
async fn all_carry(pomd: &Pomd, expected: &[(&str, Vec<String>)]) {
    for (name, addresses) in expected {
        let shown = pomd.wait_for_tunnel(name, TunnelState::Up).await;
        assert_eq!(shown.listen, *addresses, "{name}");
        for address in addresses {
            at(address).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_handed_over_is_used_and_kept_whatever_becomes_of_the_tunnels() {
    let deployment = deployment().await;
    let [both, half, named] = [(); 3].map(|()| free_port());
    let listening = |file: &str| {
        deployment.cluster("")
            + &tunnel("both", ROUTE, &format!("listen = {both}"))
            + &tunnel("half", ROUTE, &format!("listen = {half}"))
            + &tunnel("file", ROUTE, file)
            + &tunnel("named", ROUTE, "")
    };
    let config = listening("listen = \"unix:db.sock\"");
    let setup = Setup::new(&config);
    let file = setup.runtime().join("db.sock");
    let sockets = [
        (format!("tcp=127.0.0.1:{both}"), "pomd.socket"),
        (format!("tcp=::1:{both}"), "pomd.socket"),
        (format!("tcp=127.0.0.1:{half}"), "pomd.socket"),
        (format!("unix={}", file.display()), "pomd.socket"),
        (format!("tcp=127.0.0.1:{named}"), "named"),
    ];
    let pomd = handed(setup, &sockets).await;
    deployment.log_in(&pomd).await;
    let on = |port: u16| vec![format!("127.0.0.1:{port}"), format!("[::1]:{port}")];
    let expected = [
        ("both", on(both)),
        // The other address was pomd's to bind.
        ("half", on(half)),
        ("file", vec![format!("unix:{}", file.display())]),
        ("named", vec![format!("127.0.0.1:{named}")]),
    ];
    all_carry(&pomd, &expected).await;
    assert_eq!(pomd.status().await.pomd.warnings, Vec::<String>::new());
    for (name, _) in &expected {
        pomd.client().down(name, false).await.unwrap();
        pomd.client().up(name).await.unwrap();
    }
    all_carry(&pomd, &expected).await;
    // A reload takes its tunnel away from a socket, and gives it back.
    pomd.reload(&listening("start = \"manual\"")).await;
    let warnings = pomd.status().await.pomd.warnings;
    let waits = format!(
        "unix:{} was handed over to pomd by pomd.socket, and no tunnel listens exactly there",
        file.display()
    );
    assert_eq!(warnings, [waits]);
    pomd.reload(&config).await;
    all_carry(&pomd, &expected).await;
    let pid = pomd.pid();
    let output = pomd.pomctl(&["restart"]).await;
    assert!(output.status.success(), "{output:?}");
    all_carry(&pomd, &expected).await;
    assert_eq!(pomd.status().await.pomd.pid, pid);
    assert!(file.exists(), "it is not pomd's to remove");
}

#[tokio::test(flavor = "multi_thread")]
async fn a1_what_strangers_left_in_the_queue_of_a_tunnel_that_was_down_goes_nowhere() {
    let test = "a1_what_strangers_left_in_the_queue_of_a_tunnel_that_was_down_goes_nowhere";
    let Some(other_user) = OtherUser::new(test, &binary("other-user")) else {
        return;
    };
    let heard = Arc::new(Mutex::new(String::new()));
    let hearing = heard.clone();
    let service = Upstream::service(move |mut stream, _| {
        let hearing = hearing.clone();
        async move {
            let mut room = [0; 4096];
            while let Ok(n @ 1..) = stream.read(&mut room).await {
                let text = String::from_utf8_lossy(&room[..n]).into_owned();
                hearing.lock().unwrap().push_str(&text);
                let _ = stream.write_all(&room[..n]).await;
            }
        }
    });
    let deployment = Deployment::gateway(|it| it.route(ROUTE, service)).await;
    let port = free_port();
    let config = deployment.cluster("")
        + &tunnel(
            "later",
            ROUTE,
            &format!("listen = {port}\nstart = \"manual\""),
        );
    let sockets = [(format!("tcp=127.0.0.1:{port}"), "pomd.socket")];
    let pomd = handed(Setup::new(&config), &sockets).await;
    deployment.log_in(&pomd).await;
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let mut ours = Vec::new();
    for _ in 0..10 {
        ours.push(other_user.leaves(address, "the stranger's ").await);
    }
    pomd.client().up("later").await.unwrap();
    let times = ours.len();
    for stream in ours {
        carries(stream).await;
    }
    let heard = heard.lock().unwrap();
    let ours = *heard == "there".repeat(times);
    assert!(ours, "{} bytes, from {:?}", heard.len(), heard.get(..40));
}

#[tokio::test(flavor = "multi_thread")]
async fn e7_what_cannot_be_used_is_named_and_the_rest_works() {
    let deployment = deployment().await;
    let [good, unused, other] = [(); 3].map(|()| free_port());
    let good_one = tunnel("good", ROUTE, &format!("listen = \"127.0.0.1:{good}\""));
    let config = deployment.cluster("") + &good_one + &tunnel("other", ROUTE, "");
    let sockets = [
        (format!("udp=127.0.0.1:{other}"), "a"),
        ("closed".to_owned(), "b"),
        (format!("quiet=127.0.0.1:{other}"), "c"),
        ("file".to_owned(), "d"),
        (format!("tcp=127.0.0.1:{good}"), "e"),
        (format!("tcp=127.0.0.1:{unused}"), "f"),
        ("closed".to_owned(), "g"),
    ];
    let pomd = handed(Setup::new(&config), &sockets).await;
    deployment.log_in(&pomd).await;
    let warnings = pomd.status().await.pomd.warnings;
    let expected = [
        "descriptor 3 was handed over to pomd (a), and it is a datagram socket: a tunnel needs ListenStream=".to_owned(),
        "descriptor 4 was handed over to pomd (b), and it is closed, or no socket of streams: a tunnel needs ListenStream=".to_owned(),
        "descriptor 5 was handed over to pomd (c), and it is a socket that does not listen: Accept=yes is not for pomd".to_owned(),
        "descriptor 6 was handed over to pomd (d), and it is closed, or no socket of streams: a tunnel needs ListenStream=".to_owned(),
        "descriptor 9 was handed over to pomd (g), and it is closed, or no socket of streams: a tunnel needs ListenStream=".to_owned(),
        format!("127.0.0.1:{unused} was handed over to pomd by f, and no tunnel listens exactly there"),
    ];
    assert_eq!(warnings, expected);
    at(&format!("127.0.0.1:{good}")).await;
    carries(pomd.connect("other").await).await;
    // The one that fitted no tunnel is kept for one that comes.
    let later = config + &tunnel("later", ROUTE, &format!("listen = \"127.0.0.1:{unused}\""));
    pomd.reload(&later).await;
    assert_eq!(pomd.status().await.pomd.warnings, expected[..5]);
    at(&format!("127.0.0.1:{unused}")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn e7_a_number_of_sockets_that_is_none_is_told() {
    let setup = Setup::new("");
    let program = setup.folder().join("launch");
    let script = format!(
        "#!/bin/sh\nLISTEN_PID=$$ LISTEN_FDS=many exec '{}' \"$@\"\n",
        binary("pomd").display()
    );
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let pomd = setup.program(program).start().await;
    let warnings = pomd.status().await.pomd.warnings;
    assert!(
        warnings[0].contains("says that `many` sockets"),
        "{warnings:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn systemd_starts_pomd_with_the_first_connection_to_a_port_that_it_keeps() {
    let test = "systemd_starts_pomd_with_the_first_connection_to_a_port_that_it_keeps";
    let port = free_port();
    let config = format!(
        "[tunnel.ssh]\nroute = \"ssh.corp.test:22\"\nlisten = {port}\n\
         [tunnel.reports]\nroute = \"reports.corp.test:22\"\nlisten = \"unix:reports.sock\"\n\
         [cluster.corp]\nhosts = [\"*.corp.test\"]\nurl = \"https://corp.test\"\nbrowser = \"none\"\n"
    );
    let systemd = match Systemd::start(&config).await {
        Ok(systemd) => systemd,
        Err(why) => return skipped(test, &why),
    };
    let shipped = fs::read_to_string(root().join("systemd/pomd.socket")).unwrap();
    let unit = shipped
        .replace("127.0.0.1:2202", &format!("127.0.0.1:{port}"))
        .replace("[::1]:2202", &format!("[::1]:{port}"))
        .replace("# ListenStream=%t", "ListenStream=%t");
    systemd.unit("pomd.socket", &unit).await;
    systemd.systemctl(&["start", "pomd.socket"]).await;
    assert_eq!(systemd.property("ActiveState").await, "inactive");
    let over = |way: &str| format!("exec 3<>/dev/tcp/{way}/{port}; echo SSH-2.0-test >&3; cat <&3");
    for round in ["first", "after a stop"] {
        for way in ["127.0.0.1", "::1"] {
            let output = systemd.user(&["bash", "-c", &over(way)]).await;
            let told = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(
                told.contains("corp needs a login"),
                "{round}, {way}: {output:?}"
            );
        }
        let ask = "import os,socket; s=socket.socket(socket.AF_UNIX); \
                   s.connect(os.environ['XDG_RUNTIME_DIR']+'/pomd/reports.sock'); s.send(b'SSH-2.0-test\\r\\n'); \
                   print(s.recv(1000)+s.recv(1000))";
        let output = systemd.user(&["python3", "-c", ask]).await;
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(told.contains("corp needs a login"), "{round}: {output:?}");
        let output = systemd.user(&["pomctl", "status", "--json"]).await;
        let status: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(status["pomd"]["warnings"], serde_json::json!([]), "{round}");
        // systemd keeps the sockets.
        systemd.systemctl(&["stop", "pomd"]).await;
        systemd.wait_for("ActiveState", "inactive").await;
    }
}
