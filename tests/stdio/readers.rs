//! A reader that left is noticed without a write.

use super::*;

/// Reads the first bytes of what a program says.
async fn first_words(mut from: File) -> (Vec<u8>, File) {
    blocking(move || {
        let mut room = [0; 4096];
        let n = from.read(&mut room).unwrap();
        (room[..n].to_vec(), from)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn q7_whatever_goes_on_for_a_reader_ends_with_it_though_nothing_is_written() {
    let lab = Lab::new().await;
    for arguments in [
        &["logs", "-f"][..],
        &["logs", "-f", "--json"],
        &["status", "--watch"],
        &["status", "--watch", "--json"],
        &["connect", QUIET],
    ] {
        for kind in [Kind::Pipe, Kind::Socket, Kind::Terminal] {
            for without in [false, true] {
                let mut ends = kind.ends(false);
                if without {
                    ends = ends.without_blocking();
                }
                let mut command = lab.pomctl(arguments);
                let input = Kind::Pipe.ends(true);
                command.stdin(input.stdio()).stdout(ends.stdio());
                let child = command.spawn().unwrap();
                drop(command);
                let (from, theirs) = ends.split();
                drop(theirs);
                let (words, from) = first_words(from).await;
                assert!(!words.is_empty(), "{arguments:?} on {kind:?}");
                drop(from);
                let code = ended(child).await.code();
                assert_eq!(code, Some(0), "{arguments:?} on {kind:?}");
                drop(input);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn q7_a_reader_that_was_gone_from_the_start_is_noticed_too() {
    let lab = Lab::new().await;
    for arguments in [&["logs", "-f"][..], &["status", "-w"], &["connect", QUIET]] {
        let ends = Kind::Pipe.ends(false);
        let input = Kind::Pipe.ends(true);
        let mut command = lab.pomctl(arguments);
        command.stdin(input.stdio()).stdout(ends.stdio());
        drop(ends);
        let child = command.spawn().unwrap();
        drop(command);
        assert_eq!(ended(child).await.code(), Some(0), "{arguments:?}");
        drop(input);
    }
}

/// pomd keeps no route for a `pomctl connect` that is gone, though the service says nothing: an ssh that was killed, a
/// program that closed its ends.
#[tokio::test(flavor = "multi_thread")]
async fn q7_a_route_ends_with_the_pomctl_that_was_killed() {
    let lab = Lab::new().await;
    for ended_before in [false, true] {
        let (output, input) = (Kind::Pipe.ends(false), Kind::Pipe.ends(true));
        let mut command = lab.pomctl(&["connect", QUIET]);
        command.stdin(input.stdio()).stdout(output.stdio());
        let mut child = command.spawn().unwrap();
        drop(command);
        let (from, theirs) = output.split();
        drop(theirs);
        let (words, _from) = first_words(from).await;
        assert_eq!(words, HELLO);
        let open = |it: &control::wire::Status| {
            let tunnels = it.tunnels.iter().map(|it| it.connections.open);
            tunnels.sum::<u64>()
        };
        lab.pomd
            .wait_for("it is open", |it| open(it) == 1 || it.tunnels.is_empty())
            .await;
        if ended_before {
            // Its own end came first, and it waits for an answer.
            drop(input);
            tokio::time::sleep(PAUSE).await;
            assert_eq!(child.try_wait().unwrap(), None);
        }
        child.kill().unwrap();
        child.wait().unwrap();
        lab.pomd
            .wait_for("no connection is left", |it| open(it) == 0)
            .await;
    }
}
