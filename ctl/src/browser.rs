//! Who shows a login to the person: decides by what is said and by where we are, then opens it.
//!
//! Programs are run as lists of words, never by a shell, and get nothing but the short local link: no secret is in it.

use std::{
    env, fs,
    path::Path,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use control::wire::BrowserChoice;

/// How long an opener may take to fail. One that still runs after that is the browser itself.
const LIMIT: Duration = Duration::from_secs(2);
/// Browsers that would draw over the terminal.
const TEXT_BROWSERS: [&str; 7] = [
    "w3m",
    "lynx",
    "links",
    "links2",
    "elinks",
    "www-browser",
    "browsh",
];

/// How a login is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Plan {
    /// Its address is printed: for this reason, or because somebody wants it so.
    Print(Option<&'static str>),
    /// The first of these that works; the link is in their words already.
    Run(Vec<Vec<String>>),
    /// Whatever the platform opens links with.
    Platform,
}

/// Where we are, as far as it decides.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Surroundings {
    pomd_browser: Option<String>,
    browser: Option<String>,
    ssh: bool,
    container: bool,
    wsl: bool,
    display: bool,
}

impl Surroundings {
    pub(crate) fn here() -> Self {
        let var = |name: &str| env::var(name).ok().filter(|it| !it.is_empty());
        let has = |name| env::var_os(name).is_some_and(|it| !it.is_empty());
        Self {
            pomd_browser: var("POMD_BROWSER"),
            browser: var("BROWSER"),
            ssh: has("SSH_CONNECTION"),
            container: has("container")
                || ["/.dockerenv", "/run/.containerenv"]
                    .iter()
                    .any(|it| Path::new(it).exists()),
            wsl: fs::read_to_string("/proc/sys/kernel/osrelease")
                .is_ok_and(|it| it.to_ascii_lowercase().contains("microsoft")),
            display: displays_by_itself() || has("DISPLAY") || has("WAYLAND_DISPLAY"),
        }
    }

    fn no_display(&self) -> Option<&'static str> {
        match (self.display, self.ssh, self.container) {
            (false, true, _) => Some("ssh login, no display"),
            (false, false, true) => Some("in a container, no display"),
            (false, false, false) => Some("no display"),
            // These systems have a display of their own, but whoever came by ssh does not look at it.
            (true, true, _) if displays_by_itself() => Some("ssh login"),
            (true, ..) => None,
        }
    }
}

const fn displays_by_itself() -> bool {
    cfg!(any(target_os = "macos", windows))
}

/// What to do: `--no-browser`, the key `browser`, `POMD_BROWSER`, `BROWSER`, the platform, in this order.
pub(crate) fn plan(
    link: &str,
    no_browser: bool,
    choice: &BrowserChoice,
    around: &Surroundings,
) -> Plan {
    match choice {
        _ if no_browser => return Plan::Print(None),
        BrowserChoice::None => return Plan::Print(None),
        BrowserChoice::Command(words) if !words.is_empty() => {
            let words = words.iter().cloned().chain([link.to_owned()]);
            return Plan::Run(vec![words.collect()]);
        }
        BrowserChoice::Command(_) | BrowserChoice::Default => {}
    }
    match around.pomd_browser.as_deref() {
        Some("none") => return Plan::Print(None),
        Some("default") | None => {}
        Some(said) => return Plan::Run(commands(said, link)),
    }
    if let Some(said) = &around.browser {
        let usable: Vec<_> = commands(said, link)
            .into_iter()
            .filter(|it| !is_text_browser(it))
            .collect();
        return if usable.is_empty() {
            Plan::Print(Some("only a text browser"))
        } else {
            Plan::Run(usable)
        };
    }
    if around.wsl {
        let run = |program: &str| vec![program.to_owned(), link.to_owned()];
        return Plan::Run(vec![run("wslview"), run("explorer.exe")]);
    }
    match around.no_display() {
        Some(reason) => Plan::Print(Some(reason)),
        None => Plan::Platform,
    }
}

/// The convention of `BROWSER`: programs separated by colons, `%s` for the link.
fn commands(said: &str, link: &str) -> Vec<Vec<String>> {
    // A path with spaces or colons in it is a program all the same.
    if Path::new(said).is_file() {
        return vec![vec![said.to_owned(), link.to_owned()]];
    }
    let separator = if cfg!(windows) { ';' } else { ':' };
    said.split(separator)
        .filter_map(|it| {
            let mut words: Vec<String> = it.split_whitespace().map(str::to_owned).collect();
            if words.is_empty() {
                return None;
            }
            let mut placed = false;
            for word in &mut words {
                placed |= word.contains("%s");
                *word = word.replace("%s", link);
            }
            if !placed {
                words.push(link.to_owned());
            }
            Some(words)
        })
        .collect()
}

fn is_text_browser(words: &[String]) -> bool {
    let program = words.first().map(Path::new).and_then(Path::file_name);
    program.is_some_and(|it| TEXT_BROWSERS.iter().any(|text| it == *text))
}

/// Opens the link as planned; `Err` tells why that did not work.
pub(crate) async fn open(plan: &Plan, link: &str) -> Result<(), String> {
    match plan {
        Plan::Print(_) => Err("no browser is wanted".to_owned()),
        Plan::Platform => open_by_platform(link).await,
        Plan::Run(candidates) => {
            let mut why = "no browser is set".to_owned();
            for words in candidates {
                match run(words).await {
                    Ok(()) => return Ok(()),
                    Err(error) => why = error,
                }
            }
            Err(why)
        }
    }
}

