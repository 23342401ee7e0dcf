//! A15: a token goes to the hosts of its cluster and to no other.

use gateway::{DEMO_USER, Upstream};
use integration::{
    deployment::{CLUSTER, Deployment, tunnel},
    pomd::Pomd,
};
use tokio::io::AsyncWriteExt;

const ROUTE: &str = "echo.corp.test:7000";

#[tokio::test(flavor = "multi_thread")]
async fn a15_a_token_goes_to_no_host_of_another_cluster() {
    let deployment = Deployment::gateway(|it| it.route(ROUTE, Upstream::Echo)).await;
    // All of these are served by another gateway, and none is a host of corp.
    let others = [
        ("prefix", "evilcorp.test:7000"),
        ("suffix", "corp.test.evil.test:7000"),
        ("deeper", "echo.corp.test.evil.test:7000"),
        (
            "bastion",
            "tcp+https://proxy.evil.test:8443/echo.corp.test:7000",
        ),
    ];
    let evil = Deployment::gateway(|mut it| {
        it = it.domain("evil.test").route(ROUTE, Upstream::Echo);
        for (_, route) in &others[..3] {
            it = it.route(route, Upstream::Echo);
        }
        it
    })
    .await;
    let mut config = deployment.config(&[("echo", ROUTE)]);
    config.push_str(&format!(
        "[cluster.evil]\nhosts = [\"*.evil.test\", \"evilcorp.test\"]\nurl = \"https://evil.test\"\nconnect = \"{}\"\n\
         ca_file = {:?}\nbrowser = {}\n",
        evil.address(),
        evil.ca_file(),
        evil.links.key()
    ));
    for (name, route) in others {
        config.push_str(&tunnel(name, route, ""));
    }
    let pomd = Pomd::start(&config).await;
    deployment.log_in(&pomd).await;
    for (name, _) in others {
        let mut stream = pomd.connect(name).await;
        stream.write_all(b"x").await.unwrap();
        // It asks the other cluster for a login of its own.
        evil.links.nth(1).await;
    }
    assert!(
        evil.gateway.stats().tokens_by_host.is_empty(),
        "{:?}",
        evil.gateway.stats()
    );
    assert!(deployment.links.all().is_empty());
    // And each token stays at home when both are logged in.
    evil.links.sign_in(1, &evil.browser).await;
    for (name, _) in others {
        let mut stream = pomd.connect(name).await;
        stream.write_all(b"x").await.unwrap();
        let mut heard = [0];
        tokio::io::AsyncReadExt::read_exact(&mut stream, &mut heard)
            .await
            .unwrap();
    }
    let at_corp = deployment.gateway.stats();
    let allowed = |it: &String| it == "corp.test" || it.ends_with(".corp.test");
    assert!(
        at_corp.tokens_by_host.keys().all(allowed),
        "{:?}",
        at_corp.tokens_by_host
    );
    assert!(
        at_corp.tokens_by_name.keys().all(allowed),
        "{:?}",
        at_corp.tokens_by_name
    );
    assert_eq!(
        evil.gateway.stats().refused,
        0,
        "a token of corp was tried there"
    );
    let names = evil.gateway.stats().tokens_by_name;
    let theirs =
        |it: &String| it == "evilcorp.test" || it == "evil.test" || it.ends_with(".evil.test");
    assert!(names.keys().all(theirs), "{names:?}");
    assert_eq!(
        deployment.gateway.stats().sign_ins + evil.gateway.stats().sign_ins,
        2
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a15_no_header_is_sent_again_after_a_redirect() {
    let deployment = Deployment::gateway(|it| it.route(ROUTE, Upstream::Echo)).await;
    let other = Deployment::gateway(|it| it.domain("evil.test")).await;
    let pomd = deployment.logged_in(&[("echo", ROUTE)]).await;
    for path in [
        "/.pomerium/user",
        "/.pomerium/api/v1/routes",
        "/.pomerium/",
        ROUTE,
    ] {
        let location = format!("http://{}/", other.address());
        let script = gateway::Script::answer(302, "text/plain", "").header("location", location);
        deployment.gateway.script(path, script.times(3));
    }
    let mut stream = pomd.connect("echo").await;
    stream.write_all(b"x").await.unwrap();
    // A redirect of a CONNECT means that a login is needed.
    deployment.links.nth(1).await;
    let _ = pomd.client().up("echo").await;
    assert_eq!(other.gateway.stats().connections, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a15_what_is_sent_names_the_right_host_everywhere() {
    let deployment = Deployment::gateway(|it| it.route(ROUTE, Upstream::Echo)).await;
    let pomd = deployment.logged_in(&[("echo", ROUTE)]).await;
    let mut stream = pomd.connect("echo").await;
    stream.write_all(b"x").await.unwrap();
    let stats = deployment.gateway.wait_for(|it| it.opened >= 1).await;
    let connect = stats
        .requests
        .iter()
        .find(|it| it.method == "CONNECT")
        .unwrap();
    assert_eq!(
        (connect.target.as_str(), connect.host.as_str()),
        (ROUTE, ROUTE)
    );
    assert_eq!(connect.server_name.as_deref(), Some("echo.corp.test"));
    assert!(
        connect
            .headers
            .contains(&("accept".to_owned(), "application/json".to_owned()))
    );
    assert!(
        deployment
            .gateway
            .stats()
            .requests
            .iter()
            .all(|it| !it.target.contains("eyJ"))
    );
    assert!(!pomd.words().contains("eyJ"), "a token is in the log");
    let shown = serde_json::to_string(&pomd.status().await).unwrap();
    assert!(
        shown.contains(DEMO_USER) && !shown.contains("eyJ"),
        "{shown}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a15_a_host_beside_a_pattern_is_no_host_of_the_cluster() {
    let deployment = Deployment::gateway(|it| it.route(ROUTE, Upstream::Echo)).await;
    let table = [
        ("corp.test:7", true),
        ("a.corp.test:7", true),
        ("a.b.corp.test:7", true),
        ("Echo.CORP.Test:7", true),
        ("echo.corp.test.:7", true),
        ("evilcorp.test:7", false),
        ("a.evilcorp.test:7", false),
        ("corp.test.evil:7", false),
        ("a.corp.test.evil:7", false),
        ("corp.tes:7", false),
        ("corp-test:7", false),
        ("test:7", false),
        ("tcp+https://evil.invalid/echo.corp.test:7", false),
        ("tcp+https://a.corp.test/evil.invalid:7", true),
    ];
    let mut config = deployment.cluster("");
    for (index, (route, _)) in table.iter().enumerate() {
        config.push_str(&tunnel(&format!("t{index}"), route, "start = \"manual\""));
    }
    let pomd = Pomd::start(&config).await;
    let status = pomd.status().await;
    assert!(status.pomd.config.error.is_none(), "{status:#?}");
    for (index, (route, ours)) in table.iter().enumerate() {
        let shown = integration::pomd::tunnel(&status, &format!("t{index}"));
        assert_eq!(
            shown.cluster == CLUSTER,
            *ours,
            "{route} is in {}",
            shown.cluster
        );
    }
}
