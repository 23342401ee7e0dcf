//! Tokens that nobody logs in for: files that are rotated, variables, credentials, programs, workload identities.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use control::wire::{ClusterState, Code, TokenSource};
use gateway::Upstream;
use integration::{
    binary::binary,
    bystander::echoes,
    deployment::{CLUSTER, Deployment, tunnel},
    eventually,
    other_user::OtherUser,
    pomd::{self, Pomd, Setup},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpListener,
};

const ECHO: &str = "echo.corp.test:7000";
const OTHER: &str = "other.corp.test:7000";
const POD: &str = "system:serviceaccount:prod:web";
const LONG: Duration = Duration::from_secs(3600);

async fn deployment() -> Deployment {
    Deployment::gateway(|it| it.route(ECHO, Upstream::Echo).route(OTHER, Upstream::Echo)).await
}

fn config(deployment: &Deployment, token: &str) -> String {
    deployment.cluster(&format!("token = {token}"))
        + &tunnel("echo", ECHO, "")
        + &tunnel("other", OTHER, "")
}

/// A program that does this.
fn program(folder: &Path, script: &str) -> PathBuf {
    let path = folder.join("print token");
    let text = format!("#!/bin/sh\n{script}\n");
    let new = folder.join("new program");
    fs::write(&new, text).unwrap();
    fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).unwrap();
    fs::rename(&new, &path).unwrap();
    path
}

/// Nobody was asked to log in, and the token is nowhere that others may look at.
async fn nothing_was_told(pomd: &Pomd, deployment: &Deployment, tokens: &[&str]) {
    assert!(deployment.links.all().is_empty(), "a browser was opened");
    let status = serde_json::to_string(&pomd.status().await).unwrap();
    let arguments = fs::read_to_string(format!("/proc/{}/cmdline", pomd.pid())).unwrap();
    for place in [pomd.words(), status, arguments] {
        for token in tokens {
            assert!(!place.contains(token), "a token is told: {place}");
        }
    }
}

/// A folder as Kubernetes projects a token into: `token` leads to `..data/token`, `..data` to a folder of its own.
struct Projected(tempfile::TempDir, u32);

impl Projected {
    fn new(token: &str) -> Self {
        let mut res = Self(pomd::folder(), 0);
        res.rotate(token);
        symlink("..data/token", res.path()).unwrap();
        res
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("token")
    }

