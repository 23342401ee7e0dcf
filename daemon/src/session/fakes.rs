//! Stand-ins for tests: a server, a person's browser, a clock.

use std::{
    collections::BTreeMap,
    future::ready,
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering},
    },
};

use control::wire::{BrowserChoice, OfferedRoute};
use futures_util::future::BoxFuture;
use jiff::{SignedDuration, Timestamp};
use pomd_core::{
    config::{Address, Config, Host},
    route::error::{DialError, StepError, Target},
    session::{
        error::{Cause, LoginError, Question},
        token::{Token, User},
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::server::{LoginServer, LoginTarget, NotGood, Vouched};
use crate::{
    clock::Clock,
    opener::LinkOpener,
    upstream::{Limits, Upstream},
};

/// A server that knows some tokens.
#[derive(Default)]
pub(super) struct FakeServer {
    /// Why it mints nothing now.
    pub(super) broken: Mutex<Option<LoginError>>,
    /// Subjects of tokens that it takes.
    pub(super) tokens: Mutex<BTreeMap<String, String>>,
    pub(super) until: Mutex<Option<Timestamp>>,
    pub(super) minted: AtomicUsize,
    pub(super) asked: AtomicUsize,
    /// How often somebody logged out of it.
    pub(super) left: AtomicUsize,
}

impl FakeServer {
    pub(super) fn that_knows(tokens: &[(&str, &str)]) -> Self {
        let tokens = tokens
            .iter()
            .map(|(token, subject)| ((*token).to_owned(), (*subject).to_owned()));
        Self {
            tokens: Mutex::new(tokens.collect()),
            ..Self::default()
        }
    }

    pub(super) fn break_down(&self, broken: bool) {
        *self.broken.lock().unwrap() = broken.then(|| LoginError::Server {
            question: Question::SignInUrl,
            at: address("corp.example.com"),
            cause: Cause::Unreachable {
                error: Box::new(StepError::new(
                    Target::Server(address("corp.example.com")),
                    DialError::Failed(vec![(
                        ([198, 51, 100, 7], 443).into(),
                        std::io::Error::from(std::io::ErrorKind::ConnectionRefused).into(),
                    )]),
                )),
                section: "[cluster.corp]".to_owned(),
            },
        });
    }

    pub(super) fn forget(&self, token: &str) {
        self.tokens.lock().unwrap().remove(token);
    }

    fn error(&self) -> Option<LoginError> {
        self.broken.lock().unwrap().clone()
    }
}

impl LoginServer for FakeServer {
    fn sign_in_url<'a>(
        &'a self,
        _: &'a LoginTarget,
        redirect: &'a str,
    ) -> BoxFuture<'a, Result<String, LoginError>> {
        Box::pin(async move {
            if let Some(error) = self.error() {
                return Err(error);
            }
            let number = self.minted.fetch_add(1, Ordering::SeqCst) + 1;
            Ok(format!(
                "https://authenticate.example.com/sign_in?n={number}&redirect={redirect}"
            ))
        })
    }

    fn user<'a>(
        &'a self,
        _: &'a LoginTarget,
        token: &'a Token,
    ) -> BoxFuture<'a, Result<Vouched, NotGood>> {
        Box::pin(async move {
            self.asked.fetch_add(1, Ordering::SeqCst);
            if let Some(error) = self.error() {
                return Err(NotGood::Unasked(error));
            }
            let subject = self.tokens.lock().unwrap().get(token.reveal()).cloned();
            let subject = subject.ok_or(NotGood::Refused)?;
            let user = User {
                display: format!("{subject}@example.com"),
                subject: Some(subject),
            };
            Ok((Some(user), address("corp.example.com")))
        })
    }

    fn until<'a>(
        &'a self,
        _: &'a LoginTarget,
        _: &'a Address,
        _: &'a Token,
    ) -> BoxFuture<'a, Option<Timestamp>> {
        Box::pin(async move { *self.until.lock().unwrap() })
    }

    fn routes<'a>(
        &'a self,
        _: &'a LoginTarget,
        _: &'a Token,
    ) -> BoxFuture<'a, Result<Vec<OfferedRoute>, NotGood>> {
        Box::pin(ready(Ok(Vec::new())))
    }

    fn disconnect(&self, _: &LoginTarget) {
        self.left.fetch_add(1, Ordering::SeqCst);
    }
}

