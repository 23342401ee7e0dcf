//! Words that people type for commands that are called otherwise, and what to type instead. Pure.

/// The words, by what is meant.
pub(crate) const GUESSES: [(&[&str], &str); 16] = [
    (
        &["start", "open"],
        "pomctl up NAME, or all of them: pomctl up --all",
    ),
    (
        &["ping", "probe"],
        "to prove that a tunnel works: pomctl up NAME",
    ),
    (
        &["diagnose", "debug", "why", "bugreport", "health"],
        "pomctl doctor",
    ),
    (&["disconnect", "close"], "pomctl down NAME"),
    (
        &["tcp"],
        "pomctl up HOST:PORT --listen PORT, or for stdin and stdout: pomctl connect HOST:PORT",
    ),
    (&["check", "validate", "lint"], "pomd check"),
    (&["version"], "pomctl --version"),
    (&["whoami", "info"], "pomctl status"),
    (&["log", "journal"], "pomctl logs"),
    (&["config"], "pomctl edit"),
    (&["init", "new", "create"], "pomctl add NAME HOST:PORT"),
    (&["rm", "delete"], "pomctl remove NAME"),
    (&["signin", "sign-in", "auth"], "pomctl login"),
    (&["signout", "sign-out"], "pomctl logout"),
    (&["quit", "exit", "shutdown"], "pomctl stop"),
    (
        &["upgrade", "update"],
        "install the new release, then: pomctl restart",
    ),
];

/// Returns what to type instead of a word that is no command.
pub(crate) fn meant(word: &str) -> Option<&'static str> {
    let found = GUESSES.iter().find(|it| it.0.contains(&word));
    found.map(|it| it.1)
}
