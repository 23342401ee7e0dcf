//! A real Envoy that speaks as Pomerium's: it carries the bytes, the gateway behind it decides and signs people in.

use std::{fs, net::SocketAddr, path::Path, process::Command};

use gateway::Gateway;
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{binary, eventually, process::Process};

/// How much Pomerium lets its Envoy hold for one connection.
const BUFFER: u32 = 32 << 10;

/// Asks the gateway what a CONNECT is to be told, as Pomerium's Envoy asks its authorization service. It waits far longer
/// than any test stops Envoy: stopped between two events of one turn, it goes by the clock from before.
const CHECK: &str = r#"
function envoy_on_request(handle)
  local headers = handle:headers()
  if headers:get(":method") ~= "CONNECT" then return end
  local ask = {
    [":method"] = "GET",
    [":path"] = "/.gateway/check?authority=" .. headers:get(":authority"),
    [":authority"] = "check",
  }
  for _, name in ipairs({"accept", "authorization"}) do
    if headers:get(name) then ask[name] = headers:get(name) end
  end
  local answer, body = handle:httpCall("portal", ask, nil, 15000)
  local status = answer[":status"]
  if status == "200" or status == "404" then return end
  handle:respond({
    [":status"] = status, ["content-type"] = answer["content-type"], ["location"] = answer["location"],
  }, body)
end
"#;

/// Which HTTP an Envoy takes, and what it agrees on in the handshake.
#[derive(Clone, Copy, Debug)]
pub struct Codec {
    kind: &'static str,
    alpn: &'static [&'static str],
}

impl Codec {
    /// As Pomerium's.
    const HTTP1: Self = Self {
        kind: "HTTP1",
        alpn: &["http/1.1"],
    };
    /// HTTP/2 alone, and it says so in the handshake.
    pub const HTTP2: Self = Self {
        kind: "HTTP2",
        alpn: &["h2"],
    };
    /// HTTP/2 alone, and the handshake does not tell.
    pub const SILENT_HTTP2: Self = Self {
        kind: "HTTP2",
        alpn: &[],
    };
}

/// A running Envoy.
#[derive(Debug)]
pub struct Envoy {
    process: Process,
    address: SocketAddr,
    folder: TempDir,
}

impl Envoy {
    /// In front of `gateway`, with these routes to TCP services.
    pub async fn start(gateway: &Gateway, routes: &[(&str, SocketAddr)]) -> Self {
        Self::speaking(Codec::HTTP1, gateway, routes).await
    }

