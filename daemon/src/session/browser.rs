//! One login in a browser: a listener on loopback with a short link that mints a sign-in URL on each visit, and an
//! unguessable path where the sign-in comes back to.
//!
//! The `Source` that asks a person. Knows one login from its first mint to its last page. Must not know when a login
//! is due, or who is asked.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use bytes::Bytes;
use control::wire::BrowserChoice;
use futures_util::future::BoxFuture;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use jiff::tz::TimeZone;
use pomd_core::session::{
    Answer, Welcome,
    callback::{self, DONE, LoginEndpoints, Visit},
    error::{LoginError, NotTaken},
    pages::{self, Success},
    token::Token,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::Instant,
};

use super::{
    server::{LoginServer, LoginTarget, NotGood},
    source::{Attempt, Paste, PendingLogin, Source, Started},
};
use crate::{
    admission::{Admission, Capacity, Slot},
    opener::LinkOpener,
};

/// How long pages can be read after the login is over.
const LINGER: Duration = Duration::from_secs(30);
/// How long a browser may take to send a request's head.
const HEAD_LIMIT: Duration = Duration::from_secs(10);
/// How long a whole visit may take; its questions to the server end sooner.
const VISIT_LIMIT: Duration = Duration::from_secs(120);
/// A token of the longest kind, and beside it the cookies of all other programs on this host: their ports count for
/// nothing.
const HEAD_MOST: usize = 64 << 10;
/// How many visits there may be at once; those that say nothing give way.
const VISITS: Capacity = Capacity {
    silent: 16,
    served: 48,
    following: 0,
};
/// How long not to accept after accepting failed (no descriptors).
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
/// Eight of these are 40 bits; none looks like another.
const LETTERS: &[u8; 32] = b"23456789abcdefghijkmnpqrstuvwxyz";

/// Tells whether the login's own user is at the other end, which has this address.
pub type PeerCheck = Arc<dyn Fn(&TcpStream, SocketAddr) -> bool + Send + Sync>;

/// Logins in the person's browser.
#[derive(Clone)]
pub struct Browser {
    /// What a login is made for.
    pub cluster: Arc<LoginTarget>,
    /// Asked for sign-in URLs, and whether a token is good.
    pub server: Arc<dyn LoginServer>,
    /// Decides who may use the login page.
    pub peer_check: PeerCheck,
    /// Shows links.
    pub opener: Arc<dyn LinkOpener>,
    /// The browser that the configuration names.
    pub choice: BrowserChoice,
}

/// One login.
pub struct Job {
    /// The source that it is of.
    pub browser: Browser,
    /// The attempt that it serves.
    pub attempt: Attempt,
    /// Where it is reached.
    pub endpoints: LoginEndpoints,
}

impl Source for Browser {
    /// Takes a port and tries once whether the server mints: a login that cannot work is not shown to anybody.
    fn start(&self, attempt: Attempt) -> BoxFuture<'static, Result<Started, LoginError>> {
        let browser = self.clone();
        Box::pin(async move {
            let local = |error: io::Error| LoginError::CannotListen(error.to_string());
            let listener = bind().await.map_err(local)?;
            let address = listener.local_addr().map_err(local)?;
            let endpoints = LoginEndpoints {
                host: address.to_string(),
                port: address.port(),
                link: format!("/{}", short_name().map_err(local)?),
                callback: format!("/{}", unguessable().map_err(local)?),
            };
            let redirect = endpoints.redirect_url();
            let sign_in_url = browser
                .server
                .sign_in_url(&browser.cluster, &redirect)
                .await?;
            let pending = PendingLogin {
                link: endpoints.link_url(),
                port: endpoints.port,
                redirect,
                sign_in_url,
            };
            let job = Job {
                browser,
                attempt,
                endpoints,
            };
            Ok(Started::Pending(pending, Box::pin(serve(job, listener))))
        })
    }

    fn unattended(&self) -> BoxFuture<'static, bool> {
        self.opener.available(&self.choice)
    }

    fn show(&self, link: &str) -> BoxFuture<'static, Result<(), String>> {
        self.opener.open(&self.choice, link)
    }
}

