//! Temporary tunnels: made by a command beside those of the file, gone when pomd restarts.

use std::sync::Arc;

use control::wire;
use pomd_core::config::{Config, NoPlace, Temporary, TunnelName};
use tracing::info;

use super::{Agent, AgentError, ManagedTunnel, status};
use crate::tunnel::Tunnel;

/// The most temporary tunnels at a time: each keeps listeners, and none is written anywhere.
const MOST: usize = 100;

impl Agent {
    /// Listens for a route. A tunnel that leads there already is taken where it listens as asked; else one is made, which
    /// the second value tells.
    pub(super) async fn make_temporary(
        &mut self,
        request: &wire::TunnelRequest,
    ) -> Result<(Arc<Tunnel>, bool), AgentError> {
        let wanted = Temporary::parse(&request.route, request.listen.as_deref())
            .map_err(AgentError::NoRoute)?;
        let listens_as_asked =
            |it: &Tunnel| request.listen.is_none() || it.spec.listen == wanted.listen;
        let known = self.tunnels.iter().find(|(_, it)| {
            it.tunnel.spec.route.authority == wanted.route && listens_as_asked(&it.tunnel)
        });
        if let Some((name, _)) = known {
            let name = name.to_string();
            return Ok((self.up(&name)?, false));
        }
        if self.temporary.len() >= MOST {
            return Err(AgentError::TooManyTemporary(MOST));
        }
        let name = self.config.temporary_name(&wanted.route);
        let mut config = self.config.clone();
        config
            .add_temporary(name.clone(), &wanted)
            .map_err(AgentError::NoPlace)?;
        self.temporary.insert(name.clone(), wanted.clone());
        self.switch_to(config, "temporary tunnel made").await;
        match self.up(name.as_str()) {
            Ok(tunnel) => Ok((tunnel, true)),
            Err(AgentError::CannotListen { listen, reason, .. }) => {
                self.end_temporary(&name, false).await;
                let route = wanted.route;
                Err(AgentError::CannotListenTemporary {
                    route,
                    listen,
                    reason,
                })
            }
            Err(other) => Err(other),
        }
    }

    /// Takes a temporary tunnel away; `None` if it is none. `now` ends its connections too, else they live on.
    pub(super) async fn end_temporary(
        &mut self,
        name: &TunnelName,
        now: bool,
    ) -> Option<wire::DownAnswer> {
        self.temporary.remove(name)?;
        let tunnel = self.tunnels.get(name)?.tunnel.clone();
        let mut config = self.config.clone();
        config.remove_temporary(name);
        self.switch_to(config, "temporary tunnel ended").await;
        if now {
            tunnel.cut.cancel();
        }
        let open = tunnel.connections.len() as u64;
        let shown = ManagedTunnel {
            temporary: true,
            ..self.managed(tunnel)
        };
        self.look();
        Some(wire::DownAnswer {
            tunnel: status::tunnel(&shown, self.setup.env.clock.now()),
            still_open: if now { 0 } else { open },
        })
    }

    /// Returns the configuration of a file with the temporary tunnels that it leaves a place for; the others end.
    pub(super) fn with_temporary(&mut self, mut config: Config) -> Config {
        self.temporary.retain(|name, wanted| {
            match config.add_temporary(name.clone(), wanted) {
                Ok(()) => return true,
                Err(NoPlace::Name(_)) => {
                    info!(tunnel = %name, "the temporary tunnel is one of the file now");
                }
                Err(why) => info!(tunnel = %name, "the temporary tunnel ends: {why}"),
            }
            false
        });
        config
    }
}
