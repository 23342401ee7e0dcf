//! Histories of everything that can happen to a core, in any order, and an onlooker who knows what must never happen.

use std::collections::{BTreeMap, BTreeSet};

use proptest::{prelude::*, test_runner::TestCaseError};

use super::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn f2_promises_hold_in_every_history(steps in proptest::collection::vec(step(), 0..80)) {
        let mut world = World::new();
        for step in steps {
            world.live(step)?;
        }
        world.end()?;
    }
}

/// What an onlooker knows, told apart from the core's own state.
struct World {
    core: Core,
    now: i64,
    live: Option<u64>,
    opened: BTreeSet<u64>,
    newest: u64,
    /// Somebody was asked, and no login came of it since.
    asked: bool,
    /// Persons who asked pomd to show the login, and have not been shown it yet.
    wishes: usize,
    /// A person said logout, or did not answer; nobody asked since.
    hushed: bool,
    /// A person said logout; nobody logged in since.
    left: bool,
    /// The token that is good as far as anybody said, where it was made, and until when it lasts at most.
    held: Option<(u64, String, Address, Option<i64>)>,
    generations: u64,
    /// Persons who were told nothing yet.
    askers: BTreeSet<Asker>,
    newest_asker: Asker,
    disk: BTreeMap<Address, String>,
    disk_is_full: bool,
    bound_passed: bool,
}

impl World {
    fn new() -> Self {
        Self {
            core: Tried::new().core,
            now: 0,
            live: None,
            opened: BTreeSet::new(),
            newest: 0,
            asked: false,
            wishes: 0,
            hushed: false,
            left: false,
            held: None,
            generations: 0,
            askers: BTreeSet::new(),
            newest_asker: 0,
            disk: BTreeMap::new(),
            disk_is_full: false,
            bound_passed: false,
        }
    }

    fn live(&mut self, step: Step) -> Result<(), TestCaseError> {
        let input = match step {
            Step::Wait(seconds) => {
                self.now += seconds;
                return self.wake();
            }
            Step::Disk { is_full } => {
                self.disk_is_full = is_full;
                return Ok(());
            }
            Step::Demand { unattended, newer } => Input::Demand {
                after: self.core.generation().filter(|_| newer),
                unattended,
            },
            Step::Waiters(count) => Input::Waiters(count),
            Step::Ask { shown_by_pomd } => {
                self.wishes += usize::from(shown_by_pomd);
                self.newest_asker += 1;
                self.askers.insert(self.newest_asker);
                Input::Ask {
                    asker: self.newest_asker,
                    shown_by_pomd,
                }
            }
            Step::Attempt { kind, stale } => {
                let attempt = if stale {
                    self.newest.saturating_sub(1)
                } else {
                    self.newest
                };
                kind.input(attempt, self.generations, self.now)
            }
            Step::Accepted => Input::Accepted(self.core.generation().unwrap_or(0)),
            Step::Confirmed => Input::Confirmed(self.core.generation().unwrap_or(0)),
            Step::Refused { stale } => {
                Input::Refused(self.core.generation().unwrap_or(0).wrapping_sub(stale))
            }
            Step::Logout => Input::Logout,
            Step::EnvironmentChanged => Input::EnvironmentChanged,
            Step::SourceChanged => {
                // There is something new to ask about.
                if !self.left {
                    (self.asked, self.hushed) = (false, false);
                }
                Input::SourceChanged
            }
        };
        match &input {
            Input::Opened(attempt) if self.live == Some(*attempt) => {
                self.opened.insert(*attempt);
            }
            _ => {}
        }
        let effects = self.core.on_input(input.clone(), at(self.now));
        self.foresee(&input, &effects);
        self.obey(effects, Some(&input))?;
        match input {
            Input::Opened(attempt) if self.live == Some(attempt) => {
                (self.asked, self.hushed) = (true, false);
            }
            Input::Failed(attempt, _)
                if self.live == Some(attempt) && !self.opened.contains(&attempt) =>
            {
                self.live = None;
            }
            Input::Lost(attempt) if self.live == Some(attempt) => self.live = None,
            _ => {}
        }
        self.check()
    }

