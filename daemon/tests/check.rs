//! What `pomd check` says of the files that a configuration names, and of a configuration that can be used but perhaps
//! not as it is meant.

#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::{
    fs,
    os::unix::fs::{PermissionsExt, chown, symlink},
    path::{Path, PathBuf},
    process::Command,
};

use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use tempfile::TempDir;

struct Home {
    dir: TempDir,
    config: PathBuf,
}

impl Home {
    fn new(config: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config_file = dir.path().join("pomd.toml");
        mode(dir.path(), 0o700);
        fs::write(&config_file, config).unwrap();
        Self {
            dir,
            config: config_file,
        }
    }

    /// With a cluster that has `keys`, and one tunnel in it.
    fn with(keys: &str) -> Self {
        let tunnel = "[tunnel.a]\nroute = \"a.corp.example.com:22\"\n";
        let cluster = "[cluster.corp]\nhosts = [\"*.corp.example.com\"]\n";
        Self::new(&format!(
            "{tunnel}\n{cluster}url = \"https://corp.example.com\"\n{keys}\n"
        ))
    }

    fn file(&self, name: &str, contents: impl AsRef<[u8]>, with_mode: u32) {
        let path = self.dir.path().join(name);
        fs::write(&path, contents).unwrap();
        mode(&path, with_mode);
    }

    /// The exit code, and all that is said.
    fn check(&self) -> (Option<i32>, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pomd"));
        command.env_clear().env("HOME", self.dir.path());
        let output = command.arg("check").arg(&self.config).output().unwrap();
        let said = [output.stderr, output.stdout].concat();
        (output.status.code(), String::from_utf8(said).unwrap())
    }

    fn warns(&self, parts: &[&str]) {
        let (code, said) = self.check();
        assert_eq!(code, Some(0), "{said}");
        for part in parts.iter().chain(&["is usable, 1 warning: 1 tunnel\n"]) {
            assert!(said.contains(part), "{part} is not in:\n{said}");
        }
    }

    fn is_good(&self) {
        let said = self.check();
        let good = "~/pomd.toml is good: 1 tunnel\n";
        assert_eq!(said, (Some(0), good.to_owned()));
    }
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn pair(until: i32) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(until, 3, 4);
    let certificate = params.self_signed(&key).unwrap();
    (certificate.pem(), key.serialize_pem())
}

#[test]
fn c8_check_names_the_key_of_each_file_that_cannot_be_used() {
    let home = Home::with("ca_file = \"ca.pem\"");
    home.warns(&[
        "warning: cannot read ca_file",
        "--> ~/pomd.toml:7:11",
        "no such file",
    ]);
    let (good, key) = pair(2100);
    for (contents, part) in [
        (String::new(), "it is empty"),
        ("x".to_owned(), "it holds no certificate in PEM"),
        (key, "but a private key"),
        (pair(2021).0, "expired on 2021-03-04"),
        (
            format!("-----BEGIN CERTIFICATE-----\nAA\n{good}"),
            "line 1 is damaged",
        ),
    ] {
        home.file("ca.pem", contents, 0o644);
        home.warns(&[part, "7 | ca_file = \"ca.pem\"", "^^^^^^^^"]);
    }
    for text in [
        good.clone(),
        format!("\u{feff}# Corp\r\n{}", good.replace('\n', "  \r\n")),
    ] {
        home.file("ca.pem", text, 0o644);
        home.is_good();
    }
    let utf16 = format!("\u{feff}{good}")
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect::<Vec<_>>();
    home.file("ca.pem", utf16, 0o644);
    home.is_good();
}

#[test]
fn c8_check_tells_whether_key_and_certificate_belong_together() {
    let home = Home::with("client_cert = \"me.pem\"\nclient_key = \"me.key\"");
    let ((certificate, key), (_, other)) = (pair(2100), pair(2100));
    home.file("me.pem", &certificate, 0o644);
    home.file("me.key", &other, 0o600);
    home.warns(&["is not its key", "7 | client_cert = "]);
    let locked =
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    for (contents, part) in [
        (
            certificate.as_str(),
            "are client_cert and client_key exchanged?",
        ),
        (locked, "passphrase"),
        ("", "it is empty"),
    ] {
        home.file("me.key", contents, 0o600);
        home.warns(&[part, "8 | client_key = "]);
    }
    home.file("me.key", key.replace('\n', "\r\n"), 0o600);
    home.is_good();
    home.file("me.key", &key, 0o640);
    home.warns(&["others can read it (mode 0640): chmod 600 ~/me.key"]);
}

