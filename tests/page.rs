//! The login pages in a real browser: Chromium follows the short link, and what it ends on is read from it.

use std::{path::PathBuf, process::Command, time::Duration};

use control::wire::ClusterState;
use gateway::Upstream;
use integration::{
    chromium::{QUIET, chromium},
    deployment::{CLUSTER, Deployment},
    pomd::{self, Pomd},
};

const TEST: &str = "a_real_browser_logs_in_and_its_last_page_has_no_secret_and_no_complaint";
const BROWSER_TIME: Duration = Duration::from_secs(60);

/// The page that Chromium ends on, and what it complains of.
async fn visit(chromium: &PathBuf, deployment: &Deployment, url: &str) -> (String, String) {
    let profile = pomd::folder();
    let mut command = Command::new(chromium);
    command
        .args(QUIET)
        .args([
            "--headless",
            "--no-proxy-server",
            "--ignore-certificate-errors",
            "--enable-logging=stderr",
            "--dump-dom",
        ])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .env("TMPDIR", profile.path())
        .arg(format!(
            "--host-resolver-rules=MAP *.corp.test {0}, MAP corp.test {0}",
            deployment.address()
        ))
        .arg(url);
    let output = pomd::run(command, BROWSER_TIME).await;
    let text = |it: &[u8]| String::from_utf8_lossy(it).into_owned();
    let complaints = text(&output.stderr);
    let console = complaints.lines().filter(|it| it.contains("CONSOLE"));
    let console: Vec<_> = console.filter(|it| !it.contains("favicon")).collect();
    (text(&output.stdout), console.join("\n"))
}

async fn link(pomd: &Pomd) -> String {
    let answer = pomd.client().login(CLUSTER, Default::default()).await;
    answer.unwrap().login.unwrap().link
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_browser_logs_in_and_its_last_page_has_no_secret_and_no_complaint() {
    let Some(chromium) = chromium() else {
        integration::skipped(TEST, "there is no Chromium");
        return;
    };
    let deployment = Deployment::gateway(|it| {
        it.domain("corp.test")
            .automatic()
            .route("hello.corp.test:80", Upstream::Hello)
    })
    .await;
    let pomd = deployment.pomd(&[("hello", "hello.corp.test:80")]).await;
    let (page, complaints) = visit(&chromium, &deployment, "data:text/html,it runs").await;
    if !page.contains("it runs") {
        let why = format!("Chromium does not run here: {complaints}");
        integration::skipped(TEST, &why);
        return;
    }
    let link = link(&pomd).await;

    let (page, complaints) = visit(&chromium, &deployment, &link).await;
    let words = "<h1>You are logged in to corp</h1>";
    assert!(page.contains(words), "{page}\n{complaints}");
    assert!(page.contains("as demo@example.com"), "{page}");
    assert!(!page.contains("pomerium_jwt"), "{page}");
    assert_eq!(complaints, "", "the policy allows all that the page needs");
    let status = pomd.status().await;
    assert_eq!(
        pomd::cluster(&status, CLUSTER).state,
        ClusterState::LoggedIn
    );

    let (page, complaints) = visit(&chromium, &deployment, &link).await;
    let words = "<h1>This login is finished</h1>";
    assert!(page.contains(words), "{page}\n{complaints}");
}
