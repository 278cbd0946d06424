//! The table of verdicts against the protos, and the decoders against the table.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use mesh_xds_proto::envoy::config::cluster::v3::cluster::{ClusterDiscoveryType, CustomClusterType, DiscoveryType};
use mesh_xds_proto::envoy::config::core::v3::RuntimeDouble;
use mesh_xds_proto::envoy::config::route::v3 as route;
use mesh_xds_proto::envoy::config::route::v3::route_action::ClusterSpecifier;
use mesh_xds_proto::envoy::extensions::common::matching::v3::ExtensionWithMatcherPerRoute;
use mesh_xds_proto::envoy::extensions::filters::http::composite::v3::Composite;
use mesh_xds_proto::envoy::extensions::filters::http::ext_authz::v3::{ExtAuthz, ExtAuthzPerRoute};
use mesh_xds_proto::envoy::extensions::filters::http::fault::v3::HttpFault;
use mesh_xds_proto::envoy::extensions::filters::http::header_mutation::v3::HeaderMutation;
use mesh_xds_proto::envoy::extensions::filters::http::jwt_authn::v3::JwtAuthentication;
use mesh_xds_proto::envoy::extensions::filters::http::local_ratelimit::v3::LocalRateLimit;
use mesh_xds_proto::envoy::extensions::filters::http::rbac::v3::RbacPerRoute;
use mesh_xds_proto::envoy::extensions::transport_sockets::tls::v3::UpstreamTlsContext;
use mesh_xds_proto::envoy::r#type::matcher::v3::StringMatcher;
use prost::{Message, Name};
use prost_reflect::{
    Cardinality, DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, Value,
};
use prost_types::Any;

use super::fixture::*;
use crate::resource::route_config::RouteConfiguration;
use crate::resource::verdict::table::MESSAGES;
use crate::resource::verdict::{FieldVerdict, Verdict, verdicts};
use crate::resource::{CLUSTER, ENDPOINTS, LISTENER, ROUTE_CONFIGURATION};
use crate::xds::resource_type::{Extensions, IgnoredField};

pub(super) static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    DescriptorPool::decode(mesh_xds_proto::FILE_DESCRIPTOR_SET).expect("the descriptors that are checked in")
});

fn descriptor(full_name: &str) -> MessageDescriptor {
    POOL.get_message_by_name(full_name).expect("a message of the protos")
}

#[test]
fn the_table_has_each_field_of_the_protos() {
    for (full_name, rows) in MESSAGES {
        let in_table: BTreeSet<_> = rows.iter().map(|row| row.field.to_owned()).collect();
        let descriptor = descriptor(&full_name());
        let in_proto: BTreeSet<_> = descriptor.fields().map(|field| field.name().to_owned()).collect();
        assert_eq!(in_table, in_proto, "{}", full_name());
    }
}

#[test]
fn the_table_has_each_field_of_the_wrapper() {
    let rows = verdicts().filter(|row| row.message == "Resource");
    let descriptor = descriptor("envoy.service.discovery.v3.Resource");
    let in_proto: BTreeSet<_> = descriptor.fields().map(|field| field.name().to_owned()).collect();
    assert_eq!(rows.map(|row| row.field.to_owned()).collect::<BTreeSet<_>>(), in_proto);
}

#[test]
fn each_field_that_is_not_acted_on_is_listed_or_refused() {
    let mut checked = 0;
    with_each_field(
        |row| row.verdict != Verdict::Act,
        |full_name, row, fixture| {
            check(full_name, row, fixture);
            checked += 1;
        },
    );
    assert!(checked > 200, "{checked} fields");
}

/// Calls `check` with the resources that set one field of the table, for each that is `chosen`.
pub(super) fn with_each_field(
    chosen: impl Fn(&FieldVerdict) -> bool,
    mut check: impl FnMut(&str, &FieldVerdict, &Fixture),
) {
    for (full_name, rows) in MESSAGES {
        let full_name = full_name();
        for row in rows.iter().filter(|row| chosen(row)) {
            let field = descriptor(&full_name).get_field_by_name(row.field).expect("in the table as in the protos");
            let mut fixture = Fixture::default();
            place(&full_name, &sample(&field).encode_to_vec(), &mut fixture);
            check(&full_name, row, &fixture);
        }
    }
}

