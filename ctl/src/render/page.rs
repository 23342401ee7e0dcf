//! The page that `status` shows, and the one for the first run. Pure.

use std::path::Path;

use control::wire::{Cluster, ConfigError, Status, Tunnel};

use super::{
    View, count,
    paint::{Role, paint},
    session,
    table::{self, Cell, Column, Row},
    tunnel,
};

/// From here on there is room for more columns.
const WIDE: usize = 120;
/// Below this each row becomes a block.
const NARROW: usize = 60;

/// Returns the whole page.
pub(crate) fn status(status: &Status, view: &View<'_>) -> String {
    let mut lines = top(status, view);
    // Who has a broken file knows how to begin.
    let config = &status.pomd.config;
    if status.tunnels.is_empty() && config.error.is_none() && !config.pending {
        if !lines.is_empty() {
            lines.push(String::new());
        }
        lines.push(first_run(Path::new(&status.pomd.config.path), true, view));
    }
    let drawn = Drawn::new(status, view);
    lines.extend(drawn.tunnels());
    lines.extend(untried(status));
    lines.extend(temporary(status));
    lines.extend(leaving(status));
    if !status.clusters.is_empty() {
        lines.push(String::new());
        lines.extend(drawn.clusters());
    }
    lines.extend(other_release(status));
    lines.join("\n")
}

/// Returns what to do when there is nothing yet.
pub(crate) fn first_run(config: &Path, running: bool, view: &View<'_>) -> String {
    let config = control::text::clean(&view.path(config), 2000);
    let head = if running {
        "No tunnels yet."
    } else {
        "No tunnels yet, and pomd is not running."
    };
    let demo = paint(Role::Command, "pomctl demo");
    let up = paint(Role::Command, "pomctl up ssh-prod");
    format!(
        "{head}
  See it work without Pomerium    {demo}
  Add one by hand                 write this into {config}:

    [tunnel.ssh-prod]
    route = \"ssh-prod.corp.example.com:22\"
    listen = 2202

  Then log in and use it          {up}"
    )
}

/// Returns what concerns all of the page: a broken file, standing warnings.
fn top(status: &Status, view: &View<'_>) -> Vec<String> {
    let pomd = &status.pomd;
    let mut lines = Vec::new();
    if let Some(error) = &pomd.config.error {
        lines.extend(broken_file(status, error, view));
    }
    if pomd.config.pending {
        let name = file_name(status);
        let sign = paint(Role::Warn, "warning:");
        lines.push(format!(
            "{sign} {name} is being written or read; what stands here may be older"
        ));
    }
    for warning in &pomd.warnings {
        lines.push(format!("{} {warning}", paint(Role::Warn, "warning:")));
    }
    lines
}

fn broken_file(status: &Status, error: &ConfigError, view: &View<'_>) -> [String; 2] {
    let sign = paint(Role::Bad, view.glyphs.bad);
    [
        format!("{sign} {}", not_in_force(status, error, view)),
        format!("    {}", error.message),
    ]
}

/// Returns `pomd.toml has an error since 14:01; the settings of 13:58 apply. Run: pomd check`.
pub(crate) fn not_in_force(status: &Status, error: &ConfigError, view: &View<'_>) -> String {
    let config = &status.pomd.config;
    let errors = match error.count {
        0 | 1 => "an error".to_owned(),
        many => format!("{many} errors"),
    };
    let settings = format!("the settings of {} apply", view.time(config.loaded_at));
    format!(
        "{} has {errors} since {}; {}. Run: {}",
        file_name(status),
        view.time(error.at),
        meanwhile(status, &settings),
        paint(Role::Command, &view.check_command(Path::new(&config.path))),
    )
}

fn file_name(status: &Status) -> String {
    let path = Path::new(&status.pomd.config.path);
    let name = path.file_name().unwrap_or(path.as_os_str());
    name.display().to_string()
}

/// Returns what holds while the file is broken: `settings`, if pomd has any.
pub(crate) fn meanwhile(status: &Status, settings: &str) -> String {
    if status.tunnels.is_empty() {
        "pomd has no tunnels until you fix it".to_owned()
    } else {
        settings.to_owned()
    }
}

/// Returns `Not tried yet: db, ssh-old`: what listens has not shown by that that its route works.
fn untried(status: &Status) -> Option<String> {
    let tunnels = status.tunnels.iter().filter(|it| tunnel::is_untried(it));
    named("Not tried yet", tunnels)
}

