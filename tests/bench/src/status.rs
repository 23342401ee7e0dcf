//! The time that pomctl takes, from its start.

use std::{
    io::{Read, Write},
    path::Path,
    process::{Command, Stdio},
    time::Instant,
};

use integration::{
    binary::{binary, system},
    pomd::Pomd,
};
use tokio::task::block_in_place;

use crate::{
    Size, lab,
    measure::median,
    service,
    table::{Table, verdict},
};

/// Milliseconds.
const MOST: f64 = 10.0;

/// Measures with few and with many tunnels, all of it in turn.
pub(crate) async fn run(size: Size) -> Vec<Table> {
    let rounds = size.pick(2, 51, 301);
    let deployment = lab::deployment().await;
    let title = format!("status: wall time of pomctl from its start, ms ({rounds} rounds)");
    let mut table = Table::new(title, &["", "median", "worst", "target"]);
    let mut row = |what: String, values: &[f64], most: Option<f64>| {
        let (median, worst) = (median(values), values.iter().copied().fold(0.0, f64::max));
        let cells = [what, format!("{median:.1}"), format!("{worst:.1}")];
        table.row(cells.into_iter().chain(most.map(|it| verdict(median, it))));
    };
    for tunnels in size.pick([1, 2], [5, 500], [5, 500]) {
        let pomd = lab::pomd(&deployment, deployment.address(), tunnels).await;
        let tunnel = pomd.address(lab::TUNNEL).await;
        let mut took = [const { Vec::new() }; 5];
        for _ in 0..rounds {
            took[0].push(run_to_end(&mut Command::new(system("true"))));
            took[1].push(run_to_end(pomctl(&pomd).arg("status")));
            took[2].push(run_to_end(pomctl(&pomd).args(["status", "--json"])));
            let start = Instant::now();
            drop(lab::open(tunnel).await);
            let direct = milliseconds(start);
            let connected = to_first_byte(&pomd);
            took[3].push(connected);
            took[4].push(connected - direct);
        }
        let [floor, status, json, connect, more] = &took;
        row(
            format!("{tunnels} tunnels: a program that does nothing"),
            floor,
            None,
        );
        row(
            format!("{tunnels} tunnels: pomctl status"),
            status,
            Some(MOST),
        );
        row(
            format!("{tunnels} tunnels: pomctl status --json"),
            json,
            Some(MOST),
        );
        row(
            format!("{tunnels} tunnels: pomctl connect, to the first byte"),
            connect,
            None,
        );
        row(
            format!("{tunnels} tunnels: the same, more than by a tunnel"),
            more,
            Some(MOST),
        );
    }
    vec![table]
}

fn pomctl(pomd: &Pomd) -> Command {
    let mut command = pomd.setup().command(Path::new(&binary("pomctl")));
    command.env("POMD_NO_START", "1");
    command
}

fn run_to_end(command: &mut Command) -> f64 {
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    block_in_place(|| {
        let start = Instant::now();
        let output = command.output().unwrap();
        assert!(output.status.success(), "{command:?}: {output:?}");
        milliseconds(start)
    })
}

/// `pomctl connect` up to the first byte of the service's answer.
fn to_first_byte(pomd: &Pomd) -> f64 {
    let mut command = pomctl(pomd);
    command.args(["connect", lab::ROUTE]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    block_in_place(|| {
        let start = Instant::now();
        let mut child = command.spawn().unwrap();
        let (mut to, mut from) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        to.write_all(&service::down(1)).unwrap();
        from.read_exact(&mut [0]).unwrap();
        let took = milliseconds(start);
        // Nothing is asked of its end.
        child.kill().unwrap();
        child.wait().unwrap();
        took
    })
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1000.0
}
