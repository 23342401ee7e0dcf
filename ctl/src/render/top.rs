//! The page that `top` draws over and over. Pure.

use control::{
    humanize,
    wire::{Cluster, ClusterState, Status, Tunnel, TunnelState},
};

use super::{
    View,
    paint::{Role, paint},
    session,
    table::{self, Cell, Column, Row, shortened},
    traffic::Traffic,
    tunnel,
};

/// What is shown beside the tunnels.
#[derive(Debug, Default)]
pub(crate) struct Shown {
    /// The tunnel that keys are about.
    pub(crate) chosen: Option<String>,
    /// Its newest log lines, where they are wanted.
    pub(crate) log: Option<Vec<String>>,
    /// What became of the last key.
    pub(crate) note: String,
    /// Keys are read.
    pub(crate) keys: bool,
    /// The most lines there is room for; `None`: as many as there are.
    pub(crate) rows: Option<usize>,
}

/// Returns the whole page, no longer than there is room for.
pub(crate) fn page(status: &Status, traffic: &Traffic, shown: &Shown, view: &View<'_>) -> String {
    let mut lines = vec![head(status, view)];
    let mut foot = Vec::new();
    if let Some(log) = &shown.log {
        let room = shown.rows.map_or(log.len(), |it| it / 3);
        foot.push(String::new());
        foot.extend(newest(log, room).iter().map(|it| fitted(it, view)));
    }
    if !shown.note.is_empty() {
        foot.push(fitted(&format!(" {}", shown.note), view));
    }
    if shown.keys {
        let choose = view.glyphs.arrows;
        let keys = format!(" q quit  {choose} choose  u up  d down  l log");
        foot.push(paint(Role::Muted, &fitted(&keys, view)));
    }
    if status.tunnels.is_empty() {
        lines.push(" No tunnels yet.".to_owned());
    } else {
        // The line of the heads.
        let room = shown
            .rows
            .map(|it| it.saturating_sub(lines.len() + 1 + foot.len()));
        let table = table(status, traffic, shown, room, view);
        lines.extend(table);
    }
    lines.extend(foot);
    lines.join("\n")
}

/// Returns ` pomd 0.4.0   4 of 5 up   corp: alice@example.com until 23:41            14:05`.
fn head(status: &Status, view: &View<'_>) -> String {
    let up = status
        .tunnels
        .iter()
        .filter(|it| it.state == TunnelState::Up);
    let sessions: Vec<String> = status.clusters.iter().map(|it| session(it, view)).collect();
    let left = format!(
        " pomd {}   {} of {} up   {}",
        status.pomd.version,
        up.count(),
        status.tunnels.len(),
        sessions.join(", ")
    );
    let time = view.time(view.now);
    let Some(width) = view.width else {
        return left.trim_end().to_owned();
    };
    let room = width.saturating_sub(time.len() + 2);
    let left = shortened(left.trim_end(), room, view.glyphs.cut);
    format!("{left:<room$}  {time}")
}

fn session(of: &Cluster, view: &View<'_>) -> String {
    let who = match (of.state, &of.user) {
        (ClusterState::LoggedIn, Some(user)) => user.clone(),
        (ClusterState::LoggedIn, None) => "logged in".to_owned(),
        _ => return format!("{}: {}", of.name, session::session(of, view).text),
    };
    let until = of.until.map(|it| format!(" until {}", view.time(it)));
    format!("{}: {who}{}", of.name, until.unwrap_or_default())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    Usual,
    /// Without the last minute and the connections.
    Slim,
    /// Names and rates alone.
    Narrow,
    /// Names and states alone.
    Least,
}

impl Shape {
    fn columns(self, view: &View<'_>) -> Vec<Column> {
        let [received, sent] = view.glyphs.rates;
        let rates = [Column::numbers(received, 8), Column::numbers(sent, 8)];
        let mut res = match self {
            Self::Narrow => vec![Column::yielding("TUNNEL")],
            Self::Least => return vec![Column::yielding("TUNNEL"), Column::new("STATE")],
            Self::Slim | Self::Usual => vec![Column::new("TUNNEL"), Column::new("STATE")],
        };
        if self == Self::Usual {
            res.push(Column::numbers("CONN", 4));
        }
        res.extend(rates);
        if self == Self::Usual {
            res.push(Column::yielding("LAST 60 s"));
        }
        res
    }

