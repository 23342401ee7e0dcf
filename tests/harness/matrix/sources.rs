//! The tests of the sources: which rows each shows and where it runs.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs,
    path::{Path, PathBuf},
};

use super::ROWS;
use crate::binary::root;

/// What a test uses, and where it therefore runs.
const PLACES: [(&str, &str); 10] = [
    ("who: Who", "Envoy"),
    ("Deployment::envoy", "Envoy"),
    ("Who::Envoy", "Envoy"),
    ("Job::new", "Envoy"),
    ("with_faults", "fail points"),
    ("FaultPlan::new", "fail points"),
    (".inside(", "namespace"),
    ("unshare", "namespace"),
    ("other_user", "second uid"),
    ("Systemd::", "systemd"),
];

/// Packages below `tests` whose tests start no program.
const UNITS: [&str; 3] = ["tests/fuzz-targets", "tests/gateway", "tests/model"];

/// A test that shows some rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// Its name, without its module.
    pub name: String,
    ids: BTreeSet<&'static str>,
    places: BTreeSet<&'static str>,
}

impl Shown {
    /// It shows the row `id`.
    pub fn shows(&self, id: &str) -> bool {
        self.ids.contains(id)
    }
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let places: Vec<&str> = self.places.iter().copied().collect();
        write!(f, "`{}` ({})", self.name, places.join(", "))
    }
}

/// Every test of the workspace that shows a row, by name; tests of the same name are one.
pub fn tests() -> Vec<Shown> {
    let mut files = Vec::new();
    for folder in ["control", "ctl", "daemon", "tests"] {
        collect(&root().join(folder), &mut files);
    }
    let mut res = BTreeMap::<String, Shown>::new();
    for file in files {
        let text = fs::read_to_string(&file).unwrap_or_default();
        for shown in of_file(&file, &text) {
            match res.get_mut(&shown.name) {
                Some(known) => known.places.extend(&shown.places),
                None => drop(res.insert(shown.name.clone(), shown)),
            }
        }
    }
    res.into_values().collect()
}

fn collect(path: &Path, res: &mut Vec<PathBuf>) {
    if path.ends_with("target") {
        // What a build of the fuzzer leaves.
    } else if path.is_dir() {
        let entries = fs::read_dir(path).into_iter().flatten().flatten();
        entries.for_each(|it| collect(&it.path(), res));
    } else if path.extension().is_some_and(|it| it == "rs") {
        res.push(path.to_owned());
    }
}

fn of_file(file: &Path, text: &str) -> Vec<Shown> {
    let path = file.strip_prefix(root()).unwrap_or(file);
    let is_of = |folder: &str| path.starts_with(folder);
    let elsewhere = match () {
        () if is_of("ctl/tests") => Some("pomctl"),
        () if !is_of("tests") || UNITS.into_iter().any(is_of) => Some("unit"),
        () => None,
    };
    let starts: Vec<usize> = text.match_indices("fn ").map(|it| it.0).collect();
    let mut res = Vec::new();
    for (n, start) in starts.iter().enumerate() {
        let name = text[start + 3..].split(|it: char| !(it.is_alphanumeric() || it == '_'));
        let name = name.into_iter().next().unwrap_or_default();
        let ids = ids(name);
        if ids.is_empty() {
            continue;
        }
        let body = &text[*start..starts.get(n + 1).copied().unwrap_or(text.len())];
        let before = text[..*start].rfind('\n').map_or("", |it| &text[..it]);
        let is_attribute = |it: &&str| it.trim_start().starts_with(['#', '/']);
        let mut attributes = before.lines().rev().take_while(is_attribute);
        let is_of_the_night = attributes.any(|it| it.contains("#[ignore"));
        let mut places: BTreeSet<&str> = PLACES
            .iter()
            .filter(|it| body.contains(it.0))
            .map(|it| it.1)
            .collect();
        if let Some(elsewhere) = elsewhere {
            places = BTreeSet::from([elsewhere]);
        } else if !places.contains("Envoy") || body.contains("who: Who") {
            places.insert("gateway");
        }
        if is_of_the_night {
            places.insert("night");
        }
        res.push(Shown {
            name: name.to_owned(),
            ids,
            places,
        });
    }
    res
}

/// The ids that a name begins with.
fn ids(name: &str) -> BTreeSet<&'static str> {
    let mut res = BTreeSet::new();
    for word in name.split('_') {
        let known = ROWS.iter().find(|it| it.id.eq_ignore_ascii_case(word));
        match known {
            Some(row) => res.insert(row.id),
            None => break,
        };
    }
    res
}
