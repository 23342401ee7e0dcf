//! The newest log lines in memory, for `GET /v1/logs`.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use control::wire::LogLine;
use tokio::sync::watch;

/// How many lines are remembered.
const LINES: usize = 2_000;

/// The newest log lines. Clones share them.
#[derive(Clone, Debug)]
pub struct Recent(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    ring: Mutex<Ring>,
    /// How many lines there were since the start: tells followers that there is a new one.
    count: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Ring {
    lines: VecDeque<LogLine>,
    /// The number of the oldest line in `lines`.
    first: u64,
}

impl Default for Recent {
    fn default() -> Self {
        Self(Arc::new(Shared {
            ring: Mutex::default(),
            count: watch::Sender::new(0),
        }))
    }
}

impl Recent {
    /// Reads what is remembered, oldest first, and then what comes.
    pub fn reader(&self) -> RecentReader {
        RecentReader {
            shared: self.0.clone(),
            next: 0,
            count: self.0.count.subscribe(),
        }
    }

    /// All that is remembered, oldest first.
    pub fn all(&self) -> Vec<LogLine> {
        self.0.ring().lines.iter().cloned().collect()
    }

    /// Remembers lines of the life before this one. Call before anything is logged.
    pub fn remember(&self, lines: Vec<LogLine>) {
        for line in lines {
            self.0.push(line);
        }
    }

    pub(super) fn push(&self, line: LogLine) {
        self.0.push(line);
    }
}

impl Shared {
    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, line: LogLine) {
        let mut ring = self.ring();
        if ring.lines.len() == LINES {
            ring.lines.pop_front();
            ring.first += 1;
        }
        ring.lines.push_back(line);
        let count = ring.first + ring.lines.len() as u64;
        drop(ring);
        self.count.send_replace(count);
    }
}

/// A place in the remembered lines.
#[derive(Debug)]
pub struct RecentReader {
    shared: Arc<Shared>,
    next: u64,
    count: watch::Receiver<u64>,
}

impl RecentReader {
    /// The next line that is remembered; `None` after the newest. Lines that were forgotten meanwhile are skipped.
    pub fn next_remembered(&mut self) -> Option<LogLine> {
        let ring = self.shared.ring();
        self.next = self.next.max(ring.first);
        let line = ring.lines.get((self.next - ring.first) as usize).cloned();
        self.next += u64::from(line.is_some());
        line
    }

    /// Waits until there may be another line.
    pub async fn more(&mut self) {
        let next = self.next;
        // The sender lives in `shared`, so this cannot fail.
        let _ = self.count.wait_for(|count| *count > next).await;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use jiff::Timestamp;

    use super::*;

    fn line(message: &str) -> LogLine {
        LogLine {
            at: Timestamp::UNIX_EPOCH,
            level: "info".to_owned(),
            tunnel: None,
            cluster: None,
            connection: None,
            message: message.to_owned(),
            target: String::new(),
            fields: BTreeMap::new(),
        }
    }

    #[test]
    fn only_the_newest_lines_are_remembered_and_none_is_told_twice() {
        let recent = Recent::default();
        recent.remember((0..LINES + 10).map(|it| line(&it.to_string())).collect());
        let mut reader = recent.reader();
        let lines: Vec<_> = std::iter::from_fn(|| reader.next_remembered()).collect();
        assert_eq!(lines.len(), LINES);
        assert_eq!(lines[0].message, "10");
        assert!(reader.next_remembered().is_none());
    }

    #[tokio::test]
    async fn a_follower_is_woken_by_the_next_line() {
        let recent = Recent::default();
        let mut reader = recent.reader();
        assert!(reader.next_remembered().is_none());
        recent.push(line("here"));
        reader.more().await;
        assert_eq!(reader.next_remembered().unwrap().message, "here");
    }
}
