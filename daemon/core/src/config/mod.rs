//! The configuration: text in, values that need no further check out. Pure: no files, no clock, no sockets, no tokio.
//!
//! `syntax` makes tables of text, `file` sections of tables, `check` (with `named` and `clusters`) values of sections;
//! each adds what is wrong to one list, which `report` shows. `spec` is what a section means, `warnings` is what can be used and
//! is perhaps not meant, `changes` compares two results. `edit` changes a text, `temporary` adds what no file says.

mod address;
mod changes;
mod characters;
mod check;
mod clusters;
mod edit;
mod file;
mod hints;
mod host;
mod listen;
mod named;
mod owner;
mod pattern;
mod proxy;
mod report;
mod secrets;
mod spec;
mod syntax;
mod temporary;
mod token_source;
mod warnings;

use std::{collections::BTreeMap, fmt, path::Path};

pub use address::{Address, Authority, Protocol, Route};
pub use changes::{Change, Changes, changes};
pub use control::wire::{BrowserChoice, Start};
pub use edit::{Edit, EditError, Edited, NewTunnel};
pub use host::Host;
pub use listen::{Listen, SocketName};
pub use owner::{Destination, NoDestination, bare_name};
pub use pattern::HostPattern;
pub use proxy::{ForwardProxy, ProxyAddress, ProxyKind};
pub use report::{Problem, Problems, Severity, Span, Warnings, Wrong};
pub use spec::{ClientIdentity, ClusterSpec, Settings, TunnelSpec};
pub use temporary::{NoPlace, Temporary};
pub use token_source::{TokenKind, TokenSource, TokenSpec};

use file::File;
use report::Found;
use syntax::Rest;

/// The largest file that is read, in bytes.
pub const MOST_BYTES: usize = 1 << 20;

/// A whole configuration. Every tunnel's `cluster` is a key of `clusters`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// The tunnels of the file.
    pub tunnels: BTreeMap<TunnelName, TunnelSpec>,
    /// The clusters of the file, and one for each host that is in none of them.
    pub clusters: BTreeMap<ClusterName, ClusterSpec>,
    /// What is not about one tunnel or cluster.
    pub settings: Settings,
}

/// A tunnel's name: what people type. ASCII letters, digits, `.`, `_`, `-`; starts with a letter or digit; at most 64.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TunnelName(String);

/// A cluster's name: as [`TunnelName`], or the host it stands for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterName(String);

/// What a warning may depend on besides the file.
#[derive(Clone, Copy, Debug, Default)]
pub struct Machine {
    /// The lowest port that this user may listen on.
    pub first_port: u16,
}

impl Config {
    /// Reads a file's text. Relative paths in it start at `base`, the folder of the file.
    pub fn parse(text: &str, base: &Path) -> Result<Self, Problems> {
        Self::parse_for(&Machine::default(), text, base).map(|it| it.0)
    }

    /// Reads as [`Config::parse`] does, with what a person should know of a file that can be used.
    fn parse_for(machine: &Machine, text: &str, base: &Path) -> Result<(Self, Warnings), Problems> {
        let text = without_bom(text);
        let mut found = Found::default();
        if text.len() > MOST_BYTES {
            found.push(
                Problem::of_file("the file is larger than 1 MiB")
                    .help("is it a configuration at all?"),
            );
            return found.finish(text).map(|it| (Self::default(), it));
        }
        if let Some(at) = text.find('\0') {
            found.push(
                Problem::at(at..at + 1, "a zero byte in the file")
                    .label("the file is damaged, or not a text"),
            );
            return found.finish(text).map(|it| (Self::default(), it));
        }
        let (table, rest) = syntax::tables(text, &mut found);
        let mut res = Self::default();
        if rest != Rest::Nothing {
            let lines: Vec<Span> = found.spans().iter().map(|it| line_of(text, it)).collect();
            let mut others = Found::default();
            let file = File::read(&table, &mut others);
            res = check::check(&file, base, rest == Rest::OtherLines, machine, &mut others);
            others.retain(|it| {
                let span = it.span.as_ref();
                !lines
                    .iter()
                    .any(|line| span.is_some_and(|it| line.contains(&it.start)))
            });
            found.append(others);
        }
        found.finish(text).map(|it| (res, it))
    }

    /// Reads bytes as [`Config::parse`] reads a text: a file that is no text is a problem too.
    pub fn read(bytes: &[u8], base: &Path) -> Result<Self, Problems> {
        Self::read_for(&Machine::default(), bytes, base).map(|it| it.0)
    }

