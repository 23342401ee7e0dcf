//! The file's shape: tables → sections with fields that have a place in the text. Judges keys and kinds of values, not
//! what the values say.
//!
//! Long because each kind of wrong key or value has words of its own beside the accessor that finds it.

use control::{suggest::nearest, text::clean};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    hints,
    report::{Found, Problem, Span, not_yet, plain},
};

const SECTIONS: [&str; 3] = ["tunnel", "cluster", "settings"];

const TUNNEL: Keys = Keys {
    kind: "tunnel",
    built: &[
        "route",
        "listen",
        "start",
        "expose",
        "ssh",
        "browser_guard",
        "allow_hosts",
    ],
    later: &["half_close"],
};
const CLUSTER: Keys = Keys {
    kind: "cluster",
    built: &[
        "hosts",
        "url",
        "connect",
        "server_name",
        "ca_file",
        "client_cert",
        "client_key",
        "forward_proxy",
        "forward_proxy_auth",
        "browser",
        "token",
        "insecure_skip_verify",
    ],
    later: &["store"],
};
/// A table that says where a secret is.
const SECRET: Keys = Keys {
    kind: "secret",
    built: &["file"],
    later: &[],
};
/// The table that says where a token is.
const TOKEN: Keys = Keys {
    kind: "token",
    built: &[
        "file",
        "env",
        "credential",
        "command",
        "github_actions",
        "kind",
    ],
    later: &[],
};
const RUNNER: Keys = Keys {
    kind: "runner",
    built: &["audience"],
    later: &[],
};
const SETTINGS: Keys = Keys {
    kind: "settings",
    built: &["read_ahead", "allow_users"],
    later: &["notify"],
};

struct Keys {
    kind: &'static str,
    built: &'static [&'static str],
    later: &'static [&'static str],
}

/// All sections of a file.
#[derive(Debug, Default)]
pub(super) struct File<'t> {
    pub(super) tunnels: Vec<Section<'t>>,
    pub(super) clusters: Vec<Section<'t>>,
    pub(super) settings: Option<Section<'t>>,
}

/// One table of the file, whose keys are all known.
#[derive(Debug)]
pub(super) struct Section<'t> {
    /// `NAME` of `[tunnel.NAME]`.
    pub(super) name: &'t str,
    /// Where the name stands.
    pub(super) span: Span,
    /// As in the file: `[tunnel.NAME]`.
    pub(super) title: String,
    table: &'t DeTable<'t>,
}

/// A value and its place.
#[derive(Clone, Debug)]
pub(super) struct Field<T> {
    pub(super) span: Span,
    pub(super) value: T,
}

/// A value that may be written in two ways.
#[derive(Clone, Debug)]
pub(super) enum Either<'t> {
    Number(i64),
    Text(&'t str),
}

impl<'t> File<'t> {
    pub(super) fn read(table: &'t DeTable<'t>, found: &mut Found) -> Self {
        let mut res = Self::default();
        for (key, value) in table {
            match (key.get_ref().as_ref(), value.get_ref()) {
                ("tunnel", DeValue::Table(it)) => {
                    res.tunnels = named("tunnel", it, &TUNNEL, found);
                }
                ("cluster", DeValue::Table(it)) => {
                    res.clusters = named("cluster", it, &CLUSTER, found);
                }
                ("settings", DeValue::Table(it)) => {
                    let section = Section {
                        name: "settings",
                        span: key.span(),
                        title: "[settings]".to_owned(),
                        table: it,
                    };
                    section.check_keys(&SETTINGS, found);
                    res.settings = Some(section);
                }
                (known, _) if SECTIONS.contains(&known) => {
                    found.push(not_a_section(known, key.span()))
                }
                (other, value) => found.push(unknown_section(other, key.span(), value)),
            }
        }
        res
    }
}

