//! Requests that no browser sends, and tokens and files of tokens that nobody wrote.

use std::{collections::BTreeSet, sync::Arc};

use control::wire::{BrowserChoice, OfferedRoute};
use futures_util::future::BoxFuture;
use jiff::Timestamp;
use model::in_virtual_time;
use percent_encoding::percent_decode_str;
use pomd::{
    opener::LinkOpener,
    session::{
        browser::{self, Browser, Job},
        server::{LoginServer, LoginTarget, NotGood, Vouched},
        source::{Attempt, Event},
        store::{FILE_MOST, decode, encode},
    },
    upstream::{Limits, Upstream},
};
use pomd_core::{
    config::{Address, Config, Host},
    session::{
        Welcome,
        callback::LoginEndpoints,
        error::LoginError,
        pages,
        token::{Credential, Token},
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::mpsc,
};
use tokio_util::sync::CancellationToken;

use crate::random::unpacked;

const HOST: &str = "127.0.0.1:41235";
const LINK: &str = "/k7m2pq9x";
const CALLBACK: &str = "/q3J8mR5zC0d1Zt7yWc2bVx9kLs4nPf6h";
/// The most bytes of a request that are tried.
const REQUEST_MOST: usize = 96 << 10;
const TOKEN_MOST: usize = 16_384;

/// A token is what its rule says and prints nothing; a file of one is read as it was written, or for a reason that
/// quotes nothing of it.
pub(super) fn token(bytes: &[u8]) {
    let bytes = &unpacked(bytes, FILE_MOST + 1)[..];
    let address = address();
    if let Ok(text) = std::str::from_utf8(bytes) {
        let token = Token::parse(text);
        let fits = !text.is_empty()
            && text.len() <= TOKEN_MOST
            && text.chars().all(|it| ('!'..='~').contains(&it));
        assert_eq!(token.is_some(), fits);
        if let Some(token) = token {
            assert_eq!(token.reveal(), text);
            assert_eq!(format!("{token:?}"), "Token(…)");
            let login = Credential {
                address: address.clone(),
                token,
                user: Some("alice@example.com".to_owned()),
                subject: None,
                since: Timestamp::UNIX_EPOCH,
                until: None,
            };
            comes_back(login);
        }
    }
    match decode(bytes, &address) {
        Ok(login) => comes_back(login),
        Err(why) => {
            let words: String = why.chars().filter(|it| !it.is_ascii_digit()).collect();
            let known = [
                "it is too large",
                "line  is broken",
                "it is of version ",
                "it is of another address",
                "it holds no token",
            ];
            assert!(known.contains(&&*words), "{why}");
        }
    }
}

fn comes_back(login: Credential) {
    let file = encode(&login).expect("a login can be written");
    assert_eq!(decode(&file, &login.address), Ok(login));
}

fn address() -> Address {
    Address {
        tls: true,
        host: Host::Name("corp.example.com".to_owned()),
        port: 443,
    }
}

/// The bytes of one visit to the login page: a token is taken from the one request that is exactly right (A7), and no
/// reply holds anything of a request.
pub(super) fn callback(bytes: &[u8]) {
    let bytes = &bytes[..bytes.len().min(REQUEST_MOST)];
    let (taken, reply) = in_virtual_time(visit(bytes));
    let expected = right_token(bytes);
    if let Some(taken) = &taken {
        assert_eq!(Some(taken), expected.as_ref(), "a token of a wrong request");
        assert!(
            taken.len() < 8 || !reply.contains(taken),
            "a reply holds the token"
        );
    }
    let (head, body) = reply.split_once("\r\n\r\n").unwrap_or((&reply, ""));
    let known = KNOWN.with(|it| it.clone());
    for line in head.lines() {
        let is_length = line.strip_prefix("content-length: ").is_some_and(|it| {
            it.parse()
                .is_ok_and(|it: usize| it == body.len() || body.is_empty())
        });
        assert!(
            is_length || known.lines.contains(line),
            "an unknown line: {line:?}"
        );
    }
    if !known.bodies.contains(body) {
        let (before, behind) = &known.denied;
        let why = body
            .strip_prefix(before.as_str())
            .and_then(|it| it.strip_suffix(behind.as_str()));
        let why = why.unwrap_or_else(|| panic!("an unknown page: {body:?}"));
        let is_text = |it: char| !it.is_control() && !"<>\"".contains(it);
        assert!(why.chars().all(is_text), "{why:?}");
    }
}

/// What replies are made of, whatever the request was.
#[derive(Clone)]
struct Known {
    lines: BTreeSet<String>,
    bodies: BTreeSet<String>,
    /// What stands around the words of whoever denied the login.
    denied: (String, String),
}

thread_local! {
    static KNOWN: Arc<Known> = Arc::new(known());
}

fn known() -> Known {
    let mut lines = BTreeSet::new();
    let mut bodies = BTreeSet::from([String::new()]);
    let host = format!("Host: {HOST}\r\n");
    for request in [
        format!("GET {LINK} HTTP/1.1\r\n{host}\r\n"),
        format!("GET {LINK} HTTP/1.1\r\n\r\n"),
        format!("GET /done HTTP/1.1\r\n{host}\r\n"),
        format!("GET {CALLBACK} HTTP/1.1\r\n{host}\r\n"),
        format!("GET {CALLBACK}?error=x HTTP/1.1\r\n{host}\r\n"),
        format!("GET {CALLBACK}?pomerium_jwt=x HTTP/1.1\r\n{host}\r\n"),
        "nonsense\r\n\r\n".to_owned(),
        format!("GET /{} HTTP/1.1\r\n{host}\r\n", "x".repeat(90_000)),
        format!("GET / HTTP/1.1\r\nx: {}\r\n", "x".repeat(90_000)),
    ] {
        let (_, reply) = in_virtual_time(visit(request.as_bytes()));
        let (head, body) = reply.split_once("\r\n\r\n").expect("a whole reply");
        // HTTP/1.0 is answered in its own version, and told that the connection stays if it asked for that.
        lines.extend(head.lines().map(str::to_owned));
        lines.extend(head.lines().map(|it| it.replace("HTTP/1.1", "HTTP/1.0")));
        if !request.contains("error=") {
            bodies.insert(body.to_owned());
        }
    }
    lines.insert("connection: close".to_owned());
    let denied = pages::denied("WHY", LINK);
    let (before, behind) = denied.split_once("WHY").expect("a page that says why");
    Known {
        lines,
        bodies,
        denied: (before.to_owned(), behind.to_owned()),
    }
}

/// The token that was taken, and the reply.
async fn visit(request: &[u8]) -> (Option<String>, String) {
    let (events, mut told) = mpsc::channel(1);
    let (attempt, _) = Attempt::new(1, events, CancellationToken::new());
    let verdict = attempt.verdict.clone();
    let job = Job {
        browser: Browser {
            cluster: corp(),
            server: Arc::new(Credulous),
            peer_check: Arc::new(|_, _| true),
            opener: Arc::new(Credulous),
            choice: BrowserChoice::None,
        },
        attempt,
        endpoints: LoginEndpoints {
            host: HOST.to_owned(),
            port: 41_235,
            link: LINK.to_owned(),
            callback: CALLBACK.to_owned(),
        },
    };
    let (mut client, server) = tokio::io::duplex(REQUEST_MOST);
    let serve = async move {
        browser::speak(server, async |it| browser::respond(&job, &it).await).await;
        // Whoever waits for events hears of no more.
        drop(job);
    };
    let ask = async {
        // A server that has answered already need not read the rest.
        let _ = client.write_all(request).await;
        let _ = client.shutdown().await;
        let mut reply = Vec::new();
        client
            .read_to_end(&mut reply)
            .await
            .expect("a reply or an end");
        String::from_utf8(reply).expect("a reply is text")
    };
    let take = async {
        let mut taken = None;
        while let Some(event) = told.recv().await {
            if let Event::Obtained(_, answer, done) = event {
                assert!(taken.is_none(), "a login was answered twice");
                taken = Some(answer.token.reveal().to_owned());
                verdict.decide(Some(Welcome {
                    at: Timestamp::UNIX_EPOCH,
                    user: None,
                    until: None,
                    waiting: 0,
                    instead_of: None,
                }));
                let _ = done.send(());
            }
        }
        taken
    };
    let ((), reply, taken) = tokio::join!(serve, ask, take);
    (taken, reply)
}

/// A server that takes every token.
struct Credulous;

impl LoginServer for Credulous {
    fn sign_in_url<'a>(
        &'a self,
        _: &'a LoginTarget,
        _: &'a str,
    ) -> BoxFuture<'a, Result<String, LoginError>> {
        Box::pin(async { Ok("https://authenticate.example.com/sign_in".to_owned()) })
    }

    fn user<'a>(
        &'a self,
        _: &'a LoginTarget,
        _: &'a Token,
    ) -> BoxFuture<'a, Result<Vouched, NotGood>> {
        Box::pin(async { Ok((None, address())) })
    }

    fn until<'a>(
        &'a self,
        _: &'a LoginTarget,
        _: &'a Address,
        _: &'a Token,
    ) -> BoxFuture<'a, Option<Timestamp>> {
        Box::pin(async { None })
    }

    fn routes<'a>(
        &'a self,
        _: &'a LoginTarget,
        _: &'a Token,
    ) -> BoxFuture<'a, Result<Vec<OfferedRoute>, NotGood>> {
        Box::pin(async { Ok(Vec::new()) })
    }
}

