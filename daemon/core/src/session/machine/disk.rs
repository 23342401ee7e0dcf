//! What the disk does not know yet of the saved logins.

use std::collections::BTreeSet;

use crate::{config::Address, session::token::Credential};
use jiff::Timestamp;

use super::{TICK, after};

/// Changes to the saved logins, to be made in the order of the fields: a purge comes before a login that was made after
/// it, and also where that cannot be saved.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Write {
    /// Addresses of which nothing may rest on the disk after a logout, files that were set aside included (A30).
    pub purge: BTreeSet<Address>,
    /// The login to save.
    pub save: Option<Credential>,
    /// Addresses whose login is forgotten.
    pub remove: BTreeSet<Address>,
}

#[derive(Debug)]
pub(super) struct Disk {
    save: bool,
    remove: BTreeSet<Address>,
    purge: BTreeSet<Address>,
    /// What the driver writes at this moment.
    writing: Option<Write>,
    /// Not before, because the last try failed.
    retry_at: Option<Timestamp>,
    /// What the disk did not take, and since when.
    trouble: Option<(String, Timestamp)>,
}

impl Disk {
    pub(super) fn new(save: bool) -> Self {
        Self {
            save,
            remove: BTreeSet::new(),
            purge: BTreeSet::new(),
            writing: None,
            retry_at: None,
            trouble: None,
        }
    }

    /// The login is to be written, for the first time or again.
    pub(super) fn save(&mut self) {
        self.save = true;
        self.retry_at = None;
    }

    /// A login was made at `address`, which leaves no other of the cluster's `addresses` saved.
    pub(super) fn keep(&mut self, addresses: &[Address], address: &Address) {
        self.save();
        self.remove.extend(addresses.iter().cloned());
        self.remove.remove(address);
    }

    /// The login of `address` is gone.
    pub(super) fn forget(&mut self, address: Option<Address>) {
        self.save = false;
        self.remove.extend(address);
        self.retry_at = None;
    }

    pub(super) fn purge(&mut self, addresses: impl Iterator<Item = Address>) {
        self.purge.extend(addresses);
    }

    /// What to write now; `credential` is the login that is held.
    pub(super) fn next_write(
        &mut self,
        credential: Option<&Credential>,
        now: Timestamp,
    ) -> Option<Write> {
        self.save &= credential.is_some();
        if let Some(it) = credential {
            self.remove.remove(&it.address);
        }
        // A clock that was set back must not put the next try off.
        self.retry_at = self.retry_at.map(|it| it.min(after(now, TICK)));
        let nothing = !self.save && self.remove.is_empty() && self.purge.is_empty();
        if nothing || self.writing.is_some() || self.retry_at.is_some_and(|it| it > now) {
            return None;
        }
        let write = Write {
            purge: std::mem::take(&mut self.purge),
            save: credential.filter(|_| self.save).cloned(),
            remove: std::mem::take(&mut self.remove),
        };
        self.save = false;
        self.retry_at = None;
        self.writing = Some(write.clone());
        Some(write)
    }

    /// What came of the write; returns trouble that is news.
    pub(super) fn on_written(
        &mut self,
        result: Result<(), String>,
        now: Timestamp,
    ) -> Option<String> {
        let write = self.writing.take()?;
        let Err(trouble) = result else {
            self.trouble = None;
            return None;
        };
        self.restore(write);
        self.retry_at = Some(after(now, TICK));
        let known = self.trouble.as_ref().is_some_and(|it| it.0 == trouble);
        (!known).then(|| {
            self.trouble = Some((trouble.clone(), now));
            trouble
        })
    }

    pub(super) fn trouble(&self) -> Option<&(String, Timestamp)> {
        self.trouble.as_ref()
    }

    /// When the next try is due.
    pub(super) fn retry_at(&self) -> Option<Timestamp> {
        self.retry_at.filter(|_| self.writing.is_none())
    }

    /// The disk still lacks all of `write`.
    fn restore(&mut self, write: Write) {
        self.save |= write.save.is_some();
        self.remove.extend(write.remove);
        self.purge.extend(write.purge);
    }
}
