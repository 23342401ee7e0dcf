//! TLS records in and out of borrowed buffers, on rustls' unbuffered API; or plain bytes for a lab's `http` address.
//!
//! What rustls asks of its caller and the compiler does not check is kept here, in `advance` and `seal`:
//! - it opens one record per call: an offset moves over the bytes, they stay where they are;
//! - every call gets all bytes that were not discarded, also one that only wants to write: the start of a handshake
//!   message (a ticket whose rest is on its way) is remembered by its place in them;
//! - bytes from `EncodeTlsData` go out before anything sealed later: one queue for both;
//! - the end of the peer is reported once, to whichever call comes next: it is kept in [`Remote`];
//! - after an error the alert for the peer needs one more call.
//!
//! Must not know HTTP, or what the bytes are for.

mod stream;

use std::{
    fmt,
    future::poll_fn,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use rustls::{
    ClientConfig, InvalidMessage,
    client::{ClientConnectionData, UnbufferedClientConnection},
    pki_types::ServerName,
    unbuffered::{ConnectionState, EncodeTlsData, EncryptError, UnbufferedStatus, WriteTraffic},
};
use tokio::io::AsyncWrite;

use super::transport::Transport;
use crate::buffer::{self, Buffer, Queue};

/// The most plaintext that one record carries.
const RECORD: usize = 16 * 1024;
/// What stands before a record; its last two bytes are the length of the rest.
const HEADER: usize = 5;
/// A full record of TLS 1.3, sealed.
const FULL: usize = HEADER + RECORD + 17;
/// Room besides: the record's own overhead, answers to key updates, an alert.
const SLACK: usize = 112;

/// A connection past its handshake: socket, record layer and what is on its way through them. Idle, it owns no buffer.
#[derive(Debug)]
pub struct Remote {
    /// The socket, or what else carries it.
    pub socket: Transport,
    /// The record layer, without any buffer of its own.
    pub records: Records,
    /// Ciphertext that was read and not opened yet: the start of a record, or of a handshake message.
    sealed: Vec<u8>,
    /// Plaintext that came along while the handshake ended.
    opened: Queue,
    /// The peer said that it ended.
    closed: bool,
    /// What was sealed and not written yet.
    unsent: Queue,
    written: u64,
}

/// The record layer of one connection.
pub enum Records {
    /// TLS.
    Tls(Box<UnbufferedClientConnection>),
    /// No TLS.
    Plain,
}

/// Why a handshake failed.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// TLS itself: a certificate, an alert, garbage.
    #[error(transparent)]
    Tls(#[from] rustls::Error),
    /// The socket; `UnexpectedEof` if the peer closed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// How reading from the remote failed or ended.
#[derive(Debug, thiserror::Error)]
pub enum RecvError {
    /// A close_notify (or FIN where there is no TLS): the peer meant to end.
    #[error("the connection was closed")]
    Closed,
    /// A FIN without close_notify: a cut.
    #[error("the connection was cut")]
    Cut,
    /// The peer broke TLS or sent an alert.
    #[error(transparent)]
    Tls(rustls::Error),
    /// The socket.
    #[error(transparent)]
    Io(io::Error),
}

impl Remote {
    /// Shakes hands over `socket`. No limit of its own.
    pub async fn handshake(
        socket: impl Into<Transport>,
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> Result<Self, HandshakeError> {
        let tls = Box::new(UnbufferedClientConnection::new(config, name)?);
        let mut remote = Self::new(socket.into(), Records::Tls(tls));
        remote.start()?;
        loop {
            poll_fn(|cx| remote.poll_flush(cx)).await?;
            if !remote.is_handshaking() {
                return Ok(remote);
            }
            let mut opened = Queue::default();
            let read = poll_fn(|cx| remote.poll_fill(cx, &mut opened)).await;
            remote.opened = opened;
            match read {
                Ok(_) => {}
                // It may have ended right behind a complete handshake: that is for `poll_recv` to tell.
                Err(RecvError::Closed) if !remote.is_handshaking() => {}
                Err(RecvError::Closed | RecvError::Cut) => {
                    return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
                }
                Err(RecvError::Tls(e)) => return Err(e.into()),
                Err(RecvError::Io(e)) => return Err(e.into()),
            }
        }
    }

    /// Over a socket without TLS.
    pub fn plain(socket: impl Into<Transport>) -> Self {
        Self::new(socket.into(), Records::Plain)
    }

    /// Seals `plain` behind what is not written yet. The caller flushes before it queues more than some 64 KiB in all.
    pub fn queue(&mut self, plain: &[u8]) -> Result<(), rustls::Error> {
        match &mut self.records {
            Records::Tls(tls) => {
                for part in plain.chunks(RECORD) {
                    seal(tls, &mut self.sealed, &mut self.unsent, |traffic, room| {
                        traffic.encrypt(part, room)
                    })?;
                }
            }
            Records::Plain => self.unsent.push(plain),
        }
        Ok(())
    }

    /// Queues our own end: nothing may be queued behind it. Without TLS only closing the socket says so.
    pub fn queue_close(&mut self) -> Result<(), rustls::Error> {
        match &mut self.records {
            Records::Tls(tls) => seal(tls, &mut self.sealed, &mut self.unsent, |traffic, room| {
                traffic.queue_close_notify(room)
            }),
            Records::Plain => Ok(()),
        }
    }

    /// How many bytes the socket took so far.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Writes what was queued; ready when nothing is left. Cancel-safe.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.unsent.is_empty() {
            match ready!(self.unsent.poll_drain(&mut self.socket, cx)) {
                Ok(n) => self.written += n as u64,
                Err(e) => {
                    self.unsent = Queue::default(); // it will never go out
                    return Poll::Ready(Err(e));
                }
            }
        }
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    /// Ready when reading may bring something, an end included. Takes nothing.
    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.opened.is_empty() || self.closed {
            return Poll::Ready(Ok(()));
        }
        self.socket.poll_read_ready(cx)
    }

    /// The next plaintext, at least one byte. Cancel-safe.
    pub fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Result<Buffer, RecvError>> {
        loop {
            if let Some(first) = self.opened.pop() {
                return Poll::Ready(Ok(first));
            }
            let mut opened = Queue::default();
            let read = self.poll_fill(cx, &mut opened);
            self.opened = opened;
            if self.opened.is_empty() {
                ready!(read)?;
            }
        }
    }

    /// Appends the plaintext of what one read brings to `opened`, perhaps none; says how many bytes the read took off
    /// the socket. An error or end comes behind the plaintext that was appended with it; the end comes again if asked
    /// again. Cancel-safe.
    pub fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        opened: &mut Queue,
    ) -> Poll<Result<usize, RecvError>> {
        if !self.opened.is_empty() {
            while let Some(early) = self.opened.pop() {
                opened.push(early.bytes());
            }
            return Poll::Ready(Ok(0));
        }
        if self.closed {
            return Poll::Ready(Err(RecvError::Closed));
        }
        // Only a socket that has something gets a buffer.
        ready!(self.socket.poll_read_ready(cx)).map_err(RecvError::Io)?;
        let read = match self.records {
            Records::Tls(_) => ready!(self.poll_fill_tls(cx, opened)),
            Records::Plain => ready!(self.poll_fill_plain(cx, opened)),
        };
        self.closed |= matches!(read, Err(RecvError::Closed));
        Poll::Ready(read)
    }

    fn new(socket: Transport, records: Records) -> Self {
        Self {
            socket,
            records,
            sealed: Vec::new(),
            opened: Queue::default(),
            closed: false,
            unsent: Queue::default(),
            written: 0,
        }
    }

    fn is_handshaking(&self) -> bool {
        matches!(&self.records, Records::Tls(tls) if tls.is_handshaking())
    }

    /// Queues the ClientHello.
    fn start(&mut self) -> Result<(), rustls::Error> {
        match &mut self.records {
            Records::Tls(tls) => advance(tls, &mut [], &mut self.unsent, &mut self.opened)
                .1
                .map(drop),
            Records::Plain => Ok(()),
        }
    }

    fn poll_fill_plain(
        &mut self,
        cx: &mut Context<'_>,
        opened: &mut Queue,
    ) -> Poll<Result<usize, RecvError>> {
        let read = opened
            .back(RECORD)
            .poll_fill(&mut self.socket, buffer::SIZE, cx);
        opened.tidy();
        match ready!(read) {
            Ok(0) => Poll::Ready(Err(RecvError::Closed)),
            Ok(n) => Poll::Ready(Ok(n)),
            Err(e) => Poll::Ready(Err(RecvError::Io(e))),
        }
    }

    fn poll_fill_tls(
        &mut self,
        cx: &mut Context<'_>,
        opened: &mut Queue,
    ) -> Poll<Result<usize, RecvError>> {
        let mut sealed = Buffer::default();
        sealed.push(&self.sealed);
        let most = to_a_records_end(sealed.bytes());
        let n = ready!(sealed.poll_fill(&mut self.socket, most, cx)).map_err(RecvError::Io)?;
        if n == 0 {
            return Poll::Ready(Err(RecvError::Cut));
        }
        let result = self.open(&mut sealed, opened);
        self.sealed = sealed.bytes().to_vec();
        if let Err(RecvError::Tls(_)) = result {
            // The alert goes out if it can; nobody waits for it.
            let _ = self.poll_flush(cx);
        }
        Poll::Ready(result.map(|()| n))
    }

    /// Opens the whole records in `sealed`.
    fn open(&mut self, sealed: &mut Buffer, opened: &mut Queue) -> Result<(), RecvError> {
        let Records::Tls(tls) = &mut self.records else {
            return Ok(());
        };
        let (used, result) = advance(tls, sealed.bytes_mut(), &mut self.unsent, opened);
        sealed.consume(used);
        match result.map_err(RecvError::Tls)? {
            Progress::Closed => Err(RecvError::Closed),
            // Nothing of a whole buffer could be used: the rest of that message would never fit.
            Progress::NeedMore if used == 0 && sealed.room().is_empty() => Err(RecvError::Tls(
                InvalidMessage::HandshakePayloadTooLarge.into(),
            )),
            Progress::NeedMore => Ok(()),
        }
    }
}

