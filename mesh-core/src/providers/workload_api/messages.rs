//! The messages of the SPIFFE Workload API's X.509 profile (`workload.proto`), as far as they are read.

use std::collections::HashMap;
use std::fmt;

/// Of `FetchX509SVID` and `FetchX509Bundles`; both are empty.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Request {}

/// The complete set of the workload's SVIDs: what a response does not have is not the workload's any more.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct X509SvidResponse {
    #[prost(message, repeated, tag = "1")]
    pub(super) svids: Vec<X509Svid>,
    /// By trust domain: certificates in DER, one after the other.
    #[prost(map = "string, bytes", tag = "3")]
    pub(super) federated_bundles: HashMap<String, Vec<u8>>,
}

/// A certificate with its key.
#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
pub(super) struct X509Svid {
    #[prost(string, tag = "1")]
    pub(super) spiffe_id: String,
    /// The chain, the leaf first: certificates in DER, one after the other.
    #[prost(bytes = "vec", tag = "2")]
    pub(super) x509_svid: Vec<u8>,
    /// Of the leaf: PKCS #8 in DER.
    #[prost(bytes = "vec", tag = "3")]
    pub(super) x509_svid_key: Vec<u8>,
    /// The roots of the SVID's trust domain: certificates in DER, one after the other.
    #[prost(bytes = "vec", tag = "4")]
    pub(super) bundle: Vec<u8>,
    /// What tells the SVIDs of a workload apart.
    #[prost(string, tag = "5")]
    pub(super) hint: String,
}

/// All bundles that the workload may use.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct X509BundlesResponse {
    /// By trust domain: certificates in DER, one after the other.
    #[prost(map = "string, bytes", tag = "2")]
    pub(super) bundles: HashMap<String, Vec<u8>>,
}

impl fmt::Debug for X509Svid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("X509Svid").field("spiffe_id", &self.spiffe_id).field("hint", &self.hint).finish_non_exhaustive()
    }
}
