//! The TLS settings of one cluster: roots and client certificate.
//!
//! The files are read when first needed, and again when they changed.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use rustls::{
    ClientConfig, Error, InconsistentKeys,
    client::Resumption,
    client::danger::ServerCertVerifier,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    sign::CertifiedKey,
};
use rustls_platform_verifier::Verifier;
use tokio::{sync::Semaphore, task::spawn_blocking, time::timeout};

use super::{
    certificate::{self, Anyone, Identity, Telling},
    cipher_suites,
    dial::{reason, shown},
    refusal::{Step, Unreachable},
};
use crate::config::{ClientIdentity, ClusterSpec, Host};

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
    place: String,
    made: Mutex<Made>,
}

#[derive(Debug, Default)]
struct Made {
    current: Option<(Secure, Vec<Stamp>)>,
    /// The newest warning, so that it is given once.
    warned: Option<String>,
}

/// By which a changed file is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    length: u64,
    content: u64,
}

impl Tls {
    /// Touches no file yet. `place` is where a person would change the settings, `limit` how long the files may take.
    pub(super) fn new(spec: &ClusterSpec, place: &str, limit: Duration) -> Self {
        Self {
            files: Arc::new(Files {
                ca_file: spec.ca_file.clone(),
                identity: spec.client_identity.clone(),
                insecure: spec.insecure_skip_verify,
                place: place.to_owned(),
                made: Mutex::default(),
            }),
            looking: Arc::new(Semaphore::new(1)),
            limit,
        }
    }

    /// The settings as the files say now; as they said before where a changed one cannot be used (T5, T7).
    pub(super) async fn secure(&self) -> Result<Secure, Unreachable> {
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
            Ok(Some(found)) => found,
            Ok(None) => Err(Unreachable::new(
                Step::Tls,
                "the TLS settings cannot be made",
            )),
            Err(_) => {
                let message = format!(
                    "reading the certificates took more than {}",
                    shown(self.limit)
                );
                Err(self.files.problem(&message).timed_out())
            }
        }
    }
}

impl Files {
    fn paths(&self) -> impl Iterator<Item = &Path> {
        let pair = self.identity.iter();
        let pair = pair.flat_map(|it| [it.certificate.as_path(), it.key.as_path()]);
        self.ca_file.as_deref().into_iter().chain(pair)
    }

    /// Settings that depend on no file are made once.
    fn ready(&self) -> Option<Secure> {
        if self.paths().next().is_some() {
            return None;
        }
        let made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        Some(made.current.as_ref()?.0.clone())
    }

