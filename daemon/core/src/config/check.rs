//! The file's shape → [`Config`], or every problem at once.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
};

use super::{
    ClusterName, Config, Host, Listen, Machine, Route, Settings, SocketName, Start, TunnelName,
    TunnelSpec, Wrong, clusters,
    file::{Either, Field, File, Section},
    named,
    report::{Found, Problem, Span, quoted},
    warnings,
};

const NAME: &str = "a name is made of letters, digits, `.`, `_` and `-`, at most 64";
const ROUTE: &str = "a route is HOST:PORT, for example \"db.example.com:5432\"";
const LISTEN: &str = "write a port: 2202, or an address: \"127.0.0.1:2202\"";
const ALLOW_HOSTS: &str = "write a list of hosts: [\"grafana.localhost\"]";
const READ_AHEAD: &str = "write a size between 1 MiB and 64 GiB, such as \"128 MiB\"";
const USERS: &str = "write names or ids of users: [\"alice\", 1001]";

/// A tunnel whose cluster is not known yet.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) name: TunnelName,
    pub(super) route: Field<Route>,
    pub(super) listen: Option<Field<Listen>>,
    pub(super) title: String,
    /// What it means. Its cluster is that of its host alone, until the clusters are known.
    spec: TunnelSpec,
}

/// `partial`: parts of the file could not be read, so nothing can be called missing.
pub(super) fn check(
    file: &File<'_>,
    base: &Path,
    partial: bool,
    machine: &Machine,
    found: &mut Found,
) -> Config {
    let drafts: Vec<Draft> = file
        .tunnels
        .iter()
        .filter_map(|it| tunnel(it, partial, found))
        .collect();
    listeners(&drafts, found);
    for draft in &drafts {
        warnings::of_tunnel(draft, machine, found);
    }
    let named = file
        .clusters
        .iter()
        .filter_map(|it| named::cluster(it, base, partial, found))
        .collect();
    // A tunnel that could not be read may have been the one that a cluster needs.
    let partial = partial || drafts.len() < file.tunnels.len();
    let (clusters, of_tunnel) = clusters::assign(named, &drafts, partial, found);
    let mut tunnels = BTreeMap::new();
    for (draft, cluster) in drafts.into_iter().zip(of_tunnel) {
        let spec = TunnelSpec {
            cluster,
            ..draft.spec
        };
        tunnels.insert(draft.name, spec);
    }
    Config {
        tunnels,
        clusters,
        settings: file
            .settings
            .as_ref()
            .map(|it| settings(it, found))
            .unwrap_or_default(),
    }
}

/// Returns the problem of a name that breaks the rule for names.
pub(super) fn bad_name(section: &Section<'_>) -> Problem {
    Problem::at(
        section.span.clone(),
        format!("bad name {}", quoted(section.name)),
    )
    .label(NAME)
}

/// Returns what `parse` makes of a text, or adds its objection as a problem of this section.
pub(super) fn parsed<T>(
    section: &Section<'_>,
    field: Option<Field<&str>>,
    parse: impl FnOnce(&str) -> Result<T, Wrong>,
    found: &mut Found,
) -> Option<Field<T>> {
    let Field { span, value } = field?;
    match parse(value) {
        Ok(value) => Some(Field { span, value }),
        Err(wrong) => {
            found.push(Problem::wrong(span, wrong).section(&section.title));
            None
        }
    }
}

