//! Why a step of opening a route failed: step, target and cause as values.
//!
//! Transport code makes these values and no sentences; [`crate::words`] makes the sentences and the advice. An enum here
//! belongs to one room of the transport.

mod tls;

use std::{
    error::Error,
    fmt, io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use crate::config::{Address, Authority, ClusterName, Host, ProxyAddress};

pub use tls::{
    CertificateProblem, FileError, FileProblem, PemDamage, PemError, PemKind, SettingsError,
    TlsError,
};

/// A step of opening a route, in the order in which they are taken.
///
/// The last four share one answer of the server: it shows which of them the request got to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// Looks the name up.
    Resolve,
    /// Goes through the forward proxy, if there is one: the connection to it, and what it answers.
    Proxy,
    /// Connects.
    Connect,
    /// Shakes hands.
    Tls,
    /// Sends the request and reads an HTTP answer.
    Http,
    /// The server takes the token.
    Session,
    /// The policy allows the route.
    Policy,
    /// Pomerium reaches the service.
    Upstream,
}

/// A step that failed, on the way to what, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepError {
    /// What the step was to reach.
    pub target: Target,
    /// The forward proxy in between, as it may be shown, where a cause beyond it may be its doing.
    pub through: Option<String>,
    /// Why the step failed. It says which step it was.
    pub cause: Box<Cause>,
}

/// What a step was to reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A host and port that is dialled.
    Dialled(Authority),
    /// A server of the cluster.
    Server(Address),
}

/// Why a step failed, by the room that found out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Cause {
    /// The cluster's settings do not let its token go there.
    #[error("the token is not for that address")]
    Token(#[from] TokenError),
    /// The name or the connection.
    #[error("it could not be dialled")]
    Dial(#[from] DialError),
    /// The forward proxy.
    #[error("the forward proxy did not connect it")]
    Proxy {
        /// The proxy in use.
        proxy: Box<ProxyInUse>,
        /// What went wrong with it.
        #[source]
        error: ProxyError,
    },
    /// The handshake, or what it needs of this machine.
    #[error("TLS failed")]
    Tls(#[from] TlsError),
    /// The answer.
    #[error("it gave no answer of use")]
    Http(#[from] HttpError),
}

/// Why a token was not sent (A15, A24). Nothing was sent at all.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the settings of {cluster} do not allow it")]
pub struct TokenError {
    /// Whose token it is.
    pub cluster: ClusterName,
    /// What does not fit.
    pub reason: TokenReason,
}

/// What does not fit where a token was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenReason {
    /// The host is none of the cluster's.
    Host,
    /// There would be no TLS.
    Plain,
    /// Nothing names the port.
    Port,
}

/// Why there is no TCP connection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DialError {
    /// The name does not exist.
    #[error("no such name")]
    NoSuchName,
    /// The lookup failed.
    #[error("the lookup failed")]
    Lookup(#[source] SystemError),
    /// The lookup took longer than it may.
    #[error("the lookup took too long")]
    LookupTimedOut(Duration),
    /// This process may open no more descriptors (E1).
    #[error("no descriptor is left")]
    OutOfDescriptors {
        /// How many it may have, where that is known.
        limit: Option<u64>,
    },
    /// Every address failed.
    #[error("no address took the connection")]
    Failed(Vec<(SocketAddr, SystemError)>),
    /// Nobody answered in time.
    #[error("no answer")]
    TimedOut {
        /// The addresses that said nothing.
        silent: Vec<IpAddr>,
        /// How long they had.
        limit: Duration,
    },
}

/// A forward proxy in use, and what is known of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyInUse {
    /// Its address. Never holds a password.
    pub address: ProxyAddress,
    /// The environment variable that names it; `None`: the key `forward_proxy`.
    pub variable: Option<&'static str>,
    /// Where the password that was used is written: a file, or a variable.
    pub password_in: Option<String>,
}

/// Why a forward proxy did not connect us.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProxyError {
    /// The address is without TLS: the proxy would see the login.
    #[error("it would see the login")]
    Plain,
    /// There is no connection to it.
    #[error("it could not be dialled")]
    Dial(#[source] DialError),
    /// TLS to the proxy itself failed.
    #[error("TLS to it failed")]
    Tls(#[source] TlsError),
    /// The file with its password is of no use.
    #[error("its password cannot be read")]
    Credentials(#[source] FileError),
    /// It did not answer in time.
    #[error("it did not answer in time")]
    TimedOut(Duration),
    /// It answered with a status other than 2xx.
    #[error("it answered {status}")]
    Answered {
        /// The status.
        status: u16,
        /// The words behind the status.
        reason: String,
        /// The ways to log in that it offers, as it spells them.
        schemes: Vec<String>,
    },
    /// It speaks something other than HTTP. Holds what came first.
    #[error("not an HTTP answer")]
    NotHttp(Vec<u8>),
    /// Its head has no end.
    #[error("the head of its answer is longer than 16 KiB")]
    HeadTooLong,
    /// It refused with this code of RFC 1928.
    #[error("SOCKS code {0}")]
    Socks(u8),
    /// It wants a password, and none is set.
    #[error("it wants a password")]
    PasswordWanted,
    /// It takes neither a password nor nobody.
    #[error("it takes no password")]
    NoPassword,
    /// It does not take this password.
    #[error("it does not take the password")]
    BadPassword,
    /// It speaks something other than SOCKS 5. Holds what came first.
    #[error("not a SOCKS answer")]
    NotSocks(Vec<u8>),
    /// It closed the connection.
    #[error("it closed the connection")]
    Closed,
    /// The connection to it broke.
    #[error("the connection broke off")]
    Io(#[source] SystemError),
}

/// Why there is no answer of use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HttpError {
    /// There was none in time.
    #[error("no answer in time")]
    TimedOut(Duration),
    /// Something other than HTTP came. Holds how it began.
    #[error("not an HTTP answer")]
    NotHttp(Vec<u8>),
    /// The head is longer than it may be: this many KiB.
    #[error("the head of the answer is longer than {0} KiB")]
    HeadTooLong(usize),
    /// The head never came to an end of interim answers.
    #[error("more than 100 interim answers")]
    TooManyInterim,
    /// The head is broken, in the parser's words.
    #[error("the head of the answer is broken ({0})")]
    BrokenHead(String),
    /// The body is longer than it may be: this many MiB.
    #[error("the answer is longer than {0} MiB")]
    BodyTooLong(usize),
    /// The body is broken.
    #[error("the body of the answer is broken")]
    BrokenBody,
    /// The server closed the connection.
    #[error("it closed the connection")]
    Closed {
        /// A part of the answer had come.
        begun: bool,
        /// What the system or TLS said of it, where it was no plain end.
        #[source]
        why: Option<SystemError>,
        /// The server agreed on no protocol in the handshake, as one does that speaks HTTP/2 alone.
        only_http2: bool,
    },
    /// The request itself cannot be made.
    #[error("the request cannot be made: {0}")]
    Request(String),
    /// It is an answer, and not one of Pomerium's.
    #[error("it does not answer as Pomerium does")]
    NotPomerium {
        /// How many bytes the body has.
        length: usize,
        /// The type it says it is of.
        content_type: Option<String>,
    },
    /// What came is no sign-in address. Holds why, as a clause about it.
    #[error("it gave no sign-in address: {0}")]
    SignIn(String),
}

/// An error of the system or of a library, as a value: two are equal that say the same.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct SystemError {
    /// Its kind, where the system gave it.
    pub kind: io::ErrorKind,
    /// Its text, in lower case and without its number.
    pub text: String,
}

impl From<io::Error> for SystemError {
    fn from(error: io::Error) -> Self {
        let text = error.to_string();
        let text = text.split(" (os error").next().unwrap_or(&text);
        Self {
            kind: error.kind(),
            text: lower(text),
        }
    }
}

impl From<io::Error> for ProxyError {
    fn from(error: io::Error) -> Self {
        Self::Io(error.into())
    }
}

/// Returns `text` with its first letter in lower case.
pub(crate) fn lower(text: &str) -> String {
    let mut chars = text.chars();
    match chars.next() {
        Some(first) => first.to_lowercase().chain(chars).collect(),
        None => String::new(),
    }
}

impl Step {
    /// All steps, in order.
    pub const ALL: [Self; 8] = [
        Self::Resolve,
        Self::Proxy,
        Self::Connect,
        Self::Tls,
        Self::Http,
        Self::Session,
        Self::Policy,
        Self::Upstream,
    ];
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Resolve => "resolve",
            Self::Proxy => "proxy",
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::Http => "http",
            Self::Session => "session",
            Self::Policy => "policy",
            Self::Upstream => "upstream",
        })
    }
}

