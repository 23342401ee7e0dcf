//! What a portal offers, in words. Pure.

use control::wire::{OfferedRoute, RouteKind, Status, Tunnel};

use super::{
    View, count,
    paint::Role,
    table::{self, Cell, Column, Row},
};

const COLUMNS: [Column; 3] = [
    Column::new("ROUTE"),
    Column::new("TUNNEL"),
    Column::yielding("DESCRIPTION"),
];

/// Returns the tunnel that leads to the route.
pub(crate) fn tunnel_of<'a>(route: &OfferedRoute, status: &'a Status) -> Option<&'a Tunnel> {
    let target = route
        .target
        .as_deref()
        .filter(|_| route.kind == RouteKind::Tcp)?;
    status.tunnels.iter().find(|it| it.route == target)
}

/// Returns the table of what a tunnel can be made of, with what is of an unknown kind, and the number of all.
pub(crate) fn page(
    cluster: &str,
    routes: &[OfferedRoute],
    status: &Status,
    view: &View<'_>,
) -> String {
    if routes.is_empty() {
        return format!("The portal of {cluster} offers you no routes.");
    }
    let shown = routes.iter().filter(|it| it.kind != RouteKind::Web);
    let rows: Vec<Row> = shown.map(|it| row(it, status, view)).collect();
    let mut lines = Vec::new();
    if !rows.is_empty() {
        let widths = table::widths(&COLUMNS, &rows);
        lines = table::lines(&COLUMNS, &rows, &widths, view.width, view.glyphs.cut);
    }
    lines.push(sum(routes));
    lines.join("\n")
}

fn row(route: &OfferedRoute, status: &Status, view: &View<'_>) -> Row {
    let none = view.glyphs.none;
    let address = match (route.kind, &route.target) {
        (RouteKind::Tcp, Some(target)) => target.clone(),
        (RouteKind::Udp, Some(target)) => format!("udp {target}"),
        _ => route.from.clone(),
    };
    let tunnel = tunnel_of(route, status).map_or(none, |it| it.name.as_str());
    let words = [&route.name, &route.description];
    let words = words.into_iter().rev().find(|it| !it.is_empty());
    let words = words.map_or("", String::as_str);
    let description = match (route.kind, route.said.as_str()) {
        (RouteKind::Unknown, "") => format!("(of an unknown type) {words}"),
        (RouteKind::Unknown, said) => format!("(of type {said}) {words}"),
        (RouteKind::Ssh, _) => format!("(Pomerium's own ssh) {words}"),
        (RouteKind::Udp, _) => format!("(pomd opens no UDP yet) {words}"),
        _ => words.to_owned(),
    };
    Row {
        sign: Cell::new(Role::Plain, " "),
        cells: vec![
            Cell::new(Role::Plain, address),
            Cell::new(Role::Name, tunnel),
            Cell::new(Role::Muted, description.trim_end()),
        ],
        below: Vec::new(),
    }
}

/// Returns `2 of 9 routes are TCP or UDP; the others open in a browser.`
fn sum(routes: &[OfferedRoute]) -> String {
    let number = |kinds: &[RouteKind]| routes.iter().filter(|it| kinds.contains(&it.kind)).count();
    let ours = number(&[RouteKind::Tcp, RouteKind::Udp]);
    let web = number(&[RouteKind::Web]);
    let other = routes.len() - ours - web;
    let all = count(routes.len() as u64, "route");
    let are = if ours == 1 { "is" } else { "are" };
    let rest = match (web, other) {
        (0, 0) => return format!("{all}, TCP or UDP."),
        (_, 0) => "the others open in a browser".to_owned(),
        (0, _) => "the others are of another kind".to_owned(),
        (web, other) => format!("{web} for a browser, {other} of another kind"),
    };
    format!("{ours} of {all} {are} TCP or UDP; {rest}.")
}
