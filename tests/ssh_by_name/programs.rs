//! What runs ssh, or is run by it.

use std::process::Stdio;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn scp_carries_a_file_there_and_back() {
    let person = Person::new().await;
    let pomd = person.at_work(&[], &[]).await;
    let setup = pomd.setup();
    let at = |name: &str| setup.folder().join(name).display().to_string();
    let bytes: Vec<u8> = (0..3_000_000).map(|it: u32| (it % 251) as u8).collect();
    fs::write(at("a"), &bytes).unwrap();
    for (from, to) in [
        (at("a"), format!("{HOST}:{}", at("b"))),
        (format!("{HOST}:{}", at("b")), at("c")),
    ] {
        let mut command = program(setup, "scp");
        command.args([from, to]);
        let output = pomd::run(command, PATIENCE * 3).await;
        assert!(output.status.success(), "{output:?}");
    }
    assert!(fs::read(at("c")).unwrap() == bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn git_clones_and_rsync_copies_over_ssh() {
    let person = Person::new().await;
    let pomd = person.at_work(&[], &[]).await;
    let setup = pomd.setup();
    let ssh = format!("ssh -F '{}'", config(setup).display());
    let at = |name: &str| setup.folder().join(name).display().to_string();
    let run = async |name: &str, words: &[&str]| {
        let mut command = setup.command(name.as_ref());
        command.args(words);
        command.env("GIT_SSH_COMMAND", &ssh).env("RSYNC_RSH", &ssh);
        command.env("GIT_CONFIG_NOSYSTEM", "1");
        let output = pomd::run(command, PATIENCE * 3).await;
        assert!(output.status.success(), "{name} {words:?}: {output:?}");
    };
    if is_there("git") {
        run("git", &["init", "-q", &at("source")]).await;
        let who = ["-c", "user.name=a", "-c", "user.email=a@example.com"];
        let commit = ["commit", "-q", "--allow-empty", "-m", "first"];
        let source = at("source");
        let words = [&["-C", source.as_str()], &who[..], &commit[..]].concat();
        run("git", &words).await;
        let from = format!("{HOST}:{}", at("source"));
        run("git", &["clone", "-q", &from, &at("clone")]).await;
        assert!(PathBuf::from(at("clone/.git/HEAD")).exists());
    } else {
        println!("skipped: git is not installed");
    }
    if is_there("rsync") {
        fs::create_dir(at("many")).unwrap();
        for n in 0..20 {
            fs::write(at(&format!("many/{n}")), format!("file {n}")).unwrap();
        }
        let to = format!("{HOST}:{}", at("copied"));
        run("rsync", &["-a", &format!("{}/", at("many")), &to]).await;
        assert_eq!(fs::read_to_string(at("copied/19")).unwrap(), "file 19");
    } else {
        println!("skipped: rsync is not installed");
    }
}

fn is_there(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|it| it.join(name).is_file())
}

#[tokio::test(flavor = "multi_thread")]
async fn vs_code_s_way_of_calling_ssh_works() {
    let person = Person::new().await;
    let pomd = person.at_work(&[], &[]).await;
    let port = pomd::free_port().to_string();
    let mut command = program(pomd.setup(), "ssh");
    command.args(["-T", "-D", &port, "-o", "ConnectTimeout=15", HOST, "bash"]);
    let script = b"echo listening-$((40 + 2)); uname -s\n";
    let output = pomd::run_with_input(command, script, PATIENCE * 3).await;
    let said = text(&output.stdout);
    assert_eq!(said, "listening-42\nLinux\n", "{output:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_control_master_persists_and_serves_the_next() {
    let person = Person::new().await;
    let pomd = person.at_work(&[], &[]).await;
    let setup = pomd.setup();
    let path = format!("ControlPath={}", setup.folder().join("m").display());
    let options = [
        "-o",
        "ControlMaster=auto",
        "-o",
        "ControlPersist=60",
        "-o",
        &path,
    ];
    for n in 0..3 {
        let question = format!("echo master-{n}");
        let args: Vec<&str> = options.into_iter().chain([HOST, &question]).collect();
        let mut command = program(setup, "ssh");
        // The master that stays behind must not be waited for.
        command.args(args);
        command.stderr(Stdio::null());
        let output = pomd::run(command, PATIENCE * 3).await;
        assert_eq!(text(&output.stdout), format!("master-{n}\n"));
    }
    let words = person.sshd.words();
    let accepted = words.matches("Accepted publickey").count();
    assert_eq!(accepted, 1, "one connection serves all: {words}");
    let args: Vec<&str> = ["-o", &path, "-O", "exit"]
        .into_iter()
        .chain([HOST])
        .collect();
    let output = ssh(setup, &args).await;
    assert!(output.status.success(), "{output:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn ssh_jumps_over_a_host_behind_pomerium() {
    let person = Person::new().await;
    let pomd = person.at_work(&[], &[]).await;
    let port = person.sshd.address().port().to_string();
    let args = ["-J", HOST, "-p", &port, "127.0.0.1", "echo jumped"];
    let output = ssh(pomd.setup(), &args).await;
    assert_eq!(text(&output.stdout), "jumped\n", "{output:?}");
}
