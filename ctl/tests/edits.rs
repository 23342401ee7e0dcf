//! add, remove, enable, disable and edit, on a real file.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
};

use control::wire::TunnelState;
use serde_json::json;
use snapbox::{assert_data_eq, str};

use crate::{
    fake::{Fake, Reply},
    runner::World,
    samples::{corp, grafana, ssh_prod, status},
};

const FILE: &str = "\
# mine
[tunnel.ssh-prod]   # the jump host
route  = \"ssh-prod.corp.example.com:22\"
listen = 2202       # kept since 2024

# the dashboards
[tunnel.grafana]
route  = \"grafana.corp.example.com:443\"
";

fn with_file() -> World {
    let world = World::new();
    fs::write(world.config(), FILE).unwrap();
    world
}

/// A pomd that runs on the world's file.
fn with_pomd(world: &World, reloaded: serde_json::Value) -> Fake {
    let mut shown = status(
        vec![ssh_prod(TunnelState::Up), grafana(TunnelState::Up)],
        vec![corp()],
    );
    shown.pomd.config.path = world.config().display().to_string();
    let fake = Fake::start(&world.socket(), &shown);
    fake.on("POST /v1/reload", [Reply::ok(reloaded)]);
    fake
}

#[test]
fn g2_the_first_tunnel_makes_folder_and_file_and_the_second_names_the_shared_login() {
    let world = World::new();
    fs::remove_dir_all(world.path("home/.config")).unwrap();
    let add = ["add", "ssh-prod", "ssh-prod.corp.example.com:22"];
    let text = world.transcript(&[&add[..], &["--listen", "2202"]].concat())
        + &world.transcript(&["add", "db", "db.corp.example.com:5432"]);
    assert_data_eq!(
        text,
        str![[r#"
$ pomctl add ssh-prod ssh-prod.corp.example.com:22 --listen 2202  # exit 0
Added ssh-prod: localhost:2202 → ssh-prod.corp.example.com:22
    pomctl up ssh-prod
$ pomctl add db db.corp.example.com:5432  # exit 0
Added db: a free port → db.corp.example.com:5432
    pomctl up db
| hint: if this is the same Pomerium as that of ssh-prod.corp.example.com, one login can serve both. Put into pomd.toml:
|     [cluster.corp]
|     hosts = ["*.corp.example.com"]

"#]]
    );
    assert_eq!(
        fs::read_to_string(world.config()).unwrap(),
        "[tunnel.ssh-prod]\nroute  = \"ssh-prod.corp.example.com:22\"\nlisten = 2202\n\n\
         [tunnel.db]\nroute  = \"db.corp.example.com:5432\"\n"
    );
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&world.config()), 0o600);
    assert_eq!(mode(world.config().parent().unwrap()), 0o700);
}

