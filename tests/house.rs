//! The rules of the house, checked on its text: pure rooms stay pure, rooms stay small, and no page names what is not
//! there.

use std::{
    collections::BTreeSet,
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use integration::{
    binary::{binary, root},
    matrix,
    pomd::{Setup, run},
};

/// The most lines of a file.
const FILE_MOST: usize = 600;
/// The most lines of code of a module, unless its head says why.
const MODULE_MOST: usize = 350;
/// How the head of a longer one says it.
const REASON: &str = "Long because";

/// Rooms that are given text, values and the time, and touch nothing.
const PURE: [&str; 12] = [
    "control/src/humanize.rs",
    "control/src/suggest.rs",
    "control/src/text.rs",
    "control/src/wire.rs",
    "ctl/src/commands/which.rs",
    "ctl/src/sanitise.rs",
    "ctl/src/render",
    "daemon/src/agent/status.rs",
    "daemon/core/src",
    "daemon/src/portal/near.rs",
    "daemon/src/tunnel/relay/budget.rs",
    "control/src/ssh_refusal.rs",
];

/// One file of ours, its path from the root on.
struct Source {
    path: String,
    text: String,
}

impl Source {
    /// It is part of what is shipped, not of the tests.
    fn is_shipped(&self) -> bool {
        let of_tests = ["tests", "tests.rs", "testing.rs", "fakes.rs"];
        !self.path.split('/').any(|it| of_tests.contains(&it))
    }

    /// Its lines before its tests, comments left out, each with its number.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines = self.text.lines().enumerate();
        lines
            .take_while(|it| !it.1.ends_with("mod tests {"))
            .filter(|it| !it.1.trim().is_empty() && !it.1.trim_start().starts_with("//"))
            .map(|it| (it.0 + 1, it.1))
    }

    fn head(&self) -> impl Iterator<Item = &str> {
        self.text.lines().take_while(|it| it.starts_with("//!"))
    }
}

/// All sources below `folder`, which must be there.
fn sources(folder: &str) -> Vec<Source> {
    let mut res = Vec::new();
    collect(&root().join(folder), &mut res);
    assert!(!res.is_empty(), "{folder} holds no sources");
    res
}

fn collect(path: &Path, res: &mut Vec<Source>) {
    if path.ends_with("target") {
        // What a build of the fuzzer leaves.
    } else if path.is_dir() {
        let entries = fs::read_dir(path).unwrap().map(|it| it.unwrap().path());
        let mut entries: Vec<PathBuf> = entries.collect();
        entries.sort();
        for entry in entries {
            collect(&entry, res);
        }
    } else if path.extension().is_some_and(|it| it == "rs") || !path.exists() {
        let text = fs::read_to_string(path);
        res.push(Source {
            path: path.strip_prefix(root()).unwrap().display().to_string(),
            text: text.unwrap_or_else(|error| panic!("{}: {error}", path.display())),
        });
    }
}

fn everything() -> Vec<Source> {
    let folders = ["control", "ctl", "daemon", "tests"];
    folders.into_iter().flat_map(sources).collect()
}

fn shipped() -> impl Iterator<Item = Source> {
    let folders = ["control/src", "ctl/src", "daemon/core/src", "daemon/src"];
    let all = folders.into_iter().flat_map(sources);
    all.filter(Source::is_shipped)
}

fn assert_none(what: &str, found: Vec<String>) {
    assert!(found.is_empty(), "{what}:\n{}", found.join("\n"));
}

/// Where the code of these sources holds one of these words.
fn places(sources: impl IntoIterator<Item = Source>, words: &[&str]) -> Vec<String> {
    let mut res = Vec::new();
    for source in sources {
        for (number, line) in source.code() {
            for word in words.iter().filter(|it| line.contains(**it)) {
                res.push(format!("{}:{number}: {word}", source.path));
            }
        }
    }
    res
}

#[test]
fn pure_rooms_touch_no_runtime_file_socket_or_clock() {
    let words = [
        "tokio",
        "std::fs",
        "fs::{",
        "fs::File",
        "std::net::Tcp",
        "TcpStream",
        "UnixStream",
        "::now()",
        "env::var",
        "thread::",
    ];
    let rooms = PURE.into_iter().flat_map(sources);
    assert_none("not pure", places(rooms.filter(Source::is_shipped), &words));
}

