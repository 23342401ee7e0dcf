//! Ends at any byte, from either side: the other side sees a prefix, and a clean end only behind all of it.
//!
//! A failing case is printed small; to repeat it, put it into `again` of the test, or give the seed again that is printed with it.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicU32, Ordering},
};

use gateway::{End, Script};
use integration::client::{Ending, pattern, read_all};
use proptest::prelude::*;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};

use super::{
    Lab, ROUTE, Who, hear,
    property::{lab, runtime, try_all},
};

/// Sizes around those of records and buffers, and others.
fn size() -> impl Strategy<Value = usize> {
    prop_oneof![
        0_usize..40,
        16_370_usize..16_400,
        65_520_usize..65_550,
        0_usize..300_000,
    ]
}

fn is_prefix(got: &[u8], of: &[u8]) -> Result<(), String> {
    let (n, all) = (got.len(), of.len());
    of.starts_with(got)
        .then_some(())
        .ok_or(format!("{n} bytes came that are no beginning of the {all}"))
}

#[derive(Clone, Debug)]
struct ServerEnds {
    /// What the service says.
    said: usize,
    /// After how many bytes the server ends the tunnel, and how.
    after: usize,
    how: End,
}

async fn server_ends(lab: &Lab, case: ServerEnds) -> Result<(), String> {
    let ServerEnds { said, after, how } = case;
    let script = Script::new().end_after(after as u64, how).times(1);
    lab.deployment.gateway.script(ROUTE, script);
    let mut local = lab.connect(b"!").await;
    let mut service = lab.accept().await;
    let all = pattern(said);
    let saying = async {
        let _ = service.write_all(&all).await;
        let _ = service.shutdown().await;
        // What the client said is read, so that no reset comes of it.
        let _ = service.read(&mut [0; 2]).await;
    };
    let (read, ()) = tokio::join!(read_all(&mut local), saying);
    let (got, ending) = read;
    is_prefix(&got, &all)?;
    let reached = after <= said;
    let (n, most) = (got.len(), after.min(said));
    match (reached, how) {
        (true, End::Reset) if ending == Ending::Reset && n <= most => Ok(()),
        (true, End::Cut) if ending == Ending::Reset && n == most => Ok(()),
        (true, End::Clean) | (false, _) if ending == Ending::Clean && n == most => Ok(()),
        _ => Err(format!("{ending:?} after {n} of {most} bytes")),
    }
}

#[test]
fn the_server_ends_at_any_byte_and_only_a_whole_reply_ends_cleanly() {
    let runtime = runtime();
    let lab = runtime.block_on(Lab::hasty());
    let how = prop_oneof![Just(End::Clean), Just(End::Cut), Just(End::Reset)];
    let case = (size(), 0_usize..=120, how).prop_map(|(said, percent, how)| ServerEnds {
        said,
        after: said * percent / 100 + percent % 2,
        how,
    });
    let again = [(0, 0, End::Cut), (0, 0, End::Reset), (1, 1, End::Cut)];
    let again = again.map(|(said, after, how)| ServerEnds { said, after, how });
    try_all(120, case, again, |case| {
        runtime.block_on(server_ends(&lab, case))
    });
    runtime.block_on(lab.is_quiet());
}

#[derive(Clone, Debug)]
struct ClientEnds {
    /// What the client says.
    said: usize,
    /// It ends with a reset, else it closes.
    reset: bool,
    /// What the service had said before.
    heard: usize,
}

async fn client_ends(lab: &Lab, case: ClientEnds) -> Result<(), String> {
    let (mut local, mut service) = lab.open().await;
    let (up, down) = (pattern(case.said), pattern(case.heard));
    service.write_all(&down).await.unwrap();
    if hear(&mut local, case.heard).await != down {
        return Err("what was heard differs".to_owned());
    }
    let saying = async {
        // The service may have to take some of it before the rest can be said.
        local.write_all(&up).await.unwrap();
        if case.reset {
            local.set_zero_linger().unwrap();
        }
        drop(local);
    };
    let hearing = async {
        if case.reset {
            return read_all(&mut service).await.0;
        }
        // A mere close is not passed on before the service has ended too.
        hear(&mut service, case.said).await
    };
    let ((), got) = tokio::join!(saying, hearing);
    is_prefix(&got, &up)
}

fn client_ends_anywhere(who: Who, cases: u32) {
    let runtime = runtime();
    let lab = runtime.block_on(lab(who));
    let case = (size(), any::<bool>(), 0_usize..2_000)
        .prop_map(|(said, reset, heard)| ClientEnds { said, reset, heard });
    try_all(cases, case, [], |case| {
        runtime.block_on(client_ends(&lab, case))
    });
    runtime.block_on(lab.is_quiet());
}

#[test]
fn the_client_ends_at_any_byte_and_the_service_hears_all_before_it() {
    client_ends_anywhere(Who::Gateway, 100);
}

#[test]
fn the_client_ends_at_any_byte_with_envoy() {
    client_ends_anywhere(Who::Envoy, 50);
}

/// A TCP relay that ends every connection after so many bytes towards pomd, those that are ready and wait for their use
/// too.
struct Knife {
    address: SocketAddr,
    cut: watch::Sender<Option<Cut>>,
    cases: AtomicU32,
    _tasks: JoinSet<()>,
}

