use std::{
    fs::{self, File},
    path::Path,
    sync::Mutex,
};

use super::*;
use crate::system::disk::Disk;

#[test]
fn a_saved_login_is_found_again() {
    let home = tempfile::tempdir().unwrap();
    let store = on_disk(home.path());
    assert_eq!(store.load(&[address("corp.example.com")]), None);
    let login = login("corp.example.com", "one");
    store.save(&login).unwrap();
    assert_eq!(store.load(&[address("corp.example.com")]), Some(login));
    assert_eq!(names(home.path()), ["corp.example.com.json"]);
}

#[test]
fn of_several_addresses_the_first_that_has_a_login_counts() {
    let home = tempfile::tempdir().unwrap();
    let store = on_disk(home.path());
    store.save(&login("b.example.com", "b")).unwrap();
    store.save(&login("c.example.com", "c")).unwrap();
    let found = store.load(&["a.example.com", "b.example.com", "c.example.com"].map(address));
    assert_eq!(found, Some(login("b.example.com", "b")));
}

#[test]
fn what_is_forgotten_is_gone_and_forgetting_twice_is_no_error() {
    let home = tempfile::tempdir().unwrap();
    let store = on_disk(home.path());
    store.forget(&address("corp.example.com")).unwrap();
    store.save(&login("corp.example.com", "one")).unwrap();
    store.forget(&address("corp.example.com")).unwrap();
    store.forget(&address("corp.example.com")).unwrap();
    assert_eq!(store.load(&[address("corp.example.com")]), None);
}

#[test]
fn no_two_addresses_share_a_file_and_every_name_is_a_plain_one() {
    let mut seen = std::collections::BTreeMap::new();
    let hosts = [
        "corp",
        "corp_8443",
        "corp_",
        "corp__8443",
        "corp.example.com",
        "corp_http",
        "2001-db8--1",
        "127.0.0.1",
        "2001:db8::1",
        "::1",
        &"x.".repeat(126),
        &format!("{}y", "x.".repeat(126)),
    ];
    for host in hosts {
        for (tls, port) in [
            (true, 443),
            (true, 80),
            (true, 8443),
            (false, 80),
            (false, 443),
            (false, 8443),
        ] {
            let address = Address {
                tls,
                host: parse(host),
                port,
            };
            let name = file_name(&address);
            assert!(name.len() <= 210, "{name}");
            assert!(
                name.bytes()
                    .all(|it| it.is_ascii_alphanumeric() || b"._-~".contains(&it)),
                "{name}"
            );
            assert!(!name.starts_with('.'), "{name}");
            assert_eq!(seen.insert(name, address), None);
        }
    }
    assert_eq!(
        file_name(&address("corp.example.com")),
        "corp.example.com.json"
    );
    let other = Address {
        port: 8443,
        ..address("corp.example.com")
    };
    assert_eq!(file_name(&other), "corp.example.com_8443.json");
}

#[test]
fn s4_what_cannot_be_understood_is_set_aside_and_costs_one_login() {
    let good = encode(&login("corp.example.com", "one")).unwrap();
    let good = std::str::from_utf8(&good).unwrap();
    let cases = [
        ("empty", String::new()),
        ("half", good[..good.len() / 2].to_owned()),
        (
            "another version",
            good.replace("\"version\":1", "\"version\":2"),
        ),
        (
            "another address",
            good.replace("corp.example.com", "evil.example.com"),
        ),
        ("no token", good.replace("\"one\"", "\"\"")),
        (
            "a token with a line break",
            good.replace("\"one\"", "\"o\\r\\nne\""),
        ),
        ("binary", "\u{0}\u{1}\u{2}".repeat(100)),
        ("too large", format!("{good}{}", " ".repeat(FILE_MOST))),
        ("a list", "[]".to_owned()),
    ];
    for (what, text) in cases {
        let home = tempfile::tempdir().unwrap();
        let store = on_disk(home.path());
        store.save(&login("corp.example.com", "old")).unwrap();
        fs::write(home.path().join("tokens/corp.example.com.json"), &text).unwrap();
        assert_eq!(store.load(&[address("corp.example.com")]), None, "{what}");
        let aside = home.path().join("tokens/corp.example.com.json.broken");
        assert_eq!(fs::read(&aside).unwrap(), text.as_bytes(), "{what}");
        store.save(&login("corp.example.com", "new")).unwrap();
        assert!(
            store.load(&[address("corp.example.com")]).is_some(),
            "{what}"
        );
    }
}

