//! Descriptors in the states in which they may be inherited.

use std::{
    fs::File,
    io::{ErrorKind, Read, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    thread,
};

use rustix::{
    fs::{OFlags, fcntl_getfl, fcntl_setfl},
    pipe::pipe,
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
};

use super::imp::{await_end, read_from, write_to};

/// Each kind of file with two ends; the first is read, the second written.
fn ends() -> Vec<(&'static str, OwnedFd, OwnedFd)> {
    let (reader, writer) = pipe().unwrap();
    let (near, far) = UnixStream::pair().unwrap();
    let (master, slave) = terminal();
    vec![
        ("pipe", reader, writer),
        ("socket", near.into(), far.into()),
        ("terminal", master, slave),
    ]
}

fn terminal() -> (OwnedFd, OwnedFd) {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap();
    let flags = OFlags::RDWR | OFlags::NOCTTY;
    let slave = rustix::fs::open(name.as_c_str(), flags, rustix::fs::Mode::empty()).unwrap();
    let mut plain = rustix::termios::tcgetattr(&slave).unwrap();
    plain.make_raw();
    rustix::termios::tcsetattr(&slave, rustix::termios::OptionalActions::Now, &plain).unwrap();
    (master, slave)
}

fn without_blocking(file: &OwnedFd) {
    fcntl_setfl(file, fcntl_getfl(file).unwrap() | OFlags::NONBLOCK).unwrap();
}

#[test]
fn q6_what_does_not_fit_at_once_is_waited_for_and_the_flag_stays() {
    const N: usize = 1 << 20;
    let said: Vec<u8> = (0..N).map(|it| (it % 251) as u8).collect();
    for (kind, reader, writer) in ends() {
        without_blocking(&writer);
        let heard = thread::scope(|scope| {
            scope.spawn(|| {
                let mut left = said.as_slice();
                while !left.is_empty() {
                    left = &left[write_to(writer.as_fd(), left).unwrap()..];
                }
            });
            let mut heard = vec![0; N];
            File::from(reader.try_clone().unwrap())
                .read_exact(&mut heard)
                .unwrap();
            heard
        });
        assert!(heard == said, "{kind}");
        let flags = fcntl_getfl(&writer).unwrap();
        assert!(flags.contains(OFlags::NONBLOCK), "{kind}");
    }
}

#[test]
fn q6_what_is_not_there_yet_is_waited_for_and_the_flag_stays() {
    for (kind, reader, writer) in ends() {
        without_blocking(&reader);
        let mut room = [0; 16];
        assert_eq!(
            File::from(reader.try_clone().unwrap())
                .read(&mut room)
                .unwrap_err()
                .kind(),
            ErrorKind::WouldBlock,
            "{kind}: nothing is there"
        );
        thread::scope(|scope| {
            let reading = scope.spawn(|| {
                let mut room = [0; 16];
                let n = read_from(reader.as_fd(), &mut room).unwrap();
                room[..n].to_vec()
            });
            File::from(writer.try_clone().unwrap())
                .write_all(b"late")
                .unwrap();
            assert_eq!(reading.join().unwrap(), b"late", "{kind}");
        });
        let flags = fcntl_getfl(&reader).unwrap();
        assert!(flags.contains(OFlags::NONBLOCK), "{kind}");
    }
}

#[test]
fn q6_a_file_that_cannot_be_written_or_read_is_an_error() {
    let folder = File::open("/").unwrap();
    let read_only = File::open("/dev/null").unwrap();
    let write_only = File::options().write(true).open("/dev/null").unwrap();
    assert!(write_to(folder.as_fd(), b"x").is_err());
    assert!(write_to(read_only.as_fd(), b"x").is_err());
    assert!(read_from(folder.as_fd(), &mut [0]).is_err());
    assert!(read_from(write_only.as_fd(), &mut [0]).is_err());
    #[cfg(target_os = "linux")]
    {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let error = write_to(full.as_fd(), b"x").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::StorageFull);
    }
}

#[test]
fn q7_a_reader_that_leaves_is_noticed_without_a_write() {
    for (kind, reader, writer) in ends() {
        thread::scope(|scope| {
            let watching = scope.spawn(|| await_end(writer.as_fd()));
            drop(reader);
            assert!(watching.join().unwrap(), "{kind}");
        });
        let error = write_to(writer.as_fd(), b"x").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BrokenPipe, "{kind}");
    }
}

#[test]
fn q7_a_full_pipe_whose_reader_leaves_ends_the_waiting() {
    let (reader, writer) = pipe().unwrap();
    without_blocking(&writer);
    while rustix::io::write(&writer, &[0; 4096]).is_ok() {}
    thread::scope(|scope| {
        let writing = scope.spawn(|| write_to(writer.as_fd(), b"one more"));
        drop(reader);
        let error = writing.join().unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BrokenPipe);
    });
}
