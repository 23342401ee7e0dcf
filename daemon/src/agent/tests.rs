//! The agent without the network: real listeners, virtual time, handlers called one by one.

use std::{
    future::ready,
    path::Path,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use control::wire::{BrowserChoice, Code, TunnelState};
use futures_util::future::BoxFuture;
use pomd_core::session::{
    Handover,
    token::{Grant, Token},
};
use tempfile::TempDir;
use tokio::{net::TcpListener, time::advance};

use super::*;
use crate::{clock::Clock, opener::LinkOpener};

struct NoBrowser;

impl LinkOpener for NoBrowser {
    fn available(&self, _: &BrowserChoice) -> BoxFuture<'static, bool> {
        Box::pin(ready(false))
    }

    fn open(&self, _: &BrowserChoice, _: &str) -> BoxFuture<'static, Result<(), String>> {
        Box::pin(ready(Err("there is none".to_owned())))
    }
}

struct World {
    agent: Agent,
    handle: AgentHandle,
    seconds: Arc<AtomicU64>,
    /// How long the machine slept so far, in seconds.
    slept: Arc<AtomicU64>,
    _state: TempDir,
}

impl World {
    async fn new(config: &str) -> Self {
        let state = tempfile::tempdir().unwrap();
        let seconds = Arc::new(AtomicU64::new(1_800_000_000));
        let clock = {
            let seconds = seconds.clone();
            Clock::from_fn(move || Timestamp::from_second(seconds.load(Relaxed) as i64).unwrap())
        };
        let slept = Arc::new(AtomicU64::new(0));
        let clock = {
            let (slept, origin) = (slept.clone(), Instant::now());
            clock.with_moment(move || {
                let awake = origin.elapsed();
                let boot = awake + Duration::from_secs(slept.load(Relaxed));
                Moment { boot, awake }
            })
        };
        let (agent, handle) = Agent::new(Setup {
            place: Paths {
                config: state.path().join("pomd.toml"),
                state: state.path().to_owned(),
                socket: state.path().join("pomd.sock"),
            },
            env: Env {
                clock,
                ..Env::real(Arc::new(NoBrowser))
            },
            log: None,
            lost: Arc::default(),
            inherited: Arc::default(),
            warnings: Vec::new(),
            heartbeat: Heartbeat::for_watchdog(Some(Duration::from_secs(30))),
        });
        let mut res = Self {
            agent,
            handle,
            seconds,
            slept,
            _state: state,
        };
        res.apply(config).await;
        res
    }

    async fn apply(&mut self, config: &str) -> wire::ReloadAnswer {
        let config = Config::parse(config, Path::new("/etc/pomd")).unwrap();
        let loaded = Loaded::Good(Box::new(config), Vec::new());
        self.agent.apply(loaded).await.unwrap()
    }

    fn tunnel(&self, name: &str) -> wire::Tunnel {
        let status = self.agent.build_status();
        let mut tunnels = status.tunnels.into_iter();
        tunnels.find(|it| it.name == name).unwrap()
    }

    /// Tries again as the agent does. A child of another test, between its fork and its exec, may still hold the port.
    async fn until_free(&mut self, name: &str) {
        let start = std::time::Instant::now();
        loop {
            self.agent.on_tick().await;
            if self.tunnel(name).state != TunnelState::Busy {
                return;
            }
            assert!(start.elapsed().as_secs() < 10, "{name} is busy still");
            advance(RETRY).await;
        }
    }

    fn managed(&mut self, name: &str) -> &mut ManagedTunnel {
        let name = TunnelName::parse(name).unwrap();
        self.agent.tunnels.get_mut(&name).unwrap()
    }

    fn cluster(&self, name: &str) -> &Cluster {
        let mut clusters = self.agent.clusters.iter();
        clusters.find(|it| it.0.as_str() == name).unwrap().1
    }

