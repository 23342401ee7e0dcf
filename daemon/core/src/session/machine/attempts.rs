//! When to ask for a token: one attempt at a time, by itself or for a person, with pauses after failures.
//!
//! The inner half of [`Core`](super::Core): numbers and times only. Knows no token, no address and no words.
//!
//! Long because it is one machine of four states: what moves it from one to the next must be read together.

use jiff::{SignedDuration, Timestamp};

use super::{WaitPolicy, after};

/// How long connections wait for a person to answer.
const PROMPT_LASTS: SignedDuration = SignedDuration::from_secs(5 * 60);
/// How long an attempt that awaits a person can be answered.
const ANSWERABLE: SignedDuration = SignedDuration::from_secs(60 * 60);
const BACKOFF_MIN: i64 = 5;
const BACKOFF_MAX: i64 = 5 * 60;
/// A token that is refused sooner than this after it was obtained was never any good.
const FRESH: SignedDuration = SignedDuration::from_secs(2 * 60);
/// Four times the driver's longest pause: the machine slept (or its clock was set).
const SLEPT: SignedDuration = SignedDuration::from_secs(2 * 60);

/// What to do about an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Start(u64),
    Show(u64),
    Cancel(u64),
}

#[derive(Debug)]
pub(super) struct Attempts {
    /// The token stays usable while another attempt runs.
    grant: Option<Held>,
    asks_a_person: bool,
    generation: u64,
    state: State,
    started: u64,
    /// No attempt starts by itself until a person asks: they logged out, or did not answer.
    on_request_only: bool,
    logged_out: bool,
    /// A connection waits.
    waiting: bool,
    /// An attempt may start without a person's request.
    unattended: bool,
    failures: u32,
    fresh_refusals: u32,
    dismissals: u64,
    seen: Timestamp,
}

#[derive(Clone, Copy, Debug)]
struct Held {
    generation: u64,
    /// When the token was obtained; `None` for one that was accepted since, or of an earlier life.
    unproven_since: Option<Timestamp>,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Idle,
    Starting {
        attempt: u64,
        by_person: bool,
        shown_by_pomd: bool,
    },
    /// A person is to answer.
    Open {
        attempt: u64,
        by_person: bool,
        /// Nobody has been asked: showing it failed.
        unseen: bool,
        prompt_ends: Timestamp,
        ends: Timestamp,
    },
    BackingOff {
        until: Timestamp,
    },
}

impl Attempts {
    /// `held` is the generation of the token that is there already.
    pub(super) fn new(held: Option<u64>, asks_a_person: bool, now: Timestamp) -> Self {
        Self {
            grant: held.map(|generation| Held {
                generation,
                unproven_since: None,
            }),
            asks_a_person,
            generation: held.unwrap_or(0),
            state: State::Idle,
            started: 0,
            on_request_only: false,
            logged_out: false,
            waiting: false,
            unattended: false,
            failures: 0,
            fresh_refusals: 0,
            dismissals: 0,
            seen: now,
        }
    }

    /// No attempt starts by itself until a person asks.
    pub(super) fn wait_for_request(&mut self, logged_out: bool) {
        self.on_request_only = true;
        self.logged_out = logged_out;
    }

    /// The generation of the token to use now.
    pub(super) fn generation(&self) -> Option<u64> {
        self.grant.map(|it| it.generation)
    }

    pub(super) fn wait_policy(&self) -> WaitPolicy {
        match self.state {
            State::Starting { .. } => WaitPolicy::Asked,
            _ if self.on_request_only => WaitPolicy::OnRequestOnly,
            State::Open { unseen: false, .. } => WaitPolicy::Asked,
            _ => WaitPolicy::NobodyAsked,
        }
    }

    pub(super) fn dismissals(&self) -> u64 {
        self.dismissals
    }

    pub(super) fn is_logged_out(&self) -> bool {
        self.logged_out
    }

