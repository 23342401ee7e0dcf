//! Descriptors that are kept, so that a listener can answer or reset its clients when there are none left (E1).

use std::fs::File;

/// Open files that hold the places of descriptors.
#[derive(Debug)]
pub struct Reserve {
    kept: Vec<File>,
    most: usize,
}

impl Reserve {
    /// Keeps as many as `most`, as far as they can be had.
    pub fn new(most: usize) -> Self {
        let mut res = Self {
            kept: Vec::with_capacity(most),
            most,
        };
        res.refill();
        res
    }

    /// Makes room for one descriptor. `false`: there is none left to give.
    pub fn spend(&mut self) -> bool {
        self.kept.pop().is_some()
    }

    /// Takes back what there is. Not to be called between [`Reserve::spend`] and the use of it. It may fail where somebody
    /// else was quicker; the next call may have it again.
    pub fn refill(&mut self) {
        // Windows has no such limit, and nothing to open there.
        if !cfg!(unix) {
            return;
        }
        while self.kept.len() < self.most {
            let Ok(placeholder) = File::open("/dev/null") else {
                return;
            };
            self.kept.push(placeholder);
        }
    }
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use super::*;

    #[test]
    fn what_is_spent_is_taken_back() {
        let mut reserve = Reserve::new(4);
        for _ in 0..4 {
            assert!(reserve.spend());
        }
        assert!(!reserve.spend());
        reserve.refill();
        assert!(reserve.spend());
    }
}
