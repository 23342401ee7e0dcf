//! Being logged in to one cluster.
//!
//! `core` decides, `task` drives it, `handle` is what others hold. `source` is the seam behind which tokens come from,
//! `browser` the source that asks a person (with `callback` and `pages` of `pomd_core::session`), `server` what is asked of
//! the server. `store` keeps a token on disk, `error` says what went wrong. Knows logins, tokens and one cluster. Must not
//! know tunnels, the relay or the configuration's syntax.

pub mod browser;
#[cfg(test)]
mod fakes;
mod handle;
pub mod server;
pub mod source;
pub mod store;
mod task;

use std::{path::PathBuf, sync::Arc};

use control::wire;
use pomd_core::config::{ClusterName, ClusterSpec};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::{env::Env, upstream::Upstream};
pub use browser::PeerCheck;
pub use handle::Session;
use pomd_core::session::Handover;

use browser::Browser;
use server::LoginTarget;
use store::Store;
use task::Dependencies;

/// What a session needs from others.
#[derive(Clone)]
pub struct Setup {
    /// The cluster's name.
    pub name: ClusterName,
    /// Its settings.
    pub spec: ClusterSpec,
    /// The way to it.
    pub upstream: Arc<Upstream>,
    /// The folder where tokens rest; made with mode 0700 when first needed.
    pub state: PathBuf,
    /// The seams to the machine and the people around it.
    pub env: Env,
    /// Who may use the login page.
    pub peer_check: PeerCheck,
    /// Told after each change of the [`View`](pomd_core::session::View).
    pub changed: Arc<Notify>,
    /// What an earlier session of the same login address left.
    pub handover: Handover,
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
    /// Makes the handle, and the task that the caller must run until `stop` and join.
    pub fn new(
        setup: Setup,
        stop: CancellationToken,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let cluster = Arc::new(LoginTarget {
            name: setup.name,
            login_at: setup.spec.login_at,
            upstream: setup.upstream,
        });
        let source = Browser {
            cluster: cluster.clone(),
            server: setup.env.login_server.clone(),
            peer_check: setup.peer_check,
            opener: setup.env.opener.clone(),
            choice: setup.spec.browser,
        };
        let dependencies = Dependencies {
            cluster,
            source: Arc::new(source),
            store: Store::new(setup.state, setup.env.fs.clone()),
            env: setup.env,
            changed: setup.changed,
            stop,
        };
        let (session, task) = task::start(dependencies, setup.handover);
        (session, task.run())
    }
}
