//! Where answers go: stdout for the answer, stderr for the rest, and what this terminal can show.

use std::{
    env,
    io::{self, ErrorKind, IsTerminal, Write},
    path::PathBuf,
};

use anstream::{AutoStream, ColorChoice};
use control::{
    paths::{PathOverrides, Paths},
    stdio,
};
use jiff::{Timestamp, tz::TimeZone};
use serde::Serialize;

use crate::{
    args::When,
    error::{CliError, Exit},
    render::{
        self, Size, View,
        glyphs::Glyphs,
        paint::{Role, paint},
    },
};

/// The two streams and how to write on them.
#[derive(Clone, Debug)]
pub(crate) struct Screen {
    json: bool,
    color: When,
    glyphs: &'static Glyphs,
    zone: TimeZone,
    home: Option<PathBuf>,
    /// The configuration file of the environment alone.
    checked: Option<PathBuf>,
    /// What goes on without us if the person stops waiting now.
    meanwhile: std::rc::Rc<std::cell::RefCell<String>>,
}

impl Screen {
    pub(crate) fn new(json: bool, color: When) -> Self {
        Self {
            json,
            color,
            glyphs: Glyphs::for_environment(|name| env::var(name).ok().filter(|it| !it.is_empty())),
            zone: TimeZone::system(),
            home: env::home_dir().filter(|it| it.is_absolute() && it.parent().is_some()),
            checked: Paths::find(PathOverrides::default())
                .ok()
                .map(|it| it.config),
            meanwhile: std::rc::Rc::default(),
        }
    }

    /// Tells whether answers are JSON.
    pub(crate) fn json(&self) -> bool {
        self.json
    }

    /// Tells whether a person watches the answer.
    pub(crate) fn answers_a_person(&self) -> bool {
        io::stdout().is_terminal()
    }

    /// Tells whether a person watches the progress.
    pub(crate) fn progress_is_watched(&self) -> bool {
        io::stderr().is_terminal()
    }

    /// Tells whether a person is there to do what is asked of them.
    pub(crate) fn is_asked_by_a_person(&self) -> bool {
        io::stdin().is_terminal() && !self.json
    }

