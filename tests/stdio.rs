//! The standard streams of pomctl, pomd and the demo in whatever state they are inherited, and readers that leave.

mod answers;
mod readers;

use std::{
    fs::File,
    io::{Read, Seek, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use gateway::Upstream;
use integration::{PATIENCE, binary::binary, deployment::Deployment, pomd::Pomd};
use rustix::{
    fs::{OFlags, fcntl_getfl, fcntl_setfl},
    pipe::{PipeFlags, pipe_with},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Hears [`MUCH`] bytes, says them back, and ends.
const MIRROR: &str = "mirror.corp.test:7000";
/// Says [`HELLO`] and then nothing, for as long as it is heard.
const QUIET: &str = "quiet.corp.test:7000";
const HELLO: &[u8] = b"hello\n";
/// Many times what a pipe holds.
const MUCH: usize = 3 << 20;

struct Lab {
    pomd: Pomd,
    _corp: Deployment,
}

impl Lab {
    async fn new() -> Self {
        let mirror = Upstream::service(|mut stream, _| async move {
            let mut heard = vec![0; MUCH];
            if stream.read_exact(&mut heard).await.is_ok() {
                let _ = stream.write_all(&heard).await;
            }
        });
        let quiet = Upstream::service(|mut stream, _| async move {
            let _ = stream.write_all(HELLO).await;
            let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
        });
        let deployment = Deployment::gateway(|it| {
            it.domain("corp.test")
                .route(MIRROR, mirror)
                .route(QUIET, quiet)
        })
        .await;
        let pomd = deployment.logged_in(&[("web", QUIET)]).await;
        Self {
            pomd,
            _corp: deployment,
        }
    }

    fn pomctl(&self, arguments: &[&str]) -> Command {
        let mut command = self.pomd.setup().command(&binary("pomctl"));
        command
            .args(arguments)
            .env("POMD_NO_START", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command
    }
}

/// What a standard stream leads to.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Pipe,
    Socket,
    Terminal,
    File,
}

/// The two ends of a stream.
pub(crate) struct Ends {
    ours: OwnedFd,
    theirs: OwnedFd,
}

impl Kind {
    /// `to_them`: the program reads what we write.
    fn ends(self, to_them: bool) -> Ends {
        match self {
            Self::Pipe => {
                let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).unwrap();
                let (ours, theirs) = if to_them {
                    (writer, reader)
                } else {
                    (reader, writer)
                };
                Ends { ours, theirs }
            }
            Self::Socket => {
                let (ours, theirs) = UnixStream::pair().unwrap();
                Ends {
                    ours: ours.into(),
                    theirs: theirs.into(),
                }
            }
            Self::Terminal => terminal(),
            Self::File => {
                let file = tempfile::tempfile().unwrap();
                Ends {
                    ours: file.try_clone().unwrap().into(),
                    theirs: file.into(),
                }
            }
        }
    }
}

/// A terminal that changes no byte.
pub(crate) fn terminal() -> Ends {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let ours = openpt(flags).unwrap();
    grantpt(&ours).unwrap();
    unlockpt(&ours).unwrap();
    let name = ptsname(&ours, Vec::new()).unwrap();
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let theirs = rustix::fs::open(name.as_c_str(), flags, rustix::fs::Mode::empty()).unwrap();
    let mut plain = rustix::termios::tcgetattr(&theirs).unwrap();
    plain.make_raw();
    rustix::termios::tcsetattr(&theirs, rustix::termios::OptionalActions::Now, &plain).unwrap();
    Ends { ours, theirs }
}

impl Ends {
    /// The program's end answers `EAGAIN` where it would wait.
    fn without_blocking(self) -> Self {
        let flags = fcntl_getfl(&self.theirs).unwrap();
        fcntl_setfl(&self.theirs, flags | OFlags::NONBLOCK).unwrap();
        self
    }

    /// For a program that is about to be started.
    pub(crate) fn stdio(&self) -> Stdio {
        self.theirs.try_clone().unwrap().into()
    }

    /// The program's end is left to the program; whether it was left as it was is seen on the clone that is kept.
    pub(crate) fn split(self) -> (File, OwnedFd) {
        (self.ours.into(), self.theirs)
    }
}

fn is_without_blocking(file: impl AsFd) -> bool {
    fcntl_getfl(file).unwrap().contains(OFlags::NONBLOCK)
}

/// Bytes of which each stretch is different from its neighbours.
fn pattern(n: usize) -> Vec<u8> {
    (0..n).map(|it| (it * 31 % 251) as u8).collect()
}

/// Waits for the end of a program.
async fn ended(mut child: Child) -> ExitStatus {
    let id = child.id();
    let waiting = tokio::task::spawn_blocking(move || child.wait());
    match tokio::time::timeout(PATIENCE, waiting).await {
        Ok(ended) => ended.unwrap().unwrap(),
        Err(_) => {
            let id = rustix::process::Pid::from_raw(id as i32).unwrap();
            rustix::process::kill_process(id, rustix::process::Signal::KILL).unwrap();
            panic!("it goes on after {PATIENCE:?}");
        }
    }
}

/// Runs something that blocks.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let done = tokio::time::timeout(PATIENCE * 2, tokio::task::spawn_blocking(work));
    done.await.expect("it hangs").unwrap()
}

/// `pomctl connect` with these kinds of streams, and of them those without blocking that are said; all bytes must get
/// through both ways.
async fn carries(lab: &Lab, input: Kind, output: Kind, without: [bool; 3]) {
    let case = format!("{input:?} to {output:?}, without blocking {without:?}");
    let ends = [input.ends(true), output.ends(false), Kind::Pipe.ends(false)];
    let mut number = 0;
    let [input_ends, output_ends, errors] = ends.map(|it| {
        number += 1;
        if without[number - 1] {
            it.without_blocking()
        } else {
            it
        }
    });
    let said = pattern(MUCH);
    if matches!(input, Kind::File) {
        let mut file = File::from(input_ends.ours.try_clone().unwrap());
        file.write_all(&said).unwrap();
        file.rewind().unwrap();
    }
    let mut command = lab.pomctl(&["connect", MIRROR]);
    command
        .stdin(input_ends.stdio())
        .stdout(output_ends.stdio())
        .stderr(errors.stdio());
    let child = command.spawn().unwrap();
    drop(command);
    let (mut to, their_input) = input_ends.split();
    let (mut from, their_output) = output_ends.split();
    let (mut words, their_errors) = errors.split();
    let speaking = {
        let said = said.clone();
        tokio::task::spawn_blocking(move || {
            if !matches!(input, Kind::File) {
                to.write_all(&said).unwrap();
            }
            to
        })
    };
    let heard = if matches!(output, Kind::File) {
        None
    } else {
        Some(
            blocking(move || {
                let mut heard = vec![0; MUCH];
                let read = from.read_exact(&mut heard);
                (read.map(|()| heard), from)
            })
            .await,
        )
    };
    let code = ended(child).await.code();
    drop(speaking.await.unwrap());
    let kept = [&their_input, &their_output, &their_errors].map(is_without_blocking);
    assert_eq!(kept, without, "{case}: the flags are the parent's");
    drop((their_input, their_errors));
    let mut told = String::new();
    words.read_to_string(&mut told).unwrap();
    assert_eq!((code, told.as_str()), (Some(0), ""), "{case}");
    let heard = match heard {
        Some((heard, _from)) => heard.unwrap(),
        None => {
            let mut file = File::from(their_output);
            file.rewind().unwrap();
            let mut heard = Vec::new();
            file.read_to_end(&mut heard).unwrap();
            heard
        }
    };
    assert!(heard == said, "{case}: {} bytes came", heard.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn q6_connect_carries_all_whichever_of_its_streams_are_without_blocking() {
    let lab = Lab::new().await;
    for which in 0..8 {
        let without = [which & 1 != 0, which & 2 != 0, which & 4 != 0];
        carries(&lab, Kind::Pipe, Kind::Pipe, without).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn q6_connect_carries_all_over_sockets_terminals_and_files() {
    let lab = Lab::new().await;
    for (input, output) in [
        (Kind::Socket, Kind::Socket),
        (Kind::Pipe, Kind::Terminal),
        (Kind::Terminal, Kind::Pipe),
        (Kind::File, Kind::File),
        (Kind::File, Kind::Socket),
    ] {
        for without in [true, false] {
            carries(&lab, input, output, [without; 3]).await;
        }
    }
}

/// How long a reader is idle before it reads on: the program must wait for it without a byte lost.
const PAUSE: Duration = Duration::from_millis(200);