#[test]
fn a30_nothing_that_may_hold_a_token_is_left_under_an_address() {
    let home = tempfile::tempdir().unwrap();
    let store = on_disk(home.path());
    let tokens = home.path().join("tokens");
    let ours = address("corp.example.com");
    store.purge(&ours).unwrap();
    for host in ["corp.example.com", "corp.example.com.au"] {
        store.save(&login(host, "one")).unwrap();
        let file = tokens.join(format!("{host}.json"));
        fs::copy(&file, tokens.join(format!("{host}.json.broken"))).unwrap();
        fs::copy(&file, tokens.join(format!(".{host}.json.new-17"))).unwrap();
    }
    store.purge(&ours).unwrap();
    let names = fs::read_dir(&tokens).unwrap();
    let mut names: Vec<_> = names.map(|it| it.unwrap().file_name()).collect();
    names.sort();
    let others = [
        ".corp.example.com.au.json.new-17",
        "corp.example.com.au.json",
    ];
    assert_eq!(names[..2], others);
    assert_eq!(names.len(), 3, "{names:?}");
    store.purge(&ours).unwrap();
}

#[test]
fn a_file_of_a_newer_pomd_with_more_fields_is_read() {
    let login = login("corp.example.com", "one");
    let text = encode(&login).unwrap();
    let text = std::str::from_utf8(&text)
        .unwrap()
        .replacen('{', "{\"colour\":\"red\",", 1);
    assert_eq!(decode(text.as_bytes(), &login.address), Ok(login));
}

#[test]
fn rule_5_the_order_on_disk_is_create_write_sync_rename_sync_folder() {
    let home = tempfile::tempdir().unwrap();
    let faulty = Arc::new(Faulty::default());
    let store = Store::new(home.path().to_owned(), faulty.clone());
    store.save(&login("corp.example.com", "one")).unwrap();
    let calls: Vec<_> = faulty.calls();
    assert_eq!(
        calls,
        [
            "open_folder",
            "create",
            "write",
            "sync",
            "rename",
            "sync_folder"
        ]
    );
}

#[test]
fn s1_a_kill_at_each_step_leaves_the_old_or_the_new_token_whole_and_no_litter() {
    for step in 0..6 {
        let (home, _, found) = save_over_old(|_| Faulty::dies_at(step));
        let expected = if step <= 4 { "old" } else { "new" };
        assert_eq!(found, expected, "killed at step {step}");
        assert_eq!(
            names(home.path()),
            ["corp.example.com.json"],
            "killed at step {step}"
        );
    }
}

#[test]
fn s3_an_error_at_each_step_is_told_and_leaves_the_old_or_the_new_token_whole() {
    for step in 0..6 {
        let (home, saved, found) = save_over_old(|_| Faulty::fails_at(step));
        assert!(saved.is_err(), "step {step} failed unnoticed");
        assert_eq!(found, if step <= 4 { "old" } else { "new" }, "step {step}");
        assert_eq!(names(home.path()), ["corp.example.com.json"], "step {step}");
    }
}

#[test]
fn s3_a_disk_that_cannot_be_read_now_loses_nothing() {
    for step in 0..4 {
        let home = tempfile::tempdir().unwrap();
        on_disk(home.path())
            .save(&login("corp.example.com", "one"))
            .unwrap();
        let store = Store::new(home.path().to_owned(), Arc::new(Faulty::fails_at(step)));
        let _ = store.load(&[address("corp.example.com")]);
        let found = on_disk(home.path()).load(&[address("corp.example.com")]);
        assert_eq!(found, Some(login("corp.example.com", "one")), "step {step}");
    }
}

#[test]
fn errors_of_the_disk_are_told_in_few_words() {
    let told = |kind: io::ErrorKind| describe(&io::Error::from(kind));
    assert_eq!(told(io::ErrorKind::StorageFull), "no space left");
    assert_eq!(
        told(io::ErrorKind::ReadOnlyFilesystem),
        "the disk is read-only"
    );
    assert_eq!(
        describe(&io::Error::from_raw_os_error(5)),
        "input/output error"
    );
}

#[cfg(unix)]
mod unix {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;

    #[test]
    fn a11_new_files_and_folders_are_closed_to_others() {
        let home = tempfile::tempdir().unwrap();
        let state = home.path().join("deep/state");
        on_disk(&state)
            .save(&login("corp.example.com", "one"))
            .unwrap();
        assert_eq!(mode(&state), 0o700);
        assert_eq!(mode(&state.join("tokens")), 0o700);
        assert_eq!(mode(&state.join("tokens/corp.example.com.json")), 0o600);
    }

