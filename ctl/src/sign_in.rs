//! Leads a person through one login: shows its address, waits, tells how it ended.

use std::time::Duration;

use control::{
    browser::{Candidate, machine::host_name},
    client::Lines,
    wire::{BrowserChoice, Cluster, ClusterState, Code, LoginRequest, OpenLogin, Opener, Status},
};
use tokio::time::Instant;

use crate::{
    browser::{self, Plan},
    commands,
    context::Context,
    error::{CarriedLogin, CliError, Exit, Report},
    render::paint::{Role, paint},
    sanitise, screen,
    waiting::{Waiting, ticks},
};

/// A sign-in URL is good for five minutes; a person gets a new one before that.
const URL_LIFE: Duration = Duration::from_secs(4 * 60);
/// How often pomd is asked how the login stands, beside its events.
const LOOK: Duration = Duration::from_secs(1);
const DOING: &str = "waiting for you to sign in";
const NOTE: &str = " (Ctrl-C stops waiting; the login stays open)";

/// How a login is wanted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LoginOptions {
    /// The address is printed, whatever browsers there are.
    pub(crate) no_browser: bool,
    /// A tab is opened even if a login is open already: somebody asked for it by name.
    pub(crate) anew: bool,
    /// Told in one line that says who speaks: it stands among the words of another program.
    pub(crate) in_passing: bool,
}

/// Logs in to a cluster, unless its session is good. `events` was subscribed before, so that no change is missed.
pub(crate) async fn sign_in(
    cx: &Context,
    cluster: &str,
    events: &mut Lines<Status>,
    options: LoginOptions,
) -> Result<Cluster, CliError> {
    let planned = |choice: &BrowserChoice| browser::plan(options.no_browser, choice);
    let mut mint = matches!(planned(&BrowserChoice::Default), Plan::Print(_));
    let (cluster_now, login, choice) = ask(cx, cluster, mint).await?;
    let Some(mut login) = login else {
        return Ok(cluster_now);
    };
    let name = cluster_now.name;
    cx.screen.goes_on("the login stays open");
    let mut plan = planned(&choice);
    if let Plan::Open(candidates) = &plan {
        mint = false;
        if let Err(error) = open(cx, &name, &login, candidates, options).await {
            let who = if options.in_passing {
                "pomctl: no"
            } else {
                "No"
            };
            cx.screen
                .say(&format!("{who} browser could be opened: {error}"));
            plan = Plan::Print(None);
        }
    }
    if let Plan::Print(reason) = plan {
        if !mint {
            mint = true;
            login = match ask(cx, &name, true).await? {
                (cluster, None, _) => return Ok(cluster),
                (_, Some(login), _) => login,
            };
        }
        show(cx, &name, &login, reason, options)?;
    }
    let ended = Wait {
        cx,
        cluster: &name,
        expires_at: login.expires_at,
        mint,
        in_passing: options.in_passing,
    }
    .until_done(events)
    .await;
    cx.screen.goes_on("");
    ended
}

async fn ask(
    cx: &Context,
    cluster: &str,
    mint: bool,
) -> Result<(Cluster, Option<OpenLogin>, BrowserChoice), CliError> {
    let request = LoginRequest {
        opener: Opener::Caller,
        mint,
    };
    let answer = cx.client.login(cluster, request).await?;
    let login = answer.login.map(sanitise::login);
    Ok((sanitise::cluster(answer.cluster), login, answer.browser))
}

async fn open(
    cx: &Context,
    cluster: &str,
    login: &OpenLogin,
    candidates: &[Candidate],
    options: LoginOptions,
) -> Result<(), String> {
    let link = &login.link;
    let tell = |what: &str| {
        let link = paint(Role::Link, link);
        cx.screen.say(&if options.in_passing {
            format!("pomctl: {cluster} needs a login; {what} {link}")
        } else {
            format!("Logging in to {cluster}: {what}\n{link}")
        });
    };
    if !login.fresh && !options.anew {
        let what = if options.in_passing { "one" } else { "a login" };
        tell(&format!("{what} is open already, at"));
        return Ok(());
    }
    if !is_local_page(link) {
        return Err("pomd names a link that is not on this machine".to_owned());
    }
    browser::open(candidates, link).await?;
    tell("your browser was opened at");
    Ok(())
}

fn is_local_page(link: &str) -> bool {
    ["http://127.0.0.1:", "http://[::1]:", "http://localhost:"]
        .iter()
        .any(|it| link.starts_with(it))
}

