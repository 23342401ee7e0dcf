//! What a login asks of the server: a trait, so that logins can be tried without one, and the words for what fails.

use std::{fmt, sync::Arc, time::Duration};

use control::wire::{ApiError, Code, Reason};
use futures_util::future::BoxFuture;
use jiff::Timestamp;
use pomd_core::{
    config::{Address, ClusterName},
    route::refusal::{OpenError, Refusal, RefusalKind, Step, Unreachable},
    session::token::Token,
};

use crate::{
    portal::{self, User},
    upstream::Upstream,
};

/// How long all addresses of a cluster together may take for one answer.
const LIMIT: Duration = Duration::from_secs(45);
/// How long a login is held up by the question how long it lasts.
const UNTIL_LIMIT: Duration = Duration::from_secs(3);

/// The questions.
pub(super) trait Pomerium: Send + Sync {
    /// Where to sign in so that the browser comes back to `redirect`. Good for 5 minutes.
    fn sign_in_url<'a>(&'a self, redirect: &'a str) -> BoxFuture<'a, Result<String, Failure>>;
    /// Whose token it is if the server tells, and the address that vouches for it.
    fn user<'a>(&'a self, token: &'a Token) -> BoxFuture<'a, Result<Vouched, NotGood>>;
    /// Until when it lasts at most.
    fn until<'a>(&'a self, at: &'a Address, token: &'a Token) -> BoxFuture<'a, Option<Timestamp>>;
    /// A person logged out: whatever was kept ready to reach it goes.
    fn leave(&self);
}

/// A good token's user, where the server says who, and the address that said so.
pub(super) type Vouched = (Option<User>, Address);

/// Why a token is not known to be good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NotGood {
    /// The server does not take it.
    Refused,
    /// The server could not be asked: the token is as good as before.
    Unasked(Failure),
}

/// A step towards a login that failed, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) code: Code,
    pub(super) message: String,
    pub(super) hint: Option<String>,
    pub(super) request_id: Option<String>,
}

/// The real server, at any of the cluster's login addresses: the first that gives a verdict counts.
struct Server {
    cluster: ClusterName,
    login_at: Vec<Address>,
    upstream: Arc<Upstream>,
}

/// How the sessions reach their servers: a value, so that a history in virtual time brings its own.
#[derive(Clone)]
pub struct Servers(Arc<Make>);

type Make = dyn Fn(ClusterName, Vec<Address>, Arc<Upstream>) -> Arc<dyn Pomerium> + Send + Sync;

impl Servers {
    /// Over the network.
    pub fn real() -> Self {
        Self::from_fn(|cluster, login_at, upstream| {
            Arc::new(Server {
                cluster,
                login_at,
                upstream,
            })
        })
    }

    pub(super) fn from_fn(
        make: impl Fn(ClusterName, Vec<Address>, Arc<Upstream>) -> Arc<dyn Pomerium>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        Self(Arc::new(make))
    }

    /// The one of `cluster`.
    pub(super) fn of(
        &self,
        cluster: ClusterName,
        login_at: Vec<Address>,
        upstream: Arc<Upstream>,
    ) -> Arc<dyn Pomerium> {
        (self.0)(cluster, login_at, upstream)
    }
}

impl fmt::Debug for Servers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Servers")
    }
}

impl Pomerium for Server {
    fn sign_in_url<'a>(&'a self, redirect: &'a str) -> BoxFuture<'a, Result<String, Failure>> {
        let what = format!("cannot start a login to {}", self.cluster);
        Box::pin(self.ask(what, move |at| {
            Box::pin(portal::sign_in_url(&self.upstream, at, redirect))
        }))
    }

    fn user<'a>(&'a self, token: &'a Token) -> BoxFuture<'a, Result<Vouched, NotGood>> {
        Box::pin(async move {
            let what = || format!("cannot ask {} whether the login is good", self.cluster);
            let verdict = self.ask(what(), |at| {
                Box::pin(async move {
                    match portal::user(&self.upstream, at, token).await {
                        Err(OpenError::Unauthenticated { .. }) => Ok(None),
                        other => other.map(|user| Some((Some(user), at.clone()))),
                    }
                })
            });
            let failure = match verdict.await {
                Ok(verdict) => return verdict.ok_or(NotGood::Refused),
                Err(failure) => failure,
            };
            if !failure.was_answered() {
                return Err(NotGood::Unasked(failure));
            }
            // An older server: a login must not fail because it cannot say whose it is.
            let verdict = self.ask(what(), |at| {
                Box::pin(async move {
                    let takes = portal::takes(&self.upstream, at, token).await?;
                    Ok(takes.then(|| (None, at.clone())))
                })
            });
            // The first failure is the better one.
            let verdict = verdict.await.map_err(|_| NotGood::Unasked(failure))?;
            verdict.ok_or(NotGood::Refused)
        })
    }

    fn until<'a>(&'a self, at: &'a Address, token: &'a Token) -> BoxFuture<'a, Option<Timestamp>> {
        Box::pin(async move {
            let asked = portal::session_end(&self.upstream, at, token);
            let answer = tokio::time::timeout(UNTIL_LIMIT, asked).await;
            answer.ok().flatten()
        })
    }

    fn leave(&self) {
        self.upstream.forget_spares();
    }
}

