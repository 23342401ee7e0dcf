//! A session at its start: what earlier lives left of it.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64},
    },
};

use pomd_core::session::token::Login;
use tokio::{
    sync::{Mutex, Notify, mpsc, watch},
    task::JoinSet,
};

use super::{House, Task, keeping::Unsaved};
use crate::session::{
    Legacy,
    facts::Facts,
    handle::{Session, Shared, Waiting},
    machine::Machine,
};

/// A session at its start: the token of `legacy` wins over the file. A token counts without asking the server: only the
/// server's word ends it.
pub(in crate::session) fn start(house: House, legacy: Legacy) -> (Session, Task) {
    let inherited = legacy.grant;
    let now = house.clock.now();
    let stored = house.store.load(&house.login_at);
    let known = inherited
        .as_ref()
        .is_none_or(|it| stored.as_ref().is_some_and(|login| login.token == it.token));
    let generation = match &inherited {
        Some(grant) => Some(grant.generation),
        None => stored.as_ref().map(|_| 1),
    };
    let made_at = if known {
        stored.as_ref().map(|it| it.address.clone())
    } else {
        legacy.address
    };
    let address = made_at.unwrap_or_else(|| house.login_at[0].clone());
    let login = match inherited {
        Some(grant) if !known => Some(Login {
            address: address.clone(),
            token: grant.token,
            user: grant.user,
            subject: None,
            since: now,
            until: None,
        }),
        _ => stored,
    };
    let mut machine = Machine::new(generation, now);
    if legacy.quiet {
        machine.stay_quiet(legacy.logged_out);
    }
    let facts = Facts {
        cluster: house.cluster.clone(),
        machine,
        since: login.as_ref().map_or(now, |it| it.since),
        login,
        address,
        failure: None,
        not_shown: None,
        unsaved: None,
    };
    let (inbox_in, inbox) = mpsc::channel(16);
    let (view, view_out) = watch::channel(facts.view(0));
    let (standing, standing_out) = watch::channel(facts.standing());
    let waiting = Arc::<Waiting>::default();
    let again = Arc::<Notify>::default();
    let session = Session::of(Shared {
        cluster: house.cluster.clone(),
        clock: house.clock.clone(),
        pomerium: house.pomerium.clone(),
        inbox: inbox_in,
        view: view_out,
        standing: standing_out,
        waiting: waiting.clone(),
        again: again.clone(),
        carried: AtomicU64::new(0),
        disproved: AtomicU64::new(0),
        minted: Mutex::default(),
        stop: house.stop.clone(),
        gives_way: AtomicBool::new(false),
    });
    let mut task = Task {
        house,
        facts,
        last: None,
        unsaved: Unsaved {
            save: !known,
            ..Unsaved::default()
        },
        running: None,
        lingering: VecDeque::new(),
        askers: Vec::new(),
        jobs: JoinSet::new(),
        shows: JoinSet::new(),
        demands: JoinSet::new(),
        events: mpsc::channel(16),
        inbox,
        waiting,
        again,
        view,
        standing,
        bound_passed: false,
    };
    task.remember_who();
    (session, task)
}
