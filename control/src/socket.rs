//! The bytes of a control connection, with an end of their own for each direction where the platform has that.

use interprocess::local_socket::tokio::Stream;

/// A connected control socket. Shutting its write side down is seen as an end by the other side.
#[cfg(unix)]
pub type Socket = tokio::net::UnixStream;

/// A connected control pipe. Pipes end in both directions at once.
#[cfg(windows)]
pub type Socket = Stream;

/// The socket behind a stream of `interprocess`, whose own shutdown does nothing.
#[cfg(unix)]
pub fn socket(stream: Stream) -> Socket {
    let Stream::UdSocket(stream) = stream;
    stream.into()
}

/// The pipe itself.
#[cfg(windows)]
pub fn socket(stream: Stream) -> Socket {
    stream
}