    /// Logs the cluster in, as if a session before this one had.
    async fn log_in(&mut self, name: &str, token: &str) {
        let mut clusters = self.agent.clusters.keys();
        let name = clusters.find(|it| it.as_str() == name).unwrap().clone();
        let old = self.agent.clusters.remove(&name).unwrap();
        old.stop.cancel();
        self.agent.join_session(old.task).await;
        let grant = Grant {
            generation: 1,
            token: Token::parse(token).unwrap(),
            user: None,
        };
        let handover = Handover {
            grant: Some(grant),
            ..Handover::default()
        };
        let cluster = self.agent.start_cluster(&name, &old.spec, handover);
        self.agent.clusters.insert(name.clone(), cluster);
        let tunnels = self.agent.tunnels.iter();
        let of_cluster = tunnels.filter(|it| it.1.tunnel.spec.cluster == name);
        let names: Vec<TunnelName> = of_cluster.map(|it| it.0.clone()).collect();
        for name in names {
            self.agent.rebuild_tunnel(&name).await;
        }
    }

    fn token(&self, cluster: &str) -> Option<String> {
        let grant = self.cluster(cluster).session.view().grant;
        grant.map(|it| it.token.reveal().to_owned())
    }
}

/// A tunnel that listens on `port`; 0: on one that is chosen.
fn tunnel(name: &str, host: &str, port: u16) -> String {
    let listen = match port {
        0 => String::new(),
        port => format!("listen = {port}\n"),
    };
    format!("[tunnel.{name}]\nroute = \"{host}:5432\"\n{listen}")
}

async fn holder() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

