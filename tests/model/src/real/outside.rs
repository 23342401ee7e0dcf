//! All that a pomd of a history lives on: clocks, a disk, a browser, servers. Writes down what it is asked, in order.

use std::{
    fs::File,
    io,
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use control::wire::{BrowserChoice, OfferedRoute, Reason};
use futures_util::future::BoxFuture;
use jiff::{SignedDuration, Timestamp};
use pomd_core::{
    config::Address,
    moment::Moment,
    session::{
        error::{LoginError, Question},
        token::{Token, User},
    },
};
use tokio::{sync::Notify, time::Instant};
use zeroize::Zeroizing;

use pomd::{
    clock::Clock,
    opener::LinkOpener,
    session::server::{LoginServer, LoginTarget, NotGood, Vouched},
    system::disk::{Disk, Folder, Fs, Opened},
};

use crate::history::{HOSTS, Mood};

/// How long a server may take to mint.
const MINT: Duration = Duration::from_secs(45);

/// What came to pass.
#[derive(Debug)]
pub(super) enum Heard {
    /// A page to sign in at is wanted.
    Minting { cluster: String, redirect: String },
    /// There is one, or there is not; `None`: nobody wants it any more.
    Minted {
        cluster: String,
        is_there: Option<bool>,
    },
    /// pomd shows a link.
    Shown { link: String, starts: bool },
    /// A token was sent to a server of these login addresses.
    Sent {
        cluster: String,
        login_at: Vec<Address>,
        token: String,
    },
    /// It was refused there.
    Refused { token: String },
    /// A connection wants a token.
    Wants { connection: u64 },
    /// It has waited so long, and has one.
    Granted { connection: u64, waited: Duration },
    /// It has waited so long, and is told why there is none.
    SentAway {
        connection: u64,
        waited: Duration,
        why: Reason,
    },
    /// Its route is open.
    Opened { connection: u64 },
    /// Its route cannot be opened.
    Failed { connection: u64 },
    /// It was ended by pomd.
    Cut { connection: u64 },
    /// A person came back from signing in, and is told this.
    Told {
        token: String,
        /// There is no page that says what is wrong.
        is_well: bool,
        /// The token rests on the disk by then.
        rests: bool,
    },
}

/// Shared by pomd and by those who do something to it.
#[derive(Debug)]
pub(super) struct Outside {
    begun: Instant,
    /// By how much the wall clock was set, in seconds.
    set: AtomicI64,
    /// How long the machine slept, in seconds.
    slept: AtomicU64,
    state: Mutex<State>,
    moods_changed: Notify,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) moods: [Mood; 4],
    pub(super) revoked: Vec<String>,
    /// There is one, and it starts.
    pub(super) browser: (bool, bool),
    pub(super) disk_is_full: bool,
    heard: Vec<Heard>,
}

