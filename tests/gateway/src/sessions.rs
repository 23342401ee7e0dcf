//! Who is signed in: tokens, the browsers that hold them, and sign-ins under way. In memory, as a server without a
//! database does it. Knows no HTTP.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use tokio::time::Instant;

/// How long a sign-in URL is good.
const LOGIN_LIFE: Duration = Duration::from_secs(5 * 60);
/// How long a session lasts.
const SESSION_LIFE: Duration = Duration::from_secs(14 * 60 * 60);

/// One session. `token` is its name to the outside.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    pub(crate) user: String,
    pub(crate) token: String,
    pub(crate) ends: SystemTime,
}

/// A sign-in that a client asked for.
#[derive(Clone, Debug)]
pub(crate) struct Login {
    /// Where the browser goes in the end.
    pub(crate) redirect: String,
    /// `scheme://HOST` where the client asked, for the way back.
    pub(crate) origin: String,
    minted: Instant,
}

/// What a browser reached at a sign-in.
#[derive(Clone, Debug)]
pub(crate) struct SignedIn {
    pub(crate) token: String,
    pub(crate) fresh: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Sessions(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// By token.
    sessions: BTreeMap<String, Session>,
    /// By token: those that an identity provider issued.
    bearers: BTreeMap<String, Session>,
    /// By the browser's cookie: the token.
    browsers: BTreeMap<String, String>,
    /// By id.
    logins: BTreeMap<String, Login>,
    /// One-time codes of the way back: where to, with which token.
    codes: BTreeMap<String, (String, String)>,
    /// What new tokens say of their end, whatever the server does.
    exp: Option<Value>,
}

impl Sessions {
    pub(crate) fn issue(&self, user: &str) -> Session {
        let mut inner = self.lock();
        let session = new_session(user, inner.exp.as_ref());
        inner
            .sessions
            .insert(session.token.clone(), session.clone());
        session
    }

    /// A token of an identity provider for `user`, with an end of its own.
    pub(crate) fn issue_bearer(&self, user: &str, life: Duration) -> String {
        let ends = now() + life;
        let since = ends.duration_since(UNIX_EPOCH).unwrap_or_default();
        let claims = json!({
            "iss": "https://issuer.test",
            "aud": ["https://corp.test"],
            "sub": user,
            "jti": random(8),
            "exp": since.as_secs_f64(),
        });
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let token = format!(
            "{}.{}.{}",
            part(&json!({"alg": "ES256"})),
            part(&claims),
            random(16)
        );
        let session = Session {
            user: user.to_owned(),
            token: token.clone(),
            ends,
        };
        self.lock().bearers.insert(token.clone(), session);
        token
    }

    pub(crate) fn of_bearer(&self, token: &str) -> Option<Session> {
        let session = self.lock().bearers.get(token).cloned();
        session.filter(|it| now() < it.ends)
    }

    pub(crate) fn end_bearer(&self, token: &str) {
        self.lock().bearers.remove(token);
    }

    pub(crate) fn of(&self, token: &str) -> Option<Session> {
        self.lock().sessions.get(token).cloned()
    }

    pub(crate) fn end(&self, token: &str) -> bool {
        let mut inner = self.lock();
        inner.browsers.retain(|_, it| it != token);
        inner.sessions.remove(token).is_some()
    }

    /// As a restart with storage in memory does.
    pub(crate) fn end_all(&self) {
        let mut inner = self.lock();
        inner.sessions.clear();
        inner.browsers.clear();
    }

    pub(crate) fn say_exp(&self, exp: Option<Value>) {
        self.lock().exp = exp;
    }

    pub(crate) fn expire_logins(&self) {
        self.lock().logins.clear();
    }

    /// A new sign-in; returns its id.
    pub(crate) fn mint(&self, redirect: &str, origin: &str) -> String {
        let id = random(16);
        let login = Login {
            redirect: redirect.to_owned(),
            origin: origin.to_owned(),
            minted: Instant::now(),
        };
        let mut inner = self.lock();
        inner
            .logins
            .retain(|_, it| it.minted.elapsed() < LOGIN_LIFE);
        inner.logins.insert(id.clone(), login);
        id
    }

    /// The sign-in `id`, unless its time is over.
    pub(crate) fn login(&self, id: &str) -> Option<Login> {
        let inner = self.lock();
        let login = inner.logins.get(id)?;
        (login.minted.elapsed() < LOGIN_LIFE).then(|| login.clone())
    }

    /// Signs `user` in with the browser `cookie`: the session it has, or a new one.
    pub(crate) fn sign_in(&self, cookie: &str, user: &str) -> SignedIn {
        if let Some(token) = self.browser(cookie) {
            return SignedIn {
                token,
                fresh: false,
            };
        }
        let session = self.issue(user);
        let mut inner = self.lock();
        inner
            .browsers
            .insert(cookie.to_owned(), session.token.clone());
        SignedIn {
            token: session.token,
            fresh: true,
        }
    }

    /// The token of the session that this browser has.
    pub(crate) fn browser(&self, cookie: &str) -> Option<String> {
        self.lock().browsers.get(cookie).cloned()
    }

    /// A one-time code that leads to `redirect` with `token`.
    pub(crate) fn code(&self, redirect: &str, token: &str) -> String {
        let code = random(16);
        let value = (redirect.to_owned(), token.to_owned());
        self.lock().codes.insert(code.clone(), value);
        code
    }

    pub(crate) fn redeem(&self, code: &str) -> Option<(String, String)> {
        self.lock().codes.remove(code)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `bytes` random bytes as text.
pub(crate) fn random(bytes: usize) -> String {
    let mut buffer = vec![0; bytes];
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let filled = provider.secure_random.fill(&mut buffer);
    assert!(filled.is_ok(), "the system gives no random bytes");
    URL_SAFE_NO_PAD.encode(buffer)
}

/// A request id in the shape of Envoy's.
pub(crate) fn request_id() -> String {
    let mut bytes = [0; 16];
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let filled = provider.secure_random.fill(&mut bytes);
    assert!(filled.is_ok(), "the system gives no random bytes");
    let hex: String = bytes.iter().map(|it| format!("{it:02x}")).collect();
    let parts = [
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..],
    ];
    parts.join("-")
}

fn new_session(user: &str, exp: Option<&Value>) -> Session {
    let now = now();
    let iat = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let encode = |it: Value| URL_SAFE_NO_PAD.encode(it.to_string());
    let header = encode(json!({ "alg": "HS256", "typ": "JWT" }));
    let mut claims = json!({
        "jti": random(12), "sub": subject(user), "aud": ["gateway"], "iat": iat, "iss": "gateway", "idp_id": "demo",
    });
    if let Some(exp) = exp {
        claims["exp"] = exp.clone();
    }
    let claims = encode(claims);
    Session {
        user: user.to_owned(),
        token: format!("{header}.{claims}.{}", random(32)),
        ends: now + SESSION_LIFE,
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the gateway plays the server, which has a clock of its own"
)]
fn now() -> SystemTime {
    SystemTime::now()
}

/// The subject that stands for a user.
pub(crate) fn subject(user: &str) -> String {
    URL_SAFE_NO_PAD.encode(user)
}
