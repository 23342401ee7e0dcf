//! `POST /v1/connect`: a route as raw bytes on the control socket, for `pomctl connect`.
//!
//! The bytes pass through a loopback TCP pair, so that they take the same way as those of a tunnel's port.

use std::{
    io,
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use control::{
    frames,
    socket::{self, Socket},
    wire,
};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::time::timeout;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::hang_up::HangUpWatch;
use crate::tunnel::{Caller, Stage, Tunnel};

/// How long the two ends of a pair may take to find each other: others may fill the queue meanwhile.
const PAIR: Duration = Duration::from_secs(10);

/// A client that was told 101: what it sends from now on goes through `tunnel`.
pub struct Upgraded {
    pub(super) client: OnUpgrade,
    pub(super) tunnel: Arc<Tunnel>,
    /// What comes from the route goes to it in frames.
    pub(super) framed: bool,
    /// Among them are notes.
    pub(super) notes: bool,
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
        let (early, client) = unwrap(client)?;
        let (mut near, far) = pair().await?;
        let gone = CancellationToken::new();
        let stage = watch::Sender::new(Stage::Opening);
        // Dropped with everything else here: by then the client is gone, or its connection is over.
        let _gone = gone.clone().drop_guard();
        let caller = self.notes.then(|| Caller {
            gone,
            stage: stage.clone(),
        });
        self.tunnel.adopt(far, caller)?;
        let mut notes = Notes {
            cluster: self.tunnel.spec.cluster.to_string(),
            stage: stage.subscribe(),
        };
        let (mut from_client, mut to_client) = socket::split(client);
        let (mut from_route, mut to_route) = near.split();
        let up = async {
            to_route.write_all(&early).await?;
            tokio::io::copy(&mut from_client, &mut to_route).await?;
            to_route.shutdown().await?;
            // A client that ended its direction may wait for an answer; one that is gone takes none, and the route is
            // not kept for it.
            socket::closed(&from_client).await
        };
        let down = async {
            if self.framed && self.notes {
                notes.send(&mut from_route, &mut to_client).await?;
            } else if self.framed {
                frames::send(&mut from_route, &mut to_client).await?;
            } else {
                tokio::io::copy(&mut from_route, &mut to_client).await?;
            }
            to_client.shutdown().await
        };
        tokio::select! {
            ended = down => ended,
            ended = up => ended,
        }
    }
}

/// What a client is told besides the bytes of its route, while that is not open.
struct Notes {
    cluster: String,
    stage: watch::Receiver<Stage>,
}

impl Notes {
    async fn send(
        &mut self,
        from: &mut (impl AsyncRead + Unpin),
        to: &mut (impl AsyncWrite + Unpin),
    ) -> io::Result<()> {
        let told = AtomicBool::new(false);
        let (stage, cluster) = (&self.stage, &self.cluster);
        let next = || {
            let mut stage = stage.clone();
            let told = &told;
            async move {
                loop {
                    match *stage.borrow_and_update() {
                        Stage::Open => return None,
                        Stage::WaitsForLogin if !told.swap(true, Ordering::Relaxed) => {
                            let cluster = cluster.clone();
                            let note = wire::ConnectNote::LoginNeeded { cluster };
                            return serde_json::to_vec(&note).ok();
                        }
                        Stage::Opening | Stage::WaitsForLogin => {}
                    }
                    if stage.changed().await.is_err() {
                        return None;
                    }
                }
            }
        };
        frames::send_with_notes(from, to, next).await
    }
}

/// The socket below an upgraded connection, and what the client sent behind its request.
fn unwrap(client: hyper::upgrade::Upgraded) -> io::Result<(Vec<u8>, Socket)> {
    let parts = client
        .downcast::<TokioIo<HangUpWatch<Socket>>>()
        .map_err(|_| io::Error::other("it is not a control socket"))?;
    let (socket, kept) = parts.io.into_inner().into_parts();
    Ok(([parts.read_buf.as_ref(), &kept].concat(), socket))
}

/// Two connected sockets on loopback, both ours: whoever else connects meanwhile is not taken.
async fn pair() -> io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let near = TcpStream::connect(listener.local_addr()?).await?;
    let far = other_end(&near, &listener);
    let far = timeout(PAIR, far).await.map_err(io::Error::from)??;
    near.set_nodelay(true)?;
    Ok((near, far))
}

/// The connection of `listener` that is `near`'s other end.
async fn other_end(near: &TcpStream, listener: &TcpListener) -> io::Result<TcpStream> {
    loop {
        let (far, _) = listener.accept().await?;
        // A connection that its client reset may have had the address that `near` has now: it has no ends any more.
        let Ok(ends) = far.peer_addr().and_then(|it| Ok((it, far.local_addr()?))) else {
            continue;
        };
        if ends == (near.local_addr()?, near.peer_addr()?) {
            return Ok(far);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::{io::AsyncReadExt, net::TcpSocket};

    use super::*;

    /// A socket that is bound to `at` beside what lingers there.
    fn bound(at: SocketAddr) -> TcpSocket {
        let res = TcpSocket::new_v4().unwrap();
        res.set_reuseaddr(true).unwrap();
        res.bind(at).unwrap();
        res
    }

    #[tokio::test]
    async fn a1_what_a_dead_connection_left_is_not_taken_for_the_other_end() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let first = bound("127.0.0.1:0".parse().unwrap());
        let mut first = first.connect(at).await.unwrap();
        let its_address = first.local_addr().unwrap();
        first.write_all(&[b'x'; 64 << 10]).await.unwrap();
        first.set_zero_linger().unwrap();
        drop(first);
        let other = TcpStream::connect(at).await.unwrap();
        let mut near = bound(its_address).connect(at).await.unwrap();
        let mut far = other_end(&near, &listener).await.unwrap();
        near.write_all(b"ours").await.unwrap();
        near.shutdown().await.unwrap();
        let mut heard = Vec::new();
        far.read_to_end(&mut heard).await.unwrap();
        assert_eq!(heard, b"ours");
        drop(other);
    }

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
