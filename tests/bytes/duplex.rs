//! B2: random duplex scripts. Two sides say, pause, end and reset in any order; what each of them hears is judged by what
//! plain TCP would give, less what Pomerium cannot carry: an end of the local side is held back, and an end of the
//! service closes both directions.

use std::{sync::Mutex, time::Duration};

use integration::{
    PATIENCE,
    client::{Ending, pattern},
    deployment::Who,
};
use proptest::prelude::*;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::watch,
    time::{sleep, timeout},
};

use super::{
    Lab, listener,
    property::{lab, runtime, try_all},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Local,
    Service,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Deed {
    /// So many bytes, at most so many in one write.
    Say(usize, usize),
    /// Milliseconds.
    Pause(u64),
    /// Says no more, and reads on.
    End,
    Reset,
}

/// One side does something, at once or only when it has heard all that the other side said before in the script.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Step {
    by: Side,
    waits: bool,
    does: Deed,
}

/// What one side heard.
#[derive(Debug)]
struct Heard {
    got: Vec<u8>,
    /// `None`: it reset the connection itself.
    ending: Option<Ending>,
}

fn step() -> impl Strategy<Value = Step> {
    let size = prop_oneof![
        4 => 0_usize..40,
        2 => 16_370_usize..16_400,
        2 => 65_520_usize..65_550,
        2 => 0_usize..300_000,
        1 => 0_usize..=1 << 20,
    ];
    let piece = prop_oneof![3 => Just(usize::MAX), 1 => Just(1), 1 => Just(1_000)];
    let does = prop_oneof![
        8 => (size, piece).prop_map(|(n, piece)| Deed::Say(n, piece.max(n / 500))),
        1 => (0_u64..30).prop_map(Deed::Pause),
        2 => Just(Deed::End),
        1 => Just(Deed::Reset),
    ];
    let by = prop_oneof![Just(Side::Local), Just(Side::Service)];
    (by, any::<bool>(), does).prop_map(|(by, waits, does)| Step { by, waits, does })
}

/// A script that means something: nothing after a reset, no words after one's own end, and somebody ends it.
fn script() -> impl Strategy<Value = Vec<Step>> {
    proptest::collection::vec(step(), 0..9).prop_map(|steps| {
        let mut res: Vec<Step> = Vec::new();
        for step in steps {
            let ended = |it: &Step| it.by == step.by && it.does == Deed::End;
            if res.iter().any(ended) {
                continue;
            }
            let last = step.does == Deed::Reset;
            res.push(step);
            if last {
                return res;
            }
        }
        let over = |it: &Step| it.by == Side::Service && it.does == Deed::End;
        if !res.iter().any(over) {
            res.push(Step {
                by: Side::Service,
                waits: true,
                does: Deed::End,
            });
        }
        res
    })
}

/// All that `side` says in the first steps.
fn said(steps: &[Step], side: Side) -> usize {
    let of = steps.iter().filter(|it| it.by == side);
    of.map(|it| if let Deed::Say(n, _) = it.does { n } else { 0 })
        .sum()
}

/// Plays one side to its end. What it says are the bytes of a pattern of its own.
async fn play(mut stream: TcpStream, script: &[Step], side: Side) -> Heard {
    let other = if side == Side::Local {
        Side::Service
    } else {
        Side::Local
    };
    let all = words(script, side);
    let got = Mutex::new(Vec::new());
    let (count, counted) = watch::channel(0);
    let ending = {
        let (mut from, mut to) = stream.split();
        let reading = async {
            // Whoever waits for more is told with its end.
            let count = count;
            let mut piece = vec![0; 64 << 10];
            loop {
                match from.read(&mut piece).await {
                    Ok(0) => return Ending::Clean,
                    Ok(n) => {
                        let mut got = got.lock().unwrap();
                        got.extend_from_slice(&piece[..n]);
                        count.send_replace(got.len());
                    }
                    Err(_) => return Ending::Reset,
                }
            }
        };
        let doing = async {
            let mut at = 0;
            for (n, step) in script.iter().enumerate().filter(|it| it.1.by == side) {
                let need = said(&script[..n], other);
                if step.waits && counted.clone().wait_for(|it| *it >= need).await.is_err() {
                    break;
                }
                match step.does {
                    Deed::Say(n, most) => {
                        for piece in all[at..at + n].chunks(most) {
                            if to.write_all(piece).await.is_err() {
                                return false;
                            }
                        }
                        at += n;
                    }
                    Deed::Pause(ms) => sleep(Duration::from_millis(ms)).await,
                    Deed::End => {
                        let _ = to.shutdown().await;
                    }
                    Deed::Reset => return true,
                }
            }
            false
        };
        tokio::pin!(reading, doing);
        tokio::select! {
            ending = &mut reading => {
                // A half that is still open goes on; whoever was reset has nobody to talk to.
                let resets = ending == Ending::Clean && doing.await;
                (!resets).then_some(ending)
            }
            resets = &mut doing => if resets { None } else { Some(reading.await) },
        }
    };
    if ending.is_none() {
        stream.set_zero_linger().unwrap();
    }
    Heard {
        got: got.into_inner().unwrap(),
        ending,
    }
}

