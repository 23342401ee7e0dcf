//! The person's side of a login: follows links with cookies and presses the one button of the sign-in page.
//!
//! Names of this machine are dialled as they are; every other name is dialled at the gateway, as if DNS led there.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::{Context, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{
    Method, Request, Response,
    body::Incoming,
    client::conn::http1,
    header::{CONTENT_TYPE, COOKIE, HOST, LOCATION, SET_COOKIE},
};
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    task::JoinSet,
};
use tokio_rustls::TlsConnector;
use url::{Url, form_urlencoded};

/// How many redirects and buttons are followed.
const STEPS_MOST: usize = 12;
/// How long one step may take.
const STEP_TIME: Duration = Duration::from_secs(20);

/// A browser with its cookies. One is one person.
pub struct Browser {
    tls: TlsConnector,
    elsewhere: SocketAddr,
    cookies: Mutex<BTreeMap<(String, String), String>>,
}

/// Where a browser arrived.
#[derive(Clone, Debug)]
pub struct Page {
    /// The address in its address bar.
    pub url: String,
    /// The status.
    pub status: u16,
    /// The headers, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The page's text.
    pub body: String,
    /// The addresses visited on the way, this one last.
    pub trail: Vec<String>,
}

impl Page {
    /// The first value of the header `name`.
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(it, _)| it == name);
        found.map(|(_, value)| value.as_str())
    }
}

