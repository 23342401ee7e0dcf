//! What the system's error numbers mean for a listener.

use std::io;

/// Why an accept failed, by what the caller does about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AcceptTrouble {
    /// It is about one connection, or passes by itself: go on.
    Passing,
    /// There is no descriptor or memory left: wait a little.
    Exhausted,
    /// The listener itself is no good any more: make a new one.
    Broken,
}

/// Sorts the error of an accept.
pub fn accept_trouble(error: &io::Error) -> AcceptTrouble {
    imp::accept_trouble(error)
}

/// The process (or the whole system) has no descriptor left.
pub fn is_out_of_descriptors(error: &io::Error) -> bool {
    imp::is_out_of_descriptors(error)
}

/// The machine has no such address, or not even its family.
pub fn is_absent_address(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrNotAvailable || imp::is_absent_family(error)
}

#[cfg(unix)]
mod imp {
    use std::io;

    use rustix::io::Errno;

    use super::AcceptTrouble;

    pub(super) fn accept_trouble(error: &io::Error) -> AcceptTrouble {
        match Errno::from_io_error(error) {
            Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => {
                AcceptTrouble::Exhausted
            }
            Some(Errno::BADF | Errno::INVAL | Errno::NOTSOCK | Errno::OPNOTSUPP) => {
                AcceptTrouble::Broken
            }
            _ => AcceptTrouble::Passing,
        }
    }

    pub(super) fn is_out_of_descriptors(error: &io::Error) -> bool {
        matches!(
            Errno::from_io_error(error),
            Some(Errno::MFILE | Errno::NFILE)
        )
    }

    pub(super) fn is_absent_family(error: &io::Error) -> bool {
        Errno::from_io_error(error) == Some(Errno::AFNOSUPPORT)
    }
}

#[cfg(windows)]
mod imp {
    use std::io;

    use super::AcceptTrouble;

    // Numbers of winsock: WSAEBADF, WSAEINVAL, WSAEMFILE, WSAENOTSOCK, WSAEOPNOTSUPP, WSAEAFNOSUPPORT, WSAENOBUFS.
    pub(super) fn accept_trouble(error: &io::Error) -> AcceptTrouble {
        match error.raw_os_error() {
            Some(10024 | 10055) => AcceptTrouble::Exhausted,
            Some(10009 | 10022 | 10038 | 10045) => AcceptTrouble::Broken,
            _ => AcceptTrouble::Passing,
        }
    }

    pub(super) fn is_out_of_descriptors(error: &io::Error) -> bool {
        error.raw_os_error() == Some(10024)
    }

    pub(super) fn is_absent_family(error: &io::Error) -> bool {
        error.raw_os_error() == Some(10047)
    }
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use rustix::io::Errno;

    use super::*;

    #[test]
    fn only_a_listener_that_is_no_listener_is_given_up() {
        for (errno, trouble) in [
            (Errno::MFILE, AcceptTrouble::Exhausted),
            (Errno::NFILE, AcceptTrouble::Exhausted),
            (Errno::NOBUFS, AcceptTrouble::Exhausted),
            (Errno::CONNABORTED, AcceptTrouble::Passing),
            (Errno::PROTO, AcceptTrouble::Passing),
            (Errno::PERM, AcceptTrouble::Passing),
            (Errno::NETDOWN, AcceptTrouble::Passing),
            (Errno::BADF, AcceptTrouble::Broken),
            (Errno::INVAL, AcceptTrouble::Broken),
        ] {
            assert_eq!(accept_trouble(&errno.into()), trouble, "{errno:?}");
        }
    }
}
