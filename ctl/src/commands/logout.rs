//! `pomctl logout`: forgets a token.

use control::wire::{ClusterState, Status};

use super::which;
use crate::{
    args::LogoutArgs,
    context::Context,
    error::{CliError, Exit},
    render::{
        count,
        paint::{Role, paint},
    },
    sanitise,
};

pub(crate) async fn run(cx: &Context, args: &LogoutArgs) -> Result<Exit, CliError> {
    let status = cx.client.status().await?;
    let name = chosen(&status, args.cluster.as_deref())?;
    let answer = cx.client.logout(&name).await?;
    if cx.screen.json() {
        cx.screen.answer_json(&answer)?;
        return Ok(Exit::Done);
    }
    let name = sanitise::name(&name);
    if !answer.forgotten {
        cx.screen
            .answer(&format!("Nobody was logged in to {name}."))?;
        return Ok(Exit::Done);
    }
    let user = answer.user.as_deref().map(sanitise::name);
    let user = user.map_or(String::new(), |it| format!(" ({it})"));
    let open = match answer.still_open {
        0 => String::new(),
        1 => " 1 open connection stays.".to_owned(),
        many => format!(" {} stay.", count(many, "open connection")),
    };
    cx.screen
        .answer(&format!("Forgot the token of {name}{user}.{open}"))?;
    let url = sanitise::url(&answer.sign_out_url);
    if !url.is_empty() {
        let url = paint(Role::Link, &url);
        cx.screen
            .hint(&format!("to end the session at the server too:\n    {url}"));
    }
    Ok(Exit::Done)
}

/// Returns the cluster that is meant: the one named, the only one, or the only one that is logged in.
fn chosen(status: &Status, said: Option<&str>) -> Result<String, CliError> {
    if let Some(said) = said {
        return Ok(which::cluster(status, said)?.name.clone());
    }
    let in_use = |it: &&control::wire::Cluster| it.state == ClusterState::LoggedIn;
    let logged_in: Vec<_> = status.clusters.iter().filter(in_use).collect();
    match (status.clusters.as_slice(), logged_in.as_slice()) {
        ([one], _) => Ok(one.name.clone()),
        (_, [one]) => Ok(one.name.clone()),
        ([], _) => Err(CliError::usage(
            "no_such_cluster",
            "there is no cluster to log out of",
            None,
        )),
        (_, []) => Err(CliError::usage(
            "no_such_cluster",
            "nobody is logged in to any cluster",
            None,
        )),
        (_, many) => {
            let names: Vec<_> = many.iter().map(|it| sanitise::name(&it.name)).collect();
            let hint = format!("say which: pomctl logout {}", names[0]);
            let message = format!("several clusters are logged in: {}", names.join(", "));
            Err(CliError::usage("bad_request", message, Some(hint)))
        }
    }
}
