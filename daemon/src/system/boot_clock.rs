//! A clock that counts on while the machine sleeps.

use std::time::Duration;

/// Returns the time since the machine was started, sleep included. `None`: the system's monotonic clock does so itself, as
/// that of Windows, or there is no such clock.
pub fn since_boot() -> Option<Duration> {
    #[cfg(any(target_os = "linux", target_vendor = "apple"))]
    {
        #[cfg(target_os = "linux")]
        let clock = rustix::time::ClockId::Boottime;
        // This one counts on, unlike the one of the same name elsewhere.
        #[cfg(target_vendor = "apple")]
        let clock = rustix::time::ClockId::Monotonic;
        Duration::try_from(rustix::time::clock_gettime(clock)).ok()
    }
    #[cfg(not(any(target_os = "linux", target_vendor = "apple")))]
    None
}
