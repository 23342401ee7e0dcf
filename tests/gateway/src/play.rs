//! The four steps that the demo shows, each by really doing it.

mod sign_in;

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use control::{
    client::Client,
    stdio::AsyncInput,
    wire::{ClusterState, LoginRequest, Status},
};
use gateway::DEMO_USER;
use jiff::{Timestamp, tz::TimeZone};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    task::JoinSet,
};

use crate::{
    say,
    stage::{CLUSTER, Stage},
};

/// How long a step may take that needs no person.
const STEP_TIME: Duration = Duration::from_secs(30);
/// How long a person may take to sign in.
const PERSON_TIME: Duration = Duration::from_secs(5 * 60);
/// How much is said to the echo.
const ECHO_BYTES: usize = 1_000_000;
/// How often the page is asked for again while somebody logs out and in.
const TRIES: u32 = 3;

/// The person did not sign in. Nothing is broken.
#[derive(Debug, thiserror::Error)]
#[error("nobody signed in, so the demo ends. Without hands: pomctl demo --fast")]
pub(crate) struct NobodyCame;

/// Builds the stage and plays on it; it stays in `stage` for the caller to end.
pub(crate) async fn play(
    stage: &mut Option<Stage>,
    fast: bool,
    by_hand: bool,
) -> anyhow::Result<()> {
    say("A simulated Pomerium runs on this machine, with two services behind it.");
    let stage = stage.insert(Stage::build(by_hand).await?);
    a_tunnel(stage)?;
    let player = Player { stage, fast };
    player.one_login().await?;
    player.bytes_flow().await?;
    if by_hand {
        player.heals_by_hand().await
    } else {
        player.heals().await
    }
}

/// One numbered step; its first words stand beside the title.
fn step(number: u32, title: &str, words: &str) {
    say(&format!("\n{:<19}{words}", format!("{number}. {title}")));
}

/// A further line of a step.
fn more(words: &str) {
    say(format!("{:19}{words}", "").trim_end());
}

fn a_tunnel(stage: &Stage) -> anyhow::Result<()> {
    step(
        1,
        "Two tunnels",
        "its pomd.toml, as a person would write it:\n",
    );
    for line in stage.config()?.lines() {
        more(&format!("    {line}"));
    }
    say("");
    more("no certificate would be trusted here, so this Pomerium is");
    more("plain http; for a real one, which has TLS, write");
    more("    route = \"hello.corp.example.com:80\"");
    for (wanted, got) in [(8088, stage.hello), (8089, stage.echo)] {
        if wanted != got {
            more(&format!(
                "port {wanted} is taken on this machine, so it is {got} here"
            ));
        }
    }
    more(&format!("pomd (pid {}) listens on both", stage.pid()));
    more(&format!("all of it is in {}", stage.folder().display()));
    more("to look at it from another terminal:");
    let socket = quoted(&stage.socket().display().to_string());
    more(&format!("    export POMD_SOCKET={socket}"));
    more("    pomctl status");
    Ok(())
}

/// As one word of a shell.
fn quoted(path: &str) -> String {
    let is_plain = |it: char| it.is_alphanumeric() || "/._-".contains(it);
    if path.chars().all(is_plain) {
        path.to_owned()
    } else {
        format!("'{}'", path.replace('\'', "'\\''"))
    }
}

struct Player<'a> {
    stage: &'a Stage,
    fast: bool,
}

