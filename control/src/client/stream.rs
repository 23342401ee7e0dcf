//! What goes on after the head of an answer: NDJSON, or the bytes of a route.

use std::{
    io,
    marker::PhantomData,
    path::PathBuf,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, client::conn::http1, upgrade::Upgraded};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::watch,
    task::JoinHandle,
};

use super::{ClientError, broken};
use crate::{frames::Frames, socket::Socket, wire::ConnectNote};

/// The most that one line of a stream may hold.
const LINE_MOST: usize = 16 << 20;

/// A stream of NDJSON.
#[derive(Debug)]
pub struct Lines<T> {
    body: Incoming,
    /// The life of pomd that answers.
    pub(super) life: Option<Vec<u8>>,
    buffered: Vec<u8>,
    socket: PathBuf,
    _connection: Connection,
    _of: PhantomData<T>,
}

impl<T: DeserializeOwned> Lines<T> {
    pub(super) fn new(
        body: Incoming,
        life: Option<Vec<u8>>,
        socket: PathBuf,
        connection: Connection,
    ) -> Self {
        Self {
            body,
            life,
            buffered: Vec::new(),
            socket,
            _connection: connection,
            _of: PhantomData,
        }
    }

    /// Returns the next line; `None` at the end of the stream.
    pub async fn next(&mut self) -> Result<Option<T>, ClientError> {
        loop {
            if let Some(end) = self.buffered.iter().position(|it| *it == b'\n') {
                let line: Vec<u8> = self.buffered.drain(..=end).collect();
                let parsed = serde_json::from_slice(&line);
                return parsed.map(Some).map_err(|it| broken(&self.socket, it));
            }
            if self.buffered.len() > LINE_MOST {
                return Err(broken(&self.socket, "a line of the stream is too long"));
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(Err(error)) => return Err(broken(&self.socket, error)),
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref() {
                        self.buffered.extend_from_slice(data);
                    }
                }
            }
        }
    }
}

/// A route. Reading fails with [`io::ErrorKind::ConnectionReset`] where it was cut.
#[derive(Debug)]
pub struct RouteStream {
    stream: TokioIo<Upgraded>,
    frames: Frames,
    login_needed: watch::Sender<Option<String>>,
    _connection: Connection,
}

impl RouteStream {
    pub(super) fn new(upgraded: Upgraded, connection: Connection) -> Self {
        Self {
            stream: TokioIo::new(upgraded),
            frames: Frames::default(),
            login_needed: watch::Sender::default(),
            _connection: connection,
        }
    }

    /// Returns the cluster that the connection waits for a login to, once it does. Told while the route is read.
    pub fn login_needed(&self) -> watch::Receiver<Option<String>> {
        self.login_needed.subscribe()
    }
}

impl AsyncRead for RouteStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { stream, frames, .. } = &mut *self;
        let polled = frames.poll_read(stream, cx, buf);
        let note = frames.take_note();
        if let Some(Ok(ConnectNote::LoginNeeded { cluster })) =
            note.as_deref().map(serde_json::from_slice)
        {
            self.login_needed.send_replace(Some(cluster));
        }
        polled
    }
}

impl AsyncWrite for RouteStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// The task that moves the bytes of one connection; ends with its owner.
#[derive(Debug)]
pub(super) struct Connection(JoinHandle<()>);

impl Connection {
    pub(super) fn drive(connection: http1::Connection<TokioIo<Socket>, Full<Bytes>>) -> Self {
        #[expect(
            clippy::disallowed_methods,
            reason = "the task is ended by the drop of this value"
        )]
        Self(tokio::spawn(async move {
            let _ = connection.with_upgrades().await;
        }))
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}
