//! When to log in, whom to ask, which token is current, what a refusal means.
//!
//! Pure: no clock, no I/O, no tasks, no token's text. The driver feeds it [`Input`]s with the time, obeys the returned
//! [`Action`]s in order and calls [`Machine::on_timeout`] when [`Machine::next_timeout`] is due and, while it is
//! [`Machine::restless`], at least every 30 seconds: a longer silence means that the machine slept.

mod passing;
mod quiet;

use control::wire::ClusterState;
use jiff::{SignedDuration, Timestamp};

/// How long connections wait for an answer to one prompt.
const PROMPT_LASTS: SignedDuration = SignedDuration::from_secs(5 * 60);
/// How long the link of a login works.
const LINK_LASTS: SignedDuration = SignedDuration::from_secs(60 * 60);
const COOL_DOWN_MIN: i64 = 5;
const COOL_DOWN_MAX: i64 = 5 * 60;
/// A token that is refused sooner than this after its login was never any good.
const FRESH: SignedDuration = SignedDuration::from_secs(2 * 60);

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Input {
    /// A connection waits for a newer token than there is; `browser`: pomd could show a login by itself.
    Demand { browser: bool },
    /// A connection waits whose client asks the person for a login.
    Joined,
    /// No connection waits any more.
    Left,
    /// A person asks for a login, and shows it themselves unless `shown_by_pomd`.
    Ask { shown_by_pomd: bool },
    /// The login has a link that works.
    Opened { job: u64 },
    /// The login did not come to a link.
    Failed { job: u64 },
    /// pomd could not show the link.
    NotShown { job: u64 },
    /// The person logged in, and the server confirmed the token.
    LoggedIn { job: u64 },
    /// The login ended without anybody's wish.
    Lost { job: u64 },
    /// A route was opened with the token of this generation: it is no token that never worked.
    Carried { generation: u64 },
    /// The server refused the token of this generation.
    Refused { generation: u64 },
    /// The network is another one, or the machine slept: what failed before may work now.
    LookAgain,
    /// A person logs out.
    Logout,
}

/// What to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Make a login and its link. No other is running; an answered one may still say goodbye.
    Start { job: u64 },
    /// Show the link to the person.
    Show { job: u64 },
    /// Close the login: nobody answers it any more.
    End { job: u64 },
    /// Forget the token, in memory and on disk.
    Forget,
}

/// What a connection without a token may hope for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stance {
    /// A login is open or about to be: wait for it.
    Asked,
    /// Nobody was asked, because there is nowhere to ask, or the login page is out of reach.
    Unasked,
    /// Nothing asks until a person does.
    Quiet,
}

#[derive(Debug)]
pub(super) struct Machine {
    /// Stays usable while another login is open.
    grant: Option<Held>,
    generation: u64,
    login: Login,
    jobs: u64,
    quiet: bool,
    logged_out: bool,
    waiting: bool,
    browser: bool,
    failures: u32,
    fresh_refusals: u32,
    dismissals: u64,
    seen: Timestamp,
}

#[derive(Clone, Copy, Debug)]
struct Held {
    generation: u64,
    /// When the login was made; `None` for a token of an earlier life.
    made_at: Option<Timestamp>,
}

#[derive(Clone, Copy, Debug)]
enum Login {
    None,
    Starting {
        job: u64,
        by_person: bool,
        shown_by_pomd: bool,
    },
    Open {
        job: u64,
        by_person: bool,
        /// Nobody has seen the link: showing it failed.
        unseen: bool,
        prompt_ends: Timestamp,
        link_ends: Timestamp,
    },
    Cooling {
        until: Timestamp,
    },
}

impl Machine {
    /// With the generation of the token that is there already.
    pub(super) fn new(held: Option<u64>, now: Timestamp) -> Self {
        Self {
            grant: held.map(|generation| Held {
                generation,
                made_at: None,
            }),
            generation: held.unwrap_or(0),
            login: Login::None,
            jobs: 0,
            quiet: false,
            logged_out: false,
            waiting: false,
            browser: false,
            failures: 0,
            fresh_refusals: 0,
            dismissals: 0,
            seen: now,
        }
    }

    /// The generation of the token to use now.
    pub(super) fn grant(&self) -> Option<u64> {
        self.grant.map(|it| it.generation)
    }

