//! The configuration file: read, and replaced as a whole if nobody else did so meanwhile. Tells pomd of it.
//!
//! Links are followed, so a file that is a link into another folder stays one. Owner and mode stay.

use std::{
    fs, io,
    io::Write,
    path::{Path, PathBuf},
};

use control::{
    client::ClientError,
    wire::{ReloadAnswer, Status},
};
use pomd_core::config::{Config, Edit, EditError, Edited, Problems, TunnelName};

use crate::{
    context::Context,
    error::{CliError, Exit, Report},
    sanitise,
};

/// The most links that are followed from one to the next.
const LINKS_MOST: usize = 40;

/// The file as it was read.
pub(crate) struct ConfigStore {
    /// The path that was named.
    path: PathBuf,
    /// Where its links end.
    target: PathBuf,
    /// What stood there; `None` where there is no file yet.
    content: Option<Vec<u8>>,
    /// Its name as a person knows it.
    pub(crate) shown: String,
}

impl ConfigStore {
    /// Reads the file.
    pub(crate) fn open(cx: &Context) -> Result<Self, CliError> {
        let path = cx.paths.config.clone();
        let shown = sanitise::line(&cx.screen.view().path(&path));
        let failed = |it: io::Error| CliError::failed(format!("cannot read {shown}: {it}"));
        let target = end_of_links(&path).map_err(failed)?;
        let content = read(&target).map_err(failed)?;
        Ok(Self {
            path,
            target,
            content,
            shown,
        })
    }

    /// Returns the folder at which relative paths in the file start.
    pub(crate) fn base(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new("/"))
    }

    /// Returns the bytes of the file; none where there is no file.
    pub(crate) fn bytes(&self) -> &[u8] {
        self.content.as_deref().unwrap_or_default()
    }

    /// Returns the text with a change of one tunnel.
    pub(crate) fn edited(&self, edit: Edit<'_>, name: &TunnelName) -> Result<Edited, CliError> {
        self.edited_again(self.text()?, edit, name)
    }

    /// Returns the text of the file.
    pub(crate) fn text(&self) -> Result<&str, CliError> {
        std::str::from_utf8(self.bytes()).map_err(|_| {
            let message = format!("{} is not UTF-8", self.shown);
            CliError::usage("config_broken", message, None)
        })
    }

    /// Returns `text`, which the file is to become, with a change of one tunnel.
    pub(crate) fn edited_again(
        &self,
        text: &str,
        edit: Edit<'_>,
        name: &TunnelName,
    ) -> Result<Edited, CliError> {
        edit.apply(text, self.base()).map_err(|error| match error {
            EditError::Broken(problems) => {
                let message = format!("{} is broken, so nothing was changed", self.shown);
                self.report(&problems, text, &message)
            }
            EditError::WouldBreak(problems, text) => {
                let message = format!("{} would be broken, so nothing was changed", self.shown);
                self.report(&problems, &text, &message)
            }
            EditError::Unknown => self.no_tunnel(name),
            EditError::Exists => {
                let message = format!("there is a tunnel {name} already");
                let hint = format!("to have it another way: pomctl edit, or pomctl remove {name} first");
                CliError::usage("bad_request", message, Some(hint))
            }
            EditError::NotASection => {
                let message = format!(
                    "{name} does not stand in a section [tunnel.{name}] of its own, so it was left alone"
                );
                let hint = "to change it by hand: pomctl edit".to_owned();
                CliError::usage("bad_request", message, Some(hint))
            }
        })
    }

    /// Returns the error for a text with problems.
    pub(crate) fn report(&self, problems: &Problems, text: &str, message: &str) -> CliError {
        let report = problems.render(text, &self.shown, false);
        let block = sanitise::lines(&report);
        CliError::told(Report::new(Exit::Usage, "config_broken", message).block(block))
    }

    /// Returns what the file means; an absent one is an empty configuration.
    pub(crate) fn config(&self) -> Result<Config, CliError> {
        if self.content.is_none() {
            return Ok(Config::default());
        }
        Config::read(self.bytes(), self.base()).map_err(|problems| {
            let message = format!("{} is broken: {}", self.shown, problems.first_line());
            let text = String::from_utf8_lossy(self.bytes());
            self.report(&problems, &text, &sanitise::line(&message))
        })
    }

    /// Returns the names of the tunnels that the file has; none where it is broken.
    pub(crate) fn tunnels(&self) -> Vec<String> {
        let config = Config::read(self.bytes(), self.base()).unwrap_or_default();
        config.tunnels.keys().map(ToString::to_string).collect()
    }

    fn no_tunnel(&self, name: &TunnelName) -> CliError {
        let names = self.tunnels();
        let known = names.iter().map(String::as_str);
        let question = control::suggest::question(name.as_str(), known);
        let hint = match names.as_slice() {
            [] => Some(format!("there are none in {}", self.shown)),
            _ if !question.is_empty() => None,
            names if names.len() <= 8 => Some(format!("there are: {}", names.join(", "))),
            _ => None,
        };
        let message = format!("no tunnel {name}{question}");
        CliError::usage("no_such_tunnel", message, hint)
    }

    /// Replaces the file, unless it is another than the one that was read.
    pub(crate) fn save(&self, text: &str) -> Result<(), CliError> {
        let failed = |it: io::Error| CliError::failed(format!("cannot write {}: {it}", self.shown));
        let folder = self.target.parent().unwrap_or(Path::new("/"));
        make_folder(folder).map_err(failed)?;
        let mut file = tempfile::Builder::new()
            .prefix(".pomd.toml.")
            .tempfile_in(folder)
            .map_err(failed)?;
        file.write_all(text.as_bytes()).map_err(failed)?;
        if self.content.is_some() {
            keep_owner_and_mode(&self.target, file.as_file()).map_err(failed)?;
        }
        file.as_file().sync_all().map_err(failed)?;
        // Last of all, so that whoever saved meanwhile loses nothing.
        let now = end_of_links(&self.path).map_err(failed)?;
        if now != self.target || read(&now).map_err(failed)? != self.content {
            return Err(self.changed_meanwhile());
        }
        let written = match &self.content {
            Some(_) => file.persist(&self.target),
            None => file.persist_noclobber(&self.target),
        };
        match written {
            Ok(_) => {}
            Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(self.changed_meanwhile());
            }
            Err(error) => return Err(failed(error.error)),
        }
        #[cfg(unix)]
        fs::File::open(folder)
            .and_then(|it| it.sync_all())
            .map_err(failed)?;
        Ok(())
    }

    fn changed_meanwhile(&self) -> CliError {
        let message = format!(
            "{} was changed meanwhile, so nothing was written",
            self.shown
        );
        let report = Report::new(Exit::Failed, "changed_meanwhile", message);
        CliError::told(report.hint(Some("try again".to_owned())))
    }

    /// Lets a running pomd read the file, and returns what that changed; `None` where none runs on this file.
    pub(crate) async fn reload(&self, cx: &Context) -> Result<Option<ReloadAnswer>, CliError> {
        let status = match cx.client.status().await {
            Ok(status) => status,
            Err(ClientError::NotRunning) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        if !self.is_that_of(&status) {
            let other = sanitise::line(&status.pomd.config.path);
            cx.screen
                .warn(&format!("the pomd that runs reads another file: {other}"));
            return Ok(None);
        }
        Ok(Some(cx.client.reload().await?))
    }

    fn is_that_of(&self, status: &Status) -> bool {
        let theirs = Path::new(&status.pomd.config.path);
        theirs == self.path || end_of_links(theirs).is_ok_and(|it| it == self.target)
    }
}

