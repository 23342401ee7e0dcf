mod requests;

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::mpsc,
};
use tokio_util::sync::CancellationToken;

use super::{
    super::{
        fakes::{FakeBrowser, FakeServer, Reply, corp, path_of, visit},
        source::{Event, Verdict},
    },
    *,
};

const TOKEN: &str = "eyJhbGciOiJFUzI1NiJ9.canary.c2lnbmF0dXJl";

#[tokio::test]
async fn a_login_goes_from_the_link_to_the_last_page() {
    let mut login = Login::open().await;
    let reply = login.visit(&login.endpoints.link).await;
    assert_eq!(reply.status, 302);
    let location = reply.header("location").unwrap();
    let redirect = login.endpoints.redirect_url();
    assert_eq!(
        location,
        format!("https://authenticate.example.com/sign_in?n=2&redirect={redirect}")
    );

    let (reply, kept) = login.answer(TOKEN).await;
    assert_eq!(kept.as_deref(), Some(TOKEN));
    assert_eq!(
        (reply.status, reply.header("location")),
        (303, Some("/done"))
    );
    let page = login.visit("/done").await;
    assert_eq!(page.status, 200);
    assert!(
        page.whole.contains("<h1>You are logged in to corp</h1>"),
        "{}",
        page.whole
    );
    assert!(!reply.whole.contains("canary") && !page.whole.contains("canary"));
    assert!(
        !reply.whole.contains(&login.endpoints.callback)
            && !page.whole.contains(&login.endpoints.callback)
    );
}

#[tokio::test]
async fn the_longest_token_fits_beside_the_cookies_of_other_programs() {
    let mut login = Login::open().await;
    let token = "x".repeat(16_384);
    login
        .server
        .tokens
        .lock()
        .unwrap()
        .insert(token.clone(), "alice".to_owned());
    let cookie = "y".repeat(32 << 10);
    let sent = format!("{token} HTTP/1.1\r\nCookie: a={cookie}\r\nX-Rest:");
    let (reply, kept) = login.answer(&sent).await;
    assert_eq!(reply.status, 303);
    assert_eq!(kept, Some(token));
}

#[tokio::test]
async fn a7_a_second_answer_does_nothing_and_gets_the_same_page() {
    let mut login = Login::open().await;
    login.answer(TOKEN).await;
    let asked = login.server.asked.load(Ordering::SeqCst);
    let path = format!("{}?pomerium_jwt=other", login.endpoints.callback);
    let again = login.visit(&path).await;
    assert_eq!(
        (again.status, again.header("location")),
        (303, Some("/done"))
    );
    assert_eq!(login.server.asked.load(Ordering::SeqCst), asked);
    assert!(login.events.try_recv().is_err());
    let link = login.visit(&login.endpoints.link).await;
    assert!(
        link.whole.contains("<h1>This login is finished</h1>"),
        "{}",
        link.whole
    );
}

#[tokio::test]
async fn a7_a_token_of_somebody_else_does_not_count_and_does_not_use_the_login_up() {
    let mut login = Login::open().await;
    let path = format!("{}?pomerium_jwt=stolen", login.endpoints.callback);
    let reply = login.visit(&path).await;
    assert_eq!(reply.status, 400);
    assert!(
        reply.whole.contains("That answer can't be used"),
        "{}",
        reply.whole
    );
    assert!(!reply.whole.contains("stolen"));
    assert!(login.events.try_recv().is_err());
    assert_eq!(login.answer(TOKEN).await.0.status, 303);
}

#[tokio::test]
async fn a7_a_thousand_wrong_paths_leave_the_login_open() {
    let mut login = Login::open().await;
    for number in 0..1000 {
        let path = format!(
            "/{}{number}?pomerium_jwt={TOKEN}",
            &login.endpoints.callback[1..20]
        );
        let reply = login.visit(&path).await;
        assert_eq!(reply.status, 404);
        assert!(reply.whole.ends_with("\r\n\r\n"), "a 404 has no body");
    }
    assert_eq!(login.visit("/done").await.status, 404);
    assert_eq!(login.answer(TOKEN).await.0.status, 303);
}