    pub(super) fn stance(&self) -> Stance {
        match self.login {
            Login::Starting { .. } => Stance::Asked,
            _ if self.quiet => Stance::Quiet,
            Login::Open { unseen: false, .. } => Stance::Asked,
            _ => Stance::Unasked,
        }
    }

    /// Grows whenever everybody who waits is sent away.
    pub(super) fn dismissals(&self) -> u64 {
        self.dismissals
    }

    pub(super) fn state(&self) -> ClusterState {
        match self.stance() {
            _ if self.grant.is_some() => ClusterState::LoggedIn,
            Stance::Asked if self.link_ends().is_some() => ClusterState::LoginRunning,
            _ if self.logged_out => ClusterState::LoggedOut,
            _ => ClusterState::LoginNeeded,
        }
    }

    /// When the link of the open login stops working.
    pub(super) fn link_ends(&self) -> Option<Timestamp> {
        match self.login {
            Login::Open { link_ends, .. } => Some(link_ends),
            _ => None,
        }
    }

    /// Nobody has been shown the login that is open or about to be.
    pub(super) fn unseen(&self) -> bool {
        matches!(self.login, Login::Open { unseen: true, .. })
    }

    /// Until when connections do not try to make a login, because the last try failed.
    pub(super) fn cooling(&self) -> Option<Timestamp> {
        match self.login {
            Login::Cooling { until } => Some(until),
            _ => None,
        }
    }

    /// The server refused the tokens of two logins right after it gave them.
    pub(super) fn distrusts(&self) -> bool {
        self.grant.is_none() && self.quiet && self.fresh_refusals >= 2
    }

    /// The last attempt to make a login failed, and none came to a link since.
    pub(super) fn tries_in_vain(&self) -> bool {
        matches!(self.login, Login::Cooling { .. } | Login::Starting { .. })
    }

    /// Time matters now: the driver looks in at least every 30 seconds. A pause that nobody waits through is none of it.
    pub(super) fn restless(&self) -> bool {
        self.waiting || matches!(self.login, Login::Starting { .. } | Login::Open { .. })
    }

    pub(super) fn on_input(&mut self, input: Input, now: Timestamp) -> Vec<Action> {
        let mut res: Vec<_> = self.pass(now).into_iter().collect();
        match input {
            Input::Demand { browser } => {
                self.waiting = true;
                self.browser = browser;
                res.extend(self.prompt_once(now));
            }
            Input::Joined => self.waiting = true,
            Input::Left => self.waiting = false,
            Input::Ask { shown_by_pomd } => res.extend(self.ask(shown_by_pomd, now)),
            Input::Opened { job } => res.extend(self.opened(job, now)),
            Input::NotShown { job } => self.not_shown(job),
            Input::Failed { job } | Input::Lost { job } if self.starting() == Some(job) => {
                self.cool_down(now);
            }
            Input::LoggedIn { job } if self.open() == Some(job) => self.logged_in(now),
            Input::Lost { job } if self.open() == Some(job) => {
                self.login = Login::None;
                self.hush();
            }
            Input::Carried { generation } if self.grant() == Some(generation) => {
                self.fresh_refusals = 0;
                self.grant.iter_mut().for_each(|it| it.made_at = None);
            }
            Input::Refused { generation } if self.grant() == Some(generation) => {
                res.extend(self.refused(now));
            }
            Input::LookAgain => self.forgive(now),
            Input::Logout => res.extend(self.logout()),
            Input::Failed { .. }
            | Input::LoggedIn { .. }
            | Input::Lost { .. }
            | Input::Carried { .. }
            | Input::Refused { .. } => {}
        }
        res
    }

    /// Spurious calls are harmless. Afterwards `next_timeout` is in the future or `None`.
    pub(super) fn on_timeout(&mut self, now: Timestamp) -> Vec<Action> {
        let mut res: Vec<_> = self.pass(now).into_iter().collect();
        if self.retries() {
            res.extend(self.prompt_once(now));
        }
        res
    }

    pub(super) fn next_timeout(&self) -> Option<Timestamp> {
        match self.login {
            Login::Open { link_ends, .. } if self.quiet => Some(link_ends),
            Login::Open {
                prompt_ends,
                link_ends,
                ..
            } => Some(prompt_ends.min(link_ends)),
            Login::Cooling { until } if self.retries() => Some(until),
            _ => None,
        }
    }