async fn open_by_platform(link: &str) -> Result<(), String> {
    let link = link.to_owned();
    let opened = tokio::task::spawn_blocking(move || {
        let mut options = webbrowser::BrowserOptions::new();
        options.with_suppress_output(true);
        webbrowser::open_browser_with_options(webbrowser::Browser::Default, &link, &options)
    });
    match tokio::time::timeout(LIMIT, opened).await {
        Ok(Ok(Ok(()))) | Err(_) => Ok(()),
        Ok(Ok(Err(error))) => Err(error.to_string()),
        Ok(Err(error)) => Err(error.to_string()),
    }
}

async fn run(words: &[String]) -> Result<(), String> {
    let [program, rest @ ..] = words else {
        return Err("no browser is set".to_owned());
    };
    let mut command = tokio::process::Command::new(program);
    command
        .args(rest)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    // Ctrl-C ends our waiting, not the person's browser.
    #[cfg(unix)]
    command.process_group(0);
    let mut child = command
        .spawn()
        .map_err(|it| format!("{program} does not start: {it}"))?;
    match tokio::time::timeout(LIMIT, child.wait()).await {
        Err(_) => Ok(()),
        Ok(Ok(ended)) if is_success(program, ended) => Ok(()),
        Ok(Ok(ended)) => Err(format!("{program} ended with {ended}")),
        Ok(Err(error)) => Err(format!("{program}: {error}")),
    }
}

/// explorer.exe opens the page and says 1.
fn is_success(program: &str, ended: ExitStatus) -> bool {
    ended.success() || program == "explorer.exe"
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINK: &str = "http://127.0.0.1:1/x";

    fn around() -> Surroundings {
        Surroundings {
            display: true,
            ..Surroundings::default()
        }
    }

    fn planned(choice: BrowserChoice, around: &Surroundings) -> Plan {
        plan(LINK, false, &choice, around)
    }

    fn run(words: &[&str]) -> Vec<String> {
        words.iter().map(|it| (*it).to_owned()).collect()
    }

    #[test]
    fn the_order_is_flag_key_ours_theirs_platform() {
        let mut here = Surroundings {
            pomd_browser: Some("ours --new".into()),
            browser: Some("theirs".into()),
            ..around()
        };
        let key = BrowserChoice::Command(run(&["firefox", "-P", "work"]));
        assert_eq!(plan(LINK, true, &key, &here), Plan::Print(None));
        let expected = Plan::Run(vec![run(&["firefox", "-P", "work", LINK])]);
        assert_eq!(planned(key, &here), expected);
        assert_eq!(planned(BrowserChoice::None, &here), Plan::Print(None));
        let expected = Plan::Run(vec![run(&["ours", "--new", LINK])]);
        assert_eq!(planned(BrowserChoice::Default, &here), expected);
        here.pomd_browser = Some("none".into());
        assert_eq!(planned(BrowserChoice::Default, &here), Plan::Print(None));
        here.pomd_browser = Some("default".into());
        let expected = Plan::Run(vec![run(&["theirs", LINK])]);
        assert_eq!(planned(BrowserChoice::Default, &here), expected);
        here.browser = None;
        assert_eq!(planned(BrowserChoice::Default, &here), Plan::Platform);
    }

    #[test]
    fn a_text_browser_never_takes_the_terminal() {
        let mut here = Surroundings {
            browser: Some("/usr/bin/w3m:lynx".into()),
            ..around()
        };
        let expected = Plan::Print(Some("only a text browser"));
        assert_eq!(planned(BrowserChoice::Default, &here), expected);
        here.browser = Some("w3m:firefox --url=%s:links".into());
        let expected = Plan::Run(vec![run(&["firefox", "--url=http://127.0.0.1:1/x"])]);
        assert_eq!(planned(BrowserChoice::Default, &here), expected);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn without_a_display_the_address_is_printed_and_the_reason_told() {
        let plan_of = |ssh, container, display, wsl| {
            let here = Surroundings {
                ssh,
                container,
                display,
                wsl,
                ..Surroundings::default()
            };
            planned(BrowserChoice::Default, &here)
        };
        let print = |reason| Plan::Print(Some(reason));
        assert_eq!(
            plan_of(true, false, false, false),
            print("ssh login, no display")
        );
        assert_eq!(
            plan_of(false, true, false, false),
            print("in a container, no display")
        );
        assert_eq!(plan_of(false, false, false, false), print("no display"));
        assert_eq!(plan_of(true, false, true, false), Plan::Platform);
        assert!(matches!(plan_of(false, false, false, true), Plan::Run(_)));
    }

    #[tokio::test]
    async fn an_opener_that_fails_says_so_and_the_next_one_is_tried() {
        let fails = || run(&["false", LINK]);
        let why = open(&Plan::Run(vec![fails()]), LINK).await.unwrap_err();
        assert!(why.starts_with("false ended with"), "{why}");
        let both = Plan::Run(vec![fails(), run(&["true", LINK])]);
        assert_eq!(open(&both, LINK).await, Ok(()));
        let missing = Plan::Run(vec![run(&["no-such-browser", LINK])]);
        assert!(open(&missing, LINK).await.is_err());
    }
}
