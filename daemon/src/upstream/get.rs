//! One GET over a connection of its own.
//!
//! Knows one connection. Follows no redirect.

use std::{future::poll_fn, task::Poll, time::Duration};

use pomd_core::{
    config::Address,
    route::{
        body::{Body, BodyEnd},
        error::HttpError,
        head::{Head, HeadReader},
        refusal::OpenError,
        token_policy::Permitted,
    },
};
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::{
    Answer,
    answer::Asked,
    h1::AGENT,
    record::{RecvError, Remote},
};

/// The longest body that is taken, in MiB.
const BODY: usize = 4;

/// Returns the request for `path` of `address`. Holds the token.
pub(super) fn request(
    address: &Address,
    path: &str,
    token: Option<Permitted<'_>>,
) -> Result<Zeroizing<Vec<u8>>, HttpError> {
    if !path.starts_with('/') || !path.bytes().all(|it| it.is_ascii_graphic()) {
        // Without the path: it may hold where a login comes back to.
        return Err(HttpError::Request("its path is no path".to_owned()));
    }
    let secret = token.as_ref().map_or("", Permitted::reveal);
    // As long as it gets: growing would leave copies of the token behind.
    let mut res = Zeroizing::new(Vec::with_capacity(1024 + path.len() + secret.len()));
    let host = address.host_and_port();
    let head = format!(
        "GET {path} HTTP/1.1\r\nhost: {host}\r\naccept: application/json\r\nuser-agent: {AGENT}\r\n"
    );
    res.extend_from_slice(head.as_bytes());
    if let Some(token) = &token {
        for part in ["authorization: ", token.scheme(), " ", secret, "\r\n"] {
            res.extend_from_slice(part.as_bytes());
        }
    }
    res.extend_from_slice(b"\r\n");
    Ok(res)
}

/// Sends `request` over `remote` and reads the whole answer, for at most `limit`.
pub(super) async fn get(
    mut remote: Remote,
    request: &[u8],
    asked: Asked<'_>,
    limit: Duration,
) -> Result<Answer, OpenError> {
    match timeout(limit, exchange(&mut remote, request, asked)).await {
        Ok(answered) => answered,
        Err(_) => Err(asked.failed(HttpError::TimedOut(limit))),
    }
}

async fn exchange(
    remote: &mut Remote,
    request: &[u8],
    asked: Asked<'_>,
) -> Result<Answer, OpenError> {
    if let Err(error) = remote.queue(request) {
        return Err(asked.cut(RecvError::Tls(error), None, false, remote));
    }
    let mut broken = None;
    let mut reader = HeadReader::default();
    let head = loop {
        let received = poll_fn(|cx| {
            // The answer may be there even if writing failed.
            if let Poll::Ready(Err(error)) = remote.poll_flush(cx) {
                broken = Some(error.into());
            }
            remote.poll_recv(cx)
        });
        match received.await {
            Ok(piece) => match reader.push(piece.bytes()) {
                Ok(None) => {}
                Ok(Some(head)) => break head,
                Err(error) => return Err(asked.no_head(error, &reader)),
            },
            Err(error) => {
                return Err(asked.cut(error, broken, !reader.is_untouched(), remote));
            }
        }
    };
    if let Some(identity) = asked.identity {
        identity.answered();
    }
    let body = body(remote, &head, asked).await?;
    let text = |name: &str| head.values(name).into_iter().next();
    Ok(Answer {
        status: head.status,
        request_id: head.request_id(),
        location: text("location"),
        content_type: text("content-type"),
        date: text("date"),
        body,
    })
}

async fn body(remote: &mut Remote, head: &Head, asked: Asked<'_>) -> Result<Vec<u8>, OpenError> {
    let mut body = Body::up_to(BODY << 20, head.framing());
    body.push(&head.rest);
    loop {
        match body.end() {
            Some(BodyEnd::Whole) => return Ok(body.into_bytes()),
            Some(BodyEnd::TooLong) => return Err(asked.failed(HttpError::BodyTooLong(BODY))),
            Some(BodyEnd::Broken) => return Err(asked.failed(HttpError::BrokenBody)),
            None => {}
        }
        match poll_fn(|cx| remote.poll_recv(cx)).await {
            Ok(piece) => body.push(piece.bytes()),
            Err(RecvError::Closed) if body.ends_with_connection() => return Ok(body.into_bytes()),
            Err(error) => return Err(asked.cut(error, None, true, remote)),
        }
    }
}
