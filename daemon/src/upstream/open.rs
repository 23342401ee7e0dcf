//! Opening a route: on a connection that is ready if there is one, else on a fresh one; and when to try once more.

use std::sync::{Arc, atomic::Ordering};

use pomd_core::{
    config::{Address, Authority},
    route::{refusal::OpenError, token_policy::Permitted},
};

use super::{
    Early, EarlySource, Opened, Upstream,
    h1::{self, Again, AttemptError, Peer},
    pool::{IdleState, Key},
    record::Remote,
    steps::Steps,
    tls::Secure,
};

/// A handshaken connection on which nothing was said.
struct Connection {
    remote: Remote,
    secure: Option<Secure>,
    /// What was known of it, if it comes from the pool.
    idle_state: Option<IdleState>,
}

impl From<(Remote, Option<Secure>)> for Connection {
    fn from((remote, secure): (Remote, Option<Secure>)) -> Self {
        Self {
            remote,
            secure,
            idle_state: None,
        }
    }
}

impl Upstream {
    /// Opens with a warm connection if there is one; what was said on it in vain is said once more on a fresh one.
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
        let mut warm = self.warm(address).await;
        loop {
            let connection = match warm.take() {
                Some(it) => it,
                None => self.fresh(address, steps).await?.into(),
            };
            let opened = self
                .attempt(connection, authority, permitted, early, eager)
                .await;
            match opened.as_ref().map_err(|it| it.again) {
                Err(Again::Unheard) => {
                    if let Some(pool) = &self.pool {
                        pool.invalidate(&self.key(address));
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
            idle_state: connection.idle_state,
            reach: self.limits.tcp,
        };
        h1::connect(connection.remote, request, early, eager, peer).await
    }

    /// Takes a warm connection that is alive, and was made with the certificates that hold now.
    async fn warm(&self, address: &Address) -> Option<Connection> {
        let pool = self.pool.as_ref().filter(|_| address.tls)?;
        let key = self.key(address);
        pool.ask(key.clone(), address);
        let mut secure: Option<Secure> = None;
        loop {
            let mut warm = pool.take(&key)?;
            let current = match secure.take() {
                Some(it) => it,
                None => self.tls.secure().await.ok()?,
            };
            let is_current = Arc::ptr_eq(&warm.secure.config, &current.config);
            if is_current && let Some(idle_state) = warm.idle_state().await {
                pool.confirm(&key);
                return Some(Connection {
                    remote: warm.remote,
                    secure: Some(warm.secure),
                    idle_state: Some(idle_state),
                });
            }
            secure = Some(current);
        }
    }

    /// The key of connections for `address` in the pool.
    pub(super) fn key(&self, address: &Address) -> Key {
        Key {
            target: self.target(address),
            name: self.verified(address).clone(),
            proxy: self.forward_proxy(address).map(|it| it.url),
        }
    }
}
