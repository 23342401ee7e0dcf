//! A5, A7, A8, A12: the login in flight.

use std::net::SocketAddr;

use control::{
    client::ClientError,
    wire::{ClusterState, Code, LoginRequest, PastedAnswer},
};
use gateway::{DEMO_USER, Script, Upstream};
use integration::{
    deployment::{CLUSTER, Deployment},
    other_user::UID,
    pomd::{Pomd, cluster},
};
use rustix::process::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{other_user, raw, status};

const ROUTE: &str = "echo.corp.test:7000";
const LOGIN: &str = "/.pomerium/api/v1/login";
const MALLORY: &str = "mallory@example.com";

/// A login that waits for the person, and where its answer is to come.
struct Waiting {
    deployment: Deployment,
    pomd: Pomd,
    link: String,
    callback: SocketAddr,
    path: String,
}

impl Waiting {
    async fn new() -> Self {
        Self::with("").await
    }

    /// With these settings.
    async fn with(settings: &str) -> Self {
        let deployment = Deployment::gateway(|it| it.route(ROUTE, Upstream::Echo)).await;
        let config = settings.to_owned() + &deployment.config(&[("echo", ROUTE)]);
        let pomd = Pomd::start(&config).await;
        let answer = pomd.client().login(CLUSTER, LoginRequest::default()).await;
        let link = answer.unwrap().login.unwrap().link;
        let sign_in = deployment.browser.get(&link).await.unwrap();
        assert_eq!(sign_in.status, 302);
        let sign_in = url::Url::parse(sign_in.header("location").unwrap()).unwrap();
        let mut pairs = sign_in.query_pairs();
        let redirect = pairs.find(|it| it.0 == "pomerium_redirect_uri").unwrap().1;
        let redirect = redirect.strip_prefix("http://").unwrap();
        let (callback, path) = redirect.split_once('/').unwrap();
        Self {
            callback: callback.parse().unwrap(),
            path: format!("/{path}"),
            deployment,
            pomd,
            link,
        }
    }

    /// A GET as a browser sends it that was led here, with these lines changed or added.
    async fn get(&self, target: &str, lines: &str) -> String {
        let host = if lines.contains("Host:") {
            String::new()
        } else {
            format!("Host: {}\r\n", self.callback)
        };
        let request = format!("GET {target} HTTP/1.1\r\n{host}{lines}Connection: close\r\n\r\n");
        raw(self.callback, &request).await
    }

    async fn still_waits(&self, after: &str) {
        let shown = self.pomd.status().await;
        let state = cluster(&shown, CLUSTER).state;
        assert_eq!(state, ClusterState::LoginRunning, "after {after}");
    }

    async fn logged_in(&self) {
        self.pomd
            .wait_for("logged in", |it| {
                cluster(it, CLUSTER).state == ClusterState::LoggedIn
            })
            .await;
    }

    /// The person comes at last, and it works.
    async fn the_person_signs_in(&self) {
        let page = self.deployment.browser.visit(&self.link).await.unwrap();
        assert_eq!(page.status, 200, "{page:?}");
        self.logged_in().await;
        let shown = self.pomd.status().await;
        assert_eq!(cluster(&shown, CLUSTER).user.as_deref(), Some(DEMO_USER));
    }
}

