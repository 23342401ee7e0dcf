//! A25, A26, A27, A30: folders and files that pomd trusts, with whole programs.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, chown},
    path::Path,
    process::Command,
    time::Duration,
};

use control::wire::ClusterState;
use gateway::Upstream;
use integration::{
    binary::binary,
    deployment::{CLUSTER, Deployment},
    eventually,
    other_user::{OtherUser, UID},
    pomd::{Pomd, Setup, cluster, folder, run},
    process::Process,
};

use super::files;

const ROUTE: &str = "echo.corp.test:7000";
const LIMIT: Duration = Duration::from_secs(30);

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// pomd's own command with these places, started by `command`.
fn places(command: &mut Command, config: &Path, state: &Path, socket: &Path) {
    command.arg("--config").arg(config);
    command.arg("--state-dir").arg(state);
    command.arg("--socket").arg(socket);
}

#[tokio::test(flavor = "multi_thread")]
async fn a25_a_folder_that_is_not_pomds_is_refused_and_stays_as_it_is() {
    let place = folder();
    let config = place.path().join("pomd.toml");
    fs::write(&config, "").unwrap();
    let shared = place.path().join("shared");
    let closed = place.path().join("closed/state");
    // Empty, with files of others, and as an older pomd left it.
    for (before, holds) in [
        (0o1777, &[][..]),
        (0o755, &[]),
        (0o755, &["sshd.pid"]),
        (0o1777, &["pomd.lock", "X11"]),
    ] {
        fs::create_dir(&shared).unwrap();
        for name in holds {
            fs::write(shared.join(name), "").unwrap();
        }
        set_mode(&shared, before);
        for (state, socket) in [
            (closed.as_path(), shared.join("pomd.sock")),
            (shared.as_path(), closed.with_file_name("run").join("s")),
        ] {
            let mut command = Command::new(binary("pomd"));
            command.env_clear().env("HOME", place.path());
            places(&mut command, &config, state, &socket);
            let output = run(command, LIMIT).await;
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(1), "{said}");
            assert!(said.contains("give it a folder of its own"), "{said}");
            assert_eq!(mode(&shared), before, "{holds:?}");
        }
        let left: Vec<_> = files(&shared);
        assert_eq!(left.len(), holds.len(), "nothing was made there: {left:?}");
        fs::remove_dir_all(&shared).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a25_a_home_of_a_user_stays_as_it_is() {
    let test = "a25_a_home_of_a_user_stays_as_it_is";
    let Some(user) = OtherUser::new(test, &binary("pomd")) else {
        return;
    };
    let home = folder();
    chown(home.path(), Some(UID), Some(UID)).unwrap();
    set_mode(home.path(), 0o755);
    let config = home.path().join("pomd.toml");
    let state = home.path().join("state");
    let mut command = user.command(&[]);
    places(
        &mut command,
        &config,
        &state,
        &home.path().join("pomd.sock"),
    );
    let output = run(command, LIMIT).await;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("give it a folder of its own"), "{said}");
    assert_eq!(mode(home.path()), 0o755);
    // What it was told to do works, and closes only what pomd made.
    let socket = home.path().join("pomd/pomd.sock");
    let mut command = user.command(&[]);
    places(&mut command, &config, &state, &socket);
    let mut pomd = Process::start("pomd", &mut command, &home.path().join("words"));
    eventually("it runs", async || {
        pomd.assert_runs();
        pomd.words().contains(" runs (pid ").then_some(())
    })
    .await;
    assert_eq!(mode(home.path()), 0o755);
    assert_eq!(
        (mode(&state), mode(socket.parent().unwrap())),
        (0o700, 0o700)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a25_a_runtime_folder_that_was_opened_meanwhile_is_not_closed_once_it_is_shared() {
    let mut pomd = Pomd::start("").await;
    let state = pomd.setup().state_dir();
    pomd.stop().await;
    set_mode(&state, 0o777);
    fs::write(state.join("somebody's.txt"), "").unwrap();
    assert!(!pomd.try_to_start_again().await);
    assert_eq!(mode(&state), 0o777);
    fs::remove_file(state.join("somebody's.txt")).unwrap();
    pomd.start_again().await;
    assert_eq!(mode(&state), 0o700);
    let words = pomd.words();
    assert!(words.contains("was open to other users"), "{words}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a26_plain_http_to_another_machine_is_a_standing_warning() {
    let config = "[tunnel.a]\nroute = \"tcp+http://a.lab.example.com:22\"\nlisten = \"unix:a\"\n";
    let near = "[tunnel.a]\nroute = \"tcp+http://127.0.0.1:22\"\nlisten = \"unix:a\"\n";
    let pomd = Pomd::start(config).await;
    let words = "http://a.lab.example.com is reached in clear text";
    let is_told =
        |it: &control::wire::Status| it.pomd.warnings.iter().any(|it| it.starts_with(words));
    let status = pomd.status().await;
    assert!(is_told(&status), "{:?}", status.pomd.warnings);
    assert!(pomd.words().contains(words), "{}", pomd.words());
    pomd.reload(near).await;
    let status = pomd.status().await;
    assert!(!is_told(&status), "{:?}", status.pomd.warnings);
}

/// Every file below `folder` that holds `text`.
fn holding(folder: &Path, text: &str) -> Vec<std::path::PathBuf> {
    let mut found = files(folder);
    found.retain(|it| fs::read(it).is_ok_and(|it| String::from_utf8_lossy(&it).contains(text)));
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a30_a_logout_leaves_no_token_of_the_cluster_behind() {
    let deployment = Deployment::gateway(|it| it.route(ROUTE, Upstream::Echo)).await;
    let mut pomd = deployment.logged_in(&[("echo", ROUTE)]).await;
    let token = pomd.setup().saved_token();
    let state = pomd.setup().state_dir();
    pomd.stop().await;
    let file = holding(&state, &token).remove(0);
    let whole = fs::read_to_string(&file).unwrap();
    // A version that this pomd does not know: the token in it is as good as before.
    fs::write(&file, whole.replace("\"version\":1", "\"version\":99")).unwrap();
    // What a pomd left that was killed while it wrote.
    let name = file.file_name().unwrap().to_string_lossy().into_owned();
    pomd.start_again().await;
    let state_of = cluster(&pomd.status().await, CLUSTER).state;
    assert_ne!(state_of, ClusterState::LoggedIn);
    let aside = holding(&state, &token);
    assert!(aside[0].to_string_lossy().ends_with(".broken"), "{aside:?}");
    fs::write(file.with_file_name(format!(".{name}.new-0123")), &whole).unwrap();
    let output = pomd.pomctl(&["logout", CLUSTER]).await;
    assert!(output.status.success(), "{output:?}");
    assert_eq!(holding(&state, &token), Vec::<std::path::PathBuf>::new());
    assert_eq!(
        holding(pomd.setup().folder(), &token),
        Vec::<std::path::PathBuf>::new()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a30_a_token_that_another_address_of_the_cluster_left_goes_too() {
    let deployment = Deployment::gateway(|it| it.route(ROUTE, Upstream::Echo)).await;
    let pomd = deployment.logged_in(&[("echo", ROUTE)]).await;
    let token = pomd.setup().saved_token();
    let file = holding(&pomd.setup().state_dir(), &token).remove(0);
    // Set aside by an earlier life, with a login since.
    let aside = format!("{}.broken", file.display());
    fs::copy(&file, &aside).unwrap();
    assert!(pomd.pomctl(&["logout"]).await.status.success());
    assert_eq!(
        holding(&pomd.setup().state_dir(), &token),
        Vec::<std::path::PathBuf>::new()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a29_a_config_that_another_user_could_exchange_is_not_read() {
    let setup = Setup::new("[tunnel.a]\nroute = \"a.corp.test:22\"\nlisten = \"unix:a\"\n");
    let open = setup.folder().join("open");
    fs::create_dir(&open).unwrap();
    let real = open.join("real.toml");
    fs::rename(setup.config_file(), &real).unwrap();
    std::os::unix::fs::symlink(&real, setup.config_file()).unwrap();
    set_mode(&open, 0o777);
    let pomd = setup.start().await;
    let status = pomd.status().await;
    let error = status.pomd.config.error.unwrap().message;
    assert!(error.contains("everybody may write the folder "), "{error}");
    assert!(status.tunnels.is_empty());
    set_mode(&open, 0o755);
    pomd.client().reload().await.unwrap();
    assert_eq!(pomd.status().await.tunnels.len(), 1);
}
