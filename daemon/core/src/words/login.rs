//! Logins in sentences: why one came to nothing, why there is no token, what the log says of a session.

use control::{
    text::clean,
    wire::{Code, Reason},
};
use jiff::Timestamp;

use crate::{
    config::{Address, TokenSource},
    route::refusal::{Refusal, RefusalKind},
    session::{
        Event, Need,
        error::{Cause, LoginError, NotTaken, Question, SourceError},
        token::Claims,
    },
    words::step,
};

/// A [`LoginError`] in words.
#[derive(Debug, PartialEq, Eq)]
pub struct Described {
    /// What a program may tell by it.
    pub code: Code,
    /// The sentence.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
    /// Finds the case in Pomerium's log.
    pub request_id: Option<String>,
}

impl LoginError {
    /// Returns the error in words.
    pub fn describe(&self, cluster: &str) -> Described {
        let said = |code, message| Described {
            code,
            message,
            hint: None,
            request_id: None,
        };
        match self {
            Self::Server {
                question,
                at,
                cause,
            } => match (question, cause) {
                (Question::Routes, Cause::Refused(it)) if it.kind == RefusalKind::NoSuchRoute => {
                    Described {
                        hint: Some("an older Pomerium has no portal to ask; a tunnel needs none: pomctl add NAME HOST:PORT".to_owned()),
                        ..described(&question.words(cluster), at, cause)
                    }
                }
                _ => described(&question.words(cluster), at, cause),
            },
            Self::NoAnswer { question, within } => said(
                Code::Timeout,
                format!(
                    "{}: no answer within {} s",
                    question.words(cluster),
                    within.as_secs()
                ),
            ),
            Self::Source { source, error } => Described {
                hint: error.advice(source),
                ..said(
                    Code::LoginFailed,
                    format!("cannot get the token of {cluster}: {}", error.words(source)),
                )
            },
            Self::TokenExpired { at } => said(
                Code::LoginFailed,
                format!("the token that is given for {cluster} expired at {at}"),
            ),
            Self::TokenRefused(claims) => Described {
                hint: Some(
                    "give it another one, or ask your Pomerium administrator whether it is meant to be accepted"
                        .to_owned(),
                ),
                ..said(
                    Code::LoginFailed,
                    format!("{cluster} refuses the token that it is given{}", told(claims)),
                )
            },
            Self::CannotListen(why) => said(
                Code::Local,
                format!("cannot listen for the login to {cluster}: {why}"),
            ),
            Self::Interrupted => said(
                Code::LoginFailed,
                format!("the login to {cluster} was ended meanwhile"),
            ),
            Self::Overtaken => said(
                Code::LoginFailed,
                format!("the server refuses each login to {cluster} as soon as it is made"),
            ),
            Self::Replaced => said(
                Code::LoginFailed,
                format!("the settings of {cluster} changed meanwhile; connect again"),
            ),
            Self::Stopping => said(Code::Stopping, "pomd is stopping".to_owned()),
            Self::Broken => said(
                Code::Internal,
                format!("the session of {cluster} broke; connect again"),
            ),
        }
    }

    /// Returns the error as the state of a cluster or a connection.
    pub fn reason(&self, cluster: &str, at: Timestamp) -> Reason {
        let it = self.describe(cluster);
        Reason {
            hint: it.hint,
            request_id: it.request_id,
            ..Reason::new(it.code, it.message, at)
        }
    }
}

impl SourceError {
    fn words(&self, source: &TokenSource) -> String {
        let what = match source {
            TokenSource::Browser => "the browser".to_owned(),
            TokenSource::File(path) => clean(&path.display().to_string(), 200),
            TokenSource::Env(name) => format!("the variable {}", clean(name, 80)),
            TokenSource::Credential(name) => format!("the credential {}", clean(name, 80)),
            TokenSource::Command(words) => {
                clean(words.first().map_or("the command", String::as_str), 200)
            }
            TokenSource::GithubActions { .. } => "the token service of GitHub Actions".to_owned(),
        };
        match self {
            Self::Unreadable(why) => format!("{what}: {why}"),
            Self::NotSet => format!("{what} is not set"),
            Self::NoCredentials => {
                format!("{what} is not there: systemd handed over no credentials")
            }
            Self::Empty => format!("{what} gives nothing"),
            Self::NotAToken => format!(
                "{what} gives no token: it must be one word of 1 to 16,384 visible characters"
            ),
            Self::CannotRun(why) => format!("cannot run {what}: {why}"),
            Self::Failed { code: Some(code) } => format!("{what} ended with exit code {code}"),
            Self::Failed { code: None } => format!("{what} was ended by a signal"),
            Self::TimedOut(limit) => {
                format!("{what} gave nothing within {} s", limit.as_secs())
            }
            Self::TooLong(most) => format!("{what} gives more than {most} bytes"),
            Self::NoRunner => {
                "this is no job of GitHub Actions that may ask for a token".to_owned()
            }
            Self::Service { status } => format!("{what} answered {status}"),
            Self::Unreachable(why) => format!("{what}: {why}"),
        }
    }

