//! A real Envoy that is set up as Pomerium's never should be, or is asked for what it never opens: the words that a
//! person reads name the cause and the remedy.

use std::net::SocketAddr;

use gateway::Gateway;
use integration::{
    deployment::Deployment,
    envoy::{Codec, Envoy},
    pomd::Pomd,
};
use tokio::net::TcpListener;

const HELLO: &str = "hello.corp.test:80";

/// A service that is never reached.
async fn service() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// What pomctl says on stderr.
async fn error(pomd: &Pomd, arguments: &[&str]) -> String {
    let output = pomd.pomctl(arguments).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8(output.stderr).unwrap()
}

async fn speaks_only_http2(codec: Codec) {
    let (_service, address) = service().await;
    let mut deployment = Deployment::gateway(|it| it.domain("corp.test")).await;
    let envoy = Envoy::speaking(codec, &deployment.gateway, &[(HELLO, address)]).await;
    deployment.envoy = Some(envoy);
    let pomd = deployment.pomd(&[("hello", HELLO)]).await;
    for arguments in [
        &["login", "corp"][..],
        &["up", "hello"],
        &["connect", HELLO],
    ] {
        let words = error(&pomd, arguments).await;
        for part in ["HTTP/2", "HTTP/1.1", "codec_type"] {
            assert!(words.contains(part), "{codec:?} {arguments:?}: {words}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_envoy_of_http2_alone_is_named_as_such() {
    speaks_only_http2(Codec::HTTP2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_envoy_of_http2_alone_that_agrees_on_nothing_is_named_as_such() {
    speaks_only_http2(Codec::SILENT_HTTP2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_was_good_names_http2_when_the_server_is_set_up_anew() {
    let (_service, address) = service().await;
    let mut deployment = Deployment::envoy(&[(HELLO, address)]).await;
    let pomd = deployment.logged_in(&[("hello", HELLO)]).await;
    let gateway: &Gateway = &deployment.gateway;
    let envoy = Envoy::speaking(Codec::HTTP2, gateway, &[(HELLO, address)]).await;
    let config = deployment.config(&[("hello", HELLO)]);
    let was = deployment.address().to_string();
    let now = envoy.address().to_string();
    pomd.reload(&config.replace(&was, &now)).await;
    deployment.envoy = Some(envoy);
    let words = error(&pomd, &["up", "hello"]).await;
    assert!(words.contains("codec_type must not be http2"), "{words}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_with_an_underscore_is_warned_of_and_named_where_it_is_refused() {
    let (_service, address) = service().await;
    let deployment = Deployment::envoy(&[("a_b.corp.test:80", address)]).await;
    let pomd = deployment.logged_in(&[("odd", "a_b.corp.test:80")]).await;
    let words = error(&pomd, &["up", "odd"]).await;
    assert!(words.contains("400"), "{words}");
    assert!(
        words.contains("takes no host name with `_`: the route needs another name"),
        "{words}"
    );
    let checked = pomd.pomctl(&["status"]).await;
    let page = String::from_utf8_lossy(&checked.stdout).into_owned();
    assert!(page.contains("a_b.corp.test"), "{page}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_url_with_another_port_than_the_tunnels_servers_is_told() {
    let (_service, address) = service().await;
    let deployment = Deployment::envoy(&[(HELLO, address)]).await;
    let port = deployment.address().port();
    // Where nothing listens: the port was taken, and is free again.
    let (nothing, nowhere) = service().await;
    drop(nothing);
    let cluster = format!(
        "[cluster.local]\nhosts = [\"localhost\"]\nurl = \"https://localhost:{}\"\nca_file = {:?}\nbrowser = \"none\"\n",
        nowhere.port(),
        deployment.ca_file(),
    );
    let tunnel = format!("[tunnel.hello]\nroute = \"tcp+https://localhost:{port}/{HELLO}\"\n");
    let pomd = Pomd::start(&(cluster + &tunnel)).await;
    let words = error(&pomd, &["login", "local"]).await;
    let hint = format!(
        "the tunnels of local go to port {port}, and its logins to port {}",
        nowhere.port()
    );
    let flat = words.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(flat.contains(&hint), "{words}");
    assert!(
        flat.contains(&format!("set url to its port {port}")),
        "{words}"
    );
}
