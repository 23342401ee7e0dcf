//! What is counted of one tunnel: what is there now, and what there was since pomd started.

use std::{
    ops::Deref,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use control::wire::Code;
use tokio::sync::Notify;

/// Counts of one tunnel, readable at any time.
#[derive(Debug, Default)]
pub struct Counters {
    /// Connections that carry bytes now.
    pub open: AtomicU64,
    /// Connections that wait for a login or for Pomerium.
    pub waiting: AtomicU64,
    totals: Arc<Totals>,
}

impl Counters {
    /// Returns counters of no connection yet, which add to `totals`.
    pub fn adding_to(totals: Arc<Totals>) -> Self {
        Self {
            totals,
            ..Self::default()
        }
    }

    /// Returns what only grows. Whoever takes a tunnel's place shares it: connections that stay with the old one count on.
    pub fn totals(&self) -> &Arc<Totals> {
        &self.totals
    }
}

impl Deref for Counters {
    type Target = Totals;

    fn deref(&self) -> &Totals {
        &self.totals
    }
}

/// Counts that only grow.
#[derive(Debug, Default)]
pub struct Totals {
    /// Connections accepted.
    pub total: AtomicU64,
    /// Connections turned away at the door, which are not in `total`.
    pub turned_away: AtomicU64,
    /// Requests that the browser guard refused, whose connections are in `total`.
    pub guarded: AtomicU64,
    /// Bytes of connections.
    pub carried: Carried,
    /// Unix seconds of the newest accept; 0: none yet.
    pub last_connection_at: AtomicU64,
    /// What became of accepted connections, once that is known.
    pub opens: Opens,
}

/// Bytes of one connection, or of all of a tunnel.
#[derive(Debug, Default)]
pub struct Carried {
    /// From the route to local programs.
    pub received: AtomicU64,
    /// From local programs to the route.
    pub sent: AtomicU64,
}

/// What became of an accepted connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening {
    /// Its route was opened.
    Open,
    /// Its client left before.
    ClientGone,
    /// pomd ended it before.
    Ended,
    /// The browser guard refused what it sent first.
    Guarded,
    /// There was no login, or the route did not open.
    Failed(Code),
}

/// How often each [`Opening`] was.
#[derive(Debug, Default)]
pub struct Opens {
    open: AtomicU64,
    client_gone: AtomicU64,
    ended: AtomicU64,
    guarded: AtomicU64,
    failed: [AtomicU64; FAILURES.len()],
}

/// The codes that a route fails with. Any other one is counted as the last of these.
const FAILURES: [Code; 15] = [
    Code::LoginNeeded,
    Code::LoginFailed,
    Code::Forbidden,
    Code::NoSuchRoute,
    Code::UpstreamUnavailable,
    Code::ClientCertificateRequired,
    Code::DeviceNotAllowed,
    Code::Dns,
    Code::ForwardProxy,
    Code::Tcp,
    Code::Tls,
    Code::Http,
    Code::Timeout,
    Code::Local,
    Code::Internal,
];

impl Opens {
    /// Counts one.
    pub fn count(&self, opening: Opening) {
        let counter = match opening {
            Opening::Open => &self.open,
            Opening::ClientGone => &self.client_gone,
            Opening::Ended => &self.ended,
            Opening::Guarded => &self.guarded,
            Opening::Failed(code) => {
                let place = FAILURES.iter().position(|it| *it == code);
                &self.failed[place.unwrap_or(FAILURES.len() - 1)]
            }
        };
        counter.fetch_add(1, Relaxed);
    }

    /// Returns every outcome by its word, a failure by its code, and how often it was.
    pub fn all(&self) -> impl Iterator<Item = (String, u64)> {
        let Self {
            open,
            client_gone,
            ended,
            guarded,
            failed,
        } = self;
        let words = [
            ("open", open),
            ("client_gone", client_gone),
            ("ended", ended),
            ("guarded", guarded),
        ];
        let words = words.into_iter().map(|(word, it)| (word.to_owned(), it));
        let codes = FAILURES.iter().map(ToString::to_string).zip(failed);
        words
            .chain(codes)
            .map(|(word, it)| (word, it.load(Relaxed)))
    }
}

/// Counts a connection for as long as this lives, however it ends.
pub(super) struct Count<'a> {
    counter: &'a AtomicU64,
    changed: &'a Notify,
}

impl<'a> Count<'a> {
    pub(super) fn up(counter: &'a AtomicU64, changed: &'a Notify) -> Self {
        counter.fetch_add(1, Relaxed);
        changed.notify_one();
        Self { counter, changed }
    }
}

impl Drop for Count<'_> {
    fn drop(&mut self) {
        self.counter.fetch_sub(1, Relaxed);
        self.changed.notify_one();
        if std::thread::panicking() {
            tracing::error!("a connection ended by a fault inside pomd; the others go on");
        }
    }
}

/// Counts what becomes of one connection, once: a fault inside of pomd, unless something else is said.
pub(super) struct Fate<'a> {
    opens: &'a Opens,
    opening: Opening,
}

impl<'a> Fate<'a> {
    pub(super) fn of(opens: &'a Opens) -> Self {
        Self {
            opens,
            opening: Opening::Failed(Code::Internal),
        }
    }

    /// Counts the connection as this.
    pub(super) fn is(mut self, opening: Opening) {
        self.opening = opening;
    }
}

impl Drop for Fate<'_> {
    fn drop(&mut self) {
        self.opens.count(self.opening);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(opens: &Opens) -> Vec<(String, u64)> {
        opens.all().filter(|it| it.1 > 0).collect()
    }

    #[tokio::test]
    async fn a_connection_that_panics_is_no_longer_counted_and_its_fate_is() {
        let counters = Arc::new(Counters::default());
        let theirs = counters.clone();
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(async move {
            let changed = Notify::new();
            let _count = Count::up(&theirs.open, &changed);
            let _fate = Fate::of(&theirs.opens);
            assert_eq!(theirs.open.load(Relaxed), 0, "meant to panic");
        });
        assert!(tasks.join_next().await.unwrap().unwrap_err().is_panic());
        assert_eq!(counters.open.load(Relaxed), 0);
        assert_eq!(counted(&counters.opens), [("internal".to_owned(), 1)]);
    }

    #[test]
    fn each_outcome_has_a_word_of_its_own_and_a_strange_code_is_an_internal_one() {
        let opens = Opens::default();
        let words = [
            Opening::Open,
            Opening::ClientGone,
            Opening::Ended,
            Opening::Guarded,
        ];
        let codes = FAILURES.map(Opening::Failed);
        for opening in words.into_iter().chain(codes) {
            Fate::of(&opens).is(opening);
        }
        assert!(opens.all().all(|it| it.1 == 1));
        let words: std::collections::BTreeSet<String> = opens.all().map(|it| it.0).collect();
        assert_eq!(words.len(), 4 + FAILURES.len());
        opens.count(Opening::Failed(Code::NoSuchTunnel));
        assert!(opens.all().any(|it| it == ("internal".to_owned(), 2)));
    }
}
