//! Signals: SIGTERM and SIGINT stop, a second one at once; SIGHUP reads the configuration file again.

use std::sync::Arc;

use pomd::system::signals::{Signal, Signals};
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

/// Obeys signals until pomd should end at once: at a second signal, or when ending in order takes too long. Once told by
/// `last`, what is signalled from then on ends pomd by itself.
pub(crate) async fn obey(stop: CancellationToken, look: Arc<Notify>, last: Arc<Notify>) -> Ended {
    let mut signals = match Signals::new() {
        Ok(signals) => signals,
        Err(error) => {
            warn!("cannot take signals: {error}; stop pomd by pomctl stop");
            std::future::pending().await
        }
    };
    loop {
        let signal = tokio::select! {
            () = last.notified() => {
                signals.end_at_once();
                continue;
            }
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
