//! A11: what others plant where tokens rest. The full table is beside the code; here are the rows that need a whole pomd.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
};

use control::wire::ClusterState;
use gateway::Upstream;
use integration::{
    deployment::{CLUSTER, Deployment},
    pomd::{Pomd, cluster},
};

use super::files;

const ROUTE: &str = "echo.corp.test:7000";

async fn logged_in() -> (Deployment, Pomd) {
    let deployment = Deployment::gateway(|it| it.route(ROUTE, Upstream::Echo)).await;
    let pomd = deployment.logged_in(&[("echo", ROUTE)]).await;
    (deployment, pomd)
}

/// The one file that holds the token: a JWT begins with these letters.
fn token_file(pomd: &Pomd) -> PathBuf {
    let holds = |it: &PathBuf| {
        let plain = fs::symlink_metadata(it).is_ok_and(|it| it.is_file());
        plain && fs::read_to_string(it).is_ok_and(|it| it.contains("eyJ"))
    };
    let found: Vec<_> = files(&pomd.setup().state_dir())
        .into_iter()
        .filter(holds)
        .collect();
    assert_eq!(found.len(), 1, "{found:?}");
    found[0].clone()
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

async fn state(pomd: &Pomd) -> ClusterState {
    cluster(&pomd.status().await, CLUSTER).state
}

#[tokio::test(flavor = "multi_thread")]
async fn a11_tokens_are_closed_to_others_and_wrong_modes_are_put_right() {
    let (_corp, mut pomd) = logged_in().await;
    let (file, folder) = (token_file(&pomd), pomd.setup().state_dir());
    assert_eq!((mode(&file), mode(&folder)), (0o600, 0o700));
    pomd.stop().await;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o777)).unwrap();
    pomd.start_again().await;
    assert_eq!(state(&pomd).await, ClusterState::LoggedIn);
    assert_eq!((mode(&file), mode(&folder)), (0o600, 0o700));
    let words = pomd.words();
    assert!(words.contains("WARN"), "it is said: {words}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a11_a_link_in_the_place_of_a_token_is_neither_read_nor_written_through() {
    let (deployment, mut pomd) = logged_in().await;
    let file = token_file(&pomd);
    pomd.stop().await;
    let elsewhere = pomd.setup().folder().join("elsewhere");
    fs::rename(&file, &elsewhere).unwrap();
    let planted = fs::read(&elsewhere).unwrap();
    symlink(&elsewhere, &file).unwrap();
    pomd.start_again().await;
    assert_ne!(
        state(&pomd).await,
        ClusterState::LoggedIn,
        "the planted token was taken"
    );
    deployment.log_in(&pomd).await;
    assert_eq!(
        fs::read(&elsewhere).unwrap(),
        planted,
        "written through the link"
    );
    assert!(fs::symlink_metadata(token_file(&pomd)).unwrap().is_file());
    pomd.kill_and_restart().await;
    assert_eq!(state(&pomd).await, ClusterState::LoggedIn);
}

#[tokio::test(flavor = "multi_thread")]
async fn a11_a_pipe_in_the_place_of_a_token_holds_nobody() {
    let (deployment, mut pomd) = logged_in().await;
    let file = token_file(&pomd);
    pomd.stop().await;
    fs::remove_file(&file).unwrap();
    let made = std::process::Command::new("mkfifo").arg(&file).status();
    assert!(made.unwrap().success());
    pomd.start_again().await;
    assert_ne!(state(&pomd).await, ClusterState::LoggedIn);
    deployment.log_in(&pomd).await;
    pomd.kill_and_restart().await;
    assert_eq!(state(&pomd).await, ClusterState::LoggedIn);
}

#[tokio::test(flavor = "multi_thread")]
async fn a11_a_token_or_folder_of_another_user_is_not_taken() {
    if !rustix::process::geteuid().is_root() {
        let test = "a11_a_token_or_folder_of_another_user_is_not_taken";
        return integration::skipped(test, "needs root");
    }
    for whole_folder in [false, true] {
        let (_corp, mut pomd) = logged_in().await;
        let file = token_file(&pomd);
        let folder = pomd.setup().state_dir();
        pomd.stop().await;
        let theirs = if whole_folder { &folder } else { &file };
        std::os::unix::fs::chown(theirs, Some(integration::other_user::UID), None).unwrap();
        let started = pomd.try_to_start_again().await;
        if started {
            assert_ne!(
                state(&pomd).await,
                ClusterState::LoggedIn,
                "{}",
                theirs.display()
            );
        } else {
            let words = pomd.words();
            assert!(words.contains("state"), "the folder is named: {words}");
        }
    }
}
