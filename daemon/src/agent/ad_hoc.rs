//! Tunnels without a port: for connections that come in by the control socket.

use std::sync::Arc;

use pomd_core::config::{self, Destination, Listen, Start, TunnelName, TunnelSpec};

use super::{Agent, AgentError};
use crate::tunnel::{Counters, Tunnel};

impl Agent {
    /// The tunnel that leads to `name`, else one made for it. The name may be a stranger's: whatever it holds, the file
    /// alone says which server is dialled and whose login it takes.
    pub(super) fn connect(&mut self, name: &str, ssh: bool) -> Result<Arc<Tunnel>, AgentError> {
        let name = config::bare_name(name).map_err(AgentError::NoRoute)?;
        let found = self.config.destination(&name);
        let Destination { route, cluster } = found.map_err(AgentError::NoDestination)?;
        let mut tunnels = self.tunnels.values().map(|it| &it.tunnel);
        let known = tunnels.find(|it| {
            let spec = &it.spec;
            (&spec.route, &spec.cluster, spec.ssh) == (&route, &cluster, ssh)
        });
        if let Some(tunnel) = known {
            return Ok(tunnel.clone());
        }
        // A route's text is always a name: letters, digits, dots and hyphens, and a colon that becomes a hyphen.
        let name = route.authority.to_string().replace(['[', ']', ':'], "-");
        let name = TunnelName::parse(name.trim_matches('-'))
            .ok_or_else(|| AgentError::NoSuchTunnel(name.clone()))?;
        let spec = TunnelSpec {
            route,
            cluster,
            listen: Listen::Chosen,
            start: Start::Manual,
            ssh,
            expose: false,
            browser_guard: true,
            allow_hosts: Vec::new(),
        };
        let mut tunnel = self
            .make_tunnel(&name, &spec, None)
            .ok_or_else(|| AgentError::ClusterRemoved(spec.cluster.to_string()))?;
        tunnel.counters = Counters::adding_to(self.ad_hoc_totals.clone());
        let tunnel = Arc::new(tunnel);
        self.ad_hoc.retain(is_used);
        self.ad_hoc.push(tunnel.clone());
        Ok(tunnel)
    }
}

/// Somebody holds it, or a connection does.
pub(super) fn is_used(tunnel: &Arc<Tunnel>) -> bool {
    Arc::strong_count(tunnel) > 1 || !tunnel.connections.is_empty()
}
