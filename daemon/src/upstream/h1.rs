//! One CONNECT over HTTP/1.1: head and early bytes in one flight, then the answer.
//!
//! Knows one connection. Must not know how it was made, or what a refusal leads to.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use pomd_core::{
    config::{Address, Authority},
    route::{
        body::Body,
        error::{DialError, HttpError, StepError, SystemError, Target},
        head::{Framing, Head, HeadError, HeadReader},
        refusal::{self, OpenError},
        token_policy::Permitted,
    },
};
use tokio::{
    io::ReadBuf,
    net::TcpStream,
    time::{Instant, timeout, timeout_at},
};
use zeroize::Zeroizing;

use super::{
    Early, EarlySource, Opened,
    answer::Asked,
    pool::{IdleState, Sent},
    record::{RecvError, Remote},
    tls::certificate::Identity,
};

/// The most early bytes that are kept, and the most that is queued at once.
const FLIGHT: usize = 64 << 10;
/// The most of the body of a refusal that is read.
const REFUSAL: usize = 64 << 10;
/// How long the body of a refusal may take.
const BODY: Duration = Duration::from_secs(2);

/// How we name ourselves to the server.
pub(super) const AGENT: &str = concat!("pomd/", env!("CARGO_PKG_VERSION"));

/// The server at the other end of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer<'a> {
    /// Its address.
    pub(super) address: &'a Address,
    /// The client certificate, where there is TLS.
    pub(super) identity: Option<&'a Identity>,
    /// How long the answer may take.
    pub(super) limit: Duration,
    /// What was known of the connection, if it is a warm one.
    pub(super) idle_state: Option<IdleState>,
    /// How long it may take to reach the server, which a warm connection shows only when something is said on it.
    pub(super) reach: Duration,
}

impl Peer<'_> {
    fn asked(&self) -> Asked<'_> {
        Asked {
            server: self.address,
            identity: self.identity,
            is_warm: self.idle_state.is_some(),
        }
    }
}

/// Why there is no open route, and whether to retry.
#[derive(Debug)]
pub(super) struct AttemptError {
    pub(super) error: OpenError,
    pub(super) again: Again,
}

/// Whether the same may be said on another connection. A service that hears bytes twice is worse than a reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Again {
    /// No: the service may have heard some of it.
    No,
    /// Without early bytes: some were sent, and a guard of the server against them would look like this.
    Patiently,
    /// Yes: it was said on a warm connection that had ended, and nobody can have heard it.
    Unheard,
}

/// The head of a CONNECT. Holds the token.
pub(super) fn request(authority: &Authority, token: Permitted<'_>) -> Zeroizing<Vec<u8>> {
    let secret = token.reveal();
    // As long as it gets: growing would leave copies of the token behind.
    let mut res = Zeroizing::new(Vec::with_capacity(1024 + secret.len()));
    let line = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n");
    for part in [
        &line,
        "Authorization: ",
        token.scheme(),
        " ",
        secret,
        "\r\nAccept: application/json\r\nUser-Agent: ",
        AGENT,
        "\r\n\r\n",
    ] {
        res.extend_from_slice(part.as_bytes());
    }
    res
}

/// Asks with `request` for a route over `remote`. With `eager` the local side's first bytes follow at once, else only
/// after the server agreed.
pub(super) async fn connect<R>(
    mut remote: Remote,
    request: Zeroizing<Vec<u8>>,
    early: &mut Early<R>,
    eager: bool,
    peer: Peer<'_>,
) -> Result<Opened, AttemptError>
where
    R: EarlySource,
{
    let mut exchange = Exchange {
        remote: &mut remote,
        early,
        eager,
        request: Some(request),
        sent: 0,
        broken: None,
        reader: HeadReader::default(),
    };
    let head = match exchange.answer(peer).await {
        Ok(Some(head)) => head,
        Ok(None) => return Err(late(&exchange, peer)),
        Err(stop) => return Err(exchange.failure(stop, peer)),
    };
    if let Some(identity) = peer.identity {
        identity.answered();
    }
    if head.status != 200 {
        let again = match head.status {
            400 if exchange.sent > 0 => Again::Patiently,
            // It had idle_state too long for a request.
            408 if peer.idle_state.is_some() => Again::Unheard,
            _ => Again::No,
        };
        let error = refused(&mut remote, head).await;
        return Err(AttemptError { error, again });
    }
    // Whatever the head says of a body: the bytes behind it are the service's.
    match exchange.finish().await {
        Ok(()) => Ok(Opened {
            remote,
            first: head.rest,
        }),
        Err(stop) => Err(exchange.failure(stop, peer)),
    }
}

