//! A forward proxy that plays a script and records every byte it hears.
//!
//! It looks no name up: whatever it is asked for, it leads to one place. Knows nothing of pomd or Pomerium.

use std::{
    fmt, io,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
};

use base64::prelude::{BASE64_STANDARD, Engine as _};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;

/// What a proxy does with whoever comes.
#[derive(Clone, Debug)]
pub enum Play {
    /// Obeys HTTP CONNECT, and wants this `user:password` if one is given.
    Http(Option<String>),
    /// Obeys SOCKS 5, and wants this `user:password` if one is given.
    Socks(Option<String>),
    /// Hears the first words, says this and closes.
    Says(Vec<u8>),
    /// Hears, and says nothing.
    Silent,
    /// Closes once it was asked something.
    Closes,
}

/// A running proxy; it ends when dropped.
pub struct ForwardProxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

/// What one connection said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// Until the proxy had made up its mind.
    pub asked: Vec<u8>,
    /// Where it wanted to go, as it said it.
    pub target: Option<String>,
    /// What it sent there.
    pub carried: Vec<u8>,
}

struct Shared {
    play: watch::Sender<Play>,
    target: SocketAddr,
    tls: Option<TlsAcceptor>,
    heard: Mutex<Vec<Heard>>,
}

impl ForwardProxy {
    /// On a free port of loopback; leads to `target`.
    pub async fn start(play: Play, target: SocketAddr) -> io::Result<Self> {
        Self::start_with(play, target, None).await
    }

    /// The same, inside TLS.
    pub async fn start_tls(play: Play, target: SocketAddr, tls: TlsAcceptor) -> io::Result<Self> {
        Self::start_with(play, target, Some(tls)).await
    }

    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Does this with whoever comes from now on.
    pub fn play(&self, play: Play) {
        self.shared.play.send_replace(play);
    }

    /// What each connection has said so far, in the order they came.
    pub fn heard(&self) -> Vec<Heard> {
        self.shared.heard().clone()
    }

    /// Every byte that was heard.
    pub fn all(&self) -> Vec<u8> {
        let heard = self.shared.heard();
        let parts = heard.iter().flat_map(|it| [&it.asked[..], &it.carried[..]]);
        parts.collect::<Vec<_>>().concat()
    }

    /// Whether this was heard anywhere.
    pub fn heard_of(&self, word: &str) -> bool {
        let all = self.all();
        all.windows(word.len()).any(|it| it == word.as_bytes())
    }

    async fn start_with(
        play: Play,
        target: SocketAddr,
        tls: Option<TlsAcceptor>,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            play: watch::Sender::new(play),
            target,
            tls,
            heard: Mutex::default(),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, shared.clone()));
        Ok(Self {
            address,
            shared,
            _tasks: tasks,
        })
    }
}

impl Shared {
    fn heard(&self) -> std::sync::MutexGuard<'_, Vec<Heard>> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((socket, _)) = accepted else { return };
                let index = {
                    let mut heard = shared.heard();
                    heard.push(Heard::default());
                    heard.len() - 1
                };
                let shared = shared.clone();
                connections.spawn(async move {
                    // A client that hung up, or was refused, is no fault of the proxy.
                    let _ = welcome(socket, &shared, index).await;
                });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn welcome(socket: TcpStream, shared: &Shared, index: usize) -> io::Result<()> {
    socket.set_nodelay(true)?;
    match &shared.tls {
        None => serve(socket, shared, index).await,
        Some(tls) => serve(tls.accept(socket).await?, shared, index).await,
    }
}

async fn serve<S>(stream: S, shared: &Shared, index: usize) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let play = shared.play.borrow().clone();
    let mut client = Client {
        stream,
        shared,
        index,
    };
    match play {
        Play::Http(password) => client.http(password.as_deref()).await,
        Play::Socks(password) => client.socks(password.as_deref()).await,
        Play::Says(words) => {
            client.hear_some().await?;
            client.say(&words).await?;
            client.stream.shutdown().await
        }
        Play::Silent => loop {
            client.hear_some().await?;
        },
        // Unread bytes would make its end a reset, now and then.
        Play::Closes => client.hear_some().await,
    }
}

