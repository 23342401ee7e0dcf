//! Clocks that jump. What a sleep does to deadlines stands in the session's own tests, where the boot clock is a value.

use std::time::Duration;

use control::wire::ClusterState;
use gateway::Upstream;
use integration::{
    bystander::{Bystander, echoes},
    client::{Ending, read_all},
    deployment::{CLUSTER, Deployment},
    fault_injection::FaultPlan,
    pomd::{Pomd, Setup, cluster},
};
use tokio::io::AsyncWriteExt;

use super::{ECHO, SSH, TUNNELS, carries};

const HOUR: i64 = 3600;
const YEAR: i64 = 365 * 24 * HOUR;

async fn deployment() -> Deployment {
    Deployment::gateway(|it| it.route(SSH, Upstream::Echo).route(ECHO, Upstream::Echo)).await
}

async fn with_faults(deployment: &Deployment) -> (FaultPlan, Pomd) {
    let (faults, setup) = FaultPlan::new(Setup::new(&deployment.config(&TUNNELS)));
    (faults, setup.start().await)
}

fn clock(faults: &FaultPlan, off: i64) {
    faults.plan(&[&format!("clock {off}")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn k1_after_eight_hours_the_next_connection_works_and_nobody_is_asked() {
    let deployment = deployment().await;
    let (faults, pomd) = with_faults(&deployment).await;
    // A login was left open, with somebody waiting for it.
    let mut waiting = pomd.connect("echo").await;
    waiting.write_all(b"waits").await.unwrap();
    let link = deployment.links.nth(1).await;
    clock(&faults, 8 * HOUR);
    // Whoever comes next makes pomd look at the clock.
    let mut next = pomd.connect("echo").await;
    next.write_all(b"wakes it").await.unwrap();
    assert_eq!(read_all(&mut waiting).await, (Vec::new(), Ending::Reset));
    assert_eq!(
        deployment.links.all().len(),
        1,
        "no window opens after a sleep"
    );
    let late = deployment.browser.visit(&link).await;
    assert!(late.is_err() || late.is_ok_and(|it| it.status != 200));
    drop(next);
    deployment.log_in(&pomd).await;
    let mut bystander = Bystander::new(&pomd, "echo").await;
    for nights in 2..=4 {
        clock(&faults, nights * 8 * HOUR);
        carries(&pomd, "ssh").await;
        bystander.carries().await;
    }
    assert_eq!(deployment.gateway.stats().sign_ins, 1);
    assert_eq!(deployment.links.all().len(), 1);
    bystander.all_is_well(&pomd, &["ssh", "echo"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn k2_a_wall_clock_that_is_ten_years_off_or_swings_costs_no_token_and_makes_no_storm() {
    let deployment = deployment().await;
    let (faults, pomd) = with_faults(&deployment).await;
    deployment.log_in(&pomd).await;
    let mut bystander = Bystander::new(&pomd, "echo").await;
    let before = deployment.gateway.stats();
    let mut connections = 0;
    let swings = (0..20).map(|it| if it % 2 == 0 { HOUR } else { -HOUR });
    for off in [10 * YEAR, -10 * YEAR, 0].into_iter().chain(swings) {
        clock(&faults, off);
        carries(&pomd, "ssh").await;
        connections += 1;
        bystander.carries().await;
        let status = pomd.status().await;
        assert_eq!(cluster(&status, CLUSTER).state, ClusterState::LoggedIn);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let after = deployment.gateway.stats();
    assert_eq!(after.connects - before.connects, connections, "{after:#?}");
    assert_eq!(after.sign_ins, 1);
    assert!(deployment.links.all().is_empty());
    clock(&faults, 0);
    bystander.all_is_well(&pomd, &["ssh", "echo"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn k4_a_day_between_our_clock_and_the_server_s_costs_no_login() {
    for off in [24 * HOUR, -24 * HOUR] {
        let deployment = deployment().await;
        let (faults, pomd) = with_faults(&deployment).await;
        clock(&faults, off);
        let signing_in = deployment.links.sign_in(1, &deployment.browser);
        let mut stream = pomd.connect("echo").await;
        tokio::join!(echoes(&mut stream, b"before the login"), signing_in);
        for name in ["ssh", "echo", "ssh"] {
            carries(&pomd, name).await;
        }
        let status = pomd.status().await;
        assert_eq!(cluster(&status, CLUSTER).state, ClusterState::LoggedIn);
        assert_eq!(deployment.links.all().len(), 1, "{off}");
        assert_eq!(deployment.gateway.stats().sign_ins, 1, "{off}");
    }
}