/// All that this side says.
fn words(script: &[Step], side: Side) -> Vec<u8> {
    let n = said(script, side);
    let skipped = if side == Side::Local { 3 } else { 0 };
    pattern(n + skipped).split_off(skipped)
}

/// Whether each side heard what it had to.
fn judge(script: &[Step], local: &Heard, service: &Heard) -> Result<(), String> {
    let (up, down) = (words(script, Side::Local), words(script, Side::Service));
    let is_prefix = |whose: &str, got: &[u8], of: &[u8]| {
        let (n, all) = (got.len(), of.len());
        let why = format!("{whose}: {n} bytes that are no beginning of the {all}");
        of.starts_with(got).then_some(()).ok_or(why)
    };
    is_prefix("the service heard", &service.got, &up)?;
    is_prefix("the local side heard", &local.got, &down)?;
    let resets = |side: Side| {
        let mut steps = script.iter();
        steps.any(|it| it.by == side && it.does == Deed::Reset)
    };
    match local.ending {
        None => return Ok(()),
        // It cannot be told from an end behind Pomerium.
        Some(_) if resets(Side::Service) => return Ok(()),
        Some(Ending::Clean) if local.got.len() == down.len() => {}
        ending => {
            let (n, all) = (local.got.len(), down.len());
            return Err(format!(
                "{ending:?} for the local side after {n} of {all} bytes"
            ));
        }
    }
    // All that was said before the service ended, if it waited for that.
    let end = script
        .iter()
        .position(|it| it.by == Side::Service && it.does == Deed::End);
    let before = end.filter(|it| script[*it].waits);
    let need = before.map_or(0, |it| said(&script[..it], Side::Local));
    let n = service.got.len();
    if n < need {
        return Err(format!("{n} of {need} bytes for the service"));
    }
    Ok(())
}

async fn judged(script: &[Step], local: TcpStream, service: TcpStream) -> Result<(), String> {
    let playing = async {
        tokio::join!(
            play(local, script, Side::Local),
            play(service, script, Side::Service)
        )
    };
    match timeout(PATIENCE, playing).await {
        Ok((local, service)) => judge(script, &local, &service),
        Err(_) => Err("it hangs".to_owned()),
    }
}

async fn through_pomd(lab: &Lab, script: &[Step]) -> Result<(), String> {
    // One that may leave before its route is open is let in first.
    let resets = script.iter().any(|it| it.does == Deed::Reset);
    let (local, service) = if resets {
        lab.open().await
    } else {
        tokio::join!(lab.connect(b""), lab.accept())
    };
    judged(script, local, service).await
}

fn scripts(who: Who, cases: u32) {
    let runtime = runtime();
    let lab = runtime.block_on(lab(who));
    try_all(cases, script(), [], |script| {
        runtime.block_on(through_pomd(&lab, &script))
    });
    runtime.block_on(lab.is_quiet());
}

#[test]
fn f6_b2_two_hundred_duplex_scripts_end_as_they_would_over_tcp() {
    scripts(Who::Gateway, 200);
}

#[test]
fn f6_b2_duplex_scripts_end_with_envoy_as_they_would_over_tcp() {
    scripts(Who::Envoy, 25);
}

#[test]
#[ignore = "a night's work"]
fn f6_b2_ten_thousand_duplex_scripts_end_as_they_would_over_tcp() {
    scripts(Who::Gateway, 10_000);
}

#[test]
#[ignore = "a night's work"]
fn f6_b2_five_hundred_duplex_scripts_end_with_envoy_as_they_would_over_tcp() {
    scripts(Who::Envoy, 500);
}

/// The judge asks for nothing that plain TCP does not give.
#[test]
fn plain_tcp_passes_the_judge_of_duplex_scripts() {
    let runtime = runtime();
    let listener = runtime.block_on(listener());
    let address = listener.local_addr().unwrap();
    try_all(200, script(), [], |script| {
        runtime.block_on(async {
            let (local, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
            judged(&script, local.unwrap(), accepted.unwrap().0).await
        })
    });
}

/// And sees what is lost or added, and a cut that looks like an end.
#[test]
fn the_judge_of_duplex_scripts_sees_what_is_wrong() {
    let say = |by, n| Step {
        by,
        waits: true,
        does: Deed::Say(n, n),
    };
    let end = Step {
        by: Side::Service,
        waits: true,
        does: Deed::End,
    };
    let script = [say(Side::Local, 5), say(Side::Service, 9), end];
    let (up, down) = (words(&script, Side::Local), words(&script, Side::Service));
    let verdict = |up: &[u8], down: &[u8], ending| {
        let heard = |got: &[u8], ending| Heard {
            got: got.to_vec(),
            ending: Some(ending),
        };
        judge(&script, &heard(down, ending), &heard(up, Ending::Clean)).is_ok()
    };
    assert!(verdict(&up, &down, Ending::Clean));
    assert!(!verdict(&up, &down, Ending::Reset));
    assert!(!verdict(&up, &down[..8], Ending::Clean));
    assert!(!verdict(&up[..4], &down, Ending::Clean));
    assert!(!verdict(&down[..5], &down, Ending::Clean));
    assert!(!verdict(&up, &[&down[..], &[0]].concat(), Ending::Clean));
}
