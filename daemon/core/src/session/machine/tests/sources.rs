//! Sources that ask nobody: files, variables, programs, workload identities.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use proptest::{prelude::*, test_runner::TestCaseError};

use super::*;
use crate::{config::TokenKind, session::error::SourceError};

/// A bearer token with a name, that ends then.
fn bearer(name: u64, ends: i64) -> Token {
    let claims = format!(
        "{{\"sub\":\"pod-{name}\",\"iss\":\"https://issuer.test\",\"aud\":[\"corp\"],\"exp\":{}}}",
        at(ends).as_second()
    );
    let claims = BASE64_URL_SAFE_NO_PAD.encode(claims);
    Token::of_kind(&format!("e30.{claims}.c2ln"), TokenKind::Bearer).unwrap()
}

fn core() -> Core {
    let addresses = vec![address("corp.example.com")];
    Core::new(
        "corp".to_owned(),
        false,
        addresses,
        Handover::default(),
        None,
        at(0),
    )
}

fn gives(attempt: u64, token: Token) -> Input {
    let answer = Answer {
        user: token.claims().user,
        token,
        until: None,
        address: address("corp.example.com"),
    };
    Input::Obtained(attempt, answer)
}

fn fails(attempt: u64) -> Input {
    let error = LoginError::Source {
        source: crate::config::TokenSource::Env("TOKEN".to_owned()),
        error: SourceError::NotSet,
    };
    Input::Failed(attempt, error)
}

fn starts(effects: &[Effect]) -> Vec<u64> {
    let started = effects.iter().filter_map(|it| match it {
        Effect::Start(attempt) => Some(*attempt),
        _ => None,
    });
    started.collect()
}

fn rest(core: &Core, now: i64) -> i64 {
    core.rest(at(now)).unwrap().as_secs().cast_signed()
}

#[test]
fn a_source_that_asks_nobody_is_asked_at_once_and_nothing_of_it_reaches_the_disk() {
    let mut core = core();
    assert_eq!(starts(&core.on_timeout(at(0))), [1]);
    let effects = core.on_input(gives(1, bearer(1, 100)), at(1));
    assert!(!effects.iter().any(|it| matches!(it, Effect::Write(_))));
    assert_eq!(core.view().state, ClusterState::LoggedIn);
    let effects = core.on_input(Input::Logout, at(2));
    assert!(core.grant().is_none());
    assert!(starts(&effects).is_empty() && starts(&core.on_timeout(at(50))).is_empty());
    let asking = Input::Ask {
        asker: 7,
        shown_by_pomd: true,
    };
    assert_eq!(starts(&core.on_input(asking, at(60))), [2]);
    let effects = core.on_input(gives(2, bearer(1, 100)), at(61));
    assert!(effects.contains(&Effect::Reply(7, Reply::Granted)));
    assert!(core.grant().is_some());
}

#[test]
fn a_token_is_renewed_before_its_end_and_the_old_one_serves_until_then_but_no_longer() {
    for (life, margin) in [(10, 2), (60, 12), (3600, 300), (86400, 300)] {
        let mut core = core();
        core.on_timeout(at(0));
        core.on_input(gives(1, bearer(1, life)), at(0));
        assert_eq!(rest(&core, 0), life - margin);
        assert_eq!(starts(&core.on_timeout(at(life - margin))), [2]);
        assert_eq!(core.generation(), Some(1), "the old one serves");
        core.on_input(gives(2, bearer(2, 2 * life)), at(life - margin + 1));
        assert_eq!(core.generation(), Some(2));

        let mut late = super::sources::core();
        late.on_timeout(at(0));
        late.on_input(gives(1, bearer(1, life)), at(0));
        for now in (life - margin..life).step_by(30) {
            late.on_timeout(at(now));
        }
        late.on_timeout(at(life));
        assert_eq!(late.generation(), None, "it is over");
        late.on_input(gives(2, bearer(2, 2 * life)), at(life + 1));
        assert_eq!(late.generation(), Some(2));
    }
}

