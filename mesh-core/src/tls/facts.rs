//! What is known of a connection that TLS secures.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

#[cfg(feature = "server")]
use base64::Engine as _;
#[cfg(feature = "server")]
use base64::engine::general_purpose::STANDARD;
#[cfg(feature = "server")]
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use rustls::{CommonState, ProtocolVersion};
use rustls_pki_types::CertificateDer;

use crate::identity::{Identity, Leaf, SpiffeId, Utc};
#[cfg(feature = "server")]
use crate::resource::rbac::Callers;

#[cfg(feature = "server")]
const NOT_IN_URL: &AsciiSet = &CONTROLS.add(b' ').add(b'+').add(b'/').add(b'=');

/// The other side of a connection, as its verified certificate says. Cloning is cheap.
///
/// A server puts it into the extensions of each request of a caller that showed a certificate: `request.extensions().get::<Peer>()`,
/// in a handler of tonic, too. Nothing that a caller wrote into a header is in it.
#[derive(Clone, PartialEq)]
#[non_exhaustive]
pub struct Peer {
    /// Its SPIFFE ID, if its certificate is an SVID and roots of its trust domain vouch for it: not if the roots are of no
    /// trust domain in particular, or the system's.
    pub spiffe_id: Option<SpiffeId>,
    /// The URIs of its certificate, a SPIFFE ID among them.
    pub uris: Arc<[String]>,
    /// The DNS names of its certificate.
    pub dns_names: Arc<[String]>,
    /// The subject of its certificate as RFC 2253 writes it (`CN=a,O=b`); empty if it has none.
    pub subject: Arc<str>,
    /// The serial number of its certificate, in hexadecimal digits.
    pub serial: Arc<str>,
    /// When its certificate expires.
    pub not_after: SystemTime,
    /// DER; empty of one that is made up for a test.
    #[cfg_attr(not(feature = "server"), allow(dead_code, reason = "only servers tell it to others"))]
    pub(crate) certificate: Arc<[u8]>,
}

/// How one connection is secured.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ConnectionSecurity {
    /// `TLSv1.3` or `TLSv1.2`.
    pub protocol: &'static str,
    /// Whom it leads to.
    pub peer: Peer,
    /// The certificate that was shown to the peer if it asked for one; `None`: the cluster asks for none.
    pub identity: Option<Identity>,
    /// Why another connection is to take its place; `None`: none is. Until that one serves, this one goes on.
    pub replaced: Option<Arc<str>>,
}

impl ConnectionSecurity {
    /// The earlier end of the two certificates. The connection is closed then, whatever calls it has.
    pub fn expires(&self) -> SystemTime {
        let own = self.identity.as_ref().map(Identity::not_after);
        own.map_or(self.peer.not_after, |own| own.min(self.peer.not_after))
    }
}

/// How one connection that a server accepted is secured.
#[cfg(feature = "server")]
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct AcceptedSecurity {
    /// `TLSv1.3` or `TLSv1.2`.
    pub protocol: &'static str,
    /// The caller; `None`: it showed no certificate, and none is required.
    pub peer: Option<Peer>,
    /// The certificate that was shown to the caller.
    pub identity: Identity,
}

#[cfg(feature = "server")]
impl AcceptedSecurity {
    /// The earlier end of the certificates.
    pub fn expires(&self) -> SystemTime {
        let own = self.identity.not_after();
        self.peer.as_ref().map_or(own, |peer| own.min(peer.not_after))
    }
}

/// The version that was agreed on, by name.
pub(super) fn protocol(session: &CommonState) -> Option<&'static str> {
    match session.protocol_version()? {
        ProtocolVersion::TLSv1_3 => Some("TLSv1.3"),
        ProtocolVersion::TLSv1_2 => Some("TLSv1.2"),
        _ => None,
    }
}

impl Peer {
    /// The namespace in a SPIFFE ID as Istio issues them: `shop` in `spiffe://cluster.local/ns/shop/sa/cart`.
    pub fn namespace(&self) -> Option<&str> {
        self.spiffe_id.as_ref()?.namespace()
    }

    /// The service account in such an ID: `cart`.
    pub fn service_account(&self) -> Option<&str> {
        self.spiffe_id.as_ref()?.service_account()
    }

    /// That of a certificate with this ID and no more.
    #[cfg(feature = "testing")]
    pub(crate) fn with_svid(id: SpiffeId, not_after: SystemTime) -> Self {
        let uris = [id.as_str().to_owned()].into();
        let (subject, serial, certificate) = ("".into(), "".into(), [].into());
        Self { spiffe_id: Some(id), uris, dns_names: [].into(), subject, serial, not_after, certificate }
    }

    /// Of the verified certificate that the leaf was read from.
    pub(super) fn new(leaf: &Leaf, certificate: &CertificateDer<'_>) -> Self {
        Self {
            spiffe_id: leaf.vouched.clone(),
            uris: leaf.names.uris().map(str::to_owned).collect(),
            dns_names: leaf.names.dns().map(str::to_owned).collect(),
            subject: leaf.subject.clone().into(),
            serial: leaf.serial().into(),
            not_after: leaf.not_after,
            certificate: certificate.as_ref().into(),
        }
    }
}

impl Peer {
    /// The first of its names, as an authorization service is told it (A92).
    #[cfg(feature = "server")]
    pub(crate) fn name(&self) -> &str {
        self.uris.first().or(self.dns_names.first()).map_or(&*self.subject, String::as_str)
    }

    /// Its certificate in PEM, with `%` for what a URL cannot hold, as Envoy tells it.
    #[cfg(feature = "server")]
    pub(crate) fn certificate_for_url(&self) -> Option<String> {
        const LINE: usize = 64;
        if self.certificate.is_empty() {
            return None;
        }
        let text = STANDARD.encode(&self.certificate);
        let lines = text.as_bytes().chunks(LINE).map(|line| String::from_utf8_lossy(line) + "\n");
        let pem = format!("-----BEGIN CERTIFICATE-----\n{}-----END CERTIFICATE-----\n", lines.collect::<String>());
        Some(utf8_percent_encode(&pem, NOT_IN_URL).to_string())
    }

    /// As access control knows it.
    #[cfg(feature = "server")]
    pub(crate) fn caller(&self) -> Callers<'_> {
        Callers::Verified { uris: &self.uris, dns_names: &self.dns_names, subject: &self.subject }
    }
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peer")
            .field("spiffe_id", &self.spiffe_id)
            .field("uris", &self.uris)
            .field("dns_names", &self.dns_names)
            .field("subject", &self.subject)
            .field("serial", &self.serial)
            .field("not_after", &format_args!("{}", Utc(self.not_after)))
            .finish()
    }
}
