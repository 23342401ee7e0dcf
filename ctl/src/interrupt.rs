//! Ctrl-C, heard on a thread of its own: the command may be stuck in a write that nobody reads.

use std::{future::poll_fn, io, pin::Pin, process, task::Poll, thread, time::Duration};

use tokio::{runtime::Runtime, sync::oneshot};

use crate::{error::INTERRUPTED, runtime, silent};

/// How long an interrupted command may take for its last words.
const GRACE: Duration = Duration::from_millis(500);

/// Leaves Ctrl-C to the program that the command runs in the terminal, such as an editor. What is returned is never told.
///
/// # Errors
/// As for [`watch`].
pub(crate) fn leave_to_child() -> io::Result<oneshot::Receiver<()>> {
    drop(taken_over(&runtime()?));
    // Taken over for good; a child starts with the default.
    Ok(oneshot::channel().1)
}

fn taken_over(runtime: &Runtime) -> Pin<Box<impl Future<Output = io::Result<()>> + use<>>> {
    let mut heard = Box::pin(tokio::signal::ctrl_c());
    // The first look takes the signal over; until then it would end the process without a word.
    runtime.block_on(poll_fn(|cx| {
        Poll::Ready(heard.as_mut().poll(cx).is_ready())
    }));
    heard
}

/// Hears Ctrl-C from now on. What is returned is told once, so that the command ends in order; where it has not ended
/// after [`GRACE`], the process does.
///
/// # Errors
/// The thread or its runtime cannot be started.
pub(crate) fn watch() -> io::Result<oneshot::Receiver<()>> {
    let runtime = runtime()?;
    let heard = taken_over(&runtime);
    let (tell, told) = oneshot::channel();
    let hear = async move {
        if heard.await.is_err() {
            return;
        }
        // Nobody listens once the command is at its last words.
        let _ = tell.send(());
        tokio::time::sleep(GRACE).await;
        silent::restore();
        process::exit(INTERRUPTED.into());
    };
    let thread = thread::Builder::new().name("interrupt".to_owned());
    thread.spawn(move || runtime.block_on(hear))?;
    Ok(told)
}
