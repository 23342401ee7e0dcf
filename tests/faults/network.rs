//! The network between pomd and Pomerium: refused, cut, slow, a login page or a forward proxy in the way.

use std::time::Duration;

use control::wire::Code;
use gateway::{
    Certificate, PortBehaviour,
    forward_proxy::{ForwardProxy, Play},
};
use integration::{
    bystander::echoes,
    client::{Ending, pattern, read_all},
    deployment::Who,
    relay::{Cut, Relay, Way, Ways},
    scenario::{ECHO, ROUTE, SSH_ROUTE, Scenario, company},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{Instant, timeout},
};

async fn n1_a_refused_connection_is_told_within_a_second_and_open_ones_live_on(who: Who) {
    let scenario = Scenario::new(who).await;
    let mut open = scenario.open(ECHO).await;
    scenario.relay.close().await;
    let start = Instant::now();
    let reason = scenario.refuses(Code::Tcp, "connection refused").await;
    let took = start.elapsed();
    // Without a wait for the limit of the step, whatever a loaded machine adds.
    assert!(took < Duration::from_secs(10), "{took:?}");
    let tried = format!("cannot reach {}", scenario.relay.address());
    assert!(reason.message.starts_with(&tried), "{reason:?}");
    scenario.tells_ssh(&reason).await;
    echoes(&mut open, b"still here").await;
    drop(open);
    scenario.relay.open().await;
    scenario.recovers().await;
}

/// A transfer that is cut in the middle: what came is right, and its end is a reset.
async fn n5_a_cut_in_the_middle_of_a_transfer_is_no_end(who: Who) {
    const N: usize = 4 << 20;
    let scenario = Scenario::new(who).await;
    let said = pattern(N);
    for how in [Cut::Reset, Cut::Fin] {
        let (mut from, mut to) = scenario.open(ECHO).await.into_split();
        let cutting = async {
            // Some of it came back, so both directions are under way.
            let mut got = vec![0; N / 4];
            from.read_exact(&mut got).await.unwrap();
            scenario.relay.end_all(how).await;
            let (rest, ending) = read_all(&mut from).await;
            got.extend(rest);
            (got, ending)
        };
        let saying = async {
            // It fails where the cut comes before its end.
            let _ = to.write_all(&said).await;
        };
        let talking = async { tokio::join!(cutting, saying).0 };
        let (got, ending) = scenario.meanwhile(talking).await;
        assert!(
            said.starts_with(&got),
            "{how:?}: {} bytes differ",
            got.len()
        );
        assert!(got.len() < N, "{how:?} came too late");
        assert_eq!(ending, Ending::Reset, "{how:?} after {} bytes", got.len());
        scenario.recovers().await;
    }
}

async fn n8_a_login_page_in_the_way_is_told_and_never_opened(who: Who) {
    let scenario = Scenario::new(who).await;
    let portal =
        "HTTP/1.1 302 Found\r\nLocation: http://portal.test/login\r\nContent-Length: 0\r\n\r\n";
    // What answers in Pomerium's place is another server.
    let (way, _echo) = company(Who::Gateway).await;
    scenario.relay.lead_to(way.address());
    way.gateway.show(Certificate::OtherAuthority).unwrap();
    let issuer = "issued by \"A CA that nobody trusts\"";
    let reason = scenario.refuses(Code::Tls, issuer).await;
    assert!(reason.hint.unwrap().contains("is a login page"));
    way.gateway
        .port_behaviour(PortBehaviour::Says(portal.into()));
    let reason = scenario.refuses(Code::Tls, "(HTTP answered)").await;
    assert!(
        reason
            .hint
            .clone()
            .unwrap()
            .contains("a login page in the way?")
    );
    scenario.tells_ssh(&reason).await;
    let stats = way.gateway.stats();
    assert_eq!(stats.requests, [], "no token, no request");
    scenario.relay.lead_to(scenario.deployment.address());
    scenario.recovers().await;
}

