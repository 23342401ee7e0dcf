//! Going over to another configuration: only what changed is touched.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use control::wire;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{Agent, Broken, Cluster, Door, Loaded, Refused, refusal, status};
use crate::{
    config::{self, Change, ClusterName, ClusterSpec, Config, Start, TunnelName, TunnelSpec},
    session::{self, Session},
    tunnel::{Parts, Tunnel, peer::Owners},
    upstream::{Limits, Upstream},
};

impl Agent {
    /// Goes over to what was read; a broken file changes nothing but the status.
    pub(super) async fn apply(&mut self, loaded: Loaded) -> Result<wire::ReloadAnswer, Refused> {
        match loaded {
            Loaded::Broken(broken) => {
                let error = Box::new(refusal(wire::Code::ConfigBroken, broken.report.clone()));
                self.keep_last_good(broken);
                Err(error)
            }
            Loaded::Good(config, warnings) => {
                let answer = self.go_over_to(*config, warnings).await;
                self.show();
                Ok(answer)
            }
        }
    }

    fn keep_last_good(&mut self, broken: Broken) {
        let known = self.config_error.as_ref();
        if known.is_some_and(|it| it.report == broken.report) {
            return;
        }
        warn!("{}; the old settings apply", broken.message);
        self.config_error = Some(wire::ConfigError {
            at: self.setup.clock.now(),
            message: broken.message,
            report: broken.report,
            count: broken.count,
        });
        self.show();
    }

    async fn go_over_to(&mut self, new: Config, warnings: Vec<String>) -> wire::ReloadAnswer {
        let old = std::mem::replace(&mut self.config, new.clone());
        let changes = config::changes(&old, &new);
        self.loaded_at = self.setup.clock.now();
        self.config_error = None;
        self.config_warnings = warnings;

        let settings_changed = old.settings != new.settings;
        if settings_changed {
            self.take_settings();
        }
        // Everything that ends its listener does so before anything is bound: two tunnels may swap their ports.
        let mut leaving = Vec::new();
        let overrides = self.overrides();
        for (name, change) in &changes.tunnels {
            if !matches!(change, Change::Added(_)) {
                self.close(name).await;
                leaving.extend(self.take_leave(name));
            }
        }
        let replaced = self.replace_clusters(&new);
        let rebuild: Vec<TunnelName> = self
            .tunnels
            .iter()
            .filter(|(_, it)| settings_changed || replaced.contains(&it.tunnel.spec.cluster))
            .map(|(name, _)| name.clone())
            .collect();
        for name in &rebuild {
            self.rebuild_tunnel(name).await;
        }
        for (name, spec) in &new.tunnels {
            if self.tunnels.contains_key(name) {
                continue;
            }
            let start_is_said_anew = match changes.tunnels.get(name) {
                Some(Change::Changed { keys, .. }) => keys.contains(&"start"),
                _ => false,
            };
            let kept = overrides.get(name).filter(|_| !start_is_said_anew);
            self.open(name, kept.copied().unwrap_or(spec.start == Start::Auto));
            if let (Some(_), Some(door)) = (kept, self.tunnels.get_mut(name)) {
                door.overridden = true;
            }
        }
        let answer = answer(&changes.tunnels, new.tunnels.len(), leaving);
        info!("configuration read: {}", summary(&answer));
        answer
    }

    /// What persons said of tunnels since the start of pomd.
    fn overrides(&self) -> BTreeMap<TunnelName, bool> {
        let overridden = self.tunnels.iter().filter(|(_, it)| it.overridden);
        overridden
            .map(|(name, it)| (name.clone(), it.wanted))
            .collect()
    }

    /// The tunnel is gone from the doors; its connections live on.
    fn take_leave(&mut self, name: &TunnelName) -> Option<wire::Leaving> {
        let door = self.tunnels.remove(name)?;
        let connections = door.tunnel.connections.len() as u64;
        if connections == 0 {
            return None;
        }
        self.leaving.push(door.tunnel);
        Some(wire::Leaving {
            name: name.to_string(),
            connections,
        })
    }

