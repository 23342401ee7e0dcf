//! Opening routes and GETs against scripted servers over real sockets.

mod connect;
mod get;
mod pool;
mod proxy;
mod steps;
mod trust;

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use pomd_core::route::refusal::{Refusal, RefusalKind};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadBuf},
    join,
};
use tokio_rustls::TlsAcceptor;

use super::{
    testing::{HOST, Lab, corp, early, head, route, token},
    *,
};

const OK: &[u8] = b"HTTP/1.1 200 OK\r\n\r\n";

/// A local side that says `0` and then nothing for ever.
struct Says(&'static [u8]);

impl EarlySource for Says {}

impl EarlySource for tokio::io::DuplexStream {}

impl EarlySource for tokio::io::Empty {}

impl EarlySource for &[u8] {}

impl AsyncRead for Says {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        to: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.0.is_empty() {
            return Poll::Pending;
        }
        let (now, later) = self.0.split_at(self.0.len().min(to.remaining()));
        to.put_slice(now);
        self.0 = later;
        Poll::Ready(Ok(()))
    }
}

/// A local side that was reset.
struct Reset;

impl EarlySource for Reset {}

impl AsyncRead for Reset {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        _: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()))
    }
}

fn refusal(res: Result<Opened, OpenError>) -> Refusal {
    match res.unwrap_err() {
        OpenError::Refused(it) => it,
        other => panic!("not a refusal: {other:?}"),
    }
}

/// A step that failed, and what a person is told of it.
#[derive(Debug, PartialEq, Eq)]
struct Told {
    step: Step,
    timed_out: bool,
    message: String,
    hint: Option<String>,
}

impl From<StepError> for Told {
    fn from(error: StepError) -> Self {
        Self {
            step: error.step(),
            timed_out: error.timed_out(),
            message: error.to_string(),
            hint: words::step::advice(&error, "[cluster.corp]"),
        }
    }
}

fn unreachable<T: std::fmt::Debug>(res: Result<T, OpenError>) -> Told {
    match res.unwrap_err() {
        OpenError::Unreachable(it) => (*it).into(),
        other => panic!("not unreachable: {other:?}"),
    }
}

/// Opens against `server`, which answers 200.
async fn opens(lab: &Lab, upstream: &Upstream, server: &TlsAcceptor) -> Opened {
    let mut early = early(Says(b""));
    let (route, token) = (route(), token());
    let (res, ()) = join!(upstream.open(&route, &token, &mut early), async {
        let mut stream = lab.accept(server).await.unwrap();
        head(&mut stream).await;
        stream.write_all(OK).await.unwrap();
    });
    res.unwrap()
}
