//! What must never happen, whoever does what. Knows what was done to pomd and what was seen of it, and nothing of how it
//! works.

use std::{collections::BTreeMap, time::Duration};

use control::wire::ClusterState;
use pomd_core::config::Address;

/// The longest that any connection waits: half a minute for nobody, then five minutes for a person.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30 + 300);

/// Why something may happen now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// A person asked for a login.
    Asked,
    /// A person signed in by the login that is open.
    SignedIn,
    /// A person logged out.
    LoggedOut,
    /// The server refused the token that is held.
    Refused,
    /// Anything else.
    Other,
}

/// What is known of one cluster.
#[derive(Debug, Default)]
struct Book {
    token: Option<String>,
    /// A login is being made, or is open.
    live: bool,
    /// pomd asked by itself, and nothing came of it.
    asked: bool,
    /// A person said logout; none asked since.
    hushed: bool,
    /// A person said logout; nobody logged in since.
    left: bool,
    /// Persons who want pomd to show the login.
    wishes: usize,
    /// Whoever asked last shows the login themselves.
    by_themselves: bool,
    /// A program came since the machine slept.
    demanded: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Oracle {
    books: BTreeMap<String, Book>,
}

impl Oracle {
    fn book(&mut self, cluster: &str) -> &mut Book {
        self.books.entry(cluster.to_owned()).or_default()
    }

    /// Other sessions stand for these clusters. Each holds the token that the one before left, or the disk; without one
    /// it asks no more by itself than the one before would have (by name, where that one no longer waited for an answer).
    pub(crate) fn begun<'a>(
        &mut self,
        heirs: impl IntoIterator<Item = (&'a str, Option<&'a str>, Option<&'a str>)>,
    ) {
        let heirs = heirs.into_iter().map(|(cluster, token, before)| {
            let before = before.filter(|_| token.is_none());
            let before = before.and_then(|it| self.books.get(it));
            let book = Book {
                token: token.map(str::to_owned),
                asked: before.is_some_and(|it| it.asked),
                hushed: before.is_some_and(|it| it.hushed),
                left: before.is_some_and(|it| it.left),
                ..Book::default()
            };
            (cluster.to_owned(), book)
        });
        let heirs: Vec<_> = heirs.collect();
        self.books.extend(heirs);
    }

    /// pomd was killed.
    pub(crate) fn forget(&mut self) {
        self.books.clear();
    }

    /// The machine slept, or its clock was set forward by as much.
    pub(crate) fn slept(&mut self) {
        self.books.values_mut().for_each(|it| it.demanded = false);
    }

    pub(crate) fn demanded(&mut self, cluster: &str) {
        self.book(cluster).demanded = true;
    }

    pub(crate) fn asked(&mut self, cluster: &str, shown_by_pomd: bool) {
        let book = self.book(cluster);
        // A person who is logged in is not asked.
        if book.token.is_none() {
            book.wishes += usize::from(shown_by_pomd);
            book.by_themselves = !shown_by_pomd;
            (book.asked, book.hushed) = (false, false);
        }
    }

    /// P1: one login at a time, and none by itself where pomd has asked in vain, or was told to be quiet.
    pub(crate) fn started(&mut self, cluster: &str, cause: Cause) {
        let book = self.book(cluster);
        assert!(!book.live, "{cluster}: two logins at once");
        let by_itself = cause != Cause::Asked;
        assert!(
            !by_itself || !book.asked,
            "{cluster}: asked again by itself"
        );
        assert!(
            !by_itself || !book.hushed,
            "{cluster}: asked after a logout"
        );
        book.live = true;
    }

    /// P1: no second tab by itself, and none for a program from before a sleep. Tells whether it was by itself.
    pub(crate) fn shown(&mut self, cluster: &str) -> bool {
        let book = self.book(cluster);
        assert!(book.live, "{cluster}: a link of no login is shown");
        assert!(!book.by_themselves, "{cluster}: a tab for who wants none");
        assert!(
            book.wishes > 0 || !book.asked,
            "{cluster}: a second tab by itself"
        );
        assert!(
            book.wishes > 0 || book.demanded,
            "{cluster}: a tab after a sleep"
        );
        let by_itself = book.wishes == 0;
        book.wishes = book.wishes.saturating_sub(1);
        book.asked = true;
        by_itself
    }

    /// The wish of whoever asks just now is for the next one.
    pub(crate) fn ended(&mut self, cluster: &str, cause: Cause) {
        let book = self.book(cluster);
        assert!(book.live, "{cluster}: no login is there to end");
        book.live = false;
        if cause != Cause::Asked {
            (book.wishes, book.by_themselves) = (0, false);
        }
    }

    /// The login came to no link: whoever asked was told so, and nobody was asked.
    pub(crate) fn failed(&mut self, cluster: &str) {
        let book = self.book(cluster);
        (book.live, book.wishes, book.by_themselves) = (false, 0, false);
    }

    /// P2: a token is replaced only by one that a person just brought.
    pub(crate) fn kept(&mut self, cluster: &str, token: &str, cause: Cause) {
        assert_eq!(cause, Cause::SignedIn, "{cluster}: a token from nowhere");
        let book = self.book(cluster);
        assert!(book.live, "{cluster}: a token of no login");
        *book = Book {
            token: Some(token.to_owned()),
            ..Book::default()
        };
    }

    /// P2: only the server's word of this very token, or a person's, ends one.
    pub(crate) fn forgotten(&mut self, cluster: &str, cause: Cause) {
        assert!(
            matches!(cause, Cause::LoggedOut | Cause::Refused),
            "{cluster}: a good token is forgotten"
        );
        let book = self.book(cluster);
        book.token = None;
        book.hushed |= cause == Cause::LoggedOut;
        book.left |= cause == Cause::LoggedOut;
    }

    /// P2 once more, by what is there after each thing that happens.
    pub(crate) fn holds(&mut self, cluster: &str, token: Option<&str>) {
        let book = self.book(cluster);
        assert_eq!(
            token,
            book.token.as_deref(),
            "{cluster}: another token than it should be"
        );
    }

    /// P8: no token crosses clusters: it is used where it was made.
    pub(crate) fn used(&mut self, cluster: &str, login_at: &[Address], token: &str) {
        let at = token.split_once('@').map(|it| it.1);
        let made_here = login_at
            .iter()
            .any(|it| Some(it.host.to_string().as_str()) == at);
        assert!(made_here, "{cluster}: the token {token} was made elsewhere");
    }

    /// P9: what is shown of the cluster is so.
    pub(crate) fn shows(&mut self, cluster: &str, state: ClusterState) {
        let book = self.book(cluster);
        let may_be = match state {
            ClusterState::LoggedIn => book.token.is_some(),
            _ if book.token.is_some() => false,
            ClusterState::LoginRunning => book.live,
            ClusterState::LoggedOut => book.left,
            ClusterState::LoginNeeded => !book.left,
            ClusterState::Unknown => false,
        };
        assert!(may_be, "{cluster}: it is shown to be {state:?}");
    }

    /// A login is being made, or is open.
    pub(crate) fn is_live(&mut self, cluster: &str) -> bool {
        self.book(cluster).live
    }

    /// What the cluster must hold.
    pub(crate) fn token(&mut self, cluster: &str) -> Option<String> {
        self.book(cluster).token.clone()
    }

    /// P5: nothing waits for ever.
    pub(crate) fn waited(&self, cluster: &str, waited: Duration) {
        assert!(
            waited <= PATIENCE,
            "{cluster}: a connection waits {waited:?}"
        );
    }
}
