//! Changes of the file's text: a tunnel is added, removed, or told when to start.
//!
//! Only the bytes of the section that is changed are touched, so comments, order, blanks and line ends elsewhere stay as
//! they are. A result is handed out only if it loads, and differs from what was there in that one tunnel.

use std::path::Path;

use toml::de::{DeTable, DeValue};

use super::{Change, Config, Problems, Span, Start, TunnelName, changes, is_blank, line_of};

/// What is to be changed.
#[derive(Clone, Copy, Debug)]
pub enum Edit<'a> {
    /// A new tunnel, at the end of the file.
    Add(&'a NewTunnel),
    /// The section of a tunnel goes. Comments above it stay.
    Remove(&'a TunnelName),
    /// When a tunnel listens.
    Start(&'a TunnelName, Start),
}

/// A tunnel as a person typed it.
#[derive(Clone, Debug)]
pub struct NewTunnel {
    /// Its name.
    pub name: TunnelName,
    /// Where it leads.
    pub route: String,
    /// Where it listens; a bare number is a port.
    pub listen: Option<String>,
    /// When it listens.
    pub start: Start,
}

/// A changed text, and what it means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edited {
    /// The whole file.
    pub text: String,
    /// What it means now.
    pub config: Config,
    /// It is not what it was.
    pub is_changed: bool,
}

/// Why nothing was changed.
#[derive(Debug)]
pub enum EditError {
    /// The file is broken as it stands.
    Broken(Problems),
    /// The file would be broken; its text would be this.
    WouldBreak(Problems, String),
    /// There is no such tunnel.
    Unknown,
    /// There is one of this name.
    Exists,
    /// The tunnel is not written as a section `[tunnel.NAME]` of its own: a person has to do it.
    NotASection,
}

impl Edit<'_> {
    /// Returns the text with the change. Relative paths in it start at `base`, the folder of the file.
    pub fn apply(self, text: &str, base: &Path) -> Result<Edited, EditError> {
        let old = Config::parse(text, base).map_err(EditError::Broken)?;
        let name = self.name();
        match (self, old.tunnels.contains_key(name)) {
            (Self::Add(_), true) => return Err(EditError::Exists),
            (Self::Remove(_) | Self::Start(..), false) => return Err(EditError::Unknown),
            _ => {}
        }
        // The BOM is no part of what the places are counted in.
        let plain = super::without_bom(text);
        let bom = &text[..text.len() - plain.len()];
        let changed = match self {
            Self::Add(tunnel) => added(plain, tunnel),
            Self::Remove(name) => removed(plain, &section(plain, name)?),
            Self::Start(name, start) if old.tunnels[name].start == start => plain.to_owned(),
            Self::Start(name, start) => started(plain, &section(plain, name)?, start),
        };
        let text_now = format!("{bom}{changed}");
        let config = match Config::parse(&text_now, base) {
            Ok(config) => config,
            Err(problems) => return Err(EditError::WouldBreak(problems, text_now)),
        };
        if !self.is_all(&old, &config) {
            return Err(EditError::NotASection);
        }
        Ok(Edited {
            is_changed: text_now != text,
            text: text_now,
            config,
        })
    }

    fn name(&self) -> &TunnelName {
        match self {
            Self::Add(tunnel) => &tunnel.name,
            Self::Remove(name) | Self::Start(name, _) => name,
        }
    }

    /// Tells whether this is what differs, and all of it.
    fn is_all(self, old: &Config, new: &Config) -> bool {
        let changes = changes(old, new);
        let mut others = changes.tunnels.keys().filter(|it| *it != self.name());
        let as_meant = match (self, changes.tunnels.get(self.name())) {
            (Self::Add(_), Some(Change::Added(_))) | (Self::Remove(_), Some(Change::Removed)) => {
                true
            }
            (Self::Start(_, start), Some(Change::Changed { to, keys })) => {
                to.start == start && keys == &["start"]
            }
            (Self::Start(name, start), None) => old.tunnels[name].start == start,
            _ => false,
        };
        as_meant && others.next().is_none() && changes.settings.is_none()
    }
}

/// A section `[tunnel.NAME]`: from the line of its header to the end of the line of its last value.
struct Section {
    lines: Span,
    /// The end of the header's line.
    header_end: usize,
    /// Each key's place, and its value's.
    keys: Vec<(String, Span, Span)>,
}

fn section(text: &str, name: &TunnelName) -> Result<Section, EditError> {
    find(text, name).ok_or(EditError::NotASection)
}

