//! A child process with its words in a file, ended by its id and gone when its owner is.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};

use crate::eventually;

/// How long a process may take to end after it was told to.
const END_TIME: Duration = Duration::from_secs(10);

/// A running child.
#[derive(Debug)]
pub struct Process {
    child: Child,
    name: String,
    words: PathBuf,
    ended: Option<ExitStatus>,
}

impl Process {
    /// Starts `command`; what it says to stdout and stderr goes to `words`, behind what stands there.
    pub fn start(name: &str, command: &mut Command, words: &Path) -> Self {
        let file = File::options().create(true).append(true).open(words);
        let file = file.unwrap_or_else(|error| panic!("{}: {error}", words.display()));
        let twin = file.try_clone();
        let child = command
            .stdin(Stdio::null())
            .stdout(twin.map_or(Stdio::null(), Stdio::from))
            .stderr(file)
            .spawn();
        let child = child.unwrap_or_else(|error| panic!("cannot start {name}: {error}"));
        Self {
            child,
            name: name.to_owned(),
            words: words.to_owned(),
            ended: None,
        }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has said so far.
    pub fn words(&self) -> String {
        let words = fs::read(&self.words).unwrap_or_default();
        String::from_utf8_lossy(&words).into_owned()
    }

    /// Sends it a signal; nothing if it has ended.
    pub fn signal(&mut self, signal: Signal) {
        if self.ended().is_some() {
            return;
        }
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid {
            let _ = kill_process(pid, signal);
        }
    }

    /// SIGSTOP. Returns once every thread of it stands still: they learn of it one after another, and one that went on
    /// would begin something and find its time over afterwards. `Signal::CONT` lets it go on.
    pub async fn stand_still(&mut self) {
        self.signal(Signal::STOP);
        let what = format!(
            "every thread of {} (pid {}) stands still",
            self.name,
            self.pid()
        );
        eventually(&what, async || stands_still(self.pid()).then_some(())).await;
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().unwrap_or(None);
        }
        self.ended
    }

    /// Waits until it ends by itself.
    pub async fn wait(&mut self) -> ExitStatus {
        let what = format!("{} (pid {}) ends", self.name, self.pid());
        eventually(&what, async || self.ended()).await
    }

    /// Panics with its words if it has ended.
    pub fn assert_runs(&mut self) {
        if let Some(status) = self.ended() {
            panic!("{} ended ({status}):\n{}", self.name, self.words());
        }
    }

    /// SIGKILL, where nothing is to be told; returns once it is gone.
    pub fn kill(mut self) {
        let _ = self.child.kill();
        self.ended = self.child.wait().ok();
    }

    /// SIGTERM, and SIGKILL if that is not enough; `Err` in the second case. Blocks, for use in `drop`.
    pub fn end(&mut self) -> io::Result<ExitStatus> {
        self.signal(Signal::TERM);
        // A stopped process hears nothing else.
        self.signal(Signal::CONT);
        let step = Duration::from_millis(10);
        let mut waited = Duration::ZERO;
        while waited < END_TIME {
            if let Some(status) = self.ended() {
                return Ok(status);
            }
            std::thread::sleep(step);
            waited += step;
        }
        self.child.kill()?;
        self.child.wait()?;
        Err(io::Error::other(format!(
            "{} did not end within {END_TIME:?} of SIGTERM",
            self.name
        )))
    }
}

/// The CPU time that a process has used, in ticks of 10 ms.
pub fn cpu_ticks(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"));
    let stat = stat.unwrap_or_else(|error| panic!("the times of {pid}: {error}"));
    let fields = stat.rsplit_once(')').map_or("", |it| it.1).split(' ');
    let times = fields.skip(12).take(2).map(|it| it.parse::<u64>());
    times.map(Result::unwrap_or_default).sum()
}

/// All threads of that process are stopped (`T` in proc_pid_stat(5)).
fn stands_still(pid: u32) -> bool {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return false;
    };
    threads.flatten().all(|it| {
        let state = fs::read_to_string(it.path().join("stat")).unwrap_or_default();
        let state = state.rsplit(") ").next();
        state.is_some_and(|it| it.starts_with('T'))
    })
}

impl Drop for Process {
    #[expect(
        clippy::print_stderr,
        reason = "a failing test shows what its processes said"
    )]
    fn drop(&mut self) {
        let ended = self.end();
        if std::thread::panicking() {
            eprintln!("--- {} said:\n{}", self.name, self.words());
        } else if let Err(error) = ended {
            panic!("{error}\n{}", self.words());
        }
    }
}
