//! `pomctl` alone: what there is, in one screen.

use crate::{
    error::{CliError, Exit},
    screen::Screen,
};

/// Where the words of a line begin.
#[cfg(test)]
pub(crate) const LABEL: usize = 14;

/// Shows the overview.
pub(crate) fn run(screen: &Screen) -> Result<Exit, CliError> {
    screen.answer(text())?;
    Ok(Exit::Done)
}

/// Returns the commands by what they are for; also the top of `--help`.
pub(crate) fn text() -> &'static str {
    "\
Services behind Pomerium as local ports.      Usage: pomctl COMMAND [OPTIONS]
Every day     status  up  down  ssh  login  logout
For programs  connect  ssh-config  token  kube-credential  wait
Change        add  remove  enable  disable  edit
Look inside   logs  events  top  doctor
The daemon    reload  restart  stop  service
More          demo  completions  man  help
Options       --json  --color WHEN  --no-start  --config FILE  --socket PATH"
}
