//! The doctor: walks the steps that a connection takes and tells of each, without any effect on the session.
//!
//! A request shows the way to the server on a connection of its own, the CONNECT of a connection shows the rest; what the
//! CONNECT says holds.

use std::{future::poll_fn, time::Duration};

use control::{
    text::clean,
    wire::{self, Reason},
};
use jiff::{Timestamp, fmt::rfc2822::DateTimeParser, tz::TimeZone};
use pomd_core::{
    config::{Address, TokenSource},
    route::{error::Step, refusal::OpenError},
    session::token::Grant,
    words::{
        doctor::{Failed, Walk, not_logged_in, session_over},
        open as words,
    },
};
use tokio::time::{Instant, timeout};

use super::{Tunnel, probe};
use crate::{
    portal,
    system::name_servers::name_servers,
    upstream::{Answer, Opened, steps::Steps},
};

/// How long a service that speaks first may take to do so.
const GREETING: Duration = Duration::from_secs(2);
/// The most that is read of it.
const GREETING_MOST: usize = 1024;
/// Where a sign-in would come back to that nobody makes: the answer alone shows that a Pomerium is there.
const NOWHERE: &str = "http://127.0.0.1/";

/// Walks the steps of `tunnel`.
pub(super) async fn diagnose(tunnel: &Tunnel) -> wire::Diagnosis {
    let grant = match tunnel.session.view().grant {
        // Without a person to ask, the token that a connection would fetch is fetched.
        None if tunnel.cluster.token.source != TokenSource::Browser => {
            tunnel.session.checked_grant().await.map_err(|it| it.reason)
        }
        None => Err(not_logged_in(&tunnel.spec.cluster, tunnel.env.clock.now())),
        Some(grant) => Ok(grant),
    };
    let address = &tunnel.spec.route.address;
    let proxy = tunnel.upstream.forward_proxy(address);
    let user = grant.as_ref().ok().and_then(|it| it.user.clone());
    let mut doctor = Doctor {
        tunnel,
        address,
        walk: Walk {
            steps: Vec::new(),
            trail: Default::default(),
            forward_proxy: proxy.map(|it| it.to_string()),
            clocks: None,
            user,
            first: None,
            failed: None,
            at: tunnel.env.clock.now(),
        },
    };
    let took = match doctor.walk(grant).await {
        Ok(took) => Some(took),
        Err(failed) => {
            doctor.walk.failed = Some(*failed);
            None
        }
    };
    wire::Diagnosis {
        tunnel: tunnel.name.to_string(),
        cluster: tunnel.spec.cluster.to_string(),
        checks: doctor.walk.checks(),
        opens_in_ms: took.map(|it| u64::try_from(it.as_millis()).unwrap_or(u64::MAX)),
    }
}

struct Doctor<'a> {
    tunnel: &'a Tunnel,
    address: &'a Address,
    walk: Walk,
}

