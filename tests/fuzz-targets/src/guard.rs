//! What the browser guard is tried with: what clients say first, in any pieces.

use std::sync::Arc;

use fastrand::Rng;
use pomd_core::{
    config::Host,
    guard::{Guard, Rules, Why},
};

use crate::random::{cut, split_first, unpacked};

/// The most bytes that are tried: more than the guard holds, for one seed in sixteen.
const MOST: [usize; 2] = [96 << 10, 4 << 10];
/// The most that may be held.
const HELD_MOST: usize = 64 << 10;
/// Up to so many bytes come one by one, too.
const BY_ONE_MOST: usize = 1 << 10;

/// What went on, whether something is held, and why something was refused.
#[derive(Debug, PartialEq, Eq)]
struct Heard {
    passed: Vec<u8>,
    holds: bool,
    why: Option<Why>,
}

/// A seed for the cuts, then what a client says: pieces make no difference, what goes on is what was said, little is held,
/// and what is no request is not held at all.
pub(super) fn guard(bytes: &[u8]) {
    let (seed, packed) = split_first(bytes);
    let bytes = &unpacked(packed, MOST[usize::from(!seed.is_multiple_of(16))]);
    let whole = hear(&[bytes]);
    let mut random = Rng::with_seed(seed.into());
    for _ in 0..2 {
        agrees(&hear(&cut(&mut random, bytes)), &whole, "in pieces");
    }
    if bytes.len() <= BY_ONE_MOST {
        agrees(
            &hear(&bytes.chunks(1).collect::<Vec<_>>()),
            &whole,
            "byte by byte",
        );
    }
    assert!(bytes.starts_with(&whole.passed), "other bytes went on");
    if whole.why.is_none() && !whole.holds {
        assert!(whole.passed.len() == bytes.len(), "bytes are missing");
    }
    let has_version = bytes
        .windows(7)
        .any(|it| it.eq_ignore_ascii_case(b"HTTP/1."));
    let ends_a_line = bytes.contains(&b'\n') && !bytes.starts_with(b"\r") && bytes[0] != b'\n';
    if !has_version && ends_a_line {
        assert_eq!(whole.passed, *bytes, "what is no request does not go on");
    }
}

/// Long lines go on before they are known to be a request line: only of what was refused, or is held until its head is
/// whole, may more have gone on. Nobody can answer a line that has no end.
fn agrees(pieces: &Heard, whole: &Heard, how: &str) {
    assert_eq!(pieces.why, whole.why, "{how}");
    if whole.why.is_none() && !whole.holds {
        assert_eq!(pieces, whole, "{how}");
    } else {
        assert!(pieces.holds, "{how}");
        assert!(pieces.passed.starts_with(&whole.passed), "{how}");
    }
}

fn hear(pieces: &[&[u8]]) -> Heard {
    let host = |it: &str| Host::parse(it).expect("a host");
    let rules = Rules {
        tunnel: "grafana".to_owned(),
        route: host("grafana.corp.test"),
        allow: vec![host("grafana.localhost")],
        ssh: false,
    };
    let mut guard = Guard::new(Arc::new(rules));
    let mut passed = Vec::new();
    let mut said = 0;
    for piece in pieces {
        said += piece.len();
        let mut now = guard.push(piece);
        passed.append(&mut now.held);
        passed.extend_from_slice(&piece[..now.fresh]);
        let held = said - passed.len();
        assert!(
            guard.refusal().is_some() || held <= HELD_MOST,
            "{held} bytes are held"
        );
    }
    Heard {
        holds: passed.len() < said,
        passed,
        why: guard.refusal().map(|it| it.why.clone()),
    }
}
