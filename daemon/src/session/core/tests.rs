use std::collections::{BTreeMap, BTreeSet};

use control::wire::ClusterState;
use proptest::prelude::*;

use super::*;
use crate::{
    config::Host,
    session::{error::Question, token::Token},
};

#[test]
fn a_thousand_demands_make_one_prompt() {
    let mut machine = Tried::new();
    let mut actions: Vec<_> = (0..1000)
        .flat_map(|_| machine.on_input(demand(true), at(0)))
        .collect();
    actions.extend(machine.on_input(Input::Opened(1), at(1)));
    actions.extend((0..1000).flat_map(|_| machine.on_input(demand(true), at(2))));
    assert_eq!(actions, [Did::Start(1), Did::Show(1)]);
    assert_eq!(machine.core.view().state, ClusterState::LoginRunning);
}

#[test]
fn without_a_browser_nobody_is_asked() {
    let mut machine = Tried::new();
    assert_eq!(machine.on_input(demand(false), at(0)), []);
    assert_eq!(machine.policy(), WaitPolicy::NobodyAsked);
    assert_eq!(machine.core.view().state, ClusterState::LoginNeeded);
}

#[test]
fn a_late_refusal_does_not_harm_a_newer_token() {
    let mut machine = logged_in();
    assert_eq!(refuse(&mut machine, 1, at(1000)), [Did::Forget]);
    log_in(&mut machine, 2, at(1001));
    assert_eq!(machine.core.generation(), Some(2));
    assert_eq!(refuse(&mut machine, 1, at(1002)), []);
    assert_eq!(machine.core.generation(), Some(2));
}

#[test]
fn the_old_token_serves_while_another_login_is_open() {
    let mut machine = logged_in();
    assert_eq!(machine.on_input(demand(true), at(10)), [Did::Start(2)]);
    machine.on_input(Input::Opened(2), at(11));
    assert_eq!(machine.core.generation(), Some(1));
    assert_eq!(machine.core.view().state, ClusterState::LoggedIn);
    machine.on_input(obtained(2), at(12));
    assert_eq!(machine.core.generation(), Some(2));
}

#[test]
fn an_unanswered_prompt_sends_the_waiting_away_and_nothing_asks_until_a_person_does() {
    let mut machine = open(false);
    assert_eq!(machine.core.attempts.next_timeout(), Some(at(301)));
    assert_eq!(tick_until(&mut machine, 1, 300), []);
    assert_eq!(machine.core.dismissals(), 0);
    assert_eq!(machine.on_timeout(at(301)), []);
    assert_eq!(
        (machine.core.dismissals(), machine.policy()),
        (1, WaitPolicy::OnRequestOnly)
    );
    assert_eq!(machine.core.view().state, ClusterState::LoginNeeded);
    assert_eq!(machine.on_input(demand(true), at(302)), []);
    assert_eq!(machine.policy(), WaitPolicy::OnRequestOnly);
    let ask = ask(true);
    assert_eq!(machine.on_input(ask, at(310)), [Did::Show(1)]);
    assert_eq!(machine.policy(), WaitPolicy::Asked);
    assert_eq!(machine.core.attempts.next_timeout(), Some(at(610)));
}

#[test]
fn tokens_that_carried_may_end_soon_and_often_and_each_time_somebody_is_asked() {
    let mut machine = Tried::new();
    for round in 1..=5 {
        let now = i64::try_from(round).unwrap() * 10;
        assert_eq!(machine.on_input(demand(true), at(now)), [Did::Start(round)]);
        machine.on_input(Input::Opened(round), at(now));
        machine.on_input(obtained(round), at(now + 1));
        assert_eq!(machine.core.generation(), Some(round));
        machine.on_input(Input::Accepted(round), at(now + 2));
        machine.on_input(Input::Refused(round), at(now + 3));
        assert_eq!(machine.core.generation(), None);
    }
}

#[test]
fn an_unanswered_link_still_logs_in_within_its_hour_and_is_closed_after_it() {
    let mut machine = open(false);
    tick_until(&mut machine, 1, 3000);
    machine.on_input(obtained(1), at(3001));
    assert_eq!(
        (machine.core.generation(), machine.policy()),
        (Some(1), WaitPolicy::NobodyAsked)
    );

    let mut machine = open(false);
    let ended = tick_until(&mut machine, 1, 4000);
    assert_eq!(ended, [(3601, Did::Cancel(1))]);
    machine.on_input(obtained(1), at(4001));
    assert_eq!(machine.core.generation(), None);
    assert_eq!(machine.on_input(demand(true), at(4002)), []);
}

