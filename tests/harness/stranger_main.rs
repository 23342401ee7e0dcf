//! What a stranger does: run under another user id by the tests, says one line for each try. Uses nothing but std.

use std::{
    env, fs,
    io::{ErrorKind, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    os::unix::{
        fs::PermissionsExt,
        net::{UnixListener, UnixStream},
    },
    time::Duration,
};

/// How long a try may take.
const TRY_TIME: Duration = Duration::from_secs(10);

fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["connect", address, times] => connect(address, times.parse().unwrap_or(1)),
        ["get", address, path] => say(&get(address, path)),
        ["hold", address] => hold(address),
        ["unix", path, request] => unix(path, request),
        ["pretend", path] => pretend(path),
        _ => {
            say("usage: stranger connect|get|hold|unix|pretend …");
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
    if let Err(error) = stream.write_all(b"SSH-2.0-stranger\r\n") {
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
