use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;

struct Home {
    folder: tempfile::TempDir,
}

impl Home {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join(".ssh")).unwrap();
        Self { folder }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    fn write(&self, path: &str, text: &str) -> PathBuf {
        fs::write(self.at(path), text).unwrap();
        self.at(path)
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.at(path)).unwrap()
    }

    fn config(&self) -> PathBuf {
        self.at(".ssh/config")
    }

    fn lines(&self) -> [String; 2] {
        lines(&self.at("ssh_config"), self.folder.path()).unwrap()
    }

    fn found(&self) -> Option<(String, usize)> {
        let found = find(&self.config(), &self.at("ssh_config"), self.folder.path())?;
        let name = found.file.file_name().unwrap().to_string_lossy();
        Some((name.into_owned(), found.line))
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.at(".ssh")).unwrap();
        let mut names: Vec<String> = entries
            .map(|it| it.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

#[test]
fn what_was_added_is_found_and_taken_out_without_a_trace() {
    for before in ["", "Host a\n    User b\n", "no end of line", "Host a\r\n"] {
        let home = Home::new();
        home.write(".ssh/config", before);
        let mode = fs::Permissions::from_mode(0o640);
        fs::set_permissions(home.config(), mode).unwrap();
        assert!(home.found().is_none());
        add(&home.config(), &home.lines()).unwrap();
        assert_eq!(home.found(), Some(("config".to_owned(), 2)));
        assert!(home.read(".ssh/config").ends_with(before));
        assert_eq!(home.read(".ssh/config.before-pomd"), before);
        let removed = remove(&home.config(), &home.lines()).unwrap();
        assert!(matches!(removed, Removed::Restored));
        assert_eq!(home.read(".ssh/config"), before);
        assert_eq!(home.names(), ["config"]);
        let mode = fs::metadata(home.config()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o640);
    }
}

#[test]
fn a_file_that_was_not_there_is_not_there_again() {
    let home = Home::new();
    assert!(add(&home.config(), &home.lines()).unwrap().copy.is_none());
    let mode = fs::metadata(home.config()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let removed = remove(&home.config(), &home.lines()).unwrap();
    assert!(matches!(removed, Removed::Restored));
    assert!(home.names().is_empty());
}

#[test]
fn what_was_changed_meanwhile_stays() {
    let home = Home::new();
    home.write(".ssh/config", "Host a\n");
    add(&home.config(), &home.lines()).unwrap();
    let text = home.read(".ssh/config");
    home.write(".ssh/config", &format!("# mine\n{text}Host c\n"));
    let removed = remove(&home.config(), &home.lines()).unwrap();
    assert!(matches!(removed, Removed::Lines));
    assert_eq!(home.read(".ssh/config"), "# mine\nHost a\nHost c\n");
    assert_eq!(home.read(".ssh/config.before-pomd"), "Host a\n");
    let removed = remove(&home.config(), &home.lines()).unwrap();
    assert!(matches!(removed, Removed::Nothing));
}

#[test]
fn an_include_is_found_where_ssh_finds_it() {
    let home = Home::new();
    let ours = home.write("ssh_config", "");
    let path = ours.display();
    for (text, line) in [
        (format!("Include {path}\n"), Some(1)),
        (format!("# x\n\n  include = \"{path}\"\n"), Some(3)),
        (format!("INCLUDE other \"{path}\" # here\n"), Some(1)),
        ("Include ~/ssh_config\n".to_owned(), Some(1)),
        ("Include ../ssh_config\n".to_owned(), Some(1)),
        ("Include ../ssh_conf*\n".to_owned(), Some(1)),
        ("Include ../*\n".to_owned(), Some(1)),
        (format!("Host a\n    Include {path}\n"), None),
        (format!("Match all\nInclude {path}\n"), None),
        (format!("# Include {path}\n"), None),
        (format!("Include {path}.old\n"), None),
    ] {
        home.write(".ssh/config", &text);
        let expected = line.map(|it| ("config".to_owned(), it));
        assert_eq!(home.found(), expected, "{text}");
    }
}

#[test]
fn an_include_is_found_through_another_and_a_circle_ends() {
    let home = Home::new();
    home.write("ssh_config", "");
    home.write(".ssh/config", "Include config.local\nInclude config\n");
    home.write(".ssh/config.local", "# mine\nInclude ~/ssh_config\n");
    assert_eq!(home.found(), Some(("config.local".to_owned(), 2)));
    home.write(".ssh/config.local", "Host x\nInclude ~/ssh_config\n");
    assert_eq!(home.found(), None);
}

#[test]
fn a_link_stays_a_link_and_its_target_is_written() {
    let home = Home::new();
    fs::create_dir(home.at("dotfiles")).unwrap();
    home.write("dotfiles/ssh", "Host a\n");
    symlink("../dotfiles/ssh", home.config()).unwrap();
    add(&home.config(), &home.lines()).unwrap();
    assert!(fs::symlink_metadata(home.config()).unwrap().is_symlink());
    assert!(home.read("dotfiles/ssh").starts_with(COMMENT));
    remove(&home.config(), &home.lines()).unwrap();
    assert!(fs::symlink_metadata(home.config()).unwrap().is_symlink());
    assert_eq!(home.read("dotfiles/ssh"), "Host a\n");
}

#[test]
fn what_is_not_to_be_written_stays_as_it_is() {
    let home = Home::new();
    let target = home.write("managed", "Host a\n");
    symlink(&target, home.config()).unwrap();
    fs::set_permissions(&target, fs::Permissions::from_mode(0o444)).unwrap();
    let why = add(&home.config(), &home.lines()).err().unwrap();
    assert_eq!(why.to_string(), "the link's target is read-only");
    assert_eq!(home.read("managed"), "Host a\n");
    fs::remove_file(home.config()).unwrap();
    symlink("nowhere", home.config()).unwrap();
    assert!(add(&home.config(), &home.lines()).is_err());
    fs::remove_file(home.config()).unwrap();
    symlink("/dev/null", home.config()).unwrap();
    let why = add(&home.config(), &home.lines()).err().unwrap();
    assert_eq!(why.to_string(), "the link's target is no file");
    assert_eq!(home.names(), ["config"], "no copy of what was not changed");
}

#[test]
fn a_path_that_ssh_would_read_otherwise_is_not_included() {
    for path in ["/a\nHost *", "/a\"b", "/a*b", "/a$b", "/a%b", "/a\\b"] {
        assert!(
            lines(Path::new(path), Path::new("/home/a")).is_none(),
            "{path}"
        );
    }
}
