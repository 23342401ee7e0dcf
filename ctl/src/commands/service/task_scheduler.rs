//! A task of Windows' scheduler, which runs at sign-in, without an administrator.
//!
//! The task has pomd go into the background: a task's program would have a console window, and its end would be pomd's.

use std::{env, io::Write, path::PathBuf, time::Duration};

use control::client::ClientError;
use tokio::{process::Command, time::Instant};

use super::{
    Found, Owner,
    launch::Launch,
    status_if_running,
    tool::{self, ToolError, escaped},
};
use crate::{context::Context, error::CliError, process_end::ProcessEnd};

const NAME: &str = "pomd";
/// The description of every task that pomctl registers.
const MARK: &str = "Services behind Pomerium as local ports (by pomctl service install)";
const LIMIT: Duration = Duration::from_secs(20);

/// The scheduler, for the user of this process.
pub(super) struct Manager;

impl Manager {
    #[expect(clippy::unused_async, reason = "the same for each manager")]
    pub(super) async fn find() -> Result<Self, CliError> {
        Ok(Self)
    }

    /// Returns a variable of what the scheduler starts: those of the person.
    #[expect(clippy::unused_self, reason = "the same for each manager")]
    pub(super) fn var(&self, name: &str) -> Option<String> {
        env::var(name).ok().filter(|it| !it.is_empty())
    }

    pub(super) async fn look(&self, cx: &Context) -> Result<Found, CliError> {
        let owner = match schtasks(&["/Query", "/TN", NAME, "/XML"]).await {
            Ok(text) if text.contains(MARK) => Owner::Pomctl,
            Ok(_) => Owner::Person,
            Err(ToolError::Failed(_)) => Owner::Nobody,
            Err(missing) => return Err(missing.into()),
        };
        let status = status_if_running(cx).await?;
        Ok(Found {
            manager: "task scheduler",
            definition: (owner != Owner::Nobody).then(|| PathBuf::from(NAME)),
            owner,
            text: None,
            starts_at_login: owner != Owner::Nobody,
            running: status.is_some(),
            pid: status.map(|it| it.pomd.pid),
            says: None,
            runs_while_logged_out: Some(false),
        })
    }

    /// Returns the task that runs this.
    pub(super) fn definition(launch: &Launch) -> Result<String, CliError> {
        let user = ["USERDOMAIN", "USERNAME"].map(|it| env::var(it).unwrap_or_default());
        let arguments = launch.arguments.iter().map(|it| quoted(it));
        Ok(format!(
            "<?xml version=\"1.0\" encoding=\"UTF-16\"?>\r\n\
             <Task version=\"1.2\" xmlns=\"http://schemas.microsoft.com/windows/2004/02/mit/task\">\r\n\
             <RegistrationInfo><Description>{MARK}</Description></RegistrationInfo>\r\n\
             <Triggers><LogonTrigger><Enabled>true</Enabled><UserId>{user}</UserId></LogonTrigger></Triggers>\r\n\
             <Principals><Principal id=\"Author\"><UserId>{user}</UserId><LogonType>InteractiveToken</LogonType>\
             <RunLevel>LeastPrivilege</RunLevel></Principal></Principals>\r\n\
             <Settings><MultipleInstancesPolicy>IgnoreNew</MultipleInstancesPolicy>\
             <DisallowStartIfOnBatteries>false</DisallowStartIfOnBatteries>\
             <StopIfGoingOnBatteries>false</StopIfGoingOnBatteries>\
             <ExecutionTimeLimit>PT0S</ExecutionTimeLimit>\
             <RestartOnFailure><Interval>PT1M</Interval><Count>3</Count></RestartOnFailure></Settings>\r\n\
             <Actions Context=\"Author\"><Exec><Command>{program}</Command>\
             <Arguments>--daemonize{arguments}</Arguments></Exec></Actions>\r\n</Task>\r\n",
            user = escaped(&user.join("\\")),
            program = escaped(&launch.program),
            arguments = escaped(&arguments.collect::<String>()),
        ))
    }

    /// Registers the task: from then on it starts at each sign-in.
    pub(super) async fn install(&self, text: Option<&str>) -> Result<(), CliError> {
        let Some(text) = text else {
            return Ok(());
        };
        let failed = |it: std::io::Error| CliError::failed(format!("cannot write the task: {it}"));
        let mut file = tempfile::NamedTempFile::new().map_err(failed)?;
        let units = std::iter::once(0xFEFF).chain(text.encode_utf16());
        let bytes: Vec<u8> = units.flat_map(u16::to_le_bytes).collect();
        file.write_all(&bytes).map_err(failed)?;
        // The tool opens it anew.
        let path = file.into_temp_path();
        let path = path.to_string_lossy();
        schtasks(&["/Create", "/TN", NAME, "/XML", &path, "/F"]).await?;
        Ok(())
    }

    pub(super) async fn start(&self, cx: &Context, again: bool) -> Result<(), CliError> {
        if again {
            self.stop(cx).await?;
        }
        // One that pomctl started is the same that the task would start.
        if status_if_running(cx).await?.is_none() {
            schtasks(&["/Run", "/TN", NAME]).await?;
        }
        Ok(())
    }

    pub(super) async fn stop(&self, cx: &Context) -> Result<(), CliError> {
        let answer = match cx.client.stop().await {
            Err(ClientError::NotRunning | ClientError::Cut { .. }) => return Ok(()),
            answer => answer?,
        };
        match ProcessEnd::of(answer.pid) {
            Some(end) if !end.wait(Instant::now() + LIMIT).await => {
                Err(CliError::failed("pomd has not ended"))
            }
            _ => Ok(()),
        }
    }

    pub(super) async fn remove(&self, cx: &Context, _: bool) -> Result<(), CliError> {
        schtasks(&["/Delete", "/TN", NAME, "/F"]).await?;
        self.stop(cx).await
    }

    pub(super) fn hint_on_logout(_: Option<bool>) -> Option<String> {
        None
    }
}

/// Returns an argument in quotes. A backslash before the closing one would take it away.
fn quoted(word: &str) -> String {
    let body = word.trim_end_matches('\\');
    let end = "\\".repeat(2 * (word.len() - body.len()));
    format!(" \"{body}{end}\"")
}

async fn schtasks(arguments: &[&str]) -> Result<String, ToolError> {
    let mut command = Command::new("schtasks.exe");
    command.args(arguments);
    tool::output(command, LIMIT).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_stands_in_a_task_as_it_is() {
        let launch = Launch {
            program: r"C:\Program Files\R&D\pomd.exe".to_owned(),
            arguments: vec!["--state-dir".to_owned(), r"C:\a b\".to_owned()],
            search_path: String::new(),
        };
        let text = Manager::definition(&launch).unwrap();
        let exec = r"<Exec><Command>C:\Program Files\R&amp;D\pomd.exe</Command><Arguments>--daemonize &quot;--state-dir&quot; &quot;C:\a b\\&quot;</Arguments></Exec>";
        assert!(text.contains(exec), "{text}");
        assert!(text.contains(MARK));
    }
}
