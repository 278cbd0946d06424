//! The cryptography that TLS uses.

use std::sync::Arc;

use rustls::crypto::CryptoProvider;

use crate::error::{Error, ErrorKind};

/// What was compiled in; never the process's default, which another library may have set.
///
/// # Errors
///
/// When neither of the two features is on.
pub(crate) fn crypto() -> Result<Arc<CryptoProvider>, Error> {
    compiled_in().ok_or_else(|| {
        let message = "TLS needs one of mesh-core's features `aws-lc` and `ring`";
        Error::new(ErrorKind::Setup, message).with_next_step("switch one of them on in Cargo.toml")
    })
}

fn compiled_in() -> Option<Arc<CryptoProvider>> {
    #[cfg(feature = "aws-lc")]
    return Some(Arc::new(aws_lc()));
    #[cfg(all(feature = "ring", not(feature = "aws-lc")))]
    return Some(Arc::new(rustls::crypto::ring::default_provider()));
    #[cfg(not(any(feature = "aws-lc", feature = "ring")))]
    None
}

/// The hybrid of X25519 and ML-KEM-768 is known in any case, and taken where a peer insists on it. With the feature
/// `post-quantum` it is what is asked for first, and what is chosen of what a peer offers.
#[cfg(feature = "aws-lc")]
fn aws_lc() -> CryptoProvider {
    use rustls::crypto::aws_lc_rs::{default_provider, kx_group::X25519MLKEM768};

    let mut provider = default_provider();
    if cfg!(feature = "post-quantum") {
        provider.kx_groups.retain(|group| group.name() != X25519MLKEM768.name());
        provider.kx_groups.insert(0, X25519MLKEM768);
    }
    provider
}