fn find(text: &str, name: &TunnelName) -> Option<Section> {
    let table = DeTable::parse(text).ok()?.into_inner();
    let tunnels = table.iter().find(|it| it.0.get_ref() == "tunnel")?.1;
    let DeValue::Table(tunnels) = tunnels.get_ref() else {
        return None;
    };
    let (key, value) = tunnels.iter().find(|it| it.0.get_ref() == name.as_str())?;
    let DeValue::Table(keys) = value.get_ref() else {
        return None;
    };
    let header = whole_line(text, &key.span());
    if !text[header.clone()].trim_start().starts_with('[') {
        return None;
    }
    let keys: Vec<(String, Span, Span)> = keys
        .iter()
        .map(|(key, value)| (key.get_ref().to_string(), key.span(), value.span()))
        .collect();
    let ends = keys.iter().map(|(_, _, value)| {
        let last = value.end.saturating_sub(1).max(value.start);
        whole_line(text, &(last..last)).end
    });
    let end = ends.fold(header.end, usize::max);
    Some(Section {
        lines: header.start..end,
        header_end: header.end,
        keys,
    })
}

fn whole_line(text: &str, span: &Span) -> Span {
    let line = line_of(text, span);
    line.start..line.end.min(text.len())
}

fn line_end(text: &str) -> &'static str {
    if text.contains("\r\n") { "\r\n" } else { "\n" }
}

fn added(text: &str, tunnel: &NewTunnel) -> String {
    let quoted = |it: &str| serde_json::Value::from(it).to_string();
    let name = tunnel.name.as_str();
    let name = if name.contains('.') {
        quoted(name)
    } else {
        name.to_owned()
    };
    let mut lines = vec![
        format!("[tunnel.{name}]"),
        format!("route  = {}", quoted(&tunnel.route)),
    ];
    if let Some(listen) = &tunnel.listen {
        let is_port = listen.parse::<u16>().is_ok() && !listen.starts_with(['+', '0']);
        let listen = if is_port {
            listen.clone()
        } else {
            quoted(listen)
        };
        lines.push(format!("listen = {listen}"));
    }
    if tunnel.start == Start::Manual {
        lines.push("start  = \"manual\"".to_owned());
    }
    let end = line_end(text);
    let mut res = text.to_owned();
    if !res.is_empty() && !res.ends_with('\n') {
        res += end;
    }
    let has_gap = res.is_empty() || res.ends_with("\n\n") || res.ends_with("\n\r\n");
    if !has_gap {
        res += end;
    }
    for line in lines {
        res += &line;
        res += end;
    }
    res
}

fn removed(text: &str, section: &Section) -> String {
    let (before, after) = (&text[..section.lines.start], &text[section.lines.end..]);
    let blank = |it: &str| it.trim().is_empty();
    let has_gap = before.split_inclusive('\n').next_back().is_none_or(blank);
    let after = match after.split_inclusive('\n').next() {
        // One gap where there were two.
        Some(first) if has_gap && blank(first) => &after[first.len()..],
        _ => after,
    };
    let before = if after.is_empty() && has_gap {
        let kept = before.trim_end();
        let end = before[kept.len()..].find('\n').map_or(0, |it| it + 1);
        &before[..kept.len() + end]
    } else {
        before
    };
    let mut res = format!("{before}{after}");
    if is_blank(&res) {
        // To pomd a file that says nothing is one that is being written; this says that no tunnel is meant.
        if !res.is_empty() && !res.ends_with('\n') {
            res += line_end(text);
        }
        res += "[settings]";
        res += line_end(text);
    }
    res
}

