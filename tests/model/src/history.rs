//! What may happen, made of bytes.

use std::{cell::RefCell, collections::HashMap, fmt::Write, path::Path, sync::Arc};

use arbitrary::{Arbitrary, Unstructured};
use pomd_core::config::Config;

/// The most that happens in one history.
const MOST: usize = 120;

/// What happens, in order.
#[derive(Debug)]
pub(crate) struct History {
    pub(crate) first: File,
    pub(crate) actions: Vec<Action>,
}

/// One thing that happens. A number picks one of what there is at the time.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub(crate) enum Action {
    /// The configuration file is saved with this in it.
    Save(File),
    /// It is saved half-way.
    SaveBroken,
    /// A program connects to a tunnel and says something.
    Connect(u8),
    /// A program goes.
    Leave(u8),
    /// A person asks for a login.
    Ask {
        cluster: u8,
        shown_by_pomd: bool,
    },
    /// Somebody connects and a person signs in.
    Login(u8),
    /// A person signs in at the page of the newest login, or of one before it.
    SignIn {
        cluster: u8,
        back: u8,
    },
    /// The listener of a login breaks.
    Break(u8),
    /// A person logs out.
    Logout(u8),
    /// The server ends the session of a cluster; the next that asks is told.
    Revoke(u8),
    /// A refusal arrives that is so many generations old.
    LateRefusal {
        cluster: u8,
        back: u8,
    },
    /// How a server is from now on.
    Server {
        host: u8,
        mood: Mood,
    },
    /// Whether there is a browser from now on, and whether it starts.
    Browser {
        is_there: bool,
        starts: bool,
    },
    /// Seconds pass.
    Wait(u8),
    /// Minutes pass.
    WaitLong(u8),
    /// The machine sleeps for minutes: no timer runs meanwhile.
    Sleep(u8),
    /// The clock is set.
    Clock {
        by: By,
        back: bool,
    },
    /// Whether the disk takes what is written from now on.
    Disk {
        is_full: bool,
    },
    /// A person wants a tunnel up, or down.
    Up(u8),
    Down {
        tunnel: u8,
        now: bool,
    },
    /// pomd is killed, and started again.
    Kill,
}

/// By how much a clock is set.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub(crate) enum By {
    Second,
    Minute,
    Hour,
    Decade,
}

impl By {
    pub(crate) fn seconds(self) -> i64 {
        match self {
            Self::Second => 1,
            Self::Minute => 60,
            Self::Hour => 3600,
            Self::Decade => 10 * 365 * 86_400,
        }
    }
}

/// How a server is.
#[derive(Arbitrary, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Mood {
    #[default]
    Well,
    /// 403 to everybody.
    Forbids,
    /// 503.
    Unavailable,
    /// The network to it is gone.
    Unreachable,
    /// It takes connections and says nothing.
    Silent,
}

/// A configuration, in few bytes.
#[derive(Arbitrary, Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct File {
    tunnels: [Line; 3],
    cluster: Option<Cluster>,
    more_memory: bool,
}

#[derive(Arbitrary, Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Line {
    /// One in four is not there.
    absent: (bool, bool),
    host: Three,
    port: Three,
    is_manual: bool,
    is_ssh: bool,
}

#[derive(Arbitrary, Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Cluster {
    is_renamed: bool,
    is_wide: bool,
    has_url: bool,
    prints: bool,
}

#[derive(Arbitrary, Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Three {
    A,
    B,
    C,
}

impl History {
    /// Bytes that end early tell a shorter history.
    pub(crate) fn of(bytes: &[u8]) -> Self {
        let mut bytes = Unstructured::new(bytes);
        let mut actions = Vec::new();
        // Where bytes are missing, zeros stand.
        let first = File::arbitrary(&mut bytes);
        while !bytes.is_empty() && actions.len() < MOST {
            actions.extend(Action::arbitrary(&mut bytes));
        }
        Self {
            first: first.expect("a file of any bytes"),
            actions,
        }
    }
}

impl Three {
    fn host(self) -> &'static str {
        match self {
            Self::A => "a.test",
            Self::B => "b.test",
            Self::C => "c.test",
        }
    }
}

/// So many files that were read are kept: the fuzzer makes ever more.
const READ_MOST: usize = 4096;

/// The hosts that the files name.
pub(crate) const HOSTS: [&str; 4] = ["a.test", "b.test", "c.test", "login.test"];

impl File {
    /// What it means; tunnels listen at `ip`.
    pub(crate) fn read(self, ip: &str) -> Arc<Config> {
        thread_local! {
            static READ: RefCell<HashMap<(File, String), Arc<Config>>> = RefCell::default();
        }
        let make = || {
            let text = self.text(ip);
            Arc::new(Config::parse(&text, Path::new("/")).unwrap_or_else(|it| {
                panic!("{}\n{text}", it.first_line());
            }))
        };
        let key = (self, ip.to_owned());
        READ.with_borrow_mut(|it| {
            if it.len() > READ_MOST {
                it.clear();
            }
            it.entry(key).or_insert_with(make).clone()
        })
    }

    fn text(self, ip: &str) -> String {
        let mut res = String::new();
        if self.more_memory {
            res += "[settings]\nread_ahead = \"256 MiB\"\n";
        }
        if let Some(it) = self.cluster {
            let name = if it.is_renamed { "firm" } else { "corp" };
            let hosts = if it.is_wide { "*.test" } else { "a.test" };
            let _ = writeln!(res, "[cluster.{name}]\nhosts = [\"{hosts}\"]");
            // Without a tunnel a pattern says nowhere to log in.
            if it.has_url || it.is_wide {
                let host = if it.has_url { "login" } else { "a" };
                let _ = writeln!(res, "url = \"https://{host}.test\"");
            }
            if it.prints {
                res += "browser = \"none\"\n";
            }
        }
        let mut taken = Vec::new();
        for (name, line) in ["x", "y", "z"].iter().zip(self.tunnels) {
            if line.absent == (true, true) {
                continue;
            }
            let (start, host) = (
                if line.is_manual { "manual" } else { "auto" },
                line.host.host(),
            );
            let _ = writeln!(
                res,
                "[tunnel.{name}]\nroute = \"{host}:5432\"\nstart = \"{start}\"\nssh = {}",
                line.is_ssh
            );
            // Two tunnels on one port are an error of their own.
            let port = [line.port, Three::A, Three::B, Three::C]
                .into_iter()
                .find(|it| !taken.contains(it))
                .unwrap_or(line.port);
            taken.push(port);
            let _ = writeln!(res, "listen = \"{ip}:{}\"", 7001 + port as u16);
        }
        res
    }
}
