//! The key `token` of a cluster: where its token comes from when nobody is to log in by a browser.

use std::path::{Path, PathBuf};

use super::{
    Wrong,
    check::parsed,
    file::{Field, Section},
    named::read_path,
    report::{Found, Problem, quoted},
};

const TOKEN: &str = "token = { file = \"/run/secrets/pomerium\" }";
const KIND: &str = "write \"pomerium\" or \"bearer\"";
const COMMAND: &str =
    "write a program and its arguments: [\"gcloud\", \"auth\", \"print-identity-token\"]";
const VARIABLE: &str = "write the name of an environment variable: \"POMERIUM_TOKEN\"";
const CREDENTIAL: &str = "write the name that LoadCredential= gives it: \"pomerium\"";
const GITHUB: &str = "github_actions = { audience = \"https://corp.example.com\" }";

/// Where a cluster's token comes from, and how it is sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenSpec {
    /// Where from.
    pub source: TokenSource,
    /// How it is sent.
    pub kind: TokenKind,
}

/// Where a cluster's token comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum TokenSource {
    /// A person logs in by a browser.
    #[default]
    Browser,
    /// A file, read again when it changed. Absolute.
    File(PathBuf),
    /// An environment variable of pomd's.
    Env(String),
    /// A credential that systemd hands over, by its name (`$CREDENTIALS_DIRECTORY`).
    Credential(String),
    /// A program that prints it, and its arguments; never empty.
    Command(Vec<String>),
    /// The token service of a GitHub Actions runner.
    GithubActions {
        /// Whom the token is for.
        audience: String,
    },
}

/// How a token is sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TokenKind {
    /// `Authorization: Pomerium TOKEN`: a login's, or a service account's.
    #[default]
    Pomerium,
    /// `Authorization: Bearer TOKEN`: one that an identity provider or a workload's platform issued
    /// (Pomerium's `bearer_token_format`).
    Bearer,
}

impl TokenSource {
    /// Tells whether a person has to log in.
    pub fn asks_a_person(&self) -> bool {
        *self == Self::Browser
    }

    /// Returns the file that is read, where it is one of the configuration's.
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::File(path) => Some(path),
            _ => None,
        }
    }
}

/// Reads the key `token` of a cluster's section.
pub(super) fn token(
    section: &Section<'_>,
    base: &Path,
    partial: bool,
    found: &mut Found,
) -> TokenSpec {
    let Some(table) = section.secret("token", TOKEN, found) else {
        return TokenSpec::default();
    };
    let sources = sources(&table, base, found);
    let named = ["file", "env", "credential", "command", "github_actions"];
    let mut named = named.iter().filter(|it| table.has(it));
    match (named.next(), named.next()) {
        (None, _) if !partial => found.push(
            Problem::at(table.span.clone(), "`token` names no source")
                .section(&section.title)
                .label(TOKEN),
        ),
        (Some(first), Some(second)) => found.push(
            Problem::at(table.span.clone(), "`token` names two sources")
                .section(&section.title)
                .label(format!("leave one of `{first}` and `{second}`")),
        ),
        _ => {}
    }
    let kind = table.text("kind", KIND, found);
    let kind = parsed(&table, kind, read_kind, found);
    let source = sources.unwrap_or_default();
    let is_workload = matches!(source, TokenSource::GithubActions { .. });
    if let Some(it) = kind
        .as_ref()
        .filter(|it| is_workload && it.value == TokenKind::Pomerium)
    {
        found.push(
            Problem::at(it.span.clone(), "a runner's token is never of this kind")
                .section(&section.title)
                .label("remove it, or write kind = \"bearer\""),
        );
    }
    let usual = match is_workload {
        true => TokenKind::Bearer,
        false => TokenKind::Pomerium,
    };
    TokenSpec {
        source,
        kind: kind.map_or(usual, |it| it.value),
    }
}

fn sources(table: &Section<'_>, base: &Path, found: &mut Found) -> Option<TokenSource> {
    let file = table.text("file", "write the name of a file", found);
    let file = parsed(table, file, read_path, found);
    let env = table.text("env", VARIABLE, found);
    let env = parsed(table, env, read_variable, found);
    let credential = table.text("credential", CREDENTIAL, found);
    let credential = parsed(table, credential, read_credential, found);
    let command = command(table, found);
    let audience = table.table("github_actions", GITHUB, found).and_then(|it| {
        let audience = it.text("audience", GITHUB, found);
        if !it.has("audience") {
            found.push(
                Problem::at(it.span.clone(), "`github_actions` names no audience")
                    .section(&table.title)
                    .label(GITHUB),
            );
        }
        parsed(&it, audience, read_audience, found)
    });
    if let Some(it) = &file {
        found.locate(&table.title, "token", it.span.clone());
    }
    let file = file.map(|it| TokenSource::File(base.join(it.value)));
    file.or(env.map(|it| TokenSource::Env(it.value)))
        .or(credential.map(|it| TokenSource::Credential(it.value)))
        .or(command.map(TokenSource::Command))
        .or(audience.map(|it| TokenSource::GithubActions { audience: it.value }))
}

fn command(table: &Section<'_>, found: &mut Found) -> Option<Vec<String>> {
    let list: Field<Vec<Field<&str>>> = table.texts("command", COMMAND, found)?;
    let words: Vec<String> = list.value.iter().map(|it| it.value.to_owned()).collect();
    let is_good = words.first().is_some_and(|it| !it.trim().is_empty())
        && words.iter().all(|it| !it.contains('\0'));
    if !is_good {
        found.push(
            Problem::at(list.span, "no program in `command`")
                .section(&table.title)
                .label(COMMAND),
        );
    }
    is_good.then_some(words)
}

fn read_kind(text: &str) -> Result<TokenKind, Wrong> {
    match text {
        "pomerium" => Ok(TokenKind::Pomerium),
        "bearer" => Ok(TokenKind::Bearer),
        other => Err(Wrong::new(
            format!("unknown kind of token {}", quoted(other)),
            KIND,
        )),
    }
}

/// POSIX's names, and what else an environment can hold: anything but `=` and zero.
fn read_variable(text: &str) -> Result<String, Wrong> {
    if text.is_empty()
        || text.starts_with('$')
        || text.contains(['=', '\0'])
        || text.contains(char::is_whitespace)
    {
        return Err(Wrong::new("no name of a variable", VARIABLE));
    }
    Ok(text.to_owned())
}

/// As systemd takes it (systemd.exec(5), LoadCredential=): a file name, so that it leads nowhere else.
fn read_credential(text: &str) -> Result<String, Wrong> {
    let bad = text.is_empty()
        || matches!(text, "." | "..")
        || text.contains(['/', '\\', ':'])
        || text.contains(char::is_control);
    if bad {
        return Err(Wrong::new(
            format!("no name of a credential: {}", quoted(text)),
            CREDENTIAL,
        ));
    }
    Ok(text.to_owned())
}

fn read_audience(text: &str) -> Result<String, Wrong> {
    if text.trim().is_empty() || text.contains(char::is_control) {
        return Err(Wrong::new("no audience", GITHUB));
    }
    Ok(text.to_owned())
}
