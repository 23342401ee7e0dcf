//! The one rule as a table.

use super::*;

const LINK: &str = "http://127.0.0.1:41235/k3v9qzab";

/// A place by its variables, programs, and whether it is a container.
struct Here<'a> {
    variables: &'a [(&'a str, &'a str)],
    programs: &'a [&'a str],
    container: bool,
    wsl: bool,
    system: System,
}

const DESKTOP: &[&str] = &["xdg-open", "firefox", "lynx", "helper"];

impl Default for Here<'_> {
    fn default() -> Self {
        Self {
            variables: &[],
            programs: DESKTOP,
            container: false,
            wsl: false,
            system: System::Programs,
        }
    }
}

impl Here<'_> {
    /// The command lines for the link, or why there are none.
    fn decide(&self, choice: &BrowserChoice) -> Result<Vec<String>, NoBrowser> {
        self.with(|around| {
            let lines = candidates(choice, around)?.into_iter().map(|it| match it {
                Candidate::Program(it) => it.with_link(LINK).join(" "),
                Candidate::Interface => "the system".to_owned(),
            });
            Ok(lines.collect())
        })
    }

    fn with<T>(&self, ask: impl FnOnce(&Surroundings<'_>) -> T) -> T {
        let var = |name: &str| {
            let found = self.variables.iter().find(|it| it.0 == name);
            found.map(|it| it.1.to_owned())
        };
        ask(&Surroundings {
            var: &var,
            on_path: &|it| self.programs.contains(&it),
            container: self.container,
            wsl: self.wsl,
            system: self.system,
        })
    }
}

#[test]
fn l4_a_browser_is_chosen_in_the_order_of_who_said_so() {
    let display = ("DISPLAY", ":0");
    let ssh = ("SSH_CONNECTION", "10.0.0.1 1 10.0.0.2 22");
    let link = |words: &[&str]| -> Result<Vec<String>, NoBrowser> {
        Ok(words
            .iter()
            .map(|it| it.replace('@', LINK))
            .collect::<Vec<_>>())
    };
    let desktop = || link(&["xdg-open @", "firefox @"]);
    let missing = |why| Err(NoBrowser::Missing(why));
    for (variables, want) in [
        // The platform, where there is a display.
        (&[display][..], desktop()),
        (&[("WAYLAND_DISPLAY", "wayland-0")], desktop()),
        (&[ssh, display], desktop()),
        (&[], missing("no display")),
        (&[("DISPLAY", "")], missing("no display")),
        (&[ssh], missing("ssh login, no display")),
        // `BROWSER`: its usable programs first, then the platform's.
        (
            &[display, ("BROWSER", "helper")],
            link(&["helper @", "xdg-open @", "firefox @"]),
        ),
        (&[("BROWSER", "helper")], link(&["helper @"])),
        (&[ssh, ("BROWSER", "helper")], link(&["helper @"])),
        (
            &[("BROWSER", "gone:lynx:helper --u=%s:firefox -P %s x")],
            link(&["helper --u=@", "firefox -P @ x"]),
        ),
        (&[("BROWSER", "helper %s &")], link(&["helper @"])),
        (
            &[display, ("BROWSER", "firefox")],
            link(&["firefox @", "xdg-open @"]),
        ),
        (&[("BROWSER", "gone")], missing("no display")),
        (&[display, ("BROWSER", "gone")], desktop()),
        (&[("BROWSER", " ")], missing("no display")),
        // A text browser never.
        (&[("BROWSER", "lynx")], missing("only a text browser")),
        (
            &[("BROWSER", "/usr/bin/w3m:lynx")],
            missing("only a text browser"),
        ),
        (&[display, ("BROWSER", "lynx")], desktop()),
        (
            &[display, ("POMD_BROWSER", "lynx -dump")],
            missing("only a text browser"),
        ),
        // `POMD_BROWSER` alone counts, unless it says default.
        (
            &[display, ("POMD_BROWSER", "none")],
            Err(NoBrowser::Unwanted),
        ),
        (
            &[display, ("POMD_BROWSER", " none ")],
            Err(NoBrowser::Unwanted),
        ),
        (&[("POMD_BROWSER", "default")], missing("no display")),
        (
            &[display, ("POMD_BROWSER", "default"), ("BROWSER", "helper")],
            link(&["helper @", "xdg-open @", "firefox @"]),
        ),
        (
            &[
                ("POMD_BROWSER", "firefox -P x:helper %s"),
                ("BROWSER", "helper"),
            ],
            link(&["firefox -P x @", "helper @"]),
        ),
        (&[display, ("POMD_BROWSER", "gone")], link(&["gone @"])),
        (&[("POMD_BROWSER", ":")], missing("none is named")),
        (&[display, ("POMD_BROWSER", "")], desktop()),
    ] {
        let here = Here {
            variables,
            ..Here::default()
        };
        assert_eq!(here.decide(&BrowserChoice::Default), want, "{variables:?}");
        // The key of the cluster goes before all of them.
        let key = BrowserChoice::Command(vec!["own".into(), "-P".into(), "work".into()]);
        assert_eq!(here.decide(&key), link(&["own -P work @"]), "{variables:?}");
        assert_eq!(here.decide(&BrowserChoice::None), Err(NoBrowser::Unwanted));
    }
    let here = Here::default();
    let named = |words: &[&str]| {
        let words = words.iter().map(|it| (*it).to_owned()).collect();
        here.decide(&BrowserChoice::Command(words))
    };
    assert_eq!(named(&[]), missing("none is named"));
    assert_eq!(named(&["/usr/bin/elinks"]), missing("only a text browser"));
    assert_eq!(named(&["app", "--url=%s", "-x"]), link(&["app --url=@ -x"]));
}

