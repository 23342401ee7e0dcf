//! The way to a file: what the system looks up when it opens the path, and what of it must be watched. Looks at
//! folders, watches none.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    ffi::OsString,
    fs, io,
    path::{Component, Path, PathBuf},
};

use crate::system::file_id::{self, FileId};

/// As many symlinks as Linux follows.
const MOST_LINKS: usize = 40;

/// The folders, symlinks and the file on the way, each by its own path: no symlink is in it but at its end.
pub(super) type LookupPath = BTreeMap<PathBuf, PathNode>;

/// Something on the way that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PathNode {
    /// Which one it is: another may take its name.
    pub(super) id: Option<FileId>,
    pub(super) kind: Kind,
    /// The entry of this folder that the way needs and that is missing, or is no file.
    pub(super) awaited: BTreeSet<OsString>,
    /// The entry of this folder whose removal could go unnoticed otherwise: a folder that a program has open does not
    /// tell that it was removed.
    pub(super) held: BTreeSet<OsString>,
    /// This folder holds the file, or would: its mode decides whether the file may be trusted.
    pub(super) last: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Folder,
    /// With where it leads.
    Link(PathBuf),
    File,
}

/// Everything that the system looks at when it opens `path`.
pub(super) fn resolve(path: &Path) -> LookupPath {
    let mut way = LookupPath::new();
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
        let folder = folder(&mut way, &here);
        folder.last |= steps.is_empty();
        let next = here.join(&name);
        let found = look(&next);
        match found {
            Ok((Found::Link(target), id)) => {
                links += 1;
                if links > MOST_LINKS {
                    break;
                }
                for step in target.components().rev().filter_map(Step::of) {
                    steps.push_front(step);
                }
                way.insert(next, PathNode::new(id, Kind::Link(target)));
            }
            Ok((Found::Folder, _)) if !steps.is_empty() => here = next,
            Ok((Found::File, id)) if steps.is_empty() => {
                way.insert(next, PathNode::new(id, Kind::File));
                break;
            }
            // As far as the way goes yet, or what stands in it.
            _ => {
                folder.awaited.insert(name);
                let (above, own) = (here.parent(), here.file_name());
                if let (Some(above), Some(own)) = (above, own) {
                    let above = self::folder(&mut way, above);
                    above.held.insert(own.to_owned());
                }
                break;
            }
        }
    }
    way
}

fn folder<'a>(way: &'a mut LookupPath, path: &Path) -> &'a mut PathNode {
    let new = || PathNode::new(id_of(path), Kind::Folder);
    way.entry(path.to_owned()).or_insert_with(new)
}

impl PathNode {
    fn new(id: Option<FileId>, kind: Kind) -> Self {
        Self {
            id,
            kind,
            awaited: BTreeSet::new(),
            held: BTreeSet::new(),
            last: false,
        }
    }

    /// Whether what happened to the entry of that name may be about the way.
    #[cfg(target_os = "linux")]
    pub(super) fn needs(&self, name: &std::ffi::OsStr) -> bool {
        self.awaited.contains(name) || self.held.contains(name)
    }
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

enum Found {
    Link(PathBuf),
    Folder,
    File,
    Other,
}

fn look(path: &Path) -> io::Result<(Found, Option<FileId>)> {
    let metadata = fs::symlink_metadata(path)?;
    let found = if metadata.is_symlink() {
        Found::Link(fs::read_link(path)?)
    } else if metadata.is_dir() {
        Found::Folder
    } else if metadata.is_file() {
        Found::File
    } else {
        Found::Other
    };
    Ok((found, file_id::of(&metadata)))
}

fn id_of(folder: &Path) -> Option<FileId> {
    fs::metadata(folder).ok().as_ref().and_then(file_id::of)
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn the_way_ends_in_a_circle_of_symlinks() {
        let dir = tempfile::tempdir().unwrap();
        symlink("b", dir.path().join("a")).unwrap();
        symlink("a", dir.path().join("b")).unwrap();
        let way = resolve(&dir.path().join("a/c.toml"));
        assert_eq!(way[&dir.path().join("b")].kind, Kind::Link("a".into()));
    }

    #[test]
    fn the_way_goes_up_from_where_a_symlink_led() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("x/y")).unwrap();
        fs::create_dir(dir.path().join("x/z")).unwrap();
        symlink("x/y", dir.path().join("link")).unwrap();
        let way = resolve(&dir.path().join("link/../z/c.toml"));
        assert!(way[&dir.path().join("x/z")].last);
        assert!(!way.contains_key(&dir.path().join("z")));
    }

    #[test]
    fn no_folder_is_asked_for_its_entries_unless_something_is_missing() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("a/b")).unwrap();
        symlink("a/b", dir.path().join("link")).unwrap();
        fs::write(dir.path().join("a/b/c.toml"), "").unwrap();
        let way = resolve(&dir.path().join("link/c.toml"));
        let asks = |it: &PathNode| !it.awaited.is_empty() || !it.held.is_empty();
        assert!(!way.values().any(asks), "{way:?}");
        assert_eq!(way[&dir.path().join("a/b/c.toml")].kind, Kind::File);
        fs::remove_file(dir.path().join("a/b/c.toml")).unwrap();
        let way = resolve(&dir.path().join("link/c.toml"));
        let asking: Vec<_> = way.iter().filter(|it| asks(it.1)).collect();
        assert_eq!(asking.len(), 2, "{way:?}");
        assert!(
            way[&dir.path().join("a/b")]
                .awaited
                .contains(&OsString::from("c.toml"))
        );
        assert!(
            way[&dir.path().join("a")]
                .held
                .contains(&OsString::from("b"))
        );
    }
}
