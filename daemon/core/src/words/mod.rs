//! Every sentence that a person reads of a route or a login, made from typed errors: what was tried, with what, how it
//! failed, and what to do about it.
//!
//! Nothing else makes such sentences. Text from outside is cleaned here, once. Advice names only commands and keys that
//! exist.

pub mod doctor;
pub mod login;
pub mod open;
pub mod proxy;
pub mod step;
pub mod tls;

use std::time::Duration;

use control::humanize;

use crate::config::{ClusterName, ClusterSpec};

/// The most characters of a sentence or a piece of advice.
const MOST: usize = 400;

/// Returns where a person changes the settings of the cluster `name`: `[cluster.corp]`, or how to make such a section
/// for a host that has none.
pub fn section(name: &ClusterName, spec: &ClusterSpec) -> String {
    if spec.named {
        let name = name.as_str();
        return match name.contains('.') {
            true => format!("[cluster.\"{name}\"]"),
            false => format!("[cluster.{name}]"),
        };
    }
    match spec.login_at.first() {
        Some(it) => format!("a [cluster.NAME] with hosts = [\"{}\"]", it.host),
        None => "a [cluster.NAME]".to_owned(),
    }
}

/// Returns a limit as people say it: `10 s`, `1.5 s`, `200 ms`.
fn limit(limit: Duration) -> String {
    match (limit.as_secs(), limit.subsec_millis()) {
        (seconds @ 1.., 0) => format!("{seconds} s"),
        _ => humanize::duration(limit),
    }
}
