//! A relay between a local client over loopback and a server: behind TLS over loopback, or behind a pipe in memory; all on
//! the thread of the test.

/// Runs generic tests over each kind of [`Link`].
macro_rules! over_each_stream {
    ($($test:ident $(($($option:tt)*))?;)*) => {
        over_each_stream! { over_tls = Tls; $($test $(($($option)*))?;)* }
        over_each_stream! { over_memory = Memory; $($test $(($($option)*))?;)* }
    };
    ($kind:ident = $link:ident; $($test:ident $(($($option:tt)*))?;)*) => {
        mod $kind {
            $(
                #[tokio::test $(($($option)*))?]
                async fn $test() {
                    super::$test::<super::$link>().await;
                }
            )*
        }
    };
}

mod ends;
mod flow;
mod memory;
mod property;

use std::{
    future::Future,
    io,
    sync::{Arc, LazyLock, atomic::AtomicUsize},
    time::Duration,
};

use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};
use tokio_rustls::server::TlsStream;

use super::{remote_to_local::SOON, *};
#[cfg(target_os = "linux")]
use crate::system::sockets::{self, Progress};
use crate::{
    buffer::SIZE,
    upstream::record::{
        Remote,
        testing::{Setup, sockets as pair, tls},
    },
};
use memory::{MemoryServer, MemoryStream};

/// Ends that are waited for in vain would take this long.
const LONG: Duration = Duration::from_secs(60);
/// A small socket buffer; kernels double it.
const NARROW: usize = 64 << 10;

/// A relay at work. `app` is the program that connected to our listener.
struct Rig {
    app: TcpStream,
    tasks: JoinSet<End>,
    shared: Arc<Shared>,
    counters: Arc<Carried>,
    cancel: CancellationToken,
    /// How often the relay was polled.
    polls: Arc<AtomicUsize>,
}

/// What a test wants different.
struct Want {
    first: &'static [u8],
    local_ended: bool,
    budget: usize,
    read_ahead: usize,
    linger: Duration,
    /// The kernels between relay and `app` hold next to nothing, until `widen`.
    narrow: bool,
}

impl Default for Want {
    fn default() -> Self {
        Self {
            first: b"",
            local_ended: false,
            budget: 128 << 20,
            read_ahead: 8 << 20,
            linger: LONG,
            narrow: false,
        }
    }
}

impl Want {
    fn shared(&self) -> Shared {
        Shared {
            budget: self.budget.into(),
            read_ahead: self.read_ahead,
            linger: self.linger,
        }
    }
}

/// A kind of route, and how its server cuts it.
trait Link {
    type Stream: Stream + 'static;
    type Server: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    async fn connect() -> (Self::Stream, Self::Server);

    /// Ends the connection without a word, behind all that was written.
    fn cut(server: Self::Server);
}

/// HTTP/1.1's: TLS over a socket.
struct Tls;

/// Nothing but memory.
struct Memory;

impl Link for Tls {
    type Stream = Remote;
    type Server = TlsStream<TcpStream>;

    async fn connect() -> (Remote, TlsStream<TcpStream>) {
        tls(&Setup::default()).await
    }

    fn cut(server: TlsStream<TcpStream>) {
        drop(server.into_inner());
    }
}

impl Link for Memory {
    type Stream = MemoryStream;
    type Server = MemoryServer;

    async fn connect() -> (MemoryStream, MemoryServer) {
        memory::pipe()
    }

    fn cut(server: MemoryServer) {
        drop(server);
    }
}

impl Rig {
    async fn new(want: Want) -> (Self, TlsStream<TcpStream>) {
        Self::on::<Tls>(want).await
    }

    async fn on<L: Link>(want: Want) -> (Self, L::Server) {
        let (remote, server) = L::connect().await;
        (Self::over(remote, want).await, server)
    }

