//! A driver of a session's [`Core`] in virtual time, without tasks, logins and files: fast enough for millions of
//! histories. It decides nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use control::wire::ClusterState;
use jiff::Timestamp;
use pomd_core::{
    config::Address,
    session::{
        Answer, Core, Effect, Event, Handover, Input, Look, Patience, Wait, WaitPolicy, Write,
        error::{LoginError, Question},
        token::{Credential, Grant, Token, User},
    },
};

/// What time it is, on the wall and by a clock that nobody sets.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Now {
    pub(crate) wall: Timestamp,
    pub(crate) lived: Duration,
}

/// What an onlooker sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// An attempt starts.
    Started,
    /// It is shown to the person by pomd.
    Shown,
    /// It is over.
    Ended,
    /// This token is held from now on.
    Kept { token: String },
    /// No token is held.
    Forgotten,
    /// This is to be written; [`Session::written`] says what came of it.
    Write(Write),
    /// A connection is given this token.
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
    core: Core,
    attempt: u64,
    /// The attempt starts, or awaits a person.
    live: bool,
    /// It awaits a person.
    open: bool,
    waits: BTreeMap<u64, Waiting>,
    askers: BTreeSet<u64>,
    newest_asker: u64,
    /// When the core wants to be called again.
    due: Option<Duration>,
    seen: Vec<Seen>,
}

impl Session {
    /// A session with what its predecessor left, and with the login that is saved.
    pub(crate) fn new(
        cluster: &str,
        addresses: &[Address],
        handover: Handover,
        saved: Option<(&Address, &str)>,
        now: Now,
    ) -> Self {
        let saved = saved.map(|(address, token)| Credential {
            address: address.clone(),
            token: token_of(token),
            user: Some("alice@example.com".to_owned()),
            subject: Some("alice".to_owned()),
            since: now.wall,
            until: None,
        });
        let core = Core::new(
            cluster.to_owned(),
            true,
            addresses.to_vec(),
            handover,
            saved,
            now.wall,
        );
        let mut res = Self {
            core,
            attempt: 0,
            live: false,
            open: false,
            waits: BTreeMap::new(),
            askers: BTreeSet::new(),
            newest_asker: 0,
            due: None,
            seen: Vec::new(),
        };
        res.wake(now);
        res
    }

    /// What was seen since this was asked last.
    pub(crate) fn seen(&mut self) -> Vec<Seen> {
        std::mem::take(&mut self.seen)
    }

    pub(crate) fn grant(&self) -> Option<Grant> {
        self.core.grant()
    }

    /// What the session leaves to its successor.
    pub(crate) fn handover(&self) -> Handover {
        self.core.waiter_view().handover()
    }

    pub(crate) fn state(&self) -> ClusterState {
        self.core.view().state
    }

