//! The seams between pomd and the machine and people around it, as one value that is cloned into every room.
//!
//! A test replaces one field and leaves the others as [`Env::real`] made them; a new seam is one more field here. Holds
//! values only. Must not know what any room does with them.

use std::sync::Arc;

use crate::{
    clock::Clock,
    failpoints::Failpoints,
    opener::LinkOpener,
    session::server::{LoginServer, Pomerium},
    surroundings::Surroundings,
    system::disk::{Disk, Fs},
    upstream::proxy::Environment,
};

/// Everything that tests replace. Clones share it.
#[derive(Clone)]
pub struct Env {
    /// The clock of the wall, and one that counts on in sleep.
    pub clock: Clock,
    /// The disk that state is written to.
    pub fs: Arc<dyn Fs>,
    /// The places where a test makes something fail.
    pub failpoints: Failpoints,
    /// The browser that login links are shown in.
    pub opener: Arc<dyn LinkOpener>,
    /// The servers that logins ask.
    pub login_server: Arc<dyn LoginServer>,
    /// The environment variables of this process and of its service manager.
    pub surroundings: Surroundings,
    /// The forward proxies that the environment variables name.
    pub proxies: Arc<Environment>,
}

impl Env {
    /// Returns the real clock, disk and servers, the environment of this process alone, and no forward proxy.
    pub fn real(opener: Arc<dyn LinkOpener>) -> Self {
        Self {
            clock: Clock::real(),
            fs: Arc::new(Disk),
            failpoints: Failpoints::none(),
            opener,
            login_server: Arc::new(Pomerium),
            surroundings: Surroundings::of_process(),
            proxies: Arc::default(),
        }
    }
}