    /// Until when the attempt that awaits a person can be answered.
    pub(super) fn open_until(&self) -> Option<Timestamp> {
        match self.state {
            State::Open { ends, .. } => Some(ends),
            _ => None,
        }
    }

    /// Nobody has been shown the attempt that awaits a person.
    pub(super) fn is_unseen(&self) -> bool {
        matches!(self.state, State::Open { unseen: true, .. })
    }

    /// The attempt that runs: about to await a person, or awaiting one.
    pub(super) fn running(&self) -> Option<u64> {
        match self.state {
            State::Starting { attempt, .. } | State::Open { attempt, .. } => Some(attempt),
            State::Idle | State::BackingOff { .. } => None,
        }
    }

    /// `attempt` runs, and does not await a person yet.
    pub(super) fn is_starting(&self, attempt: u64) -> bool {
        matches!(self.state, State::Starting { attempt: it, .. } if it == attempt)
    }

    /// Until when connections start no attempt, because the last one failed.
    pub(super) fn backing_off_until(&self) -> Option<Timestamp> {
        match self.state {
            State::BackingOff { until } => Some(until),
            _ => None,
        }
    }

    /// The last attempt failed, and none got so far as to await a person since.
    pub(super) fn last_failed(&self) -> bool {
        matches!(
            self.state,
            State::BackingOff { .. } | State::Starting { .. }
        )
    }

    /// The server refused two tokens in a row right after they were obtained.
    pub(super) fn refused_twice(&self) -> bool {
        self.grant.is_none() && self.on_request_only && self.fresh_refusals >= 2
    }

    /// Time matters now: a long silence of the driver means that the machine slept. A pause that nobody waits through
    /// does not matter.
    pub(super) fn needs_ticks(&self) -> bool {
        self.waiting || self.running().is_some()
    }

    /// When [`Attempts::retry`] or [`Attempts::advance`] is due.
    pub(super) fn next_timeout(&self) -> Option<Timestamp> {
        match self.state {
            State::Open { ends, .. } if self.on_request_only => Some(ends),
            State::Open {
                prompt_ends, ends, ..
            } => Some(prompt_ends.min(ends)),
            State::BackingOff { until } if self.retries() => Some(until),
            _ => None,
        }
    }

    /// What the mere passing of time does. To be called before anything else happens; returns the attempt that is
    /// cancelled by it.
    pub(super) fn advance(&mut self, now: Timestamp) -> Option<u64> {
        let passed = now.duration_since(self.seen);
        // A source that asks nobody is left alone for as long as its pause is.
        let paused = self.backing_off_until().filter(|_| !self.asks_a_person);
        let silent = now.duration_since(paused.map_or(self.seen, |it| it.max(self.seen)));
        self.seen = now;
        if passed.is_negative() {
            self.on_clock_set_back(passed);
        } else if silent >= SLEPT {
            // Nobody looked while nothing mattered: that was no sleep.
            let slept = self.needs_ticks();
            self.failures = 0;
            if slept && let Some(attempt) = self.on_woken() {
                return Some(attempt);
            }
        }
        let State::Open {
            attempt,
            prompt_ends,
            ends,
            ..
        } = self.state
        else {
            return None;
        };
        if ends <= now {
            self.state = State::Idle;
            self.stop_asking();
            return Some(attempt);
        }
        if prompt_ends <= now && !self.on_request_only {
            self.stop_asking();
        }
        None
    }

    /// A connection waits. `unattended`: whether an attempt may start for its sake; `None`: its client asks a person.
    pub(super) fn demand(&mut self, unattended: Option<bool>, now: Timestamp) -> Option<Step> {
        self.waiting = true;
        self.unattended = unattended?;
        self.start_by_itself(now)
    }

    /// No connection waits any more.
    pub(super) fn withdraw(&mut self) {
        self.waiting = false;
    }

    /// The pause after a failure is over for the connections that wait.
    pub(super) fn retry(&mut self, now: Timestamp) -> Option<Step> {
        self.retries().then(|| self.start_by_itself(now))?
    }

