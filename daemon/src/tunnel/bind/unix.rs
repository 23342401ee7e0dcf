//! Why a tunnel's socket in the file system could not be bound, in words.

use std::path::Path;

use control::wire::{Code, Reason};
use jiff::Timestamp;

use super::holder;
use crate::system::{errors, limits, unix_listener::UnixBindError};

/// Says in a sentence why the socket of a tunnel could not be bound.
pub(super) fn reason(error: UnixBindError, at: Timestamp) -> Reason {
    let unavailable = |message, hint: &str| Reason {
        hint: Some(hint.to_owned()),
        ..Reason::new(Code::AddressNotAvailable, message, at)
    };
    match error {
        UnixBindError::Held { path, holder } => {
            let message = format!("{} listens on {}", holder::name(&holder), path.display());
            Reason {
                holder: Some(holder),
                ..Reason::new(Code::AddressInUse, message, at)
            }
        }
        UnixBindError::Foreign { path, what } => unavailable(
            format!("{} is {what}, which pomd does not replace", path.display()),
            "move it away, or give the socket another name",
        ),
        UnixBindError::TooLong { path } => unavailable(
            format!(
                "the path of the socket is {} bytes long, which the system does not take: {}",
                path.as_os_str().len(),
                path.display()
            ),
            "give the socket a shorter name, or pomd's own a shorter path: --socket PATH",
        ),
        UnixBindError::Unsupported => unavailable(
            "this system has no sockets in the file system that pomd can listen on".to_owned(),
            "give the tunnel a port, or leave listen out to get a free one",
        ),
        UnixBindError::Folder(message) => Reason::new(Code::AddressNotAvailable, message, at),
        UnixBindError::Io { error, .. } if errors::is_out_of_descriptors(&error) => Reason::new(
            Code::Local,
            format!("cannot listen: {}", limits::descriptors_reached()),
            at,
        ),
        UnixBindError::Io { path, error } => {
            let message = format!("cannot listen on {}: {error}", path.display());
            Reason::new(Code::AddressNotAvailable, message, at)
        }
    }
}

/// Says that a tunnel's socket has the name of the control socket.
pub(super) fn is_control(path: &Path, at: Timestamp) -> Reason {
    Reason {
        hint: Some("give the tunnel's socket another name".to_owned()),
        ..Reason::new(
            Code::AddressNotAvailable,
            format!("{} is pomd's own control socket", path.display()),
            at,
        )
    }
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use std::{
        fs,
        future::poll_fn,
        os::unix::{
            fs::PermissionsExt,
            net::{UnixListener as Other, UnixStream},
        },
        path::PathBuf,
    };

    use tempfile::TempDir;

    use super::*;
    use crate::system::unix_listener::{PeerCredentials, UnixListener};

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

        fn bind(&self) -> Result<UnixListener, UnixBindError> {
            UnixListener::bind(self.path())
        }

        fn reason(&self) -> Reason {
            reason(self.bind().unwrap_err(), Timestamp::UNIX_EPOCH)
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
        let expected = PeerCredentials {
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
        let _other = Other::bind(room.path()).unwrap();
        drop(socket);
        assert!(UnixStream::connect(room.path()).is_ok());
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_one_that_listens_is_not() {
        let room = Room::new();
        let other = Other::bind(room.path()).unwrap();
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
        let own = is_control(&room.path(), Timestamp::UNIX_EPOCH);
        assert!(
            own.message.ends_with("is pomd's own control socket"),
            "{own:?}"
        );
        let deep = room.0.path().join("x".repeat(120)).join("db.sock");
        let error = UnixListener::bind(deep.clone()).unwrap_err();
        let long = reason(error, Timestamp::UNIX_EPOCH);
        assert!(long.message.contains("bytes long"), "{long:?}");
        assert!(!deep.exists());
    }

    #[tokio::test]
    async fn a_folder_that_was_removed_is_made_again() {
        let room = Room::new();
        let _socket = UnixListener::bind(room.0.path().join("run/db.sock")).unwrap();
        let mode = fs::metadata(room.0.path().join("run"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o700);
    }
}
