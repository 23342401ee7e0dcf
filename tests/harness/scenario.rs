//! What every fault is measured by: what the user sees, what is not lost, that others are carried meanwhile, and that
//! all is as before afterwards, without a restart.
//!
//! A [`Scenario`] is a logged in pomd before two companies. To one of them things happen, on the wire before it or in its
//! gateway; the other is the bystander. A fault is two lines: [`Scenario::refuses`] (or [`Scenario::meanwhile`] around
//! something of its own), and [`Scenario::recovers`] once the fault is over.

use std::{net::SocketAddr, time::Duration};

use control::wire::{ClusterState, Code, Reason, TunnelState, Usage};
use gateway::Upstream;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy, split},
    net::{TcpListener, TcpStream},
    sync::{Mutex, watch},
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::{
    PATIENCE,
    bystander::{LEFT_BY_A_BURST, at_rest, echoes, takes_no_more},
    deployment::{CLUSTER, Deployment, Who, tunnel},
    envoy::Envoy,
    fault_injection::FaultPlan,
    namespace::{Machines, Wire},
    pomd::{Pomd, Setup, cluster, tunnel as shown},
    relay::Relay,
    ssh,
};

/// The tunnel that faults strike: it says back what it hears.
pub const ECHO: &str = "echo";
/// Another tunnel of the same cluster, to the same service: refusals on it are told in ssh's own words.
pub const SSH: &str = "ssh";
/// The route of [`ECHO`].
pub const ROUTE: &str = "echo.corp.test:7000";
/// The route of [`SSH`].
pub const SSH_ROUTE: &str = "ssh.corp.test:22";
/// The bystander's tunnel.
const OTHER: &str = "other";
const OTHER_ROUTE: &str = "other.other.test:7000";

/// What is said to a tunnel that should refuse.
const WORDS: &[u8] = b"anybody?";
/// More connections than were ready when a fault began.
const READY_MOST: usize = 8;
/// How often the bystander is carried while a fault lasts.
const PACE: Duration = Duration::from_millis(50);
/// How long a bystander's byte may take on a loaded machine, far below the limits of what it must not wait for.
const UNDISTURBED: Duration = Duration::from_secs(4);

/// A logged in pomd before a company that things happen to and a bystander.
#[derive(Debug)]
pub struct Scenario {
    /// The daemon.
    pub pomd: Pomd,
    /// The company that things happen to.
    pub deployment: Deployment,
    /// The wire before it.
    pub relay: Relay,
    bystander: OtherCompany,
    before: Before,
    /// What stands behind the routes.
    pub echo: Echo,
    /// Pomd's machine, and the wire to the bystander's.
    place: Option<(Machines, Relay)>,
}

/// Another company's tunnel, with a connection that stays open.
#[derive(Debug)]
struct OtherCompany {
    deployment: Deployment,
    address: SocketAddr,
    open: Mutex<TcpStream>,
}

/// How things were before the first fault.
#[derive(Debug)]
struct Before {
    usage: Usage,
    sign_ins: u64,
    prompts: usize,
}

impl Scenario {
    /// `who` plays the company that things happen to.
    pub async fn new(who: Who) -> Self {
        let company = company(who).await;
        let relay = Relay::start(company.0.address()).await;
        let cluster = company.0.cluster_at(relay.address(), "");
        Self::set(company, relay, cluster).await
    }

    /// The same, with a pomd whose clocks go so many times as fast as ours.
    pub async fn at_pace(who: Who, pace: u32) -> Self {
        let company = company(who).await;
        let relay = Relay::start(company.0.address()).await;
        let other = other_company().await;
        let clusters = company.0.cluster_at(relay.address(), "") + &other.cluster("");
        let hurry = |it: Setup| {
            FaultPlan::new(it)
                .1
                .env("POMD_CLOCK_PACE", &pace.to_string())
        };
        Self::start(company, relay, other, &clusters, None, hurry).await
    }

