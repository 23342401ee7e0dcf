//! Descriptors kept for the control socket, so that pomd can say what is wrong when there are none left (E1).

use std::{fs::File, io};

/// As many clients are answered at the limit.
const KEPT: usize = 4;

/// What holds the places of descriptors.
pub(super) struct Reserve(Vec<File>);

impl Reserve {
    pub(super) fn new() -> Self {
        let mut res = Self(Vec::with_capacity(KEPT));
        res.refill();
        res
    }

    /// Makes room for one; `false`: there is none left to give.
    pub(super) fn spend(&mut self) -> bool {
        self.0.pop().is_some()
    }

    /// Takes back what there is. Not between [`Reserve::spend`] and the use of it.
    pub(super) fn refill(&mut self) {
        while self.0.len() < KEPT {
            let Ok(placeholder) = placeholder() else {
                return;
            };
            self.0.push(placeholder);
        }
    }
}

#[cfg(unix)]
fn placeholder() -> io::Result<File> {
    File::open("/dev/null")
}

/// There is no such limit.
#[cfg(not(unix))]
fn placeholder() -> io::Result<File> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn what_is_spent_is_taken_back() {
        let mut reserve = Reserve::new();
        for _ in 0..KEPT {
            assert!(reserve.spend());
        }
        assert!(!reserve.spend());
        reserve.refill();
        assert!(reserve.spend());
    }
}
