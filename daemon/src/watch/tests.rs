//! The ways in which a file changes, each on a real file system and twice in a row.

use std::{fs, os::unix::fs::symlink, path::Path};

use tempfile::TempDir;
use tokio::task::JoinSet;

use super::*;

const LIMIT: Duration = Duration::from_secs(10);

/// A watched path in a folder of its own.
struct Watched {
    dir: TempDir,
    path: PathBuf,
    changed: Arc<Notify>,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl Watched {
    /// Makes the folder by `set_up`, then watches `path` in it.
    async fn start(path: &str, set_up: impl FnOnce(&Path)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        set_up(dir.path());
        let path = dir.path().join(path);
        let changed = Arc::new(Notify::new());
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(watch(path.clone(), Arc::clone(&changed), stop.clone()));
        let res = Self {
            dir,
            path,
            changed,
            stop,
            tasks,
        };
        res.told().await;
        res
    }

    async fn told(&self) {
        timeout(LIMIT, self.changed.notified())
            .await
            .expect("nothing was told");
    }

    /// Nothing is under way any more, so that what is told next is about what happens next.
    async fn quiet(&self) {
        while timeout(QUIET * 3, self.changed.notified()).await.is_ok() {}
    }

    /// Does it, and sees the new content.
    async fn change(&self, content: &str, how: impl FnOnce(&Path)) {
        self.quiet().await;
        how(self.dir.path());
        self.told().await;
        // The last word may take one more round where several steps are a while apart.
        while fs::read_to_string(&self.path).ok().as_deref() != Some(content) {
            self.told().await;
        }
    }

    async fn end(mut self) {
        self.stop.cancel();
        timeout(LIMIT, self.tasks.join_next())
            .await
            .expect("it stops");
    }
}

fn write(path: impl AsRef<Path>, content: &str) {
    fs::write(path, content).unwrap();
}

fn write_aside_and_rename(dir: &Path, name: &str, content: &str) {
    write(dir.join("new"), content);
    fs::rename(dir.join("new"), dir.join(name)).unwrap();
}

fn link_anew(target: &str, link: &Path) {
    let new = link.with_file_name("new-link");
    symlink(target, &new).unwrap();
    fs::rename(new, link).unwrap();
}

fn folder_with(path: PathBuf, content: &str) {
    fs::create_dir_all(&path).unwrap();
    write(path.join("c.toml"), content);
}

#[tokio::test]
async fn a_write_in_place_is_told() {
    let it = Watched::start("c.toml", |dir| write(dir.join("c.toml"), "0")).await;
    for content in ["1", "2"] {
        it.change(content, |dir| write(dir.join("c.toml"), content))
            .await;
    }
    it.end().await;
}

#[tokio::test]
async fn an_atomic_rename_is_told() {
    let it = Watched::start("c.toml", |dir| write(dir.join("c.toml"), "0")).await;
    for content in ["1", "2"] {
        it.change(content, |dir| {
            write_aside_and_rename(dir, "c.toml", content)
        })
        .await;
    }
    it.end().await;
}

#[tokio::test]
async fn a_rename_away_and_a_new_file_are_told() {
    let it = Watched::start("c.toml", |dir| write(dir.join("c.toml"), "0")).await;
    for content in ["1", "2"] {
        it.change(content, |dir| {
            fs::rename(dir.join("c.toml"), dir.join("c.toml~")).unwrap();
            write(dir.join("c.toml"), content);
            fs::remove_file(dir.join("c.toml~")).unwrap();
        })
        .await;
    }
    it.end().await;
}

#[tokio::test]
async fn an_edit_of_what_a_symlink_leads_to_is_told() {
    let it = Watched::start("conf/c.toml", |dir| {
        fs::create_dir(dir.join("conf")).unwrap();
        folder_with(dir.join("store"), "0");
        symlink("../store/c.toml", dir.join("conf/c.toml")).unwrap();
    })
    .await;
    it.change("1", |dir| write(dir.join("store/c.toml"), "1"))
        .await;
    it.change("2", |dir| {
        write_aside_and_rename(&dir.join("store"), "c.toml", "2")
    })
    .await;
    it.end().await;
}

#[tokio::test]
async fn a_symlink_that_leads_elsewhere_is_told_and_so_is_an_edit_there() {
    let it = Watched::start("conf/c.toml", |dir| {
        fs::create_dir(dir.join("conf")).unwrap();
        for name in ["a", "b", "c"] {
            folder_with(dir.join(name), name);
        }
        symlink(dir.join("a/c.toml"), dir.join("conf/c.toml")).unwrap();
    })
    .await;
    for target in ["b", "c"] {
        it.change(target, |dir| {
            link_anew(
                dir.join(target).join("c.toml").to_str().unwrap(),
                &dir.join("conf/c.toml"),
            );
        })
        .await;
    }
    it.change("edited", |dir| write(dir.join("c/c.toml"), "edited"))
        .await;
    it.end().await;
}

#[tokio::test]
async fn a_swap_of_the_data_link_of_a_mounted_config_map_is_told() {
    let it = Watched::start("c.toml", |dir| {
        folder_with(dir.join("..1"), "1");
        symlink("..1", dir.join("..data")).unwrap();
        symlink("..data/c.toml", dir.join("c.toml")).unwrap();
    })
    .await;
    for (old, new) in [("1", "2"), ("2", "3")] {
        it.change(new, |dir| {
            folder_with(dir.join(format!("..{new}")), new);
            link_anew(&format!("..{new}"), &dir.join("..data"));
            fs::remove_dir_all(dir.join(format!("..{old}"))).unwrap();
        })
        .await;
    }
    it.end().await;
}

#[tokio::test]
async fn a_whole_folder_swapped_for_another_is_told() {
    let it = Watched::start("conf/c.toml", |dir| folder_with(dir.join("conf"), "0")).await;
    for content in ["1", "2"] {
        it.change(content, |dir| {
            folder_with(dir.join("next"), content);
            fs::rename(dir.join("conf"), dir.join(format!("before{content}"))).unwrap();
            fs::rename(dir.join("next"), dir.join("conf")).unwrap();
        })
        .await;
    }
    it.change("3", |dir| write(dir.join("conf/c.toml"), "3"))
        .await;
    it.end().await;
}

#[tokio::test]
async fn a_swap_of_a_folder_further_up_is_told() {
    let it = Watched::start("a/b/conf/c.toml", |dir| {
        folder_with(dir.join("a/b/conf"), "0")
    })
    .await;
    for content in ["1", "2"] {
        it.change(content, |dir| {
            folder_with(dir.join("next/b/conf"), content);
            fs::rename(dir.join("a"), dir.join(format!("before{content}"))).unwrap();
            fs::rename(dir.join("next"), dir.join("a")).unwrap();
        })
        .await;
    }
    it.end().await;
}

#[tokio::test]
async fn a_folder_removed_and_made_again_is_told() {
    let it = Watched::start("conf/c.toml", |dir| folder_with(dir.join("conf"), "0")).await;
    for content in ["1", "2"] {
        it.change(content, |dir| {
            fs::remove_dir_all(dir.join("conf")).unwrap();
            folder_with(dir.join("conf"), content);
        })
        .await;
    }
    it.change("3", |dir| write(dir.join("conf/c.toml"), "3"))
        .await;
    it.end().await;
}

#[tokio::test]
async fn a_symlink_to_a_folder_that_leads_elsewhere_is_told() {
    let it = Watched::start("conf/c.toml", |dir| {
        for name in ["a", "b", "c"] {
            folder_with(dir.join(name), name);
        }
        symlink("a", dir.join("conf")).unwrap();
    })
    .await;
    for target in ["b", "c"] {
        it.change(target, |dir| link_anew(target, &dir.join("conf")))
            .await;
    }
    it.change("edited", |dir| write(dir.join("c/c.toml"), "edited"))
        .await;
    it.end().await;
}

#[tokio::test]
async fn a_file_made_later_is_told() {
    let it = Watched::start("c.toml", |_| {}).await;
    it.change("1", |dir| write(dir.join("c.toml"), "1")).await;
    it.change("2", |dir| write(dir.join("c.toml"), "2")).await;
    it.end().await;
}

#[tokio::test]
async fn a_folder_made_later_is_told() {
    let it = Watched::start("a/b/c.toml", |_| {}).await;
    it.change("1", |dir| folder_with(dir.join("a/b"), "1"))
        .await;
    it.change("2", |dir| write(dir.join("a/b/c.toml"), "2"))
        .await;
    it.end().await;
}

#[tokio::test]
async fn folders_made_one_after_the_other_are_told() {
    let it = Watched::start("a/b/c.toml", |_| {}).await;
    fs::create_dir(it.dir.path().join("a")).unwrap();
    it.told().await;
    fs::create_dir(it.dir.path().join("a/b")).unwrap();
    it.told().await;
    it.change("1", |dir| write(dir.join("a/b/c.toml"), "1"))
        .await;
    it.end().await;
}

#[tokio::test]
async fn a_target_of_a_dangling_symlink_made_later_is_told() {
    let it = Watched::start("c.toml", |dir| {
        symlink("store/c.toml", dir.join("c.toml")).unwrap();
    })
    .await;
    it.change("1", |dir| folder_with(dir.join("store"), "1"))
        .await;
    it.change("2", |dir| write(dir.join("store/c.toml"), "2"))
        .await;
    it.end().await;
}

#[tokio::test]
async fn a_file_that_vanishes_is_told() {
    let it = Watched::start("c.toml", |dir| write(dir.join("c.toml"), "0")).await;
    it.quiet().await;
    fs::remove_file(&it.path).unwrap();
    it.told().await;
    it.end().await;
}

#[tokio::test]
async fn reading_the_file_and_noise_around_the_way_are_not_told() {
    let it = Watched::start("conf/c.toml", |dir| folder_with(dir.join("conf"), "0")).await;
    it.quiet().await;
    fs::read_to_string(&it.path).unwrap();
    write(it.dir.path().join("history"), "x");
    let told = timeout(QUIET * 3, it.changed.notified()).await;
    assert!(told.is_err());
    it.end().await;
}

#[tokio::test]
async fn many_saves_at_once_are_told_a_few_times() {
    let it = Watched::start("c.toml", |dir| write(dir.join("c.toml"), "0")).await;
    it.quiet().await;
    for n in 0..100 {
        write_aside_and_rename(it.dir.path(), "c.toml", &n.to_string());
    }
    let mut told = 0;
    while timeout(QUIET * 3, it.changed.notified()).await.is_ok() {
        told += 1;
    }
    assert!((1..=4).contains(&told), "{told}");
    it.end().await;
}

#[tokio::test(start_paused = true)]
async fn where_the_system_tells_nothing_it_is_told_every_five_seconds() {
    let dir = tempfile::tempdir().unwrap();
    let changed = Arc::new(Notify::new());
    let stop = CancellationToken::new();
    let mut tasks = JoinSet::new();
    let full = || Err(std::io::Error::from_raw_os_error(28));
    tasks.spawn(watch_with(
        dir.path().join("c.toml"),
        Arc::clone(&changed),
        stop.clone(),
        full,
    ));
    changed.notified().await;
    let start = Instant::now();
    changed.notified().await;
    changed.notified().await;
    assert_eq!(start.elapsed().as_secs(), 2 * LOOK.as_secs());
    stop.cancel();
    tasks.join_next().await.unwrap().unwrap();
}
