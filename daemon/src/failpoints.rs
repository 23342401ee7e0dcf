//! Fail points: places where a test makes something fail. They are a value, so that the shipped program has nothing to be
//! switched on.

use std::{fmt, io, sync::Arc};

/// A place where something can go wrong that no file and no network of a test brings about.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Failpoint {
    /// A folder is about to be locked.
    Lock,
    /// A listener of a tunnel is about to accept.
    Accept,
    /// An address of a server is about to be dialled.
    Dial,
    /// A connection was accepted, in its own task.
    Connection,
    /// A session is about to react to something, in its own task.
    Session,
    /// A request came over the control socket, in its client's task.
    Request,
}

/// The closure of a test that is asked at each [`Failpoint`], or none. Clones ask the same one.
#[derive(Clone, Default)]
pub struct Failpoints(Option<Arc<Ask>>);

type Ask = dyn Fn(Failpoint) -> io::Result<()> + Send + Sync;

impl Failpoints {
    /// Returns fail points of which none ever fails.
    pub fn none() -> Self {
        Self(None)
    }

    /// Returns fail points that fail or panic where `ask` does.
    pub fn from_fn(ask: impl Fn(Failpoint) -> io::Result<()> + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(ask)))
    }

    /// Returns the error that the test wants at this place, if any.
    pub(crate) fn check(&self, point: Failpoint) -> io::Result<()> {
        self.0.as_ref().map_or(Ok(()), |ask| ask(point))
    }
}

impl fmt::Debug for Failpoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Failpoints")
    }
}
