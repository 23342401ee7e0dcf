//! The service behind the route: sends or takes as many bytes as it is told to, one order after the other.

use std::io;

use integration::client::pattern;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

/// How much is sent or taken at once.
pub(crate) const PIECE: usize = 64 << 10;

/// Orders so many bytes.
pub(crate) fn down(bytes: u64) -> Vec<u8> {
    order(b'd', bytes)
}

/// Announces so many bytes; they are answered with one.
pub(crate) fn up(bytes: u64) -> Vec<u8> {
    order(b'u', bytes)
}

fn order(kind: u8, bytes: u64) -> Vec<u8> {
    let mut order = vec![kind];
    order.extend(bytes.to_be_bytes());
    order
}

/// Obeys until the other end is gone.
pub(crate) async fn serve<S>(mut stream: S)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    // Whoever asks notices an end by itself.
    let _ = obey(&mut stream).await;
}

async fn obey(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> io::Result<()> {
    loop {
        let kind = stream.read_u8().await?;
        let bytes = stream.read_u64().await?;
        match kind {
            b'd' => send(stream, bytes).await?,
            _ => {
                take(stream, bytes).await?;
                stream.write_u8(b'!').await?;
            }
        }
        stream.flush().await?;
    }
}

/// Sends so many bytes.
pub(crate) async fn send(to: &mut (impl AsyncWrite + Unpin), mut bytes: u64) -> io::Result<()> {
    let piece = pattern(PIECE.min(usize::try_from(bytes).unwrap_or(PIECE)));
    while bytes > 0 {
        let next = piece.len().min(usize::try_from(bytes).unwrap_or(PIECE));
        to.write_all(&piece[..next]).await?;
        bytes -= next as u64;
    }
    Ok(())
}

/// Takes so many bytes.
pub(crate) async fn take(from: &mut (impl AsyncRead + Unpin), mut bytes: u64) -> io::Result<()> {
    let most = PIECE.min(usize::try_from(bytes).unwrap_or(PIECE));
    let mut piece = vec![0; most];
    while bytes > 0 {
        let most = most.min(usize::try_from(bytes).unwrap_or(most));
        let n = from.read(&mut piece[..most]).await?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        bytes -= n as u64;
    }
    Ok(())
}

/// Serves on TCP, for a real proxy before it, as long as this is polled.
pub(crate) async fn listen(listener: TcpListener) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let stream: TcpStream = stream;
        let _ = stream.set_nodelay(true);
        connections.spawn(serve(stream));
        while connections.try_join_next().is_some() {}
    }
}
