//! Whether somebody else could change what a path leads to (A20, A27, A29), as sshd's StrictModes asks it.
//!
//! The path is walked component by component, links included, and every folder on it is judged: from `/`, or from the
//! home folder where the path leads through it. Then the file is opened at the place the walk ended in. Nobody who is
//! not trusted can have changed the way in between: that takes a folder that was refused. Knows owners and modes; must
//! not know what stands in the files.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
};

use super::{home::shown, users};

/// An open file, and what was found on the way to it.
#[derive(Debug)]
pub struct Opened {
    /// The file, or whatever is there instead.
    pub file: File,
    /// What lets others change it. Empty where nothing does.
    pub findings: Vec<Finding>,
}

/// A place on the way to a file that somebody else may change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    kind: Kind,
    path: PathBuf,
    risk: Risk,
    owner: u32,
    mode: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(
    not(unix),
    expect(dead_code, reason = "only Unix tells owners and modes")
)]
enum Kind {
    Folder,
    Link,
    File,
}

/// Who could change it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(
    not(unix),
    expect(dead_code, reason = "only Unix tells owners and modes")
)]
enum Risk {
    /// Its group. A warning: many systems give each user a group of his own.
    Group,
    Everybody,
    /// Its owner, who is neither us nor root.
    Owner,
}

impl Finding {
    /// Whether the file must not be used.
    pub fn is_refusal(&self) -> bool {
        self.risk != Risk::Group
    }

    /// The finding as a sentence with the command that mends it. `harm` says what the file can do, as in "it can name
    /// commands".
    pub fn describe(&self, harm: &str) -> String {
        let name = shown(&self.path);
        let word = shell_word(&self.path);
        let thing = match self.kind {
            Kind::Folder => format!("the folder {name}"),
            Kind::Link => format!("the link {name}"),
            Kind::File => name,
        };
        let (owner, mode) = (self.owner, self.mode);
        let whose = if owner == us() { "yours" } else { "root's" };
        let sudo = if owner == us() { "" } else { "sudo " };
        match self.risk {
            Risk::Group => format!(
                "the group of {thing} may write it (mode {mode:04o}); if that is not meant: {sudo}chmod g-w {word}"
            ),
            Risk::Everybody => format!(
                "everybody may write {thing} ({whose}, mode {mode:04o}), and {harm}: {sudo}chmod go-w {word}"
            ),
            Risk::Owner => format!(
                "{thing} belongs to another user (uid {owner}, mode {mode:04o}), and {harm}: use a path of your own, or: sudo chown -h {} {word}",
                us()
            ),
        }
    }
}

/// Opens `path` for reading without waiting for the other end of a pipe, and judges the way to it.
pub fn open(path: &Path) -> io::Result<Opened> {
    platform::open(path)
}

/// Sorts findings into the first refusal, or the warnings.
pub fn settle(findings: &[Finding], harm: &str) -> Result<Vec<String>, String> {
    match findings.iter().find(|it| it.is_refusal()) {
        Some(refusal) => Err(refusal.describe(harm)),
        None => Ok(findings.iter().map(|it| it.describe(harm)).collect()),
    }
}

/// A path as a word of a shell's command.
pub fn shell_word(path: &Path) -> String {
    let plain = |text: &str| {
        text.chars()
            .all(|it| it.is_ascii_alphanumeric() || "/._-+,:@~".contains(it))
    };
    let short = shown(path);
    if plain(&short) {
        return short;
    }
    let whole = control::text::clean(&path.display().to_string(), 400);
    format!("'{}'", whole.replace('\'', r"'\''"))
}

fn us() -> u32 {
    users::own_uid().unwrap_or_default()
}

#[cfg(unix)]
mod platform {
    use std::{
        collections::VecDeque,
        ffi::OsString,
        fs::{self, Metadata},
        io,
        os::unix::fs::{MetadataExt, OpenOptionsExt},
        path::{Component, Path, PathBuf},
        sync::LazyLock,
    };

    use rustix::fs::{OFlags, StatVfs, StatVfsMountFlags, fstatvfs, statvfs};

    use super::{Finding, Kind, Opened, Risk, us};

    /// As many symlinks as Linux follows.
    const MOST_LINKS: usize = 40;
    /// How often a path may change while it is walked.
    const TRIES: usize = 3;