impl LinkOpener for Credulous {
    fn available(&self, _: &BrowserChoice) -> BoxFuture<'static, bool> {
        Box::pin(async { false })
    }

    fn open(&self, _: &BrowserChoice, _: &str) -> BoxFuture<'static, Result<(), String>> {
        Box::pin(async { Ok(()) })
    }
}

fn corp() -> Arc<LoginTarget> {
    let text = "[cluster.corp]\nhosts = [\"*.example.com\"]\nurl = \"https://corp.example.com\"\n";
    let config = Config::parse(text, std::path::Path::new("/")).expect("a configuration");
    let (name, spec) = config.clusters.into_iter().next().expect("a cluster");
    Arc::new(LoginTarget {
        upstream: Arc::new(Upstream::new(name.clone(), spec, Limits::default())),
        name,
        login_at: vec![address()],
    })
}

/// The token of the one request that may bring one, by the rules of A7 read off the bytes.
fn right_token(bytes: &[u8]) -> Option<String> {
    let mut headers = [httparse::EMPTY_HEADER; 256];
    let mut request = httparse::Request::new(&mut headers);
    request.parse(bytes).ok()?.is_complete().then_some(())?;
    let target = request.path?.split('#').next()?;
    let query = target.strip_prefix(CALLBACK)?.strip_prefix('?')?;
    let values = |name: &str| -> Vec<&[u8]> {
        let named = request
            .headers
            .iter()
            .filter(|it| it.name.eq_ignore_ascii_case(name));
        named.map(|it| it.value).collect()
    };
    let starts = |prefix: &str| {
        let mut names = request
            .headers
            .iter()
            .map(|it| it.name.to_ascii_lowercase());
        names.any(|it| it.starts_with(prefix))
    };
    let all_are = |name: &str, value: &str| {
        let values = values(name);
        !values.is_empty() && values.iter().all(|it| *it == value.as_bytes())
    };
    let is_visit = !starts("sec-fetch-")
        || all_are("sec-fetch-mode", "navigate") && all_are("sec-fetch-dest", "document");
    let is_right = request.method? == "GET"
        && values("host") == [HOST.as_bytes()]
        && is_visit
        && values("purpose").is_empty()
        && values("sec-purpose").is_empty();
    let pairs: Vec<(String, String)> = query
        .split('&')
        .map(|it| it.split_once('=').unwrap_or((it, "")))
        .map(|(name, value)| (decoded(name), decoded(value)))
        .collect();
    let mut tokens = pairs.iter().filter(|it| it.0 == "pomerium_jwt");
    let token = tokens.next()?.1.clone();
    let is_only = tokens.next().is_none() && pairs.iter().all(|it| it.0 != "error");
    let fits = (1..=TOKEN_MOST).contains(&token.len())
        && token.chars().all(|it| ('!'..='~').contains(&it));
    (is_right && is_only && fits).then_some(token)
}

/// Returns a form's word without its encoding.
fn decoded(text: &str) -> String {
    let spaced = text.replace('+', " ");
    percent_decode_str(&spaced).decode_utf8_lossy().into_owned()
}