#[tokio::test]
async fn a_server_that_cannot_be_asked_is_told_and_the_login_stays_open() {
    let mut login = Login::open().await;
    login.server.break_down(true);
    let reply = login.visit(&login.endpoints.link).await;
    assert_eq!(reply.status, 502);
    assert!(
        reply
            .whole
            .contains("cannot reach corp.example.com (198.51.100.7): connection refused"),
        "{}",
        reply.whole
    );
    assert!(reply.whole.contains(&format!(
        "<a href=\"{}\">Try again</a>",
        login.endpoints.link
    )));
    let path = format!("{}?pomerium_jwt={TOKEN}", login.endpoints.callback);
    assert_eq!(login.visit(&path).await.status, 502);
    login.server.break_down(false);
    assert_eq!(login.visit(&login.endpoints.link).await.status, 302);
    assert_eq!(login.answer(TOKEN).await.0.status, 303);
}

#[tokio::test]
async fn a_person_whom_the_other_side_refuses_may_try_again() {
    let mut login = Login::open().await;
    let path = format!(
        "{}?error=access_denied&error_description=%3Cb%3Eno",
        login.endpoints.callback
    );
    let reply = login.visit(&path).await;
    assert_eq!(reply.status, 403);
    assert!(
        reply.whole.contains("access_denied: &lt;b&gt;no"),
        "{}",
        reply.whole
    );
    assert_eq!(login.answer(TOKEN).await.0.status, 303);
}

#[tokio::test]
async fn a_login_that_ended_says_so_and_takes_nothing() {
    let mut login = Login::open().await;
    login.verdict.decide(None);
    let link = login.visit(&login.endpoints.link).await;
    assert_eq!(link.status, 410);
    assert!(
        link.whole.contains("<h1>This login has ended</h1>"),
        "{}",
        link.whole
    );
    let path = format!("{}?pomerium_jwt={TOKEN}", login.endpoints.callback);
    let late = login.visit(&path).await;
    assert_eq!(late.status, 303, "the token leaves the address bar");
    let location = format!("location: {}\r\n", login.endpoints.link);
    assert!(late.whole.contains(&location), "{}", late.whole);
    assert!(login.events.try_recv().is_err());
}

#[tokio::test]
async fn an_answer_that_the_driver_does_not_take_any_more_came_too_late() {
    let mut login = Login::open().await;
    let path = format!("{}?pomerium_jwt={TOKEN}", login.endpoints.callback);
    let deciding = async {
        let Some(Event::Obtained(_, _, done)) = login.events.recv().await else {
            panic!("no answer came")
        };
        done.send(()).unwrap();
    };
    let (reply, ()) = tokio::join!(visit(login.endpoints.port, &path), deciding);
    assert_eq!(reply.unwrap().status, 410);
}

#[tokio::test]
async fn a5_another_user_gets_a_reset_and_the_login_stays_open() {
    let mut login = Login::open().await;
    login.closed.store(true, Ordering::SeqCst);
    for _ in 0..20 {
        let path = format!("{}?pomerium_jwt={TOKEN}", login.endpoints.callback);
        let error = visit(login.endpoints.port, &path).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }
    assert!(login.events.try_recv().is_err());
    assert_eq!(login.server.asked.load(Ordering::SeqCst), 0);
    login.closed.store(false, Ordering::SeqCst);
    assert_eq!(login.answer(TOKEN).await.0.status, 303);
}

