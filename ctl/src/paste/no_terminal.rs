//! Where terminals are not told what to show: nothing is typed.

use std::io;

use super::Typed;

/// None.
pub(crate) enum Terminal {}

impl Terminal {
    /// Says that there is none.
    pub(crate) fn open() -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Never called.
    #[expect(clippy::unused_async, reason = "elsewhere a person is awaited")]
    pub(crate) async fn next(&mut self) -> io::Result<Typed> {
        match *self {}
    }
}

/// Nothing was changed.
pub(crate) fn restore() {}
