//! The attacks of the threat model, each under its id, against the real programs.

mod control;
mod hosts;
mod listeners;
mod login;
mod names;
mod places;
mod reset;
mod state;
mod trust;
mod web_pages;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use integration::other_user::OtherUser;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// How long an answer may take.
const ANSWER_TIME: Duration = Duration::from_secs(20);

/// Another user, or `None` aloud.
fn other_user(test: &str) -> Option<OtherUser> {
    OtherUser::new(test, Path::new(env!("CARGO_BIN_EXE_other-user")))
}

/// Sends these bytes and reads the whole answer; empty if there was none.
async fn raw(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut got = Vec::new();
    let read = timeout(ANSWER_TIME, stream.read_to_end(&mut got)).await;
    let text = String::from_utf8_lossy(&got).into_owned();
    assert!(
        read.is_ok(),
        "no end of the answer to {request:?}: {text:?}"
    );
    text
}

/// The status of an HTTP answer; 0 without one.
fn status(answer: &str) -> u16 {
    let status = answer.strip_prefix("HTTP/1.1 ").and_then(|it| it.get(..3));
    status.and_then(|it| it.parse().ok()).unwrap_or_default()
}

/// Every plain file below `folder`.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut res = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry.file_type().is_ok_and(|it| it.is_dir()) {
            res.extend(files(&path));
        } else {
            res.push(path);
        }
    }
    res
}
