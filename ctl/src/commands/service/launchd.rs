//! An agent of launchd's, for the person's graphical sessions.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{process::Command, time::Instant};

use super::{
    Found, Owner,
    files::{cannot, text_of},
    launch::Launch,
    tool::{self, ToolError, escaped},
};
use crate::{commands::ssh_config, context::Context, error::CliError};

const LABEL: &str = "pomd";
/// Stands in every definition that pomctl writes.
const MARK: &str = "<!-- Written by `pomctl service install`, and written anew by the next one -->";
const LIMIT: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(50);

/// launchd, for the user of this process.
pub(super) struct Manager {
    home: PathBuf,
    domain: String,
}

impl Manager {
    pub(super) async fn find() -> Result<Self, CliError> {
        let home = env::var_os("HOME").filter(|it| !it.is_empty());
        let home = home.ok_or_else(|| CliError::failed("no home folder is known: set HOME"))?;
        let mut id = Command::new("id");
        id.arg("-u");
        let user = tool::output(id, LIMIT).await?;
        Ok(Self {
            home: home.into(),
            domain: format!("gui/{}", user.trim()),
        })
    }

    /// Returns a variable of what the manager starts: it has the person's home, and no places but the usual ones.
    #[expect(clippy::unused_self, reason = "the same for each manager")]
    pub(super) fn var(&self, name: &str) -> Option<String> {
        env::var(name).ok().filter(|it| !it.is_empty())
    }

    fn file(&self) -> PathBuf {
        let folder = self.home.join("Library/LaunchAgents");
        folder.join(LABEL).with_extension("plist")
    }

    fn target(&self) -> String {
        format!("{}/{LABEL}", self.domain)
    }

    pub(super) async fn look(&self, _: &Context) -> Result<Found, CliError> {
        let file = self.file();
        let (owner, text) = match text_of(&file)? {
            Some(text) if text.contains(MARK) => (Owner::Pomctl, Some(text)),
            Some(_) => (Owner::Person, None),
            None => (Owner::Nobody, None),
        };
        let shown = launchctl(&["print", &self.target()]).await;
        let pid = shown.as_ref().ok().and_then(|it| pid_of(it));
        Ok(Found {
            manager: "launchd",
            definition: (owner != Owner::Nobody).then_some(file),
            owner,
            text,
            starts_at_login: shown.is_ok(),
            running: pid.is_some(),
            pid,
            says: None,
            runs_while_logged_out: Some(false),
        })
    }

    /// Returns the agent that runs this.
    pub(super) fn definition(launch: &Launch) -> Result<String, CliError> {
        let home = env::var("HOME").unwrap_or_default();
        let mut words = vec![launch.program.as_str()];
        words.extend(launch.arguments.iter().map(String::as_str));
        let words = words
            .iter()
            .map(|it| format!("    <string>{}</string>\n", escaped(it)));
        Ok(format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
             <!DOCTYPE plist PUBLIC \"-//Apple//DTD PLIST 1.0//EN\" \"http://www.apple.com/DTDs/PropertyList-1.0.dtd\">\n\
             {MARK}\n<plist version=\"1.0\">\n<dict>\n  <key>Label</key>\n  <string>{LABEL}</string>\n  \
             <key>ProgramArguments</key>\n  <array>\n{words}  </array>\n  \
             <key>EnvironmentVariables</key>\n  <dict>\n    <key>PATH</key>\n    <string>{path}</string>\n  </dict>\n  \
             <key>RunAtLoad</key>\n  <true/>\n  \
             <key>KeepAlive</key>\n  <dict>\n    <key>SuccessfulExit</key>\n    <false/>\n  </dict>\n  \
             <key>LimitLoadToSessionType</key>\n  <string>Aqua</string>\n  \
             <key>StandardErrorPath</key>\n  <string>{log}</string>\n</dict>\n</plist>\n",
            words = words.collect::<String>(),
            path = escaped(&launch.search_path),
            log = escaped(&format!("{home}/Library/Logs/pomd/pomd.log")),
        ))
    }

    /// Writes the agent, if there is one to write, and has it start at each login. What is loaded already is loaded anew:
    /// launchd reads a file only then.
    pub(super) async fn install(&self, text: Option<&str>) -> Result<(), CliError> {
        let file = self.file();
        if let Some(text) = text {
            let log = self.home.join("Library/Logs/pomd");
            fs::create_dir_all(&log).map_err(|it| cannot("make", &log, &it))?;
            ssh_config::write(&file, text).map_err(|it| cannot("write", &file, &it))?;
        }
        launchctl(&["enable", &self.target()]).await?;
        self.unload().await?;
        let file = file.to_string_lossy();
        launchctl(&["bootstrap", &self.domain, &file]).await?;
        Ok(())
    }

    async fn unload(&self) -> Result<(), CliError> {
        let target = self.target();
        let _ = launchctl(&["bootout", &target]).await;
        let deadline = Instant::now() + LIMIT;
        // It answers before what ran has ended.
        while launchctl(&["print", &target]).await.is_ok() {
            if Instant::now() >= deadline {
                return Err(CliError::failed(format!(
                    "launchd does not let {target} go"
                )));
            }
            tokio::time::sleep(PAUSE).await;
        }
        Ok(())
    }

    pub(super) async fn start(&self, _: &Context, again: bool) -> Result<(), CliError> {
        let target = self.target();
        let words: &[&str] = match again {
            true => &["kickstart", "-k", &target],
            false => &["kickstart", &target],
        };
        launchctl(words).await?;
        Ok(())
    }

    /// A clean end is none that launchd mends.
    pub(super) async fn stop(&self, cx: &Context) -> Result<(), CliError> {
        let target = self.target();
        launchctl(&["kill", "SIGTERM", &target]).await?;
        let deadline = Instant::now() + LIMIT;
        while self.look(cx).await?.running {
            if Instant::now() >= deadline {
                return Err(CliError::failed("pomd has not ended"));
            }
            tokio::time::sleep(PAUSE).await;
        }
        Ok(())
    }

    pub(super) async fn remove(&self, _: &Context, _: bool) -> Result<(), CliError> {
        self.unload().await?;
        let file = self.file();
        match fs::remove_file(&file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(cannot("remove", &file, &error))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn hint_on_logout(_: Option<bool>) -> Option<String> {
        Some("macOS shows \"Background Items Added\" once; that is this".to_owned())
    }
}

fn pid_of(shown: &str) -> Option<u32> {
    let mut lines = shown.lines();
    lines.find_map(|it| it.trim().strip_prefix("pid = ")?.parse().ok())
}

async fn launchctl(arguments: &[&str]) -> Result<String, ToolError> {
    let mut command = Command::new(Path::new("/bin/launchctl"));
    command.args(arguments);
    tool::output(command, LIMIT).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_stands_in_an_agent_as_it_is() {
        let launch = Launch {
            program: "/a b/<R&D>/pomd".to_owned(),
            arguments: vec!["--config".to_owned(), "/\"x\"".to_owned()],
            search_path: "/usr/bin".to_owned(),
        };
        let text = Manager::definition(&launch).unwrap();
        assert!(
            text.contains(
                "<string>/a b/&lt;R&amp;D&gt;/pomd</string>\n    <string>--config</string>\n    \
             <string>/&quot;x&quot;</string>\n  </array>"
            ),
            "{text}"
        );
        assert!(text.contains(MARK));
        assert_eq!(
            pid_of("gui/501/pomd = {\n\tstate = running\n\tpid = 812\n}"),
            Some(812)
        );
        assert_eq!(pid_of("gui/501/pomd = {\n\tstate = not running\n}"), None);
    }
}