#[test]
fn a_file_that_is_not_rotated_yet_is_looked_at_again_and_again_but_never_in_a_rush() {
    let mut core = core();
    core.on_timeout(at(0));
    core.on_input(gives(1, bearer(1, 1000)), at(0));
    let (mut now, mut asked) = (0, 0);
    while now < 1000 {
        now += rest(&core, now).max(1);
        for attempt in starts(&core.on_timeout(at(now))) {
            asked += 1;
            core.on_input(gives(attempt, bearer(1, 1000)), at(now));
        }
        assert!(core.generation() != Some(2), "the same is no other");
    }
    assert!((5..=30).contains(&asked), "{asked}");
    assert_eq!(core.generation(), None);
}

#[test]
fn l9_a_token_that_the_server_takes_past_its_end_is_kept_and_its_source_left_in_peace() {
    let mut core = core();
    core.on_timeout(at(0));
    let gives = |attempt| {
        Input::Obtained(
            attempt,
            Answer {
                token: Token::parse("service.account").unwrap(),
                user: None,
                until: Some(at(100)),
                address: address("corp.example.com"),
            },
        )
    };
    core.on_input(gives(1), at(0));
    let (mut now, mut asked) = (0, 0);
    while now < 86_400 {
        now += rest(&core, now).max(1);
        for attempt in starts(&core.on_timeout(at(now))) {
            asked += 1;
            core.on_input(gives(attempt), at(now));
        }
        assert_eq!(core.generation(), Some(1));
    }
    assert!((288..=310).contains(&asked), "{asked}");
}

#[test]
fn l10_what_the_server_refused_is_not_offered_again_until_the_source_changed_or_a_person_asks() {
    let mut core = core();
    core.on_timeout(at(0));
    core.on_input(gives(1, bearer(1, 10_000)), at(0));
    core.on_input(Input::Refused(1), at(1));
    assert_eq!(core.grant(), None);
    assert_eq!(starts(&core.on_timeout(at(1))), [2]);
    core.on_input(gives(2, bearer(1, 10_000)), at(1));
    assert_eq!(core.grant(), None);
    let reason = core.view().reason.unwrap();
    assert!(
        reason.message.contains("refuses the token")
            && reason
                .message
                .contains("audience corp, issuer https://issuer.test"),
        "{reason:?}"
    );
    assert!(starts(&core.on_timeout(at(3))).is_empty());
    assert_eq!(rest(&core, 3), 3);
    assert_eq!(starts(&core.on_input(Input::SourceChanged, at(4))), [3]);
    core.on_input(gives(3, bearer(2, 10_000)), at(4));
    assert_eq!(core.generation(), Some(2));
}

#[test]
fn a_403_has_a_bearer_token_fetched_anew_once_and_then_it_is_the_policys() {
    let mut core = core();
    core.on_timeout(at(0));
    core.on_input(gives(1, bearer(1, 10_000)), at(0));
    let doubted = |asker, generation| Input::Doubted { asker, generation };
    assert_eq!(starts(&core.on_input(doubted(1, 1), at(5))), [2]);
    assert!(starts(&core.on_input(doubted(2, 1), at(5))).is_empty());
    assert_eq!(core.generation(), Some(1), "it serves meanwhile");
    let effects = core.on_input(gives(2, bearer(1, 10_000)), at(6));
    for asker in [1, 2] {
        assert!(effects.contains(&Effect::Reply(asker, Reply::Granted)));
    }
    assert_eq!(core.generation(), Some(1));
    let effects = core.on_input(doubted(3, 1), at(7));
    assert_eq!(effects, [Effect::Reply(3, Reply::Granted)]);
    core.on_input(Input::SourceChanged, at(8));
    core.on_input(gives(3, bearer(2, 10_000)), at(8));
    assert_eq!(starts(&core.on_input(doubted(4, 2), at(9))), [4]);
    let effects = core.on_input(doubted(5, 1), at(9));
    assert_eq!(effects, [Effect::Reply(5, Reply::Granted)]);
}

