//! Going over to another configuration: only what changed is touched.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use control::wire;
use jiff::{Timestamp, tz::TimeZone};
use pomd_core::config::{
    self, Change, Changes, ClusterName, Config, Start, TunnelName, TunnelSpec,
};
use tracing::{debug, info, warn};

use super::{Agent, AgentError, Broken, Loaded, ManagedTunnel};
use crate::{
    clock::time_of_day,
    tunnel::{Parts, Tunnel, peer::Owners},
};

impl Agent {
    /// Goes over to what was read; a broken file changes nothing but the status.
    pub(super) async fn apply(&mut self, loaded: Loaded) -> Result<wire::ReloadAnswer, AgentError> {
        match loaded {
            Loaded::Broken(broken) => {
                let error = AgentError::ConfigBroken {
                    report: broken.report.clone(),
                };
                self.keep_last_good(broken);
                Err(error)
            }
            Loaded::Good(config, warnings) => {
                let answer = self
                    .go_over_to(*config, warnings, "configuration read")
                    .await;
                self.look();
                Ok(answer)
            }
        }
    }

    /// Goes over to the settings of an earlier life, as they were read at that time: the file is broken now.
    pub(super) async fn fall_back(&mut self, config: Config, read_at: Timestamp) {
        self.go_over_to(config, Vec::new(), "last good configuration taken")
            .await;
        self.loaded_at = read_at;
        self.look();
    }

    fn keep_last_good(&mut self, broken: Broken) {
        let known = self.config_error.as_ref();
        if known.is_some_and(|it| it.report == broken.report) {
            return;
        }
        let now = self.setup.env.clock.now();
        let meanwhile = if self.tunnels.is_empty() {
            "there are no tunnels until you fix it".to_owned()
        } else {
            let time = time_of_day(self.loaded_at, now, &TimeZone::system());
            format!("the settings of {time} apply")
        };
        let check = control::text::check_command(&self.setup.place.config);
        warn!("{}; {meanwhile}. Run: {check}", broken.message);
        self.config_error = Some(wire::ConfigError {
            at: now,
            message: broken.message,
            report: broken.report,
            count: broken.count,
        });
        self.look();
    }

    /// `event` is what the log says happened.
    async fn go_over_to(
        &mut self,
        new: Config,
        warnings: Vec<String>,
        event: &str,
    ) -> wire::ReloadAnswer {
        self.loaded_at = self.setup.env.clock.now();
        self.ports.retry();
        self.config_error = None;
        for warning in warnings
            .iter()
            .filter(|it| !self.config_warnings.contains(it))
        {
            warn!("{warning}");
        }
        self.config_warnings = warnings;
        let new = self.with_temporary(new);
        self.switch_to(new, event).await
    }

    /// Goes over from the settings in force to others, whoever said them.
    pub(super) async fn switch_to(&mut self, new: Config, event: &str) -> wire::ReloadAnswer {
        let old = std::mem::replace(&mut self.config, new.clone());
        let changes = config::changes(&old, &new);
        let settings_changed = old.settings != new.settings;
        if settings_changed {
            self.take_settings();
        }
        // Everything that ends its listener does so before anything is bound: two tunnels may swap their ports.
        let mut leaving = Vec::new();
        let overrides = self.overrides();
        let mut before = BTreeMap::new();
        for (name, change) in &changes.tunnels {
            if !matches!(change, Change::Added(_)) {
                self.close(name).await;
                let managed = self.tunnels.get(name);
                before.extend(managed.map(|it| (name, it.tunnel.clone())));
                leaving.extend(self.take_leave(name));
            }
        }
        let replaced = self.replace_clusters(&new).await;
        let rebuild: Vec<TunnelName> = self
            .tunnels
            .iter()
            .filter(|(_, it)| settings_changed || replaced.contains(&it.tunnel.spec.cluster))
            .map(|(name, _)| name.clone())
            .collect();
        for name in &rebuild {
            leaving.extend(self.rebuild_tunnel(name).await);
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
            let wanted = kept.copied().unwrap_or(spec.start == Start::Auto);
            // Another route begins to count anew.
            let before = before.get(name).filter(|it| it.spec.route == spec.route);
            self.open(name, wanted, before.map(|it| &**it));
            if let (Some(_), Some(managed)) = (kept, self.tunnels.get_mut(name)) {
                managed.overridden = true;
            }
        }
        for (name, managed) in &mut self.tunnels {
            managed.temporary = self.temporary.contains_key(name);
        }
        let is_counted = |name: &TunnelName| !self.temporary.contains_key(name);
        let answer = answer(&changes, &replaced, &new, is_counted, leaving);
        match summary(&answer) {
            Some(summary) => info!("{event}: {summary}"),
            None if old == new => debug!("{event}: nothing changed"),
            None => info!("{event}: no tunnel changed"),
        }
        answer
    }

    /// What persons said of tunnels since the start of pomd.
    fn overrides(&self) -> BTreeMap<TunnelName, bool> {
        let overridden = self.tunnels.iter().filter(|(_, it)| it.overridden);
        overridden
            .map(|(name, it)| (name.clone(), it.wanted))
            .collect()
    }

