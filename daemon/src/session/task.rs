//! Drives one session: feeds its [`Core`] with what happens and carries out what it decides.
//!
//! One task owns the core, at most one pending login, and the token's file. Files are written in a blocking thread and
//! awaited: a sync may take long on a slow disk, and then only this cluster's logins wait for it, never a connection
//! (grants are read from a `watch`). At the start the file is read in place: it is a few KiB, and whoever looks at the
//! session first already sees the login.
//!
//! Long because what can happen, and what each effect of the core does, are read together.

mod attempt;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64},
    },
    time::Duration,
};

use futures_util::FutureExt;
use pomd_core::session::{
    self, Asker, Core, Effect, Handover, Input, Reply, View, WaiterView, Write,
};
use tokio::{
    sync::{Mutex, Notify, mpsc, oneshot, watch},
    task::{Id, JoinError, JoinSet},
};
use tokio_util::sync::CancellationToken;

use super::{
    handle::{Asked, Command, OpenLogin, SHARED, Session, Shared, Waiting},
    server::LoginTarget,
    source::{Event, Source},
    store::Store,
};
use crate::{env::Env, failpoints::Failpoint};

use attempt::Running;

/// What one session lives on.
pub(super) struct Dependencies {
    pub(super) cluster: Arc<LoginTarget>,
    pub(super) env: Env,
    pub(super) source: Arc<dyn Source>,
    /// Its tokens come from a person's login, and rest on the disk.
    pub(super) asks_a_person: bool,
    pub(super) store: Store,
    pub(super) changed: Arc<Notify>,
    pub(super) stop: CancellationToken,
}

pub(super) struct Task {
    with: Dependencies,
    core: Core,
    /// What the core wants written next.
    write: Option<Write>,
    running: Option<Running>,
    /// What ends each of the logins before that show their last pages.
    lingering: VecDeque<CancellationToken>,
    askers: BTreeMap<Asker, oneshot::Sender<Asked>>,
    newest_asker: Asker,
    attempts: JoinSet<()>,
    shows: JoinSet<(u64, Result<(), String>)>,
    /// Demands for a login that wait for word whether an attempt may start for them.
    demands: JoinSet<Demand>,
    events: (mpsc::Sender<Event>, mpsc::Receiver<Event>),
    inbox: mpsc::Receiver<Command>,
    waiting: Arc<Waiting>,
    environment_changed: Arc<Notify>,
    source_changed: Arc<Notify>,
    view: watch::Sender<View>,
    waiter_view: watch::Sender<WaiterView>,
}

/// The newest generation that will not do, whether an attempt may start for it, and who waits for the answer.
type Demand = (Option<u64>, bool, oneshot::Sender<u64>);

enum Happening {
    Event(Event),
    AttemptEnded(Result<(Id, ()), JoinError>),
    Shown(Result<(u64, Result<(), String>), JoinError>),
    Demanded(Result<Demand, JoinError>),
    WaitersChanged,
    EnvironmentChanged,
    SourceChanged,
    Command(Command),
    Timeout,
}

/// A session at its start, with what its predecessor and earlier lives left of it.
pub(super) fn start(with: Dependencies, handover: Handover) -> (Session, Task) {
    let login_at = with.cluster.login_at.clone();
    let asks_a_person = with.asks_a_person;
    let saved = asks_a_person.then(|| with.store.load(&login_at)).flatten();
    let name = with.cluster.name.to_string();
    let now = with.env.clock.now();
    let core = Core::new(name, asks_a_person, login_at, handover, saved, now);
    let (inbox_in, inbox) = mpsc::channel(16);
    let (view, view_out) = watch::channel(core.view());
    let (waiter_view, waiter_view_out) = watch::channel(core.waiter_view());
    let waiting = Arc::<Waiting>::default();
    let environment_changed = Arc::<Notify>::default();
    let session = Session::of(Shared {
        cluster: with.cluster.clone(),
        server: with.env.login_server.clone(),
        clock: with.env.clock.clone(),
        asks_a_person,
        inbox: inbox_in,
        view: view_out,
        waiter_view: waiter_view_out,
        waiting: waiting.clone(),
        environment_changed: environment_changed.clone(),
        accepted: AtomicU64::new(0),
        disproved: AtomicU64::new(0),
        minted: Mutex::default(),
        checked: Mutex::default(),
        stop: with.stop.clone(),
        replaced: AtomicBool::new(false),
    });
    let task = Task {
        with,
        core,
        write: None,
        running: None,
        lingering: VecDeque::new(),
        askers: BTreeMap::new(),
        newest_asker: 0,
        attempts: JoinSet::new(),
        shows: JoinSet::new(),
        demands: JoinSet::new(),
        events: mpsc::channel(16),
        inbox,
        waiting,
        environment_changed,
        source_changed: Arc::default(),
        view,
        waiter_view,
    };
    (session, task)
}