    /// A person asks, and is shown the attempt by pomd or by their own program.
    pub(super) fn ask(&mut self, by_pomd: bool, now: Timestamp) -> Option<Step> {
        match &mut self.state {
            State::Idle | State::BackingOff { .. } => Some(self.start(true, by_pomd)),
            State::Starting {
                by_person,
                shown_by_pomd,
                ..
            } => {
                *by_person = true;
                *shown_by_pomd = by_pomd;
                None
            }
            State::Open {
                attempt,
                by_person,
                unseen,
                prompt_ends,
                ends,
            } => {
                *by_person = true;
                *unseen = false;
                *prompt_ends = after(now, PROMPT_LASTS);
                *ends = after(now, ANSWERABLE);
                self.on_request_only = false;
                by_pomd.then_some(Step::Show(*attempt))
            }
        }
    }

    /// The attempt that was starting awaits a person.
    pub(super) fn opened(&mut self, now: Timestamp) -> Option<Step> {
        let State::Starting {
            attempt,
            by_person,
            shown_by_pomd,
        } = self.state
        else {
            return None;
        };
        self.state = State::Open {
            attempt,
            by_person,
            unseen: false,
            prompt_ends: after(now, PROMPT_LASTS),
            ends: after(now, ANSWERABLE),
        };
        self.on_request_only = false;
        self.failures = 0;
        shown_by_pomd.then_some(Step::Show(attempt))
    }

    /// The attempt could not be shown. One that a person asked for is theirs to find.
    pub(super) fn not_shown(&mut self, not_shown: u64) {
        match &mut self.state {
            State::Open {
                attempt,
                by_person: false,
                unseen,
                ..
            } if *attempt == not_shown => *unseen = true,
            _ => {}
        }
    }

    /// The attempt that was starting failed.
    pub(super) fn failed(&mut self, now: Timestamp) {
        let seconds = BACKOFF_MIN
            .saturating_mul(1 << self.failures.min(16))
            .min(BACKOFF_MAX);
        self.failures = self.failures.saturating_add(1);
        self.state = State::BackingOff {
            until: after(now, SignedDuration::from_secs(seconds)),
        };
    }

    /// The attempt that awaited a person ended without their answer.
    pub(super) fn lost(&mut self) {
        self.state = State::Idle;
        self.stop_asking();
    }

    /// The running attempt brought a token.
    pub(super) fn obtained(&mut self, now: Timestamp) {
        self.waiting = false;
        self.generation += 1;
        self.grant = Some(Held {
            generation: self.generation,
            unproven_since: Some(now),
        });
        self.state = State::Idle;
        self.on_request_only = false;
        self.logged_out = false;
        self.failures = 0;
    }

    /// The running attempt brought the token that is held.
    pub(super) fn unchanged(&mut self) {
        self.state = State::Idle;
        self.on_request_only = false;
        self.failures = 0;
    }

    /// The token is over by its own word.
    pub(super) fn expired(&mut self) {
        self.grant = None;
    }

    /// When an attempt may start that nobody waits for; `None`: one runs, or none may.
    pub(super) fn free_at(&self, now: Timestamp) -> Option<Timestamp> {
        match self.state {
            _ if self.on_request_only => None,
            State::Idle => Some(now),
            State::BackingOff { until } => Some(until),
            State::Starting { .. } | State::Open { .. } => None,
        }
    }

    /// The next token is due, whoever waits for it.
    pub(super) fn renew(&mut self, now: Timestamp) -> Option<Step> {
        let free = self.free_at(now).is_some_and(|it| it <= now);
        free.then(|| self.start(false, true))
    }

    /// The server took the token.
    pub(super) fn accepted(&mut self) {
        self.fresh_refusals = 0;
        self.grant
            .iter_mut()
            .for_each(|it| it.unproven_since = None);
    }

