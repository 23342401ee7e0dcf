//! The real daemon, with everything of its own in one temporary folder, and pomctl beside it.

use std::{
    fs, io,
    net::SocketAddr,
    process::{Command, ExitStatus, Output, Stdio},
    time::Duration,
};

use control::{
    client::{Client, ClientError},
    wire::{self, Status, TunnelState},
};
use rustix::{io::Errno, process::Signal};
use socket2::{Domain, Socket, Type};
use tokio::{io::AsyncWriteExt, net::TcpStream};

use crate::{PATIENCE, binary::binary, eventually, process::Process, setup::write};

pub use crate::{
    ports::free_port,
    setup::{Setup, folder},
};

/// How long pomctl may take.
const POMCTL_TIME: Duration = Duration::from_secs(60);

/// A connection to `address`, also if it was reset at once: who reads from it is told.
pub async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    let under_way = Errno::INPROGRESS.raw_os_error();
    socket.connect(&address.into()).or_else(|it| {
        (it.raw_os_error() == Some(under_way))
            .then_some(())
            .ok_or(it)
    })?;
    let stream = TcpStream::from_std(socket.into())?;
    stream.writable().await?;
    Ok(stream)
}

/// A pomd that was started by a test.
#[derive(Debug)]
pub struct Pomd {
    process: Process,
    setup: Setup,
}

impl Pomd {
    /// With this configuration; waits until it answers.
    pub async fn start(config: &str) -> Self {
        Setup::new(config).start().await
    }

    pub(crate) async fn launch(setup: Setup) -> Self {
        let process = setup.launch();
        let mut res = Self { process, setup };
        res.ready().await;
        res
    }

    /// Where everything of it is.
    pub fn setup(&self) -> &Setup {
        &self.setup
    }

    /// Where everything of it was, once it has ended.
    pub fn into_setup(self) -> Setup {
        self.setup
    }

    /// Its process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// What it wrote to stderr.
    pub fn words(&self) -> String {
        self.process.words()
    }

    /// A client for its socket.
    pub fn client(&self) -> Client {
        Client::new(self.setup.socket())
    }

    /// What it shows now.
    pub async fn status(&self) -> Status {
        let status = self.client().status().await;
        status.unwrap_or_else(|error| panic!("status: {error}"))
    }

    /// Follows its events until `found`; panics with the last status after [`PATIENCE`].
    pub async fn wait_for(&self, what: &str, found: impl Fn(&Status) -> bool) -> Status {
        let mut last = None;
        let following = async {
            let mut events = self.client().events().await?;
            while let Some(status) = events.next().await? {
                if found(&status) {
                    return Ok(Some(status));
                }
                last = Some(status);
            }
            Ok::<_, ClientError>(None)
        };
        match tokio::time::timeout(PATIENCE, following).await {
            Ok(Ok(Some(status))) => status,
            Ok(Ok(None)) => panic!("pomd ended its events before: {what}\n{last:#?}"),
            Ok(Err(error)) => panic!("events: {error}, before: {what}"),
            Err(_) => panic!("not within {PATIENCE:?}: {what}\n{last:#?}"),
        }
    }

    /// Waits until the tunnel is in this state.
    pub async fn wait_for_tunnel(&self, name: &str, state: TunnelState) -> wire::Tunnel {
        let what = format!("{name} is {state:?}");
        let status = self
            .wait_for(&what, |it| {
                find_tunnel(it, name).is_some_and(|it| it.state == state)
            })
            .await;
        tunnel(&status, name).clone()
    }

    /// Where the tunnel listens, once it does.
    pub async fn address(&self, name: &str) -> SocketAddr {
        let listens = |it: &wire::Tunnel| {
            !it.listen.is_empty() && !matches!(it.state, TunnelState::Busy | TunnelState::Down)
        };
        let status = self
            .wait_for(&format!("{name} listens"), |it| {
                find_tunnel(it, name).is_some_and(listens)
            })
            .await;
        let address = tunnel(&status, name).listen[0].parse();
        address.unwrap_or_else(|error| panic!("{:?}: {error}", tunnel(&status, name).listen))
    }

    /// A connection to the tunnel.
    pub async fn connect(&self, name: &str) -> TcpStream {
        self.dial(self.address(name).await).await
    }

    /// A connection to an address where it listens.
    pub async fn dial(&self, address: SocketAddr) -> TcpStream {
        let stream = match self.setup.machine() {
            Some(machine) => machine.connect(address),
            None => connect(address).await,
        };
        stream.unwrap_or_else(|error| panic!("{address}: {error}"))
    }

