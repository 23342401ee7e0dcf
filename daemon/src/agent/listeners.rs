//! The listeners: which tunnels listen, and what persons say about that.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use control::wire::{self, Code};
use pomd_core::config::{Listen, TunnelName};
use tokio::{
    task::{Id, JoinError},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{error, info, warn};

use super::{Agent, AgentError, Listening, ManagedTunnel, RETRY, status};
use crate::{
    system::control_listener,
    tunnel::{
        self, Tunnel,
        bind::{self, Bound, Known, Listener},
    },
};

/// How often a port is chosen that somebody takes in the same moment.
const CHOICES: u32 = 10;

impl Agent {
    /// Listens, until told otherwise or restarted.
    pub(super) fn up(&mut self, name: &str) -> Result<Arc<Tunnel>, AgentError> {
        let name = self.tunnel_name(name)?;
        let Some(managed) = self.tunnels.get_mut(&name) else {
            return Err(no_such_tunnel(name.as_str()));
        };
        managed.wanted = true;
        managed.overridden = true;
        managed.tunnel.outcome.clear();
        let tunnel = managed.tunnel.clone();
        if managed.listening.is_none() {
            self.listen(&name);
        }
        self.look();
        match self.tunnels.get(&name).and_then(|it| it.obstacle.clone()) {
            None => Ok(tunnel),
            Some(reason) => Err(AgentError::CannotListen {
                tunnel: tunnel.name.clone(),
                listen: tunnel.spec.listen.clone(),
                reason: Box::new(reason),
            }),
        }
    }

    /// Returns the tunnel of this name.
    pub(super) fn tunnel(&self, name: &str) -> Result<Arc<Tunnel>, AgentError> {
        let managed = self.tunnels.get(&self.tunnel_name(name)?);
        managed
            .map(|it| it.tunnel.clone())
            .ok_or_else(|| no_such_tunnel(name))
    }

    /// Stops listening, until told otherwise or restarted; `now` ends connections too, also those that are leaving.
    pub(super) async fn down(
        &mut self,
        name: &str,
        now: bool,
    ) -> Result<wire::DownAnswer, AgentError> {
        let left = self.leaving.iter().filter(|it| it.name.as_str() == name);
        let left: Vec<Arc<Tunnel>> = left.cloned().collect();
        if now {
            left.iter().for_each(|it| it.cut.cancel());
        }
        let Ok(name) = self.tunnel_name(name) else {
            return self.down_already(name, &left, now);
        };
        if let Some(ended) = self.end_temporary(&name, now).await {
            return Ok(ended);
        }
        self.close(&name).await;
        let Some(managed) = self.tunnels.get_mut(&name) else {
            return Err(no_such_tunnel(name.as_str()));
        };
        managed.wanted = false;
        managed.overridden = true;
        managed.obstacle = None;
        managed.retry_at = None;
        if now {
            let renewed = Arc::new(managed.tunnel.renewed());
            let ending = std::mem::replace(&mut managed.tunnel, renewed);
            ending.cut.cancel();
        }
        let counters = &managed.tunnel.counters;
        let still_open = counters.open.load(Relaxed) + counters.waiting.load(Relaxed);
        match still_open {
            0 => info!(tunnel = %name, "down"),
            1 => info!(tunnel = %name, "down; 1 connection stays open"),
            more => info!(tunnel = %name, "down; {more} connections stay open"),
        }
        let tunnel = status::tunnel(managed, self.setup.env.clock.now());
        self.look();
        Ok(wire::DownAnswer { tunnel, still_open })
    }

    /// The connections of the tunnel of that name, also of those of its name that are leaving.
    pub(super) fn connections_of(&self, name: &str) -> Vec<TaskTracker> {
        let tunnels = self.tunnels.values().map(|it| &it.tunnel);
        tunnels
            .chain(&self.leaving)
            .filter(|it| it.name.as_str() == name)
            .map(|it| it.connections.clone())
            .collect()
    }

    /// A tunnel that was removed listens no more; what is `left` of it are connections.
    fn down_already(
        &mut self,
        name: &str,
        left: &[Arc<Tunnel>],
        now: bool,
    ) -> Result<wire::DownAnswer, AgentError> {
        let last = left.last().ok_or_else(|| no_such_tunnel(name))?;
        let open: usize = left.iter().map(|it| it.connections.len()).sum();
        let tunnel = status::tunnel(&self.managed(last.clone()), self.setup.env.clock.now());
        self.look();
        Ok(wire::DownAnswer {
            tunnel,
            still_open: if now { 0 } else { open as u64 },
        })
    }

    /// Returns the tunnel as one that does not listen yet.
    pub(super) fn managed(&self, tunnel: Arc<Tunnel>) -> ManagedTunnel {
        ManagedTunnel {
            addresses: self.addresses(&tunnel.spec.listen, self.ports.get(&tunnel.name)),
            tunnel,
            wanted: false,
            overridden: false,
            temporary: false,
            listening: None,
            obstacle: None,
            retry_at: None,
        }
    }

    /// A service manager bound a socket for it.
    fn is_handed(&self, name: &TunnelName, listen: &Listen) -> bool {
        let mut sockets = self.setup.inherited.sockets().iter();
        sockets.any(|it| bind::is_for(it, name.as_str(), listen, &self.setup.place.socket))
    }

    fn addresses(&self, listen: &Listen, chosen: Option<u16>) -> Vec<String> {
        status::addresses(listen, chosen, &self.setup.place.socket)
    }

    fn tunnel_name(&self, name: &str) -> Result<TunnelName, AgentError> {
        TunnelName::parse(name)
            .filter(|it| self.tunnels.contains_key(it))
            .ok_or_else(|| no_such_tunnel(name))
    }

    /// Binds the tunnel's addresses and starts to accept; if that fails, the tunnel says why and it is tried again.
    pub(super) fn listen(&mut self, name: &TunnelName) {
        let Some(managed) = self.tunnels.get(name) else {
            return;
        };
        let listen = managed.tunnel.spec.listen.clone();
        let before = managed.obstacle.as_ref().and_then(|it| it.holder.clone());
        let (chosen, bound) = self.bind(name, &listen, before.as_ref());
        let addresses = self.addresses(&listen, chosen);
        let Some(managed) = self.tunnels.get_mut(name) else {
            return;
        };
        managed.addresses = addresses;
        match bound {
            Ok(bound) => {
                if managed.obstacle.take().is_some() {
                    info!(tunnel = %name, "listens at last");
                }
                managed.retry_at = None;
                managed.addresses = bound.addresses;
                let stop = CancellationToken::new();
                let accept = tunnel::serve(managed.tunnel.clone(), bound.listeners, stop.clone());
                let task = self.listeners.spawn(accept).id();
                self.listener_names.insert(task, name.clone());
                managed.listening = Some(Listening {
                    task,
                    stop,
                    left_out: bound.left_out,
                });
            }
            Err(reason) => {
                let known = managed.obstacle.as_ref();
                if known.is_none_or(|it| it.message != reason.message) {
                    warn!(tunnel = %name, reason = %reason.code, "cannot listen: {}", reason.message);
                    managed.obstacle = Some(reason);
                }
                managed.retry_at = Some(Instant::now() + RETRY);
            }
        }
    }

    /// Binds, at the kept port where the port is ours to choose. One that was only just chosen is known to nobody yet:
    /// if somebody took it since it was looked at, another is chosen.
    fn bind(
        &mut self,
        name: &TunnelName,
        listen: &Listen,
        before: Option<&wire::Holder>,
    ) -> (Option<u16>, Result<Bound, wire::Reason>) {
        let clock = &self.setup.env.clock;
        let known = |chosen| Known {
            name: name.as_str(),
            inherited: &self.setup.inherited,
            chosen,
            control: &self.setup.place.socket,
            before,
        };
        let kept = self.ports.get(name);
        if *listen != Listen::Chosen || kept.is_some() || self.is_handed(name, listen) {
            return (kept, bind::bind(listen, known(kept), clock));
        }
        let in_use = |it: &str| self.config.tunnels.keys().any(|name| name.as_str() == it);
        let mut left = CHOICES;
        loop {
            let chosen = self.ports.choose(name, in_use);
            let bound = bind::bind(listen, known(chosen), clock);
            left -= 1;
            match &bound {
                Err(reason) if reason.code == Code::AddressInUse && left > 0 => {}
                _ => return (chosen, bound),
            }
        }
    }

    /// Tunnels that cannot listen are tried again now.
    pub(super) fn retry_listeners(&mut self) {
        let now = Instant::now();
        let tunnels = self.tunnels.values_mut();
        for at in tunnels.filter_map(|it| it.retry_at.as_mut()) {
            *at = (*at).min(now);
        }
    }

    /// Closes the listener. Returns once the address is free: a cancelled listener is bound until its task has been joined.
    pub(super) async fn close(&mut self, name: &TunnelName) {
        let listening = self
            .tunnels
            .get_mut(name)
            .and_then(|it| it.listening.take());
        let Some(listening) = listening else {
            return;
        };
        listening.stop.cancel();
        while self.listener_names.contains_key(&listening.task) {
            let Some(ended) = self.listeners.join_next_with_id().await else {
                return;
            };
            self.on_listener_ended(ended);
        }
    }

    /// Sockets whose files a cleaner or a logout took away are made again: those of tunnels here, the control socket by
    /// whoever answers on it (Q3).
    pub(super) async fn look_after_files(&mut self) {
        if !control_listener::is_there(&self.setup.place.socket) {
            self.setup.lost.notify_one();
        }
        let tunnels = self.tunnels.iter();
        let lost = tunnels.filter(|(name, managed)| match &managed.tunnel.spec.listen {
            it @ Listen::Unix(socket) => {
                managed.listening.is_some()
                    && !self.is_handed(name, it)
                    && !control_listener::is_there(
                        &self.setup.place.socket.with_file_name(socket.as_str()),
                    )
            }
            _ => false,
        });
        let lost: Vec<TunnelName> = lost.map(|it| it.0.clone()).collect();
        for name in &lost {
            warn!(tunnel = %name, "the file of the socket is gone; it is made again");
            self.close(name).await;
            self.listen(name);
        }
    }

    pub(super) fn on_listener_ended(
        &mut self,
        ended: Result<(Id, Result<Vec<Listener>, wire::Reason>), JoinError>,
    ) {
        let (id, reason) = match ended {
            Ok((id, Ok(_))) => (id, None),
            Ok((id, Err(reason))) => (id, Some(reason)),
            Err(panic) => {
                let (at, id) = (self.setup.env.clock.now(), panic.id());
                let reason = wire::Reason::new(wire::Code::Internal, panic.to_string(), at);
                (id, Some(reason))
            }
        };
        let Some(name) = self.listener_names.remove(&id) else {
            return;
        };
        let Some(managed) = self.tunnels.get_mut(&name) else {
            return;
        };
        if managed.listening.as_ref().is_none_or(|it| it.task != id) {
            return;
        }
        // It was not told to end: its socket broke, or it panicked. Try again soon.
        managed.listening = None;
        self.restarts.listeners += 1;
        if let Some(reason) = reason {
            error!(tunnel = %name, "listener ended: {}", reason.message);
            managed.obstacle = Some(reason);
        }
        managed.retry_at = Some(Instant::now() + RETRY);
        self.publisher.changed(Instant::now());
    }
}

fn no_such_tunnel(name: &str) -> AgentError {
    AgentError::NoSuchTunnel(name.to_owned())
}
