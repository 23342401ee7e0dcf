//! The addresses that answered lately: the way to them is the way to the cluster.

use std::{
    net::IpAddr,
    sync::{Mutex, PoisonError},
};

/// How many are remembered.
const MOST: usize = 8;

/// Newest last.
#[derive(Debug, Default)]
pub(in crate::upstream) struct Reached(Mutex<Vec<IpAddr>>);

impl Reached {
    /// All of them.
    pub(in crate::upstream) fn all(&self) -> Vec<IpAddr> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// This one answered.
    pub(in crate::upstream) fn note(&self, address: IpAddr) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.last() == Some(&address) {
            return;
        }
        all.retain(|it| *it != address);
        if all.len() == MOST {
            all.remove(0);
        }
        all.push(address);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_eight_are_remembered_once_each() {
        let reached = Reached::default();
        for last in [0, 1, 2, 1, 3, 4, 5, 6, 7, 8, 8] {
            reached.note(IpAddr::from([10, 0, 0, last]));
        }
        let all = reached.all().into_iter().map(|it| match it {
            IpAddr::V4(it) => it.octets()[3],
            IpAddr::V6(_) => unreachable!("none was noted"),
        });
        assert_eq!(all.collect::<Vec<_>>(), [2, 1, 3, 4, 5, 6, 7, 8]);
    }
}
