//! pomd with values of the tests in its options: disk, dials, accepts and tasks that fail when a plan says so.
//!
//! The plan is a file in the folder `POMD_FAULTS`, read again at every place. Each line of it is `PLACE NTH WHAT`: at the
//! calls with these numbers (`3`, or `3-5`) at this place (`*`: any, `disk`: any of the disk's) it fails with
//! `error NUMBER`, or it is the end of the task (`panic`) or of the process (`kill`). Numbers count from the moment when
//! the plan was last changed. `clock SECONDS` sets the wall clock off. What is called stands in the file `calls`.
//!
//! With `POMD_CLOCK_PACE`, all clocks go so many times as fast from the start on; timers do not.

use std::{
    collections::HashMap,
    env,
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use control::paths::{PathOverrides, Paths};
use jiff::Timestamp;
use pomd::{
    Locks, Options,
    clock::Clock,
    env::Env,
    failpoints::{Failpoint, Failpoints},
    logging::{self, Sink},
    opener::SystemBrowser,
    restart::Restart,
    surroundings::Surroundings,
    system::disk::{Disk, Folder, Fs, Opened},
    system::service::Service,
};
use pomd_core::moment::Moment;
use rustix::process::{Signal, getpid, kill_process};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

fn main() -> ExitCode {
    let Some(folder) = env::var_os("POMD_FAULTS") else {
        return fail("POMD_FAULTS names no folder");
    };
    let pace = env::var("POMD_CLOCK_PACE").ok();
    let faults = Arc::new(FaultPlan {
        folder: folder.into(),
        pace: pace.and_then(|it| it.parse().ok()).unwrap_or(1),
        begun: (Clock::real().now(), Instant::now()),
        progress: Mutex::default(),
    });
    match run(faults) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

#[expect(clippy::print_stderr, reason = "its words are its answer")]
fn fail(why: &str) -> ExitCode {
    eprintln!("error: {why}");
    ExitCode::FAILURE
}

fn run(faults: Arc<FaultPlan>) -> Result<(), String> {
    let words = |error: &dyn std::fmt::Display| error.to_string();
    let place = Paths::find(PathOverrides::default()).map_err(|it| words(&it))?;
    let filter = logging::filter("debug").map_err(|it| words(&it))?;
    let recent = logging::start(filter, Sink::Stderr).map_err(|it| words(&it))?;
    let (failpoints, wall, moment) = (faults.clone(), faults.clone(), faults.clone());
    let real = Clock::real();
    let moment = move || moment.hurry(real.moment());
    let failpoints = Failpoints::from_fn(move |it| failpoints.pass(name(it)));
    let locks = Locks::take(&place, &failpoints, &mut Vec::new()).map_err(|it| words(&it))?;
    let options = Options {
        place,
        log: None,
        recent,
        env: Env {
            clock: Clock::from_fn(move || wall.now()).with_moment(moment),
            fs: Arc::new(TriedDisk(faults)),
            failpoints,
            ..Env::real(Arc::new(SystemBrowser::new(Surroundings::of_process())))
        },
        look: Arc::default(),
        warnings: Vec::new(),
        inherited: Arc::default(),
        service: Service::none(),
        restart: Restart::as_started().map_err(|it| words(&it))?,
        in_background: false,
        control: None,
    };
    let runtime = tokio::runtime::Runtime::new().map_err(|it| words(&it))?;
    let ended = runtime.block_on(async {
        let stop = CancellationToken::new();
        let mut terminate = signal(SignalKind::terminate()).map_err(|it| words(&it))?;
        let run = pomd::run(options, &locks, stop.clone(), || ());
        tokio::pin!(run);
        let result = tokio::select! {
            it = &mut run => it,
            _ = terminate.recv() => {
                stop.cancel();
                run.await
            }
        };
        result.map_err(|it| words(&it))
    });
    runtime.shutdown_background();
    ended
}

fn name(point: Failpoint) -> &'static str {
    match point {
        Failpoint::Lock => "lock",
        Failpoint::Accept => "accept",
        Failpoint::Dial => "dial",
        Failpoint::Connection => "connection",
        Failpoint::Session => "session",
        Failpoint::Request => "request",
    }
}

/// The plan, and how far it is.
#[derive(Debug)]
struct FaultPlan {
    folder: PathBuf,
    /// How fast the clocks go.
    pace: u32,
    /// When it began, by the machine's clocks.
    begun: (Timestamp, Instant),
    progress: Mutex<Progress>,
}

#[derive(Debug, Default)]
struct Progress {
    plan: String,
    /// How often each line's place was come to.
    counts: HashMap<usize, u64>,
}

impl FaultPlan {
    fn plan(&self) -> String {
        fs::read_to_string(self.folder.join("plan")).unwrap_or_default()
    }

    fn now(&self) -> Timestamp {
        let plan = self.plan();
        let off = plan.lines().find_map(|it| it.strip_prefix("clock "));
        let off: i64 = off.and_then(|it| it.parse().ok()).unwrap_or(0);
        let shift = Duration::from_secs(off.unsigned_abs());
        // At its own pace it can be turned, as the machine's can.
        let now = match self.pace {
            1 => Clock::real().now(),
            pace => self.begun.0 + self.begun.1.elapsed() * pace,
        };
        if off < 0 { now - shift } else { now + shift }
    }

    fn hurry(&self, now: Moment) -> Moment {
        Moment {
            boot: now.boot * self.pace,
            awake: now.awake * self.pace,
        }
    }

    /// Comes to `place`, and fails there if that is planned.
    fn pass(&self, place: &str) -> io::Result<()> {
        match self.planned(place) {
            None => Ok(()),
            Some(Fate::Error(number)) => Err(io::Error::from_raw_os_error(number)),
            Some(Fate::Panic) => std::panic::panic_any(format!("planned at {place}")),
            Some(Fate::Kill) => {
                let _ = kill_process(getpid(), Signal::KILL);
                loop {
                    std::thread::park();
                }
            }
        }
    }

    fn planned(&self, place: &str) -> Option<Fate> {
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        let plan = self.plan();
        if plan != progress.plan {
            *progress = Progress {
                plan: plan.clone(),
                counts: HashMap::new(),
            };
        }
        let calls = File::options()
            .create(true)
            .append(true)
            .open(self.folder.join("calls"));
        if let Ok(mut calls) = calls {
            let _ = writeln!(calls, "{place}");
        }
        let mut res = None;
        for (number, line) in plan.lines().enumerate() {
            let Some(step) = Step::parse(line).filter(|it| it.is_at(place)) else {
                continue;
            };
            let count = progress.counts.entry(number).or_default();
            *count += 1;
            if (step.first..=step.last).contains(count) {
                res = Some(step.fate);
            }
        }
        res
    }
}

struct Step<'a> {
    place: &'a str,
    first: u64,
    last: u64,
    fate: Fate,
}

