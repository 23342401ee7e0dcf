//! Servers of a history, as sessions ask them: whoever makes the history says what they answer.

use std::sync::Arc;

use control::wire::Code;
use futures_util::future::BoxFuture;
use jiff::Timestamp;
use pomd_core::{config::Address, session::token::Token};

use crate::{
    portal::User,
    session::{
        Servers,
        pomerium::{Failure, NotGood, Pomerium, Vouched},
    },
};

/// Who answers for all servers.
pub(crate) trait Site: Send + Sync + 'static {
    /// A login of `cluster` is to begin, from which a browser comes back to `redirect`: whether there is a page for it.
    fn mint<'a>(
        &'a self,
        cluster: &'a str,
        login_at: &'a [Address],
        redirect: &'a str,
    ) -> BoxFuture<'a, bool>;
    /// `token` is sent there: is it good?
    fn vouch(&self, cluster: &str, login_at: &[Address], token: &str) -> Vouch;
}

/// What a server says of a token.
#[derive(Debug)]
pub(crate) enum Vouch {
    /// It is good where it was made.
    Good(Address),
    Refused,
    /// Nothing.
    Silence,
}

/// The servers of `site`.
pub(crate) fn servers(site: Arc<impl Site>) -> Servers {
    Servers::from_fn(move |cluster, login_at, _| {
        Arc::new(Asked {
            site: site.clone(),
            cluster: cluster.to_string(),
            login_at,
        })
    })
}

struct Asked<S> {
    site: Arc<S>,
    cluster: String,
    login_at: Vec<Address>,
}

impl<S: Site> Pomerium for Asked<S> {
    fn sign_in_url<'a>(&'a self, redirect: &'a str) -> BoxFuture<'a, Result<String, Failure>> {
        Box::pin(async move {
            let minted = self.site.mint(&self.cluster, &self.login_at, redirect);
            let url = || format!("https://authenticate.test/?redirect={redirect}");
            minted.await.then(url).ok_or_else(out_of_reach)
        })
    }

    fn user<'a>(&'a self, token: &'a Token) -> BoxFuture<'a, Result<Vouched, NotGood>> {
        let vouch = self
            .site
            .vouch(&self.cluster, &self.login_at, token.reveal());
        let user = || User {
            display: "alice@example.com".to_owned(),
            subject: Some("alice".to_owned()),
        };
        Box::pin(async move {
            match vouch {
                Vouch::Good(at) => Ok((Some(user()), at)),
                Vouch::Refused => Err(NotGood::Refused),
                Vouch::Silence => Err(NotGood::Unasked(out_of_reach())),
            }
        })
    }

    fn until<'a>(&'a self, _: &'a Address, _: &'a Token) -> BoxFuture<'a, Option<Timestamp>> {
        Box::pin(async { None })
    }

    fn leave(&self) {}
}

fn out_of_reach() -> Failure {
    Failure {
        code: Code::Tcp,
        message: "no route".to_owned(),
        hint: None,
        request_id: None,
    }
}
