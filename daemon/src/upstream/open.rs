//! Opening a route: on a connection that is ready if there is one, else on a fresh one; and when to try once more.

use std::sync::{Arc, atomic::Ordering};

use pomd_core::{
    config::{Address, Authority},
    route::{refusal::OpenError, token_policy::Permitted},
};

use super::{
    Early, EarlySource, Opened, Upstream,
    h1::{self, Again, AttemptError, Peer},
    pool::{Waited, Way},
    record::Remote,
    steps::Steps,
    tls::Secure,
};

/// A handshaken connection on which nothing was said.
struct Connection {
    remote: Remote,
    secure: Option<Secure>,
    /// What was known of it, if it comes from the stock.
    waited: Option<Waited>,
}

impl From<(Remote, Option<Secure>)> for Connection {
    fn from((remote, secure): (Remote, Option<Secure>)) -> Self {
        Self {
            remote,
            secure,
            waited: None,
        }
    }
}

impl Upstream {
    /// With a spare if there is one; what was said on it in vain is said once more on a fresh connection.
    pub(super) async fn open_somehow<R>(
        &self,
        authority: &Authority,
        permitted: Permitted<'_>,
        early: &mut Early<R>,
        steps: &mut Steps,
    ) -> Result<Opened, OpenError>
    where
        R: EarlySource,
    {
        let address = permitted.address();
        let mut eager = !self.guarded.load(Ordering::Relaxed);
        let mut ready = self.spare(address).await;
        loop {
            let connection = match ready.take() {
                Some(it) => it,
                None => self.fresh(address, steps).await?.into(),
            };
            let opened = self
                .attempt(connection, authority, permitted, early, eager)
                .await;
            match opened.as_ref().map_err(|it| it.again) {
                Err(Again::Unheard) => {
                    if let Some(spares) = &self.spares {
                        spares.doubt(&self.way(address));
                    }
                }
                // An Envoy may be told not to take early bytes; none of them reached the service.
                Err(Again::Patiently) if eager => eager = false,
                Ok(_) if !eager && !self.guarded.swap(true, Ordering::Relaxed) => {
                    tracing::debug!(cluster = %self.name, "opened only without early bytes");
                    return opened.map_err(|it| it.error);
                }
                _ => return opened.map_err(|it| it.error),
            }
            steps.begin_again();
        }
    }

    async fn attempt<R>(
        &self,
        connection: Connection,
        authority: &Authority,
        permitted: Permitted<'_>,
        early: &mut Early<R>,
        eager: bool,
    ) -> Result<Opened, AttemptError>
    where
        R: EarlySource,
    {
        let request = h1::request(authority, permitted);
        let peer = Peer {
            address: permitted.address(),
            identity: connection.secure.as_ref().map(|it| &*it.identity),
            limit: self.limits.answer,
            waited: connection.waited,
            reach: self.limits.tcp,
        };
        h1::connect(connection.remote, request, early, eager, peer).await
    }

    /// One from the stock that is alive, and was made with the certificates that hold now.
    async fn spare(&self, address: &Address) -> Option<Connection> {
        let spares = self.spares.as_ref().filter(|_| address.tls)?;
        let way = self.way(address);
        let mut secure: Option<Secure> = None;
        loop {
            let mut spare = spares.take(&way)?;
            let current = match secure.take() {
                Some(it) => it,
                None => self.tls.secure().await.ok()?,
            };
            let is_current = Arc::ptr_eq(&spare.secure.config, &current.config);
            if is_current && let Some(waited) = spare.look().await {
                spares.worked(&way);
                return Some(Connection {
                    remote: spare.remote,
                    secure: Some(spare.secure),
                    waited: Some(waited),
                });
            }
            secure = Some(current);
        }
    }

    /// What one spare for `address` is good for.
    pub(super) fn way(&self, address: &Address) -> Way {
        Way {
            target: self.target(address),
            name: self.verified(address).clone(),
            proxy: self.forward_proxy(address).map(|it| it.url),
        }
    }
}