    /// A company made by [`company`], the wire before it, and `[cluster.corp]`.
    pub async fn set(company: (Deployment, Echo), relay: Relay, cluster: String) -> Self {
        let other = other_company().await;
        let config = cluster + &other.cluster("");
        Self::start(company, relay, other, &config, None, |it| it).await
    }

    /// The same, with pomd on a machine of its own.
    pub async fn between(
        machines: Machines,
        mut company: (Deployment, Echo),
        relay: Relay,
        cluster: String,
    ) -> Self {
        let mut other = other_company().await;
        let address = SocketAddr::new(Wire::Second.four(1).into(), 443);
        let wire = Relay::with(machines.outside.listen(address), other.address());
        let config = cluster + &other.cluster_at(address, "");
        company.0.browse_at(relay.address());
        other.browse_at(address);
        let inside = machines.inside.clone();
        let place = Some((machines, wire));
        let on = |it: Setup| it.on(inside);
        Self::start(company, relay, other, &config, place, on).await
    }

    async fn start(
        (deployment, echo): (Deployment, Echo),
        relay: Relay,
        other: Deployment,
        clusters: &str,
        place: Option<(Machines, Relay)>,
        change: impl FnOnce(Setup) -> Setup,
    ) -> Self {
        let tunnels = [(ECHO, ROUTE), (SSH, SSH_ROUTE), (OTHER, OTHER_ROUTE)];
        let tunnels = tunnels.map(|(name, route)| tunnel(name, route, ""));
        let setup = Setup::new(&(clusters.to_owned() + &tunnels.concat()));
        let pomd = change(setup).start().await;
        for deployment in [&deployment, &other] {
            deployment.log_in(&pomd).await;
        }
        let address = pomd.address(OTHER).await;
        let mut open = pomd.dial(address).await;
        echoes(&mut open, b"o").await;
        let mut res = Self {
            before: Before {
                usage: Usage::default(),
                sign_ins: deployment.gateway.stats().sign_ins,
                prompts: deployment.links.all().len(),
            },
            bystander: OtherCompany {
                deployment: other,
                address,
                open: Mutex::new(open),
            },
            pomd,
            deployment,
            relay,
            echo,
            place,
        };
        // What the first connections leave behind for good is no leak.
        for _ in 0..2 {
            res.carries(ECHO).await;
            res.carries(SSH).await;
        }
        res.is_quiet().await;
        res.before.usage = at_rest(&res.pomd).await;
        res
    }

    /// Pomd's machine and the other one, where it has one of its own.
    pub fn machines(&self) -> &Machines {
        let place = self.place.as_ref();
        place.map_or_else(|| panic!("pomd is on this machine"), |it| &it.0)
    }

    /// An open connection to the tunnel, past its first byte. Dropped, it is reset: an orderly end alone would be held
    /// back for as long as the service might still answer.
    pub async fn open(&self, tunnel: &str) -> TcpStream {
        let mut stream = self.connect(tunnel).await;
        echoes(&mut stream, b"!").await;
        stream
    }

    /// The same before its first byte.
    pub async fn connect(&self, tunnel: &str) -> TcpStream {
        let stream = self.pomd.connect(tunnel).await;
        reset_when_dropped(&stream);
        stream
    }

    /// A new connection to the tunnel carries bytes.
    pub async fn carries(&self, tunnel: &str) {
        let mut stream = self.open(tunnel).await;
        echoes(&mut stream, format!("hello {tunnel}").as_bytes()).await;
    }

    /// Does `what` while the bystander is carried: at least once, each time undisturbed, on an open connection and on new
    /// ones.
    pub async fn meanwhile<T>(&self, what: impl Future<Output = T>) -> T {
        let carrying = async {
            loop {
                self.bystander.is_carried(&self.pomd).await;
                sleep(PACE).await;
            }
        };
        let res = tokio::select! {
            res = what => res,
            () = carrying => unreachable!("it goes on"),
        };
        self.bystander.is_carried(&self.pomd).await;
        res
    }

    /// A new connection to [`ECHO`] is refused: reset without a byte, the status gives `code` and a message with `words`,
    /// the login is kept, others are carried.
    pub async fn refuses(&self, code: Code, words: &str) -> Reason {
        self.meanwhile(self.refuses_one(ECHO, code, words)).await
    }

