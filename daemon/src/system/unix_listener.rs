//! Listeners in the file system: Unix sockets in a folder that only its owner may enter.
//!
//! What lies in the place of one is removed only if it is a socket that nobody listens on.

use std::{io, path::PathBuf};

use control::wire::Holder;

pub use imp::UnixListener;

/// Why a socket in the file system could not be bound.
#[derive(Debug)]
pub enum UnixBindError {
    /// Somebody listens there.
    Held {
        /// The socket.
        path: PathBuf,
        /// Who listens, as far as the system tells.
        holder: Holder,
    },
    /// Something else lies there, which pomd does not touch.
    Foreign {
        /// Where.
        path: PathBuf,
        /// What it is: `a folder`.
        what: &'static str,
    },
    /// The path does not fit into a socket address.
    TooLong {
        /// The path.
        path: PathBuf,
    },
    /// The folder is not fit; why, in a sentence.
    Folder(String),
    /// The system refused.
    Io {
        /// The socket.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// This system has no such sockets that pomd can listen on.
    Unsupported,
}

/// The process that made a connection, and its user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerCredentials {
    /// The user.
    pub uid: u32,
    /// The process, if it is one that this one can name.
    pub pid: Option<u32>,
}

#[cfg(unix)]
mod imp {
    use std::{
        fs, io,
        os::unix::{
            fs::{FileTypeExt, MetadataExt, PermissionsExt},
            net::UnixStream as StdUnixStream,
        },
        path::{Path, PathBuf},
        task::{Context, Poll, ready},
    };

    use control::wire::Holder;
    use socket2::{Domain, SockAddr, Type};
    use tokio::net::{UnixListener as TokioListener, UnixStream, unix::UCred};

    use super::{
        super::{private_folder, process, socket_activation, unix_socket::StdUnixListener, users},
        PeerCredentials, UnixBindError,
    };

    const BACKLOG: i32 = 1024;

    /// A socket that listens; its file is removed when this is dropped.
    #[derive(Debug)]
    pub struct UnixListener {
        // Dropped in this order: whoever still finds the file finds a listener behind it.
        _file: Option<File>,
        listener: TokioListener,
    }

    /// The file of a socket that is ours.
    #[derive(Debug)]
    struct File {
        path: PathBuf,
        /// Which file it is: another may take its name.
        id: (u64, u64),
    }

    impl File {
        /// Somebody else removes it.
        fn stays(mut self) {
            self.id = (0, 0);
        }
    }

    impl Drop for File {
        fn drop(&mut self) {
            if id(&self.path).is_ok_and(|it| it == self.id) {
                // Nothing to do about a file that cannot be removed: the next one who binds replaces it.
                let _ = fs::remove_file(&self.path);
            }
        }
    }

    impl UnixListener {
        /// Binds `path` for this user only. A socket there on which nobody listens is replaced.
        pub fn bind(path: PathBuf) -> Result<Self, UnixBindError> {
            let Ok(address) = SockAddr::unix(&path) else {
                return Err(UnixBindError::TooLong { path });
            };
            if let Some(folder) = path.parent() {
                // It may have been removed since the start.
                private_folder::make(folder)
                    .map_err(|it| UnixBindError::Folder(format!("{} {it}", folder.display())))?;
            }
            make_room(&path, &address)?;
            listen(&path, &address).map_err(|error| UnixBindError::Io { path, error })
        }

        /// Listens on a socket that somebody else bound, whose file is theirs to remove.
        pub fn shared(listener: &StdUnixListener) -> io::Result<Self> {
            Ok(Self {
                _file: None,
                listener: TokioListener::from_std(listener.try_clone()?)?,
            })
        }

        /// Listens on the socket that this process bound at `path` before its re-exec; `None` if its file is gone.
        pub fn inherited(listener: socket_activation::Listener, path: PathBuf) -> Option<Self> {
            let socket_activation::Listener::Unix(listener) = listener else {
                return None;
            };
            let file = File {
                id: id(&path).ok()?,
                path,
            };
            Some(Self {
                _file: Some(file),
                listener: TokioListener::from_std(listener).ok()?,
            })
        }

        /// Returns the listener for this process after a re-exec, and its file, which stays. Fails for one whose file is
        /// somebody else's, who hands it on.
        pub fn hand_on(self) -> io::Result<(PathBuf, StdUnixListener)> {
            let file = self._file.ok_or(io::ErrorKind::NotFound)?;
            let path = file.path.clone();
            let listener = self.listener.into_std()?;
            file.stays();
            Ok((path, listener))
        }

