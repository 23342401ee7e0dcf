//! The one `Include` of ours in a person's `~/.ssh/config`: found, put there, taken out.
//!
//! A link stays a link. What is written through is the person's own file; one that is somebody else's, or that says that
//! it is not to be written, is left alone. Knows lines of ssh's configuration; must not know tunnels.

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

const COMMENT: &str = "# Hosts behind Pomerium (pomd). Works only above the first Host line.";
/// How deep ssh follows one Include into another.
const DEPTH: u32 = 16;
/// The copy of the file as it was.
const COPY: &str = "config.before-pomd";

/// Where an Include stands.
pub(super) struct Included {
    pub(super) file: PathBuf,
    /// From 1.
    pub(super) line: usize,
}

/// What was done to put it there.
pub(super) struct Added {
    /// The copy that was kept, if there was a file.
    pub(super) copy: Option<PathBuf>,
}

/// What was done to take it out.
pub(super) enum Removed {
    /// It was not there.
    Nothing,
    /// It was taken out; the rest was changed by somebody meanwhile and stays.
    Lines,
    /// The file is again what it was.
    Restored,
}

/// Returns the two lines that stand for the file at `ours`; `None` if ssh would take its path for a pattern or for more
/// than one word.
pub(super) fn lines(ours: &Path, home: &Path) -> Option<[String; 2]> {
    let path = match ours.strip_prefix(home) {
        // ssh takes the home of the user for `~`, whatever the environment says.
        Ok(rest) if is_home_of_user(home) => format!("~/{}", rest.to_str()?),
        _ => ours.to_str()?.to_owned(),
    };
    let special = |it: char| it.is_control() || "\"\\*?[]{}$%".contains(it);
    (!path.contains(special)).then(|| [COMMENT.to_owned(), format!("Include \"{path}\"")])
}

/// Tells whether the user database names `home` for this user; that it says nothing of the user is no contradiction.
fn is_home_of_user(home: &Path) -> bool {
    let Some(ours) = own_user() else {
        return true;
    };
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let mut entries = users.lines().map(|it| it.split(':').collect::<Vec<_>>());
    let entry = entries.find(|it| it.get(2) == Some(&ours.as_str()));
    entry.and_then(|it| it.get(5).map(|it| Path::new(*it) == home)) != Some(false)
}

/// Returns where ssh, which begins with `config`, comes to include `ours`.
pub(super) fn find(config: &Path, ours: &Path, home: &Path) -> Option<Included> {
    find_in(config, ours, home, DEPTH)
}

fn find_in(file: &Path, ours: &Path, home: &Path, depth: u32) -> Option<Included> {
    let text = String::from_utf8_lossy(&fs::read(file).ok()?).into_owned();
    for (number, line) in text.lines().enumerate() {
        let (keyword, rest) = keyword(line);
        if matches!(keyword.as_str(), "host" | "match") {
            // What is included from here on holds for some hosts only.
            return None;
        }
        if keyword != "include" {
            continue;
        }
        for word in words(rest) {
            let path = resolved(&word, home);
            if same(&path, ours) {
                let (file, line) = (file.to_owned(), number + 1);
                return Some(Included { file, line });
            }
            let deeper = || {
                let files = matching(&path);
                let mut found = files.iter().filter_map(|it| {
                    if same(it, ours) {
                        let (file, line) = (file.to_owned(), number + 1);
                        return Some(Included { file, line });
                    }
                    find_in(it, ours, home, depth - 1)
                });
                found.next()
            };
            if let Some(found) = (depth > 0).then(deeper).flatten() {
                return Some(found);
            }
        }
    }
    None
}

/// Returns the keyword of a line in lower case, and what follows it.
fn keyword(line: &str) -> (String, &str) {
    let line = line.trim();
    let end = line
        .find(|it: char| it.is_whitespace() || it == '=' || it == '"')
        .unwrap_or(line.len());
    let rest = line[end..].trim_start();
    let rest = rest.strip_prefix('=').unwrap_or(rest);
    (line[..end].to_ascii_lowercase(), rest.trim())
}

/// Returns the words of a value, quotes taken off.
fn words(text: &str) -> Vec<String> {
    let mut res = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() && !rest.starts_with('#') {
        let (word, behind) = match rest.strip_prefix('"') {
            Some(inner) => inner.split_once('"').unwrap_or((inner, "")),
            None => rest.split_once(char::is_whitespace).unwrap_or((rest, "")),
        };
        res.push(word.to_owned());
        rest = behind.trim_start();
    }
    res
}

fn resolved(word: &str, home: &Path) -> PathBuf {
    match word.strip_prefix("~/") {
        Some(rest) => home.join(rest),
        None => home.join(".ssh").join(word),
    }
}

fn same(a: &Path, b: &Path) -> bool {
    let real = |it: &Path| it.canonicalize().unwrap_or_else(|_| it.to_owned());
    a == b || real(a) == real(b)
}