    /// What the session must hold after `input`, by what was said to it alone.
    fn foresee(&mut self, input: &Input, effects: &[Effect]) {
        // Time may have ended the attempt just before.
        let cancelled = |it: u64| effects.contains(&Effect::Cancel(it));
        let held = self.held.as_ref().map(|it| it.0);
        match input {
            Input::Obtained(attempt, answer)
                if self.live == Some(*attempt) && !cancelled(*attempt) =>
            {
                self.generations += 1;
                let until = answer.until.map(|it| it.as_second() - at(0).as_second());
                self.held = Some((
                    self.generations,
                    answer.token.reveal().to_owned(),
                    answer.address.clone(),
                    until.filter(|it| *it > self.now),
                ));
                (self.live, self.asked, self.hushed, self.left) = (None, false, false, false);
                self.wishes = 0;
            }
            Input::Refused(generation) if held == Some(*generation) => self.held = None,
            Input::Logout => {
                self.held = None;
                (self.hushed, self.left, self.wishes) = (true, true, 0);
            }
            Input::Accepted(generation) if held == Some(*generation) => self.disprove(60),
            Input::Confirmed(generation) if held == Some(*generation) => self.disprove(0),
            _ => {}
        }
    }

    fn disprove(&mut self, past: i64) {
        if let Some((.., until)) = &mut self.held {
            *until = until.filter(|it| self.now - *it < past);
        }
    }

    fn wake(&mut self) -> Result<(), TestCaseError> {
        let effects = self.core.on_timeout(at(self.now));
        self.obey(effects, None)?;
        let rest = self.core.rest(at(self.now));
        prop_assert_ne!(
            rest,
            Some(std::time::Duration::ZERO),
            "the driver is kept busy"
        );
        let spurious = self.core.on_timeout(at(self.now));
        prop_assert_eq!(spurious, [], "a spurious call did something");
        self.check()
    }

    fn obey(&mut self, effects: Vec<Effect>, cause: Option<&Input>) -> Result<(), TestCaseError> {
        let by_person = matches!(cause, Some(Input::Ask { .. }));
        for effect in effects {
            match effect {
                Effect::Start(attempt) => {
                    prop_assert!(self.live.is_none(), "two attempts at once");
                    prop_assert!(attempt > self.newest, "an attempt once more");
                    prop_assert!(by_person || !self.asked, "asked again by itself");
                    prop_assert!(by_person || !self.hushed, "asked although nothing should");
                    prop_assert!(by_person || !self.left, "asked after a logout");
                    self.live = Some(attempt);
                    self.newest = attempt;
                }
                Effect::Show(attempt) => {
                    let open = self.live == Some(attempt) && self.opened.contains(&attempt);
                    prop_assert!(open, "a dead link is shown");
                    prop_assert!(self.wishes > 0 || !self.asked, "a second tab by itself");
                    self.wishes = self.wishes.saturating_sub(1);
                    self.asked = true;
                }
                Effect::Cancel(attempt) => {
                    prop_assert_eq!(self.live, Some(attempt), "what does not run is cancelled");
                    self.live = None;
                }
                Effect::Welcome(attempt, welcome) => {
                    let brought = matches!(cause, Some(Input::Obtained(it, _)) if *it == attempt);
                    prop_assert!(brought, "a welcome for nothing");
                    prop_assert_eq!(
                        welcome.until.map(seconds),
                        self.held.clone().and_then(|it| it.3)
                    );
                }
                Effect::Reply(asker, reply) => {
                    prop_assert!(self.askers.remove(&asker), "answered twice");
                    match reply {
                        Reply::Granted => prop_assert!(self.held.is_some()),
                        Reply::Open { until, .. } => {
                            let open = self.live.is_some_and(|it| self.opened.contains(&it));
                            prop_assert!(open && seconds(until) > self.now);
                        }
                        Reply::Failed(_) => {}
                    }
                }
                Effect::Write(write) => {
                    let result = self.write(write);
                    let effects = self.core.on_input(Input::Written(result), at(self.now));
                    self.obey(effects, None)?;
                }
                Effect::Disconnect => prop_assert!(matches!(cause, Some(Input::Logout))),
                Effect::BoundPassed => self.bound_passed = !self.bound_passed,
                Effect::Log(_) => {}
            }
        }
        Ok(())
    }

    fn write(&mut self, write: Write) -> Result<(), String> {
        self.disk.retain(|at, _| !write.purge.contains(at));
        if let Some(login) = write.save {
            if self.disk_is_full {
                return Err("no space left".to_owned());
            }
            self.disk
                .insert(login.address, login.token.reveal().to_owned());
        }
        self.disk.retain(|at, _| !write.remove.contains(at));
        Ok(())
    }

