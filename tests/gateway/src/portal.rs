//! Everything under `/.pomerium/`: handing out sign-in URLs, the sign-in page, who am I, which routes, until when.

use std::time::UNIX_EPOCH;

use jiff::Timestamp;
use serde_json::{Value, json};
use url::{Host, Url, form_urlencoded};

use crate::{
    head::{Answer, Request},
    sessions::{self, Session, random},
    shared::Shared,
};

const COOKIE: &str = "_pomerium";

/// Answers a GET or POST. `secure`: the client speaks TLS (or says that a proxy before us does).
pub(crate) fn answer(
    shared: &Shared,
    request: &Request,
    body: &[u8],
    secure: bool,
    id: &str,
) -> Answer {
    let host = request.header("host").unwrap_or("localhost");
    let origin = format!("{}://{host}", if secure { "https" } else { "http" });
    let Some(url) = Url::parse(&origin)
        .ok()
        .and_then(|it| it.join(&request.target).ok())
    else {
        return Answer::pomerium(400, "Bad Request", id);
    };
    let visit = Visit {
        shared,
        request,
        url,
        body,
        origin,
        id,
    };
    match (request.method.as_str(), visit.url.path()) {
        ("GET", "/.pomerium/api/v1/login") => visit.login(secure),
        (_, "/.pomerium/api/v1/login") => Answer::pomerium(405, "Method Not Allowed", id),
        ("GET" | "POST", "/.pomerium/sign_in") => visit.sign_in(),
        ("GET", "/.pomerium/callback/") => visit.way_back(),
        ("GET", "/.pomerium/user") => visit.user(),
        ("GET", "/.pomerium/api/v1/routes") => visit.routes(),
        ("GET", "/.pomerium/") => visit.dashboard(),
        ("GET", "/.pomerium/sign_out") => visit.sign_out(),
        ("GET", "/.gateway/check") => visit.check(),
        _ => Answer::envoy(404, "route_not_found", id),
    }
}

struct Visit<'a> {
    shared: &'a Shared,
    request: &'a Request,
    url: Url,
    body: &'a [u8],
    origin: String,
    id: &'a str,
}

