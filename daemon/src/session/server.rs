//! What a login asks of the server: a trait, so that sessions can be tried without one.

use std::{sync::Arc, time::Duration};

use control::wire::OfferedRoute;
use futures_util::future::BoxFuture;
use jiff::Timestamp;
use pomd_core::{
    config::{Address, ClusterName},
    route::refusal::OpenError,
    session::{
        error::{Cause, LoginError, Question},
        token::{Token, User},
    },
};

use crate::{portal, upstream::Upstream};

/// How long all addresses of a cluster together may take for one answer.
const LIMIT: Duration = Duration::from_secs(45);
/// How long a login is held up by the question how long it lasts.
const UNTIL_LIMIT: Duration = Duration::from_secs(3);

/// The cluster that is logged in to.
#[derive(Debug)]
pub struct LoginTarget {
    /// Its name.
    pub name: ClusterName,
    /// Where its logins are made. Never empty.
    pub login_at: Vec<Address>,
    /// The way there.
    pub upstream: Arc<Upstream>,
}

/// Answers what logins ask of the servers of all clusters.
pub trait LoginServer: Send + Sync {
    /// Returns where to sign in so that the browser comes back to `redirect`. Good for 5 minutes.
    fn sign_in_url<'a>(
        &'a self,
        cluster: &'a LoginTarget,
        redirect: &'a str,
    ) -> BoxFuture<'a, Result<String, LoginError>>;
    /// Returns whose token it is if the server tells, and the address that vouches for it.
    fn user<'a>(
        &'a self,
        cluster: &'a LoginTarget,
        token: &'a Token,
    ) -> BoxFuture<'a, Result<Vouched, NotGood>>;
    /// Returns until when the token lasts at most, if the server tells.
    fn until<'a>(
        &'a self,
        cluster: &'a LoginTarget,
        at: &'a Address,
        token: &'a Token,
    ) -> BoxFuture<'a, Option<Timestamp>>;
    /// Returns the routes that the token's user may use.
    fn routes<'a>(
        &'a self,
        cluster: &'a LoginTarget,
        token: &'a Token,
    ) -> BoxFuture<'a, Result<Vec<OfferedRoute>, NotGood>>;
    /// Drops what is kept ready to reach the server: a person logged out.
    fn disconnect(&self, cluster: &LoginTarget) {
        cluster.upstream.clear_pool();
    }
}

/// A good token's user, where the server says who, and the address that said so.
pub type Vouched = (Option<User>, Address);

/// Why a token is not known to be good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotGood {
    /// The server does not take it.
    Refused,
    /// The server could not be asked: the token is as good as before.
    Unasked(LoginError),
}

/// The real servers, each at any of its cluster's login addresses: the first that gives a verdict counts.
#[derive(Debug)]
pub struct Pomerium;

impl LoginServer for Pomerium {
    fn sign_in_url<'a>(
        &'a self,
        cluster: &'a LoginTarget,
        redirect: &'a str,
    ) -> BoxFuture<'a, Result<String, LoginError>> {
        Box::pin(cluster.ask(Question::SignInUrl, move |at| {
            Box::pin(portal::sign_in_url(&cluster.upstream, at, redirect))
        }))
    }

    fn user<'a>(
        &'a self,
        cluster: &'a LoginTarget,
        token: &'a Token,
    ) -> BoxFuture<'a, Result<Vouched, NotGood>> {
        Box::pin(async move {
            let verdict = cluster.ask(Question::IsTokenGood, |at| {
                Box::pin(async move {
                    match portal::user(&cluster.upstream, at, token).await {
                        Err(OpenError::Unauthenticated { .. }) => Ok(None),
                        other => other.map(|user| Some((Some(user), at.clone()))),
                    }
                })
            });
            let error = match verdict.await {
                Ok(verdict) => return verdict.ok_or(NotGood::Refused),
                Err(error) => error,
            };
            if !error.was_answered() {
                return Err(NotGood::Unasked(error));
            }
            // An older server: a login must not fail because it cannot say whose it is.
            let verdict = cluster.ask(Question::IsTokenGood, |at| {
                Box::pin(async move {
                    let takes = portal::takes(&cluster.upstream, at, token).await?;
                    Ok(takes.then(|| (None, at.clone())))
                })
            });
            // The first error is the better one.
            let verdict = verdict.await.map_err(|_| NotGood::Unasked(error))?;
            verdict.ok_or(NotGood::Refused)
        })
    }

    fn until<'a>(
        &'a self,
        cluster: &'a LoginTarget,
        at: &'a Address,
        token: &'a Token,
    ) -> BoxFuture<'a, Option<Timestamp>> {
        Box::pin(async move {
            let asked = portal::session_end(&cluster.upstream, at, token);
            let answer = tokio::time::timeout(UNTIL_LIMIT, asked).await;
            answer.ok().flatten()
        })
    }

    fn routes<'a>(
        &'a self,
        cluster: &'a LoginTarget,
        token: &'a Token,
    ) -> BoxFuture<'a, Result<Vec<OfferedRoute>, NotGood>> {
        Box::pin(async move {
            let offered = cluster.ask(Question::Routes, |at| {
                Box::pin(async move {
                    match portal::offered(&cluster.upstream, at, token).await {
                        Err(OpenError::Unauthenticated { .. }) => Ok(None),
                        other => other.map(Some),
                    }
                })
            });
            let offered = offered.await.map_err(NotGood::Unasked)?;
            let offered = offered.ok_or(NotGood::Refused)?.into_iter();
            Ok(offered.map(|it| it.shown).collect())
        })
    }
}

impl LoginTarget {
    /// Asks one address after the other; if none answers, the first one's error is told: it is the best one.
    async fn ask<'a, T>(
        &'a self,
        question: Question,
        ask: impl Fn(&'a Address) -> BoxFuture<'a, Result<T, OpenError>>,
    ) -> Result<T, LoginError> {
        let mut first = None;
        let asking = async {
            for at in &self.login_at {
                match ask(at).await {
                    Ok(it) => return Some(it),
                    Err(error) if first.is_none() => {
                        first = Some(LoginError::Server {
                            question,
                            at: at.clone(),
                            cause: Cause::new(error, || self.upstream.section()),
                        });
                    }
                    Err(_) => {}
                }
            }
            None
        };
        match tokio::time::timeout(LIMIT, asking).await {
            Ok(Some(it)) => Ok(it),
            _ => Err(first.unwrap_or(LoginError::NoAnswer {
                question,
                within: LIMIT,
            })),
        }
    }
}
