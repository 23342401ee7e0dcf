//! Ctrl-C, heard on a thread of its own: the command may be stuck in a write that nobody reads.

use std::{future::poll_fn, io, process, task::Poll, thread, time::Duration};

use tokio::sync::oneshot;

use crate::{error::INTERRUPTED, paste, runtime};

/// How long an interrupted command may take for its last words.
const GRACE: Duration = Duration::from_millis(500);

/// Hears Ctrl-C from now on. What is returned is told once, so that the command ends in order; where it has not ended
/// after [`GRACE`], the process does.
///
/// # Errors
/// The thread or its runtime cannot be started.
pub(crate) fn watch() -> io::Result<oneshot::Receiver<()>> {
    let runtime = runtime()?;
    let mut heard = Box::pin(tokio::signal::ctrl_c());
    // The first look takes the signal over; until then it would end the process without a word.
    runtime.block_on(poll_fn(|cx| {
        Poll::Ready(heard.as_mut().poll(cx).is_ready())
    }));
    let (tell, told) = oneshot::channel();
    let hear = async move {
        if heard.await.is_err() {
            return;
        }
        // Nobody listens once the command is at its last words.
        let _ = tell.send(());
        tokio::time::sleep(GRACE).await;
        paste::restore();
        process::exit(INTERRUPTED.into());
    };
    let thread = thread::Builder::new().name("interrupt".to_owned());
    thread.spawn(move || runtime.block_on(hear))?;
    Ok(told)
}