#[tokio::test(start_paused = true)]
async fn a_busy_port_is_told_by_up_and_taken_once_it_is_free() {
    let (holder, port) = holder().await;
    let mut world = World::new(&tunnel("db", "db.test", port)).await;
    assert_eq!(world.tunnel("db").state, TunnelState::Busy);
    let AgentError::CannotListen { reason, listen, .. } = world.agent.up("db").unwrap_err() else {
        panic!("another refusal");
    };
    assert_eq!(reason.code, Code::AddressInUse);
    assert_eq!(listen, pomd_core::config::Listen::Loopback(port));
    drop(holder);
    advance(RETRY).await;
    assert!(world.agent.next_wake() <= Instant::now());
    world.until_free("db").await;
    assert_eq!(world.tunnel("db").state, TunnelState::Login);
    assert!(world.agent.next_wake() > Instant::now());
    world.agent.up("db").unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_tunnel_that_is_down_does_not_wait_for_its_port() {
    let (_holder, port) = holder().await;
    let mut world = World::new(&tunnel("db", "db.test", port)).await;
    let answer = world.agent.down("db", false).await.unwrap();
    assert_eq!(answer.tunnel.state, TunnelState::Down);
    assert_eq!(world.agent.next_wake(), world.agent.housekeeping_at);
}

#[tokio::test(start_paused = true)]
async fn listening_comes_before_the_login_and_the_login_before_the_last_failure() {
    let (holder, port) = holder().await;
    let mut world = World::new(&tunnel("db", "db.test", port)).await;
    let at = world.agent.setup.env.clock.now();
    let failed = wire::Reason::new(Code::Forbidden, "no", at);
    let fail = |world: &mut World| {
        let outcome = &world.managed("db").tunnel.outcome;
        outcome.failed(Instant::now(), failed.clone());
    };
    fail(&mut world);
    assert_eq!(world.tunnel("db").state, TunnelState::Busy);
    drop(holder);
    advance(RETRY).await;
    world.until_free("db").await;
    assert_eq!(world.tunnel("db").state, TunnelState::Login);
    world.log_in("db.test", "t").await;
    fail(&mut world);
    assert_eq!(world.tunnel("db").state, TunnelState::Error);
    assert_eq!(world.tunnel("db").reason, Some(failed.clone()));
    // It is an hour old.
    world.seconds.fetch_add(3_600, Relaxed);
    assert_eq!(world.tunnel("db").state, TunnelState::Up);
    world.agent.down("db", false).await.unwrap();
    assert_eq!(world.tunnel("db").state, TunnelState::Down);
    assert_eq!(world.tunnel("db").reason, None);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_ends_by_itself_is_started_again_and_not_in_a_loop() {
    let mut world = World::new(&tunnel("db", "db.test", 0)).await;
    world.log_in("db.test", "kept").await;
    advance(RESTART).await;
    for delay in [Duration::ZERO, RESTART] {
        let before = world.cluster("db.test").task;
        world.agent.sessions.abort_all();
        while let Some(ended) = world.agent.sessions.join_next_with_id().await {
            world.agent.on_session_ended(ended);
        }
        let restart_at = world.cluster("db.test").restart_at;
        assert_eq!(restart_at, Some(Instant::now() + delay));
        assert!(world.agent.next_wake() <= Instant::now() + delay);
        advance(delay).await;
        world.agent.on_tick().await;
        let after = world.cluster("db.test");
        assert_ne!(after.task, before);
        assert_eq!(after.restart_at, None);
        assert_eq!(world.token("db.test").as_deref(), Some("kept"));
    }
    // The tunnel goes by the new session.
    let session = world.cluster("db.test").session.clone();
    assert_eq!(session.logout().await.map(|it| it.generation), Some(1));
    assert!(world.managed("db").tunnel.session.view().grant.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_token_is_taken_over_only_where_it_was_made() {
    let shared = "[cluster.corp]\nhosts = [\"a.test\", \"b.test\"]\n";
    let both = tunnel("a", "a.test", 0) + &tunnel("b", "b.test", 0);
    let mut world = World::new(&format!("{both}{shared}")).await;
    world.log_in("corp", "made-at-a").await;
    // A cluster of each host's own: both were addresses of the login, at one of them it was made.
    world.apply(&both).await;
    assert_eq!(world.token("a.test").as_deref(), Some("made-at-a"));
    assert_eq!(world.token("b.test"), None);
    // And together again, by another name and with other settings.
    let renamed =
        "[cluster.firm]\nhosts = [\"*.test\"]\nurl = \"https://a.test\"\nconnect = \"c.test:1\"\n";
    world.apply(&format!("{both}{renamed}")).await;
    assert_eq!(world.token("firm").as_deref(), Some("made-at-a"));
}

#[tokio::test(start_paused = true)]
async fn a_session_is_kept_when_only_more_tunnels_come_to_its_cluster() {
    let cluster = "[cluster.corp]\nhosts = [\"*.test\"]\n";
    let config = |tunnels: &[&str]| {
        let tunnels = tunnels.iter();
        let tunnels: String = tunnels
            .map(|it| tunnel(it, &format!("{it}.test"), 0))
            .collect();
        tunnels + cluster
    };
    let mut world = World::new(&config(&["m"])).await;
    let task = world.cluster("corp").task;
    let listening = world.managed("m").listening.as_ref().map(|it| it.task);
    // Before and behind the one whose address is the login's.
    let answer = world.apply(&config(&["a", "m", "z"])).await;
    assert_eq!((answer.added.len(), answer.unchanged), (2, 1));
    assert_eq!(world.cluster("corp").task, task);
    let still = world.managed("m").listening.as_ref().map(|it| it.task);
    assert_eq!(still, listening);
    // Without it the login would be made elsewhere.
    let answer = world.apply(&config(&["a", "z"])).await;
    assert_ne!(world.cluster("corp").task, task);
    assert_eq!(answer.removed, ["m"]);
    assert_eq!(answer.unchanged, 0, "{answer:?}");
}

#[tokio::test(start_paused = true)]
async fn what_persons_said_holds_until_the_start_of_a_tunnel_is_said_anew() {
    let manual = |more: &str| tunnel("said", "db.test", 0) + more;
    let mut world = World::new(&manual("start = \"manual\"")).await;
    assert_eq!(world.tunnel("said").state, TunnelState::Down);
    // Whether it finds its port free does not matter here.
    let _ = world.agent.up("said");
    // Another key of the same tunnel.
    world.apply(&manual("start = \"manual\"\nssh = true")).await;
    world.until_free("said").await;
    assert_eq!(world.tunnel("said").state, TunnelState::Login);
    world.agent.down("said", false).await.unwrap();
    world
        .apply(&manual("start = \"manual\"\nssh = false"))
        .await;
    assert_eq!(world.tunnel("said").state, TunnelState::Down);
    world.apply(&manual("start = \"auto\"")).await;
    world.until_free("said").await;
    assert_eq!(world.tunnel("said").state, TunnelState::Login);
}

#[tokio::test(start_paused = true)]
async fn a_tunnel_counts_on_through_settings_and_its_cluster() {
    let file = tunnel("db", "db.corp.test", 0);
    let mut world = World::new(&file).await;
    let counters = &world.managed("db").tunnel.counters;
    counters.open.store(1, Relaxed);
    counters.total.store(7, Relaxed);
    counters.carried.received.store(1 << 20, Relaxed);
    let read_ahead = "[settings]\nread_ahead = \"1 MiB\"\n";
    let cluster = "[cluster.corp]\nhosts = [\"*.corp.test\"]\n";
    for more in [read_ahead, cluster] {
        world.apply(&format!("{more}{file}")).await;
        let shown = world.tunnel("db");
        assert_eq!((shown.connections.open, shown.connections.total), (0, 7));
        assert_eq!(shown.bytes.received, 1 << 20);
    }
    world.apply(&tunnel("db", "other.corp.test", 0)).await;
    assert_eq!(world.tunnel("db").connections.total, 0);
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_wakes_nobody_though_somebody_watches() {
    let mut world = World::new(&tunnel("db", "db.test", 0)).await;
    let present = world.agent.build_status();
    let _watcher = world.agent.publisher.watch(present, Instant::now());
    world.managed("db").tunnel.counters.open.store(1, Relaxed);
    world.agent.publisher.changed(Instant::now());
    advance(Duration::from_secs(5)).await;
    world.agent.on_tick().await;
    assert_eq!(world.agent.next_wake(), world.agent.housekeeping_at);
}

#[tokio::test(start_paused = true)]
async fn a_missing_user_is_told_for_as_long_as_he_is_named() {
    let named = "[settings]\nallow_users = [\"nobody-of-that-name\"]\n";
    let mut world = World::new(named).await;
    let told = |world: &World| {
        let warnings = world.agent.build_status().pomd.warnings;
        warnings.iter().any(|it| it.contains("nobody-of-that-name"))
    };
    assert!(told(&world));
    world
        .apply(&(named.to_owned() + &tunnel("db", "db.test", 0)))
        .await;
    assert!(told(&world));
    world.apply(&tunnel("db", "db.test", 0)).await;
    assert!(!told(&world));
}

#[tokio::test(start_paused = true)]
async fn a_broken_file_changes_nothing_but_what_is_told() {
    let mut world = World::new(&tunnel("db", "db.test", 0)).await;
    let before = world.agent.build_status();
    let broken = Loaded::Broken(Broken {
        message: "it is empty".to_owned(),
        report: "error: it is empty\n".to_owned(),
        count: 1,
    });
    let error = world.agent.apply(broken.clone()).await.unwrap_err();
    assert!(matches!(error, AgentError::ConfigBroken { .. }));
    world.seconds.fetch_add(60, Relaxed);
    world.agent.apply(broken).await.unwrap_err();
    let after = world.agent.build_status();
    assert_eq!(after.tunnels, before.tunnels);
    let told = after.pomd.config.error.unwrap();
    assert_eq!(told.at, before.pomd.started_at, "since when, not when last");
    world.apply(&tunnel("db", "db.test", 0)).await;
    assert_eq!(world.agent.build_status().pomd.config.error, None);
}

#[tokio::test(start_paused = true)]
async fn whoever_asks_an_agent_that_stops_is_answered() {
    let world = World::new(&tunnel("db", "db.test", 0)).await;
    let World { agent, handle, .. } = world;
    let stop = CancellationToken::new();
    stop.cancel();
    let (early, ()) = tokio::join!(handle.status(), agent.run(stop));
    assert!(matches!(early, Err(AgentError::Stopping)));
    assert!(matches!(handle.status().await, Err(AgentError::Stopping)));
}

#[tokio::test(start_paused = true)]
async fn a_pulse_beats_while_the_agent_runs_and_not_while_it_hangs() {
    let world = World::new("").await;
    let World { agent, .. } = world;
    let heartbeat = agent.setup.heartbeat.clone();
    let stop = CancellationToken::new();
    let patience = Duration::from_secs(30);
    let beaten = || tokio::time::timeout(patience, heartbeat.beaten());
    {
        // An agent that is not polled hangs.
        let _hangs = agent.run(stop.clone());
        assert!(beaten().await.is_err(), "it beats by itself");
    }
    let World { agent, .. } = World::new("").await;
    let heartbeat = agent.setup.heartbeat.clone();
    let beats = async {
        for _ in 0..9 {
            let beaten = tokio::time::timeout(patience, heartbeat.beaten());
            beaten.await.expect("three in each time of patience");
        }
        stop.cancel();
    };
    let start = Instant::now();
    tokio::join!(beats, agent.run(stop.clone()));
    assert!(start.elapsed() <= 3 * patience + Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn k1_after_a_sleep_what_failed_before_is_forgotten_and_no_login_is_asked_for() {
    let mut world = World::new(&tunnel("db", "db.corp.example.com", 0)).await;
    let failed = |code| wire::Reason {
        code,
        message: "as it was before".to_owned(),
        at: Timestamp::UNIX_EPOCH,
        hint: None,
        request_id: None,
        holder: None,
    };
    let show = |world: &mut World, code| {
        let outcome = &world.managed("db").tunnel.outcome;
        outcome.failed(Instant::now(), failed(code));
    };
    let later = async |world: &mut World| {
        advance(tick::LONGEST).await;
        world.agent.on_tick().await;
        world
            .managed("db")
            .tunnel
            .outcome
            .trouble()
            .map(|it| it.code)
    };
    show(&mut world, Code::Tcp);
    assert_eq!(later(&mut world).await, Some(Code::Tcp), "a while awake");
    world.slept.store(8 * 3600, Relaxed);
    assert_eq!(later(&mut world).await, None);
    show(&mut world, Code::Timeout);
    assert_eq!(later(&mut world).await, Some(Code::Timeout), "awake again");
    // What the server said holds, wherever it was heard.
    show(&mut world, Code::Forbidden);
    world.slept.store(9 * 3600, Relaxed);
    assert_eq!(later(&mut world).await, Some(Code::Forbidden));
    let view = world.cluster("db.corp.example.com").session.view();
    assert_eq!(view.state, wire::ClusterState::LoginNeeded);
    assert_eq!(view.waiting, 0);
}

#[tokio::test(start_paused = true)]
async fn k1_after_a_sleep_a_login_page_that_was_out_of_reach_is_no_reason_to_pause() {
    let cluster = "[cluster.corp]\nurl = \"http://corp.test\"\nconnect = \"127.0.0.1:1\"\n\
                   hosts = [\"*.corp.test\"]\n";
    let route = "[tunnel.db]\nroute = \"tcp+http://db.corp.test:5432\"\n";
    let mut world = World::new(&format!("{cluster}{route}")).await;
    let session = world.cluster("corp").session.clone();
    let asked = wire::LoginRequest {
        opener: wire::Opener::Caller,
        mint: false,
    };
    assert!(session.login(asked).await.is_err());
    let code = || session.view().reason.map(|it| it.code);
    assert_ne!(code(), Some(Code::LoginNeeded), "it pauses");
    advance(tick::LONGEST).await;
    world.slept.store(8 * 3600, Relaxed);
    world.agent.on_tick().await;
    // It has heard of it once it answers.
    session.refused(0).await;
    assert_eq!(code(), Some(Code::LoginNeeded));
}