/// How much to read behind `begun` so that it ends where a record does, if full ones come: what came of the next one
/// would be copied twice until its rest is here.
fn to_a_records_end(begun: &[u8]) -> usize {
    let first = match begun {
        [_, _, _, high, low, ..] => HEADER + usize::from(u16::from_be_bytes([*high, *low])),
        _ => FULL,
    };
    let more = buffer::SIZE / FULL - 1;
    first.saturating_sub(begun.len()) + more * FULL
}

impl fmt::Debug for Records {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tls(_) => "Tls",
            Self::Plain => "Plain",
        })
    }
}

/// Where [`advance`] stopped.
enum Progress {
    /// At the end of the whole records.
    NeedMore,
    /// At the peer's end.
    Closed,
}

/// Goes over `sealed` as far as it can: plaintext to `opened`, answers to `out`. The first number is how much of
/// `sealed` was used up.
fn advance(
    tls: &mut UnbufferedClientConnection,
    sealed: &mut [u8],
    out: &mut Queue,
    opened: &mut Queue,
) -> (usize, Result<Progress, rustls::Error>) {
    let mut used = 0;
    loop {
        let UnbufferedStatus { discard, state } = tls.process_tls_records(&mut sealed[used..]);
        let mut more = 0;
        let done = match state {
            Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                while let Some(Ok(record)) = traffic.next_record() {
                    more += record.discard;
                    opened.push(record.payload);
                }
                None
            }
            Ok(ConnectionState::EncodeTlsData(data)) => encode(data, out).err().map(Err),
            Ok(ConnectionState::TransmitTlsData(data)) => {
                data.done(); // it is queued: it leaves in order, before anything sealed later
                None
            }
            Ok(ConnectionState::BlockedHandshake | ConnectionState::WriteTraffic(_)) => {
                Some(Ok(Progress::NeedMore))
            }
            Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => Some(Ok(Progress::Closed)),
            Ok(state) => Some(Err(unexpected(&state))),
            Err(e) => Some(Err(e)),
        };
        used += discard + more;
        match done {
            None => {}
            Some(Err(e)) => {
                alert(tls, &mut sealed[used..], out);
                return (used, Err(e));
            }
            Some(done) => return (used, done),
        }
    }
}

