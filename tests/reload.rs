//! Editing is live: whatever way the file changes, only what changed is touched; a broken file touches nothing.

use std::{
    fs,
    os::unix::fs::symlink,
    path::Path,
    process::{Command, Output, Stdio},
    time::Duration,
};

use control::wire::{ClusterState, Code, ReloadAnswer, Status, TunnelState};
use gateway::{Gateway, Upstream};
use integration::{
    binary::binary,
    client::{Ending, read_all},
    corp::{CLUSTER, Corp, tunnel},
    eventually,
    pomd::{self, Pomd, Setup, cluster, find_tunnel, free_port},
};
use rustix::process::Signal;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, timeout},
};

const A: &str = "a.corp.test:7001";
const B: &str = "b.corp.test:7002";

async fn corp() -> Corp {
    Corp::gateway(|it| it.route(A, Upstream::Echo).route(B, Upstream::Echo)).await
}

/// A connection to an echo.
struct Line {
    stream: TcpStream,
    n: u8,
}

impl Line {
    async fn open(pomd: &Pomd, name: &str) -> Self {
        let stream = pomd.connect(name).await;
        let mut res = Self { stream, n: 0 };
        res.carries().await;
        res
    }

    /// A byte there and back.
    async fn carries(&mut self) {
        self.n = self.n.wrapping_add(1);
        self.stream.write_all(&[self.n]).await.unwrap();
        let mut back = [0];
        let read = timeout(integration::PATIENCE, self.stream.read_exact(&mut back));
        read.await.unwrap().unwrap();
        assert_eq!(back, [self.n]);
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        // A plain end would leave the tunnel open for the rest of a reply.
        let _ = self.stream.set_zero_linger();
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

/// `link` leads to `target` from one moment to the next.
fn link_anew(target: impl AsRef<Path>, link: &Path) {
    let next = link.with_file_name(".next");
    symlink(target, &next).unwrap();
    fs::rename(next, link).unwrap();
}

fn leaving(status: &Status, name: &str) -> u64 {
    let found = status.leaving.iter().find(|it| it.name == name);
    found.map_or(0, |it| it.connections)
}

fn changed<'a>(answer: &'a ReloadAnswer, name: &str) -> Vec<&'a str> {
    let found = answer.changed.iter().find(|it| it.name == name);
    let keys = found.into_iter().flat_map(|it| &it.keys);
    keys.map(String::as_str).collect()
}

/// Brings configuration `n` about in the folder of a test.
type Way = fn(&Path, n: u32, text: &str);

