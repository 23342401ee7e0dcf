//! A network that goes, comes back and is another one: pomd in a network namespace of its own, at the end of a cable.

use std::{
    net::{Ipv4Addr, SocketAddr},
    process::Command,
    time::Duration,
};

use control::{client::ClientError, wire::Code};
use gateway::Upstream;
use integration::{
    PATIENCE,
    deployment::{CLUSTER, Deployment, tunnel},
    eventually,
    pomd::{Pomd, Setup, cluster},
    skipped,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{Instant, timeout},
};

use super::ECHO;

/// A pair of linked network interfaces, in a subnet of this process's own; gone with its owner.
struct Cable {
    near: String,
    far: String,
    /// The first address of a subnet of eight, of those that are for tests of networks (RFC 2544).
    first: u32,
}

impl Cable {
    /// `None` where there can be none.
    fn new() -> Option<Self> {
        let id = std::process::id();
        let res = Self {
            near: format!("pd{id}a"),
            far: format!("pd{id}b"),
            first: u32::from(Ipv4Addr::new(198, 18, 0, 0)) + (id % 0x4000) * 8,
        };
        let made = [
            "link", "add", &res.near, "type", "veth", "peer", "name", &res.far,
        ];
        ip(None, &made).ok()?;
        res.set_up(None, &res.near, 1);
        Some(res)
    }

    fn address(&self, last: u32) -> Ipv4Addr {
        Ipv4Addr::from(self.first + last)
    }

    fn set_up(&self, of: Option<u32>, link: &str, last: u32) {
        let address = format!("{}/29", self.address(last));
        must(of, &["addr", "add", &address, "dev", link]);
        must(of, &["link", "set", link, "up"]);
    }

    /// Plugs the far end into the network of that process.
    fn plug_into(&self, pid: u32) {
        must(None, &["link", "set", &self.far, "netns", &pid.to_string()]);
    }

    /// The far end comes up with this address, and the rest of the world behind it.
    fn connect(&self, pid: u32, last: u32) {
        self.set_up(Some(pid), &self.far, last);
        let via = self.address(1).to_string();
        must(Some(pid), &["route", "add", "default", "via", &via]);
    }

    /// The far end goes down, and its address with it.
    fn disconnect(&self, pid: u32) {
        must(Some(pid), &["link", "set", &self.far, "down"]);
        must(Some(pid), &["addr", "flush", "dev", &self.far]);
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        // The other end goes with it.
        let _ = ip(None, &["link", "del", &self.near]);
    }
}

/// Runs `ip`, in the network of the process `of` if there is one.
fn ip(of: Option<u32>, arguments: &[&str]) -> Result<(), String> {
    let mut command = match of {
        Some(pid) => {
            let mut enter = Command::new("nsenter");
            enter.arg(format!("--net=/proc/{pid}/ns/net")).arg("ip");
            enter
        }
        None => Command::new("ip"),
    };
    let output = command.args(arguments).output();
    let output = output.map_err(|error| error.to_string())?;
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

fn must(of: Option<u32>, arguments: &[&str]) {
    ip(of, arguments).unwrap_or_else(|error| panic!("ip {arguments:?}: {error}"));
}

/// Says hello to the echo and hears it back.
async fn echoes(pomd: &Pomd) -> Result<(), ClientError> {
    let mut stream = pomd.client().connect(ECHO, false).await?;
    let talking = async {
        stream.write_all(b"hello").await.unwrap();
        let mut heard = [0; 5];
        stream.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"hello");
    };
    timeout(PATIENCE, talking).await.expect("no echo");
    Ok(())
}

/// A pomd that is logged in and, from its second start on, alone in a network with nothing but the cable.
async fn pomd(deployment: &Deployment, cable: &Cable) -> Pomd {
    let config = deployment.cluster("") + &tunnel("echo", ECHO, "");
    let alone =
        "test -e alone && set -- unshare --net sh -c 'ip link set lo up; exec \"$@\"' sh \"$@\"";
    let mut pomd = Setup::new(&config).before(alone).start().await;
    deployment.log_in(&pomd).await;
    assert_eq!(pomd.stop().await.code(), Some(0));
    std::fs::write(pomd.setup().folder().join("alone"), "").unwrap();
    pomd.start_again().await;
    cable.plug_into(pomd.pid());
    pomd
}

#[tokio::test(flavor = "multi_thread")]
async fn n6_f9_a_network_that_was_gone_works_at_once_with_another_address() {
    let test = "n6_f9_a_network_that_was_gone_works_at_once_with_another_address";
    if !rustix::process::geteuid().is_root() {
        return skipped(test, "needs root");
    }
    let Some(cable) = Cable::new() else {
        return skipped(test, "no veth or no ip here");
    };
    let at = SocketAddr::from((cable.address(1), 0));
    let deployment = Deployment::gateway(|it| it.route(ECHO, Upstream::Echo).listen(at)).await;
    let pomd = pomd(&deployment, &cable).await;
    let pid = pomd.pid();
    let changes = || pomd.words().matches("the network has changed").count();
    for (round, last) in [2, 3, 4].into_iter().enumerate() {
        let handshakes = deployment.gateway.stats().handshakes;
        let before = changes();
        cable.connect(pid, last);
        eventually("pomd notices", async || (changes() > before).then_some(())).await;
        let start = Instant::now();
        let worked = echoes(&pomd).await;
        assert!(worked.is_ok(), "round {round}: {worked:?}");
        let took = start.elapsed();
        // A second, and what a busy machine adds.
        assert!(took < Duration::from_secs(5), "round {round}: {took:?}");
        let status = pomd.status().await;
        assert_eq!(cluster(&status, CLUSTER).reason, None);
        // One that was used, and two that are ready.
        deployment
            .gateway
            .wait_for(|it| it.handshakes >= handshakes + 3)
            .await;

        let before = changes();
        cable.disconnect(pid);
        eventually("pomd notices", async || (changes() > before).then_some(())).await;
        let error = echoes(&pomd).await.unwrap_err();
        let ClientError::Api(error) = error else {
            panic!("{error}");
        };
        assert_eq!(error.code, Code::Tcp, "{error:?}");
    }
    assert!(
        deployment.links.all().is_empty(),
        "nobody was asked to log in"
    );
}
