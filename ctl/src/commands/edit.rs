//! `pomctl edit`: the person's editor on a copy, which replaces the file once it would load.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
};

use control::stdio;
use pomd_core::config::{Config, Problems};
use tokio::io::{AsyncBufReadExt, BufReader};

use super::reload;
use crate::{
    config_store::ConfigStore,
    context::Context,
    error::{CliError, Exit},
    sanitise,
};

pub(crate) async fn run(cx: &Context) -> Result<Exit, CliError> {
    let store = ConfigStore::open(cx)?;
    let failed = |it: io::Error| CliError::failed(format!("cannot make a copy to edit: {it}"));
    let folder = tempfile::Builder::new()
        .prefix("pomctl-edit.")
        .tempdir()
        .map_err(failed)?;
    let copy = folder.path().join("pomd.toml");
    fs::write(&copy, store.bytes()).map_err(failed)?;
    let result = edit(cx, &store, &copy).await;
    if result.is_err() && fs::read(&copy).is_ok_and(|it| it != store.bytes()) {
        // What was typed is never lost.
        let kept = folder.keep().join("pomd.toml");
        let kept = sanitise::line(&kept.display().to_string());
        cx.screen.say(&format!("Your text is kept in {kept}"));
    }
    result
}

async fn edit(cx: &Context, store: &ConfigStore, copy: &Path) -> Result<Exit, CliError> {
    let shown = &store.shown;
    loop {
        let ended = open_editor(copy).await?;
        if !ended.success() {
            let message = format!("the editor ended with an error ({ended}), so nothing was saved");
            return Err(CliError::failed(message));
        }
        let text = fs::read(copy)
            .map_err(|it| CliError::failed(format!("cannot read what was edited: {it}")))?;
        if text == store.bytes() {
            cx.screen.answer(&format!("{shown} is as it was."))?;
            return Ok(Exit::Done);
        }
        match Config::read(&text, store.base()) {
            Ok(_) => return save(cx, store, &text).await,
            Err(problems) => {
                let message = format!("{shown} would be broken, so it was not saved");
                let failure = report(store, &problems, &text, &message);
                if !cx.screen.is_asked_by_a_person() {
                    return Err(failure);
                }
                cx.screen.report(&failure);
                if !again(cx).await? {
                    return Err(CliError::usage("config_broken", "nothing was saved", None));
                }
            }
        }
    }
}

async fn save(cx: &Context, store: &ConfigStore, text: &[u8]) -> Result<Exit, CliError> {
    store.save(&String::from_utf8_lossy(text))?;
    let answer = store.reload(cx).await?;
    if cx.screen.json() {
        cx.screen.answer_json(&answer)?;
        return Ok(Exit::Done);
    }
    cx.screen.answer(&format!("Saved {}.", store.shown))?;
    if let Some(answer) = answer {
        reload::tell(cx, &answer)?;
    }
    Ok(Exit::Done)
}

fn report(store: &ConfigStore, problems: &Problems, text: &[u8], message: &str) -> CliError {
    store.report(problems, &String::from_utf8_lossy(text), message)
}

/// Runs the editor and waits for it. Its name may hold arguments, as `code --wait`.
async fn open_editor(copy: &Path) -> Result<ExitStatus, CliError> {
    let said = ["POMD_EDITOR", "VISUAL", "EDITOR"]
        .iter()
        .filter_map(|it| env::var(it).ok())
        .find(|it| !it.trim().is_empty());
    let editor = said.unwrap_or_else(|| DEFAULT.to_owned());
    let mut command = command(&editor, copy.to_owned());
    let ended = tokio::task::spawn_blocking(move || command.status()).await;
    let cannot = |it: &dyn std::fmt::Display| {
        let editor = sanitise::line(&editor);
        CliError::failed(format!("cannot run the editor {editor}: {it}"))
    };
    match ended {
        Ok(Ok(ended)) if ended.code() == Some(127) => {
            Err(cannot(&"there is no such program; set EDITOR"))
        }
        Ok(Ok(ended)) => Ok(ended),
        Ok(Err(error)) => Err(cannot(&error)),
        Err(error) => Err(cannot(&error)),
    }
}

#[cfg(unix)]
const DEFAULT: &str = "vi";
#[cfg(not(unix))]
const DEFAULT: &str = "notepad";

/// Returns the editor as a shell would run it, as git and crontab do.
#[cfg(unix)]
fn command(editor: &str, copy: PathBuf) -> Command {
    let mut command = Command::new("/bin/sh");
    command.arg("-c").arg(format!("{editor} \"$@\""));
    command.arg(editor).arg(copy);
    command
}

#[cfg(not(unix))]
fn command(editor: &str, copy: PathBuf) -> Command {
    let mut words = editor.split_whitespace();
    let mut command = Command::new(words.next().unwrap_or(DEFAULT));
    command.args(words).arg(copy);
    command
}

/// Asks on the terminal; whatever is no clear no is a yes.
async fn again(cx: &Context) -> Result<bool, CliError> {
    cx.screen.ask("Edit again? [Y/n] ");
    let mut line = String::new();
    let mut input = BufReader::new(stdio::AsyncInput::default());
    let read = tokio::select! {
        read = input.read_line(&mut line) => read,
        _ = tokio::signal::ctrl_c() => return Err(CliError::Interrupted),
    };
    let read = read.map_err(|it| CliError::failed(format!("cannot read the answer: {it}")))?;
    let said = line.trim().to_ascii_lowercase();
    Ok(read > 0 && !matches!(said.as_str(), "n" | "no"))
}