#[derive(Clone, Copy, Debug)]
struct Cut {
    after: usize,
    reset: bool,
}

impl Knife {
    async fn new(to: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (cut, cuts) = watch::channel(None);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut under_way = JoinSet::new();
            loop {
                let (near, _) = listener.accept().await.unwrap();
                let cuts = cuts.clone();
                under_way.spawn(async move {
                    let far = TcpStream::connect(to).await.unwrap();
                    carry(near, far, cuts).await;
                });
            }
        });
        Self {
            address,
            cut,
            cases: AtomicU32::new(0),
            _tasks: tasks,
        }
    }
}

async fn carry(mut near: TcpStream, mut far: TcpStream, mut cuts: watch::Receiver<Option<Cut>>) {
    let (mut from_near, mut to_near) = near.split();
    let (mut from_far, mut to_far) = far.split();
    let up = async {
        let _ = tokio::io::copy(&mut from_near, &mut to_far).await;
        let _ = to_far.shutdown().await;
        // The other direction ends by itself then.
        std::future::pending::<()>().await;
    };
    let down = async {
        let mut room = vec![0; 64 << 10];
        let mut passed = 0;
        loop {
            let cut = *cuts.borrow_and_update();
            let left = cut.map_or(room.len(), |it| it.after.saturating_sub(passed));
            if left == 0 {
                return cut;
            }
            let most = left.min(room.len());
            tokio::select! {
                read = from_far.read(&mut room[..most]) => match read {
                    Ok(n @ 1..) if to_near.write_all(&room[..n]).await.is_ok() => passed += n,
                    _ => return cut,
                },
                _ = cuts.changed() => {}
            }
        }
    };
    let cut = tokio::select! {
        () = up => None,
        cut = down => cut,
    };
    if cut.is_some_and(|it| it.reset) {
        near.set_zero_linger().unwrap();
        return;
    }
    let _ = near.shutdown().await;
    // Read on, so that a FIN stays a FIN.
    let _ = tokio::time::timeout(
        integration::PATIENCE,
        tokio::io::copy(&mut near, &mut tokio::io::sink()),
    )
    .await;
}

#[derive(Clone, Debug)]
struct NetworkEnds {
    said: usize,
    cut: Cut,
}

async fn network_ends(lab: &Lab, knife: &Knife, case: NetworkEnds) -> Result<(), String> {
    let NetworkEnds { said, cut } = case;
    knife.cut.send_replace(Some(cut));
    let all = pattern(said);
    // A visit of the case before may come late: each has words of its own.
    let number = knife.cases.fetch_add(1, Ordering::Relaxed);
    let words = format!("{number:07}").into_bytes();
    let mut local = TcpStream::connect(lab.address).await.unwrap();
    // A reset may be there before it is said.
    let _ = local.write_all(&words).await;
    let mut visits = JoinSet::new();
    let mut heard = Vec::new();
    let (got, ending) = {
        let reading = read_all(&mut local);
        tokio::pin!(reading);
        loop {
            tokio::select! {
                it = &mut reading => break it,
                Ok((mut service, _)) = lab.service.accept() => {
                    let reply = all.clone();
                    visits.spawn(async move {
                        let mut request = Vec::new();
                        let _ = (&mut service).take(7).read_to_end(&mut request).await;
                        let _ = service.write_all(&reply).await;
                        request
                    });
                }
            }
        }
    };
    while let Some(request) = visits.join_next().await {
        heard.push(request.unwrap());
    }
    is_prefix(&got, &all)?;
    let n = got.len();
    let requests = heard.iter().filter(|it| **it == words).count();
    if requests > 1 {
        return Err(format!("the request was heard {requests} times"));
    }
    match ending {
        Ending::Clean if n == said && requests == 1 => Ok(()),
        Ending::Reset => Ok(()),
        _ => Err(format!("{ending:?} after {n} of {said} bytes")),
    }
}

fn the_network_ends_anywhere(who: Who, cases: u32) {
    let runtime = runtime();
    let (lab, knife) = runtime.block_on(async {
        let lab = lab(who).await;
        let knife = Knife::new(lab.deployment.address()).await;
        let (direct, through) = (
            lab.deployment.address().to_string(),
            knife.address.to_string(),
        );
        let config = lab.deployment.config(&super::TUNNELS);
        lab.pomd.reload(&config.replace(&direct, &through)).await;
        (lab, knife)
    });
    // A handshake and an answer take some 2,000 bytes, each record 22 more than it carries.
    let case = (size(), any::<bool>(), 0_usize..4_000, 0_usize..=110);
    let case = case.prop_map(|(said, reset, first, percent)| NetworkEnds {
        said,
        cut: Cut {
            after: if percent < 30 {
                first
            } else {
                first + said * percent / 100
            },
            reset,
        },
    });
    try_all(cases, case, [], |case| {
        runtime.block_on(network_ends(&lab, &knife, case))
    });
}

#[test]
fn the_network_ends_at_any_byte_and_only_a_whole_reply_ends_cleanly() {
    the_network_ends_anywhere(Who::Gateway, 100);
}

#[test]
fn the_network_ends_at_any_byte_before_envoy() {
    the_network_ends_anywhere(Who::Envoy, 25);
}
