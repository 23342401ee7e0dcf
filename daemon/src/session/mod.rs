//! Being logged in to one cluster.
//!
//! `machine` decides, `task` drives it, `facts` puts it into words, `handle` is what others hold, `wait` is how long they
//! wait. `browser`, `callback` and `pages` make one browser login, `pomerium` is what it asks of the server. `token` is the
//! secret; `store` keeps it on disk. Knows logins, tokens and one cluster. Must not know tunnels, the relay or the
//! configuration's syntax.

mod browser;
mod callback;
mod facts;
#[cfg(test)]
mod fakes;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod handle;
mod machine;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod model;
#[path = "../../core/src/session/pages.rs"]
mod pages;
mod pomerium;
mod store;
mod task;
#[path = "../../core/src/session/token.rs"]
pub mod token;
mod wait;

use std::{path::PathBuf, sync::Arc, time::Duration};

use control::wire;
use futures_util::future::BoxFuture;
use jiff::Timestamp;
use pomd_core::config::{Address, ClusterName, ClusterSpec};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::{env::Env, tunnel::peer::Owners, upstream::Upstream};
pub use handle::Session;
pub use pomerium::Servers;

use store::Store;
use task::House;
use token::Token;

/// The right to send one token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Which login produced it, so that a late refusal cannot harm a newer one. Counts up from 1 in one daemon's life.
    pub generation: u64,
    /// The secret.
    pub token: Token,
    /// Who is logged in, if the server said so.
    pub user: Option<String>,
}

/// What everybody may know about a session. Holds no link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// Where it stands.
    pub state: wire::ClusterState,
    /// The token to use now.
    pub grant: Option<Grant>,
    /// When the login was made, or since when one is needed.
    pub since: Option<Timestamp>,
    /// When the session ends at the latest, if the server said so.
    pub until: Option<Timestamp>,
    /// How many connections wait for a login.
    pub waiting: u64,
    /// What is wrong.
    pub reason: Option<wire::Reason>,
}

/// What a session leaves to the one that takes its place.
#[derive(Clone, Debug, Default)]
pub struct Legacy {
    /// The token to use now.
    pub grant: Option<Grant>,
    /// Where it was made, or would be; must be one of the heir's addresses.
    pub address: Option<Address>,
    /// Nothing asks for a login until a person does: they logged out, or nobody answered.
    pub quiet: bool,
    /// They logged out.
    pub logged_out: bool,
}

/// What a session needs from the house.
#[derive(Clone)]
pub struct Setup {
    /// The cluster's name.
    pub name: ClusterName,
    /// Its settings.
    pub spec: ClusterSpec,
    /// How to reach it.
    pub upstream: Arc<Upstream>,
    /// The folder where tokens rest; made with mode 0700 when first needed.
    pub state: PathBuf,
    /// The seams to the machine and the people around it.
    pub env: Env,
    /// Who may use the callback listener.
    pub owners: Arc<Owners>,
    /// Told after each change of the [`View`].
    pub changed: Arc<Notify>,
    /// What an earlier session of the same login address left.
    pub legacy: Legacy,
}

/// Shows a link to the person at the keyboard.
pub trait Open: Send + Sync {
    /// There is somewhere to show it: a browser that is not a text browser, and a display. Known soon, at most after
    /// some seconds.
    fn available(&self, browser: &wire::BrowserChoice) -> BoxFuture<'static, bool>;
    /// Opens `link`; done soon, at most after some seconds for each program that is tried. `Err` says why not, in words.
    fn open(
        &self,
        browser: &wire::BrowserChoice,
        link: &str,
    ) -> BoxFuture<'static, Result<(), String>>;
}

/// How long a connection waits for a login.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// While nobody was asked, because there is nowhere to ask: 0 for ssh, 30 s for others.
    pub unasked: Duration,
    /// While a login is open: 5 minutes.
    pub asked: Duration,
    /// The client asks the person for a login: pomd opens no browser for its sake.
    pub client_asks: bool,
}

/// Why there is no grant.
#[derive(Clone, Debug)]
pub struct NoGrant {
    /// In words, the same as the cluster's reason: `corp needs a login. Run: pomctl login corp`.
    pub reason: wire::Reason,
}

/// What became of a request to log in.
#[derive(Debug)]
pub enum LoginOutcome {
    /// The session is good: the server was asked just now.
    LoggedIn,
    /// A login waits for the person.
    Open(wire::OpenLogin),
}

impl Session {
    /// The handle, and the task that the caller must run until `stop` and join.
    pub fn new(
        setup: Setup,
        stop: CancellationToken,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (owners, env) = (setup.owners, setup.env);
        let house = House {
            cluster: setup.name.to_string(),
            login_at: setup.spec.login_at.clone(),
            browser: setup.spec.browser,
            clock: env.clock,
            opener: env.opener,
            pomerium: env
                .servers
                .of(setup.name, setup.spec.login_at, setup.upstream),
            store: Store::new(setup.state, env.fs),
            failpoints: env.failpoints,
            doorman: Arc::new(move |socket, theirs| owners.check_login_peer(socket, theirs)),
            changed: setup.changed,
            stop,
        };
        let (session, task) = task::start(house, setup.legacy);
        (session, task.run())
    }
}
