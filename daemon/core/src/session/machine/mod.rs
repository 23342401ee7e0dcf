//! The session of one cluster as a machine without I/O: what happens in, what to do out.
//!
//! [`Core`] decides when to ask for a token and whom, which token is current, what a refusal means, what is kept in
//! memory and on disk, and what a session hands over to its successor. [`Wait`] decides how long one connection waits.
//! Both are given the time. Knows no link, no window, no file and no clock.
//!
//! Long because one input is one arm, and what a token, a person and the disk are told of it must be read together.

mod attempts;
mod disk;
mod messages;
mod view;
mod wait;

use crate::{
    config::Address,
    session::token::{Credential, Grant, Token},
};
use jiff::{SignedDuration, Timestamp};

pub use disk::Write;
pub use messages::{Answer, Asker, Effect, Event, Handover, Input, Reply, WaitPolicy, Welcome};
pub use view::{Need, View, WaiterView};
pub use wait::{Look, Patience, Wait};

use self::{
    attempts::{Attempts, Step},
    disk::Disk,
};
use crate::session::error::LoginError;

/// The longest pause of a driver while time matters ([`Core::rest`]): sleep is noticed by it, and what could not be
/// written is tried again as often.
pub const TICK: SignedDuration = SignedDuration::from_secs(30);
/// How long before its end a token is renewed at most.
const RENEW_BEFORE: SignedDuration = SignedDuration::from_mins(5);
/// How much later than its upper bound a session must be accepted to show that the bound means nothing (slow clocks).
const PLAINLY_PAST: SignedDuration = SignedDuration::from_secs(60);

/// The decisions of one session.
///
/// A driver makes it by [`Core::new`], calls [`Core::on_timeout`] once, and from then on calls [`Core::on_input`] with
/// whatever happens and [`Core::on_timeout`] whenever [`Core::rest`] has passed. It carries out the returned [`Effect`]s
/// in their order, each before the next input; what comes of one is told by a later input. Spurious calls of
/// `on_timeout` are harmless, and so is an input about an attempt, a generation or an asker that is over. At most one
/// attempt runs: each [`Effect::Start`] comes after the end of the one before, though an attempt that brought a token
/// may still say goodbye to its person.
#[derive(Debug)]
pub struct Core {
    cluster: String,
    /// Tokens come from a person's login, and rest on the disk; else from a source that asks nobody, and does not.
    asks_a_person: bool,
    /// What the server refused last of a source that asks nobody: the same is not offered again by itself.
    refused: Option<Token>,
    /// When a source that asks nobody is asked for the next token.
    renew_at: Option<Timestamp>,
    /// The generation that the source was asked again for, because the server's refusal may have meant it.
    doubted: Option<u64>,
    /// Where the cluster's logins are made. Never empty.
    addresses: Vec<Address>,
    attempts: Attempts,
    /// What the generation of `attempts` stands for.
    credential: Option<Credential>,
    /// When the login was made, or since when one is needed.
    since: Timestamp,
    /// Where a login was made last, or would be.
    address: Address,
    /// Who was logged in last, to notice a change: the subject, and in words.
    last_user: Option<(String, Option<String>)>,
    /// Why the last attempt failed, and when.
    error: Option<(LoginError, Timestamp)>,
    /// Why the attempt could not be shown.
    not_shown: Option<String>,
    disk: Disk,
    waiters: u64,
    /// Persons who wait until the attempt awaits them.
    askers: Vec<Asker>,
    /// The session's upper bound was past when the driver was told last.
    bound_passed: bool,
}

