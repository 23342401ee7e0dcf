//! Opening a route for one connection: a grant, the route, and once more after a login. Where a decision needs the
//! local side it looks at the socket without taking a byte from it.
//!
//! A client that is gone before its route is open gets none, and what it sent goes nowhere (B9).

use std::time::Duration;

use futures_util::FutureExt;
use tokio::{io::Interest, time::Instant};

use super::{
    guard::Refusal,
    guarded::{self, Guarded, Turned},
    local::Local,
};
use crate::{
    session::{NoGrant, core::Patience, token::Grant},
    upstream::{Early, EarlySource, OpenError},
};

/// The two things a connection needs of its cluster.
pub(super) trait Way: Sync {
    /// An open route.
    type Opened: Send;

    /// A grant newer than `after`; see `Session::grant`.
    fn grant(
        &self,
        after: Option<u64>,
        patience: Patience,
    ) -> impl Future<Output = Result<Grant, NoGrant>> + Send;

    /// The server refused the token of this generation.
    fn refused(&self, generation: u64) -> impl Future<Output = ()> + Send;

    /// Opens the route; see `Upstream::open`.
    fn open<R>(
        &self,
        grant: &Grant,
        early: &mut Early<R>,
    ) -> impl Future<Output = Result<Self::Opened, OpenError>> + Send
    where
        R: EarlySource;
}

/// Why there is no open route.
#[derive(Debug)]
pub(super) enum Failure {
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

impl From<Turned> for Failure {
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
    /// Refusals are told in ssh's words; an ssh client that closed wants nothing any more.
    pub(super) ssh: bool,
    /// Tells whether some process still has the other end open, if the system can.
    pub(super) is_held: &'a (dyn Fn(&Local) -> Option<bool> + Sync),
    /// Told when the connection begins to wait for a login.
    pub(super) waits_for_login: &'a (dyn Fn() + Sync),
}

/// How often a waiting client is looked at; an error is noticed at once.
const LOOK: Duration = Duration::from_millis(250);
/// A client that sent what it had, closed in order and left is served if its route opens within this time: it wants no
/// answer. Later nobody expects any more that something happens.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Waits for the first byte, for at most `patience`. Takes nothing.
pub(super) async fn first_sign(local: &Local, patience: Duration) -> Sign {
    match tokio::time::timeout(patience, local.peek()).await {
        Ok(Ok(0) | Err(_)) => Sign::Gone,
        Ok(Ok(_)) => Sign::Bytes,
        Err(_) => Sign::Stayed,
    }
}

/// Opens the route. While a login is awaited the local bytes stay unread; after a login the kept ones are sent again,
/// once: a fresh token that is refused too ends it.
pub(super) async fn open<W: Way>(
    way: &W,
    patience: Patience,
    client: &Client<'_>,
    early: &mut Early<&Guarded>,
) -> Result<(W::Opened, Grant), Failure> {
    let mut after = None;
    let mut watch = Watch {
        socket: early.source,
        client,
        closed_at: None,
    };
    loop {
        let sent = !early.kept.is_empty();
        if early.ended && !sent {
            return Err(Failure::Gone);
        }
        let grant = tokio::select! {
            biased;
            it = way.grant(after, patience) => it.map_err(Failure::NoGrant)?,
            () = async {
                (client.waits_for_login)();
                watch.gone(sent).await;
            } => return Err(Failure::Gone),
        };
        let begun = Instant::now();
        let opened = tokio::select! {
            biased;
            // Its bytes are being read now: whether it sent any can't be seen at its socket.
            () = watch.gone(true) => return Err(Failure::Gone),
            it = way.open(&grant, early) => it,
        };
        let error = match opened {
            Ok(it) => return Ok((it, grant)),
            Err(OpenError::LocalGone(error)) => {
                let refusal = guarded::refusal(&error).cloned();
                return Err(refusal.map_or(Failure::Gone, |it| Failure::Refused(Box::new(it))));
            }
            Err(error) => error,
        };
        if matches!(error, OpenError::Unauthenticated { .. }) {
            way.refused(grant.generation).await;
            if after.is_none() {
                after = Some(grant.generation);
                continue;
            }
        }
        return Err(Failure::NotOpened {
            error,
            grant,
            begun,
        });
    }
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
            if !sent || is_gone(self.client.ssh, self.held(), closed_at.elapsed()) {
                return;
            }
        }
    }

    fn held(&self) -> Option<bool> {
        (self.client.is_held)(self.socket)
    }
}

