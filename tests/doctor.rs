//! The doctor: for each planted fault it names the step that is at fault and what to do, and leaves the session, the
//! tunnel and the status as they were.

mod machine;
mod tokens;
mod well;

use std::{fs, net::TcpStream as StdStream, sync::Arc};

use control::wire::{CheckName, CheckOutcome, ClusterState, Diagnosis, Examination, TunnelState};
use gateway::{
    Certificate, DEMO_USER, PortBehaviour, Script, Upstream,
    forward_proxy::{ForwardProxy, Play},
};
use integration::{
    PATIENCE,
    binary::binary,
    deployment::{CLUSTER, Deployment, tunnel},
    pomd::{Pomd, cluster, run, tunnel as shown},
    relay::Relay,
};
use jiff::{SignedDuration, Timestamp};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use socket2::{Domain, Socket, Type};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;

const ROUTE: &str = "echo.corp.test:7000";
const SSH_ROUTE: &str = "ssh.corp.test:22";

/// A company, the wire before it, and a pomd that is logged in.
struct Scene {
    deployment: Deployment,
    relay: Relay,
    pomd: Pomd,
}

/// What a doctor should find.
struct Finding {
    step: CheckName,
    /// The exit code of pomctl.
    exit: i32,
    /// What its message says.
    words: &'static str,
    /// What its remedy says, or one of these where the machine decides.
    remedy: &'static [&'static str],
}

impl Scene {
    async fn new() -> Self {
        let sshd = Upstream::service(|mut stream, _| async move {
            let _ = stream.write_all(b"SSH-2.0-OpenSSH_9.6\r\n").await;
            let _ = stream.read(&mut [0]).await;
        });
        let build = |it: gateway::Builder| it.route(ROUTE, Upstream::Echo).route(SSH_ROUTE, sshd);
        let deployment = Deployment::gateway(build).await;
        let relay = Relay::start(deployment.address()).await;
        let pomd = Pomd::start(&Self::config(&deployment, &relay, "")).await;
        deployment.log_in(&pomd).await;
        Self {
            deployment,
            relay,
            pomd,
        }
    }

    /// The company's cluster with these lines more, dialled by the wire unless they say otherwise, and its tunnels.
    fn config(deployment: &Deployment, relay: &Relay, more: &str) -> String {
        let cluster = match more.contains("connect") || more.contains("forward_proxy") {
            true => deployment.cluster_by_name(more),
            false => deployment.cluster_at(relay.address(), more),
        };
        let tunnels = [
            ("echo", ROUTE),
            ("ssh", SSH_ROUTE),
            ("gone", "gone.corp.test:7000"),
        ];
        cluster
            + &tunnels
                .map(|(name, route)| tunnel(name, route, ""))
                .concat()
    }

    /// Goes on with these lines more in the cluster's section.
    async fn reload(&self, more: &str) {
        let config = Self::config(&self.deployment, &self.relay, more);
        self.pomd.reload(&config).await;
    }

    /// Goes on with the cluster alone.
    async fn reload_without_tunnels(&self) {
        let cluster = self.deployment.cluster_at(self.relay.address(), "");
        self.pomd.reload(&cluster).await;
    }

    /// Has the doctor look at the tunnel.
    async fn examined(&self, tunnel: &str) -> (Option<i32>, Diagnosis) {
        let output = self.pomd.pomctl(&["doctor", tunnel, "--json"]).await;
        let said = String::from_utf8(output.stdout).unwrap();
        self.keeps_the_token(&said);
        let found: Result<Examination, _> = serde_json::from_str(&said);
        let found = found
            .unwrap_or_else(|error| panic!("{error}: {said} {output:?}", output = output.stderr));
        assert_eq!(found.healthy, output.status.success(), "{found:#?}");
        let [diagnosis] = &found.tunnels[..] else {
            panic!("not one tunnel: {found:#?}")
        };
        (output.status.code(), diagnosis.clone())
    }

    fn keeps_the_token(&self, said: &str) {
        assert!(!said.contains(&self.pomd.setup().saved_token()), "{said}");
        assert!(!said.contains("sign_in"), "{said}");
    }