#[test]
fn c8_a_second_empty_line_in_the_password_does_no_harm() {
    let keys =
        "forward_proxy = \"http://127.0.0.1:3128\"\nforward_proxy_auth = { file = \"password\" }";
    let home = Home::with(keys);
    for text in ["me:canary", "\u{feff}me:canary\r\n\r\n", "me:canary\n \n"] {
        home.file("password", text, 0o600);
        home.is_good();
    }
    home.file("password", "canary\n", 0o600);
    home.warns(&["does not hold user:password", "8 | forward_proxy_auth"]);
    assert!(!home.check().1.contains("canary"));
}

#[test]
fn a27_files_that_others_may_change_are_told_with_the_command_that_mends_it() {
    let home = Home::with("ca_file = \"certs/ca.pem\"");
    let folder = home.dir.path().join("certs");
    fs::create_dir(&folder).unwrap();
    home.file("certs/ca.pem", pair(2100).0, 0o644);
    home.is_good();
    mode(&folder, 0o777);
    home.warns(&["everybody may write the folder ~/certs (yours, mode 0777)"]);
    home.warns(&["chmod go-w ~/certs", "7 | ca_file"]);
    mode(&folder, 0o775);
    home.warns(&["the group of the folder ~/certs may write it"]);
    mode(&folder, 0o755);
    home.file("certs/ca.pem", pair(2100).0, 0o666);
    home.warns(&["everybody may write ~/certs/ca.pem"]);
    mode(&folder.join("ca.pem"), 0o644);
    // As Kubernetes mounts it.
    fs::create_dir(folder.join("..2026")).unwrap();
    fs::rename(folder.join("ca.pem"), folder.join("..2026/ca.pem")).unwrap();
    symlink("..2026", folder.join("..data")).unwrap();
    symlink("..data/ca.pem", folder.join("ca.pem")).unwrap();
    home.is_good();
}

#[test]
fn a29_the_config_is_refused_for_any_folder_that_others_may_change() {
    let home = Home::new("");
    let place = home.dir.path().join("a/b");
    fs::create_dir_all(&place).unwrap();
    fs::rename(&home.config, place.join("real.toml")).unwrap();
    symlink(place.join("real.toml"), &home.config).unwrap();
    let refused = |part: &str| {
        let (code, said) = home.check();
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains(part), "{said}");
    };
    assert_eq!(home.check().0, Some(0));
    mode(&home.dir.path().join("a"), 0o777);
    refused(
        "everybody may write the folder ~/a (yours, mode 0777), and it can name commands: chmod go-w ~/a\n",
    );
    mode(&home.dir.path().join("a"), 0o755);
    mode(home.dir.path(), 0o777);
    refused("everybody may write the folder ");
    mode(home.dir.path(), 0o700);
    assert_eq!(home.check().0, Some(0));
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped the rest: only root can give folders away");
        return;
    }
    chown(home.dir.path().join("a"), Some(65_533), None).unwrap();
    refused("the folder ~/a belongs to another user (uid 65533, mode 0755)");
}

#[test]
fn allow_users_that_name_nobody_are_told() {
    let home = Home::with("[settings]\nallow_users = [\"root\", 1001, \"no-such-user\"]");
    home.warns(&[
        "no user of this machine is called no-such-user",
        "8 | allow_users",
    ]);
}

#[test]
fn a26_plain_http_to_another_machine_is_told() {
    let home = Home::new("[tunnel.a]\nroute = \"tcp+http://a.example.com:22\"\n");
    home.warns(&["http://a.example.com is reached in clear text", "2 | route"]);
    let home = Home::new("[tunnel.a]\nroute = \"tcp+http://127.0.0.1:22\"\n");
    home.is_good();
}

#[test]
fn a_file_without_a_tunnel_is_told_what_to_write() {
    let (code, said) = Home::new("").check();
    assert_eq!(code, Some(0));
    assert!(
        said.contains("hint: a tunnel is three lines:\n  [tunnel.ssh-prod]\n"),
        "{said}"
    );
}
