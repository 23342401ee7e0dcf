//! `pomctl login`: makes sure that somebody is logged in.

use std::path::Path;

use control::wire::{Cluster, ClusterState, LoginTold, Status};

use super::{one_login_for_both, subscribe, which};
use crate::{
    args::LoginArgs,
    context::Context,
    error::{CliError, Exit},
    render::{View, session},
    sanitise,
    sign_in::{LoginOptions, sign_in},
    start,
};

pub(crate) async fn run(cx: &Context, args: &LoginArgs) -> Result<Exit, CliError> {
    start::ensure(cx).await?;
    let (mut events, status) = subscribe(cx).await?;
    let names = chosen(&status, args.cluster.as_deref(), &cx.screen.view())?;
    let options = LoginOptions {
        no_browser: args.no_browser,
        anew: true,
        in_passing: false,
    };
    let mut clusters = Vec::new();
    let mut hinted = false;
    for name in names {
        let cluster = sign_in(cx, &name, &mut events, options).await?;
        if !cx.screen.json() {
            let line = session::logged_in_to(&cluster, &cx.screen.view());
            cx.screen.answer(&format!("{line}."))?;
            if let Some(hint) = one_login_for_both(&status, &name).filter(|_| !hinted) {
                cx.screen.hint(&hint);
                hinted = true;
            }
        }
        clusters.push(cluster);
    }
    if cx.screen.json() {
        cx.screen.answer_json(&LoginTold { clusters })?;
    }
    Ok(Exit::Done)
}

/// Returns the cluster that is meant. Nobody named: all that need a login; if none does, all, to say so.
fn chosen(status: &Status, said: Option<&str>, view: &View<'_>) -> Result<Vec<String>, CliError> {
    if let Some(said) = said {
        return Ok(vec![which::cluster(status, said)?.name.clone()]);
    }
    let named = |needy: bool| -> Vec<String> {
        let wanted = |it: &&Cluster| !needy || it.state != ClusterState::LoggedIn;
        let clusters = status.clusters.iter().filter(wanted);
        clusters.map(|it| it.name.clone()).collect()
    };
    let found = match named(true) {
        needy if needy.is_empty() => named(false),
        needy => needy,
    };
    if found.is_empty() {
        let path = sanitise::line(&status.pomd.config.path);
        let path = view.path(Path::new(&path));
        let hint = format!("write a tunnel into {path} first; to see how: pomctl status");
        let message = "there is no cluster to log in to yet";
        return Err(CliError::usage("no_such_cluster", message, Some(hint)));
    }
    Ok(found)
}