    #[test]
    fn a11_wrong_modes_of_ours_are_put_right_and_the_login_is_kept() {
        let home = tempfile::tempdir().unwrap();
        let store = on_disk(home.path());
        store.save(&login("corp.example.com", "one")).unwrap();
        let file = home.path().join("tokens/corp.example.com.json");
        for (path, wrong) in [
            (home.path(), 0o777),
            (&home.path().join("tokens"), 0o755),
            (&file, 0o644),
        ] {
            fs::set_permissions(path, fs::Permissions::from_mode(wrong)).unwrap();
        }
        assert!(store.load(&[address("corp.example.com")]).is_some());
        assert_eq!(
            (
                mode(home.path()),
                mode(&home.path().join("tokens")),
                mode(&file)
            ),
            (0o755, 0o700, 0o600)
        );
    }

    #[test]
    fn a11_what_is_no_plain_file_is_set_aside_unread() {
        type Make = fn(&Path);
        let make: [(&str, Make); 4] = [
            ("link", |it| symlink("/etc/hostname", it).unwrap()),
            ("link to nowhere", |it| symlink("/nonexistent", it).unwrap()),
            ("pipe", |it| {
                let made = std::process::Command::new("mkfifo").arg(it).status();
                assert!(made.unwrap().success());
            }),
            ("folder", |it| fs::create_dir(it).unwrap()),
        ];
        for (what, make) in make {
            let home = tempfile::tempdir().unwrap();
            let store = on_disk(home.path());
            store.save(&login("other.example.com", "one")).unwrap();
            make(&home.path().join("tokens/corp.example.com.json"));
            assert_eq!(store.load(&[address("corp.example.com")]), None, "{what}");
            let aside = home.path().join("tokens/corp.example.com.json.broken");
            assert!(fs::symlink_metadata(&aside).is_ok(), "{what}");
        }
    }

    #[test]
    fn a11_a_planted_link_in_the_place_of_the_folder_is_not_followed() {
        let home = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        symlink(elsewhere.path(), home.path().join("tokens")).unwrap();
        let store = on_disk(home.path());
        store.save(&login("corp.example.com", "one")).unwrap_err();
        assert_eq!(store.load(&[address("corp.example.com")]), None);
        assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 0);
    }

    #[test]
    fn a11_a_link_in_the_place_of_the_file_is_replaced_not_written_through() {
        let home = tempfile::tempdir().unwrap();
        let target = home.path().join("target");
        fs::write(&target, "untouched").unwrap();
        let store = on_disk(home.path());
        store.save(&login("corp.example.com", "old")).unwrap();
        let file = home.path().join("tokens/corp.example.com.json");
        fs::remove_file(&file).unwrap();
        symlink(&target, &file).unwrap();
        store.save(&login("corp.example.com", "new")).unwrap();
        assert_eq!(fs::read_to_string(&target).unwrap(), "untouched");
        assert!(fs::symlink_metadata(&file).unwrap().is_file());
    }

    #[test]
    fn a11_folders_and_files_of_another_user_are_refused() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: needs root");
            return;
        }
        let give_away = |path: &Path| std::os::unix::fs::chown(path, Some(65_534), None).unwrap();
        let home = tempfile::tempdir().unwrap();
        let store = on_disk(home.path());
        store.save(&login("corp.example.com", "one")).unwrap();
        give_away(&home.path().join("tokens/corp.example.com.json"));
        assert_eq!(store.load(&[address("corp.example.com")]), None);
        assert!(
            home.path()
                .join("tokens/corp.example.com.json.broken")
                .exists()
        );

        store.save(&login("corp.example.com", "one")).unwrap();
        give_away(&home.path().join("tokens"));
        assert_eq!(store.load(&[address("corp.example.com")]), None);
        let error = store.save(&login("corp.example.com", "two")).unwrap_err();
        assert!(
            error
                .to_string()
                .ends_with("belongs to another user (uid 65534)"),
            "{error}"
        );
    }

    #[test]
    fn s6_a_state_folder_that_vanished_is_made_anew() {
        let home = tempfile::tempdir().unwrap();
        let state = home.path().join("state");
        let store = on_disk(&state);
        store.save(&login("corp.example.com", "one")).unwrap();
        fs::remove_dir_all(&state).unwrap();
        store.save(&login("corp.example.com", "two")).unwrap();
        assert!(store.load(&[address("corp.example.com")]).is_some());
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }
}

