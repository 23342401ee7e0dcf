//! Files that are no configuration, and files that are saved again and again.

use std::{fs, path::Path, process::Output, time::Duration};

use integration::{
    binary::binary,
    eventually,
    pomd::{self, Pomd, Setup, find_tunnel},
};
use tokio::time::timeout;

use super::{A, B, Line, deployment, text, write};

/// Runs `pomd check` on the file of this pomd.
async fn check(pomd: &Pomd) -> Output {
    let mut command = pomd.setup().command(&binary("pomd"));
    command.arg("check");
    pomd::run(command, integration::PATIENCE).await
}

#[tokio::test(flavor = "multi_thread")]
async fn c1_a_broken_file_changes_nothing_and_says_where_and_a_mended_one_is_taken() {
    let deployment = deployment().await;
    let pomd = deployment.logged_in(&[("kept", A)]).await;
    let mut line = Line::open(&pomd, "kept").await;
    let file = pomd.setup().config_file();
    let good = deployment.config(&[("kept", A)]);
    let typo = good.replace("route", "rout");
    let cut = good[..good.len() - 12].to_owned();
    let nul = good.replace("[tunnel", "\0[tunnel");
    let cases: [(&str, &dyn Fn(), &str); 9] = [
        ("a typo", &|| write(&file, &typo), "pomd.toml:"),
        ("half of it", &|| write(&file, &cut), "pomd.toml:"),
        ("a zero byte", &|| write(&file, &nul), "pomd.toml:"),
        ("nothing", &|| write(&file, ""), "pomd.toml is empty"),
        ("a comment", &|| write(&file, "# soon\n"), "is empty"),
        ("no file", &|| fs::remove_file(&file).unwrap(), "is gone"),
        (
            "a folder",
            &|| fs::create_dir(&file).unwrap(),
            "is a folder",
        ),
        ("a pipe", &|| make_pipe(&file), "is not a file"),
        (
            "100 MiB",
            &|| {
                let file = fs::File::create(&file).unwrap();
                file.set_len(100 << 20).unwrap();
            },
            "larger than 1 MiB",
        ),
    ];
    for (n, (what, break_it, said)) in cases.into_iter().enumerate() {
        if what == "a folder" || what == "a pipe" {
            fs::remove_file(&file).unwrap();
        }
        break_it();
        let status = pomd
            .wait_for(what, |it| {
                let error = it.pomd.config.error.as_ref();
                error.is_some_and(|it| it.message.contains(said) && it.report.contains(said))
            })
            .await;
        assert!(!status.healthy);
        assert!(find_tunnel(&status, "kept").is_some());
        let output = pomd.pomctl(&["reload"]).await;
        assert_eq!(output.status.code(), Some(2), "{what}: {output:?}");
        assert!(text(&output.stderr).contains(said), "{what}: {output:?}");
        // `pomd check` says what the running pomd says.
        let output = check(&pomd).await;
        assert_eq!(output.status.code(), Some(2), "{what}: {output:?}");
        line.carries().await;
        if what == "a folder" {
            fs::remove_dir(&file).unwrap();
        }
        // Mended, and a little more.
        let name = format!("mended-{n}");
        pomd.replace_config(&deployment.config(&[("kept", A), (&name, B)]));
        let status = pomd
            .wait_for(&name, |it| find_tunnel(it, &name).is_some())
            .await;
        assert_eq!(status.pomd.config.error, None, "{what}");
        assert_eq!(check(&pomd).await.status.code(), Some(0));
        line.carries().await;
    }
}

