//! `pomctl connect`: a whole domain reached without a port for each host, by a real ssh's ProxyCommand.

use std::process::Output;

use control::wire::ClusterState;
use gateway::{End, Upstream};
use integration::{
    binary::binary,
    deployment::{CLUSTER, Deployment},
    pomd::{self, Pomd},
    ssh::{Ssh, Sshd},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const ROUTE: &str = "web-1.corp.test:22";

/// An ssh that finds `web-1.corp.test` only through pomd: no tunnel leads there, only the cluster has its domain.
struct Job {
    deployment: Deployment,
    pomd: Pomd,
    ssh: Ssh,
    _sshd: Sshd,
}

impl Job {
    async fn new() -> Self {
        let sshd = Sshd::start().await;
        let deployment = Deployment::envoy(&[(ROUTE, sshd.address())]).await;
        let pomd = deployment.pomd(&[]).await;
        let ssh = sshd.through(sshd.address());
        Self {
            deployment,
            pomd,
            ssh,
            _sshd: sshd,
        }
    }

    /// Runs `remote` on `route` with pomctl as ssh's ProxyCommand.
    async fn ssh(&self, route: &str, remote: &str) -> Output {
        let pomctl = self.pomd.setup().command(&binary("pomctl"));
        let places = ["POMD_CONFIG", "POMD_STATE_DIR", "POMD_SOCKET"].map(|name| {
            let given = pomctl.get_envs().find(|(key, _)| *key == name);
            let value = given.and_then(|it| it.1).unwrap_or_default();
            format!("{name}={}", value.to_str().unwrap())
        });
        let command = format!(
            "ProxyCommand=env {} '{}' connect --ssh '{route}'",
            places.join(" "),
            binary("pomctl").display()
        );
        let command = self.ssh.command(&["-o", &command], &[remote]);
        pomd::run(command, integration::PATIENCE * 3).await
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn ssh_reaches_a_host_of_the_domain_by_proxy_command() {
    let job = Job::new().await;
    job.deployment.log_in(&job.pomd).await;
    let output = job.ssh(ROUTE, "echo $((6 * 7))").await;
    assert_eq!(text(&output.stdout), "42\n", "{output:?}");
    let many = job
        .ssh(
            ROUTE,
            "head -c 20000000 /dev/zero | wc -c; head -c 20000000 /dev/zero",
        )
        .await;
    assert_eq!(many.stdout.len(), 9 + 20_000_000, "{}", text(&many.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_login_it_is_asked_for_and_ssh_goes_on_by_itself() {
    let job = Job::new().await;
    let signing_in = job.deployment.links.sign_in(1, &job.deployment.browser);
    let (output, _) = tokio::join!(job.ssh(ROUTE, "echo in"), signing_in);
    assert_eq!(text(&output.stdout), "in\n", "{output:?}");
    let said = text(&output.stderr);
    let words = "pomctl: corp needs a login; your browser was opened at http://127.0.0.1:";
    assert!(said.contains(words), "{said}");
    assert!(!said.contains("Ctrl-C"), "{said}");
    assert_eq!(job.deployment.links.all().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_told_in_ssh_s_own_words() {
    let job = Job::new().await;
    job.deployment.log_in(&job.pomd).await;
    let output = job.ssh("web-9.corp.test:22", "true").await;
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(255));
    assert!(
        said.contains("pomd: corp has no route web-9.corp.test:22"),
        "{said}"
    );
    assert!(said.contains("web-1.corp.test:22"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn other_programs_get_bytes_or_one_line_that_says_why_not() {
    let deployment = Deployment::gateway(|it| {
        it.domain("corp.test")
            .route("hello.corp.test:80", Upstream::Hello)
    })
    .await;
    let pomd = deployment.logged_in(&[]).await;
    let mut command = pomd.setup().command(&binary("pomctl"));
    command.args(["connect", "hello.corp.test:80"]);
    let request = b"GET / HTTP/1.0\r\nHost: hello.corp.test\r\n\r\n";
    let said = pomd::run_with_input(command, request, integration::PATIENCE).await;
    assert!(
        text(&said.stdout).contains("Hello, demo@example.com."),
        "{said:?}"
    );
    assert_eq!(said.status.code(), Some(0));

    for (route, code, words) in [
        (
            "hello.corp.test:8",
            1,
            "corp has no route hello.corp.test:8",
        ),
        (
            "hello.elsewhere.test:80",
            2,
            "no cluster has the host hello.elsewhere.test",
        ),
        ("x$(id).corp.test:22", 2, "x$(id).corp.test"),
        ("hello.corp.test", 2, "HOST:PORT"),
    ] {
        let output = pomd.pomctl(&["connect", route]).await;
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{route}: {said}");
        assert!(
            said.starts_with("pomctl: ") && said.contains(words),
            "{route}: {said}"
        );
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(output.stdout.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_is_told_apart_from_an_end() {
    let route = "late.corp.test:80";
    let says_and_stays = Upstream::service(|mut stream, _| async move {
        let _ = stream.write_all(b"half of it").await;
        std::future::pending().await
    });
    let deployment =
        Deployment::gateway(|it| it.domain("corp.test").route(route, says_and_stays)).await;
    let pomd = deployment.logged_in(&[]).await;
    let mut child = pomd.pomctl_connect(&[route]);
    let mut got = [0; 10];
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"half of it");
    deployment.gateway.sever(End::Reset);
    let said = child.wait_with_output();
    let said = tokio::time::timeout(integration::PATIENCE, said);
    let said = said.await.unwrap().unwrap();
    assert_eq!(said.status.code(), Some(1), "{said:?}");
    assert_eq!(
        text(&said.stderr),
        "pomctl: the connection to late.corp.test:80 was cut. Why is in the log: pomctl logs\n"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_at_a_terminal_and_no_answer_ends_soon_and_the_login_stays_open() {
    let deployment = Deployment::gateway(|it| {
        it.domain("corp.test")
            .route("hello.corp.test:80", Upstream::Hello)
    })
    .await;
    let pomd = deployment.pomd(&[]).await;
    let output = pomd.pomctl(&["connect", "hello.corp.test:80"]).await;
    assert_eq!(output.status.code(), Some(4), "{output:?}");
    assert!(
        text(&output.stderr).contains("corp needs a login"),
        "{output:?}"
    );
    let status = pomd.status().await;
    assert_eq!(
        pomd::cluster(&status, CLUSTER).state,
        ClusterState::LoginRunning
    );
}
