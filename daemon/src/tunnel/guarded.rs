//! The local side of a connection behind the browser guard: what is read of it was let through.

use std::{
    io,
    ops::{Deref, DerefMut},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};

use pomd_core::{
    config::{TunnelName, TunnelSpec},
    guard::{Guard, Passed, Refusal, Rules},
};
use tokio::{
    io::{AsyncRead, ReadBuf},
    net::TcpStream,
    time::{Instant, Sleep, sleep_until},
};

use super::local::Local;
use crate::upstream::EarlySource;

/// How much is read at once to find out what a client speaks.
const ROOM: usize = 8 << 10;

/// An accepted connection, and what watches it. It is read by one at a time, while others may look at it. A read fails with
/// [`Refusal`] inside where the guard refused.
#[derive(Debug)]
pub(super) struct Guarded {
    local: Local,
    /// `None`: nothing is looked at, or not any more.
    watch: Mutex<Option<Box<Watch>>>,
}

#[derive(Debug)]
struct Watch {
    guard: Guard,
    /// What was let through and not read yet, from `taken` on.
    ready: Vec<u8>,
    taken: usize,
    /// The local side ended.
    ended: bool,
    /// It failed.
    failed: Option<io::Error>,
    /// Runs while bytes are held: since when, and until when.
    timer: Option<(Instant, Pin<Box<Sleep>>)>,
}

/// Why nothing is to be opened.
#[derive(Debug)]
pub(super) enum Turned {
    /// The guard refused.
    Away(Box<Refusal>),
    /// The local side failed.
    Gone,
}

impl Guarded {
    /// Without `rules` nothing is looked at.
    pub(super) fn new(local: Local, rules: Option<Arc<Rules>>) -> Self {
        let watch = rules.map(|rules| {
            Box::new(Watch {
                guard: Guard::new(rules),
                ready: Vec::new(),
                taken: 0,
                ended: false,
                failed: None,
                timer: None,
            })
        });
        Self {
            local,
            watch: Mutex::new(watch),
        }
    }

    /// Ready once it is known whether the first bytes of the client, which are there, may go on.
    pub(super) fn poll_first(&self, cx: &mut Context<'_>) -> Poll<Result<(), Turned>> {
        let mut slot = self.watch();
        loop {
            let Some(watch) = slot.as_deref_mut() else {
                return Poll::Ready(Ok(()));
            };
            if let Some(refusal) = watch.guard.refusal() {
                return Poll::Ready(Err(Turned::Away(Box::new(refusal.clone()))));
            }
            if watch.failed.is_some() {
                return Poll::Ready(Err(Turned::Gone));
            }
            if watch.has_ready() || watch.ended || watch.guard.is_over() {
                return Poll::Ready(Ok(()));
            }
            let mut room = [0; ROOM];
            let mut room = ReadBuf::new(&mut room);
            ready!(watch.poll_look(&self.local, &mut room, cx));
            watch.ready.extend_from_slice(room.filled());
        }
    }