/// Speaks the server's side of HTTP on one connection.
pub async fn speak<F>(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    answer: impl Fn(Request<Incoming>) -> F,
) where
    F: Future<Output = Response<Full<Bytes>>>,
{
    let service = service_fn(|request| {
        let answer = answer(request);
        async { Ok::<_, io::Error>(answer.await) }
    });
    let connection = http1::Builder::new()
        .keep_alive(false)
        // A tab that is closed early does not undo a login.
        .half_close(true)
        .auto_date_header(false)
        .max_buf_size(HEAD_MOST)
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_LIMIT)
        .serve_connection(TokioIo::new(stream), service);
    if let Ok(Err(error)) = tokio::time::timeout(VISIT_LIMIT, connection).await {
        tracing::debug!("a visit to the login page broke off: {error}");
    }
}

async fn bind() -> io::Result<TcpListener> {
    match TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await {
        Ok(it) => Ok(it),
        Err(v4) => TcpListener::bind((Ipv6Addr::LOCALHOST, 0))
            .await
            .map_err(|_| v4),
    }
}

fn short_name() -> io::Result<String> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    let letters = bytes.map(|it| char::from(LETTERS[usize::from(it & 31)]));
    Ok(letters.iter().collect())
}

fn unguessable() -> io::Result<String> {
    let mut bytes = [0; 24];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    Ok(BASE64_URL_SAFE_NO_PAD.encode(bytes))
}

