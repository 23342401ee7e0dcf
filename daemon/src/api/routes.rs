//! The route table: what each request asks of the house.
//!
//! Long because a route and what it does are read together.

use std::sync::Arc;

use bytes::Bytes;
use control::{
    descriptor,
    text::clean,
    wire::{self, Code},
};
use futures_util::{Stream, stream};
use hyper::{Method, Request, Response, StatusCode, Version, body::Incoming, header};
use pomd_core::config::TokenKind;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::{
    Api,
    answer::{self, Body, cluster_of},
    body::body,
    connect::{Form, Upgraded},
    error::{Refused, api_error, not_probed, of_agent, removed, stopping},
    guard, metrics,
    query::{decode, parameter},
};
use crate::{
    admission::Slot, agent::AgentError, failpoints::Failpoint, logging::RecentReader,
    session::LoginOutcome, system::usage, tunnel::Tunnel,
};

/// Answers one request, whatever it holds; that pomd is stopping, if it stops meanwhile.
pub(super) async fn answer(
    api: &Api,
    request: Request<Incoming>,
    upgrades: &mpsc::Sender<Upgraded>,
    slot: &Slot,
) -> Response<Body> {
    tokio::select! {
        biased;
        answer = answer_whatever(api, request, upgrades, slot) => answer,
        () = api.closing.cancelled() => {
            answer::refused(&stopping())
        }
    }
}