#[test]
fn l4_each_kind_of_machine_has_its_own_way_and_its_own_reason() {
    let display = &[("DISPLAY", ":0")][..];
    let ssh = &[("SSH_CONNECTION", "1")][..];
    let missing = |why| Err(NoBrowser::Missing(why));
    let decide = |it: Here<'_>| it.decide(&BrowserChoice::Default);
    let container = |variables| Here {
        variables,
        container: true,
        ..Here::default()
    };
    assert_eq!(
        decide(container(&[])),
        missing("in a container, no display")
    );
    assert_eq!(decide(container(ssh)), missing("ssh login, no display"));
    assert!(decide(container(display)).is_ok());
    let bare = Here {
        variables: display,
        programs: &["lynx"],
        ..Here::default()
    };
    assert_eq!(decide(bare), missing("no program that opens links"));

    let wsl = |programs, variables| Here {
        variables,
        programs,
        wsl: variables.is_empty(),
        ..Here::default()
    };
    let name = &[("WSL_DISTRO_NAME", "Debian")][..];
    for variables in [&[][..], name] {
        let both = wsl(&["wslview", "explorer.exe"], variables);
        let lines = [format!("wslview {LINK}"), format!("explorer.exe {LINK}")];
        assert_eq!(decide(both), Ok(lines.to_vec()));
        assert_eq!(decide(wsl(&["xdg-open"], variables)), missing("no display"));
    }
    let counts = wsl(&["wslview", "explorer.exe"], name).with(|around| {
        let found = candidates(&BrowserChoice::Default, around).unwrap();
        found
            .into_iter()
            .map(|it| matches!(it, Candidate::Program(it) if it.exit_code_counts))
            .collect::<Vec<_>>()
    });
    assert_eq!(counts, [true, false]);

    let mac = |variables| Here {
        variables,
        system: System::Interface,
        ..Here::default()
    };
    assert_eq!(decide(mac(&[])), Ok(vec!["the system".to_owned()]));
    assert_eq!(decide(mac(ssh)), missing("ssh login"));
    let told = decide(mac(&[("SSH_CONNECTION", "1"), ("BROWSER", "helper")]));
    assert_eq!(told, Ok(vec![format!("helper {LINK}")]));
}

#[test]
fn a12_the_link_is_one_word_whatever_stands_in_it() {
    let link = "http://127.0.0.1:1/a b;$(touch x)%s";
    let words = |it: &[&str]| it.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>();
    let of = |it: &[&str]| Program::of(it).with_link(link);
    assert_eq!(of(&["firefox"]), words(&["firefox", link]));
    let placed = format!("--url={link}");
    assert_eq!(
        of(&["app", "--url=%s", "-x"]),
        words(&["app", &placed, "-x"])
    );
    // The program itself is never made of the link.
    assert_eq!(of(&["%s"]), words(&["%s", link]));
}

#[test]
fn a_path_with_blanks_and_colons_is_one_program() {
    let path = "/opt/My Browser: the best/run";
    let here = Here {
        variables: &[("BROWSER", path)],
        programs: &[path],
        ..Here::default()
    };
    let want = Ok(vec![format!("{path} {LINK}")]);
    assert_eq!(here.decide(&BrowserChoice::Default), want);
}

#[test]
fn an_opener_that_looks_into_browser_finds_no_text_browser_there() {
    for (said, changed) in [
        ("", true),
        ("lynx", true),
        ("helper:w3m", true),
        ("helper", false),
    ] {
        let here = Here {
            variables: &[("BROWSER", said)],
            ..Here::default()
        };
        let list = here.with(windowed_list);
        assert_eq!(list.is_some(), changed, "{said}");
    }
}