/// Reads a tunnel's name as typed.
pub(crate) fn tunnel_name(typed: &str) -> Result<TunnelName, CliError> {
    TunnelName::parse(typed).ok_or_else(|| {
        let message = format!("{} is no name for a tunnel", sanitise::name(typed));
        let hint = "letters, digits, `.`, `_` and `-`, at most 64, a letter or digit first";
        CliError::usage("bad_request", message, Some(hint.to_owned()))
    })
}

/// Returns the path at the end of the links, whether or not there is a file.
fn end_of_links(path: &Path) -> io::Result<PathBuf> {
    let mut path = path.to_owned();
    for _ in 0..LINKS_MOST {
        match fs::read_link(&path) {
            Ok(to) => path = path.parent().unwrap_or(Path::new("/")).join(to),
            Err(_) => return Ok(path),
        }
    }
    Err(io::Error::other("too many links"))
}

fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
        Ok(it) if !it.is_file() => return Err(io::Error::other("it is not a file")),
        Ok(it) if it.len() > pomd_core::config::MOST_BYTES as u64 => {
            return Err(io::Error::other("it is larger than 1 MiB"));
        }
        Ok(_) => {}
    }
    fs::read(path).map(Some)
}

#[cfg(unix)]
fn make_folder(folder: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
}

#[cfg(unix)]
fn keep_owner_and_mode(from: &Path, to: &fs::File) -> io::Result<()> {
    use std::os::unix::fs::MetadataExt;
    let (old, new) = (fs::metadata(from)?, to.metadata()?);
    if (old.uid(), old.gid()) != (new.uid(), new.gid()) {
        std::os::unix::fs::fchown(to, Some(old.uid()), Some(old.gid()))?;
    }
    to.set_permissions(old.permissions())
}

#[cfg(not(unix))]
fn make_folder(folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)
}

#[cfg(not(unix))]
fn keep_owner_and_mode(_from: &Path, _to: &fs::File) -> io::Result<()> {
    Ok(())
}
