//! The body of a request: small, and soon.

use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::{StatusCode, body::Incoming};

use super::REQUEST;

/// The most that the body of a request may hold.
const BODY: usize = 64 << 10;

/// The whole body, or why it is not taken.
pub(super) async fn body(body: Incoming) -> Result<Bytes, (StatusCode, String)> {
    let whole = Limited::new(body, BODY).collect();
    match tokio::time::timeout(REQUEST, whole).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err((
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("a body may hold {} KiB", BODY >> 10),
        )),
        Ok(Err(_)) => Err((
            StatusCode::BAD_REQUEST,
            "the body ended half-way".to_owned(),
        )),
        Err(_) => Err((
            StatusCode::REQUEST_TIMEOUT,
            format!("the body did not come within {} s", REQUEST.as_secs()),
        )),
    }
}