/// Returns `Temporary, until pomd restarts: redis`.
fn temporary(status: &Status) -> Option<String> {
    let tunnels = status.tunnels.iter().filter(|it| it.temporary);
    named("Temporary, until pomd restarts", tunnels)
}

/// Returns a line that names tunnels, but not all of many; none where there are none.
fn named<'a>(what: &str, tunnels: impl Iterator<Item = &'a Tunnel>) -> Option<String> {
    const MOST: usize = 5;
    let names: Vec<&str> = tunnels.map(|it| it.name.as_str()).collect();
    let more = match names.len().checked_sub(MOST) {
        None | Some(0) => String::new(),
        Some(more) => format!(" and {more} more"),
    };
    let shown = names[..names.len().min(MOST)].join(", ");
    let line = format!("{what}: {shown}{more}");
    (!names.is_empty()).then(|| paint(Role::Muted, &line))
}

fn leaving(status: &Status) -> Vec<String> {
    let gone = status.leaving.iter().filter(|it| it.connections > 0);
    gone.map(|it| stays_open(it.connections, &it.name))
        .collect()
}

/// Returns `2 connections of ssh-old stay open until they end`.
pub(crate) fn stays_open(connections: u64, name: &str) -> String {
    let (stay, they_end) = if connections == 1 {
        ("stays", "it ends")
    } else {
        ("stay", "they end")
    };
    let connections = count(connections, "connection");
    format!("{connections} of {name} {stay} open until {they_end}")
}

/// Returns advice where the pomd that runs is of another release than pomctl.
fn other_release(status: &Status) -> Option<String> {
    let ours = env!("CARGO_PKG_VERSION");
    let theirs = &status.pomd.version;
    if theirs == ours {
        return None;
    }
    let open: u64 = status.tunnels.iter().map(|it| it.connections.open).sum();
    Some(format!(
        "\npomd {theirs} runs, {ours} is installed. When no connection matters ({open} open): pomctl restart"
    ))
}

/// Rows and columns of one page.
struct Drawn<'a> {
    status: &'a Status,
    view: &'a View<'a>,
    columns: Vec<Column>,
    rows: Vec<Row>,
    widths: Vec<usize>,
    shape: Shape,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    Wide,
    Usual,
    /// Without the traffic.
    Slim,
    Blocks,
}

impl Shape {
    fn columns(self) -> Vec<Column> {
        let mut columns = vec![
            Column::new("TUNNEL"),
            Column::new("STATE"),
            Column::new("LOCAL"),
            Column::numbers("CONN", 4),
        ];
        if self != Self::Slim {
            columns.push(Column::numbers("RECV", 6));
            columns.push(Column::numbers("SENT", 6));
        }
        columns.push(Column::yielding("ROUTE"));
        if self == Self::Wide {
            columns.push(Column::new("LAST"));
        }
        columns
    }
}

impl<'a> Drawn<'a> {
    fn new(status: &'a Status, view: &'a View<'a>) -> Self {
        // Both tables have their second column in one line, unless the names of clusters would cost other columns: where
        // nobody wrote a `[cluster]`, they are as long as a host's.
        let names = status.clusters.iter().map(|it| it.name.chars().count());
        let least = names.max().unwrap_or_default().max("CLUSTER".len());
        let planned = |shape: Shape, least: usize| {
            let columns = shape.columns();
            let rows = status.tunnels.iter();
            let rows: Vec<Row> = rows.map(|it| tunnel_row(it, status, shape, view)).collect();
            let mut widths = table::widths(&columns, &rows);
            widths[0] = widths[0].max(least);
            (columns, rows, widths, shape)
        };
        let shapes = match view.width {
            None => &[Shape::Usual][..],
            Some(width) if width > WIDE => &[Shape::Wide, Shape::Slim],
            Some(width) if width >= NARROW => &[Shape::Usual, Shape::Slim],
            Some(_) => &[],
        };
        let fits = |columns: &[Column], widths: &[usize]| {
            view.width.is_none_or(|it| table::fits(columns, widths, it))
        };
        let (columns, rows, widths, shape) = shapes
            .iter()
            .flat_map(|it| [(*it, least), (*it, 0)])
            .map(|(shape, least)| planned(shape, least))
            .find(|it| fits(&it.0, &it.2))
            .unwrap_or_else(|| planned(Shape::Blocks, 0));
        Self {
            status,
            view,
            columns,
            rows,
            widths,
            shape,
        }
    }

