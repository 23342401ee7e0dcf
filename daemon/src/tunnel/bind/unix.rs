//! A listener in the file system: a Unix socket beside the control socket, in a folder that only its owner may enter.
//!
//! What lies in its place is removed only if it is a socket that nobody listens on.

use std::{
    fs, io,
    os::unix::{
        fs::{FileTypeExt, MetadataExt, PermissionsExt},
        net::UnixStream as StdUnixStream,
    },
    path::{Path, PathBuf},
    task::{Context, Poll, ready},
};

use control::wire::{Code, Holder, Reason};
use jiff::Timestamp;
use pomd_core::config::SocketName;
use socket2::{Domain, SockAddr, Type};
use tokio::net::{UnixListener, UnixStream, unix::UCred};

use super::{BACKLOG, holder};
use crate::{
    system::{errors, limits, private_folder, process, socket_activation},
    tunnel::local::{Ends, Local},
};

/// A socket that listens; its file is removed when this is dropped.
#[derive(Debug)]
pub struct Socket {
    // Dropped in this order: whoever still finds the file finds a listener behind it.
    _file: Option<File>,
    listener: UnixListener,
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

/// Why there is no socket.
#[derive(Debug)]
pub(super) enum Failure {
    /// Somebody listens there.
    Held { path: PathBuf, holder: Holder },
    /// Something else lies there, which pomd does not touch.
    Foreign { path: PathBuf, what: &'static str },
    /// It is the control socket's own name.
    Control { path: PathBuf },
    /// The path does not fit into a socket address.
    TooLong { path: PathBuf },
    /// The folder is not fit.
    Folder(String),
    /// The system refused.
    Io { path: PathBuf, error: io::Error },
}

impl Socket {
    /// Binds `name` in the folder of the control socket, for this user only.
    pub(super) fn bind(name: &SocketName, control: &Path) -> Result<Self, Failure> {
        let path = control.with_file_name(name.as_str());
        if path == control {
            return Err(Failure::Control { path });
        }
        let Ok(address) = SockAddr::unix(&path) else {
            return Err(Failure::TooLong { path });
        };
        if let Some(folder) = path.parent() {
            // It may have been removed since the start.
            private_folder::make(folder)
                .map_err(|it| Failure::Folder(format!("{} {it}", folder.display())))?;
        }
        make_room(&path, &address)?;
        listen(&path, &address).map_err(|error| Failure::Io { path, error })
    }

    /// One that somebody else bound, whose file is theirs to remove.
    pub(super) fn handed(listener: std::os::unix::net::UnixListener) -> io::Result<Self> {
        Ok(Self {
            _file: None,
            listener: UnixListener::from_std(listener)?,
        })
    }

    /// One that the life before this one bound at `path`; `None` if its file is gone.
    pub(super) fn inherited(listener: socket_activation::Listener, path: PathBuf) -> Option<Self> {
        let socket_activation::Listener::Unix(listener) = listener else {
            return None;
        };
        let file = File {
            id: id(&path).ok()?,
            path,
        };
        Some(Self {
            _file: Some(file),
            listener: UnixListener::from_std(listener).ok()?,
        })
    }

    /// The same listener for the next life of this process, and its file, which stays. Fails for one whose file is
    /// somebody else's, who hands it on.
    pub(super) fn hand_on(self) -> io::Result<(PathBuf, std::os::unix::net::UnixListener)> {
        let file = self._file.ok_or(io::ErrorKind::NotFound)?;
        let path = file.path.clone();
        let listener = self.listener.into_std()?;
        file.stays();
        Ok((path, listener))
    }

