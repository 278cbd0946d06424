//! What this process has that resources may ask for by name.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::named_policy::Policies;
#[cfg(feature = "tls")]
use crate::files::AllowedFolders;

/// Named things of the application and of the bootstrap, and which files may be named; clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct LocalNames {
    /// Balancing policies (A52).
    pub(crate) policies: Policies,
    /// Certificate providers (A29).
    pub(crate) certificate_providers: Arc<BTreeSet<Arc<str>>>,
    /// Where the files are that a control plane may name.
    #[cfg(feature = "tls")]
    pub(crate) folders: AllowedFolders,
}
