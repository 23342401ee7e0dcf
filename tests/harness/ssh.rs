//! A real sshd on a free port, and the real ssh, scp and sftp with everything of theirs in one folder.

use std::{
    ffi::OsStr,
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::Duration,
};

use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    process::{Child, ChildStdin, ChildStdout},
};

use crate::{PATIENCE, binary::system, eventually, pomd, process::Process};

/// How long one ssh, scp or sftp may take.
const SSH_TIME: Duration = Duration::from_secs(120);

/// A running sshd that lets this user in, with one key.
#[derive(Debug)]
pub struct Sshd {
    process: Process,
    address: SocketAddr,
    user: String,
    folder: TempDir,
}

impl Sshd {
    /// Starts it and waits for its banner.
    pub async fn start() -> Self {
        let folder = pomd::folder();
        for name in ["host_key", "key"] {
            let path = folder.path().join(name);
            let mut keygen = Command::new(system("ssh-keygen"));
            keygen.args(["-q", "-t", "ed25519", "-N", "", "-f"]);
            let done = keygen.arg(&path).stdin(Stdio::null()).status();
            assert!(done.is_ok_and(|it| it.success()), "ssh-keygen");
        }
        let copied = fs::copy(
            folder.path().join("key.pub"),
            folder.path().join("authorized_keys"),
        );
        copied.unwrap_or_else(|error| panic!("authorized_keys: {error}"));
        if rustix::process::geteuid().is_root() {
            // Where the distribution makes it only at boot.
            let _ = fs::DirBuilder::new().mode(0o755).create("/run/sshd");
        }
        // Between finding a free port and sshd's taking it, another program may be faster.
        for _ in 0..5 {
            let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
            let address = free.and_then(|it| it.local_addr());
            let address = address.unwrap_or_else(|error| panic!("a free port: {error}"));
            let mut process = launch(folder.path(), address);
            let answers = eventually("sshd answers or ends", async || {
                let ended = process.ended().is_some();
                (ended || says_banner(address).await).then_some(!ended)
            })
            .await;
            if answers {
                return Self {
                    process,
                    address,
                    user: user_name(),
                    folder,
                };
            }
        }
        panic!("sshd does not start");
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it wrote to stderr.
    pub fn words(&self) -> String {
        self.process.words()
    }

    /// The client's side, through this local address.
    pub fn through(&self, address: SocketAddr) -> Ssh {
        Ssh {
            address,
            user: self.user.clone(),
            folder: self.folder.path().to_owned(),
        }
    }
}

fn launch(folder: &Path, address: SocketAddr) -> Process {
    let config = format!(
        "ListenAddress {address}\nHostKey {0}/host_key\nAuthorizedKeysFile {0}/authorized_keys\nPidFile none\n\
         StrictModes no\nUsePAM no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n\
         PermitRootLogin yes\nUseDNS no\nPrintMotd no\nSubsystem sftp internal-sftp\nMaxSessions 100\n\
         MaxStartups 600:30:600\nLogLevel VERBOSE\n",
        folder.display()
    );
    let file = folder.join("sshd_config");
    let written = fs::write(&file, config);
    written.unwrap_or_else(|error| panic!("sshd_config: {error}"));
    let mut command = Command::new(system("sshd"));
    command.args(["-D", "-e", "-f"]).arg(&file);
    Process::start("sshd", &mut command, &folder.join("sshd.words"))
}

async fn says_banner(address: SocketAddr) -> bool {
    let Ok(mut stream) = TcpStream::connect(address).await else {
        return false;
    };
    let mut banner = [0; 8];
    stream.read_exact(&mut banner).await.is_ok() && &banner == b"SSH-2.0-"
}

fn user_name() -> String {
    let output = Command::new("id").arg("-un").output();
    let output = output.unwrap_or_else(|error| panic!("id -un: {error}"));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// A shell on the other side, with a terminal of its own.
#[derive(Debug)]
pub struct Session {
    child: Child,
    stdin: ChildStdin,
    stdout: ChildStdout,
    questions: u32,
}

impl Session {
    /// Has the shell there compute something; panics if the answer does not come.
    pub async fn answers(&mut self) {
        self.questions += 1;
        let n = self.questions;
        // The terminal echoes the question, so the answer must look different.
        let question = format!("echo answer-$(({n}*1000+{n}))-end\n");
        let answer = format!("answer-{}-end", n * 1000 + n);
        let asked = self.stdin.write_all(question.as_bytes()).await;
        asked.unwrap_or_else(|error| panic!("asking the session: {error}"));
        let mut heard = Vec::new();
        let hearing = async {
            while !String::from_utf8_lossy(&heard).contains(&answer) {
                let read = self.stdout.read_buf(&mut heard).await;
                if !matches!(read, Ok(1..)) {
                    return false;
                }
            }
            true
        };
        let came = tokio::time::timeout(PATIENCE, hearing).await;
        let heard = String::from_utf8_lossy(&heard);
        assert_eq!(came, Ok(true), "no answer {answer} in {heard:?}");
    }

    /// Leaves the shell, as a person does.
    pub async fn leave(mut self) {
        let said = self.stdin.write_all(b"exit\n").await;
        said.unwrap_or_else(|error| panic!("leaving the session: {error}"));
        let left = tokio::time::timeout(PATIENCE, self.child.wait()).await;
        assert!(matches!(left, Ok(Ok(_))), "ssh does not end: {left:?}");
    }
}

/// ssh, scp and sftp through one local address.
#[derive(Clone, Debug)]
pub struct Ssh {
    address: SocketAddr,
    user: String,
    folder: PathBuf,
}

impl Ssh {
    /// `ssh … -p PORT USER@HOST` with these words more, not run yet.
    pub fn command(&self, before: &[&str], remote: &[&str]) -> Command {
        let mut command = Command::new(system("ssh"));
        // The first value that ssh is told of an option counts.
        command.args(before);
        self.options(&mut command, "-p");
        command
            .arg(format!("{}@{}", self.user, self.address.ip()))
            .args(remote);
        command
    }

    /// Where it notes the keys of hosts.
    pub fn known_hosts(&self) -> PathBuf {
        self.folder.join("known_hosts")
    }

    /// Lines of a person's `~/.ssh/config` that let them in, whatever the host is called.
    pub fn config(&self) -> String {
        let folder = self.folder.display();
        format!(
            "Host *\n    User {}\n    IdentityFile {folder}/key\n    UserKnownHostsFile {folder}/known_hosts\n    \
             GlobalKnownHostsFile /dev/null\n    StrictHostKeyChecking accept-new\n    IdentitiesOnly yes\n    \
             IdentityAgent none\n    BatchMode yes\n    LogLevel ERROR\n",
            self.user
        )
    }

    /// Runs a command there.
    pub async fn run(&self, remote: &str) -> Output {
        pomd::run(self.command(&[], &[remote]), SSH_TIME).await
    }

    /// Runs a command there and returns what it said; panics with ssh's words if it failed.
    pub async fn output(&self, remote: &str) -> String {
        let output = self.run(remote).await;
        let words = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "ssh {remote}: {words}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// An interactive session; it ends with the value.
    pub async fn session(&self) -> Session {
        let mut command = tokio::process::Command::from(self.command(&["-tt"], &["/bin/sh", "-i"]));
        let child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn();
        let mut child = child.unwrap_or_else(|error| panic!("ssh: {error}"));
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            panic!("ssh has no pipes");
        };
        let mut res = Session {
            child,
            stdin,
            stdout,
            questions: 0,
        };
        res.answers().await;
        res
    }

    /// `scp FROM TO`, where a path there begins with `:`.
    pub async fn scp(&self, from: &str, to: &str) -> Output {
        let place = |path: &str| match path.strip_prefix(':') {
            Some(there) => format!("{}@{}:{there}", self.user, self.address.ip()),
            None => path.to_owned(),
        };
        let mut command = Command::new(system("scp"));
        self.options(&mut command, "-P");
        command.args([place(from), place(to)]);
        pomd::run(command, SSH_TIME).await
    }

    /// `sftp` with these batch lines.
    pub async fn sftp(&self, batch: &str) -> Output {
        let file = self.folder.join("batch");
        let written = fs::write(&file, batch);
        written.unwrap_or_else(|error| panic!("batch: {error}"));
        let mut command = Command::new(system("sftp"));
        command.arg("-b").arg(file);
        self.options(&mut command, "-P");
        command.arg(format!("{}@{}", self.user, self.address.ip()));
        pomd::run(command, SSH_TIME).await
    }

    fn options(&self, command: &mut Command, port: impl AsRef<OsStr>) {
        let known = format!(
            "UserKnownHostsFile={}",
            self.folder.join("known_hosts").display()
        );
        command
            .args(["-F", "none", "-o", &known, "-i"])
            .arg(self.folder.join("key"));
        for option in [
            "GlobalKnownHostsFile=/dev/null",
            "StrictHostKeyChecking=accept-new",
            "HostKeyAlias=the-real-host",
            "IdentitiesOnly=yes",
            "IdentityAgent=none",
            "BatchMode=yes",
            "ConnectTimeout=60",
            "LogLevel=ERROR",
        ] {
            command.args(["-o", option]);
        }
        command
            .arg(port)
            .arg(self.address.port().to_string())
            .stdin(Stdio::null());
    }
}

/// What a real ssh prints when pomd refuses it at `address`.
pub async fn told(address: SocketAddr) -> String {
    let mut command = Command::new(system("ssh"));
    let (ip, port) = (address.ip().to_string(), address.port().to_string());
    command
        .args(["-F", "none", "-o", "BatchMode=yes", "-p", &port, "-l", "me"])
        .arg(&ip);
    let output = pomd::run(command, PATIENCE).await;
    let words = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(255), "{words}");
    let told = format!("Received disconnect from {ip} port {port}:2: pomd: ");
    let mut lines = words.lines().filter_map(|it| it.strip_prefix(&told));
    let Some(line) = lines.next() else {
        panic!("ssh was told nothing: {words:?}");
    };
    line.to_owned()
}
