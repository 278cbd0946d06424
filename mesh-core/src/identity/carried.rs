//! Key material that a resource carries (Envoy's data sources): inline, or as the names of files, which are read anew as
//! those of a `file_watcher` are.

use std::collections::BTreeMap;
use std::fmt;
use std::future::pending;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use super::file_watcher::{Contents, FileWatcher, Read, Trusting, watch};
use super::own::Identity;
use super::provider::{CertificateProvider, KeyMaterial, ProviderFuture, Publisher};
use super::revocation::RevocationLists;
use super::spiffe::TrustDomain;
use super::trust::{PeerNames, TrustBundle};
use crate::error::{BoxError, with_causes};
use crate::files::{MAX_SIZE, NamedFile};

/// Files are read so often, as A29 has it for a `file_watcher`.
const REFRESH: Duration = Duration::from_secs(600);
/// And so often if their folder is to be watched. Envoy does that by the kernel's notices.
const REFRESH_WATCHED: Duration = Duration::from_secs(10);

/// Key material of a resource. The key is never printed.
#[derive(Clone, PartialEq)]
pub(crate) enum Carried {
    /// All of it, read already.
    Inline(KeyMaterial),
    Files(CarriedFiles),
}

/// Key material in files.
#[derive(Clone, PartialEq)]
pub(crate) struct CarriedFiles {
    pub(crate) what: FilesOf,
    pub(crate) vouching: Vouching,
    /// Their folder is to be watched.
    pub(crate) is_watched: bool,
}

/// Which of those whom roots vouch for are believed.
#[derive(Clone, Default, PartialEq)]
pub(crate) struct Vouching {
    pub(crate) peers: Option<PeerNames>,
    pub(crate) revoked: Option<RevocationLists>,
    /// As `revoked`, in a file: for roots that are [`Carried::Files`].
    pub(crate) revoked_in: Option<ListsFile>,
    /// By the rules of Envoy's validator for SPIFFE.
    pub(crate) is_of_spiffe_validator: bool,
}

/// Revocation lists in a file.
#[derive(Clone, PartialEq)]
pub(crate) struct ListsFile {
    pub(crate) file: NamedFile,
    pub(crate) leaf_only: bool,
}