#[test]
fn no_file_is_too_long_to_be_read_at_once() {
    let mut found = Vec::new();
    for source in everything() {
        let (lines, code) = (source.text.lines().count(), source.code().count());
        if lines > FILE_MOST {
            found.push(format!("{}: {lines} lines", source.path));
        }
        let is_explained = source.head().any(|it| it.contains(REASON));
        if source.is_shipped() && code > MODULE_MOST && !is_explained {
            found.push(format!("{}: {code} lines of code", source.path));
        }
    }
    assert_none("too long", found);
}

#[test]
fn every_room_says_at_its_top_what_it_is() {
    let silent = shipped().filter(|it| it.head().next().is_none());
    assert_none("without a head", silent.map(|it| it.path).collect());
}

#[test]
fn nothing_is_left_for_later_and_nothing_panics_by_intention() {
    // Put together here, so that this file is not found.
    let later = ["todo", "unimplemented", "dbg"].map(|it| format!("{it}!("));
    let notes = ["TO", "FIX", "HA"].map(|it| match it {
        "TO" => "TODO".to_owned(),
        "FIX" => format!("{it}ME"),
        _ => format!("{it}CK:"),
    });
    let mut found = Vec::new();
    for source in everything().iter().filter(|it| it.path != "tests/house.rs") {
        for word in later.iter().chain(&notes) {
            if source.text.contains(word.as_str()) {
                found.push(format!("{}: {word}", source.path));
            }
        }
    }
    let panics = ["unwrap()", "expect(\""].map(|it| format!(".{it}"));
    let panics = [panics[0].as_str(), &panics[1], "unsafe {", "panic!("];
    found.extend(places(shipped(), &panics));
    assert_none("left for later, or a panic", found);
}

/// The crates that a package is made of.
fn crates(package: &str) -> BTreeSet<String> {
    let mut tree = Command::new(env::var_os("CARGO").unwrap_or_else(|| env!("CARGO").into()));
    tree.args(["tree", "--locked", "--offline", "--edges", "normal"]);
    tree.args(["--prefix", "none", "--package", package]);
    let output = tree.current_dir(root()).output().unwrap();
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words}");
    let text = String::from_utf8(output.stdout).unwrap();
    let names = text.lines().filter_map(|it| it.split(' ').next());
    names.map(str::to_owned).collect()
}

#[test]
fn pomctl_knows_protocol_and_configuration_and_nothing_of_the_daemon() {
    let crates = crates("pomctl");
    assert!(crates.contains("control"));
    assert!(crates.contains("pomd-core"));
    for foreign in ["pomd", "gateway", "rustls", "notify", "quinn", "aws-lc-rs"] {
        assert!(!crates.contains(foreign), "pomctl links {foreign}");
    }
}

#[test]
fn what_decides_links_nothing_that_does() {
    let crates = crates("pomd-core");
    assert!(crates.contains("toml"));
    for foreign in [
        "tokio", "rustls", "hyper", "socket2", "mio", "notify", "rustix", "pomd",
    ] {
        assert!(!crates.contains(foreign), "pomd-core links {foreign}");
    }
}

#[test]
fn pomd_has_one_runtime_and_one_tls_and_nothing_of_the_tests() {
    let crates = crates("pomd");
    assert!(crates.contains("rustls"));
    for foreign in [
        "gateway",
        "openssl",
        "native-tls",
        "ring",
        "async-std",
        "smol",
    ] {
        assert!(!crates.contains(foreign), "pomd links {foreign}");
    }
}

#[test]
fn the_table_of_faults_is_that_of_the_sources() {
    let (committed, now) = (matrix::committed(), matrix::table());
    let (committed, now): (Vec<_>, Vec<_>) = (committed.lines().collect(), now.lines().collect());
    let missing: Vec<_> = now.iter().filter(|it| !committed.contains(it)).collect();
    let stale: Vec<_> = committed.iter().filter(|it| !now.contains(it)).collect();
    assert!(
        missing.is_empty() && stale.is_empty(),
        "run: cargo run -p integration --bin faults-table\nmissing: {missing:#?}\nstale: {stale:#?}"
    );
}

#[test]
fn the_map_of_the_house_shows_every_room() {
    let map = fs::read_to_string(root().join("daemon/src/lib.rs")).unwrap();
    let rooms = map.lines().filter_map(|it| it.strip_prefix("pub mod "));
    for room in rooms.map(|it| it.trim_end_matches(';')) {
        assert!(map.contains(&format!("[`{room}`]")), "{room} is not on it");
    }
}

