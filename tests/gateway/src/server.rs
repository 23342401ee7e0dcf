//! The port: accepts, shakes hands, reads requests and hands each to the portal or to a tunnel.

use std::{net::Shutdown, sync::Arc, time::Duration};

use rustls::ServerConfig;
use socket2::{SockRef, Socket};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::{
    head::{self, Answer, HeadError, Request},
    portal,
    script::{End, PortBehaviour, Say},
    sessions::request_id,
    shared::Shared,
    stats::{Seen, Stats},
    tunnel,
    wire::Wire,
};

/// How long a request head may take from its first byte on, as Pomerium's own limit.
const HEAD_TIME: Duration = Duration::from_secs(30);
/// How long a connection may wait before its first byte, as Pomerium's own limit.
const IDLE_TIME: Duration = Duration::from_secs(300);

/// Accepts until `stop`. Connections run on the gateway's tasks.
pub(crate) async fn run(shared: Arc<Shared>, listener: TcpListener, stop: CancellationToken) {
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((tcp, _)) = accepted else {
            // Out of descriptors: others must end first.
            tokio::task::yield_now().await;
            continue;
        };
        shared.counters.count(|stats| stats.connections += 1);
        let sever = shared.sever.subscribe();
        let connection = one(shared.clone(), tcp, sever, stop.clone());
        shared.tasks.spawn(connection);
    }
}

async fn one(
    shared: Arc<Shared>,
    tcp: TcpStream,
    mut sever: watch::Receiver<End>,
    stop: CancellationToken,
) {
    let Ok(handle) = SockRef::from(&tcp).try_clone() else {
        return;
    };
    let _ = tcp.set_nodelay(true);
    tokio::select! {
        () = serve(&shared, tcp, &handle) => {}
        () = stop.cancelled() => {}
        Ok(()) = sever.changed() => {
            let end = *sever.borrow();
            match end {
                End::Reset => { let _ = handle.set_linger(Some(Duration::ZERO)); }
                _ => { let _ = handle.shutdown(Shutdown::Write); }
            }
        }
    }
}

async fn serve(shared: &Shared, tcp: TcpStream, handle: &Socket) {
    // It is counted before it looks at the port: none that saw the port before is missed by who changed that.
    let entering = Counted::on(shared, |stats| &mut stats.entering);
    let mut port = Port::of(shared);
    let port_behaviour = port.port_behaviour.borrow_and_update().clone();
    let config = port.tls.borrow_and_update().clone();
    let entered = match port_behaviour {
        PortBehaviour::Open | PortBehaviour::EndsAfterHandshake(_) => tokio::select! {
            biased;
            () = port.changed() => {
                let _ = handle.shutdown(Shutdown::Both);
                None
            }
            wire = shake_hands(shared, config, tcp) => wire,
        },
        _ => {
            drop(entering);
            return fail(shared, tcp, &port_behaviour).await;
        }
    };
    let Some(wire) = entered else { return };
    if let PortBehaviour::EndsAfterHandshake(end) = port_behaviour {
        drop(entering);
        return wire.end(end, shared.linger).await;
    }
    let waiting = Counted::on(shared, |stats| &mut stats.waiting);
    drop(entering);
    let said = first_words(&mut port, wire).await;
    drop(waiting);
    if let Some((wire, buffer)) = said {
        requests(shared, wire, buffer).await;
    }
}

/// What a connection finds that comes now, and whether it becomes another one.
struct Port {
    port_behaviour: watch::Receiver<PortBehaviour>,
    tls: watch::Receiver<Arc<ServerConfig>>,
}

impl Port {
    fn of(shared: &Shared) -> Self {
        Self {
            port_behaviour: shared.port_behaviour.subscribe(),
            tls: shared.tls.subscribe(),
        }
    }

    /// Ready when it is another one than at the beginning.
    async fn changed(&mut self) {
        tokio::select! {
            _ = self.port_behaviour.changed() => {}
            _ = self.tls.changed() => {}
        }
    }
}

/// Waits until the client says something. One that waits itself, with a connection that is ready, is ended when the port
/// becomes another one: as by a server that is started anew.
async fn first_words(port: &mut Port, mut wire: Wire) -> Option<(Wire, Vec<u8>)> {
    let mut buffer = Vec::with_capacity(head::RECORD_MOST);
    tokio::select! {
        biased;
        said = tokio::time::timeout(IDLE_TIME, wire.read_buf(&mut buffer)) => {
            matches!(said, Ok(Ok(1..))).then_some((wire, buffer))
        }
        () = port.changed() => {
            // Returns when the client has ended it too.
            wire.end(End::Cut, HEAD_TIME).await;
            None
        }
    }
}

/// Counts a connection on which nothing was said yet, for as long as this lives.
struct Counted<'a>(&'a Shared, fn(&mut Stats) -> &mut u64);

