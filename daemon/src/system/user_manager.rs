//! The user's systemd: what it knows of the environment, and programs that it runs outside of pomd's own unit.
//!
//! It is asked by its own tools, as lists of words, each within a limit: they find the manager's private socket by
//! themselves, also where no message bus runs, and a D-Bus library would be some thirty crates for two questions. A
//! program that the manager runs has neither the sandbox of pomd's unit nor its control group: it may use what the unit
//! may not, and lives on when the unit is stopped. Must not know what the programs are for.

use std::{
    collections::BTreeMap,
    env,
    process::Stdio,
    sync::Arc,
    time::{Duration, Instant},
};

use control::text::clean;
use tokio::{io::AsyncReadExt, process::Command, sync::Mutex, time::timeout};

/// Environment variables by their names.
pub type Variables = BTreeMap<String, String>;

/// How long the manager may take to answer.
const LIMIT: Duration = Duration::from_secs(5);
/// How long an answer counts: those who ask at one moment ask once.
const FRESH: Duration = Duration::from_millis(100);
/// How long a manager that did not answer is not asked again.
const PAUSE: Duration = Duration::from_secs(10);
/// The most that its tools may say.
const OUTPUT: u64 = 1 << 20;

/// The manager that started this process.
#[derive(Debug, Default)]
pub struct UserManager {
    /// Held while it is asked, so that only one question is under way.
    answer: Mutex<Option<Answer>>,
}

#[derive(Debug)]
struct Answer {
    at: Instant,
    environment: Option<Arc<Variables>>,
}

impl Answer {
    fn counts(&self) -> bool {
        let limit = if self.environment.is_some() {
            FRESH
        } else {
            PAUSE
        };
        self.at.elapsed() < limit
    }
}

impl UserManager {
    /// The manager, if this process is a service of one.
    pub fn detect() -> Option<Self> {
        let var = |name: &str| env::var(name).ok();
        (cfg!(target_os = "linux") && is_service(&var, std::process::id())).then(Self::default)
    }

    /// Its environment now; `None` if it does not answer.
    pub async fn environment(&self) -> Option<Arc<Variables>> {
        let mut answer = self.answer.lock().await;
        if let Some(it) = answer.as_ref().filter(|it| it.counts()) {
            return it.environment.clone();
        }
        let environment = match ask().await {
            Ok(it) => Some(Arc::new(it)),
            Err(why) => {
                tracing::debug!("the user's systemd does not tell its environment: {why}");
                None
            }
        };
        *answer = Some(Answer {
            at: Instant::now(),
            environment: environment.clone(),
        });
        environment
    }
}

/// Whether `pid` is a service's first process. Only what systemd says of this very process counts: a terminal's
/// children inherit the rest.
fn is_service(var: &dyn Fn(&str) -> Option<String>, pid: u32) -> bool {
    var("NOTIFY_SOCKET").is_some_and(|it| !it.is_empty())
        || var("SYSTEMD_EXEC_PID").is_some_and(|it| it == pid.to_string())
}

