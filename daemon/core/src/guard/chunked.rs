//! The end of a chunked body (RFC 9112, section 7.1).

use super::refusal::Why;

/// More digits are no length that anybody means.
const DIGITS: u8 = 15;

/// How far a chunked body came.
#[derive(Debug, Default)]
pub(super) struct Chunked {
    part: Part,
    /// Of the chunk's size; then what is left of the chunk.
    left: u64,
    digits: u8,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Part {
    #[default]
    Size,
    /// Behind the size, up to the line's end.
    Extension,
    Data,
    /// The line's end behind the data.
    DataEnd,
    /// A line behind the last chunk, of which nothing came yet.
    TrailerStart,
    Trailer,
    End,
}

impl Chunked {
    /// Takes bytes from `rest`, up to the body's end at most. True if it ended.
    pub(super) fn push(&mut self, rest: &mut &[u8]) -> Result<bool, Why> {
        while let Some((&byte, tail)) = rest.split_first() {
            if self.part == Part::Data {
                let here = usize::try_from(self.left).map_or(rest.len(), |it| it.min(rest.len()));
                *rest = &rest[here..];
                self.left -= here as u64;
                if self.left == 0 {
                    self.part = Part::DataEnd;
                }
                continue;
            }
            let next = self.step(byte);
            self.part = next.ok_or(Why::Malformed("a chunk of its body is broken"))?;
            *rest = tail;
            if self.part == Part::End {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn step(&mut self, byte: u8) -> Option<Part> {
        match (self.part, byte) {
            (Part::Size, it) if it.is_ascii_hexdigit() && self.digits < DIGITS => {
                let digit = char::from(it).to_digit(16)?;
                self.left = self.left << 4 | u64::from(digit);
                self.digits += 1;
                Some(Part::Size)
            }
            (Part::Size, b'\r' | b';' | b' ' | b'\t') if self.digits > 0 => Some(Part::Extension),
            (Part::Size | Part::Extension, b'\n') if self.digits > 0 => match self.left {
                0 => Some(Part::TrailerStart),
                _ => Some(Part::Data),
            },
            (Part::Extension, _) => Some(Part::Extension),
            (Part::DataEnd, b'\r') => Some(Part::DataEnd),
            (Part::DataEnd, b'\n') => {
                self.digits = 0;
                Some(Part::Size)
            }
            (Part::TrailerStart, b'\r') => Some(Part::TrailerStart),
            (Part::TrailerStart, b'\n') => Some(Part::End),
            (Part::Trailer, b'\n') => Some(Part::TrailerStart),
            (Part::TrailerStart | Part::Trailer, _) => Some(Part::Trailer),
            _ => None,
        }
    }
}
