//! The demo's logins: where a person signs in, with and without a browser, and the waiting for it.

use anyhow::{Context, bail, ensure};
use control::{
    browser::{NoBrowser, machine::host_name},
    wire::{ClusterState, LoginRequest, Opener, Status},
};

use super::{PERSON_TIME, Player, STEP_TIME, more, step, within};
use crate::stage::CLUSTER;

/// How pomd begins to say that a browser failed.
const NOT_OPENED: &str = "the browser did not open";

impl Player<'_> {
    /// Shows the link of the login that waits, and with `fast` goes there as a browser would.
    pub(super) async fn sign_in(&self, number: u32, title: &str) -> anyhow::Result<()> {
        let link = self.link().await?;
        if self.fast {
            step(
                number,
                title,
                &format!("a browser would be opened at {link}"),
            );
            self.visit(&link).await?;
            more("--fast pressed the button there");
        } else {
            step(number, title, &format!("sign in at {link}"));
            match self.stage.no_browser {
                None => more("your browser should be there already; the page has one button"),
                Some(why) => {
                    if let NoBrowser::Missing(reason) = why {
                        more(&format!("No browser here ({reason})."));
                    }
                    more("Open this where you have a browser; the page has one button.");
                    self.tell_of_ssh(&link);
                }
            }
        }
        Ok(())
    }

    /// How a browser on another machine gets to the address, and from there to the simulated Pomerium.
    fn tell_of_ssh(&self, link: &str) {
        let port_of = |link: &str| {
            let authority = link.strip_prefix("http://")?.split('/').next()?;
            authority.rsplit_once(':').map(|it| it.1.to_owned())
        };
        let Some(login) = port_of(link) else { return };
        let pomerium = self.stage.gateway.address().port();
        more("Where that is another machine, run this there first:");
        let forward = |port: &str| format!("-L {port}:127.0.0.1:{port}");
        more(&format!(
            "    ssh -N {} {} {}",
            forward(&login),
            forward(&pomerium.to_string()),
            host_name(),
        ));
    }

    pub(super) async fn sign_in_again(&self) -> anyhow::Result<()> {
        let link = self.link().await?;
        if self.fast {
            self.visit(&link).await
        } else {
            more(&format!("sign in at {link}"));
            if self.stage.no_browser.is_some() {
                self.tell_of_ssh(&link);
            }
            self.logged_in().await.map(|_| ())
        }
    }

    pub(super) async fn link(&self) -> anyhow::Result<String> {
        let request = LoginRequest {
            opener: if self.fast {
                Opener::Caller
            } else {
                Opener::Pomd
            },
            mint: false,
        };
        let answer = self.stage.client.login(CLUSTER, request);
        let answer = answer.await.context("asking pomd for a login")?;
        let login = answer.login.context("pomd thinks that it is logged in")?;
        Ok(login.link)
    }

    pub(super) async fn visit(&self, link: &str) -> anyhow::Result<()> {
        let page = self.stage.gateway.browser()?.visit(link).await?;
        ensure!(
            page.status == 200,
            "the login ended with status {}: {}",
            page.status,
            page.body
        );
        Ok(())
    }

    pub(super) async fn logged_in(&self) -> anyhow::Result<Status> {
        let limit = if self.fast { STEP_TIME } else { PERSON_TIME };
        let waiting = async {
            let mut events = self.stage.client.events().await?;
            let mut told = false;
            while let Some(status) = events.next().await? {
                let cluster = status.clusters.iter().find(|it| it.name == CLUSTER);
                match cluster.map(|it| it.state) {
                    Some(ClusterState::LoggedIn) => return Ok(status),
                    // Somebody logged out meanwhile; an event may be older than the newest login.
                    Some(ClusterState::LoggedOut | ClusterState::LoginNeeded) => {
                        let link = self.link().await?;
                        more(&format!("that login is over; sign in at {link}"));
                        if self.stage.no_browser.is_some() {
                            self.tell_of_ssh(&link);
                        }
                    }
                    _ => {}
                }
                let hint = cluster.and_then(|it| it.reason.as_ref()?.hint.as_ref());
                let is_news = self.stage.no_browser.is_none() && !told;
                if let Some(hint) = hint.filter(|it| is_news && it.starts_with(NOT_OPENED)) {
                    told = true;
                    more(hint);
                    more("open the address above by yourself");
                }
            }
            bail!("pomd ended")
        };
        within(limit, "the login", waiting).await
    }

    pub(super) async fn is_logged_in(&self) -> anyhow::Result<bool> {
        let status = self.stage.client.status().await?;
        let mut clusters = status.clusters.iter();
        Ok(clusters.any(|it| it.name == CLUSTER && it.state == ClusterState::LoggedIn))
    }

    /// Waits for the login that another part of the step leads through.
    pub(super) async fn logged_in_by_another(&self) -> anyhow::Result<()> {
        let mut events = self.stage.client.events().await?;
        while let Some(status) = events.next().await? {
            let mut clusters = status.clusters.iter();
            if clusters.any(|it| it.name == CLUSTER && it.state == ClusterState::LoggedIn) {
                return Ok(());
            }
        }
        bail!("pomd ended")
    }
}
