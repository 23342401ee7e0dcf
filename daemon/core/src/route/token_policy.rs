//! Where a token may be sent (A15, A24): the one lock before every request that holds one.
//!
//! Whoever chose the address may have been wrong, so the cluster's own settings are asked again here. [`Permitted`] is
//! the only thing that reveals a token in this room, and only [`TokenPolicy::permit`] makes one. Pure.

use std::{
    collections::BTreeSet,
    sync::{PoisonError, RwLock},
};

use super::error::{StepError, Target, TokenError, TokenReason};
use crate::{
    config::{Address, ClusterName, ClusterSpec, TokenKind},
    session::token::Token,
};

/// Where the token of one cluster may go.
#[derive(Debug)]
pub struct TokenPolicy {
    cluster: ClusterName,
    spec: ClusterSpec,
    /// Grows while the cluster lives: a tunnel may be added that names another.
    ports: RwLock<BTreeSet<u16>>,
}

/// A token and an address that it may be sent to.
#[derive(Clone, Copy, Debug)]
pub struct Permitted<'a> {
    token: &'a Token,
    address: &'a Address,
}

impl<'a> Permitted<'a> {
    /// Returns the token's text, for a request over a connection to [`Permitted::address`].
    pub fn reveal(&self) -> &'a str {
        self.token.reveal()
    }

    /// Returns the word before the token in `Authorization`. Pomerium takes `Pomerium` in this form alone, and `Bearer` on
    /// routes with a `bearer_token_format`.
    pub fn scheme(&self) -> &'static str {
        match self.token.kind() {
            TokenKind::Pomerium => "Pomerium",
            TokenKind::Bearer => "Bearer",
        }
    }

    /// Returns where it may be sent.
    pub fn address(&self) -> &'a Address {
        self.address
    }
}

impl TokenPolicy {
    /// Returns the policy of a cluster.
    pub fn new(cluster: ClusterName, spec: ClusterSpec) -> Self {
        Self {
            cluster,
            ports: RwLock::new(spec.ports.clone()),
            spec,
        }
    }

    /// Allows these ports too: tunnels that were added name them.
    pub fn allow_ports(&self, ports: &BTreeSet<u16>) {
        let mut own = self.ports.write().unwrap_or_else(PoisonError::into_inner);
        own.extend(ports);
    }

