//! `pomd check`: the configuration and the files that it names, judged once. Changes nothing.

use std::{path::Path, sync::Arc};

use control::paths::Paths;
use jiff::Timestamp;
use pomd_core::config::{self, Config, Machine};

use super::{Content, LastGood, evaluate, read};
use crate::{
    agent::{Broken, Loaded},
    named_file,
    system::disk::Fs,
    system::home::shown,
    system::users,
    upstream,
};

/// What `pomd check` says of a file.
#[derive(Debug)]
pub enum Checked {
    /// It can be used.
    Good {
        /// How many tunnels it has.
        tunnels: usize,
        /// How many warnings there are.
        warnings: usize,
        /// The warnings, each with its place in the file, ready to print.
        report: String,
    },
    /// It cannot.
    Broken(Broken),
}

/// Judges the file as a pomd does that starts at this place: where the last good configuration is known, a file that
/// vanished or is empty is a broken one. `now` is when certificates are asked to be valid.
pub async fn check(place: &Paths, fs: Arc<dyn Fs>, machine: &Machine, now: Timestamp) -> Checked {
    let had_text = LastGood::new(place, fs).is_there().await;
    let seen = read(place.config.clone()).await;
    let path = &place.config;
    let config = match evaluate(&seen.content, path, had_text, Vec::new()) {
        Loaded::Broken(broken) => return Checked::Broken(broken),
        Loaded::Good(config, _) => config,
    };
    let text = match &seen.content {
        Content::Text(it) => it.as_slice(),
        _ => b"",
    };
    let base = path.parent().unwrap_or(Path::new("/"));
    let read = Config::read_for(machine, text, base);
    let mut warnings = read.map(|it| it.1).unwrap_or_default();
    for (name, spec) in config.clusters.iter().filter(|it| it.1.named) {
        let section = config::section_of_cluster(name);
        for (key, problem) in upstream::check_files(spec, now) {
            warnings.add(&section, key, &problem);
        }
        if let Some(token_file) = spec.token.source.file() {
            for problem in named_file::check_token(token_file, spec.token.kind) {
                // The excerpt hides it: a token could stand there.
                let problem = format!("{}: {problem}", shown(token_file));
                warnings.add(&section, "token", &problem);
            }
        }
    }
    for name in users::unknown(&config.settings.allow_users) {
        let what = format!("no user of this machine is called {name}");
        warnings.add("[settings]", &name, &what);
    }
    let general = seen.warnings.iter();
    let mut report: String = general.map(|it| format!("warning: {it}\n\n")).collect();
    if warnings.count() > 0 {
        let text = String::from_utf8_lossy(text);
        report += &warnings.render(&text, &shown(path), false);
        report += "\n\n";
    }
    Checked::Good {
        tunnels: config.tunnels.len(),
        warnings: seen.warnings.len() + warnings.count(),
        report,
    }
}
