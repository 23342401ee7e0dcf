//! Where terminals are not told what to show: nothing is typed.

use std::io;

/// What for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// A secret is typed or pasted.
    Paste,
    /// A page is drawn over and over, and keys choose.
    Page,
}

/// None.
pub(crate) enum SilentTerminal {}

impl SilentTerminal {
    /// Says that there is none.
    pub(crate) fn open(_: Purpose) -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Never called.
    #[expect(clippy::unused_async, reason = "elsewhere a person is awaited")]
    pub(crate) async fn read(&mut self) -> io::Result<Vec<u8>> {
        match *self {}
    }
}

/// Nothing was changed.
pub(crate) fn restore() {}
