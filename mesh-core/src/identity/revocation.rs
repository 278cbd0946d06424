//! Certificate revocation lists: which certificates are believed no more before they expire (RFC 5280, 5; gRFC A69).

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use rustls_pki_types::CertificateRevocationListDer;
use rustls_pki_types::pem::PemObject;
use webpki::{
    CertRevocationList, ExpirationPolicy, OwnedCertRevocationList, RevocationCheckDepth, UnknownStatusPolicy,
};

use super::certificate::time;
use super::der::revocation_list_issued;
use crate::error::{BoxError, Error, ErrorKind};

/// So many orders of lists are tried at most where several lists have the same issuer.
const MOST_ORDERS: usize = 16;

/// Lists of revoked certificates. A peer is believed only if each certificate of its chain has a list by its issuer that is
/// in force and does not name it: who cannot be looked up is refused. Cloning is cheap.
///
/// OCSP is not asked. Delta lists, and lists of others than the certificates' issuer, are not supported.
///
/// ```
/// use mesh_core::identity::{KeyMaterial, RevocationLists, TrustBundle};
///
/// # fn provide(roots: &[u8], lists: &[u8]) -> Result<KeyMaterial, mesh_core::Error> {
/// let trust = TrustBundle::from_pem(roots)?.revoked_by(RevocationLists::from_pem(lists)?);
/// Ok(KeyMaterial::new().trust(trust))
/// # }
/// ```
#[derive(Clone, PartialEq)]
pub struct RevocationLists {
    /// By issuer, the newest of each first.
    lists: Arc<Vec<List>>,
    allow_undetermined: bool,
    leaf_only: bool,
}

#[derive(Clone)]
struct List {
    der: CertificateRevocationListDer<'static>,
    issued: SystemTime,
    read: Arc<CertRevocationList<'static>>,
}

/// A file of revocation lists: its name, and what it holds.
pub(super) type ListFile = (String, Result<Vec<u8>, String>);

impl RevocationLists {
    /// Reads every list of a PEM text.
    ///
    /// # Errors
    ///
    /// When there is none, or one cannot be read.
    pub fn from_pem(pem: &[u8]) -> Result<Self, Error> {
        match lists(pem) {
            Ok(lists) => Ok(Self::new(lists)),
            Err(error) => Err(Error::new(ErrorKind::Setup, "the revocation lists cannot be used").with_source(error)),
        }
    }

    fn new(mut lists: Vec<List>) -> Self {
        lists.sort_by(|one, other| (one.issuer(), other.issued).cmp(&(other.issuer(), one.issued)));
        Self { lists: Arc::new(lists), allow_undetermined: false, leaf_only: false }
    }

    /// Those of files, each with what it holds, in PEM or DER. What a file held that cannot be read now is not known, so that
    /// the lists of `last` stay that have no successor among the others; also says which files these are.
    pub(super) fn of_files(files: &[ListFile], last: Option<&Self>) -> (Self, Option<String>) {
        let (mut good, mut problems) = (Vec::new(), Vec::new());
        for (name, content) in files {
            match content.as_deref().map_err(Clone::clone).and_then(|file| lists(file).map_err(|why| why.to_string())) {
                Ok(lists) => good.extend(lists),
                Err(why) => problems.push(format!("{name}: {why}")),
            }
        }
        let problem = (!problems.is_empty()).then(|| problems.join("; "));
        if problem.is_some() {
            let has_no_successor = |old: &&List| !good.iter().any(|list| list.issuer() == old.issuer());
            let old: Vec<_> =
                last.iter().flat_map(|last| last.lists.iter()).filter(has_no_successor).cloned().collect();
            good.extend(old);
        }
        (Self::new(good), problem)
    }

    /// Believes certificates, too, of which no list says anything: there is none by their issuer, it expired, or somebody else
    /// signed it (A69 leaves the choice to code). Default: they are refused.
    pub fn allow_undetermined(mut self) -> Self {
        self.allow_undetermined = true;
        self
    }