    /// Returns what a page is drawn for, now.
    pub(crate) fn view(&self) -> View<'_> {
        View {
            width: self.answers_a_person().then(width).flatten(),
            glyphs: self.glyphs,
            now: now(),
            zone: &self.zone,
            home: self.home.as_deref(),
            checked: self.checked.as_deref(),
        }
    }

    /// Writes the answer, or a part of it: lines without the last end of line.
    pub(crate) fn answer(&self, text: &str) -> Result<(), CliError> {
        let drawn = self.drawn(&format!("{}\n", self.glyphs.plain(text)))?;
        written(stdio::stdout().write_all(&drawn))
    }

    /// Returns how many lines a page may have that is drawn over the one before.
    pub(crate) fn rows(&self) -> usize {
        size().map_or(24, |it| it.rows).saturating_sub(1)
    }

    /// Draws a page over the one before; only for terminals.
    pub(crate) fn redraw(&self, page: &str) -> Result<(), CliError> {
        let page = render::fitted(&self.glyphs.plain(page), size());
        // Home, each line cleared to its end, then all that is below: nothing flickers.
        let lines = page.replace('\n', "\x1b[K\r\n");
        let drawn = self.drawn(&lines)?;
        let page = [b"\x1b[H", drawn.as_slice(), b"\x1b[K\r\n\x1b[J"].concat();
        written(stdio::stdout().write_all(&page))
    }

    /// Writes the answer as JSON, in a shape that a person can read too.
    pub(crate) fn answer_json(&self, answer: &impl Serialize) -> Result<(), CliError> {
        let text = serde_json::to_string_pretty(answer).unwrap_or_default();
        self.raw(&render::json::harmless(&text))
    }

    /// Writes one line of NDJSON.
    pub(crate) fn answer_json_line(&self, answer: &impl Serialize) -> Result<(), CliError> {
        let text = serde_json::to_string(answer).unwrap_or_default();
        self.raw(&render::json::harmless(&text))
    }

    fn raw(&self, text: &str) -> Result<(), CliError> {
        written(stdio::stdout().write_all(format!("{text}\n").as_bytes()))
    }

    /// Writes progress, warnings, hints. That nobody can read them is no error.
    pub(crate) fn say(&self, text: &str) {
        self.tell(&format!("{}\n", self.glyphs.plain(text)));
    }

    /// Writes a question; the answer is typed behind it.
    pub(crate) fn ask(&self, question: &str) {
        self.tell(&self.glyphs.plain(question));
    }

    /// Draws over the line that the cursor is on; only for terminals.
    pub(crate) fn overwrite(&self, text: &str) {
        // Room is left for the `^C` of whoever stops waiting: a line that wraps could not be taken away.
        let most = width().unwrap_or(80).saturating_sub(3);
        let text: String = self.glyphs.plain(text).chars().take(most).collect();
        let _ = stdio::stderr().write_all(format!("\r\x1b[2K{text}").as_bytes());
    }

    /// Writes optional advice.
    pub(crate) fn hint(&self, text: &str) {
        self.say(&format!("{} {text}", paint(Role::Command, "hint:")));
    }

    /// Writes a warning.
    pub(crate) fn warn(&self, text: &str) {
        self.say(&format!("{} {text}", paint(Role::Warn, "warning:")));
    }

    /// From now on, whoever stops waiting is told that this goes on.
    pub(crate) fn goes_on(&self, what: &str) {
        self.meanwhile.replace(what.to_owned());
    }

    /// Tells an error, on stdout with `--json`, else on stderr.
    pub(crate) fn report(&self, failure: &CliError) -> Exit {
        match failure {
            CliError::ReaderGone => Exit::Done,
            CliError::Interrupted => {
                let goes_on = self.meanwhile.borrow();
                if !goes_on.is_empty() {
                    self.say(&format!("Stopped waiting; {goes_on}"));
                }
                Exit::Interrupted
            }
            CliError::Told(report) if self.json => {
                match self.answer_json_line(&render::report::json(report)) {
                    Ok(()) => report.exit,
                    Err(CliError::ReaderGone) => Exit::Done,
                    Err(_) => {
                        self.say(&render::report::text(report, &self.view()));
                        report.exit
                    }
                }
            }
            CliError::Told(report) => {
                self.say(&render::report::text(report, &self.view()));
                report.exit
            }
        }
    }

    /// Writes `text` to standard error. That nobody can read it is no failure.
    fn tell(&self, text: &str) {
        if let Ok(drawn) = painted(text, self.settled(&io::stderr())) {
            let _ = stdio::stderr().write_all(&drawn);
        }
    }

    /// Returns the bytes of `text` for standard output, with colours if it can show them.
    fn drawn(&self, text: &str) -> Result<Vec<u8>, CliError> {
        let drawn = painted(text, self.settled(&io::stdout()));
        drawn.map_err(|it| CliError::failed(format!("cannot draw the answer: {it}")))
    }

    fn choice(&self) -> ColorChoice {
        match self.color {
            When::Auto => ColorChoice::Auto,
            When::Always => ColorChoice::Always,
            When::Never => ColorChoice::Never,
        }
    }

    fn settled(&self, stream: &impl anstream::stream::RawStream) -> ColorChoice {
        match self.choice() {
            ColorChoice::Auto => AutoStream::choice(stream),
            choice => choice,
        }
    }
}

/// Returns the time.
pub(crate) fn now() -> Timestamp {
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place where pomctl looks at a clock; pages are given the time"
    )]
    Timestamp::now()
}

/// Returns the bytes of `text`, with colours if `choice` says so.
fn painted(text: &str, choice: ColorChoice) -> io::Result<Vec<u8>> {
    let mut res = Vec::with_capacity(text.len());
    let mut painted = AutoStream::new(&mut res, choice);
    painted.write_all(text.as_bytes())?;
    painted.flush()?;
    Ok(res)
}

fn written(result: io::Result<()>) -> Result<(), CliError> {
    match result {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(CliError::ReaderGone),
        Err(error) => Err(CliError::failed(format!(
            "cannot write the answer: {error}"
        ))),
    }
}

/// Returns the width of the terminal: what the person exported, else what the terminal says.
fn width() -> Option<usize> {
    let said = env::var("COLUMNS").ok().and_then(|it| it.parse().ok());
    said.or_else(|| size().map(|it| it.columns))
        .filter(|it| *it > 0)
}

#[cfg(unix)]
fn size() -> Option<Size> {
    let size = rustix::termios::tcgetwinsize(io::stdout())
        .or_else(|_| rustix::termios::tcgetwinsize(io::stderr()))
        .ok()?;
    Some(Size {
        columns: usize::from(size.ws_col),
        rows: usize::from(size.ws_row),
    })
}

#[cfg(not(unix))]
fn size() -> Option<Size> {
    Some(Size {
        columns: 80,
        rows: 24,
    })
}