impl<'t> Section<'t> {
    pub(super) fn text(&self, key: &str, wants: &str, found: &mut Found) -> Option<Field<&'t str>> {
        self.get(key, ("a string", wants), found, |value| match value {
            DeValue::String(it) => Some(it.as_ref()),
            _ => None,
        })
    }

    pub(super) fn flag(&self, key: &str, found: &mut Found) -> Option<Field<bool>> {
        let wants = ("true or false", "write true or false");
        self.get(key, wants, found, |value| match value {
            DeValue::Boolean(it) => Some(*it),
            _ => None,
        })
    }

    pub(super) fn either(
        &self,
        key: &str,
        wants: &str,
        found: &mut Found,
    ) -> Option<Field<Either<'t>>> {
        self.get(key, ("a number or a string", wants), found, either)
    }

    /// Reads a list of texts and numbers.
    pub(super) fn list(
        &self,
        key: &str,
        wants: &str,
        found: &mut Found,
    ) -> Option<Field<Vec<Field<Either<'t>>>>> {
        let items = self.get(key, ("a list", wants), found, |value| match value {
            DeValue::Array(it) => Some(it),
            _ => None,
        })?;
        let mut res = Vec::new();
        for item in items.value.iter() {
            match either(item.get_ref()) {
                Some(value) => res.push(Field {
                    span: item.span(),
                    value,
                }),
                None => {
                    let (holds, span) = (kind(item.get_ref()), item.span());
                    let problem = Problem::at(span, format!("`{key}` holds {holds}"));
                    found.push(problem.section(&self.title).label(wants));
                }
            }
        }
        Some(Field {
            span: items.span,
            value: res,
        })
    }

    /// Reads a list of texts only.
    pub(super) fn texts(
        &self,
        key: &str,
        wants: &str,
        found: &mut Found,
    ) -> Option<Field<Vec<Field<&'t str>>>> {
        let list = self.list(key, wants, found)?;
        let mut res = Vec::new();
        for Field { span, value } in list.value {
            match value {
                Either::Text(value) => res.push(Field { span, value }),
                Either::Number(_) => found.push(
                    Problem::at(span, format!("`{key}` holds a number"))
                        .section(&self.title)
                        .label(wants),
                ),
            }
        }
        Some(Field {
            span: list.span,
            value: res,
        })
    }

    /// Reads a table that says where a secret is. A secret itself does not belong here.
    pub(super) fn secret(&self, key: &str, wants: &str, found: &mut Found) -> Option<Section<'t>> {
        let value = self.table.get(key)?;
        if !matches!(value.get_ref(), DeValue::String(_)) {
            return self.table(key, wants, found);
        }
        let what = match key {
            "token" => "a token in the file".to_owned(),
            _ => format!("the secret of `{key}` is in this file"),
        };
        found.push(
            Problem::at(value.span(), what)
                .section(&self.title)
                .label(format!("keep it out of this file: {wants}")),
        );
        None
    }

    /// Reads a table within the section.
    pub(super) fn table(&self, key: &str, wants: &str, found: &mut Found) -> Option<Section<'t>> {
        let value = self.table.get(key)?;
        let DeValue::Table(table) = value.get_ref() else {
            found.push(self.wrong_kind(key, value, ("a table", wants)));
            return None;
        };
        let section = Section {
            name: self.name,
            span: value.span(),
            title: self.title.clone(),
            table,
        };
        let keys = match key {
            "token" => &TOKEN,
            "github_actions" => &RUNNER,
            _ => &SECRET,
        };
        section.check_keys(keys, found);
        Some(section)
    }

    pub(super) fn is_list(&self, key: &str) -> bool {
        self.table
            .get(key)
            .is_some_and(|it| matches!(it.get_ref(), DeValue::Array(_)))
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    fn get<T>(
        &self,
        key: &str,
        wants: (&str, &str),
        found: &mut Found,
        take: impl FnOnce(&'t DeValue<'t>) -> Option<T>,
    ) -> Option<Field<T>> {
        let value = self.table.get(key)?;
        match take(value.get_ref()) {
            Some(it) => Some(Field {
                span: value.span(),
                value: it,
            }),
            None => {
                found.push(self.wrong_kind(key, value, wants));
                None
            }
        }
    }

    /// Returns the problem of a value of the wrong kind; `wants` are the kind that it must be, and what to write.
    fn wrong_kind(&self, key: &str, value: &Spanned<DeValue<'_>>, wants: (&str, &str)) -> Problem {
        let kind = match kind(value.get_ref()) {
            it if it == wants.0 => String::new(),
            it => format!(", not {it}"),
        };
        Problem::at(value.span(), format!("`{key}` must be {}{kind}", wants.0))
            .section(&self.title)
            .label(wants.1)
    }

    fn check_keys(&self, keys: &Keys, found: &mut Found) {
        for (key, value) in self.table {
            let name: &str = key.get_ref().as_ref();
            if keys.later.contains(&name) {
                found.push(later(name, key.span()).section(&self.title));
            } else if !keys.built.contains(&name) {
                let is_section = matches!(keys.kind, "tunnel" | "cluster");
                found.push(match value.get_ref() {
                    DeValue::Table(_) if is_section => self.dotted(keys, name, key.span()),
                    other => self.unknown(keys, name, key.span(), other),
                });
            }
        }
    }

    /// Returns the problem of `[tunnel.ssh.prod]`, which TOML takes for a table inside of `[tunnel.ssh]`.
    fn dotted(&self, keys: &Keys, name: &str, span: Span) -> Problem {
        let (kind, outer) = (keys.kind, self.name);
        let quoted = written(&format!("{outer}.{name}"));
        Problem::at(span, format!("a dot in the name of a {kind}"))
            .section(&format!("[{kind}.{}.{}]", written(outer), written(name)))
            .label(format!(
                "write [{kind}.{}] or [{kind}.{quoted}]",
                plain(&format!("{outer}-{name}"))
            ))
    }

    fn unknown(&self, keys: &Keys, name: &str, span: Span, value: &DeValue<'_>) -> Problem {
        let what = format!("unknown key `{}`", clean(name, 40));
        let problem = Problem::at(span, what).section(&self.title);
        let others = [&TUNNEL, &CLUSTER, &SETTINGS];
        let elsewhere = others.iter().find(|it| it.built.contains(&name));
        if keys.kind == "tunnel"
            && let Some(instead) = hints::instead_in_tunnel(name, value, self.table)
        {
            return problem.label(instead);
        }
        if let Some(near) =
            hints::meant(keys.kind, name).or_else(|| nearest(name, keys.built.iter().copied()))
        {
            return problem.label(format!("did you mean `{near}`?"));
        }
        match elsewhere.map(|it| it.kind) {
            Some("settings") => problem.label("it belongs in [settings]"),
            Some(kind) => problem.label(format!("it belongs in a [{kind}.NAME] section")),
            None => problem
                .label("unknown key")
                .help(format!("valid keys: {}", keys.built.join(", "))),
        }
    }

    /// Whether a key that is wrong was probably meant to be `key`, or the whole section to be another.
    pub(super) fn means(&self, key: &str) -> bool {
        let mut keys = self.table.iter().map(|it| it.0.get_ref().as_ref());
        self.holds_only_tables() || keys.any(|it| hints::meant("tunnel", it) == Some(key))
    }

    /// Whether the section holds tables and nothing else, as `[tunnel.ssh]` does where there is only `[tunnel.ssh.prod]`.
    pub(super) fn holds_only_tables(&self) -> bool {
        let is_table = |it: &Spanned<DeValue<'_>>| matches!(it.get_ref(), DeValue::Table(_));
        !self.table.is_empty() && self.table.iter().all(|it| is_table(it.1))
    }
}

