//! One life of pomd, from its start to its end or its death.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use control::paths::Paths;
use pomd_core::config::Config;
use tokio::{task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

use super::outside::{Mortal, Outside};
use pomd::{
    agent::{Agent, AgentHandle, Loaded, Setup},
    env::Env,
    system::service::Heartbeat,
};

/// How long pomd may take to end when nothing holds it up.
const END: Duration = Duration::from_secs(2);

pub(super) struct Life {
    pub(super) agent: AgentHandle,
    disk: Arc<Mortal>,
    stop: CancellationToken,
    task: JoinSet<()>,
}

impl Life {
    pub(super) async fn begin(outside: &Arc<Outside>, home: &Path, config: &Config) -> Self {
        let disk = Arc::new(Mortal {
            outside: outside.clone(),
            is_dead: AtomicBool::new(false),
        });
        let (agent, handle) = Agent::new(Setup {
            place: Paths {
                config: home.join("pomd.toml"),
                state: home.to_owned(),
                socket: home.join("pomd.sock"),
            },
            env: Env {
                fs: disk.clone(),
                clock: outside.clock(),
                login_server: outside.clone(),
                ..Env::real(outside.clone())
            },
            lost: Arc::default(),
            log: None,
            warnings: Vec::new(),
            inherited: Arc::default(),
            heartbeat: Heartbeat::for_watchdog(None),
        });
        let stop = CancellationToken::new();
        let mut task = JoinSet::new();
        task.spawn(agent.run(stop.clone()));
        let res = Self {
            agent: handle,
            disk,
            stop,
            task,
        };
        res.apply(config).await;
        res
    }

    pub(super) async fn apply(&self, config: &Config) {
        let loaded = Loaded::Good(Box::new(config.clone()), Vec::new());
        let applied = self.agent.apply(loaded).await;
        applied.expect("a configuration in force");
    }

    /// Nothing is written from now on, and no task goes on.
    pub(super) async fn kill(mut self) {
        self.disk.is_dead.store(true, Relaxed);
        self.task.shutdown().await;
    }

    pub(super) async fn end(mut self) {
        let begun = Instant::now();
        self.stop.cancel();
        while let Some(ended) = self.task.join_next().await {
            ended.expect("an end without a fault");
        }
        let took = begun.elapsed();
        assert!(took <= END, "the end took {took:?}");
    }
}
