//! Sources that ask nobody: a file, a variable, a credential of systemd's, a program, a workload's identity.
//!
//! Each is read anew whenever the session asks; a file is watched besides. What a source gives is checked for its form
//! here and judged by the session and the server. No error says a word of it.

mod program;
mod runner;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use futures_util::future::BoxFuture;
use pomd_core::{
    config::{TokenKind, TokenSource, TokenSpec},
    route::error::SystemError,
    session::{
        Answer,
        error::{LoginError, SourceError},
        token::{Claims, Token},
    },
};
use tokio::{
    sync::{Notify, watch},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{
    server::{LoginServer, LoginTarget, NotGood},
    source::{Attempt, Source, Started},
};
use crate::{
    named_file::{self, Kind, ReadError},
    surroundings::Surroundings,
    upstream::proxy::Environment,
    watch::{Watch, watch},
};

/// The most that a source may give: a token has 16 KiB at most, and may stand in blanks.
const MOST: u64 = named_file::TOKEN_MOST;
/// How long a token is held up by the question whose it is: a program that gives it may have taken half a minute.
const ASK_LIMIT: Duration = Duration::from_secs(10);
/// Where systemd puts the credentials of a unit (systemd.exec(5)).
const CREDENTIALS: &str = "CREDENTIALS_DIRECTORY";

/// The source of one cluster.
#[derive(Clone)]
pub(super) struct Unattended {
    pub(super) cluster: Arc<LoginTarget>,
    pub(super) server: Arc<dyn LoginServer>,
    pub(super) token: TokenSpec,
    pub(super) surroundings: Surroundings,
    pub(super) proxies: Arc<Environment>,
    /// PEM file of roots to trust besides the system's, as for the cluster.
    pub(super) ca_file: Option<PathBuf>,
}

impl Source for Unattended {
    fn start(&self, _: Attempt) -> BoxFuture<'static, Result<Started, LoginError>> {
        let source = self.clone();
        Box::pin(async move {
            let token = source.token().await.map_err(|error| LoginError::Source {
                source: source.token.source.clone(),
                error,
            })?;
            source.answer(token).await.map(Started::Token)
        })
    }

    fn unattended(&self) -> BoxFuture<'static, bool> {
        Box::pin(std::future::ready(true))
    }

    fn show(&self, _: &str) -> BoxFuture<'static, Result<(), String>> {
        Box::pin(std::future::ready(Err("nobody is asked".to_owned())))
    }

    fn watch(
        &self,
        changed: Arc<Notify>,
        stop: CancellationToken,
    ) -> Option<BoxFuture<'static, ()>> {
        let path = self.token.source.file()?.to_owned();
        Some(Box::pin(tell_changes(path, self.token.kind, changed, stop)))
    }
}

impl Unattended {
    async fn token(&self) -> Result<Token, SourceError> {
        let kind = self.token.kind;
        match &self.token.source {
            TokenSource::Browser => Err(SourceError::Empty),
            TokenSource::File(path) => from_file(path.clone(), kind).await,
            TokenSource::Env(name) => {
                let value = self.surroundings.at_start().get(name);
                let value = value.filter(|it| !it.is_empty());
                Token::read(value.ok_or(SourceError::NotSet)?.as_bytes(), kind)
            }
            TokenSource::Credential(name) => {
                let folder = self.surroundings.at_start().get(CREDENTIALS);
                let folder = folder.filter(|it| !it.is_empty());
                let folder = Path::new(folder.ok_or(SourceError::NoCredentials)?);
                from_file(folder.join(name), kind).await
            }
            TokenSource::Command(words) => {
                let now = self.surroundings.now().await;
                Token::read(&program::output(words, &now).await?, kind)
            }
            TokenSource::GithubActions { audience } => {
                let answer = self.ask_runner(audience).await?;
                Token::read(answer.as_bytes(), kind)
            }
        }
    }

    /// A token that only a server can judge counts without it: the next connection asks. Of Pomerium's own tokens the
    /// cluster says whose they are; of others, which need not be good for its own pages, they say it themselves.
    async fn answer(&self, token: Token) -> Result<Answer, LoginError> {
        let claims = token.claims();
        let (user, address) = match token.kind() {
            TokenKind::Bearer => (claims.user.clone(), None),
            TokenKind::Pomerium => {
                let asking = self.server.user(&self.cluster, &token);
                match timeout(ASK_LIMIT, asking).await {
                    Ok(Ok((user, address))) => (user.or(claims.user.clone()), Some(address)),
                    Ok(Err(NotGood::Refused)) => return Err(LoginError::TokenRefused(claims)),
                    Ok(Err(NotGood::Unasked(_))) | Err(_) => (claims.user.clone(), None),
                }
            }
        };
        Ok(Answer {
            user,
            until: until(&token, &claims),
            token,
            address: address.unwrap_or_else(|| self.cluster.login_at[0].clone()),
        })
    }
}

/// Pomerium takes its own tokens past their `exp` (pomerium#6304): there it is a bound, like a session's.
fn until(token: &Token, claims: &Claims) -> Option<jiff::Timestamp> {
    match token.kind() {
        TokenKind::Bearer => token.expires(),
        TokenKind::Pomerium => claims.expires,
    }
}

/// Tells `changed` whenever the file at `path` says another thing than before, and once at the start. What else happens in
/// its folder is of no matter.
async fn tell_changes(
    path: PathBuf,
    kind: TokenKind,
    changed: Arc<Notify>,
    stop: CancellationToken,
) {
    // Nobody needs to know whether watching works: the token is read before it ends in any case.
    let (trouble, _) = watch::channel(None);
    let (_, unreadable) = watch::channel(false);
    let touched = Arc::<Notify>::default();
    let with = Watch {
        changed: touched.clone(),
        walk: Arc::default(),
        unreadable,
        trouble,
    };
    let comparing = async {
        let mut last = None;
        loop {
            touched.notified().await;
            let said = Some(from_file(path.clone(), kind).await);
            if last != said {
                last = said;
                changed.notify_one();
            }
        }
    };
    tokio::select! {
        () = watch(path.clone(), with, stop) => {}
        () = comparing => {}
    }
}

async fn from_file(path: PathBuf, kind: TokenKind) -> Result<Token, SourceError> {
    let reading = tokio::task::spawn_blocking(move || named_file::read(&path, Kind::Token, MOST));
    let read = reading
        .await
        .map_err(|it| SourceError::Unreadable(it.to_string()))?;
    let contents = read.map_err(unreadable)?;
    Token::read(&contents.bytes, kind)
}

fn unreadable(error: ReadError) -> SourceError {
    let why = match error {
        ReadError::Io(it) => SystemError::from(it).text,
        ReadError::Distrusted(it) | ReadError::Unusable(it) => it,
    };
    SourceError::Unreadable(why)
}
