//! Heads and bodies of answers, in any pieces.

use fastrand::Rng;
use pomd_core::route::{
    body::Body,
    head::{Head, HeadError, HeadReader},
};

use crate::random::{cut, split_first, unpacked};

/// The most that may be held of a head, in bytes.
const HELD_MOST: usize = 256 << 10;
/// The most bytes of an answer that are tried: more than a head and a body may take, for one seed in sixteen. The others
/// have room for many lines, and are tried many times as fast.
const ANSWER_MOST: [usize; 2] = [224 << 10, 8 << 10];
/// Up to so many bytes come one by one, too.
const BY_ONE_MOST: usize = 1 << 10;
/// The most header lines that a head may have.
const LINES: usize = 1024;

/// A seed for the cuts, then an answer: pieces make no difference, little is held, what comes behind the head is exact,
/// and httparse agrees.
pub(super) fn h1_head(bytes: &[u8]) {
    let (seed, packed) = split_first(bytes);
    let bytes = &unpacked(packed, ANSWER_MOST[usize::from(!seed.is_multiple_of(16))]);
    let whole = read(&[bytes]);
    let mut random = Rng::with_seed(seed.into());
    for _ in 0..2 {
        assert_eq!(read(&cut(&mut random, bytes)), whole, "in pieces");
    }
    if bytes.len() <= BY_ONE_MOST {
        assert_eq!(
            read(&bytes.chunks(1).collect::<Vec<_>>()),
            whole,
            "byte by byte"
        );
    }
    agrees(bytes, &whole);
    let Ok(Some(head)) = whole else { return };
    assert!(
        bytes.ends_with(&head.rest),
        "what comes behind the head is other than what was sent"
    );
    let body = |pieces: &[&[u8]]| {
        let mut res = Body::up_to(64 << 10, head.framing());
        pieces.iter().for_each(|it| res.push(it));
        assert!(
            res.bytes().len() <= 64 << 10,
            "a body of {} bytes is kept",
            res.bytes().len()
        );
        (res.bytes().to_vec(), res.end())
    };
    assert_eq!(
        body(&cut(&mut random, &head.rest)),
        body(&[&head.rest]),
        "a body in pieces"
    );
}

fn read(pieces: &[&[u8]]) -> Result<Option<Head>, HeadError> {
    let mut reader = HeadReader::default();
    let mut pieces = pieces.iter();
    while let Some(piece) = pieces.next() {
        let found = reader.push(piece)?;
        assert!(
            reader.held().len() <= HELD_MOST,
            "{} bytes are held",
            reader.held().len()
        );
        if let Some(mut head) = found {
            pieces.for_each(|it| head.rest.extend_from_slice(it));
            return Ok(Some(head));
        }
    }
    Ok(None)
}

/// A head that httparse takes is the same to us, unless it is longer than we allow; one that it refuses is none to us.
fn agrees(bytes: &[u8], ours: &Result<Option<Head>, HeadError>) {
    let mut rest = bytes;
    let theirs = loop {
        let mut headers = vec![httparse::EMPTY_HEADER; LINES];
        let mut answer = httparse::Response::new(&mut headers);
        match answer.parse(rest) {
            Ok(httparse::Status::Complete(end)) => {
                rest = &rest[end..];
                match answer.code {
                    Some(code) if code == 101 || code >= 200 => break Ok(Some((code, rest))),
                    _ => {}
                }
            }
            Ok(httparse::Status::Partial) => break Ok(None),
            Err(_) => break Err(()),
        }
    };
    match (ours, theirs) {
        (Ok(ours), Ok(theirs)) => {
            assert_eq!(ours.as_ref().map(|it| (it.status, &it.rest[..])), theirs);
        }
        (Err(HeadError::TooLong | HeadError::TooManyInterim), _) => {}
        (Err(ours), theirs) => assert_eq!(theirs, Err(()), "{ours}"),
        // A broken line is only told at the end of the head.
        (Ok(ours), Err(())) => assert_eq!(*ours, None),
    }
}