impl Task {
    /// Runs until `stop`; returns when the pending login is closed.
    pub(super) async fn run(mut self) {
        let changed = self.source_changed.clone();
        if let Some(watching) = self.with.source.watch(changed, self.with.stop.clone()) {
            self.attempts.spawn(watching);
        }
        let effects = self.core.on_timeout(self.with.env.clock.now());
        self.carry_out(effects);
        loop {
            self.flush().await;
            self.publish();
            let rest = self.core.rest(self.with.env.clock.now());
            let happening = tokio::select! {
                biased;
                () = self.with.stop.cancelled() => break,
                Some(it) = self.events.1.recv() => Happening::Event(it),
                Some(it) = self.attempts.join_next_with_id() => Happening::AttemptEnded(it),
                Some(it) = self.shows.join_next() => Happening::Shown(it),
                Some(it) = self.demands.join_next() => Happening::Demanded(it),
                () = self.waiting.changed.notified() => Happening::WaitersChanged,
                () = self.environment_changed.notified() => Happening::EnvironmentChanged,
                () = self.source_changed.notified() => Happening::SourceChanged,
                Some(it) = self.inbox.recv() => Happening::Command(it),
                () = sleep(rest) => Happening::Timeout,
            };
            if self.with.env.failpoints.check(Failpoint::Session).is_err() {
                return;
            }
            self.on(happening).await;
        }
        while self.attempts.join_next().await.is_some() {}
    }

    async fn on(&mut self, happening: Happening) {
        match happening {
            Happening::Event(it) => self.on_event(it).await,
            Happening::AttemptEnded(it) => self.on_attempt_ended(it),
            Happening::Shown(Ok((attempt, Err(why)))) => {
                let why = control::text::clean(&why, 200);
                self.feed(Input::NotShown(attempt, why));
            }
            Happening::Shown(_) => {}
            Happening::Demanded(Ok((after, unattended, done))) => {
                self.on_demand(after, Some(unattended), done);
            }
            // Whoever demanded is told that the session is gone.
            Happening::Demanded(Err(error)) => {
                tracing::error!(cluster = self.name(), "a demand broke: {error}");
            }
            Happening::WaitersChanged => self.feed(Input::Waiters(self.waiting.count())),
            Happening::EnvironmentChanged => self.feed(Input::EnvironmentChanged),
            Happening::SourceChanged => self.feed(Input::SourceChanged),
            Happening::Command(it) => self.on_command(it).await,
            Happening::Timeout => {
                let effects = self.core.on_timeout(self.with.env.clock.now());
                self.carry_out(effects);
            }
        }
    }

    async fn on_command(&mut self, command: Command) {
        match command {
            Command::Demand {
                after,
                client_asks: true,
                done,
            } => self.on_demand(after, None, done),
            Command::Demand {
                after,
                client_asks: false,
                done,
            } => {
                let mut asking = self.with.source.unattended();
                match (&mut asking).now_or_never() {
                    Some(unattended) => self.on_demand(after, Some(unattended), done),
                    // A service manager is asked; others need not wait for its answer.
                    None => {
                        self.demands
                            .spawn(async move { (after, asking.await, done) });
                    }
                }
            }
            Command::Accepted { generation } => self.feed(Input::Accepted(generation)),
            Command::Confirmed { generation, done } => {
                self.feed(Input::Confirmed(generation));
                self.publish();
                let _ = done.send(());
            }
            Command::Refused { generation, done } => {
                self.feed(Input::Refused(generation));
                self.publish();
                let _ = done.send(());
            }
            Command::Ask {
                shown_by_pomd,
                reply,
            } => {
                self.newest_asker += 1;
                let asker = self.newest_asker;
                self.askers.insert(asker, reply);
                self.feed(Input::Ask {
                    asker,
                    shown_by_pomd,
                });
            }
            Command::Doubted { generation, reply } => {
                self.newest_asker += 1;
                let asker = self.newest_asker;
                self.askers.insert(asker, reply);
                self.feed(Input::Doubted { asker, generation });
            }
            Command::Pasted(paste) => self.paste(paste),
            Command::Logout { reply } => {
                let grant = self.core.grant();
                self.feed(Input::Logout);
                self.publish();
                self.flush().await;
                let _ = reply.send(grant);
            }
        }
    }

