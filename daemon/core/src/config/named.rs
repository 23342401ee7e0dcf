//! One `[cluster.NAME]` of the file → its settings, before it is known which tunnels are its own.

use std::path::{Path, PathBuf};

use super::{
    BrowserChoice, ClientIdentity, ClusterName, ClusterSpec, ForwardProxy, HostPattern, Wrong,
    address::{Address, Authority},
    check::{bad_name, parsed},
    file::{Field, Section},
    host::Host,
    proxy::PROXY,
    report::{Found, Problem, Span, quoted},
    token_source,
};

const HOSTS: &str = "write a list of hosts: [\"*.corp.example.com\"]";
const URL: &str = "write \"https://HOST\"";
const CONNECT: &str = "write \"HOST:PORT\"";
const FILE: &str = "write the name of a PEM file";
const PROXY_AUTH: &str = "forward_proxy_auth = { file = \"proxy-password\" }";
const BROWSER: &str =
    "write \"default\", \"none\", or a program and its arguments: [\"firefox\", \"-P\", \"work\"]";

/// A cluster of the file, and where in it its hosts stand. Its `login_at` is empty.
#[derive(Debug)]
pub(super) struct Named {
    pub(super) name: ClusterName,
    pub(super) span: Span,
    pub(super) title: String,
    pub(super) spec: ClusterSpec,
    pub(super) url: Option<Field<Address>>,
    /// There is the key `url`, whether or not it could be read.
    pub(super) has_url: bool,
    pub(super) hosts: Vec<Field<HostPattern>>,
    /// Where the forward proxy stands that the cluster has of its own.
    pub(super) proxy: Option<Span>,
    /// It has the key `hosts`.
    pub(super) has_hosts: bool,
}

pub(super) fn cluster(
    section: &Section<'_>,
    base: &Path,
    partial: bool,
    found: &mut Found,
) -> Option<Named> {
    let name = ClusterName::parse(section.name);
    if name.is_none() {
        found.push(bad_name(section));
    }
    let missing = !section.has("hosts") && !section.has("url");
    if !partial && missing && !section.holds_only_tables() {
        found.push(
            Problem::at(section.span.clone(), "neither `hosts` nor `url`")
                .section(&section.title)
                .label("say which hosts share this login: hosts = [\"*.corp.example.com\"]"),
        );
    }
    let hosts = patterns(section, found);
    let url = section.text("url", URL, found);
    let url = parsed(section, url, Address::parse, found);
    let connect = section.text("connect", CONNECT, found);
    let connect = parsed(section, connect, Authority::parse, found);
    let server_name = section.text("server_name", "write the name to verify", found);
    let server_name = parsed(section, server_name, Host::parse, found);
    let ca_file = file(section, "ca_file", base, found);
    let client_identity = identity(section, base, partial, found);
    let proxy = section.text("forward_proxy", PROXY, found);
    let proxy = parsed(section, proxy, ForwardProxy::parse, found);
    let forward_proxy_auth = proxy_auth(section, base, proxy.as_ref(), partial, found);
    let insecure = section.flag("insecure_skip_verify", found);
    let spec = ClusterSpec {
        connect: connect.map(|it| it.value),
        server_name: server_name.map(|it| it.value),
        ca_file,
        client_identity,
        forward_proxy: proxy
            .as_ref()
            .map(|it| it.value.clone())
            .unwrap_or_default(),
        forward_proxy_auth,
        browser: browser(section, found),
        token: token_source::token(section, base, partial, found),
        insecure_skip_verify: insecure.is_some_and(|it| it.value),
        named: true,
        ..ClusterSpec::default()
    };
    Some(Named {
        name: name?,
        span: section.span.clone(),
        title: section.title.clone(),
        spec,
        url,
        has_url: section.has("url"),
        has_hosts: section.has("hosts"),
        hosts,
        proxy: proxy
            .filter(|it| matches!(it.value, ForwardProxy::At(_)))
            .map(|it| it.span),
    })
}

