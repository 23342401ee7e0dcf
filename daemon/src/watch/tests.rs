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
    reader: Reader,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

/// The reader's side of a watch.
struct Reader {
    changed: Arc<Notify>,
    walk: Arc<Notify>,
    unreadable: Sender<bool>,
    trouble: Receiver<Option<String>>,
}

fn both_sides() -> (Watch, Reader) {
    let (unreadable, is_unreadable) = tokio::sync::watch::channel(false);
    let (says, trouble) = tokio::sync::watch::channel(None);
    let watch = Watch {
        changed: Arc::default(),
        walk: Arc::default(),
        unreadable: is_unreadable,
        trouble: says,
    };
    let reader = Reader {
        changed: watch.changed.clone(),
        walk: watch.walk.clone(),
        unreadable,
        trouble,
    };
    (watch, reader)
}

impl Watched {
    /// Makes the folder by `set_up`, then watches `path` in it.
    async fn start(path: &str, set_up: impl FnOnce(&Path)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        set_up(dir.path());
        let path = dir.path().join(path);
        let (side, reader) = both_sides();
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(watch(path.clone(), side, stop.clone()));
        let res = Self {
            dir,
            path,
            reader,
            stop,
            tasks,
        };
        res.told().await;
        res
    }

    async fn told(&self) {
        timeout(LIMIT, self.reader.changed.notified())
            .await
            .expect("nothing was told");
    }

    /// Nothing is under way any more, so that what is told next is about what happens next.
    async fn quiet(&self) {
        while timeout(QUIET * 3, self.reader.changed.notified())
            .await
            .is_ok()
        {}
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

/// Wakes of the watch are what the kernel tells it, whatever it makes of them.
#[tokio::test]
async fn r4_reading_the_file_and_noise_beside_the_way_tell_nothing_and_wake_nobody() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("dotfiles")).unwrap();
    symlink("dotfiles", dir.path().join("config")).unwrap();
    folder_with(dir.path().join("dotfiles/conf"), "0");
    let path = dir.path().join("config/conf/c.toml");
    let mut watcher = PathWatcher::new(path_watch::make);
    watcher.look(&path).unwrap();
    for place in ["", "dotfiles", "dotfiles/conf"] {
        let place = dir.path().join(place);
        for n in 0..3 {
            // What shells, editors and other programs do there.
            write_aside_and_rename(&place, ".lesshst", &n.to_string());
            write(place.join(".c.toml.swp"), "x");
            fs::remove_file(place.join(".c.toml.swp")).unwrap();
            folder_with(place.join("4913"), "x");
            fs::remove_dir_all(place.join("4913")).unwrap();
        }
    }
    fs::read_to_string(&path).unwrap();
    assert!(timeout(QUIET, watcher.happened()).await.is_err());
    assert_eq!(watcher.heard(), 0, "events that were told and passed over");
    write(&path, "1");
    timeout(LIMIT, watcher.happened()).await.unwrap();
    assert!(watcher.heard() > 0);
}

#[tokio::test]
async fn c7_a_write_through_another_name_of_the_file_is_told() {
    let it = Watched::start("conf/c.toml", |dir| {
        folder_with(dir.join("conf"), "0");
        fs::hard_link(dir.join("conf/c.toml"), dir.join("elsewhere.toml")).unwrap();
    })
    .await;
    for content in ["1", "2"] {
        it.change(content, |dir| write(dir.join("elsewhere.toml"), content))
            .await;
    }
    it.end().await;
}

#[tokio::test]
async fn c7_two_files_or_folders_that_change_places_are_told() {
    let exchange = |one: &Path, other: &Path| {
        let flags = rustix::fs::RenameFlags::EXCHANGE;
        rustix::fs::renameat_with(rustix::fs::CWD, one, rustix::fs::CWD, other, flags).unwrap();
    };
    let it = Watched::start("a/conf/c.toml", |dir| {
        folder_with(dir.join("a/conf"), "0");
        folder_with(dir.join("b/conf"), "1");
        write(dir.join("other.toml"), "2");
    })
    .await;
    it.change("1", |dir| exchange(&dir.join("a"), &dir.join("b")))
        .await;
    it.change("2", |dir| {
        exchange(&dir.join("a/conf/c.toml"), &dir.join("other.toml"))
    })
    .await;
    it.change("0", |dir| exchange(&dir.join("b"), &dir.join("a")))
        .await;
    it.end().await;
}

