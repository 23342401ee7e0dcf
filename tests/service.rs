//! pomd as a service: what its manager hears, and when; becoming pomd anew.

mod browser;
mod handed;
mod install;
mod restart;
mod systemd;

use std::time::Duration;

use gateway::Upstream;
use integration::{
    deployment::Deployment,
    notify::Notify,
    pomd::{Pomd, Setup},
};
use rustix::process::Signal;
use tokio::net::TcpStream;

const ECHO: &str = "echo.corp.test:7000";

/// A pomd whose manager is us.
async fn serve(config: &str, environment: &[(&str, &str)]) -> (Pomd, Notify) {
    let setup = Setup::new(config);
    let manager = Notify::listen(setup.folder());
    let mut setup = setup.env("NOTIFY_SOCKET", manager.path());
    for (name, value) in environment {
        setup = setup.env(name, value);
    }
    (setup.start().await, manager)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manager_hears_ready_once_the_listeners_are_bound_and_how_things_stand() {
    let deployment = Deployment::gateway(|it| it.route(ECHO, Upstream::Echo)).await;
    let config = deployment.config(&[("echo", ECHO)]);
    let setup = Setup::new(&config);
    let manager = Notify::listen(setup.folder());
    let setup = setup.env("NOTIFY_SOCKET", manager.path());
    let pomd = setup.start();
    let ready = manager.wait_for("READY", 0, |it| it == "READY=1");
    let (pomd, ready) = tokio::join!(pomd, ready);
    assert_eq!(ready, 1, "{:?}", manager.heard());
    assert_eq!(
        manager.heard()[1],
        "STATUS=0 of 1 tunnel up, corp needs a login"
    );
    let address = pomd.status().await.tunnels[0].listen[0].clone();
    TcpStream::connect(address).await.unwrap();

    deployment.log_in(&pomd).await;
    let logged_in = |it: &str| it.starts_with("STATUS=1 of 1 tunnel up, corp ");
    manager.wait_for("the login", 2, logged_in).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manager_hears_of_a_reload_and_its_end_and_of_the_stop() {
    let (mut pomd, manager) = serve("", &[]).await;
    let ready = manager.wait_for("READY", 0, |it| it == "READY=1").await;
    pomd.replace_config("# the same as nothing\n");
    pomd.process().signal(Signal::HUP);
    let reloading = manager
        .wait_for("RELOADING", ready, |it| it == "RELOADING=1")
        .await;
    let usec = manager.heard()[reloading].clone();
    let usec = usec.strip_prefix("MONOTONIC_USEC=").map(str::parse::<u64>);
    assert!(
        matches!(usec, Some(Ok(1..))),
        "systemd 253 and later want a time: {usec:?}"
    );
    let again = manager
        .wait_for("READY again", reloading, |it| it == "READY=1")
        .await;

    pomd.replace_config("nonsense = true\n");
    pomd.process().signal(Signal::HUP);
    let broken = |it: &str| it.starts_with("STATUS=the configuration is broken since ");
    let broken = manager.wait_for("the problem", again, broken).await;
    let over = manager
        .wait_for("READY after a problem", again, |it| it == "READY=1")
        .await;
    pomd.stop().await;
    manager
        .wait_for("STOPPING", broken.max(over), |it| it == "STOPPING=1")
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watchdog_is_fed_within_its_patience() {
    let (_pomd, manager) = serve("", &[("WATCHDOG_USEC", "6000000")]).await;
    let mut fed = 0;
    for _ in 0..3 {
        let waits = manager.wait_for("a sign of life", fed, |it| it == "WATCHDOG=1");
        let told = tokio::time::timeout(Duration::from_secs(6), waits).await;
        fed = told.expect("a sign of life within the patience of the watchdog");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manager_that_does_not_listen_any_more_keeps_pomd_from_nothing() {
    let (mut pomd, manager) = serve("", &[]).await;
    manager.wait_for("READY", 0, |it| it == "READY=1").await;
    std::fs::remove_file(manager.path()).unwrap();
    drop(manager);
    pomd.reload("# another one\n").await;
    assert!(pomd.stop().await.success());
}