async fn n9_a_forward_proxy_that_fails_is_named_with_what_it_said(who: Who) {
    let company = company(who).await;
    let deployment = &company.0;
    let proxy = ForwardProxy::start(Play::Http(None), deployment.address())
        .await
        .unwrap();
    let relay = Relay::start(proxy.address()).await;
    let url = format!("http://{}", relay.address());
    let cluster = deployment.cluster_by_name(&format!("forward_proxy = \"{url}\""));
    let scenario = Scenario::set(company, relay, cluster).await;
    let mut open = scenario.open(ECHO).await;
    let says = |it: &str| Play::Says(format!("HTTP/1.1 {it}\r\n\r\n").into());
    for (play, words) in [
        (
            says("407 Proxy Authentication Required"),
            "answered 407, it wants a password",
        ),
        (says("403 Forbidden"), "answered 403"),
        (says("502 Bad Gateway"), "answered 502"),
        (Play::Says(b"220 mail.test ESMTP\r\n".to_vec()), ""),
        (Play::Closes, ""),
    ] {
        let shown = format!("{play:?}");
        proxy.play(play);
        let reason = scenario.refuses(Code::ForwardProxy, words).await;
        assert!(reason.message.contains(&url), "{shown}: {reason:?}");
        scenario.tells_ssh(&reason).await;
        echoes(&mut open, shown.as_bytes()).await;
    }
    proxy.play(Play::Http(None));
    drop(open);
    scenario.recovers().await;
    // One that is slow is waited for.
    scenario.relay.set(Ways::both(Way {
        delay: Duration::from_millis(300),
        ..Way::PLAIN
    }));
    scenario.meanwhile(scenario.carries(ECHO)).await;
    // And one that is gone is told as such.
    scenario.relay.set(Ways::both(Way::PLAIN));
    scenario.relay.close().await;
    scenario
        .refuses(Code::ForwardProxy, "connection refused")
        .await;
    scenario.relay.open().await;
    scenario.recovers().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn n10_two_seconds_away_byte_by_byte_at_10_kib_a_second_everything_arrives() {
    const N: usize = 20 << 10;
    let scenario = Scenario::new(Who::Gateway).await;
    scenario.relay.set(Ways::both(Way {
        delay: Duration::from_secs(2),
        rate: Some(10 << 10),
        piece: 1,
        ..Way::PLAIN
    }));
    let said = pattern(N);
    let talking = async {
        let mut stream = scenario.connect(ECHO).await;
        stream.write_all(&said).await.unwrap();
        let mut got = vec![0; N];
        timeout(Duration::from_secs(60), stream.read_exact(&mut got))
            .await
            .unwrap()
            .unwrap();
        got
    };
    assert!(scenario.meanwhile(talking).await == said);
    scenario.relay.set(Ways::both(Way::PLAIN));
    scenario.recovers().await;
}

/// A connection that the network forgot while it was idle, as routers do.
async fn n5_what_was_reset_while_it_was_idle_is_told_at_once(who: Who) {
    let scenario = Scenario::new(who).await;
    let mut open = scenario.open(ECHO).await;
    scenario.relay.end_idle(Duration::ZERO, Cut::Reset);
    let ended = scenario.meanwhile(read_all(&mut open)).await;
    assert_eq!(ended, (Vec::new(), Ending::Reset));
    scenario.recovers().await;
}

with_both! {
    n1_a_refused_connection_is_told_within_a_second_and_open_ones_live_on
    n5_a_cut_in_the_middle_of_a_transfer_is_no_end
    n5_what_was_reset_while_it_was_idle_is_told_at_once
    n8_a_login_page_in_the_way_is_told_and_never_opened
    n9_a_forward_proxy_that_fails_is_named_with_what_it_said
}

#[tokio::test(flavor = "multi_thread")]
async fn n9_a_forward_proxy_that_keeps_silent_is_named_after_its_limit() {
    let company = company(Who::Gateway).await;
    let proxy = ForwardProxy::start(Play::Http(None), company.0.address())
        .await
        .unwrap();
    let relay = Relay::start(proxy.address()).await;
    let line = format!("forward_proxy = \"http://{}\"", relay.address());
    let cluster = company.0.cluster_by_name(&line);
    let scenario = Scenario::set(company, relay, cluster).await;
    proxy.play(Play::Silent);
    scenario.refuses(Code::ForwardProxy, "20 s").await;
    proxy.play(Play::Http(None));
    scenario.recovers().await;
    let heard = proxy.heard();
    let routes = [ROUTE, SSH_ROUTE].map(str::as_bytes);
    let named = |it: &[u8]| {
        routes
            .iter()
            .any(|route| it.windows(route.len()).any(|it| it == *route))
    };
    assert!(
        !heard.iter().any(|it| named(&it.asked)),
        "it learns no route"
    );
}
