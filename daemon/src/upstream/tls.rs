//! The TLS settings of one cluster: roots and client certificate.
//!
//! The files are read when first needed, and again when they changed.
//!
//! Long because what a check says of the files must be what using them says.

pub(super) mod certificate;
pub mod cipher_suites;
pub(super) mod handshake;
mod pem;

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use jiff::Timestamp;
use pomd_core::{
    config::{ClientIdentity, ClusterSpec, Host},
    route::error::{FileError, FileProblem, PemError, SettingsError, TlsError},
    words::{self, tls::Term},
};
use rustls::{
    ClientConfig, Error, InconsistentKeys,
    client::Resumption,
    client::danger::ServerCertVerifier,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName},
    sign::CertifiedKey,
};
use rustls_platform_verifier::Verifier;
use tokio::{sync::Semaphore, task::spawn_blocking, time::timeout};
use zeroize::Zeroizing;

use certificate::{AcceptsAny, Identity, NamesIssuer};

use super::{proxy, record::Remote, transport::Transport};
use crate::named_file::{self, Kind, ReadError};

/// A certificate or key file is a few KiB, a bundle of roots some hundred.
const FILE: u64 = 16 << 20;

/// Makes the TLS settings of one cluster.
#[derive(Debug)]
pub(super) struct Tls {
    files: Arc<Files>,
    /// One at a time looks at the files; the others wait for what it found. A look whose time was over goes on holding
    /// its thread, so no second one may join it.
    looking: Arc<Semaphore>,
    limit: Duration,
}

/// TLS settings, ready to use.
#[derive(Clone, Debug)]
pub(super) struct Secure {
    pub(super) config: Arc<ClientConfig>,
    pub(super) identity: Arc<Identity>,
}

/// What the settings are made from, and what was made.
#[derive(Debug)]
struct Files {
    ca_file: Option<PathBuf>,
    identity: Option<ClientIdentity>,
    insecure: bool,
    made: Mutex<Made>,
}

#[derive(Debug, Default)]
struct Made {
    current: Option<(Secure, Vec<Stamp>)>,
    /// The newest warning, so that it is given once.
    warned: Option<String>,
}

/// What was read of the files.
#[derive(Debug, Default)]
struct Seen {
    stamps: Vec<Stamp>,
    warnings: Vec<String>,
}

/// By which a changed file is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    length: u64,
    content: u64,
}

impl Tls {
    /// Touches no file yet. `limit` is how long the files may take, and a handshake.
    pub(super) fn new(spec: &ClusterSpec, limit: Duration) -> Self {
        Self {
            files: Arc::new(Files::new(spec)),
            looking: Arc::new(Semaphore::new(1)),
            limit,
        }
    }

    /// Returns the settings as the files say now; as they said before where a changed one cannot be used (T5, T7).
    pub(super) async fn secure(&self) -> Result<Secure, SettingsError> {
        if let Some(ready) = self.files.ready() {
            return Ok(ready);
        }
        let files = Arc::clone(&self.files);
        let looking = Arc::clone(&self.looking);
        let looked = async move {
            let turn = looking.acquire_owned().await.ok()?;
            let look = spawn_blocking(move || {
                let _turn = turn;
                files.look()
            });
            look.await.ok()
        };
        match timeout(self.limit, looked).await {
            Ok(found) => found.unwrap_or(Err(SettingsError::Ending)),
            Err(_) => Err(SettingsError::TimedOut(self.limit)),
        }
    }

    /// Shakes hands over `socket` with a server that has to prove the name `host`: the one way to TLS.
    pub(super) async fn handshake(
        &self,
        socket: impl Into<Transport>,
        host: &Host,
    ) -> Result<(Remote, Secure), TlsError> {
        let secure = self.secure().await?;
        let name = server_name(host)?;
        let shaking = Remote::handshake(socket, Arc::clone(&secure.config), name);
        match timeout(self.limit, shaking).await {
            Ok(Ok(remote)) => Ok((remote, secure)),
            Ok(Err(error)) => Err(handshake::error(error, &secure.identity)),
            Err(_) => Err(TlsError::TimedOut(self.limit)),
        }
    }
}

impl Files {
    fn new(spec: &ClusterSpec) -> Self {
        Self {
            ca_file: spec.ca_file.clone(),
            identity: spec.client_identity.clone(),
            insecure: spec.insecure_skip_verify,
            made: Mutex::default(),
        }
    }

    /// The files, in the order in which they are read.
    fn paths(&self) -> impl Iterator<Item = (&Path, Kind)> {
        let pair = self.identity.iter().flat_map(|it| {
            [
                (it.certificate.as_path(), Kind::Public),
                (it.key.as_path(), Kind::Secret),
            ]
        });
        let authorities = self.ca_file.as_deref().map(|it| (it, Kind::Public));
        authorities.into_iter().chain(pair)
    }