/// Starts with the configuration 0 that `way` makes; then `way` makes 1 and 2, and nobody tells pomd.
async fn every_change_is_seen(path: &str, way: Way) {
    let corp = corp().await;
    let config = |n: u32| {
        let new = format!("new-{n}");
        corp.config(&[("kept", A), (&new, B)])
    };
    let setup = Setup::new("").config_at(path);
    way(setup.folder(), 0, &config(0));
    let pomd = setup.start().await;
    corp.log_in(&pomd).await;
    let address = pomd.address("kept").await;
    let mut line = Line::open(&pomd, "kept").await;
    for n in [1, 2] {
        way(pomd.setup().folder(), n, &config(n));
        let status = pomd
            .wait_for(&format!("configuration {n} is in force"), |it| {
                find_tunnel(it, &format!("new-{n}")).is_some()
            })
            .await;
        assert_eq!(status.tunnels.len(), 2, "{status:#?}");
        assert_eq!(status.pomd.config.error, None);
        line.carries().await;
        assert_eq!(pomd.address("kept").await, address);
        assert!(status.leaving.is_empty());
    }
    Line::open(&pomd, "new-2").await;
    assert_eq!(corp.gateway.stats().sessions_made, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_written_in_place_is_taken() {
    every_change_is_seen("pomd.toml", |folder, _, text| {
        write(&folder.join("pomd.toml"), text);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_renamed_over_the_old_one_is_taken() {
    every_change_is_seen("pomd.toml", |folder, _, text| {
        write(&folder.join(".pomd.toml.tmp"), text);
        fs::rename(folder.join(".pomd.toml.tmp"), folder.join("pomd.toml")).unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_moved_away_and_written_anew_is_taken() {
    every_change_is_seen("pomd.toml", |folder, n, text| {
        if n > 0 {
            fs::rename(folder.join("pomd.toml"), folder.join("pomd.toml~")).unwrap();
        }
        write(&folder.join("pomd.toml"), text);
        let _ = fs::remove_file(folder.join("pomd.toml~"));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edit_of_what_a_symlink_leads_to_is_taken() {
    every_change_is_seen("pomd.toml", |folder, n, text| {
        let dotfiles = folder.join("dotfiles");
        if n == 0 {
            fs::create_dir(&dotfiles).unwrap();
            symlink("dotfiles/pomd.toml", folder.join("pomd.toml")).unwrap();
        }
        write(&dotfiles.join("pomd.toml"), text);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_farm_of_symlinks_that_leads_to_another_generation_is_taken() {
    // home-manager: each file is a link into one generation, and the link is replaced.
    every_change_is_seen("config/pomd/pomd.toml", |folder, n, text| {
        let generation = folder.join(format!("store/{n}-home-files/pomd"));
        fs::create_dir_all(&generation).unwrap();
        write(&generation.join("pomd.toml"), text);
        fs::create_dir_all(folder.join("config/pomd")).unwrap();
        let link = folder.join("config/pomd/pomd.toml");
        link_anew(generation.join("pomd.toml"), &link);
        if n > 0 {
            let old = folder.join(format!("store/{}-home-files", n - 1));
            fs::remove_dir_all(old).unwrap();
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mounted_config_map_is_taken() {
    every_change_is_seen("mount/pomd.toml", |folder, n, text| {
        let mount = folder.join("mount");
        fs::create_dir_all(mount.join(format!("..{n}"))).unwrap();
        write(&mount.join(format!("..{n}/pomd.toml")), text);
        link_anew(format!("..{n}"), &mount.join("..data"));
        if n == 0 {
            symlink("..data/pomd.toml", mount.join("pomd.toml")).unwrap();
        } else {
            fs::remove_dir_all(mount.join(format!("..{}", n - 1))).unwrap();
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_folder_swapped_for_another_is_taken() {
    every_change_is_seen("conf/pomd.toml", |folder, n, text| {
        fs::create_dir(folder.join("next")).unwrap();
        write(&folder.join("next/pomd.toml"), text);
        if n > 0 {
            fs::rename(folder.join("conf"), folder.join(format!("old-{n}"))).unwrap();
        }
        fs::rename(folder.join("next"), folder.join("conf")).unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_or_a_folder_made_later_is_taken_and_so_is_its_next_version() {
    for path in ["pomd.toml", "deep/er/pomd.toml"] {
        let corp = corp().await;
        let pomd = Setup::new("").config_at(path).start().await;
        assert!(pomd.status().await.tunnels.is_empty());
        let file = pomd.setup().config_file();
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        write(&file, &corp.config(&[("kept", A)]));
        pomd.wait_for("the file is in force", |it| it.tunnels.len() == 1)
            .await;
        corp.log_in(&pomd).await;
        let mut line = Line::open(&pomd, "kept").await;
        pomd.replace_config(&corp.config(&[("kept", A), ("new", B)]));
        pomd.wait_for("the next version is in force", |it| it.tunnels.len() == 2)
            .await;
        line.carries().await;
    }
}

/// A pomd whose file can be changed by another name of the same file, in a folder that nobody watches.
async fn unwatched(corp: &Corp) -> (Pomd, impl Fn(&str)) {
    let setup = Setup::new("").config_at("pomd.toml");
    let elsewhere = setup.folder().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    let twin = elsewhere.join("twin");
    write(&twin, &corp.config(&[("kept", A)]));
    fs::hard_link(&twin, setup.config_file()).unwrap();
    let pomd = setup.start().await;
    corp.log_in(&pomd).await;
    (pomd, move |text| write(&twin, text))
}

#[tokio::test(flavor = "multi_thread")]
async fn sighup_reads_a_file_again_that_changed_unseen() {
    let corp = corp().await;
    let (mut pomd, change) = unwatched(&corp).await;
    let mut line = Line::open(&pomd, "kept").await;
    for n in 1..=2 {
        let name = format!("new-{n}");
        change(&corp.config(&[("kept", A), (&name, B)]));
        pomd.process().signal(Signal::HUP);
        pomd.wait_for(&name, |it| find_tunnel(it, &name).is_some())
            .await;
        line.carries().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pomctl_reload_reads_it_again_and_says_what_changed() {
    let corp = corp().await;
    let (pomd, change) = unwatched(&corp).await;
    let mut line = Line::open(&pomd, "kept").await;
    let mut said = Vec::new();
    let tables: [&[(&str, &str)]; 4] = [
        &[("kept", A)],
        &[("kept", A), ("db", B)],
        &[("kept", A), ("db", A)],
        &[("db", A)],
    ];
    for tunnels in tables {
        change(&corp.config(tunnels));
        let output = pomd.pomctl(&["reload"]).await;
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        said.push(text(&output.stdout));
        line.carries().await;
    }
    let expected = [
        "Nothing changed (1 tunnel)\n",
        "1 added: db; 1 unchanged\n",
        "1 changed: db (route); 1 unchanged\n",
        "1 removed: kept; 1 unchanged\n1 connection of kept stays open until it ends\n",
    ];
    assert_eq!(said, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_of_changed_and_removed_tunnels_live_on_as_leaving() {
    let corp = corp().await;
    let pomd = corp
        .logged_in(&[("leav-kept", A), ("leav-changed", A), ("leav-gone", A)])
        .await;
    let mut kept = Line::open(&pomd, "leav-kept").await;
    let mut changing = Line::open(&pomd, "leav-changed").await;
    let mut going = Line::open(&pomd, "leav-gone").await;
    let gone_address = pomd.address("leav-gone").await;
    let answer = pomd
        .reload(&corp.config(&[("leav-kept", A), ("leav-changed", B)]))
        .await;
    assert_eq!(changed(&answer, "leav-changed"), ["route"]);
    assert_eq!(answer.removed, ["leav-gone"]);
    assert_eq!(answer.unchanged, 1);
    assert_eq!(answer.leaving.len(), 2, "{answer:?}");
    // Its listener is closed at once.
    assert!(TcpStream::connect(gone_address).await.is_err());
    for line in [&mut kept, &mut changing, &mut going] {
        line.carries().await;
    }
    let status = pomd.status().await;
    assert_eq!(leaving(&status, "leav-changed"), 1);
    assert_eq!(leaving(&status, "leav-gone"), 1);
    assert_eq!(leaving(&status, "leav-kept"), 0);
    let now_elsewhere = Line::open(&pomd, "leav-changed").await;
    assert_eq!(corp.gateway.stats().requests.last().unwrap().target, B);
    drop((changing, now_elsewhere));
    pomd.wait_for("the changed one's old connection is gone", |it| {
        leaving(it, "leav-changed") == 0 && leaving(it, "leav-gone") == 1
    })
    .await;
    going.carries().await;
    // What is left of a tunnel that is no more can be ended.
    let output = pomd.pomctl(&["down", "--now", "leav-gone"]).await;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let (_, ending) = read_all(&mut going.stream).await;
    assert_eq!(ending, Ending::Reset);
    pomd.wait_for("nothing is leaving", |it| it.leaving.is_empty())
        .await;
    kept.carries().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_tunnels_swap_their_ports_in_one_reload() {
    let corp = corp().await;
    let ports = [free_port(), free_port()];
    let config = |a: u16, b: u16| {
        corp.cluster("")
            + &tunnel("first", A, &format!("listen = {a}"))
            + &tunnel("second", B, &format!("listen = {b}"))
    };
    let pomd = Pomd::start(&config(ports[0], ports[1])).await;
    corp.log_in(&pomd).await;
    let mut lines = [
        Line::open(&pomd, "first").await,
        Line::open(&pomd, "second").await,
    ];
    for (a, b) in [(ports[1], ports[0]), (ports[0], ports[1])] {
        let answer = pomd.reload(&config(a, b)).await;
        assert_eq!(changed(&answer, "first"), ["listen"]);
        assert_eq!(changed(&answer, "second"), ["listen"]);
        let status = pomd.status().await;
        for it in &status.tunnels {
            assert_eq!(it.state, TunnelState::Up, "{it:#?}");
        }
        for (name, port, route) in [("first", a, A), ("second", b, B)] {
            assert_eq!(pomd.address(name).await.port(), port);
            Line::open(&pomd, name).await;
            assert_eq!(corp.gateway.stats().requests.last().unwrap().target, route);
        }
        for line in &mut lines {
            line.carries().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_that_moves_to_another_cluster_takes_no_token_along() {
    let corp = corp().await;
    let lab = Gateway::builder()
        .domain("a.corp.test")
        .route(A, Upstream::Echo);
    let lab = lab.start().await.unwrap();
    let pomd = corp.logged_in(&[("moving", A), ("staying", B)]).await;
    let mut before = Line::open(&pomd, "moving").await;
    let lab_ca = pomd.setup().folder().join("lab-ca.pem");
    write(&lab_ca, &lab.ca_pem());
    let moved = format!(
        "{}[cluster.lab]\nhosts = [\"a.corp.test\"]\nurl = \"https://a.corp.test\"\nconnect = \"{}\"\n\
         ca_file = {lab_ca:?}\nbrowser = {}\n",
        corp.config(&[("moving", A), ("staying", B)]),
        lab.address(),
        corp.links.key(),
    );
    let answer = pomd.reload(&moved).await;
    assert_eq!(changed(&answer, "moving"), ["cluster"]);
    let status = pomd.status().await;
    assert_eq!(cluster(&status, "lab").state, ClusterState::LoginNeeded);
    assert_eq!(cluster(&status, CLUSTER).state, ClusterState::LoggedIn);
    // Somebody connects, and waits for a login there.
    let mut stream = pomd.connect("moving").await;
    stream.write_all(b"x").await.unwrap();
    let link = corp.links.nth(1).await;
    assert_eq!(lab.stats().tokens_by_host.len(), 0, "{:?}", lab.stats());
    assert_eq!(lab.stats().connects, 0);
    let signed_in = lab.browser().unwrap().visit(&link).await.unwrap();
    assert_eq!(signed_in.status, 200, "{signed_in:?}");
    let mut back = [0];
    timeout(integration::PATIENCE, stream.read_exact(&mut back))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(&back, b"x");
    // Nor does the lab's token go to corp.
    let tokens = corp.gateway.stats().tokens_by_host;
    Line::open(&pomd, "staying").await;
    let mut expected = tokens.clone();
    *expected.entry("b.corp.test".to_owned()).or_default() += 1;
    assert_eq!(corp.gateway.stats().tokens_by_host, expected);
    assert_eq!(corp.gateway.stats().refused, 0);
    assert_eq!(lab.stats().refused, 0);
    before.carries().await;
    // And back again: its first cluster is logged in still.
    pomd.reload(&corp.config(&[("moving", A), ("staying", B)]))
        .await;
    Line::open(&pomd, "moving").await;
    assert_eq!(corp.gateway.stats().sessions_made, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_cluster_is_dialled_and_trusted_as_it_says_now() {
    let corp = corp().await;
    let pomd = corp.logged_in(&[("db", A)]).await;
    let mut before = Line::open(&pomd, "db").await;
    let good = corp.config(&[("db", A)]);
    let dead = format!("connect = \"127.0.0.1:{}\"", free_port());
    let elsewhere = good.replace(&format!("connect = \"{}\"", corp.address()), &dead);
    let distrusted = good.replace("ca_file", "# ca_file");
    for (config, key, code) in [
        (&elsewhere, "connect", Code::Tcp),
        (&distrusted, "ca_file", Code::Tls),
    ] {
        let answer = pomd.reload(config).await;
        assert_eq!(changed(&answer, "db"), [key]);
        let error = pomd.client().up("db").await.unwrap_err();
        let control::client::ClientError::Api(error) = error else {
            panic!("{error}")
        };
        assert_eq!(error.code, code, "{error:?}");
        before.carries().await;
        let answer = pomd.reload(&good).await;
        assert_eq!(changed(&answer, "db"), [key]);
        pomd.client().up("db").await.unwrap();
        Line::open(&pomd, "db").await;
        before.carries().await;
    }
    let status = pomd
        .wait_for("only the first one is leaving", |it| leaving(it, "db") == 1)
        .await;
    assert_eq!(cluster(&status, CLUSTER).state, ClusterState::LoggedIn);
    assert_eq!(corp.gateway.stats().sessions_made, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_more_in_a_cluster_without_url_leaves_its_session_alone() {
    let corp = corp().await;
    let without_url = |tunnels| corp.config(tunnels).replace("url = ", "# url = ");
    let pomd = Pomd::start(&without_url(&[("m", A)])).await;
    corp.log_in(&pomd).await;
    let mut line = Line::open(&pomd, "m").await;
    let before = pomd.status().await;
    // Its name comes first, and with it the address where a login would be made.
    let answer = pomd.reload(&without_url(&[("m", A), ("a-first", B)])).await;
    assert_eq!(answer.added, ["a-first"]);
    assert_eq!(answer.unchanged, 1);
    assert!(answer.leaving.is_empty(), "{answer:?}");
    let after = pomd.status().await;
    let login = |it: &Status| {
        let it = cluster(it, CLUSTER);
        (it.state, it.since, it.user.clone())
    };
    assert_eq!(login(&after), login(&before));
    line.carries().await;
    Line::open(&pomd, "a-first").await;
    assert_eq!(corp.gateway.stats().sessions_made, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_persons_said_outlives_unrelated_reloads_and_no_restart() {
    let corp = corp().await;
    let config = |more: &str| {
        corp.cluster("")
            + &tunnel("said-auto", A, "")
            + &tunnel("said-manual", B, "start = \"manual\"")
            + more
    };
    let mut pomd = Pomd::start(&config("")).await;
    corp.log_in(&pomd).await;
    let state = |it: &Status, name| find_tunnel(it, name).unwrap().state;
    assert_eq!(
        state(&pomd.status().await, "said-manual"),
        TunnelState::Down
    );
    pomd.client().down("said-auto", false).await.unwrap();
    pomd.client().up("said-manual").await.unwrap();
    pomd.reload(&config(&tunnel("said-more", A, ""))).await;
    let status = pomd.status().await;
    assert_eq!(state(&status, "said-auto"), TunnelState::Down);
    assert_eq!(state(&status, "said-manual"), TunnelState::Up);
    Line::open(&pomd, "said-manual").await;
    pomd.restart().await;
    let status = pomd.status().await;
    assert_eq!(state(&status, "said-auto"), TunnelState::Up);
    assert_eq!(state(&status, "said-manual"), TunnelState::Down);
}

/// Runs `pomd check` on the file of this pomd.
async fn check(pomd: &Pomd) -> Output {
    let mut command = pomd.setup().command(&binary("pomd"));
    command.arg("check");
    pomd::run(command, integration::PATIENCE).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_file_changes_nothing_and_says_where_and_a_mended_one_is_taken() {
    let corp = corp().await;
    let pomd = corp.logged_in(&[("kept", A)]).await;
    let mut line = Line::open(&pomd, "kept").await;
    let file = pomd.setup().config_file();
    let good = corp.config(&[("kept", A)]);
    let typo = good.replace("route", "rout");
    let cut = good[..good.len() - 12].to_owned();
    let nul = good.replace("[tunnel", "\0[tunnel");
    let cases: [(&str, &dyn Fn(), &str, i32); 9] = [
        ("a typo", &|| write(&file, &typo), "pomd.toml:", 2),
        ("half of it", &|| write(&file, &cut), "pomd.toml:", 2),
        ("a zero byte", &|| write(&file, &nul), "pomd.toml:", 2),
        ("nothing", &|| write(&file, ""), "pomd.toml is empty", 0),
        ("a comment", &|| write(&file, "# soon\n"), "is empty", 0),
        ("no file", &|| fs::remove_file(&file).unwrap(), "is gone", 0),
        (
            "a folder",
            &|| fs::create_dir(&file).unwrap(),
            "is a folder",
            2,
        ),
        ("a pipe", &|| make_pipe(&file), "is not a file", 2),
        (
            "100 MiB",
            &|| {
                let file = fs::File::create(&file).unwrap();
                file.set_len(100 << 20).unwrap();
            },
            "larger than 1 MiB",
            2,
        ),
    ];
    for (n, (what, break_it, said, exit)) in cases.into_iter().enumerate() {
        if what == "a folder" || what == "a pipe" {
            fs::remove_file(&file).unwrap();
        }
        break_it();
        let status = pomd
            .wait_for(what, |it| {
                let error = it.pomd.config.error.as_ref();
                error.is_some_and(|it| it.message.contains(said) && it.report.contains(said))
            })
            .await;
        assert!(!status.healthy);
        assert!(find_tunnel(&status, "kept").is_some());
        let output = pomd.pomctl(&["reload"]).await;
        assert_eq!(output.status.code(), Some(2), "{what}: {output:?}");
        assert!(text(&output.stderr).contains(said), "{what}: {output:?}");
        let output = check(&pomd).await;
        assert_eq!(output.status.code(), Some(exit), "{what}: {output:?}");
        line.carries().await;
        if what == "a folder" {
            fs::remove_dir(&file).unwrap();
        }
        // Mended, and a little more.
        let name = format!("mended-{n}");
        pomd.replace_config(&corp.config(&[("kept", A), (&name, B)]));
        let status = pomd
            .wait_for(&name, |it| find_tunnel(it, &name).is_some())
            .await;
        assert_eq!(status.pomd.config.error, None, "{what}");
        assert_eq!(check(&pomd).await.status.code(), Some(0));
        line.carries().await;
    }
}

fn make_pipe(path: &Path) {
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mkfifoat(rustix::fs::CWD, path, mode).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pomd_that_finds_a_broken_file_at_its_start_runs_and_takes_the_mended_one() {
    let corp = corp().await;
    let pomd = Pomd::start("[tunnel.db]\nroute = 7\n").await;
    let status = pomd.status().await;
    assert!(status.tunnels.is_empty());
    assert_eq!(status.pomd.config.error.unwrap().count, 1);
    let output = pomd.pomctl(&["status"]).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    pomd.replace_config(&corp.config(&[("db", A)]));
    pomd.wait_for("the mended file is in force", |it| it.tunnels.len() == 1)
        .await;
    corp.log_in(&pomd).await;
    Line::open(&pomd, "db").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_hundred_saves_in_a_second_the_last_one_wins_in_few_reads() {
    let corp = corp().await;
    let pomd = corp.logged_in(&[("kept", A)]).await;
    let mut line = Line::open(&pomd, "kept").await;
    let config = |n: u32| corp.config(&[("kept", A), (&format!("save-{n}"), B)]);
    let before = pomd.words().matches("configuration read").count();
    let mut beat = tokio::time::interval(Duration::from_millis(10));
    for n in 1..=100 {
        beat.tick().await;
        match n % 2 {
            0 => write(&pomd.setup().config_file(), &config(n)),
            _ => pomd.replace_config(&config(n)),
        }
    }
    let status = pomd
        .wait_for("the last save is in force", |it| {
            find_tunnel(it, "save-100").is_some()
        })
        .await;
    assert_eq!(status.tunnels.len(), 2);
    assert_eq!(status.pomd.config.error, None);
    line.carries().await;
    let reads = pomd.words().matches("configuration read").count() - before;
    assert!(reads <= 8, "{reads} reads: {}", pomd.words());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_during_a_login_leaves_link_and_waiting_connections_alone() {
    let corp = corp().await;
    let pomd = corp.pomd(&[("db", A)]).await;
    let mut stream = pomd.connect("db").await;
    stream.write_all(b"x").await.unwrap();
    let link = corp.links.nth(1).await;
    let answer = pomd.reload(&corp.config(&[("db", A), ("more", B)])).await;
    assert_eq!(answer.added, ["more"]);
    // And a tunnel whose connection waits is taken away.
    let answer = pomd.reload(&corp.config(&[("more", B)])).await;
    assert_eq!(answer.leaving.len(), 1, "{answer:?}");
    let status = pomd.status().await;
    assert_eq!(cluster(&status, CLUSTER).state, ClusterState::LoginRunning);
    let page = corp.browser.visit(&link).await.unwrap();
    assert_eq!(page.status, 200, "{page:?}");
    let mut back = [0];
    timeout(integration::PATIENCE, stream.read_exact(&mut back))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(&back, b"x");
    Line::open(&pomd, "more").await;
    assert_eq!(corp.links.all().len(), 1);
    assert_eq!(corp.gateway.stats().sessions_made, 1);
}

/// A program that holds a port until this is dropped.
struct Holder {
    child: std::process::Child,
}

impl Holder {
    async fn new(port: u16) -> Self {
        let mut command = Command::new(binary("stranger"));
        command.args(["hold", &format!("127.0.0.1:{port}")]);
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut res = Self {
            child: child.unwrap(),
        };
        let stdout = res.child.stdout.take().unwrap();
        let mut stdout = tokio::process::ChildStdout::from_std(stdout).unwrap();
        let mut said = [0; 4];
        stdout.read_exact(&mut said).await.unwrap();
        assert_eq!(&said, b"held");
        res
    }

    fn let_go(mut self) {
        drop(self.child.stdin.take());
        self.child.wait().unwrap();
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The promise is a second; as much again is for a busy machine.
const SOON: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_port_names_its_holder_and_is_taken_when_it_is_free() {
    let corp = corp().await;
    let port = free_port();
    let holder = Holder::new(port).await;
    let pid = holder.child.id();
    let config = corp.config(&[("other", B)]) + &tunnel("db", A, &format!("listen = {port}"));
    let pomd = Pomd::start(&config).await;
    corp.log_in(&pomd).await;
    let db = pomd.wait_for_tunnel("db", TunnelState::Busy).await;
    let reason = db.reason.unwrap();
    assert_eq!(reason.code, Code::AddressInUse);
    assert!(
        reason.message.contains(&format!("stranger (pid {pid})")),
        "{reason:?}"
    );
    let held_by = reason.holder.unwrap();
    assert_eq!(held_by.pid, Some(pid));
    assert_eq!(held_by.program.as_deref(), Some("stranger"));
    assert_eq!(db.listen[0], format!("127.0.0.1:{port}"));
    let output = pomd.pomctl(&["up", "db"]).await;
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    for words in [
        format!("port {port} is in use, so db can't listen yet"),
        format!("stranger (pid {pid})"),
        format!("listen = {}", port + 1),
    ] {
        assert!(said.contains(&words), "{said}");
    }
    let mut other = Line::open(&pomd, "other").await;
    holder.let_go();
    let freed = Instant::now();
    pomd.wait_for_tunnel("db", TunnelState::Up).await;
    assert!(freed.elapsed() < SOON, "{:?}", freed.elapsed());
    Line::open(&pomd, "db").await;
    other.carries().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chosen_port_is_kept_and_waited_for_if_somebody_takes_it() {
    let corp = corp().await;
    let mut pomd = corp.logged_in(&[("chosen", A), ("chosen-too", B)]).await;
    let addresses = [
        pomd.address("chosen").await,
        pomd.address("chosen-too").await,
    ];
    assert!((20_000..30_000).contains(&addresses[0].port()));
    // A reload that takes it away and brings it back, a restart, a kill.
    pomd.reload(&corp.config(&[("chosen-too", B)])).await;
    pomd.reload(&corp.config(&[("chosen", A), ("chosen-too", B)]))
        .await;
    assert_eq!(pomd.address("chosen").await, addresses[0]);
    pomd.restart().await;
    assert_eq!(pomd.address("chosen").await, addresses[0]);
    pomd.kill_and_restart().await;
    assert_eq!(pomd.address("chosen").await, addresses[0]);
    assert_eq!(pomd.address("chosen-too").await, addresses[1]);
    Line::open(&pomd, "chosen").await;
    assert!(pomd.stop().await.success());
    let holder = Holder::new(addresses[0].port()).await;
    pomd.start_again().await;
    let busy = pomd.wait_for_tunnel("chosen", TunnelState::Busy).await;
    assert_eq!(busy.listen[0], addresses[0].to_string());
    let held_by = busy.reason.unwrap().holder.unwrap();
    assert_eq!(held_by.pid, Some(holder.child.id()));
    Line::open(&pomd, "chosen-too").await;
    holder.let_go();
    let freed = Instant::now();
    pomd.wait_for_tunnel("chosen", TunnelState::Up).await;
    assert!(freed.elapsed() < SOON, "{:?}", freed.elapsed());
    assert_eq!(pomd.address("chosen").await, addresses[0]);
    Line::open(&pomd, "chosen").await;
    assert_eq!(corp.gateway.stats().sessions_made, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn down_closes_the_door_and_now_ends_who_is_inside() {
    let corp = corp().await;
    let pomd = corp.logged_in(&[("updown", A), ("other", B)]).await;
    let address = pomd.address("updown").await;
    let mut inside = Line::open(&pomd, "updown").await;
    let mut other = Line::open(&pomd, "other").await;
    for _ in 0..20 {
        let answer = pomd.client().down("updown", false).await.unwrap();
        assert_eq!(answer.still_open, 1);
        assert_eq!(answer.tunnel.state, TunnelState::Down);
        assert!(TcpStream::connect(address).await.is_err());
        let answer = pomd.client().up("updown").await.unwrap();
        assert_eq!(answer.tunnel.state, TunnelState::Up);
        assert_eq!(pomd.address("updown").await, address);
    }
    inside.carries().await;
    let mut second = Line::open(&pomd, "updown").await;
    let answer = pomd.client().down("updown", true).await.unwrap();
    assert_eq!(answer.still_open, 0);
    for line in [&mut inside, &mut second] {
        let (_, ending) = read_all(&mut line.stream).await;
        assert_eq!(ending, Ending::Reset);
    }
    other.carries().await;
    pomd.client().up("updown").await.unwrap();
    let mut again = Line::open(&pomd, "updown").await;
    // What was counted is not forgotten: two bytes of the first, one of each other.
    let status = pomd.status().await;
    let tunnel = find_tunnel(&status, "updown").unwrap();
    let counted = tunnel.connections;
    assert_eq!((counted.open, counted.total), (1, 3), "{counted:?}");
    assert_eq!((tunnel.bytes.sent, tunnel.bytes.received), (4, 4));
    again.carries().await;
    corp.gateway.wait_for(|it| it.open_tunnels == 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn other_settings_are_taken_and_connections_live_on() {
    let corp = corp().await;
    let pomd = corp.logged_in(&[("db", A)]).await;
    let address = pomd.address("db").await;
    let mut line = Line::open(&pomd, "db").await;
    let settings = "[settings]\nread_ahead = \"1 MiB\"\nallow_users = [\"nobody-of-that-name\"]\n";
    let config = corp.config(&[("db", A)]);
    for (config, told) in [
        (format!("{config}{settings}"), true),
        // Unrelated, after that: the warning stands.
        (format!("{config}{settings}{}", tunnel("more", B, "")), true),
        (config, false),
    ] {
        let answer = pomd.reload(&config).await;
        assert_eq!(answer.changed, [], "{answer:?}");
        line.carries().await;
        assert_eq!(pomd.address("db").await, address);
        Line::open(&pomd, "db").await;
        let warnings = pomd.status().await.pomd.warnings;
        let is_told = warnings.iter().any(|it| it.contains("nobody-of-that-name"));
        assert_eq!(is_told, told, "{warnings:?}");
    }
    eventually("only one connection is left", async || {
        let status = pomd.status().await;
        (leaving(&status, "db") == 1).then_some(())
    })
    .await;
}
