//! Which process holds a socket, and what program it runs.

/// The process that has the socket `inode` of user `uid` open. `likely` is looked at first, then the processes of that
/// user, newest first; at most `effort` descriptors are looked at. `None` if it is not found or not ours to see.
pub fn holding(inode: u32, uid: u32, likely: Option<u32>, effort: usize) -> Option<u32> {
    imp::holding(inode, uid, likely, effort)
}

/// The name of the program that a process runs, cleaned for display.
pub fn program(pid: u32) -> Option<String> {
    imp::program(pid).map(|it| control::text::clean(&it, 64))
}

#[cfg(target_os = "linux")]
mod imp {
    use std::{cmp::Reverse, fs, os::unix::fs::MetadataExt};

    /// No more processes than this are looked at.
    const MOST: usize = 32_768;

    pub(super) fn holding(inode: u32, uid: u32, likely: Option<u32>, effort: usize) -> Option<u32> {
        if inode == 0 {
            return None;
        }
        let socket = format!("socket:[{inode}]");
        let mut effort = effort;
        if let Some(pid) = likely
            && holds(pid, &socket, &mut effort)
        {
            return Some(pid);
        }
        let root = rustix::process::geteuid().is_root();
        if !root && uid != rustix::process::geteuid().as_raw() {
            return None; // the descriptors of others are not ours to see
        }
        let mut others = Vec::new();
        for pid in newest_first() {
            match fs::metadata(format!("/proc/{pid}")) {
                Ok(it) if it.uid() != uid => others.push(pid),
                Ok(_) if holds(pid, &socket, &mut effort) => return Some(pid),
                _ => {}
            }
            if effort == 0 {
                return None;
            }
        }
        others
            .into_iter()
            .filter(|_| root)
            .find(|pid| holds(*pid, &socket, &mut effort))
    }

    pub(super) fn program(pid: u32) -> Option<String> {
        let binary = fs::read_link(format!("/proc/{pid}/exe")).ok();
        let binary = binary.as_ref().and_then(|it| it.file_name()?.to_str());
        match binary {
            Some(it) => Some(it.trim_end_matches(" (deleted)").to_owned()),
            None => {
                let name = fs::read(format!("/proc/{pid}/comm")).ok()?;
                Some(String::from_utf8_lossy(&name).trim().to_owned())
            }
        }
    }

    fn newest_first() -> Vec<u32> {
        let Ok(entries) = fs::read_dir("/proc") else {
            return Vec::new();
        };
        let mut res: Vec<u32> = entries
            .filter_map(|it| it.ok()?.file_name().to_str()?.parse().ok())
            .take(MOST)
            .collect();
        res.sort_unstable_by_key(|it| Reverse(*it));
        res
    }

    fn holds(pid: u32, socket: &str, effort: &mut usize) -> bool {
        let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else {
            return false;
        };
        for entry in entries.flatten() {
            if *effort == 0 {
                return false;
            }
            *effort -= 1;
            if fs::read_link(entry.path()).is_ok_and(|it| it.as_os_str() == socket) {
                return true;
            }
        }
        false
    }
}

#[cfg(not(target_os = "linux"))]
mod imp {
    pub(super) fn holding(_: u32, _: u32, _: Option<u32>, _: usize) -> Option<u32> {
        None
    }

    pub(super) fn program(_: u32) -> Option<String> {
        None
    }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use std::os::{fd::AsRawFd, unix::fs::MetadataExt};

    use super::*;

    #[test]
    fn the_process_behind_a_socket_is_found_within_the_effort() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let fd = format!("/proc/self/fd/{}", listener.as_raw_fd());
        let inode = u32::try_from(std::fs::metadata(fd).unwrap().ino()).unwrap();
        let uid = rustix::process::geteuid().as_raw();
        let me = std::process::id();
        assert_eq!(holding(inode, uid, Some(me), 10_000), Some(me));
        assert_eq!(holding(inode, uid, None, 100_000), Some(me));
        assert_eq!(holding(inode, uid, None, 0), None);
        assert_eq!(holding(0, uid, Some(me), 10_000), None);
    }

    #[test]
    fn a_process_has_the_name_of_its_program() {
        let binary = std::env::current_exe().unwrap();
        let name = binary.file_name().unwrap().to_str().unwrap();
        assert_eq!(
            program(std::process::id()).unwrap(),
            control::text::clean(name, 64)
        );
        assert_eq!(program(u32::MAX), None);
    }
}
