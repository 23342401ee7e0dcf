//! One accepted connection, from its first byte to its end.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    sync::{Arc, Mutex, atomic::Ordering::Relaxed},
    time::Duration,
};

use control::{humanize, wire};
use pomd_core::{guard::Refusal, session::Patience, words::open};
use socket2::{SockRef, TcpKeepalive};
use tokio::{sync::Notify, time::Instant};

use super::{
    Caller, Carried, Stage, Tunnel,
    accept::Once,
    attempt::{self, AttemptError, Client, Sign, first_sign},
    counters::{Count, Fate, Opening},
    dialect::Dialect,
    guarded::Guarded,
    local::{Ends, Local},
    relay::{self, End},
};
use crate::{
    failpoints::Failpoint,
    session::NoGrant,
    upstream::{Early, Opened},
};

/// Carries `local` until it ends. Ends by itself when `tunnel.cut` is cancelled. `caller`: on whose behalf pomd made the
/// connection to itself.
pub(super) async fn carry(
    tunnel: Arc<Tunnel>,
    local: Guarded,
    ends: Ends,
    number: u64,
    caller: Option<Caller>,
) {
    local.hasten();
    let _ = notice_vanishing(&local, ends);
    let connection = Connection {
        tunnel: &tunnel,
        ends,
        number,
        started: Instant::now(),
        caller,
    };
    let waiting = Count::up(&tunnel.counters.waiting, &tunnel.changed);
    let fate = Fate::of(&tunnel.counters.opens);
    if tunnel.env.failpoints.check(Failpoint::Connection).is_err() {
        return local.into_local().reset();
    }
    let mut early = Early {
        source: &local,
        kept: Vec::new(),
        ended: false,
    };
    let opened = tokio::select! {
        biased;
        () = tunnel.cut.cancelled() => None,
        it = connection.open(&mut early) => Some(it),
    };
    let Early { kept, ended, .. } = early;
    match opened {
        None => {
            fate.is(Opening::Ended);
            local.into_local().reset();
        }
        Some(Ok(opened)) => {
            fate.is(Opening::Open);
            let _open = Count::up(&tunnel.counters.open, &tunnel.changed);
            drop(waiting);
            connection.is_at(Stage::Open);
            let early = Early {
                source: local,
                kept,
                ended,
            };
            connection.relay(opened, early).await;
        }
        Some(Err(failure)) => {
            fate.is(connection.failed_opening(&failure));
            drop(waiting);
            // Apart, as it is larger than all the rest, and connections that live long never come here.
            let refusing = Box::pin(connection.refuse(failure, local.into_local()));
            tunnel.cut.run_until_cancelled(refusing).await;
        }
    }
}

struct Connection<'a> {
    tunnel: &'a Tunnel,
    ends: Ends,
    number: u64,
    started: Instant,
    caller: Option<Caller>,
}

