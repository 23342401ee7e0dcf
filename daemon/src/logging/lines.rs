//! The layer that makes a [`LogLine`] of each event, with the tunnel, the cluster and the connection of its spans, and
//! hands it to the memory and to the log file.

use std::{collections::BTreeMap, fmt};

use control::{text::clean, wire::LogLine};
use jiff::Timestamp;
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
    span,
};
use tracing_subscriber::{Layer, layer::Context, registry::LookupSpan};

use super::{capped::CappedFile, recent::Recent};

/// The most characters of a message.
const MESSAGE_MOST: usize = 1_000;

/// Where lines go.
pub(super) struct Lines {
    pub(super) recent: Recent,
    pub(super) file: Option<CappedFile>,
}

/// What a span or an event says, as far as it was read.
#[derive(Clone, Default)]
struct Told {
    tunnel: Option<String>,
    cluster: Option<String>,
    connection: Option<u64>,
    message: String,
    fields: BTreeMap<String, String>,
}

impl<S> Layer<S> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn on_new_span(
        &self,
        attributes: &span::Attributes<'_>,
        id: &span::Id,
        context: Context<'_, S>,
    ) {
        let mut told = Told::default();
        attributes.record(&mut told);
        if let Some(span) = context.span(id) {
            span.extensions_mut().insert(told);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut told = Told::default();
        for span in context.event_scope(event).into_iter().flatten() {
            if let Some(outer) = span.extensions().get::<Told>() {
                told.tunnel = told.tunnel.or_else(|| outer.tunnel.clone());
                told.cluster = told.cluster.or_else(|| outer.cluster.clone());
                told.connection = told.connection.or(outer.connection);
            }
        }
        event.record(&mut told);
        let line = LogLine {
            at: now(),
            level: event.metadata().level().as_str().to_ascii_lowercase(),
            tunnel: told.tunnel,
            cluster: told.cluster,
            connection: told.connection,
            message: clean(&told.message, MESSAGE_MOST),
            target: event.metadata().target().to_owned(),
            fields: told.fields,
        };
        if let Some(file) = &self.file {
            // A disk that is full costs lines of the file; the newest are in memory.
            let _ = file.append(format!("{line}\n").as_bytes());
        }
        self.recent.push(line);
    }
}

/// As exactly as the text of a line shows it.
#[expect(
    clippy::disallowed_methods,
    reason = "a log line is stamped by the machine's clock, as on stderr"
)]
fn now() -> Timestamp {
    let now = Timestamp::now();
    Timestamp::from_microsecond(now.as_microsecond()).unwrap_or(now)
}

impl Visit for Told {
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
                let value = clean(&format!("{value:?}"), MESSAGE_MOST);
                self.fields.insert(name.to_owned(), value);
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
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pomd.log");
        let recent = Recent::default();
        let lines = Lines {
            recent: recent.clone(),
            file: Some(CappedFile::open(&path).unwrap()),
        };
        let subscriber = tracing_subscriber::registry().with(lines);
        tracing::subscriber::with_default(subscriber, || {
            let span = tracing::info_span!("connection", tunnel = "db", connection = 7_u64);
            let _entered = span.enter();
            tracing::warn!(status = 403, "refused\nin two lines");
        });
        let line = recent.all().pop().unwrap();
        assert_eq!(line.tunnel.as_deref(), Some("db"));
        assert_eq!(line.connection, Some(7));
        assert_eq!(line.level, "warn");
        assert_eq!(line.target, "pomd::logging::lines::tests");
        assert_eq!(line.text(), "refused\\u{a}in two lines status=403");
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.strip_suffix('\n').unwrap().parse(), Ok(line));
    }
}
