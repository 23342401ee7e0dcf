//! The hosts that ssh reaches through pomd, as a file of `ssh_config(5)`. Pure.
//!
//! Whatever a name holds, no more than a pattern of letters, digits and `.*_-` reaches the file (A13): a name that is none is left
//! out. pomctl writes the file first; pomd writes it anew when tunnels change, with the [`Proxy`] that stands in it.

use std::fmt::Write;

use crate::config::{Config, Host, Protocol};

/// How the first line begins: by it the file is known as ours.
const HEADER: &str = "# From pomd.toml by pomctl ";
/// Where the command stands also in a file without hosts.
const COMMAND: &str = "# The way to them: ";
const SSH_PORT: u16 = 22;

/// The way from ssh to pomd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proxy {
    /// The value of `ProxyCommand`.
    command: String,
    /// The command hands over a descriptor and ends.
    fdpass: bool,
}

impl Proxy {
    /// Returns the way by the program at `pomctl`, an absolute path, with these options before its command; `None` if ssh
    /// can't be told of such a path.
    pub fn new(pomctl: &str, options: &[(&str, String)], fdpass: bool) -> Option<Self> {
        let mut command = quoted(pomctl)?;
        for (name, value) in options {
            let _ = write!(command, " {name} {}", quoted(value)?);
        }
        command += " connect --ssh";
        if fdpass {
            command += " --fdpass";
        }
        command += " '%h:%p'";
        Some(Self { command, fdpass })
    }

    /// Returns the way that stands in a file of ours; `None` if the file is not ours.
    pub fn read(file: &str) -> Option<Self> {
        let mut lines = file.lines();
        lines.next().filter(|it| it.starts_with(HEADER))?;
        let command = lines.next()?.strip_prefix(COMMAND)?.to_owned();
        let fdpass = command.ends_with(" --fdpass '%h:%p'");
        Some(Self { command, fdpass })
    }

    /// Returns the options by which ssh goes this way, each as `NAME=VALUE` after a `-o`.
    pub fn options(&self) -> Vec<String> {
        let mut res = vec![format!("ProxyCommand={}", self.command)];
        if self.fdpass {
            res.push("ProxyUseFdpass=yes".to_owned());
        }
        res
    }
}

/// Returns a word for the shell by which ssh runs the command, `%` doubled as ssh wants it.
fn quoted(text: &str) -> Option<String> {
    let plain = !text.contains(|it: char| it.is_control());
    plain.then(|| format!("'{}'", text.replace('\'', r"'\''").replace('%', "%%")))
}

/// The hosts that a configuration has for ssh.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hosts {
    /// Names with the host that each leads to.
    blocks: Vec<Block>,
    /// Every name and pattern, each once.
    patterns: Vec<String>,
    /// How many ssh tunnels there are.
    pub tunnels: usize,
    /// How many clusters have domains.
    pub clusters: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Block {
    pattern: String,
    host: Option<String>,
    port: Option<u16>,
}

impl Hosts {
    /// Returns the ssh tunnels of `config`, by their names and the hosts of their routes, and the domains of its clusters.
    pub fn of(config: &Config) -> Self {
        let mut res = Self::default();
        for (name, spec) in &config.tunnels {
            let host = host(&spec.route.authority.host);
            let Some(host) = host.filter(|_| spec.ssh && spec.route.protocol == Protocol::Tcp)
            else {
                continue;
            };
            res.tunnels += 1;
            let port = Some(spec.route.authority.port).filter(|it| *it != SSH_PORT);
            let same = name.as_str() == host;
            res.block(name.as_str(), Some(&host).filter(|_| !same).cloned(), port);
            let has_usual =
                |it: &crate::config::TunnelSpec| it.ssh && it.route.authority.port == SSH_PORT;
            let mut others = config.tunnels.values();
            let usual = others
                .any(|it| has_usual(it) && it.route.authority.host == spec.route.authority.host);
            if !same {
                res.block(&host, None, port.filter(|_| !usual));
            }
        }
        for spec in config.clusters.values().filter(|it| it.named) {
            let before = res.patterns.len();
            for pattern in &spec.hosts {
                res.pattern(pattern.as_str());
            }
            res.clusters += usize::from(res.patterns.len() > before);
        }
        res
    }

    /// Tells whether ssh finds nothing by them.
    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    /// Returns a name to try.
    pub fn example(&self) -> Option<&str> {
        let mut names = self.patterns.iter().filter(|it| !it.contains('*'));
        names.next().map(String::as_str)
    }

    fn block(&mut self, pattern: &str, host: Option<String>, port: Option<u16>) {
        if self.pattern(pattern) && (host.is_some() || port.is_some()) {
            self.blocks.push(Block {
                pattern: pattern.to_owned(),
                host,
                port,
            });
        }
    }

    /// Adds a pattern that is new; tells whether it was.
    fn pattern(&mut self, pattern: &str) -> bool {
        let is_new = is_pattern(pattern) && !self.patterns.iter().any(|it| it == pattern);
        if is_new {
            self.patterns.push(pattern.to_owned());
        }
        is_new
    }

