//! The program of a token, for a pomd that runs as the unit that is shipped: outside of the unit, with its environment, and
//! gone when its time is over.

use std::{fs, path::Path};

use gateway::{Gateway, Upstream};
use integration::{eventually, skipped, systemd::Systemd};
use serde_json::Value;

const POD: &str = "robot@example.com";

/// The unit with a cluster whose token this program prints.
async fn start(test: &str, gateway: &Gateway, script: impl Fn(&Path) -> String) -> Option<Systemd> {
    let systemd = match Systemd::start("").await {
        Ok(systemd) => systemd,
        Err(why) => {
            skipped(test, &why);
            return None;
        }
    };
    let program = systemd.program("print-token", &script(&systemd.files()));
    let pomerium = gateway.address();
    let config = format!(
        "[tunnel.hello]\nroute = \"tcp+http://{pomerium}/hello.demo:80\"\n\
         [cluster.demo]\nhosts = [\"127.0.0.1\"]\nurl = \"http://{pomerium}\"\n\
         token = {{ command = [{program:?}, \"a$HOME\", \"$$\", \"%h\", \"b c\"] }}\n"
    );
    fs::write(systemd.config_file(), config).unwrap();
    // What is set for the unit alone reaches the program too, its secrets do not.
    let own = "[Service]\nEnvironment=POMD_LOG=debug\nEnvironment=LC_TIME=fr XDG_MARK=ours POMERIUM_TOKEN=canary\n";
    systemd.amend(own).await;
    systemd.systemctl(&["start", "pomd"]).await;
    Some(systemd)
}

async fn gateway() -> Gateway {
    let gateway = Gateway::builder().domain("demo").user(POD);
    let gateway = gateway.route("hello.demo:80", Upstream::Hello).start();
    gateway.await.unwrap()
}

async fn status(systemd: &Systemd) -> Value {
    let output = systemd.user(&["pomctl", "status", "--json"]).await;
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

/// Writes down how it runs, before it prints the token.
fn told(out: &Path, then: &str) -> String {
    format!(
        "{{ for it in \"$@\"; do echo \"<$it>\"; done; grep -E '^(NoNewPrivs|Seccomp):' /proc/self/status\n\
         grep 0:: /proc/self/cgroup; env; }} > '{0}.new'\necho run >> '{0}.runs'\nmv '{0}.new' '{0}'\n{then}",
        out.display()
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a20_a32_a_tokens_program_runs_outside_of_the_unit_and_its_token_opens_a_route() {
    let test = "a20_a32_a_tokens_program_runs_outside_of_the_unit_and_its_token_opens_a_route";
    let gateway = gateway().await;
    let token = gateway.token(POD);
    // Its words on stderr are many, hold the token, and look like those of the manager's tool.
    let then = format!(
        "echo 'Failed to connect to bus' {token} >&2\nhead -c 200000 /dev/zero >&2 || exit 9\necho {token}"
    );
    let script = |files: &Path| told(&files.join("told"), &then);
    let Some(systemd) = start(test, &gateway, script).await else {
        return;
    };
    let status = eventually("somebody is logged in", async || {
        let now = status(&systemd).await;
        (now["clusters"][0]["state"] == "logged_in").then_some(now)
    })
    .await;
    assert_eq!(status["clusters"][0]["user"], POD, "{status:#}");
    let listen = status["tunnels"][0]["listen"][0].as_str().unwrap();
    let port = listen.rsplit(':').next().unwrap();
    let url = format!("http://localhost:{port}/");
    let page = systemd.user(&["curl", "-sS", "-m", "60", &url]).await;
    let page = String::from_utf8_lossy(&page.stdout).into_owned();
    assert!(page.starts_with(&format!("Hello, {POD}.")), "{page}");

    let told = fs::read_to_string(systemd.files().join("told")).unwrap();
    let lines: Vec<&str> = told.lines().collect();
    assert_eq!(lines[..4], ["<a$HOME>", "<$$>", "<%h>", "<b c>"]);
    assert_eq!(lines[4..6], ["NoNewPrivs:\t0", "Seccomp:\t0"]);
    assert!(!lines[6].contains("/pomd.service"), "{told}");
    assert!(
        lines.contains(&"XDG_MARK=ours") && lines.contains(&"LC_TIME=fr"),
        "{told}"
    );
    assert!(
        !told.contains("canary") && !told.contains("NOTIFY_SOCKET"),
        "{told}"
    );

    let runs = fs::read_to_string(systemd.files().join("told.runs")).unwrap();
    assert_eq!(runs, "run\n", "it was run twice");

    // The token stands in no log, no argument and no status.
    let journal = systemd.journal(&[]).await;
    let journal = serde_json::to_string(&journal).unwrap();
    assert!(!journal.contains(&token), "the journal tells the token");
    assert!(!status.to_string().contains(&token));
}

#[tokio::test(flavor = "multi_thread")]
async fn l10_a_tokens_program_of_a_unit_that_fails_is_told_by_what_went_wrong() {
    let test = "l10_a_tokens_program_of_a_unit_that_fails_is_told_by_what_went_wrong";
    let gateway = gateway().await;
    let Some(systemd) = start(test, &gateway, |_| "exit 3".to_owned()).await else {
        return;
    };
    let fails = async |words: &str| {
        eventually(words, async || {
            let now = status(&systemd).await;
            let reason = now["clusters"][0]["reason"]["message"].as_str()?.to_owned();
            reason.contains(words).then_some(())
        })
        .await;
    };
    fails("ended with exit code 3").await;
    systemd.program("print-token", "echo one; echo two");
    systemd.systemctl(&["restart", "pomd"]).await;
    fails("gives no token").await;
    systemd.program("print-token", "exec head -c 200000 /dev/zero");
    systemd.systemctl(&["restart", "pomd"]).await;
    fails("gives more than 65536 bytes").await;
    let config = fs::read_to_string(systemd.config_file()).unwrap();
    let absent = config.replace("/print-token", "/no-such-program");
    fs::write(systemd.config_file(), absent).unwrap();
    systemd.systemctl(&["restart", "pomd"]).await;
    fails("there is no such program").await;
}
