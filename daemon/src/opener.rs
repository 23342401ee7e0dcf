//! Shows a link in the person's browser.
//!
//! `plan` decides, purely, what to run; the rest runs it: without a shell, its output thrown away, given a few seconds,
//! reaped. Must not know what the link leads to.

use std::{
    env,
    ffi::OsString,
    path::Path,
    process::{ExitStatus, Stdio},
    time::{Duration, Instant},
};

use tokio::{process::Command, runtime::Handle};

use crate::{session::Open, system::limits};
use control::wire::BrowserChoice;

/// How long a program is watched for a failure; a browser that runs on is a good sign.
const WATCHED: Duration = Duration::from_secs(3);
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// What is ours alone, or a promise of the service manager to us.
const NOT_INHERITED: [&str; 12] = [
    "JOURNAL_STREAM",
    "LISTEN_FDNAMES",
    "LISTEN_FDS",
    "LISTEN_PID",
    "NOTIFY_SOCKET",
    "POMD_BROWSER",
    "POMD_CONFIG",
    "POMD_LOG",
    "POMD_SOCKET",
    "POMD_STATE_DIR",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
];

/// The browser of this machine, as the cluster's settings and the environment say: the key `browser`, else
/// `POMD_BROWSER` (`none` switches it off), else `BROWSER`, else whatever the platform opens links with.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemBrowser;

/// How to show a link.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Plan {
    /// Run this; `%s` in a word is the link, else it follows at the end.
    Run(Vec<String>),
    /// Run this, whose exit code says nothing.
    #[cfg(all(unix, not(target_os = "macos")))]
    RunAndHope(Vec<String>),
    /// Ask the platform's own interface.
    #[cfg(not(all(unix, not(target_os = "macos"))))]
    Platform,
}

impl Open for SystemBrowser {
    fn available(&self, browser: &BrowserChoice) -> bool {
        plan(browser, &var, &on_path).is_some()
    }

    /// Blocks for some seconds: call it where that is allowed, inside of a runtime, which reaps what runs on.
    fn open(&self, browser: &BrowserChoice, link: &str) -> Result<(), String> {
        match plan(browser, &var, &on_path) {
            None => Err("there is none".to_owned()),
            Some(Plan::Run(words)) => run(&with_link(&words, link), true),
            #[cfg(all(unix, not(target_os = "macos")))]
            Some(Plan::RunAndHope(words)) => run(&with_link(&words, link), false),
            #[cfg(not(all(unix, not(target_os = "macos"))))]
            Some(Plan::Platform) => platform::open(link),
        }
    }
}

/// What would show a link here, if anything does.
fn plan(
    choice: &BrowserChoice,
    var: &dyn Fn(&str) -> Option<String>,
    on_path: &dyn Fn(&str) -> bool,
) -> Option<Plan> {
    match choice {
        BrowserChoice::None => return None,
        BrowserChoice::Command(words) => return plan_to_run(words.clone()),
        BrowserChoice::Default => {}
    }
    if let Some(wish) = var("POMD_BROWSER") {
        return plan_to_run(words_of(&wish)).filter(|_| wish != "none");
    }
    let wishes = var("BROWSER").unwrap_or_default();
    let wish = wishes.split(':').map(words_of).find(|it| {
        it.first()
            .is_some_and(|it| on_path(it) && !is_text_browser(it))
    });
    wish.map(Plan::Run).or_else(|| platform::plan(var, on_path))
}

fn plan_to_run(words: Vec<String>) -> Option<Plan> {
    (!words.is_empty()).then_some(Plan::Run(words))
}

fn words_of(command: &str) -> Vec<String> {
    command
        .split_ascii_whitespace()
        .map(str::to_owned)
        .collect()
}

fn with_link(words: &[String], link: &str) -> Vec<String> {
    let mut res: Vec<_> = words.iter().map(|it| it.replace("%s", link)).collect();
    if !words.iter().any(|it| it.contains("%s")) {
        res.push(link.to_owned());
    }
    res
}

fn is_text_browser(program: &str) -> bool {
    let name = Path::new(program).file_name().and_then(|it| it.to_str());
    matches!(
        name.unwrap_or(program),
        "www-browser" | "w3m" | "lynx" | "links" | "links2" | "elinks" | "browsh"
    )
}

fn run(words: &[String], exit_code_counts: bool) -> Result<(), String> {
    let [program, arguments @ ..] = words else {
        return Err("there is none".to_owned());
    };
    let runtime = Handle::try_current().map_err(|it| it.to_string())?;
    let _entered = runtime.enter();
    let mut command = command(program, arguments);
    let mut child = command
        .spawn()
        .map_err(|it| format!("cannot run {program}: {it}"))?;
    if let Some(id) = child.id() {
        limits::give_back_descriptors(id);
    }
    let begun = Instant::now();
    loop {
        match child.try_wait() {
            Ok(Some(status)) if status.success() || !exit_code_counts => return Ok(()),
            Ok(Some(status)) => return Err(format!("{program} {}", ending(status))),
            Ok(None) if begun.elapsed() < WATCHED => std::thread::sleep(LOOK_EVERY),
            // It shows the page and stays. The runtime reaps it when it ends.
            Ok(None) => return Ok(()),
            Err(error) => return Err(format!("cannot watch {program}: {error}")),
        }
    }
}

