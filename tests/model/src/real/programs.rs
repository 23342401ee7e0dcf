//! Programs that connect: each asks the session of its tunnel for a token and its server for the route, as connections
//! do, without a socket.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use pomd_core::config::ClusterName;
use tokio::{
    task::{AbortHandle, JoinSet},
    time::Instant,
};

use super::outside::{Heard, Outside};
use pomd::tunnel::Tunnel;
use pomd_core::session::Patience;

use crate::history::Mood;

/// One that waits, or whose route is open.
pub(super) struct Program {
    pub(super) cluster: ClusterName,
    /// Which of the cluster's sessions it asked.
    pub(super) session: u64,
    pub(super) tunnel: Arc<Tunnel>,
    pub(super) waits: bool,
    task: AbortHandle,
}

#[derive(Default)]
pub(super) struct Programs {
    pub(super) there: BTreeMap<u64, Program>,
    tasks: JoinSet<()>,
}

impl Programs {
    pub(super) fn enter(
        &mut self,
        connection: u64,
        tunnel: Arc<Tunnel>,
        session: u64,
        outside: Arc<Outside>,
    ) {
        let carried = carry(connection, tunnel.clone(), outside);
        let task = self.tasks.spawn(tunnel.connections.track_future(carried));
        let program = Program {
            cluster: tunnel.spec.cluster.clone(),
            session,
            tunnel,
            waits: false,
            task,
        };
        self.there.insert(connection, program);
    }

    pub(super) fn pick(&self, pick: u8) -> Option<u64> {
        let count = self.there.len().max(1);
        self.there.keys().nth(usize::from(pick) % count).copied()
    }

    /// It goes by itself.
    pub(super) fn leave(&mut self, connection: u64) {
        if let Some(it) = self.there.remove(&connection) {
            it.task.abort();
        }
    }

    /// With pomd.
    pub(super) async fn die(&mut self) {
        self.there.clear();
        self.tasks.shutdown().await;
    }

    /// Those that are over leave nothing behind.
    pub(super) fn join(&mut self) {
        while let Some(ended) = self.tasks.try_join_next() {
            let broke = ended.err().filter(|it| !it.is_cancelled());
            assert!(broke.is_none(), "a connection broke: {broke:?}");
        }
    }
}

async fn carry(connection: u64, tunnel: Arc<Tunnel>, outside: Arc<Outside>) {
    let cut = tunnel.cut.clone();
    let carried = cut.run_until_cancelled(attempt(connection, &tunnel, &outside));
    if carried.await.is_none() {
        outside.hear(Heard::Cut { connection });
    }
}

async fn attempt(connection: u64, tunnel: &Tunnel, outside: &Outside) {
    let patience = Patience {
        unasked: Duration::from_secs(if tunnel.spec.ssh { 0 } else { 30 }),
        asked: Duration::from_secs(300),
        client_asks: false,
    };
    let mut after = None;
    loop {
        outside.hear(Heard::Wants { connection });
        let begun = Instant::now();
        let granted = tunnel.session.grant(after, patience).await;
        let waited = begun.elapsed();
        let grant = match granted {
            Ok(it) => it,
            Err(it) => {
                return outside.hear(Heard::SentAway {
                    connection,
                    waited,
                    why: it.reason,
                });
            }
        };
        outside.hear(Heard::Granted { connection, waited });
        let token = grant.token.reveal().to_owned();
        let host = tunnel.spec.route.address.host.to_string();
        if outside.mood(&host) != Mood::Well {
            return outside.hear(Heard::Failed { connection });
        }
        outside.hear(Heard::Sent {
            cluster: tunnel.spec.cluster.to_string(),
            login_at: tunnel.cluster.login_at.clone(),
            token: token.clone(),
        });
        if !outside.state().revoked.contains(&token) {
            tunnel.session.accepted(grant.generation);
            outside.hear(Heard::Opened { connection });
            return std::future::pending().await;
        }
        outside.hear(Heard::Refused { token });
        tunnel.session.refused(grant.generation).await;
        if after.replace(grant.generation).is_some() {
            return outside.hear(Heard::Failed { connection });
        }
    }
}