#[tokio::test]
async fn the_port_is_free_once_the_login_was_stopped_and_joined() {
    let mut login = Login::open().await;
    login.stop.cancel();
    login.tasks.join_next().await.unwrap().unwrap();
    TcpListener::bind(("127.0.0.1", login.endpoints.port))
        .await
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_last_page_can_be_read_for_half_a_minute() {
    let mut login = Login::open().await;
    login.verdict.decide(Some(success()));
    let begun = Instant::now();
    login.tasks.join_next().await.unwrap().unwrap();
    assert_eq!(begun.elapsed().as_secs(), 30);
}

#[tokio::test]
async fn a_login_whose_server_mints_nothing_is_not_opened() {
    let (server, mut events, mut tasks) =
        (FakeServer::default(), mpsc::channel(16), JoinSet::new());
    server.break_down(true);
    let attempt = attempt(events.0);
    tasks.spawn(attempt.run(Arc::new(browser(Arc::new(server), Arc::default()))));
    let Some(Event::Failed(7, error)) = events.1.recv().await else {
        panic!("it did not fail")
    };
    assert_eq!(error.describe("corp").code, control::wire::Code::Tcp);
    tasks.join_next().await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a31_visitors_who_say_nothing_give_way_or_are_sent_away_after_ten_seconds() {
    let mut login = Login::open().await;
    let mut idle = Vec::new();
    for _ in 0..VISITS.silent * 3 {
        let mut stream = TcpStream::connect(("127.0.0.1", login.endpoints.port))
            .await
            .unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nHost:").await.unwrap();
        idle.push(stream);
    }
    let begun = Instant::now();
    assert_eq!(login.answer(TOKEN).await.0.status, 303);
    assert!(begun.elapsed() < HEAD_LIMIT, "{:?}", begun.elapsed());
    for mut stream in idle {
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.unwrap();
        assert!(
            rest.is_empty() || rest.starts_with(b"HTTP/1.1 408"),
            "{rest:?}"
        );
    }
}

#[test]
fn names_are_drawn_anew_and_can_be_typed() {
    let (a, b) = (short_name().unwrap(), short_name().unwrap());
    assert_ne!(a, b);
    assert!(
        a.len() == 8 && a.bytes().all(|it| LETTERS.contains(&it)),
        "{a}"
    );
    let (a, b) = (unguessable().unwrap(), unguessable().unwrap());
    assert_ne!(a, b);
    assert_eq!(a.len(), 32);
    let url_safe = |it: u8| it.is_ascii_alphanumeric() || it == b'-' || it == b'_';
    assert!(a.bytes().all(url_safe), "{a}");
}

/// A login with the test as its driver.
struct Login {
    verdict: Verdict,
    stop: CancellationToken,
    endpoints: LoginEndpoints,
    server: Arc<FakeServer>,
    events: mpsc::Receiver<Event>,
    tasks: JoinSet<()>,
    /// Everybody is somebody else.
    closed: Arc<AtomicBool>,
}

impl Login {
    async fn open() -> Self {
        let server = Arc::new(FakeServer::that_knows(&[
            (TOKEN, "alice"),
            ("other", "alice"),
        ]));
        let (tell, mut events) = mpsc::channel(16);
        let closed = Arc::<AtomicBool>::default();
        let attempt = attempt(tell);
        let (verdict, stop) = (attempt.verdict.clone(), attempt.stop.clone());
        let mut tasks = JoinSet::new();
        let source = Arc::new(browser(server.clone(), closed.clone()));
        tasks.spawn(attempt.run(source));
        let Some(Event::Opened(7, login)) = events.recv().await else {
            panic!("the login did not open")
        };
        let minted = "https://authenticate.example.com/sign_in?n=1&";
        assert!(login.sign_in_url.starts_with(minted));
        let path = |url: &str| path_of(url).to_owned();
        let endpoints = LoginEndpoints {
            host: format!("127.0.0.1:{}", login.port),
            port: login.port,
            link: path(&login.link),
            callback: path(&login.redirect),
        };
        Self {
            verdict,
            stop,
            endpoints,
            server,
            events,
            tasks,
            closed,
        }
    }

    async fn visit(&self, path: &str) -> Reply {
        visit(self.endpoints.port, path).await.unwrap()
    }

    /// The browser comes back with `token`, and the driver takes it.
    async fn answer(&mut self, token: &str) -> (Reply, Option<String>) {
        let path = format!("{}?pomerium_jwt={token}", self.endpoints.callback);
        let deciding = async {
            let Some(Event::Obtained(7, answer, done)) = self.events.recv().await else {
                return None;
            };
            self.verdict.decide(Some(success()));
            done.send(()).unwrap();
            Some(answer.token.reveal().to_owned())
        };
        let (reply, kept) = tokio::join!(visit(self.endpoints.port, &path), deciding);
        (reply.unwrap(), kept)
    }
}

fn attempt(events: mpsc::Sender<Event>) -> Attempt {
    Attempt::new(7, events, CancellationToken::new()).0
}

fn browser(server: Arc<FakeServer>, closed: Arc<AtomicBool>) -> Browser {
    Browser {
        cluster: corp(),
        server,
        peer_check: Arc::new(move |_, _| !closed.load(Ordering::SeqCst)),
        opener: Arc::new(FakeBrowser::default()),
        choice: BrowserChoice::Default,
    }
}

fn success() -> Welcome {
    Welcome {
        at: jiff::Timestamp::UNIX_EPOCH,
        user: Some("alice@example.com".to_owned()),
        until: None,
        waiting: 0,
        instead_of: None,
    }
}
