//! One login in a browser: a listener on loopback with a short link that mints a sign-in URL on each visit, and an
//! unguessable path where the sign-in comes back to.
//!
//! Knows one login from its first mint to its last page. Must not know when a login is due, or who is asked.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, OnceLock},
    time::Duration,
};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use jiff::Timestamp;
use pomd_core::config::Address;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    callback::{self, DONE, Door, Verdict},
    pages::{self, Success},
    pomerium::{Failure, NotGood, Pomerium},
    token::Token,
};
use crate::{
    admission::{Admission, Capacity, Slot},
    portal::User,
    tunnel::peer::PeerVerdict as Peer,
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

/// Judges who is at the other end, which has this address.
pub(super) type Doorman = Arc<dyn Fn(&TcpStream, SocketAddr) -> Peer + Send + Sync>;

/// One login.
#[derive(Clone)]
pub(super) struct Job {
    pub(super) id: u64,
    pub(super) cluster: String,
    pub(super) pomerium: Arc<dyn Pomerium>,
    pub(super) doorman: Doorman,
    pub(super) events: mpsc::Sender<Event>,
    pub(super) over: Over,
    /// Ends it at once.
    pub(super) stop: CancellationToken,
}

/// What happened to a login.
pub(super) enum Event {
    /// It has a link, and a sign-in URL could be minted.
    Opened {
        job: u64,
        door: Door,
        sign_in_url: String,
    },
    /// It came to no link.
    Failed { job: u64, failure: Failure },
    /// A token came back, and the server says that it is good.
    LoggedIn {
        job: u64,
        answer: Answer,
        /// Told once the verdict is out: see [`Over`].
        done: oneshot::Sender<()>,
    },
}

/// What a login brought.
pub(super) struct Answer {
    pub(super) token: Token,
    /// `None`: the server does not say.
    pub(super) user: Option<User>,
    pub(super) until: Option<Timestamp>,
    /// The address that vouches for it.
    pub(super) address: Address,
}

/// Whether and how a login is over: decided once, by the driver.
#[derive(Clone, Debug, Default)]
pub(super) struct Over {
    how: Arc<OnceLock<Option<Success>>>,
    told: CancellationToken,
}

impl Over {
    /// `None`: it ended without an answer.
    pub(super) fn decide(&self, how: Option<Success>) {
        let _ = self.how.set(how);
        self.told.cancel();
    }

    /// The verdict is out.
    pub(super) fn is_decided(&self) -> bool {
        self.how.get().is_some()
    }

    fn how(&self) -> Option<&Option<Success>> {
        self.how.get()
    }
}

/// Runs the login until it is over and its last page was shown, or `stop`.
pub(super) async fn run(job: Job) {
    let opening = job.stop.run_until_cancelled(open(&job));
    match opening.await {
        None => {}
        Some(Ok((listener, door, sign_in_url))) => {
            let opened = Event::Opened {
                job: job.id,
                door: door.clone(),
                sign_in_url,
            };
            if job.tell(opened).await {
                serve(job, listener, door).await;
            }
        }
        Some(Err(failure)) => {
            let failed = Event::Failed {
                job: job.id,
                failure,
            };
            job.tell(failed).await;
        }
    }
}

/// The server's side of HTTP as a login speaks it.
pub(super) async fn speak<F>(
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

impl Job {
    async fn tell(&self, event: Event) -> bool {
        let told = self.stop.run_until_cancelled(self.events.send(event)).await;
        matches!(told, Some(Ok(())))
    }
}

/// Takes a port and tries once whether the server mints: a login that cannot work is not shown to anybody.
async fn open(job: &Job) -> Result<(TcpListener, Door, String), Failure> {
    let local = |error: io::Error| Failure {
        code: control::wire::Code::Local,
        message: format!("cannot listen for the login to {}: {error}", job.cluster),
        hint: None,
        request_id: None,
    };
    let listener = bind().await.map_err(local)?;
    let address = listener.local_addr().map_err(local)?;
    let door = Door {
        host: address.to_string(),
        port: address.port(),
        link: format!("/{}", short_name().map_err(local)?),
        callback: format!("/{}", unguessable().map_err(local)?),
    };
    let url = job.pomerium.sign_in_url(&door.redirect_url()).await?;
    Ok((listener, door, url))
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

async fn serve(job: Job, listener: TcpListener, door: Door) {
    let shared = Arc::new((job.clone(), door));
    let mut visits = JoinSet::new();
    let admission = Admission::new(VISITS);
    let mut closes_at = None;
    let mut turned_away = 0_u64;
    loop {
        tokio::select! {
            biased;
            () = job.stop.cancelled() => break,
            () = job.over.told.cancelled(), if closes_at.is_none() => {
                closes_at = Some(Instant::now() + LINGER);
            }
            () = sleep_until(closes_at) => break,
            Some(_) = visits.join_next() => {}
            accepted = listener.accept(), if !admission.is_full() => match accepted {
                Ok((stream, theirs)) if (job.doorman)(&stream, theirs) == Peer::Welcome => {
                    visits.spawn(visit(shared.clone(), stream, admission.enter()));
                }
                Ok((stream, theirs)) => {
                    turned_away += 1;
                    turn_away(&job, stream, theirs, turned_away);
                }
                Err(error) => {
                    tracing::warn!(cluster = job.cluster, "cannot take a visit to the login page: {error}");
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

/// With a reset: whoever it is learns nothing.
fn turn_away(job: &Job, stream: TcpStream, theirs: SocketAddr, count: u64) {
    let _ = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
    if count.is_power_of_two() {
        tracing::warn!(
            cluster = job.cluster,
            "turned away {theirs} at the login page: another user ({count} so far)"
        );
    }
}

async fn visit(shared: Arc<(Job, Door)>, stream: TcpStream, slot: Slot) {
    let speaking = speak(stream, async |request| {
        if !slot.is_served() {
            return callback::reply(StatusCode::REQUEST_TIMEOUT, None, None);
        }
        let (job, door) = &*shared;
        respond(job, door, &request).await
    });
    tokio::select! {
        biased;
        () = slot.evicted() => {}
        () = speaking => {}
    }
}

pub(super) async fn respond<B>(
    job: &Job,
    door: &Door,
    request: &Request<B>,
) -> Response<Full<Bytes>> {
    match (callback::judge(request, door), job.over.how()) {
        (Verdict::Misdirected, _) => callback::reply(StatusCode::MISDIRECTED_REQUEST, None, None),
        (Verdict::Nothing, _) => callback::reply(StatusCode::NOT_FOUND, None, None),
        (Verdict::Done, Some(Some(success))) => {
            page(StatusCode::OK, pages::success(&job.cluster, success))
        }
        (Verdict::Done, _) => callback::reply(StatusCode::NOT_FOUND, None, None),
        (Verdict::SignIn, Some(None)) => page(StatusCode::GONE, pages::ended(&job.cluster)),
        (_, Some(None)) => see_other(&door.link),
        (Verdict::SignIn, Some(Some(_))) => page(StatusCode::OK, pages::finished(&job.cluster)),
        (_, Some(Some(_))) => see_other(DONE),
        (Verdict::SignIn, None) => sign_in(job, door).await,
        (Verdict::Denied(why), None) => {
            tracing::info!(cluster = job.cluster, "a login did not succeed: {why}");
            page(StatusCode::FORBIDDEN, pages::denied(&why, &door.link))
        }
        (Verdict::Unusable, None) => page(StatusCode::BAD_REQUEST, pages::unusable(&job.cluster)),
        (Verdict::Answer(token), None) => accept(job, door, token).await,
    }
}

async fn sign_in(job: &Job, door: &Door) -> Response<Full<Bytes>> {
    let minted = job.pomerium.sign_in_url(&door.redirect_url()).await;
    match minted.map(|it| HeaderValue::from_str(&it)) {
        Ok(Ok(url)) => callback::reply(StatusCode::FOUND, Some(url), None),
        Ok(Err(_)) => unreachable(door, "the server named an address that cannot be used"),
        Err(failure) => {
            tracing::warn!(cluster = job.cluster, "{}", failure.message);
            unreachable(door, &failure.message)
        }
    }
}

/// The token counts only once the server says that it is good, and the driver that the login still is.
async fn accept(job: &Job, door: &Door, token: Token) -> Response<Full<Bytes>> {
    let (user, address) = match job.pomerium.user(&token).await {
        Ok(it) => it,
        Err(NotGood::Refused) => {
            tracing::warn!(
                cluster = job.cluster,
                "a login brought a token that the server refuses"
            );
            return page(StatusCode::BAD_REQUEST, pages::unusable(&job.cluster));
        }
        Err(NotGood::Unasked(failure)) => {
            tracing::warn!(cluster = job.cluster, "{}", failure.message);
            return unreachable(door, &failure.message);
        }
    };
    let until = job.pomerium.until(&address, &token).await;
    let (done, decided) = oneshot::channel();
    let answer = Answer {
        token,
        user,
        until,
        address,
    };
    let event = Event::LoggedIn {
        job: job.id,
        answer,
        done,
    };
    if job.tell(event).await {
        let _ = decided.await;
    }
    match job.over.how() {
        Some(Some(_)) => see_other(DONE),
        Some(None) => see_other(&door.link),
        None => page(StatusCode::GONE, pages::ended(&job.cluster)),
    }
}

/// To another page of ours: the address, which may hold a good token, is replaced.
fn see_other(path: &str) -> Response<Full<Bytes>> {
    match HeaderValue::from_str(path) {
        Ok(path) => callback::reply(StatusCode::SEE_OTHER, Some(path), None),
        Err(_) => callback::reply(StatusCode::NOT_FOUND, None, None),
    }
}

fn unreachable(door: &Door, why: &str) -> Response<Full<Bytes>> {
    page(StatusCode::BAD_GATEWAY, pages::unreachable(why, &door.link))
}

fn page(status: StatusCode, html: String) -> Response<Full<Bytes>> {
    callback::reply(status, None, Some(html))
}

#[cfg(test)]
mod tests;
