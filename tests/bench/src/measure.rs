//! What the system says of a process, and medians.

use std::{collections::BTreeMap, fs, time::Duration};

/// In which the system counts CPU time for others to read: the same on every Linux, whatever its timer.
const TICKS: u64 = 100;

/// The one in the middle; of an even number the lower one. There must be one.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[(sorted.len() - 1) / 2]
}

/// The CPU time that all threads of a process took so far, ended ones too; in steps of 10 ms.
pub(crate) fn cpu(pid: u32) -> Duration {
    let stat = read(&format!("/proc/{pid}/stat"));
    // The name before it may hold anything.
    let (_, rest) = stat.rsplit_once(')').unwrap();
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let ticks = |at: usize| -> u64 { fields[at].parse().unwrap() };
    Duration::from_millis((ticks(11) + ticks(12)) * 1000 / TICKS)
}

/// The memory of a process that is in use, in KiB.
pub(crate) fn memory(pid: u32) -> f64 {
    field(&read(&format!("/proc/{pid}/status")), "VmRSS")
}

/// How often each thread of a process went to sleep by itself so far, which is how often it was woken.
#[derive(Debug)]
pub(crate) struct Sleeps(BTreeMap<String, f64>);

impl Sleeps {
    pub(crate) fn of(pid: u32) -> Self {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
        let one = |task: std::io::Result<fs::DirEntry>| {
            let task = task.ok()?;
            // It may have ended meanwhile.
            let status = fs::read_to_string(task.path().join("status")).ok()?;
            let name = task.file_name().to_string_lossy().into_owned();
            Some((name, field(&status, "voluntary_ctxt_switches")))
        };
        Self(tasks.filter_map(one).collect())
    }

    /// How many there were since `before`; threads made since count from their beginning, ended ones not at all.
    pub(crate) fn since(&self, before: &Self) -> f64 {
        let one = |(task, now): (&String, &f64)| now - before.0.get(task).unwrap_or(&0.0);
        self.0.iter().map(one).sum()
    }

    pub(crate) fn threads(&self) -> usize {
        self.0.len()
    }
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}; this needs Linux"))
}

/// The number on the line `name:`.
fn field(status: &str, name: &str) -> f64 {
    let mut lines = status.lines().filter_map(|it| it.split_once(':'));
    let (_, value) = lines.find(|it| it.0 == name).unwrap();
    let number = value.split_whitespace().next();
    number.unwrap().parse().unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0]), 1.0);
    }

    #[test]
    fn a_process_that_works_uses_cpu_memory_and_wakes() {
        let me = std::process::id();
        let (cpu_before, sleeps) = (cpu(me), Sleeps::of(me));
        while cpu(me) < cpu_before + Duration::from_millis(20) {
            std::thread::sleep(Duration::from_micros(1));
        }
        assert!(Sleeps::of(me).since(&sleeps) > 1.0);
        assert!(sleeps.threads() >= 2 && memory(me) > 500.0);
    }
}