    /// Reads as [`Config::read`] does, for a machine, with what a person should know of a file that can be used.
    pub fn read_for(
        machine: &Machine,
        bytes: &[u8],
        base: &Path,
    ) -> Result<(Self, Warnings), Problems> {
        let wrong = match std::str::from_utf8(bytes) {
            Ok(text) => return Self::parse_for(machine, text, base),
            Err(wrong) => wrong,
        };
        // Up to the mistake the replaced text is the same, so the place is right in both.
        let text = String::from_utf8_lossy(bytes);
        let bom = text.len() - without_bom(&text).len();
        let at = wrong.valid_up_to().saturating_sub(bom);
        let mut found = Found::default();
        found.push(
            Problem::at(
                at..at + char::REPLACEMENT_CHARACTER.len_utf8(),
                match bytes {
                    [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => "the file is UTF-16, not UTF-8",
                    _ => "not UTF-8",
                },
            )
            .label("save the file as UTF-8"),
        );
        let all = found.finish(without_bom(&text));
        all.map(|it| (Self::default(), it))
    }
}

/// Returns the section of a cluster of the file, as its problems name it.
pub fn section_of_cluster(name: &ClusterName) -> String {
    file::title("cluster", name.as_str())
}

/// Whether a file says nothing: only white space and comments. A valid start, but in a reload a file that is being
/// written.
pub fn is_blank(text: &str) -> bool {
    without_bom(text)
        .lines()
        .all(|it| it.trim().is_empty() || it.trim_start().starts_with('#'))
}

fn without_bom(text: &str) -> &str {
    text.strip_prefix('\u{feff}').unwrap_or(text)
}

fn line_of(text: &str, span: &Span) -> Span {
    let at = text.floor_char_boundary(span.start);
    let start = text[..at].rfind('\n').map_or(0, |it| it + 1);
    let end = text[at..].find('\n').map_or(text.len(), |it| at + it);
    start..end + 1
}

impl TunnelName {
    /// Reads a name; `None` if it breaks the rule of the type.
    pub fn parse(text: &str) -> Option<Self> {
        is_name(text).then(|| Self(text.to_owned()))
    }

    /// Returns the name as people type it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl ClusterName {
    /// Reads a name; `None` if it breaks the rule of the type.
    pub fn parse(text: &str) -> Option<Self> {
        is_name(text).then(|| Self(text.to_owned()))
    }

    /// Returns the name of the cluster that stands for one host (with its port where that is not the scheme's own).
    pub fn for_address(address: &Address) -> Self {
        Self(address.host_and_port())
    }

    /// Returns the name as people type it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn is_name(text: &str) -> bool {
    text.len() <= 64
        && text.starts_with(|it: char| it.is_ascii_alphanumeric())
        && text
            .chars()
            .all(|it| it.is_ascii_alphanumeric() || "._-".contains(it))
}

impl fmt::Display for TunnelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for ClusterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_file_that_says_nothing_is_told_from_one_that_does() {
        for text in ["", "\n\n", "  # x\n\t\r\n", "\u{feff}# x"] {
            assert!(is_blank(text), "{text:?}");
            assert_eq!(Config::parse(text, Path::new("/")), Ok(Config::default()));
        }
        for text in ["[settings]", "x", "# a\nb = 1"] {
            assert!(!is_blank(text), "{text:?}");
        }
    }

    #[test]
    fn a_file_of_more_than_a_mebibyte_is_refused() {
        let largest = "#".repeat(MOST_BYTES);
        assert!(Config::parse(&largest, Path::new("/")).is_ok());
        let problems = Config::parse(&(largest + "#"), Path::new("/")).unwrap_err();
        assert_eq!(problems.first_line(), "the file is larger than 1 MiB");
        assert!(
            problems
                .render("", "~/pomd.toml", false)
                .contains("--> ~/pomd.toml")
        );
    }

    #[test]
    fn a_report_in_colour_has_the_same_words() {
        let text = "[tunnel.a]\nroute = \"a\"\nlissten = 1\n";
        let problems = Config::parse(text, Path::new("/")).unwrap_err();
        let plain = problems.render(text, "x", false);
        let colored = problems.render(text, "x", true);
        assert!(colored.contains('\u{1b}') && !plain.contains('\u{1b}'));
        for word in ["lissten", "did you mean", "a route without a port"] {
            assert!(colored.contains(word), "{colored}");
        }
    }

    #[test]
    fn a_report_survives_a_text_that_is_not_the_one_it_is_about() {
        let text = "[tunnel.a]\nroute = \"ä\"\nlissten = 1\n";
        let problems = Config::parse(text, Path::new("/")).unwrap_err();
        for other in ["", "é", "é\né\né", &"é".repeat(40)] {
            problems.render(other, "x", false);
        }
    }

    proptest! {
        #[test]
        fn no_file_is_a_panic_and_every_place_is_in_it(
            text in "(\\[tunnel\\.[ab]\\]|\\[cluster\\.[ab]\\]|\\[settings\\]|route|listen|hosts|url|token|expose| = |\"a\\.b:1\"|\"\\*\\.b\"|\"https://a\\.b\"|\\[\"a\\.b\"\\]|true|[0-3]|\"|'|\"\"\"|\\[|\\]|\\{|\\}|,|\\.|#|\\\\|é|\r\n|\n|\n|\n){0,30}"
        ) {
            match Config::parse(&text, Path::new("/")) {
                Ok(config) => {
                    for tunnel in config.tunnels.values() {
                        let cluster = &config.clusters[&tunnel.cluster];
                        prop_assert!(cluster.allows(&tunnel.route.address.host));
                    }
                    for cluster in config.clusters.values() {
                        prop_assert!(!cluster.login_at.is_empty());
                        prop_assert!(cluster.login_at.iter().all(|it| cluster.allows(&it.host)));
                    }
                }
                Err(problems) => {
                    prop_assert!(problems.count() > 0);
                    for problem in problems.iter() {
                        let places = problem.span.iter().chain(problem.others.iter().map(|it| &it.0));
                        for place in places {
                            prop_assert!(text.get(place.clone()).is_some(), "{problem:?}");
                        }
                    }
                    problems.render(&text, "x", false);
                }
            }
        }

        #[test]
        fn no_bytes_are_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            if let Err(problems) = Config::read(&bytes, Path::new("/")) {
                problems.render(&String::from_utf8_lossy(&bytes), "x", false);
            }
        }
    }
}
