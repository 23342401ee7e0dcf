//! What to write instead of a key that does not exist: other programs have other words. Pure.

use toml::de::{DeTable, DeValue};

use control::text::clean;

/// Returns the key of a `[tunnel.NAME]`, `[cluster.NAME]` or `[settings]` that another word probably means.
pub(super) fn meant(kind: &str, key: &str) -> Option<&'static str> {
    let key = key.to_ascii_lowercase().replace('-', "_");
    Some(match (kind, key.as_str()) {
        (
            "tunnel",
            "host" | "hostname" | "target" | "to" | "from" | "url" | "address" | "remote"
            | "server" | "destination" | "dest" | "upstream" | "service",
        ) => "route",
        (
            "tunnel",
            "port" | "local_port" | "localport" | "bind" | "local" | "listen_port" | "listen_addr"
            | "listen_address" | "local_address" | "addr",
        ) => "listen",
        ("cluster", "host" | "domain" | "domains" | "patterns" | "routes") => "hosts",
        ("cluster", "login" | "login_url" | "address" | "authenticate_url" | "server") => "url",
        ("cluster", "ca" | "cacert" | "ca_cert" | "root_ca" | "roots") => "ca_file",
        ("cluster", "cert" | "certificate" | "client_certificate") => "client_cert",
        ("cluster", "key" | "private_key") => "client_key",
        ("cluster", "proxy" | "http_proxy" | "https_proxy") => "forward_proxy",
        ("cluster", "insecure" | "skip_verify" | "tls_skip_verify" | "verify") => {
            "insecure_skip_verify"
        }
        ("settings", "users" | "allowed_users" | "allow_user") => "allow_users",
        ("settings", "buffer" | "buffer_size" | "memory") => "read_ahead",
        _ => return None,
    })
}

/// Returns what to write for a key that no other key of the tunnel means.
pub(super) fn instead_in_tunnel(
    key: &str,
    value: &DeValue<'_>,
    tunnel: &DeTable<'_>,
) -> Option<String> {
    let key = key.to_ascii_lowercase().replace('-', "_");
    match key.as_str() {
        "autostart" | "auto_start" | "enabled" | "enable" | "disabled" | "manual" | "on_demand" => {
            Some("write start = \"manual\", or leave it out to start by itself".to_owned())
        }
        "cluster" => {
            let name = text(value).unwrap_or("NAME");
            let route = tunnel.get("route").and_then(|it| text(it.get_ref()));
            let host = route.and_then(|it| super::Route::parse(it).ok());
            let host = host.map_or("HOST".to_owned(), |it| it.address.host.to_string());
            Some(format!(
                "a tunnel has no cluster key; the cluster names its hosts: [cluster.{}] hosts = [\"{host}\"]",
                clean(name, 64)
            ))
        }
        _ => None,
    }
}

fn text<'a>(value: &'a DeValue<'_>) -> Option<&'a str> {
    match value {
        DeValue::String(it) => Some(it),
        _ => None,
    }
}
