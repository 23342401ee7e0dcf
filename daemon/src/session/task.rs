//! Drives one session: feeds its machine with what happens and does what it says.
//!
//! One task owns the facts, at most one open login, and the token's file. Files are written in a blocking thread and
//! awaited: a sync may take long on a slow disk, and then only this cluster's logins wait for it, never a connection
//! (grants are read from a `watch`). At the start the file is read in place: it is a few KiB, and whoever looks at the
//! session first already sees the login.

mod keeping;
mod running;
mod start;

use std::{collections::VecDeque, sync::Arc, time::Duration};

use control::wire::{BrowserChoice, Code};
use futures_util::FutureExt;
use pomd_core::config::Address;
use tokio::{
    sync::{Notify, mpsc, oneshot, watch},
    task::{Id, JoinError, JoinSet},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    Open, View,
    browser::{Doorman, Event},
    facts::{Facts, Standing, is_no_bound},
    handle::{Asked, Command, OpenDoor, SHARED, Waiting},
    machine::{Action, Input},
    pomerium::{Failure, Pomerium},
    store::Store,
};
use crate::{
    clock::Clock,
    failpoints::{Failpoint, Failpoints},
};

use keeping::Unsaved;
use running::Running;
pub(super) use start::start;

/// No deadline is further from a look at the clock than this, so that sleep cannot freeze it; and how often what could
/// not be written is tried again.
const TICK: Duration = Duration::from_secs(30);
/// What one session lives on.
pub(super) struct House {
    pub(super) cluster: String,
    /// Never empty.
    pub(super) login_at: Vec<Address>,
    pub(super) browser: BrowserChoice,
    pub(super) clock: Clock,
    pub(super) opener: Arc<dyn Open>,
    pub(super) pomerium: Arc<dyn Pomerium>,
    pub(super) doorman: Doorman,
    pub(super) store: Store,
    pub(super) failpoints: Failpoints,
    pub(super) changed: Arc<Notify>,
    pub(super) stop: CancellationToken,
}

pub(super) struct Task {
    house: House,
    facts: Facts,
    /// Who was logged in last, to notice a change: the subject, and in words.
    last: Option<(String, Option<String>)>,
    unsaved: Unsaved,
    running: Option<Running>,
    /// What ends each of the logins before that show their last pages.
    lingering: VecDeque<CancellationToken>,
    /// Persons who wait for the link of the login that is being made.
    askers: Vec<oneshot::Sender<Asked>>,
    jobs: JoinSet<()>,
    shows: JoinSet<(u64, Result<(), String>)>,
    /// Demands for a login that wait for word of a browser.
    demands: JoinSet<Demand>,
    events: (mpsc::Sender<Event>, mpsc::Receiver<Event>),
    inbox: mpsc::Receiver<Command>,
    waiting: Arc<Waiting>,
    again: Arc<Notify>,
    view: watch::Sender<View>,
    standing: watch::Sender<Standing>,
    /// Whether the session was past its upper bound when it was shown last.
    bound_passed: bool,
}

/// The newest generation that will not do, whether there is a browser, and who waits for the answer.
type Demand = (Option<u64>, bool, oneshot::Sender<u64>);

enum Happening {
    Event(Event),
    JobEnded(Result<(Id, ()), JoinError>),
    Shown(Result<(u64, Result<(), String>), JoinError>),
    Demanded(Result<Demand, JoinError>),
    WaitersChanged,
    LookAgain,
    Command(Command),
    Tick,
}

impl Task {
    /// Runs until `stop`; returns when the open login is closed.
    pub(super) async fn run(mut self) {
        loop {
            self.flush().await;
            self.publish();
            let rest = self.rest();
            let happening = tokio::select! {
                biased;
                () = self.house.stop.cancelled() => break,
                Some(it) = self.events.1.recv() => Happening::Event(it),
                Some(it) = self.jobs.join_next_with_id() => Happening::JobEnded(it),
                Some(it) = self.shows.join_next() => Happening::Shown(it),
                Some(it) = self.demands.join_next() => Happening::Demanded(it),
                () = self.waiting.changed.notified() => Happening::WaitersChanged,
                () = self.again.notified() => Happening::LookAgain,
                Some(it) = self.inbox.recv() => Happening::Command(it),
                () = sleep(rest) => Happening::Tick,
            };
            if self.house.failpoints.check(Failpoint::Session).is_err() {
                return;
            }
            self.on(happening).await;
        }
        while self.jobs.join_next().await.is_some() {}
    }

