//! Where the key material of a TLS context comes from: a provider by name, what a resource carries, or a secret (SDS).

use std::borrow::Cow;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use super::carried::Carried;
use super::provider::KeyMaterial;
use crate::files::NamedFile;

/// Where an identity, or roots, come from. Those that are equal are one: they have one provider, which runs while anything
/// uses it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) enum MaterialSource {
    /// A certificate provider of bootstrap or code, by name (A29).
    Provider(Arc<str>),
    /// What a resource carries, or the files that it names.
    Carried(Arc<Carried>),
    /// A secret, asked of a discovery service (SDS).
    Secret(Arc<SecretSource>),
}

/// A secret, and who has it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct SecretSource {
    pub(crate) name: Arc<str>,
    pub(crate) at: SecretServer,
    pub(crate) part: Part,
}

/// Who is asked for a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SecretServer {
    /// The control plane of the mesh, on its stream (ADS).
    ControlPlane,
    /// An agent on this machine, at a Unix socket.
    Socket(NamedFile),
}

/// Which part of key material a secret is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Part {
    Identity,
    Roots,
}

impl MaterialSource {
    /// Whether it is known to have roots for Envoy's validator for SPIFFE; what a secret has is not.
    pub(crate) fn is_of_spiffe_validator(&self) -> bool {
        match self {
            Self::Carried(carried) => carried.is_of_spiffe_validator(),
            Self::Provider(_) | Self::Secret(_) => false,
        }
    }

    /// What it is, for errors: "secret `ROOTCA` (SDS of the control plane)".
    pub(super) fn label(&self, kind: &str) -> String {
        match self {
            Self::Provider(name) => format!("certificate provider `{name}` ({kind})"),
            Self::Carried(carried) => carried.label(),
            Self::Secret(secret) => format!("secret `{}` (SDS {})", secret.name, secret.at),
        }
    }

    /// A short name, for logs and listings.
    pub(super) fn name(&self) -> Arc<str> {
        match self {
            Self::Provider(name) => name.clone(),
            Self::Carried(carried) => carried.name(),
            Self::Secret(secret) => secret.name.clone(),
        }
    }

    /// What to do when it has nothing that can be used.
    pub(crate) fn next_step(&self) -> Cow<'static, str> {
        match self {
            Self::Provider(name) => format!(
                "see what keeps certificate provider `{name}` from having what is needed (`Mesh::status`, `certificate_providers`)"
            )
            .into(),
            _ => self.advice().into(),
        }
    }

    /// The same of one on demand.
    pub(crate) fn advice(&self) -> &'static str {
        match self {
            Self::Provider(_) => "see `Mesh::status`, `certificate_providers`",
            Self::Carried(_) => "have the control plane send, or name, what can be used",
            Self::Secret(secret) => match &secret.at {
                SecretServer::ControlPlane => {
                    "check that the control plane serves the Secret of that name to this node"
                }
                SecretServer::Socket(_) => {
                    "check that an agent with the Secret of that name listens there, and that this process may open its socket"
                }
            },
        }
    }

    /// What is there as soon as it is named.
    pub(super) fn at_once(&self) -> Option<&KeyMaterial> {
        match self {
            Self::Carried(carried) => carried.at_once(),
            _ => None,
        }
    }

    /// Whether it runs while it is used, and not as long as the mesh.
    pub(crate) fn is_on_demand(&self) -> bool {
        !matches!(self, Self::Provider(_))
    }
}

impl From<&str> for MaterialSource {
    fn from(provider: &str) -> Self {
        Self::Provider(provider.into())
    }
}

impl From<Arc<str>> for MaterialSource {
    fn from(provider: Arc<str>) -> Self {
        Self::Provider(provider)
    }
}

impl Hash for SecretServer {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match self {
            Self::ControlPlane => state.write_u8(0),
            Self::Socket(file) => file.to_string().hash(state),
        }
    }
}

impl fmt::Display for SecretServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ControlPlane => f.write_str("of the control plane"),
            Self::Socket(file) => write!(f, "at unix:{file}"),
        }
    }
}

impl fmt::Display for MaterialSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Provider(name) => write!(f, "certificate provider `{name}`"),
            other => f.write_str(&other.label("")),
        }
    }
}

impl fmt::Debug for MaterialSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Provider(name) => f.debug_tuple("Provider").field(name).finish(),
            Self::Carried(carried) => carried.fmt(f),
            Self::Secret(secret) => secret.fmt(f),
        }
    }
}