    /// The doctor finds this and nothing else wrong with `tunnel`, and changes nothing.
    async fn finds(&self, tunnel: &str, finding: Finding) {
        let before = self.pomd.status().await;
        let (exit, diagnosis) = self.examined(tunnel).await;
        let bad = |it: &&control::wire::Check| it.outcome == CheckOutcome::Bad;
        let bad: Vec<_> = diagnosis.checks.iter().filter(bad).collect();
        let [check] = bad[..] else {
            panic!(
                "{:?} is not what is wrong alone: {diagnosis:#?}",
                finding.step
            )
        };
        assert_eq!(check.name, finding.step, "{check:#?}");
        assert!(check.message.contains(finding.words), "{check:#?}");
        let hint = check.hint.clone().unwrap_or_default();
        assert!(
            finding.remedy.iter().any(|it| hint.contains(it)),
            "{check:#?}"
        );
        assert_eq!(exit, Some(finding.exit), "{diagnosis:#?}");
        // A person sees the same.
        let output = self.pomd.pomctl(&["doctor", tunnel]).await;
        assert_eq!(output.status.code(), Some(finding.exit));
        let page = String::from_utf8(output.stdout).unwrap();
        assert!(page.contains(finding.words), "{page}");
        assert!(page.contains("1 step failed: "), "{page}");
        self.keeps_the_token(&page);
        let after = self.pomd.status().await;
        assert_eq!(shown(&after, tunnel).state, TunnelState::Up);
        assert_eq!(shown(&after, tunnel).reason, None);
        assert_eq!(cluster(&after, CLUSTER), cluster(&before, CLUSTER));
        assert_eq!(cluster(&after, CLUSTER).state, ClusterState::LoggedIn);
    }

    /// All is well, and each step says so.
    async fn is_well(&self, tunnel: &str) -> Diagnosis {
        let (exit, diagnosis) = self.examined(tunnel).await;
        assert_eq!(exit, Some(0), "{diagnosis:#?}");
        for check in &diagnosis.checks {
            let expected = match check.name {
                CheckName::ForwardProxy => CheckOutcome::NotDone,
                _ => CheckOutcome::Good,
            };
            assert_eq!(check.outcome, expected, "{check:#?}");
        }
        diagnosis
    }

