//! The faults, attacks and figures that pomd is held to, and the table of the tests that show each.
//!
//! Here is the only place where their words stand. A test shows a row by beginning its name with the row's id, several
//! ids one behind the other: `s1_f7_a_kill_…`. Where it runs is read from what it uses.

mod rows;
mod sources;

use std::{fs, path::PathBuf};

pub use rows::{ROWS, Row};
pub use sources::{Shown, tests};

use crate::binary::root;

/// What stands above the table.
const HEAD: &str = "\
# Faults, attacks and figures, and the tests that show them

Made from the names of the tests by `cargo run -p integration --bin faults-table`; not written by hand. S, C, E, … are
faults, A attacks, F figures to hold. *unit* is a test inside of a program, *gateway* the real pomd before a Pomerium of
the tests, *Envoy* the same before a real Envoy, *fail points* a pomd whose disk, dials, accepts and tasks fail as planned,
*namespace* one in namespaces of its own, *second uid* one with another local user, *systemd* one under a real service
manager. *night* is run only when asked for (`-- --ignored`).
";

/// Where the table stands.
pub fn file() -> PathBuf {
    root().join("tests/FAULTS.md")
}

/// The figure that counts the other rows.
const WHOLE: &str = "F1";
/// The figure that no single test can show.
const REPEATED: &str = "F13";

/// The table as the sources are now.
pub fn table() -> String {
    let tests = tests();
    let mut res = HEAD.to_owned();
    let mut letter = "";
    for row in ROWS {
        if letter != &row.id[..1] {
            letter = &row.id[..1];
            res.push_str("\n| id | fault | tests |\n|---|---|---|\n");
        }
        let shown = tests.iter().filter(|it| it.shows(row.id));
        let shown: Vec<String> = shown.map(ToString::to_string).collect();
        let named = match (shown.is_empty(), row.missing) {
            (true, None) if row.id == WHOLE => whole(&tests),
            (true, None) if row.id == REPEATED => {
                "each run of all tests is one more try".to_owned()
            }
            (true, Some(why)) => format!("not built: {why}"),
            (true, None) => "no test yet".to_owned(),
            (false, _) => shown.join("<br>"),
        };
        res.push_str(&format!("| {} | {} | {named} |\n", row.id, row.fault));
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

/// The table that is there, or nothing.
pub fn committed() -> String {
    fs::read_to_string(file()).unwrap_or_default()
}