#[derive(Clone, Copy)]
enum Fate {
    Error(i32),
    Panic,
    Kill,
}

impl<'a> Step<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let words: Vec<&str> = line.split(' ').collect();
        let [place, times, what @ ..] = &words[..] else {
            return None;
        };
        let (first, last) = times.split_once('-').unwrap_or((times, times));
        let fate = match what {
            ["error", number] => Fate::Error(number.parse().ok()?),
            ["panic"] => Fate::Panic,
            ["kill"] => Fate::Kill,
            _ => return None,
        };
        Some(Self {
            place,
            first: first.parse().ok()?,
            last: last.parse().ok()?,
            fate,
        })
    }

    fn is_at(&self, place: &str) -> bool {
        let kind = place.split(':').next();
        self.place == "*" || self.place == place || kind == Some(self.place)
    }
}

/// The machine's disk, asked before each call.
#[derive(Debug)]
struct TriedDisk(Arc<FaultPlan>);

impl Fs for TriedDisk {
    fn open_folder(&self, state: &Path, inner: Option<&str>, make: bool) -> io::Result<Folder> {
        self.0.pass("disk:open_folder")?;
        Disk.open_folder(state, inner, make)
    }

    fn names(&self, folder: &Folder) -> io::Result<Vec<String>> {
        self.0.pass("disk:names")?;
        Disk.names(folder)
    }

    fn open(&self, folder: &Folder, name: &str) -> io::Result<Opened> {
        self.0.pass("disk:open")?;
        Disk.open(folder, name)
    }

    fn read(&self, file: File, most: usize) -> io::Result<Zeroizing<Vec<u8>>> {
        self.0.pass("disk:read")?;
        Disk.read(file, most)
    }

    fn create(&self, folder: &Folder, name: &str) -> io::Result<File> {
        self.0.pass("disk:create")?;
        Disk.create(folder, name)
    }

    /// Whatever happens to a write, half of it is done.
    fn write(&self, file: &mut File, bytes: &[u8]) -> io::Result<()> {
        let (half, rest) = bytes.split_at(bytes.len() / 2);
        Disk.write(file, half)?;
        self.0.pass("disk:write")?;
        Disk.write(file, rest)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        self.0.pass("disk:sync")?;
        Disk.sync(file)
    }

    fn rename(&self, folder: &Folder, from: &str, to: &str) -> io::Result<()> {
        self.0.pass("disk:rename")?;
        Disk.rename(folder, from, to)
    }

    fn sync_folder(&self, folder: &Folder) -> io::Result<()> {
        self.0.pass("disk:sync_folder")?;
        Disk.sync_folder(folder)
    }

    fn remove(&self, folder: &Folder, name: &str) -> io::Result<()> {
        self.0.pass("disk:remove")?;
        Disk.remove(folder, name)
    }
}
