//! `pomctl man`: the manual pages, made of what `--help` says, and those of pomd and of its configuration file.

use std::{fmt::Write as _, fs, io, path::Path};

use clap::{Command, CommandFactory};
use clap_mangen::Man;

use crate::{
    args::{Cli, ManArgs},
    context::Context,
    error::{CliError, Exit},
    sanitise,
};

/// What the pages of the commands begin with.
const PROGRAM: &str = "pomctl";
/// The pages that are written by hand.
const WRITTEN: [(&str, &str); 2] = [
    ("pomd.1", include_str!("../../../packaging/man/pomd.1")),
    (
        "pomd.toml.5",
        include_str!("../../../packaging/man/pomd.toml.5"),
    ),
];

pub(crate) fn run(cx: &Context, args: &ManArgs) -> Result<Exit, CliError> {
    if let Some(folder) = &args.to {
        let written = write(folder).map_err(|it| {
            let folder = sanitise::line(&folder.display().to_string());
            CliError::failed(format!("cannot write the manual pages to {folder}: {it}"))
        })?;
        cx.screen.say(&format!("Wrote {written} manual pages."));
        return Ok(Exit::Done);
    }
    let name = args.name.as_deref().unwrap_or(PROGRAM);
    let is_meant = |file: &str| {
        let (page, _) = file.rsplit_once('.').unwrap_or((file, ""));
        page == name || page.strip_prefix("pomctl-") == Some(name)
    };
    let mut pages = pages();
    let Some(found) = pages.iter().position(|it| is_meant(&it.0)) else {
        let message = format!("there is no manual page for {}", sanitise::name(name));
        let hint = "commands: pomctl --help; others: pomd, pomd.toml".to_owned();
        return Err(CliError::usage("bad_request", message, Some(hint)));
    };
    cx.screen.answer(pages.swap_remove(found).1.trim_end())?;
    Ok(Exit::Done)
}

/// Writes all pages below a folder where `man` looks, `man1` and so on in it, which are made if needed. Returns how many.
fn write(folder: &Path) -> io::Result<usize> {
    let pages = pages();
    for (name, text) in &pages {
        let section = name.rsplit('.').next().unwrap_or_default();
        let folder = folder.join(format!("man{section}"));
        fs::create_dir_all(&folder)?;
        fs::write(folder.join(name), text)?;
    }
    Ok(pages.len())
}

/// Returns every page: its file's name and its text.
fn pages() -> Vec<(String, String)> {
    let mut whole = Cli::command();
    whole.build();
    let commands = whole.get_subcommands();
    let shown = commands.filter(|it| !it.is_hide_set() && it.get_name() != "help");
    let mut res: Vec<(String, String)> = shown.map(|it| page(it.clone())).collect();
    let commands = shown_commands(&whole);
    let whole = whole
        .about("Services behind Pomerium as local ports")
        .after_help(commands);
    res.insert(0, page(whole.before_help("")));
    res.extend(WRITTEN.map(|(name, text)| (name.to_owned(), text.to_owned())));
    res
}

/// Returns the commands, a line each.
fn shown_commands(whole: &Command) -> String {
    let mut res = "Commands\n".to_owned();
    for command in whole.get_subcommands().filter(|it| !it.is_hide_set()) {
        let about = command.get_about().map(ToString::to_string);
        let about = about.unwrap_or_default();
        let _ = writeln!(res, "  {:<16} {about}", command.get_name());
    }
    res
}

fn page(command: Command) -> (String, String) {
    let name = match command.get_name() {
        PROGRAM => PROGRAM.to_owned(),
        name => format!("{PROGRAM}-{name}"),
    };
    let after = command.get_after_help().map(ToString::to_string);
    let command = command
        .after_help("")
        .mut_args(|it| it.hide_short_help(false));
    let source = format!("{PROGRAM} {}", control::VERSION);
    let man = Man::new(command).title(&name).source(source);
    let mut text = Vec::new();
    // Written to memory: nothing can fail.
    let _ = man.render_title(&mut text);
    let _ = man.render_name_section(&mut text);
    let _ = man.render_synopsis_section(&mut text);
    let _ = man.render_options_section(&mut text);
    let mut text = String::from_utf8_lossy(&text).into_owned();
    for part in after.as_deref().unwrap_or_default().split("\n\n") {
        let (head, lines) = match part.split_once('\n') {
            Some((head @ ("Examples" | "Commands"), lines)) => (head.to_uppercase(), lines),
            _ => ("NOTES".to_owned(), part),
        };
        if lines.trim().is_empty() {
            continue;
        }
        let _ = writeln!(text, ".SH {head}\n.nf");
        for line in lines.lines() {
            // A line that begins with one of these is an order to roff.
            let guard = if line.starts_with(['.', '\'']) {
                "\\&"
            } else {
                ""
            };
            let line = line.replace('\\', "\\e").replace('-', "\\-");
            let _ = writeln!(text, "{guard}{line}");
        }
        text.push_str(".fi\n");
    }
    text.push_str(".SH SEE ALSO\n.BR pomctl (1),\n.BR pomd (1),\n.BR pomd.toml (5)\n");
    (format!("{name}.1"), text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page_and_no_line_of_it_is_an_order_by_accident() {
        let pages = pages();
        for command in Cli::command().get_subcommands() {
            let file = format!("pomctl-{}.1", command.get_name());
            let (_, text) = pages.iter().find(|it| it.0 == file).unwrap();
            let (_, after) = text.split_once(".SH OPTIONS").unwrap();
            for line in after.lines().filter(|it| it.starts_with(['.', '\''])) {
                let word = line.split_whitespace().next().unwrap();
                let known = [
                    ".SH", ".nf", ".fi", ".TP", ".IP", ".BR", ".RE", ".RS", ".br", ".ie", ".el",
                    ".SS",
                ];
                assert!(known.contains(&word), "{file}: {line}");
            }
        }
    }
}