    fn look(&self) -> Result<Secure, Unreachable> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((secure, stamps)) = &mut made.current
            && self.unchanged(stamps)
        {
            return Ok(secure.clone());
        }
        match self.make() {
            Ok((secure, stamps)) => {
                made.current = Some((secure.clone(), stamps));
                made.warned = None;
                Ok(secure)
            }
            Err(problem) => {
                let Some((secure, _)) = &made.current else {
                    return Err(problem);
                };
                let secure = secure.clone();
                if made.warned.as_ref() != Some(&problem.message) {
                    tracing::warn!("{}; what it said before stays in use", problem.message);
                    made.warned = Some(problem.message);
                }
                Ok(secure)
            }
        }
    }

    /// The files still say what they said at `stamps`, which follow a mere touch.
    fn unchanged(&self, stamps: &mut [Stamp]) -> bool {
        self.paths().zip(stamps).all(|(path, stamp)| {
            let Ok(found) = std::fs::metadata(path) else {
                return false;
            };
            if found.modified().ok() == stamp.modified && found.len() == stamp.length {
                return true;
            }
            match read(path) {
                Ok((_, now)) if now.content == stamp.content => {
                    *stamp = now;
                    true
                }
                _ => false,
            }
        })
    }

    fn make(&self) -> Result<(Secure, Vec<Stamp>), Unreachable> {
        let provider = Arc::new(cipher_suites::provider());
        let mut stamps = Vec::new();
        let verifier = self.verifier(&provider, &mut stamps)?;
        let key = match &self.identity {
            Some(it) => Some(self.client_key(it, &provider, &mut stamps)?),
            None => None,
        };
        let identity = Arc::new(Identity::new(key));
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| self.problem(&format!("TLS cannot be set up: {error}")))?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_client_cert_resolver(identity.clone());
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.resumption = Resumption::in_memory_sessions(64);
        let config = Arc::new(config);
        Ok((Secure { config, identity }, stamps))
    }

    fn verifier(
        &self,
        provider: &Arc<CryptoProvider>,
        stamps: &mut Vec<Stamp>,
    ) -> Result<Arc<dyn ServerCertVerifier>, Unreachable> {
        let mut extra = Vec::new();
        if let Some(path) = &self.ca_file {
            extra = self.certificates("ca_file", path, stamps)?;
        }
        if self.insecure {
            return Ok(Arc::new(Anyone(Arc::clone(provider))));
        }
        match Verifier::new_with_extra_roots(extra, Arc::clone(provider)) {
            Ok(it) => Ok(Arc::new(Telling(Arc::new(it)))),
            Err(error) => Err(match &self.ca_file {
                Some(path) => {
                    let why = words(&error);
                    self.problem(&format!("cannot use ca_file {}: {why}", path.display()))
                }
                None => Unreachable::new(
                    Step::Tls,
                    &format!(
                        "no certificate can be verified on this machine: {}",
                        words(&error)
                    ),
                )
                .hint(&format!(
                    "install the system's roots (ca-certificates), or set ca_file in {}",
                    self.place
                )),
            }),
        }
    }

    fn client_key(
        &self,
        identity: &ClientIdentity,
        provider: &CryptoProvider,
        stamps: &mut Vec<Stamp>,
    ) -> Result<CertifiedKey, Unreachable> {
        let chain = self.certificates("client_cert", &identity.certificate, stamps)?;
        let (bytes, stamp) = self.read("client_key", &identity.key)?;
        stamps.push(stamp);
        let cannot = |key: &str, path: &Path, why: &str| {
            self.problem(&format!("cannot use {key} {}: {why}", path.display()))
        };
        let key = PrivateKeyDer::from_pem_slice(&bytes).map_err(|_| {
            cannot(
                "client_key",
                &identity.key,
                "it holds no private key in PEM without a passphrase",
            )
        })?;
        let key = provider
            .key_provider
            .load_private_key(key)
            .map_err(|error| cannot("client_key", &identity.key, &error.to_string()))?;
        let key = CertifiedKey::new(chain, key);
        match key.keys_match() {
            // Unknown: the key cannot say.
            Ok(()) | Err(Error::InconsistentKeys(InconsistentKeys::Unknown)) => Ok(key),
            Err(Error::InconsistentKeys(_)) => Err(cannot(
                "client_cert",
                &identity.certificate,
                &format!("{} is not its key", identity.key.display()),
            )),
            Err(error) => Err(cannot(
                "client_cert",
                &identity.certificate,
                &certificate::not_ours(&error),
            )),
        }
    }

    fn certificates(
        &self,
        key: &str,
        path: &Path,
        stamps: &mut Vec<Stamp>,
    ) -> Result<Vec<CertificateDer<'static>>, Unreachable> {
        let (bytes, stamp) = self.read(key, path)?;
        stamps.push(stamp);
        let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
        let why = match found {
            Ok(it) if !it.is_empty() => return Ok(it),
            Ok(_) => "it holds no certificate in PEM".to_owned(),
            Err(error) => error.to_string(),
        };
        Err(self.problem(&format!("cannot use {key} {}: {why}", path.display())))
    }

    fn read(&self, key: &str, path: &Path) -> Result<(Vec<u8>, Stamp), Unreachable> {
        read(path).map_err(|error| {
            let why = reason(&error);
            self.problem(&format!("cannot read {key} {}: {why}", path.display()))
        })
    }

    fn problem(&self, message: &str) -> Unreachable {
        let hint = format!("see {}", self.place);
        Unreachable::new(Step::Tls, message).hint(&hint)
    }
}

fn read(path: &Path) -> io::Result<(Vec<u8>, Stamp)> {
    let found = std::fs::metadata(path)?;
    if !found.is_file() {
        return Err(io::Error::other("it is not a file"));
    }
    if found.len() > FILE {
        return Err(io::Error::other("it is longer than 16 MiB"));
    }
    let bytes = std::fs::read(path)?;
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    let stamp = Stamp {
        modified: found.modified().ok(),
        length: found.len(),
        content: hasher.finish(),
    };
    Ok((bytes, stamp))
}

fn words(error: &Error) -> String {
    match error {
        Error::General(text) => text.clone(),
        other => other.to_string(),
    }
}

/// The name to verify, which is also the SNI.
pub(super) fn server_name(host: &Host) -> Result<ServerName<'static>, Unreachable> {
    match host {
        Host::Ip(ip) => Ok(ServerName::from(*ip)),
        Host::Name(name) => ServerName::try_from(name.clone()).map_err(|_| {
            let message = format!("no certificate can be for the name {name}");
            Unreachable::new(Step::Tls, &message)
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::testing::Lab;

    #[tokio::test]
    async fn f14_files_that_cannot_be_read_to_their_end_hold_nobody_for_ever() {
        let lab = Lab::new().await;
        let tls = Tls::new(&lab.spec(), "[cluster.corp]", Duration::from_millis(20));
        // As a look does that does not come back.
        let hung = Arc::clone(&tls.looking).try_acquire_owned().unwrap();
        for _ in 0..3 {
            let error = tls.secure().await.unwrap_err();
            assert!(error.timed_out);
            assert_eq!(error.step, Step::Tls);
            assert_eq!(error.message, "reading the certificates took more than 0 s");
        }
        drop(hung);
        while tls.secure().await.is_err() {}
    }
}
