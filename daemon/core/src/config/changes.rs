//! What differs between two configurations. Names that are not in the answer are untouched.

use std::collections::BTreeMap;

use super::{ClusterName, ClusterSpec, Config, Settings, TunnelName, TunnelSpec};

/// What a reload does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// The tunnels that are not as before. What happens to a tunnel's cluster does not count, moving to another does.
    pub tunnels: BTreeMap<TunnelName, Change<TunnelSpec>>,
    /// The clusters that are not as before.
    pub clusters: BTreeMap<ClusterName, Change<ClusterSpec>>,
    /// The new settings, if they are others.
    pub settings: Option<Settings>,
}

/// What happens to one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change<Spec> {
    /// It is new.
    Added(Spec),
    /// It is there no more.
    Removed,
    /// It is another.
    Changed {
        /// What it is now.
        to: Spec,
        /// The keys that make the difference, in the words of the file. Never empty.
        keys: Vec<&'static str>,
    },
}

impl Changes {
    /// Whether nothing differs.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Returns what must be done to get from `old` to `new`.
pub fn changes(old: &Config, new: &Config) -> Changes {
    Changes {
        tunnels: between(&old.tunnels, &new.tunnels, TunnelSpec::differing_keys),
        clusters: between(&old.clusters, &new.clusters, ClusterSpec::differing_keys),
        settings: (old.settings != new.settings).then(|| new.settings.clone()),
    }
}

fn between<Name: Ord + Clone, Spec: PartialEq + Clone>(
    old: &BTreeMap<Name, Spec>,
    new: &BTreeMap<Name, Spec>,
    keys: impl Fn(&Spec, &Spec) -> Vec<&'static str>,
) -> BTreeMap<Name, Change<Spec>> {
    let gone = old.keys().filter(|it| !new.contains_key(*it));
    let mut res: BTreeMap<Name, Change<Spec>> =
        gone.map(|it| (it.clone(), Change::Removed)).collect();
    for (name, spec) in new {
        let change = match old.get(name) {
            None => Change::Added(spec.clone()),
            Some(before) if before == spec => continue,
            Some(before) => Change::Changed {
                to: spec.clone(),
                keys: keys(before, spec),
            },
        };
        res.insert(name.clone(), change);
    }
    res
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;

    fn config(text: &str) -> Config {
        Config::parse(text, Path::new("/etc/pomd")).unwrap()
    }

    fn tunnel(name: &str) -> TunnelName {
        TunnelName::parse(name).unwrap()
    }

    #[test]
    fn only_what_differs_is_named_with_its_keys() {
        let old = config(
            "[tunnel.a]\nroute = \"a.x:22\"\nlisten = 1\n[tunnel.b]\nroute = \"b.x:1\"\n[tunnel.c]\nroute = \"c.x:1\"",
        );
        let new = config(
            "[tunnel.a]\nroute = \"a.x:22\"\nlisten = 2\nssh = false\n[tunnel.b]\nroute = \"b.x:1\"\n[tunnel.d]\nroute = \"c.x:1\"",
        );
        let changes = changes(&old, &new);
        assert_eq!(changes.tunnels.len(), 3);
        assert!(
            matches!(&changes.tunnels[&tunnel("a")], Change::Changed { keys, .. } if *keys == ["listen", "ssh"])
        );
        assert_eq!(changes.tunnels[&tunnel("c")], Change::Removed);
        assert!(matches!(changes.tunnels[&tunnel("d")], Change::Added(_)));
        assert!(changes.clusters.is_empty());
        assert_eq!(changes.settings, None);
    }

    #[test]
    fn a_changed_cluster_leaves_its_tunnels_unchanged_and_a_move_does_not() {
        let tunnel_a = "[tunnel.a]\nroute = \"a.x:22\"\n";
        let alone = config(tunnel_a);
        let plain = config(&format!("{tunnel_a}[cluster.c]\nhosts = [\"*.x\"]"));
        let other = config(&format!(
            "{tunnel_a}[cluster.c]\nhosts = [\"*.x\"]\nconnect = \"b.x:1\""
        ));
        let moved = changes(&alone, &plain);
        assert!(
            matches!(&moved.tunnels[&tunnel("a")], Change::Changed { keys, .. } if *keys == ["cluster"])
        );
        assert_eq!(moved.clusters.len(), 2);
        let edited = changes(&plain, &other);
        assert!(edited.tunnels.is_empty());
        let cluster = ClusterName::parse("c").unwrap();
        assert!(
            matches!(&edited.clusters[&cluster], Change::Changed { keys, .. } if *keys == ["connect"])
        );
    }

    fn applied(changes: Changes, to: &Config) -> Config {
        let mut res = to.clone();
        apply(&mut res.tunnels, changes.tunnels);
        apply(&mut res.clusters, changes.clusters);
        res.settings = changes.settings.unwrap_or(res.settings);
        res
    }

    fn apply<Name: Ord, Spec>(
        to: &mut BTreeMap<Name, Spec>,
        changes: BTreeMap<Name, Change<Spec>>,
    ) {
        for (name, change) in changes {
            match change {
                Change::Added(spec) | Change::Changed { to: spec, .. } => to.insert(name, spec),
                Change::Removed => to.remove(&name),
            };
        }
    }

    fn any_config() -> impl Strategy<Value = Config> {
        let tunnel = ("[a-d]", "[a-c]", 1u16..4, any::<bool>(), any::<bool>());
        let cluster = prop::option::of((any::<bool>(), any::<bool>()));
        (prop::collection::btree_map(0u8..4, tunnel, 0..4), cluster, 1u64..3).prop_map(
            |(tunnels, cluster, size)| {
                let mut text = format!("[settings]\nread_ahead = \"{size} MiB\"\n");
                for (name, (host, domain, port, manual, ssh)) in tunnels {
                    let start = if manual { "manual" } else { "auto" };
                    text += &format!(
                        "[tunnel.t{name}]\nroute = \"{host}.{domain}:{port}\"\nstart = \"{start}\"\nssh = {ssh}\n"
                    );
                }
                if let Some((wide, insecure)) = cluster {
                    let host = if wide { "*.a" } else { "a.a" };
                    text += &format!(
                        "[cluster.c]\nurl = \"https://l.a\"\nhosts = [\"{host}\"]\ninsecure_skip_verify = {insecure}\n"
                    );
                }
                config(&text)
            },
        )
    }

    proptest! {
        #[test]
        fn applying_the_changes_gives_the_other(old in any_config(), new in any_config()) {
            let changes = changes(&old, &new);
            for (name, change) in &changes.tunnels {
                prop_assert_ne!(old.tunnels.get(name), new.tunnels.get(name));
                if let Change::Changed { keys, .. } = change {
                    prop_assert!(!keys.is_empty());
                }
            }
            prop_assert_eq!(changes.is_empty(), old == new);
            prop_assert_eq!(applied(changes, &old), new);
        }
    }
}
