//! The bytes of a route on their way back over the control socket, in frames: a Unix socket knows no reset, and a cut
//! must not look like an end.
//!
//! A frame is its length in two bytes, the higher one first, and so many bytes. One of length 0 is the end; where the
//! stream stops without it, the route was cut.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

/// The most that one frame is given to carry.
const MOST: usize = 32 << 10;

/// Sends what comes in, and its end. An error of `from` is a cut: then no end is sent.
pub async fn send(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
) -> io::Result<()> {
    let mut frame = vec![0; 2 + MOST];
    loop {
        let length = from.read(&mut frame[2..]).await?;
        // No more was read than fits.
        let header = u16::try_from(length).map_err(io::Error::other)?;
        frame[..2].copy_from_slice(&header.to_be_bytes());
        to.write_all(&frame[..2 + length]).await?;
        if length == 0 {
            return to.flush().await;
        }
    }
}

/// The receiving end: how far the frames were read.
#[derive(Debug)]
pub struct Frames(State);

#[derive(Debug)]
enum State {
    /// In a header, of which so many bytes are there.
    Header([u8; 2], usize),
    /// So many bytes of a frame are to come.
    Bytes(usize),
    End,
}

impl Default for Frames {
    fn default() -> Self {
        Self(State::Header([0; 2], 0))
    }
}

impl Frames {
    /// Reads what the frames of `from` carry; nothing at the end, [`io::ErrorKind::ConnectionReset`] after a cut.
    pub fn poll_read(
        &mut self,
        from: &mut (impl AsyncRead + Unpin),
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            match &mut self.0 {
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
                        *self = Self::default();
                    }
                    return Poll::Ready(Ok(()));
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
                        self.0 = match usize::from(u16::from_be_bytes(*header)) {
                            0 => State::End,
                            more => State::Bytes(more),
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
