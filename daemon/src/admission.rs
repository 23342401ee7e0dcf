//! Who keeps a place where places are few (A31): clients that say nothing give way to those that ask something.
//!
//! Each client has a [`Slot`], by which it says what it is about. A client that is served is never sent away; of those
//! that have said nothing yet, and of those that follow something without an end, the oldest goes when there are too
//! many. Knows no sockets, and not what anybody asks.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio_util::sync::CancellationToken;

/// How many of each kind may be there at once.
#[derive(Clone, Copy, Debug)]
pub struct Capacity {
    /// Clients that have not said a whole request.
    pub silent: usize,
    /// Clients that are served. While there are so many, nobody comes in.
    pub served: usize,
    /// Clients that are told something without an end.
    pub following: usize,
}

/// The places of one listener.
#[derive(Debug)]
pub struct Admission {
    table: Arc<Mutex<Table>>,
}

impl Admission {
    /// All places are free.
    pub fn new(most: Capacity) -> Self {
        let table = Table {
            most,
            now: 0,
            clients: BTreeMap::new(),
        };
        Self {
            table: Arc::new(Mutex::new(table)),
        }
    }

    /// Nobody may come in now: too many are served already.
    pub fn is_full(&self) -> bool {
        let table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        table.count(Kind::Served) >= table.most.served
    }

    /// A client came in, and has said nothing yet.
    pub fn enter(&self) -> Slot {
        let leave = CancellationToken::new();
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let id = table.enter(leave.clone());
        drop(table);
        Slot {
            table: self.table.clone(),
            id,
            leave,
        }
    }
}

/// One client's place, which is free again when this is dropped.
#[derive(Debug)]
pub struct Slot {
    table: Arc<Mutex<Table>>,
    id: u64,
    leave: CancellationToken,
}

impl Slot {
    /// Returns once the client has to give way.
    pub async fn evicted(&self) {
        self.leave.cancelled().await;
    }

    /// It said a whole request, which is about to be obeyed. `false`: it gave way before, and is not obeyed.
    #[must_use]
    pub fn is_served(&self) -> bool {
        self.becomes(Kind::Served)
    }

    /// It is told something without an end from now on.
    pub fn follows(&self) {
        self.becomes(Kind::Following);
    }

    /// It was answered, and may say something else.
    pub fn is_answered(&self) {
        self.becomes(Kind::Silent);
    }

    fn becomes(&self, kind: Kind) -> bool {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        table.becomes(self.id, kind)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        table.clients.remove(&self.id);
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Silent,
    Served,
    Following,
}

#[derive(Debug)]
struct Client {
    kind: Kind,
    /// When it became that, counted in changes.
    since: u64,
    leave: CancellationToken,
}

/// Every client that has a place and was not told to leave it.
#[derive(Debug)]
struct Table {
    most: Capacity,
    now: u64,
    clients: BTreeMap<u64, Client>,
}

impl Table {
    fn count(&self, kind: Kind) -> usize {
        self.clients.values().filter(|it| it.kind == kind).count()
    }

    fn enter(&mut self, leave: CancellationToken) -> u64 {
        self.now += 1;
        let id = self.now;
        let client = Client {
            kind: Kind::Silent,
            since: id,
            leave,
        };
        self.clients.insert(id, client);
        self.make_room(Kind::Silent, self.most.silent);
        id
    }

    /// `false`: it was told to leave.
    fn becomes(&mut self, id: u64, kind: Kind) -> bool {
        self.now += 1;
        let Some(client) = self.clients.get_mut(&id) else {
            return false;
        };
        (client.kind, client.since) = (kind, self.now);
        match kind {
            Kind::Silent => self.make_room(kind, self.most.silent),
            Kind::Following => self.make_room(kind, self.most.following),
            // Whoever is served has come in before.
            Kind::Served => {}
        }
        true
    }

    /// The oldest of a kind of which there are more than `most` gives way.
    fn make_room(&mut self, kind: Kind, most: usize) {
        if self.count(kind) <= most {
            return;
        }
        let of_kind = self.clients.iter().filter(|it| it.1.kind == kind);
        let oldest = of_kind.min_by_key(|it| it.1.since).map(|it| *it.0);
        if let Some(client) = oldest.and_then(|it| self.clients.remove(&it)) {
            client.leave.cancel();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MOST: Capacity = Capacity {
        silent: 2,
        served: 3,
        following: 2,
    };

    fn left(places: &[&Slot]) -> Vec<bool> {
        places.iter().map(|it| it.leave.is_cancelled()).collect()
    }

    #[test]
    fn a31_the_oldest_silent_client_gives_way_and_one_that_is_served_does_not() {
        let admission = Admission::new(MOST);
        let [a, b] = [admission.enter(), admission.enter()];
        assert!(a.is_served());
        let [c, d] = [admission.enter(), admission.enter()];
        assert_eq!(left(&[&a, &b, &c, &d]), [false, true, false, false]);
        assert!(!b.is_served(), "it came too late");
        // It was answered after the others came in.
        a.is_answered();
        assert_eq!(left(&[&a, &c, &d]), [false, true, false]);
        drop(d);
        let e = admission.enter();
        assert_eq!(left(&[&a, &e]), [false, false]);
    }

    #[test]
    fn a31_those_who_follow_take_no_place_of_those_who_ask() {
        let admission = Admission::new(MOST);
        let all: Vec<_> = (0..5)
            .map(|_| {
                let place = admission.enter();
                assert!(place.is_served());
                place.follows();
                assert!(!admission.is_full());
                place
            })
            .collect();
        let all: Vec<&Slot> = all.iter().collect();
        assert_eq!(left(&all), [true, true, true, false, false]);
    }

    #[test]
    fn a31_who_comes_waits_only_while_too_many_are_served() {
        let admission = Admission::new(MOST);
        let mut all: Vec<_> = (0..3)
            .map(|_| {
                assert!(!admission.is_full());
                let place = admission.enter();
                assert!(place.is_served());
                place
            })
            .collect();
        assert!(admission.is_full());
        all.pop();
        assert!(!admission.is_full());
    }

    proptest! {
        #[test]
        fn a31_no_kind_is_more_than_it_may_be_and_only_the_oldest_go(
            steps in prop::collection::vec((0_usize..8, 0_usize..5), 0..100),
        ) {
            let admission = Admission::new(MOST);
            let mut all: Vec<Option<(Slot, Kind)>> = Vec::new();
            for (which, what) in steps {
                let was_full = admission.is_full();
                let at = which % all.len().max(1);
                match (all.get_mut(at), what) {
                    (_, 0) | (None, _) if was_full => {}
                    (_, 0) | (None, _) => all.push(Some((admission.enter(), Kind::Silent))),
                    (Some(slot), 1) => *slot = None,
                    (Some(Some((place, kind))), what) if !place.leave.is_cancelled() => {
                        match what {
                            2 => prop_assert!(place.is_served()),
                            3 => place.follows(),
                            _ => place.is_answered(),
                        }
                        *kind = [Kind::Served, Kind::Following, Kind::Silent][what - 2];
                    }
                    (Some(_), _) => {}
                }
                for place in all.iter().flatten() {
                    prop_assert!(place.1 != Kind::Served || !place.0.leave.is_cancelled());
                }
                let table = admission.table.lock().unwrap();
                prop_assert!(table.count(Kind::Silent) <= MOST.silent);
                prop_assert!(table.count(Kind::Following) <= MOST.following);
            }
        }
    }
}