    /// The next connection, and who made it.
    pub(super) fn poll_accept(
        &self,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<(Local, Option<Ends>)>> {
        let (local, _) = ready!(self.listener.poll_accept(cx))?;
        let ends = local.peer_cred().ok().map(|it| Ends::Unix {
            uid: it.uid(),
            // 0: a process of another namespace.
            pid: it
                .pid()
                .and_then(|it| u32::try_from(it).ok())
                .filter(|it| *it > 0),
        });
        Poll::Ready(Ok((local.into(), ends)))
    }
}

fn listen(path: &Path, address: &SockAddr) -> io::Result<Socket> {
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
    Ok(Socket {
        _file: Some(file),
        listener: UnixListener::from_std(socket.into())?,
    })
}

/// Removes a socket on which nobody listens any more.
fn make_room(path: &Path, address: &SockAddr) -> Result<(), Failure> {
    let failed = |error| Failure::Io {
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
        return Err(Failure::Foreign { path, what });
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
        Ok(()) => Err(Failure::Held {
            path: path.to_owned(),
            holder: who_listens(&caller),
        }),
        // Its queue is full: somebody listens, or has stopped to.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(Failure::Held {
            path: path.to_owned(),
            holder: Holder {
                pid: None,
                program: None,
                uid: Some(found.uid()),
                ours: holder::is_ours(found.uid()),
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
        ours: told.is_some_and(|it| holder::is_ours(it.uid())),
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

impl Failure {
    pub(super) fn reason(self, at: Timestamp) -> Reason {
        let unavailable = |message, hint: &str| Reason {
            hint: Some(hint.to_owned()),
            ..Reason::new(Code::AddressNotAvailable, message, at)
        };
        match self {
            Self::Held { path, holder } => {
                let message = format!("{} listens on {}", holder::name(&holder), path.display());
                Reason {
                    holder: Some(holder),
                    ..Reason::new(Code::AddressInUse, message, at)
                }
            }
            Self::Foreign { path, what } => unavailable(
                format!("{} is {what}, which pomd does not replace", path.display()),
                "move it away, or give the socket another name",
            ),
            Self::Control { path } => unavailable(
                format!("{} is pomd's own control socket", path.display()),
                "give the tunnel's socket another name",
            ),
            Self::TooLong { path } => unavailable(
                format!(
                    "the path of the socket is {} bytes long, which the system does not take: {}",
                    path.as_os_str().len(),
                    path.display()
                ),
                "give the socket a shorter name, or pomd's own a shorter path: --socket PATH",
            ),
            Self::Folder(message) => Reason::new(Code::AddressNotAvailable, message, at),
            Self::Io { error, .. } if errors::is_out_of_descriptors(&error) => Reason::new(
                Code::Local,
                format!("cannot listen: {}", limits::descriptors_reached()),
                at,
            ),
            Self::Io { path, error } => {
                let message = format!("cannot listen on {}: {error}", path.display());
                Reason::new(Code::AddressNotAvailable, message, at)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::poll_fn,
        os::unix::net::{UnixListener, UnixStream},
    };

    use tempfile::TempDir;

    use super::*;

    struct Room(TempDir);

    impl Room {
        fn new() -> Self {
            let mode = fs::Permissions::from_mode(0o700);
            let folder = tempfile::Builder::new().permissions(mode).tempdir();
            Self(folder.unwrap())
        }

        fn path(&self) -> PathBuf {
            self.0.path().join("db.sock")
        }

        fn bind(&self) -> Result<Socket, Failure> {
            let name = SocketName::parse("db.sock").unwrap();
            Socket::bind(&name, &self.0.path().join("pomd.sock"))
        }

        fn reason(&self) -> Reason {
            self.bind().unwrap_err().reason(Timestamp::UNIX_EPOCH)
        }
    }

    #[tokio::test]
    async fn a_socket_is_its_owners_alone_and_gone_when_it_is_dropped() {
        let room = Room::new();
        let socket = room.bind().unwrap();
        let mode = fs::metadata(room.path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let _client = UnixStream::connect(room.path()).unwrap();
        let (_, ends) = poll_fn(|cx| socket.poll_accept(cx)).await.unwrap();
        let expected = Ends::Unix {
            uid: rustix::process::geteuid().as_raw(),
            pid: Some(std::process::id()),
        };
        assert_eq!(ends, Some(expected));
        drop(socket);
        assert!(!room.path().exists());
    }

    #[tokio::test]
    async fn what_took_the_place_of_the_file_is_not_removed() {
        let room = Room::new();
        let socket = room.bind().unwrap();
        fs::remove_file(room.path()).unwrap();
        let _other = UnixListener::bind(room.path()).unwrap();
        drop(socket);
        assert!(UnixStream::connect(room.path()).is_ok());
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_one_that_listens_is_not() {
        let room = Room::new();
        let other = UnixListener::bind(room.path()).unwrap();
        let reason = room.reason();
        assert_eq!(reason.code, Code::AddressInUse);
        assert_eq!(reason.holder.unwrap().pid, Some(std::process::id()));
        let message = format!("pomd itself listens on {}", room.path().display());
        assert_eq!(reason.message, message);
        drop(other);
        assert!(room.path().exists(), "its file stays");
        let _ours = room.bind().unwrap();
        assert!(UnixStream::connect(room.path()).is_ok());
    }

    #[tokio::test]
    async fn nothing_but_a_socket_is_ever_replaced() {
        let room = Room::new();
        let other = room.0.path().join("other");
        fs::write(room.path(), "mine").unwrap();
        assert_eq!(room.reason().code, Code::AddressNotAvailable);
        fs::rename(room.path(), &other).unwrap();
        std::os::unix::fs::symlink(&other, room.path()).unwrap();
        assert!(
            room.reason()
                .message
                .ends_with("is a symlink, which pomd does not replace")
        );
        fs::remove_file(room.path()).unwrap();
        fs::create_dir(room.path()).unwrap();
        assert!(room.reason().message.contains("is a folder"));
        assert_eq!(fs::read_to_string(&other).unwrap(), "mine");
    }

    #[tokio::test]
    async fn the_control_socket_and_paths_that_do_not_fit_are_told_apart() {
        let room = Room::new();
        let name = SocketName::parse("db.sock").unwrap();
        let reason = |control: &Path| {
            let failure = Socket::bind(&name, control).unwrap_err();
            failure.reason(Timestamp::UNIX_EPOCH)
        };
        let own = reason(&room.path());
        assert!(
            own.message.ends_with("is pomd's own control socket"),
            "{own:?}"
        );
        let deep = room.0.path().join("x".repeat(120)).join("pomd.sock");
        let long = reason(&deep);
        assert!(long.message.contains("bytes long"), "{long:?}");
        assert!(!deep.exists());
    }

    #[tokio::test]
    async fn a_folder_that_was_removed_is_made_again() {
        let room = Room::new();
        let control = room.0.path().join("run/pomd.sock");
        let name = SocketName::parse("db.sock").unwrap();
        let _socket = Socket::bind(&name, &control).unwrap();
        let mode = fs::metadata(room.0.path().join("run"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o700);
    }
}
