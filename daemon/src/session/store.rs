//! Where tokens rest between two lives of pomd: one file for each address where a login was made.
//!
//! A file appears whole or not at all, and one that cannot be understood is set aside, never deleted. Knows names and
//! contents; the calls themselves are [`Fs`].

use std::{
    borrow::Cow,
    io::{self, ErrorKind},
    path::PathBuf,
    sync::Arc,
};

use jiff::Timestamp;
use pomd_core::{
    config::{Address, Host},
    session::token::{Credential, Token},
};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

use crate::system::disk::{self, Folder, Fs, Opened, describe};
use pomd_core::session::Write;

/// The folder of the files, inside of the state folder.
const FOLDER: &str = "tokens";
/// Counts changes after which an older pomd cannot read the file.
const VERSION: u32 = 1;
/// The largest file that is read.
pub const FILE_MOST: usize = 64 << 10;
/// Longer names are cut and told apart by a hash; the system takes 255 bytes, and we put words around ours.
const STEM_MOST: usize = 180;

/// The tokens of one state folder.
#[derive(Clone, Debug)]
pub(super) struct Store {
    state: PathBuf,
    fs: Arc<dyn Fs>,
}

/// What the disk did not take.
#[derive(Debug, thiserror::Error)]
pub(super) enum WriteError {
    /// The login is saved only in memory.
    #[error("cannot save the login: {}", describe(.0))]
    Save(io::Error),
    /// A login is saved that should not be.
    #[error("cannot remove the saved login: {}", describe(.0))]
    Remove(io::Error),
}

#[derive(Serialize, Deserialize)]
struct Record<'a> {
    version: u32,
    #[serde(borrow)]
    address: Cow<'a, str>,
    #[serde(borrow)]
    token: Cow<'a, str>,
    user: Option<String>,
    subject: Option<String>,
    since: Timestamp,
    until: Option<Timestamp>,
}

impl Store {
    pub(super) fn new(state: PathBuf, fs: Arc<dyn Fs>) -> Self {
        Self { state, fs }
    }

    /// The first login that rests under one of `addresses`. Clears away what a killed pomd left half-written. Trouble
    /// is logged and costs a login, never the start.
    pub(super) fn load(&self, addresses: &[Address]) -> Option<Credential> {
        let folder = match self.fs.open_folder(&self.state, Some(FOLDER), false) {
            Ok(folder) => folder,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::warn!(
                    "cannot open the folder of saved logins: {}",
                    describe(&error)
                );
                return None;
            }
        };
        let names: Vec<String> = addresses.iter().map(file_name).collect();
        disk::clear_half_written(&*self.fs, &folder, &names);
        addresses.iter().find_map(|it| self.read(&folder, it))
    }

    /// Makes all changes of `write`, in its order. On an error what came before it is done.
    pub(super) fn write(&self, write: &Write) -> Result<(), WriteError> {
        for address in &write.purge {
            self.purge(address).map_err(WriteError::Remove)?;
        }
        if let Some(login) = &write.save {
            self.save(login).map_err(WriteError::Save)?;
        }
        for address in &write.remove {
            self.forget(address).map_err(WriteError::Remove)?;
        }
        Ok(())
    }

    /// Makes `login` the one that rests under its address. On an error the older one is whole.
    pub(super) fn save(&self, login: &Credential) -> io::Result<()> {
        let bytes = encode(login)?;
        let folder = self.fs.open_folder(&self.state, Some(FOLDER), true)?;
        disk::replace(&*self.fs, &folder, &file_name(&login.address), &bytes)
    }

    /// No login rests under `address` afterwards.
    pub(super) fn forget(&self, address: &Address) -> io::Result<()> {
        let gone = self
            .fs
            .open_folder(&self.state, Some(FOLDER), false)
            .and_then(|folder| {
                self.fs.remove(&folder, &file_name(address))?;
                self.fs.sync_folder(&folder)
            });
        match gone {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    /// Nothing that may hold a token rests under `address` afterwards: neither a login nor a file that was set aside as
    /// broken, which the server may still take, nor one that was being written (A30).
    pub(super) fn purge(&self, address: &Address) -> io::Result<()> {
        let folder = match self.fs.open_folder(&self.state, Some(FOLDER), false) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        let name = file_name(address);
        for it in [aside(&name), name.clone()] {
            match self.fs.remove(&folder, &it) {
                Ok(()) => (),
                // A folder that stands in a file's place holds no token of ours.
                Err(it) if matches!(it.kind(), ErrorKind::NotFound | ErrorKind::IsADirectory) => (),
                Err(error) => return Err(error),
            }
        }
        disk::clear_half_written(&*self.fs, &folder, &[name]);
        self.fs.sync_folder(&folder)
    }

    fn read(&self, folder: &Folder, address: &Address) -> Option<Credential> {
        let name = file_name(address);
        let why = match self.try_read(folder, &name, address) {
            Ok(Ok(login)) => return Some(login),
            Ok(Err(why)) => why,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                // It may be whole: it stays where it is.
                tracing::warn!("cannot read the saved login {name}: {}", describe(&error));
                return None;
            }
        };
        let aside = aside(&name);
        match self.fs.rename(folder, &name, &aside) {
            Ok(()) => {
                tracing::warn!("the saved login {name} is unusable, set aside as {aside}: {why}");
            }
            Err(error) => tracing::warn!(
                "the saved login {name} is unusable: {why}; it cannot be set aside: {}",
                describe(&error)
            ),
        }
        None
    }

    fn try_read(
        &self,
        folder: &Folder,
        name: &str,
        address: &Address,
    ) -> io::Result<Result<Credential, String>> {
        match self.fs.open(folder, name)? {
            Opened::File(file) => Ok(decode(&self.fs.read(file, FILE_MOST)?, address)),
            Opened::Suspect(why) => Ok(Err(why)),
        }
    }
}

