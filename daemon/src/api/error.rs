//! The errors of the protocol, made from those of the rooms. Nowhere else is a code or a hint of a request chosen.

use control::{
    text::clean,
    wire::{self, ApiError, Code},
};
use pomd_core::config::{Authority, Listen, NoPlace, TunnelName};

use crate::{agent::AgentError, tunnel::ProbeError};

/// The most characters of a name that a client said.
const NAME_MOST: usize = 80;

/// Why a request failed, ready for the wire.
pub(super) type Refused = Box<ApiError>;

/// Returns an error without further facts.
pub(super) fn api_error(code: Code, message: impl Into<String>) -> ApiError {
    ApiError {
        code,
        message: message.into(),
        hint: None,
        request_id: None,
        facts: Vec::new(),
        cluster: None,
        holder: None,
    }
}

/// Returns the error of every request that comes while pomd is stopping.
pub(super) fn stopping() -> ApiError {
    api_error(Code::Stopping, "pomd is stopping")
}

/// Says that a tunnel or a cluster is no longer there.
pub(super) fn removed(code: Code, name: &str) -> Refused {
    let name = clean(name, NAME_MOST);
    Box::new(api_error(code, format!("{name} was removed meanwhile")))
}

/// Turns the agent's refusal into the protocol's.
pub(super) fn of_agent(error: AgentError) -> Refused {
    Box::new(match error {
        AgentError::Stopping => stopping(),
        AgentError::NoSuchTunnel(name) => api_error(
            Code::NoSuchTunnel,
            format!("no tunnel {}", clean(&name, NAME_MOST)),
        ),
        AgentError::NoSuchCluster(name) => api_error(
            Code::NoSuchCluster,
            format!("no cluster {}", clean(&name, NAME_MOST)),
        ),
        AgentError::NoRoute(wrong) => ApiError {
            hint: Some(wrong.instead),
            ..api_error(Code::BadRequest, wrong.what)
        },
        AgentError::NoDestination(error) => ApiError {
            hint: Some(error.hint()),
            ..api_error(Code::NoSuchCluster, error.to_string())
        },
        AgentError::ClusterRemoved(name) => return removed(Code::NoSuchCluster, &name),
        AgentError::NoPlace(NoPlace::Destination(error)) => {
            return of_agent(AgentError::NoDestination(error));
        }
        AgentError::NoPlace(taken) => ApiError {
            hint: Some("for another port: pomctl up HOST:PORT --listen PORT".to_owned()),
            ..api_error(Code::BadRequest, taken.to_string())
        },
        AgentError::TooManyTemporary(most) => ApiError {
            hint: Some(
                "end one by pomctl down NAME, or write it into the file: pomctl add NAME HOST:PORT"
                    .to_owned(),
            ),
            ..api_error(
                Code::BadRequest,
                format!("there are {most} temporary tunnels already"),
            )
        },
        AgentError::CannotListenTemporary {
            route,
            listen,
            reason,
        } => not_made(&route, &listen, *reason),
        AgentError::CannotListen {
            tunnel,
            listen,
            reason,
        } => cannot_listen(&tunnel, &listen, *reason),
        AgentError::ConfigBroken { report } => api_error(Code::ConfigBroken, report),
    })
}

/// Says why a route did not open.
pub(super) fn not_probed(error: ProbeError) -> Refused {
    let ProbeError {
        reason,
        facts,
        cluster,
    } = error;
    Box::new(ApiError {
        code: reason.code,
        message: reason.message,
        hint: reason.hint,
        request_id: reason.request_id,
        facts,
        cluster: Some(cluster.to_string()),
        holder: None,
    })
}

