//! The head of an HTTP answer, put together from pieces: the one reader of them, whoever answers.
//!
//! The result depends on the bytes alone, never on how they were cut into pieces.

use control::text::clean;

use super::refusal::shown_id;

/// The most that all heads of one answer may take by default, interim ones included.
pub const HEAD: usize = 128 << 10;
/// The most interim heads.
const INTERIM: usize = 100;
/// The most header lines in one head.
const LINES: usize = 1024;
/// How an answer begins.
const BEGINNING: &[u8] = b"HTTP/1.";

/// Takes pieces until a final head is whole.
#[derive(Debug)]
pub struct HeadReader {
    /// The most that all heads may take.
    most: usize,
    held: Vec<u8>,
    /// No head ends before here.
    looked: usize,
    /// What was taken away already.
    spent: usize,
    interim: usize,
}

/// A final head.
#[derive(Debug, PartialEq, Eq)]
pub struct Head {
    /// The status, never an interim one.
    pub status: u16,
    /// The head itself, which httparse takes.
    bytes: Vec<u8>,
    /// What came behind it.
    pub rest: Vec<u8>,
}

/// Where the body of an answer ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// After this many bytes.
    Length(u64),
    /// With the last chunk.
    Chunked,
    /// With the connection.
    Close,
}

/// Why there will be no head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// The bytes do not begin as HTTP/1.
    #[error("not an HTTP answer")]
    NotHttp,
    /// The heads are longer than anybody's.
    #[error("the head of the answer is longer than 128 KiB")]
    TooLong,
    /// Interim answers without an end.
    #[error("more than 100 interim answers")]
    TooManyInterim,
    /// A line that is no header.
    #[error("the head of the answer is broken ({0})")]
    Broken(httparse::Error),
}

impl Default for HeadReader {
    fn default() -> Self {
        Self::up_to(HEAD)
    }
}

impl HeadReader {
    /// Makes a reader of heads of at most `most` bytes.
    pub fn up_to(most: usize) -> Self {
        Self {
            most,
            held: Vec::new(),
            looked: 0,
            spent: 0,
            interim: 0,
        }
    }

    /// Takes the next piece; returns the head once it is whole. Not to be called again after that, or after an error.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Option<Head>, HeadError> {
        let mut pieces = bytes.chunks(16 << 10);
        for piece in &mut pieces {
            self.held.extend_from_slice(piece);
            if let Some(mut head) = self.advance()? {
                pieces.for_each(|it| head.rest.extend_from_slice(it));
                return Ok(Some(head));
            }
        }
        Ok(None)
    }

    /// Returns what was not understood yet.
    pub fn held(&self) -> &[u8] {
        &self.held
    }

    /// Whether not a byte came.
    pub fn is_untouched(&self) -> bool {
        self.spent == 0 && self.held.is_empty()
    }

    fn advance(&mut self) -> Result<Option<Head>, HeadError> {
        loop {
            self.skip_empty_lines();
            if self.spent > self.most {
                return Err(HeadError::TooLong);
            }
            if self.held == b"\r" {
                return Ok(None);
            }
            let known = self.held.len().min(BEGINNING.len());
            if self.held[..known] != BEGINNING[..known] {
                return Err(HeadError::NotHttp);
            }
            let end = self.find_end();
            if self.spent + end.unwrap_or(self.held.len()) > self.most {
                return Err(HeadError::TooLong);
            }
            let Some(end) = end else { return Ok(None) };
            let status = status(&self.held[..end]).map_err(HeadError::Broken)?;
            // 101 switches protocols and has no other answer behind it.
            if status < 200 && status != 101 {
                self.interim += 1;
                if self.interim > INTERIM {
                    return Err(HeadError::TooManyInterim);
                }
                self.take(end);
                continue;
            }
            let rest = self.held.split_off(end);
            return Ok(Some(Head {
                status,
                bytes: std::mem::take(&mut self.held),
                rest,
            }));
        }
    }

    fn skip_empty_lines(&mut self) {
        let mut blank = 0;
        loop {
            match &self.held[blank..] {
                [b'\r', b'\n', ..] => blank += 2,
                [b'\n', ..] => blank += 1,
                _ => break,
            }
        }
        if blank > 0 {
            self.take(blank);
        }
    }

    fn take(&mut self, count: usize) {
        self.held.drain(..count);
        self.spent += count;
        self.looked = 0;
    }

    /// Just behind the first empty line.
    fn find_end(&mut self) -> Option<usize> {
        let from = self.looked;
        for (at, byte) in self.held.iter().enumerate().skip(from) {
            if *byte != b'\n' {
                continue;
            }
            match &self.held[at + 1..] {
                [b'\n', ..] => return Some(at + 2),
                [b'\r', b'\n', ..] => return Some(at + 3),
                _ => {}
            }
        }
        self.looked = self.held.len().saturating_sub(2).max(from);
        None
    }
}

