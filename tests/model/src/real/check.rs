//! What came of what happened, told to the oracle; and what must be so at any time.

use control::wire::{ClusterState, Code, TunnelState};
use pomd_core::config::{Address, ClusterName};

use super::{Cause, World, outside::Heard};

impl World {
    /// What came to pass, in order, and what is held since.
    pub(super) async fn see(&mut self) {
        let mut told = Vec::new();
        for heard in self.outside.heard() {
            match heard {
                Heard::Told {
                    token,
                    is_well: true,
                    rests,
                } => told.push((token, rests)),
                heard => self.see_one(heard).await,
            }
        }
        self.programs.join();
        self.persons.join();
        for name in self.sessions.keys().cloned().collect::<Vec<_>>() {
            self.see_login(&name).await;
            self.see_token(&name);
        }
        // P2: who is told that they are logged in stays so, come what may.
        let is_full = self.outside.state().disk_is_full;
        for (token, rests) in told {
            let mut sessions = self.sessions.keys();
            let is_held =
                sessions.any(|it| self.oracle.token(it.as_str()).as_ref() == Some(&token));
            assert!(rests || is_full || !is_held, "{token} is not saved");
        }
    }

    async fn see_one(&mut self, heard: Heard) {
        match heard {
            Heard::Minting { cluster, redirect } => {
                if self.oracle.is_live(&cluster) {
                    let is_over = self.persons.is_over(&cluster).await;
                    assert!(is_over, "{cluster}: two logins at once");
                    self.oracle.ended(&cluster, self.cause);
                }
                self.persons.begun(&cluster, &redirect);
                self.oracle.started(&cluster, self.cause);
            }
            Heard::Minted { cluster, is_there } => match is_there {
                Some(true) => self.persons.has_page(&cluster),
                Some(false) => self.oracle.failed(&cluster),
                None if self.oracle.is_live(&cluster) => self.oracle.ended(&cluster, self.cause),
                None => {}
            },
            Heard::Shown { link, starts } => {
                let cluster = self.persons.cluster_of(&link);
                let cluster = cluster.expect("a link of a login");
                let by_itself = self.oracle.shown(&cluster);
                let mut sessions = self.sessions.iter_mut();
                if let Some(it) = sessions.find(|it| it.0.as_str() == cluster) {
                    it.1.is_unseen = by_itself && !starts;
                }
            }
            Heard::Sent {
                cluster,
                login_at,
                token,
            } => self.oracle.used(&cluster, &login_at, &token),
            Heard::Refused { token } => drop(self.refused.insert(token)),
            Heard::Told { .. } => {}
            Heard::Wants { connection } => self.wants(connection),
            Heard::Granted { connection, waited } => self.waits_no_more(connection, waited),
            Heard::SentAway {
                connection,
                waited,
                why,
            } => {
                self.waits_no_more(connection, waited);
                self.sent_away(connection, &why);
            }
            Heard::Opened { connection } => {
                let opened = self.programs.there.get(&connection);
                assert!(opened.is_none_or(|it| !it.waits), "it opens and waits");
            }
            Heard::Failed { connection } => self.programs.leave(connection),
            Heard::Cut { connection } => {
                assert!(self.cuts, "a connection is ended by pomd");
                self.programs.leave(connection);
            }
        }
    }

    fn wants(&mut self, connection: u64) {
        if let Some(it) = self.programs.there.get_mut(&connection) {
            it.waits = true;
            self.oracle.demanded(it.cluster.as_str());
        }
    }

    fn waits_no_more(&mut self, connection: u64, waited: std::time::Duration) {
        if let Some(it) = self.programs.there.get_mut(&connection) {
            it.waits = false;
            self.oracle.waited(it.cluster.as_str(), waited);
        }
    }

    fn sent_away(&mut self, connection: u64, why: &control::wire::Reason) {
        let Some(it) = self.programs.there.get(&connection) else {
            return;
        };
        let cluster = it.cluster.clone();
        assert_ne!(why.code, Code::Internal, "{cluster}: {}", why.message);
        let is_stopping = why.code == Code::Stopping;
        assert!(!is_stopping || self.cuts, "{cluster}: nobody stops pomd");
        let is_replaced = why.message.contains("changed meanwhile");
        assert!(
            !is_replaced || self.replaces,
            "{cluster}: whoever comes after a change is sent away for it"
        );
        if let Some(known) = self.sessions.get(&cluster).filter(|_| !self.replaces) {
            let held = known.session.view().grant;
            let held = held.map(|it| it.token.reveal().to_owned());
            let is_good = held.is_some() && held == self.oracle.token(cluster.as_str());
            assert!(
                !is_good || self.cuts,
                "{cluster}: refused beside a good token"
            );
        }
        self.programs.leave(connection);
    }