#[test]
fn a_source_that_fails_is_asked_again_after_longer_and_longer_pauses() {
    let mut core = core();
    let (mut now, mut pauses) = (0, Vec::new());
    for attempt in 1..=9 {
        assert_eq!(starts(&core.on_timeout(at(now))), [attempt]);
        core.on_input(fails(attempt), at(now));
        pauses.push(rest(&core, now));
        now += rest(&core, now);
    }
    assert_eq!(pauses, [5, 10, 20, 40, 80, 160, 300, 300, 300]);
    assert_eq!(
        starts(&core.on_input(Input::SourceChanged, at(now - 1))),
        [10]
    );
}

#[derive(Clone, Debug)]
enum Step {
    Wait(i64),
    SetClock(i64),
    Demand,
    Ask,
    /// The source gives a token of this name, that lives so long.
    Give {
        name: u64,
        life: i64,
    },
    Fail,
    Lost,
    Refused,
    Doubted {
        back: u64,
    },
    Accepted,
    Changed,
    Logout,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..400_i64).prop_map(Step::Wait),
        1 => (-100_000..100_000_i64).prop_map(Step::SetClock),
        2 => Just(Step::Demand),
        1 => Just(Step::Ask),
        6 => (1..6_u64, -5..2000_i64).prop_map(|(name, life)| Step::Give { name, life }),
        2 => Just(Step::Fail),
        1 => Just(Step::Lost),
        2 => Just(Step::Refused),
        2 => (0..2_u64).prop_map(|back| Step::Doubted { back }),
        2 => Just(Step::Accepted),
        1 => Just(Step::Changed),
        1 => Just(Step::Logout),
    ]
}

/// What an onlooker knows.
struct World {
    core: Core,
    now: i64,
    live: Option<u64>,
    /// The token that is good as far as anybody said.
    held: Option<Token>,
    refused: Option<Token>,
    left: bool,
    generations: u64,
    askers: std::collections::BTreeSet<Asker>,
    newest_asker: Asker,
    started: u64,
}

impl World {
    fn feed(&mut self, input: Input) -> Result<Vec<Effect>, TestCaseError> {
        let effects = self.core.on_input(input, at(self.now));
        self.obey(&effects)?;
        Ok(effects)
    }

    fn obey(&mut self, effects: &[Effect]) -> Result<(), TestCaseError> {
        for effect in effects {
            match effect {
                Effect::Start(attempt) => {
                    prop_assert!(self.live.is_none(), "two attempts at once");
                    self.live = Some(*attempt);
                    self.started += 1;
                }
                Effect::Cancel(attempt) => {
                    prop_assert_eq!(self.live.take(), Some(*attempt));
                }
                Effect::Reply(asker, _) => prop_assert!(self.askers.remove(asker)),
                Effect::Show(_) => prop_assert!(false, "a person is shown something"),
                // A logout forgets what another source left there.
                Effect::Write(write) => prop_assert!(write.save.is_none()),
                _ => {}
            }
        }
        self.check()
    }

    fn check(&mut self) -> Result<(), TestCaseError> {
        let now = at(self.now);
        self.held
            .take_if(|it| it.expires().is_some_and(|it| it <= now));
        let grant = self.core.grant();
        let token = grant.as_ref().map(|it| &it.token);
        prop_assert_eq!(token, self.held.as_ref());
        prop_assert!(self.refused.is_none() || token != self.refused.as_ref());
        prop_assert!(
            self.live.is_some() || self.askers.is_empty(),
            "a person waits for nothing"
        );
        Ok(())
    }

    fn wake(&mut self) -> Result<(), TestCaseError> {
        let effects = self.core.on_timeout(at(self.now));
        self.obey(&effects)?;
        prop_assert_ne!(
            self.core.rest(at(self.now)),
            Some(std::time::Duration::ZERO)
        );
        prop_assert_eq!(self.core.on_timeout(at(self.now)), []);
        Ok(())
    }

