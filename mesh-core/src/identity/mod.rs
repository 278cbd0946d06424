//! Who this process is, and whom it trusts: certificates, keys and roots, and what keeps them fresh (gRFC A29, A87).
//!
//! ```text
//! CertificateProvider ─▸ Publisher ─▸ State: the latest KeyMaterial, or why there is none ─▸ handshakes (tls/)
//!   file_watcher.rs        provider.rs   ├ own.rs    the own chain and key
//!   one of the application's             └ trust.rs  roots, or roots by trust domain; revocation.rs  who is believed no more
//! ```
//!
//! A TLS context says by a `MaterialSource` (source.rs) where its material comes from. Providers of bootstrap and code run as
//! long as the mesh; what resources carry (carried.rs) and secrets (`tls/secret.rs`) are providers on demand
//! (providers.rs), which run while anything uses them. `readiness.rs` tells those who wait for them.
//!
//! What was good stays until it expires; what expired is used for nothing. SPIFFE IDs and the names in certificates are
//! read here (`spiffe.rs`, `der.rs`), chains are verified by webpki.

mod bundle_map;
mod carried;
mod certificate;
mod crypto;
mod der;
mod file_watcher;
mod names;
mod own;
mod provider;
mod providers;
mod readiness;
mod revocation;
mod source;
mod spiffe;
mod subject;
mod trust;

pub use file_watcher::FileWatcher;
pub use own::Identity;
pub use provider::{CertificateProvider, KeyMaterial, ProviderFuture, Publisher};
pub use revocation::RevocationLists;
pub use spiffe::{SpiffeId, TrustDomain};
pub use trust::TrustBundle;

pub(crate) use carried::{Carried, CarriedFiles, Content, FilesOf, ListsFile, Vouching};
pub(crate) use certificate::{Leaf, Utc, may_issue};
pub(crate) use crypto::crypto;
pub(crate) use names::NameKind;
pub(crate) use providers::{NEWS_EVERY, OpenSecret, Provider, Providers, Unready};
pub(crate) use readiness::{Awaited, Readiness};
pub(crate) use source::{MaterialSource, Part, SecretServer, SecretSource};
pub(crate) use trust::{PeerNames, Roots, TrustedFor};
