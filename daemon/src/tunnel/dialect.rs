//! [`Dialect`]: what a tunnel has to know of the language that its clients speak.
//!
//! A new dialect answers the questions here, and nothing elsewhere asks which one it is. Must not know sockets.

use std::time::Duration;

use control::ssh_refusal;

/// The language of a tunnel's clients, as far as it matters before their route is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    /// Any protocol: a refusal can only be told as a reset.
    Raw,
    /// SSH: its client shows what it is told instead of the server's greeting.
    Ssh,
}

/// How long a client that said nothing is waited for: it may be a port scanner, for whose sake no login is asked.
const FIRST_WORD: Duration = Duration::from_millis(300);
/// The same where a login is there already and only a dial is at stake: clients of protocols in which the server speaks
/// first must not wait noticeably.
const FIRST_WORD_LOGGED_IN: Duration = Duration::from_millis(20);
/// How long a client waits for a login that nobody asked for, unless its person was told why it waits.
const UNASKED_LOGIN: Duration = Duration::from_secs(30);
/// A client that sent what it had, closed in order and left is served if its route opens within this time: it wants no
/// answer. Later nobody expects any more that something happens.
const LAST_WORDS: Duration = Duration::from_secs(5);

impl Dialect {
    /// The dialect of a tunnel with the setting `ssh`.
    pub(super) fn of(ssh: bool) -> Self {
        if ssh { Self::Ssh } else { Self::Raw }
    }

    /// How long to wait for the client's first word before its route is opened all the same.
    pub(super) fn first_word(self, logged_in: bool) -> Duration {
        match (self, logged_in) {
            (Self::Raw | Self::Ssh, true) => FIRST_WORD_LOGGED_IN,
            (Self::Raw | Self::Ssh, false) => FIRST_WORD,
        }
    }

    /// How long a client waits for a login that nobody asked for; zero if it is better told at once. `knows`: its person
    /// was told already.
    pub(super) fn unasked_login(self, knows: bool) -> Duration {
        match self {
            Self::Ssh if !knows => Duration::ZERO,
            Self::Raw | Self::Ssh => UNASKED_LOGIN,
        }
    }

    /// What a refused client is told in its own words before its connection ends; `None`: it is reset.
    pub(super) fn refusal(self, why: &str) -> Option<Vec<u8>> {
        match self {
            Self::Raw => None,
            Self::Ssh => Some(ssh_refusal::refusal(why)),
        }
    }

    /// Whether a client is gone that sent something and ended its side `ended` ago. It is still there if a process is known
    /// to hold its socket: it only ended one direction. An ssh client that left wants nothing any more.
    pub(super) fn is_gone(self, held: Option<bool>, ended: Duration) -> bool {
        match (self, held) {
            (_, Some(true)) => false,
            (Self::Ssh, Some(false)) => true,
            (_, Some(false) | None) => ended >= LAST_WORDS,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_left_is_gone_at_once_or_after_a_while_as_its_dialect_has_it() {
        let soon = Duration::from_millis(1);
        for (dialect, held, ended, gone) in [
            (Dialect::Raw, Some(true), LAST_WORDS, false),
            (Dialect::Ssh, Some(true), LAST_WORDS, false),
            (Dialect::Raw, Some(false), soon, false),
            (Dialect::Raw, Some(false), LAST_WORDS, true),
            (Dialect::Ssh, Some(false), soon, true),
            (Dialect::Raw, None, soon, false),
            (Dialect::Ssh, None, soon, false),
            (Dialect::Ssh, None, LAST_WORDS, true),
        ] {
            assert_eq!(dialect.is_gone(held, ended), gone, "{dialect:?} {held:?}");
        }
    }

    #[test]
    fn only_ssh_is_told_in_words_and_waits_for_no_login_that_nobody_asked_for() {
        assert_eq!(Dialect::of(false).refusal("no"), None);
        let told = Dialect::of(true).refusal("no");
        assert_eq!(told, Some(ssh_refusal::refusal("no")));
        assert_eq!(Dialect::Ssh.unasked_login(false), Duration::ZERO);
        assert_eq!(Dialect::Ssh.unasked_login(true), UNASKED_LOGIN);
        assert_eq!(Dialect::Raw.unasked_login(false), UNASKED_LOGIN);
    }
}
