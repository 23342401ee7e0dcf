//! A line that shows that we wait, and for how long: only on a terminal, only after a moment, and gone at the end.

use std::{pin::pin, time::Duration};

use control::humanize;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval};

use crate::screen::Screen;

/// Shorter waits are not worth a line.
const NOTICEABLE: Duration = Duration::from_millis(400);

/// The line. It goes when it is dropped.
pub(crate) struct Waiting<'a> {
    screen: &'a Screen,
    doing: String,
    /// Stands behind the time.
    note: &'static str,
    started: Instant,
    drawn: bool,
}

impl<'a> Waiting<'a> {
    pub(crate) fn new(screen: &'a Screen, doing: &str, note: &'static str) -> Self {
        Self {
            screen,
            doing: doing.to_owned(),
            note,
            started: Instant::now(),
            drawn: false,
        }
    }

    /// Draws it anew with the time that has passed.
    pub(crate) fn draw(&mut self) {
        let waited = self.started.elapsed();
        if waited < NOTICEABLE || !self.screen.progress_is_watched() {
            return;
        }
        let clock = humanize::clock(waited);
        self.screen
            .overwrite(&format!("  {}, {clock}{}", self.doing, self.note));
        self.drawn = true;
    }

    /// Takes it away, so that something else can be said.
    pub(crate) fn clear(&mut self) {
        if std::mem::take(&mut self.drawn) {
            self.screen.overwrite("");
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.clear();
    }
}

/// Returns when to draw the line.
pub(crate) fn ticks() -> Interval {
    let mut ticks = interval(NOTICEABLE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    ticks
}

/// Does `work`, and shows meanwhile that it is being done.
pub(crate) async fn shown<T>(screen: &Screen, doing: &str, work: impl Future<Output = T>) -> T {
    let mut line = Waiting::new(screen, doing, "");
    let mut ticks = ticks();
    let mut work = pin!(work);
    loop {
        tokio::select! {
            biased;
            done = &mut work => return done,
            _ = ticks.tick() => line.draw(),
        }
    }
}