/// Runs the login until it is over and its last page was shown, or it is stopped.
async fn serve(job: Job, listener: TcpListener) {
    let job = Arc::new(job);
    let Attempt { stop, verdict, .. } = &job.attempt;
    let cluster = job.cluster();
    let mut pasted = job.attempt.pasted.lock().await;
    let mut visits = JoinSet::new();
    let admission = Admission::new(VISITS);
    let mut closes_at = None;
    let mut turned_away = 0_u64;
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            () = verdict.decided(), if closes_at.is_none() => {
                closes_at = Some(Instant::now() + LINGER);
            }
            () = sleep_until(closes_at) => break,
            Some(_) = visits.join_next() => {}
            Some(paste) = pasted.recv() => {
                visits.spawn(take_pasted(job.clone(), paste));
            }
            accepted = listener.accept(), if !admission.is_full() => match accepted {
                Ok((stream, theirs)) if (job.browser.peer_check)(&stream, theirs) => {
                    visits.spawn(visit(job.clone(), stream, admission.enter()));
                }
                Ok((stream, theirs)) => {
                    turned_away += 1;
                    turn_away(&job, stream, theirs, turned_away);
                }
                Err(error) => {
                    tracing::warn!(cluster, "cannot take a visit to the login page: {error}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
    drop(listener);
    visits.shutdown().await;
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Resets a connection of another user, who learns nothing by it.
fn turn_away(job: &Job, stream: TcpStream, theirs: SocketAddr, count: u64) {
    let _ = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
    if count.is_power_of_two() {
        tracing::warn!(
            cluster = job.cluster(),
            "turned away {theirs} at the login page: another user ({count} so far)"
        );
    }
}

/// Takes the address that a sign-in ended on from the person instead of their browser, by the same rules.
async fn take_pasted(job: Arc<Job>, paste: Paste) {
    let visit = callback::classify_pasted(&paste.address, &job.endpoints);
    let taken = match visit {
        Visit::Answer(token) => take(&job, token).await,
        Visit::Denied(why) => Err(NotTaken::Denied(why)),
        Visit::Unusable => Err(NotTaken::Unusable),
        Visit::Misdirected | Visit::Nothing | Visit::SignIn | Visit::Done => Err(NotTaken::Foreign),
    };
    let _ = paste.done.send(taken);
}

async fn visit(job: Arc<Job>, stream: TcpStream, slot: Slot) {
    let speaking = speak(stream, async |request| {
        if !slot.is_served() {
            return callback::reply(StatusCode::REQUEST_TIMEOUT, None, None);
        }
        respond(&job, &request).await
    });
    tokio::select! {
        biased;
        () = slot.evicted() => {}
        () = speaking => {}
    }
}

impl Job {
    fn cluster(&self) -> &str {
        self.browser.cluster.name.as_str()
    }
}

/// Answers one request of a browser.
pub async fn respond<B>(job: &Job, request: &Request<B>) -> Response<Full<Bytes>> {
    let (cluster, endpoints) = (job.cluster(), &job.endpoints);
    match (
        callback::classify(request, endpoints),
        job.attempt.verdict.get(),
    ) {
        (Visit::Misdirected, _) => callback::reply(StatusCode::MISDIRECTED_REQUEST, None, None),
        (Visit::Nothing, _) => callback::reply(StatusCode::NOT_FOUND, None, None),
        (Visit::Done, Some(Some(success))) => {
            page(StatusCode::OK, pages::success(cluster, &shown(success)))
        }
        (Visit::Done, _) => callback::reply(StatusCode::NOT_FOUND, None, None),
        (Visit::SignIn, Some(None)) => page(StatusCode::GONE, pages::ended(cluster)),
        (_, Some(None)) => see_other(&endpoints.link),
        (Visit::SignIn, Some(Some(_))) => page(StatusCode::OK, pages::finished(cluster)),
        (_, Some(Some(_))) => see_other(DONE),
        (Visit::SignIn, None) => sign_in(job).await,
        (Visit::Denied(why), None) => {
            tracing::info!(cluster = job.cluster(), "a login did not succeed: {why}");
            page(StatusCode::FORBIDDEN, pages::denied(&why, &endpoints.link))
        }
        (Visit::Unusable, None) => page(StatusCode::BAD_REQUEST, pages::unusable(cluster)),
        (Visit::Answer(token), None) => accept(job, token).await,
    }
}

async fn sign_in(job: &Job) -> Response<Full<Bytes>> {
    let redirect = job.endpoints.redirect_url();
    let minted = job
        .browser
        .server
        .sign_in_url(&job.browser.cluster, &redirect)
        .await;
    match minted.map(|it| HeaderValue::from_str(&it)) {
        Ok(Ok(url)) => callback::reply(StatusCode::FOUND, Some(url), None),
        Ok(Err(_)) => unreachable(job, "the server named an address that cannot be used"),
        Err(error) => failed(job, &error),
    }
}

async fn accept(job: &Job, token: Token) -> Response<Full<Bytes>> {
    match take(job, token).await {
        Ok(()) => see_other(DONE),
        Err(NotTaken::Unasked(error)) => failed(job, &error),
        Err(NotTaken::NotOpen) if job.attempt.verdict.is_decided() => {
            see_other(&job.endpoints.link)
        }
        Err(NotTaken::NotOpen) => page(StatusCode::GONE, pages::ended(job.cluster())),
        Err(_) => page(StatusCode::BAD_REQUEST, pages::unusable(job.cluster())),
    }
}

/// The token counts only once the server says that it is good, and the session that the login still is.
async fn take(job: &Job, token: Token) -> Result<(), NotTaken> {
    let (cluster, server) = (&job.browser.cluster, &job.browser.server);
    let (user, address) = match server.user(cluster, &token).await {
        Ok(it) => it,
        Err(NotGood::Refused) => {
            tracing::warn!(
                cluster = job.cluster(),
                "a login brought a token that the server refuses"
            );
            return Err(NotTaken::Unusable);
        }
        Err(NotGood::Unasked(error)) => return Err(NotTaken::Unasked(error)),
    };
    let until = server.until(cluster, &address, &token).await;
    let answer = Answer {
        token,
        user,
        until,
        address,
    };
    job.attempt.answer(answer).await;
    match job.attempt.verdict.get() {
        Some(Some(_)) => Ok(()),
        _ => Err(NotTaken::NotOpen),
    }
}

/// The welcome as its page shows it: at a time of day where the person is.
fn shown(it: &Welcome) -> Success {
    Success {
        user: it.user.clone(),
        until: it
            .until
            .map(|until| pages::moment(until, it.at, TimeZone::system())),
        waiting: it.waiting,
        instead_of: it.instead_of.clone(),
    }
}

/// Sends the browser to another page of ours: the address, which may hold a good token, is replaced.
fn see_other(path: &str) -> Response<Full<Bytes>> {
    match HeaderValue::from_str(path) {
        Ok(path) => callback::reply(StatusCode::SEE_OTHER, Some(path), None),
        Err(_) => callback::reply(StatusCode::NOT_FOUND, None, None),
    }
}

fn failed(job: &Job, error: &LoginError) -> Response<Full<Bytes>> {
    let message = error.describe(job.cluster()).message;
    tracing::warn!(cluster = job.cluster(), "{message}");
    unreachable(job, &message)
}

fn unreachable(job: &Job, why: &str) -> Response<Full<Bytes>> {
    page(
        StatusCode::BAD_GATEWAY,
        pages::unreachable(why, &job.endpoints.link),
    )
}

fn page(status: StatusCode, html: String) -> Response<Full<Bytes>> {
    callback::reply(status, None, Some(html))
}

#[cfg(test)]
mod tests;