/// Returns the files that a path means whose last part may be a pattern.
fn matching(path: &Path) -> Vec<PathBuf> {
    let name = path.file_name().map(|it| it.to_string_lossy().into_owned());
    let (Some(name), Some(folder)) = (name, path.parent()) else {
        return Vec::new();
    };
    if !name.contains(['*', '?']) {
        return vec![path.to_owned()];
    }
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut res: Vec<PathBuf> = entries
        .map(|it| it.path())
        .filter(|it| {
            let its = it.file_name().unwrap_or_default().to_string_lossy();
            is_match(name.as_bytes(), its.as_bytes())
        })
        .collect();
    res.sort();
    res
}

fn is_match(pattern: &[u8], name: &[u8]) -> bool {
    match (pattern, name) {
        ([], []) => true,
        ([b'*', rest @ ..], _) => (0..=name.len()).any(|it| is_match(rest, &name[it..])),
        ([b'?', rest @ ..], [_, tail @ ..]) => is_match(rest, tail),
        ([a, rest @ ..], [b, tail @ ..]) if a == b => is_match(rest, tail),
        _ => false,
    }
}

/// Puts the lines at the top of the file at `config`, which is made if it is not there.
pub(super) fn add(config: &Path, lines: &[String; 2]) -> io::Result<Added> {
    let file = own_file(config)?;
    let before = read(&file)?;
    let after = [
        format!("{}\n{}\n", lines[0], lines[1]).as_bytes(),
        before.as_deref().unwrap_or_default(),
    ]
    .concat();
    make_folder(config.parent().unwrap_or(Path::new("/")))?;
    let copy = match &before {
        Some(text) => {
            let copy = config.with_file_name(COPY);
            replace(&copy, text, None)?;
            Some(copy)
        }
        None => None,
    };
    replace(&file, &after, Some(&file))?;
    Ok(Added { copy })
}

/// Takes the lines out again, and with them what [`add`] made beside them.
pub(super) fn remove(config: &Path, lines: &[String; 2]) -> io::Result<Removed> {
    let file = own_file(config)?;
    let Some(before) = read(&file)? else {
        return Ok(Removed::Nothing);
    };
    let ours = |line: &[u8], which: usize| line.trim_ascii() == lines[which].as_bytes();
    let all: Vec<&[u8]> = before.split_inclusive(|it| *it == b'\n').collect();
    let mut after = Vec::new();
    for (number, line) in all.iter().enumerate() {
        let stands_above = all.get(number + 1).is_some_and(|it| ours(it, 1));
        if !(ours(line, 1) || ours(line, 0) && stands_above) {
            after.extend_from_slice(line);
        }
    }
    if after.len() == before.len() {
        return Ok(Removed::Nothing);
    }
    let copy = config.with_file_name(COPY);
    let kept = read(&copy)?;
    if kept.is_none() && after.is_empty() {
        // There was no file.
        fs::remove_file(&file)?;
        return Ok(Removed::Restored);
    }
    replace(&file, &after, Some(&file))?;
    if kept.as_deref() == Some(after.as_slice()) {
        fs::remove_file(&copy)?;
        return Ok(Removed::Restored);
    }
    Ok(Removed::Lines)
}

fn read(file: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::read(file) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Returns the file that `config` leads to, if it is the person's to write.
fn own_file(config: &Path) -> io::Result<PathBuf> {
    let found = match fs::symlink_metadata(config) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(config.to_owned()),
        found => found?,
    };
    let is_link = found.is_symlink();
    let kind = if is_link { "the link's target" } else { "it" };
    let managed = |why: &str| io::Error::other(format!("{kind} {why}"));
    let file = config
        .canonicalize()
        .map_err(|it| managed(&format!("can't be found: {it}")))?;
    let found = fs::metadata(&file)?;
    if !found.is_file() {
        return Err(managed("is no file"));
    }
    if found.permissions().readonly() {
        return Err(managed("is read-only"));
    }
    if !is_own(&found) {
        return Err(managed("belongs to another user"));
    }
    Ok(file)
}

/// Puts `text` in the place of the file at `path`, whole, with the permissions of the file at `like`, if that is there.
fn replace(path: &Path, text: &[u8], like: Option<&Path>) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(text)?;
    if let Some(found) = like.and_then(|it| fs::metadata(it).ok()) {
        file.as_file().set_permissions(found.permissions())?;
    }
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}

/// Makes a folder that only we may look into, with those above it.
pub(super) fn make_folder(folder: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder)
}

#[cfg(unix)]
fn is_own(found: &fs::Metadata) -> bool {
    let owner = std::os::unix::fs::MetadataExt::uid(found);
    owner == rustix::process::geteuid().as_raw()
}

/// What another user owns cannot be written, which is told then.
#[cfg(not(unix))]
fn is_own(_: &fs::Metadata) -> bool {
    true
}

#[cfg(unix)]
fn own_user() -> Option<String> {
    Some(rustix::process::geteuid().as_raw().to_string())
}

#[cfg(not(unix))]
fn own_user() -> Option<String> {
    None
}

#[cfg(unix)]
#[cfg(test)]
mod tests;