async fn ask() -> Result<Variables, String> {
    let mut command = Command::new("systemctl");
    command
        .args(["--user", "--output=json", "show-environment"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    let asking = async {
        let mut child = command.spawn().map_err(|it| it.to_string())?;
        let stdout = child.stdout.take().ok_or("no output")?;
        let mut told = Vec::new();
        let read = stdout.take(OUTPUT).read_to_end(&mut told).await;
        read.map_err(|it| it.to_string())?;
        let status = child.wait().await.map_err(|it| it.to_string())?;
        if !status.success() {
            return Err(status.to_string());
        }
        Ok(parse(&String::from_utf8_lossy(&told)))
    };
    let asked = timeout(LIMIT, asking).await;
    asked.unwrap_or_else(|_| Err(format!("no answer within {} s", LIMIT.as_secs())))
}

/// An object of JSON, or where systemd is older than 248, lines; there a value that it had to quote is left out.
fn parse(told: &str) -> Variables {
    serde_json::from_str(told).unwrap_or_else(|_| {
        let lines = told.lines().filter_map(|it| it.split_once('='));
        lines
            .filter(|it| !it.1.starts_with("$'"))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect()
    })
}

/// The command that has the manager run `words` with its environment, changed by `changes`, in a unit of its own. It
/// ends when the program does, and with 0 only if that did; to end the command does not end the program.
pub fn outside(words: &[String], changes: &Variables) -> Vec<String> {
    let start = [
        "systemd-run",
        "--user",
        "--quiet",
        "--collect",
        "--service-type=oneshot",
        // What a program leaves behind when it ends is the browser.
        "--property=KillMode=process",
        "--description=Browser for the login of pomd",
    ];
    with_manager(start.map(str::to_owned), words, changes)
}

/// The command that has the manager run `words` as [`outside`] does, with this command's standard streams, and ends
/// everything of it after `limit` at the latest.
pub fn piped(words: &[String], changes: &Variables, limit: Duration) -> Vec<String> {
    let limit = format!("--property=RuntimeMaxSec={}", limit.as_secs());
    let start = [
        "systemd-run",
        "--user",
        "--quiet",
        "--collect",
        "--pipe",
        "--wait",
        "--service-type=exec",
        &limit,
        "--description=Token for pomd",
    ];
    with_manager(start.map(str::to_owned), words, changes)
}

fn with_manager(
    start: impl IntoIterator<Item = String>,
    words: &[String],
    changes: &Variables,
) -> Vec<String> {
    let changes = changes
        .iter()
        .map(|(name, value)| format!("--setenv={name}={value}"));
    // The manager puts variables in.
    let words = words.iter().map(|it| it.replace('$', "$$"));
    let end = std::iter::once("--".to_owned());
    let start = start.into_iter();
    start.chain(changes).chain(end).chain(words).collect()
}

/// The first line of what `systemd-run` complained of, if it did.
pub fn complaint(stderr: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(stderr);
    let line = text.lines().map(str::trim).find(|it| !it.is_empty())?;
    Some(clean(line, 200))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn l12_a_service_is_known_by_what_is_said_of_itself_alone() {
        for (name, value, want) in [
            ("NOTIFY_SOCKET", "/run/user/1000/systemd/notify", true),
            ("NOTIFY_SOCKET", "", false),
            ("SYSTEMD_EXEC_PID", "17", true),
            ("SYSTEMD_EXEC_PID", "170", false),
            // A terminal that is a service gives it to every shell.
            ("INVOCATION_ID", "0123456789abcdef", false),
        ] {
            let var = |it: &str| (it == name).then(|| value.to_owned());
            assert_eq!(is_service(&var, 17), want, "{name}={value}");
        }
    }

    #[test]
    fn l12_the_environment_is_read_from_new_and_old_managers() {
        let vars = |list: &[(&str, &str)]| -> Variables {
            let owned = list.iter().map(|it| (it.0.to_owned(), it.1.to_owned()));
            owned.collect()
        };
        for (told, want) in [
            (
                "{\"DISPLAY\":\":0\",\"A\":\"b c\\n\\\"=\"}\n",
                vars(&[("DISPLAY", ":0"), ("A", "b c\n\"=")]),
            ),
            ("{}", vars(&[])),
            (
                "DISPLAY=:0\nA=$'b c'\nX=a=b\nE=\n",
                vars(&[("DISPLAY", ":0"), ("X", "a=b"), ("E", "")]),
            ),
            ("", vars(&[])),
            ("nonsense", vars(&[])),
        ] {
            assert_eq!(parse(told), want, "{told}");
        }
    }

    #[test]
    fn a32_words_reach_the_program_as_they_are() {
        let words = ["-x", "a$b", "$$", "%s"].map(str::to_owned);
        let changes = Variables::from([("DISPLAY".to_owned(), ":1".to_owned())]);
        let command = outside(&words, &changes);
        let start = command.iter().position(|it| it == "--").unwrap();
        assert_eq!(command[start + 1..], ["-x", "a$$b", "$$$$", "%s"]);
        assert!(command[..start].contains(&"--setenv=DISPLAY=:1".to_owned()));
        let first = complaint(b"\n Failed to start \x1b[31mtransient\n more");
        assert_eq!(first.as_deref().map(|it| it.contains('\x1b')), Some(false));
        assert_eq!(complaint(b" \n"), None);
    }
}
