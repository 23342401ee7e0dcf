//! What a doctor looks at on this machine beside pomd: the browser of the next login, and ssh's configuration. Reads, and
//! changes nothing.

use std::{env, time::Duration};

use control::{
    browser::Candidate,
    wire::{Check, CheckName, CheckOutcome},
};
use pomd_core::config::{ClusterSpec, Config, TokenSource};
use tokio::{process::Command, time::timeout};

use crate::{
    browser::{Plan, plan},
    commands::ssh_config,
    context::Context,
    sanitise,
};

/// How long ssh may take to say its version.
const PATIENCE: Duration = Duration::from_secs(2);
/// From here on OpenSSH refuses user and host names that a shell would obey.
const SAFE_SSH: (u32, u32) = (9, 6);
/// The variables that name a forward proxy.
const PROXIES: [&str; 4] = ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];

/// Returns what there is to say of a machine with these settings.
pub(super) async fn checks(cx: &Context, config: &Config) -> Vec<Check> {
    let logins = config.clusters.values();
    let logins = logins.filter(|it| it.token.source == TokenSource::Browser);
    let browser = logins.map(browser).next();
    let named = config.clusters.values().any(|it| it.named);
    let by_ssh = named || config.tunnels.values().any(|it| it.ssh);
    let ssh = if by_ssh { ssh_config(cx).await } else { None };
    browser.into_iter().chain(ssh).collect()
}

/// Returns advice where this shell names a forward proxy that pomd, which uses none, may not know of.
pub(super) fn unknown_proxy() -> Option<String> {
    let is_set = |name: &&&str| env::var_os(name).is_some_and(|it| !it.is_empty());
    let variable = PROXIES.iter().find(is_set)?;
    Some(format!(
        "this shell has {variable} set, pomd has not: set forward_proxy in the cluster's section, or start pomd where it is set"
    ))
}

fn browser(cluster: &ClusterSpec) -> Check {
    let check = |outcome, message: String| Check::new(CheckName::Browser, outcome, message);
    match plan(false, &cluster.browser) {
        Plan::Open(candidates) => {
            let by = match candidates.first() {
                Some(Candidate::Program(program)) => sanitise::line(program.name()),
                Some(Candidate::Interface) | None => "the system".to_owned(),
            };
            check(CheckOutcome::Good, format!("a login opens by {by}"))
        }
        Plan::Print(why) => {
            let why = why.map_or("none is wanted".to_owned(), |it| {
                format!("none here ({it})")
            });
            let message = format!("{why}: pomctl login prints the address to open");
            check(CheckOutcome::NotDone, message)
        }
    }
}

async fn ssh_config(cx: &Context) -> Option<Check> {
    let check = |outcome, message: String| Check::new(CheckName::SshConfig, outcome, message);
    let view = cx.screen.view();
    let shown = view.path(&cx.paths.ssh_config());
    if !cx.paths.ssh_config().exists() {
        return Some(Check {
            hint: Some(
                "to let ssh find tunnels by their names: pomctl ssh-config --install".to_owned(),
            ),
            ..check(CheckOutcome::NotDone, "not installed".to_owned())
        });
    }
    let Some((file, line)) = ssh_config::included(cx) else {
        return Some(Check {
            hint: Some(
                "it must stand above the first Host line: pomctl ssh-config --install".to_owned(),
            ),
            ..check(
                CheckOutcome::Bad,
                format!("ssh does not read {shown}: ~/.ssh/config does not include it"),
            )
        });
    };
    let message = format!("{}:{line} includes {shown}", view.path(&file));
    let version = ssh_version().await;
    let hint = version.filter(|it| *it < SAFE_SSH).map(|(major, minor)| {
        format!(
            "this OpenSSH is {major}.{minor}: before 9.6 it hands host names to a shell unchecked; update it"
        )
    });
    Some(Check {
        hint,
        ..check(CheckOutcome::Good, message)
    })
}

/// Returns the version of the OpenSSH that is on `PATH`.
async fn ssh_version() -> Option<(u32, u32)> {
    let asked = Command::new("ssh").arg("-V").kill_on_drop(true).output();
    let output = timeout(PATIENCE, asked).await.ok()?.ok()?;
    parse_version(&String::from_utf8_lossy(&output.stderr))
}

/// Reads `OpenSSH_9.2p1 …`, or `OpenSSH_for_Windows_9.5p2 …`.
fn parse_version(said: &str) -> Option<(u32, u32)> {
    let word = said.split([' ', ',']).next()?.strip_prefix("OpenSSH_")?;
    let number = word.rsplit('_').next()?;
    let (major, rest) = number.split_once('.')?;
    let minor: String = rest.chars().take_while(char::is_ascii_digit).collect();
    Some((major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_of_ssh_is_read_as_each_system_says_it() {
        for (said, version) in [
            (
                "OpenSSH_9.2p1 Debian-2+deb12u3, OpenSSL 3.0.15",
                Some((9, 2)),
            ),
            ("OpenSSH_10.0p2, LibreSSL", Some((10, 0))),
            ("OpenSSH_for_Windows_9.5p2, LibreSSL 3.8.2", Some((9, 5))),
            ("dropbear 2022", None),
            ("", None),
        ] {
            assert_eq!(parse_version(said), version, "{said}");
        }
        assert!((9, 2) < SAFE_SSH && (9, 6) >= SAFE_SSH && (10, 0) > SAFE_SSH);
    }
}
