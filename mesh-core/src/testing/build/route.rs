//! Route configurations, virtual hosts and routes (A28, A31, A42, A44).

use std::time::Duration;

use mesh_xds_proto::envoy::config::core::v3::RuntimeFractionalPercent;
use mesh_xds_proto::envoy::config::route::v3 as pb;
use mesh_xds_proto::envoy::r#type::matcher::v3::{RegexMatcher, StringMatcher, string_matcher};
use mesh_xds_proto::envoy::r#type::v3::{FractionalPercent, fractional_percent};
use prost::{Message, Name};

use super::{any, duration};

/// A route configuration without virtual hosts.
///
/// ```
/// use mesh_core::testing::{route, route_config};
///
/// let routes = route_config("greeter")
///     .virtual_host(["greeter"], [route().path("/v/Slow").cluster("slow"), route().weighted([("a", 90), ("b", 10)])]);
/// assert_eq!(routes.build().virtual_hosts[0].routes.len(), 2);
/// ```
pub fn route_config(name: impl Into<String>) -> RouteConfigBuilder {
    RouteConfigBuilder(pb::RouteConfiguration { name: name.into(), ..Default::default() })
}

/// A virtual host for these domains, named like the first one.
pub fn virtual_host<D: Into<String>>(domains: impl IntoIterator<Item = D>) -> VirtualHostBuilder {
    let domains: Vec<String> = domains.into_iter().map(Into::into).collect();
    let name = domains.first().cloned().unwrap_or_default();
    VirtualHostBuilder(pb::VirtualHost { name, domains, ..Default::default() })
}

