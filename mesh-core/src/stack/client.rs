//! The client's stack.
//!
//! | place | layer | why there |
//! |---|---|---|
//! | 1 | [`Discover`] | every later layer reads the snapshot that it takes |
//! | 2 | telemetry (to come) | a span and a duration cover all that the mesh does with the call |
//! | 3 | [`Route`] | once per call: every attempt stays in the same cluster (A31) |
//! | 4 | [`Timeout`] | the deadline covers all attempts, the waits between them, and what filters delay |
//! | 5 | [`Filter`] | the listener's filters see the call once its route is known, whatever its attempts |
//! | 6 | [`Mirror`] | a copy has the head as it leaves, and a call one copy, whatever its attempts |
//! | 7 | [`Retry`] | what lies below is one attempt |
//! | 8 | the application's attempt layers | see each attempt as it leaves |
//! | 9 | [`Cluster`] | an attempt that is not admitted must not take an endpoint's place |
//! | 10 | [`Balance`] | picks the endpoint and sends; TLS is part of its connections |

#[cfg(feature = "retry")]
use std::any::TypeId;

use tower_layer::Layer;

use crate::balance::Balance;
use crate::call::EncodeDeadline;
#[cfg(feature = "timeout")]
use crate::call::Protocol;
#[cfg(feature = "cluster")]
use crate::cluster::{Cluster, ClusterLayer};
use crate::connect::Http2Connector;
use crate::discover::{Discover, Target};
#[cfg(feature = "filter")]
use crate::filter::{Filter, FilterLayer};
#[cfg(feature = "mirror")]
use crate::mirror::{Mirror, MirrorLayer};
#[cfg(feature = "timeout")]
use crate::profile::Profile;
#[cfg(feature = "retry")]
use crate::retry::{Retry, RetryLayer};
use crate::route::Route;
#[cfg(feature = "timeout")]
use crate::timeout::{Timeout, TimeoutLayer};

/// The whole of the client's layers around an attempt.
pub type ClientStack<A = Attempt> = Discover<Route<Timeouts<Filters<Mirrors<Attempts<A>>>>>>;

/// What an attempt passes through.
pub type Attempt = Admission<Balance<Http2Connector>>;

/// The layer of the deadline, when its feature is on.
#[cfg(feature = "timeout")]
pub type Timeouts<S> = Timeout<S>;
/// The layer of the deadline, when its feature is on.
#[cfg(not(feature = "timeout"))]
pub type Timeouts<S> = S;

/// The layer of the filters, when its feature is on.
#[cfg(feature = "filter")]
pub type Filters<S> = Filter<S>;
/// The layer of the filters, when its feature is on.
#[cfg(not(feature = "filter"))]
pub type Filters<S> = S;

/// The layer of the copies, when its feature is on.
#[cfg(feature = "mirror")]
pub type Mirrors<S> = Mirror<S, Attempt>;
/// The layer of the copies, when its feature is on.
#[cfg(not(feature = "mirror"))]
pub type Mirrors<S> = S;

/// The body of an attempt's request.
#[cfg(all(feature = "mirror", feature = "retry", feature = "timeout"))]
pub type AttemptBody<B> = crate::retry::RequestBody<crate::mirror::RequestBody<crate::timeout::RequestBody<B>>>;

/// The layer of the attempts, when its feature is on.
#[cfg(feature = "retry")]
pub type Attempts<S> = Retry<S>;
/// The layer of the attempts, when its feature is on.
#[cfg(not(feature = "retry"))]
pub type Attempts<S> = S;

/// The cluster's layer, when its feature is on.
#[cfg(feature = "cluster")]
pub type Admission<S> = Cluster<S>;
/// The cluster's layer, when its feature is on.
#[cfg(not(feature = "cluster"))]
pub type Admission<S> = S;

/// Stacks the layers over `target`, with `attempt_layer` around each attempt.
#[derive(Debug)]
pub(crate) struct ClientStackBuilder {
    pub(crate) target: Target,
    pub(crate) balance: Balance<Http2Connector>,
    #[cfg_attr(not(feature = "timeout"), expect(dead_code, reason = "no layer has a deadline to tell"))]
    pub(crate) tell_deadline: Option<EncodeDeadline>,
    #[cfg(feature = "timeout")]
    pub(crate) profile: Profile,
    #[cfg(feature = "timeout")]
    pub(crate) protocol: Option<&'static dyn Protocol>,
    #[cfg(feature = "filter")]
    pub(crate) filter: FilterLayer,
    #[cfg(feature = "mirror")]
    pub(crate) mirror: MirrorLayer<()>,
    #[cfg(feature = "retry")]
    pub(crate) retry: RetryLayer,
    #[cfg(feature = "cluster")]
    pub(crate) cluster: ClusterLayer,
}

impl ClientStackBuilder {
    pub(crate) fn build<L>(self, attempt_layer: &L) -> ClientStack<L::Service>
    where
        L: Layer<Attempt, Service: 'static>,
    {
        #[cfg(feature = "timeout")]
        let timeout = self.timeout();
        #[cfg(feature = "cluster")]
        let attempt = self.cluster.layer(self.balance);
        #[cfg(not(feature = "cluster"))]
        let attempt = self.balance;
        #[cfg(feature = "mirror")]
        let mirror = self.mirror.by(attempt.clone());
        let attempt = attempt_layer.layer(attempt);
        #[cfg(feature = "retry")]
        // A layer of the application's may answer by itself, or change what failed.
        let attempt = self.retry.lend_extensions(TypeId::of::<L::Service>() == TypeId::of::<Attempt>()).layer(attempt);
        #[cfg(feature = "mirror")]
        let attempt = mirror.layer(attempt);
        #[cfg(feature = "filter")]
        let call = self.filter.layer(attempt);
        #[cfg(not(feature = "filter"))]
        let call = attempt;
        #[cfg(feature = "timeout")]
        let call = timeout.layer(call);
        Discover::new(Route::new(call), self.target)
    }

    #[cfg(feature = "timeout")]
    fn timeout(&self) -> TimeoutLayer {
        let layer = TimeoutLayer::new().profile(self.profile);
        let layer = self.tell_deadline.map_or(layer, |encode| layer.tell_peer(encode));
        self.protocol.map_or(layer, |known| layer.protocol(known))
    }
}
