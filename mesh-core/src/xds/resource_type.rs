//! What the xDS client needs to know of a resource type: its URL, how it is deleted, how it is decoded.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

/// One resource type; the four of the main path are statics in `resource/`.
#[derive(Debug)]
pub(crate) struct ResourceType {
    /// `type.googleapis.com/envoy.config.cluster.v3.Cluster`.
    pub(crate) type_url: &'static str,
    /// The message's short name, for people: `Cluster`.
    pub(crate) name: &'static str,
    /// Whether a response lists every resource, so that absence means deletion (LDS and CDS).
    pub(crate) absence_deletes: bool,
    /// Bytes of one resource to its validated value; pure, total.
    pub(crate) decode: fn(&[u8], &Extensions) -> Decoded,
}

/// What the application adds to what resources can say; only the decoders know what it is.
#[derive(Clone, Default)]
pub(crate) struct Extensions(Option<Arc<dyn Any + Send + Sync>>);

impl Extensions {
    pub(crate) fn new<T: Any + Send + Sync>(extensions: T) -> Self {
        Self(Some(Arc::new(extensions)))
    }

    pub(crate) fn get<T: Any>(&self) -> Option<&T> {
        self.0.as_ref()?.downcast_ref()
    }
}

impl fmt::Debug for Extensions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Extensions").field(&self.0.is_some()).finish()
    }
}

/// What became of the bytes of one resource.
pub(crate) struct Decoded {
    /// The value, an `Arc` of the type that the resource type stands for; or everything that is wrong with it.
    pub(crate) value: Result<Arc<dyn Any + Send + Sync>, Vec<FieldError>>,
    /// Fields that are set and that nothing acts on.
    pub(crate) ignored: Vec<IgnoredField>,
}

/// One thing that is wrong with a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FieldError {
    /// Path from the resource down: `virtual_hosts[0].routes[2].match.safe_regex`.
    pub(crate) path: String,
    /// What was found and what was wanted.
    pub(crate) problem: String,
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.problem)
    }
}

/// A field that was set and that nothing acts on.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct IgnoredField {
    /// Path without indices: `virtual_hosts.routes.route.prefix_rewrite`.
    pub(crate) path: String,
    /// Why, when it is not simply that nothing acts on it: `feature retry is off`.
    pub(crate) reason: &'static str,
}
