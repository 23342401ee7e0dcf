//! Every way in which a file changes, twice each, with nobody to tell pomd.

use std::{fs, os::unix::fs::symlink, path::Path};

use integration::pomd::{Setup, find_tunnel};

use super::{A, B, Line, deployment, write};

/// `link` leads to `target` from one moment to the next.
fn link_anew(target: impl AsRef<Path>, link: &Path) {
    let next = link.with_file_name(".next");
    symlink(target, &next).unwrap();
    fs::rename(next, link).unwrap();
}

/// Brings configuration `n` about in the folder of a test.
type Way = fn(&Path, n: u32, text: &str);

/// Starts with the configuration 0 that `way` makes; then `way` makes 1 and 2, and nobody tells pomd.
async fn every_change_is_seen(path: &str, way: Way) {
    let deployment = deployment().await;
    let config = |n: u32| {
        let new = format!("new-{n}");
        deployment.config(&[("kept", A), (&new, B)])
    };
    let setup = Setup::new("").config_at(path);
    way(setup.folder(), 0, &config(0));
    let pomd = setup.start().await;
    deployment.log_in(&pomd).await;
    let address = pomd.address("kept").await;
    let mut line = Line::open(&pomd, "kept").await;
    for n in [1, 2] {
        way(pomd.setup().folder(), n, &config(n));
        let status = pomd
            .wait_for(&format!("configuration {n} is in force"), |it| {
                find_tunnel(it, &format!("new-{n}")).is_some()
            })
            .await;
        assert_eq!(status.tunnels.len(), 2, "{status:#?}");
        assert_eq!(status.pomd.config.error, None);
        line.carries().await;
        assert_eq!(pomd.address("kept").await, address);
        assert!(status.leaving.is_empty());
    }
    Line::open(&pomd, "new-2").await;
    assert_eq!(deployment.gateway.stats().sessions_made, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn c2_a_file_written_in_place_is_taken() {
    every_change_is_seen("pomd.toml", |folder, _, text| {
        write(&folder.join("pomd.toml"), text);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c2_a_file_renamed_over_the_old_one_is_taken() {
    every_change_is_seen("pomd.toml", |folder, _, text| {
        write(&folder.join(".pomd.toml.tmp"), text);
        fs::rename(folder.join(".pomd.toml.tmp"), folder.join("pomd.toml")).unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c2_a_file_moved_away_and_written_anew_is_taken() {
    every_change_is_seen("pomd.toml", |folder, n, text| {
        if n > 0 {
            fs::rename(folder.join("pomd.toml"), folder.join("pomd.toml~")).unwrap();
        }
        write(&folder.join("pomd.toml"), text);
        let _ = fs::remove_file(folder.join("pomd.toml~"));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c2_an_edit_of_what_a_symlink_leads_to_is_taken() {
    every_change_is_seen("pomd.toml", |folder, n, text| {
        let dotfiles = folder.join("dotfiles");
        if n == 0 {
            fs::create_dir(&dotfiles).unwrap();
            symlink("dotfiles/pomd.toml", folder.join("pomd.toml")).unwrap();
        }
        write(&dotfiles.join("pomd.toml"), text);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c2_a_farm_of_symlinks_that_leads_to_another_generation_is_taken() {
    // home-manager: each file is a link into one generation, and the link is replaced.
    every_change_is_seen("config/pomd/pomd.toml", |folder, n, text| {
        let generation = folder.join(format!("store/{n}-home-files/pomd"));
        fs::create_dir_all(&generation).unwrap();
        write(&generation.join("pomd.toml"), text);
        fs::create_dir_all(folder.join("config/pomd")).unwrap();
        let link = folder.join("config/pomd/pomd.toml");
        link_anew(generation.join("pomd.toml"), &link);
        if n > 0 {
            let old = folder.join(format!("store/{}-home-files", n - 1));
            fs::remove_dir_all(old).unwrap();
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c2_a_mounted_config_map_is_taken() {
    every_change_is_seen("mount/pomd.toml", |folder, n, text| {
        let mount = folder.join("mount");
        fs::create_dir_all(mount.join(format!("..{n}"))).unwrap();
        write(&mount.join(format!("..{n}/pomd.toml")), text);
        link_anew(format!("..{n}"), &mount.join("..data"));
        if n == 0 {
            symlink("..data/pomd.toml", mount.join("pomd.toml")).unwrap();
        } else {
            fs::remove_dir_all(mount.join(format!("..{}", n - 1))).unwrap();
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_folder_swapped_for_another_is_taken() {
    every_change_is_seen("conf/pomd.toml", |folder, n, text| {
        fs::create_dir(folder.join("next")).unwrap();
        write(&folder.join("next/pomd.toml"), text);
        if n > 0 {
            fs::rename(folder.join("conf"), folder.join(format!("old-{n}"))).unwrap();
        }
        fs::rename(folder.join("next"), folder.join("conf")).unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_or_a_folder_made_later_is_taken_and_so_is_its_next_version() {
    for path in ["pomd.toml", "deep/er/pomd.toml"] {
        let deployment = deployment().await;
        let pomd = Setup::new("").config_at(path).start().await;
        assert!(pomd.status().await.tunnels.is_empty());
        let file = pomd.setup().config_file();
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        write(&file, &deployment.config(&[("kept", A)]));
        pomd.wait_for("the file is in force", |it| it.tunnels.len() == 1)
            .await;
        deployment.log_in(&pomd).await;
        let mut line = Line::open(&pomd, "kept").await;
        pomd.replace_config(&deployment.config(&[("kept", A), ("new", B)]));
        pomd.wait_for("the next version is in force", |it| it.tunnels.len() == 2)
            .await;
        line.carries().await;
    }
}
