use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

#[test]
fn a_thousand_demands_make_one_prompt() {
    let mut machine = Machine::new(None, at(0));
    let mut actions: Vec<_> = (0..1000)
        .flat_map(|_| machine.on_input(DEMAND, at(0)))
        .collect();
    actions.extend(machine.on_input(Input::Opened { job: 1 }, at(1)));
    actions.extend((0..1000).flat_map(|_| machine.on_input(DEMAND, at(2))));
    assert_eq!(actions, [Action::Start { job: 1 }, Action::Show { job: 1 }]);
    assert_eq!(machine.state(), ClusterState::LoginRunning);
}

#[test]
fn without_a_browser_nobody_is_asked() {
    let mut machine = Machine::new(None, at(0));
    assert_eq!(
        machine.on_input(Input::Demand { browser: false }, at(0)),
        []
    );
    assert_eq!(machine.stance(), Stance::Unasked);
    assert_eq!(machine.state(), ClusterState::LoginNeeded);
}

#[test]
fn a_late_refusal_does_not_harm_a_newer_token() {
    let mut machine = logged_in();
    assert_eq!(refuse(&mut machine, 1, at(1000)), [Action::Forget]);
    log_in(&mut machine, 2, at(1001));
    assert_eq!(machine.grant(), Some(2));
    assert_eq!(refuse(&mut machine, 1, at(1002)), []);
    assert_eq!(machine.grant(), Some(2));
}

#[test]
fn the_old_token_serves_while_another_login_is_open() {
    let mut machine = logged_in();
    assert_eq!(machine.on_input(DEMAND, at(10)), [Action::Start { job: 2 }]);
    machine.on_input(Input::Opened { job: 2 }, at(11));
    assert_eq!(machine.grant(), Some(1));
    assert_eq!(machine.state(), ClusterState::LoggedIn);
    machine.on_input(Input::LoggedIn { job: 2 }, at(12));
    assert_eq!(machine.grant(), Some(2));
}

#[test]
fn an_unanswered_prompt_sends_the_waiting_away_and_nothing_asks_until_a_person_does() {
    let mut machine = open(false);
    assert_eq!(machine.next_timeout(), Some(at(301)));
    assert_eq!(tick_until(&mut machine, 1, 300), []);
    assert_eq!(machine.dismissals(), 0);
    assert_eq!(machine.on_timeout(at(301)), []);
    assert_eq!((machine.dismissals(), machine.stance()), (1, Stance::Quiet));
    assert_eq!(machine.state(), ClusterState::LoginNeeded);
    assert_eq!(machine.on_input(DEMAND, at(302)), []);
    assert_eq!(machine.stance(), Stance::Quiet);
    let ask = Input::Ask {
        shown_by_pomd: true,
    };
    assert_eq!(machine.on_input(ask, at(310)), [Action::Show { job: 1 }]);
    assert_eq!(machine.stance(), Stance::Asked);
    assert_eq!(machine.next_timeout(), Some(at(610)));
}

#[test]
fn tokens_that_carried_may_end_soon_and_often_and_each_time_somebody_is_asked() {
    let mut machine = Machine::new(None, at(0));
    for round in 1..=5 {
        let now = i64::try_from(round).unwrap() * 10;
        assert_eq!(
            machine.on_input(DEMAND, at(now)),
            [Action::Start { job: round }]
        );
        machine.on_input(Input::Opened { job: round }, at(now));
        machine.on_input(Input::LoggedIn { job: round }, at(now + 1));
        assert_eq!(machine.grant(), Some(round));
        machine.on_input(Input::Carried { generation: round }, at(now + 2));
        machine.on_input(Input::Refused { generation: round }, at(now + 3));
        assert_eq!(machine.grant(), None);
    }
}

#[test]
fn an_unanswered_link_still_logs_in_within_its_hour_and_is_closed_after_it() {
    let mut machine = open(false);
    tick_until(&mut machine, 1, 3000);
    machine.on_input(Input::LoggedIn { job: 1 }, at(3001));
    assert_eq!(
        (machine.grant(), machine.stance()),
        (Some(1), Stance::Unasked)
    );

    let mut machine = open(false);
    let ended = tick_until(&mut machine, 1, 4000);
    assert_eq!(ended, [(3601, Action::End { job: 1 })]);
    machine.on_input(Input::LoggedIn { job: 1 }, at(4001));
    assert_eq!(machine.grant(), None);
    assert_eq!(machine.on_input(DEMAND, at(4002)), []);
}