impl Connection<'_> {
    async fn open(&self, early: &mut Early<&Guarded>) -> Result<Opened, AttemptError> {
        let tunnel = self.tunnel;
        let logged_in = tunnel.session.view().state == wire::ClusterState::LoggedIn;
        let dialect = Dialect::of(tunnel.spec.ssh);
        match first_sign(early.source, dialect.first_word(logged_in)).await {
            Sign::Gone => return Err(AttemptError::Gone),
            Sign::Bytes => poll_fn(|cx| early.source.poll_first(cx)).await?,
            // Who waits for the server to speak first is no browser; what it says later is looked at then.
            Sign::Stayed => {}
        }
        let client = Client {
            dialect,
            is_held: &|local| self.is_held(local),
            waits_for_login: &|| self.is_at(Stage::WaitsForLogin),
        };
        let patience = patience(dialect, self.caller.is_some());
        let (opened, grant) = attempt::open(tunnel, patience, &client, early).await?;
        tunnel.session.accepted(grant.generation);
        Ok(opened)
    }

    /// Some process still has the client's end open, if that can be told.
    fn is_held(&self, local: &Local) -> Option<bool> {
        match (&self.caller, self.ends) {
            (Some(caller), _) => Some(!caller.gone.is_cancelled()),
            // The processes of other machines cannot be looked for here.
            (None, Ends::Tcp { theirs, .. }) if !theirs.ip().to_canonical().is_loopback() => None,
            (None, ends) => self.tunnel.owners.is_held(local, ends),
        }
    }

    /// Tells the caller, if there is one.
    fn is_at(&self, stage: Stage) {
        if let Some(caller) = &self.caller {
            caller.stage.send_replace(stage);
        }
    }

    async fn relay(&self, opened: Opened, early: Early<Guarded>) {
        let tunnel = self.tunnel;
        tunnel.clear_outcome();
        let took = self.started.elapsed();
        let own = Carried::default();
        let Early {
            source,
            kept,
            ended,
        } = early;
        own.sent.store(kept.len() as u64, Relaxed);
        // An idle connection owns no buffer.
        drop(kept);
        // Pinned once: each time it is handed on, it would take its room once more.
        let relayed = pin!(relay::relay(
            source,
            opened.remote,
            opened.first,
            ended,
            &tunnel.relay,
            &own,
            &tunnel.cut,
        ));
        let (end, ()) = tokio::join!(
            counted(&tunnel.counters.carried, &tunnel.changed, &own, relayed),
            self.greet(took)
        );
        self.take_leave(&end, &own);
    }

    /// Logs who connected. Looking for the program takes a moment, which the first bytes do not wait for.
    async fn greet(&self, took: Duration) {
        if !tracing::enabled!(tracing::Level::INFO) {
            return;
        }
        let owners = self.tunnel.owners.clone();
        let ends = self.ends;
        let mut who = None;
        if owners.rested() {
            let look = tokio::task::spawn_blocking(move || owners.look(ends));
            who = look.await.ok().flatten();
        }
        let number = self.number;
        let from = who.map_or_else(String::new, |it| format!(" from {it}"));
        tracing::info!(
            "connection {number}{from}: open in {}",
            humanize::duration(took)
        );
    }

    fn take_leave(&self, end: &End, own: &Carried) {
        let number = self.number;
        let carried = format!(
            "{} ↓ {} ↑, {}",
            humanize::bytes(own.received.load(Relaxed)),
            humanize::bytes(own.sent.load(Relaxed)),
            humanize::duration(self.started.elapsed())
        );
        match end {
            End::Clean => tracing::info!("connection {number}: ended, {carried}"),
            End::LocalGone(_) => {
                tracing::info!("connection {number}: ended by its client, {carried}");
            }
            End::Lingered => {
                tracing::info!(
                    "connection {number}: closed: client finished, no more data from the server, {carried}"
                );
            }
            End::Cancelled => tracing::info!("connection {number}: ended by pomd, {carried}"),
            End::Doubtful => tracing::warn!(
                "connection {number}: reset at its end, for the last bytes may be missing, {carried}"
            ),
            End::Cut(why) => tracing::warn!("connection {number}: cut: {why}, {carried}"),
            End::Refused(refusal) => self.turn_away(refusal),
        }
    }

    /// Returns what the connection is counted as.
    fn failed_opening(&self, failure: &AttemptError) -> Opening {
        match failure {
            AttemptError::Gone => Opening::ClientGone,
            AttemptError::Refused(_) => Opening::Guarded,
            AttemptError::NoGrant(NoGrant { reason }) => Opening::Failed(reason.code),
            AttemptError::NotOpened { error, grant, .. } => {
                let reason = open::reason(error, &self.tunnel.context(Some(grant), &[]));
                reason.map_or(Opening::ClientGone, |it| Opening::Failed(it.code))
            }
        }
    }

    async fn refuse(&self, failure: AttemptError, local: Local) {
        let (tunnel, number) = (self.tunnel, self.number);
        let text = match failure {
            AttemptError::Gone => {
                tracing::debug!("connection {number}: its client left before it was open");
                return;
            }
            AttemptError::Refused(refusal) => {
                self.turn_away(&refusal);
                let answer = refusal.answer.unwrap_or_default();
                return local.say_and_close(&answer).await;
            }
            AttemptError::NoGrant(NoGrant { reason }) => {
                self.complain(&reason);
                reason.message
            }
            AttemptError::NotOpened {
                error,
                grant,
                begun,
            } => {
                let similar = tunnel.similar(&error, &grant).await;
                let context = tunnel.context(Some(&grant), &similar);
                let Some(reason) = open::reason(&error, &context) else {
                    return;
                };
                tracing::warn!(
                    reason = %reason.code,
                    "connection {number}: {}",
                    open::with_request_id(&reason)
                );
                let text = open::for_ssh(&reason, &similar);
                tunnel.failed(begun, reason);
                text
            }
        };
        match Dialect::of(tunnel.spec.ssh).refusal(&text) {
            Some(told) => local.say_and_close(&told).await,
            None => local.reset(),
        }
    }

    /// A request that the browser guard refused. Says nothing of the tunnel, which works.
    fn turn_away(&self, refusal: &Refusal) {
        let tunnel = self.tunnel;
        tunnel.counters.guarded.fetch_add(1, Relaxed);
        tunnel.changed.notify_one();
        let text = format!("the browser guard refused a request: {refusal}");
        self.warn_rarely(&tunnel.guarded, None, &text);
    }

    fn complain(&self, reason: &wire::Reason) {
        self.warn_rarely(&self.tunnel.complaints, Some(reason.code), &reason.message);
    }

    /// Clients that try again and again would fill the log.
    fn warn_rarely(&self, limit: &Mutex<Once>, code: Option<wire::Code>, text: &str) {
        let number = self.number;
        let reason = code.map(tracing::field::display);
        let noted = limit.lock().map(|mut it| it.note(Instant::now()));
        match noted.ok().flatten() {
            Some(1) => tracing::warn!(reason, "connection {number}: {text}"),
            Some(count) => tracing::warn!(
                reason,
                "connection {number}: {text}; {count} connections since the last such line"
            ),
            None => tracing::debug!("connection {number}: {text}"),
        }
    }
}

