//! Users by name and number.

use std::net::TcpStream;

/// The numeric id of the user `name`: from the user database, as the system keeps it. Waits at most some seconds.
pub fn uid(name: &str) -> Option<u32> {
    if !is_name(name) {
        return None;
    }
    imp::uid(name)
}

/// Those of `users`, names or ids, that are the name of nobody.
pub fn unknown(users: &[String]) -> Vec<String> {
    let is_known = |it: &&String| it.parse::<u32>().is_ok() || uid(it).is_some();
    users.iter().filter(|it| !is_known(it)).cloned().collect()
}

/// Returns the numeric id of the user who runs this process, where the system has such numbers.
pub fn own_uid() -> Option<u32> {
    imp::own_uid()
}

/// Whether `uid` is that of the user who runs this process.
pub fn is_own(uid: u32) -> bool {
    own_uid() == Some(uid)
}

/// Returns the owner of a socket, who is not root: root gives it away first.
pub fn give_away_if_root(socket: &TcpStream) -> Option<u32> {
    imp::give_away_if_root(socket)
}

/// What may stand as an argument and in a line of the user database.
fn is_name(text: &str) -> bool {
    (1..=256).contains(&text.len())
        && !text.starts_with('-')
        && text.chars().all(|it| !it.is_control() && it != ':')
}

#[cfg(any(unix, test))]
fn uid_in(passwd: &str, name: &str) -> Option<u32> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let found = fields.next() == Some(name);
        found.then(|| fields.nth(1)?.parse().ok()).flatten()
    })
}

#[cfg(unix)]
mod imp {
    use std::{
        io::Read,
        net::TcpStream,
        process::{Command, Stdio},
        time::{Duration, Instant},
    };

    const LIMIT: Duration = Duration::from_secs(3);

    #[expect(
        clippy::unnecessary_wraps,
        reason = "other systems have no such number"
    )]
    pub(super) fn own_uid() -> Option<u32> {
        Some(rustix::process::geteuid().as_raw())
    }

    pub(super) fn give_away_if_root(socket: &TcpStream) -> Option<u32> {
        const STRANGER: u32 = 65_534;
        let me = own_uid()?;
        if me != 0 {
            return Some(me);
        }
        let stranger = rustix::fs::Uid::from_raw(STRANGER);
        rustix::fs::fchown(socket, Some(stranger), None).ok()?;
        Some(STRANGER)
    }

    pub(super) fn uid(name: &str) -> Option<u32> {
        let file = std::fs::read("/etc/passwd").unwrap_or_default();
        super::uid_in(&String::from_utf8_lossy(&file), name)
            // Users of a directory service are in no file.
            .or_else(|| super::uid_in(&output("getent", &["passwd", name])?, name))
            .or_else(|| output("id", &["-u", name])?.trim().parse().ok())
    }

    /// What a short program prints; `None` if it fails or takes too long.
    fn output(program: &str, arguments: &[&str]) -> Option<String> {
        let mut child = Command::new(program)
            .args(arguments)
            .env_clear()
            .env(
                "PATH",
                "/usr/bin:/bin:/usr/sbin:/sbin:/run/current-system/sw/bin",
            )
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let start = Instant::now();
        let status = loop {
            match child.try_wait() {
                Ok(Some(status)) => break Some(status),
                Ok(None) if start.elapsed() < LIMIT => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                _ => break None,
            }
        };
        if status.is_none() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if !status?.success() {
            return None;
        }
        let mut res = String::new();
        let pipe = child.stdout.take()?;
        pipe.take(64 << 10).read_to_string(&mut res).ok()?;
        Some(res)
    }
}

#[cfg(not(unix))]
mod imp {
    pub(super) fn own_uid() -> Option<u32> {
        None
    }

    pub(super) fn give_away_if_root(_: &std::net::TcpStream) -> Option<u32> {
        None
    }

    pub(super) fn uid(_: &str) -> Option<u32> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n# comment\nbroken\nann:x:1001:1001::/home/ann:/bin/sh\nanna:x:7:7::/:\nodd:x:x:1::/:";

    #[test]
    fn names_are_looked_up_whole() {
        assert_eq!(uid_in(PASSWD, "root"), Some(0));
        assert_eq!(uid_in(PASSWD, "ann"), Some(1001));
        assert_eq!(uid_in(PASSWD, "anna"), Some(7));
        for missing in ["an", "broken", "odd", "x", "nobody"] {
            assert_eq!(uid_in(PASSWD, missing), None, "{missing}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn the_system_knows_root_and_nothing_that_is_no_name() {
        assert_eq!(uid("root"), Some(0));
        for odd in ["", "--help", "-u", "a:b", "a\nroot", "no such user here"] {
            assert_eq!(uid(odd), None, "{odd:?}");
        }
    }
}