    /// What must be so after everything that happens.
    fn check(&self) -> Result<(), TestCaseError> {
        let grant = self.core.grant();
        let grant = grant.map(|it| (it.generation, it.token.reveal().to_owned()));
        let held = self.held.clone().map(|it| (it.0, it.1));
        prop_assert_eq!(grant, held, "another token than what was said of it");
        let waits = self.askers.is_empty() || self.live.is_some();
        prop_assert!(waits, "a person waits for nothing");
        let until = self.held.as_ref().and_then(|it| it.3);
        prop_assert_eq!(self.core.view().until.map(seconds), until);
        prop_assert_eq!(self.bound_passed, until.is_some_and(|it| it <= self.now));
        let is_open = self.live.is_some_and(|it| self.opened.contains(&it));
        let state = self.core.view().state;
        let is_so = match state {
            ClusterState::LoggedIn => self.held.is_some(),
            _ if self.held.is_some() => false,
            ClusterState::LoginRunning => is_open,
            ClusterState::LoggedOut => self.left,
            ClusterState::LoginNeeded => !self.left,
            ClusterState::Unknown => false,
        };
        prop_assert!(is_so, "it is shown to be {:?}", state);
        Ok(())
    }

    /// Once the disk takes what it is given, it holds the login that is held and no other.
    fn end(&mut self) -> Result<(), TestCaseError> {
        self.disk_is_full = false;
        for _ in 0..3 {
            self.now += 31;
            self.wake()?;
        }
        let held = self.held.clone().map(|it| (it.2, it.1));
        prop_assert_eq!(&self.disk, &held.into_iter().collect());
        Ok(())
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Demand {
        unattended: Option<bool>,
        newer: bool,
    },
    Waiters(u64),
    Ask {
        shown_by_pomd: bool,
    },
    Attempt {
        kind: Kind,
        stale: bool,
    },
    Accepted,
    Confirmed,
    Refused {
        stale: u64,
    },
    Logout,
    EnvironmentChanged,
    SourceChanged,
    Disk {
        is_full: bool,
    },
    Wait(i64),
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Opened,
    Failed,
    NotShown,
    Obtained { lasts: Option<i64> },
    Lost,
}

impl Kind {
    fn input(self, attempt: u64, number: u64, now: i64) -> Input {
        match self {
            Self::Opened => Input::Opened(attempt),
            Self::Failed => failed(attempt),
            Self::NotShown => not_shown(attempt),
            Self::Obtained { lasts } => {
                let hosts = ["corp.example.com", "other.example.com"];
                let token = format!("token-{number}-{now}");
                let until = lasts.map(|it| at(now + it));
                answered(attempt, &token, hosts[number as usize % 2], until)
            }
            Self::Lost => Input::Lost(attempt),
        }
    }
}

fn step() -> impl Strategy<Value = Step> {
    let kind = prop_oneof![
        4 => Just(Kind::Opened),
        1 => Just(Kind::Failed),
        1 => Just(Kind::NotShown),
        2 => proptest::option::of(-100..4000_i64).prop_map(|lasts| Kind::Obtained { lasts }),
        1 => Just(Kind::Lost),
    ];
    let seconds = prop_oneof![
        4 => 0..30_i64,
        2 => 0..4000_i64,
        1 => -4000..4000_i64,
        1 => prop_oneof![Just(-315_360_000_i64), Just(315_360_000)],
    ];
    let demand = (
        proptest::option::weighted(0.9, any::<bool>()),
        any::<bool>(),
    );
    prop_oneof![
        4 => demand.prop_map(|(unattended, newer)| Step::Demand { unattended, newer }),
        1 => (0..3_u64).prop_map(Step::Waiters),
        1 => any::<bool>().prop_map(|shown_by_pomd| Step::Ask { shown_by_pomd }),
        6 => (kind, proptest::bool::weighted(0.1)).prop_map(|(kind, stale)| Step::Attempt { kind, stale }),
        1 => Just(Step::Accepted),
        1 => Just(Step::Confirmed),
        2 => (0..3_u64).prop_map(|stale| Step::Refused { stale }),
        1 => Just(Step::Logout),
        1 => Just(Step::EnvironmentChanged),
        1 => Just(Step::SourceChanged),
        1 => any::<bool>().prop_map(|is_full| Step::Disk { is_full }),
        4 => seconds.prop_map(Step::Wait),
    ]
}
