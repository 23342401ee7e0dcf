mod handover;
mod world;

use std::sync::atomic::Ordering::SeqCst;

use control::wire::{ClusterState, Code, LoginRequest, Opener};
use pomd_core::session::callback::DONE;
use tokio::time::Instant;

use super::{
    super::{
        LoginOutcome, NoGrant,
        fakes::{path_of, visit},
    },
    *,
};
use pomd_core::session::{Patience, error::LoginError};
use world::World;

const NEEDS_LOGIN: &str = "corp needs a login. Run: pomctl login corp";
const SSH: Patience = Patience {
    unasked: Duration::ZERO,
    asked: Duration::from_secs(300),
    client_asks: false,
};
const OTHER: Patience = Patience {
    unasked: Duration::from_secs(30),
    ..SSH
};

#[tokio::test(start_paused = true)]
async fn l1_a_thousand_waiting_connections_get_one_prompt_and_the_same_token() {
    let mut world = World::new().await;
    let mut waiting = JoinSet::new();
    for number in 0..1000 {
        let session = world.session.clone();
        let patience = if number % 2 == 0 { SSH } else { OTHER };
        waiting.spawn(async move { session.grant(None, patience).await });
    }
    world
        .wait_for(|it| it.waiting == 1000 && it.state == ClusterState::LoginRunning)
        .await;
    assert_eq!(world.answer("one").await.status, 303);
    while let Some(grant) = waiting.join_next().await {
        let grant = grant.unwrap().unwrap();
        assert_eq!((grant.generation, grant.token.reveal()), (1, "one"));
    }
    let view = world.wait_for(|it| it.waiting == 0).await;
    assert_eq!(view.state, ClusterState::LoggedIn);
    assert_eq!(
        view.grant.unwrap().user.as_deref(),
        Some("alice@example.com")
    );
    assert_eq!(world.browser.shown().len(), 1);
    let page = world.visit("/done").await.whole;
    assert!(
        page.contains("as alice@example.com. 1000 waiting connections go on."),
        "{page}"
    );
}