fn tunnel(section: &Section<'_>, partial: bool, found: &mut Found) -> Option<Draft> {
    let name = TunnelName::parse(section.name);
    if name.is_none() {
        found.push(bad_name(section));
    }
    if !section.has("route") && !partial && !section.means("route") {
        found.push(
            Problem::at(section.span.clone(), "no `route`")
                .section(&section.title)
                .label(ROUTE),
        );
    }
    let route = section.text("route", ROUTE, found);
    let route = parsed(section, route, Route::parse, found);
    let listen = section.either("listen", LISTEN, found);
    let listen = listen.and_then(|it| read_listen(section, it, found));
    let start = section.text("start", "write \"auto\" or \"manual\"", found);
    let start = parsed(section, start, read_start, found).map_or(Start::Auto, |it| it.value);
    let expose = section.flag("expose", found);
    let ssh = section.flag("ssh", found);
    let browser_guard = section.flag("browser_guard", found);
    let allow_hosts = allow_hosts(section, found);
    // A broken `expose` has its own problem, and meant something.
    let meant = expose.as_ref().map_or(section.has("expose"), |it| it.value);
    if let Some(listen) = listen.as_ref().filter(|it| it.value.is_exposed() && !meant) {
        found.push(
            Problem::at(
                listen.span.clone(),
                "the listen address is reachable from other machines",
            )
            .section(&section.title)
            .label("this opens the tunnel to your network; add expose = true if you mean it"),
        );
    }
    let route = route?;
    let spec = TunnelSpec {
        cluster: ClusterName::for_address(&route.value.address),
        listen: listen
            .as_ref()
            .map_or(Listen::Chosen, |it| it.value.clone()),
        start,
        ssh: ssh.map_or(route.value.authority.port == 22, |it| it.value),
        expose: expose.is_some_and(|it| it.value),
        browser_guard: browser_guard.is_none_or(|it| it.value),
        allow_hosts,
        route: route.value.clone(),
    };
    Some(Draft {
        name: name?,
        route,
        listen,
        title: section.title.clone(),
        spec,
    })
}

fn read_listen(
    section: &Section<'_>,
    field: Field<Either<'_>>,
    found: &mut Found,
) -> Option<Field<Listen>> {
    let res = match field.value {
        Either::Number(it) => Listen::port(it),
        Either::Text(it) => Listen::parse(it),
    };
    match res {
        Ok(value) => Some(Field {
            span: field.span,
            value,
        }),
        Err(wrong) => {
            found.push(Problem::wrong(field.span, wrong).section(&section.title));
            None
        }
    }
}

/// The hosts that the browser guard lets in. Each is named: a page chooses its own name below any `*`.
fn allow_hosts(section: &Section<'_>, found: &mut Found) -> Vec<Host> {
    let list = section.texts("allow_hosts", ALLOW_HOSTS, found);
    let mut seen: BTreeMap<Host, Span> = BTreeMap::new();
    let mut res = Vec::new();
    for item in list.map(|it| it.value).unwrap_or_default() {
        let Some(Field { span, value }) = parsed(section, Some(item), read_allowed_host, found)
        else {
            continue;
        };
        match seen.get(&value) {
            Some(earlier) => found.push(
                Problem::at(span, format!("{value} stands twice in `allow_hosts`"))
                    .section(&section.title)
                    .label("remove it")
                    .other(earlier.clone(), "it stands here already"),
            ),
            None => {
                seen.insert(value.clone(), span);
                res.push(value);
            }
        }
    }
    res
}

fn read_allowed_host(text: &str) -> Result<Host, Wrong> {
    let has_port = text.contains(':') && Host::parse(text).is_err();
    if text.contains('/') || has_port {
        return Err(Wrong::new(
            format!("more than a host in {}", quoted(text)),
            "write only the host, without scheme and port: every port of it is let in",
        ));
    }
    if text.contains('*') {
        return Err(Wrong::new(
            format!("a pattern in {}", quoted(text)),
            "name each host: \"grafana.localhost\"",
        ));
    }
    Host::parse(text)
}

fn read_start(text: &str) -> Result<Start, Wrong> {
    match text {
        "auto" => Ok(Start::Auto),
        "manual" => Ok(Start::Manual),
        other => Err(Wrong::new(
            format!("unknown start {}", quoted(other)),
            "write \"auto\" or \"manual\"",
        )),
    }
}

