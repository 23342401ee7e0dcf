//! A walk over the steps of a connection, told: what each step met, or why it failed.

use std::time::Duration;

use control::{
    humanize,
    text::clean,
    wire::{Check, CheckName, CheckOutcome, Code, Reason},
};
use jiff::{SignedDuration, Timestamp};

use crate::{
    config::{ClusterName, ClusterSpec, TokenSource},
    route::{
        error::Step,
        trail::{TlsFound, Trail},
    },
};

/// Clocks that differ by less are as good as one: a server tells whole seconds, and its answer takes its time.
const AGREE: Duration = Duration::from_secs(5);
/// By so much a clock may be wrong before certificates and logins suffer.
const WRONG: Duration = Duration::from_secs(300);
/// A certificate that ends sooner is told in days.
const SOON: Duration = Duration::from_secs(30 * 24 * 3600);

/// What a walk over the steps found.
#[derive(Clone, Debug)]
pub struct Walk {
    /// The steps that were taken, the failed one too, each with its time.
    pub steps: Vec<(Step, Duration)>,
    /// What they met.
    pub trail: Trail,
    /// The forward proxy on the way, as it may be shown.
    pub forward_proxy: Option<String>,
    /// The server's clock and the time of this machine when it told it.
    pub clocks: Option<(Timestamp, Timestamp)>,
    /// Who is logged in.
    pub user: Option<String>,
    /// What the service said first; `None` where nobody waited for it.
    pub first: Option<Vec<u8>>,
    /// The step that failed; `None`: all of them went well.
    pub failed: Option<Failed>,
    /// When it was made.
    pub at: Timestamp,
}

/// A step that failed.
#[derive(Clone, Debug)]
pub struct Failed {
    /// The step.
    pub step: Step,
    /// Why.
    pub reason: Reason,
    /// More, as pairs for a terminal.
    pub facts: Vec<(String, String)>,
}

impl Walk {
    /// Returns each step in words, in the order in which they are taken.
    pub fn checks(&self) -> Vec<Check> {
        Step::ALL.into_iter().map(|it| self.check(it)).collect()
    }

    fn check(&self, step: Step) -> Check {
        let check = match &self.failed {
            Some(failed) if failed.step == step => failed.check(),
            // Whether there is one is known before anything is tried.
            _ if step == Step::Proxy && self.forward_proxy.is_none() => self.passed(step),
            Some(failed) if failed.step < step => not_done(step, "not tried".to_owned()),
            _ => self.passed(step),
        };
        let took = self.steps.iter().find(|it| it.0 == step);
        let took = took.filter(|_| check.outcome != CheckOutcome::NotDone);
        Check {
            took_ms: took.map(|it| u64::try_from(it.1.as_millis()).unwrap_or(u64::MAX)),
            ..check
        }
    }

    fn passed(&self, step: Step) -> Check {
        let message = match step {
            Step::Resolve if self.trail.addresses.is_empty() => {
                return not_done(step, by_proxy("looks the name up"));
            }
            Step::Resolve => list(&self.trail.addresses),
            Step::Proxy => match &self.forward_proxy {
                Some(proxy) => proxy.clone(),
                None => {
                    let none = "none set, none in pomd's environment";
                    return not_done(step, none.to_owned());
                }
            },
            Step::Connect => match self.trail.peer {
                Some(peer) => peer.to_string(),
                None => return not_done(step, by_proxy("connects")),
            },
            Step::Tls => match &self.trail.tls {
                Some(found) => handshake(found, self.at),
                None => return not_done(step, "none: the address is http".to_owned()),
            },
            Step::Http => return self.http(),
            Step::Session => match &self.user {
                Some(user) => clean(user, 200),
                None => "the server takes the token".to_owned(),
            },
            Step::Policy => "allowed".to_owned(),
            Step::Upstream => match self.first.as_deref() {
                None => "connected".to_owned(),
                Some([]) => "connected; the service says nothing".to_owned(),
                Some(said) => first_line(said),
            },
        };
        Check::new(name(step), CheckOutcome::Good, message)
    }

