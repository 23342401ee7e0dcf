//! `pomctl ssh-config`: prints what lets ssh find tunnels and domains by their names, or installs it.
//!
//! Installed are a file of our own beside the configuration, and one `Include` in the person's file, see [`mod@include`].

mod include;

use std::{
    env, fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

use control::descriptor;
use pomd_core::ssh_config::{Hosts, Proxy};
use serde_json::json;

use self::include::{Added, Included, Removed};
use crate::{
    args::SshConfigArgs,
    config_store::ConfigStore,
    context::Context,
    error::{CliError, Exit, Report},
    render::count,
    sanitise, start,
};

pub(crate) fn run(cx: &Context, args: &SshConfigArgs) -> Result<Exit, CliError> {
    if args.uninstall {
        return uninstall(cx);
    }
    let hosts = Hosts::of(&ConfigStore::open(cx)?.config()?);
    let proxy = proxy(cx, descriptor::IS_SUPPORTED && !args.no_fdpass)?;
    let text = hosts.render(env!("CARGO_PKG_VERSION"), &proxy);
    if args.install {
        return install(cx, &hosts, &text);
    }
    if cx.screen.json() {
        cx.screen.answer_json(&json!({
            "text": text,
            "tunnels": hosts.tunnels,
            "clusters": hosts.clusters,
        }))?;
        return Ok(Exit::Done);
    }
    cx.screen.answer(text.trim_end())?;
    if hosts.is_empty() {
        let words =
            "no tunnel leads to ssh, and no cluster has hosts: there is nothing to find yet";
        cx.screen.hint(words);
    }
    Ok(Exit::Done)
}

/// Returns the way from ssh to this pomd by this pomctl, with the paths that the person named for it.
pub(crate) fn proxy(cx: &Context, fdpass: bool) -> Result<Proxy, CliError> {
    let no_path = |what: &Path| {
        let shown = sanitise::line(&what.display().to_string());
        CliError::failed(format!("ssh can't be told of a path such as {shown}"))
    };
    let program = start::sibling("pomctl")
        .or_else(|| env::current_exe().ok())
        .ok_or_else(|| CliError::failed("where pomctl is can't be told"))?;
    let mut options = Vec::new();
    for (name, path, is_named) in cx.places() {
        if is_named {
            let path = path.to_str().ok_or_else(|| no_path(path))?;
            options.push((name, path.to_owned()));
        }
    }
    program
        .to_str()
        .and_then(|it| Proxy::new(it, &options, fdpass))
        .ok_or_else(|| no_path(&program))
}

fn install(cx: &Context, hosts: &Hosts, text: &str) -> Result<Exit, CliError> {
    let view = cx.screen.view();
    let ours = cx.paths.ssh_config();
    let shown = sanitise::line(&view.path(&ours));
    if !is_ours_or_absent(&ours)? {
        let message = format!("{shown} is not a file of pomctl's, and stays as it is");
        let hint = "move it away, then run this again";
        return Err(CliError::told(
            Report::new(Exit::Failed, "failed", message).hint(Some(hint.to_owned())),
        ));
    }
    let home = home()?;
    let lines = include::lines(&ours, &home)
        .ok_or_else(|| CliError::failed(format!("ssh can't include a path such as {shown}")))?;
    write(&ours, text).map_err(|it| CliError::failed(format!("cannot write {shown}: {it}")))?;
    let counted = format!(
        "{}, {}",
        count(hosts.tunnels as u64, "tunnel"),
        count(hosts.clusters as u64, "cluster")
    );
    let config = home.join(".ssh/config");
    let config_shown = view.path(&config);
    let included = include::find(&config, &ours, &home);
    let is_new = included.is_none();
    let added = match &included {
        Some(Included { file, line }) => Ok(format!(
            "Already in place ({}:{line}).",
            sanitise::line(&view.path(file))
        )),
        None => match include::add(&config, &lines) {
            Ok(Added { copy }) => {
                let copy = copy.as_ref().and_then(|it| it.file_name());
                let kept = copy.map_or(String::new(), |it| {
                    format!(" (copy kept: {})", it.to_string_lossy())
                });
                Ok(format!(
                    "Put 2 lines at the top of {config_shown}{kept}:\n    {}\n    {}",
                    lines[0], lines[1]
                ))
            }
            Err(error) => Err(error),
        },
    };
    let words = match added {
        Ok(words) => words,
        Err(why) => {
            let message = format!("{config_shown} stays as it is: {why}");
            let mut block = vec![format!(
                "Put these 2 lines at its top, above the first Host line:"
            )];
            block.extend(lines.iter().map(|it| format!("    {it}")));
            let report = Report::new(Exit::Failed, "failed", sanitise::line(&message));
            return Err(CliError::told(report.block(block)));
        }
    };
    if cx.screen.json() {
        cx.screen.answer_json(&json!({
            "file": ours,
            "tunnels": hosts.tunnels,
            "clusters": hosts.clusters,
            "included_now": is_new,
        }))?;
        return Ok(Exit::Done);
    }
    let mut page = format!("Wrote {shown} ({counted})\n{words}");
    if let Some(name) = hosts.example() {
        page += &format!("\nTry it: ssh {name}");
    }
    cx.screen.answer(&page)?;
    Ok(Exit::Done)
}

fn uninstall(cx: &Context) -> Result<Exit, CliError> {
    let view = cx.screen.view();
    let ours = cx.paths.ssh_config();
    let home = home()?;
    let config = home.join(".ssh/config");
    let config_shown = view.path(&config);
    let mut done = Vec::new();
    let lines = include::lines(&ours, &home);
    let removed = lines.map(|it| include::remove(&config, &it)).transpose();
    match removed {
        Ok(Some(Removed::Lines)) => done.push(format!("Took the Include out of {config_shown}")),
        Ok(Some(Removed::Restored)) => done.push(format!("{config_shown} is as it was before")),
        Ok(Some(Removed::Nothing) | None) => {}
        Err(why) => {
            let message = format!("{config_shown} stays as it is: {why}");
            return Err(CliError::failed(sanitise::line(&message)));
        }
    }
    let shown = sanitise::line(&view.path(&ours));
    if ours.exists() && is_ours_or_absent(&ours)? {
        fs::remove_file(&ours)
            .map_err(|it| CliError::failed(format!("cannot remove {shown}: {it}")))?;
        done.push(format!("Removed {shown}"));
    }
    if cx.screen.json() {
        cx.screen.answer_json(&json!({ "done": done }))?;
        return Ok(Exit::Done);
    }
    if done.is_empty() {
        done.push("Nothing of pomctl's is installed for ssh.".to_owned());
    }
    cx.screen.answer(&done.join("\n"))?;
    if let Some(Included { file, line }) = include::find(&config, &ours, &home) {
        let place = sanitise::line(&view.path(&file));
        cx.screen.hint(&format!(
            "an Include of it stands in {place}:{line} still, and finds nothing"
        ));
    }
    Ok(Exit::Done)
}

/// Returns the file and the line, from 1, in which ssh comes to include our file.
pub(super) fn included(cx: &Context) -> Option<(PathBuf, usize)> {
    let home = home().ok()?;
    let found = include::find(&home.join(".ssh/config"), &cx.paths.ssh_config(), &home)?;
    Some((found.file, found.line))
}

fn home() -> Result<PathBuf, CliError> {
    let home = env::home_dir().filter(|it| it.is_absolute() && it.parent().is_some());
    home.ok_or_else(|| CliError::failed("no home folder is known: set HOME"))
}

fn is_ours_or_absent(path: &Path) -> Result<bool, CliError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Proxy::read(&text).is_some()),
        Err(error) => match error.kind() {
            io::ErrorKind::NotFound => Ok(true),
            io::ErrorKind::InvalidData => Ok(false),
            _ => {
                let shown = sanitise::line(&path.display().to_string());
                Err(CliError::failed(format!("cannot read {shown}: {error}")))
            }
        },
    }
}

/// Puts a file of ours in its place, whole; readable by us alone.
pub(super) fn write(path: &Path, text: &str) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    include::make_folder(folder)?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(text.as_bytes())?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}
