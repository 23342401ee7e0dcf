//! Tunnels without a port: for connections that come in by the control socket.

use std::sync::Arc;

use control::wire::Code;

use super::{Agent, Refused, refusal};
use crate::{
    config::{Listen, Route, Start, TunnelName, TunnelSpec},
    tunnel::Tunnel,
};

impl Agent {
    /// The tunnel that leads to `route`, else one made for it in the cluster that has its host. Never a cluster for a
    /// host that the configuration does not know: a login would be asked for whatever somebody types (A14, A15).
    pub(super) fn connect(&mut self, route: &str, ssh: bool) -> Result<Arc<Tunnel>, Refused> {
        let bad = |it: &dyn std::fmt::Display| refusal(Code::BadRequest, it.to_string());
        let route = Route::parse(route).map_err(|it| bad(&it))?;
        let doors = self.tunnels.values();
        let known = doors
            .map(|it| &it.tunnel)
            .find(|it| it.spec.route.authority == route.authority);
        if let Some(tunnel) = known.filter(|it| it.spec.ssh == ssh) {
            return Ok(tunnel.clone());
        }
        let route = known.map_or(route, |it| it.spec.route.clone());
        let host = &route.address.host;
        let cluster = known
            .map(|it| it.spec.cluster.clone())
            .or_else(|| self.config.cluster_for(host).cloned())
            .ok_or_else(|| {
                refusal(
                    Code::NoSuchCluster,
                    format!(
                        "no tunnel leads to {}, and no cluster has the host {host}",
                        route.authority
                    ),
                )
            })
            .map_err(|it| control::wire::ApiError {
                hint: Some(
                    "add the host to the hosts of a [cluster] in the configuration".to_owned(),
                ),
                ..it
            })?;
        // A route's text is always a name: letters, digits, dots and hyphens, and a colon that becomes a hyphen.
        let name = route.authority.to_string().replace(['[', ']', ':'], "-");
        let name = TunnelName::parse(name.trim_matches('-'))
            .or_else(|| TunnelName::parse("connect"))
            .ok_or_else(|| refusal(Code::Internal, "a fixed name is no name"))?;
        let spec = TunnelSpec {
            route,
            cluster,
            listen: Listen::Chosen,
            start: Start::Manual,
            ssh,
            expose: false,
        };
        let tunnel = self.make_tunnel(&name, &spec, None).ok_or_else(|| {
            refusal(
                Code::NoSuchCluster,
                format!("{} was removed meanwhile", spec.cluster),
            )
        })?;
        let tunnel = Arc::new(tunnel);
        self.passing.retain(is_used);
        self.passing.push(tunnel.clone());
        Ok(tunnel)
    }
}

/// Somebody holds it, or a connection does.
pub(super) fn is_used(tunnel: &Arc<Tunnel>) -> bool {
    Arc::strong_count(tunnel) > 1 || !tunnel.connections.is_empty()
}
