//! The attempt that runs: how it starts, is shown to a person, makes room for the next, and ends.

use pomd_core::session::error::NotTaken;
use tokio::{
    sync::mpsc::{Sender, error::TrySendError},
    task::Id,
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::Task;
use crate::session::source::{Attempt, Paste, PendingLogin, Verdict};

/// Logins that are over and whose last pages can still be read, beside the newest; the oldest makes room.
pub(super) const LINGERING: usize = 3;

/// The newest attempt: about to await a person, awaiting one, or over and saying so.
pub(super) struct Running {
    pub(super) id: u64,
    pub(super) task: Id,
    pub(super) verdict: Verdict,
    stop: CancellationToken,
    pastes: Sender<Paste>,
    /// What it awaits a person by, and since when.
    pub(super) pending: Option<(PendingLogin, Instant)>,
}

impl Task {
    pub(super) fn start(&mut self, id: u64) {
        self.retire();
        let (attempt, pastes) =
            Attempt::new(id, self.events.0.clone(), self.with.stop.child_token());
        let (verdict, stop) = (attempt.verdict.clone(), attempt.stop.clone());
        let task = self.attempts.spawn(attempt.run(self.with.source.clone()));
        self.running = Some(Running {
            id,
            task: task.id(),
            verdict,
            stop,
            pastes,
            pending: None,
        });
    }

    /// Makes room for another attempt. The last pages of one that is over can be read to their end.
    fn retire(&mut self) {
        let Some(old) = self.running.take() else {
            return;
        };
        if !old.verdict.is_decided() {
            old.stop.cancel();
            return;
        }
        self.lingering.push_back(old.stop);
        if self.lingering.len() > LINGERING
            && let Some(oldest) = self.lingering.pop_front()
        {
            oldest.cancel();
        }
    }

    pub(super) fn show(&mut self, id: u64) {
        if let Some((login, _)) = self.running.as_ref().and_then(|it| it.pending.as_ref()) {
            let showing = self.with.source.show(&login.link);
            self.shows.spawn(async move { (id, showing.await) });
        }
    }

    /// Hands a pasted address to the attempt that awaits one. One that is busy with another, or over, takes none.
    pub(super) fn paste(&self, paste: Paste) {
        let open = self.running.as_ref();
        let open = open.filter(|it| it.pending.is_some() && !it.verdict.is_decided());
        let refused = match open {
            None => paste,
            Some(open) => match open.pastes.try_send(paste) {
                Ok(()) => return,
                Err(TrySendError::Full(paste) | TrySendError::Closed(paste)) => paste,
            },
        };
        let _ = refused.done.send(Err(NotTaken::NotOpen));
    }

    pub(super) fn cancel(&mut self, id: u64) {
        if let Some(running) = self.running.as_ref().filter(|it| it.id == id) {
            running.verdict.decide(None);
            if running.pending.is_none() {
                running.stop.cancel();
            }
        }
    }
}
