//! `POST /v1/connect`: a route for `pomctl connect`, as bytes on the control socket or as a descriptor.
//!
//! The bytes pass through a loopback TCP pair, so that they take the same way as those of a tunnel's port. A client that
//! asks for a descriptor is handed the near end of the pair and may leave: its bytes do not pass through here.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use control::{
    descriptor, frames,
    socket::{self, Socket},
    wire,
};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::watch,
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::hang_up::HangUpWatch;
use crate::tunnel::{Caller, Stage, Tunnel};

/// How long a client may take to say that it is ready for a descriptor, and to make room for it.
const HAND_OVER: Duration = Duration::from_secs(10);

/// A client that was told 101: what it sends from now on goes through `tunnel`.
pub struct Upgraded {
    pub(super) client: OnUpgrade,
    pub(super) tunnel: Arc<Tunnel>,
    pub(super) form: Form,
}

/// How a client is given its route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// As bytes.
    Raw,
    /// What comes from the route comes in frames; `notes`: notes are among them.
    Frames { notes: bool },
    /// As a descriptor.
    Descriptor,
}

impl Upgraded {
    /// Carries bytes until the route ends or the client is gone, or until `stop`.
    pub(super) async fn carry(self, stop: CancellationToken) {
        let carried = tokio::select! {
            () = stop.cancelled() => return,
            carried = self.carry_or_hand_over() => carried,
        };
        if let Err(error) = carried {
            debug!("a connection by the control socket ended: {error}");
        }
    }

    async fn carry_or_hand_over(self) -> io::Result<()> {
        let client = self.client.await.map_err(io::Error::other)?;
        let (early, client) = unwrap(client)?;
        match self.form {
            Form::Raw => carry_bytes(&self.tunnel, None, &early, client).await,
            Form::Frames { notes } => carry_bytes(&self.tunnel, Some(notes), &early, client).await,
            Form::Descriptor => {
                let handed = hand_over(&self.tunnel, &early, client);
                timeout(HAND_OVER, handed).await.map_err(io::Error::from)?
            }
        }
    }
}

/// Hands the client one end of a pair, and the other to the tunnel: not before somebody has the first, or a route would be
/// opened for nobody.
async fn hand_over(tunnel: &Arc<Tunnel>, early: &[u8], mut client: Socket) -> io::Result<()> {
    // What reads the answer to the request would take the byte and drop the descriptor that came with it.
    if early.is_empty() {
        client.read_u8().await?;
    }
    let (near, far) = descriptor::pair().await?;
    descriptor::send(&client, near).await?;
    tunnel.adopt(far, None)
}

/// Carries bytes until the route ends or the client is gone. `framed`: in frames, with or without notes.
async fn carry_bytes(
    tunnel: &Arc<Tunnel>,
    framed: Option<bool>,
    early: &[u8],
    client: Socket,
) -> io::Result<()> {
    let (mut near, far) = descriptor::pair().await?;
    let gone = CancellationToken::new();
    let stage = watch::Sender::new(Stage::Opening);
    // Dropped with everything else here: by then the client is gone, or its connection is over.
    let _gone = gone.clone().drop_guard();
    let caller = (framed == Some(true)).then(|| Caller {
        gone,
        stage: stage.clone(),
    });
    tunnel.adopt(far, caller)?;
    let mut notes = Notes {
        cluster: tunnel.spec.cluster.to_string(),
        stage: stage.subscribe(),
    };
    let (mut from_client, mut to_client) = socket::split(client);
    let (mut from_route, mut to_route) = near.split();
    let up = async {
        to_route.write_all(early).await?;
        tokio::io::copy(&mut from_client, &mut to_route).await?;
        to_route.shutdown().await?;
        // A client that ended its direction may wait for an answer; one that is gone takes none, and the route is
        // not kept for it.
        socket::closed(&from_client).await
    };
    let down = async {
        match framed {
            Some(true) => notes.send(&mut from_route, &mut to_client).await?,
            Some(false) => frames::send(&mut from_route, &mut to_client).await?,
            None => {
                tokio::io::copy(&mut from_route, &mut to_client).await?;
            }
        }
        to_client.shutdown().await
    };
    tokio::select! {
        ended = down => ended,
        ended = up => ended,
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
