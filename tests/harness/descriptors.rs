//! How many descriptors this process may have.

use rustix::process::{Resource, getrlimit, setrlimit};

/// As many as the system lets it have.
pub fn raise() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    let raised = setrlimit(Resource::Nofile, limit);
    raised.unwrap_or_else(|error| panic!("the limit of descriptors: {error}"));
}
