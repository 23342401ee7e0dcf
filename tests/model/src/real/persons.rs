//! Persons: they ask for logins, and come back from signing in as a browser does.

use std::{collections::BTreeMap, fs, net::Ipv4Addr, path::Path, sync::Arc};

use control::wire::{LoginRequest, Opener};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::{JoinSet, yield_now},
};
use url::Url;

use super::outside::{Heard, Outside};
use pomd::session::Session;

/// How often whoever visits a page on this machine lets others go on before it is clear that no answer comes.
const TURNS: usize = 400;

/// The logins that there were, and what persons are at.
#[derive(Default)]
pub(super) struct Persons {
    /// Where each comes back to, by cluster.
    logins: BTreeMap<String, Vec<Login>>,
    count: u64,
    tasks: JoinSet<()>,
}

#[derive(Clone)]
struct Login {
    number: u64,
    redirect: Url,
    has_page: bool,
}

impl Persons {
    /// Another login begins.
    pub(super) fn begun(&mut self, cluster: &str, redirect: &str) {
        self.count += 1;
        let login = Login {
            number: self.count,
            redirect: Url::parse(redirect).expect("where to come back to"),
            has_page: false,
        };
        let logins = self.logins.entry(cluster.to_owned()).or_default();
        logins.push(login);
    }

    /// The newest login of the cluster has a page to sign in at.
    pub(super) fn has_page(&mut self, cluster: &str) {
        let logins = self.logins.get_mut(cluster).and_then(|it| it.last_mut());
        logins.into_iter().for_each(|it| it.has_page = true);
    }

    /// It waits for a page to sign in at.
    pub(super) fn waits_for_page(&self, cluster: &str) -> bool {
        let login = self.logins.get(cluster).and_then(|it| it.last());
        login.is_some_and(|it| !it.has_page)
    }

    /// Whose login this is a link of: the newest that listens there.
    pub(super) fn cluster_of(&self, link: &str) -> Option<String> {
        let port = Url::parse(link).ok()?.port();
        let newest = self.logins.iter();
        let newest = newest.filter_map(|(cluster, logins)| Some((cluster, logins.last()?)));
        let there = newest.filter(|it| it.1.redirect.port() == port);
        let login = there.max_by_key(|it| it.1.number)?;
        Some(login.0.clone())
    }

    /// pomd is gone, and its logins with it.
    pub(super) async fn forget(&mut self) {
        self.logins.clear();
        self.tasks.shutdown().await;
    }

    /// The session that these logins were for is gone.
    pub(super) fn forget_logins(&mut self, cluster: &str) {
        self.logins.remove(cluster);
    }

    pub(super) fn ask(&mut self, session: Session, shown_by_pomd: bool) {
        let request = LoginRequest {
            opener: match shown_by_pomd {
                true => Opener::Pomd,
                false => Opener::Caller,
            },
            mint: false,
        };
        self.tasks.spawn(async move {
            // What comes of it is seen from outside.
            let _ = session.login(request).await;
        });
    }

    /// A person signs in by the login `back` before the newest; `false`: there is none with a page.
    pub(super) async fn sign_in(
        &mut self,
        cluster: &str,
        back: usize,
        token: &str,
        outside: &Arc<Outside>,
        home: &Path,
    ) -> bool {
        let logins = self.logins.get(cluster).map_or(&[][..], |it| it);
        let login = logins.iter().rev().nth(back).filter(|it| it.has_page);
        let Some(redirect) = login.map(|it| it.redirect.clone()) else {
            return false;
        };
        let (token, outside) = (token.to_owned(), outside.clone());
        let tokens = home.join("tokens");
        self.tasks.spawn(async move {
            let status = visit(&redirect, &format!("?pomerium_jwt={token}")).await;
            let rests = rests(&tokens, &token);
            outside.hear(Heard::Told {
                token,
                is_well: status == Some(303),
                rests,
            });
        });
        for _ in 0..TURNS {
            yield_now().await;
            self.join();
            if self.tasks.is_empty() {
                break;
            }
        }
        true
    }

    /// Nobody can sign in by the newest login of the cluster any more.
    pub(super) async fn is_over(&self, cluster: &str) -> bool {
        let login = self.logins.get(cluster).and_then(|it| it.last());
        let Some(login) = login else { return true };
        // Without a token this is an answer that cannot be used, while there may be another.
        let mut visit = std::pin::pin!(visit(&login.redirect, ""));
        for _ in 0..TURNS {
            tokio::select! {
                biased;
                status = &mut visit => return status != Some(400),
                () = yield_now() => {}
            }
        }
        // It takes nobody yet.
        false
    }

    pub(super) fn join(&mut self) {
        while let Some(ended) = self.tasks.try_join_next() {
            ended.expect("a person without a fault");
        }
    }
}

/// Some whole file in the folder holds `token`.
fn rests(tokens: &Path, token: &str) -> bool {
    let files = fs::read_dir(tokens).into_iter().flatten().flatten();
    let mut whole = files.filter(|it| !it.file_name().as_encoded_bytes().starts_with(b"."));
    let quoted = format!("\"{token}\"");
    whole.any(|it| fs::read_to_string(it.path()).is_ok_and(|it| it.contains(&quoted)))
}

/// Goes there; the status of the page, if somebody answers.
async fn visit(redirect: &Url, query: &str) -> Option<u16> {
    let port = redirect.port()?;
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.ok()?;
    let path = redirect.path();
    let request = format!("GET {path}{query} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut page = Vec::new();
    stream.read_to_end(&mut page).await.ok()?;
    let status = page.get(9..12)?;
    str::from_utf8(status).ok()?.parse().ok()
}
