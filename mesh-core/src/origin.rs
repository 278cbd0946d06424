//! Who set a value that is in force: the control plane, code, or nobody.

use std::borrow::Cow;
use std::fmt;

/// Who set a value that is in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Origin {
    /// The control plane, in a resource.
    Xds,
    /// The application: on a builder, or in a snapshot made in code.
    Code,
    /// Nobody: it is what holds where nothing else is said.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Origin::Xds => "xds",
            Origin::Code => "code",
            Origin::Default => "default",
        })
    }
}

/// A value, and who set it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sourced<T> {
    pub(crate) value: T,
    pub(crate) origin: Origin,
}

impl<T> Sourced<T> {
    pub(crate) const fn xds(value: T) -> Self {
        Self { value, origin: Origin::Xds }
    }

    pub(crate) const fn code(value: T) -> Self {
        Self { value, origin: Origin::Code }
    }

    pub(crate) const fn by_default(value: T) -> Self {
        Self { value, origin: Origin::Default }
    }

    /// What `origin` says, or else `otherwise`.
    pub(crate) fn or(said: Option<T>, origin: Origin, otherwise: Self) -> Self {
        said.map_or(otherwise, |value| Self { value, origin })
    }
}

/// A setting as the layer that acts on it tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    /// As gRPC, Envoy or the builder name it.
    pub(crate) name: Cow<'static, str>,
    pub(crate) value: Sourced<String>,
}

impl Held {
    pub(crate) fn new(name: impl Into<Cow<'static, str>>, value: impl ToString, origin: Origin) -> Self {
        Self { name: name.into(), value: Sourced { value: value.to_string(), origin } }
    }
}
