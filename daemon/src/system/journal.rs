//! systemd's journal: whether our stderr is one, and how to write lines with fields to it.
//!
//! A line carries `TUNNEL=`, `CLUSTER=`, `CONNECTION=` and `REASON=` where it is about one, so that
//! `journalctl --user -u pomd TUNNEL=ssh-prod` finds it.

pub use imp::{command, layer};

#[cfg(target_os = "linux")]
mod imp {
    use std::{env, fs, io};

    use tracing_journald::{Layer, Priority, PriorityMappings};

    /// What shows this process's log, if its stderr leads to the journal.
    pub fn command() -> Option<String> {
        let stderr = rustix::fs::fstat(io::stderr()).ok()?;
        let named = env::var("JOURNAL_STREAM").ok()?;
        if !is_same(&named, stderr.st_dev, stderr.st_ino) {
            return None;
        }
        let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        Some(shown_by(&groups, std::process::id()))
    }

    /// Writes to the journal with its own fields.
    pub fn layer<S>() -> Option<Box<dyn tracing_subscriber::Layer<S> + Send + Sync>>
    where
        S: tracing::Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
    {
        let layer = Layer::new()
            .ok()?
            .with_field_prefix(None)
            .with_syslog_identifier("pomd".to_owned())
            .with_priority_mappings(PriorityMappings {
                error: Priority::Error,
                warn: Priority::Warning,
                info: Priority::Informational,
                debug: Priority::Debug,
                trace: Priority::Debug,
            });
        Some(Box::new(layer))
    }

    /// `JOURNAL_STREAM` is inherited by children whose stderr leads elsewhere: it holds only for the stream that it names.
    pub(super) fn is_same(named: &str, device: u64, inode: u64) -> bool {
        named
            .split_once(':')
            .is_some_and(|it| it.0.parse() == Ok(device) && it.1.parse() == Ok(inode))
    }

    /// The command for the unit that `groups`, as in `/proc/self/cgroup`, name; else for this process.
    pub(super) fn shown_by(groups: &str, pid: u32) -> String {
        let paths = groups.lines().filter_map(|line| {
            let (_, rest) = line.split_once(':')?;
            let (controllers, path) = rest.split_once(':')?;
            matches!(controllers, "" | "name=systemd").then_some(path)
        });
        // Where both hierarchies are there, either may lead nowhere.
        let unit = paths.max_by_key(|it| it.len()).and_then(|path| {
            let unit = path.rsplit('/').find(|it| it.ends_with(".service"))?;
            let is_plain = unit
                .bytes()
                .all(|it| it.is_ascii_alphanumeric() || b"-_.:@".contains(&it));
            let of_user = path.contains("/user@");
            (is_plain && !unit.starts_with("user@")).then(|| {
                let name = unit.strip_suffix(".service").unwrap_or(unit);
                let user = if of_user { " --user" } else { "" };
                format!("journalctl{user} -u {name}")
            })
        });
        unit.unwrap_or_else(|| format!("journalctl _PID={pid}"))
    }
}

/// Other systems have no journal.
#[cfg(not(target_os = "linux"))]
mod imp {
    use tracing_subscriber::Layer;

    /// Returns nothing.
    pub fn command() -> Option<String> {
        None
    }

    /// Returns nothing.
    pub fn layer<S>() -> Option<Box<dyn Layer<S> + Send + Sync>> {
        None
    }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use super::imp::{is_same, shown_by};

    #[test]
    fn only_the_stream_that_is_named_is_the_journal() {
        assert!(is_same("8:1234", 8, 1234));
        for other in ["8:1235", "9:1234", "", "8", "8:", ":1234", "8:1234 ", "a:b"] {
            assert!(!is_same(other, 8, 1234), "{other:?}");
        }
    }

    #[test]
    fn the_log_is_found_by_its_unit_else_by_the_process() {
        let user = "/user.slice/user-1000.slice/user@1000.service/app.slice/pomd.service";
        let table = [
            (format!("0::{user}\n"), "journalctl --user -u pomd"),
            (
                format!("5:cpu:/other.service\n1:name=systemd:{user}\n0::/\n"),
                "journalctl --user -u pomd",
            ),
            (
                "0::/system.slice/pomd@alice.service\n".to_owned(),
                "journalctl -u pomd@alice",
            ),
            (
                "0::/user.slice/user-1000.slice/user@1000.service/x.scope\n".to_owned(),
                "journalctl _PID=7",
            ),
            ("0::/a;b.service".to_owned(), "journalctl _PID=7"),
            (String::new(), "journalctl _PID=7"),
        ];
        for (groups, expected) in table {
            assert_eq!(shown_by(&groups, 7), expected, "{groups}");
        }
    }
}
