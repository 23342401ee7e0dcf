//! The listening end of the control channel: a Unix socket of mode 0600, or a named pipe that only its owner may open.

use std::{
    io,
    path::{Path, PathBuf},
};

use interprocess::local_socket::{
    GenericFilePath, ListenerOptions, ToFsName,
    tokio::{Listener, Stream, prelude::*},
};

use super::{
    private_folder,
    socket_activation::{ListenAddress, Socket},
};

/// A control channel that is ours; what it leaves in the file system is removed when this is dropped.
pub struct ControlListener {
    listener: Listener,
    #[cfg_attr(windows, expect(dead_code, reason = "there is nothing to remove"))]
    rest: imp::Rest,
}

impl ControlListener {
    /// Listens at `path`. A file that is there already is a dead daemon's: the caller holds the lock beside it, and
    /// where there can be none, nobody listens.
    pub fn bind(path: PathBuf) -> io::Result<Self> {
        imp::clear(&path)?;
        let options = ListenerOptions::new()
            .name(path.as_path().to_fs_name::<GenericFilePath>()?)
            .reclaim_name(false);
        Ok(Self {
            listener: imp::closed_to_others(options)?.create_tokio()?,
            rest: imp::rest(path),
        })
    }

    /// Goes on listening on what an earlier life of this process bound at `path`; anew where that is nothing, or somebody
    /// else's file lies there now.
    pub fn bind_or_inherit(path: PathBuf, inherited: Option<Socket>) -> io::Result<Self> {
        let inherited = inherited.filter(|it| it.address == ListenAddress::Unix(path.clone()));
        match inherited.and_then(|it| imp::inherited(it.listener)) {
            Some(listener) if path.exists() => Ok(Self {
                listener,
                rest: imp::rest(path),
            }),
            _ => Self::bind(path),
        }
    }

    /// The same listener for the next life, which finds its file where it is; `None` where there is no such thing.
    pub fn hand_on(self) -> Option<Socket> {
        imp::hand_on(self)
    }

    /// Listens at `path` once more, also where its folder was removed meanwhile.
    pub fn bind_again(path: &Path) -> io::Result<Self> {
        if let Some(folder) = path.parent() {
            private_folder::make(folder).map_err(io::Error::other)?;
        }
        Self::bind(path.to_owned())
    }

    /// The next client; `None`: it was somebody else's and is turned away. To be tried again after an error.
    pub async fn accept(&self) -> io::Result<Option<Stream>> {
        let stream = self.listener.accept().await?;
        Ok(imp::is_owner(&stream).then_some(stream))
    }
}

/// Whether something lies at `path` in the file system. A named pipe is always there while somebody listens.
pub fn is_there(path: &Path) -> bool {
    cfg!(windows) || std::fs::symlink_metadata(path).is_ok()
}

#[cfg(unix)]
mod imp {
    use std::os::fd::OwnedFd;

    use interprocess::os::unix::uds_local_socket::tokio::Listener as UdSocket;
    use socket2::{Domain, SockAddr, Type};

    use super::{super::socket_activation, *};

    /// The socket's file; `None`: the next life listens behind it.
    pub(super) struct Rest(Option<PathBuf>);

    pub(super) fn rest(path: PathBuf) -> Rest {
        Rest(Some(path))
    }

    impl Drop for Rest {
        fn drop(&mut self) {
            if let Some(path) = &self.0 {
                // Nothing to do about a file that cannot be removed: the next start removes it.
                let _ = std::fs::remove_file(path);
            }
        }
    }

    pub(super) fn inherited(listener: socket_activation::Listener) -> Option<Listener> {
        let socket_activation::Listener::Unix(listener) = listener else {
            return None;
        };
        let listener = UdSocket::try_from(OwnedFd::from(listener)).ok()?;
        Some(Listener::UdSocket(listener))
    }

    pub(super) fn hand_on(channel: ControlListener) -> Option<Socket> {
        let ControlListener { listener, mut rest } = channel;
        let Listener::UdSocket(listener) = listener;
        let descriptor = OwnedFd::try_from(listener).ok()?;
        let path = rest.0.take()?;
        Some(Socket {
            name: String::new(),
            address: ListenAddress::Unix(path),
            listener: socket_activation::Listener::Unix(descriptor.into()),
        })
    }

