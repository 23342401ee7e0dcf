//! The browser guard: decides which bytes of a local client may go on, so that web pages are kept out of a tunnel (A6).
//!
//! A [`Guard`] watches one connection: give it every byte in order by [`Guard::push`], and pass on what it says. Whoever
//! is told nothing of a [`Guard::refusal`] may go on for ever. Every request of a connection that speaks HTTP/1 is judged,
//! for a browser uses a connection that a person's visit opened for the requests of any page. Nothing of a request goes
//! on before its head was judged; bodies go on as they come. What does not speak HTTP/1 goes on at once, and is not
//! looked at again. Pure: no sockets, no clock.
//!
//! `line` tells a request from other protocols, `head` judges a request, `chunked` finds the end of a body, `refusal` has
//! the words.

mod chunked;
mod head;
mod line;
mod refusal;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use chunked::Chunked;
pub use head::Rules;
use head::{Body, Head};
use line::{Line, Seen};
pub use refusal::{Refusal, Why};

/// How long a line that may become a request line is held once it has more than its first word. A word alone is not: no
/// browser stops within a method, and there are protocols that begin with just a word, such as JDWP.
const LINE_TIME: Duration = Duration::from_millis(500);
/// How much of such a line is held.
const LINE_MOST: usize = 16 << 10;
/// How long the head of a request may take. No server answers before its end, so nobody waits for what is held.
const HEAD_TIME: Duration = Duration::from_secs(60);
/// The most that a head may have, with its request line.
const HEAD_MOST: usize = 64 << 10;

/// What may go on.
#[derive(Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Passed {
    /// Bytes of earlier pushes that were held until now.
    pub held: Vec<u8>,
    /// And so many of the bytes that were given, from their beginning.
    pub fresh: usize,
}

/// Watches what the client of one connection says.
#[derive(Debug)]
pub struct Guard {
    rules: Arc<Rules>,
    state: State,
    /// What was not passed on yet: the beginning of a request.
    held: Vec<u8>,
    /// Something other than blank lines went on: an answer from here would not be the first thing that the client hears.
    said_something: bool,
}

#[derive(Debug)]
enum State {
    /// Before a request line, or within one.
    Line(Line),
    /// Behind a request line.
    Head(Box<Head>),
    /// So many bytes of a body are still to come.
    Body(u64),
    Chunked(Chunked),
    /// Another protocol.
    Raw,
    Refused(Box<Refusal>),
}

impl Guard {
    /// Before the first byte.
    pub fn new(rules: Arc<Rules>) -> Self {
        Self {
            rules,
            state: State::Line(Line::default()),
            held: Vec::new(),
            said_something: false,
        }
    }

    /// Takes the next bytes. What is neither passed on nor refused is held.
    pub fn push(&mut self, bytes: &[u8]) -> Passed {
        let mut passed = Passed::default();
        let mut rest = bytes;
        while !rest.is_empty() {
            let before = rest;
            match &mut self.state {
                State::Line(line) => match line.push(&mut rest) {
                    Seen::Blank => {
                        passed.fresh = bytes.len() - rest.len();
                    }
                    Seen::Maybe => {}
                    Seen::Other => self.state = State::Raw,
                    Seen::Request if line.length() > HEAD_MOST => self.refuse(Why::TooLong),
                    Seen::Request => {
                        let head = Head::new(line);
                        self.state = State::Head(Box::new(head));
                    }
                },
                State::Head(head) => match head.push(&mut rest, &self.rules) {
                    Ok(None) => {}
                    Ok(Some(body)) => {
                        passed.held.append(&mut self.held);
                        passed.fresh = bytes.len() - rest.len();
                        self.said_something = true;
                        self.state = match body {
                            Body::Length(0) => State::Line(Line::default()),
                            Body::Length(length) => State::Body(length),
                            Body::Chunked => State::Chunked(Chunked::default()),
                            Body::Upgraded => State::Raw,
                        };
                    }
                    Err(why) => self.refuse(why),
                },
                State::Body(left) => {
                    let here = usize::try_from(*left).map_or(rest.len(), |it| it.min(rest.len()));
                    rest = &rest[here..];
                    *left -= here as u64;
                    passed.fresh += here;
                    if *left == 0 {
                        self.state = State::Line(Line::default());
                    }
                }
                State::Chunked(body) => {
                    let ended = body.push(&mut rest);
                    passed.fresh += before.len() - rest.len();
                    match ended {
                        Ok(false) => {}
                        Ok(true) => self.state = State::Line(Line::default()),
                        Err(why) => self.refuse(why),
                    }
                }
                State::Raw => {
                    passed.held.append(&mut self.held);
                    passed.fresh = bytes.len();
                    self.said_something = true;
                    rest = &[];
                }
                State::Refused(_) => return passed,
            }
        }
        match &mut self.state {
            State::Line(line) if line.is_late() => {
                self.said_something |= passed.fresh < bytes.len();
                passed.fresh = bytes.len();
            }
            State::Line(_) => {
                let fresh = &bytes[passed.fresh..];
                if self.held.len() + fresh.len() > LINE_MOST {
                    passed.held.append(&mut self.let_go());
                    passed.fresh = bytes.len();
                } else {
                    self.held.extend_from_slice(fresh);
                }
            }
            State::Head(_) => self.held.extend_from_slice(&bytes[passed.fresh..]),
            State::Refused(_) => self.held = Vec::new(),
            State::Body(_) | State::Chunked(_) | State::Raw => {}
        }
        passed
    }

    /// How long the held bytes may be held, from the first of them on. `None`: none are held.
    pub fn patience(&self) -> Option<Duration> {
        match &self.state {
            State::Line(_) if self.held.is_empty() => None,
            State::Line(line) if line.is_a_word() => Some(Duration::ZERO),
            State::Line(_) => Some(LINE_TIME),
            State::Head(_) => Some(HEAD_TIME),
            _ => None,
        }
    }

    /// [`Guard::patience`] is over. Returns what goes on: a line that is still no request line goes on as it comes, and
    /// is held again once it is one.
    #[must_use]
    pub fn time_is_up(&mut self) -> Vec<u8> {
        match &self.state {
            State::Line(_) => self.let_go(),
            State::Head(_) => {
                self.refuse(Why::Slow);
                Vec::new()
            }
            _ => Vec::new(),
        }
    }

    /// The client ended its side. Returns what goes on.
    #[must_use]
    pub fn end(&mut self) -> Vec<u8> {
        match &self.state {
            State::Line(_) => {
                self.state = State::Raw;
                std::mem::take(&mut self.held)
            }
            State::Head(_) => {
                self.refuse(Why::Malformed("it ends within its head"));
                Vec::new()
            }
            _ => Vec::new(),
        }
    }

    /// A request was refused: nothing more goes on.
    pub fn refusal(&self) -> Option<&Refusal> {
        match &self.state {
            State::Refused(it) => Some(it),
            _ => None,
        }
    }

    /// Another protocol is spoken: everything goes on from now on.
    pub fn is_over(&self) -> bool {
        matches!(self.state, State::Raw)
    }

    fn let_go(&mut self) -> Vec<u8> {
        if let State::Line(line) = &mut self.state {
            line.go_on();
        }
        self.said_something = true;
        std::mem::take(&mut self.held)
    }

    fn refuse(&mut self, why: Why) {
        let refusal = Refusal::new(why, &self.rules.tunnel, !self.said_something);
        self.held = Vec::new();
        self.state = State::Refused(Box::new(refusal));
    }
}