/// One connection.
struct Client<'a, S> {
    stream: S,
    shared: &'a Shared,
    index: usize,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<'_, S> {
    async fn http(mut self, password: Option<&str>) -> io::Result<()> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.extend(self.hear(1).await?);
        }
        let head = String::from_utf8_lossy(&head).into_owned();
        let mut words = head.split(' ');
        let (Some("CONNECT"), Some(target)) = (words.next(), words.next()) else {
            return self.say(b"HTTP/1.1 405 Only CONNECT\r\n\r\n").await;
        };
        if let Some(it) = password {
            let want = format!(
                "Proxy-Authorization: Basic {}\r\n",
                BASE64_STANDARD.encode(it)
            );
            if !head.contains(&want) {
                let no = "HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=\"x\"\r\n\
                          Content-Length: 0\r\n\r\n";
                return self.say(no.as_bytes()).await;
            }
        }
        self.note(target);
        let onward = TcpStream::connect(self.shared.target).await?;
        self.say(b"HTTP/1.1 200 Connection established\r\nVia: 1.1 lab\r\n\r\n")
            .await?;
        self.carry(onward).await
    }

    async fn socks(mut self, password: Option<&str>) -> io::Result<()> {
        let count = self.hear(2).await?[1];
        let methods = self.hear(count.into()).await?;
        let method = if password.is_some() { 2 } else { 0 };
        if !methods.contains(&method) {
            return self.say(&[5, 0xff]).await;
        }
        self.say(&[5, method]).await?;
        if let Some(password) = password {
            let length = self.hear(2).await?[1];
            let user = self.hear(length.into()).await?;
            let length = self.hear(1).await?[0];
            let said = [user, b":".to_vec(), self.hear(length.into()).await?].concat();
            if said != password.as_bytes() {
                return self.say(&[1, 1]).await;
            }
            self.say(&[1, 0]).await?;
        }
        let kind = self.hear(4).await?[3];
        let host = match kind {
            1 => {
                let it: [u8; 4] = self.hear(4).await?.try_into().unwrap_or_default();
                Ipv4Addr::from(it).to_string()
            }
            3 => {
                let length = self.hear(1).await?[0];
                String::from_utf8_lossy(&self.hear(length.into()).await?).into_owned()
            }
            _ => return self.say(&[5, 8, 0, 1, 0, 0, 0, 0, 0, 0]).await,
        };
        let port = self.hear(2).await?;
        self.note(&format!(
            "{host}:{}",
            u16::from_be_bytes([port[0], port[1]])
        ));
        let onward = TcpStream::connect(self.shared.target).await?;
        self.say(&[5, 0, 0, 1, 127, 0, 0, 1, 0, 0]).await?;
        self.carry(onward).await
    }

    /// Both ways, until both have ended.
    async fn carry(self, onward: TcpStream) -> io::Result<()> {
        onward.set_nodelay(true)?;
        let (mut from_client, mut to_client) = split(self.stream);
        let (mut from_target, mut to_target) = onward.into_split();
        let up = async {
            let mut bytes = vec![0; 32 << 10];
            loop {
                let n = from_client.read(&mut bytes).await?;
                if n == 0 {
                    return to_target.shutdown().await;
                }
                self.shared.heard()[self.index]
                    .carried
                    .extend_from_slice(&bytes[..n]);
                to_target.write_all(&bytes[..n]).await?;
            }
        };
        let down = async {
            tokio::io::copy(&mut from_target, &mut to_client).await?;
            to_client.shutdown().await
        };
        tokio::try_join!(up, down).map(drop)
    }

    fn note(&self, target: &str) {
        self.shared.heard()[self.index].target = Some(target.to_owned());
    }

    /// Exactly so many bytes.
    async fn hear(&mut self, count: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; count];
        self.stream.read_exact(&mut bytes).await?;
        self.shared.heard()[self.index]
            .asked
            .extend_from_slice(&bytes);
        Ok(bytes)
    }

    /// What comes; an error once nothing will.
    async fn hear_some(&mut self) -> io::Result<()> {
        let mut bytes = vec![0; 4 << 10];
        let n = self.stream.read(&mut bytes).await?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.shared.heard()[self.index]
            .asked
            .extend_from_slice(&bytes[..n]);
        Ok(())
    }

    async fn say(&mut self, words: &[u8]) -> io::Result<()> {
        self.stream.write_all(words).await?;
        self.stream.flush().await
    }
}

impl fmt::Debug for ForwardProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ForwardProxy({})", self.address)
    }
}