impl Outside {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            begun: Instant::now(),
            set: AtomicI64::new(0),
            slept: AtomicU64::new(0),
            state: Mutex::new(State {
                moods: [Mood::Well; 4],
                revoked: Vec::new(),
                browser: (true, true),
                disk_is_full: false,
                heard: Vec::new(),
            }),
            moods_changed: Notify::new(),
        })
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn hear(&self, heard: Heard) {
        self.state().heard.push(heard);
    }

    /// What came to pass since this was asked last.
    pub(super) fn heard(&self) -> Vec<Heard> {
        std::mem::take(&mut self.state().heard)
    }

    pub(super) fn set_mood(&self, host: u8, mood: Mood) {
        self.state().moods[usize::from(host) % HOSTS.len()] = mood;
        self.moods_changed.notify_waiters();
    }

    pub(super) fn mood(&self, host: &str) -> Mood {
        let number = HOSTS.iter().position(|it| *it == host);
        self.state().moods[number.unwrap_or(0)]
    }

    /// The server of these addresses says something.
    pub(super) fn answers(&self, login_at: &[Address]) -> bool {
        self.mood(&login_at[0].host.to_string()) == Mood::Well
    }

    /// The machine sleeps.
    pub(super) fn sleep(&self, seconds: u64) {
        self.slept.fetch_add(seconds, Relaxed);
        self.set_clock(i64::try_from(seconds).unwrap_or(0));
    }

    pub(super) fn set_clock(&self, by: i64) {
        self.set.fetch_add(by, Relaxed);
    }

    pub(super) fn clock(self: &Arc<Self>) -> Clock {
        let (wall, boot) = (self.clone(), self.clone());
        Clock::from_fn(move || wall.now()).with_moment(move || {
            let awake = boot.begun.elapsed();
            let boot = awake + Duration::from_secs(boot.slept.load(Relaxed));
            Moment { boot, awake }
        })
    }

    fn now(&self) -> Timestamp {
        let lived = SignedDuration::try_from(self.begun.elapsed()).unwrap_or_default();
        let set = SignedDuration::from_secs(self.set.load(Relaxed));
        let start = Timestamp::from_second(1_800_000_000).unwrap_or_default();
        // A clock that was set by centuries stands still.
        start.saturating_add(lived + set).unwrap_or(start)
    }
}

impl LinkOpener for Outside {
    fn available(&self, browser: &BrowserChoice) -> BoxFuture<'static, bool> {
        let is_there = *browser != BrowserChoice::None && self.state().browser.0;
        Box::pin(std::future::ready(is_there))
    }

    fn open(&self, _: &BrowserChoice, link: &str) -> BoxFuture<'static, Result<(), String>> {
        let starts = self.state().browser.1;
        let link = link.to_owned();
        self.hear(Heard::Shown { link, starts });
        let opened = starts.then_some(()).ok_or_else(|| "it ended".to_owned());
        Box::pin(std::future::ready(opened))
    }
}

impl LoginServer for Outside {
    fn sign_in_url<'a>(
        &'a self,
        cluster: &'a LoginTarget,
        redirect: &'a str,
    ) -> BoxFuture<'a, Result<String, LoginError>> {
        Box::pin(async move {
            let url = || format!("https://authenticate.test/?redirect={redirect}");
            let is_there = self.mint(cluster, redirect).await;
            is_there.then(url).ok_or(NO_ANSWER)
        })
    }

    fn user<'a>(
        &'a self,
        cluster: &'a LoginTarget,
        token: &'a Token,
    ) -> BoxFuture<'a, Result<Vouched, NotGood>> {
        Box::pin(std::future::ready(self.vouch(cluster, token.reveal())))
    }

    fn until<'a>(
        &'a self,
        _: &'a LoginTarget,
        _: &'a Address,
        _: &'a Token,
    ) -> BoxFuture<'a, Option<Timestamp>> {
        Box::pin(std::future::ready(None))
    }

    fn routes<'a>(
        &'a self,
        _: &'a LoginTarget,
        _: &'a Token,
    ) -> BoxFuture<'a, Result<Vec<OfferedRoute>, NotGood>> {
        Box::pin(std::future::ready(Ok(Vec::new())))
    }

    fn disconnect(&self, _: &LoginTarget) {}
}

const NO_ANSWER: LoginError = LoginError::NoAnswer {
    question: Question::SignInUrl,
    within: MINT,
};

impl Outside {
    async fn mint(&self, cluster: &LoginTarget, redirect: &str) -> bool {
        let mut minting = Minting {
            outside: self,
            cluster: cluster.name.as_str(),
            is_there: None,
        };
        self.hear(Heard::Minting {
            cluster: cluster.name.to_string(),
            redirect: redirect.to_owned(),
        });
        let host = cluster.login_at[0].host.to_string();
        let answers = async {
            loop {
                let changed = self.moods_changed.notified();
                match self.mood(&host) {
                    Mood::Silent => changed.await,
                    mood => return mood == Mood::Well,
                }
            }
        };
        let is_there = tokio::time::timeout(MINT, answers).await.unwrap_or(false);
        minting.is_there = Some(is_there);
        is_there
    }

