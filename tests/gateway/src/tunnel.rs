//! One CONNECT: its answer, then raw bytes both ways, ending as Envoy ends tunnels.

use std::{io, time::Duration};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::{
    head::{Answer, Request, reason},
    script::{End, Pace, Say, Script},
    sessions::request_id,
    shared::Shared,
    stats::Stats,
    upstream::{Caller, Stream},
    wire::Wire,
};

/// How much of the upstream's bytes is held here while the client does not read: far more than Envoy's 64 KiB, so that
/// the loss of `downwards` is met each time and not by chance.
const HELD_MOST: usize = 4 << 20;

/// How much is read at once.
const PIECE: usize = 64 << 10;

/// Serves a CONNECT until the connection is over. `early` came in the same flight as the head.
pub(crate) async fn serve(shared: &Shared, mut wire: Wire, request: &Request, early: Vec<u8>) {
    let script = shared.scripts.take(&request.target, true);
    if let Some(gate) = &script.gate {
        gate.passed().await;
    }
    if let Some(delay) = script.delay {
        tokio::time::sleep(delay).await;
    }
    let id = request_id();
    match answer(shared, &mut wire, request, &script, &id).await {
        Ok(Some(upstream)) => carry(shared, wire, upstream, early, &script).await,
        Ok(None) => {
            shared.counters.count(|stats| stats.refused += 1);
            let end = match script.say {
                Say::Nothing(end) => end,
                _ => End::Clean,
            };
            wire.end(end, shared.linger).await;
        }
        // The client went away before it had its answer.
        Err(_) => {}
    }
}

/// Says the answer; the upstream's stream if it was a 200.
async fn answer(
    shared: &Shared,
    wire: &mut Wire,
    request: &Request,
    script: &Script,
    id: &str,
) -> io::Result<Option<Box<dyn Stream>>> {
    for status in &script.interim {
        let head = format!("HTTP/1.1 {status} {}\r\n\r\n", reason(*status));
        say(wire, head.as_bytes(), script.pace).await?;
    }
    let refusal = match &script.say {
        Say::Truth => match open(shared, request, id).await {
            Ok(upstream) => {
                let head = granted(script, id);
                say(wire, &head, script.pace).await?;
                if script.new_keys {
                    wire.renew_keys().await?;
                }
                return Ok(Some(upstream));
            }
            Err(refusal) => refusal,
        },
        Say::Status(status, body) => refusal(*status, body.as_ref(), id),
        Say::Bytes(bytes) => {
            say(wire, bytes, script.pace).await?;
            return Ok(None);
        }
        Say::EndlessHead => return endless_head(wire).await.map(|()| None),
        Say::Silence => std::future::pending().await,
        Say::Nothing(_) => return Ok(None),
    };
    let mut refusal = refusal;
    for (name, value) in &script.headers {
        refusal = refusal.with(name, value);
    }
    say(wire, &refusal.into_bytes(id, true), script.pace).await?;
    Ok(None)
}

async fn open(shared: &Shared, request: &Request, id: &str) -> Result<Box<dyn Stream>, Answer> {
    let (upstream, user) = shared.judge(&request.target, request, id)?;
    let caller = Caller {
        user,
        authority: request.target.clone(),
    };
    let stream = upstream.open(caller, &shared.tasks).await.map_err(|error| {
        let why = format!(
            "upstream_reset_before_response_started{{remote_connection_failure|delayed_connect_error:_{}}}",
            spoken(&error)
        );
        Answer::envoy(503, &why, id)
    })?;
    shared
        .counters
        .count(|stats| stats.upstream_connections += 1);
    Ok(stream)
}

fn spoken(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "Connection_refused",
        io::ErrorKind::TimedOut => "Connection_timed_out",
        _ => "No_route_to_host",
    }
}

fn granted(script: &Script, id: &str) -> Vec<u8> {
    let mut head = format!("HTTP/1.1 200 OK\r\nx-request-id: {id}\r\nserver: envoy\r\n");
    for (name, value) in &script.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    let mut res = head.into_bytes();
    res.extend_from_slice(&script.first);
    res
}

/// The body that the real thing sends with a status, unless the script has one.
fn refusal(status: u16, body: Option<&(String, Vec<u8>)>, id: &str) -> Answer {
    match (body, status) {
        (Some((content_type, body)), _) => Answer::new(status, content_type, body.clone()),
        (None, 401) => Answer::pomerium(401, "Unauthorized", id),
        (None, 403) => Answer::pomerium(403, "Forbidden", id),
        (None, 404) => Answer::envoy(404, "route_not_found", id),
        (None, 450) => Answer::pomerium(450, "device not authenticated", id),
        (None, 495) => Answer::pomerium(495, "client certificate required", id),
        (None, 503) => Answer::envoy(503, "no_healthy_upstream", id),
        (None, status) => Answer::envoy(status, reason(status), id),
    }
}

