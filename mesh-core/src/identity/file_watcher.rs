//! `file_watcher`: key material in files that something else keeps fresh (gRFC A29, A87).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::own::Identity;
use super::provider::{CertificateProvider, KeyMaterial, ProviderFuture, Publisher};
use super::revocation::{ListFile, RevocationLists};
use super::spiffe::TrustDomain;
use super::trust::TrustBundle;
use crate::aside::{PATIENCE, aside, patiently};
use crate::backoff::{Backoff, BackoffConfig};
use crate::bootstrap::CertificateFiles;
use crate::error::{BoxError, Error};
use crate::files;

/// How often files are read that change while they are read.
const TRIES: usize = 3;
/// After a failure the files are looked at sooner.
const RETRY: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(4);

/// Reads certificates from files, again and again: what gRPC's bootstrap calls `file_watcher` (A29).
///
/// The files are used together or not at all: a key that is not the leaf's, a file that is half written or gone leaves what
/// was read before in use, until it expires. They may be replaced in place, or by the swap of a symbolic link, as
/// Kubernetes does it.
///
/// ```
/// use std::time::Duration;
/// use mesh_core::identity::FileWatcher;
///
/// let files = FileWatcher::new()
///     .identity("/var/run/certs/tls.crt", "/var/run/certs/tls.key")
///     .roots("/var/run/certs/ca.crt")
///     .refresh_interval(Duration::from_secs(60));
/// let builder = mesh_core::Mesh::builder().certificate_provider("default", files);
/// # let _ = builder;
/// ```
#[derive(Clone, Debug)]
pub struct FileWatcher {
    files: CertificateFiles,
    revocation_lists: Option<PathBuf>,
    allow_undetermined: bool,
}

impl FileWatcher {
    /// Without files.
    pub fn new() -> Self {
        CertificateFiles::default().into()
    }

    /// The PEM files of the own chain of certificates, the leaf first, and of the leaf's key.
    pub fn identity(mut self, certificate: impl Into<PathBuf>, private_key: impl Into<PathBuf>) -> Self {
        self.files.identity = Some((certificate.into(), private_key.into()));
        self
    }

    /// The PEM file of the root certificates to trust.
    pub fn roots(mut self, ca_certificate: impl Into<PathBuf>) -> Self {
        self.files.ca_certificate = Some(ca_certificate.into());
        self
    }

    /// The JSON file of a SPIFFE bundle map (A87), which goes before [`roots`](Self::roots).
    pub fn spiffe_bundle_map(mut self, path: impl Into<PathBuf>) -> Self {
        self.files.spiffe_trust_bundle_map = Some(path.into());
        self
    }

    /// The folder of revocation lists (gRFC A69): each of its files has one in DER or any number in PEM, whatever its name; those
    /// whose name begins with `.` are not read. Peers that the roots vouch for are believed only if the lists of all issuers in
    /// their chains are there and do not name them; see [`RevocationLists`]. Default: nobody is looked up.
    ///
    /// A file that cannot be read is told of, and leaves the lists in use that have no successor among the others; one that is
    /// taken away takes its lists with it.
    pub fn revocation_lists(mut self, folder: impl Into<PathBuf>) -> Self {
        self.revocation_lists = Some(folder.into());
        self
    }

    /// Believes peers, too, of whom no list says anything: see [`RevocationLists::allow_undetermined`].
    pub fn allow_undetermined_revocation(mut self) -> Self {
        self.allow_undetermined = true;
        self
    }

    /// How often the files are read anew. Default 600 s (A29); at least 1 ms. They are read sooner when the certificate
    /// nears its end, and after they could not be used.
    pub fn refresh_interval(mut self, interval: Duration) -> Self {
        self.files.refresh_interval = interval;
        self
    }
}

impl Default for FileWatcher {
    fn default() -> Self {
        Self::new()
    }
}

impl From<CertificateFiles> for FileWatcher {
    fn from(files: CertificateFiles) -> Self {
        Self { files, revocation_lists: None, allow_undetermined: false }
    }
}

impl CertificateProvider for FileWatcher {
    fn kind(&self) -> &str {
        "file_watcher"
    }

    fn run(self: Box<Self>, publisher: Publisher) -> ProviderFuture {
        let (interval, watcher) = (self.files.refresh_interval, *self);
        let read =
            move |last: Option<&KeyMaterial>| Contents::stable(|| Contents::read(&watcher))?.material(&watcher, last);
        Box::pin(watch(interval, read, publisher))
    }
}