impl Head {
    /// Returns the words behind the status, cleaned for display.
    pub fn reason(&self) -> String {
        let reason = |it: &httparse::Response<'_, '_>| it.reason.map(|it| clean(it.trim(), 100));
        self.parsed(reason).unwrap_or_default()
    }

    /// Returns the value of `x-request-id`, cleaned for display.
    pub fn request_id(&self) -> Option<String> {
        let id = self.values("x-request-id").into_iter().next()?;
        Some(shown_id(&id)).filter(|it| !it.is_empty())
    }

    /// Returns the values of the header `name`, as they are.
    pub fn values(&self, name: &str) -> Vec<String> {
        let values = self.parsed(|it| {
            let headers = it.headers.iter();
            let found = headers.filter(|it| it.name.eq_ignore_ascii_case(name));
            let values = found.map(|it| String::from_utf8_lossy(it.value).into_owned());
            Some(values.collect())
        });
        values.unwrap_or_default()
    }

    /// Returns where the body ends.
    pub fn framing(&self) -> Framing {
        let framing = |it: &httparse::Response<'_, '_>| Some(framing(self.status, it.headers));
        self.parsed(framing).unwrap_or(Framing::Close)
    }

    fn parsed<T>(&self, get: impl FnOnce(&httparse::Response<'_, '_>) -> Option<T>) -> Option<T> {
        let mut headers = vec![httparse::EMPTY_HEADER; LINES];
        let mut answer = httparse::Response::new(&mut headers);
        answer.parse(&self.bytes).ok()?;
        get(&answer)
    }
}

/// The status of a whole head.
fn status(head: &[u8]) -> Result<u16, httparse::Error> {
    let mut headers = vec![httparse::EMPTY_HEADER; LINES];
    let mut answer = httparse::Response::new(&mut headers);
    if answer.parse(head)?.is_partial() {
        // Cannot be: an empty line ends every head.
        return Err(httparse::Error::NewLine);
    }
    Ok(answer.code.unwrap_or_default())
}