impl Server {
    /// Asks one address after the other; if none answers, the first one's failure is told: it is the best one.
    async fn ask<'a, T>(
        &'a self,
        what: String,
        question: impl Fn(&'a Address) -> BoxFuture<'a, Result<T, OpenError>>,
    ) -> Result<T, Failure> {
        let mut first = None;
        let asking = async {
            for at in &self.login_at {
                match question(at).await {
                    Ok(it) => return Some(it),
                    Err(error) if first.is_none() => first = Some(failure(&what, at, error)),
                    Err(_) => {}
                }
            }
            None
        };
        match tokio::time::timeout(LIMIT, asking).await {
            Ok(Some(it)) => Ok(it),
            _ => Err(first.unwrap_or_else(|| Failure {
                code: Code::Timeout,
                message: format!("{what}: no answer within {} s", LIMIT.as_secs()),
                hint: None,
                request_id: None,
            })),
        }
    }
}

impl Failure {
    /// Something spoke at the other end, though not as was hoped.
    fn was_answered(&self) -> bool {
        matches!(
            self.code,
            Code::LoginFailed | Code::Http | Code::UpstreamUnavailable
        )
    }

    pub(super) fn into_reason(self, at: Timestamp) -> Reason {
        Reason {
            hint: self.hint,
            request_id: self.request_id,
            ..Reason::new(self.code, self.message, at)
        }
    }

    pub(super) fn into_api_error(self, cluster: &str) -> ApiError {
        ApiError {
            code: self.code,
            message: self.message,
            hint: self.hint,
            request_id: self.request_id,
            facts: Vec::new(),
            cluster: Some(cluster.to_owned()),
            holder: None,
        }
    }
}

fn failure(what: &str, at: &Address, error: OpenError) -> Failure {
    match error {
        OpenError::Unreachable(it) => unreachable(what, it),
        OpenError::Refused(it) => refused(what, at, it),
        OpenError::Unauthenticated { request_id } => Failure {
            code: Code::LoginFailed,
            message: format!("{what}: {at} wants a login first"),
            hint: None,
            request_id,
        },
        OpenError::LocalGone(error) => Failure {
            code: Code::Internal,
            message: format!("{what}: {error}"),
            hint: None,
            request_id: None,
        },
    }
}

fn unreachable(what: &str, it: Unreachable) -> Failure {
    let code = match it.step {
        Step::Local => Code::Local,
        Step::ForwardProxy => Code::ForwardProxy,
        _ if it.timed_out => Code::Timeout,
        Step::Dns => Code::Dns,
        Step::Tcp => Code::Tcp,
        Step::Tls => Code::Tls,
        Step::Http => Code::Http,
    };
    Failure {
        code,
        message: format!("{what}: {it}"),
        hint: it.hint,
        request_id: None,
    }
}

fn refused(what: &str, at: &Address, it: Refusal) -> Failure {
    let (code, hint) = match it.kind {
        RefusalKind::ClientCertificate => (
            Code::ClientCertificateRequired,
            Some("set client_cert and client_key for this cluster".to_owned()),
        ),
        RefusalKind::DeviceNotEnrolled => (
            Code::DeviceNotAllowed,
            Some(format!("enrol this device: {at}/.pomerium/")),
        ),
        RefusalKind::NoSuchRoute => (
            Code::LoginFailed,
            Some(format!(
                "if {at} is not Pomerium's: set url for this cluster"
            )),
        ),
        RefusalKind::UpstreamUnavailable => (Code::UpstreamUnavailable, None),
        RefusalKind::Forbidden | RefusalKind::WrongProtocol | RefusalKind::Other => {
            (Code::LoginFailed, None)
        }
    };
    let detail = it.detail.map_or(String::new(), |it| format!(": {it}"));
    let said = match (it.kind, it.status) {
        // TLS said it, and there is no status.
        (RefusalKind::ClientCertificate, 0) => "wants a client certificate".to_owned(),
        (RefusalKind::ClientCertificate, status) => {
            format!("wants a client certificate ({status})")
        }
        (_, status) => format!("answered {status}{detail}"),
    };
    Failure {
        code,
        message: format!("{what}: {at} {said}"),
        hint,
        request_id: it.request_id,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pomd_core::config::Host;

    #[test]
    fn each_failure_names_the_step_and_what_was_tried() {
        let at = Address {
            tls: true,
            host: Host::Name("corp.example.com".to_owned()),
            port: 443,
        };
        let told = |error| {
            let it = failure("cannot start a login to corp", &at, error);
            (it.code, it.message)
        };
        let step = |step, timed_out| {
            OpenError::Unreachable(Unreachable {
                step,
                timed_out,
                message: "looking up corp.example.com: no such name".to_owned(),
                hint: None,
            })
        };
        let refusal = |kind, status, detail: Option<&str>| {
            OpenError::Refused(Refusal {
                kind,
                status,
                request_id: None,
                detail: detail.map(str::to_owned),
            })
        };
        let dns = "cannot start a login to corp: looking up corp.example.com: no such name";
        assert_eq!(told(step(Step::Dns, false)), (Code::Dns, dns.to_owned()));
        assert_eq!(told(step(Step::Tcp, true)).0, Code::Timeout);
        let proxy = told(step(Step::ForwardProxy, true));
        assert_eq!(proxy.0, Code::ForwardProxy);
        assert!(
            proxy.1.contains("corp: forward proxy: looking"),
            "{}",
            proxy.1
        );
        assert_eq!(
            told(refusal(RefusalKind::Other, 500, Some("Internal Server Error"))),
            (
                Code::LoginFailed,
                "cannot start a login to corp: https://corp.example.com answered 500: Internal Server Error"
                    .to_owned()
            )
        );
        for (status, number) in [(495, " (495)"), (0, "")] {
            let detail = Some("certificate required");
            assert_eq!(
                told(refusal(RefusalKind::ClientCertificate, status, detail)),
                (
                    Code::ClientCertificateRequired,
                    format!(
                        "cannot start a login to corp: https://corp.example.com wants a client certificate{number}"
                    )
                )
            );
        }
    }
}
