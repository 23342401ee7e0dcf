//! `pomctl connect`: standard input and output to a route. What ssh runs as its `ProxyCommand`.

use std::{io, time::Duration};

use control::{
    client::{ClientError, RouteStream},
    stdio::{AsyncInput, AsyncOutput, StdioError},
    wire::Code,
};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use super::subscribe;
use crate::{
    args::ConnectArgs,
    context::Context,
    failure::{Exit, Failure, Report},
    render::session::with_hint,
    sign_in::{Wish, sign_in},
    start,
};

/// How long a login may take where nobody sits at a terminal: Ansible gives a connection up after 10 s, VS Code after
/// 15 s, and then says less than we do.
const UNATTENDED: Duration = Duration::from_secs(8);

/// How long our input is read on after the route has ended, so that whoever writes it can read the last words first.
const DRAIN: Duration = Duration::from_secs(2);

/// A failure is one line that says who speaks: it stands among the words of ssh, git or whatever called.
pub(crate) async fn run(cx: &Context, args: &ConnectArgs) -> Result<Exit, Failure> {
    match carry(cx, args).await {
        Err(Failure::Told(report)) if !cx.screen.json() => {
            let words = with_hint(&report.message, report.hint.as_deref());
            cx.screen.say(&format!("pomctl: {words}"));
            Ok(report.exit)
        }
        ended => ended,
    }
}

async fn carry(cx: &Context, args: &ConnectArgs) -> Result<Exit, Failure> {
    let opened = match cx.client.connect(&args.route, args.ssh).await {
        Err(ClientError::NotRunning) => {
            start::ensure(cx).await?;
            cx.client.connect(&args.route, args.ssh).await
        }
        other => other,
    };
    let stream = match opened {
        Err(ClientError::Api(error)) if error.code == Code::LoginNeeded => {
            let Some(cluster) = error.cluster else {
                return Err(ClientError::Api(error).into());
            };
            log_in(cx, &cluster).await?;
            cx.client.connect(&args.route, args.ssh).await?
        }
        other => other?,
    };
    let (input, output) = (AsyncInput::default(), AsyncOutput::default());
    let relayed = relay(stream, input, output).await;
    relayed.map_err(|error| match (StdioError::of(&error), error.kind()) {
        (Some(_), io::ErrorKind::BrokenPipe) => Failure::ReaderGone,
        (Some(error), _) => Failure::failed(error.to_string()),
        (None, io::ErrorKind::ConnectionReset) => {
            let hint = "why is in the log: pomctl logs";
            let message = format!("the connection to {} was cut", args.route);
            Failure::told(Report::new(Exit::Failed, "failed", message).hint(Some(hint.to_owned())))
        }
        (None, _) => Failure::failed(format!("the connection broke: {error}")),
    })?;
    Ok(Exit::Done)
}

/// Makes the login visible: the connection itself can show nothing.
async fn log_in(cx: &Context, cluster: &str) -> Result<(), Failure> {
    let (mut events, _) = subscribe(cx).await?;
    let wish = Wish {
        no_browser: false,
        anew: false,
        in_passing: true,
    };
    let login = sign_in(cx, cluster, &mut events, wish);
    if cx.screen.progress_is_watched() {
        return login.await.map(drop);
    }
    match tokio::time::timeout(UNATTENDED, login).await {
        Ok(ended) => ended.map(drop),
        Err(_) => Err(Failure::login_needed(cluster)),
    }
}

/// Until the route ends. That our input ends is told to the route, whose answer may still come.
async fn relay(
    stream: RouteStream,
    mut input: impl AsyncRead + Unpin,
    mut output: impl AsyncWrite + Unpin,
) -> io::Result<()> {
    let (mut from_route, mut to_route) = tokio::io::split(stream);
    {
        let up = async {
            tokio::io::copy(&mut input, &mut to_route).await?;
            to_route.shutdown().await
        };
        let down = async {
            tokio::io::copy(&mut from_route, &mut output).await?;
            output.flush().await
        };
        tokio::pin!(up, down);
        tokio::select! {
            ended = &mut down => ended?,
            sent = &mut up => match sent {
                Err(error) if StdioError::of(&error).is_some() => return Err(error),
                // A route that takes no more may still have said why.
                _ => down.await?,
            },
        }
    }
    // ssh that cannot say its own banner any more does not show what it was told.
    let mut nowhere = tokio::io::sink();
    let rest = tokio::io::copy(&mut input, &mut nowhere);
    match tokio::time::timeout(DRAIN, rest).await {
        Ok(ended) => ended.map(drop),
        Err(_) => Ok(()),
    }
}
