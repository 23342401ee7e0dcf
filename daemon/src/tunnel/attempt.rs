//! Opening a route for one connection: a grant, the route, and once more after a login. What has to be known of the
//! local side is seen at its socket, without taking a byte from it.
//!
//! A client that is gone before its route is open gets none, and what it sent goes nowhere (B9).

use std::time::Duration;

use futures_util::FutureExt;
use pomd_core::{
    guard::Refusal,
    route::refusal::OpenError,
    session::{Patience, token::Grant},
};
use tokio::{io::Interest, time::Instant};

use super::{
    Tunnel,
    dialect::Dialect,
    guarded::{self, Guarded, Turned},
    local::Local,
};
use crate::{
    session::NoGrant,
    upstream::{Early, Opened},
};

/// Why there is no open route.
#[derive(Debug)]
pub(super) enum AttemptError {
    /// The local side went away.
    Gone,
    /// The browser guard refused what the local side sent.
    Refused(Box<Refusal>),
    /// There is no login.
    NoGrant(NoGrant),
    /// It was tried with this grant. `Unauthenticated`: for the second time, with a token that was just given.
    NotOpened {
        error: OpenError,
        grant: Grant,
        begun: Instant,
    },
}

impl From<Turned> for AttemptError {
    fn from(turned: Turned) -> Self {
        match turned {
            Turned::Away(refusal) => Self::Refused(refusal),
            Turned::Gone => Self::Gone,
        }
    }
}

/// What a client did first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sign {
    /// It sent something.
    Bytes,
    /// It stayed.
    Stayed,
    /// It ended without a byte.
    Gone,
}

/// What is known of the client.
#[derive(Clone, Copy)]
pub(super) struct Client<'a> {
    /// The language it speaks.
    pub(super) dialect: Dialect,
    /// Tells whether some process still has the other end open, if the system can.
    pub(super) is_held: &'a (dyn Fn(&Local) -> Option<bool> + Sync),
    /// Told when the connection begins to wait for a login.
    pub(super) waits_for_login: &'a (dyn Fn() + Sync),
}

/// How often a waiting client is looked at; an error is noticed at once.
const LOOK: Duration = Duration::from_millis(250);
/// Waits for the first byte, for at most `patience`. Takes nothing.
pub(super) async fn first_sign(local: &Local, patience: Duration) -> Sign {
    match tokio::time::timeout(patience, local.peek()).await {
        Ok(Ok(0) | Err(_)) => Sign::Gone,
        Ok(Ok(_)) => Sign::Bytes,
        Err(_) => Sign::Stayed,
    }
}

/// Opens the route of `tunnel`. While a login is awaited the local bytes stay unread; after a login the kept ones are sent again,
/// once: a fresh token that is refused too ends it.
pub(super) async fn open(
    tunnel: &Tunnel,
    patience: Patience,
    client: &Client<'_>,
    early: &mut Early<&Guarded>,
) -> Result<(Opened, Grant), AttemptError> {
    let session = &tunnel.session;
    let mut after = None;
    let mut watch = Watch {
        socket: early.source,
        client,
        closed_at: None,
    };
    loop {
        let sent = !early.kept.is_empty();
        if has_left(early) {
            return Err(AttemptError::Gone);
        }
        let grant = tokio::select! {
            biased;
            it = session.grant(after, patience) => it.map_err(AttemptError::NoGrant)?,
            () = async {
                (client.waits_for_login)();
                watch.gone(sent).await;
            } => return Err(AttemptError::Gone),
        };
        let begun = Instant::now();
        let opened = tokio::select! {
            biased;
            // Its bytes are being read now: whether it sent any can't be seen at its socket.
            () = watch.gone(true) => return Err(AttemptError::Gone),
            it = tunnel.upstream.open(&tunnel.spec.route, &grant.token, early) => it,
        };
        let error = match opened {
            Ok(it) => return Ok((it, grant)),
            Err(OpenError::LocalGone(error)) => {
                let refusal = guarded::refusal(&error).cloned();
                return Err(
                    refusal.map_or(AttemptError::Gone, |it| AttemptError::Refused(Box::new(it)))
                );
            }
            Err(error) => error,
        };
        if matches!(error, OpenError::Unauthenticated { .. }) {
            session.refused(grant.generation).await;
        }
        let is_new_there = after.is_none() && session.instead_of(&grant, &error).await.is_some();
        if is_new_there || helps_a_newer_token(&error, after) {
            after = Some(grant.generation);
            continue;
        }
        return Err(AttemptError::NotOpened {
            error,
            grant,
            begun,
        });
    }
}

/// Whether the client ended its side without having said a word: it wants nothing.
fn has_left<R>(early: &Early<R>) -> bool {
    early.ended && early.kept.is_empty()
}

/// Whether the same is worth another try with a token newer than the one that met `error`, which was newer than that of
/// generation `after` itself. Only once: a token that was just given and is refused too will not get better.
fn helps_a_newer_token(error: &OpenError, after: Option<u64>) -> bool {
    matches!(error, OpenError::Unauthenticated { .. }) && after.is_none()
}

