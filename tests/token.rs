//! `pomctl token` and `pomctl kube-credential`: the login for programs that send it themselves.

use std::{
    collections::BTreeSet,
    process::{Command, Output},
    time::Duration,
};

use control::{
    client::ClientError,
    wire::{ClusterState, Code, LoginRequest},
};
use gateway::Upstream;
use integration::{
    binary::binary,
    deployment::{CLUSTER, Deployment},
    pomd::{self, Pomd},
};
use serde_json::Value;
use tokio::task::JoinSet;

const ROUTE: &str = "kube.corp.test:443";
const LOGIN: &str = "/.pomerium/api/v1/login";
/// What one login takes: pomd asks whether the server has one, and the person's click mints the address.
const LOGIN_VISITS: usize = 2;
const POMCTL_TIME: Duration = Duration::from_secs(40);

async fn deployment() -> Deployment {
    Deployment::gateway(|it| it.route(ROUTE, Upstream::Hello)).await
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// pomctl as kubectl runs it.
fn as_kubectl(pomd: &Pomd, interactive: bool, version: &str) -> Command {
    let mut command = pomd.setup().command(&binary("pomctl"));
    let asked = format!(
        r#"{{"kind":"ExecCredential","apiVersion":"client.authentication.k8s.io/{version}","spec":{{"interactive":{interactive}}}}}"#
    );
    command
        .args(["kube-credential", "https://kube.corp.test"])
        .env("KUBERNETES_EXEC_INFO", asked)
        .env("POMD_NO_START", "1");
    command
}

async fn kube_credential(pomd: &Pomd, interactive: bool, version: &str) -> Output {
    pomd::run(as_kubectl(pomd, interactive, version), POMCTL_TIME).await
}

fn token_of(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    let credential: Value = serde_json::from_slice(&output.stdout).unwrap();
    let token = credential["status"]["token"].as_str().unwrap();
    token.strip_prefix("Pomerium-").unwrap().to_owned()
}

fn assert_login_needed(output: &Output) {
    assert_eq!(output.status.code(), Some(4), "{output:?}");
    assert_eq!(text(&output.stdout), "", "{output:?}");
    let words = text(&output.stderr);
    assert!(
        words.contains("corp needs a login. Run: pomctl login corp"),
        "{words}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_given_in_each_form_and_for_each_way_to_name_the_cluster() {
    let deployment = deployment().await;
    let pomd = deployment.logged_in(&[("kube", ROUTE)]).await;
    let saved = pomd.setup().saved_token();
    for words in [
        &["token"][..],
        &["token", "corp"],
        &["token", "kube"],
        &["token", "any.corp.test"],
        &["token", "https://kube.corp.test:443/api"],
    ] {
        let output = pomd.pomctl(words).await;
        assert!(output.status.success(), "{output:?}");
        let token = text(&output.stdout).trim_end();
        assert!(deployment.gateway.is_good(token), "{words:?}");
        assert_eq!(saved, token);
    }
    let output = pomd.pomctl(&["token", "--header"]).await;
    let header = text(&output.stdout).trim_end();
    let token = header.strip_prefix("Authorization: Pomerium ").unwrap();
    assert!(deployment.gateway.is_good(token));
    let output = pomd.pomctl(&["token", "--json"]).await;
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["token"], token);
    assert_eq!(answer["cluster"], CLUSTER);
    for version in ["v1", "v1beta1"] {
        let output = kube_credential(&pomd, false, version).await;
        assert_eq!(token_of(&output), token);
        let said: Value = serde_json::from_slice(&output.stdout).unwrap();
        let spoken = format!("client.authentication.k8s.io/{version}");
        assert_eq!(said["apiVersion"], spoken.as_str());
        assert_eq!(said["kind"], "ExecCredential");
    }
    let output = kube_credential(&pomd, false, "v1alpha1").await;
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(text(&output.stdout).is_empty());
    let requests = deployment.gateway.stats().requests;
    let logins = requests.iter().filter(|it| it.target.starts_with(LOGIN));
    assert_eq!(logins.count(), LOGIN_VISITS, "nobody had to log in again");
}

#[tokio::test(flavor = "multi_thread")]
async fn g20_without_a_login_and_a_person_it_ends_with_4_and_says_nothing_on_stdout() {
    let deployment = deployment().await;
    let pomd = deployment.pomd(&[("kube", ROUTE)]).await;
    assert_login_needed(&pomd.pomctl(&["token", "corp"]).await);
    assert_login_needed(&pomd.pomctl(&["token", "corp", "--header"]).await);
    assert_login_needed(&kube_credential(&pomd, false, "v1").await);
    assert_eq!(deployment.gateway.stats().logins_minted, 0);
    assert!(deployment.links.all().is_empty());
    // Also with a token that the server takes no longer, which nothing else has noticed yet.
    deployment.log_in(&pomd).await;
    deployment.gateway.end_all_sessions();
    assert_login_needed(&pomd.pomctl(&["token", "corp"]).await);
    let state = pomd::cluster(&pomd.status().await, CLUSTER).state;
    assert_eq!(state, ClusterState::LoginNeeded);
    // And after a logout, which nobody but a person ends.
    deployment.log_in(&pomd).await;
    pomd.client().logout(CLUSTER).await.unwrap();
    assert_login_needed(&kube_credential(&pomd, false, "v1").await);
    assert!(deployment.links.all().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_good_token_is_given_where_the_server_cannot_be_asked() {
    let deployment = deployment().await;
    let pomd = deployment.logged_in(&[("kube", ROUTE)]).await;
    let script = gateway::Script::refuse(503);
    deployment.gateway.script("/.pomerium/user", script);
    let output = pomd.pomctl(&["token"]).await;
    assert!(output.status.success(), "{output:?}");
    assert!(deployment.gateway.is_good(text(&output.stdout).trim_end()));
}

#[tokio::test(flavor = "multi_thread")]
async fn several_clusters_are_told_apart_and_an_unknown_one_gets_nothing() {
    let deployment = deployment().await;
    let config = deployment.config(&[("kube", ROUTE)])
        + "[cluster.lab]\nhosts = [\"*.lab.test\"]\nurl = \"https://lab.test\"\n";
    let pomd = Pomd::start(&config).await;
    deployment.log_in(&pomd).await;
    let output = pomd.pomctl(&["token"]).await;
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(text(&output.stderr).contains("corp, lab"), "{output:?}");
    assert!(output.stdout.is_empty());
    for other in [
        "elsewhere.test",
        "corp.test.elsewhere.test",
        "https://evil.test/?corp.test",
    ] {
        let output = pomd.pomctl(&["token", other]).await;
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(output.stdout.is_empty());
    }
    let answer = pomd.client().token("nobody").await;
    assert!(
        matches!(&answer, Err(ClientError::Api(it)) if it.code == Code::NoSuchCluster),
        "{answer:?}"
    );
    assert_login_needed_of_lab(&pomd).await;
}

async fn assert_login_needed_of_lab(pomd: &Pomd) {
    let answer = pomd.client().token("lab").await;
    let Err(ClientError::Api(error)) = answer else {
        panic!("{answer:?}");
    };
    assert_eq!(error.code, Code::LoginNeeded);
    assert_eq!(error.cluster.as_deref(), Some("lab"));
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_at_once_make_one_login_and_one_visit_and_join_one_that_is_open() {
    let deployment = deployment().await;
    let pomd = deployment.pomd(&[("kube", ROUTE)]).await;
    let commands = (0..50).map(|_| pomd::run(as_kubectl(&pomd, true, "v1"), POMCTL_TIME));
    let all = commands.collect::<JoinSet<Output>>().join_all();
    let signing_in = deployment.links.sign_in(1, &deployment.browser);
    let (outputs, _) = tokio::join!(all, signing_in);
    let tokens: BTreeSet<String> = outputs.iter().map(token_of).collect();
    assert_eq!(tokens.len(), 1);
    let stats = deployment.gateway.stats();
    let visits = usize::try_from(stats.logins_minted).unwrap();
    assert_eq!((visits, stats.sign_ins), (LOGIN_VISITS, 1), "{stats:?}");
    assert_eq!(deployment.links.all().len(), 1);
    // A login that somebody else opened is waited for also where nobody is at a terminal.
    pomd.client().logout(CLUSTER).await.unwrap();
    let login = pomd.client().login(CLUSTER, LoginRequest::default()).await;
    let link = login.unwrap().login.unwrap().link;
    let asked = kube_credential(&pomd, false, "v1");
    let signed_in = async {
        let page = deployment.browser.visit(&link).await.unwrap();
        assert_eq!(page.status, 200);
    };
    let (output, ()) = tokio::join!(asked, signed_in);
    assert!(deployment.gateway.is_good(&token_of(&output)));
    assert_eq!(deployment.links.all().len(), 1, "no second tab");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_certificate_comes_along_and_its_key_by_no_answer_of_pomd() {
    let deployment = deployment().await;
    let identity = deployment.gateway.client_identity("laptop").unwrap();
    let folder = pomd::folder();
    let (cert, key) = (folder.path().join("me.pem"), folder.path().join("me.key"));
    std::fs::write(&cert, &identity.certificate).unwrap();
    std::fs::write(&key, &identity.key).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&key, mode).unwrap();
    let more = format!("client_cert = {cert:?}\nclient_key = {key:?}");
    let pomd = Pomd::start(&deployment.cluster(&more)).await;
    deployment.log_in(&pomd).await;
    let asks = deployment.gateway.ask_for_client_certificates(true);
    asks.unwrap();
    let output = kube_credential(&pomd, false, "v1").await;
    token_of(&output);
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    let status = &said["status"];
    assert_eq!(
        status["clientCertificateData"],
        identity.certificate.as_str()
    );
    assert_eq!(status["clientKeyData"], identity.key.as_str());
    let answer = pomd.client().token(CLUSTER).await.unwrap();
    let on_the_wire = serde_json::to_string(&answer).unwrap();
    assert!(!on_the_wire.contains("PRIVATE KEY"), "{on_the_wire}");
    let token = token_of(&output);
    assert!(!format!("{answer:?}").contains(&token));
}