impl StepError {
    /// A step on the way to `target` that failed for `cause`.
    pub fn new(target: Target, cause: impl Into<Cause>) -> Self {
        Self {
            target,
            through: None,
            cause: Box::new(cause.into()),
        }
    }

    /// Which step failed.
    pub fn step(&self) -> Step {
        match &*self.cause {
            Cause::Token(_) => Step::Session,
            Cause::Dial(error) => error.step(),
            Cause::Proxy { .. } => Step::Proxy,
            Cause::Tls(_) => Step::Tls,
            Cause::Http(_) => Step::Http,
        }
    }

    /// Whether the step failed because its time was over.
    pub fn timed_out(&self) -> bool {
        match &*self.cause {
            Cause::Token(_) => false,
            Cause::Dial(error) => error.timed_out(),
            Cause::Proxy { error, .. } => match error {
                ProxyError::TimedOut(_) => true,
                ProxyError::Dial(error) => error.timed_out(),
                ProxyError::Tls(error) => error.timed_out(),
                _ => false,
            },
            Cause::Tls(error) => error.timed_out(),
            Cause::Http(error) => matches!(error, HttpError::TimedOut(_)),
        }
    }
}

impl Error for StepError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.cause.source()
    }
}

impl DialError {
    fn step(&self) -> Step {
        match self {
            Self::NoSuchName | Self::Lookup(_) | Self::LookupTimedOut(_) => Step::Resolve,
            Self::OutOfDescriptors { .. } | Self::Failed(_) | Self::TimedOut { .. } => {
                Step::Connect
            }
        }
    }

    fn timed_out(&self) -> bool {
        matches!(self, Self::LookupTimedOut(_) | Self::TimedOut { .. })
    }
}

impl fmt::Display for Target {
    /// As it is shown: `HOST:PORT`, or `HOST` for a server at the port of its scheme.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dialled(it) => it.fmt(f),
            Self::Server(it) => f.write_str(&it.host_and_port()),
        }
    }
}

impl Target {
    /// The host alone.
    pub fn host(&self) -> &Host {
        match self {
            Self::Dialled(it) => &it.host,
            Self::Server(it) => &it.host,
        }
    }
}
