//! X10: what follows pomd goes on over a restart, and ends with the right words at a stop.

use std::process::{Child, Command, Stdio};

use control::client::News;
use integration::{binary::binary, eventually, pomd::Pomd};

use super::words;

/// pomctl, following; its words go to files.
struct Follower {
    child: Child,
    out: std::path::PathBuf,
    err: std::path::PathBuf,
}

impl Follower {
    fn start(pomd: &Pomd, arguments: &[&str]) -> Self {
        let file = |it: &str| pomd.setup().folder().join(format!("{}.{it}", arguments[0]));
        let (out, err) = (file("out"), file("err"));
        let mut command: Command = pomd.setup().command(&binary("pomctl"));
        let child = command
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(std::fs::File::create(&out).unwrap())
            .stderr(std::fs::File::create(&err).unwrap())
            .spawn()
            .unwrap();
        Self { child, out, err }
    }

    fn out(&self) -> String {
        std::fs::read_to_string(&self.out).unwrap()
    }

    fn err(&self) -> String {
        std::fs::read_to_string(&self.err).unwrap()
    }

    async fn ends(&mut self) -> Option<i32> {
        let status = eventually("it ends", async || self.child.try_wait().unwrap()).await;
        status.code()
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn x10_what_follows_pomd_goes_on_over_a_restart_and_ends_with_it() {
    let mut pomd = Pomd::start("[tunnel.a]\nroute = \"a.corp.test:22\"\n").await;
    let mut logs = Follower::start(&pomd, &["logs", "-f"]);
    let mut watch = Follower::start(&pomd, &["status", "--watch"]);
    let runs = |it: &Follower| it.out().matches(" runs (pid ").count();
    eventually("both follow", async || {
        (runs(&logs) == 1 && watch.out().contains("a.corp.test")).then_some(())
    })
    .await;
    for n in 1..=3 {
        let told = pomd.pomctl(&["restart"]).await;
        assert!(told.status.success(), "{}", words(&told));
        eventually("both say so and go on", async || {
            let says = |it: &Follower| it.err().matches("pomd restarted\n").count() == n;
            (says(&logs) && says(&watch) && runs(&logs) == n + 1).then_some(())
        })
        .await;
        // The last words of the life before, too, and each line once.
        assert_eq!(
            logs.out().matches(" pomd has ended").count(),
            n,
            "{}",
            logs.out()
        );
        assert_eq!(logs.out().matches("asked to restart").count(), n);
    }
    assert!(pomd.stop().await.success());
    for follower in [&mut logs, &mut watch] {
        assert_eq!(follower.ends().await, Some(3));
        let said = follower.err();
        assert!(said.contains("pomd ended meanwhile"), "{said}");
        // It ran in the foreground: `pomctl logs` would know nothing.
        assert!(
            said.contains("in the terminal that it was started in"),
            "{said}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn x10_events_are_followed_by_the_client_too() {
    let mut pomd = Pomd::start("").await;
    let mut events = pomd.client().follow_events().await.unwrap();
    let mut logs = pomd.client().follow_logs(None).await.unwrap();
    let Some(News::Next(first)) = events.next().await.unwrap() else {
        panic!("no event");
    };
    pomd.client().restart(false).await.unwrap();
    loop {
        match events.next().await.unwrap().expect("it goes on") {
            News::Restarted => break,
            News::Next(status) => assert_eq!(status.pomd.pid, first.pomd.pid),
        }
    }
    let Some(News::Next(second)) = events.next().await.unwrap() else {
        panic!("no event of the next life");
    };
    assert_eq!(second.pomd.pid, first.pomd.pid);
    let mut lines = Vec::new();
    let mut take = async |until_restart: bool| {
        while let Some(news) = logs.next().await.unwrap() {
            match news {
                News::Next(line) => lines.push(line.message),
                News::Restarted if until_restart => return,
                News::Restarted => panic!("a second restart"),
            }
        }
        assert!(!until_restart, "they ended");
    };
    take(true).await;
    pomd.stop().await;
    take(false).await;
    assert!(events.next().await.unwrap().is_none());
    let runs = lines.iter().filter(|it| it.contains(" runs (pid "));
    assert_eq!(runs.count(), 2, "{lines:#?}");
}
