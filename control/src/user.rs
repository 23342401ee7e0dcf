//! Who somebody is on Windows: the security identifier (SID) of a process's user.

use std::sync::OnceLock;

use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, System, UpdateKind};

/// Returns the SID of this process's user, as `S-1-5-21-…`.
pub fn own_sid() -> Option<String> {
    static OWN: OnceLock<Option<String>> = OnceLock::new();
    OWN.get_or_init(|| sid_of(std::process::id())).clone()
}

/// Returns the SID of the user of process `pid`; `None` if it is gone or not ours to look at.
pub fn sid_of(pid: u32) -> Option<String> {
    let pid = Pid::from_u32(pid);
    let only_the_user = ProcessRefreshKind::nothing().with_user(UpdateKind::Always);
    let mut system = System::new().ok()?;
    system.refresh_processes_specifics(ProcessesToUpdate::Some(&[pid]), false, only_the_user);
    let user = system.process(pid)?.user_id()?;
    Some(user.to_string())
}