/// The disk, every call written down; from one call on it fails or is dead.
#[derive(Debug, Default)]
struct Faulty {
    calls: Mutex<Vec<&'static str>>,
    fails_at: Option<usize>,
    dies_at: Option<usize>,
}

impl Faulty {
    fn fails_at(step: usize) -> Self {
        Self {
            fails_at: Some(step),
            ..Self::default()
        }
    }

    /// A killed process does nothing any more, not even clean up; a write dies half-way.
    fn dies_at(step: usize) -> Self {
        Self {
            dies_at: Some(step),
            ..Self::default()
        }
    }

    fn calls(&self) -> Vec<&'static str> {
        self.calls.lock().unwrap().clone()
    }

    fn step(&self, name: &'static str) -> io::Result<()> {
        let mut calls = self.calls.lock().unwrap();
        let step = calls.len();
        calls.push(name);
        let fails = self.fails_at == Some(step) || self.dies_at.is_some_and(|it| it <= step);
        if fails {
            Err(io::Error::from_raw_os_error(5))
        } else {
            Ok(())
        }
    }
}

impl Fs for Faulty {
    fn open_folder(&self, state: &Path, inner: Option<&str>, make: bool) -> io::Result<Folder> {
        self.step("open_folder")?;
        Disk.open_folder(state, inner, make)
    }

    fn names(&self, folder: &Folder) -> io::Result<Vec<String>> {
        self.step("names")?;
        Disk.names(folder)
    }

    fn open(&self, folder: &Folder, name: &str) -> io::Result<Opened> {
        self.step("open")?;
        Disk.open(folder, name)
    }

    fn read(&self, file: File, most: usize) -> io::Result<Zeroizing<Vec<u8>>> {
        self.step("read")?;
        Disk.read(file, most)
    }

    fn create(&self, folder: &Folder, name: &str) -> io::Result<File> {
        self.step("create")?;
        Disk.create(folder, name)
    }

    fn write(&self, file: &mut File, bytes: &[u8]) -> io::Result<()> {
        if let Err(error) = self.step("write") {
            Disk.write(file, &bytes[..bytes.len() / 2])?;
            return Err(error);
        }
        Disk.write(file, bytes)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        self.step("sync")?;
        Disk.sync(file)
    }

    fn rename(&self, folder: &Folder, from: &str, to: &str) -> io::Result<()> {
        self.step("rename")?;
        Disk.rename(folder, from, to)
    }

    fn sync_folder(&self, folder: &Folder) -> io::Result<()> {
        self.step("sync_folder")?;
        Disk.sync_folder(folder)
    }

    fn remove(&self, folder: &Folder, name: &str) -> io::Result<()> {
        self.step("remove")?;
        Disk.remove(folder, name)
    }
}

/// Saves a new login over an old one on a faulty disk; what a later life finds.
fn save_over_old(faulty: impl Fn(()) -> Faulty) -> (tempfile::TempDir, io::Result<()>, String) {
    let home = tempfile::tempdir().unwrap();
    on_disk(home.path())
        .save(&login("corp.example.com", "old"))
        .unwrap();
    let store = Store::new(home.path().to_owned(), Arc::new(faulty(())));
    let saved = store.save(&login("corp.example.com", "new"));
    let found = on_disk(home.path())
        .load(&[address("corp.example.com")])
        .unwrap();
    (home, saved, found.token.reveal().to_owned())
}

fn on_disk(state: &Path) -> Store {
    Store::new(state.to_owned(), Arc::new(Disk))
}

fn names(state: &Path) -> Vec<String> {
    let entries = fs::read_dir(state.join("tokens")).unwrap();
    let mut res: Vec<_> = entries
        .map(|it| it.unwrap().file_name().into_string().unwrap())
        .collect();
    res.sort();
    res
}

fn login(host: &str, token: &str) -> Credential {
    Credential {
        address: address(host),
        token: Token::parse(token).unwrap(),
        user: Some("alice@example.com".to_owned()),
        subject: Some("a1".to_owned()),
        since: Timestamp::from_second(1_800_000_000).unwrap(),
        until: None,
    }
}

fn address(host: &str) -> Address {
    Address {
        tls: true,
        host: parse(host),
        port: 443,
    }
}

fn parse(host: &str) -> Host {
    host.parse()
        .map_or_else(|_| Host::Name(host.to_owned()), Host::Ip)
}
