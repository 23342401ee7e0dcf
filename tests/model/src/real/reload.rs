//! Another configuration, a death and another life, and the end.

use std::{collections::BTreeMap, sync::Arc};

use control::wire::ClusterState;
use pomd_core::config::{Change, Changes, ClusterName, Config, Start, TunnelName, changes};
use tokio::runtime::Handle;

use super::{Known, World, life::Life};
use pomd::{agent, tunnel::Tunnel};

/// What is known of a session when another takes its place.
struct Ended {
    name: ClusterName,
    at: pomd_core::config::Address,
    token: Option<String>,
    /// Somebody could still have answered it.
    awaits_an_answer: bool,
}

impl World {
    /// Only what changed is touched, and heirs take over what was made where they log in.
    pub(super) async fn go_over_to(&mut self, new: Arc<Config>) {
        let old = std::mem::replace(&mut self.config, new.clone());
        let changes = changes(&old, &new);
        let before = self.untouched(&old, &changes).await;
        let mut ended = Vec::new();
        for name in self.sessions.keys().cloned().collect::<Vec<_>>() {
            let same = new.clusters.get(&name);
            if !same.is_some_and(|it| agent::is_same(&old.clusters[&name], it)) {
                ended.push(self.end_of(&name));
            }
        }
        self.replaces = true;
        self.life.apply(&new).await;
        self.is_broken = false;
        self.settle().await;
        self.replaces = false;
        for it in &ended {
            self.sessions.remove(&it.name);
            self.persons.forget_logins(it.name.as_str());
        }
        self.nobody_waits_for_the_dead();
        self.inherit(&ended).await;
        self.count_doors(&changes);
        for (name, tunnel) in before {
            let after = self.handed_out(&new.tunnels[&name]).await;
            assert!(Arc::ptr_eq(&tunnel, &after), "{name} was touched");
        }
    }

    fn end_of(&mut self, name: &ClusterName) -> Ended {
        let known = &self.sessions[name];
        let view = known.session.view();
        let is_live = self.oracle.is_live(name.as_str());
        let is_asked = view.state == ClusterState::LoginRunning
            || known.is_unseen
            || self.persons.waits_for_page(name.as_str());
        Ended {
            name: name.clone(),
            at: known.session.address(),
            token: self.oracle.token(name.as_str()),
            awaits_an_answer: is_live && is_asked,
        }
    }

    /// P5: whoever asked a session that is no more was told so.
    fn nobody_waits_for_the_dead(&self) {
        let mut waiting = self.programs.there.values().filter(|it| it.waits);
        let of_the_dead = waiting.find(|it| {
            let session = self.sessions.get(&it.cluster);
            session.is_none_or(|session| session.number != it.session)
        });
        if let Some(it) = of_the_dead {
            panic!(
                "{}: a connection waits for a session that ended",
                it.cluster
            );
        }
    }

    async fn inherit(&mut self, ended: &[Ended]) {
        let config = self.config.clone();
        let mut heirs = Vec::new();
        for (name, spec) in &config.clusters {
            if self.sessions.contains_key(name) {
                continue;
            }
            let before = ended.iter().filter(|it| spec.login_at.contains(&it.at));
            let before = before.reduce(|a, b| if a.token.is_some() { a } else { b });
            let inherited = before.and_then(|it| it.token.clone());
            let saved = spec.login_at.iter().find_map(|it| self.saved.get(it));
            let saved = saved.cloned();
            let token = inherited.clone().or(saved.clone());
            self.know(name).await;
            if let (Some(token), Some(known)) = (&inherited, self.sessions.get_mut(name))
                && saved.as_ref() != Some(token)
            {
                known.unsaved = Some((known.session.address(), token.clone(), false));
            }
            let before = before.filter(|it| !it.awaits_an_answer);
            heirs.push((name, token, before));
        }
        let heirs = heirs.iter();
        self.oracle.begun(heirs.map(|(name, token, before)| {
            (
                name.as_str(),
                token.as_deref(),
                before.map(|it| it.name.as_str()),
            )
        }));
    }

    /// The session that stands for the cluster now.
    async fn know(&mut self, name: &ClusterName) {
        let handle = self.life.agent.session(name.to_string()).await;
        let known = Known {
            number: self.number(),
            session: handle.expect("a cluster of the configuration").session,
            unsaved: None,
            is_unseen: false,
        };
        self.sessions.insert(name.clone(), known);
    }

    /// What persons said holds on, unless the file says anew how it starts.
    fn count_doors(&mut self, changes: &Changes) {
        let before = std::mem::take(&mut self.doors);
        for (name, spec) in &self.config.tunnels {
            let as_written = (spec.start == Start::Auto, false);
            let kept = before.get(name).copied();
            let door = match changes.tunnels.get(name) {
                Some(Change::Changed { keys, .. }) if !keys.contains(&"start") => {
                    kept.filter(|it| it.1)
                }
                Some(_) => None,
                None => kept,
            };
            self.doors.insert(name.clone(), door.unwrap_or(as_written));
        }
    }

    /// P6: those tunnels that no change touches, as they are.
    async fn untouched(
        &self,
        old: &Config,
        changes: &Changes,
    ) -> BTreeMap<TunnelName, Arc<Tunnel>> {
        let new = &self.config;
        let mut res = BTreeMap::new();
        if old.settings != new.settings {
            return res;
        }
        for (name, spec) in &old.tunnels {
            let (was, is) = (
                old.clusters.get(&spec.cluster),
                new.clusters.get(&spec.cluster),
            );
            let is_same = was.zip(is).is_some_and(|it| agent::is_same(it.0, it.1));
            let is_alone = |config: &Config| {
                let same = config.tunnels.values();
                same.filter(|it| it.route == spec.route).count() == 1
            };
            if !changes.tunnels.contains_key(name) && is_same && is_alone(old) && is_alone(new) {
                res.insert(name.clone(), self.handed_out(spec).await);
            }
        }
        res
    }

    /// A pomd that has just been started.
    pub(super) async fn begin(&mut self) {
        self.is_broken = false;
        self.sessions.clear();
        self.doors.clear();
        self.from_before.clear();
        self.oracle.forget();
        self.inherit(&[]).await;
        let none = changes(&Config::default(), &self.config);
        self.count_doors(&none);
    }

    /// What rests on the disk is all that is left.
    pub(super) async fn start_again(&mut self) {
        let next = Life::begin(&self.outside, self.home.path(), &Config::default()).await;
        let life = std::mem::replace(&mut self.life, next);
        life.kill().await;
        self.programs.die().await;
        self.persons.forget().await;
        drop(self.outside.heard());
        self.life.apply(&self.config).await;
        self.begin().await;
    }

    /// pomd ends when it is told to, whatever is open, and leaves what the next one needs.
    pub(super) async fn end(mut self) {
        self.cuts = true;
        let next = Life::begin(&self.outside, self.home.path(), &Config::default()).await;
        std::mem::replace(&mut self.life, next).end().await;
        self.settle().await;
        assert!(self.programs.there.is_empty(), "a connection outlives pomd");
        self.persons.forget().await;
        drop(self.outside.heard());
        self.life.apply(&self.config).await;
        self.begin().await;
        self.check().await;
        self.life.end().await;
        self.programs.die().await;
        let left = Handle::current().metrics().num_alive_tasks();
        assert_eq!(left, 0, "tasks outlive pomd");
    }
}