    /// The tunnel is gone from the tunnels; its connections live on.
    fn take_leave(&mut self, name: &TunnelName) -> Option<wire::Leaving> {
        let managed = self.tunnels.remove(name)?;
        let connections = managed.tunnel.connections.len() as u64;
        if connections == 0 {
            return None;
        }
        self.leaving.push(managed.tunnel);
        Some(wire::Leaving {
            name: name.to_string(),
            connections,
        })
    }

    fn take_settings(&mut self) {
        let settings = &self.config.settings;
        let (owners, unknown) = Owners::new(&settings.allow_users);
        let warning = |name| format!("allow_users names {name}, and no user is called so");
        self.settings_warnings = unknown.iter().map(warning).collect();
        for warning in &self.settings_warnings {
            warn!("{warning}");
        }
        self.owners = Arc::new(owners);
        self.relay = Arc::new(super::shared_by_relays(settings.read_ahead));
    }

    /// Makes the tunnel anew from the settings in force; it listens again if it did and counts on, its connections live
    /// on.
    pub(super) async fn rebuild_tunnel(&mut self, name: &TunnelName) -> Option<wire::Leaving> {
        self.close(name).await;
        let managed = self.tunnels.get(name)?;
        let (wanted, overridden) = (managed.wanted, managed.overridden);
        let before = managed.tunnel.clone();
        let leaving = self.take_leave(name);
        self.open(name, wanted, Some(&before));
        if let Some(managed) = self.tunnels.get_mut(name) {
            managed.overridden = overridden;
        }
        leaving
    }

    /// Adds the tunnel `name` of the settings in force, in place of `before`.
    fn open(&mut self, name: &TunnelName, wanted: bool, before: Option<&Tunnel>) {
        let Some(spec) = self.config.tunnels.get(name) else {
            return;
        };
        let Some(tunnel) = self.make_tunnel(name, spec, before) else {
            return;
        };
        let managed = ManagedTunnel {
            wanted,
            ..self.managed(Arc::new(tunnel))
        };
        self.tunnels.insert(name.clone(), managed);
        if wanted {
            self.listen(name);
        }
    }

    /// A tunnel that does not listen yet; `None` if its cluster is gone.
    pub(super) fn make_tunnel(
        &self,
        name: &TunnelName,
        spec: &TunnelSpec,
        before: Option<&Tunnel>,
    ) -> Option<Tunnel> {
        let cluster = self.clusters.get(&spec.cluster)?;
        let parts = Parts {
            name: name.clone(),
            spec: spec.clone(),
            cluster: cluster.spec.clone(),
            session: cluster.session.clone(),
            upstream: cluster.upstream.clone(),
            relay: self.relay.clone(),
            owners: self.owners.clone(),
            env: self.setup.env.clone(),
            changed: self.changed.clone(),
            numbers: self.numbers.clone(),
        };
        Some(Tunnel::new(parts, before))
    }
}

/// What changed, in names; what did not is counted, if it is of the file. A tunnel whose cluster was replaced has changed too, though its own lines have not.
fn answer(
    changes: &Changes,
    replaced: &BTreeSet<ClusterName>,
    new: &Config,
    is_counted: impl Fn(&TunnelName) -> bool,
    leaving: Vec<wire::Leaving>,
) -> wire::ReloadAnswer {
    let mut res = wire::ReloadAnswer {
        leaving,
        ..Default::default()
    };
    let mut changed = |name: &TunnelName, keys: &[&str]| {
        res.changed.push(wire::ChangedTunnel {
            name: name.to_string(),
            keys: keys.iter().map(ToString::to_string).collect(),
        });
    };
    for (name, spec) in &new.tunnels {
        let cluster = changes.clusters.get(&spec.cluster);
        let cluster = cluster.filter(|_| replaced.contains(&spec.cluster));
        match (changes.tunnels.get(name), cluster) {
            (Some(Change::Added(_)), _) => res.added.push(name.to_string()),
            (Some(Change::Changed { keys, .. }), _) => changed(name, keys),
            (None, Some(Change::Changed { keys, .. })) => changed(name, keys),
            _ => res.unchanged += u64::from(is_counted(name)),
        }
    }
    let removed = changes.tunnels.iter().filter(|it| *it.1 == Change::Removed);
    res.removed = removed.map(|it| it.0.to_string()).collect();
    res
}

/// `1 added: metrics; 1 changed: grafana (listen); 1 removed: ssh-old; 3 unchanged`, or nothing where nothing changed.
fn summary(answer: &wire::ReloadAnswer) -> Option<String> {
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
    if parts.is_empty() {
        return None;
    }
    if answer.unchanged > 0 {
        parts.push(format!("{} unchanged", answer.unchanged));
    }
    Some(parts.join("; "))
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
            summary(&answer).unwrap(),
            "1 added: metrics; 1 changed: grafana (listen); 1 removed: ssh-old; 3 unchanged"
        );
        let all_new = wire::ReloadAnswer {
            added: vec!["metrics".into()],
            ..wire::ReloadAnswer::default()
        };
        assert_eq!(summary(&all_new).unwrap(), "1 added: metrics");
        assert_eq!(summary(&wire::ReloadAnswer::default()), None);
    }
}
