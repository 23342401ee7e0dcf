//! `GET /v1/metrics`: figures for a monitoring system, in the text form of OpenMetrics, which Prometheus reads.
//!
//! Each label has few values: names of the configuration, and words of closed lists. Neither users nor tokens, addresses of
//! clients or hosts that a stranger named are among them.

use std::{fmt, sync::atomic::Ordering::Relaxed};

use control::wire::{ClusterState, TunnelState, Usage};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, NoLabelSet, text::encode},
    metrics::{MetricType, exemplar::Exemplar},
    registry::{Registry, Unit},
};

use crate::agent::{Measured, MeasuredTunnel};

/// What [`text`] is.
pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Writes all figures.
pub(super) fn text(measured: Measured, usage: Usage) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Figures { measured, usage }));
    let mut res = String::new();
    // A string takes everything.
    let _ = encode(&mut res, &registry);
    res
}

const TUNNEL_STATES: [(TunnelState, &str); 5] = [
    (TunnelState::Up, "up"),
    (TunnelState::Login, "login"),
    (TunnelState::Error, "error"),
    (TunnelState::Busy, "busy"),
    (TunnelState::Down, "down"),
];

const CLUSTER_STATES: [(ClusterState, &str); 4] = [
    (ClusterState::LoggedIn, "logged_in"),
    (ClusterState::LoginNeeded, "login_needed"),
    (ClusterState::LoginRunning, "login_running"),
    (ClusterState::LoggedOut, "logged_out"),
];

#[derive(Debug)]
struct Figures {
    measured: Measured,
    usage: Usage,
}

impl Collector for Figures {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut page = Page(&mut encoder);
        self.process(&mut page)?;
        self.configuration(&mut page)?;
        self.clusters(&mut page)?;
        self.tunnels(&mut page)?;
        self.connections(&mut page)
    }
}

impl Figures {
    fn process(&self, page: &mut Page<'_, '_>) -> fmt::Result {
        let pomd = &self.measured.status.pomd;
        page.info(
            "pomd_build",
            "The release that runs",
            [[("version", pomd.version.as_str())]],
        )?;
        page.single(
            ("process_start_time", Some(Unit::Seconds)),
            "When pomd started or restarted, in Unix time",
            pomd.started_at.as_second(),
        )?;
        let figures = [
            (
                "process_open_fds",
                "Open descriptors",
                None,
                self.usage.descriptors,
            ),
            (
                "process_max_fds",
                "The most descriptors that may be open",
                None,
                self.usage.descriptors_most,
            ),
            (
                "process_resident_memory",
                "Memory that is resident",
                Some(Unit::Bytes),
                self.usage.memory,
            ),
            (
                "pomd_tasks",
                "Tasks that have not ended",
                None,
                Some(self.usage.tasks),
            ),
        ];
        for (name, help, unit, figure) in figures {
            // What the system does not tell has no line, rather than a wrong one.
            if let Some(figure) = figure {
                page.single((name, unit), help, signed(figure))?;
            }
        }
        let restarts = self.measured.restarts;
        page.counter(
            ("pomd_restarts", None),
            "Parts of pomd that ended by a fault and were started again",
            [
                ([("part", "listener")], restarts.listeners),
                ([("part", "session")], restarts.sessions),
            ],
        )
    }

    fn configuration(&self, page: &mut Page<'_, '_>) -> fmt::Result {
        let config = &self.measured.status.pomd.config;
        page.single(
            ("pomd_config_last_reload_successful", None),
            "Whether the newest version of the configuration file is in force",
            i64::from(config.error.is_none()),
        )?;
        page.single(
            (
                "pomd_config_last_reload_success_timestamp",
                Some(Unit::Seconds),
            ),
            "When the settings in force were read, in Unix time",
            config.loaded_at.as_second(),
        )
    }

    fn clusters(&self, page: &mut Page<'_, '_>) -> fmt::Result {
        let clusters = &self.measured.status.clusters;
        let states = clusters.iter().flat_map(|cluster| {
            CLUSTER_STATES.map(|(state, word)| {
                let labels = [("cluster", cluster.name.as_str()), ("state", word)];
                (labels, i64::from(cluster.state == state))
            })
        });
        page.gauge(
            ("pomd_cluster_state", None),
            "Where the session of a cluster stands: 1 at its state, 0 at every other",
            states,
        )?;
        let waiting = clusters
            .iter()
            .map(|it| (label("cluster", &it.name), signed(it.waiting)));
        page.gauge(
            ("pomd_cluster_waiting_connections", None),
            "Connections that wait for a login to a cluster",
            waiting,
        )?;
        let known = clusters.iter().filter_map(|it| Some((it, it.until?)));
        page.gauge(
            ("pomd_cluster_session_end_timestamp", Some(Unit::Seconds)),
            "When a session ends at the latest, in Unix time, where that is known",
            known.map(|(it, until)| (label("cluster", &it.name), until.as_second())),
        )
    }

