//! `pomctl completions`: the line by which a shell asks pomctl what could be typed, and the file it belongs into.

use crate::{
    args::{CompletionsArgs, Shell},
    context::Context,
    error::{CliError, Exit},
};

pub(crate) fn run(cx: &Context, args: &CompletionsArgs) -> Result<Exit, CliError> {
    let (line, place) = match args.shell {
        Shell::Bash => ("source <(COMPLETE=bash pomctl)", "~/.bashrc"),
        Shell::Zsh => (
            "source <(COMPLETE=zsh pomctl)",
            "~/.zshrc, after its line with compinit",
        ),
        Shell::Fish => (
            "source (COMPLETE=fish pomctl | psub)",
            "~/.config/fish/completions/pomctl.fish",
        ),
        Shell::Powershell => (
            "$env:COMPLETE = \"powershell\"; pomctl | Out-String | Invoke-Expression; Remove-Item Env:\\COMPLETE",
            "the file that $PROFILE names",
        ),
        Shell::Elvish => (
            "eval (E:COMPLETE=elvish pomctl | slurp)",
            "~/.config/elvish/rc.elv",
        ),
    };
    cx.screen.answer(line)?;
    cx.screen.say(&format!("This line belongs into {place}."));
    Ok(Exit::Done)
}