/// Queues what TLS wants to tell the peer after an error.
fn alert(tls: &mut UnbufferedClientConnection, sealed: &mut [u8], out: &mut Queue) {
    while tls.wants_write() {
        match tls.process_tls_records(sealed).state {
            Ok(ConnectionState::EncodeTlsData(data)) => match encode(data, out) {
                Ok(()) => {}
                Err(_) => return,
            },
            _ => return,
        }
    }
}

/// Appends what `write` makes to `out`, behind anything that TLS itself has to say. `sealed` is what [`advance`] left.
fn seal<F>(
    tls: &mut UnbufferedClientConnection,
    sealed: &mut [u8],
    out: &mut Queue,
    write: F,
) -> Result<(), rustls::Error>
where
    F: Fn(&mut WriteTraffic<'_, ClientConnectionData>, &mut [u8]) -> Result<usize, EncryptError>,
{
    loop {
        match tls.process_tls_records(sealed).state? {
            ConnectionState::WriteTraffic(mut traffic) => {
                let last = out.back(RECORD + SLACK);
                let written = write(&mut traffic, last.room());
                last.filled(*written.as_ref().unwrap_or(&0));
                out.tidy();
                return written
                    .map(drop)
                    .map_err(|e| rustls::Error::General(e.to_string()));
            }
            ConnectionState::EncodeTlsData(data) => encode(data, out)?,
            ConnectionState::TransmitTlsData(data) => data.done(),
            state => return Err(unexpected(&state)),
        }
    }
}

/// Queues a record that TLS itself has to send.
fn encode(
    mut data: EncodeTlsData<'_, ClientConnectionData>,
    out: &mut Queue,
) -> Result<(), rustls::Error> {
    let last = out.back(RECORD + SLACK);
    let encoded = data.encode(last.room());
    last.filled(*encoded.as_ref().unwrap_or(&0));
    out.tidy();
    encoded
        .map(drop)
        .map_err(|e| rustls::Error::General(e.to_string()))
}

fn unexpected(state: &ConnectionState<'_, '_, ClientConnectionData>) -> rustls::Error {
    rustls::Error::General(format!("unexpected state of TLS: {state:?}"))
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
