//! What a service manager hears: the socket of `NOTIFY_SOCKET`, with everything that is said to it kept.

use std::{
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    sync::Mutex,
    time::Duration,
};

use crate::eventually;

/// The most that is read of one message.
const MESSAGE: usize = 64 << 10;

/// The listening end.
#[derive(Debug)]
pub struct Notify {
    socket: UnixDatagram,
    path: PathBuf,
    heard: Mutex<Vec<String>>,
}

impl Notify {
    /// Listens in this folder.
    pub fn listen(folder: &Path) -> Self {
        let path = folder.join("notify");
        let socket = UnixDatagram::bind(&path);
        let socket = socket.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let quick = socket.set_read_timeout(Some(Duration::from_millis(1)));
        quick.unwrap_or_else(|error| panic!("a limit for reads: {error}"));
        Self {
            socket,
            path,
            heard: Mutex::default(),
        }
    }

    /// For `NOTIFY_SOCKET`.
    pub fn path(&self) -> &str {
        self.path.to_str().unwrap_or_default()
    }

    /// Every line that was said so far, oldest first.
    pub fn heard(&self) -> Vec<String> {
        let mut heard = self.heard.lock().unwrap_or_else(|it| it.into_inner());
        let mut buffer = vec![0; MESSAGE];
        while let Ok(length) = self.socket.recv(&mut buffer) {
            let text = String::from_utf8_lossy(&buffer[..length]);
            heard.extend(text.lines().map(str::to_owned));
        }
        heard.clone()
    }

    /// Waits until a line is said, not counting the first `skip` lines; how many there are up to it.
    pub async fn wait_for(&self, what: &str, skip: usize, is_it: impl Fn(&str) -> bool) -> usize {
        eventually(what, async || {
            let heard = self.heard();
            let found = heard.iter().skip(skip).position(|it| is_it(it));
            found.map(|at| skip + at + 1)
        })
        .await
    }
}
