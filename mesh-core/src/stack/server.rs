//! The order of a server's layers.
//!
//! | layer | does | where it is, and why |
//! |---|---|---|
//! | (limit) | the concurrency limit that code says | before all else: who is refused for lack of room costs nothing |
//! | (filters) | the listener's, access control among them, in its order | before all layers, by `server`: who is refused costs nothing else |
//! | `deadline` | the call's context and deadline | around the handler: all that the handler calls is inside |

use std::time::Duration;

use http::HeaderName;
use tower_layer::Layer;

use crate::deadline::{Deadline, DeadlineLayer, InboundProtocol};

/// Around a handler.
pub(crate) type ServerStack<S> = Deadline<S>;

/// What the layers of a server need.
#[derive(Debug, Default)]
pub(crate) struct ServerStackBuilder {
    pub(crate) protocol: Option<&'static dyn InboundProtocol>,
    /// The longest a call may take.
    pub(crate) limit: Option<Duration>,
    /// The header that says how important a call is; `None`: the default one.
    pub(crate) criticality: Option<HeaderName>,
}

impl ServerStackBuilder {
    pub(crate) fn build<S>(&self, handler: S) -> ServerStack<S> {
        let mut deadline = DeadlineLayer::new();
        if let Some(protocol) = self.protocol {
            deadline = deadline.protocol(protocol);
        }
        if let Some(limit) = self.limit {
            deadline = deadline.limit(limit);
        }
        if let Some(name) = &self.criticality {
            deadline = deadline.criticality_header(name.clone());
        }
        deadline.layer(handler)
    }
}