/// The answer that refuses, with what its body says if that comes soon.
async fn refused(remote: &mut Remote, head: Head) -> OpenError {
    let framing = head.framing();
    let mut body = Body::up_to(REFUSAL, framing);
    body.push(&head.rest);
    let rest = async {
        while body.end().is_none() {
            match poll_fn(|cx| remote.poll_recv(cx)).await {
                Ok(piece) => body.push(piece.bytes()),
                Err(_) => return,
            }
        }
    };
    // A body that was promised and did not come is a body all the same.
    let promised = matches!(framing, Framing::Length(1..) | Framing::Chunked);
    let whole = timeout(BODY, rest).await.is_ok() && body.end().is_some();
    let bytes = match body.bytes() {
        [] if promised && !whole => b" ",
        bytes => bytes,
    };
    refusal::from(head.status, head.request_id().as_deref(), bytes)
}

fn late<R>(exchange: &Exchange<'_, R>, peer: Peer<'_>) -> AttemptError {
    let again = exchange.again(peer, IdleState::is_silent);
    let target = Target::Server(peer.address.clone());
    let error = match exchange.is_lost(peer) {
        true => {
            let silent = Vec::new();
            let limit = peer.reach;
            StepError::new(target, DialError::TimedOut { silent, limit })
        }
        false => StepError::new(target, HttpError::TimedOut(peer.limit)),
    };
    AttemptError {
        error: error.into(),
        again,
    }
}

/// One question and what is known of its answer.
struct Exchange<'a, R> {
    remote: &'a mut Remote,
    early: &'a mut Early<R>,
    eager: bool,
    /// Not queued yet.
    request: Option<Zeroizing<Vec<u8>>>,
    /// How much of the early bytes was queued.
    sent: usize,
    /// Writing failed. The answer may be there all the same (H6).
    broken: Option<SystemError>,
    reader: HeadReader,
}

impl<R> Exchange<'_, R> {
    /// Whether it is said on a warm connection, and nothing of it arrived.
    fn is_lost(&self, peer: Peer<'_>) -> bool {
        let socket = self.remote.socket.socket();
        peer.idle_state.is_some_and(|it| it.is_lost(socket))
    }

    /// Whether the warm connection that this is said on is of the kind that `unheard` means.
    fn again(&self, peer: Peer<'_>, unheard: fn(&IdleState, &TcpStream, Sent) -> bool) -> Again {
        let sent = Sent {
            written: self.remote.written(),
            early: self.sent > 0,
        };
        let socket = self.remote.socket.socket();
        match peer.idle_state {
            Some(it) if self.reader.is_untouched() && unheard(&it, socket, sent) => {
                // What the system still holds of it is not to leave later.
                let _ = self.remote.socket.set_zero_linger();
                Again::Unheard
            }
            _ => Again::No,
        }
    }
}

/// Why there is no answer.
enum Stop {
    Local(io::Error),
    Remote(RecvError),
    Head(HeadError),
}