    /// The server refused the token.
    pub(super) fn refused(&mut self, now: Timestamp) -> Option<Step> {
        let unproven_since = self.grant.take().and_then(|it| it.unproven_since);
        let fresh = unproven_since.is_some_and(|it| now.duration_since(it) < FRESH);
        self.fresh_refusals = u32::from(fresh) * self.fresh_refusals.saturating_add(1);
        if self.fresh_refusals >= 2 {
            match self.asks_a_person {
                true => self.stop_asking(),
                // Whoever rotates the token may be about to: asked again after a pause, and a longer one each time.
                false if self.running().is_none() => self.failed(now),
                false => {}
            }
            return None;
        }
        self.waiting.then(|| self.start_by_itself(now))?
    }

    /// The network changed, or the machine slept: failures of before count no longer. Starts nothing: who waits has the
    /// next attempt as soon as after a first failure.
    pub(super) fn reset_backoff(&mut self, now: Timestamp) {
        self.failures = 0;
        if let State::BackingOff { until } = &mut self.state {
            *until = (*until).min(after(now, SignedDuration::from_secs(BACKOFF_MIN)));
            if !self.waiting {
                self.state = State::Idle;
            }
        }
    }

    /// What the source would answer changed. Another attempt starts, in place of one that may have seen the old answer;
    /// after a logout only a person starts one.
    pub(super) fn source_changed(&mut self) -> (Option<Step>, Option<Step>) {
        self.failures = 0;
        self.fresh_refusals = 0;
        if self.logged_out {
            return (None, None);
        }
        let cancelled = self.running().map(Step::Cancel);
        self.on_request_only = false;
        (cancelled, Some(self.start(false, true)))
    }

    /// A person logs out; returns the attempt that is cancelled by it.
    pub(super) fn logout(&mut self) -> Option<u64> {
        let cancelled = self.running();
        self.grant = None;
        self.state = State::Idle;
        self.logged_out = true;
        self.stop_asking();
        cancelled
    }

    fn start_by_itself(&mut self, now: Timestamp) -> Option<Step> {
        let free = match self.state {
            State::Idle => true,
            State::BackingOff { until } => until <= now,
            State::Starting { .. } | State::Open { .. } => false,
        };
        (free && self.unattended && !self.on_request_only).then(|| self.start(false, true))
    }

    fn start(&mut self, by_person: bool, shown_by_pomd: bool) -> Step {
        self.started += 1;
        self.state = State::Starting {
            attempt: self.started,
            by_person,
            shown_by_pomd,
        };
        Step::Start(self.started)
    }

    fn retries(&self) -> bool {
        self.waiting
            && self.unattended
            && !self.on_request_only
            && matches!(self.state, State::BackingOff { .. })
    }

    fn stop_asking(&mut self) {
        self.on_request_only = true;
        self.dismiss();
    }

    /// Sends everybody away who waits.
    fn dismiss(&mut self) {
        self.dismissals += 1;
        self.waiting = false;
    }

    /// What was to come in 3 minutes still comes in 3 minutes.
    fn on_clock_set_back(&mut self, by: SignedDuration) {
        match &mut self.state {
            State::Open {
                prompt_ends, ends, ..
            } => {
                *prompt_ends = after(*prompt_ends, by);
                *ends = after(*ends, by);
            }
            State::BackingOff { until } => *until = after(*until, by),
            State::Idle | State::Starting { .. } => {}
        }
        if let Some(Held {
            unproven_since: Some(it),
            ..
        }) = &mut self.grant
        {
            *it = after(*it, by);
        }
    }

    /// After a sleep no window opens for a connection from before it, and no pause goes on.
    fn on_woken(&mut self) -> Option<u64> {
        if self.waiting {
            self.dismiss();
        }
        match self.state {
            State::Starting {
                attempt,
                by_person: false,
                ..
            } => {
                self.state = State::Idle;
                Some(attempt)
            }
            State::BackingOff { .. } => {
                self.state = State::Idle;
                None
            }
            _ => None,
        }
    }
}
