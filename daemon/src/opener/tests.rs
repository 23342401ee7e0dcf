//! Browsers that are missing, fail, hang or flood, run by pomd's own hand.

use super::*;

const LINK: &str = "http://127.0.0.1:41235/k3v9qzab";

fn words(list: &[&str]) -> Vec<String> {
    list.iter().map(|it| (*it).to_owned()).collect()
}

#[test]
fn a20_a_browser_inherits_nothing_that_is_ours() {
    let mut variables: Variables = NOT_INHERITED
        .iter()
        .map(|it| ((*it).to_owned(), "ours".to_owned()))
        .collect();
    variables.insert("DISPLAY".to_owned(), ":0".to_owned());
    let command = command(&words(&["firefox"]), &variables);
    let left: Vec<_> = command.as_std().get_envs().collect();
    assert_eq!(left, [(OsStr::new("DISPLAY"), Some(OsStr::new(":0")))]);
}

#[test]
fn a32_a_program_outside_gets_what_pomds_unit_alone_has_and_no_more() {
    let of = |list: &[(&str, &str)]| -> Variables {
        let owned = list.iter().map(|it| (it.0.to_owned(), it.1.to_owned()));
        owned.collect()
    };
    let manager = of(&[("DISPLAY", ":0"), ("PATH", "/usr/bin")]);
    let unit = of(&[
        ("DISPLAY", ":0"),
        ("PATH", "/opt:/usr/bin"),
        ("BROWSER", "firefox"),
        ("SECRET", "canary"),
        ("NOTIFY_SOCKET", "/x"),
    ]);
    let want = of(&[("BROWSER", "firefox"), ("PATH", "/opt:/usr/bin")]);
    assert_eq!(changes(&unit, &manager), want);
}

#[cfg(unix)]
mod unix {
    use std::time::Instant;

    use super::*;

    async fn open(list: &[&str]) -> Result<(), String> {
        let browser = SystemBrowser::new(Surroundings::of_process());
        let choice = BrowserChoice::Command(words(list));
        browser.open(&choice, LINK).await
    }

    #[tokio::test]
    async fn a_browser_gets_the_link() {
        let home = tempfile::tempdir().unwrap();
        let out = home.path().join("out");
        let script = "echo \"$1\" > $0.new; mv $0.new $0";
        let opened = open(&["sh", "-c", script, out.to_str().unwrap()]).await;
        assert_eq!(opened, Ok(()));
        let text = std::fs::read_to_string(out).unwrap();
        assert_eq!(text, format!("{LINK}\n"));
    }

    #[tokio::test]
    async fn l4_a_browser_that_is_missing_or_fails_is_told() {
        let missing = open(&["/nonexistent/browser"]).await.unwrap_err();
        assert!(
            missing.starts_with("cannot run /nonexistent/browser: No such file"),
            "{missing}"
        );
        let failing = open(&["false"]).await;
        assert_eq!(failing, Err("false ended with exit code 1".to_owned()));
        let none = open(&[]).await;
        assert_eq!(none, Err("there is none (none is named)".to_owned()));
        let killed = open(&["sh", "-c", "kill -9 $$"]).await.unwrap_err();
        assert!(
            killed.starts_with("sh was ended by a signal: 9"),
            "{killed}"
        );
    }

    #[tokio::test]
    async fn l4_after_a_candidate_that_fails_the_next_is_tried() {
        let home = tempfile::tempdir().unwrap();
        let program = |name: &str, script: &str| {
            use std::os::unix::fs::PermissionsExt;
            let path = home.path().join(name);
            std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
            let executable = std::fs::Permissions::from_mode(0o755);
            std::fs::set_permissions(&path, executable).unwrap();
            path.display().to_string()
        };
        let out = home.path().join("out");
        let fails = program("fails", "exit 3");
        let works = program("works", &format!("echo \"$1\" > {}", out.display()));
        let never = program("never", &format!("echo never > {}", out.display()));
        let now = Now {
            variables: [
                ("POMD_BROWSER", format!("/no/such:{fails}:{works}:{never}")),
                ("PATH", std::env::var("PATH").unwrap()),
            ]
            .map(|it| (it.0.to_owned(), it.1))
            .into(),
            manager: None,
        };
        let browser = SystemBrowser::new(Surroundings::fixed(now.variables));
        assert_eq!(browser.open(&BrowserChoice::Default, LINK).await, Ok(()));
        let text = std::fs::read_to_string(out).unwrap();
        assert_eq!(text, format!("{LINK}\n"));
    }

    #[tokio::test]
    async fn l4_a_browser_that_prints_without_end_or_stays_is_left_alone_and_reaped_when_it_ends() {
        let home = tempfile::tempdir().unwrap();
        let pid = home.path().join("pid");
        let script = format!("echo $$ > {0}.new; mv {0}.new {0}; exec yes", pid.display());
        let begun = Instant::now();
        assert_eq!(open(&["sh", "-c", &script]).await, Ok(()));
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
        timeout(Duration::from_secs(10), gone).await.unwrap();
    }
}
