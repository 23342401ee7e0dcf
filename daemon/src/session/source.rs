//! Where a session's token comes from.
//!
//! The seam between the session's task, which knows when a token is wanted, and the ways to get one. A source knows no
//! generation, no file of saved logins and nobody who waits.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use futures_util::future::BoxFuture;
use pomd_core::session::{
    Answer, Welcome,
    error::{LoginError, NotTaken, Question},
};
use tokio::sync::{Mutex, Notify, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

/// How long a source may take until it has a token, or awaits a person.
pub(super) const START_WITHIN: Duration = Duration::from_secs(60);

/// One way to get a token.
pub(super) trait Source: Send + Sync {
    /// Starts one attempt. The future may be dropped at any time, after [`START_WITHIN`] at the latest.
    fn start(&self, attempt: Attempt) -> BoxFuture<'static, Result<Started, LoginError>>;

    /// Tells whether an attempt may start without a person's request, at most after some seconds.
    fn unattended(&self) -> BoxFuture<'static, bool>;

    /// Shows a [`PendingLogin`] to the person; `Err` says in words why not, at most after some seconds.
    fn show(&self, link: &str) -> BoxFuture<'static, Result<(), String>>;

    /// Tells `changed` whenever the source may give another token, until `stop`; `None`: it never knows.
    fn watch(
        &self,
        changed: Arc<Notify>,
        stop: CancellationToken,
    ) -> Option<BoxFuture<'static, ()>> {
        let _ = (changed, stop);
        None
    }
}

/// What an attempt came to at first.
pub(super) enum Started {
    /// The token, with nobody asked.
    Token(Answer),
    /// A person is to answer: by this, while that runs. It tells the answer by [`Attempt::answer`], and ends soon after
    /// the [`Verdict`] is out.
    Pending(PendingLogin, BoxFuture<'static, ()>),
}

/// A login that waits for the person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingLogin {
    /// Opens it in a browser of this machine.
    pub link: String,
    /// The loopback port that the link leads to.
    pub port: u16,
    /// What a sign-in URL is minted for.
    pub redirect: String,
    /// One that was minted a moment ago.
    pub sign_in_url: String,
}

/// One attempt, as its source holds it.
#[derive(Clone)]
pub struct Attempt {
    /// The number of the attempt.
    pub id: u64,
    /// Told what happens to it.
    pub events: mpsc::Sender<Event>,
    /// Whether and how it is over.
    pub verdict: Verdict,
    /// Ends it at once.
    pub stop: CancellationToken,
    /// What the person brings to it by hand. Held by the one who serves the attempt.
    pub pasted: Arc<Mutex<mpsc::Receiver<Paste>>>,
}

/// The address that a sign-in ended on, brought by a person whose browser cannot reach this machine.
pub struct Paste {
    /// All of it. It may hold a good token.
    pub address: String,
    /// Told what became of it.
    pub done: oneshot::Sender<Result<(), NotTaken>>,
}

/// What happened to an attempt.
pub enum Event {
    /// It awaits a person.
    Opened(u64, PendingLogin),
    /// It has no token, and awaits nobody.
    Failed(u64, LoginError),
    /// It brought a token that is good. The sender is told once the verdict is out, if there is one.
    Obtained(u64, Answer, oneshot::Sender<()>),
}

impl Attempt {
    /// One that `stop` ends, and where pasted addresses for it go.
    pub fn new(
        id: u64,
        events: mpsc::Sender<Event>,
        stop: CancellationToken,
    ) -> (Self, mpsc::Sender<Paste>) {
        let (pastes, pasted) = mpsc::channel(1);
        let attempt = Self {
            id,
            events,
            verdict: Verdict::default(),
            stop,
            pasted: Arc::new(Mutex::new(pasted)),
        };
        (attempt, pastes)
    }

    /// Runs the attempt until it is over and its person was told so, or it is stopped.
    pub(super) async fn run(self, source: Arc<dyn Source>) {
        let starting = tokio::time::timeout(START_WITHIN, source.start(self.clone()));
        match self.stop.run_until_cancelled(starting).await {
            None => {}
            Some(Ok(Ok(Started::Token(answer)))) => self.answer(answer).await,
            Some(Ok(Ok(Started::Pending(login, serving)))) => {
                let told = self.tell(Event::Opened(self.id, login)).await;
                if told {
                    serving.await;
                }
            }
            Some(Ok(Err(error))) => {
                self.tell(Event::Failed(self.id, error)).await;
            }
            Some(Err(_)) => {
                let error = LoginError::NoAnswer {
                    question: Question::SignInUrl,
                    within: START_WITHIN,
                };
                self.tell(Event::Failed(self.id, error)).await;
            }
        }
    }

    /// Hands over the token that the login brought; afterwards the [`Verdict`] says what became of it.
    pub(super) async fn answer(&self, answer: Answer) {
        let (done, decided) = oneshot::channel();
        if self.tell(Event::Obtained(self.id, answer, done)).await {
            let _ = decided.await;
        }
    }

    async fn tell(&self, event: Event) -> bool {
        let told = self.stop.run_until_cancelled(self.events.send(event)).await;
        matches!(told, Some(Ok(())))
    }
}

/// Whether and how an attempt is over: decided once, by the session's task.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    result: Arc<OnceLock<Option<Welcome>>>,
    decided: CancellationToken,
}

impl Verdict {
    /// Decides how the attempt is over; `None`: it ended without an answer.
    pub fn decide(&self, result: Option<Welcome>) {
        let _ = self.result.set(result);
        self.decided.cancel();
    }

    pub(super) fn is_decided(&self) -> bool {
        self.result.get().is_some()
    }

    /// `None`: not decided yet.
    pub(super) fn get(&self) -> Option<&Option<Welcome>> {
        self.result.get()
    }

    /// Returns once it is decided.
    pub(super) async fn decided(&self) {
        self.decided.cancelled().await;
    }
}
