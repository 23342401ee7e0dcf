//! Logins that the server does not let begin, and sessions that end under open tunnels.

use std::time::Duration;

use control::{
    client::ClientError,
    wire::{ClusterState, Code},
};
use gateway::Script;
use integration::{
    bystander::echoes,
    deployment::{CLUSTER, Who},
    descriptors,
    pomd::cluster,
    scenario::{ECHO, SSH, Scenario},
};
use tokio::{io::AsyncWriteExt, task::JoinSet, time::Instant};

const LOGIN: &str = "/.pomerium/api/v1/login";

/// Each is told, none is followed or opened; the old token works all the while, and a login in the end.
#[tokio::test(flavor = "multi_thread")]
async fn l6_a_login_page_that_answers_wrongly_is_told_and_the_old_token_kept() {
    let mut scenario = Scenario::new(Who::Gateway).await;
    let page = "<!doctype html><html><body>Sign in to the network</body></html>";
    let answers = [
        (Script::refuse(400), "answered 400"),
        (Script::refuse(404), "answered 404"),
        (Script::refuse(500), "answered 500"),
        (Script::answer(200, "text/html", page), ""),
        (
            Script::answer(302, "text/plain", "").header("location", "https://elsewhere.test/"),
            "",
        ),
        (Script::answer(200, "text/plain", vec![b'x'; 5 << 20]), ""),
    ];
    // While the token is good nobody asks for more.
    for (script, _) in &answers {
        scenario
            .deployment
            .gateway
            .script(LOGIN, script.clone().times(1));
        let answer = scenario
            .pomd
            .client()
            .login(CLUSTER, Default::default())
            .await;
        assert_eq!(answer.unwrap().login, None, "{script:?}");
        scenario.meanwhile(scenario.carries(ECHO)).await;
        scenario.deployment.gateway.forgive();
    }
    scenario.deployment.gateway.end_all_sessions();
    for (script, words) in answers {
        let shown: String = format!("{script:?}").chars().take(100).collect();
        scenario.deployment.gateway.script(LOGIN, script);
        let asking = scenario.pomd.client();
        let asking = asking.login(CLUSTER, Default::default());
        let start = Instant::now();
        let answer = scenario.meanwhile(asking).await;
        match answer {
            Err(ClientError::Api(error)) => {
                let told = error.message.starts_with("cannot start a login to corp");
                assert!(told && error.message.contains(words), "{shown}: {error:?}");
            }
            // The link stands, and what the visitor gets is told there.
            Ok(answer) => {
                let link = answer.login.unwrap().link;
                let page = scenario.deployment.browser.look(&link).await.unwrap();
                assert!(page.status >= 400, "{shown}: {page:?}");
                assert!(page.body.contains(words), "{shown}: {page:?}");
            }
            other => panic!("{shown}: {other:?}"),
        }
        assert!(start.elapsed() < Duration::from_secs(20), "{shown}");
        let status = scenario.pomd.status().await;
        let state = cluster(&status, CLUSTER).state;
        assert_ne!(state, ClusterState::LoggedIn, "{shown}");
        scenario.deployment.gateway.forgive();
    }
    scenario.deployment.log_in(&scenario.pomd).await;
    scenario.forget_logins();
    scenario.recovers().await;
}

/// The session is ended on the server: what is open stays, and one prompt serves all that is new.
#[tokio::test(flavor = "multi_thread")]
async fn l11_a_session_that_ends_on_the_server_costs_one_prompt_and_no_open_connection() {
    const OPEN: usize = 500;
    const NEW: usize = 50;
    descriptors::raise();
    let mut scenario = Scenario::new(Who::Gateway).await;
    let mut open = Vec::new();
    for n in 0..OPEN {
        open.push(scenario.open(if n % 2 == 0 { ECHO } else { SSH }).await);
    }
    scenario.deployment.gateway.end_all_sessions();
    let mut new = JoinSet::new();
    for n in 0..NEW {
        let mut stream = scenario.connect(ECHO).await;
        let words = format!("new one {n}");
        new.spawn(async move { echoes(&mut stream, words.as_bytes()).await });
    }
    let status = scenario
        .pomd
        .wait_for("all new ones wait", |it| {
            cluster(it, CLUSTER).waiting == NEW as u64
        })
        .await;
    let reason = cluster(&status, CLUSTER).reason.as_ref();
    assert!(
        reason.is_none_or(|it| it.code == Code::LoginNeeded),
        "{reason:?}"
    );
    for stream in &mut open {
        echoes(stream, b"still here").await;
    }
    scenario
        .deployment
        .links
        .sign_in(1, &scenario.deployment.browser)
        .await;
    scenario.meanwhile(new.join_all()).await;
    assert_eq!(scenario.deployment.links.all().len(), 1);
    for stream in &mut open {
        stream.write_all(b"x").await.unwrap();
    }
    drop(open);
    scenario.forget_burst();
    scenario.forget_logins();
    scenario.recovers().await;
}
