//! `pomctl connect`: standard input and output to a route. What ssh runs as its `ProxyCommand`.
//!
//! With `--fdpass`, where standard output is a socket that takes one, the route is handed over as a descriptor: see
//! [`fdpass`].

mod fdpass;

use std::{
    io::{self, Read, Write},
    pin::pin,
    sync::mpsc,
    time::Duration,
};

use control::{
    client::{ClientError, RouteStream},
    descriptor, ssh_refusal,
    stdio::{self, AsyncInput, AsyncOutput, StdioError},
    wire::Code,
};
use pomd_core::config::{TunnelName, bare_name};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use super::{one_login_for_both, subscribe};
use crate::{
    args::ConnectArgs,
    config_store::ConfigStore,
    context::Context,
    error::{CliError, Exit, Report},
    render::session::with_hint,
    sanitise,
    screen::Screen,
    sign_in::{LoginOptions, sign_in},
    start,
};

/// How long a login may take where nobody sits at a terminal: Ansible gives a connection up after 10 s, VS Code after
/// 15 s, and then says less than we do.
const UNATTENDED: Duration = Duration::from_secs(8);

/// How long our input is read on after the route has ended, so that whoever writes it can read the last words first.
const DRAIN: Duration = Duration::from_secs(2);

/// Carries bytes until the route ends, or hands it over. Errors are told by [`report`].
pub(crate) async fn run(cx: &Context, args: &ConnectArgs) -> Result<Exit, CliError> {
    if fdpass::is_wanted(args)? {
        return fdpass::hand_over(cx, args).await;
    }
    let args = &ConnectArgs {
        route: route(cx, &args.route)?,
        ..*args
    };
    let stream = open(cx, args).await?;
    let mut login_needed = stream.login_needed();
    let mut relayed = pin!(relay(stream, AsyncInput::default(), AsyncOutput::default()));
    let cluster = tokio::select! {
        biased;
        ended = &mut relayed => return end(cx, args, ended),
        Ok(cluster) = login_needed.wait_for(Option::is_some) => cluster.clone(),
    };
    // The session turned out to be over. Once somebody has logged in, the connection goes on by itself.
    tokio::select! {
        biased;
        ended = &mut relayed => return end(cx, args, ended),
        logged_in = log_in(cx, cluster.as_deref().unwrap_or_default()) => logged_in?,
    }
    end(cx, args, relayed.await)
}

/// Returns the route that was said, or that of the tunnel whose name was said. What no route can be called is told
/// without pomd.
fn route(cx: &Context, said: &str) -> Result<String, CliError> {
    if let Some(name) = TunnelName::parse(said)
        && let Ok(config) = ConfigStore::open(cx).and_then(|it| it.config())
        && let Some(spec) = config.tunnels.get(&name)
    {
        return Ok(spec.route.authority.to_string());
    }
    match bare_name(said) {
        Ok(_) => Ok(said.to_owned()),
        Err(wrong) => Err(CliError::usage(
            "bad_request",
            sanitise::line(&wrong.what),
            Some(wrong.instead),
        )),
    }
}

async fn open(cx: &Context, args: &ConnectArgs) -> Result<RouteStream, CliError> {
    let opened = match cx.client.connect(&args.route, args.ssh).await {
        Err(ClientError::NotRunning) => {
            start::ensure(cx).await?;
            cx.client.connect(&args.route, args.ssh).await
        }
        other => other,
    };
    match opened {
        Err(ClientError::Api(error)) if error.code == Code::LoginNeeded => {
            let Some(cluster) = error.cluster else {
                return Err(ClientError::Api(error).into());
            };
            log_in(cx, &cluster).await?;
            Ok(cx.client.connect(&args.route, args.ssh).await?)
        }
        other => Ok(other?),
    }
}

/// Ends a connection that may have carried bytes: nothing is added to them.
fn end(cx: &Context, args: &ConnectArgs, ended: io::Result<()>) -> Result<Exit, CliError> {
    let Err(error) = ended else {
        return Ok(Exit::Done);
    };
    let words = match (StdioError::of(&error), error.kind()) {
        (Some(_), io::ErrorKind::BrokenPipe) => return Err(CliError::ReaderGone),
        (Some(error), _) => error.to_string(),
        (None, io::ErrorKind::ConnectionReset) => format!(
            "the connection to {} was cut. Why is in the log: pomctl logs",
            sanitise::name(&args.route)
        ),
        (None, _) => format!("the connection broke: {error}"),
    };
    cx.screen.say(&format!("pomctl: {words}"));
    Ok(Exit::Failed)
}

