//! What this process has that resources may ask for by name, and how it reads them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

#[cfg(feature = "jwt")]
use super::jwt::remote::RemoteSets;
use super::named_policy::Policies;
#[cfg(feature = "tls")]
use crate::files::AllowedFolders;
use crate::profile::Profile;
use crate::xds::transport::side_channel::SideChannel;

/// Named things of the application and of the bootstrap, which files may be named, and whose rules hold; clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct LocalNames {
    /// Whose rules hold.
    pub(crate) profile: Profile,
    /// Balancing policies (A52).
    pub(crate) policies: Policies,
    /// Certificate providers (A29).
    pub(crate) certificate_providers: Arc<BTreeSet<Arc<str>>>,
    /// Where the files are that a control plane may name.
    #[cfg(feature = "tls")]
    pub(crate) folders: AllowedFolders,
    /// It is known in which locality this process is, and where its like are (Envoy's local cluster).
    pub(crate) knows_zones: bool,
    /// Services beside the mesh's own, by their target URIs (A102).
    pub(crate) grpc_services: Arc<BTreeMap<Arc<str>, Arc<SideChannel>>>,
    /// The key sets that issuers publish.
    #[cfg(feature = "jwt")]
    pub(crate) key_sets: RemoteSets,
    /// Why no filter may let calls pass whose authorization fails; `None`: it may.
    pub(crate) fails_closed: Option<&'static str>,
    /// Nobody reads along on the way that resources come, so that keys may be among them.
    #[cfg(feature = "tls")]
    pub(crate) keys_may_come: bool,
}
