//! `pomctl logs`: from pomd while it runs, else from the file of a pomd that pomctl started.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read, Seek, SeekFrom},
    path::Path,
};

use control::{
    client::News,
    holder::Holder,
    log_line::NoLogLine,
    wire::{LogLine, Status},
};
use serde_json::json;

use super::{status_if_running, which};
use crate::{
    args::LogsArgs,
    context::Context,
    error::{CliError, Exit},
    render::{
        View,
        paint::{Role, paint},
        times,
    },
    sanitise,
};

/// The most that is read of a file, from its end.
const FILE_MOST: u64 = 4 << 20;
/// The longest line that is read whole.
const LINE_MOST: u64 = 64 << 10;

pub(crate) async fn run(cx: &Context, args: &LogsArgs) -> Result<Exit, CliError> {
    match status_if_running(cx).await? {
        Some(status) => from_pomd(cx, args, &status).await,
        None => from_file(cx, args),
    }
}

async fn from_pomd(cx: &Context, args: &LogsArgs, status: &Status) -> Result<Exit, CliError> {
    let name = args.name.as_deref();
    let left = |name: &str| status.leaving.iter().any(|it| it.name == name);
    if let Some(name) = name.filter(|it| which::tunnel(status, it).is_none() && !left(it)) {
        return Err(which::no_tunnel(status, name));
    }
    let widest = widest(status.tunnels.iter().map(|it| it.name.as_str()));
    if args.follow {
        let mut skipped = match args.most {
            Some(most) => remembered(cx, name).await?.len().saturating_sub(most),
            None => 0,
        };
        let mut lines = cx.client.follow_logs(name).await?;
        cx.screen.say(&what_is_read(cx, true, status));
        while let Some(news) = lines.next().await? {
            match news {
                News::Next(_) if skipped > 0 => skipped -= 1,
                News::Next(line) => print(cx, line, widest)?,
                News::Restarted => cx.screen.say("pomd restarted"),
            }
        }
        return Err(CliError::pomd_ended(Some(status.pomd.log.as_deref())));
    }
    let lines = remembered(cx, name).await?;
    cx.screen.say(&what_is_read(cx, false, status));
    for line in newest(lines, args.most) {
        print(cx, line, widest)?;
    }
    Ok(Exit::Done)
}

/// Returns the lines that pomd remembers: a bounded number.
async fn remembered(cx: &Context, name: Option<&str>) -> Result<Vec<LogLine>, CliError> {
    let mut lines = cx.client.logs(name, false).await?;
    let mut res = Vec::new();
    while let Some(line) = lines.next().await? {
        res.push(line);
    }
    Ok(res)
}

/// Returns the last `most` of them.
fn newest<T>(lines: Vec<T>, most: Option<usize>) -> impl Iterator<Item = T> {
    let skipped = most.map_or(0, |it| lines.len().saturating_sub(it));
    lines.into_iter().skip(skipped)
}

fn print(cx: &Context, line: LogLine, widest: usize) -> Result<(), CliError> {
    if cx.screen.json() {
        return cx.screen.answer_json_line(&line);
    }
    let line = sanitise::log(line);
    cx.screen.answer(&drawn(&line, widest, &cx.screen.view()))
}

/// Returns where these lines come from, and where all of them are.
fn what_is_read(cx: &Context, follow: bool, status: &Status) -> String {
    let reads = if follow { "Following" } else { "Reading" };
    let log = status.pomd.log.as_deref().map(sanitise::line);
    match log {
        Some(command) if command.starts_with("journalctl ") => {
            let on = if follow { " -f" } else { "" };
            format!("{reads} the journal ({command}{on})")
        }
        Some(path) => format!(
            "{reads} the log of pomd (pid {}); the whole log: {}",
            status.pomd.pid,
            cx.screen.view().path(Path::new(&path))
        ),
        None => format!("{reads} the log of pomd (pid {})", status.pomd.pid),
    }
}

/// Returns `14:05:40 warn  ssh-prod  connection 42: 403 for alice@example.com`.
fn drawn(line: &LogLine, widest: usize, view: &View<'_>) -> String {
    let time = times::time_to_the_second(line.at, view.now, view.zone);
    let role = match line.level.as_str() {
        "error" => Role::Bad,
        "warn" => Role::Warn,
        _ => Role::Muted,
    };
    let pad = " ".repeat(5_usize.saturating_sub(line.level.chars().count()));
    let about = about(line).unwrap_or_default();
    let connection = line
        .connection
        .filter(|_| !line.message.starts_with("connection "))
        .map_or(String::new(), |it| format!("connection {it}: "));
    let level = paint(role, &line.level);
    format!(
        "{time} {level}{pad} {about:<widest$}  {connection}{}",
        line.text()
    )
}