/// A browser that writes down what it is shown.
#[derive(Default)]
pub(super) struct FakeBrowser {
    pub(super) missing: AtomicBool,
    pub(super) failing: AtomicBool,
    pub(super) shown: Mutex<Vec<String>>,
}

impl FakeBrowser {
    pub(super) fn shown(&self) -> Vec<String> {
        self.shown.lock().unwrap().clone()
    }
}

impl LinkOpener for FakeBrowser {
    fn available(&self, _: &BrowserChoice) -> BoxFuture<'static, bool> {
        Box::pin(ready(!self.missing.load(Ordering::SeqCst)))
    }

    fn open(&self, _: &BrowserChoice, link: &str) -> BoxFuture<'static, Result<(), String>> {
        if self.failing.load(Ordering::SeqCst) {
            return Box::pin(ready(Err("firefox ended with exit code 1".to_owned())));
        }
        self.shown.lock().unwrap().push(link.to_owned());
        Box::pin(ready(Ok(())))
    }
}

/// The wall clock of a test: tokio's time, and jumps.
pub(super) struct FakeTime {
    begun: tokio::time::Instant,
    jumped: AtomicI64,
}

impl FakeTime {
    pub(super) fn new() -> std::sync::Arc<Self> {
        std::sync::Arc::new(Self {
            begun: tokio::time::Instant::now(),
            jumped: AtomicI64::new(0),
        })
    }

    pub(super) fn clock(self: &std::sync::Arc<Self>) -> Clock {
        let time = self.clone();
        Clock::from_fn(move || time.now())
    }

    pub(super) fn now(&self) -> Timestamp {
        let passed = SignedDuration::try_from(self.begun.elapsed()).unwrap();
        let jumped = SignedDuration::from_secs(self.jumped.load(Ordering::SeqCst));
        Timestamp::from_second(1_800_000_000).unwrap() + passed + jumped
    }

    pub(super) fn jump(&self, seconds: i64) {
        self.jumped.fetch_add(seconds, Ordering::SeqCst);
    }
}

/// What came back from a visit.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) whole: String,
}

impl Reply {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let prefix = format!("{name}: ");
        self.whole
            .lines()
            .take_while(|it| !it.is_empty())
            .find_map(|it| it.strip_prefix(&prefix))
    }
}

/// GETs `path` of a login's listener on loopback.
pub(super) async fn visit(port: u16, path: &str) -> io::Result<Reply> {
    let mut stream = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port))).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut whole = String::new();
    stream.read_to_string(&mut whole).await?;
    let status = whole.get(9..12).and_then(|it| it.parse().ok());
    Ok(Reply {
        status: status.ok_or(io::ErrorKind::InvalidData)?,
        whole,
    })
}

pub(super) fn path_of(link: &str) -> &str {
    let (_, rest) = link.split_once("://").unwrap();
    &rest[rest.find('/').unwrap()..]
}

pub(super) fn address(host: &str) -> Address {
    Address {
        tls: true,
        host: Host::Name(host.to_owned()),
        port: 443,
    }
}

/// The cluster `corp`, with two login addresses.
pub(super) fn corp() -> Arc<LoginTarget> {
    let text = "[cluster.corp]\nhosts = [\"*.example.com\"]\nurl = \"https://corp.example.com\"\n";
    let config = Config::parse(text, std::path::Path::new("/")).unwrap();
    let (name, spec) = config.clusters.into_iter().next().unwrap();
    Arc::new(LoginTarget {
        upstream: Arc::new(Upstream::new(name.clone(), spec, Limits::default())),
        name,
        login_at: vec![address("corp.example.com"), address("other.example.com")],
    })
}
