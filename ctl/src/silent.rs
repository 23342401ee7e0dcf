//! A terminal that shows nothing of what is typed and hands over every byte, until it is put back as it was: on every way
//! out.

use std::{
    io::{self, IsTerminal, Write},
    process,
    sync::{Mutex, PoisonError},
    thread,
};

use control::stdio::{self, AsyncInput};
use rustix::termios::{
    LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr,
};
use tokio::{
    io::AsyncReadExt,
    signal::unix::{SignalKind, signal},
};

use crate::runtime;

/// How the terminal was, while it is otherwise, and for what it is.
static BEFORE: Mutex<Option<(Termios, Purpose)>> = Mutex::new(None);

/// What for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// A secret is typed or pasted. Terminals write marks around what is pasted.
    Paste,
    /// A page is drawn over and over, on a screen of its own, and keys choose.
    Page,
}

impl Purpose {
    fn begin(self) -> &'static [u8] {
        match self {
            Self::Paste => b"\x1b[?2004h",
            Self::Page => b"\x1b[?1049h\x1b[?25l\x1b[2J",
        }
    }

    fn end(self) -> &'static [u8] {
        match self {
            Self::Paste => b"\x1b[?2004l",
            Self::Page => b"\x1b[?25h\x1b[?1049l",
        }
    }

    fn tell(self, marks: &[u8]) {
        match self {
            Self::Paste if io::stderr().is_terminal() => {
                let _ = stdio::stderr().write_all(marks);
            }
            Self::Page if io::stdout().is_terminal() => {
                let _ = stdio::stdout().write_all(marks);
            }
            Self::Paste | Self::Page => {}
        }
    }
}

/// The person's terminal, put back when this is dropped.
pub(crate) struct SilentTerminal(AsyncInput);

impl SilentTerminal {
    /// Stops the terminal from showing what is typed.
    pub(crate) fn open(purpose: Purpose) -> io::Result<Self> {
        let stdin = io::stdin();
        if !stdin.is_terminal() {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let terminal = Self(AsyncInput::default());
        hear_ends()?;
        let before = tcgetattr(&stdin)?;
        let mut silent = before.clone();
        // Ctrl-C stays a signal. Ctrl-Z would leave a terminal that shows everything when the work goes on.
        silent.local_modes -= LocalModes::ICANON | LocalModes::ECHO | LocalModes::ECHONL;
        silent.special_codes[SpecialCodeIndex::VSUSP] = 0;
        silent.special_codes[SpecialCodeIndex::VMIN] = 1;
        silent.special_codes[SpecialCodeIndex::VTIME] = 0;
        *BEFORE.lock().unwrap_or_else(PoisonError::into_inner) = Some((before, purpose));
        if let Err(error) = tcsetattr(&stdin, OptionalActions::Now, &silent) {
            restore();
            return Err(error.into());
        }
        purpose.tell(purpose.begin());
        Ok(terminal)
    }

    /// Returns the bytes that were typed next; none: there will be no more. Cancel-safe.
    pub(crate) async fn read(&mut self) -> io::Result<Vec<u8>> {
        let mut bytes = [0; 4096];
        let length = self.0.read(&mut bytes).await?;
        Ok(bytes[..length].to_vec())
    }
}

impl Drop for SilentTerminal {
    fn drop(&mut self) {
        restore();
    }
}

/// Puts the terminal back as it was, if it is otherwise.
pub(crate) fn restore() {
    let before = BEFORE.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some((before, purpose)) = before {
        purpose.tell(purpose.end());
        // Flushed: a half address that was not taken must not reach the shell.
        let _ = tcsetattr(io::stdin(), OptionalActions::Flush, &before);
    }
}

/// Puts the terminal back before a signal ends the process. Once signals are heard they do nothing else, so these are heard
/// from now on, on a thread of its own: the command may be busy.
fn hear_ends() -> io::Result<()> {
    let runtime = runtime()?;
    let entered = runtime.enter();
    let mut terminated = signal(SignalKind::terminate())?;
    let mut hung_up = signal(SignalKind::hangup())?;
    drop(entered);
    let hear = async move {
        let kind = tokio::select! {
            _ = terminated.recv() => SignalKind::terminate(),
            _ = hung_up.recv() => SignalKind::hangup(),
        };
        restore();
        process::exit(128 + kind.as_raw_value());
    };
    let thread = thread::Builder::new().name("ends".to_owned());
    thread.spawn(move || runtime.block_on(hear))?;
    Ok(())
}