        /// Accepts the next connection; with who made it, unless it is gone already.
        pub fn poll_accept(
            &self,
            cx: &mut Context<'_>,
        ) -> Poll<io::Result<(UnixStream, Option<PeerCredentials>)>> {
            let (socket, _) = ready!(self.listener.poll_accept(cx))?;
            let credentials = socket.peer_cred().ok().map(|it| PeerCredentials {
                uid: it.uid(),
                // 0: a process of another namespace.
                pid: it
                    .pid()
                    .and_then(|it| u32::try_from(it).ok())
                    .filter(|it| *it > 0),
            });
            Poll::Ready(Ok((socket, credentials)))
        }
    }

    fn listen(path: &Path, address: &SockAddr) -> io::Result<UnixListener> {
        let socket = socket2::Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.bind(address)?;
        let file = File {
            path: path.to_owned(),
            id: id(path)?,
        };
        // Before it listens, so that nobody has connected yet.
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        Ok(UnixListener {
            _file: Some(file),
            listener: TokioListener::from_std(socket.into())?,
        })
    }

    /// Removes a socket on which nobody listens any more.
    fn make_room(path: &Path, address: &SockAddr) -> Result<(), UnixBindError> {
        let failed = |error| UnixBindError::Io {
            path: path.to_owned(),
            error,
        };
        let found = match fs::symlink_metadata(path) {
            Ok(it) => it,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(failed(error)),
        };
        if !found.file_type().is_socket() {
            let what = match found.file_type() {
                it if it.is_dir() => "a folder",
                it if it.is_symlink() => "a symlink",
                _ => "a file that is no socket",
            };
            let path = path.to_owned();
            return Err(UnixBindError::Foreign { path, what });
        }
        let caller = socket2::Socket::new(Domain::UNIX, Type::STREAM, None).map_err(failed)?;
        caller.set_nonblocking(true).map_err(failed)?;
        match caller.connect(address) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                match fs::remove_file(path) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(error)),
                    _ => Ok(()),
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Ok(()) => Err(UnixBindError::Held {
                path: path.to_owned(),
                holder: who_listens(&caller),
            }),
            // Its queue is full: somebody listens, or has stopped to.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(UnixBindError::Held {
                path: path.to_owned(),
                holder: Holder {
                    pid: None,
                    program: None,
                    uid: Some(found.uid()),
                    ours: users::is_own(found.uid()),
                },
            }),
            Err(error) => Err(failed(error)),
        }
    }

    /// The process that called `listen` on what `caller` is connected to.
    fn who_listens(caller: &socket2::Socket) -> Holder {
        let told = credentials(caller).ok();
        let pid = told.and_then(|it| u32::try_from(it.pid()?).ok());
        Holder {
            pid,
            program: pid.and_then(process::program),
            uid: told.map(|it| it.uid()),
            ours: told.is_some_and(|it| users::is_own(it.uid())),
        }
    }

    fn credentials(caller: &socket2::Socket) -> io::Result<UCred> {
        let stream: StdUnixStream = caller.try_clone()?.into();
        stream.set_nonblocking(true)?;
        UnixStream::from_std(stream)?.peer_cred()
    }

    fn id(path: &Path) -> io::Result<(u64, u64)> {
        let metadata = fs::symlink_metadata(path)?;
        Ok((metadata.dev(), metadata.ino()))
    }
}

#[cfg(not(unix))]
mod imp {
    use std::{
        io,
        path::PathBuf,
        task::{Context, Poll},
    };

    use super::{
        super::{
            socket_activation,
            unix_socket::{StdUnixListener, UnixStream},
        },
        PeerCredentials, UnixBindError,
    };

    /// There is none on this system.
    #[derive(Debug)]
    pub enum UnixListener {}

    impl UnixListener {
        /// Returns that there is no such thing.
        pub fn bind(_: PathBuf) -> Result<Self, UnixBindError> {
            Err(UnixBindError::Unsupported)
        }

        /// Never called.
        pub fn shared(listener: &StdUnixListener) -> io::Result<Self> {
            match *listener {}
        }

        /// Returns nothing.
        pub fn inherited(_: socket_activation::Listener, _: PathBuf) -> Option<Self> {
            None
        }

        /// Never called.
        pub fn hand_on(self) -> io::Result<(PathBuf, StdUnixListener)> {
            match self {}
        }

        /// Never called.
        pub fn poll_accept(
            &self,
            _: &mut Context<'_>,
        ) -> Poll<io::Result<(UnixStream, Option<PeerCredentials>)>> {
            match *self {}
        }
    }
}
