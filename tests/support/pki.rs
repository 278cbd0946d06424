//! Certificate authorities, and folders with certificates that tests swap.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use mesh_core::identity::{Identity, TrustBundle};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertificateSigningRequestParams,
    CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevocationReason,
    RevokedCertParams, SanType,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tempfile::TempDir;

/// A certificate authority of its own.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate with its key.
pub(crate) struct Issued {
    pub(crate) chain: String,
    pub(crate) key: String,
    pub(crate) der: CertificateDer<'static>,
    pub(crate) key_der: PrivateKeyDer<'static>,
    pub(crate) serial: String,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("an authority");
        Self { issuer }
    }

    pub(crate) fn pem(&self) -> String {
        self.issuer.pem()
    }

    pub(crate) fn der(&self) -> CertificateDer<'static> {
        self.issuer.der().clone()
    }

    pub(crate) fn trust(&self) -> TrustBundle {
        TrustBundle::from_pem(self.pem().as_bytes()).expect("roots")
    }

    /// An SVID for an hour.
    pub(crate) fn svid(&self, id: &str) -> Issued {
        self.issue(&[uri(id)], |_| {})
    }

    /// An SVID that ends at most so long from now, and up to a second sooner: certificates know whole seconds.
    pub(crate) fn svid_for(&self, id: &str, life: Duration) -> Issued {
        self.issue(&[uri(id)], |params| params.not_after = (SystemTime::now() + life).into())
    }

    /// A certificate with these names, as changed.
    pub(crate) fn issue(&self, names: &[SanType], change: impl FnOnce(&mut CertificateParams)) -> Issued {
        let now = SystemTime::now();
        let mut params = CertificateParams::default();
        params.subject_alt_names = names.to_vec();
        params.not_before = (now - Duration::from_secs(60)).into();
        params.not_after = (now + Duration::from_secs(3600)).into();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let serial: u64 = fastrand::u64(1 << 56..1 << 62);
        params.serial_number = Some(serial.into());
        change(&mut params);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        Issued {
            chain: certificate.pem(),
            key: key.serialize_pem(),
            der: certificate.der().clone(),
            key_der: PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
            serial: format!("{serial:016x}"),
        }
    }
}

impl Authority {
    /// Its list of these revoked certificates, in PEM, for so long.
    pub(crate) fn revocation_list(&self, revoked: &[&Issued], life: Duration) -> String {
        let now = SystemTime::now();
        let revoked = revoked.iter().map(|issued| RevokedCertParams {
            serial_number: u64::from_str_radix(&issued.serial, 16).expect("a number").into(),
            revocation_time: now.into(),
            reason_code: Some(RevocationReason::KeyCompromise),
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: (now - Duration::from_secs(60)).into(),
            next_update: (now + life).into(),
            crl_number: 1.into(),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).expect("a list").pem().expect("PEM")
    }

    /// The certificate that a signing request asks for, with this ID.
    pub(crate) fn sign(&self, request: &str, id: &str, not_after: SystemTime) -> String {
        let mut request = CertificateSigningRequestParams::from_pem(request).expect("a request, signed by its key");
        request.params.subject_alt_names = vec![uri(id)];
        // As istiod does it.
        request.params.not_before = (SystemTime::now() - Duration::from_secs(120)).into();
        request.params.not_after = not_after.into();
        request.params.serial_number = Some(fastrand::u64(1 << 56..1 << 62).into());
        request.signed_by(&self.issuer).expect("a certificate").pem()
    }
}

/// The names that a signing request asks for.
pub(crate) fn names_of_request(request: &str) -> Vec<SanType> {
    CertificateSigningRequestParams::from_pem(request).expect("a request").params.subject_alt_names
}

impl Issued {
    pub(crate) fn identity(&self) -> Identity {
        Identity::from_pem(self.chain.as_bytes(), self.key.as_bytes()).expect("a pair")
    }
}

pub(crate) fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().expect("ASCII"))
}

pub(crate) fn dns(text: &str) -> SanType {
    SanType::DnsName(text.try_into().expect("ASCII"))
}

/// A folder of certificates as Kubernetes mounts it: the files are links into a folder that is swapped as a whole.
pub(crate) struct Mounted {
    folder: TempDir,
}

impl Mounted {
    pub(crate) fn new(issued: &Issued, roots: &str) -> Self {
        let mounted = Self { folder: TempDir::new().expect("a folder") };
        mounted.swap(issued, roots);
        for file in ["tls.crt", "tls.key", "ca.crt"] {
            std::os::unix::fs::symlink(Path::new("..data").join(file), mounted.file(file)).expect("a link");
        }
        mounted
    }

    /// Puts others in their place, all at once.
    pub(crate) fn swap(&self, issued: &Issued, roots: &str) {
        let version = self.file(&format!("..{}", issued.serial));
        fs::create_dir_all(&version).expect("a folder");
        for (file, content) in [("tls.crt", &*issued.chain), ("tls.key", &*issued.key), ("ca.crt", roots)] {
            fs::write(version.join(file), content).expect("a file");
        }
        let link = self.file("..data_tmp");
        std::os::unix::fs::symlink(&version, &link).expect("a link");
        fs::rename(link, self.file("..data")).expect("a swap");
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

/// The serial number of a certificate that an [`Authority`] issued: it is the first integer of eight bytes in it.
pub(crate) fn serial_of(certificate: &CertificateDer<'_>) -> String {
    let at = certificate.windows(2).position(|bytes| bytes == [2, 8]).expect("a serial number of eight bytes");
    certificate[at + 2..at + 10].iter().map(|byte| format!("{byte:02x}")).collect()
}