async fn say(wire: &mut Wire, bytes: &[u8], pace: Pace) -> io::Result<()> {
    match pace {
        Pace::Whole => wire.write_all(bytes).await?,
        Pace::ByteByByte => {
            for byte in bytes {
                wire.write_all(&[*byte]).await?;
                wire.flush().await?;
            }
        }
    }
    wire.flush().await
}

async fn endless_head(wire: &mut Wire) -> io::Result<()> {
    wire.write_all(b"HTTP/1.1 200 OK\r\n").await?;
    loop {
        wire.write_all(b"x-more: and more and more and more\r\n")
            .await?;
        wire.flush().await?;
    }
}

/// Why a relay stopped.
enum Stopped {
    /// The client ended its side: Envoy drops the tunnel.
    Client,
    /// The upstream ended, and what it said was passed on as far as the client took it.
    Upstream,
    /// The script's count of bytes is reached.
    Limit(End),
}

async fn carry(
    shared: &Shared,
    wire: Wire,
    upstream: Box<dyn Stream>,
    early: Vec<u8>,
    script: &Script,
) {
    let _open = OpenTunnel::new(shared);
    let (mut from_client, mut to_client) = tokio::io::split(wire);
    let (mut from_upstream, mut to_upstream) = tokio::io::split(upstream);
    let stopped = {
        let up = upwards(&mut from_client, &mut to_upstream, early);
        let down = downwards(
            &mut from_upstream,
            &mut to_client,
            script.end,
            shared.linger,
        );
        tokio::select! {
            stopped = up => stopped,
            stopped = down => stopped,
        }
    };
    drop((from_upstream, to_upstream));
    let wire = from_client.unsplit(to_client);
    match stopped {
        Stopped::Client => drop(wire),
        Stopped::Upstream => wire.end(End::Clean, shared.linger).await,
        Stopped::Limit(end) => wire.end(end, shared.linger).await,
    }
}

/// From the client to the upstream, until the client ends.
async fn upwards(
    client: &mut (impl AsyncRead + Unpin),
    upstream: &mut (impl AsyncWrite + Unpin),
    early: Vec<u8>,
) -> Stopped {
    let mut buffer = early;
    loop {
        if upstream.write_all(&buffer).await.is_err() {
            // The upstream no longer listens; what it still says decides.
            return std::future::pending().await;
        }
        let _ = upstream.flush().await;
        buffer.resize(PIECE, 0);
        match client.read(&mut buffer).await {
            Ok(0) | Err(_) => return Stopped::Client,
            Ok(n) => buffer.truncate(n),
        }
    }
}

/// From the upstream to the client. Once the upstream has ended, a client that takes nothing for `patience` loses the
/// rest behind a clean end: so does Envoy.
async fn downwards(
    upstream: &mut (impl AsyncRead + Unpin),
    client: &mut (impl AsyncWrite + Unpin),
    limit: Option<(u64, End)>,
    patience: Duration,
) -> Stopped {
    let mut held = BytesMut::new();
    let mut piece = vec![0; PIECE];
    let mut ended = false;
    let mut left = limit.map_or(u64::MAX, |it| it.0);
    loop {
        if let (0, Some((_, end))) = (left, limit) {
            let _ = client.flush().await;
            return Stopped::Limit(end);
        }
        if ended && held.is_empty() {
            let _ = client.flush().await;
            return Stopped::Upstream;
        }
        let next = held.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let room = (HELD_MOST - held.len()).min(piece.len());
        tokio::select! {
            read = upstream.read(&mut piece[..room]), if !ended && room > 0 => match read {
                // A reset of the upstream cannot be told from its end.
                Ok(0) | Err(_) => ended = true,
                Ok(n) => held.extend_from_slice(&piece[..n]),
            },
            written = client.write(&held[..next]), if next > 0 => match written {
                Ok(n) => {
                    left -= n as u64;
                    held.advance(n);
                    if held.is_empty() {
                        let _ = client.flush().await;
                    }
                }
                Err(_) => return Stopped::Client,
            },
            () = tokio::time::sleep(patience), if ended => return Stopped::Upstream,
        }
    }
}

/// Counts a tunnel as long as it is open.
struct OpenTunnel<'a>(&'a Shared);

impl<'a> OpenTunnel<'a> {
    fn new(shared: &'a Shared) -> Self {
        shared.counters.count(|stats: &mut Stats| {
            stats.opened += 1;
            stats.open_tunnels += 1;
        });
        Self(shared)
    }
}

impl Drop for OpenTunnel<'_> {
    fn drop(&mut self) {
        self.0.counters.count(|stats| stats.open_tunnels -= 1);
    }
}