#[test]
fn n6_k1_another_network_ends_the_pause_and_starts_nothing_by_itself() {
    let cooling = || {
        let mut machine = Tried::new();
        machine.on_input(demand(true), at(0));
        let mut now = 0;
        for (attempt, pause) in (1..).zip([5, 10, 20, 40, 80, 160]) {
            machine.on_input(failed(attempt), at(now));
            tick_until(&mut machine, now, now + pause);
            now += pause;
        }
        machine.on_input(failed(7), at(now));
        machine.on_input(Input::Waiters(0), at(now));
        machine
    };
    let mut machine = cooling();
    assert_eq!(machine.on_input(Input::EnvironmentChanged, at(316)), []);
    assert_eq!(machine.core.attempts.backing_off_until(), None);
    assert_eq!(machine.on_input(demand(true), at(317)), [Did::Start(8)]);
    // Who waits is served soon, and it is their wish that is.
    let mut machine = cooling();
    assert_eq!(machine.on_input(demand(true), at(316)), []);
    assert_eq!(machine.core.attempts.next_timeout(), Some(at(615)));
    assert_eq!(machine.on_input(Input::EnvironmentChanged, at(316)), []);
    assert_eq!(machine.core.attempts.next_timeout(), Some(at(321)));
    // An open login stays what it is.
    let mut machine = open(false);
    assert_eq!(machine.on_input(Input::EnvironmentChanged, at(2)), []);
    assert_eq!(machine.core.attempts.next_timeout(), Some(at(301)));
}

#[test]
fn a_login_page_out_of_reach_is_tried_again_ever_more_slowly_while_somebody_waits() {
    let mut machine = Tried::new();
    machine.on_input(demand(true), at(0));
    let mut now = 0;
    for (job, pause) in (1..).zip([5, 10, 20, 40, 80, 160, 300, 300]) {
        machine.on_input(failed(job), at(now));
        assert_eq!(machine.policy(), WaitPolicy::NobodyAsked);
        assert_eq!(machine.core.attempts.next_timeout(), Some(at(now + pause)));
        let started = tick_until(&mut machine, now, now + pause);
        now += pause;
        assert_eq!(started, [(now, Did::Start(job + 1))]);
    }
    machine.on_input(failed(9), at(now));
    machine.on_input(Input::Waiters(0), at(now));
    assert_eq!(machine.core.attempts.next_timeout(), None);
}

#[test]
fn a_pause_that_nobody_waits_through_needs_no_look_and_is_no_sleep() {
    let mut machine = Tried::new();
    machine.on_input(demand(true), at(0));
    let mut now = 0;
    for (job, pause) in (1..).zip([5, 10, 20, 40, 80, 160]) {
        machine.on_input(failed(job), at(now));
        tick_until(&mut machine, now, now + pause);
        now += pause;
    }
    machine.on_input(failed(7), at(now));
    assert!(machine.core.attempts.needs_ticks());
    machine.on_input(Input::Waiters(0), at(now));
    assert!(!machine.core.attempts.needs_ticks());
    assert_eq!(machine.on_input(demand(true), at(now + 299)), []);
    assert!(machine.core.attempts.needs_ticks());
    let started = tick_until(&mut machine, now + 299, now + 300);
    assert_eq!(started, [(now + 300, Did::Start(8))]);
}

#[test]
fn a_person_need_not_wait_for_the_cool_down() {
    let mut machine = Tried::new();
    machine.on_input(demand(true), at(0));
    machine.on_input(failed(1), at(0));
    assert_eq!(machine.on_input(demand(true), at(1)), []);
    let ask = ask(false);
    assert_eq!(machine.on_input(ask, at(2)), [Did::Start(2)]);
}

#[test]
fn a_login_that_a_person_shows_is_not_shown_by_pomd_too() {
    let mut machine = Tried::new();
    machine.on_input(demand(true), at(0));
    machine.on_input(ask(false), at(0));
    assert_eq!(machine.on_input(Input::Opened(1), at(1)), []);
    assert_eq!(machine.policy(), WaitPolicy::Asked);
}

