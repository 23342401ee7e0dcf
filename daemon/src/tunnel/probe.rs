//! The probe: shows that a route works by opening it once, and does not do so more often than useful.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use control::wire::{Code, Reason};
use jiff::tz::TimeZone;
use pomd_core::{
    config::ClusterName, route::refusal::OpenError, session::token::Grant, words::open as words,
};
use tokio::{
    io::{AsyncRead, ReadBuf},
    sync::Mutex,
    time::Instant,
};

use super::Tunnel;
use crate::upstream::{Early, EarlySource, Opened, steps::Steps};

/// For so long an answer is given again.
const REST: Duration = Duration::from_secs(5);

/// Why a probe did not open its route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeError {
    /// What a person must learn of it.
    pub reason: Reason,
    /// More about it, as pairs for a terminal.
    pub facts: Vec<(String, String)>,
    /// The cluster whose route it is.
    pub cluster: ClusterName,
}

type Answer = Result<Duration, ProbeError>;

/// The last answer. The lock is held while the route is opened: whoever asks meanwhile waits in it for the same answer,
/// and if the first one goes away the next one takes over, which is all of the single flight that is needed. What
/// happens inside has limits of its own.
#[derive(Debug, Default)]
pub(super) struct Probes(Mutex<Option<Probe>>);

#[derive(Debug)]
struct Probe {
    begun: Instant,
    at: Instant,
    /// The login that it was tried with: another one may get another answer.
    generation: u64,
    answer: Answer,
}

/// Which answers are good enough.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fresh {
    /// One that was given a moment ago.
    Enough,
    /// One that was looked for after the question.
    Anew,
}

/// Opens the route once; see [`Tunnel::probe`] and [`Tunnel::probe_anew`].
pub(super) async fn probe(tunnel: &Tunnel, fresh: Fresh) -> Answer {
    let asked = Instant::now();
    let grant = || tunnel.session.view().grant;
    let attempt = |it| open_with_any(tunnel, it);
    let Some(answer) = tunnel.probes.get(fresh, grant, attempt).await else {
        return Err(login_needed(tunnel));
    };
    // `up` has just taken the old reason away; an answer that is given again brings it back.
    if let Err(error) = &answer
        && !matches!(error.reason.code, Code::LoginNeeded | Code::Internal)
        && tunnel.outcome.trouble().is_none()
    {
        let at = tunnel.env.clock.now();
        tunnel.failed(
            asked,
            Reason {
                at,
                ..error.reason.clone()
            },
        );
    }
    answer
}

impl Probes {
    /// No answer from before counts any more; one that is being looked for does.
    pub(super) fn forget(&self) {
        if let Ok(mut last) = self.0.try_lock() {
            *last = None;
        }
    }

    /// The last answer if it is fresh and of the same login, else a new one. `None`: there is no grant.
    async fn get<F>(
        &self,
        fresh: Fresh,
        grant: impl Fn() -> Option<Grant>,
        attempt: impl FnOnce(Grant) -> F,
    ) -> Option<Answer>
    where
        F: Future<Output = Answer>,
    {
        let asked = Instant::now();
        let mut last = self.0.lock().await;
        let grant = grant()?;
        let generation = grant.generation;
        let is_fresh = |it: &&Probe| match fresh {
            Fresh::Enough => it.at.elapsed() < REST,
            Fresh::Anew => it.begun > asked,
        };
        let same_login = last.as_ref().filter(|it| it.generation == generation);
        if let Some(probe) = same_login.filter(is_fresh) {
            return Some(probe.answer.clone());
        }
        let begun = Instant::now();
        let answer = attempt(grant).await;
        *last = Some(Probe {
            begun,
            at: Instant::now(),
            generation,
            answer: answer.clone(),
        });
        Some(answer)
    }
}

/// Opens the route with `grant`, or with another one where the server may have meant the token by its refusal.
async fn open_with_any(tunnel: &Tunnel, grant: Grant) -> Answer {
    let start = Instant::now();
    let (error, grant) = match open(tunnel, &grant).await {
        Ok(took) => return Ok(took),
        Err(error) => match tunnel.session.instead_of(&grant, &error).await {
            None => (error, grant),
            Some(newer) => match open(tunnel, &newer).await {
                Ok(took) => return Ok(took),
                Err(error) => (error, newer),
            },
        },
    };
    if matches!(error, OpenError::Unauthenticated { .. }) {
        tunnel.session.refused(grant.generation).await;
        return Err(login_needed(tunnel));
    }
    let similar = tunnel.similar(&error, &grant).await;
    let context = tunnel.context(Some(&grant), &similar);
    let Some(reason) = words::reason(&error, &context) else {
        return Err(internal(tunnel));
    };
    tracing::warn!(
        tunnel = %tunnel.name,
        cluster = %tunnel.spec.cluster,
        reason = %reason.code,
        "{}",
        words::with_request_id(&reason)
    );
    tunnel.failed(start, reason.clone());
    Err(ProbeError {
        reason,
        facts: words::facts(&error, &context, &TimeZone::system()),
        cluster: tunnel.spec.cluster.clone(),
    })
}

async fn open(tunnel: &Tunnel, grant: &Grant) -> Result<Duration, OpenError> {
    let start = Instant::now();
    let mut steps = Steps::begin();
    let opened = open_once(tunnel, grant, &mut steps).await;
    tracing::debug!(tunnel = %tunnel.name, "probe: {steps}");
    drop(opened?);
    tunnel.session.accepted(grant.generation);
    tunnel.clear_outcome();
    Ok(start.elapsed())
}