    fn advice(&self, source: &TokenSource) -> Option<String> {
        match (self, source) {
            (Self::NoRunner, _) => Some("give the job permissions: id-token: write".to_owned()),
            (Self::NoCredentials, TokenSource::Credential(name)) => {
                let name = clean(name, 80);
                Some(format!(
                    "add to pomd's unit: LoadCredential={name}:/path/to/it"
                ))
            }
            (Self::NotSet, TokenSource::Env(_)) => {
                Some("set it where pomd is started, and restart pomd".to_owned())
            }
            (Self::Failed { .. }, TokenSource::Command(_)) => {
                Some("run it in a terminal: it says there what is wrong".to_owned())
            }
            _ => None,
        }
    }
}

impl NotTaken {
    /// Returns in words why the address was not taken.
    pub fn describe(&self, cluster: &str) -> Described {
        let (code, message) = match self {
            Self::NotOpen => (
                Code::LoginNeeded,
                format!("no login to {cluster} waits for an address"),
            ),
            Self::Foreign => (
                Code::BadRequest,
                "that address belongs to another login".to_owned(),
            ),
            Self::Unusable => (
                Code::BadRequest,
                "that address holds no token that can be used".to_owned(),
            ),
            Self::Denied(why) => (
                Code::LoginFailed,
                format!("the login did not succeed: {why}"),
            ),
            Self::Unasked(error) => return error.describe(cluster),
        };
        Described {
            code,
            message,
            hint: None,
            request_id: None,
        }
    }
}

/// Who issued a token and whom it is for, as far as it says so.
pub fn told(claims: &Claims) -> String {
    let audience = claims.audience.iter().map(|it| format!("audience {it}"));
    let issuer = claims.issuer.iter().map(|it| format!("issuer {it}"));
    let all: Vec<String> = audience.chain(issuer).collect();
    match all.is_empty() {
        true => String::new(),
        false => format!(" ({})", all.join(", ")),
    }
}

impl Event {
    /// Tells whether the event is worth a warning.
    pub fn is_trouble(&self) -> bool {
        match self {
            Self::LoggedIn { instead_of, .. } => instead_of.is_some(),
            Self::Obtained { .. }
            | Self::Forgotten
            | Self::Expired
            | Self::LoggedOut
            | Self::BoundDisproved => false,
            Self::Failed(_) | Self::NotShown(_) | Self::NotWritten(_) => true,
        }
    }

    /// Returns the event as a log line.
    pub fn describe(&self, cluster: &str) -> String {
        match self {
            Self::LoggedIn { user, instead_of } => {
                let user = user.iter().map(|it| format!(" as {it}"));
                let before = instead_of.iter().map(|it| format!(", before it was {it}"));
                let told: String = user.chain(before).collect();
                format!("logged in{told}")
            }
            Self::Obtained { user } => {
                let user = user.iter().map(|it| format!(" of {it}"));
                format!("took the token{}", user.collect::<String>())
            }
            Self::Expired => "the token is over by its own word".to_owned(),
            Self::Forgotten => "the token is forgotten; a login is needed".to_owned(),
            Self::LoggedOut => "logged out".to_owned(),
            Self::BoundDisproved => {
                "the server accepts the session past the end that it told".to_owned()
            }
            Self::Failed(error) => error.describe(cluster).message,
            Self::NotShown(why) => format!("the browser did not open: {why}"),
            Self::NotWritten(trouble) => trouble.clone(),
        }
    }
}