    pub(super) fn open(path: &Path) -> io::Result<Opened> {
        let path = std::path::absolute(path)?;
        let homes = homes();
        for _ in 1..TRIES {
            match open_once(&path, &homes) {
                // The last links may have been replaced between the walk and now, as a mounted ConfigMap's are.
                Err(error) if is_race(&error) => {}
                other => return other,
            }
        }
        open_once(&path, &homes)
    }

    fn is_race(error: &io::Error) -> bool {
        error.kind() == io::ErrorKind::NotFound
            || error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error())
    }

    fn open_once(path: &Path, homes: &[PathBuf]) -> io::Result<Opened> {
        let (place, mut findings) = walk(path, homes)?;
        let flags = OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::NOFOLLOW;
        let file = fs::OpenOptions::new()
            .read(true)
            .custom_flags(flags.bits().cast_signed())
            .open(&place)?;
        let metadata = file.metadata()?;
        if metadata.is_file() {
            let risk = risk_of_file(&facts(&metadata, &fstatvfs(&file)?));
            findings.extend(risk.map(|it| finding(Kind::File, &place, it, &metadata)));
        }
        Ok(Opened { file, findings })
    }

    /// Where `path` leads, without links, and what was found on the way.
    pub(super) fn walk(path: &Path, homes: &[PathBuf]) -> io::Result<(PathBuf, Vec<Finding>)> {
        let mut findings: Vec<Finding> = Vec::new();
        let mut here = PathBuf::new();
        let mut links = 0;
        let mut steps: VecDeque<Step> = path.components().filter_map(Step::of).collect();
        while let Some(step) = steps.pop_front() {
            let name = match step {
                Step::Root => {
                    here = PathBuf::from("/");
                    continue;
                }
                Step::Up => {
                    here.pop();
                    continue;
                }
                Step::Into(name) => name,
            };
            let next = here.join(name);
            let entry = fs::symlink_metadata(&next)?;
            // Above the home folder it is the system's business, as with sshd.
            if !homes.iter().any(|it| it.starts_with(&next)) {
                let folder = fs::metadata(&here)?;
                let risk = risk_of_folder(&facts(&folder, &statvfs(&here)?), &entry);
                let found = risk.map(|it| finding(Kind::Folder, &here, it, &folder));
                let link = entry.is_symlink() && !is_trusted(entry.uid());
                let link = link.then(|| finding(Kind::Link, &next, Risk::Owner, &entry));
                for it in found.into_iter().chain(link) {
                    if !findings.contains(&it) {
                        findings.push(it);
                    }
                }
            }
            if entry.is_symlink() {
                links += 1;
                if links > MOST_LINKS {
                    return Err(rustix::io::Errno::LOOP.into());
                }
                let target = fs::read_link(&next)?;
                for step in target.components().rev().filter_map(Step::of) {
                    steps.push_front(step);
                }
            } else if !entry.is_dir() && !steps.is_empty() {
                return Err(rustix::io::Errno::NOTDIR.into());
            } else {
                here = next;
            }
        }
        Ok((here, findings))
    }

    enum Step {
        Root,
        Up,
        Into(OsString),
    }

    impl Step {
        fn of(component: Component<'_>) -> Option<Self> {
            match component {
                Component::Prefix(_) | Component::CurDir => None,
                Component::RootDir => Some(Self::Root),
                Component::ParentDir => Some(Self::Up),
                Component::Normal(it) => Some(Self::Into(it.to_owned())),
            }
        }
    }

    /// What a judgement needs to know.
    pub(super) struct Facts {
        pub(super) owner: u32,
        pub(super) mode: u32,
        pub(super) read_only: bool,
    }

    fn facts(metadata: &Metadata, mount: &StatVfs) -> Facts {
        Facts {
            owner: metadata.uid(),
            mode: metadata.mode() & 0o7777,
            read_only: mount.f_flag.contains(StatVfsMountFlags::RDONLY),
        }
    }

    fn finding(kind: Kind, path: &Path, risk: Risk, metadata: &Metadata) -> Finding {
        Finding {
            kind,
            path: path.to_owned(),
            risk,
            owner: metadata.uid(),
            mode: metadata.mode() & 0o7777,
        }
    }

    pub(super) fn risk_of_file(facts: &Facts) -> Option<Risk> {
        if !is_trusted(facts.owner) {
            return Some(Risk::Owner);
        }
        // A read-only mount is fine whatever its mode: mounted ConfigMaps are 0777.
        if facts.read_only {
            return None;
        }
        match facts.mode & 0o022 {
            0 => None,
            0o020 => Some(Risk::Group),
            _ => Some(Risk::Everybody),
        }
    }

    /// Judges a folder by what is looked up in it.
    fn risk_of_folder(facts: &Facts, entry: &Metadata) -> Option<Risk> {
        let unknown = !is_trusted(facts.owner) && entry.is_dir() && is_unmapped(facts.owner);
        let facts = Facts {
            owner: if unknown { 0 } else { facts.owner },
            ..*facts
        };
        let risk = risk_of_file(&facts)?;
        // In a sticky folder only its owner can move a thing away, and that owner is judged with the thing. It is enough
        // for the folders in `/tmp`; a file or link directly in there could have been planted before.
        let sticky = facts.mode & 0o1000 != 0;
        let planted = !entry.is_dir() && risk == Risk::Everybody;
        (risk == Risk::Owner || !sticky || planted).then_some(risk)
    }

    fn is_trusted(owner: u32) -> bool {
        owner == 0 || owner == us()
    }

    /// Inside of a user namespace the owners that it does not know all look like this one, the machine's root among
    /// them.
    fn is_unmapped(owner: u32) -> bool {
        static UNMAPPED: LazyLock<Option<u32>> = LazyLock::new(|| {
            let map = fs::read_to_string("/proc/self/uid_map").ok()?;
            let whole = map.split_whitespace().eq(["0", "0", "4294967295"]);
            let id = fs::read_to_string("/proc/sys/kernel/overflowuid").ok()?;
            (!whole).then(|| id.trim().parse().ok()).flatten()
        });
        *UNMAPPED == Some(owner)
    }

    /// The home folder, by its name and as it is without links.
    fn homes() -> Vec<PathBuf> {
        let home = std::env::var_os("HOME").map(PathBuf::from);
        let home = home.filter(|it| it.is_absolute() && it.parent().is_some());
        let real = home.as_ref().and_then(|it| it.canonicalize().ok());
        home.into_iter().chain(real).collect()
    }
}