    async fn on(&mut self, happening: Happening) {
        match happening {
            Happening::Event(it) => self.on_event(it).await,
            Happening::JobEnded(it) => self.on_job_ended(it),
            Happening::Shown(Ok((job, Err(why)))) => {
                tracing::warn!(
                    cluster = self.house.cluster,
                    "the browser did not open: {why}"
                );
                self.facts.not_shown = Some(control::text::clean(&why, 200));
                self.feed(Input::NotShown { job });
            }
            Happening::Shown(_) => {}
            Happening::Demanded(Ok((after, browser, done))) => {
                self.on_demand(after, Input::Demand { browser }, done);
            }
            // Whoever demanded is told that the session is gone.
            Happening::Demanded(Err(error)) => {
                tracing::error!(cluster = self.house.cluster, "a demand broke: {error}");
            }
            Happening::WaitersChanged if self.waiting.count() == 0 => self.feed(Input::Left),
            Happening::WaitersChanged => {}
            Happening::LookAgain => self.feed(Input::LookAgain),
            Happening::Command(it) => self.on_command(it).await,
            Happening::Tick => {
                let actions = self.facts.machine.on_timeout(self.house.clock.now());
                self.perform(actions);
            }
        }
    }

    async fn on_command(&mut self, command: Command) {
        match command {
            Command::Demand {
                after,
                client_asks: true,
                done,
            } => self.on_demand(after, Input::Joined, done),
            Command::Demand {
                after,
                client_asks: false,
                done,
            } => {
                let mut looking = self.house.opener.available(&self.house.browser);
                match (&mut looking).now_or_never() {
                    Some(browser) => self.on_demand(after, Input::Demand { browser }, done),
                    // A service manager is asked; others need not wait for its answer.
                    None => {
                        self.demands
                            .spawn(async move { (after, looking.await, done) });
                    }
                }
            }
            Command::Carried { generation } => {
                self.feed(Input::Carried { generation });
                let now = self.house.clock.now();
                self.disprove_bound(generation, |until| is_no_bound(until, now));
            }
            Command::Confirmed { generation, done } => {
                let now = self.house.clock.now();
                self.disprove_bound(generation, |until| until <= now);
                self.publish();
                let _ = done.send(());
            }
            Command::Refused { generation, done } => {
                self.feed(Input::Refused { generation });
                self.publish();
                let _ = done.send(());
            }
            Command::Ask {
                shown_by_pomd,
                reply,
            } => self.on_ask(shown_by_pomd, reply),
            Command::Logout { reply } => {
                let grant = self.facts.standing().grant;
                let made_at = self.facts.login.iter().map(|it| &it.address);
                let all = self.house.login_at.iter().chain(made_at);
                self.unsaved
                    .purge
                    .extend(all.chain([&self.facts.address]).cloned());
                self.feed(Input::Logout);
                self.house.pomerium.leave();
                self.publish();
                self.flush().await;
                tracing::info!(cluster = self.house.cluster, "logged out");
                let _ = reply.send(grant);
            }
        }
    }

    fn on_demand(&mut self, after: Option<u64>, input: Input, done: oneshot::Sender<u64>) {
        // A login may have been made while the demand was on its way.
        let newest = self.facts.machine.grant();
        if newest.is_none() || newest <= after {
            self.feed(input);
        }
        self.publish();
        let _ = done.send(self.facts.machine.dismissals());
    }

    fn on_ask(&mut self, shown_by_pomd: bool, reply: oneshot::Sender<Asked>) {
        if self.facts.login.is_some() {
            let _ = reply.send(Asked::Granted);
            return;
        }
        let unseen = self.facts.machine.unseen();
        self.feed(Input::Ask { shown_by_pomd });
        self.publish();
        match self.open_door(unseen) {
            Some(door) => {
                let _ = reply.send(Asked::Open(door));
            }
            None => self.askers.push(reply),
        }
    }

