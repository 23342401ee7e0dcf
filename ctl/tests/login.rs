//! Logging in: by a browser, without one, and everything that can come between.

use std::{path::PathBuf, process::Child};

use control::wire::{ClusterState, Code, TunnelState};
use jiff::SignedDuration;
use serde_json::{Value, json};
use snapbox::{assert_data_eq, str};

use crate::{
    fake::{self, Fake, Reply},
    runner::{World, wait_for_file},
    samples::{
        self, cluster, corp, grafana, login_answer, login_needed, open_login, reason, ssh_prod,
        status, up_answer,
    },
};

/// A browser that writes down what it was asked to open.
fn browser(world: &mut World) -> PathBuf {
    let opened = world.path("opened");
    let (part, whole) = (world.path("opened.part"), opened.display());
    let script = format!("printf %s \"$*\" > {0}\nmv {0} {whole}", part.display());
    let program = world.script("browser", &script);
    world.var("POMD_BROWSER", program.to_str().unwrap());
    opened
}

fn running(fake: &Fake) {
    let login = login_answer(ClusterState::LoginRunning, Some(open_login(false)));
    let reply = Reply::ok(login).before(fake::is("corp", ClusterState::LoginRunning));
    fake.on("POST /v1/clusters/corp/login", [reply]);
}

fn signed_in(fake: &Fake) {
    fake.change(|it| *fake::cluster(it, "corp") = corp());
}

fn told(world: &World, args: &[&str], child: Child) -> String {
    world.told(args, &child.wait_with_output().unwrap())
}