    fn asks(&mut self) -> Asker {
        self.newest_asker += 1;
        self.askers.insert(self.newest_asker);
        self.newest_asker
    }

    fn live(&mut self, step: Step) -> Result<(), TestCaseError> {
        match step {
            Step::Wait(seconds) => {
                let (ends, before) = (self.now + seconds, self.started);
                while self.now < ends {
                    self.wake()?;
                    let rest = self.core.rest(at(self.now)).map_or(seconds, |it| {
                        i64::try_from(it.as_secs()).unwrap_or(seconds).max(1)
                    });
                    self.now = ends.min(self.now.saturating_add(rest));
                }
                self.wake()?;
                prop_assert!(self.started <= before + 1, "one attempt, until it ends");
            }
            Step::SetClock(by) => {
                self.now += by;
                self.wake()?;
            }
            Step::Demand => {
                self.feed(Input::Waiters(1))?;
                let after = self.core.generation();
                self.feed(Input::Demand {
                    after,
                    unattended: Some(true),
                })?;
            }
            Step::Ask => {
                let asker = self.asks();
                self.refused = None;
                self.feed(Input::Ask {
                    asker,
                    shown_by_pomd: true,
                })?;
            }
            Step::Give { name, life } => {
                // Time may end the attempt, or the token, first.
                self.wake()?;
                let Some(attempt) = self.live.take() else {
                    return Ok(());
                };
                let token = bearer(name, self.now + life);
                let is_over = life <= 0;
                if !is_over && self.refused.as_ref() != Some(&token) {
                    self.generations += u64::from(self.held.as_ref() != Some(&token));
                    self.held = Some(token.clone());
                    (self.refused, self.left) = (None, false);
                }
                self.feed(gives(attempt, token))?;
                if self.held.is_some() {
                    prop_assert_eq!(self.core.generation(), Some(self.generations));
                }
            }
            Step::Fail => {
                if let Some(attempt) = self.live.take() {
                    self.feed(fails(attempt))?;
                }
            }
            Step::Lost => {
                if let Some(attempt) = self.live.take() {
                    self.feed(Input::Lost(attempt))?;
                }
            }
            Step::Refused => {
                self.wake()?;
                if let Some(token) = self.held.take() {
                    self.refused = Some(token);
                    self.feed(Input::Refused(self.generations))?;
                }
            }
            Step::Doubted { back } => {
                let asker = self.asks();
                let generation = self.generations.saturating_sub(back);
                self.feed(Input::Doubted { asker, generation })?;
            }
            Step::Accepted => {
                self.feed(Input::Accepted(self.generations))?;
            }
            Step::Changed => {
                self.refused = None;
                self.feed(Input::SourceChanged)?;
                prop_assert!(self.live.is_some() || self.left, "what changed is read");
            }
            Step::Logout => {
                self.held = None;
                self.left = true;
                self.feed(Input::Logout)?;
                prop_assert!(self.live.is_none());
            }
        }
        self.check()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn f2_promises_hold_in_every_history_of_a_source_that_asks_nobody(
        steps in proptest::collection::vec(step(), 0..80),
    ) {
        let mut world = World {
            core: core(),
            now: 0,
            live: None,
            held: None,
            refused: None,
            left: false,
            generations: 0,
            askers: Default::default(),
            newest_asker: 0,
            started: 0,
        };
        world.wake()?;
        prop_assert!(world.live.is_some(), "asked at once");
        for step in steps {
            world.live(step)?;
        }
        // Whatever happened: unless a person logged out, it is asked again within the longest pause.
        if let Some(attempt) = world.live.take() {
            world.feed(fails(attempt))?;
        }
        world.held = None;
        let generation = world.core.generation().unwrap_or(0);
        world.core.on_input(Input::Refused(generation), at(world.now));
        world.now += 301;
        let effects = world.core.on_timeout(at(world.now));
        prop_assert_eq!(starts(&effects).len(), usize::from(!world.left && world.live.is_none()));
    }
}
