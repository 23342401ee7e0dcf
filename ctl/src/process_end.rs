//! The end of a process that is not ours to wait for.

use std::time::Duration;

use tokio::time::Instant;

/// How often is looked.
const PAUSE: Duration = Duration::from_millis(10);

/// A process that ran when this was made. Its id may be another's after its end, which is no matter.
pub(crate) struct ProcessEnd(imp::Process);

impl ProcessEnd {
    /// Returns the end of a process that runs; `None` where the system has no way to tell.
    pub(crate) fn of(pid: u32) -> Option<Self> {
        imp::find(pid).map(Self)
    }

    /// Waits until it has ended and let go of everything, its locks among it, whether or not whoever started it has taken
    /// notice; `false` if that was not before the deadline.
    pub(crate) async fn wait(&self, deadline: Instant) -> bool {
        loop {
            if imp::has_ended(&self.0) {
                return true;
            }
            if Instant::now() >= deadline {
                return false;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

#[cfg(target_os = "linux")]
mod imp {
    use std::os::fd::OwnedFd;

    use rustix::{
        event::{PollFd, PollFlags, Timespec, poll},
        process::{Pid, PidfdFlags, pidfd_open},
    };

    pub(super) type Process = OwnedFd;

    pub(super) fn find(pid: u32) -> Option<Process> {
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw)?;
        pidfd_open(pid, PidfdFlags::empty()).ok()
    }

    pub(super) fn has_ended(process: &Process) -> bool {
        let at_once = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let mut asked = [PollFd::new(process, PollFlags::IN)];
        poll(&mut asked, Some(&at_once)).is_ok_and(|it| it > 0)
    }
}

/// The socket and the lock tell there.
#[cfg(not(target_os = "linux"))]
mod imp {
    pub(super) struct Process;

    pub(super) fn find(_: u32) -> Option<Process> {
        None
    }

    pub(super) fn has_ended(_: &Process) -> bool {
        true
    }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use super::*;

    #[tokio::test]
    async fn x9_the_end_of_a_process_is_known_before_its_parent_takes_notice() {
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let end = ProcessEnd::of(child.id()).unwrap();
        assert!(!end.wait(Instant::now()).await);
        child.kill().unwrap();
        assert!(end.wait(Instant::now() + Duration::from_secs(10)).await);
        child.wait().unwrap();
    }
}
