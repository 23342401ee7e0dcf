//! `pomd listeners`: whether the tunnels of the configuration file could listen now, and who holds their addresses
//! otherwise. How pomctl's doctor looks where no pomd runs: listens nowhere for longer than a moment.

use std::{fs, path::Path, process::ExitCode, sync::Arc};

use control::{
    paths::Paths,
    wire::{Check, CheckName, CheckOutcome, Diagnosis},
};
use pomd::{
    agent,
    clock::Clock,
    system::{disk::Disk, socket_activation::InheritedSockets},
    tunnel::bind::{self, Known},
};
use pomd_core::{
    config::{Config, Listen, TunnelName, TunnelSpec},
    words::doctor,
};
use tokio::runtime::Builder;

use crate::{FAILED, USAGE, args::Args, fail, terminal};

/// Answers with a diagnosis for each tunnel, as JSON.
pub(crate) fn listeners(args: &Args) -> ExitCode {
    let place = match Paths::find(args.wishes(None)) {
        Ok(place) => place,
        Err(error) => return fail(USAGE, &error),
    };
    let base = place.config.parent().unwrap_or(Path::new("/"));
    let text = fs::read(&place.config).unwrap_or_default();
    let config = match Config::read(&text, base) {
        Ok(config) => config,
        Err(problems) => return fail(USAGE, &problems.first_line()),
    };
    let runtime = match Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(FAILED, &error),
    };
    let kept = agent::kept_ports(&place.state, Arc::new(Disk));
    let tunnels = config.tunnels.iter();
    let found: Vec<Diagnosis> = runtime.block_on(async {
        tunnels
            .map(|(name, spec)| Diagnosis {
                tunnel: name.to_string(),
                cluster: spec.cluster.to_string(),
                checks: vec![look(name, spec, kept.get(name.as_str()).copied(), &place)],
                opens_in_ms: None,
            })
            .collect()
    });
    match serde_json::to_string(&found) {
        Ok(text) => terminal::answer(&format!("{text}\n")),
        Err(error) => fail(FAILED, &error),
    }
}

/// Binds the addresses of the tunnel and lets go of them at once.
fn look(name: &TunnelName, spec: &TunnelSpec, kept: Option<u16>, place: &Paths) -> Check {
    let listen = match (&spec.listen, kept) {
        (Listen::Unix(socket), _) => {
            let shown = bind::file_address(socket, &place.socket);
            return Check::new(CheckName::Listener, CheckOutcome::NotDone, shown);
        }
        (Listen::Chosen, None) => {
            let message = "a free port, chosen when pomd starts";
            return Check::new(CheckName::Listener, CheckOutcome::NotDone, message);
        }
        (Listen::Chosen, Some(port)) => Listen::Loopback(port),
        (listen, _) => listen.clone(),
    };
    let known = Known {
        name: name.as_str(),
        inherited: &InheritedSockets::default(),
        chosen: None,
        control: &place.socket,
        before: None,
    };
    match bind::bind(&listen, known, &Clock::real()) {
        Ok(bound) => Check::new(
            CheckName::Listener,
            CheckOutcome::Good,
            format!("{} is free", bound.addresses.join(", ")),
        ),
        Err(reason) => {
            let address = match &listen {
                Listen::Address(address) => address.to_string(),
                Listen::Loopback(port) => format!("localhost:{port}"),
                Listen::Chosen | Listen::Unix(_) => String::new(),
            };
            doctor::cannot_listen(&address, &reason)
        }
    }
}