impl Browser {
    /// Trusts `ca_pem`; dials `elsewhere` for every name that is not of this machine.
    pub fn new(ca_pem: &str, elsewhere: SocketAddr) -> anyhow::Result<Self> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(ca_pem.as_bytes())?)?;
        let provider = Arc::new(aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self {
            tls: TlsConnector::from(Arc::new(config)),
            elsewhere,
            cookies: Mutex::default(),
        })
    }

    /// Goes to `url`, follows redirects, presses the sign-in button if there is one, and says where it ended.
    pub async fn visit(&self, url: &str) -> anyhow::Result<Page> {
        self.walk(url, true).await
    }

    /// As [`Browser::visit`], but reads the sign-in page and presses nothing.
    pub async fn look(&self, url: &str) -> anyhow::Result<Page> {
        self.walk(url, false).await
    }

    /// One GET: no redirect followed, no button pressed.
    pub async fn get(&self, url: &str) -> anyhow::Result<Page> {
        self.step(Method::GET, &Url::parse(url)?, None).await
    }

    async fn walk(&self, url: &str, press: bool) -> anyhow::Result<Page> {
        let mut trail = Vec::new();
        let mut url = Url::parse(url)?;
        let mut form = None;
        for _ in 0..STEPS_MOST {
            trail.push(url.to_string());
            let method = if form.is_some() {
                Method::POST
            } else {
                Method::GET
            };
            let mut page = self.step(method, &url, form.take()).await?;
            if let (300..400, Some(location)) = (page.status, page.header("location")) {
                url = url.join(location)?;
            } else if let (true, Some((action, fields))) = (press, button(&page.body)) {
                url = url.join(&action)?;
                form = Some(fields);
            } else {
                page.trail = trail;
                return Ok(page);
            }
        }
        bail!("this leads in circles: {trail:?}")
    }

    async fn step(&self, method: Method, url: &Url, form: Option<String>) -> anyhow::Result<Page> {
        let step = self.request(method, url, form);
        tokio::time::timeout(STEP_TIME, step)
            .await
            .context("no answer in time")
            .flatten()
            .with_context(|| format!("visiting {url}"))
    }

    async fn request(
        &self,
        method: Method,
        url: &Url,
        form: Option<String>,
    ) -> anyhow::Result<Page> {
        let host = url.host_str().context("no host")?;
        let port = url.port_or_known_default().context("no port")?;
        let here = matches!(host, "localhost" | "127.0.0.1" | "[::1]");
        let tcp = if here {
            TcpStream::connect((host.trim_matches(['[', ']']), port)).await?
        } else {
            TcpStream::connect(self.elsewhere).await?
        };
        let target = &url[url::Position::BeforePath..url::Position::AfterQuery];
        let host_header = &url[url::Position::BeforeHost..url::Position::AfterPort];
        let mut request = Request::builder()
            .method(method)
            .uri(target)
            .header(HOST, host_header)
            .header("accept", "text/html,*/*;q=0.8");
        if let Some(cookies) = self.cookies_for(host) {
            request = request.header(COOKIE, cookies);
        }
        if form.is_some() {
            request = request.header(CONTENT_TYPE, "application/x-www-form-urlencoded");
        }
        let request = request.body(Full::new(Bytes::from(form.unwrap_or_default())))?;
        let mut driver = JoinSet::new();
        let response = if url.scheme() == "https" {
            let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned())?;
            let tls = self.tls.connect(name, tcp).await?;
            exchange(tls, request, &mut driver).await?
        } else {
            exchange(tcp, request, &mut driver).await?
        };
        self.page(url, response).await
    }

    async fn page(&self, url: &Url, response: Response<Incoming>) -> anyhow::Result<Page> {
        let host = url.host_str().unwrap_or_default();
        let text = |it: &http::HeaderValue| String::from_utf8_lossy(it.as_bytes()).into_owned();
        for cookie in response.headers().get_all(SET_COOKIE) {
            let cookie = text(cookie);
            let pair = cookie.split(';').next().unwrap_or_default();
            if let Some((name, value)) = pair.split_once('=') {
                let key = (host.to_owned(), name.trim().to_owned());
                let mut cookies = crate::lock(&self.cookies);
                if cookie.to_ascii_lowercase().contains("max-age=0") {
                    cookies.remove(&key);
                } else {
                    cookies.insert(key, value.to_owned());
                }
            }
        }
        let status = response.status().as_u16();
        let headers = response.headers().iter();
        let headers = headers
            .map(|(name, value)| (name.as_str().to_owned(), text(value)))
            .collect();
        if (300..400).contains(&status) && response.headers().get(LOCATION).is_none() {
            bail!("a redirect to nowhere");
        }
        let body = response.into_body().collect().await?.to_bytes();
        Ok(Page {
            url: url.to_string(),
            status,
            headers,
            body: String::from_utf8_lossy(&body).into_owned(),
            trail: vec![url.to_string()],
        })
    }

    fn cookies_for(&self, host: &str) -> Option<String> {
        let cookies = crate::lock(&self.cookies);
        let mine = cookies.iter().filter(|((of, _), _)| of == host);
        let pairs: Vec<String> = mine
            .map(|((_, name), value)| format!("{name}={value}"))
            .collect();
        (!pairs.is_empty()).then(|| pairs.join("; "))
    }
}

async fn exchange<S>(
    stream: S,
    request: Request<Full<Bytes>>,
    driver: &mut JoinSet<()>,
) -> anyhow::Result<Response<Incoming>>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    driver.spawn(async move {
        let _ = connection.await;
    });
    Ok(sender.send_request(request).await?)
}

/// The address and the fields of the page's form, if it has one.
fn button(body: &str) -> Option<(String, String)> {
    let form = &body[body.find("<form")?..];
    let form = &form[..form.find("</form>")?];
    let attribute = |tag: &str, name: &str| {
        let (_, rest) = tag.split_once(&format!("{name}=\""))?;
        rest.split_once('"').map(|it| it.0.to_owned())
    };
    let action = attribute(form, "action")?;
    let mut fields = form_urlencoded::Serializer::new(String::new());
    for tag in form.split("<input").skip(1) {
        if let (Some(name), Some(value)) = (attribute(tag, "name"), attribute(tag, "value")) {
            fields.append_pair(&name, &value);
        }
    }
    Some((action, fields.finish()))
}

impl std::fmt::Debug for Browser {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Browser")
    }
}