fn command(program: &str, arguments: &[String]) -> Command {
    let mut res = Command::new(program);
    res.args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    for name in NOT_INHERITED {
        res.env_remove(name);
    }
    platform::prepare(&mut res);
    res
}

fn ending(status: ExitStatus) -> String {
    match status.code() {
        Some(code) => format!("ended with exit code {code}"),
        None => format!("was ended by a {status}"),
    }
}

fn var(name: &str) -> Option<String> {
    let value = env::var_os(name).map(OsString::into_string);
    value.and_then(Result::ok).filter(|it| !it.is_empty())
}

fn on_path(program: &str) -> bool {
    if program.contains(std::path::MAIN_SEPARATOR) {
        return is_program(Path::new(program));
    }
    let folders = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&folders).any(|it| is_program(&it.join(program)))
}

#[cfg(unix)]
fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata()
        .is_ok_and(|it| it.is_file() && it.permissions().mode() & 0o111 != 0)
}

#[cfg(not(unix))]
fn is_program(path: &Path) -> bool {
    path.is_file() || path.with_extension("exe").is_file()
}

/// Linux and its kin: programs, where there is a display to show a window on.
#[cfg(all(unix, not(target_os = "macos")))]
mod platform {
    use tokio::process::Command;

    use super::Plan;

    /// What `xdg-open` tries where no desktop answers: never a text browser, which would end in nothing.
    const WINDOWED: &str = "x-www-browser:firefox:chromium:google-chrome";

    pub(super) fn plan(
        var: &dyn Fn(&str) -> Option<String>,
        on_path: &dyn Fn(&str) -> bool,
    ) -> Option<Plan> {
        if var("WSL_DISTRO_NAME").is_some() {
            for (program, makes_sense) in [("wslview", true), ("explorer.exe", false)] {
                if on_path(program) {
                    let words = vec![program.to_owned()];
                    return Some(if makes_sense {
                        Plan::Run(words)
                    } else {
                        Plan::RunAndHope(words)
                    });
                }
            }
        }
        if var("DISPLAY").is_none() && var("WAYLAND_DISPLAY").is_none() {
            return None;
        }
        let programs: [&[&str]; 4] = [
            &["xdg-open"],
            &["gio", "open"],
            &["kde-open"],
            &["x-www-browser"],
        ];
        let found = programs.into_iter().find(|it| on_path(it[0]))?;
        Some(Plan::Run(found.iter().map(|it| (*it).to_owned()).collect()))
    }

    pub(super) fn prepare(command: &mut Command) {
        // Ctrl-C for a pomd in a terminal is not meant for the browser.
        command.process_group(0);
        if super::var("BROWSER").is_none() {
            command.env("BROWSER", WINDOWED);
        }
    }
}

/// macOS and Windows: the system's own interface, which starts no child of ours.
#[cfg(not(all(unix, not(target_os = "macos"))))]
mod platform {
    use tokio::process::Command;

    use super::Plan;

    pub(super) fn plan(
        var: &dyn Fn(&str) -> Option<String>,
        _: &dyn Fn(&str) -> bool,
    ) -> Option<Plan> {
        let here = var("SSH_CONNECTION").is_none() && webbrowser::Browser::is_available();
        here.then_some(Plan::Platform)
    }

    pub(super) fn prepare(command: &mut Command) {
        #[cfg(unix)]
        command.process_group(0);
        #[cfg(not(unix))]
        let _ = command;
    }

