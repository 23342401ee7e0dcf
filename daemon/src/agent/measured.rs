//! What the agent counts, for a monitoring system.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use control::wire;

use super::Agent;
use crate::tunnel::Totals;

/// The name that stands for all connections to hosts without a tunnel: those are named by strangers, and no tunnel can be
/// called so.
const AD_HOC: &str = "*";

/// What there is, and what there was since pomd started.
#[derive(Debug)]
pub struct Measured {
    /// How things stand.
    pub status: wire::Status,
    /// The connections of each tunnel, by its name. Those of `*` came in by the control socket, to hosts without one.
    pub tunnels: BTreeMap<String, MeasuredTunnel>,
    /// What was started again.
    pub restarts: Restarts,
}

/// Connections of one tunnel.
#[derive(Debug)]
pub struct MeasuredTunnel {
    /// Those that carry bytes now, also where the tunnel was changed or removed meanwhile.
    pub open: u64,
    /// Those that wait.
    pub waiting: u64,
    /// What only grows.
    pub totals: Arc<Totals>,
}

/// How often something ended by a fault and was started again.
#[derive(Clone, Copy, Debug, Default)]
pub struct Restarts {
    /// Listeners of tunnels.
    pub listeners: u64,
    /// Sessions of clusters.
    pub sessions: u64,
}

impl Agent {
    pub(super) fn measure(&self) -> Measured {
        let mut tunnels = BTreeMap::new();
        let measured = |totals: &Arc<Totals>| MeasuredTunnel {
            open: 0,
            waiting: 0,
            totals: totals.clone(),
        };
        tunnels.insert(AD_HOC.to_owned(), measured(&self.ad_hoc_totals));
        let managed = self.tunnels.values().map(|it| &it.tunnel);
        let named = managed.chain(&self.leaving);
        let named = named.map(|it| (it.name.as_str(), it));
        let ad_hoc = self.ad_hoc.iter().map(|it| (AD_HOC, it));
        for (name, tunnel) in named.chain(ad_hoc) {
            let counters = &tunnel.counters;
            let tunnel = tunnels.entry(name.to_owned());
            let tunnel = tunnel.or_insert_with(|| measured(counters.totals()));
            tunnel.open += counters.open.load(Relaxed);
            tunnel.waiting += counters.waiting.load(Relaxed);
        }
        Measured {
            status: self.build_status(),
            tunnels,
            restarts: self.restarts,
        }
    }
}