    pub(super) fn clear(path: &Path) -> io::Result<()> {
        if is_listening(path)? {
            let message = "another pomd listens there";
            return Err(io::Error::new(io::ErrorKind::AddrInUse, message));
        }
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// One whose queue is full listens too.
    fn is_listening(path: &Path) -> io::Result<bool> {
        let caller = socket2::Socket::new(Domain::UNIX, Type::STREAM, None)?;
        caller.set_nonblocking(true)?;
        let called = caller.connect(&SockAddr::unix(path)?);
        Ok(called.map_or_else(|it| it.kind() == io::ErrorKind::WouldBlock, |()| true))
    }

    #[cfg(target_os = "linux")]
    pub(super) fn closed_to_others(
        options: ListenerOptions<'_>,
    ) -> io::Result<ListenerOptions<'_>> {
        use interprocess::os::unix::local_socket::ListenerOptionsExt;
        Ok(options.mode(0o600))
    }

    /// A socket takes no mode there before others can reach it; its folder, which is 0700, keeps them away.
    #[cfg(not(target_os = "linux"))]
    pub(super) fn closed_to_others(
        options: ListenerOptions<'_>,
    ) -> io::Result<ListenerOptions<'_>> {
        Ok(options)
    }

    /// The socket's mode lets only its owner connect; this is the second lock on the same door.
    pub(super) fn is_owner(stream: &Stream) -> bool {
        let ours = rustix::process::geteuid().as_raw();
        let theirs = stream.peer_creds().ok().and_then(|it| it.euid());
        theirs.is_some_and(|it| it == ours || it == 0)
    }
}

#[cfg(windows)]
mod imp {
    use control::user;
    use interprocess::os::windows::{
        local_socket::ListenerOptionsExt, security_descriptor::SecurityDescriptor,
    };
    use widestring::U16CString;

    use super::*;

    /// A pipe is gone with its last handle.
    pub(super) struct Rest;

    pub(super) fn rest(_: PathBuf) -> Rest {
        Rest
    }

    pub(super) fn inherited(_: super::super::socket_activation::Listener) -> Option<Listener> {
        None
    }

    pub(super) fn hand_on(_: ControlListener) -> Option<Socket> {
        None
    }

    /// A pipe of that name that is there already is somebody's who lives: to be the first is asked for by the library,
    /// as is that no other machine may connect.
    pub(super) fn clear(_: &Path) -> io::Result<()> {
        Ok(())
    }

    /// A list (DACL) that inherits nothing and lets this user do everything: every instance of the pipe gets it.
    pub(super) fn closed_to_others(
        options: ListenerOptions<'_>,
    ) -> io::Result<ListenerOptions<'_>> {
        let user =
            user::own_sid().ok_or_else(|| io::Error::other("cannot tell which user this is"))?;
        let list =
            U16CString::from_str(format!("D:P(A;;GA;;;{user})")).map_err(io::Error::other)?;
        Ok(options.security_descriptor(SecurityDescriptor::deserialize(&list)?))
    }

    /// Nobody else comes as far as here.
    pub(super) fn is_owner(_: &Stream) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use control::paths::socket_of;

    use super::*;

    #[tokio::test]
    async fn a_client_of_ours_comes_in_and_nothing_is_left_behind() {
        let folder = tempfile::tempdir().unwrap();
        let path = socket_of(folder.path());
        let channel = ControlListener::bind(path.clone()).unwrap();
        let (client, accepted) = tokio::join!(control::socket::connect(&path), channel.accept());
        let client = client.unwrap();
        assert!(accepted.unwrap().is_some());
        assert_eq!(control::socket::other_user(&client).unwrap(), None);
        // A lock may have been refused: who lives is not replaced.
        let second = ControlListener::bind(path.clone())
            .err()
            .map(|it| it.kind());
        assert_eq!(second, Some(io::ErrorKind::AddrInUse));
        drop((client, channel));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        // The name is free again.
        ControlListener::bind(path).unwrap();
    }
}
