//! Answers are whole, or a word and an exit code say why not.

use super::*;

/// Each program that answers, with what makes it do so.
fn programs(lab: &Lab) -> Vec<(&'static str, Command)> {
    let mut check = lab.pomd.setup().command(&binary("pomd"));
    check.arg("check").arg(lab.pomd.setup().config_file());
    let pomd = |word: &str| {
        let mut command = Command::new(binary("pomd"));
        command.arg(word);
        command
    };
    let mut demo = Command::new(binary("pomd-demo"));
    demo.arg("--help");
    vec![
        ("overview", lab.pomctl(&[])),
        ("help", lab.pomctl(&["--help"])),
        ("version", lab.pomctl(&["--version"])),
        ("status", lab.pomctl(&["status"])),
        ("json", lab.pomctl(&["status", "--json"])),
        ("logs", lab.pomctl(&["logs"])),
        ("reload", lab.pomctl(&["reload", "--json"])),
        ("error", lab.pomctl(&["down", "nothing", "--json"])),
        ("check", check),
        ("pomd's help", pomd("--help")),
        ("pomd's version", pomd("--version")),
        ("demo", demo),
    ]
}

/// Fills a pipe whose writing end does not block.
fn fill(ends: &Ends) -> usize {
    let mut filled = 0;
    while let Ok(n) = rustix::io::write(&ends.theirs, &[b'#'; 4096]) {
        filled += n;
    }
    filled
}