    /// Connections that wait, in the order in which they came.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = u64> {
        self.waits.keys().copied()
    }

    /// An attempt awaits a person.
    pub(crate) fn is_open(&self) -> bool {
        self.open
    }

    /// An attempt starts, and awaits nobody yet.
    pub(crate) fn is_starting(&self) -> bool {
        self.live && !self.open
    }

    /// An attempt starts, or awaits a person who has not let their time pass.
    pub(crate) fn awaits_an_answer(&self) -> bool {
        self.live && self.core.waiter_view().policy != WaitPolicy::OnRequestOnly
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
        let waiters = self.waits.len() as u64 + 1;
        self.feed(Input::Waiters(waiters), now);
        let unattended = Some(browser);
        self.feed(Input::Demand { after, unattended }, now);
        let waiting = Waiting {
            wait: Wait::new(after, patience, self.core.dismissals()),
            since: now.lived,
            ends: now.lived,
        };
        self.waits.insert(connection, waiting);
        self.settle(now);
    }

    /// A connection waits no longer.
    pub(crate) fn leave(&mut self, connection: u64, now: Now) {
        self.waits.remove(&connection);
        self.feed(Input::Waiters(self.waits.len() as u64), now);
        self.settle(now);
    }

    /// A person asks for a login.
    pub(crate) fn ask(&mut self, shown_by_pomd: bool, now: Now) {
        self.newest_asker += 1;
        let asker = self.newest_asker;
        self.askers.insert(asker);
        let input = Input::Ask {
            asker,
            shown_by_pomd,
        };
        self.feed(input, now);
        assert!(
            self.askers.is_empty() || self.is_starting(),
            "a person waits for nothing"
        );
        self.settle(now);
    }

    /// The server mints for the attempt, or it does not.
    pub(crate) fn minted(&mut self, is_there: bool, now: Now) {
        if is_there {
            self.open = true;
            self.feed(Input::Opened(self.attempt), now);
        } else {
            let error = LoginError::NoAnswer {
                question: Question::SignInUrl,
                within: Duration::from_secs(45),
            };
            self.feed(Input::Failed(self.attempt, error), now);
            self.live = false;
        }
        assert!(self.askers.is_empty(), "a person is told nothing");
        self.settle(now);
    }

    /// The browser did not start.
    pub(crate) fn not_shown(&mut self, now: Now) {
        let why = "it ended".to_owned();
        self.feed(Input::NotShown(self.attempt, why), now);
        self.settle(now);
    }

    /// The person signed in by the attempt `back` before the newest, and the server vouches for `token`.
    pub(crate) fn answered(&mut self, back: u64, at: &Address, token: &str, now: Now) {
        let attempt = self.attempt.saturating_sub(back);
        // Nobody can sign in where nothing is shown yet.
        if attempt == self.attempt && !self.open {
            return;
        }
        let answer = Answer {
            token: token_of(token),
            user: Some(User {
                display: "alice@example.com".to_owned(),
                subject: Some("alice".to_owned()),
            }),
            until: None,
            address: at.clone(),
        };
        self.feed(Input::Obtained(attempt, answer), now);
        self.settle(now);
    }

    /// The attempt broke.
    pub(crate) fn lost(&mut self, now: Now) {
        self.feed(Input::Lost(self.attempt), now);
        if self.live {
            (self.live, self.open) = (false, false);
            self.seen.push(Seen::Ended);
        }
        self.settle(now);
    }

    pub(crate) fn accepted(&mut self, generation: u64, now: Now) {
        self.feed(Input::Accepted(generation), now);
        self.settle(now);
    }

    pub(crate) fn refused(&mut self, generation: u64, now: Now) {
        self.feed(Input::Refused(generation), now);
        self.settle(now);
    }

    pub(crate) fn logout(&mut self, now: Now) {
        self.feed(Input::Logout, now);
        self.settle(now);
    }

    /// What came of what was to be written.
    pub(crate) fn written(&mut self, result: Result<(), String>, now: Now) {
        let (failed, before) = (result.is_err(), self.seen.len());
        self.feed(Input::Written(result), now);
        let mut seen = self.seen.iter().skip(before);
        let again = seen.any(|it| matches!(it, Seen::Write(_)));
        assert!(!(failed && again), "a write that failed is tried at once");
    }

    /// Calls the core if it is time to.
    pub(crate) fn look(&mut self, now: Now) {
        if self.due.is_some_and(|it| it <= now.lived) {
            self.wake(now);
        } else {
            self.settle(now);
        }
    }

    /// Calls the core.
    pub(crate) fn wake(&mut self, now: Now) {
        let effects = self.core.on_timeout(now.wall);
        self.carry_out(effects);
        let rest = self.core.rest(now.wall);
        assert_ne!(rest, Some(Duration::ZERO), "the driver is kept busy");
        self.rest(now);
        self.settle(now);
    }

    /// When to look next.
    pub(crate) fn due(&self) -> Option<Duration> {
        let patience = self.waits.values().map(|it| it.ends).min();
        [self.due, patience].into_iter().flatten().min()
    }

    fn feed(&mut self, input: Input, now: Now) {
        let effects = self.core.on_input(input, now.wall);
        self.carry_out(effects);
        self.rest(now);
    }

    fn rest(&mut self, now: Now) {
        self.due = self.core.rest(now.wall).map(|it| now.lived + it);
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Start(attempt) => {
                    assert!(!self.live, "a second login beside another");
                    (self.attempt, self.live, self.open) = (attempt, true, false);
                    self.seen.push(Seen::Started);
                }
                Effect::Show(attempt) => {
                    assert!(self.open && attempt == self.attempt, "a dead link is shown");
                    self.seen.push(Seen::Shown);
                }
                Effect::Cancel(attempt) => {
                    assert!(
                        self.live && attempt == self.attempt,
                        "an end of what is not"
                    );
                    (self.live, self.open) = (false, false);
                    self.seen.push(Seen::Ended);
                }
                Effect::Welcome(attempt, _) => {
                    assert!(self.open && attempt == self.attempt, "a late answer counts");
                    (self.live, self.open) = (false, false);
                    let grant = self.core.grant().expect("a token for who is welcome");
                    let token = grant.token.reveal().to_owned();
                    self.seen.push(Seen::Kept { token });
                }
                Effect::Reply(asker, _) => {
                    assert!(self.askers.remove(&asker), "a person is answered twice");
                }
                Effect::Write(write) => self.seen.push(Seen::Write(write)),
                Effect::Log(Event::Forgotten | Event::LoggedOut) => {
                    self.seen.push(Seen::Forgotten);
                }
                Effect::Disconnect | Effect::BoundPassed | Effect::Log(_) => {}
            }
        }
    }

    /// Everybody who waits looks at the session.
    fn settle(&mut self, now: Now) {
        if self.waits.is_empty() {
            return;
        }
        let view = self.core.waiter_view();
        let (seen, before) = (&mut self.seen, self.waits.len());
        self.waits.retain(|connection, it| {
            let (connection, waited) = (*connection, now.lived.saturating_sub(it.since));
            match it.wait.look(&view, waited) {
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
        if self.waits.len() < before {
            self.feed(Input::Waiters(self.waits.len() as u64), now);
        }
    }
}

fn token_of(text: &str) -> Token {
    Token::parse(text).expect("a token")
}
