//! What a session knows, and how it is told: the [`View`] for everybody, the [`Standing`] for who waits.
//!
//! Pure: facts and the time in, words out.

use control::wire::{ClusterState, Code, Reason};
use jiff::{SignedDuration, Timestamp};
use pomd_core::{config::Address, session::token::Login};

use super::{
    Grant, View,
    machine::{Machine, Stance},
    pomerium::Failure,
};

/// How much later than its upper bound a session must be accepted to show that the bound means nothing: before, the
/// server's clock may only be slow.
const PLAINLY_PAST: SignedDuration = SignedDuration::from_secs(60);

/// What a session knows.
#[derive(Debug)]
pub(super) struct Facts {
    pub(super) cluster: String,
    pub(super) machine: Machine,
    /// The login that the machine's grant stands for.
    pub(super) login: Option<Login>,
    /// When the login was made, or since when one is needed.
    pub(super) since: Timestamp,
    /// Where a login was made last, or would be.
    pub(super) address: Address,
    /// Why the last login came to no link, and when.
    pub(super) failure: Option<(Failure, Timestamp)>,
    /// Why the link could not be shown.
    pub(super) not_shown: Option<String>,
    /// What the disk did not take, and when.
    pub(super) unsaved: Option<(String, Timestamp)>,
}

/// What a connection that waits looks at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Standing {
    pub(super) grant: Option<Grant>,
    pub(super) stance: Stance,
    pub(super) dismissals: u64,
    /// Why there is no grant; meant only where there is none.
    pub(super) reason: Reason,
    pub(super) address: Address,
}

impl Facts {
    /// Holds for any time: see [`View::at`].
    pub(super) fn view(&self, waiting: u64) -> View {
        let login = self.login.as_ref();
        let unsaved = self.unsaved.as_ref();
        View {
            state: self.machine.state(),
            grant: self.grant(),
            since: Some(self.since),
            until: login.and_then(|it| it.until),
            waiting,
            reason: if login.is_some() {
                unsaved.map(|(message, at)| Reason::new(Code::Local, message.clone(), *at))
            } else {
                Some(self.reason())
            },
        }
    }

    pub(super) fn standing(&self) -> Standing {
        Standing {
            grant: self.grant(),
            stance: self.machine.stance(),
            dismissals: self.machine.dismissals(),
            reason: self.reason(),
            address: self.address.clone(),
        }
    }

    fn grant(&self) -> Option<Grant> {
        let generation = self.machine.grant()?;
        self.login.as_ref().map(|it| Grant {
            generation,
            token: it.token.clone(),
            user: it.user.clone(),
        })
    }

    /// Why there is no grant.
    fn reason(&self) -> Reason {
        let cluster = &self.cluster;
        if self.machine.distrusts() {
            let message =
                format!("{cluster} refuses the token it just gave. Run: pomctl login {cluster}");
            return Reason::new(Code::LoginFailed, message, self.since);
        }
        if let Some((failure, at)) = &self.failure
            && self.machine.tries_in_vain()
        {
            let mut res = failure.clone().into_reason(*at);
            res.hint = res.hint.or_else(|| self.next_try(*at));
            return res;
        }
        let not_shown = self.not_shown.as_ref();
        Reason {
            hint: not_shown
                .map(|why| format!("the browser did not open: {why}"))
                .or_else(|| self.unsaved.as_ref().map(|(message, _)| message.clone())),
            ..login_needed(cluster, self.since)
        }
    }

    fn next_try(&self, failed_at: Timestamp) -> Option<String> {
        let pause = self.machine.cooling()?.duration_since(failed_at).as_secs();
        let cluster = &self.cluster;
        Some(format!(
            "pomd tries again for the next connection after {pause} s; to try now: pomctl login {cluster}"
        ))
    }
}

impl View {
    /// The session as it stands at `now`: over, once its upper bound has passed. The token stays, as only the server
    /// ends it: the next connection tries it once before a login is asked for.
    pub(super) fn at(self, now: Timestamp, cluster: &str) -> Self {
        if self.state != ClusterState::LoggedIn {
            return self;
        }
        match self.until {
            Some(until) if until <= now => Self {
                state: ClusterState::LoginNeeded,
                since: Some(until),
                until: None,
                reason: Some(login_needed(cluster, until)),
                ..self
            },
            _ => self,
        }
    }
}

/// Whether a server that accepts a session at `now` shows that `until` is no bound of it.
pub(super) fn is_no_bound(until: Timestamp, now: Timestamp) -> bool {
    now.duration_since(until) >= PLAINLY_PAST
}

fn login_needed(cluster: &str, since: Timestamp) -> Reason {
    let message = format!("{cluster} needs a login. Run: pomctl login {cluster}");
    Reason::new(Code::LoginNeeded, message, since)
}

#[cfg(test)]
mod tests {
    use super::*;
    use pomd_core::session::token::Token;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    fn logged_in(until: Option<Timestamp>) -> View {
        View {
            state: ClusterState::LoggedIn,
            grant: Some(Grant {
                generation: 1,
                token: Token::parse("secret").unwrap(),
                user: None,
            }),
            since: Some(at(0)),
            until,
            waiting: 2,
            reason: None,
        }
    }

    #[test]
    fn l14_k3_a_session_is_over_from_its_upper_bound_on_and_is_there_again_if_the_clock_was_wrong()
    {
        let view = logged_in(Some(at(1000)));
        for (now, state, since, until) in [
            (0, ClusterState::LoggedIn, 0, Some(at(1000))),
            (999, ClusterState::LoggedIn, 0, Some(at(1000))),
            (1000, ClusterState::LoginNeeded, 1000, None),
            (1_000_000, ClusterState::LoginNeeded, 1000, None),
            // A clock that had been set ahead by days is set right.
            (998, ClusterState::LoggedIn, 0, Some(at(1000))),
        ] {
            let seen = view.clone().at(at(now), "corp");
            assert_eq!((seen.state, seen.until), (state, until), "{now}");
            assert_eq!(seen.since, Some(at(since)), "{now}");
            assert_eq!(seen.grant, view.grant, "only the server ends a token");
            assert_eq!(seen.reason.is_some(), state != ClusterState::LoggedIn);
        }
        let endless = logged_in(None);
        assert_eq!(endless.clone().at(at(1 << 32), "corp"), endless);
    }

    #[test]
    fn l14_a_server_with_a_slow_clock_does_not_make_a_bound_meaningless() {
        for (now, expected) in [(0, false), (1000, false), (1059, false), (1060, true)] {
            assert_eq!(is_no_bound(at(1000), at(now)), expected, "{now}");
        }
    }
}