#[tokio::test(start_paused = true)]
async fn l2_a_person_who_never_comes_is_not_asked_again_but_the_link_works_for_its_hour() {
    let world = World::new().await;
    let begun = Instant::now();
    let refused = world.session.grant(None, SSH).await.unwrap_err();
    assert_eq!(refused.reason.message, NEEDS_LOGIN);
    assert!(
        (299..=331).contains(&begun.elapsed().as_secs()),
        "{:?}",
        begun.elapsed()
    );
    let begun = Instant::now();
    for patience in [SSH, OTHER] {
        let refused = world.session.grant(None, patience).await.unwrap_err();
        assert_eq!(refused.reason.message, NEEDS_LOGIN);
    }
    assert_eq!(begun.elapsed(), Duration::ZERO);
    assert_eq!(world.view().state, ClusterState::LoginNeeded);
    assert_eq!(world.browser.shown().len(), 1);

    tokio::time::advance(Duration::from_secs(50 * 60)).await;
    assert_eq!(world.visit(&world.link_path()).await.status, 302);
    tokio::time::sleep(Duration::from_secs(10 * 60)).await;
    let closed = visit(world.port(), &world.link_path()).await.unwrap_err();
    assert_eq!(closed.kind(), std::io::ErrorKind::ConnectionRefused);
    assert_eq!(world.browser.shown().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_answer_to_an_unanswered_link_logs_in() {
    let mut world = World::new().await;
    world.session.grant(None, SSH).await.unwrap_err();
    assert_eq!(world.answer("one").await.status, 303);
    assert!(world.session.grant(None, SSH).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn without_a_browser_ssh_is_refused_at_once_and_others_after_half_a_minute() {
    let world = World::new().await;
    world.browser.missing.store(true, SeqCst);
    let begun = Instant::now();
    let refused = world.session.grant(None, SSH).await.unwrap_err();
    assert_eq!(
        (refused.reason.message.as_str(), begun.elapsed()),
        (NEEDS_LOGIN, Duration::ZERO)
    );
    assert_eq!(refused.reason.code, Code::LoginNeeded);
    world.session.grant(None, OTHER).await.unwrap_err();
    assert_eq!(begun.elapsed().as_secs(), 30);
    assert_eq!(world.server.minted.load(SeqCst), 0);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_waits_without_a_browser_goes_on_when_a_person_logs_in() {
    let mut world = World::new().await;
    world.browser.missing.store(true, SeqCst);
    let session = world.session.clone();
    world.tasks.spawn(async move {
        session.grant(None, OTHER).await.unwrap();
    });
    world.wait_for(|it| it.waiting == 1).await;
    let open = world.login(Opener::Caller).await;
    world.answer_at(&open, "one").await;
    world
        .wait_for(|it| it.waiting == 0 && it.grant.is_some())
        .await;
    assert!(world.browser.shown().is_empty());
}

#[tokio::test(start_paused = true)]
async fn l3_a_connection_that_leaves_withdraws_its_demand() {
    let mut world = World::new().await;
    let mut waiting = JoinSet::new();
    for _ in 0..3 {
        let session = world.session.clone();
        waiting.spawn(async move { session.grant(None, SSH).await });
    }
    world.wait_for(|it| it.waiting == 3).await;
    waiting.shutdown().await;
    world.wait_for(|it| it.waiting == 0).await;
}

#[tokio::test(start_paused = true)]
async fn l4_a_browser_that_does_not_start_is_told_and_the_login_still_works() {
    let mut world = World::new().await;
    world.browser.failing.store(true, SeqCst);
    let refused = world.session.grant(None, SSH).await.unwrap_err();
    assert_eq!(refused.reason.message, NEEDS_LOGIN);
    let hint = refused.reason.hint.as_deref();
    assert_eq!(
        hint,
        Some("the browser did not open: firefox ended with exit code 1")
    );
    assert_eq!(world.view().state, ClusterState::LoginNeeded);
    let open = world.login(Opener::Caller).await;
    assert!(open.fresh, "nobody has seen it yet");
    assert_eq!(world.answer_at(&open, "one").await.status, 303);
}

#[tokio::test(start_paused = true)]
async fn l6_a_login_page_out_of_reach_is_told_tried_again_and_reached_in_the_end() {
    let mut world = World::new().await;
    world.server.break_down(true);
    let refused = world.session.grant(None, SSH).await.unwrap_err();
    assert_eq!(refused.reason.code, Code::Tcp);
    let words = "cannot start a login to corp: cannot reach corp.example.com (198.51.100.7): connection refused";
    assert_eq!(refused.reason.message, words);
    let hint = refused.reason.hint.unwrap();
    assert!(
        hint.starts_with("pomd tries again for the next connection after 5 s"),
        "{hint}"
    );
    assert_eq!(world.view().reason.unwrap().message, words);

    let session = world.session.clone();
    world.tasks.spawn(async move {
        session.grant(None, OTHER).await.unwrap();
    });
    world.wait_for(|it| it.waiting == 1).await;
    world.server.break_down(false);
    let begun = Instant::now();
    world
        .wait_for(|it| it.state == ClusterState::LoginRunning)
        .await;
    assert!(
        begun.elapsed() < Duration::from_secs(7),
        "{:?}",
        begun.elapsed()
    );
    world.answer("one").await;
    world.wait_for(|it| it.waiting == 0).await;
}

#[tokio::test(start_paused = true)]
async fn l7_the_second_token_that_is_refused_at_once_is_the_last_that_is_asked_for() {
    let mut world = World::new().await;
    for generation in 1..=2 {
        let session = world.session.clone();
        world.tasks.spawn(async move {
            let _ = session.grant(Some(generation - 1), SSH).await;
        });
        world
            .wait_for(|it| it.state == ClusterState::LoginRunning)
            .await;
        world.shown(generation as usize).await;
        world.answer("one").await;
        world.session.refused(generation).await;
    }
    let refused = world.session.grant(Some(2), SSH).await.unwrap_err();
    assert!(
        refused
            .reason
            .message
            .starts_with("corp refuses the token it just gave")
    );
    assert_eq!(world.browser.shown().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn l8_a_late_refusal_does_not_harm_a_newer_token() {
    let mut world = World::logged_in().await;
    world.session.refused(1).await;
    assert_eq!(world.view().grant, None);
    let open = world.login(Opener::Caller).await;
    world.answer_at(&open, "two").await;
    world.session.refused(1).await;
    let grant = world.session.grant(Some(1), SSH).await.unwrap();
    assert_eq!((grant.generation, grant.token.reveal()), (2, "two"));
}

#[tokio::test(start_paused = true)]
async fn a_login_that_is_asked_for_anew_leaves_the_last_page_of_the_one_before() {
    let mut world = World::new().await;
    let mut ports = Vec::new();
    for generation in 1..=attempt::LINGERING as u64 + 1 {
        let open = world.login(Opener::Caller).await;
        let answered = world.answer_at(&open, "one").await;
        assert_eq!(answered.header("location"), Some(DONE));
        world.session.accepted(generation);
        world.session.refused(generation).await;
        ports.push(open.port);
    }
    let open = world.login(Opener::Caller).await;
    assert!(!ports.contains(&open.port));
    let (oldest, newer) = ports.split_at(1);
    for port in newer {
        assert_eq!(visit(*port, DONE).await.unwrap().status, 200);
    }
    // There is an end to it.
    while visit(oldest[0], DONE).await.is_ok() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_is_told_what_became_of_the_session() {
    for (replaced, code, words) in [
        (
            true,
            Code::LoginFailed,
            "the settings of corp changed meanwhile; connect again",
        ),
        (false, Code::Stopping, "pomd is stopping"),
    ] {
        let mut world = World::new().await;
        let session = world.session.clone();
        let waiting = JoinSet::from_iter([async move { session.grant(None, SSH).await }]);
        world
            .wait_for(|it| it.state == ClusterState::LoginRunning)
            .await;
        if replaced {
            world.session.mark_replaced();
        }
        world.stop.cancel();
        while world.tasks.join_next().await.is_some() {}
        let refused = waiting.join_all().await.remove(0).unwrap_err();
        assert_eq!(
            (refused.reason.code, refused.reason.message.as_str()),
            (code, words)
        );
    }
    let mut world = World::new().await;
    world.tasks.shutdown().await;
    let refused = world.session.grant(None, SSH).await.unwrap_err();
    assert_eq!(refused.reason.code, Code::Internal);
}

#[tokio::test(start_paused = true)]
async fn a_person_who_is_logged_in_is_told_so_after_the_server_was_asked() {
    let world = World::logged_in().await;
    let asked = world.server.asked.load(SeqCst);
    let outcome = world.session.login(LoginRequest::default()).await.unwrap();
    assert!(matches!(outcome, LoginOutcome::LoggedIn));
    assert_eq!(world.server.asked.load(SeqCst), asked + 1);
}

#[tokio::test(start_paused = true)]
async fn a_person_whose_token_the_server_refuses_gets_a_login() {
    let mut world = World::logged_in().await;
    world.server.forget("one");
    let open = world.login(Opener::Caller).await;
    assert!(open.fresh);
    assert_eq!(world.view().grant, None);
    assert_eq!(world.saved(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_person_is_told_which_step_fails_and_the_token_is_kept() {
    let world = World::logged_in().await;
    world.server.break_down(true);
    let error = world
        .session
        .login(LoginRequest::default())
        .await
        .unwrap_err();
    assert_eq!(error.describe("corp").code, Code::Tcp);
    assert!(world.view().grant.is_some());

    let world = World::new().await;
    world.server.break_down(true);
    let error = world
        .session
        .login(LoginRequest::default())
        .await
        .unwrap_err();
    assert_eq!(error.describe("corp").code, Code::Tcp);
}

#[tokio::test(start_paused = true)]
async fn the_answer_to_a_login_holds_what_was_asked_for() {
    let mut world = World::new().await;
    let open = world.login(Opener::Caller).await;
    assert_eq!(
        open.link,
        format!("http://127.0.0.1:{}{}", open.port, path_of(&open.link))
    );
    assert_eq!(
        (&open.sign_in_url, &open.sign_in_host, open.fresh),
        (&None, &None, true)
    );
    assert_eq!(
        open.expires_at
            .duration_since(world.time.now())
            .as_secs()
            .abs_diff(3600),
        0
    );
    let request = LoginRequest {
        opener: Opener::Caller,
        mint: true,
    };
    let LoginOutcome::Open(again) = world.session.login(request).await.unwrap() else {
        panic!("logged in")
    };
    assert_eq!((&again.link, again.fresh), (&open.link, false));
    assert_eq!(
        again.sign_in_host.as_deref(),
        Some("authenticate.example.com")
    );
    assert!(
        again
            .sign_in_url
            .unwrap()
            .contains("redirect=http://127.0.0.1:")
    );
    assert!(world.browser.shown().is_empty());
    let by_pomd = world.login(Opener::Pomd).await;
    world.shown(1).await;
    assert_eq!(world.browser.shown(), [by_pomd.link]);
}

#[tokio::test(start_paused = true)]
async fn a_minted_login_costs_one_question_to_the_server() {
    let world = World::new().await;
    let request = LoginRequest {
        opener: Opener::Caller,
        mint: true,
    };
    let LoginOutcome::Open(open) = world.session.login(request).await.unwrap() else {
        panic!("logged in")
    };
    assert!(open.sign_in_url.unwrap().contains("?n=1&"));
    assert_eq!(world.server.minted.load(SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn a_saved_login_counts_at_the_next_start_without_asking_the_server() {
    let world = World::logged_in().await;
    *world.server.until.lock().unwrap() = None;
    let world = world.restart().await;
    let view = world.view();
    assert_eq!(view.state, ClusterState::LoggedIn);
    assert_eq!(
        view.grant.unwrap().user.as_deref(),
        Some("alice@example.com")
    );
    assert_eq!(world.session.grant(None, SSH).await.unwrap().generation, 1);
    assert_eq!(world.server.asked.load(SeqCst), 1);

    world.session.refused(1).await;
    let world = world.restart().await;
    assert_eq!(world.view().state, ClusterState::LoginNeeded);
}

#[tokio::test(start_paused = true)]
async fn a_logout_forgets_the_token_and_its_file_and_is_quiet() {
    let mut world = World::logged_in().await;
    assert_eq!(world.saved(), ["corp.example.com.json"]);
    assert_eq!(
        world.session.sign_out_url(),
        "https://corp.example.com/.pomerium/sign_out"
    );
    let gone = world.session.logout().await.unwrap();
    assert_eq!(gone.token.reveal(), "one");
    assert_eq!(world.server.left.load(SeqCst), 1);
    assert_eq!(world.saved(), Vec::<String>::new());
    assert_eq!(world.view().state, ClusterState::LoggedOut);
    let refused = world.session.grant(None, OTHER).await.unwrap_err();
    assert_eq!(refused.reason.message, NEEDS_LOGIN);
    assert!(world.browser.shown().is_empty());
    assert_eq!(world.session.logout().await, None);
    world.login(Opener::Caller).await;
}

#[tokio::test(start_paused = true)]
async fn a_logout_sends_the_waiting_away_and_closes_the_open_login() {
    let mut world = World::new().await;
    let session = world.session.clone();
    let waiting = tokio::task::JoinSet::from_iter([async move { session.grant(None, SSH).await }]);
    world
        .wait_for(|it| it.state == ClusterState::LoginRunning)
        .await;
    world.shown(1).await;
    world.session.logout().await;
    let [refused] = &waiting.join_all().await[..] else {
        panic!("one waited")
    };
    assert!(refused.is_err());
    let late = world.visit(&world.link_path()).await;
    assert_eq!(late.status, 410);
}

#[tokio::test(start_paused = true)]
async fn s2_a_login_that_cannot_be_saved_works_and_is_saved_when_it_can() {
    let mut world = World::new().await;
    std::fs::write(world.state(), "in the way").unwrap();
    let open = world.login(Opener::Caller).await;
    world.answer_at(&open, "one").await;
    let view = world.view();
    assert_eq!(view.state, ClusterState::LoggedIn);
    let reason = view.reason.unwrap();
    assert_eq!(reason.code, Code::Local);
    assert!(
        reason.message.starts_with("cannot save the login: "),
        "{}",
        reason.message
    );
    std::fs::remove_file(world.state()).unwrap();
    world.wait_for(|it| it.reason.is_none()).await;
    assert_eq!(world.saved(), ["corp.example.com.json"]);
}

#[tokio::test(start_paused = true)]
async fn a7_another_account_than_before_is_pointed_out() {
    let mut world = World::logged_in().await;
    world.session.refused(1).await;
    let open = world.login(Opener::Caller).await;
    world.answer_at(&open, "mallory's").await;
    let page = visit(open.port, "/done").await.unwrap().whole;
    assert!(
        page.contains("This is another account than before (alice@example.com)."),
        "{page}"
    );
}

#[tokio::test(start_paused = true)]
async fn until_is_told_only_while_it_lies_ahead() {
    let mut world = World::new().await;
    let until = world.time.now() + jiff::SignedDuration::from_hours(2);
    *world.server.until.lock().unwrap() = Some(until);
    let open = world.login(Opener::Caller).await;
    world.answer_at(&open, "one").await;
    assert_eq!(world.view().until, Some(until));
    world.time.jump(3 * 3600);
    world.session.refused(99).await;
    assert_eq!(world.view().until, None);
    assert!(world.view().grant.is_some());
}

#[tokio::test(start_paused = true)]
async fn k1_sleep_opens_no_window_and_sends_the_waiting_away() {
    let mut world = World::new().await;
    world.server.break_down(true);
    let session = world.session.clone();
    let patient = Patience {
        unasked: Duration::from_secs(3600),
        ..SSH
    };
    let waiting = JoinSet::from_iter([async move { session.grant(None, patient).await }]);
    world
        .wait_for(|it| it.reason.as_ref().is_some_and(|it| it.code == Code::Tcp))
        .await;
    world.time.jump(8 * 3600);
    world.server.break_down(false);
    assert!(waiting.join_all().await[0].is_err());
    assert!(world.browser.shown().is_empty());
    let session = world.session.clone();
    world.tasks.spawn(async move {
        let _ = session.grant(None, SSH).await;
    });
    world.shown(1).await;
}

#[tokio::test(start_paused = true)]
async fn k2_a_clock_that_jumps_to_and_fro_keeps_the_token_and_makes_no_storm() {
    let world = World::logged_in().await;
    let minted = world.server.minted.load(SeqCst);
    for _ in 0..100 {
        for seconds in [3600, -3600, 315_360_000, -315_360_000] {
            world.time.jump(seconds);
            tokio::time::sleep(Duration::from_secs(1)).await;
            world.session.grant(None, SSH).await.unwrap();
        }
    }
    assert!(world.browser.shown().is_empty());
    assert_eq!(world.server.minted.load(SeqCst), minted);
}

#[tokio::test(start_paused = true)]
async fn an_idle_session_sleeps() {
    let world = World::logged_in().await;
    let before = tokio::runtime::Handle::current().metrics();
    tokio::time::sleep(Duration::from_secs(120)).await;
    let polled = before.num_alive_tasks();
    assert_eq!(
        polled, 1,
        "the login's job is gone, only the session is left"
    );
    assert_eq!(world.view().waiting, 0);
}

#[tokio::test(start_paused = true)]
async fn stop_ends_the_waiting_and_the_login_and_everything_is_joined() {
    let mut world = World::new().await;
    let session = world.session.clone();
    let waiting = JoinSet::from_iter([async move { session.grant(None, SSH).await }]);
    world
        .wait_for(|it| it.state == ClusterState::LoginRunning)
        .await;
    world.shown(1).await;
    let port = world.port();
    world.stop.cancel();
    while world.tasks.join_next().await.is_some() {}
    let refused = waiting.join_all().await.remove(0).unwrap_err();
    assert_eq!(refused.reason.code, Code::Stopping);
    tokio::net::TcpListener::bind(("127.0.0.1", port))
        .await
        .unwrap();
    let error = world
        .session
        .login(LoginRequest::default())
        .await
        .unwrap_err();
    assert_eq!(error, LoginError::Stopping);
    let NoGrant { reason } = world.session.grant(None, SSH).await.unwrap_err();
    assert_eq!(reason.code, Code::Stopping);
}
