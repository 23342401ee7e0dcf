//! `pomctl token`: what proves the login, for programs that send it themselves.

use std::time::Duration;

use control::{
    client::ClientError,
    wire::{ClusterState, Code, TokenAnswer},
};

use super::{subscribe, which};
use crate::{
    args::TokenArgs,
    context::Context,
    error::{CliError, Exit},
    sanitise,
    sign_in::{LoginOptions, sign_in},
    start,
};

/// How long a login that somebody opened is waited for where nobody sits at a terminal.
const UNATTENDED: Duration = Duration::from_secs(30);

pub(crate) async fn run(cx: &Context, args: &TokenArgs) -> Result<Exit, CliError> {
    let is_attended = cx.screen.progress_is_watched();
    let answer = obtain(cx, args.cluster.as_deref(), is_attended).await?;
    if cx.screen.json() {
        cx.screen.answer_json(&answer)?;
        return Ok(Exit::Done);
    }
    let token = answer.token.reveal();
    if args.header {
        let scheme = if answer.bearer { "Bearer" } else { "Pomerium" };
        cx.screen
            .answer(&format!("Authorization: {scheme} {token}"))?;
    } else {
        cx.screen.answer(token)?;
    }
    Ok(Exit::Done)
}

/// Returns the token of the cluster that is meant. Without a login: leads a person through one, waits for one that is
/// open already, or fails.
pub(super) async fn obtain(
    cx: &Context,
    said: Option<&str>,
    is_attended: bool,
) -> Result<TokenAnswer, CliError> {
    start::ensure(cx).await?;
    let (mut events, status) = subscribe(cx).await?;
    let name = which::one_cluster(&status, said, "pomctl token")?;
    let needed = match cx.client.token(&name).await {
        Err(ClientError::Api(error)) if error.code == Code::LoginNeeded => error,
        answer => return Ok(answer?),
    };
    let options = LoginOptions {
        no_browser: false,
        anew: false,
        in_passing: true,
    };
    let login = sign_in(cx, &name, &mut events, options);
    if is_attended {
        login.await?;
    } else {
        match state(cx, &name).await? {
            Some(ClusterState::LoginRunning) => {
                tokio::time::timeout(UNATTENDED, login)
                    .await
                    .map_err(|_| CliError::login_needed(&sanitise::name(&name)))??;
            }
            // It ended meanwhile.
            Some(ClusterState::LoggedIn) => {}
            _ => return Err(ClientError::Api(needed).into()),
        }
    }
    Ok(cx.client.token(&name).await?)
}

async fn state(cx: &Context, name: &str) -> Result<Option<ClusterState>, CliError> {
    let status = cx.client.status().await?;
    let mut clusters = status.clusters.iter();
    Ok(clusters.find(|it| it.name == name).map(|it| it.state))
}