/// By hand, where no browser reaches this machine: by the same rules as a visit.
#[tokio::test(flavor = "multi_thread")]
async fn a7_a_pasted_address_counts_as_a_whole_and_once() {
    let waiting = Waiting::new().await;
    let client = waiting.pomd.client();
    let paste = async |address: String| {
        let pasted = PastedAnswer { address };
        match client.answer_login(CLUSTER, &pasted).await {
            Ok(cluster) => Ok(cluster.state),
            Err(ClientError::Api(error)) => Err((error.code, error.message)),
            Err(other) => panic!("{other}"),
        }
    };
    let token = waiting.deployment.gateway.token(MALLORY);
    let Waiting { callback, path, .. } = &waiting;
    let whole = format!("http://{callback}{path}?pomerium_jwt={token}");
    let foreign = (Code::BadRequest, "that address belongs to another login");
    let port = format!(":{}", callback.port());
    for (from, to) in [
        ("http://127.0.0.1", ""),
        ("127.0.0.1", "localhost"),
        ("127.0.0.1", "127.0.0.2"),
        (&*port, ":1"),
        (&**path, "/"),
        (&**path, &path.to_uppercase()),
        (&**path, &path[..path.len() - 1]),
    ] {
        let address = whole.replace(from, to);
        let (code, message) = paste(address).await.unwrap_err();
        assert_eq!((code, &*message), foreign, "{from} -> {to}");
        waiting.still_waits(to).await;
    }
    for unusable in [
        whole.replace(&token, "unknown"),
        whole.replace(&token, ""),
        format!("{whole}&pomerium_jwt={token}"),
    ] {
        let (code, message) = paste(unusable).await.unwrap_err();
        assert_eq!(code, Code::BadRequest);
        assert_eq!(message, "that address holds no token that can be used");
        waiting.still_waits("an address without a good token").await;
    }
    let denied =
        format!("http://{callback}{path}?error=access_denied&error_description=no%1bentry");
    let (code, message) = paste(denied).await.unwrap_err();
    assert_eq!(code, Code::LoginFailed);
    assert!(
        message.starts_with("the login did not succeed: access_denied: no")
            && !message.contains('\x1b'),
        "{message:?}"
    );
    waiting.still_waits("a sign-in that was denied").await;
    let longest = format!("{whole}&state={}", "x".repeat(6_000));
    assert_eq!(paste(longest).await, Ok(ClusterState::LoggedIn));
    waiting.logged_in().await;
    let again = paste(whole).await.unwrap_err();
    assert_eq!(again.0, Code::LoginNeeded, "{again:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a5_another_uid_that_knows_path_and_port_and_a_good_token_is_refused() {
    let test = "a5_another_uid_that_knows_path_and_port_and_a_good_token_is_refused";
    let Some(other_user) = other_user(test) else {
        return;
    };
    let waiting = Waiting::new().await;
    let token = waiting.deployment.gateway.token(MALLORY);
    let address = waiting.callback.to_string();
    for path in [
        format!("{}?pomerium_jwt={token}", waiting.path),
        "/".to_owned(),
        waiting
            .link
            .rsplit_once('/')
            .map(|it| format!("/{}", it.1))
            .unwrap(),
    ] {
        let said = other_user.does(&["get", &address, &path]).await;
        assert_eq!(said.trim(), "reset after 0 bytes", "{path}");
        waiting.still_waits("a stranger's visit").await;
    }
    waiting.the_person_signs_in().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a5_a_user_who_may_use_the_listeners_may_not_answer_the_owner_s_login() {
    let test = "a5_a_user_who_may_use_the_listeners_may_not_answer_the_owner_s_login";
    let Some(other_user) = other_user(test) else {
        return;
    };
    let waiting = Waiting::with(&format!("[settings]\nallow_users = [{UID}]\n")).await;
    let token = waiting.deployment.gateway.token(MALLORY);
    let address = waiting.callback.to_string();
    for path in [
        format!("{}?pomerium_jwt={token}", waiting.path),
        format!("/{}", waiting.link.rsplit_once('/').unwrap().1),
    ] {
        let said = other_user.does(&["get", &address, &path]).await;
        assert_eq!(said.trim(), "reset after 0 bytes", "{path}");
        waiting.still_waits("an allowed user's visit").await;
    }
    waiting.the_person_signs_in().await;
    // The listeners are another matter.
    let tunnel = waiting.pomd.address("echo").await.to_string();
    let said = other_user.does(&["connect", &tunnel, "1"]).await;
    let echo = format!("silence after {} bytes", "SSH-2.0-other-user\r\n".len());
    assert_eq!(said.trim(), echo, "an echo that stays");
}

#[tokio::test(flavor = "multi_thread")]
async fn a1_a5_what_was_left_at_the_login_page_before_a_reset_is_no_answer() {
    let test = "a1_a5_what_was_left_at_the_login_page_before_a_reset_is_no_answer";
    let Some(other_user) = other_user(test) else {
        return;
    };
    let mut waiting = Waiting::new().await;
    let token = waiting.deployment.gateway.token(MALLORY);
    let address = waiting.callback.to_string();
    let answer = format!(
        "GET {}?pomerium_jwt={token} HTTP/1.1\\r\\nHost: {address}\\r\\n\\r\\n",
        waiting.path
    );
    waiting.pomd.process().stand_still().await;
    let mut ours = Vec::new();
    for _ in 0..8 {
        ours.push(other_user.leaves(waiting.callback, &answer).await);
    }
    waiting.pomd.process().signal(Signal::CONT);
    // Ours are served, so those before them were looked at.
    for mut stream in ours {
        let request = format!("GET /nothing HTTP/1.1\r\nHost: {address}\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut heard = Vec::new();
        stream.read_to_end(&mut heard).await.unwrap();
        assert_eq!(status(&String::from_utf8_lossy(&heard)), 404);
    }
    waiting.still_waits("what a stranger left").await;
    waiting.the_person_signs_in().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn l5_a7_only_the_one_right_request_counts() {
    let waiting = Waiting::new().await;
    let good = waiting.deployment.gateway.token(MALLORY);
    let right = format!("{}?pomerium_jwt={good}", waiting.path);
    let wrong_path = format!("{}x?pomerium_jwt={good}", waiting.path);
    let port = waiting.callback.port();
    for (what, target, lines, expected) in [
        ("a wrong path", wrong_path.as_str(), "", 404),
        ("no path", "/", "", 404),
        (
            "a foreign name",
            &right,
            &*format!("Host: evil.example:{port}\r\n"),
            421,
        ),
        (
            "a name for this machine",
            &right,
            &*format!("Host: localhost:{port}\r\n"),
            421,
        ),
        ("another port", &right, "Host: 127.0.0.1:1\r\n", 421),
        ("no port", &right, "Host: 127.0.0.1\r\n", 421),
        (
            "an image",
            &right,
            "Sec-Fetch-Mode: no-cors\r\nSec-Fetch-Dest: image\r\n",
            404,
        ),
        (
            "a frame",
            &right,
            "Sec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: iframe\r\n",
            404,
        ),
        (
            "a script",
            &right,
            "Sec-Fetch-Mode: cors\r\nSec-Fetch-Dest: empty\r\n",
            404,
        ),
        ("a prefetch", &right, "Sec-Purpose: prefetch\r\n", 404),
    ] {
        let answer = waiting.get(target, lines).await;
        assert_eq!(status(&answer), expected, "{what}: {answer}");
        assert!(!answer.contains(&good), "{what}: {answer}");
        waiting.still_waits(what).await;
    }
    for method in ["POST", "HEAD", "PUT", "OPTIONS", "DELETE"] {
        let request = format!(
            "{method} {right} HTTP/1.1\r\nHost: {}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            waiting.callback
        );
        let answer = raw(waiting.callback, &request).await;
        assert!(matches!(status(&answer), 404 | 405), "{method}: {answer}");
        waiting.still_waits(method).await;
    }
    let answer = raw(waiting.callback, &format!("GET {right}\r\n\r\n")).await;
    assert_ne!(status(&answer), 303, "HTTP/0.9: {answer}");
    waiting.still_waits("HTTP/0.9").await;
    waiting.the_person_signs_in().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a7_a_token_that_the_server_does_not_know_does_not_count() {
    let waiting = Waiting::new().await;
    let ended = waiting.deployment.gateway.token(MALLORY);
    waiting.deployment.gateway.end_session(&ended);
    let long = "x".repeat(20 << 10);
    for token in ["", "nonsense", "a b", "%00", "%1b%5b31m", &ended, &long] {
        let target = format!("{}?pomerium_jwt={token}", waiting.path);
        let answer = waiting.get(&target, "").await;
        assert_ne!(status(&answer), 303, "{token}: {answer}");
        assert!(!answer.contains('\u{1b}'), "{token}: {answer}");
        waiting.still_waits(&token[..token.len().min(20)]).await;
    }
    waiting.the_person_signs_in().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a7_a_thousand_guesses_change_nothing() {
    let waiting = Waiting::new().await;
    let token = waiting.deployment.gateway.token(MALLORY);
    for n in 0..1000 {
        let target = format!(
            "/{n}{}?pomerium_jwt={token}",
            waiting.path.trim_start_matches('/')
        );
        assert_eq!(status(&waiting.get(&target, "").await), 404);
    }
    waiting.still_waits("a thousand guesses").await;
    waiting.the_person_signs_in().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a7_a_second_use_does_nothing() {
    let waiting = Waiting::new().await;
    waiting.the_person_signs_in().await;
    let token = waiting.deployment.gateway.token(MALLORY);
    let target = format!("{}?pomerium_jwt={token}", waiting.path);
    waiting.get(&target, "").await;
    let shown = waiting.pomd.status().await;
    assert_eq!(cluster(&shown, CLUSTER).user.as_deref(), Some(DEMO_USER));
    assert!(
        !waiting.pomd.words().contains(MALLORY),
        "{}",
        waiting.pomd.words()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a8_the_replies_hold_no_token_and_forbid_everything_else() {
    let waiting = Waiting::new().await;
    let token = waiting.deployment.gateway.token(DEMO_USER);
    let taken = waiting
        .get(&format!("{}?pomerium_jwt={token}", waiting.path), "")
        .await;
    assert_eq!(status(&taken), 303, "{taken}");
    assert!(taken.contains("\r\nlocation: /done\r\n"), "{taken}");
    waiting.logged_in().await;
    let done = waiting.get("/done", "").await;
    assert_eq!(status(&done), 200, "{done}");
    assert!(done.contains(DEMO_USER) && done.contains(CLUSTER), "{done}");
    for reply in [taken, done] {
        assert!(!reply.contains(&token), "{reply}");
        for line in [
            "\r\nreferrer-policy: no-referrer\r\n",
            "\r\ncache-control: no-store\r\n",
            "\r\nx-content-type-options: nosniff\r\n",
            "\r\ncontent-security-policy: default-src 'none'; ",
            "frame-ancestors 'none'",
        ] {
            assert!(reply.contains(line), "{line:?} is missing: {reply}");
        }
        for word in [
            "<script",
            "http://",
            "https://",
            "\r\nserver:",
            "access-control",
        ] {
            assert!(!reply.contains(word), "{word:?} is in: {reply}");
        }
    }
    let words = waiting.pomd.words();
    assert!(
        !words.contains(&token) && !words.contains(&waiting.path),
        "{words}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a12_a_hostile_login_url_leads_nowhere() {
    let waiting = Waiting::new().await;
    let gateway = &waiting.deployment.gateway;
    let long = format!("https://corp.test/{}", "x".repeat(9 << 10));
    for url in [
        "javascript:alert(1)",
        "file:///etc/passwd",
        "-flag",
        "--profile=/tmp",
        "http://corp.test/downgrade",
        "https://user@corp.test/",
        "https://user:secret@corp.test/",
        "https://corp.test/\r\nSet-Cookie: a=b",
        "https://corp.test/\u{1b}]0;x\u{7}",
        "https://",
        "data:text/html,x",
        "//corp.test/",
        "$(touch /tmp/x)",
        "<html><body>sign in</body></html>",
        "",
        &long,
        &"x".repeat(1 << 20),
    ] {
        gateway.script(LOGIN, Script::answer(200, "text/plain", url).times(1));
        let page = waiting.deployment.browser.get(&waiting.link).await.unwrap();
        let shown = &url[..url.len().min(40)];
        assert!(
            page.header("location").is_none(),
            "led to {shown:?}: {page:?}"
        );
        assert!(page.header("set-cookie").is_none(), "{shown:?}: {page:?}");
        assert!(page.status >= 400, "{shown:?}: {page:?}");
        waiting.still_waits(shown).await;
    }
    for status in [301, 302, 307, 400, 404, 500] {
        let script = Script::answer(status, "text/plain", "https://corp.test/")
            .header("location", "https://corp.test/")
            .times(1);
        gateway.script(LOGIN, script);
        let page = waiting.deployment.browser.get(&waiting.link).await.unwrap();
        assert!(page.header("location").is_none(), "{status}: {page:?}");
        waiting.still_waits(&status.to_string()).await;
    }
    waiting.the_person_signs_in().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a12_the_browser_gets_one_argument_and_it_is_the_local_link() {
    let deployment = Deployment::gateway(|it| it.route(ROUTE, Upstream::Echo)).await;
    // The script would note a second argument of pomd's in a line of its own.
    let folder = integration::pomd::folder();
    let script = folder.path().join("browser");
    let noted = folder.path().join("noted");
    let body = format!("printf '%s\\n' \"$@\" > {noted:?}.new && mv {noted:?}.new {noted:?}");
    integration::person::write_script(&script, &body);
    let browser = format!("browser = {}", deployment.links.key());
    let config = deployment.config(&[("echo", ROUTE)]).replace(
        &browser,
        &format!("browser = [{script:?}, \"a b\", \"$(id)\"]"),
    );
    let pomd = Pomd::start(&config).await;
    let mut stream = pomd.connect("echo").await;
    tokio::io::AsyncWriteExt::write_all(&mut stream, b"x")
        .await
        .unwrap();
    let words = integration::eventually("the browser is opened", async || {
        std::fs::read_to_string(&noted).ok()
    })
    .await;
    let words: Vec<&str> = words.lines().collect();
    assert_eq!(words.len(), 3, "{words:?}");
    assert_eq!(words[..2], ["a b", "$(id)"]);
    let link = url::Url::parse(words[2]).unwrap();
    assert_eq!(
        (link.scheme(), link.host_str()),
        ("http", Some("127.0.0.1"))
    );
    assert!(link.query().is_none() && words[2].len() < 60, "{link}");
}