/// The names in backticks.
fn ticked(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The first names below `root` (`crate`, `super` …) that this code uses: `a` and `b` of `root::a::x` and of
/// `root::{a, b::{c, d}}`.
fn used_below<'a>(root: &str, code: &'a str) -> BTreeSet<&'a str> {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    let name = |text: &'a str| &text[..text.find(|c| !is_part(c)).unwrap_or(text.len())];
    let mut res = BTreeSet::new();
    for (at, found) in code.match_indices(&format!("{root}::")) {
        if code[..at].ends_with(is_part) {
            continue;
        }
        let rest = &code[at + found.len()..];
        if !rest.starts_with('{') {
            res.insert(name(rest));
            continue;
        }
        let (mut depth, mut is_first) = (0, false);
        for (at, c) in rest.char_indices() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ if depth == 1 && is_first && is_part(c) => {
                    res.insert(name(&rest[at..]));
                }
                _ => {}
            }
            if depth == 0 {
                break;
            }
            is_first = depth == 1 && (matches!(c, '{' | ',') || is_first && c.is_whitespace());
        }
    }
    res
}

#[test]
fn names_are_found_in_every_form_of_use() {
    let code = "use crate::{a, b::{c, d},\n    e::f as g,\n}; use crate::h; crate::i::j(); mycrate::k; use crate::{self::l};";
    let found: Vec<&str> = used_below("crate", code).into_iter().collect();
    assert_eq!(found, ["a", "b", "e", "h", "i", "self"]);
}

#[test]
fn no_room_knows_what_the_map_says_it_must_not() {
    let map = fs::read_to_string(root().join("daemon/src/lib.rs")).unwrap();
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let is_crate = |name: &str| {
        let mut lines = manifest.lines().map(|it| it.replace('-', "_"));
        lines.any(|it| it.starts_with(&format!("{name} = ")))
    };
    let is_room = |name: &str| map.contains(&format!("\npub mod {name};"));
    let rows = map.lines().filter_map(|it| it.strip_prefix("//! | "));
    let rows = rows.filter(|it| it.starts_with("[`"));
    let (mut found, mut checked) = (Vec::new(), 0);
    for row in rows {
        let columns: Vec<&str> = row.split(" | ").collect();
        let [rooms, _, forbidden] = columns[..] else {
            panic!("not three columns: {row}");
        };
        assert!(ticked(forbidden).count() > 1, "nothing forbidden: {row}");
        for room in ticked(rooms) {
            let folder = match room {
                "pomd_core" => "daemon/core/src".to_owned(),
                _ => format!("daemon/src/{room}"),
            };
            let mut files = Vec::new();
            for path in [root().join(&folder), root().join(format!("{folder}.rs"))] {
                if path.exists() {
                    collect(&path, &mut files);
                }
            }
            assert!(!files.is_empty(), "{room} has no sources");
            for source in files.iter().filter(|it| it.is_shipped()) {
                let code: Vec<&str> = source.code().map(|it| it.1).collect();
                let code = code.join("\n");
                let used = used_below("crate", &code);
                for name in ticked(forbidden) {
                    assert!(
                        is_room(name) != is_crate(name),
                        "{name}: a room or a crate?"
                    );
                    let knows = match is_room(name) {
                        true => used.contains(name),
                        false => !used_below(name, &code).is_empty(),
                    };
                    if knows {
                        found.push(format!("{}: {name}", source.path));
                    }
                    checked += 1;
                }
            }
        }
    }
    assert_none("what a room must not know", found);
    assert!(checked > 300, "only {checked} looked at");
}

async fn help(program: &str, arguments: &[&str]) -> String {
    let setup = Setup::new("");
    let mut command = setup.command(&binary(program));
    command.args(arguments).arg("--help");
    let output = run(command, integration::PATIENCE).await;
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {output:?}"
    );
    String::from_utf8(output.stdout).unwrap()
}

/// What `pomctl --help` lists.
async fn commands() -> BTreeSet<String> {
    let help = help("pomctl", &[]).await;
    let (_, list) = help.split_once("\nCommands\n").unwrap();
    let (list, _) = list.split_once("\n\n").unwrap();
    let names = list.lines().filter_map(|it| it.split_whitespace().next());
    names.map(str::to_owned).collect()
}

fn readme() -> String {
    fs::read_to_string(root().join("README.md")).unwrap()
}

#[tokio::test]
async fn the_table_of_the_readme_lists_the_commands_of_pomctl() {
    let readme = readme();
    let rows = readme
        .lines()
        .filter_map(|it| it.strip_prefix("| `pomctl "));
    let listed: BTreeSet<String> = rows
        .filter_map(|it| it.split(['`', ' ']).next())
        .map(str::to_owned)
        .collect();
    let mut commands = commands().await;
    assert!(commands.remove("help"));
    assert_eq!(listed, commands);
}

