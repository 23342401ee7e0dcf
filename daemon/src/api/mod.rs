//! The control server: HTTP/1.1 and JSON on the local socket.
//!
//! Turns requests into [`crate::agent::Command`]s and answers into JSON. Only the user who owns the daemon gets an
//! answer, and no web page does (A9). Knows the route table and status codes. Must not know how tunnels or sessions work.

mod answer;
mod body;
mod connect;
mod error;
mod guard;
mod hang_up;
mod metrics;
mod query;
mod routes;
#[cfg(test)]
mod tests;

use std::{
    convert::Infallible,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

pub use connect::Upgraded;
use control::{holder::Phase, socket::socket};
use hang_up::{Endless, HangUpWatch};

use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use interprocess::local_socket::tokio::Stream;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{Notify, mpsc},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use crate::{
    accept_backoff::{AfterFailure, Backoff},
    admission::{Admission, Capacity, Slot},
    agent::AgentHandle,
    env::Env,
    load::Reloads,
    lock::Marker,
    logging::Recent,
    restart::Restart,
    system::{
        control_listener::ControlListener, descriptor_reserve::Reserve, errors,
        socket_activation::InheritedSockets,
    },
};

/// How many clients may be connected at once. Whoever says nothing gives way to those who come, and whoever follows
/// something takes no place of theirs.
pub const CLIENTS: Capacity = Capacity {
    silent: 64,
    served: 192,
    following: 64,
};
/// How long a client may take to send the head of a request, to begin the next one, and to send a body.
const REQUEST: Duration = Duration::from_secs(10);
/// The most that the head of a request may hold.
const HEAD: usize = 16 << 10;
/// How long answers under way may take once pomd stops.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// As many clients are answered where there are no descriptors left.
const RESERVE: usize = 4;

/// What requests are answered from.
pub struct Api {
    /// The owner of the state.
    pub agent: AgentHandle,
    /// Reads the configuration file again.
    pub reloads: Reloads,
    /// The newest log lines.
    pub recent: Recent,
    /// The seams to the machine and the people around it.
    pub env: Env,
    /// Where the control socket is.
    pub socket: PathBuf,
    /// Told when its file is gone.
    pub lost: Arc<Notify>,
    /// Ends pomd.
    pub stop: CancellationToken,
    /// Ends the answers to clients, once the lock files say that pomd ends: whoever is cut looks there.
    pub closing: CancellationToken,
    /// Lets it restart after that.
    pub restart: Restart,
    /// Keeps the listeners for that.
    pub inherited: Arc<InheritedSockets>,
    /// Says in the lock files that pomd ends.
    pub marker: Marker,
    /// It gives way to a pomd in the foreground.
    pub in_background: bool,
}

/// Answers clients until `api.stop`, then lets answers under way end.
pub async fn serve(api: Arc<Api>, bound: ControlListener) {
    let mut bound = Some(bound);
    let mut clients = JoinSet::new();
    let admission = Admission::new(CLIENTS);
    let mut reserve = Reserve::new(RESERVE);
    let mut backoff = Backoff::default();
    // Clients that were handed a route: they may stay for days, and do not count among those that ask.
    let mut carried = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            biased;
            () = api.stop.cancelled() => break,
            Some(_) = carried.join_next() => continue,
            Some(ended) = clients.join_next() => {
                reserve.refill();
                match ended {
                    Ok(None) => {}
                    Ok(Some(upgraded)) => {
                        carried.spawn(Upgraded::carry(upgraded, api.closing.clone()));
                    }
                    Err(error) => error!("a client of the control socket met a fault inside pomd: {error}"),
                }
                continue;
            }
            () = api.lost.notified() => {
                // First, for it takes the file along.
                drop(bound.take());
                bound = bind_again(&api.socket);
                continue;
            }
            accepted = accept(bound.as_ref()), if !admission.is_full() => accepted,
        };
        match accepted {
            Ok(Some(stream)) => {
                backoff.succeeded();
                clients.spawn(serve_client(api.clone(), socket(stream), admission.enter()));
            }
            Ok(None) => {
                warn!(
                    "a program of another user connected to the control socket and was turned away"
                )
            }
            Err(error) if errors::is_out_of_descriptors(&error) && reserve.spend() => {}
            Err(error) => match backoff.failed(&error) {
                AfterFailure::Retry => {}
                AfterFailure::GiveUp => {
                    warn!("cannot accept clients on the control socket any more: {error}");
                    // First, for it takes the file along.
                    drop(bound.take());
                    bound = bind_again(&api.socket);
                }
                AfterFailure::Pause(pause) | AfterFailure::Exhausted(pause) => {
                    warn!("cannot accept a client on the control socket: {error}");
                    tokio::time::sleep(pause).await;
                }
            },
        }
    }
    // Before the socket is gone: who does not find it looks at the locks.
    if api.inherited.keeps() {
        api.marker.mark(Phase::Restarting);
        let kept = bound.and_then(ControlListener::hand_on);
        kept.into_iter().for_each(|it| api.inherited.keep(it));
    } else {
        api.marker.mark(Phase::Ending);
        drop(bound);
    }
    api.closing.cancel();
    while clients.join_next().await.is_some() {}
    while carried.join_next().await.is_some() {}
}

/// The next client; nobody comes to a socket that is not there.
async fn accept(bound: Option<&ControlListener>) -> io::Result<Option<Stream>> {
    match bound {
        Some(it) => it.accept().await,
        None => std::future::pending().await,
    }
}

fn bind_again(path: &Path) -> Option<ControlListener> {
    match ControlListener::bind_again(path) {
        Ok(it) => {
            warn!("{} was gone; it is there again", path.display());
            Some(it)
        }
        Err(error) => {
            let path = path.display();
            warn!("{path} is gone, and cannot be made again: {error}");
            None
        }
    }
}

/// Answers one client's requests; what is returned goes on with raw bytes.
pub async fn serve_client(
    api: Arc<Api>,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    slot: Slot,
) -> Option<Upgraded> {
    let slot = Arc::new(slot);
    let closing = api.closing.clone();
    let (upgrades, mut upgraded) = mpsc::channel(1);
    let endless = Endless::default();
    let stream = HangUpWatch::new(stream, endless.clone());
    let its_slot = slot.clone();
    let service = service_fn(move |request| {
        let (api, upgrades, endless) = (api.clone(), upgrades.clone(), endless.clone());
        let slot = its_slot.clone();
        async move {
            let answer = routes::answer(&api, request, &upgrades, &slot).await;
            endless.set(answer::is_endless(&answer));
            if answer::is_endless(&answer) {
                slot.follows();
            } else {
                slot.is_answered();
            }
            Ok::<_, Infallible>(answer)
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST)
        .max_buf_size(HEAD)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => Ok(ended),
        () = slot.evicted() => {
            debug!("a client of the control socket that said nothing made room for others");
            return None;
        }
        () = closing.cancelled() => {
            connection.as_mut().graceful_shutdown();
            tokio::time::timeout(LAST_WORDS, connection).await
        }
    };
    if let Ok(Err(error)) = ended {
        debug!("a client of the control socket went away: {error}");
    }
    upgraded.try_recv().ok()
}