impl Question {
    fn words(self, cluster: &str) -> String {
        match self {
            Self::SignInUrl => format!("cannot start a login to {cluster}"),
            Self::IsTokenGood => format!("cannot ask {cluster} whether the login is good"),
            Self::Routes => format!("cannot ask {cluster} for its routes"),
        }
    }
}

/// Says why there is no grant; `since` is when a login was first needed.
pub fn reason(cluster: &str, need: &Need<'_>, since: Timestamp) -> Reason {
    match need {
        Need::RefusedTwice => {
            let message =
                format!("{cluster} refuses the token it just gave. Run: pomctl login {cluster}");
            Reason::new(Code::LoginFailed, message, since)
        }
        Need::Failed { error, at, pause } => {
            let mut res = error.reason(cluster, *at);
            let next = pause.map(|it| {
                let pause = it.as_secs();
                let when = match error {
                    LoginError::Source { .. }
                    | LoginError::TokenExpired { .. }
                    | LoginError::TokenRefused(_) => "",
                    _ => " for the next connection",
                };
                format!(
                    "pomd tries again{when} after {pause} s; to try now: pomctl login {cluster}"
                )
            });
            res.hint = res.hint.or(next);
            res
        }
        Need::Token => {
            let message = format!("{cluster} has no token. Run: pomctl login {cluster}");
            Reason::new(Code::LoginNeeded, message, since)
        }
        Need::Login {
            not_shown,
            not_written,
        } => Reason {
            hint: not_shown
                .map(|why| format!("the browser did not open: {why}"))
                .or_else(|| not_written.map(str::to_owned)),
            ..login_needed(cluster, since)
        },
    }
}

/// Says that somebody has to log in.
pub fn login_needed(cluster: &str, since: Timestamp) -> Reason {
    let message = format!("{cluster} needs a login. Run: pomctl login {cluster}");
    Reason::new(Code::LoginNeeded, message, since)
}

fn described(tried: &str, at: &Address, cause: &Cause) -> Described {
    match cause {
        Cause::Unreachable { error, section } => Described {
            code: step::code(error),
            message: format!("{tried}: {error}"),
            hint: step::advice(error, section),
            request_id: None,
        },
        Cause::Refused(it) => refused(tried, at, it),
        Cause::WantsLogin { request_id } => Described {
            code: Code::LoginFailed,
            message: format!("{tried}: {at} wants a login first"),
            hint: None,
            request_id: request_id.clone(),
        },
        Cause::Internal(why) => Described {
            code: Code::Internal,
            message: format!("{tried}: {why}"),
            hint: None,
            request_id: None,
        },
    }
}

fn refused(tried: &str, at: &Address, it: &Refusal) -> Described {
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
    let detail = it
        .detail
        .as_ref()
        .map_or(String::new(), |it| format!(": {it}"));
    let said = match (it.kind, it.status) {
        // TLS said it, and there is no status.
        (RefusalKind::ClientCertificate, 0) => "wants a client certificate".to_owned(),
        (RefusalKind::ClientCertificate, status) => {
            format!("wants a client certificate ({status})")
        }
        (_, status) => format!("answered {status}{detail}"),
    };
    Described {
        code,
        message: format!("{tried}: {at} {said}"),
        hint,
        request_id: it.request_id.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    use crate::{
        config::Host,
        route::error::{DialError, StepError, Target},
    };

    #[test]
    fn each_error_names_the_step_and_what_was_tried() {
        let at = Address {
            tls: true,
            host: Host::Name("corp.example.com".to_owned()),
            port: 443,
        };
        let told = |cause| {
            let error = LoginError::Server {
                question: Question::SignInUrl,
                at: at.clone(),
                cause,
            };
            let it = error.describe("corp");
            (it.code, it.message)
        };
        let failed = |error: DialError| Cause::Unreachable {
            error: Box::new(StepError::new(Target::Server(at.clone()), error)),
            section: "[cluster.corp]".to_owned(),
        };
        let refusal = |kind, status, detail: Option<&str>| {
            Cause::Refused(Refusal {
                kind,
                status,
                request_id: None,
                detail: detail.map(str::to_owned),
            })
        };
        let dns = "cannot start a login to corp: no such name: corp.example.com";
        assert_eq!(
            told(failed(DialError::NoSuchName)),
            (Code::Dns, dns.to_owned())
        );
        let late = DialError::LookupTimedOut(Duration::from_secs(5));
        assert_eq!(told(failed(late)).0, Code::Timeout);
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