    async fn over(remote: impl Stream + 'static, want: Want) -> Self {
        let (app, local) = pair().await;
        if want.narrow {
            let (app, local) = (SockRef::from(&app), SockRef::from(&local));
            app.set_recv_buffer_size(NARROW).unwrap();
            local.set_send_buffer_size(NARROW).unwrap();
        }
        let mut rig = Self {
            app,
            tasks: JoinSet::new(),
            shared: Arc::new(want.shared()),
            counters: Arc::default(),
            cancel: CancellationToken::new(),
            polls: Arc::default(),
        };
        let (shared, counters) = (rig.shared.clone(), rig.counters.clone());
        let (cancel, polls) = (rig.cancel.clone(), rig.polls.clone());
        rig.tasks.spawn(async move {
            let first = want.first.to_vec();
            let mut relaying = pin!(relay(
                local.into(),
                remote,
                first,
                want.local_ended,
                &shared,
                &counters,
                &cancel
            ));
            poll_fn(|cx| {
                polls.fetch_add(1, Relaxed);
                relaying.as_mut().poll(cx)
            })
            .await
        });
        rig
    }

    /// How it ended. Nothing that was borrowed is left.
    async fn end(&mut self) -> End {
        let end = self.tasks.join_next().await.unwrap().unwrap();
        assert_eq!(crate::buffer::borrowed(), 0, "buffers are given back");
        end
    }

    fn widen(&self) {
        let app = SockRef::from(&self.app);
        app.set_recv_buffer_size(4 << 20).unwrap();
    }

    fn budget(&self) -> usize {
        self.shared.budget.load(Relaxed)
    }

    fn polls(&self) -> usize {
        self.polls.load(Relaxed)
    }
}

/// Comes back when `state` holds.
async fn until(mut state: impl FnMut() -> bool) {
    while !state() {
        tokio::task::yield_now().await;
    }
}

/// Waits for `state` where time has to pass for it.
async fn in_time(mut state: impl FnMut() -> bool) {
    while !state() {
        tokio::time::sleep(SOON / 10).await;
    }
}

/// Reads to the end: what came, and how it ended.
async fn read_all(from: &mut (impl AsyncRead + Unpin)) -> (Vec<u8>, Result<(), io::ErrorKind>) {
    let mut all = Vec::new();
    let end = from.read_to_end(&mut all).await;
    (all, end.map(drop).map_err(|e| e.kind()))
}

async fn read_some(from: &mut (impl AsyncRead + Unpin), n: usize) -> Vec<u8> {
    let mut some = vec![0; n];
    from.read_exact(&mut some).await.unwrap();
    some
}

/// Bytes without a pattern that a misplaced buffer would keep.
fn noise() -> &'static [u8] {
    static NOISE: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let mut x = 1_u32;
        std::iter::repeat_with(|| {
            x ^= x << 13;
            x ^= x >> 17;
            x ^= x << 5;
            x.to_le_bytes()[0]
        })
        .take((1 << 20) + 7)
        .collect()
    });
    &NOISE
}

/// Writes `bytes` of repeated noise.
async fn pour(to: &mut (impl AsyncWrite + Unpin), mut bytes: usize) {
    while bytes > 0 {
        let part = &noise()[..noise().len().min(bytes)];
        to.write_all(part).await.unwrap();
        bytes -= part.len();
    }
    to.flush().await.unwrap();
}

/// Reads `bytes` of repeated noise and compares every one.
async fn catch(from: &mut (impl AsyncRead + Unpin), bytes: usize) {
    let (mut seen, mut part) = (0, vec![0; 256 * 1024]);
    while seen < bytes {
        let at = seen % noise().len();
        let most = part.len().min(bytes - seen).min(noise().len() - at);
        let n = from.read(&mut part[..most]).await.unwrap();
        assert!(n > 0, "ended after {seen} of {bytes} bytes");
        assert!(part[..n] == noise()[at..at + n], "differs near byte {seen}");
        seen += n;
    }
}

/// How far what the relay wrote to `server` came. A clock that runs ahead must not run away from the system's own.
#[cfg(target_os = "linux")]
fn progress(server: &TlsStream<TcpStream>) -> Progress {
    let socket = server.get_ref().0;
    let (theirs, ours) = (socket.local_addr().unwrap(), socket.peer_addr().unwrap());
    sockets::progress(ours, theirs).unwrap().unwrap()
}

/// Writes noise until nothing on the way to `server`, who reads nothing, takes more. Returns how much that was.
#[cfg(target_os = "linux")]
async fn fill(rig: &mut Rig, server: &TlsStream<TcpStream>) -> usize {
    let mut written = 0;
    while let Ok(n) = rig.app.try_write(&noise()[written % noise().len()..]) {
        written += n;
        // Lets the relay take it on.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
    }
    until(|| progress(server).unanswered == 0 && progress(server).waiting > 0).await;
    written
}