    /// The same, with another HTTP.
    pub async fn speaking(codec: Codec, gateway: &Gateway, routes: &[(&str, SocketAddr)]) -> Self {
        let folder = crate::pomd::folder();
        let file = |name: &str| folder.path().join(name);
        let identity = gateway.server_identity();
        let identity = identity.unwrap_or_else(|error| panic!("a certificate: {error:#}"));
        let config = config(codec, folder.path(), gateway.address(), routes);
        for (name, text) in [
            ("cert.pem", identity.certificate.as_str()),
            ("key.pem", identity.key.as_str()),
            ("envoy.json", config.to_string().as_str()),
        ] {
            let written = fs::write(file(name), text);
            written.unwrap_or_else(|error| panic!("{name}: {error}"));
        }
        let mut command = Command::new(binary::envoy());
        command
            .arg("-c")
            .arg(file("envoy.json"))
            .arg("--admin-address-path")
            .arg(file("admin"))
            .args(["--disable-hot-restart", "--concurrency", "1", "-l", "warn"])
            .current_dir(folder.path());
        let mut process = Process::start("envoy", &mut command, &file("envoy.words"));
        let address = eventually("Envoy listens", async || {
            process.assert_runs();
            listening(&file("admin")).await
        })
        .await;
        Self {
            process,
            address,
            folder,
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Takes no more connections; those that are open live on.
    pub async fn drain(&self) {
        let answer = asked(&self.folder.path().join("admin"), "POST /drain_listeners").await;
        let done = answer.is_some_and(|it| it.starts_with("HTTP/1.1 200"));
        assert!(done, "Envoy does not drain");
    }

    /// Sends it a signal: `KILL`, `CONT`.
    pub fn signal(&mut self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Stops it wholly, until it is told `CONT`.
    pub async fn stand_still(&mut self) {
        self.process.stand_still().await;
    }
}

/// Asks the admin port; the whole answer.
async fn asked(admin: &Path, request: &str) -> Option<String> {
    let admin = fs::read_to_string(admin).ok()?;
    let mut stream = TcpStream::connect(admin.trim()).await.ok()?;
    let ask = format!("{request} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n");
    stream.write_all(ask.as_bytes()).await.ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok()?;
    Some(answer)
}

/// Asks the admin port where the listener is, once there is an answer.
async fn listening(admin: &Path) -> Option<SocketAddr> {
    let answer = asked(admin, "GET /listeners?format=json").await?;
    let port = answer.split("\"port_value\":").nth(1)?;
    let port = port.trim_start();
    let port = port.split(|it: char| !it.is_ascii_digit()).next()?;
    let port: u16 = port.parse().ok().filter(|it| *it != 0)?;
    // It may still be warming up.
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    TcpStream::connect(address).await.ok()?;
    Some(address)
}

fn config(codec: Codec, folder: &Path, portal: SocketAddr, routes: &[(&str, SocketAddr)]) -> Value {
    let mut clusters = vec![cluster("portal", portal)];
    let mut hosts = Vec::new();
    for (index, (authority, upstream)) in routes.iter().enumerate() {
        let name = format!("service-{index}");
        clusters.push(cluster(&name, *upstream));
        hosts.push(json!({
            "name": name, "domains": [authority],
            "routes": [{
                "match": { "connect_matcher": {} },
                "route": {
                    "cluster": name, "timeout": "0s", "idle_timeout": "0s",
                    "upgrade_configs": [{ "upgrade_type": "CONNECT", "connect_config": {} }],
                },
            }],
        }));
    }
    hosts.push(json!({
        "name": "portal", "domains": ["*"],
        "routes": [{ "match": { "prefix": "/.pomerium/" }, "route": { "cluster": "portal" } }],
    }));
    json!({
        "admin": { "address": socket(([127, 0, 0, 1], 0).into()) },
        "static_resources": { "listeners": [listener(codec, folder, hosts)], "clusters": clusters },
    })
}

fn listener(codec: Codec, folder: &Path, hosts: Vec<Value>) -> Value {
    let tls = json!({
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        "common_tls_context": {
            "alpn_protocols": codec.alpn,
            "tls_certificates": [{
                "certificate_chain": { "filename": folder.join("cert.pem") },
                "private_key": { "filename": folder.join("key.pem") },
            }],
        },
    });
    json!({
        "name": "front",
        "address": socket(([127, 0, 0, 1], 0).into()),
        "per_connection_buffer_limit_bytes": BUFFER,
        "filter_chains": [{
            "transport_socket": { "name": "envoy.transport_sockets.tls", "typed_config": tls },
            "filters": [{
                "name": "envoy.filters.network.http_connection_manager",
                "typed_config": manager(codec, hosts),
            }],
        }],
    })
}

fn manager(codec: Codec, hosts: Vec<Value>) -> Value {
    let lua = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua",
        "default_source_code": { "inline_string": CHECK },
    });
    let router = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router",
    });
    // Envoy's own refusals are told in this shape; those of the check keep the body they have.
    let told = |status: u16| {
        json!({
            "filter": { "status_code_filter": { "comparison": {
                "op": "EQ", "value": { "default_value": status, "runtime_key": "status" },
            } } },
            "body_format_override": { "json_format": {
                "requestId": "%STREAM_ID%", "status": "%RESPONSE_CODE%", "statusText": "%RESPONSE_CODE_DETAILS%",
            } },
        })
    };
    json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "front",
        "codec_type": codec.kind,
        "always_set_request_id_in_response": true,
        "delayed_close_timeout": "1s",
        "request_headers_timeout": "30s",
        "common_http_protocol_options": { "idle_timeout": "300s" },
        "stream_idle_timeout": "0s",
        "upgrade_configs": [{ "upgrade_type": "CONNECT" }],
        "local_reply_config": { "mappers": [told(404), told(408), told(503)] },
        "route_config": { "name": "routes", "virtual_hosts": hosts },
        "http_filters": [
            { "name": "envoy.filters.http.lua", "typed_config": lua },
            { "name": "envoy.filters.http.router", "typed_config": router },
        ],
    })
}

fn cluster(name: &str, upstream: SocketAddr) -> Value {
    json!({
        "name": name, "type": "STATIC", "connect_timeout": "10s",
        "per_connection_buffer_limit_bytes": BUFFER,
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": socket(upstream) } }] }],
        },
    })
}

fn socket(address: SocketAddr) -> Value {
    json!({ "socket_address": { "address": address.ip().to_string(), "port_value": address.port() } })
}
