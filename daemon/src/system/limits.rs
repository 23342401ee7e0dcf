//! Limits that the system sets.

use std::ops::RangeInclusive;
#[cfg(unix)]
use std::sync::OnceLock;

/// The soft limit of descriptors before it was raised.
#[cfg(unix)]
static BEFORE: OnceLock<u64> = OnceLock::new();

/// How many descriptors this process may have, if there is a limit.
pub fn descriptors() -> Option<u64> {
    #[cfg(unix)]
    return rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    #[cfg(not(unix))]
    None
}

/// The words for a process that has no descriptor left.
pub fn descriptors_reached() -> String {
    match descriptors() {
        Some(limit) => format!("at the limit of {limit} descriptors"),
        None => "at the limit of descriptors".to_owned(),
    }
}

/// The lowest port that this user may listen on.
pub fn first_port() -> u16 {
    #[cfg(unix)]
    {
        // Root may, and where a container or an administrator says so, others may too.
        if rustix::process::geteuid().is_root() {
            return 0;
        }
        let said = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").ok();
        said.and_then(|it| it.trim().parse().ok()).unwrap_or(1024)
    }
    #[cfg(not(unix))]
    0
}

/// Raises the limit of open descriptors as far as the system lets us (E2). Call before threads and children.
#[cfg(unix)]
pub fn raise_descriptors() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    let limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return;
    }
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    let before = limit.current.unwrap_or(u64::MAX);
    let _ = BEFORE.set(before);
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!("cannot raise the limit of {before} open descriptors: {error}");
    }
}

/// Windows has no such limit.
#[cfg(not(unix))]
pub fn raise_descriptors() {}

/// Gives a child that was just started the limit back that it would have had without us: programs that were built for a
/// low one may spend much on a high one.
#[cfg(target_os = "linux")]
pub fn give_back_descriptors(child: u32) {
    use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};

    let Some(before) = BEFORE.get() else { return };
    let limit = Rlimit {
        current: Some(*before),
        maximum: getrlimit(Resource::Nofile).maximum,
    };
    if let Some(child) = Pid::from_raw(child.cast_signed())
        && let Err(error) = prlimit(Some(child), Resource::Nofile, limit)
    {
        tracing::debug!("a child keeps the high limit of descriptors: {error}");
    }
}

/// Other systems cannot set the limits of another process.
#[cfg(not(target_os = "linux"))]
pub fn give_back_descriptors(_: u32) {}

/// No core file and no debugger of the same user may read the tokens in memory (A21). Best effort.
pub fn keep_memory_private() {
    #[cfg(unix)]
    {
        use rustix::process::{Resource, Rlimit, setrlimit};
        let none = Rlimit {
            current: Some(0),
            maximum: Some(0),
        };
        let _ = setrlimit(Resource::Core, none);
    }
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{DumpableBehavior, set_dumpable_behavior};
        let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    }
}

/// The ports that the system hands out to outgoing connections, if it says.
pub fn outgoing_ports() -> Option<RangeInclusive<u16>> {
    #[cfg(target_os = "linux")]
    return std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")
        .ok()
        .and_then(|it| range(&it));
    #[cfg(not(target_os = "linux"))]
    None
}

#[cfg(any(target_os = "linux", test))]
fn range(text: &str) -> Option<RangeInclusive<u16>> {
    let mut numbers = text.split_whitespace().map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(low)), Some(Ok(high))) if low <= high => Some(low..=high),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_two_numbers_in_order() {
        assert_eq!(range("32768\t60999\n"), Some(32768..=60999));
        for bad in ["", "1", "9 1", "1 70000", "a b"] {
            assert_eq!(range(bad), None, "{bad:?}");
        }
    }
}
