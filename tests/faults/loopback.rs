//! Loopback addresses that are missing, go and come, with pomd in a network of its own.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use control::wire::{Tunnel, TunnelState};
use gateway::Upstream;
use integration::{
    PATIENCE,
    binary::binary,
    deployment::Deployment,
    pomd::{Pomd, Setup, run, tunnel},
    skipped,
};

use super::{SSH, TUNNELS};

const UP: &str = "ip link set lo up";
const NO_V4: &str = "ip addr del 127.0.0.1/8 dev lo";
const V4: &str = "ip addr add 127.0.0.1/8 dev lo";
const NO_V6: &str = "echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6";
const V6: &str = "echo 0 > /proc/sys/net/ipv6/conf/all/disable_ipv6; ip addr add ::1/128 dev lo 2>/dev/null || true";

const LACKS_V4: &str = "this machine has no 127.0.0.1 now: the ports of tunnels are on ::1 alone";
const LACKS_V6: &str = "this machine has no ::1 now: the ports of tunnels are on 127.0.0.1 alone";
const DOWN: &str = "loopback is down on this machine: nobody reaches the ports of tunnels";

/// Without being told pomd would look after half a minute.
const BY_ITSELF: Duration = Duration::from_secs(30);

/// A pomd in a network of its own that these words furnish; a login is all that its tunnels lack.
async fn pomd(furnish: &str) -> Pomd {
    let deployment = Deployment::gateway(|it| it.route(SSH, Upstream::Echo)).await;
    let config = deployment.config(&TUNNELS);
    let config = config.replace(&deployment.links.key(), "\"none\"");
    // The state of the network's interfaces stands in a /sys of its own.
    let furnish = format!("mount -t sysfs sysfs /sys && {furnish}");
    let setup = Setup::new(&config).inside(&["-n", "-m"], &furnish);
    let pomd = setup.start().await;
    pomd.wait_for_tunnel("ssh", TunnelState::Login).await;
    pomd
}

fn cannot_unshare(test: &str) -> bool {
    let tried = Command::new("unshare")
        .args(["-n", "-m", "mount", "-t", "sysfs", "sysfs", "/sys"])
        .output();
    let res = !tried.is_ok_and(|it| it.status.success());
    if res {
        skipped(test, "there are no network namespaces");
    }
    res
}

/// Runs these shell words in the network of this pomd.
fn within(pomd: &Pomd, words: &str) {
    let mut command = Command::new("nsenter");
    command.args(["-n", "-t", &pomd.pid().to_string()]);
    let output = command.args(["/bin/sh", "-c", words]).output().unwrap();
    assert!(output.status.success(), "{words}: {output:?}");
}

/// What a program in the network of this pomd hears at an address.
async fn hears(pomd: &Pomd, address: &str) -> String {
    let mut command = Command::new("nsenter");
    command.args(["-n", "-t", &pomd.pid().to_string()]);
    command
        .arg(binary("other-user"))
        .args(["connect", address, "1"]);
    let output = run(command, PATIENCE).await;
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Both tunnels are on addresses that begin so, each of which answers, and this is all that is told of loopback.
async fn is_on(pomd: &Pomd, hosts: &[&str], told: Option<&str>) -> Tunnel {
    let on_all = |it: &Tunnel| {
        let starts = |(at, host): (&String, &&str)| at.starts_with(host);
        it.listen.len() == hosts.len() && it.listen.iter().zip(hosts).all(starts)
    };
    let what = format!("{hosts:?} and {told:?}");
    let status = pomd.wait_for(&what, |it| {
        let warnings: Vec<&str> = it.pomd.warnings.iter().map(String::as_str).collect();
        it.tunnels.iter().all(on_all) && warnings == Vec::from_iter(told)
    });
    let res = tunnel(&status.await, "ssh").clone();
    assert_eq!(res.state, TunnelState::Login);
    res
}

/// Each of these answers as a tunnel does that lacks a login.
async fn answer(pomd: &Pomd, addresses: &[String]) {
    for address in addresses {
        let heard = hears(pomd, address).await;
        assert!(heard.starts_with("ended after"), "{address}: {heard}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn e6_an_address_that_the_machine_lacks_is_left_out_and_said_and_taken_when_it_comes() {
    if cannot_unshare(
        "e6_an_address_that_the_machine_lacks_is_left_out_and_said_and_taken_when_it_comes",
    ) {
        return;
    }
    let both = ["127.0.0.1:", "[::1]:"];
    let mut waited = Duration::ZERO;
    for (furnish, there, told, mend) in [
        (format!("{NO_V6} && {UP}"), "127.0.0.1:", LACKS_V6, V6),
        (format!("{UP} && {NO_V4}"), "[::1]:", LACKS_V4, V4),
    ] {
        let pomd = pomd(&furnish).await;
        let before = is_on(&pomd, &[there], Some(told)).await;
        answer(&pomd, &before.listen).await;
        let page = pomd.pomctl(&["status"]).await;
        let page = String::from_utf8_lossy(&page.stdout).into_owned();
        assert!(page.contains(&format!("warning: {told}\n")), "{page}");
        within(&pomd, mend);
        let start = Instant::now();
        let after = is_on(&pomd, &both, None).await;
        waited += start.elapsed();
        assert!(after.listen.contains(&before.listen[0]), "{after:?}");
        answer(&pomd, &after.listen).await;
    }
    assert!(waited < BY_ITSELF / 2, "{waited:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn e6_an_address_that_goes_is_said_its_listener_kept_and_loopback_serves_as_soon_as_it_is_up()
{
    if cannot_unshare(
        "e6_an_address_that_goes_is_said_its_listener_kept_and_loopback_serves_as_soon_as_it_is_up",
    ) {
        return;
    }
    let both = ["127.0.0.1:", "[::1]:"];
    // In a new network loopback is down, and it depends on the system what can be bound there.
    let pomd = pomd("true").await;
    pomd.wait_for("it is said", |it| it.pomd.warnings == [DOWN])
        .await;
    within(&pomd, UP);
    let start = Instant::now();
    let up = is_on(&pomd, &both, None).await;
    let mut waited = start.elapsed();
    answer(&pomd, &up.listen).await;
    for (take, told, give) in [
        (NO_V6, LACKS_V6, V6),
        (NO_V4, LACKS_V4, V4),
        ("ip link set lo down", DOWN, UP),
    ] {
        within(&pomd, take);
        let start = Instant::now();
        let kept = is_on(&pomd, &both, Some(told)).await;
        assert_eq!(kept.listen, up.listen);
        within(&pomd, give);
        let again = is_on(&pomd, &both, None).await;
        waited += start.elapsed();
        assert_eq!(again.listen, up.listen);
    }
    answer(&pomd, &up.listen).await;
    assert!(waited < BY_ITSELF / 2, "{waited:?}");
}
