//! Two machines on one wire: pomd's, and everybody else's. Each is a network namespace; the wires between them can be
//! pulled, and what is between can be a black hole. Needs root.
//!
//! Nothing of it is seen from outside, and all of it ends with the processes that hold it.

use std::{
    fs::File,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::AsFd,
    process::Command,
    sync::Arc,
    time::Duration,
};

use gateway::browser::{Browser, Page};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tempfile::TempDir;
use tokio::{
    net::{TcpListener, TcpStream, UdpSocket},
    runtime::Builder,
};

use crate::{eventually, pomd, process::Process, setup::write};

/// How long a command may take.
const LIMIT: Duration = Duration::from_secs(30);
/// Becomes a machine of its own; `$1` is its folder, whose `resolv.conf` is the machine's where there is one.
const MACHINE: &str = r#"
set -eu
ip link set lo up
[ ! -e "$1/resolv.conf" ] || mount --bind "$1/resolv.conf" /etc/resolv.conf
: > "$1/made"
exec sleep infinity
"#;

/// Pomd's machine and the other one.
#[derive(Debug)]
pub struct Machines {
    /// Where pomd runs.
    pub inside: Arc<Machine>,
    /// Where everybody else is.
    pub outside: Arc<Machine>,
}

/// One of the two.
#[derive(Debug)]
pub struct Machine {
    process: Process,
    _folder: TempDir,
}

/// A wire between the two machines. On each, the address inside ends in 2, the one outside in 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    /// The one that things happen to.
    First,
    /// The bystander's.
    Second,
}

impl Wire {
    const ALL: [Self; 2] = [Self::First, Self::Second];

    fn number(self) -> u8 {
        match self {
            Self::First => 0,
            Self::Second => 1,
        }
    }

    fn name(self) -> String {
        format!("wire{}", self.number())
    }

    /// The address of this wire that ends so.
    pub fn four(self, end: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 9, self.number(), end)
    }

    /// The same of IPv6.
    pub fn six(self, end: u8) -> Ipv6Addr {
        Ipv6Addr::new(0xfd00, 9, self.number().into(), 0, 0, 0, 0, end.into())
    }
}

/// Everything sent to the address that ends so is lost without a word.
pub const BLACK_HOLE: u8 = 66;
/// Where nobody is.
const NOBODY: &str = "02:00:00:00:00:66";

impl Machines {
    /// Starts both; `Err`: why that cannot be had here. Names are looked up at the outer end of the second wire.
    pub async fn start() -> Result<Self, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("needs root".to_owned());
        }
        let missing = |it: &&&str| Command::new(it).arg("--help").output().is_err();
        if let Some(program) = ["ip", "unshare", "nsenter", "mount"].iter().find(missing) {
            return Err(format!("there is no {program}"));
        }
        let names = format!("nameserver {}\n", Wire::Second.four(1));
        let res = Self {
            inside: Machine::start(Some(&names)).await?,
            outside: Machine::start(None).await?,
        };
        for wire in Wire::ALL {
            res.connect(wire).await?;
        }
        Ok(res)
    }

    async fn connect(&self, wire: Wire) -> Result<(), String> {
        let name = wire.name();
        let far = self.outside.process.pid().to_string();
        let ip = format!("link add {name} type veth peer name {name} netns {far}");
        self.inside.ip(&ip).await?;
        for (machine, end) in [(&self.inside, 2), (&self.outside, 1)] {
            let (four, six) = (wire.four(end), wire.six(end));
            machine
                .ip(&format!("address add {four}/24 dev {name}"))
                .await?;
            machine
                .ip(&format!("address add {six}/64 dev {name} nodad"))
                .await?;
            machine.ip(&format!("link set {name} up")).await?;
        }
        for hole in [
            IpAddr::from(wire.four(BLACK_HOLE)),
            wire.six(BLACK_HOLE).into(),
        ] {
            let lost = format!("neigh add {hole} lladdr {NOBODY} dev {name} nud permanent");
            self.inside.ip(&lost).await?;
        }
        Ok(())
    }

    /// Whether everything that pomd's machine sends to the outer end of the wire is lost without a word.
    pub async fn lose(&self, wire: Wire, lost: bool) {
        let (end, name) = (wire.four(1), wire.name());
        let change = if lost {
            format!("neigh replace {end} lladdr {NOBODY} dev {name} nud permanent")
        } else {
            format!("neigh del {end} dev {name}")
        };
        self.inside.must_ip(&change).await;
    }

    /// Pulls the wire out at its outer end, or plugs it in.
    pub async fn plug(&self, wire: Wire, plugged: bool) {
        let state = if plugged { "up" } else { "down" };
        let name = wire.name();
        self.outside
            .must_ip(&format!("link set {name} {state}"))
            .await;
        if plugged {
            // With the wire went the addresses of IPv6.
            let six = wire.six(1);
            let _ = self
                .outside
                .ip(&format!("address add {six}/64 dev {name} nodad"))
                .await;
        }
    }
}