fn framing(status: u16, headers: &[httparse::Header<'_>]) -> Framing {
    if matches!(status, 101 | 204 | 304) {
        return Framing::Length(0);
    }
    let value = |name: &str| {
        let found = headers.iter().find(|it| it.name.eq_ignore_ascii_case(name));
        found.map(|it| String::from_utf8_lossy(it.value).to_ascii_lowercase())
    };
    if let Some(coding) = value("transfer-encoding") {
        return if coding.trim_end().ends_with("chunked") {
            Framing::Chunked
        } else {
            Framing::Close
        };
    }
    value("content-length")
        .and_then(|it| it.trim().parse().ok())
        .map_or(Framing::Close, Framing::Length)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Feeds pieces cut at `cuts`; checks that no more is held than allowed.
    fn in_pieces(bytes: &[u8], cuts: &[usize]) -> Result<Option<Head>, HeadError> {
        let mut reader = HeadReader::default();
        let mut cuts: Vec<_> = cuts.iter().map(|it| it % (bytes.len() + 1)).collect();
        cuts.push(bytes.len());
        cuts.sort_unstable();
        let mut from = 0;
        for to in cuts {
            let res = reader.push(&bytes[from..to]);
            assert!(reader.held.len() <= 256 << 10);
            from = to;
            match res {
                Ok(None) => {}
                Ok(Some(mut head)) => {
                    head.rest.extend_from_slice(&bytes[from..]);
                    return Ok(Some(head));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    fn whole(bytes: &[u8]) -> Result<Option<Head>, HeadError> {
        in_pieces(bytes, &[])
    }

    fn byte_by_byte(bytes: &[u8]) -> Result<Option<Head>, HeadError> {
        in_pieces(bytes, &(0..bytes.len()).collect::<Vec<_>>())
    }

    fn status(bytes: &[u8]) -> u16 {
        whole(bytes).unwrap().unwrap().status
    }

    #[test]
    fn what_comes_behind_the_head_is_exact() {
        let bytes =
            b"HTTP/1.1 200 OK\r\nx-request-id: abc\r\ncontent-length: 5\r\n\r\nSSH-2.0\r\n\r\n";
        for head in [whole(bytes), byte_by_byte(bytes)] {
            let head = head.unwrap().unwrap();
            assert_eq!(head.status, 200);
            assert_eq!(head.request_id().as_deref(), Some("abc"));
            assert_eq!(head.framing(), Framing::Length(5));
            assert_eq!(head.rest, b"SSH-2.0\r\n\r\n");
        }
    }

    #[test]
    fn h4_odd_heads_work_or_are_told() {
        assert_eq!(status(b"HTTP/1.0 200 OK\r\n\r\n"), 200);
        assert_eq!(status(b"HTTP/1.1 200\r\n\r\n"), 200);
        assert_eq!(status(b"HTTP/1.1 200 \n\n"), 200);
        assert_eq!(status(b"\r\n\nHTTP/1.1 200 OK\na: b\n\r\n"), 200);
        assert_eq!(status(b"HTTP/1.1 403 F\r\nx: 1\r\nx: 2\r\n\r\n"), 403);
        let broken = |bytes: &[u8]| matches!(whole(bytes), Err(HeadError::Broken(_)));
        assert!(broken(b"HTTP/1.1 200 OK\r\na: \0\r\n\r\n"));
        assert!(broken(b"HTTP/1.1 200 OK\r\na: b\r\n c\r\n\r\n"));
        assert!(broken(b"HTTP/1.2 200 OK\r\n\r\n"));
        assert!(broken(b"HTTP/1.1 OK\r\n\r\n"));
        let lines = format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(10_000));
        assert_eq!(
            whole(lines.as_bytes()),
            Err(HeadError::Broken(httparse::Error::TooManyHeaders))
        );
    }

    #[test]
    fn h5_what_is_not_http_is_known_by_its_first_bytes() {
        for it in [
            &b"<html>"[..],
            b"ICY 200 OK\r\n\r\n",
            b"HTTP/2.0 200 OK\r\n\r\n",
            b"SSH-2.0-x\r\n",
            b"\0\0\x12\x04",
            b"\rHTTP/1.1",
            b"h",
        ] {
            assert_eq!(whole(it), Err(HeadError::NotHttp));
            assert_eq!(byte_by_byte(it), Err(HeadError::NotHttp));
        }
        assert_eq!(whole(b"HTTP/"), Ok(None));
        assert_eq!(whole(b""), Ok(None));
    }

    #[test]
    fn h2_a_hundred_interim_answers_are_skipped_and_no_more() {
        let answers = |count| {
            let mut it = "HTTP/1.1 103 Early\r\na: b\r\n\r\n".repeat(count);
            it.push_str("HTTP/1.1 200 OK\r\n\r\nrest");
            it
        };
        let head = whole(answers(100).as_bytes()).unwrap().unwrap();
        assert_eq!((head.status, &head.rest[..]), (200, &b"rest"[..]));
        assert_eq!(
            whole(answers(101).as_bytes()),
            Err(HeadError::TooManyInterim)
        );
        assert_eq!(status(b"HTTP/1.1 101 Switch\r\n\r\n"), 101);
    }

    #[test]
    fn a_head_may_take_128_kib_and_not_a_byte_more() {
        let head = |length: usize| {
            let (start, end) = ("HTTP/1.1 200 OK\r\na: ", "\r\n\r\n");
            format!(
                "{start}{}{end}",
                "x".repeat(length - start.len() - end.len())
            )
        };
        for most in [HEAD, HEAD - 1] {
            assert_eq!(status(head(most).as_bytes()), 200);
        }
        for cuts in [vec![], vec![HEAD], vec![7, HEAD + 1]] {
            assert_eq!(
                in_pieces(head(HEAD + 1).as_bytes(), &cuts),
                Err(HeadError::TooLong)
            );
        }
        let endless = vec![b'x'; 1 << 20];
        let mut reader = HeadReader::default();
        assert_eq!(reader.push(b"HTTP/1.1 200 "), Ok(None));
        assert_eq!(reader.push(&endless), Err(HeadError::TooLong));
        assert!(reader.held.len() <= 256 << 10);
        let blank = [&vec![b'\n'; HEAD + 1][..], b"x"].concat();
        assert_eq!(byte_by_byte(&blank), Err(HeadError::TooLong));
        assert_eq!(whole(&blank), Err(HeadError::TooLong));
    }

    #[test]
    fn a_long_head_byte_by_byte_takes_no_quadratic_time() {
        let bytes = format!("HTTP/1.1 200 OK\r\na: {}\r\n\r\n", "x".repeat(HEAD - 64));
        assert_eq!(byte_by_byte(bytes.as_bytes()).unwrap().unwrap().status, 200);
    }

    fn heads() -> impl Strategy<Value = Vec<u8>> {
        let line = prop_oneof![
            Just(b"HTTP/1.1 200 OK\r\n".to_vec()),
            Just(b"HTTP/1.1 100 Continue\r\n\r\n".to_vec()),
            Just(b"HTTP/1.0 403\n".to_vec()),
            Just(b"content-length: 12\r\n".to_vec()),
            Just(b"\r\n".to_vec()),
            Just(b"\n".to_vec()),
            Just(b"\r".to_vec()),
            Just(b"HTTP/1.".to_vec()),
            Just(b" folded\r\n".to_vec()),
            proptest::collection::vec(any::<u8>(), 0..12),
        ];
        proptest::collection::vec(line, 0..10).prop_map(|it| it.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]

        #[test]
        fn pieces_make_no_difference(bytes in heads(), cuts in proptest::collection::vec(any::<usize>(), 0..8)) {
            let all = whole(&bytes);
            prop_assert_eq!(&all, &in_pieces(&bytes, &cuts));
            prop_assert_eq!(&all, &byte_by_byte(&bytes));
        }

        #[test]
        fn we_agree_with_httparse(bytes in heads()) {
            let mut rest = &bytes[..];
            let oracle = loop {
                let mut headers = vec![httparse::EMPTY_HEADER; LINES];
                let mut answer = httparse::Response::new(&mut headers);
                match answer.parse(rest) {
                    Ok(httparse::Status::Complete(end)) => {
                        let code = answer.code.unwrap();
                        rest = &rest[end..];
                        if code == 101 || code >= 200 {
                            break Ok(Some((code, rest.to_vec())));
                        }
                    }
                    Ok(httparse::Status::Partial) => break Ok(None),
                    Err(_) => break Err(()),
                }
            };
            match (whole(&bytes), oracle) {
                (Ok(ours), Ok(theirs)) => {
                    prop_assert_eq!(ours.map(|it| (it.status, it.rest)), theirs);
                }
                (Err(_), theirs) => prop_assert_eq!(theirs, Err(())),
                // A broken line is only told at the end of the head.
                (Ok(ours), Err(())) => prop_assert_eq!(ours, None),
            }
        }
    }
}
