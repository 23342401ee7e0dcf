//! The interface of the system that opens links without a child process of ours: macOS and Windows have one.

use std::time::Duration;

/// Opens `link`, and waits for a failure no longer than `watched`.
#[cfg(any(target_os = "macos", windows))]
pub async fn open(link: &str, watched: Duration) -> Result<(), String> {
    let link = link.to_owned();
    let opened = tokio::task::spawn_blocking(move || webbrowser::open(&link));
    match tokio::time::timeout(watched, opened).await {
        Ok(Ok(opened)) => opened.map_err(|it| it.to_string()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Ok(()),
    }
}

/// Fails: there is no such interface.
#[cfg(not(any(target_os = "macos", windows)))]
#[expect(clippy::unused_async, reason = "other systems have such an interface")]
pub async fn open(_: &str, _: Duration) -> Result<(), String> {
    Err("this system opens links by programs only".to_owned())
}