#[cfg(not(unix))]
mod platform {
    use std::{io, path::Path};

    use super::Opened;

    /// Who may write there is a matter of access lists, which keep a profile's folders to their owner.
    pub(super) fn open(path: &Path) -> io::Result<Opened> {
        Ok(Opened {
            file: crate::system::plain_file::open(path)?,
            findings: Vec::new(),
        })
    }
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{PermissionsExt, chown, symlink},
    };

    use tempfile::TempDir;

    use super::{
        platform::{Facts, risk_of_file, walk},
        *,
    };

    const HARM: &str = "it can name commands";

    fn tree() -> (TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        mode(&root, 0o755);
        for folder in ["a/b/c", "x/y"] {
            fs::create_dir_all(root.join(folder)).unwrap();
        }
        let file = root.join("a/b/c/f");
        fs::write(&file, "f").unwrap();
        mode(&file, 0o644);
        (dir, root)
    }

    fn mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    /// What is refused on the way to `path`, as a path below `root`.
    fn refused(root: &Path, path: &str) -> Option<String> {
        let findings = open(&root.join(path)).unwrap().findings;
        let first = findings.into_iter().find(Finding::is_refusal)?;
        Some(first.path.strip_prefix(root).unwrap().display().to_string())
    }

    #[test]
    fn a29_every_folder_on_the_way_counts_and_is_named() {
        let (_dir, root) = tree();
        assert_eq!(refused(&root, "a/b/c/f"), None);
        for folder in ["a", "a/b", "a/b/c", "a/b/c/f"] {
            for bad in [0o777, 0o757] {
                mode(&root.join(folder), bad);
                assert_eq!(refused(&root, "a/b/c/f").as_deref(), Some(folder));
            }
            mode(&root.join(folder), 0o755);
        }
        // Sticky keeps folders where they are, not files that somebody may have put there before.
        mode(&root.join("a"), 0o1777);
        assert_eq!(refused(&root, "a/b/c/f"), None);
        mode(&root.join("a/b/c"), 0o1777);
        assert_eq!(refused(&root, "a/b/c/f").as_deref(), Some("a/b/c"));
    }

    #[test]
    fn a29_the_folders_behind_every_link_count_too() {
        let (_dir, root) = tree();
        symlink("../a/b", root.join("x/link")).unwrap();
        symlink(root.join("x/link/c/f"), root.join("x/y/f")).unwrap();
        assert_eq!(refused(&root, "x/y/f"), None);
        for folder in ["x/y", "x", "a", "a/b", "a/b/c"] {
            mode(&root.join(folder), 0o777);
            assert_eq!(refused(&root, "x/y/f").as_deref(), Some(folder));
            mode(&root.join(folder), 0o755);
        }
        // As does the folder behind one that the path goes up from.
        assert_eq!(refused(&root, "x/link/../../x/y/f"), None);
        mode(&root.join("a"), 0o777);
        assert_eq!(refused(&root, "x/link/../../x/y/f").as_deref(), Some("a"));
    }

    #[test]
    fn a29_a_folder_link_or_file_of_another_user_is_refused() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: only root can give files away");
            return;
        }
        let (_dir, root) = tree();
        symlink("a", root.join("l")).unwrap();
        for place in ["a", "a/b", "a/b/c", "a/b/c/f", "l"] {
            let path = root.join(place);
            std::os::unix::fs::lchown(&path, Some(65_533), None).unwrap();
            assert_eq!(refused(&root, "l/b/c/f").as_deref(), Some(place));
            std::os::unix::fs::lchown(&path, Some(0), None).unwrap();
        }
        chown(root.join("a"), Some(65_533), None).unwrap();
        let text = settle(&open(&root.join("a/b/c/f")).unwrap().findings, HARM).unwrap_err();
        let word = shell_word(&root.join("a"));
        assert!(text.contains("(uid 65533, mode 0755)"), "{text}");
        assert!(text.ends_with(&format!("sudo chown -h 0 {word}")), "{text}");
    }

    #[test]
    fn a29_what_is_above_home_is_not_judged() {
        let (_dir, root) = tree();
        mode(&root.join("a"), 0o777);
        let file = root.join("a/b/c/f");
        let found = |home: &str| walk(&file, &[root.join(home)]).unwrap().1.len();
        assert_eq!(found("a/b"), 0);
        assert_eq!(found("a"), 1);
        assert_eq!(found("x"), 1);
        // Not even where a path comes back down by another way.
        symlink(root.join("a/b"), root.join("x/b")).unwrap();
        let by_link = walk(&root.join("x/b/c/f"), &[root.join("a/b")]).unwrap();
        assert_eq!(by_link, (file, Vec::new()));
    }

    #[test]
    fn a27_a_farm_of_links_as_a_mounted_config_map_is_read() {
        let (_dir, root) = tree();
        fs::create_dir(root.join("x/..2026_1")).unwrap();
        fs::write(root.join("x/..2026_1/ca.pem"), "1").unwrap();
        symlink("..2026_1", root.join("x/..data")).unwrap();
        symlink("..data/ca.pem", root.join("x/ca.pem")).unwrap();
        assert_eq!(refused(&root, "x/ca.pem"), None);
        mode(&root.join("x/..2026_1"), 0o777);
        assert_eq!(refused(&root, "x/ca.pem").as_deref(), Some("x/..2026_1"));
    }

    #[test]
    fn a27_owners_modes_and_mounts() {
        let ours = us();
        for (owner, mode, read_only, risk) in [
            (ours, 0o755, false, None),
            (0, 0o755, false, None),
            (0, 0o777, true, None),
            (ours, 0o775, false, Some(Risk::Group)),
            (ours, 0o757, false, Some(Risk::Everybody)),
            (ours, 0o777, false, Some(Risk::Everybody)),
            (65_533, 0o700, false, Some(Risk::Owner)),
            (65_533, 0o755, true, Some(Risk::Owner)),
        ] {
            let facts = Facts {
                owner,
                mode,
                read_only,
            };
            assert_eq!(risk_of_file(&facts), risk, "{owner} {mode:o} {read_only}");
        }
    }

    #[test]
    fn a_path_in_a_command_is_one_word() {
        for (path, word) in [
            ("/etc/pomd/pomd.toml", "/etc/pomd/pomd.toml"),
            ("/srv/my files/x", "'/srv/my files/x'"),
            ("/srv/it's", r"'/srv/it'\''s'"),
            ("/srv/$(id)", "'/srv/$(id)'"),
        ] {
            assert_eq!(shell_word(Path::new(path)), word);
        }
    }
}