impl Core {
    /// A session at its start. The token that is handed over counts more than the saved one. A token counts without
    /// asking the server: only the server's word ends it.
    ///
    /// `addresses` is where the cluster's logins are made; never empty. A source that asks nobody (`asks_a_person` is
    /// false) is asked by itself, from the start.
    pub fn new(
        cluster: String,
        asks_a_person: bool,
        addresses: Vec<Address>,
        handover: Handover,
        saved: Option<Credential>,
        now: Timestamp,
    ) -> Self {
        let Handover {
            grant,
            address,
            on_request_only,
            logged_out,
        } = handover;
        let generation = match &grant {
            Some(it) => Some(it.generation),
            None => saved.as_ref().map(|_| 1),
        };
        let unsaved = grant.filter(|it| saved.as_ref().is_none_or(|saved| saved.token != it.token));
        let must_save = asks_a_person && unsaved.is_some();
        let made_at = match (&unsaved, &saved) {
            (None, Some(saved)) => Some(saved.address.clone()),
            _ => address,
        };
        let address = made_at.unwrap_or_else(|| addresses[0].clone());
        let credential = match unsaved {
            Some(grant) => Some(Credential {
                address: address.clone(),
                token: grant.token,
                user: grant.user,
                subject: None,
                since: now,
                until: None,
            }),
            None => saved,
        };
        let mut attempts = Attempts::new(generation, asks_a_person, now);
        if on_request_only {
            attempts.wait_for_request(logged_out);
        }
        let mut res = Self {
            cluster,
            asks_a_person,
            refused: None,
            renew_at: None,
            doubted: None,
            addresses,
            attempts,
            since: credential.as_ref().map_or(now, |it| it.since),
            credential,
            address,
            last_user: None,
            error: None,
            not_shown: None,
            disk: Disk::new(must_save),
            waiters: 0,
            askers: Vec::new(),
            bound_passed: false,
        };
        res.remember_user();
        res.plan_renewal(now);
        res
    }

    /// The generation of the token to use now.
    pub fn generation(&self) -> Option<u64> {
        self.attempts.generation()
    }

    /// The token to use now.
    pub fn grant(&self) -> Option<Grant> {
        let generation = self.generation()?;
        self.credential.as_ref().map(|it| Grant {
            generation,
            token: it.token.clone(),
            user: it.user.clone(),
        })
    }

    /// Where a login was made last, or would be.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Grows whenever everybody who waits is sent away.
    pub fn dismissals(&self) -> u64 {
        self.attempts.dismissals()
    }

    /// How long the driver may rest before it calls [`Core::on_timeout`]; `None`: until something happens. Never zero
    /// right after that call.
    pub fn rest(&self, now: Timestamp) -> Option<std::time::Duration> {
        let until = self.credential.as_ref().and_then(|it| it.until);
        let moments = [
            self.attempts.next_timeout(),
            self.disk.retry_at(),
            until.filter(|it| *it > now),
            self.expires().filter(|it| *it > now),
            self.attempts.free_at(now).and_then(|free| {
                let due = self.renewal(now)?;
                Some(due.max(free))
            }),
            self.attempts.needs_ticks().then(|| after(now, TICK)),
        ];
        let next = moments.into_iter().flatten().min()?;
        Some(next.duration_since(now).try_into().unwrap_or_default())
    }

