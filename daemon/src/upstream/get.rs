//! One GET over a connection of its own, with hyper.
//!
//! Knows one connection. Follows no redirect.

use std::{error, future::poll_fn, io, pin::pin};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper::{
    Request, Response, Uri,
    body::Incoming,
    client::conn::http1,
    header::{self, HeaderValue},
};
use hyper_util::rt::TokioIo;
use pomd_core::{
    config::Address,
    route::{
        refusal::{self, OpenError, Step, Unreachable, shown_id},
        token_policy::Permitted,
    },
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::timeout,
};

use super::{
    Answer,
    dial::{reason, shown},
    h1::{AGENT, Peer},
    tls::handshake,
};

/// The longest body that is taken.
const BODY: usize = 4 << 20;
/// The longest head that is taken.
const HEAD: usize = 128 << 10;

/// GETs `path` of `address` over `stream`. `late_verdict`: the server may have asked for a certificate that it did not
/// get, and say so only by closing. `agreed`: it chose a protocol during the handshake, as one of HTTP/2 alone can't.
pub(super) async fn get<S>(
    stream: S,
    address: &Address,
    path: &str,
    token: Option<Permitted<'_>>,
    peer: Peer<'_>,
    late_verdict: bool,
    agreed: bool,
) -> Result<Answer, OpenError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let request = request(address, path, token)
        // Without the path: it may hold where a login comes back to.
        .map_err(|error| problem(peer, &format!("cannot make a request: {error}")))?;
    match timeout(peer.limit, exchange(stream, request)).await {
        Ok(Ok(answer)) => {
            if let Some(identity) = peer.identity {
                identity.answered();
            }
            Ok(answer)
        }
        Ok(Err(error)) => Err(failed(&*error, peer, late_verdict, agreed)),
        Err(_) => {
            let message = format!("{} did not answer within {}", peer.name, shown(peer.limit));
            Err(Unreachable::new(Step::Http, &message).timed_out().into())
        }
    }
}

fn request(
    address: &Address,
    path: &str,
    token: Option<Permitted<'_>>,
) -> Result<Request<Empty<Bytes>>, http::Error> {
    let mut request = Request::get(path.parse::<Uri>()?)
        .header(header::HOST, address.host_and_port())
        .header(header::ACCEPT, "application/json")
        .header(header::USER_AGENT, AGENT);
    if let Some(token) = token {
        let mut value = HeaderValue::try_from(format!("Pomerium {}", token.reveal()))?;
        value.set_sensitive(true);
        request = request.header(header::AUTHORIZATION, value);
    }
    request.body(Empty::new())
}

type Cause = Box<dyn error::Error + Send + Sync>;

async fn exchange<S>(stream: S, request: Request<Empty<Bytes>>) -> Result<Answer, Cause>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(HEAD)
        .max_headers(1024)
        .handshake(TokioIo::new(stream))
        .await?;
    let mut asking = pin!(async {
        let answer = sender.send_request(request).await?;
        collect(answer).await
    });
    let mut connection = pin!(connection);
    let mut driving = true;
    // The asking drives the connection itself, so there is no task to leak.
    poll_fn(|cx| {
        if driving && connection.as_mut().poll(cx).is_ready() {
            driving = false;
        }
        asking.as_mut().poll(cx)
    })
    .await
}

async fn collect(answer: Response<Incoming>) -> Result<Answer, Cause> {
    let (head, body) = answer.into_parts();
    let text = |name: &str| {
        let value = head.headers.get(name)?;
        Some(String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    let body = Limited::new(body, BODY).collect().await?;
    Ok(Answer {
        status: head.status.as_u16(),
        request_id: text("x-request-id").map(|it| shown_id(&it)),
        location: text("location"),
        content_type: text("content-type"),
        body: body.to_bytes().into(),
    })
}

fn failed(
    error: &(dyn error::Error + 'static),
    peer: Peer<'_>,
    late_verdict: bool,
    agreed: bool,
) -> OpenError {
    if let (Some(error), Some(identity)) = (find::<rustls::Error>(error), peer.identity)
        && let Some(wanted) = handshake::certificate_wanted(error, identity)
    {
        return wanted;
    }
    let cut = find::<io::Error>(error);
    let silent = find::<hyper::Error>(error).is_some_and(hyper::Error::is_incomplete_message);
    if late_verdict && (silent || cut.is_some()) {
        return refusal::certificate_wanted("closed right after it had asked for a certificate");
    }
    let ended = silent || cut.is_some_and(|it| it.kind() == io::ErrorKind::UnexpectedEof);
    let message = if find::<LengthLimitError>(error).is_some() {
        "its answer is longer than 4 MiB".to_owned()
    } else if find::<hyper::Error>(error).is_some_and(hyper::Error::is_parse) {
        "not an HTTP answer".to_owned()
    } else if ended {
        "it closed the connection without a whole answer".to_owned()
    } else if let Some(error) = cut {
        format!("the connection broke off: {}", reason(error))
    } else {
        error.to_string()
    };
    let problem = problem(peer, &message);
    match (silent || cut.is_some()) && !agreed {
        true => problem.hint(handshake::ONLY_H2).into(),
        false => problem.into(),
    }
}

fn problem(peer: Peer<'_>, message: &str) -> Unreachable {
    Unreachable::new(Step::Http, &format!("{}: {message}", peer.name))
}

/// The first error of type `E` in the chain; an [`io::Error`] may carry one inside.
fn find<'a, E: error::Error + 'static>(error: &'a (dyn error::Error + 'static)) -> Option<&'a E> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        let inner = error.downcast_ref::<io::Error>();
        next = match inner.and_then(io::Error::get_ref) {
            Some(it) => Some(it),
            None => error.source(),
        };
    }
    None
}
