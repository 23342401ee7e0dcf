//! The newest log lines in memory, for `GET /v1/logs`.

use std::{
    collections::VecDeque,
    fmt::{self, Write},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use control::{text::clean, wire::LogLine};
use jiff::Timestamp;
use tokio::sync::watch;
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
    span,
};
use tracing_subscriber::{Layer, layer::Context, registry::LookupSpan};

/// How many lines are remembered.
const LINES: usize = 2_000;
/// The most characters of one remembered line.
const LINE_MOST: usize = 1_000;

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

    pub(super) fn layer<S>(&self) -> impl Layer<S>
    where
        S: Subscriber + for<'a> LookupSpan<'a>,
    {
        RecentLayer(self.0.clone())
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

struct RecentLayer(Arc<Shared>);

/// What a span or an event says about where it belongs.
#[derive(Clone, Default)]
struct Facts {
    tunnel: Option<String>,
    cluster: Option<String>,
    connection: Option<u64>,
    message: String,
    others: String,
}

impl<S> Layer<S> for RecentLayer
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn on_new_span(
        &self,
        attributes: &span::Attributes<'_>,
        id: &span::Id,
        context: Context<'_, S>,
    ) {
        let mut facts = Facts::default();
        attributes.record(&mut facts);
        if let Some(span) = context.span(id) {
            span.extensions_mut().insert(facts);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut facts = Facts::default();
        for span in context.event_scope(event).into_iter().flatten() {
            if let Some(outer) = span.extensions().get::<Facts>() {
                facts.tunnel = facts.tunnel.or_else(|| outer.tunnel.clone());
                facts.cluster = facts.cluster.or_else(|| outer.cluster.clone());
                facts.connection = facts.connection.or(outer.connection);
            }
        }
        event.record(&mut facts);
        let message = format!("{}{}", facts.message, facts.others);
        self.0.push(LogLine {
            at: now(),
            level: event.metadata().level().as_str().to_ascii_lowercase(),
            tunnel: facts.tunnel,
            cluster: facts.cluster,
            connection: facts.connection,
            message: clean(&message, LINE_MOST),
        });
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a log line is stamped by the machine's clock, as on stderr"
)]
fn now() -> Timestamp {
    Timestamp::now()
}

impl Visit for Facts {
    fn record_u64(&mut self, field: &Field, value: u64) {
        if field.name() == "connection" {
            self.connection = Some(value);
        } else {
            self.record_debug(field, &value);
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        match field.name() {
            "message" => self.message = format!("{value:?}"),
            "tunnel" => self.tunnel = Some(format!("{value:?}")),
            "cluster" => self.cluster = Some(format!("{value:?}")),
            // The message says it in words.
            "reason" => (),
            name if name.starts_with("log.") => (),
            name => {
                let _ = write!(self.others, " {name}={value:?}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    #[test]
    fn a_line_knows_the_tunnel_and_connection_of_its_span() {
        let lines = record(|| {
            let span = tracing::info_span!("connection", tunnel = "db", connection = 7_u64);
            let _entered = span.enter();
            tracing::warn!(status = 403, "refused");
        });
        assert_eq!(lines[0].tunnel.as_deref(), Some("db"));
        assert_eq!(lines[0].connection, Some(7));
        assert_eq!(lines[0].level, "warn");
        assert_eq!(lines[0].message, "refused status=403");
    }

    #[test]
    fn only_the_newest_lines_are_remembered_and_none_is_told_twice() {
        let lines = record(|| {
            for n in 0..LINES + 10 {
                tracing::info!("{n}");
            }
        });
        assert_eq!(lines.len(), LINES);
        assert_eq!(lines[0].message, "10");
    }

    #[tokio::test]
    async fn a_follower_is_woken_by_the_next_line() {
        let recent = Recent::default();
        let mut reader = recent.reader();
        let subscriber = tracing_subscriber::registry().with(recent.layer());
        assert!(reader.next_remembered().is_none());
        tracing::subscriber::with_default(subscriber, || tracing::info!("here"));
        reader.more().await;
        assert_eq!(reader.next_remembered().unwrap().message, "here");
    }

    fn record(f: impl FnOnce()) -> Vec<LogLine> {
        let recent = Recent::default();
        let subscriber = tracing_subscriber::registry().with(recent.layer());
        tracing::subscriber::with_default(subscriber, f);
        let mut reader = recent.reader();
        std::iter::from_fn(|| reader.next_remembered()).collect()
    }
}
