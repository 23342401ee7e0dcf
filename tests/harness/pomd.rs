//! The real daemon, with everything of its own in one temporary folder, and pomctl beside it.

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Output, Stdio},
    time::Duration,
};

use control::{
    client::{Client, ClientError},
    wire::{self, Status, TunnelState},
};
use rustix::process::Signal;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::{PATIENCE, binary::binary, eventually, process::Process};

/// How long pomctl may take.
const POMCTL_TIME: Duration = Duration::from_secs(60);

/// A pomd that was started by a test.
#[derive(Debug)]
pub struct Pomd {
    process: Process,
    setup: Setup,
}

/// How a pomd is started.
#[derive(Debug)]
pub struct Setup {
    folder: TempDir,
    environment: Vec<(String, String)>,
    arguments: Vec<String>,
    /// Shell words before `exec pomd`, such as `ulimit -Sn 1024`.
    before: Option<String>,
    program: Option<PathBuf>,
}

impl Setup {
    /// With this configuration.
    pub fn new(config: &str) -> Self {
        let res = Self {
            folder: folder(),
            environment: Vec::new(),
            arguments: Vec::new(),
            before: None,
            program: None,
        };
        let made = fs::DirBuilder::new().mode(0o700).create(res.runtime());
        made.unwrap_or_else(|error| panic!("{}: {error}", res.runtime().display()));
        write(&res.config_file(), config);
        res
    }

    /// An environment variable.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// An argument more.
    pub fn arg(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    /// Shell words that come first, such as `ulimit -Sn 1024`.
    pub fn before(mut self, words: &str) -> Self {
        self.before = Some(words.to_owned());
        self
    }

    /// This binary instead of the workspace's.
    pub fn program(mut self, program: PathBuf) -> Self {
        self.program = Some(program);
        self
    }

    /// The folder that holds everything.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The configuration file.
    pub fn config_file(&self) -> PathBuf {
        self.folder().join("pomd.toml")
    }

    /// The folder for tokens and chosen ports.
    pub fn state_dir(&self) -> PathBuf {
        self.folder().join("state")
    }

    /// The folder of socket and lock.
    pub fn runtime(&self) -> PathBuf {
        self.folder().join("run")
    }

    /// The control socket.
    pub fn socket(&self) -> PathBuf {
        self.runtime().join("pomd.sock")
    }

    /// A command for pomd or pomctl with the places and a clean environment.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = match &self.before {
            Some(words) => {
                let mut shell = Command::new("/bin/sh");
                shell.args(["-c", &format!("{words}\nexec \"$@\""), "sh"]);
                shell.arg(program);
                shell
            }
            None => Command::new(program),
        };
        command.env_clear();
        for name in ["PATH", "TMPDIR", "LANG", "TERM"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        command
            .env("HOME", self.folder())
            .env("POMD_CONFIG", self.config_file())
            .env("POMD_STATE_DIR", self.state_dir())
            .env("POMD_SOCKET", self.socket())
            .envs(self.environment.iter().cloned())
            .current_dir(self.folder());
        command
    }

    /// pomd, not started yet, in the foreground.
    pub fn pomd_command(&self) -> Command {
        let program = self.program.clone().unwrap_or_else(|| binary("pomd"));
        let mut command = self.command(&program);
        command
            .arg("--config")
            .arg(self.config_file())
            .arg("--state-dir")
            .arg(self.state_dir())
            .arg("--socket")
            .arg(self.socket())
            .args(&self.arguments);
        command
    }

    /// Starts it and waits until it answers.
    pub async fn start(self) -> Pomd {
        let process = self.launch();
        let mut res = Pomd {
            process,
            setup: self,
        };
        res.ready().await;
        res
    }

    fn launch(&self) -> Process {
        let words = self.folder().join("pomd.words");
        Process::start("pomd", &mut self.pomd_command(), &words)
    }
}

impl Pomd {
    /// With this configuration; waits until it answers.
    pub async fn start(config: &str) -> Self {
        Setup::new(config).start().await
    }

    /// Where everything of it is.
    pub fn setup(&self) -> &Setup {
        &self.setup
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
        let address = self.address(name).await;
        let stream = TcpStream::connect(address).await;
        stream.unwrap_or_else(|error| panic!("{name} at {address}: {error}"))
    }

    /// Replaces the configuration file, as careful editors do.
    pub fn replace_config(&self, config: &str) {
        let new = self.setup.folder().join("pomd.toml.new");
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

/// A temporary folder that only we may enter, with a short name: socket paths have little room.
pub fn folder() -> TempDir {
    let folder = tempfile::Builder::new()
        .prefix("pomd-")
        .permissions(fs::Permissions::from_mode(0o700))
        .tempdir();
    folder.unwrap_or_else(|error| panic!("a temporary folder: {error}"))
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

fn write(path: &Path, text: &str) {
    let written = fs::write(path, text);
    written.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}