/// How long a connection waits for a login. `asks`: the client was told that one is needed, and asks the person for it.
fn patience(dialect: Dialect, asks: bool) -> Patience {
    Patience {
        unasked: dialect.unasked_login(asks),
        asked: Duration::from_secs(5 * 60),
        client_asks: asks,
    }
}

/// Another machine may go without a word, which no program on this one can.
fn notice_vanishing(local: &Local, ends: Ends) -> std::io::Result<()> {
    let (local, theirs) = match (local, ends) {
        (Local::Tcp(local), Ends::Tcp { theirs, .. }) => (local, theirs),
        _ => return Ok(()),
    };
    if theirs.ip().to_canonical().is_loopback() {
        return Ok(());
    }
    let probes = TcpKeepalive::new()
        .with_time(Duration::from_secs(60))
        .with_interval(Duration::from_secs(15));
    SockRef::from(local).set_tcp_keepalive(&probes)
}

/// Runs a relay that counts in `own`, and counts the same in `all` as the bytes flow.
async fn counted<F: Future>(
    all: &Carried,
    changed: &Notify,
    own: &Carried,
    mut relay: Pin<&mut F>,
) -> F::Output {
    let mut seen = (0, 0);
    poll_fn(|cx| {
        let polled = relay.as_mut().poll(cx);
        let now = (own.received.load(Relaxed), own.sent.load(Relaxed));
        if now != seen {
            all.received.fetch_add(now.0 - seen.0, Relaxed);
            all.sent.fetch_add(now.1 - seen.1, Relaxed);
            seen = now;
            changed.notify_one();
        }
        polled
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use control::ssh_refusal;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
    };

    use super::{super::local::DRAIN, *};

    async fn refuse_ssh(local: Local, text: &str) {
        let told = Dialect::Ssh.refusal(text).unwrap();
        local.say_and_close(&told).await;
    }

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap());
        let (client, accepted) = tokio::join!(client, listener.accept());
        (client.unwrap(), accepted.unwrap().0)
    }

    #[tokio::test]
    async fn a_refused_client_reads_the_whole_refusal_and_then_an_end() {
        let (mut client, local) = pair().await;
        client.write_all(b"SSH-2.0-test\r\n").await.unwrap();
        let read = async {
            let mut all = Vec::new();
            client.read_to_end(&mut all).await.unwrap();
            // Only now does the client end; whoever closed before would have reset it.
            client.write_all(&[0; 512]).await.unwrap();
            drop(client);
            all
        };
        let ((), all) = tokio::join!(refuse_ssh(local.into(), "no"), read);
        assert_eq!(all, ssh_refusal::refusal("no"));
    }

    #[tokio::test]
    async fn clients_on_other_machines_are_probed_and_those_on_this_one_are_not() {
        let (_client, local) = pair().await;
        let ours = local.local_addr().unwrap();
        let near = Ends::Tcp {
            theirs: local.peer_addr().unwrap(),
            ours,
        };
        let far = Ends::Tcp {
            theirs: "192.0.2.7:40000".parse().unwrap(),
            ours,
        };
        let local = Local::from(local);
        let probed = || match &local {
            Local::Tcp(it) => SockRef::from(it).keepalive().unwrap(),
            Local::Unix(_) => unreachable!(),
        };
        notice_vanishing(&local, near).unwrap();
        assert!(!probed());
        notice_vanishing(&local, far).unwrap();
        assert!(probed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_client_that_stays_is_closed_upon_after_two_seconds() {
        let (_client, local) = pair().await;
        let start = Instant::now();
        refuse_ssh(local.into(), "no").await;
        assert!((DRAIN..DRAIN * 2).contains(&start.elapsed()));
    }

    #[tokio::test]
    async fn ssh_itself_prints_the_refusal() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let child = Command::new("ssh")
            .args([
                "-F",
                "none",
                "-o",
                "BatchMode=yes",
                "-p",
                &port.to_string(),
                "me@127.0.0.1",
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn();
        let Ok(child) = child else {
            eprintln!("skipped: there is no ssh here");
            return;
        };
        let (local, _) = listener.accept().await.unwrap();
        refuse_ssh(local.into(), "corp needs a login. Run: pomctl login corp").await;
        let output = child.wait_with_output().unwrap();
        let printed = String::from_utf8_lossy(&output.stderr).into_owned();
        let expected = format!(
            "Received disconnect from 127.0.0.1 port {port}:2: pomd: corp needs a login. Run: pomctl login corp"
        );
        assert!(printed.contains(&expected), "{printed}");
    }

    #[tokio::test]
    async fn bytes_are_counted_for_the_tunnel_while_they_flow() {
        let (all, own, changed) = (Carried::default(), Carried::default(), Notify::new());
        all.received.store(100, Relaxed);
        let relay = async {
            for _ in 0..3 {
                own.received.fetch_add(10, Relaxed);
                own.sent.fetch_add(1, Relaxed);
                tokio::task::yield_now().await;
            }
            "ended"
        };
        let relay = pin!(relay);
        let mut counted = pin!(counted(&all, &changed, &own, relay));
        let mut seen = Vec::new();
        let end = poll_fn(|cx| {
            let polled = counted.as_mut().poll(cx);
            seen.push((all.received.load(Relaxed), all.sent.load(Relaxed)));
            polled
        });
        assert_eq!(end.await, "ended");
        assert_eq!(seen, [(110, 1), (120, 2), (130, 3), (130, 3)]);
        changed.notified().await;
    }
}