#[test]
fn g12_a_tunnel_is_removed_while_it_is_in_use() {
    let world = with_file();
    let leaving = json!({ "name": "ssh-prod", "connections": 2 });
    let _fake = with_pomd(
        &world,
        json!({
            "added": [], "changed": [], "removed": ["ssh-prod"], "unchanged": 1, "leaving": [leaving] }),
    );
    assert_data_eq!(
        world.transcript(&["remove", "ssh-prod"]),
        str![[r#"
$ pomctl remove ssh-prod  # exit 0
Removed ssh-prod. 2 connections stay open until they end (pomctl down --now ssh-prod ends them).

"#]]
    );
    let expected = FILE.replace(&FILE[7..FILE.find("\n# the dash").unwrap()], "");
    assert_eq!(fs::read_to_string(world.config()).unwrap(), expected);
}

#[test]
fn what_is_disabled_stops_at_once_and_says_so_in_the_file() {
    let world = with_file();
    let unchanged =
        json!({ "added": [], "changed": [], "removed": [], "unchanged": 2, "leaving": [] });
    let fake = with_pomd(&world, unchanged);
    let down = json!({ "tunnel": ssh_prod(TunnelState::Down), "still_open": 1 });
    fake.on(
        "POST /v1/tunnels/ssh-prod/down?now=false",
        [Reply::ok(down)],
    );
    assert_data_eq!(
        world.transcript(&["disable", "ssh-prod"]),
        str![[r#"
$ pomctl disable ssh-prod  # exit 0
Disabled ssh-prod: it listens only after pomctl up ssh-prod. 1 connection stays open until it ends.

"#]]
    );
    let listen = "listen = 2202       # kept since 2024\n";
    let both = format!("{listen}start  = \"manual\"\n");
    let text = fs::read_to_string(world.config()).unwrap();
    assert_eq!(text, FILE.replace(listen, &both));
    drop(fake);
    assert_data_eq!(
        world.transcript(&["enable", "ssh-prod", "grafanna"]),
        str![[r#"
$ pomctl enable ssh-prod grafanna  # exit 2
| error: no tunnel grafanna; did you mean grafana?

"#]]
    );
    // All of them or none.
    assert_eq!(fs::read_to_string(world.config()).unwrap(), text);
    assert_eq!(world.run(&["enable", "ssh-prod"]).status.code(), Some(0));
    let text = fs::read_to_string(world.config()).unwrap();
    assert_eq!(text, FILE.replace(listen, &both.replace("manual", "auto")));
}

#[test]
fn nothing_is_written_that_would_not_load() {
    let world = with_file();
    assert_data_eq!(
        world.transcript(&["add", "db", "db.corp.example.com", "-l", "2202"]),
        str![[r#"
$ pomctl add db db.corp.example.com -l 2202  # exit 2
| error: ~/.config/pomd/pomd.toml would be broken, so nothing was changed
| error: a route without a port in [tunnel.db]
|   --> ~/.config/pomd/pomd.toml:11:10
|    |
| 11 | route  = "db.corp.example.com"
|    |          ^^^^^^^^^^^^^^^^^^^^^ a route is HOST:PORT, for example "db.example.com:5432"

"#]]
    );
    for args in [
        &["add", "grafana", "a.b:1"][..],
        &["add", "a b", "a.b:1"],
        &["remove", "nobody"],
        &["add", "x", "a.b:1\"\n[tunnel.evil]\nroute = \"e.vil:1"],
    ] {
        assert_eq!(world.run(args).status.code(), Some(2), "{args:?}");
    }
    assert_eq!(fs::read_to_string(world.config()).unwrap(), FILE);
}

#[test]
fn links_and_modes_stay_as_they_are() {
    let world = World::new();
    let real = world.path("dotfiles.toml");
    fs::write(&real, FILE).unwrap();
    fs::set_permissions(&real, fs::Permissions::from_mode(0o640)).unwrap();
    let before = fs::metadata(&real).unwrap();
    symlink("../../../dotfiles.toml", world.config()).unwrap();
    assert_eq!(world.run(&["remove", "grafana"]).status.code(), Some(0));
    assert!(fs::symlink_metadata(world.config()).unwrap().is_symlink());
    let after = fs::metadata(&real).unwrap();
    assert_eq!(
        (after.mode(), after.uid(), after.gid()),
        (before.mode(), before.uid(), before.gid())
    );
    assert!(!fs::read_to_string(&real).unwrap().contains("grafana.corp"));
    let left = fs::read_dir(world.path(".")).unwrap();
    let left = left.filter(|it| {
        let name = it.as_ref().unwrap().file_name();
        name.to_string_lossy().starts_with(".pomd")
    });
    assert_eq!(left.count(), 0);
}

#[test]
fn edit_saves_what_loads_and_keeps_what_does_not() {
    let mut world = with_file();
    let editor = world.script("editor", "cat \"$1\" >seen; cat \"$NEW\" >\"$1\"");
    world.var("EDITOR", editor.to_str().unwrap());
    let good = world.path("good");
    fs::write(&good, format!("{FILE}# more\n")).unwrap();
    let bad = world.path("bad");
    fs::write(&bad, "[tunnel.x]\nruote = \"a.b:1\"\n").unwrap();
    world.var("NEW", bad.to_str().unwrap());
    let output = world.run(&["edit"]);
    assert_eq!(output.status.code(), Some(2));
    let words = String::from_utf8(output.stderr).unwrap();
    assert!(
        words.contains("would be broken, so it was not saved"),
        "{words}"
    );
    assert!(words.contains("did you mean `route`"), "{words}");
    let kept = words
        .lines()
        .find_map(|it| it.strip_prefix("Your text is kept in "));
    let kept = std::path::Path::new(kept.unwrap());
    assert_eq!(fs::read(kept).unwrap(), fs::read(&bad).unwrap());
    fs::remove_dir_all(kept.parent().unwrap()).unwrap();
    assert_eq!(fs::read_to_string(world.config()).unwrap(), FILE);
    world.var("NEW", good.to_str().unwrap());
    assert_data_eq!(
        world.transcript(&["edit"]),
        str![[r#"
$ pomctl edit  # exit 0
Saved ~/.config/pomd/pomd.toml.

"#]]
    );
    assert_eq!(fs::read_to_string(world.path("seen")).unwrap(), FILE);
    assert_eq!(fs::read(world.config()).unwrap(), fs::read(&good).unwrap());
    assert_data_eq!(
        world.transcript(&["edit"]),
        str![[r#"
$ pomctl edit  # exit 0
~/.config/pomd/pomd.toml is as it was.

"#]]
    );
}

#[test]
fn c6_what_an_editor_saves_meanwhile_is_not_overwritten() {
    let mut world = with_file();
    let theirs = format!("{FILE}# theirs\n");
    fs::write(world.path("theirs"), &theirs).unwrap();
    let save = format!(
        "echo '# ours' >>\"$1\"; cat {} >{}",
        world.path("theirs").display(),
        world.config().display()
    );
    let editor = world.script("editor", &save);
    world.var("EDITOR", editor.to_str().unwrap());
    let output = world.run(&["edit"]);
    assert_eq!(output.status.code(), Some(1));
    let words = String::from_utf8(output.stderr).unwrap();
    let expected = "error: ~/.config/pomd/pomd.toml was changed meanwhile, so nothing was written\nhint: try again\n";
    assert!(words.ends_with(expected), "{words}");
    assert_eq!(fs::read_to_string(world.config()).unwrap(), theirs);
    let kept = words
        .lines()
        .find_map(|it| it.strip_prefix("Your text is kept in "));
    let kept = std::path::Path::new(kept.unwrap());
    assert_eq!(fs::read_to_string(kept).unwrap(), format!("{FILE}# ours\n"));
    fs::remove_dir_all(kept.parent().unwrap()).unwrap();
}
