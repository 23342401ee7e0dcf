//! What stands behind a route: a TCP service, or one made here.

use std::{io, net::SocketAddr, pin::Pin, sync::Arc};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream},
    net::TcpStream,
};
use tokio_util::task::TaskTracker;

/// How much of a stream is under way inside the gateway in each direction.
const IN_FLIGHT: usize = 64 << 10;

/// What stands behind a route.
#[derive(Clone)]
pub enum Upstream {
    /// A TCP service.
    Tcp(SocketAddr),
    /// Says back what it hears.
    Echo,
    /// An HTTP page that says who the visitor is.
    Hello,
    /// Made by [`Upstream::service`].
    Service(Service),
}

/// A service made by a closure; it runs once for each tunnel.
#[derive(Clone)]
pub struct Service(Arc<Serve>);

type Serve = dyn Fn(DuplexStream, Caller) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync;

/// Who opened a tunnel, and to what.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The user of the session.
    pub user: String,
    /// The route's `HOST:PORT`.
    pub authority: String,
}

pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

impl Upstream {
    /// A service made by `serve`. Its end of the stream is the upstream's end.
    pub fn service<F, Fut>(serve: F) -> Self
    where
        F: Fn(DuplexStream, Caller) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        Self::Service(Service(Arc::new(move |stream, caller| {
            Box::pin(serve(stream, caller))
        })))
    }

    /// Connects; a service made here runs on `tasks`.
    pub(crate) async fn open(
        &self,
        caller: Caller,
        tasks: &TaskTracker,
    ) -> io::Result<Box<dyn Stream>> {
        let (near, mut far) = tokio::io::duplex(IN_FLIGHT);
        match self {
            Self::Tcp(address) => {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                return Ok(Box::new(stream));
            }
            Self::Echo => {
                tasks.spawn(async move {
                    let (mut from, mut to) = tokio::io::split(&mut far);
                    let _ = tokio::io::copy(&mut from, &mut to).await;
                });
            }
            Self::Hello => {
                tasks.spawn(async move {
                    let _ = hello(far, &caller).await;
                });
            }
            Self::Service(service) => {
                tasks.spawn(service.0(far, caller));
            }
        }
        Ok(Box::new(near))
    }
}

/// Answers one request with who the visitor is.
async fn hello(mut stream: DuplexStream, caller: &Caller) -> io::Result<()> {
    let mut head = Vec::new();
    while !head.windows(4).any(|it| it == b"\r\n\r\n") {
        if head.len() > IN_FLIGHT || stream.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
    }
    let body = format!(
        "Hello, {}.\nThis is {}, reached through Pomerium.\n",
        caller.user, caller.authority
    );
    let answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await
}

impl std::fmt::Debug for Upstream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "Tcp({address})"),
            Self::Echo => f.write_str("Echo"),
            Self::Hello => f.write_str("Hello"),
            Self::Service(_) => f.write_str("Service"),
        }
    }
}

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Service")
    }
}
