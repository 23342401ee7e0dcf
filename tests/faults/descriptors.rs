//! Listeners, and descriptors that run out.

use std::{fs, net::SocketAddr, time::Duration};

use control::wire::{Code, TunnelState};
use gateway::Upstream;
use integration::{
    bystander::{Bystander, at_rest, echoes, usage},
    deployment::Deployment,
    eventually,
    fault_injection::FaultPlan,
    person::write_script,
    pomd::{Pomd, Setup, tunnel},
    process::cpu_ticks,
};
use rustix::process::{Resource, getrlimit};
use tokio::{io::AsyncWriteExt, net::TcpStream, time::Instant};

use super::{ECHO, SSH, TUNNELS, carries};

async fn deployment() -> Deployment {
    Deployment::gateway(|it| it.route(SSH, Upstream::Echo).route(ECHO, Upstream::Echo)).await
}

/// Clients of a tunnel, of whom as many are carried as there are descriptors for; for the others there are none.
struct Crowd {
    carried: Vec<TcpStream>,
    waiting: Vec<TcpStream>,
}

impl Crowd {
    const SIZE: usize = 200;

    /// Returns once pomd says that it is at its limit.
    async fn gather(pomd: &Pomd, address: SocketAddr, limit: u64) -> Self {
        let room = limit - at_rest(pomd).await.descriptors.unwrap();
        let mut carried = Vec::new();
        for _ in 0..room / 2 - 2 {
            let mut stream = TcpStream::connect(address).await.unwrap();
            echoes(&mut stream, b"carried").await;
            carried.push(stream);
        }
        let mut waiting = Vec::new();
        for _ in carried.len()..Self::SIZE {
            let mut stream = TcpStream::connect(address).await.unwrap();
            // Some hear at once that there is no room for them.
            let _ = stream.write_all(b"waiting").await;
            waiting.push(stream);
        }
        let told = pomd.wait_for("the limit is told", |it| {
            let reason = tunnel(it, "ssh").reason.as_ref();
            reason.is_some_and(|it| {
                let words = it.message.to_lowercase();
                words.contains(&format!("{limit} descriptors")) || words.contains("open files")
            })
        });
        assert_eq!(tunnel(&told.await, "ssh").state, TunnelState::Error);
        Self { carried, waiting }
    }

    fn leaves(self) {
        for stream in self.carried.into_iter().chain(self.waiting) {
            stream.set_zero_linger().unwrap();
        }
    }
}

/// F10: at most 2 % of a core, and accepting again within 200 ms.
#[tokio::test(flavor = "multi_thread")]
async fn e1_f10_at_the_limit_of_descriptors_it_waits_cheaply_answers_and_goes_on_when_there_are_some()
 {
    const LIMIT: u64 = 64;
    const MEASURED: Duration = Duration::from_secs(3);
    const SOON: Duration = Duration::from_millis(200);
    // A busy machine is late by itself, but not each time.
    const TRIES: usize = 8;
    let deployment = deployment().await;
    let setup = Setup::new(&deployment.config(&TUNNELS)).before(&format!("ulimit -n {LIMIT}"));
    let pomd = setup.start().await;
    deployment.log_in(&pomd).await;
    let mut bystander = Bystander::new(&pomd, "echo").await;
    let address = pomd.address("ssh").await;
    let mut crowd = Crowd::gather(&pomd, address, LIMIT).await;
    let before = cpu_ticks(pomd.pid());
    // Not a wait for a state: what is measured is that time passes cheaply.
    tokio::time::sleep(MEASURED).await;
    let spent = cpu_ticks(pomd.pid()) - before;
    // Two for each second, as a tick is a hundredth.
    assert!(spent <= 2 * MEASURED.as_secs(), "{spent} ticks");
    for stream in &mut crowd.carried {
        echoes(stream, b"still carried").await;
    }
    bystander.carries().await;
    assert_eq!(pomd.status().await.pomd.pid, pomd.pid());
    let mut took = Vec::new();
    loop {
        crowd.leaves();
        let freed = Instant::now();
        let mut stream = TcpStream::connect(address).await.unwrap();
        echoes(&mut stream, b"there is room").await;
        took.push(freed.elapsed());
        drop(stream);
        if took.last() <= Some(&SOON) {
            break;
        }
        assert!(took.len() < TRIES, "{took:?}");
        crowd = Crowd::gather(&pomd, address, LIMIT).await;
    }
    bystander.forget_burst();
    bystander.all_is_well(&pomd, &["ssh", "echo"]).await;
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
    let deployment = deployment().await;
    let setup = Setup::new("").before(&format!("ulimit -Sn {SOFT}"));
    let (script, file) = (setup.folder().join("asks"), setup.folder().join("limit"));
    write_script(
        &script,
        "sleep 0.3; ulimit -Sn > \"$1.new\" && mv \"$1.new\" \"$1\"",
    );
    let browser = format!("browser = [{script:?}, {file:?}]");
    let config = deployment.config(&TUNNELS);
    let config = config.replace(&format!("browser = {}", deployment.links.key()), &browser);
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
    let deployment = deployment().await;
    let (faults, setup) = FaultPlan::new(Setup::new(
        &deployment.config(&[("failing", SSH), ("echo", ECHO)]),
    ));
    let pomd = setup.start().await;
    deployment.log_in(&pomd).await;
    for error in [103, 1, 100, 71] {
        let bystander = Bystander::new(&pomd, "echo").await;
        faults.plan(&[&format!("accept 1-40 error {error}")]);
        for _ in 0..3 {
            carries(&pomd, "failing").await;
        }
        let status = pomd.status().await;
        assert_eq!(tunnel(&status, "failing").state, TunnelState::Up, "{error}");
        faults.plan(&[]);
        bystander.all_is_well(&pomd, &["failing", "echo"]).await;
    }
    for error in [105, 24] {
        let bystander = Bystander::new(&pomd, "echo").await;
        let address = pomd.address("failing").await;
        faults.plan(&[&format!("accept 1-20 error {error}")]);
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
        faults.plan(&[]);
        bystander.all_is_well(&pomd, &["failing", "echo"]).await;
    }
    for error in [9, 22] {
        let bystander = Bystander::new(&pomd, "echo").await;
        let address = pomd.address("failing").await;
        faults.plan(&[&format!("accept 1 error {error}")]);
        let told = pomd.wait_for_tunnel("failing", TunnelState::Busy);
        let (told, ()) = tokio::join!(told, carries(&pomd, "failing"));
        let reason = told.reason.unwrap();
        assert_eq!(reason.code, Code::Local, "{reason:?}");
        pomd.wait_for_tunnel("failing", TunnelState::Up).await;
        assert_eq!(pomd.address("failing").await, address);
        bystander.all_is_well(&pomd, &["failing", "echo"]).await;
        faults.plan(&[]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn e5_clients_that_leave_at_once_leave_nothing_behind_and_reach_no_service() {
    const CLIENTS: u64 = 6_000;
    let deployment = deployment().await;
    let pomd = deployment.logged_in(&TUNNELS).await;
    let mut bystander = Bystander::new(&pomd, "echo").await;
    let address = pomd.address("ssh").await;
    let before = deployment.gateway.stats().connects;
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
            bystander.carries().await;
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
    let reached = deployment.gateway.stats().connects - before;
    assert!(reached <= CLIENTS / 20, "{reached} reached a service");
    // One in sixty said something, and so many at once make a burst.
    bystander.forget_burst();
    bystander.all_is_well(&pomd, &["ssh", "echo"]).await;
}