    /// A real ssh is refused with exactly the message of `reason`.
    pub async fn tells_ssh(&self, reason: &Reason) {
        self.use_up(SSH).await;
        let told = self
            .meanwhile(ssh::told(self.pomd.address(SSH).await))
            .await;
        // ssh prints every sign beyond ASCII as numbers, so it is told others.
        let message = reason.message.replace(['«', '»'], "\"");
        let message = message.replace('…', "...").replace('\u{fffd}', "?");
        let message = message.replace(ROUTE, SSH_ROUTE);
        let [echo, ssh] = [ROUTE, SSH_ROUTE].map(|it| it.split(':').next().unwrap_or(it));
        let message = message.replace(echo, ssh);
        // The id, which differs from one connection to the next, and what to do with it, follow.
        let rest = told.strip_prefix(&message);
        let rest = rest.unwrap_or_else(|| panic!("{told:?} is not {message:?}"));
        let id = reason.request_id.is_some();
        assert_eq!(rest.starts_with(", request id "), id, "{told}");
    }

    /// What [`Scenario::refuses`] says, of any tunnel and without a look at the bystander.
    pub async fn refuses_one(&self, tunnel: &str, code: Code, words: &str) -> Reason {
        let reset = self.first_that_is_not_served(tunnel).await;
        assert!(reset, "{code:?} {words:?}: a clean end");
        let it = self.pomd.wait_for_tunnel(tunnel, TunnelState::Error).await;
        let Some(reason) = it.reason else {
            panic!("an error without a reason: {it:?}");
        };
        let told = reason.code == code && reason.message.contains(words);
        assert!(told, "instead of {code:?} {words:?}: {reason:#?}");
        let state = cluster(&self.pomd.status().await, CLUSTER).state;
        assert_eq!(state, ClusterState::LoggedIn, "after {reason:?}");
        reason
    }

    /// Connects until nobody is served: what was ready before is used up then.
    async fn use_up(&self, tunnel: &str) {
        for _ in 0..READY_MOST {
            let mut stream = self.connect(tunnel).await;
            let _ = stream.write_all(WORDS).await;
            let mut heard = [0; WORDS.len()];
            let read = timeout(PATIENCE, stream.read_exact(&mut heard)).await;
            if !matches!(read, Ok(Ok(_))) || heard != *WORDS {
                return;
            }
        }
    }

    /// How a new connection to the tunnel ends that is told nothing: by a reset? Those go before that find one ready which
    /// was made before: they are served, whatever became of the way.
    async fn first_that_is_not_served(&self, tunnel: &str) -> bool {
        for _ in 0..READY_MOST {
            let mut stream = self.connect(tunnel).await;
            // The refusal may be there before it is said.
            let said = stream.write_all(WORDS).await;
            let mut heard = [0; WORDS.len()];
            match timeout(PATIENCE, stream.read(&mut heard)).await {
                Ok(Ok(0)) => return said.is_err(),
                Ok(Err(_)) => return true,
                Ok(Ok(n)) => assert!(WORDS.starts_with(&heard[..n]), "{heard:?}"),
                Err(_) => panic!("{tunnel}: neither bytes nor an end for {PATIENCE:?}"),
            }
        }
        panic!("{tunnel} serves one connection after the other");
    }

    /// Without a restart and without a login all is as before: new connections work, the status says so, no connection,
    /// no task and no descriptor is left of those that went wrong.
    pub async fn recovers(&self) {
        for tunnel in [ECHO, SSH] {
            self.carries(tunnel).await;
            let it = self.pomd.wait_for_tunnel(tunnel, TunnelState::Up).await;
            assert_eq!(it.reason, None, "{tunnel} works again");
        }
        self.bystander.is_carried(&self.pomd).await;
        assert_eq!(
            self.deployment.links.all().len(),
            self.before.prompts,
            "a login was asked"
        );
        assert_eq!(
            self.deployment.gateway.stats().sign_ins,
            self.before.sign_ins
        );
        self.is_quiet().await;
        takes_no_more(&self.pomd, self.before.usage).await;
    }

