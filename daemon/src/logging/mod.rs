//! Where log lines go: a terminal or a service's journal by stderr, or a size-capped file; and the last of them into
//! memory for `GET /v1/logs`.
//!
//! Knows tracing. Must not know what is logged: whoever logs a text from outside cleans it first, and secrets have no
//! way to be formatted.

mod capped;
mod recent;

use std::{io, path::Path};

use tracing_subscriber::{
    EnvFilter, Layer, filter::LevelFilter, fmt, layer::SubscriberExt, util::SubscriberInitExt,
};

pub use recent::{Recent, RecentReader};

/// Where the log of this process goes.
#[derive(Clone, Copy, Debug)]
pub enum Sink<'a> {
    /// To stderr, as a service manager or a terminal wants it.
    Stderr,
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

/// Starts logging for the whole process. Call once.
pub fn start(filter: EnvFilter, sink: Sink<'_>) -> Result<Recent, LoggingError> {
    let recent = Recent::default();
    let lines = match sink {
        Sink::Stderr => fmt::layer()
            .with_writer(io::stderr)
            .with_target(false)
            .with_ansi(io::IsTerminal::is_terminal(&io::stderr()))
            .boxed(),
        Sink::File(path) => {
            let file = capped::CappedFile::open(path).map_err(|source| LoggingError::File {
                path: path.display().to_string(),
                source,
            })?;
            fmt::layer()
                .with_writer(file)
                .with_target(false)
                .with_ansi(false)
                .boxed()
        }
    };
    let result = tracing_subscriber::registry()
        .with(filter)
        .with(lines)
        .with(recent.layer())
        .try_init();
    // A second start, as in tests that run two daemons in one process, keeps the first one's sinks.
    drop(result);
    Ok(recent)
}