#[test]
fn a_browser_that_does_not_start_leaves_the_login_open_but_asks_nobody() {
    let mut machine = open(false);
    machine.on_input(not_shown(1), at(2));
    assert_eq!(machine.policy(), WaitPolicy::NobodyAsked);
    assert_eq!(machine.core.view().state, ClusterState::LoginNeeded);
    assert_eq!(machine.on_input(demand(true), at(3)), []);
    machine.on_input(obtained(1), at(4));
    assert_eq!(machine.core.generation(), Some(1));
}

#[test]
fn what_a_person_has_seen_does_not_become_unseen() {
    let mut machine = open(false);
    machine.on_input(ask(false), at(2));
    machine.on_input(not_shown(1), at(3));
    assert_eq!(machine.policy(), WaitPolicy::Asked);
}

#[test]
fn after_a_logout_nothing_asks_until_a_person_does() {
    let mut machine = logged_in();
    assert_eq!(machine.on_input(Input::Logout, at(10)), [Did::Forget]);
    assert_eq!(machine.core.view().state, ClusterState::LoggedOut);
    assert_eq!(machine.on_input(demand(true), at(11)), []);
    assert_eq!(machine.policy(), WaitPolicy::OnRequestOnly);
    log_in(&mut machine, 2, at(20));
    assert_eq!(machine.core.view().state, ClusterState::LoggedIn);
}

#[test]
fn a_logout_closes_the_open_login_and_its_answer_comes_too_late() {
    let mut machine = open(true);
    let actions = machine.on_input(Input::Logout, at(2));
    assert_eq!(actions, [Did::Cancel(1)]);
    machine.on_input(obtained(1), at(3));
    assert_eq!(machine.core.generation(), None);
}

#[test]
fn the_second_token_that_is_refused_at_once_is_the_last_that_is_asked_for() {
    let mut machine = Tried::new();
    machine.on_input(demand(true), at(0));
    log_in_open(&mut machine, 1, at(1));
    // Who waited was served: the refusal asks for nobody.
    assert_eq!(refuse(&mut machine, 1, at(2)), [Did::Forget]);
    assert_eq!(machine.on_input(demand(true), at(2)), [Did::Start(2)]);
    log_in_open(&mut machine, 2, at(3));
    assert_eq!(refuse(&mut machine, 2, at(4)), [Did::Forget]);
    assert!(machine.core.attempts.refused_twice());
    assert_eq!(machine.on_input(demand(true), at(5)), []);
    assert_eq!(machine.policy(), WaitPolicy::OnRequestOnly);
}

#[test]
fn a_refusal_while_connections_wait_asks_for_them() {
    let mut machine = logged_in();
    machine.on_input(demand(false), at(500));
    let actions = machine.on_input(Input::Refused(1), at(501));
    assert_eq!(actions, [Did::Forget]);
    let mut machine = logged_in();
    machine.on_input(Input::Accepted(1), at(500));
    machine.on_input(demand(true), at(500));
    machine.on_input(failed(2), at(500));
    let actions = machine.on_input(Input::Refused(1), at(501));
    assert_eq!(actions, [Did::Forget]);
    let actions = machine.on_timeout(at(505));
    assert_eq!(actions, [Did::Start(3)]);
}

#[test]
fn k1_eight_hours_of_sleep_open_no_window_and_forget_the_cool_down() {
    let mut machine = Tried::new();
    machine.on_input(demand(true), at(0));
    machine.on_input(failed(1), at(1));
    assert_eq!(machine.on_timeout(at(8 * 3600)), []);
    assert_eq!(machine.core.dismissals(), 1);
    assert_eq!(machine.core.attempts.next_timeout(), None);
    let started = machine.on_input(demand(true), at(8 * 3600 + 5));
    assert_eq!(started, [Did::Start(2)]);
    // It is under way when the lid closes again.
    let actions = machine.on_input(Input::Opened(2), at(16 * 3600));
    assert_eq!(actions, [Did::Cancel(2)]);
}

#[test]
fn k1_a_login_left_open_over_a_sleep_is_closed() {
    let mut machine = open(false);
    assert_eq!(machine.on_timeout(at(8 * 3600)), [Did::Cancel(1)]);
    assert_eq!(machine.on_input(demand(true), at(8 * 3600)), []);
}