    /// Returns the token as it may be sent to `address`: its host is one of the cluster's; there is TLS, unless the cluster itself has none;
    /// and its port is named by the cluster or by a tunnel of it, or `connect` says where to dial in any case.
    pub fn permit<'a>(
        &self,
        token: &'a Token,
        address: &'a Address,
    ) -> Result<Permitted<'a>, Box<StepError>> {
        let Address { tls, host, port } = address;
        let refused = |reason| {
            let cluster = self.cluster.clone();
            let error = TokenError { cluster, reason };
            let target = Target::Server(address.clone());
            Err(Box::new(StepError::new(target, error)))
        };
        if !self.spec.allows(host) && !self.spec.login_at.iter().any(|it| it.host == *host) {
            return refused(TokenReason::Host);
        }
        if !tls && !self.spec.is_plain() {
            return refused(TokenReason::Plain);
        }
        let ports = self.ports.read().unwrap_or_else(PoisonError::into_inner);
        if self.spec.connect.is_none() && !ports.contains(port) {
            return refused(TokenReason::Port);
        }
        Ok(Permitted { token, address })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::words::step::advice;

    fn policy(cluster: &str) -> TokenPolicy {
        let config = Config::parse(cluster, std::path::Path::new("/")).unwrap();
        let (name, spec) = config.clusters.into_iter().next().unwrap();
        TokenPolicy::new(name, spec)
    }

    const HTTPS: &str = "[cluster.corp]\nhosts = [\"*.corp.test\"]\nurl = \"https://corp.test\"\n";
    const OTHER_PORT: &str =
        "[cluster.corp]\nhosts = [\"*.corp.test\"]\nurl = \"https://corp.test:8443\"\n";
    const HTTP: &str = "[cluster.corp]\nhosts = [\"*.corp.test\"]\nurl = \"http://corp.test\"\n";
    const CONNECT: &str = "[cluster.corp]\nhosts = [\"*.corp.test\"]\nurl = \"https://corp.test\"\nconnect = \"192.0.2.7:9443\"\n";
    const BASTION: &str = "[cluster.corp]\nhosts = [\"*.corp.test\"]\nurl = \"https://corp.test\"\n[tunnel.a]\nroute = \"tcp+https://b.corp.test:8443/db:5432\"\n";
    const NO_URL: &str = "[cluster.corp]\nhosts = [\"*.corp.test\"]\n[tunnel.a]\nroute = \"tcp+https://b.corp.test:8443/db:5432\"\n";
    const OF_HOST: &str = "[tunnel.a]\nroute = \"web.corp.test:22\"\n";
    const PLAIN_HOST: &str = "[tunnel.a]\nroute = \"tcp+http://web.corp.test:22\"\n";

    #[test]
    fn a24_a_token_goes_only_where_the_settings_of_its_cluster_say() {
        let token = Token::parse("secret").unwrap();
        for (settings, address, refused) in [
            (HTTPS, "https://web.corp.test", ""),
            (HTTPS, "https://corp.test", ""),
            (HTTPS, "http://web.corp.test", "without TLS"),
            (HTTPS, "http://web.corp.test:443", "without TLS"),
            (HTTPS, "http://attacker.corp.test:44063", "without TLS"),
            (HTTPS, "https://attacker.corp.test:44063", "port 44063"),
            (HTTPS, "https://web.corp.test:80", "port 80"),
            (
                HTTPS,
                "https://web.corp.test.evil",
                "not for web.corp.test.evil",
            ),
            (HTTPS, "https://evilcorp.test", "not for evilcorp.test"),
            (OTHER_PORT, "https://web.corp.test:8443", ""),
            (OTHER_PORT, "https://web.corp.test", "port 443"),
            (HTTP, "http://web.corp.test", ""),
            (HTTP, "http://web.corp.test:8080", "port 8080"),
            (CONNECT, "https://web.corp.test:1", ""),
            (CONNECT, "http://web.corp.test:9443", "without TLS"),
            (BASTION, "https://b.corp.test:8443", ""),
            (BASTION, "https://web.corp.test", ""),
            (BASTION, "https://web.corp.test:8444", "port 8444"),
            (NO_URL, "https://b.corp.test:8443", ""),
            (NO_URL, "https://b.corp.test", "port 443"),
            (OF_HOST, "https://web.corp.test", ""),
            (OF_HOST, "https://web.corp.test:22", "port 22"),
            (OF_HOST, "http://web.corp.test", "without TLS"),
            (OF_HOST, "https://corp.test", "not for corp.test"),
            (PLAIN_HOST, "http://web.corp.test", ""),
            (PLAIN_HOST, "http://web.corp.test:22", "port 22"),
        ] {
            let at = Address::parse(address).unwrap();
            let permitted = policy(settings).permit(&token, &at).map(|it| it.reveal());
            match permitted {
                Ok(revealed) => assert_eq!((revealed, refused), ("secret", ""), "{address}"),
                Err(error) => {
                    assert!(!refused.is_empty(), "{settings}{address}: {error}");
                    assert!(
                        error.to_string().contains(refused)
                            && error.to_string().contains("nothing was sent"),
                        "{settings}{address}: {error}"
                    );
                    assert!(advice(&error, "[cluster.corp]").is_some());
                }
            }
        }
    }

    #[test]
    fn a24_a_port_is_good_once_a_tunnel_names_it() {
        let token = Token::parse("secret").unwrap();
        let at = Address::parse("https://web.corp.test:8443").unwrap();
        let policy = policy(HTTPS);
        assert!(policy.permit(&token, &at).is_err());
        policy.allow_ports(&[8443].into());
        assert_eq!(policy.permit(&token, &at).unwrap().address(), &at);
    }
}