    /// Returns the file.
    pub fn render(&self, version: &str, proxy: &Proxy) -> String {
        let mut res = format!(
            "{HEADER}{version}; rewritten when tunnels change\n{COMMAND}{}\n",
            proxy.command
        );
        for Block {
            pattern,
            host,
            port,
        } in &self.blocks
        {
            let _ = writeln!(res, "Host {pattern}");
            if let Some(host) = host {
                let _ = writeln!(res, "    HostName {host}");
            }
            if let Some(port) = port {
                let _ = writeln!(res, "    Port {port}");
            }
        }
        if !self.patterns.is_empty() {
            let _ = writeln!(res, "Host {}", self.patterns.join(" "));
            let _ = writeln!(res, "    ProxyCommand {}", proxy.command);
            if proxy.fdpass {
                res += "    ProxyUseFdpass yes\n";
            }
        }
        res
    }
}

/// Returns a host as ssh is told it; `None` for an address of IPv6, which `%h:%p` would not tell from its port.
fn host(host: &Host) -> Option<String> {
    let text = host.to_string();
    (is_pattern(&text) && !text.contains('*')).then_some(text)
}

/// Tells whether ssh takes the text for one pattern over hosts and nothing else: letters, digits, `.`, `_`, `-`, `*`.
fn is_pattern(text: &str) -> bool {
    let first = text.starts_with(|it: char| it.is_ascii_alphanumeric() || it == '*' || it == '_');
    // A lone `*` would take every host there is.
    first
        && text.contains(|it: char| it.is_ascii_alphanumeric())
        && text
            .chars()
            .all(|it| it.is_ascii_alphanumeric() || ".*_-".contains(it))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;

    fn rendered(file: &str, fdpass: bool) -> String {
        let config = Config::parse(file, Path::new("/")).unwrap();
        let proxy = Proxy::new("/usr/bin/pomctl", &[], fdpass).unwrap();
        Hosts::of(&config).render("0.4.0", &proxy)
    }

    #[test]
    fn tunnels_and_domains_become_hosts() {
        let file = r#"
            [cluster.corp]
            hosts = ["*.corp.example.com", "jump.example.com"]
            [tunnel.ssh-prod]
            route = "ssh-prod.corp.example.com:22"
            [tunnel.git]
            route = "tcp+https://proxy.corp.example.com/git.internal:2222"
            ssh = true
            [tunnel.db]
            route = "db.corp.example.com:5432"
        "#;
        assert_eq!(
            rendered(file, true),
            "\
# From pomd.toml by pomctl 0.4.0; rewritten when tunnels change
# The way to them: '/usr/bin/pomctl' connect --ssh --fdpass '%h:%p'
Host git
    HostName git.internal
    Port 2222
Host git.internal
    Port 2222
Host ssh-prod
    HostName ssh-prod.corp.example.com
Host git git.internal ssh-prod ssh-prod.corp.example.com *.corp.example.com jump.example.com
    ProxyCommand '/usr/bin/pomctl' connect --ssh --fdpass '%h:%p'
    ProxyUseFdpass yes
"
        );
    }

    #[test]
    fn a_host_with_a_tunnel_to_its_usual_port_keeps_that_port() {
        let file = r#"
            [tunnel.a]
            route = "a.example.com:2222"
            ssh = true
            [tunnel.b]
            route = "a.example.com:22"
        "#;
        let text = rendered(file, false);
        assert!(text.contains("Host a\n    HostName a.example.com\n    Port 2222\n"));
        assert!(!text.contains("Host a.example.com\n"), "{text}");
        assert!(!text.contains("ProxyUseFdpass"), "{text}");
    }

    #[test]
    fn no_tunnels_are_no_hosts_and_the_way_is_kept() {
        let text = rendered("", true);
        assert!(!text.contains("\nHost "), "{text}");
        let proxy = Proxy::read(&text).unwrap();
        assert_eq!(Hosts::default().render("0.4.0", &proxy), text);
        assert_eq!(Proxy::read("Host a\n    ProxyCommand x\n"), None);
    }

    #[test]
    fn a_path_is_one_word_of_the_shell() {
        let options = [("--socket", "/run/50%".to_owned())];
        let proxy = Proxy::new("/o'neil's/pom ctl", &options, false).unwrap();
        assert_eq!(
            proxy.options(),
            [r"ProxyCommand='/o'\''neil'\''s/pom ctl' --socket '/run/50%%' connect --ssh '%h:%p'"]
        );
        assert_eq!(Proxy::new("/a\nHost *", &[], true), None);
    }

    proptest! {
        #[test]
        fn a13_no_text_makes_more_than_one_pattern(text in any::<String>()) {
            let mut hosts = Hosts::default();
            hosts.block(&text, Some("a.example.com".to_owned()), Some(2222));
            let proxy = Proxy::new("/usr/bin/pomctl", &[], true).unwrap();
            let file = hosts.render("0.4.0", &proxy);
            let lines = file.lines().filter(|it| it.starts_with("Host "));
            for line in lines {
                prop_assert!(is_pattern(line.strip_prefix("Host ").unwrap()));
            }
            prop_assert!(file.lines().count() <= 8);
        }
    }
}