impl Player<'_> {
    /// A connection comes first and waits; the login lets it go on.
    async fn one_login(&self) -> anyhow::Result<()> {
        let page = self.ask_for_the_page(false);
        let login = async {
            self.sign_in(2, "One login").await?;
            let status = self.logged_in().await?;
            more(&session(&status));
            Ok(())
        };
        let (page, ()) = match tokio::try_join!(page, login) {
            Err(_) if self.nobody_came().await => return Err(NobodyCame.into()),
            both => both?,
        };
        self.check_page(&page)?;
        more("the connection that waited for it went on by itself");
        Ok(())
    }

    /// A person was to sign in, pomd is well, and the login is still to be done.
    async fn nobody_came(&self) -> bool {
        let status = self.stage.client.status().await;
        !self.fast
            && status.is_ok_and(|status| {
                let mut clusters = status.clusters.iter();
                clusters.any(|it| it.name == CLUSTER && it.state != ClusterState::LoggedIn)
            })
    }

    async fn bytes_flow(&self) -> anyhow::Result<()> {
        let Stage { hello, echo, .. } = *self.stage;
        step(3, "Bytes flow", &format!("curl http://localhost:{hello}"));
        let page = self.ask_for_the_page(true).await?;
        self.check_page(&page)?;
        for line in page.lines() {
            more(&format!("    {line}"));
        }
        let took = within(STEP_TIME, "the echo", echo_back(echo)).await?;
        more(&format!("nc localhost {echo}"));
        more(&format!(
            "    {ECHO_BYTES} bytes were said, and each came back, in {} ms",
            took.as_millis()
        ));
        Ok(())
    }

    /// The session ends at the server; the next connection asks for one login and goes on.
    async fn heals(&self) -> anyhow::Result<()> {
        step(4, "It heals", "the session ends at the server; curl again:");
        self.stage.gateway.end_all_sessions();
        let before = self.stage.gateway.stats();
        let (first, second) = (self.ask_for_the_page(false), self.ask_for_the_page(false));
        let login = async {
            // The server's refusal comes first: before it pomd believes that it is logged in.
            let gateway = &self.stage.gateway;
            gateway.wait_for(|it| it.refused > before.refused).await;
            self.sign_in_again().await
        };
        let (first, second, ()) = tokio::try_join!(first, second, login)?;
        self.check_page(&first)?;
        self.check_page(&second)?;
        let logins = self.stage.gateway.stats().sign_ins - before.sign_ins;
        ensure!(logins == 1, "two connections asked for {logins} logins");
        more("    2 connections waited, 1 login let both go on");
        Ok(())
    }

    async fn heals_by_hand(&self) -> anyhow::Result<()> {
        let hello = self.stage.hello;
        step(
            4,
            "It heals",
            "Enter ends the session; then curl again, in another terminal:",
        );
        more(&format!("    curl http://localhost:{hello}"));
        more(if self.stage.no_browser.is_none() {
            "it waits, one tab opens, and after the login the bytes flow"
        } else {
            "it waits and shows the address; after the login the bytes flow"
        });
        say("\nq and Enter end the demo and remove all of it.");
        let mut lines = BufReader::new(AsyncInput::default()).lines();
        let mut tasks = JoinSet::new();
        loop {
            tokio::select! {
                line = lines.next_line() => match line?.as_deref().map(str::trim) {
                    None | Some("q" | "Q") => return Ok(()),
                    Some(_) => {
                        self.stage.gateway.end_all_sessions();
                        say(&format!("the session is ended; now: curl http://localhost:{hello}"));
                        tasks.abort_all();
                        tasks.spawn(tell_of_login(self.stage.client.clone()));
                    }
                },
                Some(Ok(Some(told))) = tasks.join_next() => say(&told),
            }
        }
    }

    /// What `curl http://localhost:PORT` does, once more where somebody logged out meanwhile. Whether it then leads
    /// through a login itself, or another part of the step does.
    async fn ask_for_the_page(&self, sign_in: bool) -> anyhow::Result<String> {
        let limit = if self.fast { STEP_TIME } else { PERSON_TIME };
        let asking = async {
            let mut left = TRIES;
            loop {
                let error = match get(self.stage.hello).await {
                    Ok(page) => return Ok(page),
                    Err(error) => error,
                };
                if !self.is_logged_in().await? {
                    if sign_in {
                        more("somebody logged out meanwhile:");
                        self.sign_in_again().await?;
                    } else {
                        self.logged_in_by_another().await?;
                    }
                } else if left == 0 {
                    return Err(error);
                }
                left = left.saturating_sub(1);
            }
        };
        within(limit, "the page", asking).await
    }

    fn check_page(&self, page: &str) -> anyhow::Result<()> {
        let right = page.starts_with(&format!("Hello, {DEMO_USER}."));
        ensure!(right, "the page is not the one that was sent: {page:?}");
        Ok(())
    }
}

async fn within<T>(
    limit: Duration,
    what: &str,
    doing: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    let done = tokio::time::timeout(limit, doing).await;
    done.with_context(|| format!("{what} did not come within {} s", limit.as_secs()))?
}

/// One GET; the body.
async fn get(port: u16) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    let request = format!("GET / HTTP/1.1\r\nHost: localhost:{port}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no page came")?;
    ensure!(
        head.starts_with("HTTP/1.1 200 "),
        "the page's answer: {head}"
    );
    Ok(body.to_owned())
}

/// Says [`ECHO_BYTES`] and compares what comes back; how long it took.
async fn echo_back(port: u16) -> anyhow::Result<Duration> {
    let started = Instant::now();
    let said: Vec<u8> = (0..ECHO_BYTES).map(|it| (it * 31 % 251) as u8).collect();
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    let (mut from, mut to) = stream.split();
    let mut heard = vec![0; ECHO_BYTES];
    tokio::try_join!(to.write_all(&said), from.read_exact(&mut heard))?;
    ensure!(said == heard, "the echo came back changed");
    Ok(started.elapsed())
}

/// Follows the next login: where it is once a connection waits for it, and who it was; nothing if pomd ends first.
async fn tell_of_login(client: Client) -> Option<String> {
    let mut events = client.events().await.ok()?;
    let mut told = false;
    while let Some(status) = events.next().await.ok()? {
        let cluster = status.clusters.iter().find(|it| it.name == CLUSTER)?;
        let logged_in = cluster.state == ClusterState::LoggedIn;
        if logged_in && told {
            return Some(session(&status));
        }
        if !logged_in && !told && cluster.waiting > 0 {
            told = true;
            // pomd has opened a tab where it can; this is for where it cannot.
            let answer = client.login(CLUSTER, LoginRequest::default()).await.ok()?;
            if let Some(login) = answer.login {
                say(&format!(
                    "it waits for one login: sign in at {}",
                    login.link
                ));
            }
        }
    }
    None
}

/// Who is logged in, and until when if the server said so.
fn session(status: &Status) -> String {
    let cluster = status.clusters.iter().find(|it| it.name == CLUSTER);
    let user = cluster
        .and_then(|it| it.user.as_deref())
        .unwrap_or("somebody");
    let until = cluster.and_then(|it| it.until);
    let until = until.map(local).unwrap_or_default();
    format!("logged in as {user}{until}")
}

fn local(until: Timestamp) -> String {
    let until = until.to_zoned(TimeZone::system());
    until.strftime(", until %a %H:%M").to_string()
}
