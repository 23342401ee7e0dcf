//! A6 in a real Chromium: what a page can send, and what a person does.

use std::{process::Command, sync::Arc, time::Duration};

use integration::{
    chromium::{QUIET, chromium},
    deployment::tunnel,
    pomd::{self, Pomd, Setup},
    process::Process,
};
use tokio::{net::TcpListener, sync::Notify, task::JoinSet};

use super::{Heard, OPEN, WEB, deployment, guarded, hello, serve};

/// Chromium in a profile of its own, where every name of `.test` leads to this machine, and one connection serves the
/// requests of every page.
fn browser(profile: &std::path::Path, more: &[&str], url: &str) -> Option<Command> {
    let mut command = Command::new(chromium()?);
    command
        .args(QUIET)
        .args([
            "--headless",
            "--no-proxy-server",
            "--host-resolver-rules=MAP *.test 127.0.0.1, MAP localhost 127.0.0.1",
            "--disable-features=PartitionConnectionsByNetworkIsolationKey,HttpsUpgrades,HttpsFirstBalancedModeAutoEnable",
        ])
        .arg(format!("--user-data-dir={}", profile.display()))
        .env("TMPDIR", profile)
        .args(more)
        .arg(url);
    Some(command)
}

/// The attacker's page: everything that a page can send, to each of `targets`; then it clicks a link to the first one.
const ATTACK: &str = r#"<body><script>
const within = (p) => Promise.race([p.catch(() => 0), new Promise(r => setTimeout(r, 5000))]);
const add = (tag, set) => within(new Promise(r => {
  const it = document.createElement(tag);
  it.onload = it.onerror = r;
  set(it);
  document.body.append(it);
}));
const socket = (u) => within(new Promise(r => {
  const it = new WebSocket(u.replace("http", "ws") + "/socket");
  it.onopen = it.onclose = it.onerror = r;
}));
const form = (u) => {
  const frame = document.createElement("iframe");
  frame.name = "f" + Math.random();
  document.body.append(frame);
  const it = document.createElement("form");
  it.method = "POST"; it.enctype = "text/plain"; it.action = u + "/form"; it.target = frame.name;
  it.innerHTML = "<input name='x' value='SET a b'>";
  document.body.append(it);
  const sent = within(new Promise(r => frame.onload = r));
  it.submit();
  return sent;
};
(async () => {
  for (const u of TARGETS) {
    await within(fetch(u + "/fetch").then(it => it.text()));
    await within(fetch(u + "/no-cors", {mode: "no-cors"}));
    await within(fetch(u + "/post", {method: "POST", mode: "no-cors", body: "SET a b\r\n"}));
    await within(fetch(u + "/put", {method: "PUT", body: "x"}));
    await add("img", it => it.src = u + "/image");
    await add("script", it => it.src = u + "/script");
    await add("iframe", it => it.src = u + "/frame");
    await socket(u);
    await form(u);
  }
  const link = document.createElement("a");
  link.href = TARGETS[0] + "/clicked";
  document.body.append(link);
  link.click();
})();
</script>"#;
const KINDS: [&str; 9] = [
    "GET /fetch",
    "GET /no-cors",
    "POST /post",
    "PUT /put",
    "GET /image",
    "GET /script",
    "GET /frame",
    "GET /socket",
    "POST /form",
];