#[tokio::test]
async fn the_overview_names_the_commands_of_pomctl() {
    let help = help("pomctl", &[]).await;
    let (overview, _) = help.split_once("\nCommands\n").unwrap();
    let lines = overview
        .lines()
        .skip(1)
        .filter(|it| !it.starts_with("Options "));
    // The words of a group are one column, the commands stand behind it.
    let named: BTreeSet<String> = lines
        .filter_map(|it| it.get(14..))
        .flat_map(str::split_whitespace)
        .map(str::to_owned)
        .collect();
    assert_eq!(named, commands().await);
}

#[tokio::test]
async fn every_configuration_of_the_readme_is_good() {
    let readme = readme();
    let blocks = readme.split("```toml\n").skip(1);
    let blocks: Vec<&str> = blocks.map(|it| it.split("```").next().unwrap()).collect();
    assert!(blocks.len() >= 2);
    for config in blocks.iter().copied().chain([blocks.concat().as_str()]) {
        let setup = Setup::new(config);
        let mut command = setup.command(&binary("pomd"));
        command.arg("check");
        let output = run(command, integration::PATIENCE).await;
        assert!(output.status.success(), "{config}\n{output:?}");
    }
}

/// A command as a text names it: its words up to the end of the sentence, and where it stands.
struct Named {
    place: String,
    words: Vec<String>,
}

/// Every `PROGRAM word …` of a line.
fn named<'a>(program: &'a str, place: &'a str, line: &'a str) -> impl Iterator<Item = Named> + 'a {
    line.match_indices(program).filter_map(move |(at, _)| {
        let before = line[..at].chars().next_back();
        if before.is_some_and(|it| it.is_alphanumeric() || "-_/.".contains(it)) {
            return None;
        }
        let rest = line[at + program.len()..].strip_prefix(' ')?;
        let sentence = rest.split(['"', '`', ',', ';', '(', ')', '\\']).next()?;
        let words = sentence.split_whitespace();
        let words: Vec<String> = words
            .map(|it| {
                it.trim_end_matches(['.', ':', '\'', ']'])
                    .trim_start_matches('[')
                    .to_owned()
            })
            .collect();
        let first = words.first()?;
        let is_word = first.starts_with(|it: char| it.is_ascii_lowercase() || it == '-');
        is_word.then(|| Named {
            place: place.to_owned(),
            words,
        })
    })
}

/// What every text of ours names: messages, help, the README and the like.
fn names(program: &str) -> Vec<Named> {
    let mut res = Vec::new();
    for source in shipped() {
        for (number, line) in source.code() {
            let place = format!("{}:{number}", source.path);
            res.extend(named(program, &place, line));
        }
    }
    for page in [
        "README.md",
        "CHANGELOG.md",
        "systemd/pomd.service",
        "systemd/pomd.socket",
        "test.sh",
    ] {
        let text = fs::read_to_string(root().join(page)).unwrap();
        for (number, line) in text.lines().enumerate() {
            res.extend(named(program, &format!("{page}:{}", number + 1), line));
        }
    }
    res
}

#[tokio::test]
async fn no_text_names_a_command_or_an_option_that_is_not_there() {
    // What pomctl is said to do in sentences about it.
    const PROSE: [&str; 7] = ["in", "is", "looks", "of", "talks", "to", "and"];
    let commands = commands().await;
    let mut wrong = Vec::new();
    let mut seen = BTreeSet::new();
    for Named { place, words } in names("pomctl") {
        let command = &words[0];
        if PROSE.contains(&command.as_str()) || command.starts_with('-') {
            continue;
        }
        if !commands.contains(command) {
            wrong.push(format!("{place}: pomctl {command}"));
            continue;
        }
        seen.insert(command.clone());
        let own = words.iter().take_while(|it| *it != "|" && *it != "--");
        let options: Vec<&String> = own.filter(|it| it.starts_with("--")).collect();
        if options.is_empty() {
            continue;
        }
        let help = help("pomctl", &[command]).await;
        for option in options {
            if !help.contains(option.as_str()) {
                wrong.push(format!("{place}: pomctl {command} {option}"));
            }
        }
    }
    let help = help("pomd", &[]).await;
    for Named { place, words } in names("pomd") {
        let word = &words[0];
        if word.starts_with("--") && !help.contains(word.as_str()) {
            wrong.push(format!("{place}: pomd {word}"));
        }
    }
    assert_none("not there", wrong);
    // Else it looked in the wrong places.
    assert!(seen.len() >= 8, "{seen:?}");
}
