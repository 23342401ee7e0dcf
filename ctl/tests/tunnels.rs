//! up and down.

use control::wire::{ClusterState, TunnelState};
use serde_json::{Value, json};
use snapbox::{assert_data_eq, str};

use crate::{
    fake::{Fake, Reply},
    runner::World,
    samples::{self, cluster, corp, grafana, login_needed, node, ssh_prod, status, up_answer},
};

#[test]
fn g3_up_again_says_only_that_it_works() {
    let (world, fake) = World::with(&samples::fine());
    let answer = Reply::ok(up_answer(ssh_prod(TunnelState::Up)));
    fake.on("POST /v1/tunnels/ssh-prod/up", [answer]);
    assert_data_eq!(
        world.transcript(&["up", "ssh-prod"]),
        str![[r#"
$ pomctl up ssh-prod  # exit 0
ssh-prod is up: localhost:2202 → ssh-prod.corp.example.com:22 (answers in 84 ms)

    ssh -p 2202 localhost

"#]]
    );
    // Events first: no change can be missed.
    let seen = fake.seen();
    let at = |request: &str| seen.iter().position(|it| it == request).unwrap();
    assert!(at("GET /v1/events") < at("POST /v1/tunnels/ssh-prod/up"));
}

#[test]
fn up_as_json_has_one_shape_for_one_and_for_many() {
    let (world, fake) = World::with(&samples::fine());
    let answer = Reply::ok(up_answer(ssh_prod(TunnelState::Up)));
    fake.on("POST /v1/tunnels/ssh-prod/up", [answer]);
    let output = world.run(&["up", "ssh-prod", "--json"]);
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["tunnels"][0]["name"], "ssh-prod");
    assert_eq!(json["tunnels"][0]["answers_in_ms"], 84);
    assert_eq!(json["tunnels"][0]["error"], Value::Null);
}

#[test]
fn g29_a_route_without_a_tunnel_gets_a_temporary_one() {
    let (world, fake) = World::with(&samples::fine());
    let route = "redis.corp.example.com:6379";
    let mut redis = samples::tunnel("redis", TunnelState::Up, 6379, route);
    redis.temporary = true;
    let shown = redis.clone();
    let made = Reply::ok(json!({ "name": "redis", "made": true }))
        .before(move |status| status.tunnels.push(shown.clone()));
    fake.on("POST /v1/tunnels", [made]);
    fake.on("POST /v1/tunnels/redis/up", [Reply::ok(up_answer(redis))]);
    assert_data_eq!(
        world.transcript(&["up", route, "--listen", "6379"]),
        str![[r#"
$ pomctl up redis.corp.example.com:6379 --listen 6379  # exit 0
redis is up: localhost:6379 → redis.corp.example.com:6379 (answers in 84 ms)

    redis-cli -p 6379
| hint: to keep it: pomctl add redis redis.corp.example.com:6379 --listen 6379

"#]]
    );
    assert_data_eq!(
        world.transcript(&["status"]),
        str![[r#"
$ pomctl status  # exit 0
  TUNNEL    STATE  LOCAL           CONN    RECV    SENT  ROUTE
● ssh-prod  up     localhost:2202     0       –       –  ssh-prod.corp.example.com:22
● redis     up     localhost:6379     0       –       –  redis.corp.example.com:6379
Temporary, until pomd restarts: redis

  CLUSTER   SESSION
● corp      alice@example.com, until HH:MM (9h 12m)

"#]]
    );
    assert_data_eq!(
        world.transcript(&["up", "ssh-prod", "--listen", "6379"]),
        str![[r#"
$ pomctl up ssh-prod --listen 6379  # exit 2
| error: --listen goes with one route, HOST:PORT; a tunnel of the file listens where the file says
| hint: pomctl up HOST:PORT --listen PORT

"#]]
    );
    assert_data_eq!(
        world.transcript(&["up", "https://redis.corp.example.com:6379"]),
        str![[r#"
$ pomctl up https://redis.corp.example.com:6379  # exit 2
| error: `https://redis.corp.example.com:6379` is not HOST:PORT
| hint: write only the host and the port of the route, such as db.example.com:5432; a scheme or a server on the way belongs to a tunnel in the configuration file

"#]]
    );
}

#[test]
fn a_temporary_tunnel_that_does_not_work_is_taken_away_again() {
    let (world, fake) = World::with(&samples::fine());
    let route = "redis.corp.example.com:6379";
    let mut redis = samples::tunnel("redis", TunnelState::Error, 6379, route);
    redis.temporary = true;
    let shown = redis.clone();
    let made = Reply::ok(json!({ "name": "redis", "made": true }))
        .before(move |status| status.tunnels.push(shown.clone()));
    fake.on("POST /v1/tunnels", [made]);
    let refused = json!({ "code": "no_such_route", "message": "corp has no route redis.corp.example.com:6379 (404)" });
    fake.on("POST /v1/tunnels/redis/up", [Reply::error(404, refused)]);
    let down = json!({ "tunnel": redis, "still_open": 0 });
    fake.on("POST /v1/tunnels/redis/down?now=false", [Reply::ok(down)]);
    assert_eq!(world.run(&["up", route]).status.code(), Some(1));
    fake.wait_for("POST /v1/tunnels/redis/down?now=false", 1);
}

fn busy() -> Value {
    json!({
        "code": "address_in_use", "message": "port 3000 is in use, so grafana can't listen yet",
        "hint": "To use another port: set listen = 3001 in [tunnel.grafana]",
        "facts": [
            ["held by", "node (pid 4242, /usr/bin/node server.js)"],
            ["waiting", "pomd takes the port as soon as it is free"],
        ],
        "holder": node(),
    })
}

#[test]
fn g3_several_are_a_table_and_a_sum() {
    let tunnels = vec![ssh_prod(TunnelState::Up), grafana(TunnelState::Busy)];
    let (world, fake) = World::with(&status(tunnels, vec![corp()]));
    fake.on(
        "POST /v1/tunnels/ssh-prod/up",
        [Reply::ok(up_answer(ssh_prod(TunnelState::Up)))],
    );
    fake.on("POST /v1/tunnels/grafana/up", [Reply::error(409, busy())]);
    assert_data_eq!(
        world.transcript(&["up", "--all"]),
        str![[r#"
$ pomctl up --all  # exit 1
ssh-prod  up     localhost:2202
grafana   busy   localhost:3000 is held by node (pid 4242)
1 of 2 tunnels is up.

"#]]
    );
    let output = world.run(&["up", "grafana", "ssh-prod", "--json"]);
    assert_eq!(output.status.code(), Some(1));
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["tunnels"][0]["error"]["code"], "address_in_use");
    assert_eq!(json["tunnels"][1]["error"], Value::Null);
}

#[test]
fn g7_a_busy_port_is_told_with_its_holder() {
    let (world, fake) = World::with(&status(vec![grafana(TunnelState::Busy)], vec![corp()]));
    let mut bare = busy();
    bare["facts"] = json!([]);
    bare["holder"] = json!({ "pid": null, "program": null, "uid": 0 });
    fake.on(
        "POST /v1/tunnels/grafana/up",
        [
            Reply::error(409, busy()),
            Reply::error(409, bare),
            Reply::error(409, busy()),
        ],
    );
    assert_data_eq!(
        world.transcript(&["up", "grafana"]),
        str![[r#"
$ pomctl up grafana  # exit 1
| error: port 3000 is in use, so grafana can't listen yet
|   held by      node (pid 4242, /usr/bin/node server.js)
|   waiting      pomd takes the port as soon as it is free
| To use another port: set listen = 3001 in [tunnel.grafana]

"#]]
    );
    assert_data_eq!(
        world.transcript(&["up", "grafana"]),
        str![[r#"
$ pomctl up grafana  # exit 1
| error: port 3000 is in use, so grafana can't listen yet
|   held by      a program of another user (uid 0)
| To use another port: set listen = 3001 in [tunnel.grafana]

"#]]
    );
    assert_data_eq!(
        world.transcript(&["up", "grafana", "--json"]),
        str![[r#"
$ pomctl up grafana --json  # exit 1
{"error":{"code":"address_in_use","hint":"To use another port: set listen = 3001 in [tunnel.grafana]","message":"port 3000 is in use, so grafana can't listen yet"}}

"#]]
    );
}

#[test]
fn g8_each_refusal_is_told_with_its_remedy() {
    let (world, fake) = World::with(&samples::fine());
    let refusals = [
        json!({
            "code": "forbidden", "message": "alice@example.com may not use ssh-prod.corp.example.com:22 (403)",
            "hint": "send the request id to your Pomerium administrator and ask for access",
            "request_id": "7f3a9c02-4b1e",
            "facts": [["session", "good, kept; other tunnels of corp are not affected"]],
        }),
        json!({
            "code": "no_such_route", "message": "corp has no route sssh-prod.corp.example.com:22 (404)",
            "hint": "The port is part of a route's name",
            "facts": [["similar", "ssh-prod.corp.example.com:22, ssh-prod-2.corp.example.com:22"]],
        }),
        json!({
            "code": "upstream_unavailable",
            "message": "Pomerium can't reach the service behind reports-db.internal:5432 (503)",
            "hint": "The tunnel stays up; the next connection tries again. Nothing to do here.",
            "facts": [["tried", "3 times in 12 s, last at 14:05; session good, kept"]],
        }),
        json!({
            "code": "client_certificate_required", "message": "corp wants a client certificate, and none is set (495)",
            "hint": "Set client_cert and client_key in [cluster.corp]",
        }),
        json!({
            "code": "device_not_allowed", "message": "corp doesn't know this device yet (450)",
            "hint": "Enrol it, then try again: https://ssh-prod.corp.example.com/.pomerium/",
        }),
    ];
    let replies = refusals.map(|it| Reply::error(502, it));
    fake.on("POST /v1/tunnels/ssh-prod/up", replies);
    let text: String = (0..5)
        .map(|_| world.transcript(&["up", "ssh-prod"]))
        .collect();
    assert_data_eq!(
        text,
        str![[r#"
$ pomctl up ssh-prod  # exit 1
| error: alice@example.com may not use ssh-prod.corp.example.com:22 (403)
|   request id   7f3a9c02-4b1e, HH:MM (finds it in Pomerium's log)
|   session      good, kept; other tunnels of corp are not affected
| hint: send the request id to your Pomerium administrator and ask for access
$ pomctl up ssh-prod  # exit 1
| error: corp has no route sssh-prod.corp.example.com:22 (404)
|   similar      ssh-prod.corp.example.com:22, ssh-prod-2.corp.example.com:22
| The port is part of a route's name
$ pomctl up ssh-prod  # exit 1
| error: Pomerium can't reach the service behind reports-db.internal:5432 (503)
|   tried        3 times in 12 s, last at HH:MM; session good, kept
| The tunnel stays up; the next connection tries again. Nothing to do here.
$ pomctl up ssh-prod  # exit 1
| error: corp wants a client certificate, and none is set (495)
| Set client_cert and client_key in [cluster.corp]
$ pomctl up ssh-prod  # exit 1
| error: corp doesn't know this device yet (450)
| Enrol it, then try again: https://ssh-prod.corp.example.com/.pomerium/

"#]]
    );
}

#[test]
fn g30_a_mistyped_name_is_answered_with_a_question() {
    let (world, fake) = World::with(&samples::mixed());
    fake.on(
        "POST /v1/reload",
        [Reply::ok(json!({
        "added": [], "changed": [], "removed": [], "unchanged": 5, "leaving": [] }))],
    );
    assert_data_eq!(
        world.transcript(&["up", "ssh-prd"]),
        str![[r#"
$ pomctl up ssh-prd  # exit 2
| error: no tunnel ssh-prd; did you mean ssh-prod or ssh-old?

"#]]
    );
    assert_data_eq!(
        world.transcript(&["down", "dnss"]),
        str![[r#"
$ pomctl down dnss  # exit 2
| error: no tunnel dnss; did you mean dns?

"#]]
    );
    assert_data_eq!(
        world.transcript(&["status", "zzz"]),
        str![[r#"
$ pomctl status zzz  # exit 2
| error: no tunnel zzz
| hint: there are: dns, grafana, reports, ssh-old, ssh-prod

"#]]
    );
    assert_data_eq!(
        world.transcript(&["up", "ssh-prd", "--json"]),
        str![[r#"
$ pomctl up ssh-prd --json  # exit 2
{"error":{"code":"no_such_tunnel","hint":null,"message":"no tunnel ssh-prd; did you mean ssh-prod or ssh-old?"}}

"#]]
    );
}

#[test]
fn a_tunnel_that_was_saved_a_moment_ago_is_found() {
    let (world, fake) = World::with(&samples::fine());
    let reloaded = Reply::ok(json!({
        "added": ["grafana"], "changed": [], "removed": [], "unchanged": 1, "leaving": [] }));
    // The change is seen by whoever asks after the reload was answered.
    fake.on(
        "POST /v1/reload",
        [reloaded.before(|it| it.tunnels.push(grafana(TunnelState::Up)))],
    );
    fake.on(
        "POST /v1/tunnels/grafana/up",
        [Reply::ok(up_answer(grafana(TunnelState::Up)))],
    );
    let text = world.transcript(&["up", "grafana"]);
    assert!(text.contains("grafana is up: localhost:3000"), "{text}");
}

#[test]
fn an_unknown_name_in_a_broken_file_is_told_with_the_file() {
    let (world, fake) = World::with(&samples::fine());
    let error =
        json!({ "code": "config_broken", "message": "error: no route\n --> pomd.toml:3:1" });
    fake.on("POST /v1/reload", [Reply::error(422, error)]);
    assert_data_eq!(
        world.transcript(&["up", "new"]),
        str![[r#"
$ pomctl up new  # exit 2
| error: no route
|  --> pomd.toml:3:1
| 1 error; pomd keeps the settings of HH:MM

"#]]
    );
}

#[test]
fn where_only_logins_are_missing_the_code_says_so() {
    let (mut world, fake) = World::with(&status(
        vec![ssh_prod(TunnelState::Up), grafana(TunnelState::Up)],
        vec![cluster("corp", ClusterState::LoginNeeded)],
    ));
    world.var("POMD_BROWSER", "none");
    fake.on(
        "POST /v1/tunnels/ssh-prod/up",
        [Reply::error(401, login_needed())],
    );
    fake.on(
        "POST /v1/tunnels/grafana/up",
        [Reply::error(401, login_needed())],
    );
    let login = samples::login_answer(ClusterState::LoginRunning, Some(samples::open_login(true)));
    fake.on("POST /v1/clusters/corp/login", [Reply::ok(login)]);
    assert_data_eq!(
        world.transcript(&["up", "--all"]),
        str![[r#"
$ pomctl up --all  # exit 4
To log in to corp, open this in a browser:

https://authenticate.corp.example.com/.pomerium/sign_in?pomerium_redirect_uri=http%3A%2F%2F127.0.0.1%3A41235%2Fcb

After you have signed in, a browser on another machine ends on a page that can't be reached.
To let it arrive: run this where the browser is, then reload the page.
    ssh -N -L 41235:127.0.0.1:41235 HOST
ssh-prod  up     corp needs a login. Run: pomctl login corp
grafana   up     corp needs a login. Run: pomctl login corp
0 of 2 tunnels are up.
| error: corp needs a login
| hint: the login stays open for whoever opens the address above

"#]]
    );
}

#[test]
fn down_says_what_stays_open() {
    let (world, fake) = World::with(&samples::mixed());
    let answer =
        |open: u64| Reply::ok(json!({ "tunnel": ssh_prod(TunnelState::Down), "still_open": open }));
    fake.on(
        "POST /v1/tunnels/ssh-prod/down?now=false",
        [answer(2), answer(1), answer(0)],
    );
    fake.on("POST /v1/tunnels/ssh-prod/down?now=true", [answer(0)]);
    let text: String = (0..3)
        .map(|_| world.transcript(&["down", "ssh-prod"]))
        .collect();
    let text = text + &world.transcript(&["down", "ssh-prod", "--now"]);
    assert_data_eq!(
        text,
        str![[r#"
$ pomctl down ssh-prod  # exit 0
ssh-prod is down. 2 open connections stay until they end (pomctl down --now ssh-prod ends them).
$ pomctl down ssh-prod  # exit 0
ssh-prod is down. 1 open connection stays until it ends (pomctl down --now ssh-prod ends it).
$ pomctl down ssh-prod  # exit 0
ssh-prod is down.
$ pomctl down ssh-prod --now  # exit 0
ssh-prod is down, and its connections have ended.

"#]]
    );
}

#[test]
fn restart_waits_until_pomd_is_there_again() {
    let (world, fake) = World::with(&samples::fine());
    let answer = Reply::ok(json!({ "pid": 2811, "version": "0.1.0", "connections": 2 }));
    fake.on("POST /v1/restart", [answer]);
    // Nobody is asked who does not sit at a terminal.
    let child = world.spawn(&["restart"]);
    fake.wait_for("POST /v1/restart", 1);
    fake.end();
    let _heir = Fake::start(&world.socket(), &samples::fine());
    let output = child.wait_with_output().unwrap();
    assert_data_eq!(
        world.told(&["restart"], &output),
        str![[r#"
$ pomctl restart  # exit 0
Restarted pomd 0.1.0 (pid 2811). 2 connections ended with it.

"#]]
    );
}

#[test]
fn a_restart_that_pomd_refuses_is_told_and_one_of_no_pomd_too() {
    let (world, fake) = World::with(&samples::fine());
    let message = "pomd was not restarted and goes on as it is: /usr/bin/pomd is not pomd";
    let error = json!({ "code": "local", "message": message });
    fake.on("POST /v1/restart", [Reply::error(500, error)]);
    assert_data_eq!(
        world.transcript(&["restart"]),
        str![[r#"
$ pomctl restart  # exit 1
| error: pomd was not restarted and goes on as it is: /usr/bin/pomd is not pomd

"#]]
    );
    assert_eq!(World::new().run(&["restart"]).status.code(), Some(3));
}

#[test]
fn stop_waits_until_pomd_has_ended() {
    let (world, fake) = World::with(&samples::fine());
    let answer = Reply::ok(json!({ "pid": 2811, "connections": 2 }));
    fake.on("POST /v1/stop", [answer]);
    let child = world.spawn(&["stop"]);
    fake.wait_for("POST /v1/stop", 1);
    fake.wait_for("GET /v1/status", 2);
    fake.end();
    let output = child.wait_with_output().unwrap();
    assert_data_eq!(
        world.told(&["stop"], &output),
        str![[r#"
$ pomctl stop  # exit 0
Stopped pomd (pid 2811). 2 connections ended with it.

"#]]
    );
}
