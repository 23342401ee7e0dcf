//! The file's shape: tables → sections with fields that have a place in the text. Judges keys and kinds of values, not
//! what the values say.

use control::text::clean;
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    near::nearest,
    report::{Found, Problem, Span, not_yet},
};

const SECTIONS: [&str; 3] = ["tunnel", "cluster", "settings"];

const TUNNEL: Keys = Keys {
    built: &["route", "listen", "start", "expose", "ssh"],
    later: &["half_close", "browser_guard", "allow_hosts"],
};
const CLUSTER: Keys = Keys {
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
        "insecure_skip_verify",
    ],
    later: &["token", "store"],
};
/// A table that says where a secret is.
const SECRET: Keys = Keys {
    built: &["file"],
    later: &[],
};
const SETTINGS: Keys = Keys {
    built: &["read_ahead", "allow_users"],
    later: &["notify"],
};

struct Keys {
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
                    section.judge_keys(&SETTINGS, found);
                    res.settings = Some(section);
                }
                (known, _) if SECTIONS.contains(&known) => {
                    found.push(not_a_section(known, key.span()))
                }
                (other, _) => found.push(unknown_section(other, key.span())),
            }
        }
        res
    }
}

impl<'t> Section<'t> {
    pub(super) fn text(&self, key: &str, wants: &str, found: &mut Found) -> Option<Field<&'t str>> {
        self.get(key, wants, found, |value| match value {
            DeValue::String(it) => Some(it.as_ref()),
            _ => None,
        })
    }

    pub(super) fn flag(&self, key: &str, found: &mut Found) -> Option<Field<bool>> {
        self.get(key, "write true or false", found, |value| match value {
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
        self.get(key, wants, found, either)
    }

    /// A list of texts and numbers.
    pub(super) fn list(
        &self,
        key: &str,
        wants: &str,
        found: &mut Found,
    ) -> Option<Field<Vec<Field<Either<'t>>>>> {
        let items = self.get(key, wants, found, |value| match value {
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
                None => found.push(self.wrong_kind(key, item, wants)),
            }
        }
        Some(Field {
            span: items.span,
            value: res,
        })
    }

    /// A list of texts only.
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

    /// A table that says in which file a secret is. A secret itself does not belong here.
    pub(super) fn secret(&self, key: &str, wants: &str, found: &mut Found) -> Option<Section<'t>> {
        let value = self.table.get(key)?;
        match value.get_ref() {
            DeValue::Table(table) => {
                let section = Section {
                    name: self.name,
                    span: value.span(),
                    title: self.title.clone(),
                    table,
                };
                section.judge_keys(&SECRET, found);
                Some(section)
            }
            DeValue::String(_) => {
                found.push(
                    Problem::at(value.span(), format!("the secret of `{key}` in the file"))
                        .section(&self.title)
                        .label(format!("keep it out of this file: {wants}")),
                );
                None
            }
            _ => {
                found.push(self.wrong_kind(key, value, wants));
                None
            }
        }
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
        wants: &str,
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

    fn wrong_kind(&self, key: &str, value: &Spanned<DeValue<'_>>, wants: &str) -> Problem {
        let kind = kind(value.get_ref());
        Problem::at(value.span(), format!("`{key}` can't be {kind}"))
            .section(&self.title)
            .label(wants)
    }

    fn judge_keys(&self, keys: &Keys, found: &mut Found) {
        for (key, value) in self.table {
            let name: &str = key.get_ref().as_ref();
            if keys.later.contains(&name) {
                found.push(later(name, key.span(), value).section(&self.title));
            } else if !keys.built.contains(&name) {
                let problem = Problem::at(key.span(), format!("unknown key `{}`", clean(name, 40)))
                    .section(&self.title);
                found.push(match nearest(name, keys.built) {
                    Some(near) => problem.label(format!("did you mean `{near}`?")),
                    None => problem
                        .label("no such key")
                        .help(format!("keys here: {}", keys.built.join(", "))),
                });
            }
        }
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
        let title = format!("[{kind}.{}]", written(name));
        match value.get_ref() {
            DeValue::Table(table) => {
                let section = Section {
                    name,
                    span: key.span(),
                    title,
                    table,
                };
                section.judge_keys(keys, found);
                res.push(section);
            }
            _ if keys.built.contains(&name) || keys.later.contains(&name) => found.push(
                Problem::at(key.span(), format!("`{name}` stands outside of a {kind}"))
                    .section(&format!("[{kind}]"))
                    .label(format!("give the {kind} a name above it: [{kind}.NAME]")),
            ),
            _ => found.push(
                Problem::at(key.span(), format!("{title} is no section")).label(format!(
                    "write it as {title}, and its keys on the lines below"
                )),
            ),
        }
    }
    res
}

/// A key as TOML wants it: quoted unless it is plain.
fn written(name: &str) -> String {
    let plain = |it: char| it.is_ascii_alphanumeric() || it == '_' || it == '-';
    if !name.is_empty() && name.chars().all(plain) {
        clean(name, 80)
    } else {
        format!("\"{}\"", clean(name, 80))
    }
}

fn later(key: &str, span: Span, value: &Spanned<DeValue<'_>>) -> Problem {
    if key == "token" && !matches!(value.get_ref(), DeValue::Table(_)) {
        return Problem::at(span, "a token in the file")
            .label("keep it out of this file")
            .help(format!(
                "{}: remove it, and log in with a browser",
                not_yet("`token`")
            ));
    }
    Problem::at(span, not_yet(&format!("`{key}`"))).label("remove it")
}

fn not_a_section(name: &str, span: Span) -> Problem {
    let header = match name {
        "settings" => "[settings]".to_owned(),
        other => format!("[{other}.NAME]"),
    };
    Problem::at(span, format!("`{name}` is no section")).label(format!(
        "write it as {header}, and its keys on the lines below"
    ))
}

fn unknown_section(name: &str, span: Span) -> Problem {
    let key = [&TUNNEL, &CLUSTER, &SETTINGS]
        .iter()
        .zip(["[tunnel.NAME]", "[cluster.NAME]", "[settings]"])
        .find(|it| it.0.built.contains(&name) || it.0.later.contains(&name));
    if let Some((_, section)) = key {
        return Problem::at(span, format!("`{name}` stands outside of a section"))
            .label(format!("write {section} above it"));
    }
    let problem = Problem::at(span, format!("unknown section `{}`", clean(name, 40)));
    match nearest(name, &SECTIONS) {
        Some(near) => problem.label(format!("did you mean `{near}`?")),
        None => problem
            .label("no such section")
            .help("sections: [tunnel.NAME], [cluster.NAME], [settings]"),
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
        DeValue::String(_) => "a text",
        DeValue::Integer(_) | DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