impl<R: EarlySource> Exchange<'_, R> {
    /// `None`: its time is over; for a warm connection that nobody seems to hear that comes sooner.
    async fn answer(&mut self, peer: Peer<'_>) -> Result<Option<Head>, Stop> {
        let begun = Instant::now();
        if let Some(idle_state) = peer.idle_state {
            for limit in [idle_state.patience(), peer.reach] {
                let at = begun + limit.min(peer.limit);
                if let Ok(answered) = timeout_at(at, poll_fn(|cx| self.poll(cx))).await {
                    return answered.map(Some);
                }
                let lost = limit == peer.reach && self.is_lost(peer);
                if lost || self.again(peer, IdleState::is_silent) == Again::Unheard {
                    return Ok(None);
                }
            }
        }
        let answered = timeout_at(begun + peer.limit, poll_fn(|cx| self.poll(cx))).await;
        answered.ok().transpose()
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Head, Stop>> {
        if self.eager
            && let Err(error) = self.hear_local(cx)
        {
            return Poll::Ready(Err(Stop::Local(error)));
        }
        // Nobody waits for the writing itself: what it waits for wakes this task.
        let _ = self.poll_send(cx);
        loop {
            match self.remote.poll_recv(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(Stop::Remote(error))),
                Poll::Ready(Ok(piece)) => match self.reader.push(piece.bytes()) {
                    Ok(None) => {}
                    Ok(Some(head)) => return Poll::Ready(Ok(head)),
                    Err(error) => return Poll::Ready(Err(Stop::Head(error))),
                },
            }
        }
    }

    /// After the 200: queues the early bytes that did not leave yet, and begins to write them. Does not wait until they
    /// are gone: the service may want to be heard first, and no limit counts while bytes move.
    async fn finish(&mut self) -> Result<(), Stop> {
        // A client that went meanwhile wants nothing of it any more, nor may what it left be said for it.
        self.early.source.check().map_err(Stop::Local)?;
        self.eager = true;
        while let Some(flight) = self.next_flight() {
            let queued = self.remote.queue(&flight);
            queued.map_err(|error| Stop::Remote(RecvError::Tls(error)))?;
        }
        // Whoever reads the connection from now on meets the error of a failed write.
        let begin = |cx: &mut Context<'_>| Poll::Ready(self.remote.poll_flush(cx).is_ready());
        poll_fn(begin).await;
        Ok(())
    }

    /// Reads what the local side says, as long as it may be kept. Its errors come behind its last byte: whoever does not
    /// read that far asks for them.
    fn hear_local(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let mut room = [0; 8 << 10];
        while !self.early.ended && self.early.kept.len() < FLIGHT {
            let most = room.len().min(FLIGHT - self.early.kept.len());
            let mut piece = ReadBuf::new(&mut room[..most]);
            match Pin::new(&mut self.early.source).poll_read(cx, &mut piece) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Ready(Ok(())) if piece.filled().is_empty() => self.early.ended = true,
                Poll::Ready(Ok(())) => self.early.kept.extend_from_slice(piece.filled()),
            }
        }
        self.early.source.check()
    }

    /// Ready when everything that may be sent was written, or never will be.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.broken.is_none() {
            match self.remote.poll_flush(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(error)) => self.broken = Some(error.into()),
                Poll::Ready(Ok(())) => {
                    let Some(flight) = self.next_flight() else {
                        break;
                    };
                    if let Err(error) = self.remote.queue(&flight) {
                        self.broken = Some(io::Error::other(error).into());
                    }
                }
            }
        }
        Poll::Ready(())
    }

    fn next_flight(&mut self) -> Option<Zeroizing<Vec<u8>>> {
        let head = self.request.take().unwrap_or_default();
        let rest = match self.eager {
            true => &self.early.kept[self.sent..],
            false => &[],
        };
        let piece = &rest[..rest.len().min(FLIGHT.saturating_sub(head.len()))];
        self.sent += piece.len();
        // Made anew, as growing would leave the token behind.
        let mut flight = Zeroizing::new(Vec::with_capacity(head.len() + piece.len()));
        flight.extend_from_slice(&head);
        flight.extend_from_slice(piece);
        (!flight.is_empty()).then_some(flight)
    }

    fn failure(&mut self, stop: Stop, peer: Peer<'_>) -> AttemptError {
        let again = match stop {
            Stop::Remote(_) => self.again(peer, IdleState::is_unheard),
            Stop::Local(_) | Stop::Head(_) => Again::No,
        };
        let error = match stop {
            Stop::Local(error) => OpenError::LocalGone(error),
            Stop::Head(error) => peer.asked().no_head(error, &self.reader),
            Stop::Remote(error) => {
                let begun = !self.reader.is_untouched();
                peer.asked()
                    .cut(error, self.broken.take(), begun, self.remote)
            }
        };
        AttemptError { error, again }
    }
}
