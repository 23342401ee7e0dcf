//! Another network, or a sleep: what was learnt before counts no longer.
//!
//! Connections that are ready go, and pauses after failures end. Nothing is asked of a person, and nothing is tried for
//! its own sake: whoever comes next finds everything as if nothing had failed.

use tracing::{info, warn};

use super::Agent;

impl Agent {
    /// The system told that something about the network may have changed.
    pub(super) async fn on_network(&mut self) {
        self.look_at_loopback().await;
        if self.is_elsewhere() {
            info!("the network has changed");
            self.on_environment_changed();
            self.look();
        }
    }

    /// The environment says something else of forward proxies.
    pub(super) fn on_proxies(&mut self) {
        for warning in self.setup.env.proxies.warnings() {
            warn!("{warning}");
        }
        for (name, cluster) in &self.clusters {
            match cluster.forward_proxy() {
                Some(proxy) => info!(cluster = %name, "goes through the forward proxy {proxy}"),
                None => info!(cluster = %name, "goes through no forward proxy"),
            }
        }
        self.on_environment_changed();
        self.look();
    }

    /// Each half minute: what nobody tells is looked for, and ready connections are renewed.
    pub(super) async fn check_environment(&mut self) {
        self.look_at_loopback().await;
        let now = self.setup.env.clock.moment();
        let slept = now.slept_since(std::mem::replace(&mut self.awake_at, now));
        let elsewhere = self.is_elsewhere();
        if slept {
            info!("this machine slept");
        } else if elsewhere {
            info!("the network has changed");
        }
        if slept || elsewhere {
            self.on_environment_changed();
        }
        for cluster in self.clusters.values() {
            cluster.upstream.refresh_pool();
        }
        if self.is_bound_passed_unseen() {
            self.changed.notify_one();
        }
    }

    /// The wall clock was set, and with that a session is over, or is there again.
    fn is_bound_passed_unseen(&self) -> bool {
        let Some(shown) = self.publisher.shown() else {
            return false;
        };
        shown.clusters.iter().any(|shown| {
            let cluster = self.clusters.iter().find(|it| it.0.as_str() == shown.name);
            cluster.is_some_and(|it| it.1.session.view().state != shown.state)
        })
    }

    fn is_elsewhere(&mut self) -> bool {
        let clusters = self.clusters.values();
        let reached = clusters.flat_map(|it| it.upstream.reached());
        self.network.look(reached)
    }

    fn on_environment_changed(&mut self) {
        for cluster in self.clusters.values() {
            cluster.upstream.invalidate_pool();
            cluster.session.on_environment_changed();
        }
        for managed in self.tunnels.values() {
            managed.tunnel.look_again();
        }
        // An address that was missing may be there now.
        self.retry_listeners();
    }
}