#[test]
fn n6_k1_another_network_ends_the_pause_and_starts_nothing_by_itself() {
    let cooling = || {
        let mut machine = Machine::new(None, at(0));
        machine.on_input(DEMAND, at(0));
        for job in 1..=6 {
            machine.on_input(Input::Failed { job }, at(0));
            machine.on_input(Input::Left, at(0));
            machine.login = Login::Starting {
                job: job + 1,
                by_person: false,
                shown_by_pomd: true,
            };
        }
        machine.on_input(Input::Failed { job: 7 }, at(0));
        machine
    };
    let mut machine = cooling();
    assert_eq!(machine.on_input(Input::LookAgain, at(1)), []);
    assert_eq!(machine.cooling(), None);
    assert_eq!(machine.on_input(DEMAND, at(2)), [Action::Start { job: 2 }]);
    // Who waits is served soon, and it is their wish that is.
    let mut machine = cooling();
    assert_eq!(machine.on_input(DEMAND, at(1)), []);
    assert_eq!(machine.next_timeout(), Some(at(300)));
    assert_eq!(machine.on_input(Input::LookAgain, at(1)), []);
    assert_eq!(machine.next_timeout(), Some(at(6)));
    // An open login stays what it is.
    let mut machine = open(false);
    assert_eq!(machine.on_input(Input::LookAgain, at(2)), []);
    assert_eq!(machine.next_timeout(), Some(at(301)));
}

#[test]
fn a_login_page_out_of_reach_is_tried_again_ever_more_slowly_while_somebody_waits() {
    let mut machine = Machine::new(None, at(0));
    machine.on_input(DEMAND, at(0));
    let mut now = 0;
    for (job, pause) in (1..).zip([5, 10, 20, 40, 80, 160, 300, 300]) {
        machine.on_input(Input::Failed { job }, at(now));
        assert_eq!(machine.stance(), Stance::Unasked);
        assert_eq!(machine.next_timeout(), Some(at(now + pause)));
        let started = tick_until(&mut machine, now, now + pause);
        now += pause;
        assert_eq!(started, [(now, Action::Start { job: job + 1 })]);
    }
    machine.on_input(Input::Failed { job: 9 }, at(now));
    machine.on_input(Input::Left, at(now));
    assert_eq!(machine.next_timeout(), None);
}

#[test]
fn a_pause_that_nobody_waits_through_needs_no_look_and_is_no_sleep() {
    let mut machine = Machine::new(None, at(0));
    machine.on_input(DEMAND, at(0));
    let mut now = 0;
    for (job, pause) in (1..).zip([5, 10, 20, 40, 80, 160]) {
        machine.on_input(Input::Failed { job }, at(now));
        tick_until(&mut machine, now, now + pause);
        now += pause;
    }
    machine.on_input(Input::Failed { job: 7 }, at(now));
    assert!(machine.restless());
    machine.on_input(Input::Left, at(now));
    assert!(!machine.restless());
    assert_eq!(machine.on_input(DEMAND, at(now + 299)), []);
    assert!(machine.restless());
    let started = tick_until(&mut machine, now + 299, now + 300);
    assert_eq!(started, [(now + 300, Action::Start { job: 8 })]);
}

#[test]
fn a_person_need_not_wait_for_the_cool_down() {
    let mut machine = Machine::new(None, at(0));
    machine.on_input(DEMAND, at(0));
    machine.on_input(Input::Failed { job: 1 }, at(0));
    assert_eq!(machine.on_input(DEMAND, at(1)), []);
    let ask = Input::Ask {
        shown_by_pomd: false,
    };
    assert_eq!(machine.on_input(ask, at(2)), [Action::Start { job: 2 }]);
}

#[test]
fn a_login_that_a_person_shows_is_not_shown_by_pomd_too() {
    let mut machine = Machine::new(None, at(0));
    machine.on_input(DEMAND, at(0));
    machine.on_input(
        Input::Ask {
            shown_by_pomd: false,
        },
        at(0),
    );
    assert_eq!(machine.on_input(Input::Opened { job: 1 }, at(1)), []);
    assert_eq!(machine.stance(), Stance::Asked);
}

