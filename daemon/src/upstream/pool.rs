//! The stock of connections that are ready: past their handshake, and nothing said on them yet.
//!
//! A connection that finds one here is open after one round trip. They are made in the background, only where somebody
//! was answered before and only with TLS; what happens to them while they wait is noticed at once. `pomd_core::route::pool` decides what is
//! made and what still counts, `idle_state` what the end of a spare means. Must not know what is said on them.

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
    route::{
        pool::{Order, Stock},
        refusal::OpenError,
    },
};
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{record::Remote, tls::Secure};
use crate::{clock::Clock, system::limits};

use idle_state::is_quiet;
pub(super) use idle_state::{Said, Waited};

/// The most spares of all clusters together.
const MOST: usize = 64;
/// They take no more than this part of the descriptors that there are.
const SHARE: u64 = 16;
/// How long bytes that are there already may take to be read.
const GLANCE: Duration = Duration::from_millis(5);

/// How many spares there may be in the whole process.
#[derive(Clone, Debug)]
pub struct Budget(Arc<Semaphore>);

/// What one spare is good for: connections that are dialled alike and prove the same name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Way {
    /// What is dialled.
    pub(super) target: Authority,
    /// The name in the certificate.
    pub(super) name: Host,
    /// The forward proxy, as it is shown.
    pub(super) proxy: Option<String>,
}

/// The spares of one cluster.
#[derive(Debug)]
pub(super) struct Spares {
    budget: Budget,
    clock: Clock,
    /// Held for moments: a look or a move.
    stock: Mutex<Stock<Way, Address, Spare>>,
    /// Told when there may be something to make, or nothing any more.
    changed: Notify,
}

/// A connection that is ready.
#[derive(Debug)]
pub(super) struct Spare {
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

    /// So many.
    pub fn new(most: usize) -> Self {
        Self(Arc::new(Semaphore::new(most)))
    }
}

impl Spare {
    /// What is known of it now; `None`: it is not to be used.
    pub(super) async fn look(&mut self) -> Option<Waited> {
        let remote = &mut self.remote;
        if !is_quiet(remote.socket.socket()) {
            // Perhaps only tickets, which come right behind the handshake.
            let said = timeout(GLANCE, poll_fn(|cx| remote.poll_recv(cx))).await;
            if said.is_ok() {
                return None;
            }
        }
        Waited::look(remote.socket.socket(), remote.written())
    }
}

impl Spares {
    pub(super) fn new(budget: Budget, clock: Clock) -> Self {
        Self {
            budget,
            clock,
            stock: Mutex::default(),
            changed: Notify::new(),
        }
    }

    /// Somebody was answered on `way`, which leads to `address`.
    pub(super) fn used(&self, way: Way, address: &Address) {
        let now = self.clock.moment();
        self.lock().used(way, address.clone(), now);
        self.changed.notify_one();
    }

    /// One for `way`. Whoever takes it looks whether it is alive.
    pub(super) fn take(&self, way: &Way) -> Option<Spare> {
        let now = self.clock.moment();
        self.lock().take(way, now)
    }

    /// One that was taken from `way` was alive.
    pub(super) fn worked(&self, way: &Way) {
        self.lock().worked(way);
    }

    /// One that was taken from `way` had ended unnoticed: the others may have, too.
    pub(super) fn doubt(&self, way: &Way) {
        self.lock().discard_way(way);
        tracing::debug!("a ready connection to {} had ended", way.target);
    }

    /// Throws all away, but goes on making new ones: at the next look or use.
    pub(super) fn discard(&self) {
        self.lock().discard();
    }

    /// Throws all away and makes no more, until somebody is answered again.
    pub(super) fn forget(&self) {
        self.lock().forget();
        self.changed.notify_one();
    }

    /// To be called now and then: throws away what no longer counts, and lets others be made.
    pub(super) fn look(&self) {
        if !self.lock().is_idle() {
            self.changed.notify_one();
        }
    }

    /// How many there are.
    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.lock().count()
    }

    /// Keeps the stock until `stop`; `make` dials and shakes hands. Without it there is never anything in stock.
    pub(super) async fn keep<F>(&self, stop: CancellationToken, make: impl Fn(Address) -> F)
    where
        F: Future<Output = Result<(Remote, Option<Secure>), OpenError>>,
    {
        let mut under_way = FuturesUnordered::new();
        let mut turn = 0;
        loop {
            let (orders, now) = self.orders();
            if now != turn {
                // What was begun before is of no use any more.
                under_way.clear();
                turn = now;
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
        self.forget();
    }

    fn orders(&self) -> (Vec<Order<Way, Address>>, u64) {
        let now = self.clock.moment();
        let mut stock = self.lock();
        (
            stock.orders(now, self.budget.0.available_permits()),
            stock.turn(),
        )
    }

    async fn fill<F>(&self, order: Order<Way, Address>, make: impl Fn(Address) -> F)
    where
        F: Future<Output = Result<(Remote, Option<Secure>), OpenError>>,
    {
        // Another cluster may have been quicker.
        let Ok(permit) = self.budget.0.clone().try_acquire_owned() else {
            return self.lock().left(&order);
        };
        match make(order.how.clone()).await {
            Ok((remote, Some(secure))) => {
                let spare = Spare {
                    remote,
                    secure,
                    _permit: permit,
                };
                self.lock().made(&order, spare);
            }
            // Without TLS nothing was ordered.
            Ok((_, None)) => self.lock().left(&order),
            Err(error) => {
                tracing::debug!("no ready connection to {}: {error}", order.way.target);
                let now = self.clock.moment();
                self.lock().failed(&order, now);
            }
        }
    }

    /// Ready when spares ended; they are gone then. Whatever a server says unasked is an end as well.
    fn poll_ended(&self, cx: &mut Context<'_>) -> Poll<()> {
        let now = self.clock.moment();
        let ended = self
            .lock()
            .remove_ended(now, |it| it.remote.poll_recv(cx).is_ready());
        if ended == 0 {
            return Poll::Pending;
        }
        tracing::debug!("{ended} ready connections ended");
        Poll::Ready(())
    }

    fn lock(&self) -> MutexGuard<'_, Stock<Way, Address, Spare>> {
        self.stock.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
