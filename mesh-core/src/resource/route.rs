//! What a matched route does with a call: where it goes, how long it may take, how often it is
//! tried (A28, A31, A44).

use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;
use http::uri::Authority;

use super::hash_policy::HashPolicy;
use super::level::Level;
use super::mirror::MirrorPolicy;
use super::retry_policy::RetryPolicy;
use super::rewrite::PathRewrite;
use super::route_answer::RouteAnswer;
use crate::profile::Profile;

/// One route of a virtual host.
#[derive(Clone, Debug)]
pub(crate) struct Route {
    /// The route's name, or else what it matches: `prefix /`.
    pub(crate) name: Arc<str>,
    pub(crate) action: RouteAction,
    pub(crate) level: Level,
    /// What requests get in place of their path.
    pub(crate) path: Option<Arc<PathRewrite>>,
    /// What requests get in place of their authority, if the control plane may say so.
    pub(crate) host: Option<Box<Authority>>,
    /// They get the host name of the endpoint that they are sent to, instead (A81).
    pub(crate) auto_host: bool,
    /// Where copies of its calls go.
    pub(crate) mirrors: Arc<[MirrorPolicy]>,
}

impl Route {
    pub(crate) fn new(name: impl Into<Arc<str>>, action: RouteAction) -> Self {
        Self {
            name: name.into(),
            action,
            level: Level::default(),
            path: None,
            host: None,
            auto_host: false,
            mirrors: Arc::default(),
        }
    }
}

/// What becomes of a call that the route matches.
#[derive(Clone, Debug)]
pub(crate) enum RouteAction {
    Forward(Forward),
    /// The call is answered and sent nowhere.
    Answer(Arc<RouteAnswer>),
    /// A server serves the call itself (A36); on a client it fails.
    NonForwarding,
    /// Nothing acts on this action, so the call fails, as it does in gRPC: the field's name, such as `redirect`.
    Unsupported(&'static str),
}

impl RouteAction {
    /// The field's name.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Forward(_) => "route",
            Self::Answer(answer) => answer.name(),
            Self::NonForwarding => "non_forwarding_action",
            Self::Unsupported(name) => name,
        }
    }
}

/// The clusters that calls are shared between.
#[derive(Clone, Debug)]
pub(crate) struct Forward {
    clusters: Vec<ClusterWeight>,
    total_weight: u32,
    /// For each cluster its weight and those before it together; empty if there is one cluster only.
    upto: Vec<u32>,
    deadline: RouteDeadline,
    retry: Option<Arc<RetryPolicy>>,
    hash: Vec<HashPolicy>,
}

/// One cluster and its share of the calls.
#[derive(Clone, Debug)]
pub(crate) struct ClusterWeight {
    /// Empty if a header of the request names it.
    pub(crate) name: Arc<str>,
    /// The header that names the cluster.
    pub(crate) header: Option<Box<HeaderName>>,
    /// Of the total; 0 takes no calls.
    pub(crate) weight: u32,
    pub(crate) level: Level,
    /// As the route's, if that has none.
    pub(crate) host: Option<Box<Authority>>,
}

impl ClusterWeight {
    pub(crate) fn new(name: impl Into<Arc<str>>, weight: u32) -> Self {
        Self { name: name.into(), header: None, weight, level: Level::default(), host: None }
    }

    /// The cluster that this header of the request names.
    pub(crate) fn by_header(header: HeaderName, weight: u32) -> Self {
        Self { header: Some(Box::new(header)), ..Self::new("", weight) }
    }
}

/// Weights that cannot be shared by: their sum is 0, or above `u32::MAX`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BadWeights;

impl Forward {
    /// All calls go to one cluster.
    pub(crate) fn to(cluster: impl Into<Arc<str>>) -> Self {
        let clusters = vec![ClusterWeight::new(cluster, 1)];
        Self {
            clusters,
            total_weight: 1,
            upto: Vec::new(),
            deadline: RouteDeadline::default(),
            retry: None,
            hash: Vec::new(),
        }
    }

