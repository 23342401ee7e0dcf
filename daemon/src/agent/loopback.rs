//! The two loopback addresses: a bare port is on both. One that the machine lacks is left out and said, and taken as soon
//! as it is back (E6).
//!
//! A listener whose address goes is kept: nobody reaches it meanwhile, and nobody else gets its port.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use pomd_core::config::TunnelName;
use tracing::{info, warn};

use super::Agent;
use crate::system::network;

const BOTH: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::LOCALHOST),
    IpAddr::V6(Ipv6Addr::LOCALHOST),
];

/// Those of the two that lead nowhere; what the system does not tell now is as it was `before`.
pub(super) fn missing(before: &[IpAddr]) -> Vec<IpAddr> {
    let leads_nowhere = |it: &IpAddr| match network::is_here(*it) {
        Ok(is_here) => !is_here,
        Err(_) => before.contains(it),
    };
    BOTH.into_iter().filter(leads_nowhere).collect()
}

impl Agent {
    /// Notes which of the two are there, and listens on one that is back; for that the port is bound anew, so that it is
    /// on both or on neither, and connections live on.
    pub(super) async fn look_at_loopback(&mut self) {
        let missing = missing(&self.missing);
        let is_back = |it: IpAddr| !missing.contains(&it);
        let tunnels = self.tunnels.iter().filter(|(_, managed)| {
            let listening = managed.listening.as_ref();
            listening.and_then(|it| it.left_out).is_some_and(is_back)
        });
        let tunnels: Vec<TunnelName> = tunnels.map(|it| it.0.clone()).collect();
        let changed = missing != self.missing;
        self.missing = missing;
        for name in &tunnels {
            self.close(name).await;
            self.listen(name);
        }
        if changed {
            match words(&self.missing) {
                Some(it) => warn!("{it}"),
                None => info!("127.0.0.1 and ::1 are both there again"),
            }
            self.retry_listeners();
        }
        if changed || !tunnels.is_empty() {
            self.look();
        }
    }

    /// What a person must know of addresses that are missing, if tunnels are on them.
    pub(super) fn nowhere(&self) -> Option<String> {
        let mut tunnels = self.tunnels.values();
        let concerned = tunnels.any(|it| it.wanted && it.tunnel.spec.listen.is_on_both_families());
        words(&self.missing).filter(|_| concerned)
    }
}

fn words(missing: &[IpAddr]) -> Option<String> {
    match missing {
        [] => None,
        [one] => {
            let other = BOTH.into_iter().find(|it| it != one)?;
            Some(format!(
                "this machine has no {one} now: the ports of tunnels are on {other} alone"
            ))
        }
        _ => {
            Some("loopback is down on this machine: nobody reaches the ports of tunnels".to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn e6_an_address_that_is_missing_is_named_and_so_is_the_one_that_is_left() {
        let [four, six] = BOTH;
        assert_eq!(words(&[]), None);
        let said = words(&[six]).unwrap();
        assert!(
            said.contains("no ::1 now") && said.ends_with("on 127.0.0.1 alone"),
            "{said}"
        );
        let said = words(&[four]).unwrap();
        assert!(
            said.contains("no 127.0.0.1 now") && said.ends_with("on ::1 alone"),
            "{said}"
        );
        assert!(words(&BOTH).unwrap().starts_with("loopback is down"));
    }
}
