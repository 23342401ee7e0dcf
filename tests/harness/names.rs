//! A name server that plays a script: the truth, lies, failures, silence.

use std::{collections::BTreeMap, net::IpAddr};

use tokio::{net::UdpSocket, sync::watch, task::JoinSet};

/// What it does with every question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Names {
    /// Knows these names with all below them, and no others.
    Knows(BTreeMap<String, Vec<IpAddr>>),
    /// Has trouble of its own.
    Fails,
    /// Says nothing.
    Silent,
}

impl Names {
    /// Knows these names with all below them, and no others.
    pub fn know<const N: usize>(names: [(&str, &[IpAddr]); N]) -> Self {
        let names = names.map(|(name, addresses)| (name.to_owned(), addresses.to_vec()));
        Self::Knows(names.into())
    }
}

/// A running name server.
#[derive(Debug)]
pub struct NameServer {
    names: watch::Sender<Names>,
    asked: watch::Sender<u64>,
    _task: JoinSet<()>,
}

impl NameServer {
    /// At this socket.
    pub fn start(socket: UdpSocket, names: Names) -> Self {
        let names = watch::Sender::new(names);
        let asked = watch::Sender::default();
        let mut task = JoinSet::new();
        task.spawn(serve(socket, names.subscribe(), asked.clone()));
        Self {
            names,
            asked,
            _task: task,
        }
    }

    /// Does this from now on.
    pub fn set(&self, names: Names) {
        self.names.send_replace(names);
    }

    /// How many questions came.
    pub fn asked(&self) -> u64 {
        *self.asked.borrow()
    }
}

async fn serve(socket: UdpSocket, names: watch::Receiver<Names>, asked: watch::Sender<u64>) {
    let mut packet = [0; 1500];
    loop {
        let Ok((n, from)) = socket.recv_from(&mut packet).await else {
            continue;
        };
        asked.send_modify(|it| *it += 1);
        let answer = answer(&packet[..n], &names.borrow());
        if let Some(answer) = answer {
            // Whoever asked may be gone.
            let _ = socket.send_to(&answer, from).await;
        }
    }
}

/// The answer to a question (RFC 1035), if there is one.
fn answer(question: &[u8], names: &Names) -> Option<Vec<u8>> {
    const HEAD: usize = 12;
    const A: u16 = 1;
    const AAAA: u16 = 28;
    let (name, end) = read_name(question, HEAD)?;
    let kind = u16::from_be_bytes(question.get(end..end + 2)?.try_into().ok()?);
    let (status, addresses) = match names {
        Names::Silent => return None,
        Names::Fails => (2, Vec::new()),
        Names::Knows(names) => {
            let of = |it: &&String| name == **it || name.ends_with(&format!(".{it}"));
            match names.keys().find(of).and_then(|it| names.get(it)) {
                None => (3, Vec::new()),
                Some(addresses) => (0, addresses.clone()),
            }
        }
    };
    let wanted = |it: &IpAddr| kind == if it.is_ipv4() { A } else { AAAA };
    let addresses: Vec<IpAddr> = addresses.into_iter().filter(wanted).collect();
    let count = u8::try_from(addresses.len()).ok()?;
    let mut res = question.get(..2)?.to_vec();
    // An answer to one question; recursion was wanted and is available.
    res.extend([0x81, 0x80 | status, 0, 1, 0, count, 0, 0, 0, 0]);
    res.extend(question.get(HEAD..end + 4)?);
    for address in addresses {
        let bytes = match address {
            IpAddr::V4(it) => it.octets().to_vec(),
            IpAddr::V6(it) => it.octets().to_vec(),
        };
        // The name of the question, its kind, class IN, to be kept for no time.
        res.extend([0xc0, 12]);
        res.extend(kind.to_be_bytes());
        res.extend([0, 1, 0, 0, 0, 0, 0]);
        res.push(u8::try_from(bytes.len()).ok()?);
        res.extend(bytes);
    }
    Some(res)
}

/// A name in lower case, and where it ends.
fn read_name(packet: &[u8], mut at: usize) -> Option<(String, usize)> {
    let mut labels = Vec::new();
    loop {
        let length = usize::from(*packet.get(at)?);
        at += 1;
        if length == 0 {
            return Some((labels.join("."), at));
        }
        let label = packet.get(at..at + length)?;
        labels.push(String::from_utf8_lossy(label).to_ascii_lowercase());
        at += length;
    }
}