/// What was read, and which of it could not be, in whose place what was read last stays.
pub(super) type Read = Result<(KeyMaterial, Option<String>), BoxError>;

/// Publishes what `read` reads, which is told of what it read last, for ever: every `interval`, and sooner when the certificate
/// nears its end.
pub(super) async fn watch<R>(interval: Duration, read: R, publisher: Publisher)
where
    R: Fn(Option<&KeyMaterial>) -> Read + Clone + Send + 'static,
{
    let interval = interval.max(Duration::from_millis(1));
    let mut retry = Backoff::new(BackoffConfig {
        initial: RETRY.min(interval),
        max: interval.min(RETRY_MAX),
        ..Default::default()
    });
    let mut last = None;
    loop {
        let (reading, known) = (read.clone(), last.clone());
        let slow = || publisher.fail(format!("the files could not be read within {PATIENCE:?}, and are waited for"));
        let found = patiently(aside(move || reading(known.as_ref())), slow).await;
        let pause = match found.map_err(BoxError::from).and_then(|read| read) {
            Ok((material, problem)) => {
                let pause = pause(interval, material.identity.as_ref());
                // The same again would end the failure that goes on.
                if problem.is_none() || last.as_ref() != Some(&material) {
                    publisher.publish(material.clone());
                }
                last = Some(material);
                match problem {
                    None => {
                        retry.reset();
                        pause
                    }
                    Some(problem) => {
                        publisher.fail(format!("some revocation lists cannot be read: {problem}"));
                        pause.min(retry.next_delay(fastrand::f64()))
                    }
                }
            }
            Err(error) => {
                publisher.fail(error);
                retry.next_delay(fastrand::f64())
            }
        };
        tokio::time::sleep(pause).await;
    }
}

/// A certificate that ends before the next look is looked at four times until then, and then every second.
fn pause(interval: Duration, identity: Option<&Identity>) -> Duration {
    let Some(identity) = identity else { return interval };
    let left = identity.not_after().duration_since(SystemTime::now()).unwrap_or(Duration::ZERO);
    interval.min((left / 4).max(RETRY))
}

/// What the files hold.
#[derive(PartialEq)]
pub(super) struct Contents {
    /// The chain and the key.
    pub(super) identity: Option<[Vec<u8>; 2]>,
    pub(super) trust: Option<Trusting>,
    pub(super) revocation_lists: Option<Vec<ListFile>>,
}

/// Whom to trust, as it is written.
#[derive(PartialEq)]
pub(super) enum Trusting {
    Roots(Vec<u8>),
    /// Such that have nothing else beside them.
    RootsAlone(Vec<u8>),
    Domains(BTreeMap<TrustDomain, Vec<u8>>),
    BundleMap(Vec<u8>),
}

impl Contents {
    /// Twice the same: files that are replaced one by one while they are read are read again.
    pub(super) fn stable(read: impl Fn() -> Result<Self, BoxError>) -> Result<Self, BoxError> {
        let mut last = read()?;
        for _ in 0..TRIES {
            let again = read()?;
            if again == last {
                return Ok(last);
            }
            last = again;
        }
        Err("the files change while they are read".into())
    }

    fn read(watcher: &FileWatcher) -> Result<Self, BoxError> {
        let FileWatcher { files, revocation_lists, .. } = watcher;
        let identity = files.identity.as_ref().map(|(chain, key)| Ok::<_, BoxError>([read(chain)?, read(key)?]));
        let trust = match (&files.spiffe_trust_bundle_map, &files.ca_certificate) {
            (Some(map), _) => Some(Trusting::BundleMap(read(map)?)),
            (None, Some(roots)) => Some(Trusting::Roots(read(roots)?)),
            (None, None) => None,
        };
        let revocation_lists = revocation_lists.as_deref().map(read_folder).transpose()?;
        Ok(Self { identity: identity.transpose()?, trust, revocation_lists })
    }