    pub(super) fn open(link: &str) -> Result<(), String> {
        webbrowser::open(link).map_err(|it| it.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINK: &str = "http://127.0.0.1:41235/k3v9qzab";

    #[cfg(target_os = "linux")]
    #[test]
    fn a_browser_is_found_in_the_order_of_who_said_so() {
        let display = ("DISPLAY", ":0");
        let ssh = ("SSH_CONNECTION", "10.0.0.1 1 10.0.0.2 22");
        let programs = ["xdg-open", "firefox", "lynx", "helper", "wslview"];
        let planned = |choice: &BrowserChoice, vars: &[(&str, &str)]| {
            let var = |name: &str| {
                let found = vars.iter().find(|it| it.0 == name);
                found.map(|it| it.1.to_owned())
            };
            plan(choice, &var, &|it| programs.contains(&it))
        };
        let run =
            |words: &[&str]| Some(Plan::Run(words.iter().map(|it| (*it).to_owned()).collect()));
        let default = BrowserChoice::Default;
        assert_eq!(planned(&BrowserChoice::None, &[display]), None);
        let command = BrowserChoice::Command(vec![
            "firefox".to_owned(),
            "-P".to_owned(),
            "work".to_owned(),
        ]);
        assert_eq!(planned(&command, &[]), run(&["firefox", "-P", "work"]));
        assert_eq!(planned(&default, &[display]), run(&["xdg-open"]));
        assert_eq!(
            planned(&default, &[("WAYLAND_DISPLAY", "wayland-0")]),
            run(&["xdg-open"])
        );
        assert_eq!(planned(&default, &[]), None);
        assert_eq!(planned(&default, &[ssh]), None);
        assert_eq!(planned(&default, &[ssh, display]), run(&["xdg-open"]));
        assert_eq!(
            planned(&default, &[display, ("POMD_BROWSER", "none")]),
            None
        );
        assert_eq!(
            planned(
                &default,
                &[("POMD_BROWSER", "firefox -P x"), ("BROWSER", "helper")]
            ),
            run(&["firefox", "-P", "x"])
        );
        assert_eq!(
            planned(&default, &[("BROWSER", "gone:lynx:helper %s")]),
            run(&["helper", "%s"])
        );
        assert_eq!(planned(&default, &[("BROWSER", "/usr/bin/lynx")]), None);
        assert_eq!(
            planned(&default, &[("WSL_DISTRO_NAME", "Debian")]),
            run(&["wslview"])
        );
    }

    #[test]
    fn the_link_is_one_word_whatever_stands_in_it() {
        let words = |it: &[&str]| it.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>();
        let link = "http://127.0.0.1:1/a b;$(touch x)";
        assert_eq!(
            with_link(&words(&["firefox"]), link),
            words(&["firefox", link])
        );
        assert_eq!(
            with_link(&words(&["app", "--url=%s"]), link),
            words(&["app", "--url=http://127.0.0.1:1/a b;$(touch x)"])
        );
    }

    #[test]
    fn a20_a_browser_inherits_nothing_that_is_ours() {
        let command = command("firefox", &[]);
        for name in NOT_INHERITED {
            let mut changed = command.as_std().get_envs();
            assert!(changed.any(|it| it.0 == name && it.1.is_none()), "{name}");
        }
    }

    #[cfg(unix)]
    mod unix {
        use super::*;

        #[tokio::test]
        async fn a_browser_gets_the_link() {
            let home = tempfile::tempdir().unwrap();
            let out = home.path().join("out");
            let script = "echo \"$1\" > $0.new; mv $0.new $0".to_owned();
            let opened = open(vec![
                "sh".into(),
                "-c".into(),
                script,
                out.display().to_string(),
            ]);
            assert_eq!(opened.await, Ok(()));
            let text = std::fs::read_to_string(out).unwrap();
            assert_eq!(text, format!("{LINK}\n"));
        }

        #[tokio::test]
        async fn l4_a_browser_that_is_missing_or_fails_is_told() {
            let missing = open(vec!["/nonexistent/browser".into()]).await.unwrap_err();
            assert!(
                missing.starts_with("cannot run /nonexistent/browser: No such file"),
                "{missing}"
            );
            let failing = open(vec!["false".into()]).await;
            assert_eq!(failing, Err("false ended with exit code 1".to_owned()));
            assert_eq!(open(vec![]).await, Err("there is none".to_owned()));
            let killed = open(vec!["sh".into(), "-c".into(), "kill -9 $$".into()])
                .await
                .unwrap_err();
            assert!(
                killed.starts_with("sh was ended by a signal: 9"),
                "{killed}"
            );
        }

        #[tokio::test]
        async fn l4_a_browser_that_prints_without_end_or_stays_is_left_alone_and_reaped_when_it_ends()
         {
            let home = tempfile::tempdir().unwrap();
            let pid = home.path().join("pid");
            let script = format!("echo $$ > {0}.new; mv {0}.new {0}; exec yes", pid.display());
            let begun = Instant::now();
            assert_eq!(open(vec!["sh".into(), "-c".into(), script]).await, Ok(()));
            assert!(begun.elapsed() < WATCHED * 3);
            let pid = std::fs::read_to_string(pid)
                .unwrap()
                .trim()
                .parse()
                .unwrap();
            let pid = rustix::process::Pid::from_raw(pid).unwrap();
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
            // A zombie can still be asked about; what was reaped is gone.
            let gone = async {
                while rustix::process::test_kill_process(pid).is_ok() {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            };
            tokio::time::timeout(Duration::from_secs(10), gone)
                .await
                .unwrap();
        }

        async fn open(words: Vec<String>) -> Result<(), String> {
            let choice = BrowserChoice::Command(words);
            tokio::task::spawn_blocking(move || SystemBrowser.open(&choice, LINK))
                .await
                .unwrap()
        }
    }
}