#[tokio::test(flavor = "multi_thread")]
async fn q6_an_answer_waits_for_a_full_pipe_without_blocking() {
    let lab = Lab::new().await;
    for (name, mut command) in programs(&lab) {
        command.stdin(Stdio::null()).stderr(Stdio::null());
        command.stdout(Stdio::piped());
        let plain = blocking(move || (command.output().unwrap(), command)).await;
        let (plain, mut command) = plain;
        let ends = Kind::Pipe.ends(false).without_blocking();
        let filled = fill(&ends);
        command.stdout(ends.stdio());
        let mut child = command.spawn().unwrap();
        drop(command);
        // What it does while nobody reads is the behaviour itself.
        tokio::time::sleep(PAUSE).await;
        assert_eq!(child.try_wait().unwrap(), None, "{name}: it gave up");
        let (mut from, theirs) = ends.split();
        assert!(is_without_blocking(&theirs), "{name}");
        drop(theirs);
        let heard = blocking(move || {
            let mut heard = Vec::new();
            from.read_to_end(&mut heard).unwrap();
            heard
        })
        .await;
        assert_eq!(ended(child).await.code(), plain.status.code(), "{name}");
        let heard = &heard[filled..];
        assert!(!heard.is_empty(), "{name}");
        if name != "logs" && name != "json" {
            let expected = String::from_utf8_lossy(&plain.stdout);
            assert_eq!(String::from_utf8_lossy(heard), expected, "{name}");
        }
        assert!(heard.ends_with(b"\n"), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn q6_words_on_stderr_wait_for_a_full_pipe_without_blocking() {
    let lab = Lab::new().await;
    let mut check = lab.pomd.setup().command(&binary("pomd"));
    check.args(["check", "/nowhere/pomd.toml"]);
    let mut usage = Command::new(binary("pomd"));
    usage.arg("--what");
    let mut demo = Command::new(binary("pomd-demo"));
    demo.arg("--what");
    for (mut command, code, words) in [
        (lab.pomctl(&["down", "nothing"]), 2, "nothing"),
        (lab.pomctl(&["statsu"]), 2, "unrecognized subcommand"),
        (
            lab.pomctl(&["connect", "web.elsewhere.test:80"]),
            2,
            "web.elsewhere.test",
        ),
        (check, 2, "there is no file /nowhere/pomd.toml"),
        (usage, 2, "unexpected argument"),
        (demo, 2, "unknown argument"),
    ] {
        let ends = Kind::Pipe.ends(false).without_blocking();
        let filled = fill(&ends);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(ends.stdio());
        let child = command.spawn().unwrap();
        drop(command);
        tokio::time::sleep(PAUSE).await;
        let (mut from, theirs) = ends.split();
        drop(theirs);
        let heard = blocking(move || {
            let mut heard = Vec::new();
            from.read_to_end(&mut heard).unwrap();
            heard
        })
        .await;
        let said = String::from_utf8_lossy(&heard[filled..]).into_owned();
        assert!(said.contains(words), "{said}");
        assert!(said.ends_with('\n'), "{said}");
        assert_eq!(ended(child).await.code(), Some(code), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn q6_an_answer_that_cannot_be_written_is_told_and_is_an_exit_code() {
    let lab = Lab::new().await;
    let full = || File::options().write(true).open("/dev/full").unwrap();
    for (form, path, writes) in [
        ("a full device", "/dev/full", true),
        ("a folder", "/", false),
        ("only to be read", "/dev/null", false),
    ] {
        let open = || {
            let file = File::options().read(!writes).write(writes).open(path);
            file.unwrap()
        };
        for (name, mut command) in programs(&lab) {
            command.stdin(Stdio::null()).stdout(open());
            command.stderr(Stdio::piped());
            let output = blocking(move || command.output().unwrap()).await;
            let words = String::from_utf8_lossy(&output.stderr);
            assert!(words.contains("error: "), "{name} to {form}: {words}");
            let code = if name == "error" { 2 } else { 1 };
            assert_eq!(
                output.status.code(),
                Some(code),
                "{name} to {form}: {words}"
            );
        }
    }
    // Nobody can be told; the exit code says it.
    let mut silent = lab.pomctl(&["status"]);
    silent.stdout(full()).stderr(full());
    assert_eq!(ended(silent.spawn().unwrap()).await.code(), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn q6_connect_tells_a_stream_that_cannot_be_read_or_written() {
    let lab = Lab::new().await;
    let full = File::options().write(true).open("/dev/full").unwrap();
    let folder = || File::open("/").unwrap();
    let write_only = File::options().write(true).open("/dev/null").unwrap();
    for (input, output, words) in [
        (
            None,
            Some(full),
            "pomctl: cannot write standard output: No space left on device",
        ),
        (
            None,
            Some(folder()),
            "pomctl: cannot write standard output: ",
        ),
        (Some(folder()), None, "pomctl: cannot read standard input: "),
        (
            Some(write_only),
            None,
            "pomctl: cannot read standard input: ",
        ),
    ] {
        let mut command = lab.pomctl(&["connect", QUIET]);
        // An input that never ends: only the output can be the reason.
        let (reader, _writer) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        command.stdin(input.map_or(Stdio::from(reader), Stdio::from));
        command.stdout(output.map_or(Stdio::null(), Stdio::from));
        command.stderr(Stdio::piped());
        let output = blocking(move || command.output().unwrap()).await;
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.starts_with(words), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        assert_eq!(output.status.code(), Some(1), "{said}");
    }
}

/// A program that begins without standard streams must not take one of its own files for them.
#[tokio::test(flavor = "multi_thread")]
async fn q6_streams_that_are_closed_take_no_answer_into_another_file() {
    let lab = Lab::new().await;
    for closed in ["0<&-", "1>&-", "2>&-", "0<&- 1>&-", "0<&- 1>&- 2>&-"] {
        for (arguments, code) in [
            (vec!["status"], 0),
            (vec!["down", "nothing", "--json"], 2),
            (vec!["connect", MIRROR], 0),
        ] {
            let mut shell = lab.pomctl(&[]);
            let pomctl = shell.get_program().to_owned();
            let script = format!("exec \"$0\" \"$@\" {closed}");
            let mut command = Command::new("/bin/sh");
            command.arg("-c").arg(script).arg(pomctl).args(&arguments);
            command.env_clear();
            for (name, value) in shell.get_envs() {
                command.env(name, value.unwrap_or_default());
            }
            command.current_dir(lab.pomd.setup().folder());
            let input = Kind::Pipe.ends(true);
            let mut command_input = File::from(input.ours.try_clone().unwrap());
            command.stdin(input.stdio());
            command.stdout(Stdio::piped()).stderr(Stdio::piped());
            shell.stdin(Stdio::null());
            let connects = arguments[0] == "connect";
            let speaking = tokio::task::spawn_blocking(move || {
                if connects {
                    let _ = command_input.write_all(&pattern(MUCH));
                }
            });
            let running = blocking(move || command.output().unwrap());
            drop(input);
            if connects && closed.contains("0<") {
                // Its input ended at once: nothing is mirrored. That it says or does nothing wrong is seen below.
                speaking.abort();
                drop(running);
                continue;
            }
            let output = running.await;
            let _ = speaking.await;
            let shown = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(
                output.status.code(),
                Some(code),
                "{arguments:?} {closed}: {shown}"
            );
        }
        let status = lab.pomd.status().await;
        assert!(status.healthy, "{closed}: {status:?}");
    }
}
