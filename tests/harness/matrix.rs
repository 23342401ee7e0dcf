//! The faults, attacks and figures that pomd is held to, and the table of the tests that show each.
//!
//! Here is the only place where their words stand. A test shows a row by beginning its name with the row's id, several
//! ids one behind the other: `s1_f7_a_kill_…`. Where it runs is read from what it uses.

mod rows;
mod sources;

use std::{collections::BTreeMap, fs, path::PathBuf};

pub use rows::{ROWS, Row};
pub use sources::{Shown, tests};

use crate::binary::root;

/// What stands above the table.
const HEAD: &str = "\
# Faults, attacks and figures, and the tests that show them

Made from the names of the tests and their last run by `cargo run -p integration --bin faults-table`, as `test.sh` does at
its end; not written by hand. S, C, E, … are faults, A attacks, F figures to hold. *unit* is a test inside of a program,
*gateway* the real pomd before a Pomerium of the tests, *Envoy* the same before a real Envoy, *fail points* a pomd whose
disk, dials, accepts and tasks fail as planned, *namespace* one in namespaces of its own, *second uid* one with another
local user, *systemd* one under a real service manager. *night* is run only when asked for (`-- --ignored`).
";

/// Where the table stands.
pub fn file() -> PathBuf {
    root().join("tests/FAULTS.md")
}

/// The figure that counts the other rows.
const WHOLE: &str = "F1";
/// The figure that no single test can show.
const REPEATED: &str = "F13";

/// The table as the sources are now; results are those of `log`, the output of `cargo test`.
pub fn table(log: &str) -> String {
    let tests = tests();
    let results = results(log);
    let mut res = HEAD.to_owned();
    let mut letter = "";
    for row in ROWS {
        if letter != &row.id[..1] {
            letter = &row.id[..1];
            res.push_str("\n| id | fault | tests | result |\n|---|---|---|---|\n");
        }
        let shown: Vec<&Shown> = tests.iter().filter(|it| it.shows(row.id)).collect();
        let (named, result) = match (shown.is_empty(), row.missing) {
            (true, None) if row.id == WHOLE => (whole(&tests), "counted"),
            (true, None) if row.id == REPEATED => (
                "each run of all tests is one more try".to_owned(),
                "counted",
            ),
            (true, Some(why)) => (why.to_owned(), "not built"),
            (true, None) => (String::new(), "no test yet"),
            (false, _) => {
                let named: Vec<String> = shown.iter().map(|it| it.to_string()).collect();
                (named.join("<br>"), summary(&shown, &results))
            }
        };
        res.push_str(&format!(
            "| {} | {} | {named} | {result} |\n",
            row.id, row.fault
        ));
    }
    res
}

/// How many faults and attacks have a test.
fn whole(tests: &[Shown]) -> String {
    let rows = ROWS.iter().filter(|it| !it.id.starts_with('F'));
    let has_test = |it: &&Row| tests.iter().any(|test| test.shows(it.id));
    let (shown, rest): (Vec<&Row>, Vec<&Row>) = rows.partition(has_test);
    let not_built = rest.iter().filter(|it| it.missing.is_some()).count();
    format!(
        "{} of {} rows above have tests, {not_built} are of what is not built",
        shown.len(),
        shown.len() + rest.len()
    )
}

/// The table without its results, which differ between machines.
pub fn without_results(table: &str) -> Vec<String> {
    let line = |it: &str| match it.trim_end_matches('|').rsplit_once('|') {
        Some((rest, _)) => rest.trim_end().to_owned(),
        None => it.to_owned(),
    };
    table.lines().map(line).collect()
}

/// The table that is there, or nothing.
pub fn committed() -> String {
    fs::read_to_string(file()).unwrap_or_default()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Passed,
    Failed,
    Skipped,
}

/// How each test ended, by its name alone; a test that ran against several peers passed if all of them did.
fn results(log: &str) -> BTreeMap<String, Outcome> {
    let mut res = BTreeMap::new();
    for line in log.lines() {
        if let Some(rest) = line.strip_prefix("skipped: ") {
            let name = rest.split(':').next().unwrap_or_default();
            res.insert(name.to_owned(), Outcome::Skipped);
            continue;
        }
        let Some((path, outcome)) = line
            .strip_prefix("test ")
            .and_then(|it| it.split_once(" ... "))
        else {
            continue;
        };
        let outcome = match outcome.trim() {
            "ok" => Outcome::Passed,
            it if it.starts_with("FAILED") => Outcome::Failed,
            _ => continue,
        };
        for name in path.split("::") {
            let known = res.entry(name.to_owned()).or_insert(outcome);
            if outcome == Outcome::Failed {
                *known = outcome;
            }
        }
    }
    res
}

fn summary(shown: &[&Shown], results: &BTreeMap<String, Outcome>) -> &'static str {
    let by_day = shown.iter().filter(|it| !it.is_of_the_night());
    let outcomes: Vec<_> = by_day.map(|it| results.get(&it.name).copied()).collect();
    if outcomes.contains(&Some(Outcome::Failed)) {
        "failed"
    } else if outcomes.contains(&None) || outcomes.is_empty() {
        "not run"
    } else if outcomes.contains(&Some(Outcome::Skipped)) {
        "passed, in part skipped"
    } else {
        "passed"
    }
}
