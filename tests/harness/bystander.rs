//! What no fault may touch: another tunnel's connection, and what pomd takes of the machine.

use control::wire::Usage;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::{PATIENCE, eventually, pomd::Pomd};

/// Connections before the first look.
const WARMING: usize = 8;
/// How many connections a tunnel that is used keeps ready.
const READY: u64 = 2;
/// How many looks in a row must show the same before it counts as rest.
const LOOKS: u32 = 5;

/// A connection that lives through a fault, and the usage before it.
#[derive(Debug)]
pub struct Bystander {
    tunnel: String,
    line: TcpStream,
    before: Usage,
}

impl Bystander {
    /// Before the fault, with nothing else under way; `tunnel` leads to an echo.
    pub async fn new(pomd: &Pomd, tunnel: &str) -> Self {
        let mut line = pomd.connect(tunnel).await;
        echoes(&mut line, b"before the fault").await;
        // What the first connections leave behind for good is no leak.
        for _ in 0..WARMING {
            let mut stream = pomd.connect(tunnel).await;
            echoes(&mut stream, b"before").await;
            let _ = stream.set_zero_linger();
        }
        Self {
            tunnel: tunnel.to_owned(),
            line,
            before: at_rest(pomd).await,
        }
    }

    /// The other tunnel carries bytes meanwhile.
    pub async fn carries(&mut self) {
        echoes(&mut self.line, b"meanwhile").await;
    }

    /// From now on the warm connections that a burst of connections leaves are taken for granted.
    pub fn forget_burst(&mut self) {
        let descriptors = &mut self.before.descriptors;
        *descriptors = descriptors.map(|it| it + LEFT_BY_A_BURST);
    }

    /// After the fault: the old connection still carries, each of `tunnels` carries a new one, and no more descriptors
    /// and tasks are in use than before, but for what tunnels keep ready that may not have been used before.
    pub async fn all_is_well(mut self, pomd: &Pomd, tunnels: &[&str]) -> Usage {
        let others = tunnels.iter().filter(|it| **it != self.tunnel).count() as u64;
        let before = Usage {
            descriptors: self.before.descriptors.map(|it| it + READY * others),
            ..self.before
        };
        self.carries().await;
        for tunnel in tunnels {
            echoes(&mut pomd.connect(tunnel).await, b"after the fault").await;
        }
        takes_no_more(pomd, before).await
    }
}

/// Waits until pomd takes no more descriptors and tasks than `before`.
pub async fn takes_no_more(pomd: &Pomd, before: Usage) -> Usage {
    let mut seen = Usage::default();
    let end = tokio::time::Instant::now() + PATIENCE;
    while tokio::time::Instant::now() < end {
        seen = usage(pomd).await;
        let most = before.descriptors.map(|it| it + threads());
        if seen.descriptors <= most && seen.tasks <= before.tasks {
            return seen;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let open = descriptors(pomd);
    panic!("not as before: {before:?}, now {seen:?}: {open:#?}");
}

/// Each thread of pomd's keeps one socket to ask the kernel by, from the first time on that it has to.
pub fn threads() -> u64 {
    std::thread::available_parallelism().map_or(1, |it| it.get() as u64)
}

/// How many warm connections a burst leaves for ten minutes: a cluster keeps 16 at most, and two for each of two names stood
/// before.
pub const LEFT_BY_A_BURST: u64 = 12;

/// What its descriptors lead to, where that can be seen: only root can look.
fn descriptors(pomd: &Pomd) -> Vec<String> {
    let entries = std::fs::read_dir(format!("/proc/{}/fd", pomd.pid()));
    let links = entries.into_iter().flatten().flatten();
    let links = links.filter_map(|it| std::fs::read_link(it.path()).ok());
    links.map(|it| it.display().to_string()).collect()
}

/// What pomd takes of the machine now.
pub async fn usage(pomd: &Pomd) -> Usage {
    let usage = pomd.status().await.pomd.usage;
    usage.unwrap_or_else(|| panic!("no usage in the status"))
}

/// What it takes once nothing moves any more.
pub async fn at_rest(pomd: &Pomd) -> Usage {
    let mut last = usage(pomd).await;
    let mut same = 0;
    eventually("pomd is at rest", async || {
        let now = usage(pomd).await;
        let moved = (now.descriptors, now.tasks) != (last.descriptors, last.tasks);
        same = if moved { 0 } else { same + 1 };
        last = now;
        (same >= LOOKS).then_some(last)
    })
    .await
}

/// Says `words` to an echo and hears them back.
pub async fn echoes(stream: &mut TcpStream, words: &[u8]) {
    let talking = async {
        stream.write_all(words).await?;
        let mut heard = vec![0; words.len()];
        stream.read_exact(&mut heard).await?;
        std::io::Result::Ok(heard)
    };
    let heard = timeout(PATIENCE, talking).await;
    let heard = heard.unwrap_or_else(|_| panic!("no echo within {PATIENCE:?}"));
    let heard = heard.unwrap_or_else(|error| panic!("no echo: {error}"));
    assert!(heard == words, "the echo differs: {heard:?}");
}