    fn prompt_once(&mut self, now: Timestamp) -> Option<Action> {
        let free = match self.login {
            Login::None => true,
            Login::Cooling { until } => until <= now,
            Login::Starting { .. } | Login::Open { .. } => false,
        };
        (free && self.browser && !self.quiet).then(|| self.start(false, true))
    }

    fn start(&mut self, by_person: bool, shown_by_pomd: bool) -> Action {
        self.jobs += 1;
        self.login = Login::Starting {
            job: self.jobs,
            by_person,
            shown_by_pomd,
        };
        Action::Start { job: self.jobs }
    }

    fn ask(&mut self, by_pomd: bool, now: Timestamp) -> Option<Action> {
        match &mut self.login {
            Login::None | Login::Cooling { .. } => Some(self.start(true, by_pomd)),
            Login::Starting {
                by_person,
                shown_by_pomd,
                ..
            } => {
                *by_person = true;
                *shown_by_pomd = by_pomd;
                None
            }
            Login::Open {
                job,
                by_person,
                unseen,
                prompt_ends,
                link_ends,
            } => {
                *by_person = true;
                *unseen = false;
                *prompt_ends = after(now, PROMPT_LASTS);
                *link_ends = after(now, LINK_LASTS);
                self.quiet = false;
                by_pomd.then_some(Action::Show { job: *job })
            }
        }
    }

    fn opened(&mut self, opened: u64, now: Timestamp) -> Option<Action> {
        let Login::Starting {
            job,
            by_person,
            shown_by_pomd,
        } = self.login
        else {
            return None;
        };
        if job != opened {
            return None;
        }
        self.login = Login::Open {
            job,
            by_person,
            unseen: false,
            prompt_ends: after(now, PROMPT_LASTS),
            link_ends: after(now, LINK_LASTS),
        };
        self.quiet = false;
        self.failures = 0;
        shown_by_pomd.then_some(Action::Show { job })
    }

    fn not_shown(&mut self, not_shown: u64) {
        match &mut self.login {
            Login::Open {
                job,
                by_person: false,
                unseen,
                ..
            } if *job == not_shown => *unseen = true,
            _ => {}
        }
    }

    fn cool_down(&mut self, now: Timestamp) {
        let seconds = COOL_DOWN_MIN
            .saturating_mul(1 << self.failures.min(16))
            .min(COOL_DOWN_MAX);
        self.failures = self.failures.saturating_add(1);
        self.login = Login::Cooling {
            until: after(now, SignedDuration::from_secs(seconds)),
        };
    }

    fn logged_in(&mut self, now: Timestamp) {
        self.waiting = false;
        self.generation += 1;
        self.grant = Some(Held {
            generation: self.generation,
            made_at: Some(now),
        });
        self.login = Login::None;
        self.quiet = false;
        self.logged_out = false;
        self.failures = 0;
    }

    fn refused(&mut self, now: Timestamp) -> Vec<Action> {
        let held = self.grant.take();
        let fresh = held
            .and_then(|it| it.made_at)
            .is_some_and(|it| now.duration_since(it) < FRESH);
        self.fresh_refusals = u32::from(fresh) * self.fresh_refusals.saturating_add(1);
        let mut res = vec![Action::Forget];
        if self.fresh_refusals >= 2 {
            self.hush();
        } else if self.waiting {
            res.extend(self.prompt_once(now));
        }
        res
    }

    fn dismiss(&mut self) {
        self.dismissals += 1;
        self.waiting = false;
    }

    fn retries(&self) -> bool {
        self.waiting && self.browser && !self.quiet && matches!(self.login, Login::Cooling { .. })
    }

    fn starting(&self) -> Option<u64> {
        match self.login {
            Login::Starting { job, .. } => Some(job),
            _ => None,
        }
    }

    fn open(&self) -> Option<u64> {
        match self.login {
            Login::Open { job, .. } => Some(job),
            _ => None,
        }
    }
}

fn after(at: Timestamp, passed: SignedDuration) -> Timestamp {
    at.saturating_add(passed).unwrap_or(at)
}

#[cfg(test)]
mod tests;
