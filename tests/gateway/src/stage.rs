//! What the demo stands on: a folder, a gateway with two services, two ports, and a real pomd.

use std::{
    fs, io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use control::{
    browser::{NoBrowser, candidates, machine::here},
    client::Client,
    paths::socket_of,
    wire::{BrowserChoice, Status, TunnelState},
};
use gateway::{DEMO_USER, Gateway, Upstream};
use tempfile::TempDir;
use tokio::process::{Child, Command};

/// The cluster's name in the demo's configuration.
pub(crate) const CLUSTER: &str = "demo";
/// The route of the page.
pub(crate) const HELLO: &str = "hello.demo:80";
/// The route of the echo.
pub(crate) const ECHO: &str = "echo.demo:7";

/// How long pomd may take to start or to end.
const PROCESS_TIME: Duration = Duration::from_secs(15);
/// How often other ports are tried when others are faster.
const PORTS_TRIED: u32 = 20;
/// How much of pomd's log is shown when something went wrong.
const WORDS_MOST: usize = 2_000;

/// Everything that runs.
pub(crate) struct Stage {
    /// The simulated Pomerium.
    pub(crate) gateway: Gateway,
    /// What pomd is asked by.
    pub(crate) client: Client,
    /// The local port of the page.
    pub(crate) hello: u16,
    /// The local port of the echo.
    pub(crate) echo: u16,
    /// Why no browser shows the login; `None`: one does.
    pub(crate) no_browser: Option<NoBrowser>,
    pomd: Child,
    folder: TempDir,
}

impl Stage {
    /// Builds it. With `by_hand`, pomd opens the person's browser; else it opens none.
    pub(crate) async fn build(by_hand: bool) -> anyhow::Result<Self> {
        let folder = private_folder().context("cannot make a temporary folder")?;
        let gateway = Gateway::builder()
            .domain("demo")
            .user(DEMO_USER)
            .route(HELLO, Upstream::Hello)
            .route(ECHO, Upstream::Echo)
            .start()
            .await
            .context("cannot start the simulated Pomerium")?;
        let (browser, choice) = if by_hand {
            ("default", BrowserChoice::Default)
        } else {
            ("none", BrowserChoice::None)
        };
        // pomd runs in the same environment, and decides by the same rule.
        let no_browser = here(|around| candidates(&choice, around)).err();
        let (hello, echo) = configure(folder.path(), gateway.address(), browser)?;
        let pomd = launch(folder.path())?;
        let mut res = Self {
            client: Client::new(socket_of(folder.path())),
            gateway,
            hello,
            echo,
            no_browser,
            pomd,
            folder,
        };
        let mut status = res.ready().await?;
        // A port that was free a moment ago may be somebody else's by now.
        let is_busy = |status: &Status| {
            let mut tunnels = status.tunnels.iter();
            tunnels.any(|it| it.state == TunnelState::Busy)
        };
        for _ in 0..PORTS_TRIED {
            if !is_busy(&status) {
                return Ok(res);
            }
            (res.hello, res.echo) = configure(res.folder.path(), res.gateway.address(), browser)?;
            let reloaded = res.client.reload().await;
            reloaded.context("telling pomd of other ports")?;
            status = res.client.status().await?;
        }
        bail!("other programs take each port before pomd can")
    }

    /// pomd's process id.
    pub(crate) fn pid(&self) -> u32 {
        self.pomd.id().unwrap_or_default()
    }

    /// Where everything is.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The socket of its pomd.
    pub(crate) fn socket(&self) -> PathBuf {
        socket_of(self.folder())
    }

    /// The configuration that its pomd reads.
    pub(crate) fn config(&self) -> anyhow::Result<String> {
        let path = self.folder().join("pomd.toml");
        fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
    }

    /// The end of pomd's log.
    pub(crate) fn words(&self) -> String {
        let words = fs::read(self.folder().join("pomd.log")).unwrap_or_default();
        let words = String::from_utf8_lossy(&words);
        let start = words.len().saturating_sub(WORDS_MOST);
        let start = words.ceil_char_boundary(start);
        words[start..].trim_end().to_owned()
    }

    /// Ends pomd and removes everything.
    pub(crate) async fn end(mut self) -> anyhow::Result<()> {
        let told = self.client.stop().await;
        let ended = match told {
            Ok(_) => tokio::time::timeout(PROCESS_TIME, self.pomd.wait()).await,
            Err(_) => tokio::time::timeout(Duration::ZERO, self.pomd.wait()).await,
        };
        if !matches!(ended, Ok(Ok(_))) {
            self.pomd.kill().await.context("ending pomd")?;
        }
        self.gateway.stop().await;
        let folder = self.folder.path().to_owned();
        let removed = self.folder.close();
        removed.with_context(|| format!("removing {}", folder.display()))
    }

    /// Waits until pomd answers and both tunnels listen.
    async fn ready(&mut self) -> anyhow::Result<Status> {
        let waiting = async {
            loop {
                if let Some(status) = self.pomd.try_wait()? {
                    bail!("pomd ended right after its start ({status})");
                }
                if let Ok(status) = self.client.status().await {
                    return Ok(status);
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let status = tokio::time::timeout(PROCESS_TIME, waiting).await;
        let status = status.context("pomd did not answer in time")??;
        if let Some(error) = status.pomd.config.error {
            bail!(
                "pomd does not take the demo's own configuration: {}",
                error.report
            );
        }
        ensure!(status.tunnels.len() == 2, "pomd shows no two tunnels");
        Ok(status)
    }
}

/// A folder that only this user can look into.
fn private_folder() -> io::Result<TempDir> {
    let mut builder = tempfile::Builder::new();
    builder.prefix("pomd-demo-");
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o700));
    builder.tempdir()
}

/// Writes the configuration with two ports that are free now.
fn configure(folder: &Path, pomerium: SocketAddr, browser: &str) -> anyhow::Result<(u16, u16)> {
    let hello = free_port(8088, &[])?;
    let echo = free_port(8089, &[hello])?;
    let config = format!(
        "{}\n[cluster.{CLUSTER}]\nhosts   = [\"{}\"]\nurl     = \"http://{pomerium}\"\nbrowser = \"{browser}\"\n",
        tunnels(pomerium, hello, echo),
        pomerium.ip(),
    );
    fs::write(folder.join("pomd.toml"), config)?;
    Ok((hello, echo))
}

/// The tunnels. The simulated Pomerium has no name that others know and no certificate that a browser trusts, so its
/// address stands before each route, without TLS.
fn tunnels(pomerium: SocketAddr, hello: u16, echo: u16) -> String {
    let tunnel = |name: &str, route: &str, port: u16| {
        format!("[tunnel.{name}]\nroute  = \"tcp+http://{pomerium}/{route}\"\nlisten = {port}\n")
    };
    tunnel("hello", HELLO, hello) + "\n" + &tunnel("echo", ECHO, echo)
}

/// `wanted` if it is free on both loopback addresses, else the next one that is.
fn free_port(wanted: u16, taken: &[u16]) -> anyhow::Result<u16> {
    let free = |port: &u16| !taken.contains(port) && is_free(*port);
    let found = (wanted..wanted + 200).find(free);
    found.with_context(|| format!("no port from {wanted} on is free"))
}

fn is_free(port: u16) -> bool {
    let six = match TcpListener::bind((Ipv6Addr::LOCALHOST, port)) {
        Ok(_) => true,
        // A machine without IPv6 has nobody there either.
        Err(error) => error.kind() == io::ErrorKind::AddrNotAvailable,
    };
    six && TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

/// The pomd beside this program.
fn pomd() -> anyhow::Result<PathBuf> {
    let here = std::env::current_exe().context("cannot tell where this program is")?;
    let pomd = here
        .with_file_name("pomd")
        .with_extension(std::env::consts::EXE_EXTENSION);
    ensure!(
        pomd.is_file(),
        "pomd is not beside this program: {} is missing",
        pomd.display()
    );
    Ok(pomd)
}

fn launch(folder: &Path) -> anyhow::Result<Child> {
    let log = fs::File::create(folder.join("pomd.log"))?;
    let mut command = Command::new(pomd()?);
    for name in ["POMD_CONFIG", "POMD_STATE_DIR", "POMD_SOCKET", "POMD_LOG"] {
        command.env_remove(name);
    }
    command
        .arg("--config")
        .arg(folder.join("pomd.toml"))
        .arg("--state-dir")
        .arg(folder.join("state"))
        .arg("--socket")
        .arg(socket_of(folder))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .kill_on_drop(true);
    // Ctrl-C is for the demo, which then ends pomd in order.
    #[cfg(unix)]
    command.process_group(0);
    command.spawn().context("cannot start pomd")
}
