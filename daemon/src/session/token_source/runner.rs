//! The token service of a GitHub Actions runner: a job with `permissions: id-token: write` finds its address and a token
//! for it in its environment, and gets a JWT for an audience of its choice.

use pomd_core::{
    config::{Address, ClusterName, ClusterSpec, HostPattern, TokenKind},
    route::refusal::OpenError,
    session::{error::SourceError, token::Token},
};
use serde::Deserialize;
use zeroize::Zeroizing;

use super::Unattended;
use crate::upstream::{Limits, Upstream};

const URL: &str = "ACTIONS_ID_TOKEN_REQUEST_URL";
const TOKEN: &str = "ACTIONS_ID_TOKEN_REQUEST_TOKEN";

/// The answer: `{"value": "JWT"}`.
#[derive(Deserialize)]
struct Answer {
    value: String,
}

impl Unattended {
    pub(super) async fn ask_runner(
        &self,
        audience: &str,
    ) -> Result<Zeroizing<String>, SourceError> {
        let variables = self.surroundings.at_start();
        let variable = |name| variables.get(name).filter(|it| !it.is_empty());
        let (url, token) = variable(URL)
            .zip(variable(TOKEN))
            .ok_or(SourceError::NoRunner)?;
        let token = Token::of_kind(token, TokenKind::Bearer).ok_or(SourceError::NoRunner)?;
        let (address, path) = question(url, audience).ok_or_else(|| {
            SourceError::Unreachable(format!("{URL} is no address with https://"))
        })?;
        let spec = ClusterSpec {
            hosts: vec![HostPattern::exactly(&address.host)],
            login_at: vec![address.clone()],
            ports: [address.port].into(),
            ca_file: self.ca_file.clone(),
            ..ClusterSpec::default()
        };
        let service = Upstream::new(ClusterName::for_address(&address), spec, Limits::default())
            .with_environment(self.proxies.clone());
        let answer = service.get(&address, &path, Some(&token)).await;
        let answer = answer.map_err(|error| match error {
            OpenError::Unreachable(it) => SourceError::Unreachable(it.to_string()),
            OpenError::Refused(it) => SourceError::Service { status: it.status },
            OpenError::Unauthenticated { .. } => SourceError::Service { status: 401 },
            OpenError::LocalGone(it) => SourceError::Unreachable(it.to_string()),
        })?;
        if answer.status != 200 {
            return Err(SourceError::Service {
                status: answer.status,
            });
        }
        // Without the error's words: they may repeat what was read.
        let body = Zeroizing::new(answer.body);
        match serde_json::from_slice::<Answer>(&body) {
            Ok(it) => Ok(Zeroizing::new(it.value)),
            Err(_) => Err(SourceError::NotAToken),
        }
    }
}

/// Where to ask, and for what: the address of the environment, with the audience added to its query. Without TLS only on
/// this machine: the request holds a token.
fn question(url: &str, audience: &str) -> Option<(Address, String)> {
    let mut url = url::Url::parse(url).ok()?;
    url.query_pairs_mut().append_pair("audience", audience);
    let is_plain = match (url.scheme(), url.host()?) {
        ("https", _) => false,
        ("http", url::Host::Ipv4(ip)) if ip.is_loopback() => true,
        ("http", url::Host::Ipv6(ip)) if ip.is_loopback() => true,
        _ => return None,
    };
    if !url.username().is_empty() || url.password().is_some() {
        return None;
    }
    let scheme = if is_plain { "http" } else { "https" };
    let place = match url.port() {
        Some(port) => format!("{scheme}://{}:{port}", url.host()?),
        None => format!("{scheme}://{}", url.host()?),
    };
    let path = format!("{}?{}", url.path(), url.query().unwrap_or_default());
    Some((Address::parse(&place).ok()?, path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runner_is_asked_where_its_environment_says_for_the_audience() {
        for (url, expected) in [
            (
                "https://run.example.com/x/idtoken?api-version=2.0",
                Some((
                    "https://run.example.com",
                    "/x/idtoken?api-version=2.0&audience=https%3A%2F%2Fcorp.test%2F%3Fa%26b",
                )),
            ),
            (
                "https://run.example.com:8443/t",
                Some((
                    "https://run.example.com:8443",
                    "/t?audience=https%3A%2F%2Fcorp.test%2F%3Fa%26b",
                )),
            ),
            (
                "http://127.0.0.1:9/t",
                Some((
                    "http://127.0.0.1:9",
                    "/t?audience=https%3A%2F%2Fcorp.test%2F%3Fa%26b",
                )),
            ),
            ("http://run.example.com/t", None),
            ("https://user@run.example.com/t", None),
            ("file:///etc/passwd", None),
            ("run.example.com", None),
        ] {
            let asked = question(url, "https://corp.test/?a&b");
            let asked = asked.map(|(address, path)| (address.to_string(), path));
            let expected = expected.map(|it| (it.0.to_owned(), it.1.to_owned()));
            assert_eq!(asked, expected, "{url}");
        }
    }
}
