//! `DownstreamTlsContext`: how the connections to a server are secured (A29).

use std::sync::Arc;

use super::upstream_tls::NameMatch;
use crate::identity::RevocationLists;

/// A validated TLS context of a server.
#[derive(Debug, PartialEq)]
pub(crate) struct DownstreamTls {
    /// The provider of the own certificate.
    pub(crate) identity: Arc<str>,
    /// `None`: no caller is asked who it is.
    pub(crate) callers: Option<Callers>,
}

/// Whose connections are taken.
#[derive(Debug, PartialEq)]
pub(crate) struct Callers {
    /// The provider of the roots that vouch for them.
    pub(crate) roots: Arc<str>,
    /// In which they are looked up, beside those that come with the roots.
    pub(crate) revoked: Option<RevocationLists>,
    /// One of them must match a name of the caller; without any, everyone whom the roots vouch for is taken (A29).
    pub(crate) names: Vec<NameMatch>,
    /// Whoever shows no certificate is refused. A certificate that is shown must be a good one in any case.
    pub(crate) is_required: bool,
}
