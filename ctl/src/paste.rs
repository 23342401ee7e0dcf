//! The address that a sign-in ended on elsewhere, as a person types or pastes it.
//!
//! It is a secret: nothing of it is shown. A terminal hands lines over only up to 4,096 bytes (macOS: 1,024), so they are put
//! together here from single bytes; pastes come between marks that terminals write on request.

use std::{collections::VecDeque, io};

use crate::silent::{Purpose, SilentTerminal};

/// More than any answer has.
const MOST: usize = 60 << 10;
/// A terminal writes this before what is pasted, and [`PASTE_ENDS`] behind it.
const PASTE_BEGINS: &[u8] = b"[200~";
const PASTE_ENDS: &[u8] = b"[201~";

/// What a person did.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Typed {
    /// They gave an address.
    Address(String),
    /// It was longer than any address is.
    TooLong,
    /// They want to type no more.
    End,
}

/// The person's terminal, from which addresses are read.
pub(crate) struct Terminal {
    input: SilentTerminal,
    editor: Editor,
    read: VecDeque<u8>,
}

impl Terminal {
    /// Stops the terminal from showing what is typed.
    pub(crate) fn open() -> io::Result<Self> {
        Ok(Self {
            input: SilentTerminal::open(Purpose::Paste)?,
            editor: Editor::default(),
            read: VecDeque::new(),
        })
    }

    /// Returns what the person typed next. Cancel-safe.
    pub(crate) async fn next(&mut self) -> io::Result<Typed> {
        loop {
            while let Some(byte) = self.read.pop_front() {
                if let Some(typed) = self.editor.push(byte) {
                    return Ok(typed);
                }
            }
            let bytes = self.input.read().await?;
            if bytes.is_empty() {
                return Ok(Typed::End);
            }
            self.read.extend(bytes);
        }
    }
}

/// Puts bytes together.
#[derive(Default)]
pub(crate) struct Editor {
    line: Vec<u8>,
    too_long: bool,
    pasting: bool,
    /// What followed the escape character so far.
    escape: Option<Vec<u8>>,
}

impl Editor {
    /// Takes one byte; returns what is whole by it. What is pasted is whole at its end: it may be broken over several lines.
    pub(crate) fn push(&mut self, byte: u8) -> Option<Typed> {
        if let Some(mut sequence) = self.escape.take() {
            return self.in_escape(&mut sequence, byte);
        }
        match byte {
            0x1b => self.escape = Some(Vec::new()),
            b'\r' | b'\n' if !self.pasting => return self.whole(),
            // Ctrl-D
            0x04 if !self.pasting && self.line.is_empty() => return Some(Typed::End),
            // Backspace
            0x08 | 0x7f if !self.pasting => {
                self.line.pop();
            }
            // Ctrl-U
            0x15 if !self.pasting => self.clear(),
            ..=0x20 | 0x7f => {}
            _ if self.line.len() >= MOST => self.too_long = true,
            _ => self.line.push(byte),
        }
        None
    }

    /// Keys and marks: `[`, parameters, and a last letter; or one character alone.
    fn in_escape(&mut self, sequence: &mut Vec<u8>, byte: u8) -> Option<Typed> {
        sequence.push(byte);
        let goes_on = match sequence.as_slice() {
            [b'[' | b'O'] => true,
            [b'[', .., last] => !(0x40..=0x7e).contains(last) && sequence.len() < 16,
            _ => false,
        };
        if goes_on {
            self.escape = Some(std::mem::take(sequence));
        } else if sequence == PASTE_BEGINS {
            self.pasting = true;
        } else if sequence == PASTE_ENDS && self.pasting {
            self.pasting = false;
            return self.whole();
        }
        None
    }

    fn whole(&mut self) -> Option<Typed> {
        let line = std::mem::take(&mut self.line);
        if std::mem::take(&mut self.too_long) {
            return Some(Typed::TooLong);
        }
        let line = String::from_utf8_lossy(&line).into_owned();
        (!line.is_empty()).then_some(Typed::Address(line))
    }

    fn clear(&mut self) {
        self.line.clear();
        self.too_long = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What came of these bytes; an address by its text.
    fn typed(bytes: &[u8]) -> Vec<String> {
        let mut editor = Editor::default();
        let whole = bytes.iter().filter_map(|it| editor.push(*it));
        let told = whole.map(|it| match it {
            Typed::Address(it) => it,
            Typed::TooLong => "(too long)".to_owned(),
            Typed::End => "(end)".to_owned(),
        });
        told.collect()
    }

    #[test]
    fn a_line_is_whole_at_its_end_and_a_paste_at_its_own() {
        assert_eq!(typed(b"http://a/b\r"), ["http://a/b"]);
        assert_eq!(typed(b"http://a/b\n\n\r"), ["http://a/b"]);
        assert_eq!(typed(b"\x1b[200~http://a/b\x1b[201~"), ["http://a/b"]);
        assert_eq!(typed(b"\x1b[200~http://a/b\r\n\x1b[201~\r"), ["http://a/b"]);
        assert_eq!(typed(b"\x1b[200~http://\r\n  a/b\x1b[201~"), ["http://a/b"]);
        assert_eq!(typed(b"x\x1b[200~y\x1b[201~z\r"), ["xy", "z"]);
        assert_eq!(typed(b"unfinished"), [""; 0]);
    }

    #[test]
    fn keys_that_edit_do_and_others_leave_nothing() {
        assert_eq!(typed(b"ab\x7fc\r"), ["ac"]);
        assert_eq!(typed(b"wrong\x15right\r"), ["right"]);
        assert_eq!(typed(b"\x1b[A\x1b[1;5Ca\x1bOPb\x1b[3~\r"), ["ab"]);
        assert_eq!(typed(b"\x04"), ["(end)"]);
        assert_eq!(typed(b"a\x04b\r"), ["ab"]);
        assert_eq!(typed(b"\x1b[201~a\r"), ["a"]);
        assert_eq!(typed(b"\xff\r"), ["\u{fffd}"]);
    }

    #[test]
    fn an_address_may_be_longer_than_a_line_of_a_terminal_and_not_endless() {
        let long = "x".repeat(MOST);
        assert_eq!(typed(format!("{long}\r").as_bytes()).concat(), long);
        assert_eq!(
            typed(format!("{long}y\rshort\r").as_bytes()),
            ["(too long)", "short"]
        );
        let endless_key = format!("\x1b[{}a\r", "1;".repeat(40));
        assert!(typed(endless_key.as_bytes()).len() == 1);
    }
}