#[tokio::test]
async fn c7_folders_that_a_program_has_open_are_told_when_they_are_removed_slowly_and_made_again() {
    let it = Watched::start("a/b/c.toml", |dir| folder_with(dir.join("a/b"), "0")).await;
    // As a shell in that folder: its removal is told by nothing but the folder above.
    let held = ["a/b", "a"].map(|name| fs::File::open(it.dir.path().join(name)).unwrap());
    for removed in ["a/b/c.toml", "a/b", "a"] {
        it.quiet().await;
        let path = it.dir.path().join(removed);
        match fs::metadata(&path).unwrap().is_dir() {
            true => fs::remove_dir(path).unwrap(),
            false => fs::remove_file(path).unwrap(),
        }
        it.told().await;
    }
    it.change("1", |dir| folder_with(dir.join("a/b"), "1"))
        .await;
    drop(held);
    it.end().await;
}

#[tokio::test]
async fn c7_the_way_is_walked_anew_when_somebody_asks_and_while_the_file_cannot_be_read() {
    let it = Watched::start("c.toml", |dir| write(dir.join("c.toml"), "0")).await;
    it.quiet().await;
    it.reader.walk.notify_one();
    it.told().await;
    it.quiet().await;
    it.reader.unreadable.send(true).unwrap();
    it.told().await;
    let start = Instant::now();
    it.told().await;
    assert!(start.elapsed() > LOOK / 2, "{:?}", start.elapsed());
    it.reader.unreadable.send(false).unwrap();
    it.told().await;
    it.end().await;
}

/// Steps in any order, with noise between them: what was read last after a while is what is there.
#[tokio::test]
async fn c7_after_any_steps_in_any_order_the_newest_content_is_known() {
    let it = Watched::start("link/conf/c.toml", |dir| {
        folder_with(dir.join("real/conf"), "0");
        symlink("real", dir.join("link")).unwrap();
    })
    .await;
    let mut random = fastrand::Rng::with_seed(0);
    let mut steps = Vec::new();
    let mut read = fs::read_to_string(&it.path).ok();
    for n in 0..40 {
        let dir = it.dir.path();
        let text = n.to_string();
        for _ in 0..=random.u8(..3) {
            let step = random.u8(..9);
            steps.push(step);
            match step {
                // Where the folder is gone, there is nothing to write into.
                0 => drop(fs::write(&it.path, &text)),
                1 => {
                    let new = it.path.with_extension("new");
                    let _ = fs::write(&new, &text).and_then(|()| fs::rename(&new, &it.path));
                }
                2 => drop(fs::remove_file(&it.path)),
                3 => drop(fs::remove_dir_all(dir.join("link/conf"))),
                4 if dir.join("link").exists() => folder_with(dir.join("link/conf"), &text),
                5 => {
                    let new = format!("real-{n}-{}", steps.len());
                    folder_with(dir.join(&new).join("conf"), &text);
                    link_anew(&new, &dir.join("link"));
                }
                6 => drop(fs::remove_file(dir.join("link"))),
                7 => {
                    let away = format!("away-{n}-{}", steps.len());
                    let _ = fs::rename(dir.join("link/conf"), dir.join(away));
                }
                _ => write(dir.join("noise"), &text),
            }
        }
        let now = fs::read_to_string(&it.path).ok();
        while read != now {
            let told = timeout(LIMIT, it.reader.changed.notified()).await;
            assert!(told.is_ok(), "{read:?} is not {now:?} after {steps:?}");
            read = fs::read_to_string(&it.path).ok();
        }
    }
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
    while timeout(QUIET * 3, it.reader.changed.notified())
        .await
        .is_ok()
    {
        told += 1;
    }
    assert!((1..=4).contains(&told), "{told}");
    it.end().await;
}

#[tokio::test(start_paused = true)]
async fn where_the_system_tells_nothing_it_is_told_every_five_seconds() {
    let dir = tempfile::tempdir().unwrap();
    let (side, mut reader) = both_sides();
    let stop = CancellationToken::new();
    let mut tasks = JoinSet::new();
    let full = || Err(std::io::Error::from_raw_os_error(28));
    let path = dir.path().join("c.toml");
    tasks.spawn(watch_with(path, side, stop.clone(), full));
    reader.changed.notified().await;
    let told = reader.trouble.borrow_and_update().clone().unwrap();
    assert!(
        told.contains("so it is read every 5 s: the limit"),
        "{told}"
    );
    let start = Instant::now();
    reader.changed.notified().await;
    reader.changed.notified().await;
    assert_eq!(start.elapsed().as_secs(), 2 * LOOK.as_secs());
    assert!(!reader.trouble.has_changed().unwrap(), "said once");
    stop.cancel();
    tasks.join_next().await.unwrap().unwrap();
}