    /// Settings that depend on no file are made once.
    fn ready(&self) -> Option<Secure> {
        if self.paths().next().is_some() {
            return None;
        }
        let made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        Some(made.current.as_ref()?.0.clone())
    }

    fn look(&self) -> Result<Secure, SettingsError> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((secure, stamps)) = &mut made.current
            && self.unchanged(stamps)
        {
            return Ok(secure.clone());
        }
        match self.make() {
            Ok((secure, seen)) => {
                for warning in &seen.warnings {
                    tracing::warn!("{warning}");
                }
                made.current = Some((secure.clone(), seen.stamps));
                made.warned = None;
                Ok(secure)
            }
            Err(problem) => {
                let Some((secure, _)) = &made.current else {
                    return Err(problem);
                };
                let secure = secure.clone();
                let problem = words::tls::settings(&problem);
                if made.warned.as_ref() != Some(&problem) {
                    tracing::warn!("{problem}; what it said before stays in use");
                    made.warned = Some(problem);
                }
                Ok(secure)
            }
        }
    }

    /// The files still say what they said at `stamps`, which follow a mere touch.
    fn unchanged(&self, stamps: &mut [Stamp]) -> bool {
        self.paths().zip(stamps).all(|((path, kind), stamp)| {
            let Ok(found) = std::fs::metadata(path) else {
                return false;
            };
            if found.modified().ok() == stamp.modified && found.len() == stamp.length {
                return true;
            }
            match named_file::read(path, kind, FILE).map(|it| Stamp::of(&it)) {
                Ok(now) if now.content == stamp.content => {
                    *stamp = now;
                    true
                }
                _ => false,
            }
        })
    }

    fn make(&self) -> Result<(Secure, Seen), SettingsError> {
        let provider = Arc::new(cipher_suites::provider());
        let mut seen = Seen::default();
        let verifier = self.verifier(&provider, &mut seen)?;
        let key = match &self.identity {
            Some(it) => {
                let chain = self.certificates("client_cert", &it.certificate, &mut seen)?;
                let key = self.private_key(&it.key, &mut seen)?;
                Some(self.pair(it, chain, key, &provider)?)
            }
            None => None,
        };
        let identity = Arc::new(Identity::new(key));
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| SettingsError::Library(error.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_client_cert_resolver(identity.clone());
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.resumption = Resumption::in_memory_sessions(64);
        let config = Arc::new(config);
        Ok((Secure { config, identity }, seen))
    }

    fn verifier(
        &self,
        provider: &Arc<CryptoProvider>,
        seen: &mut Seen,
    ) -> Result<Arc<dyn ServerCertVerifier>, SettingsError> {
        let mut extra = Vec::new();
        if let Some(path) = &self.ca_file {
            extra = self.certificates("ca_file", path, seen)?;
        }
        if self.insecure {
            return Ok(Arc::new(AcceptsAny(Arc::clone(provider))));
        }
        match Verifier::new_with_extra_roots(extra, Arc::clone(provider)) {
            Ok(it) => Ok(Arc::new(NamesIssuer(Arc::new(it)))),
            Err(error) => {
                let why = match error {
                    Error::General(text) => text,
                    other => other.to_string(),
                };
                Err(match &self.ca_file {
                    Some(path) => file_error("ca_file", path, FileProblem::Crypto(why)).into(),
                    None => SettingsError::NoRoots(why),
                })
            }
        }
    }

    fn private_key(
        &self,
        path: &Path,
        seen: &mut Seen,
    ) -> Result<PrivateKeyDer<'static>, FileError> {
        let bytes = self.read("client_key", path, Kind::Secret, seen)?;
        pem::private_key(&bytes)
            .map_err(|error| file_error("client_key", path, FileProblem::Pem(error)))
    }

    /// The key with its certificates, if they belong together.
    fn pair(
        &self,
        identity: &ClientIdentity,
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        provider: &CryptoProvider,
    ) -> Result<CertifiedKey, FileError> {
        let key = provider
            .key_provider
            .load_private_key(key)
            .map_err(|error| {
                let problem = FileProblem::Crypto(error.to_string());
                file_error("client_key", &identity.key, problem)
            })?;
        let key = CertifiedKey::new(chain, key);
        let problem = match key.keys_match() {
            // Unknown: the key cannot say.
            Ok(()) | Err(Error::InconsistentKeys(InconsistentKeys::Unknown)) => return Ok(key),
            Err(Error::InconsistentKeys(_)) => FileProblem::OtherKey(identity.key.clone()),
            Err(error) if certificate::is_version_one(&error) => FileProblem::VersionOne,
            Err(error) => FileProblem::Crypto(certificate::reason(&error)),
        };
        Err(file_error("client_cert", &identity.certificate, problem))
    }

    fn certificates(
        &self,
        key: &'static str,
        path: &Path,
        seen: &mut Seen,
    ) -> Result<Vec<CertificateDer<'static>>, FileError> {
        let bytes = self.read(key, path, Kind::Public, seen)?;
        let found = pem::certificates(&bytes)
            .map_err(|error| file_error(key, path, FileProblem::Pem(error)))?;
        let warning = |bad: &PemError| words::tls::used_in_part(key, path, bad);
        seen.warnings.extend(found.bad.iter().map(warning));
        Ok(found.good)
    }

    fn read(
        &self,
        key: &'static str,
        path: &Path,
        kind: Kind,
        seen: &mut Seen,
    ) -> Result<Zeroizing<Vec<u8>>, FileError> {
        let found = named_file::read(path, kind, FILE)
            .map_err(|error| file_error(key, path, refused_by_reader(error)))?;
        seen.stamps.push(Stamp::of(&found));
        seen.warnings.extend(found.warnings);
        Ok(found.bytes)
    }
}