fn started(text: &str, section: &Section, start: Start) -> String {
    let value = match start {
        Start::Auto => "\"auto\"",
        Start::Manual => "\"manual\"",
    };
    if let Some((_, _, old)) = section.keys.iter().find(|it| it.0 == "start") {
        return format!("{}{value}{}", &text[..old.start], &text[old.end..]);
    }
    // Behind the last key, aligned as that is.
    let end = section.lines.end;
    let last = section.keys.iter().max_by_key(|it| it.2.end);
    let (indent, width) = last.map_or(("", 5), |(_, key, value)| {
        let line = whole_line(text, key);
        let indent = &text[line.start..key.start];
        let equals = text[key.end..value.start].find('=').unwrap_or_default();
        let is_blank = indent.trim().is_empty();
        let width = (key.end - key.start) + equals.saturating_sub(1);
        (if is_blank { indent } else { "" }, width.max(5))
    });
    let at = end.max(section.header_end);
    let newline = line_end(text);
    let before = &text[..at];
    let gap = if before.ends_with('\n') { "" } else { newline };
    format!(
        "{before}{gap}{indent}{:<width$} = {value}{newline}{}",
        "start",
        &text[at..]
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "\
# mine
[cluster.corp]
hosts = [\"*.corp.test\"]     # one login

# the jump host
[tunnel.ssh] # do not touch
  route  = \"ssh.corp.test:22\"  # by Alice
  # an older port: 2201
  listen = 2202

# the database
[tunnel.db]
route = \"db.corp.test:5432\"
start = 'manual'   # rarely
# the end
";

    fn name(text: &str) -> TunnelName {
        TunnelName::parse(text).unwrap()
    }

    fn apply(edit: Edit<'_>, text: &str) -> String {
        edit.apply(text, Path::new("/")).unwrap().text
    }

    fn tunnel(name_: &str, listen: Option<&str>) -> NewTunnel {
        NewTunnel {
            name: name(name_),
            route: "web.corp.test:80".to_owned(),
            listen: listen.map(str::to_owned),
            start: Start::Auto,
        }
    }

    #[test]
    fn what_is_added_stands_at_the_end_and_reads_as_a_person_writes() {
        let new = tunnel("web", Some("8080"));
        let text = apply(Edit::Add(&new), FILE);
        let added = text.strip_prefix(FILE).unwrap();
        assert_eq!(
            added,
            "\n[tunnel.web]\nroute  = \"web.corp.test:80\"\nlisten = 8080\n"
        );
        let new = tunnel("a.b", Some("unix:a.sock"));
        let text = apply(Edit::Add(&new), "");
        assert_eq!(
            text,
            "[tunnel.\"a.b\"]\nroute  = \"web.corp.test:80\"\nlisten = \"unix:a.sock\"\n"
        );
        let text = apply(Edit::Add(&tunnel("x", None)), "\u{feff}# x\r\n[settings]");
        let expected =
            "\u{feff}# x\r\n[settings]\r\n\r\n[tunnel.x]\r\nroute  = \"web.corp.test:80\"\r\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn what_is_removed_takes_its_own_lines_and_one_gap() {
        let text = apply(Edit::Remove(&name("ssh")), FILE);
        let expected = FILE.replace(
            "[tunnel.ssh] # do not touch\n  route  = \"ssh.corp.test:22\"  # by Alice\n  # an older port: 2201\n  listen = 2202\n",
            "",
        );
        assert_eq!(text, expected);
        let text = apply(Edit::Remove(&name("db")), FILE);
        assert!(text.ends_with("# the database\n# the end\n"), "{text}");
    }

    #[test]
    fn a_file_whose_last_tunnel_goes_still_says_something() {
        let only = "# a\n[tunnel.x]\nroute = \"a.test:1\"\n";
        let text = apply(Edit::Remove(&name("x")), only);
        assert_eq!(text, "# a\n[settings]\n");
    }

    #[test]
    fn start_is_replaced_where_it_stands_or_written_behind_the_last_key() {
        let text = apply(Edit::Start(&name("db"), Start::Auto), FILE);
        assert_eq!(text, FILE.replace("'manual'   #", "\"auto\"   #"));
        let text = apply(Edit::Start(&name("ssh"), Start::Manual), FILE);
        let listen = "  listen = 2202\n";
        let both = format!("{listen}  start  = \"manual\"\n");
        assert_eq!(text, FILE.replace(listen, &both));
        assert_eq!(apply(Edit::Start(&name("ssh"), Start::Auto), FILE), FILE);
        let text = "[tunnel.x]\nroute=\"a.test:1\"";
        let text = apply(Edit::Start(&name("x"), Start::Manual), text);
        assert_eq!(text, "[tunnel.x]\nroute=\"a.test:1\"\nstart = \"manual\"\n");
    }

    #[test]
    fn what_is_no_section_of_its_own_is_left_to_a_person() {
        for text in [
            "tunnel.x.route = \"a.test:1\"",
            "[tunnel]\nx = { route = \"a.test:1\" }",
            "[tunnel]\nx.route = \"a.test:1\"",
            "tunnel = { x = { route = \"a.test:1\" } }",
        ] {
            for edit in [
                Edit::Remove(&name("x")),
                Edit::Start(&name("x"), Start::Manual),
            ] {
                let error = edit.apply(text, Path::new("/")).unwrap_err();
                assert!(matches!(error, EditError::NotASection), "{text}: {error:?}");
            }
        }
    }

    #[test]
    fn what_would_not_load_is_not_handed_out() {
        let edit = |edit: Edit<'_>, text: &str| edit.apply(text, Path::new("/")).unwrap_err();
        let twice = edit(Edit::Add(&tunnel("web", Some("2202"))), FILE);
        assert!(matches!(twice, EditError::WouldBreak(..)), "{twice:?}");
        let exists = edit(Edit::Add(&tunnel("db", None)), FILE);
        assert!(matches!(exists, EditError::Exists));
        let unknown = edit(Edit::Remove(&name("web")), FILE);
        assert!(matches!(unknown, EditError::Unknown));
        let broken = edit(Edit::Remove(&name("web")), "[tunnel");
        assert!(matches!(broken, EditError::Broken(_)));
        for hostile in ["a\"\n[x]", "a.test", "https://a.test"] {
            let mut new = tunnel("new", None);
            new.route = hostile.to_owned();
            let error = edit(Edit::Add(&new), FILE);
            assert!(matches!(error, EditError::WouldBreak(..)), "{error:?}");
        }
    }
}
