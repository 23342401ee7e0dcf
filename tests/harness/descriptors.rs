//! How many descriptors this process may have, and those it starts.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// As many as the system lets it have.
pub fn raise() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    let raised = setrlimit(Resource::Nofile, limit);
    raised.unwrap_or_else(|error| panic!("the limit of descriptors: {error}"));
}

/// At least `count`, or as many as the system lets it have; how many that are.
pub fn raise_to(count: u64) -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.map_or(count, |it| it.max(count));
    let raised = Rlimit {
        current: Some(most),
        maximum: Some(most),
    };
    if setrlimit(Resource::Nofile, raised).is_err() {
        // Only root may go beyond what was given, and not everywhere.
        raise();
    }
    getrlimit(Resource::Nofile).current.unwrap_or(most)
}
