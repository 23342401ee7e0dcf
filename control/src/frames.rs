//! The bytes of a route on their way back over the control socket, in frames: a Unix socket knows no reset, and a cut
//! must not look like an end.
//!
//! A frame is its length in two bytes, the higher one first, and so many bytes. One of length 0 is the end; where the
//! stream stops without it, the route was cut. Lengths with both of the highest bits set are notes, which are no bytes of
//! the route: the other bits are the note's length. They are sent to clients alone that asked for them.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

/// The most that one frame is given to carry.
const MOST: usize = 32 << 10;

/// What makes a length that of a note.
const NOTE: u16 = 0xC000;

/// Sends what comes in, and its end. An error of `from` is a cut: then no end is sent.
pub async fn send(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
) -> io::Result<()> {
    send_with_notes(from, to, std::future::pending::<Option<Vec<u8>>>).await
}

/// As [`send`], and each note that a future of `next` resolves to: at most 16,383 bytes, which an empty one is too.
/// `None`: there will be no more. The futures are dropped and made anew at any time.
pub async fn send_with_notes<F>(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    mut next: impl FnMut() -> F,
) -> io::Result<()>
where
    F: Future<Output = Option<Vec<u8>>>,
{
    let mut frame = vec![0; 2 + MOST];
    let mut noting = true;
    loop {
        let length = tokio::select! {
            biased;
            note = next(), if noting => {
                match note {
                    Some(note) => send_note(&note, to).await?,
                    None => noting = false,
                }
                continue;
            }
            read = from.read(&mut frame[2..]) => read?,
        };
        // No more was read than fits.
        let header = u16::try_from(length).map_err(io::Error::other)?;
        frame[..2].copy_from_slice(&header.to_be_bytes());
        to.write_all(&frame[..2 + length]).await?;
        if length == 0 {
            return to.flush().await;
        }
    }
}

async fn send_note(note: &[u8], to: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
    let length = u16::try_from(note.len()).ok().filter(|it| it & NOTE == 0);
    let length = length.ok_or_else(|| io::Error::other("a note is too long"))?;
    to.write_all(&(NOTE | length).to_be_bytes()).await?;
    to.write_all(note).await?;
    to.flush().await
}

/// The receiving end: how far the frames were read.
#[derive(Debug, Default)]
pub struct Frames {
    state: State,
    note: Option<Vec<u8>>,
}

#[derive(Debug)]
enum State {
    /// In a header, of which so many bytes are there.
    Header([u8; 2], usize),
    /// So many bytes of a frame are to come.
    Bytes(usize),
    /// A note, of which so many bytes are there.
    Note(Vec<u8>, usize),
    End,
}

impl Default for State {
    fn default() -> Self {
        Self::Header([0; 2], 0)
    }
}

impl Frames {
    /// The newest note that was read, once. Looked for whenever `poll_read` returns.
    pub fn take_note(&mut self) -> Option<Vec<u8>> {
        self.note.take()
    }

    /// Reads what the frames of `from` carry; nothing at the end, [`io::ErrorKind::ConnectionReset`] after a cut.
    pub fn poll_read(
        &mut self,
        from: &mut (impl AsyncRead + Unpin),
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            match &mut self.state {
                State::End => return Poll::Ready(Ok(())),
                State::Bytes(left) => {
                    let room = buf.remaining().min(*left);
                    let mut part = ReadBuf::new(buf.initialize_unfilled_to(room));
                    ready!(Pin::new(&mut *from).poll_read(cx, &mut part))?;
                    let length = part.filled().len();
                    if length == 0 && room > 0 {
                        return Poll::Ready(Err(cut()));
                    }
                    buf.advance(length);
                    *left -= length;
                    if *left == 0 {
                        self.state = State::default();
                    }
                    return Poll::Ready(Ok(()));
                }
                State::Note(note, there) if *there == note.len() => {
                    self.note = Some(std::mem::take(note)).filter(|it| !it.is_empty());
                    self.state = State::default();
                }
                State::Note(note, there) => {
                    let mut rest = ReadBuf::new(&mut note[*there..]);
                    ready!(Pin::new(&mut *from).poll_read(cx, &mut rest))?;
                    match rest.filled().len() {
                        0 => return Poll::Ready(Err(cut())),
                        length => *there += length,
                    }
                }
                State::Header(header, there) => {
                    let mut rest = ReadBuf::new(&mut header[*there..]);
                    ready!(Pin::new(&mut *from).poll_read(cx, &mut rest))?;
                    let length = rest.filled().len();
                    if length == 0 {
                        return Poll::Ready(Err(cut()));
                    }
                    *there += length;
                    if *there == 2 {
                        self.state = match u16::from_be_bytes(*header) {
                            0 => State::End,
                            it if it & NOTE == NOTE => {
                                State::Note(vec![0; usize::from(it & !NOTE)], 0)
                            }
                            it => State::Bytes(usize::from(it)),
                        };
                    }
                }
            }
        }
    }
}