/// A route that matches every request and has no cluster yet.
pub fn route() -> RouteBuilder {
    let everything = pb::RouteMatch {
        path_specifier: Some(pb::route_match::PathSpecifier::Prefix(String::new())),
        ..Default::default()
    };
    RouteBuilder(pb::Route { r#match: Some(everything), ..Default::default() })
}

/// Made by [`route_config`].
#[derive(Clone, Debug)]
pub struct RouteConfigBuilder(pb::RouteConfiguration);

impl RouteConfigBuilder {
    /// Adds a virtual host for these domains, with these routes.
    pub fn virtual_host<D: Into<String>>(
        self,
        domains: impl IntoIterator<Item = D>,
        routes: impl IntoIterator<Item = RouteBuilder>,
    ) -> Self {
        let host = routes.into_iter().fold(virtual_host(domains), VirtualHostBuilder::route);
        self.with(host)
    }

    /// Adds a virtual host for every domain.
    pub fn routes(self, routes: impl IntoIterator<Item = RouteBuilder>) -> Self {
        self.virtual_host(["*"], routes)
    }

    /// Adds a virtual host.
    pub fn with(mut self, host: VirtualHostBuilder) -> Self {
        self.0.virtual_hosts.push(host.build());
        self
    }

    /// Changes any field of the message.
    pub fn modify(mut self, change: impl FnOnce(&mut pb::RouteConfiguration)) -> Self {
        change(&mut self.0);
        self
    }

    /// The message.
    pub fn build(self) -> pb::RouteConfiguration {
        self.0
    }
}

/// Made by [`virtual_host`].
#[derive(Clone, Debug)]
pub struct VirtualHostBuilder(pb::VirtualHost);

impl VirtualHostBuilder {
    /// Adds a route behind those added before; the first that matches is taken.
    pub fn route(mut self, route: RouteBuilder) -> Self {
        self.0.routes.push(route.build());
        self
    }

    /// Sets the retry policy of routes that have none.
    pub fn retry(mut self, policy: pb::RetryPolicy) -> Self {
        self.0.retry_policy = Some(policy);
        self
    }

    /// Overrides the configuration of the HTTP filter `name` (A39).
    pub fn filter_config<M: Message + Name>(mut self, name: impl Into<String>, config: &M) -> Self {
        self.0.typed_per_filter_config.insert(name.into(), any(config));
        self
    }

    /// Changes any field of the message.
    pub fn modify(mut self, change: impl FnOnce(&mut pb::VirtualHost)) -> Self {
        change(&mut self.0);
        self
    }

    /// The message.
    pub fn build(self) -> pb::VirtualHost {
        self.0
    }
}

/// Made by [`route`].
#[derive(Clone, Debug)]
pub struct RouteBuilder(pb::Route);

/// What a request must look like.
impl RouteBuilder {
    /// The path starts with `prefix`.
    pub fn prefix(self, prefix: impl Into<String>) -> Self {
        self.matching_path(pb::route_match::PathSpecifier::Prefix(prefix.into()))
    }

    /// The path is `path`: `/package.Service/Method`.
    pub fn path(self, path: impl Into<String>) -> Self {
        self.matching_path(pb::route_match::PathSpecifier::Path(path.into()))
    }

    /// The whole path matches this RE2 expression.
    pub fn regex(self, regex: impl Into<String>) -> Self {
        self.matching_path(pb::route_match::PathSpecifier::SafeRegex(regex_matcher(regex)))
    }

    /// Letters in the path match whatever their case.
    pub fn ignore_case(mut self) -> Self {
        self.matching().case_sensitive = Some(false);
        self
    }

    /// The header has exactly this value.
    pub fn header(self, name: impl Into<String>, value: impl Into<String>) -> Self {
        let exact = string_matcher::MatchPattern::Exact(value.into());
        let matcher = StringMatcher { match_pattern: Some(exact), ignore_case: false };
        self.header_match(name, pb::header_matcher::HeaderMatchSpecifier::StringMatch(matcher))
    }

    /// The header's whole value matches this RE2 expression.
    pub fn header_regex(self, name: impl Into<String>, regex: impl Into<String>) -> Self {
        let regex = string_matcher::MatchPattern::SafeRegex(regex_matcher(regex));
        let matcher = StringMatcher { match_pattern: Some(regex), ignore_case: false };
        self.header_match(name, pb::header_matcher::HeaderMatchSpecifier::StringMatch(matcher))
    }

    /// The header is there, or is not.
    pub fn header_present(self, name: impl Into<String>, present: bool) -> Self {
        self.header_match(name, pb::header_matcher::HeaderMatchSpecifier::PresentMatch(present))
    }

    /// The header matches, in any of the ways that xDS knows.
    pub fn header_match(
        mut self,
        name: impl Into<String>,
        specifier: pb::header_matcher::HeaderMatchSpecifier,
    ) -> Self {
        let matcher =
            pb::HeaderMatcher { name: name.into(), header_match_specifier: Some(specifier), ..Default::default() };
        self.matching().headers.push(matcher);
        self
    }

    /// Only so many of a million requests match.
    pub fn fraction(mut self, per_million: u32) -> Self {
        let fraction = FractionalPercent {
            numerator: per_million,
            denominator: fractional_percent::DenominatorType::Million as i32,
        };
        let fraction = RuntimeFractionalPercent { default_value: Some(fraction), ..Default::default() };
        self.matching().runtime_fraction = Some(fraction);
        self
    }

    fn matching_path(mut self, path: pb::route_match::PathSpecifier) -> Self {
        self.matching().path_specifier = Some(path);
        self
    }

    fn matching(&mut self) -> &mut pb::RouteMatch {
        self.0.r#match.get_or_insert_with(pb::RouteMatch::default)
    }
}

/// What becomes of the request.
impl RouteBuilder {
    /// Sends it to this cluster.
    pub fn cluster(mut self, name: impl Into<String>) -> Self {
        let cluster = pb::route_action::ClusterSpecifier::Cluster(name.into());
        self.action().cluster_specifier = Some(cluster);
        self
    }

    /// Has a server serve it (A36).
    pub fn non_forwarding(mut self) -> Self {
        self.0.action = Some(pb::route::Action::NonForwardingAction(pb::NonForwardingAction::default()));
        self
    }

    /// Sends it to one of these clusters, in proportion to their weights.
    pub fn weighted<C: Into<String>>(mut self, clusters: impl IntoIterator<Item = (C, u32)>) -> Self {
        let weight = |(name, weight): (C, u32)| pb::weighted_cluster::ClusterWeight {
            name: name.into(),
            weight: Some(weight),
            ..Default::default()
        };
        let clusters = clusters.into_iter().map(weight).collect();
        let clusters = pb::WeightedCluster { clusters, ..Default::default() };
        self.action().cluster_specifier = Some(pb::route_action::ClusterSpecifier::WeightedClusters(clusters));
        self
    }

    /// Limits the call; zero means no limit (A31).
    pub fn max_stream_duration(mut self, limit: Duration) -> Self {
        self.duration_limits().max_stream_duration = Some(duration(limit));
        self
    }

    /// Caps the deadline that the application sets; zero means no cap (A31).
    pub fn grpc_timeout_header_max(mut self, limit: Duration) -> Self {
        self.duration_limits().grpc_timeout_header_max = Some(duration(limit));
        self
    }

    /// Envoy's `timeout`, which gRPC ignores.
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.action().timeout = Some(duration(limit));
        self
    }

    /// Retries on these conditions, comma-separated (`unavailable,cancelled`), at most so many times (A44).
    pub fn retry_on(self, conditions: impl Into<String>, num_retries: u32) -> Self {
        self.retry(pb::RetryPolicy {
            retry_on: conditions.into(),
            num_retries: Some(num_retries),
            ..Default::default()
        })
    }

    /// Sets the retry policy.
    pub fn retry(mut self, policy: pb::RetryPolicy) -> Self {
        self.action().retry_policy = Some(policy);
        self
    }

    /// Hashes this header, for policies with affinity (A42).
    pub fn hash_header(mut self, name: impl Into<String>) -> Self {
        let header = pb::route_action::hash_policy::Header { header_name: name.into(), ..Default::default() };
        let policy = pb::route_action::HashPolicy {
            policy_specifier: Some(pb::route_action::hash_policy::PolicySpecifier::Header(header)),
            ..Default::default()
        };
        self.action().hash_policy.push(policy);
        self
    }

    /// Overrides the configuration of the HTTP filter `name` (A39).
    pub fn filter_config<M: Message + Name>(mut self, name: impl Into<String>, config: &M) -> Self {
        self.0.typed_per_filter_config.insert(name.into(), any(config));
        self
    }

    /// Names the route, for explanations.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.0.name = name.into();
        self
    }

    /// Changes any field of the message.
    pub fn modify(mut self, change: impl FnOnce(&mut pb::Route)) -> Self {
        change(&mut self.0);
        self
    }

    /// The message.
    pub fn build(self) -> pb::Route {
        self.0
    }

    fn duration_limits(&mut self) -> &mut pb::route_action::MaxStreamDuration {
        self.action().max_stream_duration.get_or_insert_with(Default::default)
    }

    /// The action of forwarding; it replaces any other.
    fn action(&mut self) -> &mut pb::RouteAction {
        if !matches!(self.0.action, Some(pb::route::Action::Route(_))) {
            self.0.action = Some(pb::route::Action::Route(pb::RouteAction::default()));
        }
        match &mut self.0.action {
            Some(pb::route::Action::Route(action)) => action,
            _ => unreachable!("the action was made a forwarding one above"),
        }
    }
}

fn regex_matcher(regex: impl Into<String>) -> RegexMatcher {
    RegexMatcher { regex: regex.into(), ..Default::default() }
}
