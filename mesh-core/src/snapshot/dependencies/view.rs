//! What a target sees of the store: the names it watches, and the good value or the problem of each.

use std::any::Any;
use std::net::IpAddr;
use std::sync::Arc;

use crate::names::NameIndexSet;
use crate::resource::cluster::DnsName;
use crate::resource::security::{MaterialSource, Readiness};
use crate::resource::{CLUSTER, ENDPOINTS, LISTENER, ROUTE_CONFIGURATION};
use crate::snapshot::Problem;
use crate::xds::resource_type::ResourceType;
use crate::xds::{ResourceState, Subscriber, Verdict};

/// What the store knows, as far as a target needs it.
pub(crate) trait View {
    fn get(&self, resource_type: &'static ResourceType, name: &str) -> ResourceState;

    /// The addresses of a DNS name.
    fn resolve(&self, name: &DnsName) -> Resolved;

    /// The state of certificates or roots that are started on demand.
    fn readiness(&self, source: &MaterialSource) -> Readiness;
}

/// What is known of the addresses of a DNS name.
#[derive(Clone, Debug, Default)]
#[cfg_attr(not(any(feature = "dns", test)), expect(dead_code, reason = "only the feature `dns` asks for names"))]
pub(crate) enum Resolved {
    /// No server has answered yet.
    #[default]
    Pending,
    /// Those of the last good answer; at least one.
    Addresses(Arc<[IpAddr]>),
    /// There never was one.
    Failed(Problem),
}

/// The names a target watches, by type.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Watched {
    pub(crate) listeners: NameIndexSet<Arc<str>>,
    pub(crate) routes: NameIndexSet<Arc<str>>,
    pub(crate) clusters: NameIndexSet<Arc<str>>,
    pub(crate) endpoints: NameIndexSet<Arc<str>>,
    pub(crate) names: NameIndexSet<DnsName>,
    /// Certificates and roots.
    pub(crate) sources: NameIndexSet<MaterialSource>,
}

impl Watched {
    /// Watches these names and no others.
    pub(crate) fn apply(&self, subscriber: &mut Subscriber) {
        subscriber.watch(&[
            (&LISTENER, &self.listeners),
            (&ROUTE_CONFIGURATION, &self.routes),
            (&CLUSTER, &self.clusters),
            (&ENDPOINTS, &self.endpoints),
        ]);
    }
}

/// Why a resource cannot be used.
pub(crate) enum Missing {
    /// There is no verdict yet; of what, in words.
    Pending(String),
    Absent(Problem),
    /// The resource is there, and another that it names cannot be had. It never takes the place of a good one.
    Behind(Problem),
}

impl Missing {
    /// What it means that a resource is missing which another one names. One that is in use can only be missing because
    /// the control plane took it away and is to be obeyed (A88's `fail_on_data_errors`); one that is not holds back
    /// whoever names it.
    pub(crate) fn behind(self, in_use: bool) -> Self {
        match self {
            Missing::Absent(problem) if !in_use => Missing::Behind(problem),
            other => other,
        }
    }
}

/// What the state of certificates or roots that a resource names means.
#[cfg(feature = "tls")]
pub(crate) fn is_ready(source: &MaterialSource, readiness: Readiness) -> Result<(), Missing> {
    match readiness {
        Readiness::Ready => Ok(()),
        Readiness::Awaited(what) => Err(Missing::Pending(what)),
        Readiness::Failed(message) => Err(Missing::Absent(Problem {
            resource: source.to_string().into(),
            message: message.into(),
            next_step: source.advice(),
        })),
    }
}

#[cfg(not(feature = "tls"))]
pub(crate) fn is_ready(source: &MaterialSource, _: Readiness) -> Result<(), Missing> {
    match *source {}
}

/// A resource for people: "Listener `greeter`".
fn described(resource_type: &ResourceType, name: &str) -> String {
    // Ten thousand of them are waited for at a time: no formatting.
    [resource_type.name, " `", name, "`"].concat()
}

pub(super) fn read<T: Any + Send + Sync>(
    view: &impl View,
    resource_type: &'static ResourceType,
    name: &str,
) -> Result<Arc<T>, Missing> {
    value_of(view.get(resource_type, name), resource_type, name)
}

/// The good value of a resource, by what the store knows of it.
pub(crate) fn value_of<T: Any + Send + Sync>(
    state: ResourceState,
    resource_type: &'static ResourceType,
    name: &str,
) -> Result<Arc<T>, Missing> {
    if let Some(value) = state.value::<T>() {
        return Ok(value);
    }
    let resource = described(resource_type, name);
    let (what, next_step) = match state.verdict {
        Verdict::Pending | Verdict::Present => return Err(Missing::Pending(resource)),
        Verdict::DoesNotExist => (
            state.error.map_or_else(|| "does not exist".to_owned(), |reason| format!("does not exist: {reason}")),
            "check the name, and that the control plane serves it to this node",
        ),
        Verdict::Refused(reason) => {
            (format!("cannot be had: {reason}"), "ask the control plane's operator why it does not send the resource")
        }
        Verdict::Invalid(reason) => (
            format!("was rejected: {reason}"),
            "correct the field that is named; the control plane was told the same (NACK)",
        ),
    };
    Err(Missing::Absent(Problem { message: format!("{resource} {what}").into(), resource: resource.into(), next_step }))
}
