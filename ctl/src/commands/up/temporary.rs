//! Routes that no tunnel has yet: `up` makes a temporary one, and takes it away again where it does not work.

use control::wire::TunnelRequest;
use pomd_core::config::Temporary;

use super::which;
use crate::{args::UpArgs, context::Context, error::CliError, sanitise};

/// Refuses what no tunnel can be made of, before pomd is started for it.
pub(super) fn check(args: &UpArgs) -> Result<(), CliError> {
    let names = &args.which.names;
    if args.listen.is_some() && !matches!(names.as_slice(), [route] if which::is_route(route)) {
        return Err(CliError::usage(
            "bad_request",
            "--listen goes with one route, HOST:PORT; a tunnel of the file listens where the file says",
            Some("pomctl up HOST:PORT --listen PORT".to_owned()),
        ));
    }
    for route in names.iter().filter(|it| which::is_route(it)) {
        Temporary::parse(route, args.listen.as_deref()).map_err(|wrong| {
            let what = sanitise::line(&wrong.what);
            CliError::usage("bad_request", what, Some(wrong.instead))
        })?;
    }
    Ok(())
}

/// Returns the names that were said, with those of their tunnels in place of routes, and which of these were made.
pub(super) async fn make(
    cx: &Context,
    args: &UpArgs,
) -> Result<(Vec<String>, Vec<String>), CliError> {
    let (mut names, mut made) = (Vec::new(), Vec::new());
    for said in &args.which.names {
        if !which::is_route(said) {
            names.push(said.clone());
            continue;
        }
        let request = TunnelRequest {
            route: said.clone(),
            listen: args.listen.clone(),
        };
        match cx.client.make_tunnel(&request).await {
            Ok(tunnel) => {
                made.extend(tunnel.made.then(|| tunnel.name.clone()));
                names.push(tunnel.name);
            }
            Err(error) => {
                take_away(cx, &made).await;
                return Err(error.into());
            }
        }
    }
    Ok((names, made))
}

/// Nothing is left of a command that failed. It has its own error to tell.
pub(super) async fn take_away(cx: &Context, made: &[String]) {
    for name in made {
        let _ = cx.client.down(name, false).await;
    }
}