#[test]
fn g2_up_leads_through_the_login_and_ends_when_it_works() {
    let (mut world, fake) = World::with(&samples::logged_out());
    let opened = browser(&mut world);
    running(&fake);
    fake.on(
        "POST /v1/tunnels/ssh-prod/up",
        [
            Reply::error(401, login_needed()),
            Reply::ok(up_answer(ssh_prod(TunnelState::Up))),
        ],
    );
    let child = world.spawn(&["up", "ssh-prod"]);
    assert_eq!(wait_for_file(&opened), "http://127.0.0.1:41235/k3v9qz");
    signed_in(&fake);
    assert_data_eq!(
        told(&world, &["up", "ssh-prod"], child),
        str![[r#"
$ pomctl up ssh-prod  # exit 0
ssh-prod is up: localhost:2202 → ssh-prod.corp.example.com:22 (answers in 84 ms)

    ssh -p 2202 localhost
| Logging in to corp: your browser was opened at
| http://127.0.0.1:41235/k3v9qz
|   waiting for you to sign in (Ctrl-C stops waiting; the login stays open)
| Logged in as alice@example.com, until HH:MM (9h 12m).

"#]]
    );
}

#[test]
fn g3_login_with_a_good_session_opens_nothing() {
    let (world, fake) = World::with(&samples::fine());
    let reply = Reply::ok(login_answer(ClusterState::LoggedIn, None));
    fake.on("POST /v1/clusters/corp/login", [reply]);
    assert_data_eq!(
        world.transcript(&["login", "corp"]),
        str![[r#"
$ pomctl login corp  # exit 0
Logged in to corp as alice@example.com, until HH:MM (9h 12m).

"#]]
    );
    for said in [
        "ssh-prod",
        "https://corp.example.com",
        "ssh-prod.corp.example.com",
    ] {
        let output = world.run(&["login", said]);
        let known = said != "https://corp.example.com";
        assert_eq!(output.status.success(), known, "{said}");
    }
    let json = world.run(&["login", "--json"]);
    let json: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json["clusters"][0]["user"], "alice@example.com");
}

#[test]
fn g4_without_a_browser_and_without_a_person_both_ways_are_told() {
    let (mut world, fake) = World::with(&samples::logged_out());
    let login = login_answer(ClusterState::LoginRunning, Some(open_login(true)));
    fake.on("POST /v1/clusters/corp/login", [Reply::ok(login)]);
    assert_data_eq!(
        world.transcript(&["login", "corp", "--no-browser"]),
        str![[r#"
$ pomctl login corp --no-browser  # exit 4
To log in to corp, open this in a browser:

https://authenticate.corp.example.com/.pomerium/sign_in?pomerium_redirect_uri=http%3A%2F%2F127.0.0.1%3A41235%2Fcb

After you have signed in, a browser on another machine ends on a page that can't be reached.
To let it arrive: run this where the browser is, then reload the page.
    ssh -N -L 41235:127.0.0.1:41235 HOST
| error: corp needs a login
| hint: the login stays open for whoever opens the address above

"#]]
    );
    let minted = r#"POST /v1/clusters/corp/login {"opener":"caller","mint":true}"#;
    assert!(
        fake.seen().contains(&minted.to_owned()),
        "{:?}",
        fake.seen()
    );
    world.var("SSH_CONNECTION", "10.0.0.1 1 10.0.0.2 22");
    let text = world.transcript(&["login"]);
    assert!(
        text.contains("No browser here (ssh login, no display)."),
        "{text}"
    );
    let json = world.run(&["login", "--json"]);
    assert_eq!(json.status.code(), Some(4));
    let json: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json["error"]["code"], "login_needed");
    assert_eq!(json["login"]["link"], "http://127.0.0.1:41235/k3v9qz");
    assert!(
        json["login"]["ssh"]
            .as_str()
            .unwrap()
            .starts_with("ssh -N -L 41235:")
    );
}

#[test]
fn a_browser_that_fails_is_told_and_the_address_printed() {
    let (mut world, fake) = World::with(&samples::logged_out());
    world.var("POMD_BROWSER", "false");
    let login = |minted| {
        Reply::ok(login_answer(
            ClusterState::LoginRunning,
            Some(open_login(minted)),
        ))
    };
    fake.on("POST /v1/clusters/corp/login", [login(false), login(true)]);
    assert_data_eq!(
        world.transcript(&["login"]),
        str![[r#"
$ pomctl login  # exit 4
To log in to corp, open this in a browser:

https://authenticate.corp.example.com/.pomerium/sign_in?pomerium_redirect_uri=http%3A%2F%2F127.0.0.1%3A41235%2Fcb

After you have signed in, a browser on another machine ends on a page that can't be reached.
To let it arrive: run this where the browser is, then reload the page.
    ssh -N -L 41235:127.0.0.1:41235 HOST
| No browser could be opened: false ended with exit code 1
| error: corp needs a login
| hint: the login stays open for whoever opens the address above

"#]]
    );
}

#[test]
fn a_link_to_elsewhere_is_never_opened() {
    let (mut world, fake) = World::with(&samples::logged_out());
    let opened = browser(&mut world);
    let mut login = open_login(true);
    login.link = "file:///etc/passwd".to_owned();
    let answer = login_answer(ClusterState::LoginRunning, Some(login));
    fake.on("POST /v1/clusters/corp/login", [Reply::ok(answer)]);
    assert_eq!(world.run(&["login"]).status.code(), Some(4));
    assert!(!opened.exists());
}

#[test]
fn the_cluster_s_own_browser_comes_first() {
    let (mut world, fake) = World::with(&samples::logged_out());
    let theirs = browser(&mut world);
    let ours = world.path("ours");
    let script = format!(
        "printf %s \"$*\" > {0}.part; mv {0}.part {0}",
        ours.display()
    );
    let program = world.script("their-browser", &script);
    let mut answer = login_answer(ClusterState::LoginRunning, Some(open_login(false)));
    answer["browser"] = json!({ "command": [program, "-P", "work"] });
    let reply = Reply::ok(answer).before(fake::is("corp", ClusterState::LoginRunning));
    fake.on("POST /v1/clusters/corp/login", [reply]);
    let child = world.spawn(&["login"]);
    assert_eq!(
        wait_for_file(&ours),
        "-P work http://127.0.0.1:41235/k3v9qz"
    );
    signed_in(&fake);
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(0));
    assert!(!theirs.exists());
}

#[test]
fn up_opens_no_second_tab_where_a_login_is_open_but_login_does() {
    let (mut world, fake) = World::with(&samples::logged_out());
    let opened = browser(&mut world);
    let mut login = open_login(false);
    login.fresh = false;
    let answer = login_answer(ClusterState::LoginRunning, Some(login.clone()));
    let reply = Reply::ok(answer).before(fake::is("corp", ClusterState::LoginRunning));
    fake.on("POST /v1/clusters/corp/login", [reply]);
    fake.on(
        "POST /v1/tunnels/ssh-prod/up",
        [
            Reply::error(401, login_needed()),
            Reply::ok(up_answer(ssh_prod(TunnelState::Up))),
        ],
    );
    let args = ["up", "ssh-prod"];
    let child = world.spawn(&args);
    fake.wait_for(
        r#"POST /v1/clusters/corp/login {"opener":"caller","mint":false}"#,
        1,
    );
    signed_in(&fake);
    assert_data_eq!(
        told(&world, &args, child),
        str![[r#"
$ pomctl up ssh-prod  # exit 0
ssh-prod is up: localhost:2202 → ssh-prod.corp.example.com:22 (answers in 84 ms)

    ssh -p 2202 localhost
| Logging in to corp: a login is open already, at
| http://127.0.0.1:41235/k3v9qz
|   waiting for you to sign in (Ctrl-C stops waiting; the login stays open)
| Logged in as alice@example.com, until HH:MM (9h 12m).

"#]]
    );
    assert!(!opened.exists());
    // One that runs beside another joins it; one that comes later is a person who looks for the tab.
    fake.change(fake::is("corp", ClusterState::LoginNeeded));
    let child = world.spawn(&["login"]);
    fake.wait_for(
        r#"POST /v1/clusters/corp/login {"opener":"caller","mint":false}"#,
        2,
    );
    signed_in(&fake);
    assert!(child.wait_with_output().unwrap().status.success());
    assert!(!opened.exists());
    login.started_at = login.started_at.map(|it| it - SignedDuration::from_mins(1));
    let answer = login_answer(ClusterState::LoginRunning, Some(login));
    let reply = Reply::ok(answer).before(fake::is("corp", ClusterState::LoginRunning));
    fake.on("POST /v1/clusters/corp/login", [reply]);
    fake.change(fake::is("corp", ClusterState::LoginNeeded));
    let child = world.spawn(&["login"]);
    wait_for_file(&opened);
    signed_in(&fake);
    assert!(child.wait_with_output().unwrap().status.success());
}

#[test]
fn a_login_that_fails_says_why_and_one_that_ends_says_so() {
    let (mut world, fake) = World::with(&samples::logged_out());
    let opened = browser(&mut world);
    running(&fake);
    let child = world.spawn(&["login"]);
    wait_for_file(&opened);
    fake.change(|it| {
        let corp = fake::cluster(it, "corp");
        corp.state = ClusterState::LoginNeeded;
        let mut why = reason(
            Code::LoginFailed,
            "the sign-in was refused: account disabled",
        );
        why.hint = Some("ask whoever runs the identity provider".to_owned());
        corp.reason = Some(why);
    });
    assert_data_eq!(
        told(&world, &["login"], child),
        str![[r#"
$ pomctl login  # exit 1
| Logging in to corp: your browser was opened at
| http://127.0.0.1:41235/k3v9qz
|   waiting for you to sign in (Ctrl-C stops waiting; the login stays open)
| error: the sign-in was refused: account disabled
| hint: ask whoever runs the identity provider

"#]]
    );
    std::fs::remove_file(&opened).unwrap();
    let child = world.spawn(&["login"]);
    wait_for_file(&opened);
    fake.change(|it| {
        let corp = fake::cluster(it, "corp");
        corp.state = ClusterState::LoggedOut;
        corp.reason = None;
    });
    assert_data_eq!(
        told(&world, &["login"], child),
        str![[r#"
$ pomctl login  # exit 4
| Logging in to corp: your browser was opened at
| http://127.0.0.1:41235/k3v9qz
|   waiting for you to sign in (Ctrl-C stops waiting; the login stays open)
| error: the login to corp has ended, and nobody signed in
| hint: to try again: pomctl login corp

"#]]
    );
}

#[test]
fn news_from_before_the_login_is_not_taken_for_its_end() {
    let (mut world, fake) = World::with(&samples::logged_out());
    let opened = browser(&mut world);
    running(&fake);
    let child = world.spawn(&["login"]);
    wait_for_file(&opened);
    // One question was asked at the start; each piece of news leads to another, as only pomd's word of now counts.
    fake.stream_stale(samples::logged_out());
    fake.wait_for("GET /v1/status", 2);
    fake.stream_stale(samples::fine());
    fake.wait_for("GET /v1/status", 3);
    fake.change(|it| fake::cluster(it, "corp").user = None);
    fake.wait_until_streamed();
    fake.change(|it| {
        *fake::cluster(it, "corp") = corp();
        fake::cluster(it, "corp").user = Some("bob@example.com".to_owned());
    });
    let text = told(&world, &["login"], child);
    assert!(
        text.contains("Logged in to corp as bob@example.com"),
        "{text}"
    );
}

#[test]
fn an_interrupted_wait_says_that_the_login_stays_open() {
    let (mut world, fake) = World::with(&samples::logged_out());
    let opened = browser(&mut world);
    running(&fake);
    let child = world.spawn(&["login"]);
    wait_for_file(&opened);
    // The line that announces the wait comes after the browser was opened.
    fake.wait_until_streamed();
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let text = told(&world, &["login"], child);
    assert!(text.contains("# exit 130"), "{text}");
    assert!(
        text.ends_with("| Stopped waiting; the login stays open\n"),
        "{text}"
    );
}

#[test]
fn pomd_that_ends_meanwhile_ends_the_wait() {
    let (mut world, fake) = World::with(&samples::logged_out());
    let opened = browser(&mut world);
    running(&fake);
    let child = world.spawn(&["login"]);
    wait_for_file(&opened);
    fake.end();
    let text = told(&world, &["login"], child);
    assert!(text.contains("# exit 3"), "{text}");
}

#[test]
fn several_clusters_are_logged_in_to_one_after_another() {
    let clusters = vec![corp(), cluster("lab", ClusterState::LoginNeeded)];
    let (world, fake) = World::with(&status(vec![ssh_prod(TunnelState::Up)], clusters));
    let mut answer = login_answer(ClusterState::LoggedIn, None);
    answer["cluster"] = json!(cluster("lab", ClusterState::LoggedIn));
    fake.on("POST /v1/clusters/lab/login", [Reply::ok(answer)]);
    assert_data_eq!(
        world.transcript(&["login"]),
        str![[r#"
$ pomctl login  # exit 0
Logged in to lab as alice@example.com, until HH:MM (9h 12m).

"#]]
    );
    assert_data_eq!(
        world.transcript(&["login", "lob"]),
        str![[r#"
$ pomctl login lob  # exit 2
| error: no cluster lob; did you mean lab?

"#]]
    );
    assert_data_eq!(
        world.transcript(&["login", "nowhere.example.org"]),
        str![[r#"
$ pomctl login nowhere.example.org  # exit 2
| error: no cluster nowhere.example.org
| hint: there are: corp, lab, ssh-prod

"#]]
    );
}

/// Runs `pomctl up` of these tunnels, where ssh-prod is of a host that logs in apart from another one of its domain.
fn up_in_a_second_cluster(names: &[&str]) -> String {
    let (new, old) = ("b.corp.example.com", "a.corp.example.com");
    let mut tunnel = ssh_prod(TunnelState::Up);
    tunnel.cluster = new.to_owned();
    let clusters = vec![
        cluster(old, ClusterState::LoggedIn),
        cluster(new, ClusterState::LoginNeeded),
    ];
    let (mut world, fake) = World::with(&status(vec![tunnel, grafana(TunnelState::Up)], clusters));
    let opened = browser(&mut world);
    let mut needed = login_needed();
    needed["cluster"] = json!(new);
    let up = Reply::ok(up_answer(ssh_prod(TunnelState::Up)));
    fake.on(
        "POST /v1/tunnels/ssh-prod/up",
        [Reply::error(401, needed), up],
    );
    let mut answer = login_answer(ClusterState::LoginRunning, Some(open_login(false)));
    answer["cluster"]["name"] = json!(new);
    let reply = Reply::ok(answer).before(fake::is(new, ClusterState::LoginRunning));
    fake.on("POST /v1/clusters/b.corp.example.com/login", [reply]);
    let answer = up_answer(grafana(TunnelState::Up));
    fake.on("POST /v1/tunnels/grafana/up", [Reply::ok(answer)]);
    let args: Vec<&str> = ["up"].iter().chain(names).copied().collect();
    let child = world.spawn(&args);
    wait_for_file(&opened);
    fake.change(move |it| *fake::cluster(it, new) = cluster(new, ClusterState::LoggedIn));
    told(&world, &args, child)
}

#[test]
fn two_logins_in_one_domain_are_hinted_to_be_one() {
    assert_data_eq!(
        up_in_a_second_cluster(&["ssh-prod"]),
        str![[r#"
$ pomctl up ssh-prod  # exit 0
ssh-prod is up: localhost:2202 → ssh-prod.corp.example.com:22 (answers in 84 ms)

    ssh -p 2202 localhost
| Logging in to b.corp.example.com: your browser was opened at
| http://127.0.0.1:41235/k3v9qz
|   waiting for you to sign in (Ctrl-C stops waiting; the login stays open)
| Logged in as alice@example.com, until HH:MM (9h 12m).
| hint: if this is the same Pomerium as that of a.corp.example.com, one login can serve both. Put into pomd.toml:
|     [cluster.corp]
|     hosts = ["*.corp.example.com"]

"#]]
    );
}

#[test]
fn two_logins_of_several_tunnels_are_hinted_to_be_one() {
    assert_data_eq!(
        up_in_a_second_cluster(&["ssh-prod", "grafana"]),
        str![[r#"
$ pomctl up ssh-prod grafana  # exit 0
ssh-prod  up     localhost:2202
grafana   up     localhost:3000
2 of 2 tunnels are up.
| Logging in to b.corp.example.com: your browser was opened at
| http://127.0.0.1:41235/k3v9qz
|   waiting for you to sign in (Ctrl-C stops waiting; the login stays open)
| Logged in to b.corp.example.com as alice@example.com, until HH:MM (9h 12m).
| hint: if this is the same Pomerium as that of a.corp.example.com, one login can serve both. Put into pomd.toml:
|     [cluster.corp]
|     hosts = ["*.corp.example.com"]

"#]]
    );
}
