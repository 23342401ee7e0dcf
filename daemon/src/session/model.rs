//! A session without its task: the real machine, facts and waits, and at once what the task does about them. Fast enough
//! for millions of histories; that the task does the same is tried with fewer.

pub(crate) mod site;

use std::{collections::BTreeMap, time::Duration};

use control::wire::{ClusterState, Code};
use jiff::Timestamp;
use pomd_core::{
    config::Address,
    session::token::{Login, Token},
};

use super::{
    Grant, Legacy, Patience,
    facts::Facts,
    machine::{Action, Input, Machine, Stance},
    pomerium::Failure,
    wait::{Look, Wait},
};

/// How often the driver looks in while time matters.
pub(crate) const TICK: Duration = Duration::from_secs(30);

/// What time it is, on the wall and by a clock that nobody sets.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Now {
    pub(crate) wall: Timestamp,
    pub(crate) lived: Duration,
}

/// What an onlooker sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// A login is being made.
    Started,
    /// Its link is shown to the person by pomd.
    Shown,
    /// It is over.
    Ended,
    /// A token is held and saved from now on.
    Kept { at: Address, token: String },
    /// No token is held, and none of this address is saved.
    Forgotten { at: Option<Address> },
    /// A connection goes on with this token.
    Granted {
        connection: u64,
        generation: u64,
        token: String,
    },
    /// A connection is told that there is no token, after it waited so long.
    SentAway { connection: u64, waited: Duration },
}

struct Waiting {
    wait: Wait,
    since: Duration,
    ends: Duration,
}

pub(crate) struct Session {
    facts: Facts,
    job: u64,
    /// A login is being made, or is open.
    live: bool,
    waits: BTreeMap<u64, Waiting>,
    looked: Duration,
    seen: Vec<Seen>,
}

impl Session {
    /// With what the one before it left, where that was made; else with the login that is saved.
    pub(crate) fn new(
        cluster: &str,
        first: &Address,
        legacy: &Legacy,
        saved: Option<(&Address, &str)>,
        now: Now,
    ) -> Self {
        let made_at = legacy.address.as_ref().unwrap_or(first);
        let held = legacy.grant.as_ref();
        let held = held.map(|it| (it.generation, made_at, it.token.reveal()));
        let held = held.or(saved.map(|(at, token)| (1, at, token)));
        let login = held.and_then(|(_, at, token)| login(at, token, now.wall));
        let mut machine = Machine::new(held.map(|it| it.0), now.wall);
        if legacy.quiet {
            machine.stay_quiet(legacy.logged_out);
        }
        Self {
            facts: Facts {
                cluster: cluster.to_owned(),
                machine,
                address: login.as_ref().map_or(first, |it| &it.address).clone(),
                login,
                since: now.wall,
                failure: None,
                not_shown: None,
                unsaved: None,
            },
            job: 0,
            live: false,
            waits: BTreeMap::new(),
            looked: now.lived,
            seen: Vec::new(),
        }
    }

    /// What was seen since this was asked last.
    pub(crate) fn seen(&mut self) -> Vec<Seen> {
        std::mem::take(&mut self.seen)
    }

    pub(crate) fn grant(&self) -> Option<Grant> {
        self.facts.standing().grant
    }

    /// What it leaves to the one that takes its place.
    pub(crate) fn legacy(&self) -> Legacy {
        Legacy {
            grant: self.grant(),
            address: Some(self.address().clone()),
            quiet: self.facts.machine.stance() == Stance::Quiet,
            logged_out: self.facts.machine.state() == ClusterState::LoggedOut,
        }
    }

    /// As it is shown.
    pub(crate) fn state(&self) -> ClusterState {
        self.facts.machine.state()
    }

    /// Where the login was made last, or would be.
    pub(crate) fn address(&self) -> &Address {
        &self.facts.address
    }