fn make_pipe(path: &Path) {
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mkfifoat(rustix::fs::CWD, path, mode).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pomd_that_finds_a_broken_file_at_its_start_runs_and_takes_the_mended_one() {
    let deployment = deployment().await;
    let pomd = Pomd::start("[tunnel.db]\nroute = 7\n").await;
    let status = pomd.status().await;
    assert!(status.tunnels.is_empty());
    assert_eq!(status.pomd.config.error.unwrap().count, 1);
    let output = pomd.pomctl(&["status"]).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    pomd.replace_config(&deployment.config(&[("db", A)]));
    pomd.wait_for("the mended file is in force", |it| it.tunnels.len() == 1)
        .await;
    deployment.log_in(&pomd).await;
    Line::open(&pomd, "db").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c2_of_a_hundred_saves_in_a_second_the_last_one_wins_in_few_reads() {
    let deployment = deployment().await;
    let pomd = deployment.logged_in(&[("kept", A)]).await;
    let mut line = Line::open(&pomd, "kept").await;
    let config = |n: u32| deployment.config(&[("kept", A), (&format!("save-{n}"), B)]);
    let before = pomd.words().matches("configuration read").count();
    let mut beat = tokio::time::interval(Duration::from_millis(10));
    for n in 1..=100 {
        beat.tick().await;
        match n % 2 {
            0 => write(&pomd.setup().config_file(), &config(n)),
            _ => pomd.replace_config(&config(n)),
        }
    }
    let status = pomd
        .wait_for("the last save is in force", |it| {
            find_tunnel(it, "save-100").is_some()
        })
        .await;
    assert_eq!(status.tunnels.len(), 2);
    assert_eq!(status.pomd.config.error, None);
    line.carries().await;
    let reads = pomd.words().matches("configuration read").count() - before;
    assert!(reads <= 8, "{reads} reads: {}", pomd.words());
}

/// What `pomctl` says on both streams, with the environment of a shell that knows of no other file.
async fn said_elsewhere(pomd: &Pomd, arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = pomd.setup().command(&binary("pomctl"));
    command.args(arguments).env_remove("POMD_CONFIG");
    let output = pomd::run(command, integration::PATIENCE).await;
    let words = text(&output.stdout) + &text(&output.stderr);
    (output.status.code(), words)
}

#[tokio::test(flavor = "multi_thread")]
async fn c1_the_command_that_is_said_judges_the_file_of_the_running_pomd() {
    for place in ["my config/pomd.toml", "it's/pomd.toml", "conf/other.toml"] {
        let setup = Setup::new("").config_at(place);
        let file = setup.config_file();
        fs::create_dir(file.parent().unwrap()).unwrap();
        write(&file, "[tunnel.a]\nroute = \"a.corp.test:1\"\n");
        let pomd = setup.start().await;
        for (break_it, said) in [
            (Some("[tunnel.a]\nrout = 7\n"), "did you mean `route`?"),
            (None, "is gone"),
        ] {
            match break_it {
                Some(text) => write(&file, text),
                None => fs::remove_file(&file).unwrap(),
            }
            let (_, page) = said_elsewhere(&pomd, &["status"]).await;
            let (_, command) = page.split_once("Run: ").expect(&page);
            let command = command.lines().next().unwrap();
            // As a person pastes it.
            let mut shell = pomd.setup().command(std::path::Path::new("/bin/sh"));
            let program = binary("pomd");
            let path = program.parent().unwrap().display().to_string();
            shell.env("PATH", path).env_remove("POMD_CONFIG");
            shell.args(["-c", command]);
            let output = pomd::run(shell, integration::PATIENCE).await;
            assert_eq!(output.status.code(), Some(2), "{command}: {output:?}");
            let words = text(&output.stderr);
            let said = words.contains(said) || words.contains("there is no file ");
            assert!(said, "{command}: {words}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn c1_a_named_file_that_is_not_there_is_an_error_and_none_at_all_is_a_valid_start() {
    let setup = Setup::new("");
    let nowhere = setup.folder().join("nonexist.toml").display().to_string();
    let link = setup.folder().join("link.toml");
    std::os::unix::fs::symlink("nowhere", &link).unwrap();
    let link = link.display().to_string();
    for arguments in [
        ["--config", &nowhere, "check"].as_slice(),
        &["check", "--config", &nowhere],
        &["check", &nowhere],
        &["check", &link],
    ] {
        let mut command = setup.command(&binary("pomd"));
        command.args(arguments);
        let output = pomd::run(command, integration::PATIENCE).await;
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {output:?}");
        let words = text(&output.stderr);
        assert!(words.contains("there is no file "), "{words}");
    }
    let mut command = setup.command(&binary("pomd"));
    command.arg("check").env_remove("POMD_CONFIG");
    let output = pomd::run(command, integration::PATIENCE).await;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(text(&output.stdout).contains("yet, so pomd starts with no tunnels"));
}

#[tokio::test(flavor = "multi_thread")]
async fn c2_whoever_asks_right_after_a_save_is_told_what_it_says() {
    let deployment = deployment().await;
    let setup = Setup::new("").config_at("conf/pomd.toml");
    fs::create_dir(setup.folder().join("conf")).unwrap();
    let pomd = setup.start().await;
    let file = pomd.setup().config_file();
    let (_, page) = said_elsewhere(&pomd, &["status"]).await;
    assert!(page.contains("No tunnels yet."), "{page}");
    write(&file, &deployment.config(&[("db", A)]));
    let (_, page) = said_elsewhere(&pomd, &["status"]).await;
    assert!(
        page.contains("db") && !page.contains("No tunnels"),
        "{page}"
    );
    for n in 0..4 {
        write(&file, "[tunnel.db]\nrout = 7\n");
        let status = pomd.status().await;
        assert!(status.pomd.config.error.is_some(), "{n}: {status:#?}");
        let name = format!("save-{n}");
        pomd.replace_config(&deployment.config(&[("db", A), (&name, B)]));
        // `up` and `login` as well as `status`.
        match n % 2 {
            0 => deployment.log_in(&pomd).await,
            _ => {
                let (_, words) = said_elsewhere(&pomd, &["up", &name]).await;
                let is_up = words.contains(&name) && !words.contains("has an error");
                assert!(is_up, "{words}");
            }
        }
        let status = pomd.status().await;
        assert_eq!(status.pomd.config.error, None, "{n}");
        assert!(find_tunnel(&status, &name).is_some(), "{n}: {status:#?}");
    }
    // The same length, in the same place, as fast as it goes: the file's times may not tell.
    for name in ["one", "two", "six", "ten"].repeat(3) {
        write(&file, &deployment.config(&[("db", A), (name, B)]));
        let status = pomd.status().await;
        assert!(find_tunnel(&status, name).is_some(), "{status:#?}");
    }
    // A cluster that was written a moment ago.
    let other = deployment
        .config(&[])
        .replace("[cluster.corp]", "[cluster.more]");
    write(&file, &other);
    let (code, words) = said_elsewhere(&pomd, &["logout", "more"]).await;
    assert_eq!(code, Some(0), "{words}");
}

#[tokio::test(flavor = "multi_thread")]
async fn c2_while_a_file_is_written_again_and_again_the_status_answers_and_says_so() {
    let deployment = deployment().await;
    let pomd = deployment.pomd(&[("db", A)]).await;
    let file = pomd.setup().config_file();
    let writing = async {
        for n in 0.. {
            let name = format!("save-{n}");
            write(&file, &deployment.config(&[("db", A), (&name, B)]));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    // A busy machine may let the file rest between two saves for so long that what was read of it is all there is.
    let asking = async {
        eventually("a status says that the file is being written", async || {
            let status = timeout(Duration::from_secs(5), pomd.status()).await;
            status.unwrap().pomd.config.pending.then_some(())
        })
        .await;
        let told = "pomd.toml is being written or read; what stands here may be older";
        eventually("pomctl tells that the file is being written", async || {
            let (_, page) = said_elsewhere(&pomd, &["status"]).await;
            page.contains(told).then_some(())
        })
        .await;
    };
    tokio::select! {
        () = writing => {}
        () = asking => {}
    }
    assert!(!pomd.status().await.pomd.config.pending);
}
