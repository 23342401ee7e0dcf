//! The main job: a real ssh client reaches a real sshd through pomd and a real Envoy that refuses a CONNECT without the
//! token.

use std::{
    fs,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use control::wire::ClusterState;
use integration::{
    deployment::{CLUSTER, Deployment, tunnel},
    pomd::{self, Pomd, cluster},
    ssh::{Session, Ssh, Sshd},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};

const ROUTE: &str = "ssh.corp.test:22";
/// Leads to the same sshd.
const OTHER_ROUTE: &str = "ssh-2.corp.test:22";
const MIB_64: usize = 64 << 20;

struct Job {
    deployment: Deployment,
    pomd: Pomd,
    sshd: Sshd,
    ssh: Ssh,
}

impl Job {
    async fn new() -> Self {
        let sshd = Sshd::start().await;
        let address = sshd.address();
        let deployment = Deployment::envoy(&[(ROUTE, address), (OTHER_ROUTE, address)]).await;
        let pomd = deployment.logged_in(&[("ssh", ROUTE)]).await;
        let ssh = sshd.through(pomd.address("ssh").await);
        Self {
            deployment,
            pomd,
            sshd,
            ssh,
        }
    }

    /// A session from one more ssh.
    async fn another_session(&self) -> Session {
        let ssh = self.sshd.through(self.pomd.address("ssh").await);
        ssh.session().await
    }
}

/// A file of 64 MiB, its place and the folder that keeps it.
fn large_file() -> (TempDir, String) {
    let folder = pomd::folder();
    let file = folder.path().join("large");
    let mut options = fs::File::options();
    let mut out = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&file)
        .unwrap();
    out.write_all(&integration::client::pattern(MIB_64))
        .unwrap();
    (folder, file.to_str().unwrap().to_owned())
}