/// Tells why there is no connection: ssh in its own protocol, others in one line, as git and its like show it.
pub(crate) fn report(screen: &Screen, args: &ConnectArgs, failure: &CliError) -> Exit {
    match failure {
        // ssh waits for a descriptor, not for words.
        CliError::Told(report) if descriptor::is_taken_by_stdout() && args.fdpass => {
            screen.say(&format!("pomctl: {}", one_line(report)));
            report.exit
        }
        _ if args.ssh => report_to_ssh(screen, failure),
        failure => report_in_passing(screen, failure),
    }
}

/// Tells a failure in one line that says who speaks: it stands among the words of another program.
pub(crate) fn report_in_passing(screen: &Screen, failure: &CliError) -> Exit {
    match failure {
        CliError::Told(report) if !screen.json() => {
            screen.say(&format!("pomctl: {}", one_line(report)));
            report.exit
        }
        failure => screen.report(failure),
    }
}

/// Tells ssh why there is no connection; it prints what it is told so also where it throws our stderr away.
pub(crate) fn report_to_ssh(screen: &Screen, failure: &CliError) -> Exit {
    let CliError::Told(report) = failure else {
        return screen.report(failure);
    };
    let words = one_line(report);
    let speaker = if words.starts_with("pomd ") {
        "pomctl"
    } else {
        "pomd"
    };
    if screen.answers_a_person() || !tell_ssh(&ssh_refusal::refusal_of(speaker, &words)) {
        screen.say(&format!("pomctl: {words}"));
    }
    report.exit
}

/// Writes `refusal`, then reads on for a moment: ssh that cannot say its own banner any more does not show what it was
/// told.
fn tell_ssh(refusal: &[u8]) -> bool {
    let mut output = stdio::stdout();
    if output
        .write_all(refusal)
        .and_then(|()| output.flush())
        .is_err()
    {
        return false;
    }
    let (done, read) = mpsc::channel::<()>();
    std::thread::spawn(move || {
        let _done = done;
        let mut input = stdio::stdin();
        let mut rest = [0; 1024];
        while input.read(&mut rest).is_ok_and(|it| it > 0) {}
    });
    // Whatever it ends with, ssh is gone or had its time.
    let _ = read.recv_timeout(DRAIN);
    true
}

/// Returns the message, the request id that its hint may speak of, and the hint.
fn one_line(report: &Report) -> String {
    let mut message = report.message.clone();
    // As a fact it stands before the time, for a page of several lines.
    let fact = report.facts.iter().find(|it| it.0 == "request id");
    let fact = fact.and_then(|it| it.1.split([',', ' ']).next());
    if let Some(id) = report.request_id.as_deref().or(fact) {
        message += &format!(", request id {id}");
    }
    let command = report.commands.first();
    let command = command.map(|it| format!("Run: {}", it.0));
    with_hint(&message, report.hint.as_deref().or(command.as_deref()))
}

/// Makes the login visible: the connection itself can show nothing.
async fn log_in(cx: &Context, cluster: &str) -> Result<(), CliError> {
    let (mut events, status) = subscribe(cx).await?;
    let options = LoginOptions {
        no_browser: false,
        anew: false,
        in_passing: true,
    };
    let login = sign_in(cx, cluster, &mut events, options);
    if cx.screen.progress_is_watched() {
        let cluster = login.await?;
        if let Some(hint) = one_login_for_both(&status, &cluster.name) {
            cx.screen.hint(&hint);
        }
        return Ok(());
    }
    match tokio::time::timeout(UNATTENDED, login).await {
        Ok(ended) => ended.map(drop),
        Err(_) => Err(CliError::login_needed(&sanitise::name(cluster))),
    }
}

/// Carries bytes until the route ends. That our input ends is told to the route, whose answer may still come.
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