    /// Connections wait, in the order in which they came.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = u64> {
        self.waits.keys().copied()
    }

    /// A login is open and could be answered.
    pub(crate) fn is_open(&self) -> bool {
        self.facts.machine.link_ends().is_some()
    }

    /// A login is being made.
    pub(crate) fn is_starting(&self) -> bool {
        self.live && !self.is_open()
    }

    /// A login is being made, or is open and its time to be answered is not over.
    pub(crate) fn awaits_an_answer(&self) -> bool {
        self.live && self.facts.machine.stance() != Stance::Quiet
    }

    /// A connection wants a token newer than `after`.
    pub(crate) fn demand(
        &mut self,
        connection: u64,
        after: Option<u64>,
        patience: Patience,
        browser: bool,
        now: Now,
    ) {
        let newest = self.facts.machine.grant();
        if newest.is_none() || newest <= after {
            self.feed(Input::Demand { browser }, now);
        }
        let wait = Wait::new(after, patience, self.facts.machine.dismissals());
        let waiting = Waiting {
            wait,
            since: now.lived,
            ends: now.lived,
        };
        self.waits.insert(connection, waiting);
        self.settle(now);
    }

    /// A connection waits no longer.
    pub(crate) fn leave(&mut self, connection: u64, now: Now) {
        self.waits.remove(&connection);
        self.settle(now);
    }

    /// A person asks for a login.
    pub(crate) fn ask(&mut self, shown_by_pomd: bool, now: Now) {
        if self.facts.login.is_none() {
            self.feed(Input::Ask { shown_by_pomd }, now);
        }
        self.settle(now);
    }

    /// The server mints for the login, or it does not.
    pub(crate) fn minted(&mut self, is_there: bool, now: Now) {
        let job = self.job;
        if is_there {
            self.facts.failure = None;
            self.feed(Input::Opened { job }, now);
        } else {
            let failure = Failure {
                code: Code::Tcp,
                message: "no route".to_owned(),
                hint: None,
                request_id: None,
            };
            self.facts.failure = Some((failure, now.wall));
            self.feed(Input::Failed { job }, now);
            self.live = false;
        }
        self.settle(now);
    }

    /// The browser did not start.
    pub(crate) fn not_shown(&mut self, now: Now) {
        self.facts.not_shown = Some("it ended".to_owned());
        self.feed(Input::NotShown { job: self.job }, now);
        self.settle(now);
    }

    /// The person signed in by the login `back` before the newest, and the server vouches for `token`.
    pub(crate) fn answered(&mut self, back: u64, at: &Address, token: &str, now: Now) {
        let before = self.facts.machine.grant();
        let job = self.job.saturating_sub(back);
        self.feed(Input::LoggedIn { job }, now);
        if self.facts.machine.grant() != before {
            self.live = false;
            self.facts.address = at.clone();
            self.facts.since = now.wall;
            self.facts.login = login(at, token, now.wall);
            self.seen.push(Seen::Kept {
                at: at.clone(),
                token: token.to_owned(),
            });
        }
        self.settle(now);
    }

    /// The login broke.
    pub(crate) fn lost(&mut self, now: Now) {
        self.feed(Input::Lost { job: self.job }, now);
        if self.live {
            self.live = false;
            self.seen.push(Seen::Ended);
        }
        self.settle(now);
    }

    pub(crate) fn carried(&mut self, generation: u64, now: Now) {
        self.feed(Input::Carried { generation }, now);
        self.settle(now);
    }

    pub(crate) fn refused(&mut self, generation: u64, now: Now) {
        self.feed(Input::Refused { generation }, now);
        self.settle(now);
    }

    pub(crate) fn logout(&mut self, now: Now) {
        self.feed(Input::Logout, now);
        self.settle(now);
    }

    /// Looks in if it is time to.
    pub(crate) fn look(&mut self, now: Now) {
        if self.due(now).is_some_and(|it| it <= now.lived) {
            self.look_in(now);
        } else {
            self.settle(now);
        }
    }

    /// Looks in.
    pub(crate) fn look_in(&mut self, now: Now) {
        self.looked = now.lived;
        let actions = self.facts.machine.on_timeout(now.wall);
        self.perform(actions, now);
        let next = self.facts.machine.next_timeout();
        assert!(
            next.is_none_or(|it| it > now.wall),
            "{next:?} keeps the driver busy"
        );
        self.settle(now);
    }

    /// When to look in next.
    pub(crate) fn due(&self, now: Now) -> Option<Duration> {
        let machine = &self.facts.machine;
        let due = machine.next_timeout().map(|it| {
            now.lived + Duration::try_from(it.duration_since(now.wall)).unwrap_or_default()
        });
        let tick = machine.restless().then_some(self.looked + TICK);
        let patience = self.waits.values().map(|it| it.ends).min();
        [due, tick, patience].into_iter().flatten().min()
    }

    fn feed(&mut self, input: Input, now: Now) {
        // The driver is awake, which is a look as good as any.
        self.looked = now.lived;
        let actions = self.facts.machine.on_input(input, now.wall);
        self.perform(actions, now);
    }

    fn perform(&mut self, actions: Vec<Action>, now: Now) {
        for action in actions {
            match action {
                Action::Start { job } => {
                    assert!(!self.live, "a second login beside another");
                    (self.job, self.live) = (job, true);
                    self.facts.not_shown = None;
                    self.seen.push(Seen::Started);
                }
                Action::Show { job } => {
                    assert!(self.live && job == self.job, "a dead link is shown");
                    self.seen.push(Seen::Shown);
                }
                Action::End { job } => {
                    assert!(self.live && job == self.job, "an end of what is not");
                    self.live = false;
                    self.seen.push(Seen::Ended);
                }
                Action::Forget => {
                    self.facts.since = now.wall;
                    let login = self.facts.login.take();
                    self.seen.push(Seen::Forgotten {
                        at: login.map(|it| it.address),
                    });
                }
            }
        }
    }

    /// Everybody who waits looks how things stand.
    fn settle(&mut self, now: Now) {
        if self.waits.is_empty() {
            return;
        }
        let standing = self.facts.standing();
        let seen = &mut self.seen;
        self.waits.retain(|connection, it| {
            let (connection, waited) = (*connection, now.lived.saturating_sub(it.since));
            match it.wait.look(&standing, waited) {
                Look::Granted(grant) => seen.push(Seen::Granted {
                    connection,
                    generation: grant.generation,
                    token: grant.token.reveal().to_owned(),
                }),
                Look::SentAway => seen.push(Seen::SentAway { connection, waited }),
                Look::Until(waited) => {
                    it.ends = it.since + waited;
                    return true;
                }
            }
            false
        });
        if self.waits.is_empty() {
            self.feed(Input::Left, now);
        }
    }
}

fn login(at: &Address, token: &str, now: Timestamp) -> Option<Login> {
    Some(Login {
        address: at.clone(),
        token: Token::parse(token)?,
        user: Some("alice@example.com".to_owned()),
        subject: Some("alice".to_owned()),
        since: now,
        until: None,
    })
}
