//! A network that swallows, lies or is gone: with pomd on a machine of its own, behind wires that can be pulled.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use control::wire::Code;
use integration::{
    bystander::echoes,
    client::Ending,
    deployment::{CLUSTER, Deployment, Who},
    names::{NameServer, Names},
    namespace::{BLACK_HOLE, Machines, Wire},
    relay::Relay,
    scenario::{ECHO, Echo, Scenario, company},
    skipped,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, timeout},
};

/// The domain of the company that things happen to.
const DOMAIN: &str = "corp.test";

/// Both machines and a company, or `None` aloud.
async fn machines(test: &str) -> Option<(Machines, (Deployment, Echo))> {
    match Machines::start().await {
        Ok(machines) => Some((machines, company(Who::Gateway).await)),
        Err(why) => {
            skipped(test, &why);
            None
        }
    }
}

fn https(address: impl Into<IpAddr>) -> SocketAddr {
    SocketAddr::new(address.into(), 443)
}

/// A scenario with pomd on a machine of its own, which dials the first wire.
async fn scenario(test: &str) -> Option<Scenario> {
    let (machines, company) = machines(test).await?;
    let address = https(Wire::First.four(1));
    let relay = Relay::with(machines.outside.listen(address), company.0.address());
    let cluster = company.0.cluster_at(address, "");
    Some(Scenario::between(machines, company, relay, cluster).await)
}

/// The same, where names are looked up.
async fn scene_with_names(test: &str) -> Option<(Scenario, NameServer)> {
    let (machines, company) = machines(test).await?;
    let outside = &machines.outside;
    let socket = outside.datagrams((Wire::Second.four(1), 53).into());
    let here = IpAddr::from(Wire::First.four(1));
    let names = NameServer::start(socket, Names::know([(DOMAIN, &[here])]));
    let relay = Relay::with(outside.listen(https(here)), company.0.address());
    let cluster = company.0.cluster_by_name("");
    let scenario = Scenario::between(machines, company, relay, cluster).await;
    Some((scenario, names))
}