/// Shows the address to a person who has a browser elsewhere, and how its answer gets back here.
fn show(
    cx: &Context,
    cluster: &str,
    login: &OpenLogin,
    reason: Option<&'static str>,
    options: LoginOptions,
) -> Result<(), CliError> {
    let url = login.sign_in_url.as_ref().unwrap_or(&login.link);
    let port = login.port;
    let ssh = format!("ssh -N -L {port}:127.0.0.1:{port} {}", host_name());
    if cx.screen.json() && !options.in_passing {
        let mut report = login_needed(cluster);
        report.hint = Some("the login stays open for whoever opens its sign_in_url".to_owned());
        report.login = Some(CarriedLogin {
            cluster: cluster.to_owned(),
            sign_in_url: url.clone(),
            link: login.link.clone(),
            ssh,
            expires_at: login.expires_at,
        });
        return Err(CliError::told(report));
    }
    let head = match reason {
        _ if options.in_passing => {
            let why = reason.map_or_else(String::new, |it| format!(" ({it})"));
            format!(
                "pomctl: {cluster} needs a login, and there is no browser here{why}. Open this where you have one:"
            )
        }
        Some(reason) => format!("No browser here ({reason}). Open this where you have one:"),
        None => format!("To log in to {cluster}, open this in a browser:"),
    };
    let text = format!(
        "{head}\n\n{}\n\nAfter you have signed in, a browser on another machine ends on a page that can't be reached.\n\
         To let it arrive: run this where the browser is, then reload the page.\n    {}",
        paint(Role::Link, url),
        paint(Role::Command, &ssh),
    );
    // In passing, standard output is another program's, and standard input says nothing of who sits there.
    if options.in_passing || cx.screen.is_asked_by_a_person() {
        cx.screen.say(&text);
        return Ok(());
    }
    cx.screen.answer(&text)?;
    Err(CliError::told(login_needed(cluster)))
}

fn login_needed(cluster: &str) -> Report {
    let message = format!("{cluster} needs a login");
    let hint = "the login stays open for whoever opens the address above";
    Report::new(Exit::LoginNeeded, "login_needed", message).hint(Some(hint.to_owned()))
}

/// The waiting for a person.
struct Wait<'a> {
    cx: &'a Context,
    cluster: &'a str,
    expires_at: jiff::Timestamp,
    /// The person was given a sign-in URL, which must be renewed.
    mint: bool,
    /// See [`LoginOptions::in_passing`].
    in_passing: bool,
}

impl Wait<'_> {
    async fn until_done(&self, events: &mut Lines<Status>) -> Result<Cluster, CliError> {
        let screen = &self.cx.screen;
        if !screen.progress_is_watched() && !self.in_passing {
            screen.say(&format!("  {DOING}{NOTE}"));
        }
        let mut line = Waiting::new(screen, DOING, NOTE);
        let mut ticks = ticks();
        let mut minted = Instant::now();
        // A login that was over at once may have changed nothing that an event would tell of.
        let mut look = tokio::time::interval_at(Instant::now() + LOOK, LOOK);
        loop {
            tokio::select! {
                event = events.next() => match event? {
                    None => return Err(commands::ended(self.cx)),
                    Some(status) => {
                        if let Some(ended) = self.end_after(&status).await? {
                            return ended;
                        }
                    }
                },
                _ = look.tick() => {
                    if let Some(ended) = self.look().await? {
                        return ended;
                    }
                }
                _ = ticks.tick() => {
                    if screen::now() >= self.expires_at {
                        return Err(unanswered(self.cluster));
                    }
                    if self.mint && minted.elapsed() >= URL_LIFE {
                        line.clear();
                        self.mint_again().await?;
                        minted = Instant::now();
                    }
                    line.draw();
                }
            }
        }
    }

    /// Returns how the login ended, if it did. An event may be older than the login, so pomd is asked before it is believed.
    async fn end_after(
        &self,
        event: &Status,
    ) -> Result<Option<Result<Cluster, CliError>>, CliError> {
        if state_of(event, self.cluster) == Some(ClusterState::LoginRunning) {
            return Ok(None);
        }
        self.look().await
    }

    /// Returns how the login ended by what pomd says now, if it did.
    async fn look(&self) -> Result<Option<Result<Cluster, CliError>>, CliError> {
        let status = sanitise::status(self.cx.client.status().await?);
        let cluster = status
            .clusters
            .into_iter()
            .find(|it| it.name == self.cluster);
        let Some(cluster) = cluster else {
            let message = format!("{} is gone from the configuration", self.cluster);
            return Ok(Some(Err(CliError::failed(message))));
        };
        Ok(match cluster.state {
            ClusterState::LoggedIn => Some(Ok(cluster)),
            ClusterState::LoginRunning | ClusterState::Unknown => None,
            ClusterState::LoginNeeded | ClusterState::LoggedOut => Some(Err(failed(&cluster))),
        })
    }

    async fn mint_again(&self) -> Result<(), CliError> {
        if let (_, Some(login), _) = ask(self.cx, self.cluster, true).await? {
            let url = login.sign_in_url.as_ref().unwrap_or(&login.link);
            let text = format!(
                "That address has expired; here is a new one:\n\n{}\n",
                paint(Role::Link, url)
            );
            self.cx.screen.say(&text);
        }
        Ok(())
    }
}

fn state_of(status: &Status, cluster: &str) -> Option<ClusterState> {
    let mut clusters = status.clusters.iter();
    clusters
        .find(|it| sanitise::name(&it.name) == cluster)
        .map(|it| it.state)
}

fn failed(cluster: &Cluster) -> CliError {
    match &cluster.reason {
        Some(reason) if reason.code == Code::LoginFailed => {
            let report = Report::new(Exit::Failed, "login_failed", reason.message.clone());
            CliError::told(report.hint(reason.hint.clone()))
        }
        _ => unanswered(&cluster.name),
    }
}

fn unanswered(cluster: &str) -> CliError {
    let message = format!("the login to {cluster} has ended, and nobody signed in");
    let report = Report::new(Exit::LoginNeeded, "login_needed", message);
    CliError::told(report.hint(Some(format!("to try again: pomctl login {cluster}"))))
}