    /// From now on another server is there that has the company's certificate and gives everybody this answer.
    async fn serve_instead(&self, answer: &'static str) -> JoinSet<()> {
        let identity = self.deployment.gateway.server_identity().unwrap();
        let chain = CertificateDer::from_pem_slice(identity.certificate.as_bytes()).unwrap();
        let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).unwrap();
        let config = rustls::ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![chain], key);
        let tls = TlsAcceptor::from(Arc::new(config.unwrap()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        self.relay.lead_to(listener.local_addr().unwrap());
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut clients = JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                let tls = tls.clone();
                clients.spawn(async move {
                    let mut stream = tls.accept(socket).await?;
                    if stream.read(&mut [0; 4096]).await? == 0 {
                        return Ok(());
                    }
                    stream.write_all(answer.as_bytes()).await?;
                    stream.shutdown().await
                });
            }
        });
        serving
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_ca_is_found_at_tls() {
    let scene = Scene::new().await;
    let other = Deployment::gateway(|it| it).await;
    fs::write(scene.deployment.ca_file(), other.gateway.ca_pem()).unwrap();
    // The two authorities have one name, and only one of them signed.
    let finding = Finding {
        step: CheckName::Tls,
        exit: 1,
        words: "is not trusted",
        remedy: &["renew ca_file in [cluster.corp]"],
    };
    scene.finds("echo", finding).await;
    fs::write(
        scene.deployment.ca_file(),
        scene.deployment.gateway.ca_pem(),
    )
    .unwrap();
    scene.is_well("echo").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_an_unknown_ca_is_found_at_tls() {
    let scene = Scene::new().await;
    scene
        .deployment
        .gateway
        .show(Certificate::OtherAuthority)
        .unwrap();
    let finding = Finding {
        step: CheckName::Tls,
        exit: 1,
        words: "issued by \"A CA that nobody trusts\", which this machine does not know",
        remedy: &["If this Pomerium has a private CA, ca_file in [cluster.corp] must hold it"],
    };
    scene.finds("echo", finding).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_certificate_is_found_at_tls() {
    let scene = Scene::new().await;
    scene.deployment.gateway.show(Certificate::Expired).unwrap();
    let finding = Finding {
        step: CheckName::Tls,
        exit: 1,
        words: "the certificate of echo.corp.test expired on 2002-01-01",
        remedy: &["the server needs a new one"],
    };
    scene.finds("echo", finding).await;
    scene.deployment.gateway.show(Certificate::Good).unwrap();
    scene.is_well("echo").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_intercepting_proxy_is_found_at_tls_by_its_name() {
    let scene = Scene::new().await;
    let way = Deployment::gateway(|it| it.certificate(Certificate::Inspected)).await;
    scene.relay.lead_to(way.address());
    let finding = Finding {
        step: CheckName::Tls,
        exit: 1,
        words: "issued by \"Zscaler Intermediate Root CA\"",
        remedy: &["this network decrypts TLS: ask your IT department to exempt this host"],
    };
    scene.finds("echo", finding).await;
    assert_eq!(way.gateway.stats().requests, [], "no token, no request");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_not_known_is_found_at_dns() {
    let scene = Scene::new().await;
    scene.reload("connect = \"no-such-name.invalid:443\"").await;
    let finding = Finding {
        step: CheckName::Dns,
        exit: 1,
        words: "no-such-name.invalid",
        remedy: &[
            "VPN off, or a typo?",
            "is this machine offline, or its name server gone?",
        ],
    };
    scene.finds("echo", finding).await;
    // A shell that knows of a forward proxy says so.
    let mut command = scene.pomd.setup().command(&binary("pomctl"));
    command.args(["doctor", "echo"]);
    command.env("HTTPS_PROXY", "http://proxy.lan:3128");
    let output = run(command, PATIENCE).await;
    let page = String::from_utf8(output.stdout).unwrap();
    assert!(
        page.contains("This shell has HTTPS_PROXY set, pomd has not"),
        "{page}"
    );
    scene.reload("").await;
    scene.is_well("echo").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_swallows_everything_is_found_at_tcp() {
    let scene = Scene::new().await;
    // A listener whose queue is full: what comes more gets no answer.
    let full = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    full.bind(
        &"127.0.0.1:0"
            .parse::<std::net::SocketAddr>()
            .unwrap()
            .into(),
    )
    .unwrap();
    full.listen(0).unwrap();
    let address = full.local_addr().unwrap().as_socket().unwrap();
    let limit = std::time::Duration::from_millis(300);
    let mut queue = Vec::new();
    while let Ok(one) = StdStream::connect_timeout(&address, limit) {
        queue.push(one);
    }
    scene.reload(&format!("connect = \"{address}\"")).await;
    let finding = Finding {
        step: CheckName::Tcp,
        exit: 1,
        words: "no answer within 10 s",
        remedy: &["is a VPN off, or a firewall in the way?"],
    };
    scene.finds("echo", finding).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forward_proxy_that_refuses_is_found_with_what_it_wants() {
    let scene = Scene::new().await;
    let login = Some("alice:secret".to_owned());
    let proxy = ForwardProxy::start(Play::Http(login), scene.deployment.address());
    let proxy = proxy.await.unwrap();
    let setting = format!("forward_proxy = \"http://{}\"", proxy.address());
    scene.reload(&setting).await;
    let finding = Finding {
        step: CheckName::ForwardProxy,
        exit: 1,
        words: "answered 407, it wants a password",
        remedy: &["forward_proxy_auth = { file = "],
    };
    scene.finds("echo", finding).await;
    proxy.play(Play::Http(None));
    let (exit, diagnosis) = scene.examined("echo").await;
    assert_eq!(exit, Some(0), "{diagnosis:#?}");
    let way: Vec<_> = diagnosis.checks[1..4]
        .iter()
        .map(|it| it.message.clone())
        .collect();
    let by_proxy = format!("http://{}", proxy.address());
    let expected = [
        "the forward proxy looks the name up",
        &by_proxy,
        "the forward proxy connects",
    ];
    assert_eq!(way, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_a_day_off_is_found_at_http() {
    let scene = Scene::new().await;
    let day = SignedDuration::from_hours(24);
    for (server, words) in [
        (
            now() + day,
            "this machine's clock is 1d behind the server's",
        ),
        (
            now() - day,
            "this machine's clock is 1d ahead of the server's",
        ),
    ] {
        scene.deployment.gateway.forgive();
        let script = Script::new().header("date", http_date(server));
        scene.deployment.gateway.script("/.pomerium/user", script);
        let finding = Finding {
            step: CheckName::Http,
            exit: 1,
            words,
            remedy: &["set this machine's clock"],
        };
        scene.finds("echo", finding).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_ended_is_found_at_the_session_and_not_touched() {
    let scene = Scene::new().await;
    scene.deployment.gateway.end_all_sessions();
    let finding = Finding {
        step: CheckName::Session,
        exit: 4,
        words: "corp does not take the login of demo@example.com any more (401)",
        remedy: &["log in again: pomctl login corp"],
    };
    scene.finds("echo", finding).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_logged_in_is_found_at_the_session_behind_the_way_there() {
    let scene = Scene::new().await;
    scene.pomd.client().logout(CLUSTER).await.unwrap();
    let output = scene.pomd.pomctl(&["doctor", "echo"]).await;
    assert_eq!(output.status.code(), Some(4));
    let page = String::from_utf8(output.stdout).unwrap();
    assert!(page.contains("nobody is logged in to corp"), "{page}");
    assert!(page.contains("Log in: pomctl login corp"), "{page}");
    assert!(page.contains("Pomerium answers"), "{page}");
    assert!(page.contains("policy, upstream: not tried"), "{page}");
    assert_eq!(
        scene.deployment.links.all().len(),
        0,
        "no login was asked for"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_says_no_is_found_with_the_request_id() {
    let scene = Scene::new().await;
    scene.deployment.gateway.forbid(DEMO_USER, ROUTE);
    let finding = Finding {
        step: CheckName::Policy,
        exit: 1,
        words: "demo@example.com may not use echo.corp.test:7000 (403)",
        remedy: &["send the request id to your Pomerium administrator and ask for access"],
    };
    scene.finds("echo", finding).await;
    let (_, diagnosis) = scene.examined("echo").await;
    let policy = diagnosis
        .checks
        .iter()
        .find(|it| it.name == CheckName::Policy)
        .unwrap();
    assert!(
        policy.facts.iter().any(|it| it.0 == "request id"),
        "{policy:#?}"
    );
    scene.is_well("ssh").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_that_is_not_there_is_found_at_the_policy_with_similar_ones() {
    let scene = Scene::new().await;
    let finding = Finding {
        step: CheckName::Policy,
        exit: 1,
        words: "corp has no route gone.corp.test:7000 (404)",
        remedy: &["the port is part of a route's name"],
    };
    scene.finds("gone", finding).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_server_answers_is_found_at_its_step() {
    let scene = Scene::new().await;
    for (status, step, words, remedy) in [
        (
            450,
            CheckName::Policy,
            "corp doesn't know this device yet (450)",
            &["enrol it, then try again: https://echo.corp.test/.pomerium/"][..],
        ),
        (
            495,
            CheckName::Policy,
            "corp wants a client certificate, and none is set (495)",
            &["set client_cert and client_key in [cluster.corp]"][..],
        ),
        (
            503,
            CheckName::Upstream,
            "Pomerium can't reach the service behind echo.corp.test:7000 (503)",
            &["the next connection tries again"][..],
        ),
    ] {
        scene.deployment.gateway.forgive();
        scene
            .deployment
            .gateway
            .script(ROUTE, Script::refuse(status));
        let finding = Finding {
            step,
            exit: 1,
            words,
            remedy,
        };
        scene.finds("echo", finding).await;
    }
    scene.deployment.gateway.forgive();
    scene.is_well("echo").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_not_pomerium_is_found_at_http() {
    let scene = Scene::new().await;
    for answer in [
        "HTTP/1.1 404 Not Found\r\nContent-Type: text/html\r\nContent-Length: 9\r\nConnection: close\r\n\r\nnot found",
        "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 9\r\nConnection: close\r\n\r\nIt works!",
    ] {
        let _server = scene.serve_instead(answer).await;
        let finding = Finding {
            step: CheckName::Http,
            exit: 1,
            words: "does not answer as Pomerium does: 9 bytes of text/html",
            remedy: &["is it a Pomerium, or is a login page of the network in the way?"],
        };
        scene.finds("echo", finding).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_captive_portal_is_found_before_the_token_is_sent() {
    let scene = Scene::new().await;
    let portal =
        "HTTP/1.1 302 Found\r\nLocation: http://portal.test/login\r\nContent-Length: 0\r\n\r\n";
    let way = Deployment::gateway(|it| it).await;
    way.gateway
        .port_behaviour(PortBehaviour::Says(portal.into()));
    scene.relay.lead_to(way.address());
    let finding = Finding {
        step: CheckName::Tls,
        exit: 1,
        words: "does not speak TLS (HTTP answered)",
        remedy: &["a login page in the way?"],
    };
    scene.finds("echo", finding).await;
    // One that has a certificate which is taken is known by its answer.
    let _server = scene.serve_instead(portal).await;
    let finding = Finding {
        step: CheckName::Http,
        exit: 1,
        words: "does not answer as Pomerium does",
        remedy: &["is a login page of the network in the way?"],
    };
    scene.finds("echo", finding).await;
}

/// A time as the header `Date` tells it.
fn http_date(at: Timestamp) -> String {
    at.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

fn now() -> Timestamp {
    #[expect(clippy::disallowed_methods, reason = "the clock of a server")]
    Timestamp::now()
}
