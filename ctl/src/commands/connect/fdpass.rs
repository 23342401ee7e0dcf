//! The route handed to ssh as a descriptor, so that its bytes pass through no other process.
//!
//! ssh waits for the descriptor with no limit of its own, and counts its `ConnectTimeout` from then on: it is handed over
//! soon in any case. Where pomd does not give one soon, or there is something to tell that only pomctl can, another
//! pomctl stands behind the connection and relays as without `--fdpass`.

use std::{env, io, process::Command, time::Duration};

use control::{client::ClientError, descriptor};
use pomd_core::config::bare_name;

use crate::{
    args::ConnectArgs,
    context::Context,
    error::{CliError, Exit},
    start,
};

/// How long pomd may take to hand a descriptor over, which asks nobody else; its start included.
const SOON: Duration = Duration::from_millis(60);

/// Tells whether a descriptor is wanted and can be handed over.
pub(super) fn is_wanted(args: &ConnectArgs) -> Result<bool, CliError> {
    if args.fdpass && !descriptor::IS_SUPPORTED {
        let message = "this system passes no descriptors from program to program";
        let hint = "leave out --fdpass, and ProxyUseFdpass in ssh's configuration";
        return Err(CliError::usage(
            "bad_request",
            message,
            Some(hint.to_owned()),
        ));
    }
    Ok(args.fdpass && descriptor::is_taken_by_stdout())
}

/// Hands ssh a connection to the route.
pub(super) async fn hand_over(cx: &Context, args: &ConnectArgs) -> Result<Exit, CliError> {
    let stream = match tokio::time::timeout(SOON, from_pomd(cx, args)).await {
        Ok(Some(stream)) => stream,
        // What is the matter is found again, and told, by the other one.
        Ok(None) | Err(_) => from_another_pomctl()
            .await
            .map_err(|it| CliError::failed(format!("no connection for ssh can be made: {it}")))?,
    };
    descriptor::send_to_stdout(&stream)
        .map_err(|it| CliError::failed(format!("ssh does not take the connection: {it}")))?;
    Ok(Exit::Done)
}

async fn from_pomd(cx: &Context, args: &ConnectArgs) -> Option<std::net::TcpStream> {
    bare_name(&args.route).ok()?;
    let ask = || cx.client.connect_descriptor(&args.route, args.ssh);
    match ask().await {
        Err(ClientError::NotRunning) => {
            start::ensure(cx).await.ok()?;
            ask().await.ok()
        }
        answer => answer.ok(),
    }
}

/// Returns a connection to another pomctl that was told the same: to it standard output is no socket of ssh's.
async fn from_another_pomctl() -> io::Result<std::net::TcpStream> {
    let (near, far) = descriptor::pair().await?;
    let far = descriptor::blocking(far)?;
    let mut command = Command::new(env::current_exe()?);
    command
        .args(env::args_os().skip(1))
        .stdin(descriptor::stdio(&far)?)
        .stdout(descriptor::stdio(&far)?);
    // Ctrl-C at ssh ends ssh, which this one notices by its connection.
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    command.spawn()?;
    descriptor::blocking(near)
}