impl Visit<'_> {
    fn query(&self, name: &str) -> Option<String> {
        let mut pairs = self.url.query_pairs();
        pairs
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.into_owned())
    }

    fn session(&self) -> Option<Session> {
        self.shared.sessions.of(self.request.token()?)
    }

    fn unauthorized(&self) -> Answer {
        if self.request.accepts_json() {
            Answer::pomerium(401, "Unauthorized", self.id)
        } else {
            Answer::redirect(format!("{}/.pomerium/sign_in", self.origin))
        }
    }

    /// Hands out a sign-in URL: text, good for five minutes.
    fn login(&self, secure: bool) -> Answer {
        let Some(redirect) = self.query("pomerium_redirect_uri") else {
            return Answer::pomerium(400, "missing pomerium_redirect_uri", self.id);
        };
        if !is_loopback(&redirect) {
            return Answer::pomerium(400, "invalid pomerium_redirect_uri", self.id);
        }
        let login = self.shared.sessions.mint(&redirect, &self.origin);
        self.shared.counters.count(|stats| stats.logins_minted += 1);
        let at = if secure {
            format!("https://authenticate.{}", self.shared.domain)
        } else {
            self.origin.clone()
        };
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.append_pair("id", &login);
        query.append_pair("pomerium_redirect_uri", &redirect);
        let url = format!("{at}/.pomerium/sign_in?{}", query.finish());
        Answer::new(200, "text/plain; charset=utf-8", url)
    }

    /// The sign-in page, and its button. A browser that is signed in goes straight on.
    fn sign_in(&self) -> Answer {
        let pressed = self.request.method == "POST";
        let id = if pressed {
            let mut fields = form_urlencoded::parse(self.body);
            fields
                .find(|(key, _)| key == "id")
                .map(|(_, value)| value.into_owned())
        } else {
            self.query("id")
        };
        let id = id.unwrap_or_default();
        let cookie = self.request.cookie(COOKIE).map(str::to_owned);
        let known = cookie
            .as_deref()
            .and_then(|it| self.shared.sessions.browser(it));
        let automatic = *self.shared.automatic.borrow();
        if !pressed && !automatic && known.is_none() {
            self.shared.counters.count(|stats| stats.sign_in_pages += 1);
            return self.page(&id);
        }
        let cookie = cookie.unwrap_or_else(|| random(16));
        // A person who is too slow signs in first and is told then.
        let user = self.shared.user.borrow().clone();
        let signed_in = self.shared.sessions.sign_in(&cookie, &user);
        let Some(login) = self.shared.sessions.login(&id) else {
            return Answer::new(400, "text/html; charset=utf-8", "<h1>400 Bad Request</h1>");
        };
        self.shared.counters.count(|stats| {
            stats.sign_ins += 1;
            stats.sessions_made += u64::from(signed_in.fresh);
        });
        let code = self.shared.sessions.code(&login.redirect, &signed_in.token);
        Answer::redirect(format!("{}/.pomerium/callback/?code={code}", login.origin))
            .with("set-cookie", format!("{COOKIE}={cookie}; Path=/; HttpOnly"))
    }

    fn page(&self, id: &str) -> Answer {
        let id: String = id
            .chars()
            .filter(|it| it.is_ascii_alphanumeric() || "-_".contains(*it))
            .collect();
        let user = escape(&self.shared.user.borrow());
        let body = include_str!("sign_in.html")
            .replace("{id}", &id)
            .replace("{user}", &user);
        Answer::new(200, "text/html; charset=utf-8", body).with("cache-control", "no-store")
    }

    /// Back on the host where it began: on to the client, with the token.
    fn way_back(&self) -> Answer {
        let code = self.query("code").unwrap_or_default();
        let Some((redirect, token)) = self.shared.sessions.redeem(&code) else {
            return Answer::pomerium(400, "Bad Request", self.id);
        };
        let join = if redirect.contains('?') { '&' } else { '?' };
        Answer::redirect(format!("{redirect}{join}pomerium_jwt={token}"))
    }

    fn user(&self) -> Answer {
        let Some(session) = self.session() else {
            return self.unauthorized();
        };
        let name = session.user.split('@').next().unwrap_or_default();
        let claims = json!({
            "email": session.user, "groups": ["people"], "name": name, "sub": sessions::subject(&session.user),
        });
        Answer::json(200, &claims)
    }

    fn routes(&self) -> Answer {
        let Some(session) = self.session() else {
            return self.unauthorized();
        };
        let routes: Vec<Value> = self
            .shared
            .offered(&session.user)
            .iter()
            .map(|authority| {
                let name = authority.split('.').next().unwrap_or_default();
                json!({
                    "id": sessions::subject(authority), "name": name, "type": "tcp",
                    "from": format!("tcp+https://{authority}"), "description": "",
                    "connect_command": format!("pomerium-cli tcp {authority}"), "logo_url": "",
                })
            })
            .collect();
        Answer::json(200, &json!({ "routes": routes }))
    }

    /// 200 for everybody; the session's end is in a script.
    fn dashboard(&self) -> Answer {
        let session = match (self.session(), self.request.token()) {
            (Some(session), _) => {
                let ends = session.ends.duration_since(UNIX_EPOCH).unwrap_or_default();
                let ends = Timestamp::from_second(ends.as_secs().try_into().unwrap_or_default());
                json!({ "expiresAt": ends.unwrap_or_default().to_string() })
            }
            (None, Some(_)) => json!({ "expiresAt": "1970-01-01T00:00:00Z" }),
            (None, None) => Value::Null,
        };
        let data = json!({ "page": "UserInfo", "session": session });
        let body = format!(
            "<!doctype html><html><head><title>Pomerium</title><script>window.POMERIUM_DATA = {data};</script></head>\
             <body><div id=\"root\"></div></body></html>"
        );
        Answer::new(200, "text/html; charset=utf-8", body)
    }

    /// Ends the session of the browser's cookie; a token alone is sent on politely and goes on working.
    fn sign_out(&self) -> Answer {
        let cookie = self.request.cookie(COOKIE);
        if let Some(token) = cookie.and_then(|it| self.shared.sessions.browser(it)) {
            self.shared.sessions.end(&token);
        }
        Answer::redirect(format!("{}/.pomerium/signed_out", self.origin))
            .with("set-cookie", format!("{COOKIE}=; Path=/; Max-Age=0"))
    }

    /// For a real Envoy in front: what would a CONNECT to this authority be told?
    fn check(&self) -> Answer {
        let authority = self.query("authority").unwrap_or_default();
        self.shared.saw_check(&authority, self.request);
        match self.shared.judge(&authority, self.request, self.id) {
            Ok(_) => Answer::new(200, "text/plain", ""),
            Err(refusal) => refusal,
        }
    }
}

/// Where a browser may be sent: to this machine, and nowhere else.
fn is_loopback(redirect: &str) -> bool {
    let Ok(url) = Url::parse(redirect) else {
        return false;
    };
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('"', "&quot;")
}
