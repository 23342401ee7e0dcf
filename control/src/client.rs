//! A typed client for the control socket.
//!
//! Before a byte is sent the server's user is looked at: somebody else's socket gets nothing (A10).

mod follow;
mod request;
mod stream;

use std::{
    io,
    net::TcpStream,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, Response, StatusCode, body::Incoming, upgrade::Upgraded};
use hyper_util::rt::TokioIo;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Serialize, de::DeserializeOwned};
use tokio::io::AsyncWriteExt;

pub use follow::{FollowedEvents, FollowedLogs, News};
pub use stream::{Lines, RouteStream};

use request::Asked;
use stream::Connection;

use crate::descriptor;
use crate::paths::Paths;
use crate::socket::{self, Socket};
use crate::wire::{self, ApiError, ErrorAnswer, PROTOCOL, PROTOCOL_HEADER};

/// How long pomd may take to take a connection and start its answer to a question that needs no network.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long an answer may take that waits for the network; pomd's own limits end sooner and say more.
const LONG_PATIENCE: Duration = Duration::from_secs(90);

/// A client of one pomd's control socket. Each call opens a connection of its own; a client keeps none.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
    /// The state folder, whose lock names the socket of the pomd that has it.
    state: Option<PathBuf>,
}

/// Why a question got no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nothing listens on the socket.
    #[error("pomd is not running")]
    NotRunning,
    /// Somebody else's pomd, or something that pretends to be ours.
    #[error("{} belongs to another user ({user}), so nothing was sent to it", path.display())]
    NotOurs {
        /// The socket.
        path: PathBuf,
        /// Who listens on it, as the system names users.
        user: String,
    },
    /// It speaks another protocol.
    #[error("pomd {theirs} speaks another protocol than this pomctl ({PROTOCOL})")]
    OtherProtocol {
        /// Its protocol, as it says.
        theirs: String,
    },
    /// The connection ended before there was an answer.
    #[error("talking to pomd over {} failed: it closed the connection without an answer", path.display())]
    Cut {
        /// The socket.
        path: PathBuf,
    },
    /// It answered with an error.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// The connection or the answer broke.
    #[error("talking to pomd over {} failed: {message}", path.display())]
    Broken {
        /// The socket.
        path: PathBuf,
        /// How.
        message: String,
    },
}