    fn tunnels(&self, page: &mut Page<'_, '_>) -> fmt::Result {
        let tunnels = &self.measured.status.tunnels;
        page.info(
            "pomd_tunnel",
            "The route and the cluster of a tunnel",
            tunnels.iter().map(|it| {
                [
                    ("tunnel", it.name.as_str()),
                    ("cluster", it.cluster.as_str()),
                    ("route", it.route.as_str()),
                ]
            }),
        )?;
        let states = tunnels.iter().flat_map(|tunnel| {
            TUNNEL_STATES.map(|(state, word)| {
                let labels = [("tunnel", tunnel.name.as_str()), ("state", word)];
                (labels, i64::from(tunnel.state == state))
            })
        });
        page.gauge(
            ("pomd_tunnel_state", None),
            "What a tunnel does: 1 at its state, 0 at every other",
            states,
        )
    }

    fn connections(&self, page: &mut Page<'_, '_>) -> fmt::Result {
        type Count = fn(&MeasuredTunnel) -> u64;
        let gauges: [(&str, &str, Count); 2] = [
            (
                "pomd_tunnel_open_connections",
                "Connections that carry bytes",
                |it| it.open,
            ),
            (
                "pomd_tunnel_waiting_connections",
                "Connections that wait for a login or for Pomerium",
                |it| it.waiting,
            ),
        ];
        for (name, help, count) in gauges {
            let all = self.each_tunnel(count);
            page.gauge(
                (name, None),
                help,
                all.map(|(labels, it)| (labels, signed(it))),
            )?;
        }
        let counters: [(&str, Option<Unit>, &str, Count); 5] = [
            (
                "pomd_tunnel_connections",
                None,
                "Connections accepted; of tunnel *: to hosts without one, by pomctl connect or ssh",
                |it| it.totals.total.load(Relaxed),
            ),
            (
                "pomd_tunnel_turned_away_connections",
                None,
                "Connections of other users, turned away",
                |it| it.totals.turned_away.load(Relaxed),
            ),
            (
                "pomd_tunnel_guarded_requests",
                None,
                "Requests that the browser guard refused",
                |it| it.totals.guarded.load(Relaxed),
            ),
            (
                "pomd_tunnel_received",
                Some(Unit::Bytes),
                "Bytes from routes to local programs",
                |it| it.totals.carried.received.load(Relaxed),
            ),
            (
                "pomd_tunnel_sent",
                Some(Unit::Bytes),
                "Bytes from local programs to routes",
                |it| it.totals.carried.sent.load(Relaxed),
            ),
        ];
        for (name, unit, help, count) in counters {
            page.counter((name, unit), help, self.each_tunnel(count))?;
        }
        let opens = self.measured.tunnels.iter().flat_map(|(name, it)| {
            it.totals.opens.all().map(move |(outcome, count)| {
                let labels = [("tunnel", name.clone()), ("outcome", outcome)];
                (labels, count)
            })
        });
        page.counter(
            ("pomd_tunnel_opens", None),
            "What became of accepted connections: open, client_gone, ended by pomd, guarded, or the code of why not",
            opens,
        )
    }

    fn each_tunnel(
        &self,
        count: fn(&MeasuredTunnel) -> u64,
    ) -> impl Iterator<Item = ([(&str, &str); 1], u64)> {
        let tunnels = self.measured.tunnels.iter();
        tunnels.map(move |(name, it)| (label("tunnel", name), count(it)))
    }
}

fn label<'a>(name: &'static str, value: &'a str) -> [(&'static str, &'a str); 1] {
    [(name, value)]
}

/// Gauges are signed.
fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// A family's name and, as its end, the unit of its figures.
type Name = (&'static str, Option<Unit>);

/// Families of samples, one below the other.
struct Page<'a, 'b>(&'a mut DescriptorEncoder<'b>);

impl Page<'_, '_> {
    /// A gauge without labels.
    fn single(&mut self, (name, unit): Name, help: &str, figure: i64) -> fmt::Result {
        let kind = MetricType::Gauge;
        let mut family = self.0.encode_descriptor(name, help, unit.as_ref(), kind)?;
        family.encode_gauge(&figure)
    }

    fn gauge<L: EncodeLabelSet>(
        &mut self,
        (name, unit): Name,
        help: &str,
        samples: impl IntoIterator<Item = (L, i64)>,
    ) -> fmt::Result {
        let kind = MetricType::Gauge;
        let mut family = self.0.encode_descriptor(name, help, unit.as_ref(), kind)?;
        for (labels, figure) in samples {
            family.encode_family(&labels)?.encode_gauge(&figure)?;
        }
        Ok(())
    }

    fn counter<L: EncodeLabelSet>(
        &mut self,
        (name, unit): Name,
        help: &str,
        samples: impl IntoIterator<Item = (L, u64)>,
    ) -> fmt::Result {
        let kind = MetricType::Counter;
        let mut family = self.0.encode_descriptor(name, help, unit.as_ref(), kind)?;
        let none: Option<&Exemplar<NoLabelSet, u64>> = None;
        for (labels, count) in samples {
            family
                .encode_family(&labels)?
                .encode_counter(&count, none)?;
        }
        Ok(())
    }

    fn info<L: EncodeLabelSet>(
        &mut self,
        name: &'static str,
        help: &str,
        sets: impl IntoIterator<Item = L>,
    ) -> fmt::Result {
        let mut family = self
            .0
            .encode_descriptor(name, help, None, MetricType::Info)?;
        for labels in sets {
            family.encode_info(&labels)?;
        }
        Ok(())
    }
}
