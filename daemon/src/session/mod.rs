//! Being logged in to one cluster.
//!
//! `pomd_core::session` decides, `task` drives it, `handle` is what others hold. `source` is the seam behind which tokens
//! come from, `browser` the source that asks a person, `token_source` those that ask nobody, `server` what is asked of the server; `store` keeps a token on disk.
//! Knows logins, tokens and one cluster. Must not know tunnels, the relay or the configuration's syntax.

pub mod browser;
#[cfg(test)]
mod fakes;
mod handle;
pub mod server;
pub mod source;
pub mod store;
mod task;
mod token_source;

use std::{path::PathBuf, sync::Arc};

use control::wire;
use pomd_core::{
    config::{ClusterName, ClusterSpec},
    session::Handover,
};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::{env::Env, upstream::Upstream};
pub use browser::PeerCheck;
pub use handle::Session;

use browser::Browser;
use server::LoginTarget;
use source::Source;
use store::Store;
use task::Dependencies;
use token_source::Unattended;

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
        let asks_a_person = setup.spec.token.source.asks_a_person();
        let server = setup.env.login_server.clone();
        let source: Arc<dyn Source> = match asks_a_person {
            true => Arc::new(Browser {
                cluster: cluster.clone(),
                server,
                peer_check: setup.peer_check,
                opener: setup.env.opener.clone(),
                choice: setup.spec.browser,
            }),
            false => Arc::new(Unattended {
                cluster: cluster.clone(),
                server,
                token: setup.spec.token,
                surroundings: setup.env.surroundings.clone(),
                proxies: setup.env.proxies.clone(),
                ca_file: setup.spec.ca_file,
            }),
        };
        let dependencies = Dependencies {
            cluster,
            source,
            asks_a_person,
            store: Store::new(setup.state, setup.env.fs.clone()),
            env: setup.env,
            changed: setup.changed,
            stop,
        };
        let (session, task) = task::start(dependencies, setup.handover);
        (session, task.run())
    }
}
