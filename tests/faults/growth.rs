//! Much of everything, and then as little in use as before.

use std::time::Duration;

use control::wire::Usage;
use gateway::{Script, Upstream};
use integration::{
    bystander::{Bystander, LEFT_BY_A_BURST, at_rest, echoes, threads, usage},
    deployment::{CLUSTER, Deployment, tunnel},
    eventually,
    pomd::{self, Pomd},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::{Instant, timeout},
};

use super::{ECHO, SSH, TUNNELS, carries};

async fn deployment() -> Deployment {
    let short = Duration::from_millis(20);
    Deployment::gateway(|it| {
        it.route(SSH, Upstream::Echo)
            .route(ECHO, Upstream::Echo)
            .linger(short)
    })
    .await
}

fn memory(usage: Usage) -> u64 {
    usage.memory.unwrap_or(0)
}

/// No more descriptors and tasks than before.
async fn is_back(pomd: &Pomd, before: Usage) -> Usage {
    let what = format!("descriptors and tasks are as before, {before:?}");
    eventually(&what, async || {
        let now = usage(pomd).await;
        let most = before
            .descriptors
            .map(|it| it + threads() + LEFT_BY_A_BURST);
        (now.descriptors <= most && now.tasks <= before.tasks).then_some(now)
    })
    .await
}

/// One short connection; each tenth is refused, others are reset, half-closed, or left without a word.
async fn short_connection(pomd_at: [std::net::SocketAddr; 2], n: usize) {
    let [echo, refused] = pomd_at;
    let address = if n.is_multiple_of(10) { refused } else { echo };
    let mut stream = pomd::connect(address).await.unwrap();
    match n % 10 {
        0 => {
            let _ = stream.write_all(b"refused").await;
            let mut rest = Vec::new();
            let _ = timeout(integration::PATIENCE, stream.read_to_end(&mut rest)).await;
        }
        1 => stream.set_zero_linger().unwrap(),
        2 => {
            echoes(&mut stream, b"half").await;
            stream.shutdown().await.unwrap();
            // The rest of the reply is waited for by pomd, not by us.
            stream.set_zero_linger().unwrap();
        }
        _ => {
            echoes(&mut stream, b"short").await;
            stream.set_zero_linger().unwrap();
        }
    }
}

