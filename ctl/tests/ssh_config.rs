//! `pomctl ssh-config`: what it prints, and what it does to a person's files.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
};

use snapbox::{assert_data_eq, str};

use crate::runner::World;

const CONFIG: &str = r#"
[cluster.corp]
hosts = ["*.corp.example.com"]
[tunnel.ssh-prod]
route = "ssh-prod.corp.example.com:22"
"#;

fn world() -> World {
    let mut world = World::new();
    world.var("POMD_SOCKET", "");
    fs::write(world.config(), CONFIG).unwrap();
    fs::create_dir(world.path("home/.ssh")).unwrap();
    world
}

fn said(world: &World, args: &[&str]) -> (Option<i32>, String, String) {
    let output = world.run(args);
    let home = world.path("home").display().to_string();
    let program = env!("CARGO_BIN_EXE_pomctl");
    let text = |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes).into_owned();
        text.replace(program, "/usr/bin/pomctl")
            .replace(&home, "HOME")
            .replace(env!("CARGO_PKG_VERSION"), "0.4.0")
    };
    (
        output.status.code(),
        text(&output.stdout),
        text(&output.stderr),
    )
}

#[test]
fn g18_ssh_config_prints_hosts() {
    let (code, out, err) = said(&world(), &["ssh-config"]);
    assert_eq!((code, err.as_str()), (Some(0), ""));
    assert_data_eq!(
        out,
        str![[r#"
# From pomd.toml by pomctl 0.4.0; rewritten when tunnels change
# The way to them: '/usr/bin/pomctl' connect --ssh --fdpass '%h:%p'
Host ssh-prod
    HostName ssh-prod.corp.example.com
Host ssh-prod ssh-prod.corp.example.com *.corp.example.com
    ProxyCommand '/usr/bin/pomctl' connect --ssh --fdpass '%h:%p'
    ProxyUseFdpass yes

"#]]
    );
    let (_, out, _) = said(&world(), &["ssh-config", "--no-fdpass"]);
    assert!(!out.to_lowercase().contains("fdpass"), "{out}");
}

#[test]
fn g18_install_again_and_uninstall() {
    let world = world();
    let config = world.path("home/.ssh/config");
    fs::write(&config, "Host a\n").unwrap();
    let (code, out, err) = said(&world, &["ssh-config", "--install"]);
    assert_eq!((code, err.as_str()), (Some(0), ""));
    assert_data_eq!(
        out,
        str![[r#"
Wrote ~/.config/pomd/ssh_config (1 tunnel, 1 cluster)
Put 2 lines at the top of ~/.ssh/config (copy kept: config.before-pomd):
    # Hosts behind Pomerium (pomd). Works only above the first Host line.
    Include "HOME/.config/pomd/ssh_config"
Try it: ssh ssh-prod

"#]]
    );
    let installed = fs::read_to_string(&config).unwrap();
    let (code, out, _) = said(&world, &["ssh-config", "--install"]);
    assert_eq!(code, Some(0));
    assert_data_eq!(
        out,
        str![[r#"
Wrote ~/.config/pomd/ssh_config (1 tunnel, 1 cluster)
Already in place (~/.ssh/config:2).
Try it: ssh ssh-prod

"#]]
    );
    assert_eq!(fs::read_to_string(&config).unwrap(), installed);
    let (code, out, err) = said(&world, &["ssh-config", "--uninstall"]);
    assert_eq!((code, err.as_str()), (Some(0), ""));
    assert_data_eq!(
        out,
        str![[r#"
~/.ssh/config is as it was before
Removed ~/.config/pomd/ssh_config

"#]]
    );
    assert_eq!(fs::read_to_string(&config).unwrap(), "Host a\n");
    let (_, out, _) = said(&world, &["ssh-config", "--uninstall"]);
    assert_eq!(out, "Nothing of pomctl's is installed for ssh.\n");
}

#[test]
fn g18_what_is_managed_elsewhere_is_left_alone_and_the_lines_are_told() {
    let world = world();
    let managed = world.path("managed");
    fs::write(&managed, "Host a\n").unwrap();
    fs::set_permissions(&managed, fs::Permissions::from_mode(0o444)).unwrap();
    symlink(&managed, world.path("home/.ssh/config")).unwrap();
    let (code, out, err) = said(&world, &["ssh-config", "--install"]);
    assert_eq!((code, out.as_str()), (Some(1), ""));
    assert_data_eq!(
        err,
        str![[r#"
error: ~/.ssh/config stays as it is: the link's target is read-only
Put these 2 lines at its top, above the first Host line:
    # Hosts behind Pomerium (pomd). Works only above the first Host line.
    Include "HOME/.config/pomd/ssh_config"

"#]]
    );
    assert_eq!(fs::read_to_string(&managed).unwrap(), "Host a\n");
}

#[test]
fn a_file_of_somebody_else_s_or_a_broken_configuration_changes_nothing() {
    let world = world();
    let ours = world.path("home/.config/pomd/ssh_config");
    fs::write(&ours, "Host mine\n").unwrap();
    let (code, _, err) = said(&world, &["ssh-config", "--install"]);
    assert_eq!(code, Some(1), "{err}");
    assert!(err.contains("is not a file of pomctl's"), "{err}");
    assert_eq!(fs::read_to_string(&ours).unwrap(), "Host mine\n");
    let (_, out, _) = said(&world, &["ssh-config", "--uninstall"]);
    assert_eq!(out, "Nothing of pomctl's is installed for ssh.\n");
    fs::remove_file(&ours).unwrap();
    fs::write(world.config(), "[tunnel.a]\nroute = 3\n").unwrap();
    let (code, out, err) = said(&world, &["ssh-config", "--install"]);
    assert_eq!((code, out.as_str()), (Some(2), ""), "{err}");
    assert!(!ours.exists());
    assert!(!world.path("home/.ssh/config").exists());
}

#[test]
fn a_bad_address_is_told_without_starting_pomd() {
    let mut world = world();
    // A pomd that would be started tells so.
    world.move_program();
    let started = world.path("started");
    world.script("bin/pomd", &format!("touch '{}'", started.display()));
    for route in [
        "host",
        "host:0",
        "a b:22",
        "tcp+https://p.example.com/h:22",
        "h:22:22",
    ] {
        let (code, out, err) = said(&world, &["connect", route]);
        assert_eq!((code, out.as_str()), (Some(2), ""), "{route}: {err}");
        assert!(err.starts_with("pomctl: "), "{route}: {err}");
    }
    let (code, _, err) = said(&world, &["ssh", "a b"]);
    assert_eq!(code, Some(2), "{err}");
    assert!(!started.exists());
}
