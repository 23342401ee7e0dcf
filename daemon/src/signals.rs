//! Signals: SIGTERM and SIGINT stop, a second one at once; SIGHUP reads the configuration file again.

use std::sync::Arc;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Why obeying ended.
pub(crate) enum Ended {
    /// Somebody wants it to end now, whatever is under way.
    AtOnce,
    /// Ending in order takes too long.
    OutOfTime,
}

/// Obeys signals until pomd should end at once: at a second signal, or when ending in order takes too long.
pub(crate) async fn obey(stop: CancellationToken, look: Arc<Notify>) -> Ended {
    let mut signals = match platform::Signals::new() {
        Ok(signals) => signals,
        Err(error) => {
            warn!("cannot take signals: {error}; stop pomd by pomctl stop");
            std::future::pending().await
        }
    };
    loop {
        let signal = tokio::select! {
            signal = signals.next() => signal,
            () = out_of_time(&stop) => {
                warn!("ending in order took more than {} s: ends now", pomd::STOP.as_secs());
                return Ended::OutOfTime;
            }
        };
        match signal {
            Signal::Stop if stop.is_cancelled() => return Ended::AtOnce,
            Signal::Stop => {
                info!("asked to stop");
                stop.cancel();
            }
            Signal::Look => {
                info!("asked to read the configuration again");
                look.notify_one();
            }
        }
    }
}

async fn out_of_time(stop: &CancellationToken) {
    stop.cancelled().await;
    tokio::time::sleep(pomd::STOP).await;
}

enum Signal {
    Stop,
    #[cfg_attr(
        windows,
        expect(
            dead_code,
            reason = "there is no such signal; `pomctl reload` asks for the same"
        )
    )]
    Look,
}

#[cfg(unix)]
mod platform {
    use std::io;

    use tokio::signal::unix::{self, SignalKind, signal};

    use super::Signal;

    pub(super) struct Signals {
        terminate: unix::Signal,
        interrupt: unix::Signal,
        hangup: unix::Signal,
    }

    impl Signals {
        pub(super) fn new() -> io::Result<Self> {
            Ok(Self {
                terminate: signal(SignalKind::terminate())?,
                interrupt: signal(SignalKind::interrupt())?,
                hangup: signal(SignalKind::hangup())?,
            })
        }

        pub(super) async fn next(&mut self) -> Signal {
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

    pub(super) struct Signals {
        interrupt: windows::CtrlC,
        close: windows::CtrlClose,
    }

    impl Signals {
        pub(super) fn new() -> io::Result<Self> {
            Ok(Self {
                interrupt: windows::ctrl_c()?,
                close: windows::ctrl_close()?,
            })
        }

        pub(super) async fn next(&mut self) -> Signal {
            tokio::select! {
                _ = self.interrupt.recv() => Signal::Stop,
                _ = self.close.recv() => Signal::Stop,
            }
        }
    }
}