/// F4 with `count` connections: descriptors and tasks are as before, and memory does not grow in the second half. (Within
/// the first, the ring of log lines fills, and the allocator takes what it will need.)
async fn many_short_connections(count: usize) {
    const AT_ONCE: usize = 16;
    let deployment = deployment().await;
    let pomd = deployment.logged_in(&TUNNELS).await;
    deployment.gateway.script(SSH, Script::refuse(403));
    let mut bystander = Bystander::new(&pomd, "echo").await;
    let at = [pomd.address("echo").await, pomd.address("ssh").await];
    let before = at_rest(&pomd).await;
    let mut running = JoinSet::new();
    let mut early = None;
    let begun = Instant::now();
    for n in 0..count {
        while running.len() >= AT_ONCE {
            running.join_next().await.unwrap().unwrap();
        }
        running.spawn(short_connection(at, n));
        if n == count / 2 {
            early = Some(memory(usage(&pomd).await));
            bystander.carries().await;
        }
    }
    while let Some(ended) = running.join_next().await {
        ended.unwrap();
    }
    let took = begun.elapsed();
    let after = is_back(&pomd, before).await;
    let early = early.unwrap();
    let said = format!(
        "{count} connections in {took:.1?}: {before:?}, {} KiB after a half, {} KiB at the end",
        early >> 10,
        memory(after) >> 10
    );
    // A tenth, or the little that an allocator may hold back.
    let most = early + (early / 10).max(2 << 20);
    assert!(memory(after) <= most, "{said}");
    integration::report(&said);
    deployment.gateway.forgive();
    carries(&pomd, "ssh").await;
    bystander.forget_burst();
    bystander.all_is_well(&pomd, &["ssh", "echo"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r1_f4_twenty_thousand_short_connections_leave_nothing_behind() {
    many_short_connections(20_000).await;
}

#[ignore = "a night's size: best with --release"]
#[tokio::test(flavor = "multi_thread")]
async fn r1_f4_two_hundred_thousand_short_connections_leave_nothing_behind() {
    many_short_connections(200_000).await;
}

/// R2: `rounds` reloads, each with `tunnels` tunnels added or removed again.
async fn many_reloads(rounds: usize, tunnels: usize) {
    let deployment = deployment().await;
    let pomd = deployment.logged_in(&TUNNELS).await;
    let mut bystander = Bystander::new(&pomd, "echo").await;
    let few = deployment.config(&TUNNELS);
    let mut many = few.clone();
    for n in 0..tunnels {
        many += &tunnel(&format!("more-{n}"), ECHO, "start = \"manual\"");
    }
    let mut early = 0;
    for round in 0..rounds {
        for (text, more) in [(&many, tunnels), (&few, 0)] {
            let answer = pomd.reload(text).await;
            // The file is watched too: whoever looks first tells of the tunnels as new.
            let now = answer.added.len() + answer.unchanged as usize;
            assert_eq!(now, TUNNELS.len() + more, "{answer:?}");
        }
        if round == rounds / 2 {
            early = memory(at_rest(&pomd).await);
        }
    }
    bystander.carries().await;
    let late = memory(at_rest(&pomd).await);
    let said = format!(
        "{} reloads with {tunnels} tunnels: {} KiB after a half, {} KiB at the end",
        2 * rounds,
        early >> 10,
        late >> 10
    );
    assert!(late <= early + (early / 20).max(1 << 20), "{said}");
    integration::report(&said);
    bystander.all_is_well(&pomd, &["ssh", "echo"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r2_two_hundred_reloads_with_fifty_tunnels_leave_nothing_behind() {
    many_reloads(100, 50).await;
}

#[ignore = "a night's size: best with --release"]
#[tokio::test(flavor = "multi_thread")]
async fn r2_ten_thousand_reloads_and_a_thousand_tunnels_leave_nothing_behind() {
    many_reloads(4_900, 20).await;
    many_reloads(400, 1_000).await;
}

/// R3: `logins` logins and `refusals` refused connections, each of which is logged.
async fn logins_and_refusals(logins: usize, refusals: usize) {
    const AT_ONCE: usize = 16;
    let deployment = deployment().await;
    let pomd = deployment.logged_in(&TUNNELS).await;
    // From here on connections are kept ready.
    carries(&pomd, "ssh").await;
    let before = at_rest(&pomd).await;
    for _ in 0..logins {
        pomd.client().logout(CLUSTER).await.unwrap();
        deployment.log_in(&pomd).await;
    }
    deployment.gateway.script(SSH, Script::refuse(503));
    let address = pomd.address("ssh").await;
    let mut early = 0;
    let mut running = JoinSet::new();
    for n in 0..refusals {
        while running.len() >= AT_ONCE {
            running.join_next().await.unwrap().unwrap();
        }
        running.spawn(short_connection([address, address], 10 * n));
        if n == refusals / 5 {
            early = memory(usage(&pomd).await);
        }
    }
    while let Some(ended) = running.join_next().await {
        ended.unwrap();
    }
    let mut quickest = Duration::MAX;
    for _ in 0..20 {
        let asked = Instant::now();
        pomd.status().await;
        quickest = quickest.min(asked.elapsed());
    }
    let after = is_back(&pomd, before).await;
    let said = format!(
        "{logins} logins, {refusals} refusals: {} KiB after a fifth, {} KiB at the end, status in {quickest:?}",
        early >> 10,
        memory(after) >> 10
    );
    assert!(quickest < Duration::from_millis(10), "{said}");
    assert!(memory(after) <= early + (early / 10).max(2 << 20), "{said}");
    integration::report(&said);
    deployment.gateway.forgive();
    carries(&pomd, "ssh").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r3_many_logins_and_refusals_fill_nothing_that_has_no_end() {
    logins_and_refusals(20, 400).await;
}

#[ignore = "a night's size: best with --release"]
#[tokio::test(flavor = "multi_thread")]
async fn r3_a_thousand_logins_and_a_hundred_thousand_refusals_fill_nothing_that_has_no_end() {
    logins_and_refusals(1_000, 100_000).await;
}

/// `count` connections at once, each with some bytes, then none, several times over. What memory is not given back to
/// the system after the first time is used again: R5 wants most of it back, and what is back is told.
async fn bursts(count: usize) {
    let deployment = deployment().await;
    let pomd = deployment.logged_in(&TUNNELS).await;
    let mut bystander = Bystander::new(&pomd, "echo").await;
    let before = at_rest(&pomd).await;
    let address = pomd.address("echo").await;
    let mut seen = Vec::new();
    for _ in 0..4 {
        let mut open = Vec::new();
        for _ in 0..count {
            let mut stream = TcpStream::connect(address).await.unwrap();
            echoes(&mut stream, &[b'x'; 4096]).await;
            open.push(stream);
        }
        let full = memory(usage(&pomd).await);
        for stream in open {
            stream.set_zero_linger().unwrap();
        }
        is_back(&pomd, before).await;
        seen.push((full >> 10, memory(at_rest(&pomd).await) >> 10));
    }
    let before = memory(before) >> 10;
    let said = format!("bursts of {count}: {before} KiB before, full and after each: {seen:?} KiB");
    integration::report(&said);
    let (first, last) = (seen[0], seen[seen.len() - 1]);
    let most = |it: u64| it + (it / 10).max(2 << 10);
    assert!(last.0 <= most(first.0) && last.1 <= most(first.1), "{said}");
    bystander.forget_burst();
    bystander.all_is_well(&pomd, &["ssh", "echo"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r5_a_burst_of_five_hundred_takes_no_more_memory_than_the_one_before() {
    bursts(500).await;
}

#[ignore = "a night's size: best with --release"]
#[tokio::test(flavor = "multi_thread")]
async fn r5_a_burst_of_five_thousand_takes_no_more_memory_than_the_one_before() {
    bursts(5_000).await;
}