    /// Calls are shared by weight, which must add up to 1 to `u32::MAX`.
    pub(crate) fn weighted(clusters: Vec<ClusterWeight>) -> Result<Self, BadWeights> {
        let mut total_weight: u32 = 0;
        let mut upto = Vec::with_capacity(clusters.len());
        for cluster in &clusters {
            total_weight = total_weight.checked_add(cluster.weight).ok_or(BadWeights)?;
            upto.push(total_weight);
        }
        if total_weight == 0 {
            return Err(BadWeights);
        }
        Ok(Self { clusters, total_weight, upto, deadline: RouteDeadline::default(), retry: None, hash: Vec::new() })
    }

    pub(crate) fn with_deadline(mut self, deadline: RouteDeadline) -> Self {
        self.deadline = deadline;
        self
    }

    pub(crate) fn with_retry(mut self, retry: Option<Arc<RetryPolicy>>) -> Self {
        self.retry = retry;
        self
    }

    /// What policies with affinity hash of a request (A42).
    pub(crate) fn with_hash(mut self, hash: Vec<HashPolicy>) -> Self {
        self.hash = hash;
        self
    }

    /// Each call goes to the cluster that this header of its request names.
    pub(crate) fn by_header(name: HeaderName) -> Self {
        Self { clusters: vec![ClusterWeight::by_header(name, 1)], ..Self::to("") }
    }

    /// Whether a call may name the cluster that it goes to.
    pub(crate) fn takes_headers(&self) -> bool {
        self.clusters.iter().any(|cluster| cluster.header.is_some())
    }

    /// Every cluster of the route, those of weight 0 too, in the configured order.
    pub(crate) fn clusters(&self) -> &[ClusterWeight] {
        &self.clusters
    }

    pub(crate) fn deadline(&self) -> RouteDeadline {
        self.deadline
    }

    pub(crate) fn retry(&self) -> Option<&Arc<RetryPolicy>> {
        self.retry.as_ref()
    }

    pub(crate) fn hash(&self) -> &[HashPolicy] {
        &self.hash
    }

    /// The index in [`clusters`](Self::clusters) that a random number falls on; one of weight 0 is never chosen.
    pub(crate) fn pick_cluster(&self, random: impl FnOnce() -> u64) -> usize {
        if self.clusters.len() == 1 {
            return 0;
        }
        let point = random() % u64::from(self.total_weight);
        self.upto.partition_point(|&upto| u64::from(upto) <= point)
    }
}

/// How long the route lets a call take (A31).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RouteDeadline {
    max: Option<Duration>,
    /// Envoy's `timeout`, to which gRPC gives no meaning.
    timeout: Option<Duration>,
    /// Envoy's `idle_timeout`; zero: none, whatever the listener says.
    idle: Option<Duration>,
}

impl RouteDeadline {
    /// `max`: `grpc_timeout_header_max` if set, else `max_stream_duration`. Zero: no limit, whatever the listener says.
    pub(crate) fn new(max: Option<Duration>) -> Self {
        Self { max, ..Self::default() }
    }

    /// Limits calls in Envoy's profile too; zero: no limit.
    pub(crate) fn with_timeout(mut self, timeout: Option<Duration>) -> Self {
        self.timeout = timeout.filter(|timeout| !timeout.is_zero());
        self
    }

    /// Ends calls of which nothing moves for so long, in Envoy's profile; `None`: as the listener says.
    pub(crate) fn with_idle(mut self, idle: Option<Duration>) -> Self {
        self.idle = idle;
        self
    }

    /// The time that a call has: the application's, never lengthened, or less. `listener_max` is used by routes that
    /// say nothing.
    pub(crate) fn limit(
        &self,
        app: Option<Duration>,
        listener_max: Option<Duration>,
        profile: Profile,
    ) -> Option<Duration> {
        app.into_iter().chain(self.max(listener_max)).chain(self.timeout(profile)).min()
    }

    /// What the route allows, or else the listener.
    pub(crate) fn max(&self, listener_max: Option<Duration>) -> Option<Duration> {
        self.max.or(listener_max).filter(|max| !max.is_zero())
    }

    /// Whether the route says itself what is allowed.
    pub(crate) fn has_max(&self) -> bool {
        self.max.is_some()
    }