/// Opens the route as a connection does whose client says nothing. Neither the session nor the outcome hear of it.
pub(super) async fn open_once(
    tunnel: &Tunnel,
    grant: &Grant,
    steps: &mut Steps,
) -> Result<Opened, OpenError> {
    let mut early = Early {
        source: Silent,
        kept: Vec::new(),
        ended: false,
    };
    let route = &tunnel.spec.route;
    let opening = tunnel
        .upstream
        .open_in_steps(route, &grant.token, &mut early, steps);
    opening.await
}

/// Returns the error that asks for a login.
pub(super) fn login_needed(tunnel: &Tunnel) -> ProbeError {
    let message = words::login_needed(&tunnel.spec.cluster);
    error(tunnel, Code::LoginNeeded, message)
}

/// There is no local side that could have gone away.
pub(super) fn internal(tunnel: &Tunnel) -> ProbeError {
    let message = words::probe_failed(tunnel.name.as_str());
    error(tunnel, Code::Internal, message)
}

fn error(tunnel: &Tunnel, code: Code, message: String) -> ProbeError {
    ProbeError {
        reason: Reason::new(code, message, tunnel.env.clock.now()),
        facts: Vec::new(),
        cluster: tunnel.spec.cluster.clone(),
    }
}

/// A local side that says nothing and stays.
struct Silent;

impl EarlySource for Silent {}

impl AsyncRead for Silent {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        _: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::{
        cell::Cell,
        future::{pending, ready},
    };

    use jiff::Timestamp;

    use super::*;
    use pomd_core::session::token::Token;

    fn grant(generation: u64) -> Option<Grant> {
        let token = Token::parse("secret").unwrap();
        let user = None;
        Some(Grant {
            generation,
            token,
            user,
        })
    }

    fn failed(code: Code) -> ProbeError {
        ProbeError {
            reason: Reason::new(code, String::new(), Timestamp::UNIX_EPOCH),
            facts: Vec::new(),
            cluster: ClusterName::parse("corp").unwrap(),
        }
    }

    const TOOK: Answer = Ok(Duration::from_millis(31));

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_given_again_for_five_seconds() {
        for first in [TOOK, Err(failed(Code::Forbidden))] {
            let probes = Probes::default();
            let tries = Cell::new(0);
            let attempt = |answer: Answer| {
                tries.set(tries.get() + 1);
                ready(answer)
            };
            for _ in 0..3 {
                let answer = probes
                    .get(Fresh::Enough, || grant(1), |_| attempt(first.clone()))
                    .await;
                assert_eq!(answer.unwrap(), first);
                tokio::time::advance(Duration::from_millis(1600)).await;
            }
            assert_eq!(tries.get(), 1);
            tokio::time::advance(Duration::from_millis(200)).await;
            probes
                .get(Fresh::Enough, || grant(1), |_| attempt(TOOK))
                .await;
            assert_eq!(tries.get(), 2);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_not_given_to_another_login() {
        let probes = Probes::default();
        let refused: Answer = Err(failed(Code::LoginNeeded));
        let answer = probes
            .get(Fresh::Enough, || grant(1), |_| ready(refused.clone()))
            .await;
        assert_eq!(answer.unwrap(), refused);
        assert_eq!(
            probes.get(Fresh::Enough, || None, |_| ready(TOOK)).await,
            None
        );
        let answer = probes
            .get(Fresh::Enough, || grant(2), |_| ready(TOOK))
            .await;
        assert_eq!(answer.unwrap(), TOOK);
    }

    #[tokio::test(start_paused = true)]
    async fn all_who_ask_at_once_share_one_attempt() {
        let probes = Probes::default();
        let tries = Cell::new(0);
        let ask = || {
            probes.get(
                Fresh::Enough,
                || grant(1),
                |_| async {
                    tries.set(tries.get() + 1);
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    TOOK
                },
            )
        };
        let (a, b, c) = tokio::join!(ask(), ask(), ask());
        assert_eq!((a, b, c), (Some(TOOK), Some(TOOK), Some(TOOK)));
        assert_eq!(tries.get(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_asks_anew_is_given_no_answer_from_before_and_shares_one_from_after() {
        let probes = Probes::default();
        let tries = Cell::new(0);
        let ask = || {
            probes.get(
                Fresh::Anew,
                || grant(1),
                |_| async {
                    tries.set(tries.get() + 1);
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    TOOK
                },
            )
        };
        ask().await;
        let second = ask();
        // These ask while the second attempt runs, and share the third.
        let others = async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            tokio::join!(ask(), ask(), ask())
        };
        tokio::join!(second, others);
        assert_eq!(tries.get(), 3);
        // And are good for who is content with the last.
        probes
            .get(Fresh::Enough, || grant(1), |_| ready(TOOK))
            .await;
        assert_eq!(tries.get(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_leaves_does_not_take_the_others_answer_along() {
        let probes = Probes::default();
        let leaves = probes.get(Fresh::Enough, || grant(1), |_| pending());
        assert!(
            tokio::time::timeout(Duration::from_secs(1), leaves)
                .await
                .is_err()
        );
        let stays = probes.get(Fresh::Enough, || grant(1), |_| ready(TOOK));
        assert_eq!(stays.await, Some(TOOK));
    }
}