    fn row(self, of: &Tunnel, traffic: &Traffic, chosen: bool, view: &View<'_>) -> Row {
        let glyphs = view.glyphs;
        let role = tunnel::role(of.state);
        let plain = |text: String| Cell::new(Role::Plain, text);
        let mark = if chosen { glyphs.chosen } else { " " };
        let sign = tunnel::sign(of.state, glyphs).text;
        let sign = Cell::new(role, format!("{mark}{sign}"));
        let mut cells = vec![Cell::new(Role::Name, of.name.clone())];
        if self != Self::Narrow {
            cells.push(Cell::new(role, tunnel::word(of.state)));
        }
        if self == Self::Least {
            return Row {
                sign,
                cells,
                below: Vec::new(),
            };
        }
        if self == Self::Usual {
            let [connections, ..] = tunnel::counts(of, glyphs);
            cells.push(plain(connections));
        }
        let rates = traffic.now(&of.name).filter(|_| listens(of));
        let rates = rates.map(|it| [it.received, it.sent]);
        cells.extend(match rates {
            Some(rates) => rates.map(|it| plain(format!("{}/s", humanize::bytes(it)))),
            None => [plain(glyphs.none.to_owned()), plain(glyphs.none.to_owned())],
        });
        if self == Self::Usual {
            cells.push(plain(last_minute(of, traffic, view)));
        }
        Row {
            sign,
            cells,
            below: Vec::new(),
        }
    }
}

/// Bytes may flow: also where the newest attempt failed.
fn listens(of: &Tunnel) -> bool {
    matches!(of.state, TunnelState::Up | TunnelState::Error) || of.connections.open > 0
}

/// Returns bars, or what is wrong where nothing flows.
fn last_minute(of: &Tunnel, traffic: &Traffic, view: &View<'_>) -> String {
    const WIDTH: usize = 12;
    if let Some(reason) = of.reason.as_ref().filter(|_| of.connections.open == 0) {
        return reason.message.clone();
    }
    if !listens(of) {
        return String::new();
    }
    let bars = &view.glyphs.bars;
    let heights = traffic.bars(&of.name, WIDTH, bars.len());
    let bar = |height: Option<usize>| height.and_then(|it| bars.get(it)).copied();
    heights
        .into_iter()
        .map(|it| bar(it).unwrap_or(' '))
        .collect()
}

/// Returns the heads and, where there is no room for all, the rows around the chosen one.
fn table(
    status: &Status,
    traffic: &Traffic,
    shown: &Shown,
    room: Option<usize>,
    view: &View<'_>,
) -> Vec<String> {
    // The sign has two columns here.
    let width = view.width.map(|it| it.saturating_sub(1));
    let is_chosen = |it: &Tunnel| shown.chosen.as_ref() == Some(&it.name);
    let planned = |shape: Shape| {
        let columns = shape.columns(view);
        let rows = status.tunnels.iter();
        let rows = rows.map(|it| shape.row(it, traffic, is_chosen(it), view));
        let rows: Vec<Row> = rows.collect();
        let widths = table::widths(&columns, &rows);
        (columns, rows, widths)
    };
    let fits = |columns: &[Column], widths: &[usize]| {
        width.is_none_or(|width| table::fits(columns, widths, width))
    };
    let (columns, rows, widths) = [Shape::Usual, Shape::Slim, Shape::Narrow]
        .into_iter()
        .map(planned)
        .find(|it| fits(&it.0, &it.2))
        .unwrap_or_else(|| planned(Shape::Least));
    let mut lines = table::lines(&columns, &rows, &widths, width, view.glyphs.cut);
    let heads = lines.remove(0);
    let chosen = status
        .tunnels
        .iter()
        .position(is_chosen)
        .unwrap_or_default();
    let room = room.unwrap_or(lines.len()).max(1);
    let first = (chosen + 1).saturating_sub(room);
    let rows = lines.into_iter().skip(first).take(room);
    std::iter::once(format!(" {heads}")).chain(rows).collect()
}

fn newest(lines: &[String], room: usize) -> &[String] {
    &lines[lines.len().saturating_sub(room)..]
}

fn fitted(line: &str, view: &View<'_>) -> String {
    match view.width {
        Some(width) => shortened(line, width, view.glyphs.cut),
        None => line.to_owned(),
    }
}
