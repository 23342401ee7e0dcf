//! A1: what was left on a connection that its client reset, whose address is the owner's by the time pomd looks.

use std::{
    fs,
    io::{BufRead, BufReader},
    net::SocketAddr,
    process::Stdio,
    sync::{Arc, Mutex},
};

use gateway::Upstream;
use integration::{
    bystander::echoes,
    deployment::{Deployment, tunnel},
    namespace::{Machines, Wire},
    pomd::Setup,
    relay::Relay,
    skipped,
};
use rustix::process::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::other_user;

const ROUTE: &str = "heard.corp.test:7000";
/// What strangers say, again and again.
const STRANGERS: &str = "the stranger's ";

/// A service that says everything back, and remembers it.
#[derive(Clone, Debug, Default)]
struct Heard(Arc<Mutex<Vec<u8>>>);

impl Heard {
    fn service(&self) -> Upstream {
        let heard = self.0.clone();
        Upstream::service(move |mut stream, _| {
            let heard = heard.clone();
            async move {
                let mut room = [0; 16 << 10];
                while let Ok(n @ 1..) = stream.read(&mut room).await {
                    heard.lock().unwrap().extend_from_slice(&room[..n]);
                    if stream.write_all(&room[..n]).await.is_err() {
                        return;
                    }
                }
            }
        })
    }

    /// Nothing but `words`; how many times.
    fn is_only(&self, words: &str) -> usize {
        let heard = self.0.lock().unwrap();
        let text = String::from_utf8_lossy(&heard);
        let times = text.matches(words).count();
        assert!(
            text == words.repeat(times),
            "{} bytes were heard, {} times {STRANGERS:?}",
            heard.len(),
            text.matches(STRANGERS).count()
        );
        times
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a1_what_was_left_before_a_reset_goes_nowhere_although_its_port_is_ours_by_then() {
    let test = "a1_what_was_left_before_a_reset_goes_nowhere_although_its_port_is_ours_by_then";
    let Some(other_user) = other_user(test) else {
        return;
    };
    let heard = Heard::default();
    let deployment = Deployment::gateway(|it| it.route(ROUTE, heard.service())).await;
    let mut pomd = deployment.logged_in(&[("heard", ROUTE)]).await;
    let port = pomd.address("heard").await.port();
    let mut times = 0;
    for host in ["127.0.0.1", "[::1]"] {
        let at: SocketAddr = format!("{host}:{port}").parse().unwrap();
        pomd.process().stand_still().await;
        let mut ours = Vec::new();
        for _ in 0..10 {
            ours.push(other_user.leaves(at, STRANGERS).await);
        }
        pomd.process().signal(Signal::CONT);
        for stream in &mut ours {
            echoes(stream, b"ours ").await;
            times += 1;
        }
    }
    assert_eq!(heard.is_only("ours "), times);
    let shown = integration::pomd::tunnel(&pomd.status().await, "heard").clone();
    assert_eq!(shown.connections.turned_away, times as u64);
    assert_eq!(shown.connections.total, times as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn a1_a_client_that_is_gone_before_its_route_is_open_is_dropped_with_what_it_left() {
    let heard = Heard::default();
    let deployment = Deployment::gateway(|it| it.route(ROUTE, heard.service())).await;
    let pomd = deployment.pomd(&[("heard", ROUTE)]).await;
    let address = pomd.address("heard").await;
    // It was there when it was looked at, and waits for the login with more than is taken of a client.
    let mut client = pomd.connect("heard").await;
    client
        .write_all(STRANGERS.repeat(16 << 10).as_bytes())
        .await
        .unwrap();
    deployment.links.nth(1).await;
    client.set_zero_linger().unwrap();
    drop(client);
    deployment.links.sign_in(1, &deployment.browser).await;
    let mut ours = tokio::net::TcpStream::connect(address).await.unwrap();
    echoes(&mut ours, b"ours ").await;
    assert_eq!(heard.is_only("ours "), 1);
}

/// The ports that the system gives to connections of a machine.
const FIRST: u16 = 40_000;
const LAST: u16 = 40_009;
/// Connections of ours meanwhile.
const OURS: usize = 100;

#[tokio::test(flavor = "multi_thread")]
async fn a1_a_flood_of_resets_where_all_other_ports_are_taken_brings_nothing_through() {
    let test = "a1_a_flood_of_resets_where_all_other_ports_are_taken_brings_nothing_through";
    let Some(other_user) = other_user(test) else {
        return;
    };
    let machines = match Machines::start().await {
        Ok(it) => it,
        Err(why) => return skipped(test, &why),
    };
    let heard = Heard::default();
    let mut deployment = Deployment::gateway(|it| it.route(ROUTE, heard.service())).await;
    let outer = SocketAddr::from((Wire::First.four(1), 443));
    let _relay = Relay::with(machines.outside.listen(outer), deployment.address());
    deployment.browse_at(outer);
    let config = deployment.cluster_at(outer, "") + &tunnel("heard", ROUTE, "");
    let inside = machines.inside.clone();
    let pomd = Setup::new(&config).on(inside.clone()).start().await;
    deployment.log_in(&pomd).await;
    let port = pomd.address("heard").await.port();
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let range = format!("{FIRST} {LAST}");
    let narrowed =
        inside.within(|| fs::write("/proc/sys/net/ipv4/ip_local_port_range", range.as_bytes()));
    narrowed.unwrap();
    let [to, first, last] = [address.to_string(), FIRST.to_string(), LAST.to_string()];
    let mut command = other_user.command(&["flood", &to, &first, &last]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut flood = inside.within(|| command.spawn()).unwrap();
    let mut words = BufReader::new(flood.stdout.take().unwrap()).lines();
    assert_eq!(words.next().unwrap().unwrap(), "took 8");
    let mut times = 0;
    let ours = async {
        while times < OURS {
            // The stranger may have the ports at the moment, where ours needs one or where pomd does.
            let Ok(mut stream) = inside.connect(address) else {
                tokio::task::yield_now().await;
                continue;
            };
            let mut back = [0; 5];
            let said = stream.write_all(b"ours ").await;
            if said.is_ok() && stream.read_exact(&mut back).await.is_ok() {
                assert_eq!(&back, b"ours ");
                times += 1;
            }
            let _ = stream.set_zero_linger();
        }
    };
    let limit = integration::PATIENCE * 6;
    let done = tokio::time::timeout(limit, ours).await;
    drop(flood.stdin.take());
    let said = words.next().unwrap().unwrap();
    flood.wait().unwrap();
    assert!(done.is_ok(), "{times} connections of ours within {limit:?}");
    let left: u32 = said.strip_prefix("left ").unwrap().parse().unwrap();
    assert!(left > 100, "{said}");
    assert!(heard.is_only("ours ") >= times);
}
