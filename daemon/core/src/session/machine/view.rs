//! What others may know of a session: the [`View`] for everybody, the [`WaiterView`] for connections that wait.

use crate::{
    config::Address,
    session::{error::LoginError, token::Grant},
    words::login,
};
use control::wire::{ClusterState, Code, Reason};
use jiff::{SignedDuration, Timestamp};

use super::{Core, Handover, WaitPolicy};

/// What everybody may know of a session. Holds no link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// Whether somebody is logged in.
    pub state: ClusterState,
    /// The token to use now.
    pub grant: Option<Grant>,
    /// When the login was made, or since when one is needed.
    pub since: Option<Timestamp>,
    /// When the session ends at the latest, if the server said so.
    pub until: Option<Timestamp>,
    /// How many connections wait for a login.
    pub waiting: u64,
    /// What is wrong.
    pub reason: Option<Reason>,
}

/// What a connection that waits looks at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WaiterView {
    /// The token to use now.
    pub grant: Option<Grant>,
    /// What a connection without a token may hope for.
    pub policy: WaitPolicy,
    /// Grows whenever everybody who waits is sent away.
    pub dismissals: u64,
    /// Why there is no grant; meant only where there is none.
    pub reason: Reason,
    /// Where a login was made last, or would be.
    pub address: Address,
    /// A person logged out, and nobody logged in since.
    pub logged_out: bool,
}

/// Why there is no grant.
#[derive(Debug)]
pub enum Need<'a> {
    /// The server refused two tokens right after it gave them.
    RefusedTwice,
    /// The last attempt failed.
    Failed {
        /// How.
        error: &'a LoginError,
        /// When.
        at: Timestamp,
        /// How long connections start no other.
        pause: Option<SignedDuration>,
    },
    /// There is no token yet of a source that asks nobody, or somebody logged out.
    Token,
    /// Somebody has to log in.
    Login {
        /// Why the login could not be shown.
        not_shown: Option<&'a str>,
        /// What the disk did not take.
        not_written: Option<&'a str>,
    },
}

impl Core {
    /// The session for everybody. Holds for any time: see [`View::at`].
    pub fn view(&self) -> View {
        let credential = self.credential.as_ref();
        let trouble = self.disk.trouble();
        View {
            state: self.state(),
            grant: self.grant(),
            since: Some(self.since),
            until: credential.and_then(|it| it.until),
            waiting: self.waiters,
            reason: if credential.is_some() {
                trouble.map(|(message, at)| Reason::new(Code::Local, message.clone(), *at))
            } else {
                Some(self.reason())
            },
        }
    }

    /// The session for connections that wait.
    pub fn waiter_view(&self) -> WaiterView {
        WaiterView {
            grant: self.grant(),
            policy: self.attempts.wait_policy(),
            dismissals: self.attempts.dismissals(),
            reason: self.reason(),
            address: self.address.clone(),
            logged_out: self.state() == ClusterState::LoggedOut,
        }
    }

    fn state(&self) -> ClusterState {
        let is_open = self.attempts.open_until().is_some();
        match self.attempts.wait_policy() {
            _ if self.generation().is_some() => ClusterState::LoggedIn,
            WaitPolicy::Asked if is_open => ClusterState::LoginRunning,
            _ if self.attempts.is_logged_out() => ClusterState::LoggedOut,
            _ => ClusterState::LoginNeeded,
        }
    }

    /// Why there is no grant.
    fn reason(&self) -> Reason {
        let need = if self.attempts.refused_twice() {
            Need::RefusedTwice
        } else if let Some((error, at)) = &self.error
            && self.attempts.last_failed()
        {
            let next = self.attempts.backing_off_until();
            Need::Failed {
                error,
                at: *at,
                pause: next.map(|it| it.duration_since(*at)),
            }
        } else if !self.asks_a_person {
            Need::Token
        } else {
            Need::Login {
                not_shown: self.not_shown.as_deref(),
                not_written: self.disk.trouble().map(|it| it.0.as_str()),
            }
        };
        login::reason(&self.cluster, &need, self.since)
    }
}

impl WaiterView {
    /// The grant, if it is newer than `after` (any, if `None`).
    pub fn newer(&self, after: Option<u64>) -> Option<Grant> {
        let grant = self.grant.as_ref();
        grant
            .filter(|it| after.is_none_or(|after| it.generation > after))
            .cloned()
    }

    /// What the session leaves to its successor if it ends as it is seen here.
    pub fn handover(&self) -> Handover {
        Handover {
            grant: self.grant.clone(),
            address: Some(self.address.clone()),
            on_request_only: self.policy == WaitPolicy::OnRequestOnly,
            logged_out: self.logged_out,
        }
    }
}

impl View {
    /// The session as it is at `now`: over, once its upper bound has passed. The token stays, as only the server ends
    /// it: the next connection tries it once before a login is asked for.
    pub fn at(self, now: Timestamp, cluster: &str) -> Self {
        if self.state != ClusterState::LoggedIn {
            return self;
        }
        match self.until {
            Some(until) if until <= now => Self {
                state: ClusterState::LoginNeeded,
                since: Some(until),
                until: None,
                reason: Some(login::login_needed(cluster, until)),
                ..self
            },
            _ => self,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::token::Token;

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
            assert_eq!(
                super::super::is_no_bound(at(1000), at(now)),
                expected,
                "{now}"
            );
        }
    }
}
