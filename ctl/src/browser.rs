//! Opens the page of a login in the person's browser, as `control::browser` decides for the environment of this process.
//!
//! Programs are run as lists of words, never by a shell, and get nothing but the short local link: no secret is in it.

use std::{
    process::{ExitStatus, Stdio},
    time::Duration,
};

use control::{
    browser::{BROWSER, Candidate, NoBrowser, Program, candidates, machine::here, windowed_list},
    wire::BrowserChoice,
};

/// How long an opener may take to fail. One that still runs after that is the browser itself.
const LIMIT: Duration = Duration::from_secs(2);

/// How a login is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Plan {
    /// Its address is printed: for this reason, or because somebody wants it so.
    Print(Option<&'static str>),
    /// The first of these that works shows it.
    Open(Vec<Candidate>),
}

/// Returns what to do where this process runs.
pub(crate) fn plan(no_browser: bool, choice: &BrowserChoice) -> Plan {
    if no_browser {
        return Plan::Print(None);
    }
    match here(|around| candidates(choice, around)) {
        Ok(found) => Plan::Open(found),
        Err(NoBrowser::Unwanted) => Plan::Print(None),
        Err(NoBrowser::Missing(reason)) => Plan::Print(Some(reason)),
    }
}

/// Shows the link by the first candidate that works; `Err` tells why none did.
pub(crate) async fn open(candidates: &[Candidate], link: &str) -> Result<(), String> {
    let mut why = Vec::new();
    for candidate in candidates {
        let opened = match candidate {
            Candidate::Program(program) => run(program, link).await,
            Candidate::Interface => open_by_system(link).await,
        };
        match opened {
            Ok(()) => return Ok(()),
            Err(error) => why.push(error),
        }
    }
    Err(why.join("; "))
}

#[cfg(any(target_os = "macos", windows))]
async fn open_by_system(link: &str) -> Result<(), String> {
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

#[cfg(not(any(target_os = "macos", windows)))]
#[expect(clippy::unused_async, reason = "other systems have such an interface")]
async fn open_by_system(_: &str) -> Result<(), String> {
    Err("this system opens links by programs only".to_owned())
}

async fn run(program: &Program, link: &str) -> Result<(), String> {
    let name = program.name();
    let words = program.with_link(link);
    let mut command = tokio::process::Command::new(name);
    command
        .args(words.iter().skip(1))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    if let Some(list) = here(windowed_list) {
        command.env(BROWSER, list);
    }
    // Ctrl-C ends our waiting, not the person's browser.
    #[cfg(unix)]
    command.process_group(0);
    let mut child = command
        .spawn()
        .map_err(|it| format!("cannot run {name}: {it}"))?;
    match tokio::time::timeout(LIMIT, child.wait()).await {
        Err(_) => Ok(()),
        Ok(Ok(ended)) if ended.success() || !program.exit_code_counts => Ok(()),
        Ok(Ok(ended)) => Err(format!("{name} {}", ending(ended))),
        Ok(Err(error)) => Err(format!("cannot watch {name}: {error}")),
    }
}

fn ending(status: ExitStatus) -> String {
    match status.code() {
        Some(code) => format!("ended with exit code {code}"),
        None => format!("was ended by a {status}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINK: &str = "http://127.0.0.1:1/x";

    fn named(words: &[&str]) -> Vec<Candidate> {
        let words = words.iter().map(|it| (*it).to_owned()).collect();
        match plan(false, &BrowserChoice::Command(words)) {
            Plan::Open(it) => it,
            Plan::Print(why) => panic!("{why:?}"),
        }
    }

    #[test]
    fn who_wants_no_browser_gets_the_address() {
        let key = BrowserChoice::Command(vec!["firefox".into()]);
        assert_eq!(plan(true, &key), Plan::Print(None));
        assert_eq!(plan(false, &BrowserChoice::None), Plan::Print(None));
        assert!(matches!(plan(false, &key), Plan::Open(_)));
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn l4_an_opener_that_fails_says_so_and_the_next_one_is_tried() {
        let why = open(&named(&["false"]), LINK).await.unwrap_err();
        assert_eq!(why, "false ended with exit code 1");
        let missing = named(&["/no/such/browser"]);
        let why = open(&missing, LINK).await.unwrap_err();
        assert!(why.starts_with("cannot run /no/such/browser: "), "{why}");
        let killed = named(&["sh", "-c", "kill -9 $$"]);
        let why = open(&killed, LINK).await.unwrap_err();
        assert!(why.starts_with("sh was ended by a signal: 9"), "{why}");
        for bad in [named(&["false"]), missing, killed] {
            let both = [bad, named(&["true"])].concat();
            assert_eq!(open(&both, LINK).await, Ok(()));
        }
    }
}