/// Returns the text of the file that keeps this login.
///
/// # Errors
/// The login cannot be written as JSON.
pub fn encode(login: &Credential) -> io::Result<Zeroizing<Vec<u8>>> {
    let record = Record {
        version: VERSION,
        address: login.address.to_string().into(),
        token: login.token.reveal().into(),
        user: login.user.clone(),
        subject: login.subject.clone(),
        since: login.since,
        until: login.until,
    };
    // Room for all of it at once: growing would leave copies behind.
    let mut res = Zeroizing::new(Vec::with_capacity(FILE_MOST));
    serde_json::to_writer(&mut *res, &record)?;
    Ok(res)
}

/// Reads the text of a file that keeps a login at `address`.
///
/// # Errors
/// It holds none; why, in words that quote nothing of it.
pub fn decode(bytes: &[u8], address: &Address) -> Result<Credential, String> {
    if bytes.len() > FILE_MOST {
        return Err("it is too large".to_owned());
    }
    // The parser's own words could quote the file.
    let mut record: Record<'_> =
        serde_json::from_slice(bytes).map_err(|it| format!("line {} is broken", it.line()))?;
    let token = Token::parse(&record.token);
    if let Cow::Owned(it) = &mut record.token {
        it.zeroize();
    }
    if record.version != VERSION {
        return Err(format!("it is of version {}", record.version));
    }
    if record.address != address.to_string() {
        return Err("it is of another address".to_owned());
    }
    Ok(Credential {
        address: address.clone(),
        token: token.ok_or("it holds no token")?,
        user: record.user.map(|it| control::text::clean(&it, 200)),
        subject: record.subject,
        since: record.since,
        until: record.until,
    })
}

/// `corp.example.com.json`; with what differs from `https` and its port behind a `_`. An underscore of the host is
/// doubled, so that no two addresses share a name.
fn file_name(address: &Address) -> String {
    let host = match &address.host {
        Host::Name(name) => name.replace('_', "__"),
        Host::Ip(ip) => format!("ip~{}", ip.to_string().replace(':', "-")),
    };
    let scheme = if address.tls { "" } else { "http" };
    let port = match (address.tls, address.port) {
        (true, 443) | (false, 80) => String::new(),
        (_, port) => port.to_string(),
    };
    let gap = if scheme.is_empty() && port.is_empty() {
        ""
    } else {
        "_"
    };
    let stem = format!("{host}{gap}{scheme}{port}");
    match stem.get(..STEM_MOST) {
        Some(start) if stem.len() > STEM_MOST => format!("{start}~{:016x}.json", hash(&stem)),
        _ => format!("{stem}.json"),
    }
}

/// The name of a file that was set aside.
fn aside(name: &str) -> String {
    format!("{name}.broken")
}

/// FNV-1a: the same in every release, which the standard library's does not promise.
fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |res, byte| {
        (res ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests;
