//! Ctrl-C while the answer goes nowhere.

use std::{
    io::{self, Write},
    process::{Child, ExitStatus, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::{
    runner::{World, start},
    samples,
};

/// How long a command may take to be stuck, and to end.
const PATIENCE: Duration = Duration::from_secs(20);

/// A pipe that takes no more: its reader, which reads nothing, and its writer.
fn full_pipe() -> (io::PipeReader, io::PipeWriter) {
    let (reader, mut writer) = io::pipe().unwrap();
    rustix::io::ioctl_fionbio(&writer, true).unwrap();
    while writer.write(&[b'x'; 4096]).is_ok() {}
    while writer.write(b"x").is_ok() {}
    rustix::io::ioctl_fionbio(&writer, false).unwrap();
    (reader, writer)
}

fn wait_until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "not within {PATIENCE:?}: {what}");
        sleep(Duration::from_millis(10));
    }
}

/// Waits until the main thread of `child` is stuck in a write to a pipe.
fn is_stuck(child: &Child) {
    let path = format!("/proc/{}/wchan", child.id());
    wait_until("a write that nobody reads", || {
        let place = std::fs::read_to_string(&path).unwrap();
        place.contains("pipe_write").then_some(())
    });
}

fn interrupted(child: &mut Child) -> ExitStatus {
    kill_process(Pid::from_child(child), Signal::INT).unwrap();
    wait_until("the end", || child.try_wait().unwrap())
}

#[test]
fn g4_ctrl_c_ends_a_command_whose_answer_nobody_reads() {
    let (with_pomd, _fake) = World::with(&samples::fine());
    let mut without = World::new();
    without.var("POMD_NO_START", "1");
    for (world, args) in [
        (&with_pomd, &["status", "--json"][..]),
        (
            &without,
            &["connect", "--ssh", "ssh-prod.corp.example.com:22"],
        ),
    ] {
        let (_reader, writer) = full_pipe();
        let mut command = world.command(args);
        command.stdout(writer).stderr(Stdio::null());
        let mut child = start(&mut command);
        is_stuck(&child);
        assert_eq!(interrupted(&mut child).code(), Some(130), "{args:?}");
    }
}