    fn take_settings(&mut self) {
        let settings = &self.config.settings;
        let (owners, unknown) = Owners::new(&settings.allow_users);
        for name in unknown {
            let warning = format!("allow_users names {name}, and no user is called so");
            warn!("{warning}");
            self.config_warnings.push(warning);
        }
        self.owners = Arc::new(owners);
        self.relay = Arc::new(super::shared_by_relays(settings.read_ahead));
    }

    /// Brings the clusters in line with `new`; returns those whose session and upstream are other ones now.
    fn replace_clusters(&mut self, new: &Config) -> BTreeSet<ClusterName> {
        let mut replaced = BTreeSet::new();
        let mut ended = Vec::new();
        let names: Vec<ClusterName> = self.clusters.keys().cloned().collect();
        for name in names {
            let same = match (self.clusters.get(&name), new.clusters.get(&name)) {
                (Some(old), Some(new)) => is_same(&old.spec, new),
                _ => false,
            };
            if !same && let Some(cluster) = self.clusters.remove(&name) {
                cluster.stop.cancel();
                ended.push(cluster);
            }
        }
        for (name, spec) in &new.clusters {
            if self.clusters.contains_key(name) {
                continue;
            }
            let heir = ended
                .iter()
                .find(|it| it.spec.login_at.iter().any(|at| spec.login_at.contains(at)));
            let inherited = heir.and_then(|it| it.session.view().grant);
            let cluster = self.start_cluster(name, spec, inherited);
            self.clusters.insert(name.clone(), cluster);
            replaced.insert(name.clone());
        }
        replaced
    }

    /// Starts a session of `name` anew, as after a panic.
    pub(super) async fn replace_cluster(&mut self, name: &ClusterName) {
        let Some(old) = self.clusters.remove(name) else {
            return;
        };
        let cluster = self.start_cluster(name, &old.spec, old.session.view().grant);
        self.clusters.insert(name.clone(), cluster);
        let of_cluster = |it: &&Door| it.tunnel.spec.cluster == *name;
        let doors = self.tunnels.values().filter(of_cluster);
        let names: Vec<TunnelName> = doors.map(|it| it.tunnel.name.clone()).collect();
        for tunnel in &names {
            self.rebuild_tunnel(tunnel).await;
        }
    }

    fn start_cluster(
        &mut self,
        name: &ClusterName,
        spec: &ClusterSpec,
        inherited: Option<session::Grant>,
    ) -> Cluster {
        if spec.insecure_skip_verify {
            warn!(cluster = %name, "{}", status::insecure(name));
        }
        let upstream = Arc::new(Upstream::new(name.clone(), spec.clone(), Limits::default()));
        let stop = CancellationToken::new();
        let setup = session::Setup {
            name: name.clone(),
            spec: spec.clone(),
            upstream: upstream.clone(),
            state: self.setup.state.clone(),
            clock: self.setup.clock.clone(),
            opener: self.setup.opener.clone(),
            owners: self.owners.clone(),
            changed: self.changed.clone(),
            inherited,
        };
        let (session, task) = Session::new(setup, stop.clone());
        let task = self.sessions.spawn(task).id();
        self.session_names.insert(task, name.clone());
        Cluster {
            spec: spec.clone(),
            session,
            upstream,
            task,
            stop,
        }
    }

    /// Makes the tunnel anew from the settings in force; it listens again if it did, its connections live on.
    async fn rebuild_tunnel(&mut self, name: &TunnelName) {
        self.close(name).await;
        let before = self.tunnels.get(name).map(|it| (it.wanted, it.overridden));
        self.take_leave(name);
        if let Some((wanted, overridden)) = before {
            self.open(name, wanted);
            if let Some(door) = self.tunnels.get_mut(name) {
                door.overridden = overridden;
            }
        }
    }

