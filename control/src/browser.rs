//! Which browser shows a login page: one rule for pomd and pomctl. Pure: the caller gives the environment and runs what
//! is decided.
//!
//! Programs are lists of words and never meet a shell. Browsers that draw into a terminal are never chosen.

pub mod machine;

use std::path::Path;

use crate::wire::BrowserChoice;

/// The variable that chooses the browser of both programs.
pub const POMD_BROWSER: &str = "POMD_BROWSER";
/// The variable by which all programs are told of a browser.
pub const BROWSER: &str = "BROWSER";
/// The variables that change which browser is chosen, or what it shows its window on.
pub const VARIABLES: [&str; 9] = [
    POMD_BROWSER,
    BROWSER,
    "DISPLAY",
    "WAYLAND_DISPLAY",
    "XAUTHORITY",
    "DBUS_SESSION_BUS_ADDRESS",
    "PATH",
    "SSH_CONNECTION",
    "WSL_DISTRO_NAME",
];

/// Browsers that draw into a terminal.
const TEXT_BROWSERS: [&str; 8] = [
    "browsh",
    "elinks",
    "links",
    "links2",
    "lynx",
    "w3m",
    "www-browser",
    "carbonyl",
];
/// Windowed browsers, best first.
const WINDOWED: [&str; 5] = [
    "x-www-browser",
    "firefox",
    "chromium",
    "google-chrome",
    "google-chrome-stable",
];
/// What opens a link in the browser that the person chose for the desktop.
const OPENERS: [&[&str]; 3] = [&["xdg-open"], &["gio", "open"], &["kde-open"]];

/// How a system opens links.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum System {
    /// Linux and its kin: by programs, where there is a display.
    Programs,
    /// macOS and Windows: by an interface of the system, for whoever sits before it.
    Interface,
}

impl System {
    /// The one that this program was built for.
    pub const HERE: Self = if cfg!(any(target_os = "macos", windows)) {
        Self::Interface
    } else {
        Self::Programs
    };
}

/// What the choice depends on.
pub struct Surroundings<'a> {
    /// Looks up an environment variable; an empty one is as good as none.
    pub var: &'a dyn Fn(&str) -> Option<String>,
    /// Whether a program can be run: a name on `PATH`, or a path.
    pub on_path: &'a dyn Fn(&str) -> bool,
    /// This is a container.
    pub container: bool,
    /// This is Linux on Windows.
    pub wsl: bool,
    /// How links are opened here.
    pub system: System,
}

/// One way to show a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Candidate {
    /// This program.
    Program(Program),
    /// The system's own interface.
    Interface,
}

/// A program that shows a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// The program and its arguments; `%s` in one of them is the place of the link, else it comes last.
    words: Vec<String>,
    /// Exit code 0 means success, and any other a failure.
    pub exit_code_counts: bool,
}

/// Why no browser is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoBrowser {
    /// Somebody said so.
    Unwanted,
    /// There is none, for this reason.
    Missing(&'static str),
}

impl Program {
    fn new(words: Vec<String>) -> Self {
        Self {
            words,
            exit_code_counts: true,
        }
    }

    fn of(words: &[&str]) -> Self {
        Self::new(words.iter().map(|it| (*it).to_owned()).collect())
    }

    /// Returns the words to run for `link`, which stays one word whatever stands in it.
    pub fn with_link(&self, link: &str) -> Vec<String> {
        let (program, arguments) = match self.words.split_first() {
            Some((program, arguments)) => (program.clone(), arguments),
            None => return Vec::new(),
        };
        let is_placed = arguments.iter().any(|it| it.contains("%s"));
        let arguments = arguments.iter().map(|it| it.replace("%s", link));
        let last = (!is_placed).then(|| link.to_owned());
        [program].into_iter().chain(arguments).chain(last).collect()
    }

    /// Returns the program's name or path.
    pub fn name(&self) -> &str {
        self.words.first().map_or("", String::as_str)
    }
}