fn named<'t>(
    kind: &str,
    table: &'t DeTable<'t>,
    keys: &Keys,
    found: &mut Found,
) -> Vec<Section<'t>> {
    let mut res = Vec::new();
    for (key, value) in table {
        let name: &str = key.get_ref().as_ref();
        let title = title(kind, name);
        match value.get_ref() {
            DeValue::Table(table) => {
                let section = Section {
                    name,
                    span: key.span(),
                    title,
                    table,
                };
                section.check_keys(keys, found);
                res.push(section);
            }
            _ if keys.built.contains(&name) || keys.later.contains(&name) => found.push(
                Problem::at(
                    key.span(),
                    format!("`{name}` is outside of a [{kind}.NAME] section"),
                )
                .section(&format!("[{kind}]"))
                .label(format!("give the {kind} a name above it: [{kind}.NAME]")),
            ),
            _ => found.push(
                Problem::at(key.span(), format!("{title} is not a section")).label(format!(
                    "write it as {title}, and its keys on the lines below"
                )),
            ),
        }
    }
    res
}

/// Returns `[tunnel.NAME]`, as the file has it.
pub(super) fn title(kind: &str, name: &str) -> String {
    format!("[{kind}.{}]", written(name))
}

/// Returns a key as TOML wants it: quoted unless it is plain.
fn written(name: &str) -> String {
    let plain = |it: char| it.is_ascii_alphanumeric() || it == '_' || it == '-';
    if !name.is_empty() && name.chars().all(plain) {
        clean(name, 80)
    } else {
        format!("\"{}\"", clean(name, 80))
    }
}

fn later(key: &str, span: Span) -> Problem {
    Problem::at(span, not_yet(&format!("`{key}`"))).label("remove it")
}

fn not_a_section(name: &str, span: Span) -> Problem {
    let header = match name {
        "settings" => "[settings]".to_owned(),
        other => format!("[{other}.NAME]"),
    };
    Problem::at(span, format!("`{name}` is not a section")).label(format!(
        "write it as {header}, and its keys on the lines below"
    ))
}

fn unknown_section(name: &str, span: Span, value: &DeValue<'_>) -> Problem {
    let key = [&TUNNEL, &CLUSTER, &SETTINGS]
        .iter()
        .zip(["[tunnel.NAME]", "[cluster.NAME]", "[settings]"])
        .find(|it| it.0.built.contains(&name) || it.0.later.contains(&name));
    if let Some((_, section)) = key {
        return Problem::at(span, format!("`{name}` is outside of a section"))
            .label(format!("write {section} above it"));
    }
    let problem = Problem::at(span, format!("unknown section `{}`", clean(name, 40)));
    match nearest(name, SECTIONS) {
        Some(near) if matches!(value, DeValue::Array(_)) => problem.label(format!(
            "write [{near}.NAME], and its keys on the lines below"
        )),
        Some(near) => problem.label(format!("did you mean `{near}`?")),
        None => problem
            .label("unknown section")
            .help("valid sections: [tunnel.NAME], [cluster.NAME], [settings]"),
    }
}

fn either<'t>(value: &'t DeValue<'t>) -> Option<Either<'t>> {
    match value {
        DeValue::String(it) => Some(Either::Text(it.as_ref())),
        DeValue::Integer(it) => {
            // One too large is too large for every use: the largest stands for it.
            let number = i64::from_str_radix(it.as_str(), it.radix());
            Some(Either::Number(number.unwrap_or(i64::MAX)))
        }
        _ => None,
    }
}

fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) | DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