#[test]
fn a_browser_that_does_not_start_leaves_the_login_open_but_asks_nobody() {
    let mut machine = open(false);
    machine.on_input(Input::NotShown { job: 1 }, at(2));
    assert_eq!(machine.stance(), Stance::Unasked);
    assert_eq!(machine.state(), ClusterState::LoginNeeded);
    assert_eq!(machine.on_input(DEMAND, at(3)), []);
    machine.on_input(Input::LoggedIn { job: 1 }, at(4));
    assert_eq!(machine.grant(), Some(1));
}

#[test]
fn what_a_person_has_seen_does_not_become_unseen() {
    let mut machine = open(false);
    machine.on_input(
        Input::Ask {
            shown_by_pomd: false,
        },
        at(2),
    );
    machine.on_input(Input::NotShown { job: 1 }, at(3));
    assert_eq!(machine.stance(), Stance::Asked);
}

#[test]
fn after_a_logout_nothing_asks_until_a_person_does() {
    let mut machine = logged_in();
    assert_eq!(machine.on_input(Input::Logout, at(10)), [Action::Forget]);
    assert_eq!(machine.state(), ClusterState::LoggedOut);
    assert_eq!(machine.on_input(DEMAND, at(11)), []);
    assert_eq!(machine.stance(), Stance::Quiet);
    log_in(&mut machine, 2, at(20));
    assert_eq!(machine.state(), ClusterState::LoggedIn);
}

#[test]
fn a_logout_closes_the_open_login_and_its_answer_comes_too_late() {
    let mut machine = open(true);
    let actions = machine.on_input(Input::Logout, at(2));
    assert_eq!(actions, [Action::End { job: 1 }, Action::Forget]);
    machine.on_input(Input::LoggedIn { job: 1 }, at(3));
    assert_eq!(machine.grant(), None);
}

#[test]
fn the_second_token_that_is_refused_at_once_is_the_last_that_is_asked_for() {
    let mut machine = Machine::new(None, at(0));
    machine.on_input(DEMAND, at(0));
    log_in_open(&mut machine, 1, at(1));
    // Who waited was served: the refusal asks for nobody.
    assert_eq!(refuse(&mut machine, 1, at(2)), [Action::Forget]);
    assert_eq!(machine.on_input(DEMAND, at(2)), [Action::Start { job: 2 }]);
    log_in_open(&mut machine, 2, at(3));
    assert_eq!(refuse(&mut machine, 2, at(4)), [Action::Forget]);
    assert!(machine.distrusts());
    assert_eq!(machine.on_input(DEMAND, at(5)), []);
    assert_eq!(machine.stance(), Stance::Quiet);
}

#[test]
fn a_refusal_while_connections_wait_asks_for_them() {
    let mut machine = logged_in();
    machine.on_input(Input::Demand { browser: false }, at(500));
    let actions = machine.on_input(Input::Refused { generation: 1 }, at(501));
    assert_eq!(actions, [Action::Forget]);
    let mut machine = Machine::new(Some(4), at(0));
    machine.waiting = true;
    machine.browser = true;
    let actions = machine.on_input(Input::Refused { generation: 4 }, at(1));
    assert_eq!(actions, [Action::Forget, Action::Start { job: 1 }]);
}

#[test]
fn k1_eight_hours_of_sleep_open_no_window_and_forget_the_cool_down() {
    let mut machine = Machine::new(None, at(0));
    machine.on_input(DEMAND, at(0));
    machine.on_input(Input::Failed { job: 1 }, at(1));
    assert_eq!(machine.on_timeout(at(8 * 3600)), []);
    assert_eq!(machine.dismissals(), 1);
    assert_eq!(machine.next_timeout(), None);
    let started = machine.on_input(DEMAND, at(8 * 3600 + 5));
    assert_eq!(started, [Action::Start { job: 2 }]);
    // It is under way when the lid closes again.
    let actions = machine.on_input(Input::Opened { job: 2 }, at(16 * 3600));
    assert_eq!(actions, [Action::End { job: 2 }]);
}

#[test]
fn k1_a_login_left_open_over_a_sleep_is_closed() {
    let mut machine = open(false);
    assert_eq!(machine.on_timeout(at(8 * 3600)), [Action::End { job: 1 }]);
    assert_eq!(machine.on_input(DEMAND, at(8 * 3600)), []);
}

