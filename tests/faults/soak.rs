//! F8: one fault after the other, drawn by chance, for as long as one likes, while the clocks run away: nobody is asked for
//! a login, and no tunnel fails for good.

use std::{env, time::Duration};

use gateway::{ANY, Certificate, End, PortBehaviour, Script};
use integration::{
    client::read_all,
    deployment::Who,
    relay::{Cut, Way, Ways},
    scenario::{ECHO, SSH, Scenario},
};
use tokio::{
    io::AsyncWriteExt,
    net::TcpStream,
    time::{Instant, sleep, timeout},
};

/// How many times as fast as the server's the clocks of pomd go: an hour is sixty, and several lives of a token.
const CLOCKS: u32 = 60;
/// Gives a run's seed again.
const SEED: &str = "POMD_TEST_SEED";

/// What may go wrong.
#[derive(Clone, Copy, Debug)]
enum Fault {
    PortClosed,
    AllCut(Cut),
    NothingPasses,
    Slow,
    Refuses(u16),
    NoAnswer,
    NotHttp,
    HangsUp(End),
    Certificate(Certificate),
    NoTls,
    HandshakeHangs,
    ServiceEnds,
}

const FAULTS: [Fault; 17] = [
    Fault::PortClosed,
    Fault::AllCut(Cut::Reset),
    Fault::AllCut(Cut::Fin),
    Fault::NothingPasses,
    Fault::Slow,
    Fault::Refuses(403),
    Fault::Refuses(404),
    Fault::Refuses(503),
    Fault::NoAnswer,
    Fault::NotHttp,
    Fault::HangsUp(End::Cut),
    Fault::HangsUp(End::Reset),
    Fault::Certificate(Certificate::Expired),
    Fault::Certificate(Certificate::OtherAuthority),
    Fault::NoTls,
    Fault::HandshakeHangs,
    Fault::ServiceEnds,
];

impl Fault {
    async fn begin(self, scenario: &Scenario) {
        let Scenario {
            deployment,
            relay,
            echo,
            ..
        } = scenario;
        let gateway = &deployment.gateway;
        match self {
            Self::PortClosed => relay.close().await,
            Self::AllCut(how) => relay.end_all(how).await,
            Self::NothingPasses => relay.set(Ways::both(Way::HELD)),
            Self::Slow => relay.set(Ways::both(Way {
                delay: Duration::from_millis(100),
                rate: Some(100 << 10),
                piece: 100,
                ..Way::PLAIN
            })),
            Self::Refuses(status) => gateway.script(ANY, Script::refuse(status)),
            Self::NoAnswer => gateway.script(ANY, Script::silence()),
            Self::NotHttp => gateway.script(ANY, Script::bytes("220 mail.test ESMTP\r\n")),
            Self::HangsUp(how) => gateway.script(ANY, Script::hang_up(how)),
            Self::Certificate(it) => gateway.show(it).unwrap(),
            Self::NoTls => gateway.port_behaviour(PortBehaviour::PlainHttp),
            Self::HandshakeHangs => gateway.port_behaviour(PortBehaviour::Silent),
            Self::ServiceEnds => echo.end_all(),
        }
    }

    async fn end(self, scenario: &Scenario) {
        let Scenario {
            deployment, relay, ..
        } = scenario;
        match self {
            Self::PortClosed => relay.open().await,
            Self::NothingPasses | Self::Slow => relay.set(Ways::both(Way::PLAIN)),
            Self::Certificate(_) => deployment.gateway.show(Certificate::Good).unwrap(),
            Self::NoTls | Self::HandshakeHangs => deployment.gateway.forgive(),
            // To end the connections that are ready would be another fault, and one in the middle of the recovery.
            _ => deployment.gateway.clear_scripts(),
        }
    }
}

/// People who go on using the tunnels, whatever they get.
async fn people(scenario: &Scenario) {
    loop {
        for tunnel in [ECHO, SSH] {
            // A refusal may be here before the system has told that the connection is open.
            let address = scenario.pomd.address(tunnel).await;
            let Ok(mut stream) = TcpStream::connect(address).await else {
                continue;
            };
            // None of it is to be waited for.
            let _ = stream.set_zero_linger();
            let _ = stream.write_all(b"hello?").await;
            // Whether an answer or an end comes is what the fault decides; here only that nobody panics or hangs on.
            let _ = timeout(Duration::from_millis(50), read_all(&mut stream)).await;
        }
    }
}

/// What happened so far; shown if the test fails, with how to have it again.
#[derive(Debug, Default)]
struct Story {
    seed: u64,
    faults: Vec<(Fault, Duration)>,
}

impl Drop for Story {
    #[expect(clippy::print_stderr, reason = "a failing test shows what happened")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Self { seed, faults } = self;
            let newest: Vec<_> = faults.iter().rev().take(20).collect();
            eprintln!("{} faults, the newest first: {newest:?}", faults.len());
            eprintln!("again: {SEED}={seed} cargo test -p integration f8 -- --include-ignored");
        }
    }
}

/// A fault each `pace`, for `long`.
async fn soak(long: Duration, pace: Duration) {
    let given = env::var(SEED).ok().and_then(|it| it.parse().ok());
    let seed: u64 = given.unwrap_or_else(|| fastrand::u64(..));
    let mut random = fastrand::Rng::with_seed(seed);
    let mut story = Story {
        seed,
        faults: Vec::new(),
    };
    let scenario = Scenario::at_pace(Who::Gateway, CLOCKS).await;
    let end = Instant::now() + long;
    while Instant::now() < end {
        let fault = FAULTS[random.usize(..FAULTS.len())];
        let lasts = pace / 2 * random.u32(..100) / 100;
        story.faults.push((fault, lasts));
        let next_one = sleep(pace);
        fault.begin(&scenario).await;
        let lasting = async {
            tokio::select! {
                () = sleep(lasts) => {}
                () = people(&scenario) => {}
            }
        };
        scenario.meanwhile(lasting).await;
        fault.end(&scenario).await;
        scenario.recovers().await;
        next_one.await;
    }
    let faults = story.faults.len() as u128;
    // A loaded machine may take longer for each, but not for ever.
    let least = long.as_millis() / pace.as_millis() / 8;
    assert!(faults >= least.max(1), "only {faults} faults");
}

#[tokio::test(flavor = "multi_thread")]
async fn f8_a_fault_each_second_costs_no_login_and_no_tunnel() {
    soak(Duration::from_secs(20), Duration::from_secs(1)).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "an hour"]
async fn f8_a_fault_each_five_seconds_for_an_hour_costs_no_login_and_no_tunnel() {
    soak(Duration::from_secs(60 * 60), Duration::from_secs(5)).await;
}