impl Doctor<'_> {
    /// Takes the steps, and returns how long the route took to open.
    async fn walk(&mut self, grant: Result<Grant, Reason>) -> Result<Duration, Box<Failed>> {
        let asked = self.ask(grant.as_ref().ok()).await;
        let grant = match (grant, &asked) {
            (Ok(grant), _) => grant,
            (Err(_), Err(error)) => return Err(self.failed(error, None).await),
            (Err(reason), Ok(answer)) => {
                if portal::sign_in_url_of(answer, self.address).is_err() {
                    return Err(self.not_pomerium(answer).await);
                }
                return Err(Box::new(Failed {
                    step: Step::Session,
                    reason,
                    facts: Vec::new(),
                }));
            }
        };
        if let Err(error) = &asked
            && error.step().is_none_or(|it| it < Step::Http)
        {
            return Err(self.failed(error, Some(&grant)).await);
        }
        let known = asked.as_ref().ok().and_then(portal::user_of);
        let is_known = known.is_some();
        if let Some(user) = known {
            self.walk.user = Some(user.display);
        }
        let begun = Instant::now();
        let opened = self.open(&grant).await;
        let took = begun.elapsed();
        // Any server may answer so, and one that answers everything with a page of its own says 200 to a CONNECT too.
        let is_doubtful = match &opened {
            Ok(_) => self.tunnel.cluster.token.source == TokenSource::Browser,
            Err(OpenError::Unauthenticated { .. } | OpenError::Refused(_)) => true,
            Err(OpenError::Unreachable(_) | OpenError::LocalGone(_)) => false,
        };
        if is_doubtful
            && !is_known
            && let Ok(answer) = &asked
            && !self.mints_sign_ins().await
        {
            return Err(self.not_pomerium(answer).await);
        }
        match opened {
            Ok(opened) => {
                self.hear(opened).await;
                Ok(took)
            }
            Err(error) => Err(self.failed(&error, Some(&grant)).await),
        }
    }

    /// Asks the server on a new connection who we are, or how to sign in: the steps up to `http`.
    async fn ask(&mut self, grant: Option<&Grant>) -> Result<Answer, OpenError> {
        let sign_in = portal::sign_in_path(NOWHERE);
        let path = grant.map_or(sign_in.as_str(), |_| portal::USER_PATH);
        let mut steps = Steps::begin_with_trail();
        let token = grant.map(|it| &it.token);
        let upstream = &self.tunnel.upstream;
        let answer = upstream
            .get_in_steps(self.address, path, token, &mut steps)
            .await;
        self.walk.steps = steps.iter().collect();
        self.walk.trail = steps.trail();
        let date = answer.as_ref().ok().and_then(|it| it.date.as_deref());
        self.walk.clocks = date
            .and_then(server_clock)
            .map(|it| (it, self.tunnel.env.clock.now()));
        answer
    }

    /// Opens the route: the steps behind `http`, whose one answer is the policy's.
    async fn open(&mut self, grant: &Grant) -> Result<Opened, OpenError> {
        let mut steps = Steps::begin_with_trail();
        let opened = probe::open_once(self.tunnel, grant, &mut steps).await;
        let answered: Duration = steps
            .iter()
            .filter(|it| it.0 >= Step::Http)
            .map(|it| it.1)
            .sum();
        let failed = opened.as_ref().err().and_then(OpenError::step);
        match failed.filter(|it| *it < Step::Http) {
            // The request before it got through, and this one did not.
            Some(_) => {
                self.walk.steps = steps.iter().collect();
                self.walk.trail = steps.trail();
            }
            None => self
                .walk
                .steps
                .push((failed.unwrap_or(Step::Policy), answered)),
        }
        opened
    }

    /// Hears what a service says that speaks first.
    async fn hear(&mut self, opened: Opened) {
        if !self.tunnel.spec.ssh {
            return;
        }
        let begun = Instant::now();
        let Opened {
            mut remote,
            first: mut said,
        } = opened;
        let hearing = async {
            while !said.contains(&b'\n') && said.len() < GREETING_MOST {
                match poll_fn(|cx| remote.poll_recv(cx)).await {
                    Ok(piece) => said.extend_from_slice(piece.bytes()),
                    Err(_) => break,
                }
            }
        };
        // Silence is told as such.
        let _ = timeout(GREETING, hearing).await;
        self.walk.steps.push((Step::Upstream, begun.elapsed()));
        self.walk.first = Some(said);
    }

    /// Whether the server hands out sign-in URLs, as every Pomerium does.
    async fn mints_sign_ins(&self) -> bool {
        let minted = portal::sign_in_url(&self.tunnel.upstream, self.address, NOWHERE);
        minted.await.is_ok()
    }

    async fn not_pomerium(&self, answer: &Answer) -> Box<Failed> {
        let error = portal::not_pomerium(self.address, answer).into();
        self.failed(&error, None).await
    }

    async fn failed(&self, error: &OpenError, grant: Option<&Grant>) -> Box<Failed> {
        let tunnel = self.tunnel;
        let similar = match grant {
            Some(grant) => tunnel.similar(error, grant).await,
            None => Vec::new(),
        };
        let context = tunnel.context(grant, &similar);
        let over = || session_over(context.cluster, context.spec, context.user, context.at);
        let is_over = matches!(error, OpenError::Unauthenticated { .. });
        let reason = is_over.then(over).flatten();
        let reason = reason.or_else(|| words::reason(error, &context));
        let step = error.step().unwrap_or(Step::Resolve);
        let mut facts = words::facts(error, &context, &TimeZone::system());
        let asked = name_servers().join(", ");
        if step == Step::Resolve && !asked.is_empty() {
            facts.push(("asked".to_owned(), clean(&asked, 200)));
        }
        Box::new(Failed {
            step,
            reason: reason.unwrap_or_else(|| probe::internal(tunnel).reason),
            facts,
        })
    }
}

/// Returns the time that a `Date` header tells.
fn server_clock(date: &str) -> Option<Timestamp> {
    DateTimeParser::new().parse_timestamp(date).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_servers_clock_is_read_as_http_writes_it() {
        let read = server_clock("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        assert_eq!(read.to_string(), "1994-11-06T08:49:37Z");
        for odd in ["", "yesterday", "Sun, 99 Nov 1994 08:49:37 GMT"] {
            assert_eq!(server_clock(odd), None, "{odd}");
        }
    }
}