fn file_error(key: &'static str, path: &Path, problem: FileProblem) -> FileError {
    FileError {
        key,
        path: path.to_owned(),
        problem,
    }
}

/// Returns what the reader of named files found wrong.
pub(super) fn refused_by_reader(error: ReadError) -> FileProblem {
    match error {
        ReadError::Io(error) => FileProblem::Io(error.into()),
        error => FileProblem::Refused(error.to_string()),
    }
}

impl Stamp {
    fn of(found: &named_file::Contents) -> Self {
        let mut hasher = DefaultHasher::new();
        found.bytes.hash(&mut hasher);
        Self {
            modified: found.modified,
            length: found.length,
            content: hasher.finish(),
        }
    }
}

/// Reads the files that `spec` names, and says of each what is wrong with it: the key of the configuration, and a
/// sentence. `now` is when certificates are asked to be valid.
pub fn check_files(spec: &ClusterSpec, now: Timestamp) -> Vec<(&'static str, String)> {
    let files = Files::new(spec);
    let mut res = Vec::new();
    if let Some(path) = &files.ca_file {
        files.check_certificates("ca_file", path, now, &mut res);
    }
    if let Some(identity) = &files.identity {
        let chain = files.check_certificates("client_cert", &identity.certificate, now, &mut res);
        let mut seen = Seen::default();
        let key = files.private_key(&identity.key, &mut seen);
        res.extend(seen.warnings.into_iter().map(|it| ("client_key", it)));
        match (chain, key) {
            (chain, Ok(key)) => {
                let pair =
                    chain.map(|it| files.pair(identity, it, key, &cipher_suites::provider()));
                if let Some(Err(error)) = pair {
                    res.push(("client_cert", words::tls::file(&error)));
                }
            }
            (_, Err(error)) => res.push(("client_key", words::tls::file(&error))),
        }
    }
    if let Some(path) = &spec.forward_proxy_auth {
        res.extend(
            proxy::check(path)
                .into_iter()
                .map(|it| ("forward_proxy_auth", it)),
        );
    }
    res
}

impl Files {
    /// The certificates of a file, with what is wrong with them in `res`.
    fn check_certificates(
        &self,
        key: &'static str,
        path: &Path,
        now: Timestamp,
        res: &mut Vec<(&'static str, String)>,
    ) -> Option<Vec<CertificateDer<'static>>> {
        let mut seen = Seen::default();
        let found = self.certificates(key, path, &mut seen);
        res.extend(seen.warnings.into_iter().map(|it| (key, it)));
        let chain = match found {
            Ok(it) => it,
            Err(error) => {
                res.push((key, words::tls::file(&error)));
                return None;
            }
        };
        for (index, it) in chain.iter().enumerate() {
            let Some((from, until)) = certificate::validity(it) else {
                continue;
            };
            let term = match () {
                () if until < now => Term::Expired(until),
                () if from > now => Term::NotBefore(from),
                () => continue,
            };
            let place = (index + 1, chain.len());
            res.push((key, words::tls::out_of_term(key, path, place, term)));
        }
        Some(chain)
    }
}

/// Returns the name to verify, which is also the SNI.
pub(super) fn server_name(host: &Host) -> Result<ServerName<'static>, TlsError> {
    match host {
        Host::Ip(ip) => Ok(ServerName::from(*ip)),
        Host::Name(name) => {
            ServerName::try_from(name.clone()).map_err(|_| TlsError::Name(host.clone()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::testing::Lab;

    #[tokio::test]
    async fn f14_files_that_cannot_be_read_to_their_end_hold_nobody_for_ever() {
        let lab = Lab::new().await;
        let tls = Tls::new(&lab.spec(), Duration::from_millis(20));
        // As a look does that does not come back.
        let hung = Arc::clone(&tls.looking).try_acquire_owned().unwrap();
        for _ in 0..3 {
            let error = tls.secure().await.unwrap_err();
            assert!(matches!(error, SettingsError::TimedOut(_)), "{error:?}");
            assert_eq!(
                words::tls::settings(&error),
                "reading the certificates took more than 20 ms"
            );
        }
        drop(hung);
        while tls.secure().await.is_err() {}
    }
}
