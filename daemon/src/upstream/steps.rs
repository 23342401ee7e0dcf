//! The steps of opening a route, with the time that each took.

use std::{fmt, time::Duration};

use pomd_core::route::{error::Step, trail::Trail};
use tokio::time::Instant;

/// The steps that were taken to open a route, in their order, each with its time.
///
/// A step that failed counts as taken: the error says which it was. A step that was not needed is left out, such as the
/// dialling of a warm connection. After a retry the steps are those of the last attempt.
#[derive(Clone, Debug)]
pub struct Steps {
    last: Instant,
    took: [Option<Duration>; Step::ALL.len()],
    /// Only for who wants to see it. Boxed: every opening holds steps.
    trail: Option<Box<Trail>>,
}

impl Steps {
    /// Begins to count the time of the first step.
    pub fn begin() -> Self {
        Self {
            last: Instant::now(),
            took: [None; Step::ALL.len()],
            trail: None,
        }
    }

    /// As [`Steps::begin`], and keeps what the steps meet.
    pub fn begin_with_trail() -> Self {
        Self {
            trail: Some(Box::default()),
            ..Self::begin()
        }
    }

    /// Returns what the steps have met; nothing unless they were begun with a trail.
    pub fn trail(&self) -> Trail {
        self.trail.as_deref().cloned().unwrap_or_default()
    }

    /// Returns the steps that were taken, each with the time from the end of the one before it.
    pub fn iter(&self) -> impl Iterator<Item = (Step, Duration)> {
        let times = Step::ALL.into_iter().zip(self.took);
        times.filter_map(|(step, took)| Some((step, took?)))
    }

    /// Forgets all steps: another attempt begins.
    pub(super) fn begin_again(&mut self) {
        let trail = self.trail.take().map(|_| Box::default());
        *self = Self {
            trail,
            ..Self::begin()
        };
    }

    /// Notes what a step met, if somebody wants to see it.
    pub(super) fn note(&mut self, note: impl FnOnce(&mut Trail)) {
        if let Some(trail) = &mut self.trail {
            note(trail);
        }
    }

    /// The step ended just now. The server's one answer ends all the steps up to its own.
    pub(super) fn taken(&mut self, step: Step) {
        let first = step.min(Step::Http);
        for (at, slot) in Step::ALL.into_iter().zip(&mut self.took) {
            if (first..=step).contains(&at) && slot.is_none() {
                let now = Instant::now();
                *slot = Some(now - self.last);
                self.last = now;
            }
        }
    }
}

impl fmt::Display for Steps {
    /// Such as `resolve 1 ms, connect 20 ms, tls 41 ms`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (nth, (step, took)) in self.iter().enumerate() {
            let comma = if nth > 0 { ", " } else { "" };
            write!(f, "{comma}{step} {} ms", took.as_millis())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_step_has_its_own_time_and_one_answer_ends_several() {
        let mut steps = Steps::begin();
        for (step, ms) in [(Step::Resolve, 3), (Step::Tls, 20), (Step::Policy, 40)] {
            tokio::time::advance(Duration::from_millis(ms)).await;
            steps.taken(step);
        }
        let taken: Vec<_> = steps
            .iter()
            .map(|(it, took)| (it, took.as_millis()))
            .collect();
        assert_eq!(
            taken,
            [
                (Step::Resolve, 3),
                (Step::Tls, 20),
                (Step::Http, 40),
                (Step::Session, 0),
                (Step::Policy, 0),
            ]
        );
        steps.begin_again();
        assert_eq!(steps.iter().count(), 0);
    }
}
