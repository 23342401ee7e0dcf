//! The login that is open: how it starts, is shown to a person, makes room for the next, and ends.

use pomd_core::session::callback::Door;
use tokio::{task::Id, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{Task, broke_off};
use crate::session::browser::{self, Job, Over};

/// Logins that are over and whose last pages can still be read, beside the newest; the oldest gives way.
pub(super) const LINGERING: usize = 3;

/// The login of the machine's newest job: about to open, open, or over and saying so.
pub(super) struct Running {
    pub(super) job: u64,
    pub(super) task: Id,
    pub(super) over: Over,
    stop: CancellationToken,
    pub(super) opened: Option<Door>,
    /// The sign-in URL that it was opened with.
    pub(super) minted: Option<(String, Instant)>,
}

impl Task {
    pub(super) fn start_job(&mut self, id: u64) {
        self.retire();
        self.facts.not_shown = None;
        let over = Over::default();
        let stop = self.house.stop.child_token();
        let job = Job {
            id,
            cluster: self.house.cluster.clone(),
            pomerium: self.house.pomerium.clone(),
            doorman: self.house.doorman.clone(),
            events: self.events.0.clone(),
            over: over.clone(),
            stop: stop.clone(),
        };
        let task = self.jobs.spawn(browser::run(job)).id();
        self.running = Some(Running {
            job: id,
            task,
            over,
            stop,
            opened: None,
            minted: None,
        });
    }

    /// Makes room for another login. The last pages of one that is over can be read to their end.
    fn retire(&mut self) {
        let Some(old) = self.running.take() else {
            return;
        };
        if !old.over.is_decided() {
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

    pub(super) fn show(&mut self, job: u64) {
        let Some(door) = self.running.as_ref().and_then(|it| it.opened.as_ref()) else {
            return;
        };
        let link = door.link_url();
        let opening = self.house.opener.open(&self.house.browser, &link);
        self.shows.spawn(async move { (job, opening.await) });
    }

    pub(super) fn end(&mut self, job: u64) {
        if let Some(running) = self.running.as_ref().filter(|it| it.job == job) {
            running.over.decide(None);
            if running.opened.is_none() {
                running.stop.cancel();
            }
        }
        self.disappoint(&broke_off(&self.house.cluster));
    }
}