    fn http(&self) -> Check {
        let good = |message: String| Check::new(CheckName::Http, CheckOutcome::Good, message);
        let Some((theirs, ours)) = self.clocks else {
            return good("Pomerium answers".to_owned());
        };
        let ahead = ours.duration_since(theirs);
        let apart = ahead.unsigned_abs();
        if apart < AGREE {
            return good("Pomerium answers; clocks agree".to_owned());
        }
        let shown = humanize::duration(apart);
        if apart < WRONG {
            return good(format!("Pomerium answers; clocks differ by {shown}"));
        }
        let side = match ahead > SignedDuration::ZERO {
            true => "ahead of",
            false => "behind",
        };
        Check {
            code: Some(Code::Local),
            hint: Some(
                "set this machine's clock; certificates and logins look expired otherwise"
                    .to_owned(),
            ),
            ..Check::new(
                CheckName::Http,
                CheckOutcome::Bad,
                format!("this machine's clock is {shown} {side} the server's"),
            )
        }
    }
}

impl Failed {
    fn check(&self) -> Check {
        let Reason {
            code,
            message,
            hint,
            ..
        } = &self.reason;
        Check {
            code: Some(*code),
            hint: hint.clone(),
            facts: self.facts.clone(),
            ..Check::new(name(self.step), CheckOutcome::Bad, message.clone())
        }
    }
}

/// Returns the reason for a token that the server does not take any more. `None`: the cluster's token comes from a source
/// that asks nobody, of which [`super::open::reason`] knows more.
pub fn session_over(
    cluster: &ClusterName,
    spec: &ClusterSpec,
    user: Option<&str>,
    at: Timestamp,
) -> Option<Reason> {
    if spec.token.source != TokenSource::Browser {
        return None;
    }
    let of = user.map_or_else(String::new, |it| format!(" of {}", clean(it, 200)));
    let message = format!("{cluster} does not take the login{of} any more (401)");
    Some(Reason {
        hint: Some(format!("log in again: pomctl login {cluster}")),
        ..Reason::new(Code::LoginNeeded, message, at)
    })
}

/// Returns the reason for a cluster that nobody is logged in to.
pub fn not_logged_in(cluster: &ClusterName, at: Timestamp) -> Reason {
    Reason {
        hint: Some(format!("log in: pomctl login {cluster}")),
        ..Reason::new(
            Code::LoginNeeded,
            format!("nobody is logged in to {cluster}"),
            at,
        )
    }
}

/// Returns the check of a tunnel that cannot listen on `addresses`.
pub fn cannot_listen(addresses: &str, reason: &Reason) -> Check {
    let Reason {
        code,
        message,
        hint,
        ..
    } = reason;
    let hint = hint.clone().or_else(|| {
        let held = "whatever connects there reaches that program, and not the tunnel: end it, or choose another port by listen";
        (*code == Code::AddressInUse).then(|| held.to_owned())
    });
    Check {
        code: Some(*code),
        hint,
        ..Check::new(
            CheckName::Listener,
            CheckOutcome::Bad,
            format!("{addresses}: {message}"),
        )
    }
}

fn not_done(step: Step, message: String) -> Check {
    Check::new(name(step), CheckOutcome::NotDone, message)
}

fn by_proxy(does: &str) -> String {
    format!("the forward proxy {does}")
}

fn name(step: Step) -> CheckName {
    match step {
        Step::Resolve => CheckName::Dns,
        Step::Proxy => CheckName::ForwardProxy,
        Step::Connect => CheckName::Tcp,
        Step::Tls => CheckName::Tls,
        Step::Http => CheckName::Http,
        Step::Session => CheckName::Session,
        Step::Policy => CheckName::Policy,
        Step::Upstream => CheckName::Upstream,
    }
}

fn list(all: &[std::net::IpAddr]) -> String {
    const MOST: usize = 4;
    let mut shown: Vec<String> = all.iter().take(MOST).map(ToString::to_string).collect();
    if all.len() > MOST {
        shown.push("…".to_owned());
    }
    shown.join(", ")
}

