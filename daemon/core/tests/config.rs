//! Good and bad files and what becomes of them: `config/good/NAME.toml` is read as `NAME.out` says, `config/bad/NAME.toml`
//! is refused in the words of its `NAME.out`. `UPDATE=1` writes the answers anew; read the difference before you keep it.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use pomd_core::config::{
    ClusterSpec, Config, ForwardProxy, Machine, Problems, Settings, TokenSpec, TunnelSpec,
};

#[test]
fn good_files_are_read_as_they_mean() {
    compare("good", |bytes| {
        let machine = Machine { first_port: 1024 };
        let read = Config::read_for(&machine, bytes, Path::new("/home/alice/.config/pomd"));
        let (config, mut warnings) =
            read.unwrap_or_else(|problems| panic!("{}", report(&problems, bytes)));
        let mut res = rendered(&config);
        if warnings.count() > 0 {
            let text = String::from_utf8_lossy(bytes);
            res += &warnings.render(&text, "~/.config/pomd/pomd.toml", false);
            res += "\n";
            for it in warnings.standing() {
                res += &format!("standing: {it}\n");
            }
        }
        res
    });
}

#[test]
fn bad_files_are_refused_with_every_problem_and_what_to_write_instead() {
    compare("bad", |bytes| {
        match Config::read(bytes, Path::new("/home/alice/.config/pomd")) {
            Ok(config) => panic!("accepted: {config:#?}"),
            Err(problems) => format!("{problems}\n\n{}\n", report(&problems, bytes)),
        }
    });
}

#[test]
fn no_secret_of_a_file_is_in_its_report() {
    for path in files("bad") {
        let bytes = fs::read(&path).unwrap();
        let Err(problems) = Config::read(&bytes, Path::new("/")) else {
            continue;
        };
        // The files write SECRET wherever a secret could stand.
        let shown = format!("{problems}{}", report(&problems, &bytes));
        assert!(!shown.contains("SECRET"), "{}: {shown}", path.display());
        for problem in problems.iter() {
            assert!(!problem.title().contains("SECRET"), "{}", path.display());
        }
    }
}

#[test]
fn what_the_readme_gives_to_copy_is_good() {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../README.md");
    let readme = fs::read_to_string(readme).unwrap();
    let blocks = readme.split("\n```toml\n").skip(1);
    let blocks: Vec<&str> = blocks.map(|it| it.split("\n```").next().unwrap()).collect();
    assert!(blocks.len() > 1);
    for text in blocks.iter().copied().chain([&*blocks.join("\n")]) {
        let read = Config::read(text.as_bytes(), Path::new("/home/alice/.config/pomd"));
        let config = read.unwrap_or_else(|it| panic!("{}", report(&it, text.as_bytes())));
        assert!(!config.tunnels.is_empty());
    }
}

/// A line for each key that has a say. Without `..`: a new field must be thought of here.
fn rendered(config: &Config) -> String {
    let list = |all: &[String]| all.join(" ");
    let mut res = String::new();
    let Config {
        tunnels,
        clusters,
        settings,
    } = config;
    for (name, tunnel) in tunnels {
        let TunnelSpec {
            route,
            cluster,
            listen,
            start,
            ssh,
            expose,
            browser_guard,
            allow_hosts,
        } = tunnel;
        res += &format!(
            "tunnel {name}\n    route {} at {}\n",
            route.authority, route.address
        );
        res += &format!("    cluster {cluster}\n    listen {listen:?}\n    start {start:?}\n");
        res += &format!("    ssh {ssh}\n    expose {expose}\n");
        // Most have the usual one: only the others say so.
        if !browser_guard || !allow_hosts.is_empty() {
            let hosts: Vec<String> = allow_hosts.iter().map(ToString::to_string).collect();
            res += &format!(
                "    browser_guard {browser_guard}, allow_hosts {}\n",
                list(&hosts)
            );
        }
    }
    for (name, cluster) in clusters {
        let ClusterSpec {
            hosts,
            login_at,
            ports,
            connect,
            server_name,
            ca_file,
            client_identity,
            forward_proxy,
            forward_proxy_auth,
            browser,
            token,
            insecure_skip_verify,
            named,
        } = cluster;
        assert!(!login_at.is_empty(), "{name}");
        assert!(login_at.iter().all(|it| ports.contains(&it.port)), "{name}");
        let hosts: Vec<String> = hosts.iter().map(ToString::to_string).collect();
        let login_at: Vec<String> = login_at.iter().map(ToString::to_string).collect();
        res += &format!(
            "cluster {name}{}\n",
            if *named { "" } else { " (of a host)" }
        );
        res += &format!(
            "    hosts {}\n    login at {}\n",
            list(&hosts),
            list(&login_at)
        );
        res += &format!("    connect {connect:?}\n    server_name {server_name:?}\n");
        res += &format!("    ca_file {ca_file:?}\n    client {client_identity:?}\n");
        // Most have none: only the others say so.
        if *forward_proxy != ForwardProxy::Environment || forward_proxy_auth.is_some() {
            res += &format!("    forward_proxy {forward_proxy:?}\n");
            res += &format!("    forward_proxy_auth {forward_proxy_auth:?}\n");
        }
        if *token != TokenSpec::default() {
            res += &format!("    token {:?}, kind {:?}\n", token.source, token.kind);
        }
        res +=
            &format!("    browser {browser:?}\n    insecure_skip_verify {insecure_skip_verify}\n");
    }
    let Settings {
        read_ahead,
        allow_users,
    } = settings;
    res + &format!("settings\n    read_ahead {read_ahead}\n    allow_users {allow_users:?}\n")
}

fn report(problems: &Problems, bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    problems.render(&text, "~/.config/pomd/pomd.toml", false)
}

fn compare(kind: &str, answer: impl Fn(&[u8]) -> String) {
    let update = env::var_os("UPDATE").is_some();
    let mut wrong = String::new();
    let files = files(kind);
    assert!(files.len() >= 25, "only {} files in {kind}", files.len());
    for path in files {
        let got = answer(&fs::read(&path).unwrap());
        let out = path.with_extension("out");
        if update {
            fs::write(&out, got).unwrap();
            continue;
        }
        let expected = fs::read_to_string(&out).unwrap_or_default();
        if got != expected {
            let name = path.file_name().unwrap().display();
            wrong += &format!("--- {name}\n{}", difference(&expected, &got));
        }
    }
    assert!(
        wrong.is_empty(),
        "answers differ (- expected, + got):\n{wrong}"
    );
}

/// The lines from the first that differs to the last.
fn difference(expected: &str, got: &str) -> String {
    let (old, new): (Vec<&str>, Vec<&str>) = (expected.lines().collect(), got.lines().collect());
    let same = |it: &(&&str, &&str)| it.0 == it.1;
    let first = old.iter().zip(&new).take_while(same).count();
    let most = old.len().min(new.len()) - first;
    let last = old
        .iter()
        .rev()
        .zip(new.iter().rev())
        .take(most)
        .take_while(same)
        .count();
    let lines = |sign, all: &[&str]| {
        let part = &all[first..all.len() - last];
        part.iter()
            .map(|it| format!("{sign} {it}\n"))
            .collect::<String>()
    };
    lines('-', &old) + &lines('+', &new)
}

fn files(kind: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/config")
        .join(kind);
    let mut res: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap()
        .map(|it| it.unwrap().path())
        .filter(|it| it.extension().is_some_and(|it| it == "toml"))
        .collect();
    res.sort();
    res
}