fn about(line: &LogLine) -> Option<&str> {
    line.tunnel.as_deref().or(line.cluster.as_deref())
}

/// Returns the room for names.
fn widest<'a>(names: impl Iterator<Item = &'a str>) -> usize {
    let names = names.map(|it| sanitise::name(it).chars().count());
    names.max().unwrap_or_default().min(30)
}

fn from_file(cx: &Context, args: &LogsArgs) -> Result<Exit, CliError> {
    // A file beside it would be that of an earlier one.
    let last = Holder::read(&cx.paths.state).and_then(|it| it.facts?.log);
    let elsewhere = last.filter(|it| it.starts_with("journalctl "));
    if let Some(command) = elsewhere {
        return Err(CliError::not_running_said(&command));
    }
    let path = cx.paths.log_file();
    let mut file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(CliError::not_running());
        }
        Err(error) => return Err(unreadable(cx, &path, &error)),
    };
    cx.screen.say(&format!(
        "Reading {} (pomd is not running)",
        cx.screen.view().path(&path)
    ));
    let lines = tail(&mut file).map_err(|it| unreadable(cx, &path, &it))?;
    let lines: Vec<_> = lines
        .into_iter()
        // What is no line of this form, as in files of older releases, is shown as it stands.
        .map(|it| it.parse().map_err(|NoLogLine| it))
        .filter(|it| args.name.as_deref().is_none_or(|name| is_about(it, name)))
        .collect();
    let widest = widest(lines.iter().flatten().filter_map(about));
    for line in newest(lines, args.most) {
        match line {
            Ok(line) if cx.screen.json() => cx.screen.answer_json_line(&line)?,
            Ok(line) => {
                let line = sanitise::log(line);
                cx.screen.answer(&drawn(&line, widest, &cx.screen.view()))?;
            }
            Err(words) if cx.screen.json() => cx.screen.answer_json_line(&json!({
                "at": null, "level": null, "tunnel": null, "cluster": null, "connection": null, "message": words,
            }))?,
            Err(words) => cx.screen.answer(&sanitise::line(&words))?,
        }
    }
    if args.follow {
        return Err(CliError::not_running());
    }
    Ok(Exit::Done)
}

/// Returns the last lines of a file, however large it is.
fn tail(file: &mut File) -> io::Result<Vec<String>> {
    let length = file.seek(SeekFrom::End(0))?;
    let skipped = length.saturating_sub(FILE_MOST);
    file.seek(SeekFrom::Start(skipped))?;
    let mut reader = BufReader::new(file.take(FILE_MOST));
    let mut lines = Vec::new();
    let mut line = Vec::new();
    while reader
        .by_ref()
        .take(LINE_MOST)
        .read_until(b'\n', &mut line)?
        > 0
    {
        lines.push(String::from_utf8_lossy(&line).trim_end().to_owned());
        line.clear();
    }
    if skipped > 0 && !lines.is_empty() {
        // Half a line.
        lines.remove(0);
    }
    Ok(lines)
}

/// Tells whether the line is about the tunnel `name`; words that are no line of pomd's must name it.
fn is_about(line: &Result<LogLine, String>, name: &str) -> bool {
    match line {
        Ok(line) => line.tunnel.as_deref() == Some(name),
        Err(words) => mentions(words, name),
    }
}

/// Tells whether the name stands in the line by itself, not as a part of another.
fn mentions(line: &str, name: &str) -> bool {
    let part_of_a_name = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.');
    line.match_indices(name).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + name.len()..].chars().next();
        ![before, after].into_iter().flatten().any(part_of_a_name)
    })
}

fn unreadable(cx: &Context, path: &Path, error: &io::Error) -> CliError {
    let path = cx.screen.view().path(path);
    CliError::failed(format!("cannot read the log {path}: {error}"))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_name_inside_another_is_not_mentioned() {
        assert!(mentions("conn{tunnel=ssh id=4}: open", "ssh"));
        assert!(mentions("ssh: open", "ssh"));
        assert!(!mentions("conn{tunnel=ssh-prod}: open", "ssh"));
        assert!(mentions("ssh-prod and ssh", "ssh"));
    }

    #[test]
    fn only_the_end_of_a_huge_file_is_read_and_in_whole_lines() {
        let mut file = tempfile::tempfile().unwrap();
        let line = format!("{}\n", "x".repeat(99));
        for _ in 0..(FILE_MOST / 100 + 500) {
            file.write_all(line.as_bytes()).unwrap();
        }
        file.write_all(b"the last").unwrap();
        let lines = tail(&mut file).unwrap();
        assert_eq!(lines.last().unwrap(), "the last");
        assert!(lines[..lines.len() - 1].iter().all(|it| it.len() == 99));
        let read: usize = lines.iter().map(|it| it.len() + 1).sum();
        assert!(read as u64 <= FILE_MOST + 1);
    }
}
