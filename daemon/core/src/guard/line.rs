//! The first line of a request, told from everything else that a client may say first.

/// As much of a method, and of a target, is kept as a scheme and an authority need.
const KEPT: usize = 1 << 10;
/// As much of a line's end as a version and white space need.
const TAIL: usize = 32;

/// A line that may be a request line.
#[derive(Debug, Default)]
pub(super) struct Line {
    phase: Phase,
    /// The beginning of its first word.
    method: Vec<u8>,
    /// The beginning of what follows that.
    target: Vec<u8>,
    /// Its last ones.
    tail: Vec<u8>,
    /// How long it is.
    length: usize,
    bare_cr: bool,
    late: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Blank,
    Method,
    Gap,
    Rest,
    AfterCr,
}

/// What was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// Blank lines, which nobody acts on.
    Blank,
    /// The beginning of what may become a request line.
    Maybe,
    /// Another protocol.
    Other,
    /// A request line of HTTP/1, with its end.
    Request,
}

impl Line {
    /// Takes bytes from `rest` up to the line's end.
    pub(super) fn push(&mut self, rest: &mut &[u8]) -> Seen {
        if self.phase == Phase::Blank {
            let blank = rest.iter().take_while(|it| matches!(it, b'\r' | b'\n'));
            let blank = blank.count();
            if blank > 0 {
                *rest = &rest[blank..];
                return Seen::Blank;
            }
        }
        let end = rest.iter().position(|it| *it == b'\n');
        let piece = &rest[..end.unwrap_or(rest.len())];
        for byte in piece {
            match self.step(*byte) {
                Some(next) => self.phase = next,
                None => return Seen::Other,
            }
            let word = match self.phase {
                Phase::Blank | Phase::Gap => continue,
                Phase::Method => &mut self.method,
                Phase::Rest | Phase::AfterCr => &mut self.target,
            };
            if word.len() < KEPT {
                word.push(*byte);
            }
        }
        self.length += piece.len();
        self.tail
            .extend_from_slice(&piece[piece.len().saturating_sub(TAIL)..]);
        self.tail.drain(..self.tail.len().saturating_sub(TAIL));
        let Some(end) = end else {
            *rest = &[];
            return Seen::Maybe;
        };
        if !self.is_request() {
            return Seen::Other;
        }
        *rest = &rest[end + 1..];
        Seen::Request
    }

    /// It is not held any more.
    pub(super) fn go_on(&mut self) {
        self.late = true;
    }

    /// Whether it goes on as it comes.
    pub(super) fn is_late(&self) -> bool {
        self.late
    }

    /// It has no more than the beginning of its first word.
    pub(super) fn is_a_word(&self) -> bool {
        self.phase == Phase::Method
    }

    /// Its length, with its end.
    pub(super) fn length(&self) -> usize {
        self.length + 1
    }

    /// A carriage return stands within it, which some servers take for an end.
    pub(super) fn has_bare_cr(&self) -> bool {
        self.bare_cr
    }

    /// What is to be done.
    pub(super) fn method(&self) -> &[u8] {
        &self.method
    }

    /// It asks for a tunnel of its own.
    pub(super) fn is_connect(&self) -> bool {
        self.method().eq_ignore_ascii_case(b"connect")
    }

    /// The host and port that the target names, if it names one; `Err`: they are too long to be any.
    pub(super) fn authority(&self) -> Option<Result<&[u8], ()>> {
        let target = self.target.as_slice();
        let is_whole = target.len() < KEPT;
        let authority = if self.is_connect() {
            let end = target.iter().position(|it| is_blank(*it));
            end.map(|it| &target[..it])
                .or_else(|| is_whole.then_some(target))
        } else {
            let from = target.windows(3).position(|it| it == b"://");
            // Behind a slash it is no scheme.
            let from = from.filter(|it| target[..*it].iter().all(u8::is_ascii_alphabetic))?;
            let rest = &target[from + 3..];
            let ends = |it: &u8| matches!(it, b'/' | b'?' | b'#' | b'\\') || is_blank(*it);
            rest.iter().position(ends).map(|it| &rest[..it])
        };
        Some(authority.ok_or(()))
    }

    fn step(&mut self, byte: u8) -> Option<Phase> {
        match (self.phase, byte) {
            (Phase::Blank | Phase::Method, it) if is_token(it) => Some(Phase::Method),
            (Phase::Method | Phase::Gap, b' ' | b'\t') => Some(Phase::Gap),
            // Every target that a browser or a program may send begins so.
            (Phase::Gap, b'/' | b'*' | b'h' | b'H') => Some(Phase::Rest),
            (Phase::Gap, it) if it.is_ascii_alphanumeric() || it == b'[' => {
                self.is_connect().then_some(Phase::Rest)
            }
            (Phase::Rest | Phase::AfterCr, b'\r') => Some(Phase::AfterCr),
            (Phase::Rest | Phase::AfterCr, b'\t' | b' '..=b'~' | 0x80..) => {
                self.bare_cr |= self.phase == Phase::AfterCr;
                Some(Phase::Rest)
            }
            _ => None,
        }
    }

    /// Whether the line, which is whole, asks for something by HTTP/1.
    fn is_request(&self) -> bool {
        let target = self.target.as_slice();
        let has_prefix = |it: &[u8]| {
            let start = target.get(..it.len());
            start.is_some_and(|start| start.eq_ignore_ascii_case(it))
        };
        let has_target = self.is_connect()
            || [&b"/"[..], b"*", b"http://", b"https://"]
                .into_iter()
                .any(has_prefix);
        // The version is a word of its own behind a target.
        let line = self.tail.trim_ascii_end();
        let Some(gap) = line.iter().rposition(|it| is_blank(*it)) else {
            return false;
        };
        let version = &line[gap + 1..];
        let is_version = version.len() > 7
            && version[..7].eq_ignore_ascii_case(b"HTTP/1.")
            && version[7..].iter().all(u8::is_ascii_digit);
        let has_three = target.len() == KEPT || target.trim_ascii().iter().any(|it| is_blank(*it));
        has_target && is_version && has_three
    }
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

/// What methods and the names of headers are made of.
pub(super) fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}
