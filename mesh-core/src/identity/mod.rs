//! Who this process is, and whom it trusts: certificates, keys and roots, and what keeps them fresh (gRFC A29, A87).
//!
//! ```text
//! CertificateProvider ─▸ Publisher ─▸ State: the latest KeyMaterial, or why there is none ─▸ handshakes (tls/)
//!   file_watcher.rs        provider.rs   ├ own.rs    the own chain and key
//!   one of the application's             └ trust.rs  roots, or roots by trust domain; revocation.rs  who is believed no more
//! ```
//!
//! What was good stays until it expires; what expired is used for nothing. SPIFFE IDs and the names in certificates are
//! read here (`spiffe.rs`, `der.rs`), chains are verified by webpki.

mod bundle_map;
mod certificate;
mod crypto;
mod der;
mod file_watcher;
mod names;
mod own;
mod provider;
mod providers;
mod revocation;
mod spiffe;
mod subject;
mod trust;

pub use file_watcher::FileWatcher;
pub use own::Identity;
pub use provider::{CertificateProvider, KeyMaterial, ProviderFuture, Publisher};
pub use revocation::RevocationLists;
pub use spiffe::{SpiffeId, TrustDomain};
pub use trust::TrustBundle;

pub(crate) use certificate::{Leaf, Utc, may_issue};
pub(crate) use crypto::crypto;
pub(crate) use names::NameKind;
pub(crate) use providers::{NEWS_EVERY, Provider, Providers, Unready};
pub(crate) use trust::{Roots, TrustedFor};
