//! Taking the locks, from a pomd in the background too: one that pomctl started gives way to one in the foreground, which is
//! what a service manager starts. Never the other way round.

use std::{collections::BTreeSet, fs::File, path::Path};

use control::{client::Client, holder::Holder, paths::Paths, wire::StopAnswer};
use pomd::{Locks, failpoints::Failpoints, lock::LockError};
use tokio::runtime::Builder;

/// The locks, and how they were come by, for the log, which is not there yet.
pub(crate) struct Taken {
    pub(crate) locks: Locks,
    pub(crate) words: Vec<String>,
}

/// Takes the locks. `pushes`: a pomd in the background that holds them is asked to give way.
pub(crate) fn take(
    place: &Paths,
    pushes: bool,
    inherited: &mut Vec<File>,
) -> Result<Taken, LockError> {
    let mut words = Vec::new();
    let mut asked = BTreeSet::new();
    loop {
        let error = match Locks::take(place, &Failpoints::none(), inherited) {
            Ok(locks) => return Ok(Taken { locks, words }),
            Err(error) => error,
        };
        let LockError::Held {
            holder: Some(holder),
        } = &error
        else {
            return Err(error);
        };
        let Some(socket) = socket_of_one_to_push(holder).filter(|_| pushes) else {
            return Err(error);
        };
        if !asked.insert(holder.pid) {
            return Err(error);
        }
        match ask(socket) {
            Ok(answer) => words.push(told(&answer)),
            Err(why) => {
                let pid = holder.pid;
                words.push(format!("pomd (pid {pid}) was asked to give way: {why}"));
                return Err(error);
            }
        }
    }
}

/// Where a holder is asked to give way; `None`: it does not.
fn socket_of_one_to_push(holder: &Holder) -> Option<&Path> {
    let facts = holder.facts.as_ref()?;
    facts.socket.as_deref().filter(|_| facts.in_background)
}

/// The client makes sure that the holder is this user's before it says a word, as the holder does of us.
fn ask(socket: &Path) -> Result<StopAnswer, String> {
    let runtime = Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|it| it.to_string())?;
    let asking = async {
        let client = Client::new(socket);
        client.give_way(std::process::id()).await
    };
    runtime.block_on(asking).map_err(|it| it.to_string())
}

fn told(answer: &StopAnswer) -> String {
    let ended = match answer.connections {
        0 => "no connection was open".to_owned(),
        1 => "1 connection ended".to_owned(),
        more => format!("{more} connections ended"),
    };
    format!(
        "took over from the pomd in the background (pid {}); {ended}",
        answer.pid
    )
}

#[cfg(test)]
mod tests {
    use control::holder::{Facts, Phase};

    use super::*;

    #[test]
    fn x11_only_one_in_the_background_that_says_where_it_answers_is_asked() {
        let holder = |in_background, socket: Option<&str>| Holder {
            pid: 7,
            facts: Some(Facts {
                phase: Phase::Running,
                in_background,
                socket: socket.map(Into::into),
                log: None,
            }),
        };
        let there = Some("/run/pomd.sock");
        for (holder, expected) in [
            (holder(true, there), there),
            (holder(false, there), None),
            (holder(true, None), None),
            (
                Holder {
                    pid: 7,
                    facts: None,
                },
                None,
            ),
        ] {
            assert_eq!(socket_of_one_to_push(&holder), expected.map(Path::new));
        }
    }
}