/// Returns the candidates, to be tried in this order until one works: the key `browser`, else `POMD_BROWSER` (`none`, or
/// `default` for what follows), else `BROWSER`, then whatever opens links here.
///
/// A program that was named for pomd alone is tried even if it cannot be found, so that the person learns of it, and
/// nothing else is tried after it.
pub fn candidates(
    choice: &BrowserChoice,
    around: &Surroundings<'_>,
) -> Result<Vec<Candidate>, NoBrowser> {
    match choice {
        BrowserChoice::None => return Err(NoBrowser::Unwanted),
        BrowserChoice::Command(words) => return named(vec![Program::new(words.clone())]),
        BrowserChoice::Default => {}
    }
    let var = |name: &str| (around.var)(name).filter(|it| !it.trim().is_empty());
    match var(POMD_BROWSER) {
        Some(said) if said.trim() == "none" => return Err(NoBrowser::Unwanted),
        Some(said) if said.trim() != "default" => return named(programs(&said, around)),
        _ => {}
    }
    let told = var(BROWSER).map_or(Vec::new(), |said| programs(&said, around));
    let only_text = !told.is_empty() && told.iter().all(is_text_browser);
    let usable = told
        .into_iter()
        .filter(|it| !is_text_browser(it) && (around.on_path)(it.name()))
        .map(Candidate::Program);
    let mut res: Vec<_> = usable.collect();
    match system(around) {
        Ok(more) => res.extend(
            more.into_iter()
                .filter(|it| !res.contains(it))
                .collect::<Vec<_>>(),
        ),
        Err(_) if !res.is_empty() => {}
        Err(_) if only_text => return Err(NoBrowser::Missing("only a text browser")),
        Err(why) => return Err(why),
    }
    Ok(res)
}

/// Returns the value of `BROWSER` for a program that looks there itself, such as `xdg-open`: `None` leaves it as it is.
pub fn windowed_list(around: &Surroundings<'_>) -> Option<String> {
    let told = (around.var)(BROWSER).map_or(Vec::new(), |said| programs(&said, around));
    let good = !told.is_empty() && !told.iter().any(is_text_browser);
    (!good).then(|| WINDOWED.join(":"))
}

/// Returns the candidates that somebody named on purpose.
fn named(programs: Vec<Program>) -> Result<Vec<Candidate>, NoBrowser> {
    let programs: Vec<_> = programs
        .into_iter()
        .filter(|it| !it.name().is_empty())
        .collect();
    if programs.is_empty() {
        return Err(NoBrowser::Missing("none is named"));
    }
    let windowed: Vec<_> = programs
        .into_iter()
        .filter(|it| !is_text_browser(it))
        .map(Candidate::Program)
        .collect();
    if windowed.is_empty() {
        return Err(NoBrowser::Missing("only a text browser"));
    }
    Ok(windowed)
}

/// Returns whatever opens links on this system.
fn system(around: &Surroundings<'_>) -> Result<Vec<Candidate>, NoBrowser> {
    let is_set = |name: &str| (around.var)(name).is_some_and(|it| !it.is_empty());
    let by_ssh = is_set("SSH_CONNECTION");
    if around.system == System::Interface {
        // The display is there, but whoever came by ssh does not look at it.
        return if by_ssh {
            Err(NoBrowser::Missing("ssh login"))
        } else {
            Ok(vec![Candidate::Interface])
        };
    }
    let mut res = Vec::new();
    if around.wsl || is_set("WSL_DISTRO_NAME") {
        res.push(Program::of(&["wslview"]));
        res.push(Program {
            // It opens the page and says 1.
            exit_code_counts: false,
            ..Program::of(&["explorer.exe"])
        });
    }
    let has_display = is_set("DISPLAY") || is_set("WAYLAND_DISPLAY");
    if has_display {
        res.extend(OPENERS.iter().map(|it| Program::of(it)));
        res.extend(WINDOWED.iter().map(|it| Program::of(&[it])));
    }
    res.retain(|it| (around.on_path)(it.name()));
    if !res.is_empty() {
        return Ok(res.into_iter().map(Candidate::Program).collect());
    }
    Err(NoBrowser::Missing(
        match (has_display, by_ssh, around.container) {
            (true, ..) => "no program that opens links",
            (false, true, _) => "ssh login, no display",
            (false, false, true) => "in a container, no display",
            (false, false, false) => "no display",
        },
    ))
}

/// Returns the programs of a value of `BROWSER`, which colons separate.
fn programs(said: &str, around: &Surroundings<'_>) -> Vec<Program> {
    let said = said.trim();
    // A path with blanks or colons in it is a program all the same.
    if said.contains(['/', '\\']) && (around.on_path)(said) {
        return vec![Program::of(&[said])];
    }
    let separator = if cfg!(windows) { ';' } else { ':' };
    let words = said.split(separator).map(|it| {
        let mut words: Vec<String> = it.split_whitespace().map(str::to_owned).collect();
        // A shell would start it in the background, where it is anyway.
        words.pop_if(|it| it == "&");
        words
    });
    words
        .filter(|it| !it.is_empty())
        .map(Program::new)
        .collect()
}

fn is_text_browser(program: &Program) -> bool {
    let file = Path::new(program.name()).file_name();
    file.is_some_and(|it| TEXT_BROWSERS.iter().any(|text| it == *text))
}

#[cfg(test)]
mod tests;
