//! `DownstreamTlsContext`: how the connections to a server are secured (A29).

use super::upstream_tls::NameMatch;
use crate::identity::{MaterialSource, RevocationLists};

/// A validated TLS context of a server.
#[derive(Debug, PartialEq)]
pub(crate) struct DownstreamTls {
    /// Where the own certificate comes from.
    pub(crate) identity: MaterialSource,
    /// `None`: no caller is asked who it is.
    pub(crate) callers: Option<Callers>,
}

impl DownstreamTls {
    /// Where it takes certificates and roots from.
    pub(crate) fn sources(&self) -> impl Iterator<Item = &MaterialSource> {
        let roots = self.callers.as_ref().map(|callers| &callers.roots);
        std::iter::once(&self.identity).chain(roots)
    }
}

/// Whose connections are taken.
#[derive(Debug, PartialEq)]
pub(crate) struct Callers {
    /// Where the roots come from that vouch for them.
    pub(crate) roots: MaterialSource,
    /// In which they are looked up, beside those that come with the roots.
    pub(crate) revoked: Option<RevocationLists>,
    /// One of them must match a name of the caller; without any, everyone whom the roots vouch for is taken (A29).
    pub(crate) names: Vec<NameMatch>,
    /// Whoever shows no certificate is refused. A certificate that is shown must be a good one in any case.
    pub(crate) is_required: bool,
}
