//! From connecting to the first byte of the service's answer, over a wire with a delay; in round trips.

use std::time::{Duration, Instant};

use integration::pomd::Pomd;
use tokio::task::JoinSet;

use crate::{
    Size, lab,
    measure::median,
    table::{Table, verdict},
    wire::Wire,
};

const WARM: f64 = 1.1;
const COLD: f64 = 3.2;
const COLD_BURST: f64 = 3.6;
const WARM_BURST: f64 = 1.2;
/// Nothing moves for so long: a pomd that just started has read the roots of trust by then.
const QUIET: Duration = Duration::from_millis(500);
/// Connections at once, more than are warm before any burst: the slowest of them waits for a dial.
const FEW: usize = 4;
/// As many as an IDE or a database pool opens at once.
const BURST: usize = 10;

/// What one run measured, each round's round trips.
#[derive(Default)]
struct Rounds {
    by_hand: Vec<f64>,
    first: Vec<f64>,
    cold: Vec<f64>,
    warm: Vec<f64>,
    cold_burst: Vec<f64>,
    warm_burst: Vec<f64>,
}

/// Measures at two distances.
pub(crate) async fn run(size: Size) -> Vec<Table> {
    let rounds = size.pick(1, 9, 25);
    let mut tables = Vec::new();
    for round_trip in size.pick(&[20][..], &[20, 50], &[20, 50]) {
        let round_trip = Duration::from_millis(*round_trip);
        tables.push(table(round_trip, &measure(round_trip, rounds).await));
    }
    tables
}

async fn measure(round_trip: Duration, rounds: usize) -> Rounds {
    let deployment = lab::deployment().await;
    let wire = Wire::new(deployment.address(), round_trip);
    let token = lab::token(&deployment);
    let mut pomd = lab::pomd(&deployment, wire.address(), 1).await;
    let mut res = Rounds::default();
    let trips = |since: Instant| since.elapsed().as_secs_f64() / round_trip.as_secs_f64();
    for _ in 0..rounds {
        // Each time a client that knows nothing of the server yet.
        let front = lab::front(&deployment, wire.address());
        let start = Instant::now();
        let mut tunnel = front.open(lab::ROUTE, &token, b"").await;
        lab::first_byte(&mut tunnel.tls).await;
        res.by_hand.push(trips(start));
        drop(tunnel);

        pomd.restart().await;
        res.first.push(trips(open(&pomd, &wire, 1).await));
        res.warm.push(trips(open(&pomd, &wire, 1).await));
        res.cold.push(trips(open(&pomd, &wire, FEW).await));

        pomd.restart().await;
        open(&pomd, &wire, 1).await;
        res.cold_burst.push(trips(open(&pomd, &wire, BURST).await));
        res.warm_burst.push(trips(open(&pomd, &wire, BURST).await));
    }
    res
}

/// Waits until nothing is under way, opens connections, and says when it began to.
async fn open(pomd: &Pomd, wire: &Wire, connections: usize) -> Instant {
    let tunnel = pomd.address(lab::TUNNEL).await;
    let limit = Duration::from_secs(5);
    let quiet = QUIET.max(wire.round_trip() * 4);
    lab::settled(quiet, limit, || wire.moved()).await;
    let start = Instant::now();
    let opening: JoinSet<_> = (0..connections).map(|_| lab::open(tunnel)).collect();
    opening.join_all().await;
    start
}

fn table(round_trip: Duration, rounds: &Rounds) -> Table {
    let title = format!(
        "first-byte: from connecting to the first byte of an answer, round trips of {round_trip:?} ({} rounds)",
        rounds.cold.len()
    );
    let mut table = Table::new(title, &["", "median", "best", "worst", "target"]);
    let mut row = |what: &str, values: &[f64], most: Option<f64>| {
        let best = values.iter().copied().fold(f64::INFINITY, f64::min);
        let worst = values.iter().copied().fold(0.0, f64::max);
        let median = median(values);
        let cells = [median, best, worst].map(|it| format!("{it:.2}"));
        let verdict = most.map(|it| verdict(median, it));
        table.row([what.to_owned()].into_iter().chain(cells).chain(verdict));
    };
    row("by hand, TCP + TLS + CONNECT", &rounds.by_hand, None);
    row("pomd, its first connection", &rounds.first, None);
    row("pomd, the next one", &rounds.warm, Some(WARM));
    let slowest = |of: usize| format!("pomd, the slowest of {of} at once");
    row(&slowest(FEW), &rounds.cold, Some(COLD));
    row(&slowest(BURST), &rounds.cold_burst, Some(COLD_BURST));
    let again = slowest(BURST) + ", again";
    row(&again, &rounds.warm_burst, Some(WARM_BURST));
    table
}
