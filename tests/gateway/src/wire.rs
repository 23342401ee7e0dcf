//! One client connection, with or without TLS, and the ways to end it that TLS has no word for.

use std::{
    io,
    net::Shutdown,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::server::TlsStream;

use crate::script::End;

/// A client connection past its handshake.
#[derive(Debug)]
pub(crate) enum Wire {
    Tls(Box<TlsStream<TcpStream>>),
    Plain(TcpStream),
}

impl Wire {
    /// The name that the client asked for.
    pub(crate) fn server_name(&self) -> Option<String> {
        match self {
            Self::Tls(tls) => tls.get_ref().1.server_name().map(str::to_owned),
            Self::Plain(_) => None,
        }
    }

    pub(crate) fn is_tls(&self) -> bool {
        matches!(self, Self::Tls(_))
    }

    /// Goes on with new keys, and has the client do the same.
    pub(crate) async fn renew_keys(&mut self) -> io::Result<()> {
        if let Self::Tls(tls) = self {
            let renewed = tls.get_mut().1.refresh_traffic_keys();
            renewed.map_err(io::Error::other)?;
        }
        self.flush().await
    }

    /// Ends the connection as told. `linger` is how long the client gets to end it first, as Envoy's delayed close.
    pub(crate) async fn end(mut self, end: End, linger: Duration) {
        let _ = self.flush().await;
        match end {
            End::Clean => {
                self.drain(linger).await;
                // Bounded, because a client that does not read would hold it for ever.
                let _ = tokio::time::timeout(Duration::from_secs(5), self.shutdown()).await;
            }
            End::Cut => {
                let _ = SockRef::from(self.tcp()).shutdown(Shutdown::Write);
                self.drain_raw(linger).await;
            }
            End::Reset => {
                let _ = SockRef::from(self.tcp()).set_linger(Some(Duration::ZERO));
            }
            // Ended with the gateway, or when it severs its connections.
            End::Stall => std::future::pending().await,
        }
    }

    /// Throws away what the client still says, until it ends or `most` is over.
    async fn drain(&mut self, most: Duration) {
        let mut sink = vec![0; 16 << 10];
        let reading = async { while matches!(self.read(&mut sink).await, Ok(1..)) {} };
        let _ = tokio::time::timeout(most, reading).await;
    }

    /// As `drain`, below TLS: after a cut TLS itself must stay silent.
    async fn drain_raw(&mut self, most: Duration) {
        let tcp = match self {
            Self::Tls(tls) => tls.get_mut().0,
            Self::Plain(tcp) => tcp,
        };
        let mut sink = vec![0; 16 << 10];
        let reading = async { while matches!(tcp.read(&mut sink).await, Ok(1..)) {} };
        let _ = tokio::time::timeout(most, reading).await;
    }

    fn tcp(&self) -> &TcpStream {
        match self {
            Self::Tls(tls) => tls.get_ref().0,
            Self::Plain(tcp) => tcp,
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tls(tls) => Pin::new(tls).poll_read(cx, buf),
            Self::Plain(tcp) => Pin::new(tcp).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tls(tls) => Pin::new(tls).poll_write(cx, buf),
            Self::Plain(tcp) => Pin::new(tcp).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tls(tls) => Pin::new(tls).poll_flush(cx),
            Self::Plain(tcp) => Pin::new(tcp).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
            Self::Plain(tcp) => Pin::new(tcp).poll_shutdown(cx),
        }
    }
}
