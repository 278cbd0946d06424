//! What `tests/models` puts its own in the place of, to run those who use it in every order of their threads' steps.

pub(crate) use std::sync::atomic;

#[cfg(feature = "discover")]
pub(crate) use arc_swap::ArcSwapOption;
#[cfg(feature = "discover")]
pub(crate) use tokio::sync::watch;
