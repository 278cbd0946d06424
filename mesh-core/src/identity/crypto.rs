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
    return Some(Arc::new(rustls::crypto::aws_lc_rs::default_provider()));
    #[cfg(all(feature = "ring", not(feature = "aws-lc")))]
    return Some(Arc::new(rustls::crypto::ring::default_provider()));
    #[cfg(not(any(feature = "aws-lc", feature = "ring")))]
    None
}
