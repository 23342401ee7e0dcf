//! TLS between pomd and Pomerium: certificates, handshakes, ends.

use std::{fs, os::unix::fs::PermissionsExt};

use control::wire::Code;
use gateway::{Certificate, End, PortBehaviour, Script, Stats};
use integration::{
    bystander::echoes,
    client::{Ending, pattern, read_all},
    deployment::Who,
    relay::{Cut, Relay, Way, Ways},
    scenario::{ECHO, ROUTE, Scenario, company},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// How many requests with a token the server read.
fn tokens(stats: &Stats) -> u64 {
    stats.tokens_by_name.values().sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a16_t1_each_thing_wrong_with_a_certificate_is_told_and_costs_no_token() {
    let scenario = Scenario::new(Who::Gateway).await;
    let gateway = &scenario.deployment.gateway;
    let ca = "Make-believe Pomerium CA";
    for (certificate, words) in [
        (Certificate::Expired, "expired on "),
        (Certificate::NotYetValid, "is not valid before "),
        (Certificate::WrongName, ", not for echo.corp.test"),
        (
            Certificate::OtherAuthority,
            "which this machine does not know",
        ),
    ] {
        let mut open = scenario.open(ECHO).await;
        let before = tokens(&gateway.stats());
        gateway.show(certificate).unwrap();
        gateway.nobody_waits().await;
        let reason = scenario.refuses(Code::Tls, words).await;
        let ca = match certificate {
            Certificate::OtherAuthority => "A CA that nobody trusts",
            _ => ca,
        };
        assert!(reason.message.contains(ca), "{reason:?}");
        assert!(reason.hint.is_some(), "{reason:?}");
        assert_eq!(tokens(&gateway.stats()), before, "{certificate:?}");
        echoes(&mut open, b"still here").await;
        drop(open);
        gateway.show(Certificate::Good).unwrap();
        scenario.recovers().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn t3_what_speaks_no_tls_is_told_by_what_it_said() {
    let scenario = Scenario::new(Who::Gateway).await;
    // A fatal alert, handshake_failure.
    let alert = b"\x15\x03\x03\x00\x02\x02\x28".to_vec();
    for (port_behaviour, words) in [
        (
            PortBehaviour::PlainHttp,
            "does not speak TLS (HTTP answered)",
        ),
        (
            PortBehaviour::Says(b"SSH-2.0-OpenSSH_9.9\r\n".to_vec()),
            "does not speak TLS (SSH answered)",
        ),
        (
            PortBehaviour::Says(b"\0\x01\x02 garbage".to_vec()),
            "does not speak TLS",
        ),
        (PortBehaviour::Says(alert), "refused TLS: "),
        (
            PortBehaviour::Hangs,
            "closed the connection during the TLS handshake",
        ),
    ] {
        scenario.deployment.gateway.port_behaviour(port_behaviour);
        let reason = scenario.refuses(Code::Tls, words).await;
        scenario.tells_ssh(&reason).await;
        scenario.deployment.gateway.forgive();
        scenario.recovers().await;
    }
}

/// An end without close_notify is a cut, behind all that came before it; the ordinary end has one.
async fn a16_t4_only_an_end_with_close_notify_is_an_end(who: Who) {
    let scenario = Scenario::new(who).await;
    for how in [Cut::Fin, Cut::Reset] {
        let mut open = scenario.open(ECHO).await;
        let said = pattern(100_000);
        open.write_all(&said).await.unwrap();
        let mut got = vec![0; said.len()];
        open.read_exact(&mut got).await.unwrap();
        assert!(got == said);
        scenario.relay.end_all(how).await;
        let ended = scenario.meanwhile(read_all(&mut open)).await;
        assert_eq!(ended, (Vec::new(), Ending::Reset), "{how:?}");
        scenario.recovers().await;
    }
    let mut open = scenario.open(ECHO).await;
    scenario.echo.end_all();
    let ended = scenario.meanwhile(read_all(&mut open)).await;
    assert_eq!(ended, (Vec::new(), Ending::Clean));
    drop(open);
    scenario.recovers().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn t4_a_cut_after_so_many_bytes_delivers_exactly_these() {
    let scenario = Scenario::new(Who::Gateway).await;
    for n in [0, 1, 16_384, 70_000] {
        let script = Script::new().end_after(n, End::Cut).times(1);
        scenario.deployment.gateway.script(ROUTE, script);
        let said = pattern(100_000);
        let mut stream = scenario.connect(ECHO).await;
        stream.write_all(&said).await.unwrap();
        let (got, ending) = scenario.meanwhile(read_all(&mut stream)).await;
        assert_eq!((got.len() as u64, ending), (n, Ending::Reset));
        assert!(said.starts_with(&got));
        scenario.recovers().await;
    }
}

/// A client certificate is wanted, is not good, cannot be read, and is renewed: each without a reload.
#[tokio::test(flavor = "multi_thread")]
async fn t5_a_client_certificate_is_asked_for_and_a_new_one_used_without_a_reload() {
    let company = company(Who::Gateway).await;
    let deployment = &company.0;
    let relay = Relay::start(deployment.address()).await;
    let folder = integration::pomd::folder();
    let file = |name: &str| folder.path().join(name);
    let write = |identity: &gateway::Identity| {
        fs::write(file("me.pem"), &identity.certificate).unwrap();
        fs::write(file("me.key"), &identity.key).unwrap();
        fs::set_permissions(file("me.key"), fs::Permissions::from_mode(0o600)).unwrap();
    };
    let good = deployment.gateway.client_identity("me").unwrap();
    let (another, _echo) = integration::scenario::company(Who::Gateway).await;
    let foreign = another.gateway.client_identity("me").unwrap();
    write(&good);
    let more = format!(
        "client_cert = {:?}\nclient_key = {:?}",
        file("me.pem"),
        file("me.key")
    );
    let cluster = deployment.cluster_at(relay.address(), &more);
    let scenario = Scenario::set(company, relay, cluster).await;
    scenario
        .deployment
        .gateway
        .ask_for_client_certificates(true)
        .unwrap();
    scenario.recovers().await;
    let mut open = scenario.open(ECHO).await;
    write(&foreign);
    let reason = scenario
        .refuses(
            Code::ClientCertificateRequired,
            "corp did not accept me.pem",
        )
        .await;
    scenario.tells_ssh(&reason).await;
    assert!(reason.hint.unwrap().contains("client_cert"));
    // What cannot be used changes nothing: the one before stays.
    write(&good);
    scenario.carries(ECHO).await;
    fs::write(file("me.key"), "no key").unwrap();
    scenario.meanwhile(scenario.carries(ECHO)).await;
    assert!(
        scenario.pomd.words().contains("me.key"),
        "{}",
        scenario.pomd.words()
    );
    write(&good);
    echoes(&mut open, b"still here").await;
    drop(open);
    scenario.recovers().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn t5_a_client_certificate_that_is_missing_is_told_with_its_key() {
    let scenario = Scenario::new(Who::Gateway).await;
    scenario
        .deployment
        .gateway
        .ask_for_client_certificates(true)
        .unwrap();
    let words = "corp wants a client certificate, and none is set";
    let reason = scenario
        .refuses(Code::ClientCertificateRequired, words)
        .await;
    scenario.tells_ssh(&reason).await;
    assert!(
        reason
            .hint
            .unwrap()
            .contains("set client_cert and client_key in [cluster.corp]")
    );
    scenario
        .deployment
        .gateway
        .ask_for_client_certificates(false)
        .unwrap();
    scenario.recovers().await;
}

/// Bytes in any pieces, and in both directions at once.
#[tokio::test(flavor = "multi_thread")]
async fn t6_records_in_single_bytes_and_of_full_size_carry_everything() {
    const N: usize = 60_000;
    let scenario = Scenario::new(Who::Gateway).await;
    let said = pattern(N);
    for piece in [1, 7, 16 << 10] {
        let way = Way {
            piece,
            ..Way::PLAIN
        };
        // Those that were made ready before are not made of such pieces.
        scenario.relay.end_all(Cut::Fin).await;
        scenario
            .relay
            .wait_for("none is left", |it| it.open == 0)
            .await;
        scenario.relay.set_next(Ways::both(way));
        let mut stream = scenario.connect(ECHO).await;
        let talking = async {
            // Records of one byte at first, then as large as they come.
            for byte in &said[..300] {
                stream.write_all(std::slice::from_ref(byte)).await.unwrap();
            }
            let (mut from, mut to) = stream.split();
            let mut got = vec![0; N];
            let (sent, heard) = tokio::join!(to.write_all(&said[300..]), from.read_exact(&mut got));
            sent.unwrap();
            heard.unwrap();
            got
        };
        assert!(
            scenario.meanwhile(talking).await == said,
            "pieces of {piece}"
        );
    }
    scenario.recovers().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn t6_new_keys_in_the_middle_lose_nothing() {
    let scenario = Scenario::new(Who::Gateway).await;
    let script = Script::new().new_keys().times(1);
    scenario.deployment.gateway.script(ROUTE, script);
    let mut stream = scenario.connect(ECHO).await;
    let said = pattern(300_000);
    let talking = async {
        let (mut from, mut to) = stream.split();
        let mut got = vec![0; said.len()];
        let (sent, heard) = tokio::join!(to.write_all(&said), from.read_exact(&mut got));
        sent.unwrap();
        heard.unwrap();
        got
    };
    assert!(scenario.meanwhile(talking).await == said);
    echoes(&mut stream, b"and on").await;
    drop(stream);
    scenario.recovers().await;
}

/// The CA's file goes bad: what it said before stays in use, and `check` names it.
#[tokio::test(flavor = "multi_thread")]
async fn t7_a_ca_file_that_went_bad_harms_nothing_that_runs() {
    let scenario = Scenario::new(Who::Gateway).await;
    let mut open = scenario.open(ECHO).await;
    let ca = scenario.deployment.ca_file();
    let good = fs::read(&ca).unwrap();
    for bad in [&b""[..], b"no certificate"] {
        fs::write(&ca, bad).unwrap();
        scenario.meanwhile(scenario.carries(ECHO)).await;
        echoes(&mut open, b"still here").await;
        let words = scenario.pomd.words();
        assert!(
            words.contains("what it said before stays in use"),
            "{words}"
        );
    }
    fs::remove_file(&ca).unwrap();
    scenario.meanwhile(scenario.carries(ECHO)).await;
    let mut check = scenario.pomd.setup().pomd_command();
    check.arg("check");
    let output = integration::pomd::run(check, integration::PATIENCE).await;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains(&ca.display().to_string()), "{said}");
    drop(open);
    fs::write(&ca, good).unwrap();
    scenario.recovers().await;
}

with_both! {
    a16_t4_only_an_end_with_close_notify_is_an_end
}
