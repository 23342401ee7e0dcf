//! Where a test may step in: a value, so that there is nothing in the shipped program to be switched on.

use std::{fmt, io, sync::Arc};

/// A place where something can go wrong that no file and no network of a test brings about.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Point {
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

/// Asked at each [`Point`].
#[derive(Clone, Default)]
pub struct Points(Option<Arc<Ask>>);

type Ask = dyn Fn(Point) -> io::Result<()> + Send + Sync;

impl Points {
    /// Nobody steps in.
    pub fn none() -> Self {
        Self(None)
    }

    /// `ask` may fail or panic, and the place does.
    pub fn from_fn(ask: impl Fn(Point) -> io::Result<()> + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(ask)))
    }

    pub(crate) fn pass(&self, point: Point) -> io::Result<()> {
        self.0.as_ref().map_or(Ok(()), |ask| ask(point))
    }
}

impl fmt::Debug for Points {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Points")
    }
}
