//! Tells the service manager how pomd does: a line for people whenever it changes, and that the agent lives.
//!
//! Knows snapshots and the agent's heartbeat. Must not know how a manager is told, or how anything works.

use std::path::Path;

use control::{
    text::{check_command, clean},
    wire::{self, ClusterState, TunnelState},
};
use jiff::{Timestamp, tz::TimeZone};
use tokio_util::sync::CancellationToken;

use crate::{
    agent::AgentHandle,
    clock::{Clock, time_of_day},
    restart::Restart,
    system::service::{Heartbeat, Notification, Service},
};

/// How many clusters are told by name.
const CLUSTERS: usize = 3;
/// The most characters of a problem with the configuration.
const PROBLEM: usize = 120;

/// What telling needs.
pub struct ServiceNotifier {
    /// Who is told.
    pub service: Service,
    /// Who knows how things stand.
    pub agent: AgentHandle,
    /// Its sign of life.
    pub heartbeat: Heartbeat,
    /// What time it is.
    pub clock: Clock,
    /// Whether pomd restarts after it ended.
    pub restart: Restart,
}

impl ServiceNotifier {
    /// Says that pomd is ready, and how things stand.
    pub async fn ready(&self) {
        if !self.service.is_there() {
            return;
        }
        let line = match self.agent.status().await {
            Ok(status) => self.line(&status),
            Err(_) => String::new(),
        };
        self.service.notify(Notification::Ready(line)).await;
    }

    /// Tells what changes until `stop`, and then that pomd ends; of one that restarts, only that it reloads: a manager
    /// would end what says that it stops.
    pub async fn run(self, stop: CancellationToken) {
        self.follow(&stop).await;
        stop.cancelled().await;
        let last = if self.restart.is_requested() {
            Notification::Reloading
        } else {
            Notification::Stopping
        };
        self.service.notify(last).await;
    }

    async fn follow(&self, stop: &CancellationToken) {
        if !self.service.is_there() {
            return;
        }
        let watching = stop.run_until_cancelled(self.agent.watch()).await;
        let Some(Ok(mut snapshots)) = watching else {
            return;
        };
        let mut told = None;
        loop {
            let line = self.line(&snapshots.borrow_and_update());
            if told.as_ref() != Some(&line) {
                told = Some(line.clone());
                self.service.notify(Notification::Status(line)).await;
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.heartbeat.beaten() => self.service.notify(Notification::Alive).await,
                changed = snapshots.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
            }
        }
    }

    fn line(&self, status: &wire::Status) -> String {
        line(status, self.clock.now(), &TimeZone::system())
    }
}

/// `4 of 5 tunnels up, corp until 23:41`.
fn line(status: &wire::Status, now: Timestamp, zone: &TimeZone) -> String {
    let mut parts = Vec::new();
    if let Some(error) = &status.pomd.config.error {
        let problem = clean(&error.message, PROBLEM);
        let since = time_of_day(error.at, now, zone);
        parts.push(format!(
            "the configuration is broken since {since} ({problem})"
        ));
        if !status.tunnels.is_empty() {
            let loaded = time_of_day(status.pomd.config.loaded_at, now, zone);
            parts.push(format!("the settings of {loaded} apply"));
        }
        let path = Path::new(&status.pomd.config.path);
        parts.push(format!("run: {}", check_command(path)));
    }
    let tunnels = &status.tunnels;
    let up = tunnels.iter().filter(|it| it.state == TunnelState::Up);
    parts.push(match tunnels.len() {
        0 => "no tunnels".to_owned(),
        1 => format!("{} of 1 tunnel up", up.count()),
        all => format!("{} of {all} tunnels up", up.count()),
    });
    let clusters = status.clusters.iter();
    parts.extend(clusters.take(CLUSTERS).map(|it| cluster(it, now, zone)));
    if let Some(more @ 1..) = status.clusters.len().checked_sub(CLUSTERS) {
        parts.push(format!("{more} more"));
    }
    parts.join(", ")
}

fn cluster(cluster: &wire::Cluster, now: Timestamp, zone: &TimeZone) -> String {
    let name = &cluster.name;
    match (cluster.state, cluster.until) {
        (ClusterState::LoggedIn, Some(until)) => {
            format!("{name} until {}", time_of_day(until, now, zone))
        }
        (ClusterState::LoggedIn, None) => format!("{name} logged in"),
        (ClusterState::LoggedOut, _) => format!("{name} logged out"),
        (ClusterState::LoginRunning, _) => format!("{name} waits for a login"),
        _ => format!("{name} needs a login"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::sample;

    fn now() -> Timestamp {
        "2026-11-22T13:05:00Z".parse().unwrap()
    }

    fn told(change: impl FnOnce(&mut wire::Status)) -> String {
        let mut status = sample();
        change(&mut status);
        line(&status, now(), &TimeZone::UTC)
    }

    fn with_cluster(name: &str, state: ClusterState, until: Option<&str>) -> wire::Cluster {
        wire::Cluster {
            name: name.to_owned(),
            hosts: Vec::new(),
            state,
            user: None,
            token_source: wire::TokenSource::Browser,
            since: None,
            until: until.map(|it| it.parse().unwrap()),
            until_known_by: None,
            waiting: 0,
            forward_proxy: None,
            reason: None,
        }
    }

    #[test]
    fn people_are_told_tunnels_and_logins_in_one_line() {
        let up_of_three = told(|it| {
            let mut busy = it.tunnels[0].clone();
            busy.state = TunnelState::Busy;
            it.tunnels.extend([busy.clone(), busy]);
            let until = Some("2026-11-22T23:41:00Z");
            it.clusters = vec![with_cluster("corp", ClusterState::LoggedIn, until)];
        });
        assert_eq!(up_of_three, "1 of 3 tunnels up, corp until 23:41");
        assert_eq!(told(|it| it.tunnels.clear()), "no tunnels");
        let tomorrow = Some("2026-11-23T02:00:00Z");
        let clusters = told(|it| {
            it.clusters = vec![
                with_cluster("a", ClusterState::LoggedIn, tomorrow),
                with_cluster("b", ClusterState::LoggedIn, None),
                with_cluster("c", ClusterState::LoginNeeded, None),
                with_cluster("d", ClusterState::LoginNeeded, None),
            ];
        });
        let expected =
            "1 of 1 tunnel up, a until 2026-11-23 02:00, b logged in, c needs a login, 1 more";
        assert_eq!(clusters, expected);
    }

    #[test]
    fn a_broken_file_comes_first_and_stays_one_line() {
        let line = told(|it| {
            it.pomd.config.error = Some(wire::ConfigError {
                at: now(),
                message: "pomd.toml:3: no\nsuch key\nREADY=1".to_owned(),
                report: String::new(),
                count: 1,
            });
        });
        let start = "the configuration is broken since 13:05 (pomd.toml:3: no";
        assert!(line.starts_with(start), "{line}");
        assert!(line.contains("apply, run: pomd check "), "{line}");
        assert!(!line.contains('\n'), "{line}");
    }
}