fn check(full_name: &str, row: &FieldVerdict, fixture: &Fixture) {
    let (errors, ignored) = found(fixture);
    let ends_here = |path: &str| path == row.field || path.ends_with(&format!(".{}", row.field));
    if row.verdict == Verdict::Nack {
        let refused = errors.iter().any(|(path, problem)| ends_here(path) && problem == row.note);
        assert!(refused, "{full_name}.{}: {errors:?}", row.field);
    } else {
        // The sample says nothing, which some of these must not; then there is nothing to list.
        let is_refused = row.verdict == Verdict::ClientActs && errors.iter().any(|(path, _)| path.contains(row.field));
        assert!(
            is_refused || ignored.iter().any(|field| ends_here(&field.path)),
            "{full_name}.{}: {ignored:?}, {errors:?}",
            row.field
        );
    }
}

/// Errors and ignored fields of all resources, and those that only clients act on.
pub(super) fn found(fixture: &Fixture) -> (Vec<(String, String)>, Vec<IgnoredField>) {
    let decoded = [
        (LISTENER.decode)(&fixture.packed().encode_to_vec(), &Extensions::default()),
        (LISTENER.decode)(&fixture.server().encode_to_vec(), &Extensions::default()),
        (ROUTE_CONFIGURATION.decode)(&fixture.routes.encode_to_vec(), &Extensions::default()),
        (CLUSTER.decode)(&fixture.cluster.encode_to_vec(), &Extensions::default()),
        (ENDPOINTS.decode)(&fixture.endpoints.encode_to_vec(), &Extensions::default()),
        #[cfg(feature = "tls")]
        (crate::resource::SECRET.decode)(&fixture.secret, &Extensions::default()),
    ];
    let mut errors = Vec::new();
    let mut ignored = Vec::new();
    for decoded in decoded {
        let routes = decoded.value.as_ref().ok().and_then(|value| value.downcast_ref::<RouteConfiguration>());
        ignored.extend(routes.into_iter().flat_map(|routes| routes.of_clients.clone()));
        errors.extend(decoded.value.err().into_iter().flatten().map(|error| (error.path, error.problem)));
        ignored.extend(decoded.ignored);
    }
    (errors, ignored)
}

/// A message with that one field set to something else than its default.
fn sample(field: &FieldDescriptor) -> DynamicMessage {
    let mut message = DynamicMessage::new(field.parent_message().clone());
    let value = if field.is_map() {
        let entry = field.kind();
        let value = entry.as_message().expect("an entry").map_entry_value_field();
        Value::Map([(MapKey::String("k".into()), single(&value))].into())
    } else if field.cardinality() == Cardinality::Repeated {
        Value::List(vec![single(field)])
    } else {
        single(field)
    };
    message.set_field(field, value);
    message
}

fn single(field: &FieldDescriptor) -> Value {
    match field.kind() {
        Kind::Bool => Value::Bool(true),
        Kind::String => Value::String("x".into()),
        Kind::Bytes => Value::Bytes("x".into()),
        Kind::Double => Value::F64(1.0),
        Kind::Uint32 => Value::U32(1),
        Kind::Uint64 => Value::U64(1),
        Kind::Int64 => Value::I64(1),
        Kind::Int32 => Value::I32(1),
        Kind::Enum(kind) => {
            let set = kind.values().find(|value| value.number() != 0).expect("an enum has more than its default");
            Value::EnumNumber(set.number())
        }
        Kind::Message(kind) => Value::Message(message_sample(&kind)),
        other => panic!("{} is a {other:?}", field.full_name()),
    }
}