impl Vouching {
    /// Roots that vouch for those alone.
    pub(crate) fn limit(&self, trust: TrustBundle) -> TrustBundle {
        let trust = trust.of_peers(self.peers.clone());
        let trust = if self.is_of_spiffe_validator { trust.by_spiffe_validator() } else { trust };
        match &self.revoked {
            Some(lists) => trust.revoked_by(lists.clone()),
            None => trust,
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum FilesOf {
    Identity {
        chain: Content,
        key: NamedFile,
    },
    Roots(Content),
    /// Of each trust domain.
    Domains(BTreeMap<TrustDomain, Content>),
    /// A SPIFFE bundle map (A87).
    BundleMap(Content),
}

/// Certificates in PEM, or a SPIFFE bundle map.
#[derive(Clone, PartialEq)]
pub(crate) enum Content {
    Inline(Arc<[u8]>),
    File(NamedFile),
}

impl Carried {
    pub(super) fn label(&self) -> String {
        match self {
            Self::Inline(material) => match &material.identity {
                Some(identity) => format!("the certificate {} that the resource carries", identity.serial()),
                None => "the root certificates that the resource carries".to_owned(),
            },
            Self::Files(files) => format!("the files {} that the resource names", files.list()),
        }
    }

    pub(super) fn name(&self) -> Arc<str> {
        match self {
            Self::Inline(_) => "inline".into(),
            Self::Files(files) => files.list().into(),
        }
    }

    /// Whether it has roots for Envoy's validator for SPIFFE.
    pub(super) fn is_of_spiffe_validator(&self) -> bool {
        match self {
            Self::Inline(material) => material.trust.as_ref().is_some_and(TrustBundle::is_of_spiffe_validator),
            Self::Files(files) => files.vouching.is_of_spiffe_validator,
        }
    }

    /// What is there already, without a look at any file.
    pub(super) fn at_once(&self) -> Option<&KeyMaterial> {
        match self {
            Self::Inline(material) => Some(material),
            Self::Files(_) => None,
        }
    }
}

impl CertificateProvider for Carried {
    fn kind(&self) -> &str {
        match self {
            Self::Inline(_) => "inline",
            Self::Files(_) => "files",
        }
    }

    fn run(self: Box<Self>, publisher: Publisher) -> ProviderFuture {
        match *self {
            Self::Inline(material) => {
                publisher.publish(material);
                Box::pin(pending())
            }
            Self::Files(files) => {
                let interval = files.refresh_interval();
                let read = move |last: Option<&KeyMaterial>| files.material(last);
                Box::pin(watch(interval, read, publisher))
            }
        }
    }
}

impl CarriedFiles {
    fn refresh_interval(&self) -> Duration {
        if self.is_watched { REFRESH_WATCHED } else { REFRESH }
    }

    fn read(&self) -> Result<Contents, BoxError> {
        let (identity, trust) = match &self.what {
            FilesOf::Identity { chain, key } => (Some([chain.read()?, key.read()?]), None),
            FilesOf::Roots(roots) => (None, Some(Trusting::RootsAlone(roots.read()?))),
            FilesOf::Domains(domains) => (None, Some(Trusting::Domains(read_all(domains)?))),
            FilesOf::BundleMap(map) => (None, Some(Trusting::BundleMap(map.read()?))),
        };
        let revocation_lists = self.vouching.revoked_in.as_ref().map(|lists| {
            let content = lists.file.read().map_err(|error| with_causes(&*error));
            vec![(lists.file.to_string(), content)]
        });
        Ok(Contents { identity, trust, revocation_lists })
    }

    /// Also says which revocation lists cannot be read, in whose place those of `last` stay.
    fn material(&self, last: Option<&KeyMaterial>) -> Read {
        let (mut material, problem) = Contents::stable(|| self.read())?.material(&FileWatcher::new(), last)?;
        material.trust = material.trust.map(|trust| {
            let trust = self.vouching.limit(trust);
            match trust.revocation_lists().cloned() {
                Some(lists) if self.looks_up_leaves_alone() => trust.revoked_by(lists.leaf_only()),
                _ => trust,
            }
        });
        Ok((material, problem))
    }

    fn looks_up_leaves_alone(&self) -> bool {
        self.vouching.revoked_in.as_ref().is_some_and(|lists| lists.leaf_only)
    }

    fn list(&self) -> String {
        let (contents, key): (Vec<&Content>, _) = match &self.what {
            FilesOf::Identity { chain, key } => (vec![chain], Some(key)),
            FilesOf::Roots(content) | FilesOf::BundleMap(content) => (vec![content], None),
            FilesOf::Domains(domains) => (domains.values().collect(), None),
        };
        let named = contents.into_iter().filter_map(|content| match content {
            Content::File(file) => Some(file),
            Content::Inline(_) => None,
        });
        let lists = self.vouching.revoked_in.as_ref().map(|lists| &lists.file);
        named.chain(key).chain(lists).map(NamedFile::to_string).collect::<Vec<_>>().join(" and ")
    }
}

/// As large together as one file may be.
fn read_all(domains: &BTreeMap<TrustDomain, Content>) -> Result<BTreeMap<TrustDomain, Vec<u8>>, BoxError> {
    let mut left = MAX_SIZE;
    let mut read = BTreeMap::new();
    for (domain, content) in domains {
        let pem = content.read()?;
        left = left.checked_sub(pem.len() as u64).ok_or("the roots of all trust domains have more than 16 MiB")?;
        read.insert(domain.clone(), pem);
    }
    Ok(read)
}

impl Content {
    /// What was sent along.
    pub(crate) fn sent(&self) -> Option<&[u8]> {
        match self {
            Self::Inline(bytes) => Some(bytes),
            Self::File(_) => None,
        }
    }

    fn read(&self) -> Result<Vec<u8>, BoxError> {
        match self {
            Self::Inline(bytes) => Ok(bytes.to_vec()),
            Self::File(file) => file.read(),
        }
    }
}

impl Eq for Carried {}

impl Hash for Carried {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match self {
            Self::Inline(material) => {
                material.identity.as_ref().map(Identity::serial).hash(state);
                if let Some(trust) = &material.trust {
                    trust.hash_authorities(state);
                }
            }
            Self::Files(files) => files.list().hash(state),
        }
    }
}

impl fmt::Debug for Carried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inline(material) => f.debug_tuple("Inline").field(material).finish(),
            Self::Files(files) => f.debug_tuple("Files").field(&files.list()).finish(),
        }
    }
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inline(bytes) => write!(f, "{} bytes", bytes.len()),
            Self::File(file) => file.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use rcgen::{
        BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, IsCa, KeyIdMethod,
        KeyPair,
    };
    use tempfile::TempDir;

    use super::*;
    use crate::files::AllowedFolders;

    /// An authority of its own.
    fn issuer() -> CertifiedIssuer<'static, KeyPair> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
    }

    fn lists(issuer: &CertifiedIssuer<'static, KeyPair>) -> RevocationLists {
        let now = std::time::SystemTime::now();
        let list = CertificateRevocationListParams {
            this_update: now.into(),
            next_update: (now + Duration::from_secs(60)).into(),
            crl_number: 1.into(),
            issuing_distribution_point: None,
            revoked_certs: Vec::new(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let pem = list.signed_by(issuer).unwrap().pem().unwrap();
        RevocationLists::from_pem(pem.as_bytes()).unwrap()
    }

    fn file(folder: &Path, name: &str, content: &str) -> NamedFile {
        fs::write(folder.join(name), content).unwrap();
        let mut allowed = AllowedFolders::default();
        allowed.allow(folder);
        allowed.named(folder.join(name).to_str().unwrap()).unwrap()
    }

    fn in_file(folder: &Path, name: &str, content: &str) -> Content {
        Content::File(file(folder, name, content))
    }

    fn files(what: FilesOf) -> CarriedFiles {
        CarriedFiles { what, vouching: Vouching::default(), is_watched: false }
    }

    #[test]
    fn roots_in_a_file_vouch_for_no_more_than_the_resource_says() {
        let (folder, issuer) = (TempDir::new().unwrap(), issuer());
        let roots = files(FilesOf::Roots(in_file(folder.path(), "ca", &issuer.pem())));
        let trust = roots.material(None).unwrap().0.trust.expect("roots");
        assert!(trust.revocation_lists().is_none() && trust.peers().is_none());
        let revoked = Some(lists(&issuer));
        let limited = CarriedFiles { vouching: Vouching { revoked: revoked.clone(), ..Vouching::default() }, ..roots };
        let (material, _) = limited.material(None).unwrap();
        assert!(material.identity.is_none());
        assert!(material.trust.expect("roots").revocation_lists() == revoked.as_ref());
    }

    #[test]
    fn a_certificate_is_read_with_its_key_and_both_are_named_where_they_are_files() {
        let (folder, issuer) = (TempDir::new().unwrap(), issuer());
        let chain = file(folder.path(), "crt", &issuer.pem());
        let key = || file(folder.path(), "key", &issuer.key().serialize_pem());
        let inline = Content::Inline(issuer.pem().into_bytes().into());
        let folder = folder.path().display();
        for (chain, list) in
            [(Content::File(chain), format!("{folder}/crt and {folder}/key")), (inline, format!("{folder}/key"))]
        {
            let pair = files(FilesOf::Identity { chain, key: key() });
            let (material, _) = pair.material(None).unwrap();
            assert!(material.identity.is_some() && material.trust.is_none());
            let carried = Carried::Files(pair);
            assert!(carried.at_once().is_none());
            assert_eq!((carried.kind(), &*carried.name()), ("files", &*list));
            assert_eq!(carried.label(), format!("the files {list} that the resource names"));
        }
        assert!(
            files(FilesOf::Identity { chain: Content::Inline(b"none"[..].into()), key: key() }).material(None).is_err()
        );
    }

    #[test]
    fn files_are_read_oftener_if_their_folder_is_to_be_watched() {
        let (folder, issuer) = (TempDir::new().unwrap(), issuer());
        let roots = files(FilesOf::Roots(in_file(folder.path(), "ca", &issuer.pem())));
        assert_eq!(roots.refresh_interval(), Duration::from_secs(600));
        assert_eq!(CarriedFiles { is_watched: true, ..roots }.refresh_interval(), Duration::from_secs(10));
    }
}