#[test]
fn k2_a_clock_set_back_ten_years_changes_no_deadline() {
    const TEN_YEARS: i64 = 10 * 365 * 86_400;
    let mut machine = open(false);
    assert_eq!(machine.on_timeout(at(31 - TEN_YEARS)), []);
    assert_eq!(machine.next_timeout(), Some(at(31 - TEN_YEARS + 300)));
    assert_eq!(machine.stance(), Stance::Asked);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn f2_promises_hold_in_every_history(steps in proptest::collection::vec(step(), 0..80)) {
        let mut world = World::new();
        for step in steps {
            world.live(step)?;
        }
    }
}

/// What an onlooker knows, told apart from the machine's own state.
struct World {
    machine: Machine,
    now: i64,
    live_job: Option<u64>,
    opened: BTreeSet<u64>,
    all_jobs: u64,
    /// Somebody was asked, and no login came of it since.
    asked: bool,
    /// Persons who asked pomd to show the login, and have not been shown it yet.
    wishes: usize,
    /// A person said logout, or did not answer; nobody asked since.
    hushed: bool,
}

impl World {
    fn new() -> Self {
        Self {
            machine: Machine::new(None, at(0)),
            now: 0,
            live_job: None,
            opened: BTreeSet::new(),
            all_jobs: 0,
            asked: false,
            wishes: 0,
            hushed: false,
        }
    }

    fn live(&mut self, step: Step) -> Result<(), TestCaseError> {
        let before = self.machine.grant();
        let input = match step {
            Step::Wait(seconds) => {
                self.now += seconds;
                let actions = self.machine.on_timeout(at(self.now));
                self.obey(&actions, None)?;
                let next = self.machine.next_timeout();
                prop_assert!(
                    next.is_none_or(|it| it > at(self.now)),
                    "{next:?} keeps the driver busy"
                );
                prop_assert_eq!(
                    self.machine.on_timeout(at(self.now)),
                    [],
                    "a spurious call did something"
                );
                prop_assert_eq!(self.machine.grant(), before, "time ended a token");
                return Ok(());
            }
            Step::Demand { browser } => Input::Demand { browser },
            Step::Left => Input::Left,
            Step::Ask { shown_by_pomd } => {
                self.wishes += usize::from(shown_by_pomd);
                Input::Ask { shown_by_pomd }
            }
            Step::Job { kind, stale } => {
                let job = if stale {
                    self.all_jobs.saturating_sub(1)
                } else {
                    self.all_jobs
                };
                kind.input(job)
            }
            Step::Refused { stale } => Input::Refused {
                generation: before.unwrap_or(0).wrapping_sub(u64::from(stale)),
            },
            Step::Logout => Input::Logout,
            Step::LookAgain => Input::LookAgain,
        };
        if let Input::Opened { job } = input
            && self.live_job == Some(job)
        {
            self.opened.insert(job);
        }
        let actions = self.machine.on_input(input, at(self.now));
        self.obey(&actions, Some(input))?;
        self.judge(before, input)
    }

    fn obey(&mut self, actions: &[Action], cause: Option<Input>) -> Result<(), TestCaseError> {
        for action in actions {
            match *action {
                Action::Start { job } => {
                    prop_assert!(self.live_job.is_none(), "two logins at once");
                    let asked_for = matches!(cause, Some(Input::Ask { .. }));
                    prop_assert!(asked_for || !self.asked, "asked again by itself");
                    prop_assert!(
                        asked_for || !self.hushed,
                        "asked although it should be quiet"
                    );
                    self.live_job = Some(job);
                    self.all_jobs = job;
                }
                Action::Show { job } => {
                    prop_assert!(
                        self.live_job == Some(job) && self.opened.contains(&job),
                        "a dead link is shown"
                    );
                    prop_assert!(self.wishes > 0 || !self.asked, "a second tab by itself");
                    self.wishes = self.wishes.saturating_sub(1);
                    self.asked = true;
                }
                Action::End { job } => {
                    prop_assert_eq!(self.live_job, Some(job));
                    self.live_job = None;
                }
                Action::Forget => {
                    let wished = matches!(cause, Some(Input::Refused { .. } | Input::Logout));
                    prop_assert!(wished, "a token was forgotten for no reason");
                }
            }
        }
        Ok(())
    }

