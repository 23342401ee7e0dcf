//! The clusters: which sessions run, and what their successors take over.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use pomd_core::{
    config::{ClusterName, ClusterSpec, Config, TokenSpec, TunnelName},
    session::Handover,
};
use tokio::{
    task::{Id, JoinError},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::{Agent, Cluster, RESTART, status};
use crate::{
    session::{self, Session},
    tunnel::peer::PeerVerdict,
    upstream::{Limits, Upstream},
};

/// How long a session that is replaced may take to close its login and to write what it holds.
const LAST_WRITE: Duration = Duration::from_secs(2);

impl Agent {
    /// Brings the clusters in line with `new`; returns those whose session and upstream are other ones now.
    pub(super) async fn replace_clusters(&mut self, new: &Config) -> BTreeSet<ClusterName> {
        let old = std::mem::take(&mut self.clusters);
        let mut ended = Vec::new();
        for (name, mut cluster) in old {
            let spec = new.clusters.get(&name);
            if let Some(spec) = spec.filter(|it| is_same(&cluster.spec, it)) {
                // Connections of a tunnel that went may still wait for its server.
                cluster.spec.ports.extend(&spec.ports);
                cluster.upstream.allow_ports(&spec.ports);
                self.clusters.insert(name, cluster);
            } else {
                cluster.session.mark_replaced();
                cluster.stop.cancel();
                ended.push(cluster);
            }
        }
        // A login that was just made is written, or at least seen, before anybody takes over.
        for cluster in &ended {
            self.join_session(cluster.task).await;
        }
        let left: Vec<(TokenSpec, Handover)> = ended
            .iter()
            .map(|it| (it.spec.token.clone(), it.session.handover()))
            .collect();
        let mut replaced = BTreeSet::new();
        for (name, spec) in &new.clusters {
            if self.clusters.contains_key(name) {
                continue;
            }
            // A token goes on only where the same source would give it.
            let left = left.iter().filter(|it| it.0 == spec.token).map(|it| &it.1);
            let handover = Handover::choose(left, &spec.login_at).cloned();
            let cluster = self.start_cluster(name, spec, handover.unwrap_or_default());
            self.clusters.insert(name.clone(), cluster);
            replaced.insert(name.clone());
        }
        replaced
    }

    /// A session that ended without being told to, as by a panic, is started again.
    pub(super) fn on_session_ended(&mut self, ended: Result<(Id, ()), JoinError>) {
        let (id, message) = match ended {
            Ok((id, ())) => (id, "it ended by itself".to_owned()),
            Err(error) => (error.id(), error.to_string()),
        };
        let Some(name) = self.session_names.remove(&id) else {
            return;
        };
        let Some(cluster) = self.clusters.get_mut(&name).filter(|it| it.task == id) else {
            return;
        };
        error!(cluster = %name, "the session ended and is started again: {message}");
        self.restarts.sessions += 1;
        cluster.restart_at = Some(Instant::now().max(cluster.started_at + RESTART));
    }

    /// Starts the session of `name` anew.
    pub(super) async fn restart_cluster(&mut self, name: &ClusterName) {
        let Some(old) = self.clusters.remove(name) else {
            return;
        };
        let cluster = self.start_cluster(name, &old.spec, old.session.handover());
        self.clusters.insert(name.clone(), cluster);
        let tunnels = self.tunnels.values().map(|it| &it.tunnel);
        let of_cluster = tunnels.filter(|it| it.spec.cluster == *name);
        let names: Vec<TunnelName> = of_cluster.map(|it| it.name.clone()).collect();
        for tunnel in &names {
            self.rebuild_tunnel(tunnel).await;
        }
    }

    /// Returns when the session that was told to stop has ended, or has had its time.
    pub(super) async fn join_session(&mut self, task: Id) {
        let joined = async {
            while self.session_names.contains_key(&task) {
                match self.sessions.join_next_with_id().await {
                    Some(ended) => self.on_session_ended(ended),
                    None => return,
                }
            }
        };
        if tokio::time::timeout(LAST_WRITE, joined).await.is_err() {
            warn!("a session that is replaced does not end; its successor starts without it");
        }
    }

    /// Tells who may use a login page: the user that pomd runs for.
    fn login_peer_check(&self) -> session::PeerCheck {
        let owners = self.owners.clone();
        Arc::new(move |socket, theirs| {
            owners.check_login_peer(socket, theirs) == PeerVerdict::Welcome
        })
    }

    pub(super) fn start_cluster(
        &mut self,
        name: &ClusterName,
        spec: &ClusterSpec,
        handover: Handover,
    ) -> Cluster {
        if spec.insecure_skip_verify {
            warn!(cluster = %name, "{}", status::insecure(name));
        }
        let upstream = Upstream::new(name.clone(), spec.clone(), Limits::default())
            .with_environment(self.setup.env.proxies.clone())
            .with_failpoints(self.setup.env.failpoints.clone())
            .with_pool(self.pool.clone(), self.setup.env.clock.clone());
        let upstream = Arc::new(upstream);
        let stop = CancellationToken::new();
        let setup = session::Setup {
            name: name.clone(),
            spec: spec.clone(),
            upstream: upstream.clone(),
            state: self.setup.place.state.clone(),
            env: self.setup.env.clone(),
            peer_check: self.login_peer_check(),
            changed: self.changed.clone(),
            handover,
        };
        let (session, task) = Session::new(setup, stop.clone());
        let keeping = {
            let (upstream, stop) = (upstream.clone(), stop.clone());
            async move { upstream.run_pool(stop).await }
        };
        let task = async move {
            // A session that ends takes its warm connections along, and is not thought to live for their sake.
            tokio::pin!(task);
            tokio::select! {
                () = &mut task => return,
                () = keeping => {}
            }
            task.await;
        };
        let task = self.sessions.spawn(task).id();
        self.session_names.insert(task, name.clone());
        let cluster = Cluster {
            spec: spec.clone(),
            session,
            upstream,
            task,
            stop,
            started_at: Instant::now(),
            restart_at: None,
        };
        if let Some(proxy) = cluster.forward_proxy() {
            info!(cluster = %name, "goes through the forward proxy {proxy}");
        }
        cluster
    }
}

/// Tells whether both settings need the same session. Only what tunnels add may differ, as when one is added: the order
/// of login addresses, of which the first is still one of them, and ports.
pub fn is_same(old: &ClusterSpec, new: &ClusterSpec) -> bool {
    let still_there = old
        .login_at
        .first()
        .is_some_and(|it| new.login_at.contains(it));
    let with_old_order = ClusterSpec {
        login_at: old.login_at.clone(),
        ports: old.ports.clone(),
        ..new.clone()
    };
    still_there && *old == with_old_order
}
