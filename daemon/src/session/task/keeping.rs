//! What is kept of a login, in memory and on disk.

use std::{collections::BTreeSet, time::Duration};

use jiff::{Timestamp, tz::TimeZone};
use pomd_core::config::Address;
use tokio::time::Instant;

use super::{TICK, Task};
use crate::{
    session::{
        browser::Answer,
        pages::{self, Success},
        store::Store,
        token::Login,
    },
    system::disk,
};

/// What the disk does not know yet.
#[derive(Debug, Default)]
pub(super) struct Unsaved {
    pub(super) save: bool,
    pub(super) remove: BTreeSet<Address>,
    /// Addresses of which nothing may rest on the disk after a logout, files that were set aside included (A30).
    pub(super) purge: BTreeSet<Address>,
    /// Not before.
    pub(super) retry_at: Option<Instant>,
}

impl Unsaved {
    /// How long it is until the next try.
    pub(super) fn rest(&self) -> Option<Duration> {
        let retry_at = self.retry_at?;
        Some(retry_at.saturating_duration_since(Instant::now()))
    }
}

impl Task {
    pub(super) fn forget(&mut self) {
        self.facts.since = self.house.clock.now();
        if let Some(login) = self.facts.login.take() {
            tracing::info!(
                cluster = self.house.cluster,
                "the token is forgotten; a login is needed"
            );
            self.unsaved.remove.insert(login.address);
        }
        self.unsaved.save = false;
        self.unsaved.retry_at = None;
    }

    pub(super) fn keep(&mut self, answer: Answer) {
        let now = self.house.clock.now();
        let cluster = &self.house.cluster;
        let instead_of = self.instead_of(&answer);
        let (user, subject) = match answer.user {
            Some(it) => (Some(it.display), it.subject),
            None => (None, None),
        };
        let named = user.as_deref().map(|it| format!(" as {it}"));
        let named = named.unwrap_or_default();
        tracing::info!(cluster, "logged in{named}");
        if let Some(before) = &instead_of {
            tracing::warn!(cluster, "logged in{named}, before it was {before}");
        }
        let success = Success {
            user: user.clone(),
            until: answer
                .until
                .filter(|it| *it > now)
                .map(|it| pages::moment(it, now, TimeZone::system())),
            waiting: self.waiting.count(),
            instead_of,
        };
        self.facts.address = answer.address.clone();
        self.facts.since = now;
        self.facts.failure = None;
        self.facts.not_shown = None;
        self.facts.login = Some(Login {
            address: answer.address,
            token: answer.token,
            user,
            subject,
            since: now,
            // A login that has ended before it was made tells of a clock that is wrong.
            until: answer.until.filter(|it| *it > now),
        });
        self.remember_who();
        self.unsaved.save = true;
        self.unsaved
            .remove
            .extend(self.house.login_at.iter().cloned());
        self.unsaved.remove.remove(&self.facts.address);
        self.unsaved.retry_at = None;
        if let Some(running) = &self.running {
            running.over.decide(Some(success));
        }
    }

    /// Forgets until when the session of this generation lasts, if that `is_wrong`: the server accepts it.
    pub(super) fn disprove_bound(
        &mut self,
        generation: u64,
        is_wrong: impl FnOnce(Timestamp) -> bool,
    ) {
        if self.facts.machine.grant() != Some(generation) {
            return;
        }
        let login = self.facts.login.as_mut();
        if let Some(login) = login.filter(|it| it.until.is_some_and(is_wrong)) {
            tracing::info!(
                cluster = self.house.cluster,
                "the server accepts the session past the end that it told"
            );
            login.until = None;
            self.unsaved.save = true;
            self.unsaved.retry_at = None;
        }
    }

    /// Who was logged in before, if that was somebody else.
    fn instead_of(&self, answer: &Answer) -> Option<String> {
        let (subject, user) = self.last.as_ref()?;
        let changed = answer.user.as_ref()?.subject.as_ref()? != subject;
        changed.then(|| user.clone().unwrap_or_else(|| subject.clone()))
    }

    pub(super) fn remember_who(&mut self) {
        let login = self.facts.login.as_ref();
        if let Some((login, subject)) = login.and_then(|it| Some((it, it.subject.clone()?))) {
            self.last = Some((subject, login.user.clone()));
        }
    }

    /// Makes the disk know what it does not know yet.
    pub(super) async fn flush(&mut self) {
        let due = self.unsaved.retry_at.is_none_or(|it| it <= Instant::now());
        let unsaved = &self.unsaved;
        if !due || !unsaved.save && unsaved.remove.is_empty() && unsaved.purge.is_empty() {
            return;
        }
        let store = self.house.store.clone();
        let save = self.facts.login.clone().filter(|_| self.unsaved.save);
        let (remove, purge) = (self.unsaved.remove.clone(), self.unsaved.purge.clone());
        let written =
            tokio::task::spawn_blocking(move || write(&store, save.as_ref(), &remove, &purge));
        let trouble = match written.await {
            Ok(Ok(())) => None,
            Ok(Err(trouble)) => Some(trouble),
            Err(error) => Some(format!("cannot save the login: {error}")),
        };
        match trouble {
            None => {
                self.unsaved = Unsaved::default();
                self.facts.unsaved = None;
            }
            Some(trouble) => {
                let news = self.facts.unsaved.as_ref().is_none_or(|it| it.0 != trouble);
                if news {
                    tracing::warn!(cluster = self.house.cluster, "{trouble}");
                    self.facts.unsaved = Some((trouble, self.house.clock.now()));
                }
                self.unsaved.retry_at = Some(Instant::now() + TICK);
            }
        }
    }
}

fn write(
    store: &Store,
    save: Option<&Login>,
    remove: &BTreeSet<Address>,
    purge: &BTreeSet<Address>,
) -> Result<(), String> {
    // Before a login that came after it, and also where that cannot be saved.
    for address in purge {
        let gone = store.purge(address);
        gone.map_err(|it| format!("cannot remove the saved login: {}", disk::describe(&it)))?;
    }
    if let Some(login) = save {
        let saved = store.save(login);
        saved.map_err(|it| format!("cannot save the login: {}", disk::describe(&it)))?;
    }
    for address in remove {
        let gone = store.forget(address);
        gone.map_err(|it| format!("cannot remove the saved login: {}", disk::describe(&it)))?;
    }
    Ok(())
}