    /// Envoy's `timeout`, where it holds.
    pub(crate) fn timeout(&self, profile: Profile) -> Option<Duration> {
        self.timeout.filter(|_| profile == Profile::Envoy)
    }

    /// How long nothing of a call may move, where that holds.
    pub(crate) fn idle(&self, listener: Option<Duration>, profile: Profile) -> Option<Duration> {
        self.idle.or(listener).filter(|idle| profile == Profile::Envoy && !idle.is_zero())
    }

    /// Whether the route says itself how long nothing may move.
    pub(crate) fn has_idle(&self) -> bool {
        self.idle.is_some()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// The model has a place for each unit of weight.
        #[test]
        fn a_number_falls_on_the_cluster_that_has_its_place(weights in prop::collection::vec(0..5_u32, 2..12), random in any::<u64>()) {
            let places: Vec<usize> =
                weights.iter().enumerate().flat_map(|(at, weight)| vec![at; *weight as usize]).collect();
            prop_assume!(!places.is_empty());
            let forward = weighted(&weights).expect("a sum above 0");
            let place = usize::try_from(random % places.len() as u64).expect("it is below a length");
            prop_assert_eq!(forward.pick_cluster(|| random), places[place]);
        }
    }

    fn weighted(weights: &[u32]) -> Result<Forward, BadWeights> {
        let weight = |&weight| ClusterWeight::new("c", weight);
        Forward::weighted(weights.iter().map(weight).collect())
    }

    #[test]
    fn clusters_are_chosen_by_weight() {
        let forward = weighted(&[0, 2, 0, 3, 0]).expect("valid weights");
        let chosen: Vec<_> = (0..5).map(|random| forward.pick_cluster(|| random)).collect();
        assert_eq!(chosen, [1, 1, 3, 3, 3]);
        assert_eq!(forward.pick_cluster(|| u64::MAX), forward.pick_cluster(|| u64::MAX % 5));
        assert_eq!(Forward::to("a").pick_cluster(|| u64::MAX), 0);
    }

    #[test]
    fn weights_add_up_to_a_positive_u32() {
        assert!(weighted(&[u32::MAX]).is_ok());
        for weights in [&[][..], &[0], &[0, 0], &[u32::MAX, 1]] {
            assert_eq!(weighted(weights).err(), Some(BadWeights), "{weights:?}");
        }
    }

    #[test]
    fn a_route_shortens_a_deadline_and_never_lengthens_it() {
        let seconds = |seconds: Option<u64>| seconds.map(Duration::from_secs);
        for (route, listener, app, expected) in [
            (None, None, None, None),
            (None, None, Some(3), Some(3)),
            (Some(2), None, None, Some(2)),
            (Some(2), None, Some(3), Some(2)),
            (Some(2), None, Some(1), Some(1)),
            (Some(2), Some(1), Some(3), Some(2)),
            (Some(0), Some(1), Some(3), Some(3)),
            (Some(0), Some(1), None, None),
            (None, Some(1), Some(3), Some(1)),
            (None, Some(0), Some(3), Some(3)),
        ] {
            let limit = RouteDeadline::new(seconds(route)).limit(seconds(app), seconds(listener), Profile::Grpc);
            assert_eq!(limit, seconds(expected), "route {route:?}, listener {listener:?}, application {app:?}");
        }
    }

    #[test]
    fn envoys_timeout_limits_calls_in_envoys_profile_alone() {
        let seconds = |seconds: Option<u64>| seconds.map(Duration::from_secs);
        for (timeout, max, app, grpc, envoy) in [
            (Some(2), None, None, None, Some(2)),
            (Some(2), Some(1), None, Some(1), Some(1)),
            (Some(2), Some(3), Some(4), Some(3), Some(2)),
            (Some(0), None, Some(4), Some(4), Some(4)),
            (None, None, None, None, None),
        ] {
            let route = RouteDeadline::new(seconds(max)).with_timeout(seconds(timeout));
            for (profile, expected) in [(Profile::Grpc, grpc), (Profile::Envoy, envoy)] {
                let limit = route.limit(seconds(app), None, profile);
                assert_eq!(
                    limit,
                    seconds(expected),
                    "timeout {timeout:?}, max {max:?}, application {app:?}, {profile:?}"
                );
            }
        }
    }
}