async fn answer_whatever(
    api: &Api,
    mut request: Request<Incoming>,
    upgrades: &mpsc::Sender<Upgraded>,
    slot: &Slot,
) -> Response<Body> {
    if let Err(error) = api.env.failpoints.check(Failpoint::Request) {
        let error = api_error(Code::Internal, error.to_string());
        return answer::error(StatusCode::INTERNAL_SERVER_ERROR, &error);
    }
    if guard::is_from_web_page(request.uri(), request.headers()) {
        let error = api_error(Code::BadRequest, "requests of web pages get no answer here");
        return answer::error(StatusCode::FORBIDDEN, &error);
    }
    let path = request.uri().path().to_owned();
    let segments: Option<Vec<String>> = path.split('/').skip(1).map(decode).collect();
    let Some(segments) = segments else {
        let error = api_error(
            Code::BadRequest,
            "the path is not valid UTF-8 in percent-encoding",
        );
        return answer::error(StatusCode::BAD_REQUEST, &error);
    };
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    let Some(route) = Route::find(&segments) else {
        let message = format!("no such path: {}", clean(&path, 200));
        return answer::error(StatusCode::NOT_FOUND, &api_error(Code::BadRequest, message));
    };
    if request.method() != route.method() {
        let message = format!("{} goes by {}", clean(&path, 200), route.method());
        return answer::error(
            StatusCode::METHOD_NOT_ALLOWED,
            &api_error(Code::BadRequest, message),
        );
    }
    let query = request.uri().query().unwrap_or_default().to_owned();
    if route == Route::Connect && slot.is_served() {
        let answer = connect(api, &query, &mut request, upgrades).await;
        return answer.unwrap_or_else(|error| answer::refused(&error));
    }
    let body = match body(request.into_body()).await {
        Ok(body) => body,
        Err((status, message)) => {
            return answer::error(status, &api_error(Code::BadRequest, message));
        }
    };
    if !slot.is_served() {
        let error = api_error(
            Code::BadRequest,
            "others needed the place before all was said",
        );
        return answer::error(StatusCode::REQUEST_TIMEOUT, &error);
    }
    match route.run(api, &query, body).await {
        Ok(response) => response,
        Err(error) => answer::refused(&error),
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Route {
    Status,
    Metrics,
    Events,
    Logs,
    MakeTunnel,
    Up(String),
    Down(String),
    Probe(String),
    Doctor(String),
    AdHocDoctor,
    Login(String),
    LoginAnswer(String),
    Logout(String),
    Token(String),
    Routes(String),
    Connect,
    Reload,
    Restart,
    Stop,
    GiveWay,
}

impl Route {
    fn find(segments: &[&str]) -> Option<Self> {
        let name = |it: &&str| (*it).to_owned();
        Some(match segments {
            ["v1", "status"] => Self::Status,
            ["v1", "metrics"] => Self::Metrics,
            ["v1", "events"] => Self::Events,
            ["v1", "logs"] => Self::Logs,
            ["v1", "tunnels"] => Self::MakeTunnel,
            ["v1", "tunnels", tunnel, "up"] => Self::Up(name(tunnel)),
            ["v1", "tunnels", tunnel, "down"] => Self::Down(name(tunnel)),
            ["v1", "tunnels", tunnel, "probe"] => Self::Probe(name(tunnel)),
            ["v1", "tunnels", tunnel, "doctor"] => Self::Doctor(name(tunnel)),
            ["v1", "doctor"] => Self::AdHocDoctor,
            ["v1", "clusters", cluster, "login"] => Self::Login(name(cluster)),
            ["v1", "clusters", cluster, "login", "answer"] => Self::LoginAnswer(name(cluster)),
            ["v1", "clusters", cluster, "logout"] => Self::Logout(name(cluster)),
            ["v1", "clusters", cluster, "routes"] => Self::Routes(name(cluster)),
            ["v1", "clusters", cluster, "token"] => Self::Token(name(cluster)),
            ["v1", "connect"] => Self::Connect,
            ["v1", "reload"] => Self::Reload,
            ["v1", "restart"] => Self::Restart,
            ["v1", "stop"] => Self::Stop,
            ["v1", "give-way"] => Self::GiveWay,
            _ => return None,
        })
    }

    fn method(&self) -> Method {
        match self {
            Self::Status | Self::Metrics | Self::Events | Self::Logs | Self::Routes(_) => {
                Method::GET
            }
            _ => Method::POST,
        }
    }

    /// Whether its answer depends on what the configuration file says now.
    fn depends_on_the_file(&self) -> bool {
        match self {
            Self::Status | Self::Events => true,
            Self::MakeTunnel | Self::Up(_) | Self::Down(_) => true,
            Self::Probe(_) | Self::Doctor(_) | Self::AdHocDoctor => true,
            Self::Login(_) | Self::Logout(_) | Self::Token(_) | Self::Routes(_) => true,
            Self::Metrics | Self::Logs | Self::Connect | Self::Reload => false,
            Self::LoginAnswer(_) | Self::Restart | Self::Stop | Self::GiveWay => false,
        }
    }

    async fn run(self, api: &Api, query: &str, body: Bytes) -> Result<Response<Body>, Refused> {
        let is_settled = !self.depends_on_the_file() || api.reloads.settle().await;
        Ok(match self {
            Self::Status => {
                let mut status = Arc::unwrap_or_clone(api.agent.status().await.map_err(of_agent)?);
                status.pomd.config.pending = !is_settled;
                status.pomd.usage = Some(usage::now());
                answer::json(&status)
            }
            Self::Metrics => {
                let measured = api.agent.measure().await.map_err(of_agent)?;
                answer::text(
                    metrics::CONTENT_TYPE,
                    metrics::text(*measured, usage::now()),
                )
            }
            Self::Events => answer::endless(events(
                api.agent.watch().await.map_err(of_agent)?,
                api.closing.clone(),
            )),
            Self::Logs => {
                let follow = parameter(query, "follow").as_deref() == Some("true");
                let tunnel = parameter(query, "tunnel");
                let reader = api.recent.reader();
                if follow {
                    answer::endless(lines(reader, tunnel, Some(api.closing.clone())))
                } else {
                    answer::ndjson(lines(reader, tunnel, None))
                }
            }
            Self::MakeTunnel => answer::json(&make_tunnel(api, &body).await?),
            Self::Up(tunnel) => {
                let tunnel = api.agent.up(tunnel).await.map_err(of_agent)?;
                answer::json(&proved(api, &tunnel).await?)
            }
            Self::Probe(tunnel) => {
                let tunnel = api.agent.tunnel(tunnel).await.map_err(of_agent)?;
                answer::json(&proved(api, &tunnel).await?)
            }
            Self::Down(tunnel) => {
                let now = parameter(query, "now").as_deref() == Some("true");
                answer::json(&api.agent.down(tunnel, now).await.map_err(of_agent)?)
            }
            Self::Doctor(tunnel) => {
                let tunnel = api.agent.tunnel(tunnel).await.map_err(of_agent)?;
                answer::json(&tunnel.diagnose().await)
            }
            Self::AdHocDoctor => {
                let route = parameter(query, "route").unwrap_or_default();
                let ssh = parameter(query, "ssh").as_deref() == Some("true");
                let tunnel = api.agent.connect(route, ssh).await.map_err(of_agent)?;
                answer::json(&tunnel.diagnose().await)
            }
            Self::Login(cluster) => answer::json(&login(api, cluster, &body).await?),
            Self::LoginAnswer(cluster) => answer::json(&login_answer(api, cluster, &body).await?),
            Self::Logout(cluster) => answer::json(&logout(api, cluster).await?),
            Self::Token(cluster) => answer::json(&token(api, cluster).await?),
            Self::Routes(cluster) => answer::json(&routes(api, cluster).await?),
            Self::Reload => answer::json(&api.reloads.reload().await.map_err(of_agent)?),
            Self::Restart => {
                let force = parameter(query, "force").as_deref() == Some("true");
                answer::json(&restart(api, force).await?)
            }
            Self::Stop => answer::json(&stop(api).await?),
            Self::GiveWay => answer::json(&give_way(api, &body).await?),
            Self::Connect => {
                return Err(Box::new(api_error(
                    Code::Internal,
                    "an upgrade is not answered here",
                )));
            }
        })
    }
}

/// Listens for a route; its first proof is that of `up`.
async fn make_tunnel(api: &Api, body: &[u8]) -> Result<wire::MadeTunnel, Refused> {
    let request: wire::TunnelRequest = serde_json::from_slice(body).map_err(|it| {
        let message = format!("the body does not say which tunnel: {it}");
        api_error(Code::BadRequest, message)
    })?;
    let made = api.agent.make_temporary(request).await;
    let (tunnel, made) = made.map_err(of_agent)?;
    Ok(wire::MadeTunnel {
        name: tunnel.name.to_string(),
        made,
    })
}

/// Opens the route of a tunnel once.
async fn proved(api: &Api, tunnel: &Tunnel) -> Result<wire::UpAnswer, Refused> {
    let took = tunnel.probe().await.map_err(not_probed)?;
    let status = api.agent.status().await.map_err(of_agent)?;
    let shown = status
        .tunnels
        .iter()
        .find(|it| it.name == tunnel.name.as_str());
    let shown = shown.ok_or_else(|| removed(Code::NoSuchTunnel, tunnel.name.as_str()))?;
    Ok(wire::UpAnswer {
        tunnel: shown.clone(),
        answers_in_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
    })
}

async fn login(api: &Api, name: String, body: &[u8]) -> Result<wire::LoginAnswer, Refused> {
    let request = if body.is_empty() {
        wire::LoginRequest::default()
    } else {
        serde_json::from_slice(body).map_err(|it| {
            api_error(
                Code::BadRequest,
                format!("the body is not a login request: {it}"),
            )
        })?
    };
    let handle = api.agent.session(name.clone()).await.map_err(of_agent)?;
    let outcome = match handle.session.login(request).await {
        Ok(outcome) => outcome,
        Err(error) => {
            let status = api.agent.status().await.map_err(of_agent)?;
            let hint = answer::other_port(&status, &name, &handle.session.address());
            return Err(Box::new(answer::login_error(&error, &name, hint)));
        }
    };
    let status = api.agent.status().await.map_err(of_agent)?;
    Ok(wire::LoginAnswer {
        cluster: cluster_of(&status, &name).ok_or_else(|| removed(Code::NoSuchCluster, &name))?,
        login: match outcome {
            LoginOutcome::LoggedIn => None,
            LoginOutcome::Open(login) => Some(login),
        },
        browser: handle.browser,
    })
}

async fn login_answer(api: &Api, name: String, body: &[u8]) -> Result<wire::Cluster, Refused> {
    // What is wrong with it is not said: a parser's words may show what stood there.
    let pasted: wire::PastedAnswer = serde_json::from_slice(body)
        .map_err(|_| api_error(Code::BadRequest, "the body holds no address"))?;
    let handle = api.agent.session(name.clone()).await.map_err(of_agent)?;
    let taken = handle.session.paste(pasted.address).await;
    taken.map_err(|it| Box::new(answer::not_taken(&it, &name)))?;
    let status = api.agent.status().await.map_err(of_agent)?;
    cluster_of(&status, &name).ok_or_else(|| removed(Code::NoSuchCluster, &name))
}

async fn logout(api: &Api, name: String) -> Result<wire::LogoutAnswer, Refused> {
    let handle = api.agent.session(name.clone()).await.map_err(of_agent)?;
    let before = handle.session.logout().await;
    let status = api.agent.status().await.map_err(of_agent)?;
    let tunnels = status.tunnels.iter().filter(|it| it.cluster == name);
    Ok(wire::LogoutAnswer {
        cluster: cluster_of(&status, &name).ok_or_else(|| removed(Code::NoSuchCluster, &name))?,
        forgotten: before.is_some(),
        user: before.and_then(|it| it.user),
        still_open: tunnels.map(|it| it.connections.open).sum(),
        sign_out_url: handle.session.sign_out_url(),
    })
}

/// Gives the token away: the one answer that holds a secret.
async fn token(api: &Api, name: String) -> Result<wire::TokenAnswer, Refused> {
    let handle = api.agent.session(name.clone()).await.map_err(of_agent)?;
    let reason = match handle.session.checked_grant().await {
        Ok(grant) => {
            return Ok(wire::TokenAnswer {
                cluster: name,
                token: wire::Secret::new(grant.token.reveal()),
                bearer: grant.token.kind() == TokenKind::Bearer,
                until: handle.session.view().until,
                client_identity: handle.client_identity,
            });
        }
        Err(none) => none.reason,
    };
    Err(no_grant(name, reason))
}

/// Returns what the portal offers whoever is logged in.
async fn routes(api: &Api, name: String) -> Result<wire::RoutesAnswer, Refused> {
    let handle = api.agent.session(name.clone()).await.map_err(of_agent)?;
    match handle.session.routes().await {
        Ok(routes) => Ok(wire::RoutesAnswer {
            cluster: name,
            routes,
        }),
        Err(none) => Err(no_grant(name, none.reason)),
    }
}

fn no_grant(cluster: String, reason: wire::Reason) -> Refused {
    Box::new(wire::ApiError {
        hint: reason.hint,
        request_id: reason.request_id,
        cluster: Some(cluster),
        ..api_error(reason.code, reason.message)
    })
}

/// Hands a route out as bytes or as a descriptor. Where ssh will be told of a refusal in its own words that is enough; else the route
/// is tried first, so that a refusal can be told here.
async fn connect(
    api: &Api,
    query: &str,
    request: &mut Request<Incoming>,
    upgrades: &mpsc::Sender<Upgraded>,
) -> Result<Response<Body>, Refused> {
    let asked = request.headers().get(header::UPGRADE);
    let notes = parameter(query, "notes").as_deref() == Some("true");
    let spoken = [
        (wire::CONNECT_RAW, Form::Raw),
        (wire::CONNECT_FRAMED, Form::Frames { notes }),
        (wire::CONNECT_DESCRIPTOR, Form::Descriptor),
    ];
    let spoken = &spoken[..if descriptor::IS_SUPPORTED { 3 } else { 2 }];
    let upgrade = spoken
        .iter()
        .find(|it| asked.is_some_and(|asked| asked == it.0));
    let upgrade = upgrade.filter(|_| request.version() == Version::HTTP_11);
    let Some((upgrade, form)) = upgrade.copied() else {
        let words: Vec<&str> = spoken.iter().map(|it| it.0).collect();
        let message = format!(
            "this path wants HTTP/1.1 and the header Upgrade: {}",
            words.join(" or ")
        );
        return Err(Box::new(api_error(Code::BadRequest, message)));
    };
    let route = parameter(query, "route").unwrap_or_default();
    let ssh = parameter(query, "ssh").as_deref() == Some("true");
    let tunnel = match api.agent.connect(route.clone(), ssh).await {
        // Its cluster may have been written into the file a moment ago.
        Err(AgentError::NoDestination(_) | AgentError::ClusterRemoved(_)) => {
            api.reloads.settle().await;
            api.agent.connect(route, ssh).await.map_err(of_agent)?
        }
        answer => answer.map_err(of_agent)?,
    };
    if form == Form::Descriptor {
        // Whoever asked is to be gone before anything is known of the route: all is told on the descriptor.
    } else if ssh {
        tunnel.has_grant().map_err(|it| not_probed(*it))?;
    } else {
        // What held a moment ago is no word on this connection: raw bytes could not tell that it was refused.
        tunnel.probe_anew().await.map_err(not_probed)?;
    }
    let client = hyper::upgrade::on(request);
    upgrades
        .try_send(Upgraded {
            client,
            tunnel,
            form,
        })
        .map_err(|_| api_error(Code::BadRequest, "one upgrade for each connection"))?;
    Ok(answer::switching_protocols(upgrade))
}

async fn stop(api: &Api) -> Result<wire::StopAnswer, Refused> {
    let connections = connections(&*api.agent.status().await.map_err(of_agent)?);
    api.stop.cancel();
    Ok(wire::StopAnswer {
        pid: std::process::id(),
        connections,
    })
}

/// Ends pomd in favour of one in the foreground, which takes over the place. One in the foreground gives way to nobody.
async fn give_way(api: &Api, body: &[u8]) -> Result<wire::StopAnswer, Refused> {
    let request: wire::GiveWayRequest = serde_json::from_slice(body).map_err(|it| {
        api_error(
            Code::BadRequest,
            format!("the body does not say who takes over: {it}"),
        )
    })?;
    if !api.in_background {
        let message = format!("pomd runs already (pid {})", std::process::id());
        return Err(Box::new(api_error(Code::BadRequest, message)));
    }
    let connections = connections(&*api.agent.status().await.map_err(of_agent)?);
    tracing::info!(
        "gives way to the pomd in the foreground or of a service (pid {}); {connections} connections end",
        request.pid
    );
    api.stop.cancel();
    Ok(wire::StopAnswer {
        pid: std::process::id(),
        connections,
    })
}

/// Nothing is ended for a file that would leave no tunnels, unless that is what is wanted, nor for a program that would not
/// run.
async fn restart(api: &Api, force: bool) -> Result<wire::RestartAnswer, Refused> {
    if !force {
        api.reloads.reload().await.map_err(of_agent)?;
    }
    let version = api.restart.check().await.map_err(|why| {
        let message = format!("pomd was not restarted and goes on as it is: {why}");
        Box::new(api_error(Code::Local, message))
    })?;
    let status = api.agent.status().await.map_err(of_agent)?;
    if api.stop.is_cancelled() {
        return Err(Box::new(stopping()));
    }
    tracing::info!("asked to restart as pomd {version}");
    api.restart.request();
    api.inherited.begin_to_keep();
    api.stop.cancel();
    Ok(wire::RestartAnswer {
        pid: status.pomd.pid,
        version,
        connections: connections(&status),
    })
}

/// How many connections would end with pomd.
fn connections(status: &wire::Status) -> u64 {
    let open = status.tunnels.iter().map(|it| it.connections.open);
    let leaving = status.leaving.iter().map(|it| it.connections);
    open.chain(leaving).sum()
}

/// The present status, then the newest after every change: a slow reader skips, never lags.
fn events(
    snapshots: watch::Receiver<Arc<wire::Status>>,
    stop: CancellationToken,
) -> impl Stream<Item = Arc<wire::Status>> + Send {
    stream::unfold(
        (snapshots, stop, true),
        |(mut snapshots, stop, first)| async move {
            if !first {
                tokio::select! {
                    () = stop.cancelled() => return None,
                    changed = snapshots.changed() => changed.ok()?,
                }
            }
            let status = snapshots.borrow_and_update().clone();
            Some((status, (snapshots, stop, false)))
        },
    )
}

/// What is remembered, then, if there is a `stop` to wait for, what comes.
fn lines(
    reader: RecentReader,
    tunnel: Option<String>,
    stop: Option<CancellationToken>,
) -> impl Stream<Item = wire::LogLine> + Send {
    stream::unfold(
        (reader, tunnel, stop),
        |(mut reader, tunnel, mut stop)| async move {
            loop {
                match reader.next_remembered() {
                    Some(line) if tunnel.is_none() || line.tunnel == tunnel => {
                        return Some((line, (reader, tunnel, stop)));
                    }
                    Some(_) => continue,
                    None => (),
                }
                tokio::select! {
                    // What was logged before that is told before the end.
                    () = stop.as_ref()?.cancelled() => stop = None,
                    () = reader.more() => (),
                }
            }
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looking_goes_by_get_and_doing_by_post() {
        let table = [
            ("v1/status", Some(Method::GET)),
            ("v1/metrics", Some(Method::GET)),
            ("v1/events", Some(Method::GET)),
            ("v1/logs", Some(Method::GET)),
            ("v1/tunnels/a/up", Some(Method::POST)),
            ("v1/tunnels/a/down", Some(Method::POST)),
            ("v1/tunnels/a/probe", Some(Method::POST)),
            ("v1/tunnels/a/doctor", Some(Method::POST)),
            ("v1/doctor", Some(Method::POST)),
            ("v1/clusters/a/login", Some(Method::POST)),
            ("v1/clusters/a/login/answer", Some(Method::POST)),
            ("v1/clusters/a/login/other", None),
            ("v1/clusters/a/logout", Some(Method::POST)),
            ("v1/clusters/a/token", Some(Method::POST)),
            ("v1/connect", Some(Method::POST)),
            ("v1/reload", Some(Method::POST)),
            ("v1/restart", Some(Method::POST)),
            ("v1/stop", Some(Method::POST)),
            ("v1/give-way", Some(Method::POST)),
            ("v1/tunnels/a", None),
            ("v1/status/", None),
            ("", None),
        ];
        for (path, method) in table {
            let segments: Vec<&str> = path.split('/').collect();
            assert_eq!(
                Route::find(&segments).map(|it| it.method()),
                method,
                "{path}"
            );
        }
    }
}
