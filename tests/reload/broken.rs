//! Files that are no configuration, and files that are saved again and again.

use std::{fs, path::Path, process::Output, time::Duration};

use integration::{
    binary::binary,
    pomd::{self, Pomd, find_tunnel},
};

use super::{A, B, Line, corp, text, write};

/// Runs `pomd check` on the file of this pomd.
async fn check(pomd: &Pomd) -> Output {
    let mut command = pomd.setup().command(&binary("pomd"));
    command.arg("check");
    pomd::run(command, integration::PATIENCE).await
}

#[tokio::test(flavor = "multi_thread")]
async fn c1_a_broken_file_changes_nothing_and_says_where_and_a_mended_one_is_taken() {
    let corp = corp().await;
    let pomd = corp.logged_in(&[("kept", A)]).await;
    let mut line = Line::open(&pomd, "kept").await;
    let file = pomd.setup().config_file();
    let good = corp.config(&[("kept", A)]);
    let typo = good.replace("route", "rout");
    let cut = good[..good.len() - 12].to_owned();
    let nul = good.replace("[tunnel", "\0[tunnel");
    let cases: [(&str, &dyn Fn(), &str, i32); 9] = [
        ("a typo", &|| write(&file, &typo), "pomd.toml:", 2),
        ("half of it", &|| write(&file, &cut), "pomd.toml:", 2),
        ("a zero byte", &|| write(&file, &nul), "pomd.toml:", 2),
        ("nothing", &|| write(&file, ""), "pomd.toml is empty", 0),
        ("a comment", &|| write(&file, "# soon\n"), "is empty", 0),
        ("no file", &|| fs::remove_file(&file).unwrap(), "is gone", 0),
        (
            "a folder",
            &|| fs::create_dir(&file).unwrap(),
            "is a folder",
            2,
        ),
        ("a pipe", &|| make_pipe(&file), "is not a file", 2),
        (
            "100 MiB",
            &|| {
                let file = fs::File::create(&file).unwrap();
                file.set_len(100 << 20).unwrap();
            },
            "larger than 1 MiB",
            2,
        ),
    ];
    for (n, (what, break_it, said, exit)) in cases.into_iter().enumerate() {
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
        let output = check(&pomd).await;
        assert_eq!(output.status.code(), Some(exit), "{what}: {output:?}");
        line.carries().await;
        if what == "a folder" {
            fs::remove_dir(&file).unwrap();
        }
        // Mended, and a little more.
        let name = format!("mended-{n}");
        pomd.replace_config(&corp.config(&[("kept", A), (&name, B)]));
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
    let corp = corp().await;
    let pomd = Pomd::start("[tunnel.db]\nroute = 7\n").await;
    let status = pomd.status().await;
    assert!(status.tunnels.is_empty());
    assert_eq!(status.pomd.config.error.unwrap().count, 1);
    let output = pomd.pomctl(&["status"]).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    pomd.replace_config(&corp.config(&[("db", A)]));
    pomd.wait_for("the mended file is in force", |it| it.tunnels.len() == 1)
        .await;
    corp.log_in(&pomd).await;
    Line::open(&pomd, "db").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c2_of_a_hundred_saves_in_a_second_the_last_one_wins_in_few_reads() {
    let corp = corp().await;
    let pomd = corp.logged_in(&[("kept", A)]).await;
    let mut line = Line::open(&pomd, "kept").await;
    let config = |n: u32| corp.config(&[("kept", A), (&format!("save-{n}"), B)]);
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
