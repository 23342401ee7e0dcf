mod histories;
mod sources;

use crate::{config::Host, session::token::Token};
use control::wire::ClusterState;

use super::*;

use crate::session::error::Question;

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
        let core = Core::new(
            "corp".to_owned(),
            true,
            addresses.to_vec(),
            handover,
            None,
            at(0),
        );
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
    answered(attempt, "token", "corp.example.com", None)
}

fn answered(attempt: u64, token: &str, host: &str, until: Option<Timestamp>) -> Input {
    Input::Obtained(
        attempt,
        Answer {
            token: Token::parse(token).unwrap(),
            user: None,
            until,
            address: address(host),
        },
    )
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
