//! What one life of this process leaves to the next one over a re-exec: locks, listeners, the newest log lines.
//!
//! The descriptors wait in a socket pair whose other end is the standard input of the next life, so that none has a number
//! that somebody would have to know; the first of them is a file that says what the others are. The true standard input is
//! among them and put back. What is not taken out of the pair is closed by the system.

use std::{fs::File, path::PathBuf, process::Command};

use control::wire::LogLine;

use super::socket_activation::Socket;

/// Everything that is left to the next life.
#[derive(Debug, Default)]
pub struct Handover {
    /// The lock files, each locked.
    pub locks: Vec<(PathBuf, File)>,
    /// The control socket.
    pub control: Option<Socket>,
    /// The listeners of tunnels.
    pub tunnels: Vec<Socket>,
    /// The newest log lines, oldest first.
    pub log: Vec<LogLine>,
    /// What a person should be told about this re-exec.
    pub warning: Option<String>,
}

impl Handover {
    /// Makes the process that `successor` becomes the receiver. Call right before it does.
    pub fn give(&self, successor: &mut Command) -> std::io::Result<()> {
        imp::give(self, successor)
    }

    /// What the life before this one left; `None`: this is the first life, or nothing was left. What turns out not to be what
    /// it is said to be is dropped. Call it before the first thread.
    pub fn take() -> Option<Self> {
        imp::take()
    }

    /// Lets `successor` know of none.
    pub fn give_nothing(successor: &mut Command) {
        successor.env_remove(HANDOVER);
    }
}

/// Names the process whose standard input is a handover. Children, which have another id, do not take it for theirs.
const HANDOVER: &str = "POMD_HANDOVER";

#[cfg(unix)]
mod imp {
    use std::{
        env, io,
        io::{IoSlice, IoSliceMut, Read, Seek, Write},
        mem::MaybeUninit,
        os::{
            fd::{AsFd, BorrowedFd, OwnedFd},
            unix::net::UnixStream,
        },
        process::Stdio,
    };

    use rustix::{
        io::{FdFlags, fcntl_setfd},
        net::{
            RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
            SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
        },
    };
    use serde::{Deserialize, Serialize};

    use super::{super::socket_activation::ListenAddress, *};

    /// How many descriptors travel in one message; systems take 253.
    const TOGETHER: usize = 200;

    /// What the first descriptor says of the others, in their order.
    #[derive(Serialize, Deserialize)]
    struct Letter {
        items: Vec<Item>,
        log: Vec<LogLine>,
        warning: Option<String>,
    }

    #[derive(Serialize, Deserialize)]
    enum Item {
        Stdin,
        Lock(PathBuf),
        Control(PathBuf),
        Tcp(std::net::SocketAddr),
        Unix(PathBuf),
    }

    pub(super) fn give(handover: &Handover, successor: &mut Command) -> io::Result<()> {
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let mut items = Vec::new();
        let mut descriptors = Vec::new();
        let stdin = io::stdin();
        if let Ok(stdin) = stdin.as_fd().try_clone_to_owned() {
            items.push(Item::Stdin);
            descriptors.push(stdin);
        }
        for (path, lock) in &handover.locks {
            items.push(Item::Lock(path.clone()));
            descriptors.push(lock.try_clone()?.into());
        }
        for socket in handover.control.iter().chain(&handover.tunnels) {
            let is_control = handover
                .control
                .as_ref()
                .is_some_and(|it| std::ptr::eq(it, socket));
            items.push(match &socket.address {
                ListenAddress::Tcp(address) => Item::Tcp(*address),
                ListenAddress::Unix(path) if is_control => Item::Control(path.clone()),
                ListenAddress::Unix(path) => Item::Unix(path.clone()),
            });
            descriptors.push(socket.descriptor()?);
        }
        let letter = Letter {
            items,
            log: handover.log.clone(),
            warning: handover.warning.clone(),
        };
        let letter = written(&letter)?;
        send(&ours, &[letter.as_fd()])?;
        for some in descriptors.chunks(TOGETHER) {
            let some: Vec<BorrowedFd<'_>> = some.iter().map(AsFd::as_fd).collect();
            send(&ours, &some)?;
        }
        successor
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .env(HANDOVER, std::process::id().to_string());
        Ok(())
    }

    fn written(letter: &Letter) -> io::Result<File> {
        let mut file = anonymous_file()?;
        file.write_all(&serde_json::to_vec(letter)?)?;
        Ok(file)
    }

