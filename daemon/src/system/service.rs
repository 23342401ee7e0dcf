//! The service manager that started us, if one did: what it wants to hear, and how it is told.
//!
//! Knows systemd's notify protocol. Must not know what pomd does. Telling never waits for long: a manager that does not
//! listen is told nothing more until it does.

use std::{sync::Arc, time::Duration};

use tokio::sync::Notify;

/// How long one message may take.
const LIMIT: Duration = Duration::from_secs(2);

/// Something that a service manager wants to hear.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notification {
    /// Every listener is bound; what is shown to people.
    Ready(String),
    /// The configuration is read again, or pomd is about to become itself anew. [`Notification::Running`] ends it.
    Reloading,
    /// What was reloaded is in force.
    Running,
    /// pomd ends.
    Stopping,
    /// What is shown to people, in one line.
    Status(String),
    /// Nothing hangs.
    Alive,
}

/// The service manager. Clones talk to the same one.
#[derive(Clone, Debug, Default)]
pub struct Service(Option<Arc<Line>>);

#[derive(Debug, Default)]
struct Line {
    /// Held while a message is on its way: they keep their order, and only one can hang.
    busy: Arc<tokio::sync::Mutex<()>>,
}

impl Service {
    /// The one that the environment names.
    pub fn detect() -> Self {
        Self(imp::is_there().then(Arc::default))
    }

    /// Nobody wants to hear anything.
    pub fn none() -> Self {
        Self(None)
    }

    /// Somebody listens.
    pub fn is_there(&self) -> bool {
        self.0.is_some()
    }

    /// How long it waits for [`Notification::Alive`] before it takes pomd for hung; `None`: for ever.
    pub fn watchdog(&self) -> Option<Duration> {
        self.0.as_ref().and_then(|_| imp::watchdog())
    }

    /// Tells it.
    pub async fn notify(&self, word: Notification) {
        let Some(line) = &self.0 else {
            return;
        };
        let busy = line.busy.clone();
        let telling = async {
            let turn = busy.lock_owned().await;
            let told = tokio::task::spawn_blocking(move || {
                let _turn = turn;
                imp::tell(&word)
            });
            told.await
        };
        match tokio::time::timeout(LIMIT, telling).await {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(error))) => tracing::debug!("cannot tell the service manager: {error}"),
            Ok(Err(panic)) => tracing::debug!("cannot tell the service manager: {panic}"),
            Err(_) => tracing::debug!("the service manager does not listen"),
        }
    }
}

/// The sign of life of one task: it beats, and whoever waits for beats passes them on.
#[derive(Clone, Debug, Default)]
pub struct Heartbeat {
    every: Option<Duration>,
    beats: Arc<Notify>,
}

impl Heartbeat {
    /// Three times within each `watchdog`, so that one late beat does no harm.
    pub fn for_watchdog(watchdog: Option<Duration>) -> Self {
        Self {
            every: watchdog.map(|it| it / 3),
            beats: Arc::default(),
        }
    }

    /// How often a beat is due, if anybody waits for it.
    pub fn every(&self) -> Option<Duration> {
        self.every
    }

    /// The task lives. Never waits.
    pub fn beat(&self) {
        self.beats.notify_one();
    }

    /// Waits for a beat.
    pub async fn beaten(&self) {
        self.beats.notified().await;
    }
}

#[cfg(target_os = "linux")]
mod imp {
    use std::{env, io, time::Duration};

    use sd_notify::NotifyState;

    use super::Notification;

    pub(super) fn is_there() -> bool {
        env::var_os("NOTIFY_SOCKET").is_some_and(|it| !it.is_empty())
    }

    pub(super) fn watchdog() -> Option<Duration> {
        sd_notify::watchdog_enabled().filter(|it| !it.is_zero())
    }

    pub(super) fn tell(word: &Notification) -> io::Result<()> {
        match word {
            Notification::Ready(status) => {
                sd_notify::notify(&[NotifyState::Ready, NotifyState::Status(status)])
            }
            Notification::Reloading => {
                sd_notify::notify(&[NotifyState::Reloading, NotifyState::monotonic_usec_now()?])
            }
            Notification::Running => sd_notify::notify(&[NotifyState::Ready]),
            Notification::Stopping => sd_notify::notify(&[NotifyState::Stopping]),
            Notification::Status(status) => sd_notify::notify(&[NotifyState::Status(status)]),
            Notification::Alive => sd_notify::notify(&[NotifyState::Watchdog]),
        }
    }
}

// launchd and the task scheduler want to hear nothing.
#[cfg(not(target_os = "linux"))]
mod imp {
    use std::{io, time::Duration};

    use super::Notification;

    pub(super) fn is_there() -> bool {
        false
    }

    pub(super) fn watchdog() -> Option<Duration> {
        None
    }

    pub(super) fn tell(_: &Notification) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_beats_fit_into_the_patience_of_a_watchdog() {
        let heartbeat = Heartbeat::for_watchdog(Some(Duration::from_secs(90)));
        assert_eq!(heartbeat.every(), Some(Duration::from_secs(30)));
        assert_eq!(Heartbeat::for_watchdog(None).every(), None);
    }

    #[tokio::test]
    async fn where_nobody_listens_nothing_is_told_and_nothing_waits() {
        let service = Service::none();
        assert!(!service.is_there());
        assert_eq!(service.watchdog(), None);
        service.notify(Notification::Stopping).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_manager_that_does_not_listen_keeps_nobody() {
        let line = Arc::<Line>::default();
        let _hangs = line.busy.clone().lock_owned().await;
        let service = Service(Some(line));
        let start = tokio::time::Instant::now();
        service.notify(Notification::Alive).await;
        assert_eq!(start.elapsed(), LIMIT);
    }
}
