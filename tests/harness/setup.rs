//! How a pomd is started: its places, its configuration, its environment. One folder holds everything.

use std::{
    fs,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use tempfile::TempDir;

use crate::{binary::binary, namespace::Machine, pomd::Pomd, process::Process};

/// How a pomd is started.
#[derive(Debug)]
pub struct Setup {
    folder: TempDir,
    config: PathBuf,
    environment: Vec<(String, String)>,
    arguments: Vec<String>,
    /// Shell words before `exec pomd`, such as `ulimit -Sn 1024`.
    before: Option<String>,
    /// What the shell is started by, such as `unshare -m`.
    inside: Vec<String>,
    program: Option<PathBuf>,
    machine: Option<Arc<Machine>>,
}

impl Setup {
    /// With this configuration.
    pub fn new(config: &str) -> Self {
        let folder = folder();
        let res = Self {
            config: folder.path().join("pomd.toml"),
            folder,
            environment: Vec::new(),
            arguments: Vec::new(),
            before: None,
            inside: Vec::new(),
            program: None,
            machine: None,
        };
        let made = fs::DirBuilder::new().mode(0o700).create(res.runtime());
        made.unwrap_or_else(|error| panic!("{}: {error}", res.runtime().display()));
        write(&res.config_file(), config);
        res
    }

    /// The configuration is looked for there, below the folder; whoever calls this makes it.
    pub fn config_at(mut self, path: &str) -> Self {
        let _ = fs::remove_file(&self.config);
        self.config = self.folder().join(path);
        self
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

    /// In namespaces of its own: `flags` are those of `unshare`, `words` the shell words that furnish them. Its process
    /// id stays the one of its start.
    pub fn inside(mut self, flags: &[&str], words: &str) -> Self {
        self.inside = vec!["unshare".to_owned()];
        self.inside.extend(flags.iter().map(|it| (*it).to_owned()));
        self.before(words)
    }

    /// This binary instead of the workspace's.
    pub fn program(mut self, program: PathBuf) -> Self {
        self.program = Some(program);
        self
    }

    /// On this machine.
    pub fn on(mut self, machine: Arc<Machine>) -> Self {
        self.before = Some(machine.enter());
        self.machine = Some(machine);
        self
    }

    /// The machine it is on, if that is another one than ours.
    pub fn machine(&self) -> Option<&Machine> {
        self.machine.as_deref()
    }

    /// The folder that holds everything.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The configuration file.
    pub fn config_file(&self) -> PathBuf {
        self.config.clone()
    }

    /// The folder for tokens and chosen ports.
    pub fn state_dir(&self) -> PathBuf {
        self.folder().join("state")
    }

    /// The token that rests in the state folder.
    pub fn saved_token(&self) -> String {
        let tokens = fs::read_dir(self.state_dir().join("tokens")).expect("saved tokens");
        let mut found = tokens.filter_map(|it| {
            let json: serde_json::Value =
                serde_json::from_slice(&fs::read(it.ok()?.path()).ok()?).ok()?;
            Some(json.get("token")?.as_str()?.to_owned())
        });
        found.next().expect("a saved token")
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
                let mut start = self.inside.iter().map(String::as_str);
                let mut shell = Command::new(start.next().unwrap_or("/bin/sh"));
                shell.args(start);
                if !self.inside.is_empty() {
                    shell.arg("/bin/sh");
                }
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
        Pomd::launch(self).await
    }

    pub(crate) fn launch(&self) -> Process {
        let words = self.folder().join("pomd.words");
        Process::start("pomd", &mut self.pomd_command(), &words)
    }
}

/// A temporary folder that only we may enter, with a short name: socket paths have little room.
pub fn folder() -> TempDir {
    let folder = tempfile::Builder::new()
        .prefix("pomd-")
        .permissions(fs::Permissions::from_mode(0o700))
        .tempdir();
    folder.unwrap_or_else(|error| panic!("a temporary folder: {error}"))
}

pub(crate) fn write(path: &Path, text: &str) {
    let written = fs::write(path, text);
    written.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}
