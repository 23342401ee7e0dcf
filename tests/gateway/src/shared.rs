//! What every connection of the gateway sees, and the one judgement on a CONNECT.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use rustls::ServerConfig;
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use crate::{
    End, PortBehaviour, Seen, Upstream,
    head::{Answer, Request},
    lock, script, sessions, stats,
};

/// What every connection of the gateway sees.
pub(crate) struct Shared {
    pub(crate) domain: String,
    pub(crate) linger: Duration,
    pub(crate) automatic: watch::Sender<bool>,
    pub(crate) user: watch::Sender<String>,
    pub(crate) port_behaviour: watch::Sender<PortBehaviour>,
    pub(crate) tls: watch::Sender<Arc<ServerConfig>>,
    pub(crate) sever: watch::Sender<End>,
    pub(crate) sessions: sessions::Sessions,
    pub(crate) scripts: script::Scripts,
    pub(crate) counters: stats::Counters,
    pub(crate) tasks: TaskTracker,
    pub(crate) routes: Mutex<BTreeMap<String, Upstream>>,
    pub(crate) forbidden: Mutex<BTreeSet<(String, String)>>,
}

impl Shared {
    /// What a CONNECT to `authority` is told: the route and who asks, or the refusal.
    pub(crate) fn judge(
        &self,
        authority: &str,
        request: &Request,
        id: &str,
    ) -> Result<(Upstream, String), Answer> {
        let route = lock(&self.routes).get(authority).cloned();
        let Some(upstream) = route else {
            return Err(Answer::envoy(404, "route_not_found", id));
        };
        // A bad token of somebody else is refused as a good one is that the policy forbids.
        let bearer = match request.bearer().map(|it| self.sessions.of_bearer(it)) {
            Some(None) => return Err(Answer::pomerium(403, "Forbidden", id)),
            Some(it) => it,
            None => None,
        };
        let session = bearer.or_else(|| request.token().and_then(|it| self.sessions.of(it)));
        let Some(session) = session else {
            return Err(if request.accepts_json() {
                Answer::pomerium(401, "Unauthorized", id)
            } else {
                let at = format!("https://authenticate.{}/.pomerium/sign_in", self.domain);
                Answer::redirect(at)
            });
        };
        let case = (session.user.clone(), authority.to_owned());
        if lock(&self.forbidden).contains(&case) {
            return Err(Answer::pomerium(403, "Forbidden", id));
        }
        Ok((upstream, session.user))
    }

    /// The routes that `user` may use.
    pub(crate) fn offered(&self, user: &str) -> Vec<String> {
        let forbidden = lock(&self.forbidden);
        let routes = lock(&self.routes);
        let mut res: Vec<String> = routes.keys().cloned().collect();
        res.retain(|it| !forbidden.contains(&(user.to_owned(), it.clone())));
        res
    }

    /// Counts a CONNECT that a proxy in front asks about.
    pub(crate) fn saw_check(&self, authority: &str, request: &Request) {
        self.counters.saw(Seen {
            method: "CONNECT".to_owned(),
            target: authority.to_owned(),
            host: authority.to_owned(),
            server_name: None,
            token: request.header("authorization").is_some(),
            headers: Vec::new(),
            early: 0,
        });
    }
}
