//! Request heads and answers as bytes: a reader of its own, so that what follows a CONNECT head stays what it was.

use std::io;

use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt};

/// The most that a request head may hold.
const HEAD_MOST: usize = 60 << 10;
/// The most that a TLS record carries.
pub(crate) const RECORD_MOST: usize = 16 << 10;
/// The most that a form may hold.
const BODY_MOST: usize = 64 << 10;

/// A request head.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) headers: Vec<(String, String)>,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum HeadError {
    #[error("the head is longer than {HEAD_MOST} bytes")]
    TooLong,
    #[error("not an HTTP request: {0}")]
    NotHttp(#[from] httparse::Error),
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Request {
    /// The first value of the header `name`, which is in lower case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(it, _)| it == name);
        found.map(|(_, value)| value.as_str())
    }

    pub(crate) fn accepts_json(&self) -> bool {
        self.header("accept")
            .is_some_and(|it| it.contains("application/json"))
    }

    /// The token, if `Authorization: Pomerium <token>` is there in exactly these letters.
    pub(crate) fn token(&self) -> Option<&str> {
        self.header("authorization")?.strip_prefix("Pomerium ")
    }

    /// A token that somebody else issued.
    pub(crate) fn bearer(&self) -> Option<&str> {
        self.header("authorization")?.strip_prefix("Bearer ")
    }

    pub(crate) fn cookie(&self, name: &str) -> Option<&str> {
        let pairs = self.header("cookie")?.split(';');
        pairs
            .filter_map(|it| it.trim().split_once('='))
            .find(|(key, _)| *key == name)
            .map(|(_, value)| value)
    }
}

/// Reads one head into `buffer` and takes it from there; what came behind it stays. `None` at a clean end.
pub(crate) async fn read<S: AsyncRead + Unpin>(
    stream: &mut S,
    buffer: &mut Vec<u8>,
) -> Result<Option<Request>, HeadError> {
    loop {
        if let Some((request, length)) = parse(buffer)? {
            buffer.drain(..length);
            return Ok(Some(request));
        }
        if buffer.len() > HEAD_MOST {
            return Err(HeadError::TooLong);
        }
        // Room for a whole TLS record: what came with the head is counted as early.
        buffer.reserve(RECORD_MOST);
        if stream.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    }
}

/// Reads the body that `content-length` announces.
pub(crate) async fn read_body<S: AsyncRead + Unpin>(
    stream: &mut S,
    buffer: &mut Vec<u8>,
    request: &Request,
) -> Result<Vec<u8>, HeadError> {
    let length = request.header("content-length").unwrap_or("0");
    let length: usize = length.trim().parse().unwrap_or(usize::MAX);
    if length > BODY_MOST {
        return Err(HeadError::TooLong);
    }
    while buffer.len() < length {
        if stream.read_buf(buffer).await? == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
    }
    Ok(buffer.drain(..length).collect())
}

fn parse(buffer: &[u8]) -> Result<Option<(Request, usize)>, httparse::Error> {
    let mut headers = [httparse::EMPTY_HEADER; 100];
    let mut parsed = httparse::Request::new(&mut headers);
    let httparse::Status::Complete(length) = parsed.parse(buffer)? else {
        return Ok(None);
    };
    let header = |it: &httparse::Header<'_>| {
        let value = String::from_utf8_lossy(it.value).into_owned();
        (it.name.to_ascii_lowercase(), value)
    };
    let request = Request {
        method: parsed.method.unwrap_or_default().to_owned(),
        target: parsed.path.unwrap_or_default().to_owned(),
        headers: parsed.headers.iter().map(header).collect(),
    };
    Ok(Some((request, length)))
}

/// An answer with a body of known length.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn new(status: u16, content_type: &str, body: impl Into<Vec<u8>>) -> Self {
        Self {
            status,
            headers: vec![("content-type".to_owned(), content_type.to_owned())],
            body: body.into(),
        }
    }

    pub(crate) fn json(status: u16, body: &serde_json::Value) -> Self {
        Self::new(status, "application/json", body.to_string())
    }

    /// As Pomerium itself refuses.
    pub(crate) fn pomerium(status: u16, error: &str, request_id: &str) -> Self {
        Self::json(status, &json!({ "error": error, "request_id": request_id }))
    }

    /// As Envoy refuses.
    pub(crate) fn envoy(status: u16, text: &str, request_id: &str) -> Self {
        let body = json!({ "requestId": request_id, "status": status, "statusText": text });
        Self::json(status, &body)
    }

    pub(crate) fn redirect(location: impl Into<String>) -> Self {
        Self {
            status: 302,
            headers: vec![("location".to_owned(), location.into())],
            body: Vec::new(),
        }
    }

    pub(crate) fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    pub(crate) fn into_bytes(self, request_id: &str, close: bool) -> Vec<u8> {
        let mut head = format!("HTTP/1.1 {} {}\r\n", self.status, reason(self.status));
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str(&format!("content-length: {}\r\n", self.body.len()));
        head.push_str(&format!("x-request-id: {request_id}\r\n"));
        if close {
            head.push_str("connection: close\r\n");
        }
        head.push_str("server: envoy\r\n\r\n");
        let mut res = head.into_bytes();
        res.extend_from_slice(&self.body);
        res
    }
}

/// The words behind a status code.
pub(crate) fn reason(status: u16) -> &'static str {
    let known = http::StatusCode::from_u16(status).ok();
    known
        .and_then(|it| it.canonical_reason())
        .unwrap_or("Unknown")
}
