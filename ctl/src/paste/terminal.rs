//! A terminal that shows nothing of what is typed, until it is put back as it was: on every way out.

use std::{
    collections::VecDeque,
    io::{self, IsTerminal, Write},
    process,
    sync::{Mutex, PoisonError},
};

use control::stdio::AsyncInput;
use rustix::termios::{
    LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr,
};
use tokio::{
    io::AsyncReadExt,
    signal::unix::{Signal, SignalKind, signal},
};

use super::{Editor, Typed};

/// How the terminal was, while it is otherwise.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

/// Terminals write marks around what is pasted, from here on or no more.
const MARKS: &[u8] = b"\x1b[?2004h";
const NO_MARKS: &[u8] = b"\x1b[?2004l";

/// The person's terminal, from which addresses are read.
pub(crate) struct Terminal {
    input: AsyncInput,
    editor: Editor,
    read: VecDeque<u8>,
}

impl Terminal {
    /// Stops the terminal from showing what is typed.
    pub(crate) fn open() -> io::Result<Self> {
        let stdin = io::stdin();
        if !stdin.is_terminal() {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let terminal = Self {
            editor: Editor::default(),
            read: VecDeque::new(),
            input: AsyncInput::default(),
        };
        for kind in [SignalKind::terminate(), SignalKind::hangup()] {
            tokio::spawn(end_at(signal(kind)?, kind));
        }
        let before = tcgetattr(&stdin)?;
        let mut silent = before.clone();
        // Ctrl-C stays a signal. Ctrl-Z would leave a terminal that shows everything when the work goes on.
        silent.local_modes -= LocalModes::ICANON | LocalModes::ECHO | LocalModes::ECHONL;
        silent.special_codes[SpecialCodeIndex::VSUSP] = 0;
        silent.special_codes[SpecialCodeIndex::VMIN] = 1;
        silent.special_codes[SpecialCodeIndex::VTIME] = 0;
        *BEFORE.lock().unwrap_or_else(PoisonError::into_inner) = Some(before);
        if let Err(error) = tcsetattr(&stdin, OptionalActions::Now, &silent) {
            restore();
            return Err(error.into());
        }
        mark(MARKS);
        Ok(terminal)
    }

    /// Returns what the person typed next. Cancel-safe.
    pub(crate) async fn next(&mut self) -> io::Result<Typed> {
        loop {
            while let Some(byte) = self.read.pop_front() {
                if let Some(typed) = self.editor.push(byte) {
                    return Ok(typed);
                }
            }
            let mut bytes = [0; 4096];
            match self.input.read(&mut bytes).await? {
                0 => return Ok(Typed::End),
                length => self.read.extend(bytes.iter().take(length)),
            }
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        restore();
    }
}

/// Puts the terminal back as it was, if it is otherwise.
pub(crate) fn restore() {
    let before = BEFORE.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(before) = before {
        mark(NO_MARKS);
        // Flushed: a half address that was not taken must not reach the shell.
        let _ = tcsetattr(io::stdin(), OptionalActions::Flush, &before);
    }
}

fn mark(marks: &[u8]) {
    let mut stderr = control::stdio::stderr();
    if io::stderr().is_terminal() {
        let _ = stderr.write_all(marks);
    }
}

/// Ends the process as the signal would have done. Once it is heard it does nothing else, so this is heard to the end.
async fn end_at(mut heard: Signal, kind: SignalKind) {
    heard.recv().await;
    restore();
    process::exit(128 + kind.as_raw_value());
}