    /// Starts a new Envoy in the place of the one before; the wire leads there. Its address is another one.
    pub async fn restart_envoy(&mut self) {
        let routes = [ROUTE, SSH_ROUTE].map(|it| (it, self.echo.address()));
        self.deployment.envoy = None;
        let envoy = Envoy::start(&self.deployment.gateway, &routes).await;
        self.relay.lead_to(envoy.address());
        self.deployment.envoy = Some(envoy);
    }

    /// From now on the logins there were until now are taken for granted.
    pub fn forget_logins(&mut self) {
        self.before.sign_ins = self.deployment.gateway.stats().sign_ins;
        self.before.prompts = self.deployment.links.all().len();
    }

    /// From now on the warm connections that a burst of connections leaves are taken for granted.
    pub fn forget_burst(&mut self) {
        let descriptors = &mut self.before.usage.descriptors;
        *descriptors = descriptors.map(|it| it + LEFT_BY_A_BURST);
    }

    /// No connection is left but the bystander's.
    async fn is_quiet(&self) {
        self.pomd
            .wait_for("no connection is left but the bystander's", |status| {
                let counts = status.tunnels.iter().map(|it| it.connections);
                let clusters = status.clusters.iter().map(|it| it.waiting);
                let waiting = counts.clone().map(|it| it.waiting).chain(clusters);
                counts.map(|it| it.open).sum::<u64>() == 1
                    && shown(status, OTHER).connections.open == 1
                    && waiting.sum::<u64>() == 0
            })
            .await;
    }
}

impl OtherCompany {
    async fn is_carried(&self, pomd: &Pomd) {
        let carried = async {
            echoes(&mut *self.open.lock().await, b"b").await;
            let mut new = pomd.dial(self.address).await;
            reset_when_dropped(&new);
            echoes(&mut new, b"y").await;
        };
        let carried = timeout(UNDISTURBED, carried).await;
        let asked = self.deployment.links.all();
        assert!(
            carried.is_ok(),
            "{OTHER} is held up; asked for a login: {asked:?}"
        );
    }
}

fn reset_when_dropped(stream: &TcpStream) {
    let set = stream.set_zero_linger();
    set.unwrap_or_else(|error| panic!("a socket option: {error}"));
}

async fn other_company() -> Deployment {
    Deployment::named(OTHER, "other.test", |it| {
        it.route(OTHER_ROUTE, Upstream::Echo)
    })
    .await
}

/// A company with an echo behind both routes.
pub async fn company(who: Who) -> (Deployment, Echo) {
    let echo = Echo::start().await;
    let routes = [(ROUTE, echo.address), (SSH_ROUTE, echo.address)];
    (Deployment::of(who, &routes).await, echo)
}

/// A TCP service that says back what it hears.
#[derive(Debug)]
pub struct Echo {
    address: SocketAddr,
    ends: watch::Sender<()>,
    _task: JoinSet<()>,
}

impl Echo {
    /// On a free port of loopback.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await;
        let listener = listener.unwrap_or_else(|error| panic!("an echo: {error}"));
        let address = listener.local_addr();
        let ends = watch::Sender::new(());
        let mut task = JoinSet::new();
        task.spawn(serve(listener, ends.clone()));
        Self {
            address: address.unwrap_or_else(|error| panic!("an echo: {error}")),
            ends,
            _task: task,
        }
    }

    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends all its connections orderly.
    pub fn end_all(&self) {
        self.ends.send_replace(());
    }
}

async fn serve(listener: TcpListener, ends: watch::Sender<()>) {
    let mut visits = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        while visits.try_join_next().is_some() {}
        let mut ends = ends.subscribe();
        visits.spawn(async move {
            let (mut from, mut to) = split(stream);
            tokio::select! {
                _ = copy(&mut from, &mut to) => {}
                _ = ends.changed() => {}
            }
        });
    }
}
