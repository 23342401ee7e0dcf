//! What the sections of a configuration mean. A new key is a field here, and a line in what tells two values apart.

use std::{collections::BTreeSet, path::PathBuf};

use super::{
    Address, Authority, BrowserChoice, ClusterName, ForwardProxy, Host, HostPattern, Listen, Route,
    Start, TokenSpec,
};

/// One `[tunnel.NAME]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunnelSpec {
    /// Where it leads.
    pub route: Route,
    /// Whose login it uses.
    pub cluster: ClusterName,
    /// Where it listens.
    pub listen: Listen,
    /// Whether it listens by itself.
    pub start: Start,
    /// Refusals are told in ssh's own words.
    pub ssh: bool,
    /// A person confirmed that it may be reached from other machines.
    pub expose: bool,
    /// Web pages are kept out (A6).
    pub browser_guard: bool,
    /// Hosts that the browser guard lets in besides this machine and the route's. In the order of the file.
    pub allow_hosts: Vec<Host>,
}

/// One `[cluster.NAME]`, or the cluster that stands for a single host. The default says nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterSpec {
    /// The hosts whose routes share the login. A token of this cluster is sent to no other (A15).
    pub hosts: Vec<HostPattern>,
    /// Where to log in, best first; never empty. The key `url`, else the addresses of its tunnels in order of their
    /// names, else its hosts that are no patterns. Tokens are stored under the address where the login was made.
    pub login_at: Vec<Address>,
    /// The ports of `login_at` and of its tunnels' servers. A token of this cluster is sent to no other port (A24),
    /// unless `connect` says where to dial in any case.
    pub ports: BTreeSet<u16>,
    /// Dial here instead of the route's own address.
    pub connect: Option<Authority>,
    /// Verify this name instead of the dialled host's.
    pub server_name: Option<Host>,
    /// PEM file of roots to trust besides the system's. Absolute.
    pub ca_file: Option<PathBuf>,
    /// PEM files that prove who this machine is. Absolute.
    pub client_identity: Option<ClientIdentity>,
    /// Through which forward proxy its hosts are reached.
    pub forward_proxy: ForwardProxy,
    /// The file with `user:password` for the forward proxy. Absolute.
    pub forward_proxy_auth: Option<PathBuf>,
    /// How a browser is opened.
    pub browser: BrowserChoice,
    /// Where its token comes from.
    pub token: TokenSpec,
    /// Take any certificate. A standing warning.
    pub insecure_skip_verify: bool,
    /// It stands in the file; else it stands for a single host.
    pub named: bool,
}

/// A client certificate and its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientIdentity {
    /// PEM, leaf first. Absolute.
    pub certificate: PathBuf,
    /// PEM. Absolute.
    pub key: PathBuf,
}

/// `[settings]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Memory in bytes for replies that slow local readers have not taken yet, for all connections together.
    pub read_ahead: u64,
    /// Other local users who may use the listeners, as written: names or numeric ids.
    pub allow_users: Vec<String>,
}

impl TunnelSpec {
    /// Returns the keys that make `new` another tunnel, in the words of the file.
    pub(super) fn differing_keys(&self, new: &Self) -> Vec<&'static str> {
        // Without `..`: a new field must be thought of here.
        let Self {
            route,
            cluster,
            listen,
            start,
            ssh,
            expose,
            browser_guard,
            allow_hosts,
        } = new;
        differing(&[
            ("route", self.route != *route),
            ("cluster", self.cluster != *cluster),
            ("listen", self.listen != *listen),
            ("start", self.start != *start),
            ("ssh", self.ssh != *ssh),
            ("expose", self.expose != *expose),
            ("browser_guard", self.browser_guard != *browser_guard),
            ("allow_hosts", self.allow_hosts != *allow_hosts),
        ])
    }
}

impl ClusterSpec {
    /// Returns the keys that make `new` another cluster, in the words of the file.
    pub(super) fn differing_keys(&self, new: &Self) -> Vec<&'static str> {
        let Self {
            hosts,
            login_at,
            // What a tunnel of it says.
            ports: _,
            connect,
            server_name,
            ca_file,
            client_identity,
            forward_proxy,
            forward_proxy_auth,
            browser,
            token,
            insecure_skip_verify,
            named,
        } = new;
        differing(&[
            ("hosts", self.hosts != *hosts || self.named != *named),
            ("url", self.login_at != *login_at),
            ("connect", self.connect != *connect),
            ("server_name", self.server_name != *server_name),
            ("ca_file", self.ca_file != *ca_file),
            ("client_cert", self.client_identity != *client_identity),
            ("forward_proxy", self.forward_proxy != *forward_proxy),
            (
                "forward_proxy_auth",
                self.forward_proxy_auth != *forward_proxy_auth,
            ),
            ("browser", self.browser != *browser),
            ("token", self.token != *token),
            (
                "insecure_skip_verify",
                self.insecure_skip_verify != *insecure_skip_verify,
            ),
        ])
    }
}

fn differing(list: &[(&'static str, bool)]) -> Vec<&'static str> {
    list.iter().filter(|it| it.1).map(|it| it.0).collect()
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            read_ahead: 128 << 20,
            allow_users: Vec::new(),
        }
    }
}