    async fn on_event(&mut self, event: Event) {
        match event {
            Event::Opened {
                job,
                door,
                sign_in_url,
            } => {
                let Some(running) = self.running.as_mut().filter(|it| it.job == job) else {
                    return;
                };
                running.opened = Some(door);
                running.minted = Some((sign_in_url, Instant::now()));
                self.facts.failure = None;
                self.feed(Input::Opened { job });
                self.publish();
                for (n, asker) in std::mem::take(&mut self.askers).into_iter().enumerate() {
                    if let Some(door) = self.open_door(n == 0) {
                        let _ = asker.send(Asked::Open(door));
                    }
                }
            }
            Event::Failed { job, failure } => {
                if self.running.take_if(|it| it.job == job).is_some() {
                    tracing::warn!(cluster = self.house.cluster, "{}", failure.message);
                    self.facts.failure = Some((failure.clone(), self.house.clock.now()));
                    self.feed(Input::Failed { job });
                    self.disappoint(&failure);
                }
            }
            Event::LoggedIn { job, answer, done } => {
                let before = self.facts.machine.grant();
                self.feed(Input::LoggedIn { job });
                if self.facts.machine.grant() != before {
                    self.keep(answer);
                    self.publish();
                    self.flush().await;
                }
                let _ = done.send(());
            }
        }
    }

    fn on_job_ended(&mut self, ended: Result<(Id, ()), JoinError>) {
        let id = match &ended {
            Ok((id, ())) => *id,
            Err(error) => {
                tracing::error!(cluster = self.house.cluster, "a login broke: {error}");
                error.id()
            }
        };
        if let Some(it) = self.running.take_if(|it| it.task == id) {
            self.feed(Input::Lost { job: it.job });
            self.disappoint(&broke_off(&self.house.cluster));
        }
    }

    fn feed(&mut self, input: Input) {
        let actions = self.facts.machine.on_input(input, self.house.clock.now());
        self.perform(actions);
    }

    fn perform(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Start { job } => self.start_job(job),
                Action::Show { job } => self.show(job),
                Action::End { job } => self.end(job),
                Action::Forget => self.forget(),
            }
        }
    }

    fn disappoint(&mut self, failure: &Failure) {
        for asker in self.askers.drain(..) {
            let _ = asker.send(Asked::Failed(failure.clone()));
        }
    }

    fn open_door(&self, fresh: bool) -> Option<OpenDoor> {
        let running = self.running.as_ref()?;
        let door = running.opened.as_ref()?;
        let minted = running.minted.as_ref();
        let sign_in_url = minted.filter(|it| it.1.elapsed() < SHARED);
        Some(OpenDoor {
            link: door.link_url(),
            port: door.port,
            redirect: door.redirect_url(),
            sign_in_url: sign_in_url.map(|it| it.0.clone()),
            expires_at: self.facts.machine.link_ends()?,
            fresh,
        })
    }

    fn publish(&mut self) {
        let view = self.facts.view(self.waiting.count());
        self.standing
            .send_if_modified(|it| replace(it, self.facts.standing()));
        let shown = view.until.is_some_and(|it| it <= self.house.clock.now());
        let passed = replace(&mut self.bound_passed, shown);
        if self.view.send_if_modified(|it| replace(it, view)) || passed {
            self.house.changed.notify_one();
        }
    }

    /// How long nothing needs a look.
    fn rest(&self) -> Option<Duration> {
        let now = self.house.clock.now();
        let machine = &self.facts.machine;
        let due = machine
            .next_timeout()
            .map(|it| Duration::try_from(it.duration_since(now)).unwrap_or_default());
        let retry = self.unsaved.rest();
        let tick = machine.restless().then_some(TICK);
        let until = self.facts.login.as_ref().and_then(|it| it.until);
        let bound = until
            .filter(|it| *it > now)
            .and_then(|it| Duration::try_from(it.duration_since(now)).ok());
        [due, retry, tick, bound].into_iter().flatten().min()
    }
}

fn replace<T: PartialEq>(place: &mut T, new: T) -> bool {
    let changed = *place != new;
    *place = new;
    changed
}

fn broke_off(cluster: &str) -> Failure {
    Failure {
        code: Code::LoginFailed,
        message: format!("the login to {cluster} was ended meanwhile"),
        hint: None,
        request_id: None,
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