    /// Replaces the configuration file, as careful editors do.
    pub fn replace_config(&self, config: &str) {
        let new = self.setup.config_file().with_extension("toml.new");
        write(&new, config);
        let renamed = fs::rename(&new, self.setup.config_file());
        renamed.unwrap_or_else(|error| panic!("{error}"));
    }

    /// Replaces the configuration file and waits until pomd obeys it.
    pub async fn reload(&self, config: &str) -> wire::ReloadAnswer {
        self.replace_config(config);
        let answer = self.client().reload().await;
        answer.unwrap_or_else(|error| panic!("reload: {error}"))
    }

    /// Runs pomctl with these arguments, stdin empty.
    pub async fn pomctl(&self, arguments: &[&str]) -> Output {
        let mut command = self.setup.command(&binary("pomctl"));
        command.args(arguments).env("POMD_NO_START", "1");
        run(command, POMCTL_TIME).await
    }

    /// Starts `pomctl connect` with these arguments, its three streams piped.
    pub fn pomctl_connect(&self, arguments: &[&str]) -> tokio::process::Child {
        let mut command = self.setup.command(&binary("pomctl"));
        command
            .arg("connect")
            .args(arguments)
            .env("POMD_NO_START", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let child = tokio::process::Command::from(command)
            .kill_on_drop(true)
            .spawn();
        child.unwrap_or_else(|error| panic!("pomctl: {error}"))
    }

    /// SIGKILL, then the same start again.
    pub async fn kill_and_restart(&mut self) {
        self.process.signal(Signal::KILL);
        self.process.wait().await;
        self.start_again().await;
    }

    /// SIGTERM, then the same start again.
    pub async fn restart(&mut self) {
        self.stop().await;
        self.start_again().await;
    }

    /// Starts it again after it ended.
    pub async fn start_again(&mut self) {
        self.process = self.setup.launch();
        self.ready().await;
    }

    /// Starts it again where it may refuse to start; whether it answers.
    pub async fn try_to_start_again(&mut self) -> bool {
        self.process = self.setup.launch();
        let client = self.client();
        let process = &mut self.process;
        eventually("pomd answers or ends", async || {
            if process.ended().is_some() {
                return Some(false);
            }
            client.status().await.is_ok().then_some(true)
        })
        .await
    }

    /// SIGTERM; how it ended.
    pub async fn stop(&mut self) -> ExitStatus {
        self.process.signal(Signal::TERM);
        self.process.wait().await
    }

    /// Waits until it answers; panics with its words if it ends instead.
    async fn ready(&mut self) {
        let client = self.client();
        let process = &mut self.process;
        eventually("pomd answers", async || {
            process.assert_runs();
            client.status().await.ok()
        })
        .await;
    }
}

/// The tunnel of that name.
pub fn tunnel<'a>(status: &'a Status, name: &str) -> &'a wire::Tunnel {
    find_tunnel(status, name).unwrap_or_else(|| panic!("no tunnel {name}: {status:#?}"))
}

/// The tunnel of that name, if it is there.
pub fn find_tunnel<'a>(status: &'a Status, name: &str) -> Option<&'a wire::Tunnel> {
    status.tunnels.iter().find(|it| it.name == name)
}

/// The cluster of that name.
pub fn cluster<'a>(status: &'a Status, name: &str) -> &'a wire::Cluster {
    let found = status.clusters.iter().find(|it| it.name == name);
    found.unwrap_or_else(|| panic!("no cluster {name}: {status:#?}"))
}

/// Runs a command with a limit, stdin empty; its output.
pub async fn run(command: Command, limit: Duration) -> Output {
    run_with_input(command, b"", limit).await
}

/// Runs a command with a limit and this on its stdin; its output.
pub async fn run_with_input(mut command: Command, input: &[u8], limit: Duration) -> Output {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let shown = format!("{command:?}");
    let run = async {
        let mut child = tokio::process::Command::from(command)
            .kill_on_drop(true)
            .spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            // Whoever does not read its input may end before it is written.
            let _ = stdin.write_all(input).await;
        }
        child.wait_with_output().await
    };
    match tokio::time::timeout(limit, run).await {
        Ok(Ok(output)) => output,
        Ok(Err(error)) => panic!("{shown}: {error}"),
        Err(_) => panic!("not done within {limit:?}: {shown}"),
    }
}