    /// Looks up the peer's own certificate alone, and not those of the authorities between it and the roots. Default: all.
    pub fn leaf_only(mut self) -> Self {
        self.leaf_only = true;
        self
    }

    pub(crate) fn allows_undetermined(&self) -> bool {
        self.allow_undetermined
    }

    pub(crate) fn policies(&self) -> (RevocationCheckDepth, UnknownStatusPolicy, ExpirationPolicy) {
        let depth = if self.leaf_only { RevocationCheckDepth::EndEntity } else { RevocationCheckDepth::Chain };
        match self.allow_undetermined {
            true => (depth, UnknownStatusPolicy::Allow, ExpirationPolicy::Ignore),
            false => (depth, UnknownStatusPolicy::Deny, ExpirationPolicy::Enforce),
        }
    }

    /// The lists that are in force at `now`, in one order after the other: webpki looks at the first of an issuer alone, and
    /// issuers that are succeeded by others of the same name sign each their own.
    pub(crate) fn orders(&self, now: SystemTime) -> impl Iterator<Item = Vec<&CertRevocationList<'static>>> {
        let begun: Vec<&List> = self.lists.iter().filter(|list| list.issued <= now).collect();
        let sizes: Vec<usize> = begun.chunk_by(|one, other| one.issuer() == other.issuer()).map(<[_]>::len).collect();
        let orders = sizes.iter().fold(1, |orders: usize, size| orders.saturating_mul(*size)).min(MOST_ORDERS);
        (0..orders).map(move |order| {
            let (mut rest, mut order) = (&begun[..], order);
            let mut lists = Vec::with_capacity(begun.len());
            for size in &sizes {
                let (group, others) = rest.split_at(*size);
                rest = others;
                lists.extend(group.iter().cycle().skip(order % size).take(*size).map(|list| &*list.read));
                order /= size;
            }
            lists
        })
    }
}

/// At least one.
fn lists(bytes: &[u8]) -> Result<Vec<List>, BoxError> {
    let is_pem = bytes.windows(10).any(|window| window == b"-----BEGIN");
    let lists = match is_pem {
        true => CertificateRevocationListDer::pem_slice_iter(bytes).collect::<Result<Vec<_>, _>>()?,
        false => vec![bytes.to_vec().into()],
    };
    if lists.is_empty() {
        return Err("no revocation list in PEM".into());
    }
    lists.into_iter().map(List::read).collect()
}

impl List {
    fn read(der: CertificateRevocationListDer<'static>) -> Result<Self, BoxError> {
        let issued =
            time(revocation_list_issued(&der).map_err(|problem| format!("read a revocation list: {problem}"))?);
        let read =
            OwnedCertRevocationList::from_der(&der).map_err(|error| format!("read a revocation list: {error}"))?;
        Ok(Self { der, issued, read: Arc::new(read.into()) })
    }

    fn issuer(&self) -> &[u8] {
        self.read.issuer()
    }
}

impl PartialEq for List {
    fn eq(&self, other: &Self) -> bool {
        self.der == other.der
    }
}

impl fmt::Debug for RevocationLists {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RevocationLists")
            .field("count", &self.lists.len())
            .field("allow_undetermined", &self.allow_undetermined)
            .field("leaf_only", &self.leaf_only)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rcgen::{
        BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType, IsCa,
        KeyIdMethod, KeyPair,
    };

    use super::*;

    fn list(issuer: &str, minutes_ago: u64) -> String {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, issuer);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let issued = SystemTime::now() - Duration::from_secs(60 * minutes_ago);
        let params = CertificateRevocationListParams {
            this_update: issued.into(),
            next_update: (issued + Duration::from_secs(86_400)).into(),
            crl_number: 1.into(),
            issuing_distribution_point: None,
            revoked_certs: Vec::new(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&issuer).unwrap().pem().unwrap()
    }

    fn file(name: &str, content: &str) -> ListFile {
        (name.to_owned(), Ok(content.as_bytes().to_vec()))
    }