#[tokio::test(flavor = "multi_thread")]
async fn n2_a_black_hole_is_told_after_ten_seconds_and_holds_nobody_else_up() {
    let Some(scenario) = scenario("n2").await else {
        return;
    };
    let machines = scenario.machines();
    machines.lose(Wire::First, true).await;
    let start = Instant::now();
    let reason = scenario
        .refuses(Code::Timeout, "no answer within 10 s")
        .await;
    let took = start.elapsed();
    assert!(took < Duration::from_secs(14), "{took:?}");
    assert!(reason.message.starts_with("cannot reach "), "{reason:?}");
    machines.lose(Wire::First, false).await;
    scenario.recovers().await;
    // A route that leads nowhere is told at once.
    let end = Wire::First.four(1);
    machines
        .inside
        .must_ip(&format!("route add unreachable {end}/32"))
        .await;
    scenario.refuses(Code::Tcp, "cannot reach ").await;
    machines
        .inside
        .must_ip(&format!("route del unreachable {end}/32"))
        .await;
    scenario.recovers().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn n3_names_that_are_unknown_fail_hang_lie_or_move() {
    let Some((scenario, names)) = scene_with_names("n3").await else {
        return;
    };
    let here = IpAddr::from(Wire::First.four(1));
    let mut open = scenario.open(ECHO).await;
    let lie = IpAddr::from(Ipv4Addr::LOCALHOST);
    for (script, code, words) in [
        (Names::know([]), Code::Dns, "no such name: echo.corp.test"),
        (
            Names::Fails,
            Code::Dns,
            "cannot look up echo.corp.test: temporary failure",
        ),
        (
            Names::Silent,
            Code::Timeout,
            "looking up echo.corp.test took more than 5 s",
        ),
        (
            Names::know([(DOMAIN, &[lie])]),
            Code::Tcp,
            "cannot reach echo.corp.test:443 (127.0.0.1): connection refused",
        ),
    ] {
        let asked = names.asked();
        names.set(script.clone());
        let start = Instant::now();
        let reason = scenario.refuses(code, words).await;
        let took = start.elapsed();
        assert!(took < Duration::from_secs(9), "{script:?}: {took:?}");
        assert!(reason.hint.is_some() || code == Code::Tcp, "{reason:?}");
        assert!(names.asked() > asked, "{script:?}");
        echoes(&mut open, b"still here").await;
        names.set(Names::know([(DOMAIN, &[here])]));
        scenario.carries(ECHO).await;
    }
    // It moves: the next connection goes to the new address, the open one stays at the old one.
    let moved = IpAddr::from(Wire::First.four(3));
    let outside = &scenario.machines().outside;
    outside
        .must_ip(&format!("address add {moved}/24 dev wire0"))
        .await;
    let relay = Relay::with(outside.listen(https(moved)), scenario.deployment.address());
    names.set(Names::know([(DOMAIN, &[moved])]));
    let before = scenario.relay.counts();
    scenario.meanwhile(scenario.carries(ECHO)).await;
    assert_eq!(relay.counts().accepted, 1);
    assert_eq!(scenario.relay.counts().accepted, before.accepted);
    echoes(&mut open, b"still here").await;
    drop(open);
    scenario.recovers().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn l5_where_loopback_is_ipv6_alone_a_login_comes_back_there() {
    let test = "l5_where_loopback_is_ipv6_alone_a_login_comes_back_there";
    let Some((machines, company)) = machines(test).await else {
        return;
    };
    let no_four = "address del 127.0.0.1/8 dev lo";
    machines.inside.must_ip(no_four).await;
    let address = https(Wire::First.four(1));
    let relay = Relay::with(machines.outside.listen(address), company.0.address());
    let cluster = company.0.cluster_at(address, "");
    // Both companies' logins are made in this.
    let scenario = Scenario::between(machines, company, relay, cluster).await;
    let client = scenario.pomd.client();
    client.logout(CLUSTER).await.unwrap();
    let answer = client.login(CLUSTER, Default::default()).await.unwrap();
    let link = answer.login.unwrap().link;
    assert!(link.starts_with("http://[::1]:"), "{link}");
    scenario.deployment.log_in(&scenario.pomd).await;
    scenario.carries(ECHO).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn n4_a_dead_ipv6_costs_no_more_than_a_moment() {
    let Some((scenario, names)) = scene_with_names("n4").await else {
        return;
    };
    let four = IpAddr::from(Wire::First.four(1));
    let hole = IpAddr::from(Wire::First.six(BLACK_HOLE));
    // Both families dead but one address, in the order that a resolver may give.
    let other_hole = IpAddr::from(Wire::First.four(BLACK_HOLE));
    for addresses in [&[hole, four][..], &[hole, four, other_hole]] {
        names.set(Names::know([(DOMAIN, addresses)]));
        let start = Instant::now();
        scenario.meanwhile(scenario.carries(ECHO)).await;
        // 300 ms for each that is silent, and what a loaded machine adds; to wait for one would take its limit of 10 s.
        let took = start.elapsed();
        assert!(took < Duration::from_secs(10), "{addresses:?}: {took:?}");
        scenario.recovers().await;
    }
}

/// The wire is pulled while bytes are under way: nobody says so, and it is noticed.
#[tokio::test(flavor = "multi_thread")]
async fn n5_silence_with_bytes_under_way_is_a_cut_after_half_a_minute() {
    let Some(scenario) = scenario("n5").await else {
        return;
    };
    let mut open = scenario.open(ECHO).await;
    let machines = scenario.machines();
    machines.plug(Wire::First, false).await;
    open.write_all(b"anybody?").await.unwrap();
    let start = Instant::now();
    let noticed = timeout(Duration::from_secs(50), read_to_the_end(&mut open));
    let ended = scenario.meanwhile(noticed).await;
    let took = start.elapsed();
    assert_eq!(ended, Ok(Ending::Reset), "{took:?}");
    assert!(took > Duration::from_secs(15), "too hasty: {took:?}");
    machines.plug(Wire::First, true).await;
    scenario.recovers().await;
}

/// Without bytes under way keepalive notices.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "waits for more than a minute"]
async fn n5_silence_without_bytes_under_way_is_a_cut_after_a_minute() {
    let Some(scenario) = scenario("n5").await else {
        return;
    };
    let mut open = scenario.open(ECHO).await;
    scenario.machines().plug(Wire::First, false).await;
    let noticed = timeout(Duration::from_secs(90), read_to_the_end(&mut open));
    assert_eq!(scenario.meanwhile(noticed).await, Ok(Ending::Reset));
    scenario.machines().plug(Wire::First, true).await;
    scenario.recovers().await;
}

/// Whoever comes while the system still looks for a next hop, as it did when there was no wire, does not share its fate.
#[tokio::test(flavor = "multi_thread")]
async fn n6_f9_a_connection_that_comes_with_the_wire_waits_for_no_other_one() {
    let Some(scenario) = scenario("n6_f9").await else {
        return;
    };
    let machines = scenario.machines();
    machines.plug(Wire::First, false).await;
    machines.inside.must_ip("neighbour flush all").await;
    // More than are kept ready: the others look for the next hop.
    let mut before = Vec::new();
    for _ in 0..4 {
        let mut stream = scenario.connect(ECHO).await;
        stream.write_all(b"anybody?").await.unwrap();
        before.push(stream);
    }
    // Linux asks three times, a second apart, and then tells all that wait (arp(7)): the wire comes too late for that.
    // On a slow machine it comes later still, which is the easier case.
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    machines.plug(Wire::First, true).await;
    scenario.carries(ECHO).await;
    drop(before);
    scenario.recovers().await;
}

/// As `read_all` does, without its limit.
async fn read_to_the_end(stream: &mut TcpStream) -> Ending {
    match stream.read(&mut [0]).await {
        Ok(0) => Ending::Clean,
        Ok(_) => panic!("a byte out of nowhere"),
        Err(_) => Ending::Reset,
    }
}