    fn judge(&mut self, before: Option<u64>, input: Input) -> Result<(), TestCaseError> {
        let after = self.machine.grant();
        match input {
            Input::LoggedIn { job } if self.live_job == Some(job) && self.opened.contains(&job) => {
                prop_assert!(after > before, "a login without a newer token");
                (self.live_job, self.asked, self.wishes, self.hushed) = (None, false, 0, false);
            }
            Input::Refused { generation } if before == Some(generation) => {
                prop_assert_eq!(after, None);
            }
            Input::Logout => {
                prop_assert_eq!(after, None);
                (self.hushed, self.wishes) = (true, 0);
            }
            _ => prop_assert_eq!(after, before, "the token changed"),
        }
        match input {
            Input::Opened { job } if self.live_job == Some(job) => {
                (self.asked, self.hushed) = (true, false);
            }
            Input::Failed { job } if self.live_job == Some(job) && !self.opened.contains(&job) => {
                self.live_job = None;
            }
            Input::Lost { job } if self.live_job == Some(job) => self.live_job = None,
            _ => {}
        }
        Ok(())
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Demand { browser: bool },
    Left,
    Ask { shown_by_pomd: bool },
    Job { kind: Kind, stale: bool },
    Refused { stale: bool },
    Logout,
    LookAgain,
    Wait(i64),
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Opened,
    Failed,
    NotShown,
    LoggedIn,
    Lost,
}

impl Kind {
    fn input(self, job: u64) -> Input {
        match self {
            Self::Opened => Input::Opened { job },
            Self::Failed => Input::Failed { job },
            Self::NotShown => Input::NotShown { job },
            Self::LoggedIn => Input::LoggedIn { job },
            Self::Lost => Input::Lost { job },
        }
    }
}

fn step() -> impl Strategy<Value = Step> {
    let kind = prop_oneof![
        4 => Just(Kind::Opened),
        1 => Just(Kind::Failed),
        1 => Just(Kind::NotShown),
        2 => Just(Kind::LoggedIn),
        1 => Just(Kind::Lost),
    ];
    let seconds = prop_oneof![
        4 => 0..30_i64,
        2 => 0..4000_i64,
        1 => -4000..4000_i64,
        1 => prop_oneof![Just(-315_360_000_i64), Just(315_360_000)],
    ];
    prop_oneof![
        4 => any::<bool>().prop_map(|browser| Step::Demand { browser }),
        1 => Just(Step::Left),
        1 => any::<bool>().prop_map(|shown_by_pomd| Step::Ask { shown_by_pomd }),
        6 => (kind, proptest::bool::weighted(0.1)).prop_map(|(kind, stale)| Step::Job { kind, stale }),
        1 => any::<bool>().prop_map(|stale| Step::Refused { stale }),
        1 => Just(Step::Logout),
        1 => Just(Step::LookAgain),
        4 => seconds.prop_map(Step::Wait),
    ]
}

const DEMAND: Input = Input::Demand { browser: true };

fn open(by_person: bool) -> Machine {
    let mut machine = Machine::new(None, at(0));
    if by_person {
        machine.on_input(
            Input::Ask {
                shown_by_pomd: false,
            },
            at(0),
        );
    } else {
        machine.on_input(DEMAND, at(0));
    }
    machine.on_input(Input::Opened { job: 1 }, at(1));
    machine
}

fn logged_in() -> Machine {
    let mut machine = open(true);
    machine.on_input(Input::LoggedIn { job: 1 }, at(2));
    machine
}

fn log_in(machine: &mut Machine, job: u64, now: Timestamp) {
    machine.on_input(
        Input::Ask {
            shown_by_pomd: false,
        },
        now,
    );
    log_in_open(machine, job, now);
}

fn log_in_open(machine: &mut Machine, job: u64, now: Timestamp) {
    machine.on_input(Input::Opened { job }, now);
    machine.on_input(Input::LoggedIn { job }, now);
}

fn refuse(machine: &mut Machine, generation: u64, now: Timestamp) -> Vec<Action> {
    machine.on_input(Input::Refused { generation }, now)
}

/// Looks in every 30 seconds and when due, as the driver does.
fn tick_until(machine: &mut Machine, from: i64, to: i64) -> Vec<(i64, Action)> {
    let mut res = Vec::new();
    let mut now = from;
    while now < to {
        let due = machine
            .next_timeout()
            .map_or(i64::MAX, |it| it.as_second() - at(0).as_second());
        now = due.clamp(now + 1, now + 30).min(to);
        res.extend(machine.on_timeout(at(now)).into_iter().map(|it| (now, it)));
    }
    res
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).unwrap()
}
