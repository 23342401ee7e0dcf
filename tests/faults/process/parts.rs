//! A process that is stopped, that has no memory left, or a part of which panics; and files of other releases.

use std::{fs, os::unix::fs::PermissionsExt, time::Duration};

use control::wire::{ClusterState, Code, TunnelState};
use gateway::{DEMO_USER, Script, Upstream};
use integration::{
    bystander::{Bystander, echoes},
    client::{Ending, read_all},
    deployment::{CLUSTER, Deployment},
    eventually,
    fault_injection::FaultPlan,
    pomd::{Pomd, Setup, cluster, find_tunnel, tunnel},
};
use rustix::process::{Pid, Resource, Rlimit, Signal, prlimit};
use tokio::{io::AsyncWriteExt, net::TcpStream};

use super::super::{ECHO, SSH, TUNNELS, carries};

async fn deployment() -> Deployment {
    Deployment::gateway(|it| it.route(SSH, Upstream::Echo).route(ECHO, Upstream::Echo)).await
}

/// Stops the process for so long. What waited meanwhile goes on, and nothing is made up for at once.
async fn stopped_for(time: Duration) {
    let deployment = deployment().await;
    let mut pomd = deployment.logged_in(&TUNNELS).await;
    let mut bystander = Bystander::new(&pomd, "echo").await;
    let mut open = pomd.connect("ssh").await;
    echoes(&mut open, b"before").await;
    let address = pomd.address("ssh").await;
    let before = deployment.gateway.stats();
    pomd.process().stand_still().await;
    let mut meanwhile = TcpStream::connect(address).await.unwrap();
    meanwhile.write_all(b"said meanwhile").await.unwrap();
    open.write_all(b"said too").await.unwrap();
    // Not a wait for a state: what is tried is that time passes.
    tokio::time::sleep(time).await;
    pomd.process().signal(Signal::CONT);
    for (stream, expected) in [(&mut meanwhile, "said meanwhile"), (&mut open, "said too")] {
        let mut heard = vec![0; expected.len()];
        let read = tokio::io::AsyncReadExt::read_exact(stream, &mut heard);
        tokio::time::timeout(integration::PATIENCE, read)
            .await
            .unwrap()
            .unwrap();
        assert_eq!(heard, expected.as_bytes());
    }
    bystander.carries().await;
    let after = deployment.gateway.stats();
    assert!(after.connections - before.connections <= 6, "{after:#?}");
    assert_eq!(after.sign_ins, 1);
    assert!(deployment.links.all().is_empty());
    for stream in [meanwhile, open] {
        stream.set_zero_linger().unwrap();
    }
    bystander.all_is_well(&pomd, &["ssh", "echo"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn x5_k3_a_process_that_is_stopped_goes_on_where_it_was_without_a_burst() {
    stopped_for(Duration::from_secs(5)).await;
}

#[ignore = "more than a minute"]
#[tokio::test(flavor = "multi_thread")]
async fn x5_k3_a_process_that_is_stopped_for_a_minute_goes_on_where_it_was() {
    stopped_for(Duration::from_secs(65)).await;
}

/// Lines at the level `error` that pomd has written.
fn errors(pomd: &Pomd) -> Vec<String> {
    let words = pomd.words();
    let lines = words.lines().filter(|it| it.contains(" ERROR "));
    lines.map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn x6_a_panic_of_a_connection_ends_that_one_and_no_other() {
    let deployment = deployment().await;
    let (faults, setup) = FaultPlan::new(Setup::new(&deployment.config(&TUNNELS)));
    let pomd = setup.start().await;
    deployment.log_in(&pomd).await;
    let mut bystander = Bystander::new(&pomd, "echo").await;
    for n in 1..=3 {
        faults.plan(&["connection 1 panic"]);
        let mut struck = pomd.connect("ssh").await;
        let _ = struck.write_all(b"anybody?").await;
        let (got, ending) = read_all(&mut struck).await;
        assert!(got.is_empty() && ending != Ending::Cut);
        bystander.carries().await;
        let told = errors(&pomd);
        let one = "a connection ended by a fault inside pomd; the others go on";
        assert_eq!(told.len(), n, "{told:#?}");
        assert!(told.iter().all(|it| it.contains(one)), "{told:#?}");
        let counts = tunnel(&pomd.status().await, "ssh").connections;
        assert_eq!((counts.open, counts.waiting), (0, 0));
    }
    faults.plan(&[]);
    bystander.all_is_well(&pomd, &["ssh", "echo"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn x6_a_panic_of_a_tunnel_is_told_and_it_listens_again_on_its_port() {
    let deployment = deployment().await;
    let (faults, setup) = FaultPlan::new(Setup::new(
        &deployment.config(&[("panicking", SSH), ("echo", ECHO)]),
    ));
    let pomd = setup.start().await;
    deployment.log_in(&pomd).await;
    let mut bystander = Bystander::new(&pomd, "echo").await;
    let mut open = pomd.connect("panicking").await;
    echoes(&mut open, b"before").await;
    let address = pomd.address("panicking").await;
    faults.plan(&["accept 1 panic"]);
    let told = pomd.wait_for_tunnel("panicking", TunnelState::Busy);
    let (told, ()) = tokio::join!(told, carries(&pomd, "panicking"));
    assert_eq!(told.reason.unwrap().code, Code::Internal);
    echoes(&mut open, b"its connections live").await;
    bystander.carries().await;
    pomd.wait_for_tunnel("panicking", TunnelState::Up).await;
    assert_eq!(pomd.address("panicking").await, address);
    let told = errors(&pomd);
    assert_eq!(told.len(), 1, "{told:#?}");
    open.set_zero_linger().unwrap();
    drop(open);
    bystander.all_is_well(&pomd, &["panicking", "echo"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn x6_a_panic_of_a_session_costs_neither_the_token_nor_a_login() {
    let deployment = deployment().await;
    let (faults, setup) = FaultPlan::new(Setup::new(&deployment.config(&TUNNELS)));
    let pomd = setup.start().await;
    deployment.log_in(&pomd).await;
    let mut bystander = Bystander::new(&pomd, "echo").await;
    faults.plan(&["session 1 panic"]);
    // It breaks over a refusal, which therefore ends no token.
    deployment.gateway.script(SSH, Script::refuse(401).times(1));
    let mut refused = pomd.connect("ssh").await;
    let _ = refused.write_all(b"SSH-2.0-test\r\n").await;
    read_all(&mut refused).await;
    bystander.carries().await;
    carries(&pomd, "ssh").await;
    let status = pomd.status().await;
    assert_eq!(cluster(&status, CLUSTER).state, ClusterState::LoggedIn);
    let told = errors(&pomd);
    assert_eq!(told.len(), 1, "{told:#?}");
    assert_eq!(deployment.gateway.stats().sign_ins, 1);
    assert!(deployment.links.all().is_empty());
    // It is there again, and does what it is told.
    eventually("the session is there again", async || {
        pomd.client().logout(CLUSTER).await.ok()
    })
    .await;
    deployment.log_in(&pomd).await;
    bystander.all_is_well(&pomd, &["ssh", "echo"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn x6_a_panic_of_a_request_closes_its_connection_and_the_next_one_is_answered() {
    let deployment = deployment().await;
    let (faults, setup) = FaultPlan::new(Setup::new(&deployment.config(&TUNNELS)));
    let pomd = setup.start().await;
    deployment.log_in(&pomd).await;
    let mut bystander = Bystander::new(&pomd, "echo").await;
    for n in 1..=3 {
        faults.plan(&["request 1 panic"]);
        let failed = pomd.client().reload().await;
        assert!(failed.is_err(), "{failed:?}");
        pomd.client().reload().await.unwrap();
        bystander.carries().await;
        let told = errors(&pomd);
        assert_eq!(told.len(), n, "{told:#?}");
    }
    faults.plan(&[]);
    bystander.all_is_well(&pomd, &["ssh", "echo"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn x7_a23_files_of_an_older_and_a_newer_release_are_read_or_set_aside_and_that_is_said() {
    let deployment = deployment().await;
    let token = deployment.gateway.token(DEMO_USER);
    let record = |version: u32, more: &str| {
        format!(
            "{{\"version\":{version},\"address\":\"https://corp.test\",\"token\":\"{token}\",\"user\":\"{DEMO_USER}\",\
             \"subject\":null,\"since\":\"2026-01-02T03:04:05Z\",\"until\":null{more}}}"
        )
    };
    let ports = |version: u32, port: u16, more: &str| {
        format!("{{\"version\":{version},\"ports\":{{\"echo\":{port},\"gone\":20999}}{more}}}")
    };
    let port = integration::pomd::free_port();
    // As the first release wrote it; as one may write it that knows more; as one that means something else.
    for (token_file, ports_file, known) in [
        (record(1, ""), ports(1, port, ""), true),
        (
            record(1, ",\"colour\":\"red\",\"more\":[1,{}]"),
            ports(1, port, ",\"leases\":{}"),
            true,
        ),
        (record(2, ""), ports(2, port, ""), false),
    ] {
        let setup = Setup::new(&deployment.config(&TUNNELS));
        let tokens = setup.state_dir().join("tokens");
        fs::create_dir_all(&tokens).unwrap();
        fs::write(tokens.join("corp.test.json"), &token_file).unwrap();
        fs::write(setup.state_dir().join("ports.json"), &ports_file).unwrap();
        fs::write(setup.state_dir().join("future.db"), "of a newer pomd").unwrap();
        // Each release closes it.
        fs::set_permissions(setup.state_dir(), fs::Permissions::from_mode(0o700)).unwrap();
        let pomd = setup.start().await;
        let status = pomd.status().await;
        let words = pomd.words();
        let state = cluster(&status, CLUSTER).state;
        let listen = &find_tunnel(&status, "echo").unwrap().listen[0];
        let is_kept = *listen == format!("127.0.0.1:{port}");
        if known {
            assert_eq!((state, is_kept), (ClusterState::LoggedIn, true), "{words}");
            carries(&pomd, "echo").await;
        } else {
            assert_eq!((state, is_kept), (ClusterState::LoginNeeded, false));
            for (file, before, said) in [
                ("tokens/corp.test.json", &token_file, "it is of version 2"),
                ("ports.json", &ports_file, "it is of version 2"),
            ] {
                let aside = pomd.setup().state_dir().join(format!("{file}.broken"));
                assert_eq!(&fs::read_to_string(aside).unwrap(), before, "{file}");
                assert!(words.contains(said), "{words}");
            }
            deployment.log_in(&pomd).await;
            carries(&pomd, "echo").await;
        }
        let other = pomd.setup().state_dir().join("future.db");
        assert_eq!(fs::read_to_string(other).unwrap(), "of a newer pomd");
    }
}

/// A limit of a running process.
fn limit_memory(pomd: &Pomd, bytes: Option<u64>) -> rustix::io::Result<()> {
    let pid = Pid::from_raw(pomd.pid().cast_signed());
    let limit = Rlimit {
        current: bytes,
        maximum: None,
    };
    prlimit(pid, Resource::As, limit).map(|_| ())
}

/// How much address space it has.
fn address_space(pomd: &Pomd) -> u64 {
    let text = fs::read_to_string(format!("/proc/{}/status", pomd.pid())).unwrap();
    let line = text.lines().find_map(|it| it.strip_prefix("VmSize:"));
    let kib = line.unwrap().split_whitespace().next().unwrap();
    kib.parse::<u64>().unwrap() << 10
}

#[tokio::test(flavor = "multi_thread")]
async fn x8_without_memory_it_ends_or_goes_on_and_the_next_life_has_all_that_was_saved() {
    const STALLED: &str = "stalled.corp.test:7001";
    let deployment = Deployment::gateway(|it| {
        let flood = Upstream::service(|mut stream, _| async move {
            let piece = vec![b'x'; 64 << 10];
            while stream.write_all(&piece).await.is_ok() {}
        });
        it.route(SSH, Upstream::Echo)
            .route(ECHO, Upstream::Echo)
            .route(STALLED, flood)
    })
    .await;
    let tunnels: Vec<_> = TUNNELS.into_iter().chain([("stalled", STALLED)]).collect();
    let mut pomd = deployment.logged_in(&tunnels).await;
    let addresses = [pomd.address("ssh").await, pomd.address("echo").await];
    let stalled = pomd.address("stalled").await;
    limit_memory(&pomd, Some(address_space(&pomd) + (4 << 20))).unwrap();
    // Clients that never read what comes make pomd read ahead.
    let mut open = Vec::new();
    for _ in 0..60 {
        if pomd.process().ended().is_some() {
            break;
        }
        if let Ok(mut stream) = TcpStream::connect(stalled).await {
            let _ = stream.write_all(b"go").await;
            open.push(stream);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    drop(open);
    // It may have ended in this moment.
    let _ = limit_memory(&pomd, None);
    if pomd.client().status().await.is_ok() {
        carries(&pomd, "echo").await;
        assert!(pomd.stop().await.success());
    } else {
        let ended = pomd.process().wait().await;
        assert!(
            !ended.success(),
            "{ended}: no service manager starts it again"
        );
    }
    pomd.start_again().await;
    for (name, address) in [("ssh", addresses[0]), ("echo", addresses[1])] {
        assert_eq!(pomd.address(name).await, address);
        carries(&pomd, name).await;
    }
    assert_eq!(deployment.gateway.stats().sign_ins, 1);
}
