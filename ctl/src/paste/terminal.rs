//! A terminal that shows nothing of what is typed, until it is put back as it was: on every way out.

use std::{
    collections::VecDeque,
    io::{self, IsTerminal, Write},
    process,
    sync::{Mutex, PoisonError},
    thread,
};

use control::stdio::AsyncInput;
use rustix::termios::{
    LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr,
};
use tokio::{
    io::AsyncReadExt,
    signal::unix::{SignalKind, signal},
};

use super::{Editor, Typed};
use crate::runtime;

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
        hear_ends()?;
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