/// Watches a client while its route is not open yet.
struct Watch<'a> {
    socket: &'a Guarded,
    client: &'a Client<'a>,
    /// When its end was noticed.
    closed_at: Option<Instant>,
}

impl Watch<'_> {
    /// Returns once nobody is there any more who could be served.
    async fn gone(&mut self, sent: bool) {
        loop {
            let failed = self.socket.ready(Interest::ERROR);
            if tokio::time::timeout(LOOK, failed).await.is_ok() {
                return;
            }
            // Unread bytes keep the socket ready, so this must not wait.
            let Some(Ok(ready)) = self.socket.ready(Interest::READABLE).now_or_never() else {
                continue;
            };
            if !ready.is_read_closed() {
                continue;
            }
            let closed_at = *self.closed_at.get_or_insert_with(Instant::now);
            let sent = sent || self.socket.has_unread();
            let dialect = self.client.dialect;
            if !sent || dialect.is_gone(self.held(), closed_at.elapsed()) {
                return;
            }
        }
    }

    fn held(&self) -> Option<bool> {
        (self.client.is_held)(self.socket)
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::AsyncWriteExt,
        net::{TcpListener, TcpStream},
    };

    use super::*;
    use pomd_core::route::refusal::{Refusal, RefusalKind};

    async fn pair() -> (TcpStream, Local) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap());
        let (client, accepted) = tokio::join!(client, listener.accept());
        (client.unwrap(), accepted.unwrap().0.into())
    }

    /// Returns once a client is gone that speaks `dialect`; `held`: some process has its socket open.
    async fn gone(socket: Local, dialect: Dialect, held: bool) {
        let mut watch = Watch {
            socket: &socket.into(),
            client: &Client {
                dialect,
                is_held: &|_| Some(held),
                waits_for_login: &|| {},
            },
            closed_at: None,
        };
        watch.gone(false).await;
    }

    #[tokio::test]
    async fn the_first_sign_of_a_client_is_a_byte_its_end_or_its_patience() {
        let long = Duration::from_secs(10);
        let (mut client, local) = pair().await;
        assert_eq!(
            first_sign(&local, Duration::from_millis(1)).await,
            Sign::Stayed
        );
        client.write_all(b"x").await.unwrap();
        assert_eq!(first_sign(&local, long).await, Sign::Bytes);
        drop(client);
        assert_eq!(first_sign(&local, long).await, Sign::Bytes);
        let (client, local) = pair().await;
        drop(client);
        assert_eq!(first_sign(&local, long).await, Sign::Gone);
        let (client, local) = pair().await;
        client.set_zero_linger().unwrap();
        drop(client);
        assert_eq!(first_sign(&local, long).await, Sign::Gone);
    }

    #[test]
    fn a_refused_token_is_replaced_once_and_other_refusals_are_not_repeated() {
        let unauthenticated = || OpenError::Unauthenticated { request_id: None };
        let forbidden = || {
            OpenError::Refused(Refusal {
                kind: RefusalKind::Forbidden,
                status: 403,
                request_id: None,
                detail: None,
            })
        };
        for (error, after, again) in [
            (unauthenticated(), None, true),
            (unauthenticated(), Some(1), false),
            (forbidden(), None, false),
            (forbidden(), Some(1), false),
        ] {
            assert_eq!(helps_a_newer_token(&error, after), again, "{error:?}");
        }
    }

    #[tokio::test]
    async fn a_client_that_leaves_ends_the_wait_for_a_login() {
        for (dialect, bytes, reset) in [
            (Dialect::Raw, false, false),
            (Dialect::Raw, true, true),
            (Dialect::Ssh, true, false),
        ] {
            let (mut client, local) = pair().await;
            if bytes {
                client.write_all(b"SSH-2.0-x\r\n").await.unwrap();
            }
            if reset {
                client.set_zero_linger().unwrap();
            }
            drop(client);
            let limit = Duration::from_secs(10);
            let noticed = tokio::time::timeout(limit, gone(local, dialect, false)).await;
            assert!(noticed.is_ok(), "{dialect:?}, bytes {bytes}, reset {reset}");
        }
    }

    #[tokio::test]
    async fn a_client_that_only_ended_its_side_is_waited_for() {
        for dialect in [Dialect::Raw, Dialect::Ssh] {
            let (mut client, local) = pair().await;
            client.write_all(b"x").await.unwrap();
            client.shutdown().await.unwrap();
            let start = Instant::now();
            // Long enough to be looked at more than once.
            let waited = tokio::time::timeout(LOOK * 3, gone(local, dialect, true)).await;
            assert!(waited.is_err(), "gave up after {:?}", start.elapsed());
        }
    }

    #[test]
    fn a_client_that_ended_without_a_byte_asks_for_no_second_login() {
        for (kept, ended, left) in [("", true, true), ("x", true, false), ("", false, false)] {
            let early = Early {
                source: (),
                kept: kept.into(),
                ended,
            };
            assert_eq!(has_left(&early), left, "{kept:?}, {ended}");
        }
    }
}