    /// Adds the tunnel `name` of the settings in force.
    fn open(&mut self, name: &TunnelName, wanted: bool) {
        let Some(spec) = self.config.tunnels.get(name) else {
            return;
        };
        let Some(tunnel) = self.make_tunnel(name, spec) else {
            return;
        };
        let addresses = status::addresses(spec.listen, self.ports.get(name));
        let door = Door {
            tunnel: Arc::new(tunnel),
            wanted,
            overridden: false,
            listening: None,
            obstacle: None,
            retry_at: None,
            addresses,
        };
        self.tunnels.insert(name.clone(), door);
        if wanted {
            self.listen(name);
        }
    }

    /// A tunnel that does not listen yet; `None` if its cluster is gone.
    pub(super) fn make_tunnel(&self, name: &TunnelName, spec: &TunnelSpec) -> Option<Tunnel> {
        let cluster = self.clusters.get(&spec.cluster)?;
        Some(Tunnel::new(Parts {
            name: name.clone(),
            spec: spec.clone(),
            cluster: cluster.spec.clone(),
            session: cluster.session.clone(),
            upstream: cluster.upstream.clone(),
            relay: self.relay.clone(),
            owners: self.owners.clone(),
            clock: self.setup.clock.clone(),
            changed: self.changed.clone(),
            numbers: self.numbers.clone(),
        }))
    }
}

/// Only the order of login addresses may differ, as when a tunnel is added, and the first is still one of them.
fn is_same(old: &ClusterSpec, new: &ClusterSpec) -> bool {
    let still_there = old
        .login_at
        .first()
        .is_some_and(|it| new.login_at.contains(it));
    let with_old_order = ClusterSpec {
        login_at: old.login_at.clone(),
        ..new.clone()
    };
    still_there && *old == with_old_order
}

fn answer(
    changes: &BTreeMap<TunnelName, Change<TunnelSpec>>,
    tunnels: usize,
    leaving: Vec<wire::Leaving>,
) -> wire::ReloadAnswer {
    let mut res = wire::ReloadAnswer {
        leaving,
        ..Default::default()
    };
    for (name, change) in changes {
        let name = name.to_string();
        match change {
            Change::Added(_) => res.added.push(name),
            Change::Removed => res.removed.push(name),
            Change::Changed { keys, .. } => res.changed.push(wire::ChangedTunnel {
                name,
                keys: keys.iter().map(ToString::to_string).collect(),
            }),
        }
    }
    res.unchanged = (tunnels - res.added.len() - res.changed.len()) as u64;
    res
}

/// `1 added: metrics; 1 changed: grafana (listen); 1 removed: ssh-old; 3 unchanged`
fn summary(answer: &wire::ReloadAnswer) -> String {
    let mut parts = Vec::new();
    let mut part = |word: &str, names: &[String]| {
        if !names.is_empty() {
            parts.push(format!("{} {word}: {}", names.len(), names.join(", ")));
        }
    };
    part("added", &answer.added);
    let changed: Vec<String> = answer
        .changed
        .iter()
        .map(|it| format!("{} ({})", it.name, it.keys.join(", ")))
        .collect();
    part("changed", &changed);
    part("removed", &answer.removed);
    parts.push(format!("{} unchanged", answer.unchanged));
    parts.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_names_what_changed_and_counts_the_rest() {
        let answer = wire::ReloadAnswer {
            added: vec!["metrics".into()],
            changed: vec![wire::ChangedTunnel {
                name: "grafana".into(),
                keys: vec!["listen".into()],
            }],
            removed: vec!["ssh-old".into()],
            unchanged: 3,
            leaving: Vec::new(),
        };
        assert_eq!(
            summary(&answer),
            "1 added: metrics; 1 changed: grafana (listen); 1 removed: ssh-old; 3 unchanged"
        );
        assert_eq!(summary(&wire::ReloadAnswer::default()), "0 unchanged");
    }
}
