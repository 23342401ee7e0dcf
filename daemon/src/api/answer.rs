//! Answers as bytes: JSON, NDJSON, text and errors, with the protocol's header.

use std::{
    convert::Infallible,
    hash::{BuildHasher, RandomState},
    sync::LazyLock,
};

use bytes::Bytes;
use control::wire::{self, ApiError, Code, ErrorAnswer, LIFE_HEADER, PROTOCOL, PROTOCOL_HEADER};
use futures_util::Stream;
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{Response, StatusCode, body::Frame, header};
use pomd_core::{
    config::Address,
    session::error::{LoginError, NotTaken},
    words::login::Described,
};
use serde::Serialize;

/// Drawn anew by each life of the process.
static LIFE: LazyLock<u64> = LazyLock::new(|| RandomState::new().hash_one(()));

pub(super) type Body = UnsyncBoxBody<Bytes, Infallible>;

/// 200 with `value`.
pub(super) fn json<T: Serialize>(value: &T) -> Response<Body> {
    match line(value) {
        Ok(body) => response(
            StatusCode::OK,
            "application/json",
            Full::new(body).boxed_unsync(),
        ),
        Err(error) => self::error(
            StatusCode::INTERNAL_SERVER_ERROR,
            &super::error::api_error(Code::Internal, format!("cannot write the answer: {error}")),
        ),
    }
}

/// 200 with `text`.
pub(super) fn text(content_type: &'static str, text: String) -> Response<Body> {
    let body = Full::new(text.into()).boxed_unsync();
    response(StatusCode::OK, content_type, body)
}

/// 200 with one line for each item.
pub(super) fn ndjson<T: Serialize>(
    items: impl Stream<Item = T> + Send + 'static,
) -> Response<Body> {
    use futures_util::StreamExt;
    let lines = items.map(|item| Ok(Frame::data(line(&item).unwrap_or_default())));
    response(
        StatusCode::OK,
        "application/x-ndjson",
        StreamBody::new(lines).boxed_unsync(),
    )
}

/// The same of items that come until their reader is gone or pomd stops.
pub(super) fn endless<T: Serialize>(
    items: impl Stream<Item = T> + Send + 'static,
) -> Response<Body> {
    let mut res = ndjson(items);
    res.extensions_mut().insert(NoEnd);
    res
}

/// It was made by [`endless`].
pub(super) fn is_endless(answer: &Response<Body>) -> bool {
    answer.extensions().get::<NoEnd>().is_some()
}

#[derive(Clone)]
struct NoEnd;

/// 101: raw bytes of `protocol` follow.
pub(super) fn switching_protocols(protocol: &'static str) -> Response<Body> {
    let empty = Full::new(Bytes::new()).boxed_unsync();
    let mut res = response(
        StatusCode::SWITCHING_PROTOCOLS,
        "application/octet-stream",
        empty,
    );
    let headers = res.headers_mut();
    headers.insert(
        header::CONNECTION,
        header::HeaderValue::from_static("upgrade"),
    );
    headers.insert(header::UPGRADE, header::HeaderValue::from_static(protocol));
    res
}

/// The status code that fits the error.
pub(super) fn refused(error: &ApiError) -> Response<Body> {
    let status = match error.code {
        Code::NoSuchTunnel | Code::NoSuchCluster => StatusCode::NOT_FOUND,
        Code::BadRequest => StatusCode::BAD_REQUEST,
        Code::ConfigBroken => StatusCode::UNPROCESSABLE_ENTITY,
        Code::AddressInUse | Code::AddressNotAvailable | Code::LoginNeeded => StatusCode::CONFLICT,
        Code::Stopping => StatusCode::SERVICE_UNAVAILABLE,
        Code::Timeout => StatusCode::GATEWAY_TIMEOUT,
        Code::Internal | Code::Local => StatusCode::INTERNAL_SERVER_ERROR,
        _ => StatusCode::BAD_GATEWAY,
    };
    self::error(status, error)
}

/// `{"error":{…}}` with `status`.
pub(super) fn error(status: StatusCode, error: &ApiError) -> Response<Body> {
    let answer = ErrorAnswer {
        error: error.clone(),
    };
    let body = line(&answer).unwrap_or_default();
    response(status, "application/json", Full::new(body).boxed_unsync())
}

fn line<T: Serialize>(value: &T) -> Result<Bytes, serde_json::Error> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    Ok(line.into())
}

fn response(status: StatusCode, content_type: &'static str, body: Body) -> Response<Body> {
    let mut res = Response::new(body);
    *res.status_mut() = status;
    let headers = res.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static(content_type),
    );
    headers.insert(
        header::CACHE_CONTROL,
        header::HeaderValue::from_static("no-store"),
    );
    headers.insert(PROTOCOL_HEADER, header::HeaderValue::from(PROTOCOL));
    headers.insert(LIFE_HEADER, header::HeaderValue::from(*LIFE));
    res
}

/// An answer about a cluster needs the cluster as it stands.
pub(super) fn cluster_of(status: &wire::Status, name: &str) -> Option<wire::Cluster> {
    status.clusters.iter().find(|it| it.name == name).cloned()
}
/// Returns the error of a login to `cluster`; `hint` is better advice than its own.
pub(super) fn login_error(error: &LoginError, cluster: &str, hint: Option<String>) -> ApiError {
    let described = error.describe(cluster);
    let hint = hint.or_else(|| described.hint.clone());
    about_login(Described { hint, ..described }, cluster)
}

/// Returns the error of an address that was no answer to the login to `cluster`.
pub(super) fn not_taken(why: &NotTaken, cluster: &str) -> ApiError {
    about_login(why.describe(cluster), cluster)
}

fn about_login(described: Described, cluster: &str) -> ApiError {
    ApiError {
        code: described.code,
        message: described.message,
        hint: described.hint,
        request_id: described.request_id,
        facts: Vec::new(),
        cluster: Some(cluster.to_owned()),
        holder: None,
    }
}

/// What is odd where a login at `address` fails: all tunnels of its cluster go to servers on another port.
pub(super) fn other_port(
    status: &wire::Status,
    cluster: &str,
    address: &Address,
) -> Option<String> {
    let tunnels = status.tunnels.iter().filter(|it| it.cluster == cluster);
    let mut servers: Vec<&str> = tunnels
        .map(|it| it.server.as_deref())
        .collect::<Option<_>>()?;
    servers.dedup();
    let port = |it: &str| it.rsplit_once(':')?.1.parse::<u16>().ok();
    let first = servers.first().and_then(|it| port(it))?;
    let alike = servers.iter().all(|it| port(it) == Some(first));
    (alike && first != address.port).then(|| {
        format!(
            "the tunnels of {cluster} go to port {first}, and its logins to port {}: if one Pomerium has both, set url \
             to its port {first}",
            address.port
        )
    })
}
