//! A connection over a socket in the file system; uninhabited where the system has none that tokio knows.

use socket2::SockRef;
use tokio::io::Interest;

#[cfg(not(unix))]
pub use stand_in::{StdUnixListener, UnixStream};
#[cfg(unix)]
pub use {std::os::unix::net::UnixListener as StdUnixListener, tokio::net::UnixStream};

/// Whether some process still has the other end open; the socket itself tells.
pub fn is_held(socket: &UnixStream) -> bool {
    use futures_util::FutureExt;
    // The end of one direction leaves the other one open; a process that closed its socket takes nothing any more.
    let ready = socket.ready(Interest::WRITABLE).now_or_never();
    !matches!(ready, Some(Ok(it)) if it.is_write_closed())
}

/// Returns the socket for calls that tokio lacks.
pub fn as_socket(socket: &UnixStream) -> SockRef<'_> {
    #[cfg(unix)]
    return socket.into();
    #[cfg(not(unix))]
    match *socket {}
}

#[cfg(not(unix))]
mod stand_in {
    use std::{
        io,
        pin::Pin,
        task::{Context, Poll},
    };

    use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, Ready};

    use super::Interest;

    /// There is none on this system.
    #[derive(Debug)]
    pub enum UnixStream {}

    /// There is none on this system.
    #[derive(Debug)]
    pub enum StdUnixListener {}

    impl StdUnixListener {
        /// Never called.
        pub fn try_clone(&self) -> io::Result<Self> {
            match *self {}
        }
    }

    #[expect(clippy::unused_async, reason = "as tokio's own")]
    impl UnixStream {
        /// Never called.
        pub async fn async_io<T>(
            &self,
            _: Interest,
            _: impl FnMut() -> io::Result<T>,
        ) -> io::Result<T> {
            match *self {}
        }

        /// Never called.
        pub async fn ready(&self, _: Interest) -> io::Result<Ready> {
            match *self {}
        }

        /// Never called.
        pub fn poll_read_ready(&self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            match *self {}
        }

        /// Never called.
        pub fn try_read(&self, _: &mut [u8]) -> io::Result<usize> {
            match *self {}
        }
    }

    impl AsyncRead for UnixStream {
        fn poll_read(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            _: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            match *self {}
        }
    }

    impl AsyncWrite for UnixStream {
        fn poll_write(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            _: &[u8],
        ) -> Poll<io::Result<usize>> {
            match *self {}
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            match *self {}
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            match *self {}
        }
    }
}