    /// To be called when [`Core::rest`] has passed. Spurious calls are harmless.
    pub fn on_timeout(&mut self, now: Timestamp) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.advance(now, &mut effects);
        let step = self.attempts.retry(now);
        self.take(step, &mut effects);
        if self.renewal(now).is_some_and(|it| it <= now) {
            let step = self.attempts.renew(now);
            self.take(step, &mut effects);
        }
        self.finish(now, &mut effects);
        effects
    }

    /// To be called when something happened.
    pub fn on_input(&mut self, input: Input, now: Timestamp) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.advance(now, &mut effects);
        self.apply(input, now, &mut effects);
        self.finish(now, &mut effects);
        effects
    }

    fn apply(&mut self, input: Input, now: Timestamp, effects: &mut Vec<Effect>) {
        match input {
            Input::Waiters(count) => {
                self.waiters = count;
                if count == 0 {
                    self.attempts.withdraw();
                }
            }
            Input::Demand { after, unattended } => {
                // A login may have been made while the demand was on its way.
                let newest = self.generation();
                if newest.is_none() || newest <= after {
                    let step = self.attempts.demand(unattended, now);
                    self.take(step, effects);
                }
            }
            Input::Ask {
                asker,
                shown_by_pomd,
            } => self.on_ask(asker, shown_by_pomd, now, effects),
            Input::Opened(attempt) if self.attempts.is_starting(attempt) => {
                self.error = None;
                let step = self.attempts.opened(now);
                self.take(step, effects);
                self.welcome_askers(effects);
            }
            Input::Failed(attempt, error) if self.attempts.is_starting(attempt) => {
                self.on_failed(error, now, effects);
            }
            Input::NotShown(attempt, why) => {
                if self.attempts.running() == Some(attempt) {
                    self.not_shown = Some(why.clone());
                }
                self.attempts.not_shown(attempt);
                effects.push(Effect::Log(Event::NotShown(why)));
            }
            Input::Obtained(attempt, answer) if self.attempts.running() == Some(attempt) => {
                self.on_obtained(attempt, answer, now, effects);
            }
            Input::Lost(attempt) if self.attempts.running() == Some(attempt) => {
                if self.attempts.is_starting(attempt) {
                    self.attempts.failed(now);
                } else {
                    self.attempts.lost();
                }
                self.disappoint_askers(&LoginError::Interrupted, effects);
            }
            Input::Accepted(generation) if self.generation() == Some(generation) => {
                self.attempts.accepted();
                self.disprove_bound(|until| is_no_bound(until, now), effects);
            }
            Input::Confirmed(generation) if self.generation() == Some(generation) => {
                self.disprove_bound(|until| until <= now, effects);
            }
            Input::Doubted { asker, generation } => {
                self.on_doubted(asker, generation, now, effects)
            }
            Input::Refused(generation) if self.generation() == Some(generation) => {
                if !self.asks_a_person {
                    self.refused = self.credential.as_ref().map(|it| it.token.clone());
                }
                let step = self.attempts.refused(now);
                self.forget(now, effects);
                self.take(step, effects);
            }
            Input::EnvironmentChanged => self.attempts.reset_backoff(now),
            Input::SourceChanged => {
                self.refused = None;
                let (cancelled, started) = self.attempts.source_changed();
                self.take(cancelled, effects);
                self.take(started, effects);
            }
            Input::Logout => self.on_logout(now, effects),
            Input::Written(result) => {
                if let Some(trouble) = self.disk.on_written(result, now) {
                    effects.push(Effect::Log(Event::NotWritten(trouble)));
                }
            }
            Input::Opened(_)
            | Input::Failed(..)
            | Input::Obtained(..)
            | Input::Lost(_)
            | Input::Accepted(_)
            | Input::Confirmed(_)
            | Input::Refused(_) => {}
        }
    }

    /// What the mere passing of time does.
    fn advance(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        if self.expires().is_some_and(|it| it <= now) {
            self.attempts.expired();
            self.since = now;
            self.credential = None;
            effects.push(Effect::Log(Event::Expired));
        }
        let cancelled = self.attempts.advance(now).map(Step::Cancel);
        self.take(cancelled, effects);
    }

    /// What follows from everything that happens.
    fn finish(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        let write = self.disk.next_write(self.credential.as_ref(), now);
        effects.extend(write.map(Effect::Write));
        let until = self.credential.as_ref().and_then(|it| it.until);
        let passed = until.is_some_and(|it| it <= now);
        if std::mem::replace(&mut self.bound_passed, passed) != passed {
            effects.push(Effect::BoundPassed);
        }
    }

    fn take(&mut self, step: Option<Step>, effects: &mut Vec<Effect>) {
        match step {
            None => {}
            Some(Step::Start(attempt)) => {
                self.not_shown = None;
                effects.push(Effect::Start(attempt));
            }
            Some(Step::Show(attempt)) => effects.push(Effect::Show(attempt)),
            Some(Step::Cancel(attempt)) => {
                effects.push(Effect::Cancel(attempt));
                self.disappoint_askers(&LoginError::Interrupted, effects);
            }
        }
    }

    fn on_ask(
        &mut self,
        asker: Asker,
        shown_by_pomd: bool,
        now: Timestamp,
        effects: &mut Vec<Effect>,
    ) {
        if self.asks_a_person && self.credential.is_some() {
            effects.push(Effect::Reply(asker, Reply::Granted));
            return;
        }
        // Who asks has changed something, or knows better.
        self.refused = None;
        let fresh = self.attempts.is_unseen();
        let step = self.attempts.ask(shown_by_pomd, now);
        self.take(step, effects);
        match self.attempts.open_until() {
            Some(until) => effects.push(Effect::Reply(asker, Reply::Open { fresh, until })),
            None => self.askers.push(asker),
        }
    }

    fn welcome_askers(&mut self, effects: &mut Vec<Effect>) {
        let Some(until) = self.attempts.open_until() else {
            return;
        };
        for (number, asker) in self.askers.drain(..).enumerate() {
            let fresh = number == 0;
            effects.push(Effect::Reply(asker, Reply::Open { fresh, until }));
        }
    }

    fn disappoint_askers(&mut self, error: &LoginError, effects: &mut Vec<Effect>) {
        let askers = self.askers.drain(..);
        effects.extend(askers.map(|it| Effect::Reply(it, Reply::Failed(error.clone()))));
    }

    fn on_logout(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        let made_at = self.credential.iter().map(|it| &it.address);
        let all = self.addresses.iter().chain(made_at);
        self.disk.purge(all.chain([&self.address]).cloned());
        let cancelled = self.attempts.logout().map(Step::Cancel);
        self.take(cancelled, effects);
        self.forget(now, effects);
        effects.extend([Effect::Disconnect, Effect::Log(Event::LoggedOut)]);
    }

    /// What an attempt brought. Of a source that asks nobody it may be no token to use: the one that the server refused,
    /// or that is over; or the one that is held.
    fn on_obtained(
        &mut self,
        attempt: u64,
        answer: Answer,
        now: Timestamp,
        effects: &mut Vec<Effect>,
    ) {
        if !self.asks_a_person {
            let expires = answer.token.expires();
            let error = match expires.filter(|it| *it <= now) {
                Some(at) => Some(LoginError::TokenExpired { at }),
                None => (self.refused.as_ref() == Some(&answer.token))
                    .then(|| LoginError::TokenRefused(answer.token.claims())),
            };
            if let Some(error) = error {
                return self.on_failed(error, now, effects);
            }
            if self.credential.as_ref().map(|it| &it.token) == Some(&answer.token) {
                self.attempts.unchanged();
                self.error = None;
                self.renew_at = self.end().map(|it| look_again(now, it));
                return self.grant_askers(effects);
            }
        }
        self.attempts.obtained(now);
        self.keep(attempt, answer, now, effects);
    }

    fn on_failed(&mut self, error: LoginError, now: Timestamp, effects: &mut Vec<Effect>) {
        self.attempts.failed(now);
        effects.push(Effect::Log(Event::Failed(error.clone())));
        self.error = Some((error.clone(), now));
        self.disappoint_askers(&error, effects);
    }

    fn on_doubted(
        &mut self,
        asker: Asker,
        generation: u64,
        now: Timestamp,
        effects: &mut Vec<Effect>,
    ) {
        let is_news = !self.asks_a_person
            && self.generation() == Some(generation)
            && self.doubted != Some(generation);
        if is_news && let Some(step) = self.attempts.renew(now) {
            self.doubted = Some(generation);
            self.take(Some(step), effects);
        }
        match self.attempts.running() {
            Some(_) if !self.asks_a_person && self.generation() == Some(generation) => {
                self.askers.push(asker);
            }
            _ => effects.push(Effect::Reply(asker, Reply::Granted)),
        }
    }

    fn grant_askers(&mut self, effects: &mut Vec<Effect>) {
        let askers = self.askers.drain(..);
        effects.extend(askers.map(|it| Effect::Reply(it, Reply::Granted)));
    }

    /// When the token that is held is over by its own word.
    fn expires(&self) -> Option<Timestamp> {
        self.credential.as_ref().and_then(|it| it.token.expires())
    }

    /// When the token that is held ends as far as anybody knows.
    fn end(&self) -> Option<Timestamp> {
        let until = self.credential.as_ref().and_then(|it| it.until);
        self.expires().or(until)
    }

    /// When a source that asks nobody is to be asked again.
    fn renewal(&self, now: Timestamp) -> Option<Timestamp> {
        if self.asks_a_person {
            return None;
        }
        match self.credential {
            None => Some(now),
            Some(_) => self.renew_at,
        }
    }

    /// The next token is there before this one ends: a fifth of its life before, and no more than five minutes.
    fn plan_renewal(&mut self, now: Timestamp) {
        self.renew_at = match self.end() {
            Some(end) if !self.asks_a_person => {
                let life = end.duration_since(now);
                let margin = (life / 5).min(RENEW_BEFORE);
                Some(after(now, life - margin))
            }
            _ => None,
        };
    }

    fn forget(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        self.since = now;
        let gone = self.credential.take();
        if gone.is_some() {
            effects.push(Effect::Log(Event::Forgotten));
        }
        // What a person's login left there is not of this source.
        if self.asks_a_person {
            self.disk.forget(gone.map(|it| it.address));
        }
    }

    fn keep(&mut self, attempt: u64, answer: Answer, now: Timestamp, effects: &mut Vec<Effect>) {
        let instead_of = self.instead_of(&answer);
        let (user, subject) = match answer.user {
            Some(it) => (Some(it.display), it.subject),
            None => (None, None),
        };
        // A session that ended before it began tells of a clock that is wrong.
        let until = answer.until.filter(|it| *it > now);
        effects.push(Effect::Log(match self.asks_a_person {
            true => Event::LoggedIn {
                user: user.clone(),
                instead_of: instead_of.clone(),
            },
            false => Event::Obtained { user: user.clone() },
        }));
        let welcome = Welcome {
            at: now,
            user: user.clone(),
            until,
            waiting: self.waiters,
            instead_of,
        };
        effects.push(Effect::Welcome(attempt, welcome));
        self.address = answer.address.clone();
        self.since = now;
        self.error = None;
        self.not_shown = None;
        self.credential = Some(Credential {
            address: answer.address,
            token: answer.token,
            user,
            subject,
            since: now,
            until,
        });
        self.remember_user();
        self.refused = None;
        self.plan_renewal(now);
        if self.asks_a_person {
            self.disk.keep(&self.addresses);
        }
        self.grant_askers(effects);
    }

    /// Forgets the session's upper bound if that `is_wrong`: the server accepts it.
    fn disprove_bound(
        &mut self,
        is_wrong: impl FnOnce(Timestamp) -> bool,
        effects: &mut Vec<Effect>,
    ) {
        let credential = self.credential.as_mut();
        if let Some(it) = credential.filter(|it| it.until.is_some_and(is_wrong)) {
            it.until = None;
            if self.asks_a_person {
                self.disk.save();
            }
            effects.push(Effect::Log(Event::BoundDisproved));
        }
    }

    /// Who was logged in before, if that was somebody else.
    fn instead_of(&self, answer: &Answer) -> Option<String> {
        let (subject, user) = self.last_user.as_ref()?;
        let changed = answer.user.as_ref()?.subject.as_ref()? != subject;
        changed.then(|| user.clone().unwrap_or_else(|| subject.clone()))
    }

    fn remember_user(&mut self) {
        let credential = self.credential.as_ref();
        if let Some((it, subject)) = credential.and_then(|it| Some((it, it.subject.clone()?))) {
            self.last_user = Some((subject, it.user.clone()));
        }
    }
}

/// Whether a server that accepts a session at `now` shows that `until` is no bound of it.
pub fn is_no_bound(until: Timestamp, now: Timestamp) -> bool {
    now.duration_since(until) >= PLAINLY_PAST
}

/// When to ask a source again that still gives the token that ends at `end`: after half of the time that is left, and
/// never in a rush. Past an end that the server does not mind, nothing presses.
fn look_again(now: Timestamp, end: Timestamp) -> Timestamp {
    let left = end.duration_since(now);
    after(
        now,
        match left.is_positive() {
            true => (left / 2).max(SignedDuration::from_secs(1)),
            false => RENEW_BEFORE,
        },
    )
}

fn after(at: Timestamp, passed: SignedDuration) -> Timestamp {
    at.saturating_add(passed).unwrap_or(at)
}

#[cfg(test)]
mod tests;
