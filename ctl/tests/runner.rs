//! Runs pomctl in a world of its own and writes down what a person would see.

use std::{
    fs,
    io::Write,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::RwLock,
};

use control::wire::Status;
use tempfile::TempDir;

use crate::{fake::Fake, samples};

/// A folder with a home, a configuration and a socket, and the environment that leads there.
pub(crate) struct World {
    dir: TempDir,
    vars: Vec<(String, String)>,
    program: PathBuf,
}

impl World {
    pub(crate) fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("pomctl").tempdir().unwrap();
        let home = dir.path().join("home");
        fs::create_dir_all(home.join(".config/pomd")).unwrap();
        fs::create_dir_all(home.join(".local/state/pomd")).unwrap();
        let mut world = Self {
            dir,
            vars: Vec::new(),
            program: env!("CARGO_BIN_EXE_pomctl").into(),
        };
        let socket = world.socket().display().to_string();
        world.var("PATH", "/usr/local/bin:/usr/bin:/bin");
        world.var("HOME", home.to_str().unwrap());
        world.var("POMD_SOCKET", &socket);
        world.var("LANG", "C.UTF-8");
        world.var("TERM", "xterm");
        world.var("TZ", &samples::noon());
        world
    }

    /// With a pomd that shows this.
    pub(crate) fn with(status: &Status) -> (Self, Fake) {
        let world = Self::new();
        let fake = Fake::start(&world.socket(), status);
        (world, fake)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.path("pomd.sock")
    }

    pub(crate) fn var(&mut self, name: &str, value: &str) {
        self.vars.retain(|it| it.0 != name);
        self.vars.push((name.to_owned(), value.to_owned()));
    }

    /// The configuration file.
    pub(crate) fn config(&self) -> PathBuf {
        self.path("home/.config/pomd/pomd.toml")
    }

    /// Writes an executable script.
    pub(crate) fn script(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let _nobody_forks = FORKS.write();
        let mut file = fs::File::create(&path).unwrap();
        file.write_all(format!("#!/bin/sh\n{text}\n").as_bytes())
            .unwrap();
        let mode = fs::Permissions::from_mode(0o755);
        file.set_permissions(mode).unwrap();
        path
    }

    /// From now on pomctl is run from a folder of its own, beside which programs can be put.
    pub(crate) fn move_program(&mut self) -> PathBuf {
        let bin = self.path("bin");
        fs::create_dir_all(&bin).unwrap();
        let program = bin.join("pomctl");
        copy_program(&self.program, &program);
        self.program = program;
        bin
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(args)
            .env_clear()
            .envs(self.vars.iter().map(|it| (&it.0, &it.1)))
            .current_dir(self.dir.path())
            .stdin(Stdio::null());
        command
    }

    /// Runs it to its end.
    pub(crate) fn run(&self, args: &[&str]) -> Output {
        self.spawn(args).wait_with_output().unwrap()
    }

    /// Starts it with its streams caught.
    pub(crate) fn spawn(&self, args: &[&str]) -> Child {
        let mut command = self.command(args);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        start(&mut command)
    }

    /// Runs it, and tells what a person sees: the command and its exit code, stdout, then stderr marked by bars.
    pub(crate) fn transcript(&self, args: &[&str]) -> String {
        self.told(args, &self.run(args))
    }

    /// A finished run as a transcript.
    pub(crate) fn told(&self, args: &[&str], output: &Output) -> String {
        let code = output.status.code().unwrap();
        let mut text = format!("$ pomctl {}  # exit {code}\n", args.join(" "));
        text += &String::from_utf8(output.stdout.clone()).unwrap();
        for line in String::from_utf8(output.stderr.clone()).unwrap().lines() {
            text += &format!("| {line}");
            text = text.trim_end().to_owned() + "\n";
        }
        self.settled(&text)
    }

    /// `text` with what differs from run to run replaced.
    pub(crate) fn settled(&self, text: &str) -> String {
        let host = rustix::system::uname();
        let host = host.nodename().to_str().unwrap();
        let dir = self.dir.path().to_str().unwrap();
        let text = text.replace(dir, "/DIR");
        let text = text.replace(&format!("127.0.0.1 {host}"), "127.0.0.1 HOST");
        let text = text.replace(&format!(":127.0.0.1:41235 {host}"), ":127.0.0.1:41235 HOST");
        without_times(&text)
    }
}

/// A program that is being written cannot be run, and a fork inherits the writing for a moment: while one test forks,
/// no other one writes a program.
static FORKS: RwLock<()> = RwLock::new(());

/// Starts a program.
pub(crate) fn start(command: &mut Command) -> Child {
    let _nobody_writes = FORKS.read();
    command.spawn().unwrap()
}

/// Copies a program.
pub(crate) fn copy_program(from: &Path, to: &Path) {
    let _nobody_forks = FORKS.write();
    fs::copy(from, to).unwrap();
}

/// Every `14:05` and `14:05:12` as capitals of the same width.
fn without_times(text: &str) -> String {
    let mut bytes = text.as_bytes().to_vec();
    let digit = |bytes: &[u8], at: usize| bytes.get(at).is_some_and(u8::is_ascii_digit);
    let mut at = 0;
    while at + 5 <= bytes.len() {
        let starts = at == 0 || !(digit(&bytes, at - 1) || b".:".contains(&bytes[at - 1]));
        let clock = digit(&bytes, at)
            && digit(&bytes, at + 1)
            && bytes[at + 2] == b':'
            && digit(&bytes, at + 3)
            && digit(&bytes, at + 4)
            && !digit(&bytes, at + 5);
        if starts && clock {
            bytes[at..at + 5].copy_from_slice(b"HH:MM");
            let seconds = bytes.get(at + 5) == Some(&b':') && digit(&bytes, at + 6);
            if seconds {
                bytes[at + 6..at + 8].copy_from_slice(b"SS");
            }
        }
        at += 1;
    }
    String::from_utf8(bytes).unwrap()
}

/// Waits until a file is there, and reads it.
pub(crate) fn wait_for_file(path: &Path) -> String {
    for _ in 0..4000 {
        if let Ok(text) = fs::read_to_string(path) {
            return text;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    panic!("{} does not appear", path.display());
}