    /// A login may be over without a word.
    async fn see_login(&mut self, name: &ClusterName) {
        let cluster = name.as_str();
        let view = self.sessions[name].session.view();
        if view.state != ClusterState::LoggedIn
            && view.state != ClusterState::LoginRunning
            && self.oracle.is_live(cluster)
            && !self.persons.waits_for_page(cluster)
            && self.persons.is_over(cluster).await
        {
            self.oracle.ended(cluster, self.cause);
        }
    }

    /// What the session holds now.
    fn see_token(&mut self, name: &ClusterName) {
        let cluster = name.as_str();
        let session = self.sessions[name].session.clone();
        let view = session.view();
        let held = view.grant.map(|it| it.token.reveal().to_owned());
        let before = self.oracle.token(cluster);
        match (&held, &before) {
            (Some(token), _) if held != before => {
                self.oracle.kept(cluster, token, self.cause);
                let known = self.sessions.get_mut(name);
                known
                    .into_iter()
                    .for_each(|it| it.unsaved = Some((session.address(), token.clone(), true)));
            }
            (None, Some(token)) if self.replaces => drop(self.refused.contains(token)),
            (None, Some(token)) => {
                let was_refused = self.refused.contains(token);
                let cause = if was_refused {
                    Cause::Refused
                } else {
                    self.cause
                };
                self.forgotten(name, cause);
            }
            _ => {}
        }
        // What is not told to be unsaved is saved.
        let is_told = view.reason.is_some_and(|it| it.code == Code::Local);
        let known = self.sessions.get_mut(name);
        let unsaved = known.and_then(|it| it.unsaved.take_if(|_| !is_told));
        if let Some((at, token, alone)) = unsaved {
            if alone {
                let login_at = &self.config.clusters[name].login_at;
                self.saved.retain(|it, _| !login_at.contains(it));
            }
            self.saved.insert(at, token);
        }
    }

    /// The token is held no more, and does not rest on the disk.
    pub(super) fn forgotten(&mut self, name: &ClusterName, cause: Cause) {
        self.oracle.forgotten(name.as_str(), cause);
        let Some(known) = self.sessions.get_mut(name) else {
            return;
        };
        known.unsaved = None;
        let at = known.session.address();
        let login_at = &self.config.clusters[name].login_at;
        let is_gone =
            |it: &Address| *it == at || cause == Cause::LoggedOut && login_at.contains(it);
        self.saved.retain(|it, _| !is_gone(it));
    }

    /// What must be so after everything that happens.
    pub(super) async fn check(&mut self) {
        let status = self.life.agent.status().await;
        let status = status.expect("pomd tells how it is");
        let shown = status.clusters.iter().map(|it| it.name.as_str());
        assert!(shown.eq(self.config.clusters.keys().map(ClusterName::as_str)));
        assert_eq!(status.pomd.config.error.is_some(), self.is_broken);
        for cluster in &status.clusters {
            self.oracle.shows(&cluster.name, cluster.state);
            let known = self.sessions.iter();
            let known = known.filter(|it| it.0.as_str() == cluster.name);
            for (name, known) in known {
                let there = self.programs.there.values();
                let asking = there.filter(|it| it.session == known.number && it.waits);
                assert_eq!(cluster.waiting, asking.clone().count() as u64, "{name}");
                let asks = self.oracle.is_live(name.as_str());
                for it in asking {
                    assert!(asks || !it.tunnel.spec.ssh, "{name}: ssh waits for nobody");
                }
                let held = known.session.view().grant;
                let token = held.as_ref().map(|it| it.token.reveal());
                self.oracle.holds(name.as_str(), token);
                if let Some(token) = token {
                    let login_at = &self.config.clusters[name].login_at;
                    self.oracle.used(name.as_str(), login_at, token);
                }
            }
        }
        let shown = status.tunnels.iter().map(|it| it.name.as_str());
        assert!(shown.eq(self.config.tunnels.keys().map(|it| it.as_str())));
        for tunnel in &status.tunnels {
            let mut doors = self.doors.iter();
            let door = doors.find(|it| it.0.as_str() == tunnel.name);
            let is_wanted = door.is_some_and(|it| it.1.0);
            let is_logged_in = self.oracle.token(&tunnel.cluster).is_some();
            let may_be = match tunnel.state {
                TunnelState::Down => !is_wanted,
                TunnelState::Up => is_wanted && is_logged_in,
                TunnelState::Login => is_wanted && !is_logged_in,
                // Somebody else may hold the port.
                TunnelState::Busy => is_wanted,
                TunnelState::Error | TunnelState::Unknown => false,
            };
            assert!(
                may_be,
                "{}: it is shown to be {:?}",
                tunnel.name, tunnel.state
            );
        }
    }
}