fn patterns(section: &Section<'_>, found: &mut Found) -> Vec<Field<HostPattern>> {
    let mut res: Vec<Field<HostPattern>> = Vec::new();
    let Some(list) = section.texts("hosts", HOSTS, found) else {
        return res;
    };
    if list.value.is_empty() {
        found.push(
            Problem::at(list.span, "no host in `hosts`")
                .section(&section.title)
                .label(HOSTS),
        );
    }
    for item in list.value {
        res.extend(parsed(section, Some(item), HostPattern::parse, found));
    }
    res
}

fn identity(
    section: &Section<'_>,
    base: &Path,
    partial: bool,
    found: &mut Found,
) -> Option<ClientIdentity> {
    let certificate = file(section, "client_cert", base, found);
    let key = file(section, "client_key", base, found);
    let alone = match (section.has("client_cert"), section.has("client_key")) {
        (true, false) => Some(("client_cert", "client_key")),
        (false, true) => Some(("client_key", "client_cert")),
        _ => None,
    };
    if let Some((one, other)) = alone.filter(|_| !partial)
        && let Some(field) = section.text(one, FILE, &mut Found::default())
    {
        found.push(
            Problem::at(field.span, format!("`{one}` without `{other}`"))
                .section(&section.title)
                .label(format!("add {other} = \"FILE\"")),
        );
    }
    Some(ClientIdentity {
        certificate: certificate?,
        key: key?,
    })
}

/// Reads the file name of the user and password for the forward proxy.
fn proxy_auth(
    section: &Section<'_>,
    base: &Path,
    proxy: Option<&Field<ForwardProxy>>,
    partial: bool,
    found: &mut Found,
) -> Option<PathBuf> {
    let secret = section.secret("forward_proxy_auth", PROXY_AUTH, found)?;
    let mut problem = |what: &str, label: &str| {
        found.push(
            Problem::at(secret.span.clone(), what)
                .section(&section.title)
                .label(label),
        );
    };
    if !partial && !secret.has("file") {
        problem("`forward_proxy_auth` names no file", PROXY_AUTH);
    }
    if proxy.is_some_and(|it| it.value == ForwardProxy::None) {
        problem(
            "a password for no proxy: `forward_proxy` is \"none\"",
            "remove it",
        );
    }
    let field = secret.text("file", "write the name of a file", found);
    let path = parsed(section, field, read_path, found)?;
    found.locate(&section.title, "forward_proxy_auth", path.span);
    Some(base.join(path.value))
}

/// Reads a path and makes it absolute: relative ones start at the folder of the file.
fn file(section: &Section<'_>, key: &str, base: &Path, found: &mut Found) -> Option<PathBuf> {
    let field = section.text(key, FILE, found);
    let path = parsed(section, field, read_path, found)?;
    found.locate(&section.title, key, path.span);
    Some(base.join(path.value))
}

pub(super) fn read_path(text: &str) -> Result<PathBuf, Wrong> {
    if text.contains("-----BEGIN") {
        return Err(Wrong::new(
            "the contents of a file instead of its name",
            FILE,
        ));
    }
    if text.trim().is_empty() || text.contains(char::is_control) {
        return Err(Wrong::new(format!("bad file name {}", quoted(text)), FILE));
    }
    if text.starts_with('~') {
        return Err(Wrong::new(
            "`~` has no meaning here",
            "write the whole path, or one relative to this file",
        ));
    }
    Ok(PathBuf::from(text))
}

fn browser(section: &Section<'_>, found: &mut Found) -> BrowserChoice {
    if section.is_list("browser") {
        let Some(list) = section.texts("browser", BROWSER, found) else {
            return BrowserChoice::Default;
        };
        let bad = list.value.first().is_none_or(|it| it.value.is_empty())
            || list.value.iter().any(|it| it.value.contains('\0'));
        if bad {
            found.push(
                Problem::at(list.span, "no program in `browser`")
                    .section(&section.title)
                    .label(BROWSER),
            );
        }
        let command = list.value.iter().map(|it| it.value.to_owned()).collect();
        return BrowserChoice::Command(command);
    }
    let field = section.text("browser", BROWSER, found);
    let read = |text: &str| match text {
        "default" => Ok(BrowserChoice::Default),
        "none" => Ok(BrowserChoice::None),
        other => Err(Wrong::new(
            format!("unknown browser {}", quoted(other)),
            BROWSER,
        )),
    };
    parsed(section, field, read, found).map_or(BrowserChoice::Default, |it| it.value)
}
