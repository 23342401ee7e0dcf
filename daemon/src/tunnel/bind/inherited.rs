//! Which of the sockets that a service manager handed over are a tunnel's, and listening on them.

use std::{io, net::SocketAddr, path::Path};

use pomd_core::config::Listen;
use tokio::net::TcpListener;

use super::{Bound, Failure, Known, Listener, inherit_or_open, sisters};
use crate::system::{
    errors,
    socket_activation::{self, ListenAddress, Socket},
    unix_listener::UnixListener,
};

/// Whether `socket` is for the tunnel `name`: it has exactly the address that the tunnel listens on; or the tunnel says
/// none, and the socket has its name and is out of reach for other machines.
pub fn is_for(socket: &Socket, name: &str, listen: &Listen, control: &Path) -> bool {
    match (&socket.address, listen) {
        (ListenAddress::Tcp(it), Listen::Loopback(port)) => sisters(*port).contains(it),
        (ListenAddress::Tcp(it), Listen::Address(address)) => it == address,
        (ListenAddress::Tcp(it), Listen::Chosen) => it.ip().is_loopback() && socket.name == name,
        (ListenAddress::Unix(it), Listen::Unix(name)) => {
            *it == control.with_file_name(name.as_str())
        }
        (ListenAddress::Unix(_), Listen::Chosen) => socket.name == name,
        (ListenAddress::Tcp(_), Listen::Unix(_))
        | (ListenAddress::Unix(_), Listen::Loopback(_) | Listen::Address(_)) => false,
    }
}

/// Listens on what was handed over for this tunnel; `None` if that is nothing. A bare port of which one address was
/// handed over is bound on the other.
pub(super) fn bind(listen: &Listen, known: Known<'_>) -> Option<Result<Bound, Failure>> {
    let sockets = known.inherited.sockets().iter();
    let ours: Vec<&Socket> = sockets
        .filter(|it| is_for(it, known.name, listen, known.control))
        .collect();
    if ours.is_empty() {
        return None;
    }
    Some(share(&ours, listen, known.inherited))
}

fn share(
    ours: &[&Socket],
    listen: &Listen,
    inherited: &socket_activation::InheritedSockets,
) -> Result<Bound, Failure> {
    let mut bound = Bound {
        listeners: Vec::new(),
        addresses: Vec::new(),
        left_out: None,
    };
    for socket in ours {
        let listener = again(&socket.listener);
        bound
            .listeners
            .push(listener.map_err(|error| Failure::Handed {
                place: socket.address.clone(),
                error,
            })?);
        bound.addresses.push(socket.address.to_string());
    }
    let Listen::Loopback(port) = listen else {
        return Ok(bound);
    };
    let is_there = |it: &SocketAddr| {
        ours.iter()
            .any(|socket| socket.address == ListenAddress::Tcp(*it))
    };
    for address in sisters(*port).into_iter().filter(|it| !is_there(it)) {
        match inherit_or_open(address, inherited).and_then(TcpListener::from_std) {
            Ok(it) => {
                bound.listeners.push(Listener::Tcp(it));
                bound.addresses.push(address.to_string());
            }
            Err(error) if errors::is_absent_address(&error) => bound.left_out = Some(address.ip()),
            Err(error) => {
                let partly = true;
                return Err(Failure::At {
                    address,
                    partly,
                    error,
                });
            }
        }
    }
    Ok(bound)
}

/// The same socket by another descriptor: the first one is kept for the next time.
fn again(listener: &socket_activation::Listener) -> io::Result<Listener> {
    Ok(match listener {
        socket_activation::Listener::Tcp(it) => {
            Listener::Tcp(TcpListener::from_std(it.try_clone()?)?)
        }
        socket_activation::Listener::Unix(it) => Listener::Unix(UnixListener::shared(it)?),
    })
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use super::*;

    fn socket(name: &str, address: ListenAddress) -> Socket {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        Socket {
            name: name.to_owned(),
            address,
            listener: socket_activation::Listener::Tcp(listener),
        }
    }

    #[test]
    fn a_socket_is_for_the_tunnel_of_its_address_else_of_its_name() {
        let control = Path::new("/run/user/1/pomd/pomd.sock");
        for (address, name, listen, expected) in [
            ("127.0.0.1:2202", "pomd.socket", ":2202", true),
            ("[::1]:2202", "pomd.socket", ":2202", true),
            ("[::]:2202", "db", ":2202", false),
            ("0.0.0.0:2202", "db", ":2202", false),
            ("127.0.0.1:2203", "db", ":2202", false),
            ("127.0.0.2:2202", "db", "127.0.0.2:2202", true),
            ("[::]:2202", "pomd.socket", "[::]:2202", true),
            ("127.0.0.1:2202", "db", "", true),
            ("127.0.0.1:2202", "other", "", false),
            ("0.0.0.0:2202", "db", "", false),
            (
                "/run/user/1/pomd/db.sock",
                "pomd.socket",
                "unix:db.sock",
                true,
            ),
            ("/run/user/1/other/db.sock", "db", "unix:db.sock", false),
            ("/run/user/1/other/db.sock", "db", "", true),
            ("/run/user/1/pomd/db.sock", "db", ":2202", false),
            ("127.0.0.1:2202", "db", "unix:db.sock", false),
        ] {
            let place = match address.parse() {
                Ok(it) => ListenAddress::Tcp(it),
                Err(_) => ListenAddress::Unix(address.into()),
            };
            let listen = match listen {
                "" => Listen::Chosen,
                text => Listen::parse(text).unwrap(),
            };
            let is_for = is_for(&socket(name, place), "db", &listen, control);
            assert_eq!(is_for, expected, "{address} {name} {listen:?}");
        }
    }
}
