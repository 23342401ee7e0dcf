//! The pool of warm connections: past their handshake, and nothing said on them yet.
//!
//! A connection that finds one here is open after one round trip. They are made in the background, only where somebody
//! was answered before and only with TLS; what happens to them while they wait is noticed at once. How many are kept, and
//! which, is decided by [`pomd_core::route::pool`]; `idle_state` tells what the end of one means. Must not know what is said
//! on them.

mod idle_state;

use std::{
    future::poll_fn,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use pomd_core::{
    config::{Address, Authority, Host},
    route::pool::{Inventory, Order},
};
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{record::Remote, tls::Secure};
use crate::{clock::Clock, system::limits};

use idle_state::is_quiet;
pub(super) use idle_state::{IdleState, Sent};

/// The most warm connections of all clusters together.
const MOST: usize = 64;
/// They take no more than this part of the descriptors that there are.
const SHARE: u64 = 16;
/// How long bytes that are there already may take to be read.
const GLANCE: Duration = Duration::from_millis(5);

/// How many warm connections there may be in the whole process.
#[derive(Clone, Debug)]
pub struct Budget(Arc<Semaphore>);

/// What a warm connection was made for: connections with the same key are dialled alike and prove the same name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    /// What is dialled.
    pub(super) target: Authority,
    /// The name in the certificate.
    pub(super) name: Host,
    /// The forward proxy, as it is shown.
    pub(super) proxy: Option<String>,
}

/// The warm connections of one cluster.
#[derive(Debug)]
pub(super) struct Pool {
    budget: Budget,
    clock: Clock,
    /// Held for moments: a look or a move.
    inventory: Mutex<Inventory<Key, Address, WarmConnection>>,
    /// Told when there may be something to make, or nothing any more.
    changed: Notify,
}

/// A connection that is past its handshake and unused.
#[derive(Debug)]
pub(super) struct WarmConnection {
    pub(super) remote: Remote,
    pub(super) secure: Secure,
    _permit: OwnedSemaphorePermit,
}

impl Budget {
    /// What this process can afford.
    pub fn of_process() -> Self {
        let share = limits::descriptors().map(|it| it / SHARE);
        let share = share.and_then(|it| usize::try_from(it).ok());
        Self::new(share.map_or(MOST, |it| it.min(MOST)))
    }

    /// A budget for `most` connections.
    pub fn new(most: usize) -> Self {
        Self(Arc::new(Semaphore::new(most)))
    }
}

impl WarmConnection {
    /// Returns what is known of it now; `None`: it is not to be used.
    pub(super) async fn idle_state(&mut self) -> Option<IdleState> {
        let remote = &mut self.remote;
        if !is_quiet(remote.socket.socket()) {
            // Perhaps only tickets, which come right behind the handshake.
            let said = timeout(GLANCE, poll_fn(|cx| remote.poll_recv(cx))).await;
            if said.is_ok() {
                return None;
            }
        }
        IdleState::look(remote.socket.socket(), remote.written())
    }
}

impl Pool {
    pub(super) fn new(budget: Budget, clock: Clock) -> Self {
        Self {
            budget,
            clock,
            inventory: Mutex::default(),
            changed: Notify::new(),
        }
    }

    /// Notes that a connection for `key`, which leads to `address`, is asked for.
    pub(super) fn ask(&self, key: Key, address: &Address) {
        let now = self.clock.moment();
        self.lock().ask(key, address.clone(), now);
    }

    /// Notes that somebody was answered on a connection for `key`.
    pub(super) fn note_use(&self, key: &Key) {
        let now = self.clock.moment();
        self.lock().note_use(key, now);
        self.changed.notify_one();
    }

    /// Takes out a connection for `key`. Whoever takes it looks whether it is alive.
    ///
    /// A connection to another name of the cluster is never taken, although its certificate may cover both: a token goes
    /// to the name that was said (A24), and that name's server may be another one.
    pub(super) fn take(&self, key: &Key) -> Option<WarmConnection> {
        let now = self.clock.moment();
        self.lock().take(key, now)
    }

    /// Notes that a connection that was taken from `key` was alive.
    pub(super) fn confirm(&self, key: &Key) {
        self.lock().confirm(key);
    }

    /// Throws those of `key` away: one of them had ended unnoticed, so the others may have, too.
    pub(super) fn invalidate(&self, key: &Key) {
        self.lock().invalidate(key);
        tracing::debug!("a warm connection to {} had ended", key.target);
    }

    /// Throws all away. New ones are made at the next [`Self::refresh`] or use.
    pub(super) fn invalidate_all(&self) {
        self.lock().invalidate_all();
    }

    /// Throws all away and makes no more, until somebody is answered again.
    pub(super) fn clear(&self) {
        self.lock().clear();
        self.changed.notify_one();
    }

    /// Throws away what is too old, and lets others be made. To be called now and then.
    pub(super) fn refresh(&self) {
        if !self.lock().is_idle() {
            self.changed.notify_one();
        }
    }

    /// How many connections there are.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.lock().len()
    }

    /// Keeps the pool filled until `stop`; `make` dials and shakes hands. Unless this runs, the pool stays empty.
    pub(super) async fn run<F, E>(&self, stop: CancellationToken, make: impl Fn(Address) -> F)
    where
        F: Future<Output = Result<(Remote, Option<Secure>), E>>,
        E: std::fmt::Display,
    {
        let mut under_way = FuturesUnordered::new();
        let mut epoch = 0;
        loop {
            let (orders, now) = self.orders();
            if now != epoch {
                // What was begun before is of no use any more.
                under_way.clear();
                epoch = now;
            }
            for order in orders {
                under_way.push(self.fill(order, &make));
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = self.changed.notified() => {}
                Some(()) = under_way.next() => {}
                () = poll_fn(|cx| self.poll_ended(cx)) => {}
            }
        }
        self.clear();
    }

    fn orders(&self) -> (Vec<Order<Key, Address>>, u64) {
        let now = self.clock.moment();
        let mut inventory = self.lock();
        let orders = inventory.orders(now, self.budget.0.available_permits());
        (orders, inventory.epoch())
    }

    async fn fill<F, E>(&self, order: Order<Key, Address>, make: impl Fn(Address) -> F)
    where
        F: Future<Output = Result<(Remote, Option<Secure>), E>>,
        E: std::fmt::Display,
    {
        // Another cluster may have been quicker.
        let Ok(permit) = self.budget.0.clone().try_acquire_owned() else {
            return self.lock().left(&order);
        };
        match make(order.how.clone()).await {
            Ok((remote, Some(secure))) => {
                let connection = WarmConnection {
                    remote,
                    secure,
                    _permit: permit,
                };
                self.lock().made(&order, connection);
            }
            // Without TLS nothing was ordered.
            Ok((_, None)) => self.lock().left(&order),
            Err(error) => {
                tracing::debug!("no warm connection to {}: {error}", order.key.target);
                let now = self.clock.moment();
                self.lock().failed(&order, now);
            }
        }
    }

    /// Ready when warm connections ended; they are gone then. Whatever a server says unasked is an end as well.
    fn poll_ended(&self, cx: &mut Context<'_>) -> Poll<()> {
        let now = self.clock.moment();
        let ended = self
            .lock()
            .remove_ended(now, |it| it.remote.poll_recv(cx).is_ready());
        if ended == 0 {
            return Poll::Pending;
        }
        tracing::debug!("{ended} warm connections ended");
        Poll::Ready(())
    }

    fn lock(&self) -> MutexGuard<'_, Inventory<Key, Address, WarmConnection>> {
        self.inventory
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
