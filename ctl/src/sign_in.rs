//! Leads a person through one login: shows its address, waits, tells how it ended.
//!
//! Long because what a person is shown and what may come while they are waited for are read together.

use std::{io, time::Duration};

use control::{
    browser::{
        Candidate,
        machine::{host_name, is_wsl},
    },
    client::{ClientError, Lines},
    wire::{
        BrowserChoice, Cluster, ClusterState, Code, LoginRequest, OpenLogin, Opener, PastedAnswer,
        Status,
    },
};
use tokio::time::Instant;

use crate::{
    browser::{self, Plan},
    commands,
    context::Context,
    error::{CarriedLogin, CliError, Exit, Report},
    paste::{Terminal, Typed},
    render::paint::{Role, paint},
    sanitise, screen,
    waiting::{Waiting, ticks},
};

/// A sign-in URL is good for five minutes; a person gets a new one before that.
const URL_LIFE: Duration = Duration::from_secs(4 * 60);
/// How often pomd is asked how the login stands, beside its events.
const LOOK: Duration = Duration::from_secs(1);
/// A login that somebody started in this time has just been shown to the person: theirs, too.
const TOGETHER: Duration = Duration::from_secs(10);
/// How long a browser of Windows may take to reach this side of WSL before its address is asked for.
const ACROSS: Duration = Duration::from_secs(60);
const DOING: &str = "waiting for you to sign in";
const BY_HAND: &str =
    "Copy its whole address and paste it here (it is a secret and isn't shown).\n";
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
    let mut terminal = None;
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
        terminal = show(cx, &name, &login, reason, options)?;
    }
    let ended = Wait {
        cx,
        cluster: &name,
        expires_at: login.expires_at,
        mint,
        options,
        link: &login.link,
    }
    .until_done(events, terminal)
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
    if !login.fresh && (!options.anew || is_of_this_moment(login)) {
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

/// The login was started a moment ago by a command beside this one: one tab is enough for both.
fn is_of_this_moment(login: &OpenLogin) -> bool {
    let age = login.started_at.map(|it| screen::now().duration_since(it));
    age.is_some_and(|it| !it.is_negative() && it.unsigned_abs() < TOGETHER)
}

fn is_local_page(link: &str) -> bool {
    ["http://127.0.0.1:", "http://[::1]:", "http://localhost:"]
        .iter()
        .any(|it| link.starts_with(it))
}

/// Shows the address to a person who has a browser elsewhere, and how its answer gets back here: by hand, where it is the
/// person's terminal.
fn show(
    cx: &Context,
    cluster: &str,
    login: &OpenLogin,
    reason: Option<&'static str>,
    options: LoginOptions,
) -> Result<Option<Terminal>, CliError> {
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
    // In passing, standard output is another program's, and standard input says nothing of who sits there.
    let asked = !options.in_passing && cx.screen.is_asked_by_a_person();
    let terminal = asked.then(Terminal::open).and_then(Result::ok);
    let by_hand = match terminal {
        Some(_) => format!("{BY_HAND}Or let it arrive by itself"),
        None => "To let it arrive".to_owned(),
    };
    let text = format!(
        "{head}\n\n{}\n\nAfter you have signed in, a browser on another machine ends on a page that can't be reached.\n\
         {by_hand}: run this where the browser is, then reload the page.\n    {}",
        paint(Role::Link, url),
        paint(Role::Command, &ssh),
    );
    if asked || options.in_passing {
        cx.screen.say(&text);
        return Ok(terminal);
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
    options: LoginOptions,
    link: &'a str,
}

impl Wait<'_> {
    async fn until_done(
        &self,
        events: &mut Lines<Status>,
        mut terminal: Option<Terminal>,
    ) -> Result<Cluster, CliError> {
        let screen = &self.cx.screen;
        if !screen.progress_is_watched() && !self.options.in_passing {
            screen.say(&format!("  {DOING}{NOTE}"));
        }
        let mut line = Waiting::new(screen, DOING, NOTE);
        let mut ticks = ticks();
        let mut minted = Instant::now();
        // A login that was over at once may have changed nothing that an event would tell of.
        let mut look = tokio::time::interval_at(Instant::now() + LOOK, LOOK);
        let asked = !self.options.in_passing && screen.is_asked_by_a_person();
        let mut offers = (asked && !self.mint && is_wsl()).then(|| Instant::now() + ACROSS);
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
                Some(typed) = next(&mut terminal) => match typed {
                    Ok(Typed::Address(address)) => {
                        line.clear();
                        if let Some(cluster) = self.answer(address).await? {
                            return Ok(cluster);
                        }
                    }
                    Ok(Typed::TooLong) => {
                        line.clear();
                        self.again("that is longer than any address");
                    }
                    Ok(Typed::End) | Err(_) => terminal = None,
                },
                _ = ticks.tick() => {
                    if offers.is_some_and(|it| it <= Instant::now()) {
                        offers = None;
                        line.clear();
                        if let (_, Some(login), _) = ask(self.cx, self.cluster, true).await? {
                            let why = Some("the browser of Windows did not come back");
                            terminal = show(self.cx, self.cluster, &login, why, self.options)?;
                        }
                    }
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

    /// Gives pomd the address that the person's browser ended on; returns the session, if it was good.
    async fn answer(&self, address: String) -> Result<Option<Cluster>, CliError> {
        if !address.starts_with("http://") {
            let (_, host) = self.link.split_once("//").unwrap_or_default();
            let host = host.split('/').next().unwrap_or_default();
            self.again(&format!(
                "that is not the whole address, which begins with http://{host}/"
            ));
            return Ok(None);
        }
        let answer = PastedAnswer { address };
        match self.cx.client.answer_login(self.cluster, &answer).await {
            Ok(cluster) => Ok(Some(sanitise::cluster(cluster))),
            // It ended meanwhile; how, the status says.
            Err(ClientError::Api(error)) if error.code == Code::LoginNeeded => Ok(None),
            Err(ClientError::Api(error)) if error.code != Code::Stopping => {
                self.again(&sanitise::line(&error.message));
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    fn again(&self, why: &str) {
        let error = paint(Role::Bad, "error:");
        self.cx
            .screen
            .say(&format!("{error} {why}. Paste again, or Ctrl-C"));
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

/// What is typed next; never, where nobody types.
async fn next(terminal: &mut Option<Terminal>) -> Option<io::Result<Typed>> {
    match terminal {
        Some(terminal) => Some(terminal.next().await),
        None => None,
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
