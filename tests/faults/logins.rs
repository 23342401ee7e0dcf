//! Logins that the server does not let begin, and sessions that end under open tunnels.

use std::time::Duration;

use control::{
    client::ClientError,
    wire::{ClusterState, Code},
};
use gateway::Script;
use integration::{
    corp::{CLUSTER, Who},
    descriptors,
    pomd::cluster,
    scene::{ECHO, SSH, Scene},
    witness::echoes,
};
use tokio::{io::AsyncWriteExt, task::JoinSet, time::Instant};

const LOGIN: &str = "/.pomerium/api/v1/login";

/// Each is told, none is followed or opened; the old token works all the while, and a login in the end.
#[tokio::test(flavor = "multi_thread")]
async fn l6_a_login_page_that_answers_wrongly_is_told_and_the_old_token_kept() {
    let mut scene = Scene::new(Who::Gateway).await;
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
        scene.corp.gateway.script(LOGIN, script.clone().times(1));
        let answer = scene.pomd.client().login(CLUSTER, Default::default()).await;
        assert_eq!(answer.unwrap().login, None, "{script:?}");
        scene.meanwhile(scene.carries(ECHO)).await;
        scene.corp.gateway.forgive();
    }
    scene.corp.gateway.end_all_sessions();
    for (script, words) in answers {
        let shown: String = format!("{script:?}").chars().take(100).collect();
        scene.corp.gateway.script(LOGIN, script);
        let asking = scene.pomd.client();
        let asking = asking.login(CLUSTER, Default::default());
        let start = Instant::now();
        let answer = scene.meanwhile(asking).await;
        match answer {
            Err(ClientError::Api(error)) => {
                let told = error.message.starts_with("cannot start a login to corp");
                assert!(told && error.message.contains(words), "{shown}: {error:?}");
            }
            // The link stands, and what the visitor gets is told there.
            Ok(answer) => {
                let link = answer.login.unwrap().link;
                let page = scene.corp.browser.look(&link).await.unwrap();
                assert!(page.status >= 400, "{shown}: {page:?}");
                assert!(page.body.contains(words), "{shown}: {page:?}");
            }
            other => panic!("{shown}: {other:?}"),
        }
        assert!(start.elapsed() < Duration::from_secs(20), "{shown}");
        let status = scene.pomd.status().await;
        let state = cluster(&status, CLUSTER).state;
        assert_ne!(state, ClusterState::LoggedIn, "{shown}");
        scene.corp.gateway.forgive();
    }
    scene.corp.log_in(&scene.pomd).await;
    scene.forget_logins();
    scene.recovers().await;
}

/// The session is ended on the server: what is open stays, and one prompt serves all that is new.
#[tokio::test(flavor = "multi_thread")]
async fn l11_a_session_that_ends_on_the_server_costs_one_prompt_and_no_open_connection() {
    const OPEN: usize = 500;
    const NEW: usize = 50;
    descriptors::raise();
    let mut scene = Scene::new(Who::Gateway).await;
    let mut open = Vec::new();
    for n in 0..OPEN {
        open.push(scene.open(if n % 2 == 0 { ECHO } else { SSH }).await);
    }
    scene.corp.gateway.end_all_sessions();
    let mut new = JoinSet::new();
    for n in 0..NEW {
        let mut stream = scene.connect(ECHO).await;
        let words = format!("new one {n}");
        new.spawn(async move { echoes(&mut stream, words.as_bytes()).await });
    }
    let status = scene
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
    scene.corp.links.sign_in(1, &scene.corp.browser).await;
    scene.meanwhile(new.join_all()).await;
    assert_eq!(scene.corp.links.all().len(), 1);
    for stream in &mut open {
        stream.write_all(b"x").await.unwrap();
    }
    drop(open);
    scene.forget_logins();
    scene.recovers().await;
}