fn cut() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, "the route was cut")
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use proptest::prelude::*;

    use super::*;

    /// Reads with a buffer of `room` bytes until the end.
    async fn read(mut from: impl AsyncRead + Unpin, room: usize) -> (Vec<u8>, io::Result<()>) {
        let (mut frames, mut all) = (Frames::default(), Vec::new());
        let mut buffer = vec![0; room];
        loop {
            let mut buf = ReadBuf::new(&mut buffer);
            let read = poll_fn(|cx| frames.poll_read(&mut from, cx, &mut buf)).await;
            match (read, buf.filled()) {
                (Err(error), _) => return (all, Err(error)),
                (Ok(()), []) => return (all, Ok(())),
                (Ok(()), some) => all.extend_from_slice(some),
            }
        }
    }

    async fn sent(bytes: &[u8]) -> Vec<u8> {
        let mut res = Vec::new();
        send(&mut &bytes[..], &mut res).await.unwrap();
        res
    }

    #[tokio::test]
    async fn a_stream_that_stops_anywhere_before_its_end_was_cut() {
        let sent = sent(b"there and back").await;
        for length in 0..sent.len() {
            let (got, ended) = read(&sent[..length], 5).await;
            assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
            assert!(b"there and back".starts_with(&got), "{length}");
        }
        let (got, ended) = read(&sent[..], 5).await;
        assert_eq!(got, b"there and back");
        ended.unwrap();
    }

    #[tokio::test]
    async fn notes_are_told_apart_from_bytes_wherever_they_come() {
        let mut sent = Vec::new();
        let long = vec![b'n'; usize::from(!NOTE)];
        for note in [&b""[..], b"login", &long] {
            send_note(note, &mut sent).await.unwrap();
        }
        send(&mut &b"bytes"[..], &mut sent).await.unwrap();
        let too_long = vec![0; long.len() + 1];
        assert!(send_note(&too_long, &mut sent).await.is_err());
        for piece in [1, 3, 1 << 20] {
            let (mut near, far) = tokio::io::duplex(piece);
            let sending = async {
                near.write_all(&sent).await.unwrap();
                drop(near);
            };
            let reading = async {
                let (mut far, mut frames) = (far, Frames::default());
                let (mut bytes, mut notes, mut room) = (Vec::new(), Vec::new(), [0; 2]);
                loop {
                    let mut buf = ReadBuf::new(&mut room);
                    let read = poll_fn(|cx| {
                        let polled = frames.poll_read(&mut far, cx, &mut buf);
                        notes.extend(frames.take_note());
                        polled
                    });
                    read.await.unwrap();
                    match buf.filled() {
                        [] => return (bytes, notes),
                        some => bytes.extend_from_slice(some),
                    }
                }
            };
            let ((), (bytes, notes)) = tokio::join!(sending, reading);
            assert_eq!(bytes, b"bytes");
            // Of several that come at once the newest counts.
            assert_eq!(notes.last(), Some(&long));
        }
    }

    proptest! {
        #[test]
        fn bytes_arrive_whatever_pieces_they_come_in(
            bytes in prop::collection::vec(any::<u8>(), 0..3 * MOST),
            piece in 1_usize..100_000,
            room in 1_usize..100_000,
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let got = runtime.block_on(async {
                let (mut near, far) = tokio::io::duplex(piece);
                let sending = async {
                    send(&mut &bytes[..], &mut near).await.unwrap();
                    drop(near);
                };
                tokio::join!(sending, read(far, room)).1
            });
            prop_assert_eq!(got.0, bytes);
            got.1.unwrap();
        }
    }
}