    #[test]
    fn lists_are_read_in_pem_and_der_and_nothing_else_is_one() {
        let (a, b) = (list("a", 1), list("b", 1));
        let both = RevocationLists::from_pem(format!("{a}{b}").as_bytes()).unwrap();
        assert_eq!(both.lists.len(), 2);
        assert_eq!(lists(&both.lists[0].der).unwrap().len(), 1);
        let root = rcgen::generate_simple_self_signed(["root".to_owned()]).unwrap().cert;
        for bad in
            ["", "no list", &root.pem(), &a[..a.len() / 2], "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n"]
        {
            assert!(RevocationLists::from_pem(bad.as_bytes()).is_err(), "{bad}");
        }
        assert!(lists(root.der()).is_err());
    }

    #[test]
    fn any_bytes_are_a_list_or_an_error() {
        let seed = fastrand::u64(..);
        let mut random = fastrand::Rng::with_seed(seed);
        println!("seed {seed}");
        let good = RevocationLists::from_pem(list("a", 1).as_bytes()).unwrap().lists[0].der.to_vec();
        for _ in 0..20_000 {
            let mut bytes = good.clone();
            for _ in 0..random.usize(1..4) {
                let at = random.usize(..bytes.len());
                bytes[at] = random.u8(..);
            }
            bytes.truncate(random.usize(..=bytes.len()));
            let _ = lists(&bytes);
        }
    }

    /// The example of A69.
    #[test]
    fn a_file_that_cannot_be_read_leaves_the_lists_that_have_no_successor() {
        let (old, newer) = (list("a", 10), list("a", 5));
        let (b, c, broken) = (list("b", 10), list("c", 10), "-----BEGIN");
        let count = |lists: &RevocationLists| lists.lists.len();
        let (first, problem) = RevocationLists::of_files(&[file("1", &old), file("2", &b), file("3", &c)], None);
        assert_eq!((count(&first), problem), (3, None));
        let files = [file("1", &newer), file("2", broken), ("3".to_owned(), Err("permission denied".to_owned()))];
        let (second, problem) = RevocationLists::of_files(&files, Some(&first));
        assert_eq!(count(&second), 3);
        assert!(second.lists[0].der != first.lists[0].der && second.lists[1..] == first.lists[1..]);
        let problem = problem.unwrap();
        assert!(problem.starts_with("2: ") && problem.ends_with("; 3: permission denied"), "{problem}");
        // What is read whole is the truth.
        let (third, problem) = RevocationLists::of_files(&[file("1", &newer)], Some(&second));
        assert_eq!((count(&third), problem), (1, None));
    }

    #[test]
    fn each_list_of_an_issuer_goes_first_once_and_the_newest_does_so_first() {
        let texts = [list("a", 30), list("a", 10), list("a", 20), list("b", 5), list("b", 6)];
        let lists = RevocationLists::from_pem(texts.concat().as_bytes()).unwrap();
        let now = SystemTime::now();
        let place = |list: &CertRevocationList<'_>| lists.lists.iter().position(|one| std::ptr::eq(&*one.read, list));
        let orders: Vec<Vec<_>> =
            lists.orders(now).map(|order| order.into_iter().map(|list| place(list).unwrap()).collect()).collect();
        assert_eq!(orders.len(), 6);
        assert_eq!(orders[0], [0, 1, 2, 3, 4]);
        assert!(lists.lists[0].issued > lists.lists[1].issued && lists.lists[1].issued > lists.lists[2].issued);
        let firsts: std::collections::BTreeSet<_> = orders.iter().map(|order| (order[0], order[3])).collect();
        assert_eq!(firsts.len(), 6, "{firsts:?}");
        // One that is not in force yet is none.
        let early = lists.orders(now - Duration::from_secs(60 * 15)).next().unwrap();
        assert_eq!(early.len(), 2);
        let many: String = (0..40).map(|minute| list("a", minute)).collect();
        assert_eq!(RevocationLists::from_pem(many.as_bytes()).unwrap().orders(now).count(), MOST_ORDERS);
    }
}
