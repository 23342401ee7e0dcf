//! The way to a file: the folders in which the system looks something up when it opens the path, and which events in
//! them matter. Looks at folders, watches none.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    ffi::OsString,
    fs, io,
    path::{Component, Path, PathBuf},
};

use notify::{
    Event, EventKind,
    event::{AccessKind, AccessMode},
};

/// As many symlinks as Linux follows.
const MOST_LINKS: usize = 40;

/// The folders on the way to a file, each with what matters in it.
pub(super) type Way = BTreeMap<PathBuf, Folder>;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Folder {
    /// Which folder it is: another may take its name.
    pub(super) id: Option<(u64, u64)>,
    /// The entries the way goes through.
    entries: BTreeSet<OsString>,
    /// It holds the file, or would: everything in it matters, for editors do all kinds of things there.
    last: bool,
}

/// Whether an event may be about the file. Reading is not: we do that ourselves.
pub(super) fn matters(event: &notify::Result<Event>, way: &Way) -> bool {
    let Ok(event) = event else { return true };
    match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => {}
        EventKind::Access(_) => return false,
        _ => {}
    }
    // Other systems name paths in their own spelling, and may tell of a whole folder at once.
    if !cfg!(target_os = "linux") || event.paths.is_empty() || event.need_rescan() {
        return true;
    }
    event.paths.iter().any(|path| {
        let inside = path.parent().and_then(|it| way.get(it));
        let entry = inside.is_some_and(|it| {
            it.last
                || path
                    .file_name()
                    .is_some_and(|name| it.entries.contains(name))
        });
        entry || way.contains_key(path)
    })
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
fn id(folder: &Path) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(folder).ok().map(|it| (it.dev(), it.ino()))
}

/// Windows keeps a watched folder from being replaced; the time it was made stands in for a number.
#[cfg(not(unix))]
fn id(folder: &Path) -> Option<(u64, u64)> {
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