impl Client {
    /// Returns a client of whoever listens on `socket`.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self {
            socket: socket.into(),
            state: None,
        }
    }

    /// Returns a client of the pomd that has the state folder of `paths`, wherever it listens: the environment of whoever
    /// started it may name another socket than ours. `named`: a person named the socket, which holds then.
    pub fn of(paths: &Paths, named: bool) -> Self {
        Self {
            socket: paths.socket.clone(),
            state: (!named).then(|| paths.state.clone()),
        }
    }

    /// Returns the process that listens, as this one sees it; `None` where the system does not tell.
    pub async fn process(&self) -> Result<Option<u32>, ClientError> {
        Ok(socket::process(&self.open_socket().await?))
    }

    /// Follows [`Client::events`], and those of the next life after a restart.
    pub async fn follow_events(&self) -> Result<FollowedEvents, ClientError> {
        Ok(FollowedEvents::new(self.clone(), self.events().await?))
    }

    /// Follows [`Client::logs`], and goes on with the next life after a restart where this one was left.
    pub async fn follow_logs(&self, tunnel: Option<&str>) -> Result<FollowedLogs, ClientError> {
        let lines = self.logs(tunnel, true).await?;
        Ok(FollowedLogs::new(self.clone(), tunnel, lines))
    }

    /// `GET /v1/status`.
    pub async fn status(&self) -> Result<wire::Status, ClientError> {
        self.ask(Method::GET, "/v1/status", None::<&()>, PATIENCE)
            .await
    }

    /// `GET /v1/events`: the newest status after each change, the present one first.
    pub async fn events(&self) -> Result<Lines<wire::Status>, ClientError> {
        self.lines("/v1/events").await
    }

    /// `GET /v1/logs`: what is remembered, then, if `follow`, what comes.
    pub async fn logs(
        &self,
        tunnel: Option<&str>,
        follow: bool,
    ) -> Result<Lines<wire::LogLine>, ClientError> {
        let tunnel = tunnel.map_or(String::new(), |it| format!("&tunnel={}", segment(it)));
        self.lines(&format!("/v1/logs?follow={follow}{tunnel}"))
            .await
    }

    /// `POST /v1/tunnels/{name}/up`.
    pub async fn up(&self, tunnel: &str) -> Result<wire::UpAnswer, ClientError> {
        let path = format!("/v1/tunnels/{}/up", segment(tunnel));
        self.ask(Method::POST, &path, None::<&()>, LONG_PATIENCE)
            .await
    }

    /// `POST /v1/tunnels`.
    pub async fn make_tunnel(
        &self,
        request: &wire::TunnelRequest,
    ) -> Result<wire::MadeTunnel, ClientError> {
        self.ask(Method::POST, "/v1/tunnels", Some(request), PATIENCE)
            .await
    }

    /// `POST /v1/tunnels/{name}/down`; `now` ends its connections too.
    pub async fn down(&self, tunnel: &str, now: bool) -> Result<wire::DownAnswer, ClientError> {
        let path = format!("/v1/tunnels/{}/down?now={now}", segment(tunnel));
        self.ask(Method::POST, &path, None::<&()>, PATIENCE).await
    }

    /// `POST /v1/tunnels/{name}/probe`: proves that its route opens as [`Client::up`] does, and starts nothing.
    pub async fn probe(&self, tunnel: &str) -> Result<wire::UpAnswer, ClientError> {
        let path = format!("/v1/tunnels/{}/probe", segment(tunnel));
        self.ask(Method::POST, &path, None::<&()>, LONG_PATIENCE)
            .await
    }

    /// `POST /v1/tunnels/{name}/doctor`.
    pub async fn doctor(&self, tunnel: &str) -> Result<wire::Diagnosis, ClientError> {
        let path = format!("/v1/tunnels/{}/doctor", segment(tunnel));
        self.ask(Method::POST, &path, None::<&()>, LONG_PATIENCE)
            .await
    }

    /// `POST /v1/doctor`: the same for a route that no tunnel need lead to; with `ssh` its service is expected to speak first.
    pub async fn doctor_of_route(
        &self,
        route: &str,
        ssh: bool,
    ) -> Result<wire::Diagnosis, ClientError> {
        let path = format!("/v1/doctor?route={}&ssh={ssh}", segment(route));
        self.ask(Method::POST, &path, None::<&()>, LONG_PATIENCE)
            .await
    }

    /// `POST /v1/clusters/{name}/login`.
    pub async fn login(
        &self,
        cluster: &str,
        request: wire::LoginRequest,
    ) -> Result<wire::LoginAnswer, ClientError> {
        let path = format!("/v1/clusters/{}/login", segment(cluster));
        self.ask(Method::POST, &path, Some(&request), LONG_PATIENCE)
            .await
    }

    /// `POST /v1/clusters/{name}/login/answer`.
    pub async fn answer_login(
        &self,
        cluster: &str,
        answer: &wire::PastedAnswer,
    ) -> Result<wire::Cluster, ClientError> {
        let path = format!("/v1/clusters/{}/login/answer", segment(cluster));
        self.ask(Method::POST, &path, Some(answer), LONG_PATIENCE)
            .await
    }

    /// `POST /v1/clusters/{name}/logout`.
    pub async fn logout(&self, cluster: &str) -> Result<wire::LogoutAnswer, ClientError> {
        let path = format!("/v1/clusters/{}/logout", segment(cluster));
        self.ask(Method::POST, &path, None::<&()>, PATIENCE).await
    }

    /// `GET /v1/clusters/{name}/routes`.
    pub async fn routes(&self, cluster: &str) -> Result<wire::RoutesAnswer, ClientError> {
        let path = format!("/v1/clusters/{}/routes", segment(cluster));
        self.ask(Method::GET, &path, None::<&()>, LONG_PATIENCE)
            .await
    }

    /// `POST /v1/clusters/{name}/token`.
    pub async fn token(&self, cluster: &str) -> Result<wire::TokenAnswer, ClientError> {
        let path = format!("/v1/clusters/{}/token", segment(cluster));
        self.ask(Method::POST, &path, None::<&()>, LONG_PATIENCE)
            .await
    }

    /// `POST /v1/connect`: the route as a stream, whose reading fails where the route was cut. With `ssh` a refusal is
    /// told to ssh in its own words on the stream; else it is the error here.
    pub async fn connect(&self, route: &str, ssh: bool) -> Result<RouteStream, ClientError> {
        let (upgraded, connection) = self.upgrade(route, ssh, wire::CONNECT_FRAMED).await?;
        Ok(RouteStream::new(upgraded, connection))
    }

    /// `POST /v1/connect`: the route as a connection of its own, which lives on without this process. Whatever there is
    /// to tell, a refusal or that a login is needed, is told on it or by pomd; the error here is that there is none.
    pub async fn connect_descriptor(
        &self,
        route: &str,
        ssh: bool,
    ) -> Result<TcpStream, ClientError> {
        let asked = self.upgrade(route, ssh, wire::CONNECT_DESCRIPTOR);
        let (upgraded, _connection) = asked.await?;
        let handed = async {
            let parts = upgraded
                .downcast::<TokioIo<Socket>>()
                .map_err(|_| io::Error::other("it is not a control socket"))?;
            let mut socket = parts.io.into_inner();
            socket.write_u8(0).await?;
            descriptor::receive(&socket).await
        };
        match tokio::time::timeout(PATIENCE, handed).await {
            Ok(handed) => handed.map_err(|it| self.broken(it)),
            Err(_) => Err(self.broken("no descriptor came")),
        }
    }

    /// Asks for a route as `protocol`.
    async fn upgrade(
        &self,
        route: &str,
        ssh: bool,
        protocol: &'static str,
    ) -> Result<(Upgraded, Connection), ClientError> {
        let path = format!("/v1/connect?route={}&ssh={ssh}&notes=true", segment(route));
        let request = self
            .request(Method::POST, &path)
            .header("connection", "upgrade")
            .header("upgrade", protocol)
            .body(Full::new(Bytes::new()))
            .map_err(|it| self.broken(it))?;
        let (response, connection) = self
            .send_request(Asked::Again, request, LONG_PATIENCE)
            .await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(self.error(response).await);
        }
        let spoken = response.headers().get(hyper::header::UPGRADE);
        if spoken.is_none_or(|it| it != protocol) {
            return Err(self.broken("it does not speak the protocol that was asked for"));
        }
        let upgraded = hyper::upgrade::on(response)
            .await
            .map_err(|it| self.broken(it))?;
        Ok((upgraded, connection))
    }

    /// `POST /v1/reload`.
    pub async fn reload(&self) -> Result<wire::ReloadAnswer, ClientError> {
        self.ask(Method::POST, "/v1/reload", None::<&()>, PATIENCE)
            .await
    }

    /// `POST /v1/restart`; `force`: also where the configuration file is broken.
    pub async fn restart(&self, force: bool) -> Result<wire::RestartAnswer, ClientError> {
        let path = if force {
            "/v1/restart?force=true"
        } else {
            "/v1/restart"
        };
        self.ask_as(Asked::Once, Method::POST, path, None::<&()>, LONG_PATIENCE)
            .await
    }

    /// `POST /v1/give-way`, for the process `pid`.
    pub async fn give_way(&self, pid: u32) -> Result<wire::StopAnswer, ClientError> {
        let request = wire::GiveWayRequest { pid };
        self.ask_as(
            Asked::Once,
            Method::POST,
            "/v1/give-way",
            Some(&request),
            PATIENCE,
        )
        .await
    }

    /// `POST /v1/stop`.
    pub async fn stop(&self) -> Result<wire::StopAnswer, ClientError> {
        self.ask(Method::POST, "/v1/stop", None::<&()>, PATIENCE)
            .await
    }

    async fn lines<T: DeserializeOwned>(&self, path: &str) -> Result<Lines<T>, ClientError> {
        let (response, connection) = self
            .send(Asked::Again, Method::GET, path, Bytes::new(), PATIENCE)
            .await?;
        if !response.status().is_success() {
            return Err(self.error(response).await);
        }
        let life = response.headers().get(wire::LIFE_HEADER);
        let life = life.map(|it| it.as_bytes().to_vec());
        Ok(Lines::new(
            response.into_body(),
            life,
            self.socket.clone(),
            connection,
        ))
    }

    async fn ask<B: Serialize, T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&B>,
        patience: Duration,
    ) -> Result<T, ClientError> {
        self.ask_as(Asked::Again, method, path, body, patience)
            .await
    }

    async fn ask_as<B: Serialize, T: DeserializeOwned>(
        &self,
        asked: Asked,
        method: Method,
        path: &str,
        body: Option<&B>,
        patience: Duration,
    ) -> Result<T, ClientError> {
        let body = match body {
            Some(body) => serde_json::to_vec(body)
                .map_err(|it| self.broken(it))?
                .into(),
            None => Bytes::new(),
        };
        let (response, _connection) = self.send(asked, method, path, body, patience).await?;
        if !response.status().is_success() {
            return Err(self.error(response).await);
        }
        let body = self.collect(response).await?;
        serde_json::from_slice(&body).map_err(|it| self.broken(it))
    }

    async fn send(
        &self,
        asked: Asked,
        method: Method,
        path: &str,
        body: Bytes,
        patience: Duration,
    ) -> Result<(Response<Incoming>, Connection), ClientError> {
        let request = self
            .request(method, path)
            .body(Full::new(body))
            .map_err(|it| self.broken(it))?;
        self.send_request(asked, request, patience).await
    }

    fn request(&self, method: Method, path: &str) -> hyper::http::request::Builder {
        Request::builder()
            .method(method)
            .uri(path)
            .header("host", "pomd")
            .header("content-type", "application/json")
            .header(PROTOCOL_HEADER, PROTOCOL)
    }

    async fn collect(&self, response: Response<Incoming>) -> Result<Bytes, ClientError> {
        let body = tokio::time::timeout(PATIENCE, response.into_body().collect())
            .await
            .map_err(|_| self.broken("the answer stopped half-way"))?
            .map_err(|it| self.broken(it))?;
        Ok(body.to_bytes())
    }

    async fn error(&self, response: Response<Incoming>) -> ClientError {
        let status = response.status();
        match self.collect(response).await {
            Ok(body) => self.error_from(status, &body),
            Err(error) => error,
        }
    }

    fn error_from(&self, status: StatusCode, body: &[u8]) -> ClientError {
        match serde_json::from_slice::<ErrorAnswer>(body) {
            Ok(answer) => ClientError::Api(answer.error),
            Err(_) => self.broken(format!("it answered {status}")),
        }
    }

    fn broken(&self, message: impl ToString) -> ClientError {
        broken(&self.socket, message)
    }
}

fn broken(socket: &Path, message: impl ToString) -> ClientError {
    ClientError::Broken {
        path: socket.to_owned(),
        message: message.to_string(),
    }
}

/// Returns `text` as one segment of a path: all but the unreserved characters of RFC 3986 is percent-encoded.
fn segment(text: &str) -> String {
    const RESERVED: &AsciiSet = &NON_ALPHANUMERIC
        .remove(b'-')
        .remove(b'.')
        .remove(b'_')
        .remove(b'~');
    utf8_percent_encode(text, RESERVED).to_string()
}