async fn sha256(path: &str) -> String {
    let mut command = Command::new("sha256sum");
    command.arg(path);
    let output = pomd::run(command, Duration::from_secs(60)).await;
    let text = String::from_utf8(output.stdout).unwrap();
    text.split(' ').next().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_says_what_it_says_there() {
    let job = Job::new().await;
    assert_eq!(job.ssh.output("echo $((6 * 7))").await, "42\n");
    let failed = job.ssh.run("exit 7").await;
    assert_eq!(failed.status.code(), Some(7));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_login_ssh_waits_and_then_goes_on_by_itself() {
    let sshd = Sshd::start().await;
    let deployment = Deployment::envoy(&[(ROUTE, sshd.address())]).await;
    let pomd = deployment.pomd(&[("ssh", ROUTE)]).await;
    let ssh = sshd.through(pomd.address("ssh").await);
    let signing_in = deployment.links.sign_in(1, &deployment.browser);
    let (said, _) = tokio::join!(ssh.output("echo in"), signing_in);
    assert_eq!(said, "in\n");
    assert_eq!(deployment.links.all().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn sixty_four_mebibytes_both_ways_have_equal_hashes() {
    let job = Job::new().await;
    let (folder, file) = large_file();
    let hash = sha256(&file).await;
    // Up, and at the same time down on the same connection.
    let back = folder.path().join("back");
    feed(job.ssh.command(&[], &["cat"]), &file, &back).await;
    assert_eq!(sha256(back.to_str().unwrap()).await, hash);
    // And as the other side sees what it got.
    let seen = folder.path().join("seen");
    feed(job.ssh.command(&[], &["sha256sum"]), &file, &seen).await;
    assert!(fs::read_to_string(seen).unwrap().starts_with(&hash));
}

/// Runs `command` with `from` as stdin and `to` as stdout.
async fn feed(mut command: Command, from: &str, to: &Path) {
    command
        .stdin(fs::File::open(from).unwrap())
        .stdout(fs::File::create(to).unwrap());
    let mut command = tokio::process::Command::from(command);
    let status = command.kill_on_drop(true).status();
    let status = tokio::time::timeout(Duration::from_secs(300), status).await;
    assert!(status.unwrap().unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn scp_and_sftp_carry_files_both_ways() {
    let job = Job::new().await;
    let (folder, file) = large_file();
    let hash = sha256(&file).await;
    let place = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    for (there, back, sftp) in [("a", "a-back", false), ("b", "b-back", true)] {
        let (there, back) = (place(there), place(back));
        if sftp {
            let output = job
                .ssh
                .sftp(&format!("put {file} {there}\nget {there} {back}\n"))
                .await;
            assert!(
                output.status.success(),
                "{}",
                String::from_utf8_lossy(&output.stderr)
            );
        } else {
            for (from, to) in [(&file, &format!(":{there}")), (&format!(":{there}"), &back)] {
                let output = job.ssh.scp(from, to).await;
                assert!(
                    output.status.success(),
                    "{}",
                    String::from_utf8_lossy(&output.stderr)
                );
            }
        }
        assert_eq!(sha256(&there).await, hash);
        assert_eq!(sha256(&back).await, hash);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_remote_port_forward_leads_back_here() {
    let job = Job::new().await;
    let here = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let forward = format!("0:{}", here.local_addr().unwrap());
    let mut ssh = job
        .ssh
        .command(&["-N", "-R", &forward, "-o", "LogLevel=INFO"], &[]);
    ssh.stderr(Stdio::piped());
    let mut ssh = tokio::process::Command::from(ssh)
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(ssh.stderr.take().unwrap()).lines();
    // "Allocated port 40123 for remote forward to 127.0.0.1:40001"
    let port: u16 = loop {
        let line = tokio::time::timeout(integration::PATIENCE, lines.next_line()).await;
        let line = line.unwrap().unwrap().unwrap();
        if let Some(rest) = line.strip_prefix("Allocated port ") {
            break rest.split(' ').next().unwrap().parse().unwrap();
        }
    };
    let mut there = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let (mut visitor, _) = here.accept().await.unwrap();
    there.write_all(b"from there").await.unwrap();
    let mut heard = [0; 10];
    visitor.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"from there");
    visitor.write_all(b"from here!").await.unwrap();
    there.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"from here!");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interactive_session_outlives_reloads_even_of_its_own_tunnel() {
    let job = Job::new().await;
    let mut session = job.ssh.session().await;
    // Another tunnel comes.
    let more = job
        .deployment
        .config(&[("ssh", ROUTE), ("more", OTHER_ROUTE)]);
    let answer = job.pomd.reload(&more).await;
    assert_eq!(answer.added, ["more"]);
    session.answers().await;
    // Its own tunnel leads elsewhere from now on.
    let changed = job
        .deployment
        .config(&[("ssh", OTHER_ROUTE), ("more", ROUTE)]);
    let answer = job.pomd.reload(&changed).await;
    assert!(
        answer.changed.iter().any(|it| it.name == "ssh"),
        "{answer:?}"
    );
    session.answers().await;
    let status = job.pomd.status().await;
    let leaving = status.leaving.iter().find(|it| it.name == "ssh");
    assert_eq!(leaving.map(|it| it.connections), Some(1), "{status:#?}");
    let mut another = job.another_session().await;
    another.answers().await;
    another.leave().await;
    // Its own tunnel is gone.
    let answer = job
        .pomd
        .reload(&job.deployment.config(&[("more", ROUTE)]))
        .await;
    assert_eq!(answer.removed, ["ssh"]);
    session.answers().await;
    // A broken file.
    job.pomd.replace_config("[tunnel.ssh");
    assert!(job.pomd.client().reload().await.is_err());
    session.answers().await;
    session.leave().await;
    job.pomd
        .wait_for("the last leaving connection is gone", |it| {
            it.leaving.is_empty()
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interactive_session_outlives_its_login_session() {
    let job = Job::new().await;
    let mut session = job.ssh.session().await;
    job.deployment.gateway.end_all_sessions();
    session.answers().await;
    // The next one needs a login; the first never notices.
    let next = job.ssh.clone();
    let signing_in = job.deployment.links.sign_in(1, &job.deployment.browser);
    let (said, _) = tokio::join!(next.output("echo again"), signing_in);
    assert_eq!(said, "again\n");
    session.answers().await;
    job.pomd.client().logout(CLUSTER).await.unwrap();
    let status = job.pomd.status().await;
    assert_eq!(cluster(&status, CLUSTER).state, ClusterState::LoggedOut);
    session.answers().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killing_envoy_resets_the_connection_and_the_next_one_works_once_it_is_back() {
    let sshd = Sshd::start().await;
    let deployment = Deployment::envoy(&[(ROUTE, sshd.address())]).await;
    let mut deployment = deployment;
    let pomd = deployment.logged_in(&[("ssh", ROUTE)]).await;
    let mut stream = pomd.connect("ssh").await;
    let mut banner = [0; 8];
    stream.read_exact(&mut banner).await.unwrap();
    assert_eq!(&banner, b"SSH-2.0-");
    deployment
        .envoy
        .as_mut()
        .unwrap()
        .signal(rustix::process::Signal::KILL);
    let (_, ending) = integration::client::read_all(&mut stream).await;
    assert_eq!(ending, integration::client::Ending::Reset);
    deployment.envoy = None;
    // The gateway takes over where Envoy was: no login is needed for it.
    let at_the_gateway = deployment.cluster("") + &tunnel("ssh", ROUTE, "");
    pomd.reload(&at_the_gateway).await;
    let ssh = sshd.through(pomd.address("ssh").await);
    assert_eq!(ssh.output("echo back").await, "back\n");
    assert!(deployment.links.all().is_empty());
}
