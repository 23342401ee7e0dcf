//! One file for each command: a call, a page of text or JSON, an exit code.

mod add;
mod completions;
pub(crate) mod connect;
mod demo;
mod doctor;
mod down;
mod edit;
mod enable;
mod events;
mod kube_credential;
mod login;
mod logout;
mod logs;
mod man;
pub(crate) mod overview;
mod reload;
mod remove;
mod restart;
mod service;
mod ssh;
mod ssh_config;
mod status;
mod stop;
mod token;
mod top;
mod up;
mod wait;
mod which;

use std::time::Duration;

use control::{
    client::{ClientError, Lines},
    holder::Holder,
    stdio,
    wire::{Start, Status},
};

use crate::{
    args::Command,
    context::Context,
    error::{CliError, Exit},
    render::count,
    sanitise,
};

/// How long pomd may take to say how things stand.
const LIMIT: Duration = Duration::from_secs(10);

/// Runs the command. What goes on for as long as somebody reads it ends with its reader, not at the next write.
pub(crate) async fn run(cx: &Context, command: Command) -> Result<Exit, CliError> {
    let goes_on = command.goes_on();
    tokio::select! {
        biased;
        result = dispatch(cx, command) => result,
        () = stdio::reader_gone(), if goes_on => Err(CliError::ReaderGone),
    }
}

async fn dispatch(cx: &Context, command: Command) -> Result<Exit, CliError> {
    match command {
        Command::Status(args) => status::run(cx, &args).await,
        Command::Up(args) => up::run(cx, &args).await,
        Command::Down(args) => down::run(cx, &args).await,
        Command::Login(args) => login::run(cx, &args).await,
        Command::Logout(args) => logout::run(cx, &args).await,
        Command::Doctor(args) => doctor::run(cx, &args).await,
        Command::Logs(args) => logs::run(cx, &args).await,
        Command::Add(args) => add::run(cx, &args).await,
        Command::Remove(args) => remove::run(cx, &args).await,
        Command::Enable(args) => enable::run(cx, &args.names, Start::Auto).await,
        Command::Disable(args) => enable::run(cx, &args.names, Start::Manual).await,
        Command::Edit => edit::run(cx).await,
        Command::Reload => reload::run(cx).await,
        Command::Restart(args) => restart::run(cx, &args).await,
        Command::Stop => stop::run(cx).await,
        Command::Service(args) => service::run(cx, &args).await,
        Command::Connect(args) => connect::run(cx, &args).await,
        Command::Ssh(args) => ssh::run(cx, &args).await,
        Command::SshConfig(args) => ssh_config::run(cx, &args),
        Command::Top => top::run(cx).await,
        Command::Events => events::run(cx).await,
        Command::Wait(args) => wait::run(cx, &args).await,
        Command::Token(args) => token::run(cx, &args).await,
        Command::KubeCredential(args) => kube_credential::run(cx, &args).await,
        Command::Demo(args) => demo::run(&args),
        Command::Completions(args) => completions::run(cx, &args),
        Command::Man(args) => man::run(cx, &args),
    }
}

/// Returns what a pomd that ended took with it, behind a sentence.
fn ended_with_it(connections: u64) -> String {
    match connections {
        0 => String::new(),
        many => format!(" {} ended with it.", count(many, "connection")),
    }
}

/// Returns the changes from now on, and the status.
async fn subscribe(cx: &Context) -> Result<(Lines<Status>, Status), CliError> {
    let mut events = cx.client.events().await?;
    match tokio::time::timeout(LIMIT, events.next()).await {
        Ok(first) => first?
            .map(|status| (events, status))
            .ok_or_else(|| ended(cx)),
        Err(_) => Err(CliError::failed("pomd does not tell how things stand")),
    }
}

/// Returns the error for a pomd that went away in the middle of what it was asked; the hint is what its lock file says of
/// its log.
pub(crate) fn ended(cx: &Context) -> CliError {
    let facts = Holder::read(&cx.paths.state).and_then(|it| it.facts);
    CliError::pomd_ended(facts.as_ref().map(|it| it.log.as_deref()))
}

/// Returns the status, or nothing where no pomd runs.
async fn status_if_running(cx: &Context) -> Result<Option<Status>, CliError> {
    match cx.client.status().await {
        Err(ClientError::NotRunning) => Ok(None),
        answer => Ok(Some(answer?)),
    }
}

/// Returns advice where two hosts of one domain, each with a login of its own, are likely to be one Pomerium.
pub(super) fn one_login_for_both(status: &Status, new: &str) -> Option<String> {
    one_login_for(status.clusters.iter().map(|it| it.name.as_str()), new)
}

/// Returns that advice for `new` beside the clusters of these names.
fn one_login_for<'a>(clusters: impl IntoIterator<Item = &'a str>, new: &str) -> Option<String> {
    let domain = |it: &str| it.split_once('.').map(|it| it.1.to_owned());
    let ours = domain(new).filter(|it| it.contains('.'))?;
    let mut clusters = clusters.into_iter();
    let other = clusters.find(|it| *it != new && domain(it).as_ref() == Some(&ours))?;
    let other = sanitise::name(other);
    let ours = sanitise::name(&ours);
    let name = ours.split('.').next().unwrap_or_default();
    Some(format!(
        "if this is the same Pomerium as that of {other}, one login can serve both. Put into pomd.toml:\n    \
         [cluster.{name}]\n    hosts = [\"*.{ours}\"]"
    ))
}
