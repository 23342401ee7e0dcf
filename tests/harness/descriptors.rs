//! How many descriptors a process may have, and has.

use std::sync::Once;

use rustix::process::{Resource, getrlimit, setrlimit};

use crate::{pomd::Pomd, skipped};

/// Lets this process have as many as it may.
pub fn raise() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    let raised = setrlimit(Resource::Nofile, limit);
    raised.unwrap_or_else(|error| panic!("the limit of descriptors: {error}"));
}

/// How many pomd has. It is closed to its own user, so only root can look.
pub fn of(pomd: &Pomd) -> Option<usize> {
    static TOLD: Once = Once::new();
    match std::fs::read_dir(format!("/proc/{}/fd", pomd.pid())) {
        Ok(listed) => Some(listed.count()),
        Err(_) => {
            TOLD.call_once(|| skipped("descriptors before and after each fault", "needs root"));
            None
        }
    }
}
