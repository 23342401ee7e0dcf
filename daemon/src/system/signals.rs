//! Signals of the system, or of its console, that ask this process for something.

pub use platform::Signals;

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// End.
    Stop,
    /// Read the configuration again. Windows has no such signal; `pomctl reload` asks for the same.
    Look,
}

#[cfg(unix)]
mod platform {
    use std::{
        io,
        sync::{
            Arc,
            atomic::{AtomicBool, Ordering::SeqCst},
        },
    };

    use signal_hook::{
        consts::{SIGINT, SIGTERM},
        flag,
    };
    use tokio::signal::unix::{self, SignalKind, signal};

    use super::Signal;

    /// The signals that pomd obeys.
    #[derive(Debug)]
    pub struct Signals {
        terminate: unix::Signal,
        interrupt: unix::Signal,
        hangup: unix::Signal,
        ends_at_once: Arc<AtomicBool>,
    }

    impl Signals {
        /// Takes the signals from now on.
        pub fn new() -> io::Result<Self> {
            let ends_at_once = Arc::<AtomicBool>::default();
            let res = Self {
                terminate: signal(SignalKind::terminate())?,
                interrupt: signal(SignalKind::interrupt())?,
                hangup: signal(SignalKind::hangup())?,
                ends_at_once: ends_at_once.clone(),
            };
            for stop in [SIGTERM, SIGINT] {
                flag::register_conditional_default(stop, ends_at_once.clone())?;
            }
            Ok(res)
        }

        /// Makes a signal that asks for the end do so by itself from now on, as it does where nobody takes it. Those that
        /// came before are still told by [`Signals::next`].
        pub fn end_at_once(&self) {
            self.ends_at_once.store(true, SeqCst);
        }

        /// Waits for the next one.
        pub async fn next(&mut self) -> Signal {
            tokio::select! {
                _ = self.terminate.recv() => Signal::Stop,
                _ = self.interrupt.recv() => Signal::Stop,
                _ = self.hangup.recv() => Signal::Look,
            }
        }
    }
}

#[cfg(windows)]
mod platform {
    use std::io;

    use tokio::signal::windows;

    use super::Signal;

    /// The signals that pomd obeys.
    #[derive(Debug)]
    pub struct Signals {
        interrupt: windows::CtrlC,
        close: windows::CtrlClose,
    }

    impl Signals {
        /// Takes the signals from now on.
        pub fn new() -> io::Result<Self> {
            Ok(Self {
                interrupt: windows::ctrl_c()?,
                close: windows::ctrl_close()?,
            })
        }

        /// Does nothing: no restart happens in this process here.
        pub fn end_at_once(&self) {}

        /// Waits for the next one.
        pub async fn next(&mut self) -> Signal {
            tokio::select! {
                _ = self.interrupt.recv() => Signal::Stop,
                _ = self.close.recv() => Signal::Stop,
            }
        }
    }
}
