//! A session and all that it lives on, faked.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use control::wire::{BrowserChoice, LoginRequest, OpenLogin, Opener};
use pomd_core::session::{Handover, View};
use tokio::{sync::Notify, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{
    env::Env,
    session::{
        LoginOutcome, Session,
        browser::Browser,
        fakes::{FakeBrowser, FakeServer, FakeTime, Reply, corp, path_of, visit},
        store::Store,
        task::{Dependencies, start},
    },
    system::disk::Disk,
};

/// A session with everything around it.
pub(super) struct World {
    pub(super) home: tempfile::TempDir,
    pub(super) server: Arc<FakeServer>,
    pub(super) browser: Arc<FakeBrowser>,
    pub(super) time: Arc<FakeTime>,
    pub(super) changed: Arc<Notify>,
    pub(super) session: Session,
    pub(super) stop: CancellationToken,
    pub(super) tasks: JoinSet<()>,
}

impl World {
    pub(super) async fn new() -> Self {
        let tokens = [("one", "alice"), ("two", "alice"), ("mallory's", "mallory")];
        let server = Arc::new(FakeServer::that_knows(&tokens));
        Self::with(
            tempfile::tempdir().unwrap(),
            server,
            FakeTime::new(),
            Handover::default(),
        )
        .await
    }

    pub(super) async fn with(
        home: tempfile::TempDir,
        server: Arc<FakeServer>,
        time: Arc<FakeTime>,
        handover: Handover,
    ) -> Self {
        let browser = Arc::<FakeBrowser>::default();
        let stop = CancellationToken::new();
        let changed = Arc::<Notify>::default();
        let cluster = corp();
        let source = Browser {
            cluster: cluster.clone(),
            server: server.clone(),
            peer_check: Arc::new(|_, _| true),
            opener: browser.clone(),
            choice: BrowserChoice::Default,
        };
        let with = Dependencies {
            asks_a_person: true,
            cluster,
            source: Arc::new(source),
            env: Env {
                clock: time.clock(),
                login_server: server.clone(),
                ..Env::real(browser.clone())
            },
            store: Store::new(state_in(home.path()), Arc::new(Disk)),
            changed: changed.clone(),
            stop: stop.clone(),
        };
        let (session, task) = start(with, handover);
        let mut tasks = JoinSet::new();
        tasks.spawn(task.run());
        // The task has looked around once.
        session.refused(0).await;
        Self {
            home,
            server,
            browser,
            time,
            changed,
            session,
            stop,
            tasks,
        }
    }

    pub(super) async fn logged_in() -> Self {
        let mut world = Self::new().await;
        let open = world.login(Opener::Caller).await;
        assert_eq!(world.answer_at(&open, "one").await.status, 303);
        world
    }

    pub(super) async fn restart(self) -> Self {
        self.restart_with(Handover::default()).await
    }

    pub(super) async fn restart_with(mut self, handover: Handover) -> Self {
        self.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
        Self::with(self.home, self.server, self.time, handover).await
    }

    pub(super) fn view(&self) -> View {
        self.session.view()
    }

    pub(super) async fn wait_for(&mut self, wanted: impl FnMut(&View) -> bool) -> View {
        let mut views = self.session.watch();
        let found = tokio::time::timeout(Duration::from_secs(3600), views.wait_for(wanted));
        let view = found.await.unwrap().unwrap().clone();
        // Whoever follows by being told was told.
        self.changed.notified().await;
        self.changed.notify_one();
        view
    }

    pub(super) async fn login(&mut self, opener: Opener) -> OpenLogin {
        let request = LoginRequest {
            opener,
            mint: false,
        };
        match self.session.login(request).await.unwrap() {
            LoginOutcome::Open(open) => open,
            LoginOutcome::LoggedIn => panic!("logged in already"),
        }
    }

    pub(super) async fn shown(&self, count: usize) {
        while self.browser.shown().len() < count {
            tokio::task::yield_now().await;
        }
    }

    /// The link that pomd showed.
    pub(super) fn link(&self) -> String {
        self.browser.shown().last().unwrap().clone()
    }

    pub(super) fn link_path(&self) -> String {
        path_of(&self.link()).to_owned()
    }

    pub(super) fn port(&self) -> u16 {
        url::Url::parse(&self.link()).unwrap().port().unwrap()
    }

    pub(super) async fn visit(&self, path: &str) -> Reply {
        visit(self.port(), path).await.unwrap()
    }

    /// The person signs in at the link that pomd showed.
    pub(super) async fn answer(&mut self, token: &str) -> Reply {
        let shown = self.browser.shown().len();
        self.shown(shown.max(1)).await;
        sign_in(self.port(), &self.link_path(), token).await
    }

    pub(super) async fn answer_at(&mut self, open: &OpenLogin, token: &str) -> Reply {
        sign_in(open.port, path_of(&open.link), token).await
    }

    pub(super) fn state(&self) -> PathBuf {
        state_in(self.home.path())
    }

    pub(super) fn saved(&self) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.state().join("tokens")) else {
            return Vec::new();
        };
        entries
            .map(|it| it.unwrap().file_name().into_string().unwrap())
            .collect()
    }
}

/// As a browser does it: the link, the sign-in page (skipped), and back with a token.
async fn sign_in(port: u16, link: &str, token: &str) -> Reply {
    let to_page = visit(port, link).await.unwrap();
    let location = to_page.header("location").unwrap();
    let (_, redirect) = location.split_once("redirect=").unwrap();
    let path = format!("{}?pomerium_jwt={token}", path_of(redirect));
    visit(port, &path).await.unwrap()
}

fn state_in(home: &Path) -> PathBuf {
    home.join("state")
}
