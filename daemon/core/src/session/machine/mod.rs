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
    session::token::{Credential, Grant},
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
/// How much later than its upper bound a session must be accepted to show that the bound means nothing: before, the
/// server's clock may only be slow.
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
    /// `addresses` is where the cluster's logins are made; never empty.
    pub fn new(
        cluster: String,
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
        let must_save = unsaved.is_some();
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
        let mut attempts = Attempts::new(generation, now);
        if on_request_only {
            attempts.wait_for_request(logged_out);
        }
        let mut res = Self {
            cluster,
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
                self.attempts.failed(now);
                effects.push(Effect::Log(Event::Failed(error.clone())));
                self.error = Some((error.clone(), now));
                self.disappoint_askers(&error, effects);
            }
            Input::NotShown(attempt, why) => {
                if self.attempts.running() == Some(attempt) {
                    self.not_shown = Some(why.clone());
                }
                self.attempts.not_shown(attempt);
                effects.push(Effect::Log(Event::NotShown(why)));
            }
            Input::Obtained(attempt, answer) if self.attempts.running() == Some(attempt) => {
                self.attempts.obtained(now);
                self.keep(attempt, answer, now, effects);
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
            Input::Refused(generation) if self.generation() == Some(generation) => {
                let step = self.attempts.refused(now);
                self.forget(now, effects);
                self.take(step, effects);
            }
            Input::EnvironmentChanged => self.attempts.reset_backoff(now),
            Input::SourceChanged => {
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
        if self.credential.is_some() {
            effects.push(Effect::Reply(asker, Reply::Granted));
            return;
        }
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

    fn forget(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        self.since = now;
        let gone = self.credential.take();
        if gone.is_some() {
            effects.push(Effect::Log(Event::Forgotten));
        }
        self.disk.forget(gone.map(|it| it.address));
    }

    fn keep(&mut self, attempt: u64, answer: Answer, now: Timestamp, effects: &mut Vec<Effect>) {
        let instead_of = self.instead_of(&answer);
        let (user, subject) = match answer.user {
            Some(it) => (Some(it.display), it.subject),
            None => (None, None),
        };
        // A session that ended before it began tells of a clock that is wrong.
        let until = answer.until.filter(|it| *it > now);
        effects.push(Effect::Log(Event::LoggedIn {
            user: user.clone(),
            instead_of: instead_of.clone(),
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
        self.disk.keep(&self.addresses, &self.address);
        for asker in self.askers.drain(..) {
            effects.push(Effect::Reply(asker, Reply::Granted));
        }
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
            self.disk.save();
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

fn after(at: Timestamp, passed: SignedDuration) -> Timestamp {
    at.saturating_add(passed).unwrap_or(at)
}

#[cfg(test)]
mod tests;
