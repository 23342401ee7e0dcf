//! What a [`Core`](super::Core) is told and what it decides, as values.

use crate::{
    config::Address,
    session::token::{Grant, Token, User},
};
use jiff::Timestamp;

use super::Write;

use crate::session::error::LoginError;

/// A person's request, by the number that the driver gave it.
pub type Asker = u64;

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// So many connections wait now.
    Waiters(u64),
    /// A connection waits for a token newer than that of the generation `after`.
    Demand {
        /// `None`: any token will do.
        after: Option<u64>,
        /// Whether an attempt may start for its sake: there is a browser, or none is needed. `None`: the connection's
        /// client asks a person itself.
        unattended: Option<bool>,
    },
    /// A person asks for a login. Answered by [`Effect::Reply`].
    Ask {
        /// Who asks.
        asker: Asker,
        /// pomd shows the login; otherwise the person's own program does.
        shown_by_pomd: bool,
    },
    /// The server refused the token of this generation in a way that may mean that it is stale, as it refuses bearer
    /// tokens (403). Answered by [`Effect::Reply`] once the source was asked again, once for each generation.
    Doubted {
        /// Who asks.
        asker: Asker,
        /// Of which token.
        generation: u64,
    },
    /// The attempt can be answered by a person now. Sources that need none never say so.
    Opened(u64),
    /// The attempt failed before it could be answered.
    Failed(u64, LoginError),
    /// The attempt could not be shown to the person, for this reason.
    NotShown(u64, String),
    /// The attempt brought a token that is good.
    Obtained(u64, Answer),
    /// The attempt ended without a result.
    Lost(u64),
    /// A route was opened with the token of this generation.
    Accepted(u64),
    /// The server was asked about the token of this generation just now, and takes it.
    Confirmed(u64),
    /// The server refused the token of this generation.
    Refused(u64),
    /// The network is another one, or the machine slept.
    EnvironmentChanged,
    /// The source may give another token now, such as a file that was written.
    SourceChanged,
    /// A person logs out.
    Logout,
    /// What came of the newest [`Effect::Write`]; `Err` says in words what the disk did not take.
    Written(Result<(), String>),
}

/// What an attempt brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The token.
    pub token: Token,
    /// Whose it is; `None`: the server does not say.
    pub user: Option<User>,
    /// When the session ends at the latest.
    pub until: Option<Timestamp>,
    /// The address that vouches for it.
    pub address: Address,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Ask the source for a token.
    Start(u64),
    /// Show the attempt to the person.
    Show(u64),
    /// End the attempt: nobody wants its answer any more.
    Cancel(u64),
    /// Tell the person that the attempt's answer counts.
    Welcome(u64, Welcome),
    /// Answer a person's [`Input::Ask`].
    Reply(Asker, Reply),
    /// Change the saved logins, and tell by [`Input::Written`] what came of it.
    Write(Write),
    /// Drop what is kept ready to reach the server.
    Disconnect,
    /// The session as it is shown changed although its values did not: its upper bound is past, or no longer.
    BoundPassed,
    /// Log this.
    Log(Event),
}

/// What a person is told who logged in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Welcome {
    /// When.
    pub at: Timestamp,
    /// Who is logged in.
    pub user: Option<String>,
    /// Until when at most.
    pub until: Option<Timestamp>,
    /// How many connections waited for it.
    pub waiting: u64,
    /// Who was logged in before, if that was somebody else.
    pub instead_of: Option<String>,
}

/// What became of a person's request for a login.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// A token is there already.
    Granted,
    /// An attempt awaits them.
    Open {
        /// Nobody has been shown it.
        fresh: bool,
        /// Until when it can be answered.
        until: Timestamp,
    },
    /// The attempt came to nothing.
    Failed(LoginError),
}

/// Something worth a line in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A person logged in.
    LoggedIn {
        /// Who, if the server says so.
        user: Option<String>,
        /// Who was before, if that was somebody else.
        instead_of: Option<String>,
    },
    /// The source gave a token, with nobody asked.
    Obtained {
        /// Whose it is, if that is known.
        user: Option<String>,
    },
    /// The token is gone.
    Forgotten,
    /// The token's life is over.
    Expired,
    /// A person logged out.
    LoggedOut,
    /// The server accepts the session past the end that it told.
    BoundDisproved,
    /// An attempt failed.
    Failed(LoginError),
    /// An attempt could not be shown.
    NotShown(String),
    /// The disk did not take a change.
    NotWritten(String),
}

/// What a session leaves to its successor.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Handover {
    /// The token to use now.
    pub grant: Option<Grant>,
    /// Where it was made, or would be; must be one of the successor's addresses.
    pub address: Option<Address>,
    /// Nothing asks for a login until a person does: they logged out, or nobody answered.
    pub on_request_only: bool,
    /// They logged out.
    pub logged_out: bool,
}

impl Handover {
    /// What the successor that logs in at `addresses` takes over: a token goes where it was made, and nowhere else
    /// (A15). Of several, the first that is logged in.
    pub fn choose<'a>(
        of: impl IntoIterator<Item = &'a Self>,
        addresses: &[Address],
    ) -> Option<&'a Self> {
        let at_same_place = |it: &&Self| it.address.iter().any(|it| addresses.contains(it));
        let fitting = of.into_iter().filter(at_same_place);
        fitting.reduce(|a, b| if a.grant.is_some() { a } else { b })
    }
}

/// What a connection without a token may hope for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitPolicy {
    /// An attempt runs: wait for it.
    Asked,
    /// Nobody was asked, because there is nowhere to ask, or the source is out of reach.
    NobodyAsked,
    /// Nothing asks until a person does.
    OnRequestOnly,
}