    fn rotate(&mut self, token: &str) {
        self.1 += 1;
        let name = format!("..2026_{}", self.1);
        let folder = self.0.path().join(&name);
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("token"), token).unwrap();
        let link = self.0.path().join("..data_tmp");
        symlink(&name, &link).unwrap();
        fs::rename(&link, self.0.path().join("..data")).unwrap();
        if self.1 > 1 {
            let old = format!("..2026_{}", self.1 - 1);
            fs::remove_dir_all(self.0.path().join(old)).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_connections_over_three_lives_of_a_projected_token_are_all_served() {
    const LIFE: Duration = Duration::from_secs(5);
    const CONNECTIONS: u32 = 1_000;
    let deployment = deployment().await;
    let mut projected = Projected::new(&deployment.gateway.bearer(POD, LIFE));
    let file = format!("{{ file = {:?}, kind = \"bearer\" }}", projected.path());
    let pomd = Pomd::start(&config(&deployment, &file)).await;
    let address = pomd.address("echo").await;
    // As a kubelet does it, at four fifths of a life.
    let rotating = async {
        loop {
            tokio::time::sleep(LIFE * 4 / 5).await;
            projected.rotate(&deployment.gateway.bearer(POD, LIFE));
        }
    };
    let connecting = async {
        for _ in 0..CONNECTIONS {
            let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
            echoes(&mut stream, b"served").await;
            tokio::time::sleep(LIFE * 12 / 5 / CONNECTIONS).await;
        }
        pomd.status().await
    };
    let status = tokio::select! {
        status = connecting => status,
        () = rotating => unreachable!(),
    };
    let lives = projected.1;
    assert!(lives >= 3, "{lives}");
    let stats = deployment.gateway.stats();
    assert_eq!((stats.refused, stats.sign_ins), (0, 0));
    assert!(stats.connects >= u64::from(CONNECTIONS));
    let corp = pomd::cluster(&status, CLUSTER);
    assert_eq!(corp.state, ClusterState::LoggedIn);
    assert_eq!(corp.user.as_deref(), Some(POD));
    assert_eq!(corp.token_source, TokenSource::File);
    nothing_was_told(&pomd, &deployment, &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn l10_a_file_that_is_empty_or_half_written_leaves_the_last_good_token_in_use() {
    let deployment = deployment().await;
    let folder = pomd::folder();
    let path = folder.path().join("token");
    let first = deployment.gateway.token("robot@corp.test");
    fs::write(&path, format!("{first}\n")).unwrap();
    let pomd = Pomd::start(&config(&deployment, &format!("{{ file = {path:?} }}"))).await;
    echoes(&mut pomd.connect("echo").await, b"by the first").await;
    for broken in ["", "two words", "\u{0}", "ä"] {
        fs::write(&path, broken).unwrap();
        let what = "it is told that the file is of no use";
        eventually(what, async || {
            pomd.words().contains("cannot get the token").then_some(())
        })
        .await;
        echoes(&mut pomd.connect("echo").await, b"still by the first").await;
    }
    // The same token written once more has nobody ask the server about it again.
    let asked = |deployment: &Deployment| {
        let seen = deployment.gateway.stats().requests;
        seen.iter()
            .filter(|it| it.target == "/.pomerium/user")
            .count()
    };
    fs::write(&path, &first).unwrap();
    let once_more = asked(&deployment) + 1;
    eventually("the good one is read again", async || {
        (asked(&deployment) >= once_more).then_some(())
    })
    .await;
    let before = asked(&deployment);
    for n in 0..5 {
        fs::write(&path, format!("{first}{}", "\n".repeat(n))).unwrap();
        // Each is an event of its own for who watches.
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    assert_eq!(asked(&deployment), before);
    let second = deployment.gateway.token("other-robot@corp.test");
    fs::write(&path, &second).unwrap();
    pomd.wait_for("the rotated token is taken up", |it| {
        pomd::cluster(it, CLUSTER).user.as_deref() == Some("other-robot@corp.test")
    })
    .await;
    deployment.gateway.end_session(&first);
    echoes(&mut pomd.connect("echo").await, b"by the second").await;
    assert_eq!(deployment.gateway.stats().refused, 0);
    nothing_was_told(&pomd, &deployment, &[&first, &second]).await;
    // Nothing of it rests on the disk.
    let state = pomd.setup().folder().join("state");
    for entry in fs::read_dir(state).unwrap().flatten() {
        let text = fs::read(entry.path()).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        assert!(!text.contains(&first) && !text.contains(&second));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn l10_a_command_that_fails_or_says_too_much_is_told_by_what_went_wrong() {
    let deployment = deployment().await;
    for (script, words) in [
        ("echo canary >&2; exit 3", "ended with exit code 3"),
        ("echo one; echo two", "gives no token"),
        (
            "exec head -c 200000 /dev/zero",
            "gives more than 65536 bytes",
        ),
        ("exit 0", "gives nothing"),
        ("kill -9 $$", "was ended by a signal"),
    ] {
        let folder = pomd::folder();
        let command = format!("{{ command = [{:?}] }}", program(folder.path(), script));
        let pomd = Pomd::start(&config(&deployment, &command)).await;
        let status = pomd
            .wait_for(words, |it| {
                let reason = pomd::cluster(it, CLUSTER).reason.as_ref();
                reason.is_some_and(|it| it.message.contains(words))
            })
            .await;
        let reason = pomd::cluster(&status, CLUSTER).reason.clone().unwrap();
        assert_eq!(reason.code, Code::LoginFailed);
        assert!(!pomd.words().contains("canary"));
    }
    let absent = "{ command = [\"/no/such/program\"] }";
    let pomd = Pomd::start(&config(&deployment, absent)).await;
    pomd.wait_for("it cannot be run", |it| {
        let reason = pomd::cluster(it, CLUSTER).reason.as_ref();
        reason.is_some_and(|it| it.message.contains("cannot run /no/such/program: "))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_403_has_the_command_run_once_more_before_it_is_the_policys() {
    let deployment = deployment().await;
    let folder = pomd::folder();
    let (token, runs) = (folder.path().join("now"), folder.path().join("runs"));
    let script = format!(
        "echo run >> {runs:?}; env > {:?}; exec cat {token:?}",
        folder.path().join("environment")
    );
    let first = deployment.gateway.bearer(POD, LONG);
    fs::write(&token, &first).unwrap();
    let command = format!(
        "{{ command = [{:?}], kind = \"bearer\" }}",
        program(folder.path(), &script)
    );
    let setup = Setup::new(&config(&deployment, &command)).env("A_SECRET", "canary");
    let pomd = setup.start().await;
    echoes(&mut pomd.connect("echo").await, b"by the first").await;
    let ran = || {
        fs::read_to_string(&runs)
            .unwrap_or_default()
            .lines()
            .count()
    };
    assert_eq!(ran(), 1);
    // The first is stale: no client notices.
    deployment.gateway.end_bearer(&first);
    let second = deployment.gateway.bearer(POD, LONG);
    fs::write(&token, &second).unwrap();
    echoes(&mut pomd.connect("echo").await, b"by the second").await;
    assert_eq!(ran(), 2);
    // Nor does who only asks whether it works.
    deployment.gateway.end_bearer(&second);
    let third = deployment.gateway.bearer(POD, LONG);
    fs::write(&token, &third).unwrap();
    let up = pomd.pomctl(&["up", "echo"]).await;
    assert!(up.status.success(), "{up:?}");
    assert_eq!(ran(), 3);
    // The policy says no: asked once more, and never again for this token.
    deployment.gateway.forbid(POD, OTHER);
    for _ in 0..3 {
        let mut stream = pomd.connect("other").await;
        let _ = stream.write_all(b"x").await;
        assert_eq!(stream.read(&mut [0; 8]).await.unwrap_or(0), 0);
    }
    assert_eq!(ran(), 4);
    echoes(&mut pomd.connect("echo").await, b"still by the third").await;
    let environment = fs::read_to_string(folder.path().join("environment")).unwrap();
    assert!(!environment.contains("canary") && environment.contains("PATH="));
    nothing_was_told(&pomd, &deployment, &[&first, &second, &third]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn variables_and_credentials_of_a_unit_are_tokens_and_a_logout_lasts_until_somebody_asks() {
    let deployment = deployment().await;
    let token = deployment.gateway.token("robot@corp.test");
    let folder = pomd::folder();
    fs::write(folder.path().join("pomerium"), &token).unwrap();
    for (source, expected) in [
        ("{ env = \"POMERIUM_TOKEN\" }", TokenSource::Env),
        ("{ credential = \"pomerium\" }", TokenSource::Credential),
    ] {
        let setup = Setup::new(&config(&deployment, source))
            .env("POMERIUM_TOKEN", &token)
            .env(
                "CREDENTIALS_DIRECTORY",
                &folder.path().display().to_string(),
            )
            .arg("--log=trace");
        let pomd = setup.start().await;
        echoes(&mut pomd.connect("echo").await, b"by a service account").await;
        let status = pomd.status().await;
        let corp = pomd::cluster(&status, CLUSTER);
        assert_eq!(corp.token_source, expected);
        assert_eq!(corp.user.as_deref(), Some("robot@corp.test"));
        pomd.client().logout(CLUSTER).await.unwrap();
        let status = pomd.status().await;
        assert_eq!(
            pomd::cluster(&status, CLUSTER).state,
            ClusterState::LoggedOut
        );
        let answer = pomd
            .client()
            .login(CLUSTER, Default::default())
            .await
            .unwrap();
        assert!(answer.login.is_none(), "there is nothing to open");
        echoes(&mut pomd.connect("echo").await, b"again").await;
        nothing_was_told(&pomd, &deployment, &[&token]).await;
    }
}

/// A runner's token service that answers once; returns the request.
async fn answers(service: &TcpListener, token: &str) -> String {
    let (mut stream, _) = service.accept().await.unwrap();
    let mut asked = Vec::new();
    while !asked.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).await.unwrap();
        asked.extend(byte);
    }
    let body = format!("{{\"count\": 1, \"value\": \"{token}\"}}");
    let answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(answer.as_bytes()).await.unwrap();
    String::from_utf8(asked).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_of_github_actions_gets_its_token_from_its_runner() {
    let deployment = deployment().await;
    let service = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!(
        "http://{}/idtoken?api-version=2.0",
        service.local_addr().unwrap()
    );
    let token = deployment
        .gateway
        .bearer("repo:corp/web:ref:refs/heads/main", LONG);
    let source = "{ github_actions = { audience = \"https://corp.test\" } }";
    let setup = Setup::new(&config(&deployment, source))
        .env("ACTIONS_ID_TOKEN_REQUEST_URL", &url)
        .env("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "of-the-runner");
    let (pomd, asked) = tokio::join!(setup.start(), answers(&service, &token));
    assert!(
        asked.starts_with("GET /idtoken?api-version=2.0&audience=https%3A%2F%2Fcorp.test HTTP/1.1"),
        "{asked}"
    );
    assert!(
        asked.contains("authorization: Bearer of-the-runner\r\n"),
        "{asked}"
    );
    echoes(&mut pomd.connect("echo").await, b"by the job").await;
    let status = pomd.status().await;
    let corp = pomd::cluster(&status, CLUSTER);
    assert_eq!(corp.token_source, TokenSource::GithubActions);
    nothing_was_told(&pomd, &deployment, &[&token, "of-the-runner"]).await;

    let elsewhere = Setup::new(&config(&deployment, source)).start().await;
    elsewhere
        .wait_for("this is no such job", |it| {
            let reason = pomd::cluster(it, CLUSTER).reason.as_ref();
            let hint = reason.and_then(|it| it.hint.as_deref());
            hint.is_some_and(|it| it.contains("id-token: write"))
        })
        .await;
}

/// The lines of an example between two others, without what they are set in by.
fn embedded(name: &str, from: &str, to: &str) -> String {
    let path = integration::binary::root().join("examples").join(name);
    let text = fs::read_to_string(path).unwrap();
    let begin = text.find(from).unwrap() + from.len();
    let part = &text[begin..];
    let part = &part[..part.find(to).unwrap()];
    let indent = |it: &str| it.len() - it.trim_start().len();
    let lines = part.lines().filter(|it| !it.trim().is_empty());
    let least = lines.map(indent).min().unwrap();
    let lines = part.lines().map(|it| it.get(least..).unwrap_or(""));
    lines.collect::<Vec<_>>().join("\n")
}

/// The example as it is written, with the names of this test's company and where it is reached.
fn here(text: &str, deployment: &Deployment) -> String {
    let section = "hosts = [\"*.corp.example.com\"]";
    assert!(text.contains(section), "{text}");
    let reached = format!(
        "hosts = [\"*.corp.test\"]\nca_file = {:?}\nconnect = \"{}\"",
        deployment.ca_file(),
        deployment.address()
    );
    let text = text.replace(section, &reached);
    text.replace("db.corp.example.com:5432", ECHO)
        .replace("listen = 15432", "")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_examples_for_kubernetes_and_github_work_as_they_are_written() {
    let deployment = deployment().await;
    let projected = Projected::new(&deployment.gateway.bearer(POD, LONG));
    let sidecar = embedded("kubernetes-sidecar.yaml", "pomd.toml: |\n", "---\n");
    let sidecar = here(&sidecar, &deployment).replace(
        "/var/run/secrets/tokens/pomerium",
        projected.path().to_str().unwrap(),
    );
    let pomd = Pomd::start(&sidecar).await;
    echoes(&mut pomd.connect("db").await, b"as the pod").await;

    let workflow = embedded("github-actions.yml", "<<'END'\n", "END\n");
    let service = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/idtoken", service.local_addr().unwrap());
    let setup = Setup::new(&here(&workflow, &deployment))
        .env("ACTIONS_ID_TOKEN_REQUEST_URL", &url)
        .env("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "of-the-runner");
    let token = deployment.gateway.bearer("repo:corp/web", LONG);
    let (job, _) = tokio::join!(setup.start(), answers(&service, &token));
    let up = job.pomctl(&["up", "db"]).await;
    assert!(up.status.success(), "{up:?}");
    echoes(&mut job.connect("db").await, b"as the job").await;
    assert!(deployment.links.all().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sidecar_runs_as_its_own_user_in_folders_of_root() {
    let test = "the_sidecar_runs_as_its_own_user_in_folders_of_root";
    let Some(sidecar) = OtherUser::new(test, &binary("pomd")) else {
        return;
    };
    let volumes = pomd::folder();
    let opened = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    opened(volumes.path(), 0o755);
    // As an emptyDir is made.
    let state = volumes.path().join("state");
    fs::create_dir(&state).unwrap();
    opened(&state, 0o777);
    let config = volumes.path().join("pomd.toml");
    fs::write(&config, "").unwrap();
    opened(&config, 0o644);
    let args = format!(
        "[{}]",
        embedded("kubernetes-sidecar.yaml", "args: [", "]\n")
    );
    let args = args
        .replace("/etc/pomd/pomd.toml", config.to_str().unwrap())
        .replace("/state", state.to_str().unwrap());
    let args = serde_json::from_str::<Vec<String>>(&args).unwrap();
    let args = args.iter().map(String::as_str).collect::<Vec<_>>();
    let mut command = tokio::process::Command::from(sidecar.command(&args));
    let mut running = command
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut log = BufReader::new(running.stderr.take().unwrap()).lines();
    let mut words = Vec::new();
    let starts = async {
        while let Some(line) = log.next_line().await.unwrap() {
            words.push(line);
            if words.last().is_some_and(|it| it.contains(" runs (pid ")) {
                return true;
            }
        }
        false
    };
    let started = tokio::time::timeout(Duration::from_secs(60), starts).await;
    assert_eq!(started, Ok(true), "{words:?}");
    assert!(state.join("pomd/pomd.sock").exists());
    running.kill().await.unwrap();
}
