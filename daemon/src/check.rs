//! `pomd check`: says whether the configuration file is good; for scripts, editors and CI.

use std::{path::PathBuf, process::ExitCode, sync::Arc};

use control::paths::Paths;
use pomd::{
    clock::Clock,
    load::{self, Checked},
    system::{disk::Disk, home, limits},
};
use pomd_core::config::Machine;
use tokio::runtime::Builder;

use crate::{FAILED, USAGE, args::Args, fail, terminal};

/// What to write into a file that has no tunnel yet.
const FIRST_TUNNEL: &str = "hint: a tunnel is three lines:
  [tunnel.ssh-prod]
  route  = \"ssh-prod.corp.example.com:22\"
  listen = 2202";

/// Checks the file and says what is wrong with it. Exit code 2: it has problems.
pub(crate) fn check(args: &Args, file: Option<PathBuf>) -> ExitCode {
    let named = file.is_some() || args.names_the_configuration();
    let place = match Paths::find(args.wishes(file)) {
        Ok(place) => place,
        Err(error) => return fail(USAGE, &error),
    };
    let shown = home::shown(&place.config);
    let missing =
        std::fs::metadata(&place.config).is_err_and(|it| it.kind() == std::io::ErrorKind::NotFound);
    if missing && named {
        return fail(USAGE, &format!("there is no file {shown}"));
    }
    let runtime = Builder::new_current_thread().enable_all().build();
    let loaded = match runtime {
        Ok(runtime) => {
            let machine = Machine {
                first_port: limits::first_port(),
            };
            let now = Clock::real().now();
            runtime.block_on(load::check(&place, Arc::new(Disk), &machine, now))
        }
        Err(error) => return fail(FAILED, &error),
    };
    match loaded {
        Checked::Good {
            tunnels,
            warnings,
            report,
        } => {
            terminal::say(&report);
            if missing {
                return terminal::answer(&format!(
                    "there is no {shown} yet, so pomd starts with no tunnels\n"
                ));
            }
            let s = |count: usize| if count == 1 { "" } else { "s" };
            let rating = match warnings {
                0 => "good".to_owned(),
                _ => format!("usable, {warnings} warning{}", s(warnings)),
            };
            if tunnels == 0 {
                terminal::say(&format!("{FIRST_TUNNEL}\n"));
            }
            let s = s(tunnels);
            terminal::answer(&format!("{shown} is {rating}: {tunnels} tunnel{s}\n"))
        }
        Checked::Broken(broken) => {
            let count = broken.count;
            terminal::say(&format!(
                "{}{count} error{} in {shown}\n",
                broken.report,
                if count == 1 { "" } else { "s" }
            ));
            ExitCode::from(USAGE)
        }
    }
}