fn handshake(found: &TlsFound, now: Timestamp) -> String {
    let group = found.group.as_deref().map(|it| clean(it, 40));
    let issuer = found.issuer.as_deref();
    let issuer = issuer.map(|it| format!("issued by {}", clean(it, 80)));
    let until = found.until.map(|it| {
        let day = it.strftime("%Y-%m-%d");
        match Duration::try_from(it.duration_since(now)) {
            Ok(left) if left < SOON => {
                format!("certificate until {day}, {} left", humanize::duration(left))
            }
            _ => format!("certificate until {day}"),
        }
    });
    let parts = [Some(found.version.clone()), group, issuer, until];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

fn first_line(said: &[u8]) -> String {
    let line = said.split(|it| *it == b'\n').next().unwrap_or_default();
    clean(&String::from_utf8_lossy(line), 80)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn walk() -> Walk {
        Walk {
            steps: vec![
                (Step::Resolve, Duration::from_millis(3)),
                (Step::Connect, Duration::from_millis(18)),
                (Step::Tls, Duration::from_millis(41)),
                (Step::Http, Duration::from_millis(20)),
            ],
            trail: Trail {
                addresses: vec!["198.51.100.7".parse().unwrap()],
                peer: Some("198.51.100.7:443".parse().unwrap()),
                tls: Some(TlsFound {
                    version: "1.3".to_owned(),
                    group: Some("X25519MLKEM768".to_owned()),
                    issuer: Some("Evil\u{1b}[2J CA".to_owned()),
                    until: Some("2027-01-01T00:00:00Z".parse().unwrap()),
                }),
            },
            forward_proxy: None,
            clocks: None,
            user: Some("alice@example.com".to_owned()),
            first: Some(b"SSH-2.0-OpenSSH_9.6\r\nmore".to_vec()),
            failed: None,
            at: "2026-12-20T00:00:00Z".parse().unwrap(),
        }
    }

    fn told(walk: &Walk) -> Vec<String> {
        let sign = |it: &Check| match it.outcome {
            CheckOutcome::Good => '+',
            CheckOutcome::Bad => '!',
            _ => '-',
        };
        let line = |it: &Check| format!("{} {:?}: {}", sign(it), it.name, it.message);
        walk.checks().iter().map(line).collect()
    }

    #[test]
    fn each_step_tells_what_it_met() {
        assert_eq!(
            told(&walk()),
            [
                "+ Dns: 198.51.100.7",
                "- ForwardProxy: none set, none in pomd's environment",
                "+ Tcp: 198.51.100.7:443",
                r"+ Tls: 1.3, X25519MLKEM768, issued by Evil\u{1b}[2J CA, certificate until 2027-01-01, 12d left",
                "+ Http: Pomerium answers",
                "+ Session: alice@example.com",
                "+ Policy: allowed",
                "+ Upstream: SSH-2.0-OpenSSH_9.6",
            ]
        );
        assert_eq!(walk().checks()[2].took_ms, Some(18));
    }

    #[test]
    fn behind_a_forward_proxy_name_and_connection_are_its_own() {
        let walk = Walk {
            trail: Trail {
                tls: walk().trail.tls,
                ..Trail::default()
            },
            forward_proxy: Some("http://proxy.lan:3128 (HTTPS_PROXY)".to_owned()),
            ..walk()
        };
        assert_eq!(
            told(&walk)[..3],
            [
                "- Dns: the forward proxy looks the name up",
                "+ ForwardProxy: http://proxy.lan:3128 (HTTPS_PROXY)",
                "- Tcp: the forward proxy connects",
            ]
        );
    }

    #[test]
    fn what_follows_a_failed_step_was_not_tried() {
        let reason = Reason {
            hint: Some("do this".to_owned()),
            ..Reason::new(Code::Tls, "no TLS", Timestamp::UNIX_EPOCH)
        };
        let failed = Failed {
            step: Step::Tls,
            reason,
            facts: Vec::new(),
        };
        let walk = Walk {
            failed: Some(failed),
            ..walk()
        };
        let told = told(&walk);
        assert_eq!(told[3], "! Tls: no TLS");
        assert!(told[4..].iter().all(|it| it.ends_with(": not tried")));
        let checks = walk.checks();
        assert_eq!(checks[3].hint.as_deref(), Some("do this"));
        assert_eq!(checks[3].took_ms, Some(41));
        // A step that was not tried took no time, whatever an attempt before it measured.
        assert_eq!(checks[4].took_ms, None);
    }

    #[test]
    fn a_clock_that_is_wrong_is_told_with_its_direction() {
        let at = |seconds: i64| Timestamp::from_second(1_000_000 + seconds).unwrap();
        let http = |ours: i64| {
            let walk = Walk {
                clocks: Some((at(0), at(ours))),
                ..walk()
            };
            told(&walk)[4].clone()
        };
        assert_eq!(http(4), "+ Http: Pomerium answers; clocks agree");
        assert_eq!(http(-60), "+ Http: Pomerium answers; clocks differ by 1m");
        let day = 24 * 3600;
        assert_eq!(
            http(day),
            "! Http: this machine's clock is 1d ahead of the server's"
        );
        assert_eq!(
            http(-day),
            "! Http: this machine's clock is 1d behind the server's"
        );
    }
}