/// Empty, unless that would say nothing.
fn message_sample(kind: &MessageDescriptor) -> DynamicMessage {
    let mut message = DynamicMessage::new(kind.clone());
    match kind.full_name() {
        "google.protobuf.Duration" => message.set_field_by_name("seconds", Value::I64(1)),
        "google.protobuf.BoolValue" => message.set_field_by_name("value", Value::Bool(true)),
        "envoy.config.core.v3.Metadata" => {
            return sample(&kind.get_field_by_name("filter_metadata").expect("a field of Metadata"));
        }
        _ => {}
    }
    message
}

/// Merges the sample into the message of that type in a good set of resources.
fn place(full_name: &str, sample: &[u8], f: &mut Fixture) {
    let packed = Any { type_url: format!("type.googleapis.com/{full_name}"), value: sample.to_vec() };
    let short = full_name.strip_prefix("envoy.").unwrap_or(full_name);
    match short {
        "config.listener.v3.Listener" => merge(&mut f.listener, sample),
        "config.listener.v3.FilterChain" => merge(&mut f.chain, sample),
        "config.listener.v3.FilterChainMatch" => merge(f.chain.filter_chain_match.get_or_insert_default(), sample),
        "config.listener.v3.Filter" => merge(&mut f.chain, &nested(3, sample)),
        "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager" => merge(&mut f.manager, sample),
        "extensions.filters.network.http_connection_manager.v3.HttpFilter" => {
            merge(&mut f.manager.http_filters[0], sample);
        }
        "config.core.v3.HttpProtocolOptions" => {
            merge(f.manager.common_http_protocol_options.get_or_insert_default(), sample);
        }
        "extensions.filters.http.router.v3.Router" => f.manager.http_filters[0] = filter_of("router", packed),
        "extensions.filters.http.fault.v3.HTTPFault"
        | "extensions.filters.http.local_ratelimit.v3.LocalRateLimit"
        | "extensions.filters.http.stateful_session.v3.StatefulSession" => {
            f.manager.http_filters.insert(0, filter_of("x", packed));
        }
        "config.route.v3.RedirectAction" => {
            let action = route::RedirectAction::decode(sample).expect("a sample");
            f.route().action = Some(route::route::Action::Redirect(action));
        }
        "config.route.v3.DirectResponseAction" => {
            let action = route::DirectResponseAction::decode(sample).expect("a sample");
            f.route().action = Some(route::route::Action::DirectResponse(action));
        }
        "config.core.v3.DataSource" => {
            let action = route::DirectResponseAction::decode(&*nested(2, sample)).expect("a sample");
            f.route().action = Some(route::route::Action::DirectResponse(action));
        }
        "extensions.filters.http.header_mutation.v3.Mutations" => {
            let filter = Any { type_url: HeaderMutation::type_url(), value: nested(1, sample) };
            f.manager.http_filters.insert(0, filter_of("x", filter));
        }
        "extensions.filters.http.fault.v3.FaultAbort" => {
            let fault = Any { type_url: HttpFault::type_url(), value: nested(2, sample) };
            f.manager.http_filters.insert(0, filter_of("x", fault));
        }
        "extensions.filters.http.stateful_session.v3.StatefulSessionPerRoute" | "config.route.v3.FilterConfig" => {
            f.route().typed_per_filter_config = overrides("x", packed);
        }
        "extensions.common.matching.v3.ExtensionWithMatcher" => {
            let composite = Any { type_url: Composite::type_url(), value: Vec::new() };
            let extension = nested(2, &nested(2, &composite.encode_to_vec()));
            let filter = Any { value: [sample, &extension].concat(), ..packed };
            f.manager.http_filters.insert(0, filter_of("x", filter));
        }
        unified
            if unified.starts_with("xds.type.matcher.v3.")
                || unified.starts_with("extensions.filters.http.composite.v3.") =>
        {
            let (path, value): (&[u32], _) = match unified.rsplit('.').next().expect("a name") {
                "OnMatch" => (&[1, 3], sample.to_vec()),
                "SinglePredicate" => (&[1, 1, 1, 1, 1], sample.to_vec()),
                "StringMatcher" => (&[1, 1, 1, 1, 1, 2], sample.to_vec()),
                "MatcherTree" => (&[1, 2], sample.to_vec()),
                "ExecuteFilterAction" => (&[1, 3, 2, 2], packed.encode_to_vec()),
                other => panic!("{other} has no place in a tree"),
            };
            let value = path.iter().rev().fold(value, |message, number| nested(*number, &message));
            let packed = Any { type_url: ExtensionWithMatcherPerRoute::type_url(), value };
            f.route().typed_per_filter_config = overrides("x", packed);
        }
        limit if limit.starts_with("config.route.v3.RateLimit") => {
            let path: &[u32] = match limit.rsplit('.').next().expect("a name") {
                "RateLimit" => &[17],
                "Action" => &[17, 3],
                "GenericKey" => &[17, 3, 5],
                "HeaderValueMatch" => &[17, 3, 6],
                other => panic!("{other} has no place in a limit"),
            };
            let value = path.iter().rev().fold(sample.to_vec(), |message, number| nested(*number, &message));
            let packed = Any { type_url: LocalRateLimit::type_url(), value };
            f.manager.http_filters.insert(0, filter_of("x", packed));
        }
        tokens if tokens.starts_with("extensions.filters.http.jwt_authn.v3.") => {
            let path: &[u32] = match tokens.rsplit('.').next().expect("a name") {
                "JwtAuthentication" => &[],
                "JwtProvider" => &[1, 2],
                "RemoteJwks" => &[1, 2, 3],
                "JwtRequirement" => &[2, 2],
                other => panic!("{other} has no place in a filter"),
            };
            let value = path.iter().rev().fold(sample.to_vec(), |message, number| nested(*number, &message));
            let packed = Any { type_url: JwtAuthentication::type_url(), value };
            f.manager.http_filters.insert(0, filter_of("x", packed));
        }
        check
            if check.starts_with("extensions.filters.http.ext_authz.v3.")
                || check.starts_with("config.core.v3.GrpcService")
                || matches!(
                    check,
                    "config.common.mutation_rules.v3.HeaderMutationRules" | "config.core.v3.RuntimeFeatureFlag"
                ) =>
        {
            let (url, path): (_, &[u32]) = match check.rsplit('.').next().expect("a name") {
                "ExtAuthz" => (ExtAuthz::type_url(), &[]),
                "GrpcService" => (ExtAuthz::type_url(), &[1]),
                "GoogleGrpc" => (ExtAuthz::type_url(), &[1, 2]),
                "HeaderMutationRules" => (ExtAuthz::type_url(), &[26]),
                "RuntimeFeatureFlag" => (ExtAuthz::type_url(), &[11]),
                "ExtAuthzPerRoute" => (ExtAuthzPerRoute::type_url(), &[]),
                "CheckSettings" => (ExtAuthzPerRoute::type_url(), &[2]),
                other => panic!("{other} has no place in a filter"),
            };
            let value = path.iter().rev().fold(sample.to_vec(), |message, number| nested(*number, &message));
            let packed = Any { type_url: url, value };
            match packed.type_url == ExtAuthz::type_url() {
                true => f.manager.http_filters.insert(0, filter_of("x", packed)),
                false => f.route().typed_per_filter_config = overrides("x", packed),
            }
        }
        access if access.starts_with("extensions.filters.http.rbac.v3.") || access.starts_with("config.rbac.v3.") => {
            let path: &[u32] = match access.rsplit('.').next().expect("a name") {
                "RBAC" => &[2],
                "Policy" => &[2, 1, 2, 2],
                "Permission" => &[2, 1, 2, 2, 1],
                "Principal" => &[2, 1, 2, 2, 2],
                other => panic!("{other} has no place in a filter"),
            };
            let value = path.iter().rev().fold(sample.to_vec(), |message, number| nested(*number, &message));
            let packed = Any { type_url: RbacPerRoute::type_url(), value };
            f.route().typed_per_filter_config = overrides("x", packed);
        }
        "config.core.v3.ConfigSource" => {
            let eds = f.cluster.eds_cluster_config.get_or_insert_default();
            merge(eds.eds_config.get_or_insert_default(), sample);
        }
        "config.route.v3.RouteConfiguration" => merge(&mut f.routes, sample),
        "config.route.v3.VirtualHost" => merge(&mut f.routes.virtual_hosts[0], sample),
        "config.route.v3.Route" => merge(f.route(), sample),
        "config.route.v3.RouteMatch" => merge(f.matching(), sample),
        "type.matcher.v3.StringMatcher" => {
            let matcher = StringMatcher::decode(sample).expect("a sample");
            let specifier = Some(route::header_matcher::HeaderMatchSpecifier::StringMatch(matcher));
            let header =
                route::HeaderMatcher { name: "x".into(), header_match_specifier: specifier, ..Default::default() };
            f.matching().headers.push(header);
        }
        "config.core.v3.RuntimeFractionalPercent" => {
            merge(f.matching().runtime_fraction.get_or_insert_default(), sample);
        }
        "config.route.v3.RouteAction" => merge(f.action(), sample),
        "config.route.v3.RouteAction.MaxStreamDuration" => {
            merge(f.action().max_stream_duration.get_or_insert_default(), sample);
        }
        "config.route.v3.RetryPolicy" => merge(f.action().retry_policy.get_or_insert_default(), sample),
        "config.route.v3.RouteAction.HashPolicy" => {
            f.action().hash_policy.push(route::route_action::HashPolicy::decode(sample).expect("a sample"));
        }
        "config.route.v3.RouteAction.RequestMirrorPolicy" => {
            let policy = route::route_action::RequestMirrorPolicy::decode(sample).expect("a sample");
            f.action().request_mirror_policies.push(policy);
        }
        "config.route.v3.HedgePolicy" => merge(f.action().hedge_policy.get_or_insert_default(), sample),
        "config.route.v3.WeightedCluster" => with_weights(f, |clusters| merge(clusters, sample)),
        "config.route.v3.WeightedCluster.ClusterWeight" => {
            with_weights(f, |clusters| merge(&mut clusters.clusters[0], sample));
        }
        "config.cluster.v3.Cluster" => merge(&mut f.cluster, sample),
        "config.cluster.v3.Cluster.CommonLbConfig" => {
            merge(f.cluster.common_lb_config.get_or_insert_default(), sample);
        }
        "extensions.clusters.dns.v3.DnsCluster" => {
            let custom = CustomClusterType { name: "x".into(), typed_config: Some(packed) };
            f.cluster.cluster_discovery_type = Some(ClusterDiscoveryType::ClusterType(custom));
            f.cluster.load_assignment = Some(f.endpoints.clone());
        }
        "config.core.v3.DnsResolutionConfig" => {
            f.cluster.cluster_discovery_type = Some(ClusterDiscoveryType::Type(DiscoveryType::StrictDns as i32));
            f.cluster.load_assignment = Some(f.endpoints.clone());
            merge(f.cluster.dns_resolution_config.get_or_insert_default(), sample);
        }
        "config.cluster.v3.Cluster.LeastRequestLbConfig" | "config.cluster.v3.Cluster.RoundRobinLbConfig" => {
            let (policy, number) = if short.ends_with("LeastRequestLbConfig") { (1, 37) } else { (0, 56) };
            f.cluster.lb_policy = policy;
            merge(&mut f.cluster, &nested(number, sample));
        }
        "config.cluster.v3.CircuitBreakers" => merge(&mut f.cluster, &nested(10, sample)),
        "config.cluster.v3.CircuitBreakers.Thresholds" => merge(&mut f.cluster, &nested(10, &nested(1, sample))),
        "config.cluster.v3.CircuitBreakers.Thresholds.RetryBudget" => {
            merge(&mut f.cluster, &nested(10, &nested(1, &nested(8, sample))));
        }
        "config.cluster.v3.OutlierDetection" => merge(&mut f.cluster, &nested(19, sample)),
        "config.core.v3.RuntimeDouble" => {
            // A value that `aggression` may have.
            let value = [sample, &RuntimeDouble { default_value: 1.0, ..Default::default() }.encode_to_vec()].concat();
            merge(&mut f.cluster, &nested(56, &nested(1, &nested(2, &value))));
        }
        "extensions.transport_sockets.tls.v3.DownstreamTlsContext" => f.chain.transport_socket = Some(socket(packed)),
        "extensions.transport_sockets.tls.v3.Secret" => f.secret = sample.to_vec(),
        context
            if context.starts_with("extensions.transport_sockets.tls.v3.")
                || context == "config.core.v3.ApiConfigSource" =>
        {
            let path: &[u32] = match context.rsplit('.').next().expect("a name") {
                "TlsCertificate" => &[1, 2],
                "SdsSecretConfig" => &[1, 6],
                "ApiConfigSource" => &[1, 6, 2, 2],
                "UpstreamTlsContext" => &[],
                "CommonTlsContext" => &[1],
                "CombinedCertificateValidationContext" => &[1, 8],
                "CertificateValidationContext" => &[1, 3],
                "SubjectAltNameMatcher" => &[1, 3, 15],
                "CertificateProviderPluginInstance" => &[1, 14],
                "CertificateProviderInstance" => &[1, 11],
                other => panic!("{other} has no place in a TLS context"),
            };
            let value = path.iter().rev().fold(sample.to_vec(), |message, number| nested(*number, &message));
            f.cluster.transport_socket = Some(socket(Any { type_url: UpstreamTlsContext::type_url(), value }));
        }
        policy if policy.starts_with("extensions.load_balancing_policies.") => {
            f.cluster.load_balancing_policy = Some(balanced_by([packed]));
        }
        "config.endpoint.v3.ClusterLoadAssignment" => merge(&mut f.endpoints, sample),
        "config.endpoint.v3.ClusterLoadAssignment.Policy" => {
            merge(f.endpoints.policy.get_or_insert_default(), sample);
        }
        "config.endpoint.v3.LocalityLbEndpoints" => merge(f.group(), sample),
        "config.endpoint.v3.LbEndpoint" => merge(f.member(), sample),
        "config.endpoint.v3.Endpoint" => merge(f.member(), &nested(1, sample)),
        "config.core.v3.Address" => merge(f.member(), &nested(1, &nested(1, sample))),
        "config.core.v3.SocketAddress" => merge(f.member(), &nested(1, &nested(1, &nested(1, sample)))),
        "config.core.v3.Pipe" => merge(f.member(), &nested(1, &nested(1, &nested(2, sample)))),
        other => panic!("{other} has no place in the fixture"),
    }
}

fn merge(message: &mut impl Message, sample: &[u8]) {
    message.merge(sample).expect("a sample of the message's type");
}

fn with_weights(f: &mut Fixture, change: impl FnOnce(&mut route::WeightedCluster)) {
    f.weighted(&[("c1", Some(1))]);
    match &mut f.action().cluster_specifier {
        Some(ClusterSpecifier::WeightedClusters(clusters)) => change(clusters),
        _ => panic!("set above"),
    }
}

/// The wire form of a message in field `number` of another.
fn nested(number: u32, message: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    prost::encoding::encode_key(number, prost::encoding::WireType::LengthDelimited, &mut bytes);
    prost::encoding::encode_varint(message.len() as u64, &mut bytes);
    bytes.extend_from_slice(message);
    bytes
}

#[test]
fn a_message_in_the_table_has_a_name_that_people_know() {
    for (full_name, rows) in MESSAGES {
        let full_name = full_name();
        assert!(rows.iter().all(|row| full_name.ends_with(row.message)), "{full_name}");
    }
    assert_eq!(MESSAGES[0].0(), mesh_xds_proto::envoy::config::listener::v3::Listener::full_name());
}