    fn vouch(&self, cluster: &LoginTarget, token: &str) -> Result<Vouched, NotGood> {
        let login_at = &cluster.login_at;
        if !self.answers(login_at) {
            return Err(NotGood::Unasked(NO_ANSWER));
        }
        self.hear(Heard::Sent {
            cluster: cluster.name.to_string(),
            login_at: login_at.clone(),
            token: token.to_owned(),
        });
        let made_at = login_at.iter().find(|it| is_made_at(token, it));
        match made_at {
            Some(it) if !self.state().revoked.iter().any(|it| it == token) => {
                let user = User {
                    display: "alice@example.com".to_owned(),
                    subject: Some("alice".to_owned()),
                };
                Ok((Some(user), it.clone()))
            }
            _ => {
                let token = token.to_owned();
                self.hear(Heard::Refused { token });
                Err(NotGood::Refused)
            }
        }
    }
}

/// Tokens say where they were made.
fn is_made_at(token: &str, at: &Address) -> bool {
    let host = token.split_once('@').map(|it| it.1);
    host == Some(at.host.to_string().as_str())
}

/// Tells what became of it, also where nobody waits for it any more.
struct Minting<'a> {
    outside: &'a Outside,
    cluster: &'a str,
    is_there: Option<bool>,
}

impl Drop for Minting<'_> {
    fn drop(&mut self) {
        self.outside.hear(Heard::Minted {
            cluster: self.cluster.to_owned(),
            is_there: self.is_there,
        });
    }
}

/// The disk as one pomd sees it: what is asked after its death is not done. Nothing waits for the platters, as there is
/// no power cut here.
#[derive(Debug)]
pub(super) struct Mortal {
    pub(super) outside: Arc<Outside>,
    pub(super) is_dead: AtomicBool,
}

impl Mortal {
    fn lives(&self) -> io::Result<()> {
        match self.is_dead.load(Relaxed) {
            true => Err(io::ErrorKind::BrokenPipe.into()),
            false => Ok(()),
        }
    }

    fn takes(&self) -> io::Result<()> {
        self.lives()?;
        match self.outside.state().disk_is_full {
            true => Err(io::ErrorKind::StorageFull.into()),
            false => Ok(()),
        }
    }
}

impl Fs for Mortal {
    fn open_folder(&self, state: &Path, inner: Option<&str>, make: bool) -> io::Result<Folder> {
        self.lives()?;
        Disk.open_folder(state, inner, make)
    }

    fn names(&self, folder: &Folder) -> io::Result<Vec<String>> {
        self.lives()?;
        Disk.names(folder)
    }

    fn open(&self, folder: &Folder, name: &str) -> io::Result<Opened> {
        self.lives()?;
        Disk.open(folder, name)
    }

    fn read(&self, file: File, most: usize) -> io::Result<Zeroizing<Vec<u8>>> {
        Disk.read(file, most)
    }

    fn create(&self, folder: &Folder, name: &str) -> io::Result<File> {
        self.takes()?;
        Disk.create(folder, name)
    }

    fn write(&self, file: &mut File, bytes: &[u8]) -> io::Result<()> {
        self.takes()?;
        Disk.write(file, bytes)
    }

    fn sync(&self, _: &File) -> io::Result<()> {
        self.lives()
    }

    fn rename(&self, folder: &Folder, from: &str, to: &str) -> io::Result<()> {
        self.lives()?;
        Disk.rename(folder, from, to)
    }

    fn sync_folder(&self, _: &Folder) -> io::Result<()> {
        self.lives()
    }

    fn remove(&self, folder: &Folder, name: &str) -> io::Result<()> {
        self.lives()?;
        Disk.remove(folder, name)
    }
}