impl<'a> Counted<'a> {
    fn on(shared: &'a Shared, which: fn(&mut Stats) -> &mut u64) -> Self {
        shared.counters.count(|stats| *which(stats) += 1);
        Self(shared, which)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.counters.count(|stats| *(self.1)(stats) -= 1);
    }
}

/// Answers a connection that is not let in as the port behaves.
async fn fail(shared: &Shared, mut tcp: TcpStream, port_behaviour: &PortBehaviour) {
    let plain = b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/html\r\ncontent-length: 11\r\nconnection: close\r\n\r\n<h1>400</h1>";
    let words = match port_behaviour {
        PortBehaviour::PlainHttp => plain.as_slice(),
        PortBehaviour::Says(words) => words,
        PortBehaviour::Hangs => &[],
        PortBehaviour::Open | PortBehaviour::EndsAfterHandshake(_) | PortBehaviour::Silent => {
            std::future::pending().await
        }
    };
    let mut first = [0];
    if tcp.peek(&mut first).await.is_ok() && tcp.write_all(words).await.is_ok() {
        Wire::Plain(tcp).end(End::Clean, shared.linger).await;
    }
}

/// TLS, or plain HTTP for who starts with it.
async fn shake_hands(shared: &Shared, config: Arc<ServerConfig>, tcp: TcpStream) -> Option<Wire> {
    let mut first = [0];
    if tcp.peek(&mut first).await.ok()? == 0 {
        return None;
    }
    // 22 opens a TLS handshake record.
    if first[0] != 22 {
        return Some(Wire::Plain(tcp));
    }
    // A failed handshake has sent its alert when this returns.
    let tls = TlsAcceptor::from(config).accept(tcp).await.ok()?;
    shared.counters.count(|stats| stats.handshakes += 1);
    Some(Wire::Tls(Box::new(tls)))
}

async fn requests(shared: &Shared, mut wire: Wire, mut buffer: Vec<u8>) {
    loop {
        let reading = head::read(&mut wire, &mut buffer);
        let request = match tokio::time::timeout(HEAD_TIME, reading).await {
            Ok(Ok(Some(request))) => request,
            Ok(Ok(None) | Err(HeadError::Io(_))) => return,
            Ok(Err(HeadError::TooLong)) => return refuse(shared, wire, 431).await,
            Ok(Err(HeadError::NotHttp(_))) => return refuse(shared, wire, 400).await,
            Err(_) => return refuse(shared, wire, 408).await,
        };
        shared
            .counters
            .saw(seen(&request, wire.server_name(), buffer.len()));
        if request.method == "CONNECT" {
            return tunnel::serve(shared, wire, &request, buffer).await;
        }
        let Ok(body) = head::read_body(&mut wire, &mut buffer, &request).await else {
            return;
        };
        if !answer(shared, &mut wire, &request, &body).await {
            return wire.end(End::Clean, shared.linger).await;
        }
    }
}

/// Answers a GET or POST; `false` if the connection ends with it.
async fn answer(shared: &Shared, wire: &mut Wire, request: &Request, body: &[u8]) -> bool {
    let path = request.target.split('?').next().unwrap_or_default();
    let script = shared.scripts.take(path, false);
    if let Some(gate) = &script.gate {
        gate.passed().await;
    }
    if let Some(delay) = script.delay {
        tokio::time::sleep(delay).await;
    }
    let id = request_id();
    let secure = wire.is_tls() || request.header("x-forwarded-proto") == Some("https");
    let mut answer = match script.say {
        Say::Truth => portal::answer(shared, request, body, secure, &id),
        Say::Status(status, Some((content_type, body))) => Answer::new(status, &content_type, body),
        Say::Status(status, None) => Answer::envoy(status, head::reason(status), &id),
        Say::Bytes(bytes) => {
            let _ = wire.write_all(&bytes).await;
            return false;
        }
        Say::Silence | Say::EndlessHead => std::future::pending().await,
        Say::Nothing(_) => return false,
    };
    for (name, value) in &script.headers {
        answer = answer.with(name, value);
    }
    let close = request
        .header("connection")
        .is_some_and(|it| it.eq_ignore_ascii_case("close"));
    let sent = async {
        wire.write_all(&answer.into_bytes(&id, close)).await?;
        wire.flush().await
    };
    sent.await.is_ok() && !close
}

async fn refuse(shared: &Shared, mut wire: Wire, status: u16) {
    let id = request_id();
    let answer = Answer::envoy(status, head::reason(status), &id);
    if wire.write_all(&answer.into_bytes(&id, true)).await.is_ok() {
        wire.end(End::Clean, shared.linger).await;
    }
}

fn seen(request: &Request, server_name: Option<String>, early: usize) -> Seen {
    let secret = |name: &str| matches!(name, "authorization" | "cookie");
    let mut headers = request.headers.clone();
    headers.retain(|(name, _)| !secret(name));
    Seen {
        method: request.method.clone(),
        target: request.target.clone(),
        host: request.header("host").unwrap_or_default().to_owned(),
        server_name,
        token: request.header("authorization").is_some(),
        headers,
        early,
    }
}
