//! Where log lines go: a terminal by stderr, a service's journal with fields, or a size-capped file; and the last of
//! them into memory for `GET /v1/logs`. What the file and the memory hold are lines of `control::wire::LogLine`.
//!
//! Knows tracing. Must not know what is logged: whoever logs a text from outside cleans it first, and secrets have no
//! way to be formatted.

mod capped;
mod lines;
mod recent;

use std::{io, path::Path};

use control::stdio;
use tracing::Subscriber;
use tracing_subscriber::{
    EnvFilter, Layer, filter::LevelFilter, fmt, layer::SubscriberExt, registry::LookupSpan,
    util::SubscriberInitExt,
};

use crate::system::journal;
use capped::CappedFile;
use lines::Lines;
pub use recent::{Recent, RecentReader};

/// Where the log of this process goes.
#[derive(Clone, Copy, Debug)]
pub enum Sink<'a> {
    /// To stderr, as a terminal wants it.
    Stderr,
    /// To the journal that stderr leads to; to stderr itself where that cannot be had.
    Journal,
    /// To this file, which is kept below a few megabytes.
    File(&'a Path),
}

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    /// The filter is not in tracing's syntax.
    #[error(
        "the log filter \"{filter}\" cannot be read: {source}; an example: info,pomd::session=debug"
    )]
    Filter {
        /// As given.
        filter: String,
        /// What tracing says of it.
        source: tracing_subscriber::filter::ParseError,
    },
    /// The file cannot be opened.
    #[error("cannot write the log to {path}: {source}")]
    File {
        /// The file.
        path: String,
        /// Why.
        source: io::Error,
    },
}

/// What is never logged, whatever the filter: `notify` tells of each write to a file in a watched folder, which may be
/// this very log; the verifier shouts about certificates that our own errors explain.
const SILENT: [&str; 2] = ["notify=warn", "rustls_platform_verifier=off"];

/// Parses a filter in tracing's syntax, such as `info,pomd::session=debug`.
pub fn filter(text: &str) -> Result<EnvFilter, LoggingError> {
    let refused = |source| LoggingError::Filter {
        filter: text.to_owned(),
        source,
    };
    let mut filter = EnvFilter::builder()
        .with_default_directive(LevelFilter::INFO.into())
        .parse(text)
        .map_err(refused)?;
    for directive in SILENT {
        filter = filter.add_directive(directive.parse().map_err(refused)?);
    }
    Ok(filter)
}

/// The command that shows this process's log, if its stderr leads to a journal. Then [`Sink::Journal`] is the right one.
pub fn journal_command() -> Option<String> {
    journal::command()
}

/// Starts logging for the whole process. Call once.
pub fn start(filter: EnvFilter, sink: Sink<'_>) -> Result<Recent, LoggingError> {
    let recent = Recent::default();
    let mut file = None;
    let shown = match sink {
        Sink::Stderr => Some(to_stderr()),
        Sink::Journal => Some(to_journal()),
        Sink::File(path) => {
            let opened = CappedFile::open(path).map_err(|source| LoggingError::File {
                path: path.display().to_string(),
                source,
            })?;
            file = Some(opened);
            None
        }
    };
    let lines = Lines {
        recent: recent.clone(),
        file,
    };
    let result = tracing_subscriber::registry()
        .with(filter)
        .with(shown)
        .with(lines)
        .try_init();
    // A second start, as in tests that run two daemons in one process, keeps the first one's sinks.
    drop(result);
    Ok(recent)
}

fn to_stderr<S>() -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fmt::layer()
        .with_writer(stdio::stderr)
        .with_target(false)
        .with_ansi(io::IsTerminal::is_terminal(&io::stderr()))
        .boxed()
}

fn to_journal<S>() -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    journal::layer().unwrap_or_else(to_stderr)
}