    /// Ready once a read would bring bytes, an end or an error.
    pub(super) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(watch) = self.watch().as_deref_mut()
            && (watch.has_something() || watch.poll_time(cx).is_ready())
        {
            return Poll::Ready(Ok(()));
        }
        self.local.poll_readable(cx)
    }

    /// Something is there to read, or is held.
    pub(super) fn has_unread(&self) -> bool {
        let has = |it: &Watch| it.has_something() || it.guard.patience().is_some();
        self.watch().as_deref().is_some_and(has) || self.local.has_unread()
    }

    /// Without the guard.
    pub(super) fn into_local(self) -> Local {
        self.local
    }

    fn watch(&self) -> MutexGuard<'_, Option<Box<Watch>>> {
        self.watch.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watch {
    fn has_ready(&self) -> bool {
        self.taken < self.ready.len()
    }

    fn has_something(&self) -> bool {
        self.has_ready() || self.failed.is_some() || self.guard.refusal().is_some()
    }

    /// Reads once into `to`, and leaves there what goes on as it is; what else goes on is ready then.
    fn poll_look(
        &mut self,
        mut local: &Local,
        to: &mut ReadBuf<'_>,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        let before = to.filled().len();
        match Pin::new(&mut local).poll_read(cx, to) {
            Poll::Pending => {
                // What is there counts before the time that is over.
                ready!(self.poll_time(cx));
                self.timer = None;
                self.ready.append(&mut self.guard.time_is_up());
            }
            Poll::Ready(Err(error)) => self.failed = Some(error),
            Poll::Ready(Ok(())) => {
                let fresh = &to.filled()[before..];
                if fresh.is_empty() {
                    self.ended = true;
                    self.ready.append(&mut self.guard.end());
                    return Poll::Ready(());
                }
                let Passed { mut held, fresh: n } = self.guard.push(fresh);
                if n > 0 || !held.is_empty() {
                    self.timer = None;
                }
                if held.is_empty() {
                    to.set_filled(before + n);
                } else {
                    self.ready.append(&mut held);
                    self.ready.extend_from_slice(&fresh[..n]);
                    to.set_filled(before);
                }
            }
        }
        Poll::Ready(())
    }

    /// Ready once bytes were held for as long as they may be.
    fn poll_time(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(patience) = self.guard.patience() else {
            self.timer = None;
            return Poll::Pending;
        };
        if patience.is_zero() {
            return Poll::Ready(());
        }
        let (since, timer) = self.timer.get_or_insert_with(|| {
            let now = Instant::now();
            (now, Box::pin(sleep_until(now + patience)))
        });
        if timer.deadline() != *since + patience {
            timer.as_mut().reset(*since + patience);
        }
        timer.as_mut().poll(cx)
    }
}

impl AsyncRead for Guarded {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        to: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let watch = this.watch.get_mut().unwrap_or_else(PoisonError::into_inner);
        match watch {
            None => Pin::new(&mut this.local).poll_read(cx, to),
            Some(_) => Pin::new(&mut &*this).poll_read(cx, to),
        }
    }
}

impl AsyncRead for &Guarded {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        to: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut slot = self.watch();
        let before = to.filled().len();
        loop {
            let Some(watch) = slot.as_deref_mut() else {
                return Pin::new(&mut &self.local).poll_read(cx, to);
            };
            if watch.has_ready() {
                let rest = &watch.ready[watch.taken..];
                let piece = &rest[..rest.len().min(to.remaining())];
                to.put_slice(piece);
                watch.taken += piece.len();
                if !watch.has_ready() {
                    (watch.ready, watch.taken) = (Vec::new(), 0);
                }
                return Poll::Ready(Ok(()));
            }
            if let Some(error) = watch.failed.take() {
                return Poll::Ready(Err(error));
            }
            if let Some(refusal) = watch.guard.refusal() {
                let refused = io::ErrorKind::PermissionDenied;
                return Poll::Ready(Err(io::Error::new(refused, refusal.clone())));
            }
            if watch.ended {
                return Poll::Ready(Ok(()));
            }
            if watch.guard.is_over() {
                *slot = None;
                continue;
            }
            if to.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            ready!(watch.poll_look(&self.local, to, cx));
            if to.filled().len() > before {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl EarlySource for &Guarded {
    fn check(&self) -> io::Result<()> {
        let watch = self.watch();
        let failed = watch.as_deref().and_then(|it| it.failed.as_ref());
        match failed {
            Some(error) => Err(error.kind().into()),
            None => self.local.check(),
        }
    }
}

impl Deref for Guarded {
    type Target = Local;

    fn deref(&self) -> &Local {
        &self.local
    }
}

impl DerefMut for Guarded {
    fn deref_mut(&mut self) -> &mut Local {
        &mut self.local
    }
}

impl From<Local> for Guarded {
    fn from(local: Local) -> Self {
        Self::new(local, None)
    }
}

impl From<TcpStream> for Guarded {
    fn from(socket: TcpStream) -> Self {
        Self::new(socket.into(), None)
    }
}

/// What the guard of a tunnel goes by, if it has one.
pub(super) fn rules(name: &TunnelName, spec: &TunnelSpec) -> Option<Arc<Rules>> {
    let rules = || Rules {
        tunnel: name.to_string(),
        route: spec.route.authority.host.clone(),
        allow: spec.allow_hosts.clone(),
        ssh: spec.ssh,
    };
    spec.browser_guard.then(rules).map(Arc::new)
}

/// The refusal of the guard that a read failed with, if it did.
pub(super) fn refusal(error: &io::Error) -> Option<&Refusal> {
    error.get_ref().and_then(|it| it.downcast_ref())
}
