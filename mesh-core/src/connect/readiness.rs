//! Whether there is what an endpoint's connections are secured with. Waiting for it is no attempt to connect, and that it is
//! missing is not the endpoint's failure.

use std::future::pending;
use std::sync::Arc;

#[cfg(feature = "tls")]
use crate::tls::Material;

/// The certificates and roots that connections to an endpoint need, as far as a connector has to wait for them. By default
/// there is nothing to wait for.
#[derive(Debug, Default)]
pub struct Readiness {
    #[cfg(feature = "tls")]
    material: Option<Box<Material>>,
}

/// Why there is nothing to secure connections with.
#[derive(Clone, Debug)]
pub(crate) struct Withheld {
    pub(crate) why: Arc<str>,
    /// It is about to come: calls wait for it as they wait for a connection.
    pub(crate) is_awaited: bool,
}

impl Readiness {
    #[cfg(feature = "tls")]
    pub(super) fn of(material: Material) -> Self {
        Self { material: Some(Box::new(material)) }
    }

    /// Ends when connections can be secured, however long that takes; `tell` is told why they cannot be yet.
    pub(super) async fn usable(&mut self, tell: impl FnMut(Withheld)) {
        #[cfg(feature = "tls")]
        if let Some(material) = &mut self.material {
            use crate::identity::Unready;
            let mut tell = tell;
            let told = |unready: &Unready| {
                let is_awaited = matches!(unready, Unready::Awaited(_));
                tell(Withheld { why: unready.to_string().into(), is_awaited });
            };
            return Box::pin(material.usable(told)).await;
        }
        let _ = tell;
    }

    /// Ends when there is newer than what could be used last: what failed before may succeed now.
    pub(super) async fn renewed(&mut self) {
        #[cfg(feature = "tls")]
        if let Some(material) = &mut self.material {
            return material.renewed().await;
        }
        pending().await
    }
}