    fn tunnels(&self) -> Vec<String> {
        if self.status.tunnels.is_empty() {
            return Vec::new();
        }
        if self.shape == Shape::Blocks {
            let blocks = self.rows.iter().zip(&self.status.tunnels);
            return blocks.flat_map(|(row, it)| self.block(row, it)).collect();
        }
        let cut = self.view.glyphs.cut;
        table::lines(
            &self.columns,
            &self.rows,
            &self.widths,
            self.view.width,
            cut,
        )
    }

    /// Returns three lines where there is no room for a row.
    fn block(&self, row: &Row, of: &Tunnel) -> Vec<String> {
        let head = [&row.sign, &row.cells[0]];
        let mut lines = vec![format!(
            "{}  {}  {}",
            head.map(|it| paint(it.role, &it.text)).join(" "),
            paint(row.cells[1].role, &row.cells[1].text),
            row.cells[2].text
        )];
        lines.push(format!("    {} {}", self.view.glyphs.to, tunnel::route(of)));
        lines.extend(row.below.iter().map(|it| format!("    {it}")));
        lines
    }

    fn clusters(&self) -> Vec<String> {
        let mut columns = vec![Column::new("CLUSTER"), Column::yielding("SESSION")];
        if self.shape == Shape::Wide {
            columns[1].yields = false;
            columns.push(Column::yielding("HOSTS"));
        }
        let wide = self.shape == Shape::Wide;
        let clusters = self.status.clusters.iter();
        let rows: Vec<Row> = clusters
            .map(|it| cluster_row(it, self.status, wide, self.view))
            .collect();
        if self.shape == Shape::Blocks {
            return rows.iter().flat_map(cluster_block).collect();
        }
        let mut widths = table::widths(&columns, &rows);
        widths[0] = widths[0].max(self.widths[0]);
        if rows.is_empty() {
            return Vec::new();
        }
        table::lines(
            &columns,
            &rows,
            &widths,
            self.view.width,
            self.view.glyphs.cut,
        )
    }
}

fn tunnel_row(of: &Tunnel, status: &Status, shape: Shape, view: &View<'_>) -> Row {
    let [connections, received, sent] = tunnel::counts(of, view.glyphs);
    let role = match tunnel::is_untried(of) {
        true => Role::Muted,
        false => tunnel::role(of.state),
    };
    let mut cells = vec![
        Cell::new(Role::Name, of.name.clone()),
        Cell::new(role, tunnel::word(of.state)),
        Cell::new(Role::Plain, tunnel::local(of, view.glyphs)),
        Cell::new(Role::Plain, connections),
    ];
    if shape != Shape::Slim {
        cells.push(Cell::new(Role::Plain, received));
        cells.push(Cell::new(Role::Plain, sent));
    }
    cells.push(Cell::new(Role::Plain, tunnel::route(of)));
    if shape == Shape::Wide {
        let last = of.last_connection_at;
        let last = last.map_or(view.glyphs.none.to_owned(), |it| view.time(it));
        cells.push(Cell::new(Role::Plain, last));
    }
    let cluster = status.clusters.iter().find(|it| it.name == of.cluster);
    Row {
        sign: Cell::new(role, tunnel::sign(of.state, view.glyphs).text),
        cells,
        below: tunnel::trouble(of, cluster, view).into_iter().collect(),
    }
}

fn cluster_row(of: &Cluster, status: &Status, wide: bool, view: &View<'_>) -> Row {
    let mut cells = vec![
        Cell::new(Role::Name, of.name.clone()),
        session::session(of, view),
    ];
    if wide {
        cells.push(Cell::new(Role::Plain, of.hosts.join(", ")));
    }
    // What stands below one of its tunnels is not said again.
    let ours = of.reason.as_ref().map(|it| &it.message);
    let mut reasons = status.tunnels.iter().filter_map(|it| it.reason.as_ref());
    let told = reasons.any(|it| Some(&it.message) == ours);
    Row {
        sign: session::sign(of.state, view),
        cells,
        below: session::through(of)
            .into_iter()
            .chain(session::trouble(of).filter(|_| !told))
            .collect(),
    }
}

fn cluster_block(row: &Row) -> Vec<String> {
    let sign = paint(row.sign.role, &row.sign.text);
    let cells = row.cells.iter().map(|it| paint(it.role, &it.text));
    let mut lines = vec![format!("{sign} {}", cells.collect::<Vec<_>>().join("  "))];
    lines.extend(row.below.iter().map(|it| format!("    {it}")));
    lines
}