#[tokio::test(flavor = "multi_thread")]
async fn a6_in_a_real_browser_pages_get_nothing_through_and_persons_do() {
    let test = "a6_in_a_real_browser_pages_get_nothing_through_and_persons_do";
    let profile = pomd::folder();
    let Some(command) = browser(profile.path(), &["--dump-dom"], "data:text/html,it runs") else {
        integration::skipped(test, "there is no Chromium");
        return;
    };
    let output = pomd::run(command, Duration::from_secs(60)).await;
    if !String::from_utf8_lossy(&output.stdout).contains("it runs") {
        integration::skipped(test, "Chromium does not run here");
        return;
    }
    let evil = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let attack = format!(
        "http://page.test:{}/attack",
        evil.local_addr().unwrap().port()
    );
    // The service's own pages: one that the person opens, and that leads on to the attacker's; one that is reached by
    // the attacker's link, and sends what the service's pages may send.
    let ended = attack.replace("/attack", "/ended");
    let next = attack.clone();
    let pages = move |line: &str| match line.split(' ').nth(1)? {
        "/start" => Some(format!(
            "<script>onload = () => setTimeout(() => location = '{next}', 300)</script>"
        )),
        "/clicked" => Some(format!(
            "<script>fetch('/own', {{method: 'POST', body: 'x'}}).then(() => location = '{ended}')</script>"
        )),
        _ => Some("the service".to_owned()),
    };
    let (deployment, heard) = deployment(pages).await;
    let config = deployment.cluster("")
        + &tunnel("web", WEB, "")
        + &tunnel("open", OPEN, "browser_guard = false");
    let pomd = Setup::new(&config).env("POMD_LOG", "debug").start().await;
    deployment.log_in(&pomd).await;
    let url = async |name: &str| format!("http://localhost:{}", pomd.address(name).await.port());
    let (web, open) = (url("web").await, url("open").await);

    let attackers_page = ATTACK.replace("TARGETS", &format!("{:?}", [&web, &open]));
    let visits = Heard::default();
    let ended_here = Arc::new(Notify::new());
    let (noted, end) = (visits.clone(), ended_here.clone());
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = evil.accept().await {
            let (page, noted, end) = (attackers_page.clone(), noted.clone(), end.clone());
            connections.spawn(async move {
                let pages = |line: &str| {
                    noted.0.lock().unwrap().push(line.to_owned());
                    if line.contains("/ended") {
                        end.notify_one();
                    }
                    line.contains("/attack").then(|| page.clone())
                };
                serve(stream, pages).await;
            });
        }
    });
    let keep = ["--remote-debugging-port=0"];
    let mut command = browser(profile.path(), &keep, &format!("{web}/start")).unwrap();
    let words = profile.path().join("words");
    let browser_process = Process::start("chromium", &mut command, &words);
    let waited = tokio::time::timeout(Duration::from_secs(120), ended_here.notified()).await;
    assert!(
        waited.is_ok(),
        "the pages did not end: {:?}\n{:?}\n{}",
        visits.lines(),
        heard.lines(),
        pomd.words()
    );
    drop(browser_process);

    // Without the guard all of it arrives.
    let through = heard.at("open.corp.test");
    for kind in KINDS {
        assert!(
            through.iter().any(|it| it.starts_with(kind)),
            "{kind}: {through:?}"
        );
    }
    // With it only what the person wanted.
    let mut through = heard.at("web.corp.test");
    through.retain(|it| !it.contains("favicon"));
    assert_eq!(
        through,
        [
            "GET /start HTTP/1.1",
            "GET /clicked HTTP/1.1",
            "POST /own HTTP/1.1"
        ]
    );
    let shown = pomd.status().await;
    assert!(guarded(&shown, "web") >= KINDS.len() as u64, "{shown:#?}");
    assert_eq!(guarded(&shown, "open"), 0);
    let words = pomd.words();
    let on_used = words.lines().any(|it| {
        let number = it
            .split("connection ")
            .nth(1)
            .and_then(|it| it.split([':', ' ']).next());
        it.contains("the browser guard refused")
            && number.is_some_and(|it| {
                words.contains(&format!("connection {it} from"))
                    || words.contains(&format!("connection {it}: open"))
            })
    });
    integration::report(&format!(
        "a request of a page came on a connection whose route was open: {on_used}"
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn a6_in_a_real_browser_a_page_that_bends_its_name_here_reads_nothing() {
    let test = "a6_in_a_real_browser_a_page_that_bends_its_name_here_reads_nothing";
    if chromium().is_none() {
        integration::skipped(test, "there is no Chromium");
        return;
    }
    let (deployment, heard) = deployment(hello).await;
    let more = "allow_hosts = [\"grafana.localhost\", \"mine.test\"]";
    let config = deployment.cluster("")
        + &tunnel("web", WEB, more)
        + &tunnel("open", OPEN, "browser_guard = false");
    let pomd = Pomd::start(&config).await;
    deployment.log_in(&pomd).await;
    for (name, host, through) in [
        ("open", "rebind.test", true),
        ("web", "rebind.test", false),
        ("web", "web.corp.test.rebind.test", false),
        ("web", "other.localhost", false),
        ("web", "mine.test", true),
        ("web", "web.corp.test", true),
        ("web", "grafana.localhost", true),
        ("web", "localhost", true),
        ("web", "127.0.0.1", true),
    ] {
        let before = heard.lines().len();
        let port = pomd.address(name).await.port();
        let profile = pomd::folder();
        let url = format!("http://{host}:{port}/");
        let command = browser(profile.path(), &["--dump-dom"], &url).unwrap();
        let output = pomd::run(command, Duration::from_secs(60)).await;
        let page = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(page.contains("the service"), through, "{url}: {page}");
        assert_eq!(heard.lines().len() > before, through, "{url}");
        let told = page.contains("pomd keeps web pages out of the tunnel web");
        assert_eq!(told, !through, "{url}: {page}");
    }
}
