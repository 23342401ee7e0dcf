//! What a portal offers.

use control::wire::TunnelState;
use serde_json::{Value, json};
use snapbox::{assert_data_eq, str};

use crate::{
    fake::{Fake, Reply},
    runner::World,
    samples::{self, corp, login_needed, ssh_prod, status},
};

const ROUTES: &str = "GET /v1/clusters/corp/routes";

fn route(kind: &str, target: &str, description: &str) -> Value {
    let said = if kind == "web" { "http" } else { kind };
    let carries = matches!(kind, "tcp" | "udp");
    json!({
        "name": target.split('.').next(), "kind": kind, "type": said,
        "target": carries.then_some(target), "route": (kind == "tcp").then_some(target),
        "from": format!("{kind}+https://{target}"), "description": description,
    })
}

fn world(routes: &[Value]) -> (World, Fake) {
    let (world, fake) = World::with(&status(vec![ssh_prod(TunnelState::Up)], vec![corp()]));
    let answer = Reply::ok(json!({ "cluster": "corp", "routes": routes }));
    fake.on(ROUTES, [answer.clone(), answer]);
    let file = "[cluster.corp]\nhosts = [\"*.corp.example.com\", \"*.internal\"]\n\n# jump host\n\
        [tunnel.ssh-prod]\nroute = \"ssh-prod.corp.example.com:22\"\n";
    std::fs::create_dir_all(world.config().parent().unwrap()).unwrap();
    std::fs::write(world.config(), file).unwrap();
    (world, fake)
}

fn offered() -> Vec<Value> {
    let mut routes = vec![
        route(
            "tcp",
            "ssh-prod.corp.example.com:22",
            "Production jump host",
        ),
        route("tcp", "reports-db.internal:5432", "Reports, read only"),
    ];
    routes.extend((1..=7).map(|n| route("web", &format!("w{n}.corp.example.com"), "")));
    routes
}

#[test]
fn g17_routes_are_told_with_their_tunnels() {
    let (world, _fake) = world(&offered());
    assert_data_eq!(
        world.transcript(&["routes", "corp"]),
        str![[r#"
$ pomctl routes corp  # exit 0
  ROUTE                         TUNNEL    DESCRIPTION
  ssh-prod.corp.example.com:22  ssh-prod  Production jump host
  reports-db.internal:5432      –         Reports, read only
2 of 9 routes are TCP or UDP; the others open in a browser.
| hint: to make a tunnel of one: pomctl routes add reports-db.internal:5432

"#]]
    );
    let output = world.run(&["routes", "--json"]);
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["routes"][0]["tunnel"], "ssh-prod");
    assert_eq!(json["routes"][1]["tunnel"], Value::Null);
    assert_eq!(json["routes"][1]["type"], "tcp");
}

#[test]
fn other_kinds_of_routes_are_told_and_their_text_is_escaped() {
    let (world, _fake) = world(&[
        route("udp", "dns.corp.example.com:53", "Names"),
        route("ssh", "jump", ""),
        json!({
            "name": "evil\u{1b}]0;x\u{7}", "kind": "telepathy", "type": "mcp\u{1b}[2J", "target": null, "route": null,
            "from": "https://x\u{202e}.test", "description": "$(reboot)\n\u{9b}31m",
        }),
        route("web", "w.corp.example.com", ""),
    ]);
    assert_data_eq!(
        world.transcript(&["routes"]),
        str![[r#"
$ pomctl routes  # exit 0
  ROUTE                        TUNNEL  DESCRIPTION
  udp dns.corp.example.com:53  –       (pomd opens no UDP yet) Names
  ssh+https://jump             –       (Pomerium's own ssh) jump
  https://x/u{202e}.test       –       (of type mcp/u{1b}[2J) $(reboot)/u{a}/u{9b}31m
1 of 4 routes is TCP or UDP; 1 for a browser, 2 of another kind.

"#]]
    );
}

#[test]
fn no_routes_and_no_login_are_told() {
    let (world_of_none, _fake) = world(&[]);
    assert_data_eq!(
        world_of_none.transcript(&["routes"]),
        str![[r#"
$ pomctl routes  # exit 0
The portal of corp offers you no routes.

"#]]
    );
    let (world, fake) = World::with(&samples::logged_out());
    fake.on(ROUTES, [Reply::error(401, login_needed())]);
    assert_data_eq!(
        world.transcript(&["routes"]),
        str![[r#"
$ pomctl routes  # exit 4
| error: corp needs a login. Run: pomctl login corp

"#]]
    );
}

#[test]
fn g17_routes_that_are_added_stand_in_the_file_and_nothing_else_changes() {
    let (world, fake) = world(&offered());
    let file = std::fs::read_to_string(world.config()).unwrap();
    fake.on("POST /v1/reload", []);
    assert_data_eq!(
        world.transcript(&[
            "routes",
            "add",
            "reports-db",
            "ssh-prod.corp.example.com:22"
        ]),
        str![[r#"
$ pomctl routes add reports-db ssh-prod.corp.example.com:22  # exit 0
Added reports-db: a free port → reports-db.internal:5432
ssh-prod leads to ssh-prod.corp.example.com:22 already
| warning: the pomd that runs reads another file: /home/alice/.config/pomd/pomd.toml

"#]]
    );
    assert_eq!(
        std::fs::read_to_string(world.config()).unwrap(),
        format!("{file}\n[tunnel.reports-db]\nroute  = \"reports-db.internal:5432\"\n")
    );
}

#[test]
fn a_route_that_cannot_be_added_changes_nothing() {
    let mut routes = offered();
    routes.push(route("tcp", "evil.test:22", ""));
    routes.push(route("udp", "dns.corp.example.com:53", ""));
    routes.push(route("tcp", "reports-db.corp.example.com:1", ""));
    for (said, told) in [
        (
            "reports-bd.internal:5432",
            "did you mean reports-db.internal:5432?",
        ),
        ("evil.test:22", "has another login"),
        ("dns", "is no TCP route"),
        ("reports-db", "several routes of the name"),
        ("w1", "is no TCP route"),
        ("$(reboot)", "offers no route"),
    ] {
        let (world, _fake) = world(&routes);
        let file = std::fs::read(world.config()).unwrap();
        let output = world.run(&["routes", "add", "reports-db.internal:5432", said]);
        assert_eq!(output.status.code(), Some(2), "{said}: {output:?}");
        let words = String::from_utf8(output.stderr).unwrap();
        assert!(words.contains(told), "{said}: {words}");
        assert_eq!(std::fs::read(world.config()).unwrap(), file, "{said}");
    }
}
