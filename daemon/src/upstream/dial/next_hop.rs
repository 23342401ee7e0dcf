//! A TCP connection whose first packet may find a search for the next hop under way that began before the wire was there.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{net::TcpStream, time::Instant};

/// Linux asks for the next hop three times, a second apart (`mcast_solicit`, arp(7)): a search that is given up sooner
/// after we came is older than we are.
const SEARCH: Duration = Duration::from_millis(2_900);

/// Connects, and once more where the system gave up a search that was not ours: asked again, it begins anew.
pub(super) async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let begun = Instant::now();
    match TcpStream::connect(address).await {
        Err(error)
            if error.kind() == io::ErrorKind::HostUnreachable && begun.elapsed() < SEARCH =>
        {
            TcpStream::connect(address).await
        }
        other => other,
    }
}