impl Machine {
    async fn start(names: Option<&str>) -> Result<Arc<Self>, String> {
        let folder = pomd::folder();
        if let Some(names) = names {
            write(&folder.path().join("resolv.conf"), names);
        }
        let mut command = Command::new("unshare");
        command
            .args(["--net", "--mount", "/bin/sh", "-c", MACHINE, "sh"])
            .arg(folder.path());
        let mut process = Process::start("a machine", &mut command, &folder.path().join("words"));
        let made = folder.path().join("made");
        let made = eventually("a network namespace", async || {
            let ended = process.ended().is_some();
            (made.exists() || ended).then_some(made.exists())
        })
        .await;
        if !made {
            return Err(format!("no network namespaces: {}", process.words().trim()));
        }
        Ok(Arc::new(Self {
            process,
            _folder: folder,
        }))
    }

    /// Shell words that make what follows them run here.
    pub fn enter(&self) -> String {
        let pid = self.process.pid();
        format!("set -- nsenter --target {pid} --net --mount -- \"$@\"")
    }

    /// Runs `ip` here.
    pub async fn must_ip(&self, arguments: &str) {
        let done = self.ip(arguments).await;
        done.unwrap_or_else(|error| panic!("{error}"));
    }

    async fn ip(&self, arguments: &str) -> Result<(), String> {
        let mut command = Command::new("nsenter");
        command
            .args([
                "--target",
                &self.process.pid().to_string(),
                "--net",
                "--",
                "ip",
            ])
            .args(arguments.split(' '));
        let output = pomd::run(command, LIMIT).await;
        let words = String::from_utf8_lossy(&output.stderr);
        let done = output.status.success().then_some(());
        done.ok_or_else(|| format!("ip {arguments}: {}", words.trim()))
    }

    /// A listener here.
    pub fn listen(&self, address: SocketAddr) -> TcpListener {
        let made = self.within(move || {
            let listener = std::net::TcpListener::bind(address)?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        });
        let made = made.and_then(TcpListener::from_std);
        made.unwrap_or_else(|error| panic!("listening at {address}: {error}"))
    }

    /// A socket for datagrams here.
    pub fn datagrams(&self, address: SocketAddr) -> UdpSocket {
        let made = self.within(move || {
            let socket = std::net::UdpSocket::bind(address)?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        });
        let made = made.and_then(UdpSocket::from_std);
        made.unwrap_or_else(|error| panic!("datagrams at {address}: {error}"))
    }

    /// A connection from here to what is near: it is waited for on this thread.
    pub fn connect(&self, address: SocketAddr) -> io::Result<TcpStream> {
        let made = self.within(move || {
            let stream = std::net::TcpStream::connect(address)?;
            stream.set_nonblocking(true)?;
            Ok(stream)
        });
        made.and_then(TcpStream::from_std)
    }

    /// A person here follows a link; waited for on this thread.
    pub fn visit(&self, browser: &Browser, link: &str) -> io::Result<Page> {
        self.within(|| {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            let page = runtime.block_on(browser.visit(link));
            page.map_err(|error| io::Error::other(format!("{error:#}")))
        })
    }

    /// Does something here. A socket stays where it was made, and a child where it was started, whoever uses it then.
    pub fn within<T: Send>(&self, make: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        let space = format!("/proc/{}/ns/net", self.process.pid());
        let entered = move || {
            let space = File::open(space)?;
            move_into_link_name_space(space.as_fd(), Some(LinkNameSpaceType::Network))?;
            make()
        };
        std::thread::scope(|scope| {
            let made = scope.spawn(entered).join();
            made.unwrap_or_else(|_| Err(io::Error::other("the thread ended")))
        })
    }
}
