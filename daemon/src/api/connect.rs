//! `POST /v1/connect`: a route as raw bytes on the control socket, for `pomctl connect`.
//!
//! The bytes pass through a loopback TCP pair, so that they take the same way as those of a tunnel's port.

use std::{io, net::Ipv4Addr, sync::Arc};

use control::frames;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::tunnel::Tunnel;

/// A client that was told 101: what it sends from now on goes through `tunnel`.
pub(super) struct Upgraded {
    pub(super) client: OnUpgrade,
    pub(super) tunnel: Arc<Tunnel>,
    /// What comes from the route goes to it in frames.
    pub(super) framed: bool,
}

impl Upgraded {
    /// Carries bytes until the route ends or the client is gone, or until `stop`.
    pub(super) async fn carry(self, stop: CancellationToken) {
        let carried = tokio::select! {
            () = stop.cancelled() => return,
            carried = self.carry_bytes() => carried,
        };
        if let Err(error) = carried {
            debug!("a connection by the control socket ended: {error}");
        }
    }

    async fn carry_bytes(self) -> io::Result<()> {
        let client = self.client.await.map_err(io::Error::other)?;
        let (mut near, far) = pair().await?;
        self.tunnel.adopt(far)?;
        let (mut from_client, mut to_client) = tokio::io::split(TokioIo::new(client));
        let (mut from_route, mut to_route) = near.split();
        let up = async {
            tokio::io::copy(&mut from_client, &mut to_route).await?;
            to_route.shutdown().await
        };
        let down = async {
            if self.framed {
                frames::send(&mut from_route, &mut to_client).await?;
            } else {
                tokio::io::copy(&mut from_route, &mut to_client).await?;
            }
            to_client.shutdown().await
        };
        tokio::pin!(up, down);
        tokio::select! {
            ended = &mut down => ended,
            ended = &mut up => {
                ended?;
                down.await
            }
        }
    }
}

/// Two connected sockets on loopback, both ours: whoever else connects meanwhile is not taken.
async fn pair() -> io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let near = TcpStream::connect(listener.local_addr()?).await?;
    let ours = near.local_addr()?;
    loop {
        let (far, from) = listener.accept().await?;
        if from == ours {
            near.set_nodelay(true)?;
            return Ok((near, far));
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    #[tokio::test]
    async fn the_two_ends_of_a_pair_are_each_others() {
        let (mut near, mut far) = pair().await.unwrap();
        near.write_all(b"there").await.unwrap();
        far.write_all(b"back!").await.unwrap();
        let mut buf = [0; 5];
        far.read_exact(&mut buf).await.unwrap();
        assert_eq!(&buf, b"there");
        near.read_exact(&mut buf).await.unwrap();
        assert_eq!(&buf, b"back!");
    }
}
