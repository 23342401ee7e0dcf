//! What the gateway counted, and waiting until it counted something.

use std::{collections::BTreeMap, time::Duration};

use tokio::sync::watch;

/// How long [`crate::Gateway::wait_for`] waits before it says what it saw instead.
const PATIENCE: Duration = Duration::from_secs(20);
/// How many requests are remembered.
const REMEMBERED: usize = 2_000;

/// What was counted since the gateway started.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    /// TCP connections accepted.
    pub connections: u64,
    /// TLS handshakes completed.
    pub handshakes: u64,
    /// Connections on their way through an open port: accepted, and not past their handshake yet.
    pub entering: u64,
    /// Connections past their handshake on which nothing was said yet.
    pub waiting: u64,
    /// CONNECT requests read.
    pub connects: u64,
    /// CONNECT requests answered with 200.
    pub opened: u64,
    /// CONNECT requests refused.
    pub refused: u64,
    /// Tunnels open now.
    pub open_tunnels: u64,
    /// Connections to upstreams made.
    pub upstream_connections: u64,
    /// Sign-in URLs handed out.
    pub logins_minted: u64,
    /// Sign-in pages shown.
    pub sign_in_pages: u64,
    /// People signed in; the same browser again counts too.
    pub sign_ins: u64,
    /// Sign-ins that made a new session.
    pub sessions_made: u64,
    /// Requests with a token, by the name the client asked for in TLS (`-` without one).
    pub tokens_by_name: BTreeMap<String, u64>,
    /// Requests with a token, by the host they were for.
    pub tokens_by_host: BTreeMap<String, u64>,
    /// The newest requests, oldest first.
    pub requests: Vec<Seen>,
}

/// A request that the gateway read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The method.
    pub method: String,
    /// The target as sent: `HOST:PORT` of a CONNECT.
    pub target: String,
    /// The header `Host`.
    pub host: String,
    /// The name that the client asked for in TLS.
    pub server_name: Option<String>,
    /// It had a token.
    pub token: bool,
    /// The names and values of its headers, names in lower case, `authorization` and `cookie` left out.
    pub headers: Vec<(String, String)>,
    /// Bytes that came in the same flight as the head.
    pub early: usize,
}

#[derive(Debug, Default)]
pub(crate) struct Counters(watch::Sender<Stats>);

impl Counters {
    pub(crate) fn now(&self) -> Stats {
        self.0.borrow().clone()
    }

    pub(crate) fn count(&self, change: impl FnOnce(&mut Stats)) {
        self.0.send_modify(change);
    }

    pub(crate) fn saw(&self, seen: Seen) {
        self.count(|stats| {
            if seen.token {
                let name = seen.server_name.clone().unwrap_or("-".to_owned());
                *stats.tokens_by_name.entry(name).or_default() += 1;
                let target = if seen.method == "CONNECT" {
                    &seen.target
                } else {
                    &seen.host
                };
                let host = target.rsplit_once(':').map_or(target.as_str(), |it| it.0);
                let host = host.to_ascii_lowercase();
                *stats.tokens_by_host.entry(host).or_default() += 1;
            }
            if seen.method == "CONNECT" {
                stats.connects += 1;
            }
            if stats.requests.len() == REMEMBERED {
                stats.requests.remove(0);
            }
            stats.requests.push(seen);
        });
    }

    pub(crate) async fn wait_for(&self, what: impl Fn(&Stats) -> bool) -> Stats {
        let mut changes = self.0.subscribe();
        let waiting = changes.wait_for(|stats| what(stats));
        match tokio::time::timeout(PATIENCE, waiting).await {
            Ok(Ok(stats)) => return stats.clone(),
            Ok(Err(_)) => {}
            Err(_) => {
                let mut stats = self.now();
                stats
                    .requests
                    .drain(..stats.requests.len().saturating_sub(5));
                panic!("the gateway did not count it within {PATIENCE:?}: {stats:#?}");
            }
        }
        unreachable!("the counters live as long as the gateway")
    }
}
