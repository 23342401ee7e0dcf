//! A program that prints a token: run without a shell, for a limited time, with an environment that holds no secret of
//! pomd's. Its output is the token and nothing else, and is shown nowhere.

use std::{process::Stdio, time::Duration};

use pomd_core::{route::error::SystemError, session::error::SourceError};
use tokio::{
    io::AsyncReadExt,
    process::{Child, Command},
    time::timeout,
};
use zeroize::Zeroizing;

use super::MOST;
use crate::{
    surroundings::Now,
    system::{
        exec::{self, ProcessGroup},
        limits,
        user_manager::{self, Variables},
    },
};

/// How long the program may take.
pub(super) const LIMIT: Duration = Duration::from_secs(30);
/// What the program is given of pomd's environment, besides what begins with one of [`PREFIXES`].
const GIVEN: [&str; 27] = [
    "APPDATA",
    "AWS_CONFIG_FILE",
    "AWS_PROFILE",
    "AZURE_CONFIG_DIR",
    "CLOUDSDK_CONFIG",
    "COMSPEC",
    "DBUS_SESSION_BUS_ADDRESS",
    "HOME",
    "HOMEDRIVE",
    "HOMEPATH",
    "KUBECONFIG",
    "LANG",
    "LANGUAGE",
    "LOCALAPPDATA",
    "LOGNAME",
    "PATH",
    "PATHEXT",
    "SHELL",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
    "SYSTEMROOT",
    "TEMP",
    "TMP",
    "TMPDIR",
    "TZ",
    "USER",
    "USERPROFILE",
];
const PREFIXES: [&str; 2] = ["LC_", "XDG_"];
/// The usual names, in either case.
const PROXIES: [&str; 4] = ["ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"];

/// Returns what the program prints. Where pomd is confined by a unit, its manager runs the program outside of it.
pub(super) async fn output(words: &[String], now: &Now) -> Result<Zeroizing<Vec<u8>>, SourceError> {
    let variables = given(&now.variables);
    if let Some(manager) = &now.manager {
        let lacking: Variables = variables
            .iter()
            .filter(|(name, value)| manager.get(*name) != Some(*value))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        let outside = user_manager::piped(&without_complaints(words), &lacking, LIMIT);
        let mut command = command(&outside, &now.variables);
        command.stderr(Stdio::piped());
        match run(command).await {
            Ok(Ended { complaint, .. }) if complaint.contains("connect to") => {
                tracing::debug!("no unit for a token's program: {complaint}");
            }
            Ok(ended) => return ended.output_by_shell(),
            Err(SourceError::CannotRun(why)) => {
                tracing::debug!("no unit for a token's program: {why}");
            }
            Err(other) => return Err(other),
        }
    }
    run(command(words, &variables)).await?.output()
}

/// The command that runs `words` with nothing on its stderr: there the manager's tool complains, and the program's own words,
/// which may hold the token or be many, would stand among its.
fn without_complaints(words: &[String]) -> Vec<String> {
    let shell = ["/bin/sh", "-c", "exec \"$0\" \"$@\" 2>/dev/null"];
    let shell = shell.map(str::to_owned).into_iter();
    shell.chain(words.iter().cloned()).collect()
}

/// How a program ended, and what it said.
struct Ended {
    status: std::process::ExitStatus,
    output: Zeroizing<Vec<u8>>,
    /// Of the manager's tool alone; of the program, which may say the token there, nothing is read.
    complaint: String,
}

impl Ended {
    /// Of a program that a shell was to run, whose codes tell why it could not.
    fn output_by_shell(self) -> Result<Zeroizing<Vec<u8>>, SourceError> {
        let why = match self.status.code() {
            Some(126) => "permission denied",
            Some(127) => "there is no such program, or it misses another (exit code 127)",
            _ => return self.output(),
        };
        Err(SourceError::CannotRun(why.to_owned()))
    }

    fn output(self) -> Result<Zeroizing<Vec<u8>>, SourceError> {
        match self.status.success() {
            _ if self.output.len() as u64 > MOST => Err(SourceError::TooLong(MOST)),
            true => Ok(self.output),
            false => Err(SourceError::Failed {
                code: self.status.code(),
            }),
        }
    }
}

async fn run(mut command: Command) -> Result<Ended, SourceError> {
    let cannot = |it: std::io::Error| SourceError::CannotRun(SystemError::from(it).text);
    let mut child = command.spawn().map_err(cannot)?;
    if let Some(id) = child.id() {
        limits::give_back_descriptors(id);
    }
    // Whatever happens, nothing of it stays.
    let _group = ProcessGroup::of(&child);
    match timeout(LIMIT, watched(&mut child)).await {
        Ok(ended) => ended.map_err(cannot),
        Err(_) => Err(SourceError::TimedOut(LIMIT)),
    }
}

async fn watched(child: &mut Child) -> std::io::Result<Ended> {
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let printed = async {
        // As long as it may get: growing would leave copies of a secret behind.
        let mut res = Zeroizing::new(Vec::with_capacity(MOST as usize + 2));
        if let Some(stdout) = stdout {
            stdout.take(MOST + 1).read_to_end(&mut res).await?;
        }
        std::io::Result::Ok(res)
    };
    let complained = async {
        let mut res = Vec::new();
        if let Some(stderr) = stderr {
            stderr.take(1024).read_to_end(&mut res).await?;
        }
        std::io::Result::Ok(res)
    };
    let (output, complaint) = tokio::try_join!(printed, complained)?;
    Ok(Ended {
        // One that goes on after more than it may say is ended by who waits.
        status: match output.len() as u64 > MOST {
            true => {
                child.kill().await?;
                child.wait().await?
            }
            false => child.wait().await?,
        },
        output,
        complaint: user_manager::complaint(&complaint).unwrap_or_default(),
    })
}

fn given(variables: &Variables) -> Variables {
    let is_given = |name: &str| {
        GIVEN.contains(&name)
            || PREFIXES.iter().any(|it| name.starts_with(it))
            || PROXIES.contains(&name.to_ascii_uppercase().as_str())
    };
    let given = variables.iter().filter(|it| is_given(it.0));
    given
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

fn command(words: &[String], variables: &Variables) -> Command {
    let mut res = exec::program(words, variables);
    res.stdout(Stdio::piped()).kill_on_drop(true);
    res
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a20_a_program_is_given_nothing_that_could_be_a_secret_or_a_promise() {
        let all = [
            ("PATH", true),
            ("HOME", true),
            ("LC_ALL", true),
            ("XDG_CONFIG_HOME", true),
            ("https_proxy", true),
            ("NO_PROXY", true),
            ("POMERIUM_TOKEN", false),
            ("ACTIONS_ID_TOKEN_REQUEST_TOKEN", false),
            ("CREDENTIALS_DIRECTORY", false),
            ("LISTEN_FDS", false),
            ("NOTIFY_SOCKET", false),
            ("POMD_SOCKET", false),
            ("AWS_SECRET_ACCESS_KEY", false),
            ("LD_PRELOAD", false),
        ];
        let variables = all.iter().map(|it| (it.0.to_owned(), "x".to_owned()));
        let given = given(&variables.collect());
        for (name, expected) in all {
            assert_eq!(given.contains_key(name), expected, "{name}");
        }
    }
}
