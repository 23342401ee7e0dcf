//! Listeners, and descriptors that run out.

use std::{fs, time::Duration};

use control::wire::{Code, TunnelState};
use gateway::Upstream;
use integration::{
    corp::Corp,
    eventually,
    person::write_script,
    pomd::{Setup, tunnel},
    process::cpu_ticks,
    trial::Trial,
    witness::{Witness, at_rest, echoes, usage},
};
use rustix::process::{Resource, getrlimit};
use tokio::{io::AsyncWriteExt, net::TcpStream, time::Instant};

use super::{ECHO, SSH, TUNNELS, carries};

async fn corp() -> Corp {
    Corp::gateway(|it| it.route(SSH, Upstream::Echo).route(ECHO, Upstream::Echo)).await
}

/// F10: at most 2 % of a core, and accepting again within 200 ms; as much again many times over is for a busy machine.
#[tokio::test(flavor = "multi_thread")]
async fn e1_f10_at_the_limit_of_descriptors_it_waits_cheaply_answers_and_goes_on_when_there_are_some()
 {
    const LIMIT: u64 = 64;
    const MEASURED: Duration = Duration::from_secs(3);
    let corp = corp().await;
    let setup = Setup::new(&corp.config(&TUNNELS)).before(&format!("ulimit -n {LIMIT}"));
    let pomd = setup.start().await;
    corp.log_in(&pomd).await;
    let mut witness = Witness::new(&pomd, "echo").await;
    let address = pomd.address("ssh").await;
    // As many as fit are carried.
    let mut open = Vec::new();
    let room = LIMIT - at_rest(&pomd).await.descriptors.unwrap();
    for _ in 0..room / 2 - 2 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        echoes(&mut stream, b"open").await;
        open.push(stream);
    }
    let mut more = Vec::new();
    for _ in open.len()..200 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        // Some hear at once that there is no room for them.
        let _ = stream.write_all(b"more").await;
        more.push(stream);
    }
    let told = pomd
        .wait_for("the limit is told", |it| {
            let reason = tunnel(it, "ssh").reason.as_ref();
            reason.is_some_and(|it| {
                let words = it.message.to_lowercase();
                words.contains(&format!("{LIMIT} descriptors")) || words.contains("open files")
            })
        })
        .await;
    assert_eq!(tunnel(&told, "ssh").state, TunnelState::Error);
    let before = cpu_ticks(pomd.pid());
    // Not a wait for a state: what is measured is that time passes cheaply.
    tokio::time::sleep(MEASURED).await;
    let spent = cpu_ticks(pomd.pid()) - before;
    // Two for each second, as a tick is a hundredth.
    assert!(spent <= 2 * MEASURED.as_secs(), "{spent} ticks");
    for stream in &mut open {
        echoes(stream, b"still open").await;
    }
    witness.carries().await;
    assert_eq!(pomd.status().await.pomd.pid, pomd.pid());
    for stream in open.drain(..).chain(more) {
        stream.set_zero_linger().unwrap();
    }
    let freed = Instant::now();
    carries(&pomd, "ssh").await;
    assert!(
        freed.elapsed() < Duration::from_secs(2),
        "{:?}",
        freed.elapsed()
    );
    witness.all_is_well(&pomd, &["ssh", "echo"]).await;
    pomd.wait_for_tunnel("ssh", TunnelState::Up).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn e2_the_soft_limit_is_raised_and_children_get_the_old_one_back() {
    const SOFT: u64 = 1024;
    let hard = getrlimit(Resource::Nofile).maximum;
    if hard.is_some_and(|it| it <= SOFT) {
        let test = "e2_the_soft_limit_is_raised_and_children_get_the_old_one_back";
        return integration::skipped(test, "the hard limit is too low");
    }
    let corp = corp().await;
    let setup = Setup::new("").before(&format!("ulimit -Sn {SOFT}"));
    let (script, file) = (setup.folder().join("asks"), setup.folder().join("limit"));
    write_script(
        &script,
        "sleep 0.3; ulimit -Sn > \"$1.new\" && mv \"$1.new\" \"$1\"",
    );
    let browser = format!("browser = [{script:?}, {file:?}]");
    let config = corp.config(&TUNNELS);
    let config = config.replace(&format!("browser = {}", corp.links.key()), &browser);
    assert!(config.contains(&browser), "{config}");
    fs::write(setup.config_file(), config).unwrap();
    let pomd = setup.start().await;
    assert_eq!(usage(&pomd).await.descriptors_most, hard);
    let mut waiting = pomd.connect("echo").await;
    waiting.write_all(b"x").await.unwrap();
    let said = eventually("the child says its limit", async || {
        fs::read_to_string(&file).ok()
    })
    .await;
    assert_eq!(said.trim(), SOFT.to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn e3_accepts_that_fail_are_tried_again_and_a_broken_listener_is_bound_anew() {
    // ECONNABORTED, EPERM, ENETDOWN, EPROTO: nothing. ENOBUFS, EMFILE: told while it lasts. EBADF, EINVAL: bound anew.
    let corp = corp().await;
    let (trial, setup) = Trial::new(Setup::new(
        &corp.config(&[("failing", SSH), ("echo", ECHO)]),
    ));
    let pomd = setup.start().await;
    corp.log_in(&pomd).await;
    for error in [103, 1, 100, 71] {
        let witness = Witness::new(&pomd, "echo").await;
        trial.plan(&[&format!("accept 1-40 error {error}")]);
        for _ in 0..3 {
            carries(&pomd, "failing").await;
        }
        let status = pomd.status().await;
        assert_eq!(tunnel(&status, "failing").state, TunnelState::Up, "{error}");
        trial.plan(&[]);
        witness.all_is_well(&pomd, &["failing", "echo"]).await;
    }
    for error in [105, 24] {
        let witness = Witness::new(&pomd, "echo").await;
        let address = pomd.address("failing").await;
        trial.plan(&[&format!("accept 1-20 error {error}")]);
        let told = pomd.wait_for("it is told", |it| {
            let reason = tunnel(it, "failing").reason.as_ref();
            reason.is_some_and(|it| it.code == Code::Local)
        });
        // One that opens would show that all is well.
        let gone = async {
            let stream = TcpStream::connect(address).await.unwrap();
            stream.set_zero_linger().unwrap();
        };
        tokio::join!(told, gone);
        pomd.wait_for_tunnel("failing", TunnelState::Up).await;
        trial.plan(&[]);
        witness.all_is_well(&pomd, &["failing", "echo"]).await;
    }
    for error in [9, 22] {
        let witness = Witness::new(&pomd, "echo").await;
        let address = pomd.address("failing").await;
        trial.plan(&[&format!("accept 1 error {error}")]);
        let told = pomd.wait_for_tunnel("failing", TunnelState::Busy);
        let (told, ()) = tokio::join!(told, carries(&pomd, "failing"));
        let reason = told.reason.unwrap();
        assert_eq!(reason.code, Code::Local, "{reason:?}");
        pomd.wait_for_tunnel("failing", TunnelState::Up).await;
        assert_eq!(pomd.address("failing").await, address);
        witness.all_is_well(&pomd, &["failing", "echo"]).await;
        trial.plan(&[]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn e5_clients_that_leave_at_once_leave_nothing_behind_and_reach_no_service() {
    const CLIENTS: u64 = 6_000;
    let corp = corp().await;
    let pomd = corp.logged_in(&TUNNELS).await;
    let mut witness = Witness::new(&pomd, "echo").await;
    let address = pomd.address("ssh").await;
    let before = corp.gateway.stats().connects;
    for n in 0..CLIENTS {
        let mut stream = TcpStream::connect(address).await.unwrap();
        match n % 60 {
            // It said something: it may well be meant.
            0 => drop(stream.write_all(b"and gone").await),
            it if it % 2 == 0 => {}
            _ => stream.set_zero_linger().unwrap(),
        }
        drop(stream);
        if n % 500 == 0 {
            witness.carries().await;
        }
    }
    pomd.wait_for("all are gone", |it| {
        let counts = tunnel(it, "ssh").connections;
        // Whoever had gone before he was looked at was turned away.
        let seen = counts.total + counts.turned_away;
        counts.open + counts.waiting == 0 && seen >= CLIENTS / 2
    })
    .await;
    // On a busy machine some are gone only after they were waited for.
    let reached = corp.gateway.stats().connects - before;
    assert!(reached <= CLIENTS / 20, "{reached} reached a service");
    witness.all_is_well(&pomd, &["ssh", "echo"]).await;
}
