//! The body of an HTTP answer, put together from pieces.

use super::head::Framing;

/// Takes pieces of a body until it is whole, or longer than it may be.
#[derive(Debug)]
pub struct Body {
    framing: Framing,
    /// The most that is kept.
    most: usize,
    /// Not decoded yet; only a chunked body waits here.
    raw: Vec<u8>,
    /// Of the current chunk, what is still to come and the line end behind it.
    chunk: Option<u64>,
    kept: Vec<u8>,
    end: Option<BodyEnd>,
}

/// Why nothing more of a body is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyEnd {
    /// It is whole.
    Whole,
    /// It is longer than it may be.
    TooLong,
    /// It is broken: nothing behind here can be read.
    Broken,
}

impl Body {
    /// Makes a reader of a body of at most `most` bytes.
    pub fn up_to(most: usize, framing: Framing) -> Self {
        Self {
            framing,
            most,
            raw: Vec::new(),
            chunk: None,
            kept: Vec::new(),
            end: (framing == Framing::Length(0)).then_some(BodyEnd::Whole),
        }
    }

    /// Returns why nothing more of it is wanted; `None`: more is to come.
    pub fn end(&self) -> Option<BodyEnd> {
        self.end
    }

    /// Whether the end of the connection is the end of the body.
    pub fn ends_with_connection(&self) -> bool {
        self.framing == Framing::Close
    }

    /// Returns what came of it.
    pub fn bytes(&self) -> &[u8] {
        &self.kept
    }

    /// Returns what came of it.
    pub fn into_bytes(self) -> Vec<u8> {
        self.kept
    }

    /// Takes the next piece.
    pub fn push(&mut self, bytes: &[u8]) {
        for piece in bytes.chunks(16 << 10) {
            if self.end.is_some() {
                return;
            }
            match self.framing {
                Framing::Chunked => {
                    self.raw.extend_from_slice(piece);
                    self.decode();
                    // No line of a chunk is as long.
                    if self.end.is_none() && self.raw.len() > 64 << 10 {
                        self.end = Some(BodyEnd::Broken);
                    }
                }
                Framing::Length(all) => {
                    let missing = all - self.kept.len() as u64;
                    let part =
                        usize::try_from(missing).map_or(piece.len(), |it| it.min(piece.len()));
                    self.keep(&piece[..part]);
                    if self.end.is_none() && self.kept.len() as u64 == all {
                        self.end = Some(BodyEnd::Whole);
                    }
                }
                Framing::Close => self.keep(piece),
            }
        }
    }

    fn keep(&mut self, piece: &[u8]) {
        let room = self.most - self.kept.len();
        self.kept.extend_from_slice(&piece[..piece.len().min(room)]);
        if piece.len() > room {
            self.end = Some(BodyEnd::TooLong);
        }
    }

    fn decode(&mut self) {
        while self.end.is_none() {
            match self.chunk {
                Some(left) if left > 2 => {
                    let data = (left - 2).min(self.raw.len() as u64) as usize;
                    if data == 0 {
                        return;
                    }
                    let piece: Vec<u8> = self.raw.drain(..data).collect();
                    self.keep(&piece);
                    self.chunk = Some(left - data as u64);
                }
                Some(_) => {
                    if self.raw.len() < 2 {
                        return;
                    }
                    self.raw.drain(..2);
                    self.chunk = None;
                }
                None => match httparse::parse_chunk_size(&self.raw) {
                    Ok(httparse::Status::Complete((line, size))) if size > 0 => {
                        self.raw.drain(..line);
                        self.chunk = Some(size.saturating_add(2));
                    }
                    Ok(httparse::Status::Complete(_)) => self.end = Some(BodyEnd::Whole),
                    Ok(httparse::Status::Partial) => return,
                    Err(_) => self.end = Some(BodyEnd::Broken),
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BODY: usize = 64 << 10;

    fn body(framing: Framing, pieces: &[&[u8]]) -> (Vec<u8>, bool) {
        let mut body = Body::up_to(BODY, framing);
        pieces.iter().for_each(|it| body.push(it));
        (body.bytes().to_vec(), body.end().is_some())
    }

    #[test]
    fn a_body_ends_where_its_framing_says() {
        let length = |it| Framing::Length(it);
        assert_eq!(body(length(3), &[b"ab", b"cd"]), (b"abc".to_vec(), true));
        assert_eq!(body(length(3), &[b"ab"]), (b"ab".to_vec(), false));
        assert_eq!(body(length(0), &[]), (vec![], true));
        assert_eq!(body(Framing::Close, &[b"ab"]), (b"ab".to_vec(), false));
        let long = vec![0; 1 << 20];
        for it in [Framing::Close, length(1 << 30), length(u64::MAX)] {
            assert_eq!(body(it, &[&long]), (vec![0; BODY], true));
        }
        let chunked = b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n";
        assert_eq!(
            body(Framing::Chunked, &[chunked]),
            (b"abcde".to_vec(), true)
        );
        let bytes: Vec<_> = chunked.chunks(1).collect();
        assert_eq!(body(Framing::Chunked, &bytes), (b"abcde".to_vec(), true));
        assert_eq!(body(Framing::Chunked, &[b"zz\r\n"]), (vec![], true));
        assert_eq!(
            body(Framing::Chunked, &[b"ffffffffffffffff\r\nab"]),
            (b"ab".to_vec(), false)
        );
        assert!(body(Framing::Chunked, &[&vec![b'1'; 1 << 20]]).1);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]

        #[test]
        fn a_chunked_body_is_what_was_put_in(
            chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..40), 0..6),
            cuts in proptest::collection::vec(any::<usize>(), 0..8),
        ) {
            let mut bytes = Vec::new();
            for it in &chunks {
                bytes.extend_from_slice(format!("{:x}\r\n", it.len()).as_bytes());
                bytes.extend_from_slice(it);
                bytes.extend_from_slice(b"\r\n");
            }
            bytes.extend_from_slice(b"0\r\n\r\n");
            let mut cuts: Vec<_> = cuts.iter().map(|it| it % (bytes.len() + 1)).collect();
            cuts.push(bytes.len());
            cuts.sort_unstable();
            let mut body = Body::up_to(BODY, Framing::Chunked);
            let mut from = 0;
            for to in cuts {
                body.push(&bytes[from..to]);
                from = to;
            }
            prop_assert_eq!(body.end(), Some(BodyEnd::Whole));
            prop_assert_eq!(body.bytes(), chunks.concat());
        }
    }
}