    fn on_demand(
        &mut self,
        after: Option<u64>,
        unattended: Option<bool>,
        done: oneshot::Sender<u64>,
    ) {
        self.feed(Input::Demand { after, unattended });
        self.publish();
        let _ = done.send(self.core.dismissals());
    }

    async fn on_event(&mut self, event: Event) {
        match event {
            Event::Opened(attempt, login) => {
                if let Some(running) = self.running.as_mut().filter(|it| it.id == attempt) {
                    running.pending = Some((login, tokio::time::Instant::now()));
                    self.feed(Input::Opened(attempt));
                }
            }
            Event::Failed(attempt, error) => {
                self.running.take_if(|it| it.id == attempt);
                self.feed(Input::Failed(attempt, error));
            }
            Event::Obtained(attempt, answer, done) => {
                self.feed(Input::Obtained(attempt, answer));
                self.publish();
                self.flush().await;
                let _ = done.send(());
            }
        }
    }

    fn on_attempt_ended(&mut self, ended: Result<(Id, ()), JoinError>) {
        let id = match &ended {
            Ok((id, ())) => *id,
            Err(error) => {
                tracing::error!(cluster = self.name(), "a login broke: {error}");
                error.id()
            }
        };
        if let Some(it) = self.running.take_if(|it| it.task == id) {
            self.feed(Input::Lost(it.id));
        }
    }

    fn name(&self) -> &str {
        self.with.cluster.name.as_str()
    }

    fn feed(&mut self, input: Input) {
        let effects = self.core.on_input(input, self.with.env.clock.now());
        self.carry_out(effects);
    }

    /// Carries everything out but a write, which is for [`Task::flush`].
    fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Start(attempt) => self.start(attempt),
                Effect::Show(attempt) => self.show(attempt),
                Effect::Cancel(attempt) => self.cancel(attempt),
                Effect::Welcome(attempt, welcome) => {
                    if let Some(it) = self.running.as_ref().filter(|it| it.id == attempt) {
                        it.verdict.decide(Some(welcome));
                    }
                }
                Effect::Reply(asker, reply) => self.reply(asker, reply),
                Effect::Write(write) => self.write = Some(write),
                Effect::Disconnect => self.with.env.login_server.disconnect(&self.with.cluster),
                Effect::BoundPassed => self.with.changed.notify_one(),
                Effect::Log(event) => log(self.name(), &event),
            }
        }
    }

    /// Answers a person, who sees in the snapshots what came of the request.
    fn reply(&mut self, asker: Asker, reply: Reply) {
        self.publish();
        let Some(waiting) = self.askers.remove(&asker) else {
            return;
        };
        let answer = match reply {
            Reply::Granted => Asked::Granted,
            Reply::Failed(error) => Asked::Failed(error),
            Reply::Open { fresh, until } => {
                let pending = self.running.as_ref().and_then(|it| it.pending.as_ref());
                // Without one the person is told that the session is gone.
                let Some((login, since)) = pending else {
                    return;
                };
                Asked::Open(OpenLogin {
                    sign_in_url: (since.elapsed() < SHARED).then(|| login.sign_in_url.clone()),
                    login: login.clone(),
                    expires_at: until,
                    fresh,
                    since: *since,
                })
            }
        };
        let _ = waiting.send(answer);
    }

    /// Makes the disk know what it does not know yet.
    async fn flush(&mut self) {
        while let Some(write) = self.write.take() {
            let store = self.with.store.clone();
            let writing = tokio::task::spawn_blocking(move || store.write(&write));
            let written = match writing.await {
                Ok(Ok(())) => Ok(()),
                Ok(Err(error)) => Err(error.to_string()),
                Err(error) => Err(format!("cannot save the login: {error}")),
            };
            self.feed(Input::Written(written));
        }
    }

    fn publish(&mut self) {
        // The status knows first: who is refused may look at it at once.
        if self
            .view
            .send_if_modified(|it| replace(it, self.core.view()))
        {
            self.with.changed.notify_one();
        }
        self.waiter_view
            .send_if_modified(|it| replace(it, self.core.waiter_view()));
    }
}

fn replace<T: PartialEq>(place: &mut T, new: T) -> bool {
    let changed = *place != new;
    *place = new;
    changed
}

fn log(cluster: &str, event: &session::Event) {
    let message = event.describe(cluster);
    if event.is_trouble() {
        tracing::warn!(cluster, "{message}");
    } else {
        tracing::info!(cluster, "{message}");
    }
}

async fn sleep(rest: Option<Duration>) {
    match rest {
        Some(rest) => tokio::time::sleep(rest).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
