//! Policies of the application's own.

use std::fmt;
use std::sync::Arc;

use super::{Member, Policy};
use crate::error::BoxError;
use crate::resource::named_policy::{MakePolicy, NamedPolicy, PolicyConfig};

/// Starts a [`Policy`] whenever there is news of the endpoints: one came or went, connected or was lost.
///
/// State that must outlive that belongs into the factory, behind an `Arc` that the policies share. Functions are factories.
///
/// ```
/// use mesh_core::balance::{BalanceOptions, Choice, Member, PickRequest, Policy};
///
/// /// Always the endpoint with the fewest calls in flight.
/// struct LeastOfAll;
///
/// impl Policy for LeastOfAll {
///     fn pick(&self, members: &[Member], _: &PickRequest<'_>) -> Choice {
///         let least = (0..members.len()).min_by_key(|index| members[*index].in_flight());
///         least.map_or(Choice::Fail, Choice::Endpoint)
///     }
/// }
///
/// let options = BalanceOptions::new().policy(|_: &[Member]| Box::new(LeastOfAll) as Box<dyn Policy>);
/// # let _ = options;
/// ```
pub trait PolicyFactory: Send + Sync + 'static {
    /// A policy among these endpoints, which are READY and at least one. It is asked about the same ones only.
    fn start(&self, members: &[Member]) -> Box<dyn Policy>;
}

impl<F> PolicyFactory for F
where
    F: Fn(&[Member]) -> Box<dyn Policy> + Send + Sync + 'static,
{
    fn start(&self, members: &[Member]) -> Box<dyn Policy> {
        self(members)
    }
}

/// A factory that can be shared.
#[derive(Clone)]
pub(crate) struct OwnPolicy(pub(crate) Arc<dyn PolicyFactory>);

impl OwnPolicy {
    /// What the control plane asks for by its name (A52).
    pub(crate) fn of(policy: &NamedPolicy) -> Self {
        policy.made.downcast_ref::<Self>().expect("`make_policy` makes nothing else").clone()
    }
}

/// How a policy is made of its configuration, for the decoder.
pub(crate) fn make_policy<F: PolicyFactory>(
    make: impl Fn(&PolicyConfig) -> Result<F, BoxError> + Send + Sync + 'static,
) -> Arc<MakePolicy> {
    Arc::new(move |config| {
        let factory: Arc<dyn PolicyFactory> = Arc::new(make(config)?);
        Ok(Arc::new(OwnPolicy(factory)))
    })
}

impl fmt::Debug for OwnPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OwnPolicy")
    }
}