    /// Also says which revocation lists cannot be read, in whose place those of `last` stay.
    pub(super) fn material(&self, watcher: &FileWatcher, last: Option<&KeyMaterial>) -> Read {
        let identity = self.identity.as_ref().map(|[chain, key]| Identity::from_pem(chain, key));
        let trust = self.trust.as_ref().map(|source| match source {
            Trusting::Roots(pem) => TrustBundle::from_pem(pem),
            Trusting::RootsAlone(pem) => TrustBundle::from_certificates(pem),
            Trusting::Domains(domains) => {
                TrustBundle::by_domain_in_pem(domains.iter().map(|(domain, pem)| (domain.clone(), &**pem)))
            }
            Trusting::BundleMap(json) => match std::str::from_utf8(json) {
                Ok(json) => TrustBundle::from_spiffe_bundle_map(json),
                Err(_) => Err(Error::setup("the SPIFFE bundle map is not UTF-8")),
            },
        });
        let (mut trust, mut problem) = (trust.transpose()?, None);
        if let Some(files) = &self.revocation_lists {
            let last = last.and_then(|last| last.trust.as_ref()?.revocation_lists());
            let (mut lists, unread) = RevocationLists::of_files(files, last);
            problem = unread;
            if watcher.allow_undetermined {
                lists = lists.allow_undetermined();
            }
            trust = trust.map(|trust| trust.revoked_by(lists));
        }
        Ok((KeyMaterial { identity: identity.transpose()?, trust }, problem))
    }
}

fn read(path: &Path) -> Result<Vec<u8>, BoxError> {
    files::read(path).map_err(|error| format!("{}: {error}", path.display()).into())
}

/// The files of a folder in the order of their names. What Kubernetes has in one that it mounts begins with dots, and is a
/// folder.
fn read_folder(folder: &Path) -> Result<Vec<ListFile>, BoxError> {
    let in_folder = |error: std::io::Error| format!("{}: {error}", folder.display());
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(in_folder)? {
        let path = entry.map_err(in_folder)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if !name.starts_with('.') && !path.is_dir() {
            files.push((name, files::read(&path).map_err(|error| error.to_string())));
        }
    }
    files.sort_by(|(one, _), (other, _)| one.cmp(other));
    Ok(files)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use rcgen::{CertificateParams, KeyPair};
    use tempfile::TempDir;

    use super::*;

    fn issue() -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(["a.test".to_owned()]).unwrap().self_signed(&key).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    fn write(folder: &TempDir, chain: &str, key: &str) -> FileWatcher {
        let at = |name: &str| folder.path().join(name);
        fs::write(at("chain"), chain).unwrap();
        fs::write(at("key"), key).unwrap();
        FileWatcher::new().identity(at("chain"), at("key")).roots(at("chain"))
    }

    fn material(watcher: &FileWatcher) -> Result<KeyMaterial, BoxError> {
        Contents::stable(|| Contents::read(watcher))?.material(watcher, None).map(|(material, _)| material)
    }

    #[test]
    fn s2_files_are_used_together_or_not_at_all() {
        let folder = TempDir::new().unwrap();
        let ((chain, key), (other, _)) = (issue(), issue());
        let both = material(&write(&folder, &chain, &key)).unwrap();
        assert!(both.identity.is_some() && both.trust.is_some());
        for (chain, key) in [(&*other, &*key), (&chain, ""), ("", &key), (&chain[..200], &key)] {
            assert!(material(&write(&folder, chain, key)).is_err());
        }
        let gone = write(&folder, &chain, &key).roots("/nowhere/ca.pem");
        let error = material(&gone).unwrap_err().to_string();
        assert!(error.starts_with("/nowhere/ca.pem: No such file"), "{error}");
    }

    #[test]
    fn a_bundle_map_goes_before_roots() {
        let folder = TempDir::new().unwrap();
        let map = folder.path().join("map.json");
        fs::write(&map, r#"{"trust_domains": {"a.test": {"keys": []}}}"#).unwrap();
        let watcher = FileWatcher::new().roots("/nowhere/ca.pem").spiffe_bundle_map(map);
        let trust = material(&watcher).unwrap().trust.unwrap();
        assert_eq!(trust.trust_domains()[0].as_str(), "a.test");
    }

    #[test]
    fn files_are_looked_at_sooner_when_the_certificate_nears_its_end() {
        let expiring_in = |seconds: i64| {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::default();
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
            let day = rcgen::date_time_ymd(1970, 1, 1);
            params.not_after = day + Duration::from_secs(now.saturating_add_signed(seconds));
            Identity::from_pem(params.self_signed(&key).unwrap().pem().as_bytes(), key.serialize_pem().as_bytes())
                .unwrap()
        };
        let interval = Duration::from_secs(600);
        assert_eq!(pause(interval, Some(&expiring_in(86_400))), interval);
        let soon = pause(interval, Some(&expiring_in(400))).as_secs();
        assert!((95..=100).contains(&soon), "{soon}");
        assert_eq!(pause(interval, Some(&expiring_in(-10))), RETRY);
        assert_eq!(pause(Duration::from_millis(5), Some(&expiring_in(-10))), Duration::from_millis(5));
        assert_eq!(pause(interval, None), interval);
    }
}