/// Tells each listener that an earlier one is in the way of.
fn listeners(drafts: &[Draft], found: &mut Found) {
    let mut in_order: Vec<(&Draft, &Field<Listen>)> = drafts
        .iter()
        .filter_map(|it| Some((it, it.listen.as_ref()?)))
        .collect();
    in_order.sort_by_key(|it| it.1.span.start);
    let mut taken: BTreeMap<SocketAddr, &Span> = BTreeMap::new();
    // Some address of a family and port: what an unspecified address of that family is in the way of.
    let mut some: BTreeMap<SocketAddr, &Span> = BTreeMap::new();
    let mut sockets: BTreeMap<&SocketName, &Span> = BTreeMap::new();
    for (draft, listen) in in_order {
        let addresses = listen.value.addresses();
        let socket = match &listen.value {
            Listen::Unix(name) => Some(name),
            _ => None,
        };
        let earlier = addresses
            .iter()
            .find_map(|it| in_the_way(*it, &taken, &some))
            .or_else(|| socket.and_then(|it| sockets.get(it).copied()));
        if let Some(earlier) = earlier {
            found.push(
                Problem::at(listen.span.clone(), "two tunnels on one address")
                    .section(&draft.title)
                    .label("taken already")
                    .other(earlier.clone(), "taken here")
                    .help("leave listen out to get a free port"),
            );
            continue;
        }
        if let Some(socket) = socket {
            sockets.insert(socket, &listen.span);
        }
        for address in addresses {
            taken.entry(address).or_insert(&listen.span);
            some.entry(any_of_family(address)).or_insert(&listen.span);
        }
    }
}

fn in_the_way<'a>(
    address: SocketAddr,
    taken: &BTreeMap<SocketAddr, &'a Span>,
    some: &BTreeMap<SocketAddr, &'a Span>,
) -> Option<&'a Span> {
    let any = any_of_family(address);
    let other_any = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), address.port());
    if address.ip().is_unspecified() {
        // `::` takes IPv4 along on most systems.
        let both = address
            .is_ipv6()
            .then(|| SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), address.port()));
        return some.get(&any).or_else(|| some.get(&both?)).copied();
    }
    [address, any, other_any]
        .iter()
        .find_map(|it| taken.get(it))
        .copied()
}

fn any_of_family(address: SocketAddr) -> SocketAddr {
    let any: IpAddr = match address {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    SocketAddr::new(any, address.port())
}

fn settings(section: &Section<'_>, found: &mut Found) -> Settings {
    let mut res = Settings::default();
    if let Some(field) = section.either("read_ahead", READ_AHEAD, found) {
        let size = match field.value {
            Either::Number(it) => u64::try_from(it).ok(),
            Either::Text(it) => size(it),
        };
        match size.filter(|it| (1 << 20..=64 << 30).contains(it)) {
            Some(it) => res.read_ahead = it,
            None => found.push(
                Problem::at(field.span, "`read_ahead` is not a valid size")
                    .section(&section.title)
                    .label(READ_AHEAD),
            ),
        }
    }
    let mut seen = BTreeSet::new();
    for user in section
        .list("allow_users", USERS, found)
        .map(|it| it.value)
        .unwrap_or_default()
    {
        match read_user(&user.value) {
            Some(it) if seen.insert(it.clone()) => {
                found.locate(&section.title, &it, user.span);
                res.allow_users.push(it);
            }
            Some(_) => {}
            None => found.push(
                Problem::at(user.span, "neither the name nor the id of a user")
                    .section(&section.title)
                    .label(USERS),
            ),
        }
    }
    res
}

fn read_user(value: &Either<'_>) -> Option<String> {
    match value {
        // The largest id means "no change" to the system, never a user.
        Either::Number(it) => (0..i64::from(u32::MAX))
            .contains(it)
            .then(|| it.to_string()),
        Either::Text(it) => {
            let number = it.bytes().all(|it| it.is_ascii_digit());
            let fits = !it.is_empty()
                && it.len() <= 256
                && !it.contains(|it: char| it.is_control() || it.is_whitespace() || it == ':');
            let id = || it.parse().is_ok_and(|it: u32| it != u32::MAX);
            (fits && (!number || id())).then(|| (*it).to_owned())
        }
    }
}

/// `128 MiB`, `1 GB`, `1048576`: bytes.
fn size(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let unit: u64 = match unit.trim_start().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_a_number_and_a_unit() {
        for (text, bytes) in [
            ("128 MiB", Some(128 << 20)),
            ("128MiB", Some(128 << 20)),
            ("1 gib", Some(1 << 30)),
            ("5 MB", Some(5_000_000)),
            ("1048576", Some(1 << 20)),
            ("64k", Some(64 << 10)),
            ("", None),
            ("MiB", None),
            ("1.5 MiB", None),
            ("-1 MiB", None),
            ("1 XiB", None),
            ("99999999999999999999", None),
            ("99999999999999 GiB", None),
        ] {
            assert_eq!(size(text), bytes, "{text}");
        }
    }
}