/// Why `up` failed: the tunnel cannot listen.
fn cannot_listen(name: &TunnelName, listen: &Listen, reason: wire::Reason) -> wire::ApiError {
    let (place, next) = place_and_next(listen);
    let in_use = reason.code == Code::AddressInUse;
    let message = match place {
        Some(place) if in_use => format!("{place} is in use, so {name} can't listen yet"),
        _ => format!("{name} can't listen: {}", reason.message),
    };
    let mut facts = Vec::new();
    if in_use {
        let it = match listen {
            Listen::Unix(_) => "socket",
            _ => "port",
        };
        facts.push(("held by".to_owned(), held_by(&reason)));
        facts.push((
            "waiting".to_owned(),
            format!("pomd takes the {it} as soon as it is free"),
        ));
    }
    let hint = reason.hint.clone().or_else(|| {
        let next = next?;
        in_use.then(|| format!("to use another port, set listen = {next} in [tunnel.{name}]"))
    });
    wire::ApiError {
        facts,
        hint,
        holder: reason.holder,
        ..api_error(reason.code, message)
    }
}

/// Why a temporary tunnel was not made: it cannot listen.
fn not_made(route: &Authority, listen: &Listen, reason: wire::Reason) -> wire::ApiError {
    let (place, next) = place_and_next(listen);
    let in_use = reason.code == Code::AddressInUse;
    let (message, facts) = match place {
        Some(place) if in_use => (
            format!("{place} is in use"),
            vec![("held by".to_owned(), held_by(&reason))],
        ),
        _ => (format!("can't listen: {}", reason.message), Vec::new()),
    };
    let next = next.map(|it| format!("for another port: pomctl up {route} --listen {it}"));
    wire::ApiError {
        facts,
        hint: reason.hint.or(next),
        holder: reason.holder,
        ..api_error(reason.code, message)
    }
}

/// Returns where a tunnel listens, in words, and the port behind it.
fn place_and_next(listen: &Listen) -> (Option<String>, Option<u16>) {
    let of_port = |port: u16| (Some(format!("port {port}")), port.checked_add(1));
    match listen {
        Listen::Loopback(port) => of_port(*port),
        Listen::Address(address) => of_port(address.port()),
        Listen::Unix(socket) => (Some(format!("socket {socket}")), None),
        Listen::Chosen => (None, None),
    }
}

fn held_by(reason: &wire::Reason) -> String {
    let holder = reason.holder.as_ref();
    match holder.map(|it| (it.program.as_deref(), it.pid, it.uid, it.ours)) {
        Some((Some(program), Some(pid), ..)) => format!("{program} (pid {pid})"),
        Some((_, _, Some(uid), ours)) => control::text::program_of(uid, ours),
        _ => reason.message.clone(),
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    #[test]
    fn who_holds_a_port_is_told_as_far_as_it_is_known() {
        let holder = |pid, program: Option<&str>, uid| wire::Reason {
            holder: Some(wire::Holder {
                pid,
                program: program.map(str::to_owned),
                uid,
                ours: false,
            }),
            ..wire::Reason::new(Code::AddressInUse, "as it was said", Timestamp::UNIX_EPOCH)
        };
        assert_eq!(
            held_by(&holder(Some(7), Some("node"), Some(1))),
            "node (pid 7)"
        );
        assert_eq!(
            held_by(&holder(None, None, Some(54_321))),
            "a program of another user (uid 54321)"
        );
        assert_eq!(held_by(&holder(None, None, None)), "as it was said");
        let unknown =
            wire::Reason::new(Code::AddressInUse, "as it was said", Timestamp::UNIX_EPOCH);
        assert_eq!(held_by(&unknown), "as it was said");
    }

    #[test]
    fn a_port_in_use_is_told_with_its_holder_and_another_port() {
        let error = of_agent(AgentError::CannotListen {
            tunnel: TunnelName::parse("db").unwrap(),
            listen: Listen::Loopback(5432),
            reason: Box::new(wire::Reason::new(
                Code::AddressInUse,
                "node (pid 7) holds the port",
                Timestamp::UNIX_EPOCH,
            )),
        });
        assert_eq!(error.code, Code::AddressInUse);
        assert_eq!(error.message, "port 5432 is in use, so db can't listen yet");
        let hint = error.hint.unwrap();
        assert!(hint.contains("listen = 5433"), "{hint}");
        assert_eq!(error.facts[0].1, "node (pid 7) holds the port");
    }
}
