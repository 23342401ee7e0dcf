//! `pomctl service` where no service manager answers; with a real one: tests/service/install.rs.

use snapbox::{assert_data_eq, str};

use crate::runner::World;

#[test]
fn g23_where_no_manager_answers_it_is_said_in_words_with_the_way_without() {
    let mut world = World::new();
    let tool = world.script(
        "tools/systemctl",
        "echo 'Failed to connect to bus: No medium found' >&2; exit 1",
    );
    let tools = tool.parent().unwrap().display().to_string();
    world.var("PATH", &tools);
    assert_data_eq!(
        world.transcript(&["service", "install"]),
        str![[r#"
$ pomctl service install  # exit 1
| error: no systemd user manager answers here (XDG_RUNTIME_DIR is not set)
| Log in directly instead of by sudo or su, or run it without a service:
|     pomd --daemonize

"#]]
    );
    world.var("XDG_RUNTIME_DIR", "/nowhere");
    assert_data_eq!(
        world.transcript(&["service", "status"]),
        str![[r#"
$ pomctl service status  # exit 1
| error: no systemd user manager answers here (systemctl: Failed to connect to bus: No medium found)
| Log in directly instead of by sudo or su, or run it without a service:
|     pomd --daemonize

"#]]
    );
    assert_data_eq!(
        world.transcript(&["service", "uninstall", "--json"]),
        str![[r#"
$ pomctl service uninstall --json  # exit 1
{"error":{"code":"no_service_manager","hint":null,"message":"no systemd user manager answers here (systemctl: Failed to connect to bus: No medium found)/nLog in directly instead of by sudo or su, or run it without a service:/n    pomd --daemonize"}}

"#]]
    );
    std::fs::remove_file(tool).unwrap();
    assert_data_eq!(
        world.transcript(&["service", "start"]),
        str![[r#"
$ pomctl service start  # exit 1
| error: there is no systemd here (systemctl is not installed)
| Run it without a service:
|     pomd --daemonize

"#]]
    );
}
