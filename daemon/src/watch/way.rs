//! The way to a file: the folders in which the system looks something up when it opens the path, and which entries in
//! them matter. Looks at folders, watches none.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    ffi::OsString,
    fs, io,
    path::{Component, Path, PathBuf},
};

/// As many symlinks as Linux follows.
const MOST_LINKS: usize = 40;

/// The folders on the way to a file, each with what matters in it.
pub(super) type Way = BTreeMap<PathBuf, Folder>;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Folder {
    /// Which folder it is: another may take its name.
    pub(super) id: Option<Id>,
    /// The entries the way goes through.
    entries: BTreeSet<OsString>,
    /// It holds the file, or would.
    pub(super) last: bool,
}

/// Tells a folder from another one of the same name.
pub(super) type Id = (u64, u64);

#[cfg(target_os = "linux")]
impl Folder {
    /// Whether an entry of that name is on the way. In the last folder every one is: editors do all kinds of things
    /// there.
    pub(super) fn matters(&self, name: &std::ffi::OsStr) -> bool {
        self.last || self.entries.contains(name)
    }
}

/// Every folder in which the system looks something up when it opens `path`.
pub(super) fn walk(path: &Path) -> Way {
    let mut way = Way::new();
    let mut here = PathBuf::new();
    let mut links = 0;
    let mut steps: VecDeque<Step> = path.components().filter_map(Step::of).collect();
    while let Some(step) = steps.pop_front() {
        let name = match step {
            Step::Root(root) => {
                here.push(root);
                continue;
            }
            Step::Up => {
                here.pop();
                continue;
            }
            Step::Into(name) => name,
        };
        let folder = way.entry(here.clone()).or_default();
        folder.id = id(&here);
        folder.entries.insert(name.clone());
        let next = here.join(&name);
        match kind(&next) {
            Ok(Kind::Link(target)) => {
                links += 1;
                if links > MOST_LINKS {
                    break;
                }
                for step in target.components().rev().filter_map(Step::of) {
                    steps.push_front(step);
                }
            }
            Ok(Kind::Folder) if !steps.is_empty() => here = next,
            // The end of the way, or as far as it goes yet.
            _ => {
                folder.last = steps.is_empty();
                break;
            }
        }
    }
    way
}

enum Step {
    /// The root, a drive, or both: as an absolute path begins.
    Root(OsString),
    Up,
    Into(OsString),
}

impl Step {
    fn of(component: Component<'_>) -> Option<Self> {
        match component {
            Component::Prefix(_) | Component::RootDir => {
                Some(Self::Root(component.as_os_str().to_owned()))
            }
            Component::CurDir => None,
            Component::ParentDir => Some(Self::Up),
            Component::Normal(it) => Some(Self::Into(it.to_owned())),
        }
    }
}

enum Kind {
    Link(PathBuf),
    Folder,
    Other,
}

fn kind(path: &Path) -> io::Result<Kind> {
    let metadata = fs::symlink_metadata(path)?;
    Ok(if metadata.is_symlink() {
        Kind::Link(fs::read_link(path)?)
    } else if metadata.is_dir() {
        Kind::Folder
    } else {
        Kind::Other
    })
}

#[cfg(unix)]
fn id(folder: &Path) -> Option<Id> {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(folder).ok().map(|it| (it.dev(), it.ino()))
}

/// Windows keeps a watched folder from being replaced; the time it was made stands in for a number.
#[cfg(not(unix))]
fn id(folder: &Path) -> Option<Id> {
    let made = fs::metadata(folder).ok()?.created().ok()?;
    let age = made.duration_since(std::time::UNIX_EPOCH).ok()?;
    Some((age.as_secs(), u64::from(age.subsec_nanos())))
}

#[cfg(unix)]
#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn the_way_ends_in_a_circle_of_symlinks() {
        let dir = tempfile::tempdir().unwrap();
        symlink("b", dir.path().join("a")).unwrap();
        symlink("a", dir.path().join("b")).unwrap();
        let way = walk(&dir.path().join("a/c.toml"));
        assert!(way[dir.path()].entries.contains(&OsString::from("b")));
    }

    #[test]
    fn the_way_goes_up_from_where_a_symlink_led() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("x/y")).unwrap();
        fs::create_dir(dir.path().join("x/z")).unwrap();
        symlink("x/y", dir.path().join("link")).unwrap();
        let way = walk(&dir.path().join("link/../z/c.toml"));
        assert!(way[&dir.path().join("x/z")].last);
        assert!(!way.contains_key(&dir.path().join("z")));
    }
}
