//! What another user does: run under another user id by the tests, says one line for each try. Uses
//! nothing but std and sockets.

use std::{
    env, fs,
    io::{ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    os::unix::{
        fs::PermissionsExt,
        net::{UnixListener, UnixStream},
    },
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use socket2::{Domain, SockRef, Socket, Type};

/// How long a try may take.
const TRY_TIME: Duration = Duration::from_secs(10);

fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["connect", address, times] => connect(address, times.parse().unwrap_or(1)),
        ["get", address, path] => say(&get(address, path)),
        ["hold", address] => hold(address),
        ["leave", from, address, words] => leave(from, address, words),
        ["flood", address, first, last] => flood(address, first, last),
        ["unix", path, request] => unix(path, request),
        ["pretend", path] => pretend(path),
        _ => {
            say("usage: other-user connect|get|hold|leave|flood|unix|pretend …");
            std::process::exit(2);
        }
    }
}

#[expect(clippy::print_stdout, reason = "its words are its answer")]
fn say(words: &str) {
    println!("{words}");
}

/// Connects, says hello, and tells how each connection ended.
fn connect(address: &str, times: u32) {
    for _ in 0..times {
        say(&ending(address));
    }
}

fn ending(address: &str) -> String {
    let stream = TcpStream::connect(address);
    let mut stream = match stream {
        Ok(stream) => stream,
        Err(error) => return format!("not connected: {}", word(error.kind())),
    };
    let _ = stream.set_read_timeout(Some(TRY_TIME));
    // The system tells a reset once, to whichever call comes next.
    if let Err(error) = stream.write_all(b"SSH-2.0-other-user\r\n") {
        return format!("{} after 0 bytes", word(error.kind()));
    }
    let mut got = Vec::new();
    match stream.read_to_end(&mut got) {
        Ok(_) => format!("ended after {} bytes", got.len()),
        Err(error) => format!("{} after {} bytes", word(error.kind()), got.len()),
    }
}

fn word(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::ConnectionReset => "reset",
        ErrorKind::ConnectionRefused => "refused",
        ErrorKind::WouldBlock | ErrorKind::TimedOut => "silence",
        ErrorKind::PermissionDenied => "no permission",
        ErrorKind::NotFound => "not found",
        ErrorKind::BrokenPipe => "broken pipe",
        _ => "another error",
    }
}

/// One HTTP request; the first line of the answer, or how it ended.
fn get(address: &str, path: &str) -> String {
    let Ok(mut stream) = TcpStream::connect(address) else {
        return "not connected".to_owned();
    };
    let _ = stream.set_read_timeout(Some(TRY_TIME));
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    let mut got = Vec::new();
    let sent = stream.write_all(request.as_bytes());
    let read = sent.and_then(|()| stream.read_to_end(&mut got));
    let text = String::from_utf8_lossy(&got);
    match (read, text.lines().next()) {
        (_, Some(line)) => line.to_owned(),
        (Ok(_), None) => "ended after 0 bytes".to_owned(),
        (Err(error), None) => format!("{} after 0 bytes", word(error.kind())),
    }
}

/// Takes a port and keeps it until stdin ends.
fn hold(address: &str) {
    match TcpListener::bind(address) {
        Ok(_listener) => {
            say("held");
            let _ = std::io::stdin().read_to_end(&mut Vec::new());
        }
        Err(error) => say(&format!("not held: {:?}", error.kind())),
    }
}

/// The most that is said on a connection before it is reset: more than is taken of a client before its route is open.
const LEFT: usize = 128 << 10;

/// Connects from this address, says `words` again and again, and resets.
fn leave(from: &str, address: &str, words: &str) {
    let words = words.replace("\\r\\n", "\r\n");
    say(&match left(Some(from), address, &words) {
        Ok(()) => "left".to_owned(),
        Err(error) => format!("not left: {error}"),
    });
}

fn left(from: Option<&str>, address: &str, words: &str) -> std::io::Result<()> {
    let parsed = |text: &str| text.parse::<SocketAddr>().map_err(std::io::Error::other);
    let address = parsed(address)?;
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    if let Some(from) = from {
        socket.set_reuse_address(true)?;
        socket.bind(&parsed(from)?.into())?;
    }
    socket.connect(&address.into())?;
    let mut stream = TcpStream::from(socket);
    stream.write_all(words.repeat(LEFT / words.len()).as_bytes())?;
    SockRef::from(&stream).set_linger(Some(Duration::ZERO))
}

/// Takes all ports from `first` to `last` but two, and says so; then leaves bytes on connections that have one of these
/// two, until its stdin ends; says how many.
fn flood(address: &str, first: &str, last: &str) {
    let (first, last): (u16, u16) = (first.parse().unwrap_or(0), last.parse().unwrap_or(0));
    let taken: Vec<Socket> = (first + 2..=last)
        .filter_map(|port| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).ok()?;
            let address = SocketAddr::from(([127, 0, 0, 1], port));
            socket.bind(&address.into()).ok().map(|()| socket)
        })
        .collect();
    say(&format!("took {}", taken.len()));
    let stop = Arc::new(AtomicBool::new(false));
    let told = stop.clone();
    let waiting = std::thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        told.store(true, Ordering::Relaxed);
    });
    let mut count = 0;
    while !stop.load(Ordering::Relaxed) {
        // Somebody else may have the port at the moment.
        count += u32::from(left(None, address, "the stranger's ").is_ok());
    }
    let _ = waiting.join();
    say(&format!("left {count}"));
}

/// Sends a request to a Unix socket and says what came.
fn unix(path: &str, request: &str) {
    let mut stream = match UnixStream::connect(path) {
        Ok(stream) => stream,
        Err(error) => return say(&format!("not connected: {}", word(error.kind()))),
    };
    let _ = stream.set_read_timeout(Some(TRY_TIME));
    let sent = stream.write_all(request.replace("\\r\\n", "\r\n").as_bytes());
    let _ = stream.shutdown(Shutdown::Write);
    let mut got = Vec::new();
    let read = stream.read_to_end(&mut got);
    let failed = sent.and(read.map(|_| ())).err();
    let how = failed.map_or("ended", |error| word(error.kind()));
    say(&format!("{how} after {} bytes", got.len()));
}

/// Stands in for a server on a Unix socket that anybody may use; says how many bytes each visitor sent.
fn pretend(path: &str) {
    let listener = match UnixListener::bind(path) {
        Ok(listener) => listener,
        Err(error) => return say(&format!("not bound: {}", word(error.kind()))),
    };
    let _ = fs::set_permissions(path, fs::Permissions::from_mode(0o777));
    say("listening");
    for visitor in listener.incoming().flatten() {
        let mut visitor = visitor;
        let _ = visitor.set_read_timeout(Some(TRY_TIME));
        let mut got = [0; 4096];
        let n = visitor.read(&mut got).unwrap_or(0);
        say(&format!("{n} bytes"));
    }
}