/// Whether a client is gone that sent something and ended its side `closed` ago. It is still there if a process is known
/// to hold its socket: it only closed one direction. A client that left is gone after [`LAST_WORDS`], and ssh at once.
fn is_gone(ssh: bool, held: Option<bool>, closed: Duration) -> bool {
    match held {
        Some(true) => false,
        Some(false) if ssh => true,
        Some(false) | None => closed >= LAST_WORDS,
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::VecDeque, sync::Mutex};

    use control::wire::{Code, Reason};
    use jiff::Timestamp;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
    };

    use super::*;
    use crate::session::token::Token;

    type Answer = Result<(), OpenError>;

    /// Grants generation 1, 2, ... while they last; `None` waits for ever.
    #[derive(Default)]
    struct Fake {
        grants: u64,
        denies: bool,
        answers: Mutex<VecDeque<Answer>>,
        log: Mutex<Vec<String>>,
    }

    impl Fake {
        fn log(&self, line: String) {
            self.log.lock().unwrap().push(line);
        }
    }

    impl Way for Fake {
        type Opened = ();

        async fn grant(&self, after: Option<u64>, _: Patience) -> Result<Grant, NoGrant> {
            self.log(format!("grant {after:?}"));
            if self.denies {
                let (code, at) = (Code::LoginNeeded, Timestamp::UNIX_EPOCH);
                let reason = Reason::new(code, "corp needs a login", at);
                return Err(NoGrant { reason });
            }
            let generation = after.unwrap_or(0) + 1;
            if generation > self.grants {
                std::future::pending::<()>().await;
            }
            Ok(Grant {
                generation,
                token: Token::parse("secret").unwrap(),
                user: None,
            })
        }

        async fn refused(&self, generation: u64) {
            self.log(format!("refused {generation}"));
        }

        async fn open<R>(&self, grant: &Grant, early: &mut Early<R>) -> Result<(), OpenError>
        where
            R: EarlySource,
        {
            let mut byte = [0];
            if early.kept.is_empty() && early.source.read(&mut byte).await.unwrap() == 1 {
                early.kept.push(byte[0]);
            }
            self.log(format!("open {} {:?}", grant.generation, early.kept));
            self.answers.lock().unwrap().pop_front().unwrap()
        }
    }

    fn fake(grants: u64, answers: impl IntoIterator<Item = Answer>) -> Fake {
        Fake {
            grants,
            answers: Mutex::new(answers.into_iter().collect()),
            ..Fake::default()
        }
    }

    fn unauthenticated() -> Answer {
        Err(OpenError::Unauthenticated { request_id: None })
    }

    async fn pair() -> (TcpStream, Local) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap());
        let (client, accepted) = tokio::join!(client, listener.accept());
        (client.unwrap(), accepted.unwrap().0.into())
    }

    async fn open_on(fake: &Fake, ssh: bool, source: Local, held: bool) -> Result<(), Failure> {
        let patience = Patience {
            unasked: Duration::ZERO,
            asked: Duration::from_secs(300),
            client_asks: false,
        };
        let client = Client {
            ssh,
            is_held: &|_| Some(held),
            waits_for_login: &|| fake.log("waits for a login".to_owned()),
        };
        let mut early = Early {
            source: &source.into(),
            kept: Vec::new(),
            ended: false,
        };
        let limit = Duration::from_secs(10);
        tokio::time::timeout(limit, open(fake, patience, &client, &mut early))
            .await
            .unwrap()
            .map(|_| ())
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

    #[tokio::test]
    async fn a_refused_token_is_replaced_and_the_kept_bytes_are_sent_again() {
        let (mut client, local) = pair().await;
        client.write_all(b"\x07").await.unwrap();
        let fake = fake(2, [unauthenticated(), Ok(())]);
        open_on(&fake, false, local, true).await.unwrap();
        assert_eq!(
            *fake.log.lock().unwrap(),
            [
                "grant None",
                "open 1 [7]",
                "refused 1",
                "grant Some(1)",
                "open 2 [7]"
            ]
        );
    }

    #[tokio::test]
    async fn a_second_refusal_ends_it_without_a_third_login() {
        let (mut client, local) = pair().await;
        client.write_all(b"\x07").await.unwrap();
        let fake = fake(9, [unauthenticated(), unauthenticated()]);
        let failure = open_on(&fake, false, local, true).await.unwrap_err();
        let Failure::NotOpened {
            error: OpenError::Unauthenticated { .. },
            grant,
            ..
        } = failure
        else {
            panic!("{failure:?}");
        };
        assert_eq!(grant.generation, 2);
        assert_eq!(fake.log.lock().unwrap().last().unwrap(), "refused 2");
    }

    #[tokio::test]
    async fn other_refusals_keep_the_token_and_are_not_repeated() {
        let (mut client, local) = pair().await;
        client.write_all(b"\x07").await.unwrap();
        let refusal = crate::upstream::refusal::Refusal {
            kind: crate::upstream::refusal::RefusalKind::Forbidden,
            status: 403,
            request_id: None,
            detail: None,
        };
        let fake = fake(9, [Err(OpenError::Refused(refusal))]);
        let failure = open_on(&fake, false, local, true).await.unwrap_err();
        assert!(matches!(
            failure,
            Failure::NotOpened {
                error: OpenError::Refused(_),
                ..
            }
        ));
        assert_eq!(*fake.log.lock().unwrap(), ["grant None", "open 1 [7]"]);
    }

    #[tokio::test]
    async fn without_a_login_the_reason_is_handed_on() {
        let (_client, local) = pair().await;
        let fake = Fake {
            denies: true,
            ..Fake::default()
        };
        let failure = open_on(&fake, true, local, true).await.unwrap_err();
        assert!(matches!(failure, Failure::NoGrant(it) if it.reason.code == Code::LoginNeeded));
    }

    #[tokio::test]
    async fn a_client_that_leaves_ends_the_wait_for_a_login() {
        for (case, ssh, bytes, reset) in [
            ("sent nothing", false, false, false),
            ("reset after bytes", false, true, true),
            ("ssh closed after its banner", true, true, false),
        ] {
            let (mut client, local) = pair().await;
            if bytes {
                client.write_all(b"SSH-2.0-x\r\n").await.unwrap();
            }
            if reset {
                client.set_zero_linger().unwrap();
            }
            drop(client);
            let failure = open_on(&fake(0, []), ssh, local, false).await.unwrap_err();
            assert!(matches!(failure, Failure::Gone), "{case}");
        }
    }

    #[tokio::test]
    async fn a_client_that_only_ended_its_side_is_waited_for() {
        for ssh in [true, false] {
            let (mut client, local) = pair().await;
            client.write_all(b"x").await.unwrap();
            client.shutdown().await.unwrap();
            let fake = fake(0, []);
            let waited = open_on(&fake, ssh, local, true);
            let start = Instant::now();
            // Long enough to be looked at more than once.
            let limit = tokio::time::timeout(LOOK * 3, waited).await;
            assert!(limit.is_err(), "gave up after {:?}", start.elapsed());
        }
    }

    #[tokio::test]
    async fn a_client_that_ended_without_a_byte_asks_for_no_second_login() {
        let (client, local) = pair().await;
        drop(client);
        let fake = fake(9, [unauthenticated()]);
        let mut early = Early {
            source: &local.into(),
            kept: Vec::new(),
            ended: true,
        };
        let client = Client {
            ssh: false,
            is_held: &|_| None,
            waits_for_login: &|| {},
        };
        let patience = Patience {
            unasked: Duration::ZERO,
            asked: Duration::ZERO,
            client_asks: false,
        };
        let failure = open(&fake, patience, &client, &mut early)
            .await
            .unwrap_err();
        assert!(matches!(failure, Failure::Gone));
        assert!(fake.log.lock().unwrap().is_empty());
    }
}
