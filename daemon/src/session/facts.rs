//! What a session knows, and how it is told: the [`View`] for everybody, the [`Standing`] for who waits.
//!
//! Pure: facts and the time in, words out.

use control::wire::{Code, Reason};
use jiff::Timestamp;

use super::{
    Grant, View,
    machine::{Machine, Stance},
    pomerium::Failure,
    token::Login,
};
use crate::config::Address;

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
    pub(super) fn view(&self, waiting: u64, now: Timestamp) -> View {
        let login = self.login.as_ref();
        let unsaved = self.unsaved.as_ref();
        View {
            state: self.machine.state(),
            grant: self.grant(),
            since: Some(self.since),
            // A server that goes on taking the token was wrong about its end, or this clock is.
            until: login.and_then(|it| it.until).filter(|it| *it > now),
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
        let message = format!("{cluster} needs a login. Run: pomctl login {cluster}");
        let not_shown = self.not_shown.as_ref();
        Reason {
            hint: not_shown
                .map(|why| format!("the browser did not open: {why}"))
                .or_else(|| self.unsaved.as_ref().map(|(message, _)| message.clone())),
            ..Reason::new(Code::LoginNeeded, message, self.since)
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
