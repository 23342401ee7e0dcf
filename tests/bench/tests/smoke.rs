//! Every benchmark runs, as small as it can be, and prints a figure in each of its rows.

#![expect(clippy::unwrap_used, reason = "this crate holds nothing but tests")]

use std::{process::Command, time::Duration};

use integration::{binary::binary, pomd::run};

const LIMIT: Duration = Duration::from_secs(120);

/// The first words of the rows that `name` prints.
async fn rows(name: &str) -> Vec<String> {
    let bench = binary("bench");
    let mut command = Command::new(&bench);
    command.args([name, "--smoke"]);
    // What it drives is built already, and not to be built by each of them once more.
    command.env("POMD_TEST_BINARIES", bench.parent().unwrap());
    let output = run(command, LIMIT).await;
    let said = String::from_utf8(output.stdout).unwrap();
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{words}");
    let (_, table) = said.split_once(&format!("{name}: ")).unwrap();
    // Its head is the title and the names of its columns.
    let rows = table.lines().skip(2).filter(|it| !it.is_empty());
    rows.map(|row| {
        let (what, figures) = row.trim().split_once("   ").unwrap();
        assert!(figures.contains(|it: char| it.is_ascii_digit()), "{said}");
        assert!(!figures.contains("NaN"), "{said}");
        what.to_owned()
    })
    .collect()
}

macro_rules! smoke {
    ($($test:ident $name:literal $rows:expr;)*) => {
        $(#[tokio::test] async fn $test() { assert_eq!(rows($name).await, $rows); })*
    };
}

smoke! {
    first_byte_runs "first-byte" ["by hand, TCP + TLS + CONNECT", "pomd, its first connection", "pomd, the next one", "pomd, the slowest of 4 at once", "pomd, the slowest of 10 at once", "pomd, the slowest of 10 at once, again"];
    relay_runs "relay" ["down", "up"];
    memory_runs "memory" ["20"];
    idle_runs "idle" ["1 tunnels", "5 tunnels", "1 tunnels, one just used"];
    connect_runs "connect" ["1 tunnels", "2 tunnels"];
    status_runs "status" [
        "1 tunnels: a program that does nothing",
        "1 tunnels: pomctl status",
        "1 tunnels: pomctl status --json",
        "1 tunnels: pomctl connect, to the first byte",
        "1 tunnels: the same, more than by a tunnel",
        "2 tunnels: a program that does nothing",
        "2 tunnels: pomctl status",
        "2 tunnels: pomctl status --json",
        "2 tunnels: pomctl connect, to the first byte",
        "2 tunnels: the same, more than by a tunnel",
    ];
}
