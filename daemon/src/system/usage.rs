//! What this process takes of the machine.

use control::wire::Usage;

use super::limits;

/// What is in use now. Call inside of the runtime.
pub fn now() -> Usage {
    let tasks = tokio::runtime::Handle::current()
        .metrics()
        .num_alive_tasks();
    Usage {
        descriptors: imp::descriptors(),
        descriptors_most: limits::descriptors(),
        tasks: tasks as u64,
        memory: imp::memory(),
    }
}

#[cfg(target_os = "linux")]
mod imp {
    pub(super) fn descriptors() -> Option<u64> {
        // One of them is the look itself.
        let open = std::fs::read_dir("/proc/self/fd").ok()?.count() as u64;
        open.checked_sub(1)
    }

    pub(super) fn memory() -> Option<u64> {
        let text = std::fs::read_to_string("/proc/self/status").ok()?;
        let line = text.lines().find_map(|it| it.strip_prefix("VmRSS:"))?;
        let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
        Some(kib << 10)
    }
}

#[cfg(not(target_os = "linux"))]
mod imp {
    pub(super) fn descriptors() -> Option<u64> {
        None
    }

    pub(super) fn memory() -> Option<u64> {
        None
    }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use std::fs::File;

    use super::*;

    /// Other tests of this process open and close files meanwhile, so many at once are looked at.
    #[tokio::test]
    async fn what_is_opened_and_started_is_counted() {
        const MANY: u64 = 500;
        let before = now();
        let files: Vec<File> = (0..MANY)
            .map(|_| File::open("/dev/null").unwrap())
            .collect();
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..MANY {
            tasks.spawn(std::future::pending::<()>());
        }
        let during = now();
        assert_eq!(during.tasks, before.tasks + MANY);
        let more = during.descriptors.unwrap() as i64 - before.descriptors.unwrap() as i64;
        assert!((more - MANY as i64).abs() < MANY as i64 / 2, "{more}");
        assert!(during.memory.unwrap() > 1 << 20);
        assert!(during.descriptors < during.descriptors_most);
        drop(files);
    }
}