#[test]
fn k2_a_clock_set_back_ten_years_changes_no_deadline() {
    const TEN_YEARS: i64 = 10 * 365 * 86_400;
    let mut machine = open(false);
    assert_eq!(machine.on_timeout(at(31 - TEN_YEARS)), []);
    assert_eq!(
        machine.core.attempts.next_timeout(),
        Some(at(31 - TEN_YEARS + 300))
    );
    assert_eq!(machine.policy(), WaitPolicy::Asked);
}

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
                Input::Obtained(
                    attempt,
                    Answer {
                        token: Token::parse(&format!("token-{number}-{now}")).unwrap(),
                        user: None,
                        until: lasts.map(|it| at(now + it)),
                        address: address(hosts[number as usize % 2]),
                    },
                )
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

/// A core whose disk takes everything, and what it does about attempts and tokens.
struct Tried {
    core: Core,
}

#[derive(Debug, PartialEq, Eq)]
enum Did {
    Start(u64),
    Show(u64),
    Cancel(u64),
    Forget,
}

impl Tried {
    fn new() -> Self {
        let addresses = ["corp.example.com", "other.example.com"].map(address);
        let handover = Handover::default();
        let core = Core::new("corp".to_owned(), addresses.to_vec(), handover, None, at(0));
        Self { core }
    }

    fn on_input(&mut self, input: Input, now: Timestamp) -> Vec<Did> {
        let effects = self.core.on_input(input, now);
        self.did(effects, now)
    }

    fn on_timeout(&mut self, now: Timestamp) -> Vec<Did> {
        let effects = self.core.on_timeout(now);
        self.did(effects, now)
    }

    fn policy(&self) -> WaitPolicy {
        self.core.waiter_view().policy
    }

    fn did(&mut self, effects: Vec<Effect>, now: Timestamp) -> Vec<Did> {
        let mut res = Vec::new();
        for effect in effects {
            match effect {
                Effect::Start(it) => res.push(Did::Start(it)),
                Effect::Show(it) => res.push(Did::Show(it)),
                Effect::Cancel(it) => res.push(Did::Cancel(it)),
                Effect::Log(Event::Forgotten) => res.push(Did::Forget),
                Effect::Write(_) => {
                    let more = self.on_input(Input::Written(Ok(())), now);
                    res.extend(more);
                }
                _ => {}
            }
        }
        res
    }
}

fn demand(browser: bool) -> Input {
    Input::Demand {
        after: Some(u64::MAX),
        unattended: Some(browser),
    }
}

fn ask(shown_by_pomd: bool) -> Input {
    Input::Ask {
        asker: 1,
        shown_by_pomd,
    }
}

fn failed(attempt: u64) -> Input {
    let error = LoginError::NoAnswer {
        question: Question::SignInUrl,
        within: std::time::Duration::from_secs(45),
    };
    Input::Failed(attempt, error)
}

fn not_shown(attempt: u64) -> Input {
    Input::NotShown(attempt, "it ended".to_owned())
}

fn obtained(attempt: u64) -> Input {
    Kind::Obtained { lasts: None }.input(attempt, 0, 0)
}

fn open(by_person: bool) -> Tried {
    let mut machine = Tried::new();
    let first = if by_person { ask(false) } else { demand(true) };
    machine.on_input(first, at(0));
    machine.on_input(Input::Opened(1), at(1));
    machine
}

fn logged_in() -> Tried {
    let mut machine = open(true);
    machine.on_input(obtained(1), at(2));
    machine
}

fn log_in(machine: &mut Tried, attempt: u64, now: Timestamp) {
    machine.on_input(ask(false), now);
    log_in_open(machine, attempt, now);
}

fn log_in_open(machine: &mut Tried, attempt: u64, now: Timestamp) {
    machine.on_input(Input::Opened(attempt), now);
    machine.on_input(obtained(attempt), now);
}

fn refuse(machine: &mut Tried, generation: u64, now: Timestamp) -> Vec<Did> {
    machine.on_input(Input::Refused(generation), now)
}

/// Looks in every 30 seconds and when due, as the driver does.
fn tick_until(machine: &mut Tried, from: i64, to: i64) -> Vec<(i64, Did)> {
    let mut res = Vec::new();
    let mut now = from;
    while now < to {
        let due = machine
            .core
            .attempts
            .next_timeout()
            .map_or(i64::MAX, seconds);
        now = due.clamp(now + 1, now + 30).min(to);
        res.extend(machine.on_timeout(at(now)).into_iter().map(|it| (now, it)));
    }
    res
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).unwrap()
}

fn seconds(at: Timestamp) -> i64 {
    at.as_second() - 1_800_000_000
}

fn address(host: &str) -> Address {
    Address {
        tls: true,
        host: Host::Name(host.to_owned()),
        port: 443,
    }
}