    #[cfg(target_os = "linux")]
    fn anonymous_file() -> io::Result<File> {
        let file = rustix::fs::memfd_create(c"pomd-handover", rustix::fs::MemfdFlags::CLOEXEC)?;
        Ok(file.into())
    }

    /// In a folder that only this user can read, for as long as it has a name.
    #[cfg(not(target_os = "linux"))]
    fn anonymous_file() -> io::Result<File> {
        use std::os::unix::fs::OpenOptionsExt;
        let path = env::temp_dir().join(format!("pomd-handover-{}", std::process::id()));
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)?;
        std::fs::remove_file(&path)?;
        Ok(file)
    }

    fn send(socket: &UnixStream, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(TOGETHER))];
        let mut control = SendAncillaryBuffer::new(&mut room);
        if !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        sendmsg(
            socket,
            &[IoSlice::new(b"+")],
            &mut control,
            SendFlags::empty(),
        )?;
        Ok(())
    }

    pub(super) fn take() -> Option<Handover> {
        let named = env::var(HANDOVER).ok()?;
        if named.parse() != Ok(std::process::id()) {
            return None;
        }
        let pair = UnixStream::from(io::stdin().as_fd().try_clone_to_owned().ok()?);
        if !is_ours(&pair) {
            return None;
        }
        let descriptors = received(&pair).ok()?;
        let mut descriptors = descriptors.into_iter();
        let letter = read(descriptors.next()?.into()).ok()?;
        let mut res = Handover {
            log: letter.log,
            warning: letter.warning,
            ..Handover::default()
        };
        for (item, descriptor) in letter.items.into_iter().zip(descriptors) {
            match item {
                Item::Stdin => {
                    let _ = rustix::stdio::dup2_stdin(descriptor);
                }
                // Whether it is locked, and the right one, is found out where it is used.
                Item::Lock(path) => res.locks.push((path, descriptor.into())),
                Item::Control(path) => {
                    res.control = Socket::inherited(descriptor, ListenAddress::Unix(path));
                }
                Item::Tcp(address) => res
                    .tunnels
                    .extend(Socket::inherited(descriptor, ListenAddress::Tcp(address))),
                Item::Unix(path) => res
                    .tunnels
                    .extend(Socket::inherited(descriptor, ListenAddress::Unix(path))),
            }
        }
        Some(res)
    }

    /// Made by this very process, before it became what it is now.
    #[cfg(target_os = "linux")]
    fn is_ours(pair: &UnixStream) -> bool {
        let made_by = rustix::net::sockopt::socket_peercred(pair);
        made_by.is_ok_and(|it| {
            it.uid == rustix::process::geteuid() && it.pid == rustix::process::getpid()
        })
    }

    /// The system does not tell; the environment named this process, and only its owner writes that.
    #[cfg(not(target_os = "linux"))]
    fn is_ours(pair: &UnixStream) -> bool {
        pair.local_addr().is_ok_and(|it| it.is_unnamed())
    }

    /// Everything that waits in the pair. Its sender ended by the re-exec, so that this never waits.
    fn received(pair: &UnixStream) -> io::Result<Vec<OwnedFd>> {
        pair.set_nonblocking(true)?;
        let mut res = Vec::new();
        loop {
            let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(TOGETHER))];
            let mut control = RecvAncillaryBuffer::new(&mut room);
            let mut byte = [0];
            let mut bytes = [IoSliceMut::new(&mut byte)];
            match recvmsg(pair, &mut bytes, &mut control, RecvFlags::empty()) {
                Ok(it) if it.bytes == 0 => return Ok(res),
                Ok(_) => {}
                Err(rustix::io::Errno::AGAIN) => return Ok(res),
                Err(error) => return Err(error.into()),
            }
            for message in control.drain() {
                if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                    for descriptor in descriptors {
                        fcntl_setfd(&descriptor, FdFlags::CLOEXEC)?;
                        res.push(descriptor);
                    }
                }
            }
        }
    }

    fn read(mut letter: File) -> io::Result<Letter> {
        let mut text = Vec::new();
        letter.rewind()?;
        letter.read_to_end(&mut text)?;
        Ok(serde_json::from_slice(&text)?)
    }
}

/// There is no re-exec.
#[cfg(not(unix))]
mod imp {
    use super::*;

    pub(super) fn give(_: &Handover, _: &mut Command) -> std::io::Result<()> {
        Err(std::io::ErrorKind::Unsupported.into())
    }

    pub(super) fn take() -> Option<Handover> {
        None
    }
}
