//! The table: each message that is opened, each of its fields, and what becomes of it.
//!
//! Where gRPC gives a field a meaning, that is the one; what gRPC refuses or ignores has Envoy's meaning once it is
//! acted on. What would leave a call less protected than the control plane asked is refused, never ignored.

use mesh_xds_proto::envoy::config::cluster::v3 as cluster;
use mesh_xds_proto::envoy::config::common::mutation_rules::v3 as mutation_rules;
use mesh_xds_proto::envoy::config::core::v3 as core;
use mesh_xds_proto::envoy::config::endpoint::v3 as endpoint;
use mesh_xds_proto::envoy::config::listener::v3 as listener;
use mesh_xds_proto::envoy::config::rbac::v3 as rbac;
use mesh_xds_proto::envoy::config::route::v3 as route;
use mesh_xds_proto::envoy::extensions::clusters;
use mesh_xds_proto::envoy::extensions::common::matching::v3 as matching;
use mesh_xds_proto::envoy::extensions::common::ratelimit::v3 as rate_limits;
use mesh_xds_proto::envoy::extensions::filters::common::fault::v3 as fault;
use mesh_xds_proto::envoy::extensions::filters::common::matcher::action::v3 as skip_filter;
use mesh_xds_proto::envoy::extensions::filters::http as filters;
use mesh_xds_proto::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use mesh_xds_proto::envoy::extensions::http::stateful_session as sessions;
use mesh_xds_proto::envoy::extensions::load_balancing_policies as policies;
use mesh_xds_proto::envoy::extensions::transport_sockets::tls::v3 as tls;
use mesh_xds_proto::envoy::r#type::http::v3 as http_type;
use mesh_xds_proto::envoy::r#type::matcher::v3 as matcher;
use mesh_xds_proto::envoy::r#type::v3 as envoy_type;
use mesh_xds_proto::xds::core::v3 as xds_core;
use mesh_xds_proto::xds::r#type::matcher::v3 as unified;
use prost::Name;

use super::{FieldVerdict, Fields, IsSet, Verdict};
use crate::resource::decode::place::At;
use crate::resource::decode::value::{is_positive, is_true};

/// Writes the rows of a message, and [`Fields`] for it. A row is `field: Verdict`, a note in brackets, after `of` the
/// cargo feature of the layer that acts on it (a case's then says after `or` what becomes of it otherwise, if it is not
/// ignored), and after `if` the function that says whether the field asks for anything when that is not simply its being
/// set. The cases of a oneof stand together.
macro_rules! messages {
    ($(
        $name:literal $message:path {
            $($field:ident: $verdict:ident $(($note:expr))? $(of $feature:literal)? $(if $asks:path)?),* $(,)?
        }
        $(one $oneof:ident: $kind:path {
            $($case:ident $case_name:literal: $case_verdict:ident $(($case_note:expr))? $(of $case_feature:literal $(or $off:ident)?)?),*
            $(,)?
        })*
    )*) => {
        /// The full name of each message and its rows.
        pub(in crate::resource) const MESSAGES: &[(fn() -> String, &[FieldVerdict])] =
            &[$((<$message as Name>::full_name, <$message as Fields>::VERDICTS)),*];

        $(impl Fields for $message {
            const VERDICTS: &'static [FieldVerdict] = &[
                $(row!($name, stringify!($field), $verdict, ($($note)?) $($feature)?),)*
                $($(row!($name, $case_name, $case_verdict, ($($case_note)?) $($case_feature $($off)?)?),)*)*
            ];

            fn judge(&self, at: &At<'_>) {
                let Self { $($field,)* $($oneof,)* } = self;
                $(if asks!($field $(, $asks)?) {
                    const { row!($name, stringify!($field), $verdict, ($($note)?) $($feature)?) }.apply(at);
                })*
                $({
                    use $kind as Case;
                    match $oneof {
                        None => {}
                        $(Some(Case::$case(..)) => {
                            const { row!($name, $case_name, $case_verdict, ($($case_note)?) $($case_feature $($off)?)?) }.apply(at);
                        })*
                    }
                })*
                let _ = at;
            }
        })*
    };
}

macro_rules! row {
    ($message:expr, $field:expr, $verdict:ident, () $($rest:tt)*) => {
        row!($message, $field, $verdict, ("") $($rest)*)
    };
    ($message:expr, $field:expr, $verdict:ident, ($note:expr)) => {
        FieldVerdict {
            message: $message,
            field: unescaped($field),
            verdict: Verdict::$verdict,
            note: $note,
            feature: None,
        }
    };
    ($message:expr, $field:expr, $verdict:ident, ($note:expr) $feature:literal) => {
        row!($message, $field, $verdict, ($note) $feature Ignore)
    };
    ($message:expr, $field:expr, $verdict:ident, ($note:expr) $feature:literal $off:ident) => {
        FieldVerdict {
            feature: Some($feature),
            ..if cfg!(feature = $feature) {
                row!($message, $field, $verdict, ($note))
            } else {
                row!($message, $field, $off, (feature_off!($feature)))
            }
        }
    };
}

macro_rules! asks {
    ($field:ident) => {
        IsSet::is_set($field)
    };
    ($field:ident, $asks:path) => {
        $asks($field)
    };
}

/// `match` is written `r#match` in Rust.
const fn unescaped(name: &'static str) -> &'static str {
    match name.as_bytes() {
        [b'r', b'#', ..] => name.split_at(2).1,
        _ => name,
    }
}

pub(crate) const OTHER_SOURCE: &str = "must be `ads` or `self`";
const LATER: &str = "is not supported yet";
const NO_MEANING: &str = "has no meaning in gRPC";
/// The bounds of a ring.
const RING_SIZE: &str = "at most 8,388,608, more is refused; rings have at most 4,096 entries (A42)";
/// On zone-aware choice.
const ZONES: &str = "in `Profile::Envoy`, with `MeshBuilder::local_cluster`; of ROUND_ROBIN, LEAST_REQUEST and RANDOM; otherwise listed";
const OF_LOCALITIES: &str = "in `Profile::Envoy`; otherwise listed: gRPC's policies have none (A48, A52)";
const ROUTING_ENABLED: &str = "0 to 100 %, rounded to a whole one; 100 % if unset";
const MIN_CLUSTER_SIZE: &str = "healthy endpoints; 6 if unset";
const FAIL_ON_PANIC: &str = "in `Profile::Envoy`, with or without a local cluster";
/// Such a field is not listed where that profile is set.
pub(crate) const IN_ENVOYS_PROFILE: &str = "acted on in `Profile::Envoy` alone: it has no meaning in gRPC";
const NOT_LOCAL: &str = "files and the environment are not read for a control plane";
const NO_DESCRIPTOR: &str = "its rule makes no descriptor";
const BOOTSTRAP_CREDENTIALS: &str =
    "those of the bootstrap are used, and none at an agent's Unix socket, whatever a control plane sends";
const NO_RUNTIME: &str = "there is no runtime";

messages! {
    "Listener" listener::Listener {
        name: Act,
        address: Act("must be the one that a server listens on (A36); an API listener binds no socket"),
        additional_addresses: Ignore,
        stat_prefix: Ignore,
        stats_matcher: Ignore,
        filter_chains: Act("of a server (A36), or `default_filter_chain`; a client reads `api_listener`"),
        fcds_config: Ignore("refused on a server; a client reads `api_listener`"),
        filter_chain_matcher: Ignore("refused on a server; a client reads `api_listener`"),
        use_original_dst: Ignore("refused on a server (A36)"),
        default_filter_chain: Act("of a server (A36)"),
        per_connection_buffer_limit_bytes: Ignore,
        per_connection_buffer_high_watermark_timeout: Ignore,
        metadata: Ignore,
        deprecated_v1: Ignore,
        drain_type: Ignore,
        listener_filters: Ignore("refused on a server (A36); a client accepts no connections"),
        listener_filters_timeout: Ignore,
        continue_on_listener_filters_timeout: Ignore,
        transparent: Ignore,
        freebind: Ignore,
        socket_options: Ignore,
        tcp_fast_open_queue_length: Ignore,
        traffic_direction: Ignore,
        udp_listener_config: Ignore,
        api_listener: Act("required on a client"),
        connection_balance_config: Ignore,
        reuse_port: Ignore,
        enable_reuse_port: Ignore,
        access_log: Ignore,
        tcp_backlog_size: Ignore,
        max_connections_to_accept_per_socket_event: Ignore,
        bind_to_port: Ignore,
        enable_mptcp: Ignore,
        ignore_global_conn_limit: Ignore,
        bypass_overload_manager: Ignore,
        tcp_keepalive: Ignore,
    }
    one listener_specifier: listener::listener::ListenerSpecifier {
        InternalListener "internal_listener": Ignore,
    }

    "ApiListener" listener::ApiListener {
        api_listener: Act("an HttpConnectionManager"),
    }

    "FilterChain" listener::FilterChain {
        filter_chain_match: Act,
        filters: Act("one HttpConnectionManager (A36)"),
        use_proxy_proto: Ignore,
        metadata: Ignore,
        transport_socket: Act("raw_buffer or DownstreamTlsContext (A29); others are refused and never become plaintext"),
        transport_socket_connect_timeout: Ignore("`ServerOptions::handshake_timeout` bounds handshakes"),
        name: Act,
    }

    "FilterChainMatch" listener::FilterChainMatch {
        destination_port: Act("such a chain is for no connection (A36)"),
        prefix_ranges: Act,
        address_suffix: Ignore,
        suffix_len: Ignore,
        direct_source_prefix_ranges: Nack(LATER),
        source_type: Act,
        source_prefix_ranges: Act,
        source_ports: Act,
        server_names: Act("such a chain is for no connection (A36)"),
        transport_protocol: Act("`raw_buffer`; another chain is for no connection (A36)"),
        application_protocols: Act("such a chain is for no connection (A36)"),
    }

    "CidrRange" core::CidrRange {
        address_prefix: Act,
        prefix_len: Act,
    }

    "Filter" listener::Filter {
        name: Act,
    }
    one config_type: listener::filter::ConfigType {
        TypedConfig "typed_config": Act("an HttpConnectionManager"),
        ConfigDiscovery "config_discovery": Nack(LATER),
    }

    "HttpConnectionManager" hcm::HttpConnectionManager {
        codec_type: Ignore,
        stat_prefix: Ignore,
        http_filters: Act("by type: router is last, what is not supported is refused unless it is optional"),
        add_user_agent: Ignore,
        tracing: Ignore,
        common_http_protocol_options: Act,
        http1_safe_max_connection_duration: Ignore,
        http_protocol_options: Ignore,
        http2_protocol_options: Ignore,
        http3_protocol_options: Ignore,
        server_name: Ignore,
        server_header_transformation: Ignore,
        scheme_header_transformation: Ignore,
        max_request_headers_kb: Ignore,
        stream_idle_timeout: Ignore(IN_ENVOYS_PROFILE) of "timeout" if is_positive,
        stream_flush_timeout: Ignore,
        request_timeout: Ignore,
        request_headers_timeout: Ignore,
        drain_timeout: Ignore,
        drain_timeout_jitter: Ignore,
        delayed_close_timeout: Ignore,
        access_log: Ignore,
        access_log_flush_interval: Ignore,
        flush_access_log_on_new_request: Ignore,
        access_log_options: Ignore,
        use_remote_address: Ignore,
        xff_num_trusted_hops: Nack("must be 0 (A41)"),
        original_ip_detection_extensions: Nack("must be empty (A41)"),
        early_header_mutation_extensions: Ignore,
        internal_address_config: Ignore,
        skip_xff_append: Ignore,
        via: Ignore,
        generate_request_id: Ignore,
        preserve_external_request_id: Ignore,
        always_set_request_id_in_response: Ignore,
        forward_client_cert_details: Ignore,
        set_current_client_cert_details: Ignore,
        forward_client_cert_matcher: Ignore,
        proxy_100_continue: Ignore,
        represent_ipv4_remote_address_as_ipv4_mapped_ipv6: Ignore,
        upgrade_configs: Ignore,
        normalize_path: Ignore,
        merge_slashes: Ignore,
        path_with_escaped_slashes_action: Ignore,
        request_id_extension: Ignore,
        local_reply_config: Ignore,
        strip_matching_host_port: Ignore,
        stream_error_on_invalid_http_message: Ignore,
        path_normalization_options: Ignore,
        strip_trailing_host_dot: Ignore,
        proxy_status_config: Ignore,
        typed_header_validation_config: Ignore,
        append_x_forwarded_port: Ignore,
        append_local_overload: Ignore,
        add_proxy_protocol_connection_state: Ignore,
        forward_proto_config: Ignore,
    }
    one route_specifier: hcm::http_connection_manager::RouteSpecifier {
        Rds "rds": Act,
        RouteConfig "route_config": Act,
        ScopedRoutes "scoped_routes": Nack(LATER),
    }
    one strip_port_mode: hcm::http_connection_manager::StripPortMode {
        StripAnyHostPort "strip_any_host_port": Ignore,
    }

    "Rds" hcm::Rds {
        config_source: Act,
        route_config_name: Act,
    }

    "HttpProtocolOptions" core::HttpProtocolOptions {
        idle_timeout: Ignore,
        max_connection_duration: Ignore,
        max_connection_duration_jitter: Ignore,
        max_headers_count: Ignore,
        max_response_headers_kb: Ignore,
        max_stream_duration: Act("A31; 0 s: no limit") of "timeout",
        headers_with_underscores_action: Ignore,
        max_requests_per_connection: Ignore,
    }

    "HttpFilter" hcm::HttpFilter {
        name: Act("not empty, and each once"),
        is_optional: Act,
        disabled: Act("except where an override configures it"),
    }
    one config_type: hcm::http_filter::ConfigType {
        TypedConfig "typed_config": Act,
        ConfigDiscovery "config_discovery": Act("refused unless the filter is optional"),
    }

    "Router" filters::router::v3::Router {
        dynamic_stats: Ignore,
        start_child_span: Ignore,
        upstream_log: Ignore,
        upstream_log_options: Ignore,
        suppress_envoy_headers: Ignore,
        strict_check_headers: Ignore,
        respect_expected_rq_timeout: Ignore,
        suppress_grpc_request_failure_code_stats: Ignore,
        upstream_http_filters: Ignore,
        reject_connect_request_early_data: Ignore,
    }

    "ExtensionWithMatcher" matching::ExtensionWithMatcher {
        matcher: Ignore("replaced by `xds_matcher` (A103)"),
        xds_matcher: Act("required"),
        extension_config: Act("required; `Composite` (A103)"),
    }

    "ExtensionWithMatcherPerRoute" matching::ExtensionWithMatcherPerRoute {
        xds_matcher: Act("required; in the place of the filter's"),
    }

    "Composite" filters::composite::v3::Composite {
        named_filter_chains: Act("as in Envoy"),
        matcher: Act("as in Envoy: required if the filter stands alone, and refused in a wrapping"),
    }

    "CompositePerRoute" filters::composite::v3::CompositePerRoute {
        matcher: Act("required; in the place of the filter's"),
    }

    "ExecuteFilterAction" filters::composite::v3::ExecuteFilterAction {
        typed_config: Act("this or `filter_chain`; not the router; up to 8 in each other; one that its side does not have fails the call, if a route brings it"),
        dynamic_config: Ignore("there is no ECDS (A103)"),
        filter_chain: Act("before `typed_config`"),
        filter_chain_name: Act("as in Envoy, if the filter stands alone"),
        sample_percent: Act("default all calls"),
    }

    "FilterChainConfiguration" filters::composite::v3::FilterChainConfiguration {
        typed_config: Act("one at least, passed in their order"),
    }

    "SkipFilter" skip_filter::SkipFilter {}

    "xds.type.matcher.v3.Matcher" unified::Matcher {
        on_no_match: Act("without it, a call that nothing is for fails (A103)"),
    }
    one matcher_type: unified::matcher::MatcherType {
        MatcherList "matcher_list": Act,
        MatcherTree "matcher_tree": Act,
    }

    "Matcher.OnMatch" unified::matcher::OnMatch {
        keep_matching: Nack("no action may be one of several (A103)"),
    }
    one on_match: unified::matcher::on_match::OnMatch {
        Matcher "matcher": Act("up to 16 in each other (A106)"),
        Action "action": Act("`ExecuteFilterAction` or `SkipFilter`"),
    }

    "Matcher.MatcherList" unified::matcher::MatcherList {
        matchers: Act("one at least; the first that holds"),
    }

    "MatcherList.FieldMatcher" unified::matcher::matcher_list::FieldMatcher {
        predicate: Act("required"),
        on_match: Act("required; one that leads to no action is passed over"),
    }

    "MatcherList.Predicate" unified::matcher::matcher_list::Predicate {}
    one match_type: unified::matcher::matcher_list::predicate::MatchType {
        SinglePredicate "single_predicate": Act,
        OrMatcher "or_matcher": Act,
        AndMatcher "and_matcher": Act,
        NotMatcher "not_matcher": Act,
    }

    "Predicate.SinglePredicate" unified::matcher::matcher_list::predicate::SinglePredicate {
        input: Act("`HttpRequestHeaderMatchInput`; others are refused"),
    }
    one matcher: unified::matcher::matcher_list::predicate::single_predicate::Matcher {
        ValueMatch "value_match": Act,
        CustomMatch "custom_match": Nack("only texts are compared, and CEL is not evaluated"),
    }

    "Predicate.PredicateList" unified::matcher::matcher_list::predicate::PredicateList {
        predicate: Act("two at least"),
    }

    "Matcher.MatcherTree" unified::matcher::MatcherTree {
        input: Act("`HttpRequestHeaderMatchInput`; others are refused"),
    }
    one tree_type: unified::matcher::matcher_tree::TreeType {
        ExactMatchMap "exact_match_map": Act,
        PrefixMatchMap "prefix_match_map": Act("the longest prefix that leads to an action"),
        CustomMatch "custom_match": Nack("only texts are compared"),
    }

    "MatcherTree.MatchMap" unified::matcher::matcher_tree::MatchMap {
        map: Act("one at least"),
    }

    "xds.type.matcher.v3.StringMatcher" unified::StringMatcher {
        ignore_case: Act("not for `safe_regex` (A63)"),
    }
    one match_pattern: unified::string_matcher::MatchPattern {
        Exact "exact": Act,
        Prefix "prefix": Act,
        Suffix "suffix": Act,
        SafeRegex "safe_regex": Act,
        Contains "contains": Act,
        Custom "custom": Nack(LATER),
    }

    "xds.type.matcher.v3.RegexMatcher" unified::RegexMatcher {
        regex: Act("the whole text must match"),
    }
    one engine_type: unified::regex_matcher::EngineType {
        GoogleRe2 "google_re2": Act("RE2 is meant anyway"),
    }

    "xds.core.v3.TypedExtensionConfig" xds_core::TypedExtensionConfig {
        name: Act("for people"),
        typed_config: Act("required"),
    }

    "HttpRequestHeaderMatchInput" matcher::HttpRequestHeaderMatchInput {
        header_name: Act("as in `HeaderMatcher`: of a header that is not there no condition holds"),
    }

    "AdaptiveConcurrency" filters::adaptive_concurrency::v3::AdaptiveConcurrency {
        enabled: Act("default true"),
        concurrency_limit_exceeded_status: Act("below 400 it is 503, which is UNAVAILABLE to gRPC"),
    }
    one concurrency_controller_config: filters::adaptive_concurrency::v3::adaptive_concurrency::ConcurrencyControllerConfig {
        GradientControllerConfig "gradient_controller_config": Act("required"),
    }

    "GradientControllerConfig" filters::adaptive_concurrency::v3::GradientControllerConfig {
        sample_aggregate_percentile: Act("default 50 %"),
        concurrency_limit_params: Act("required"),
        min_rtt_calc_params: Act("required"),
    }

    "ConcurrencyLimitCalculationParams" filters::adaptive_concurrency::v3::gradient_controller_config::ConcurrencyLimitCalculationParams {
        max_concurrency_limit: Act("above 0; default 1,000"),
        concurrency_update_interval: Act("required, above 0 s"),
    }

    "MinimumRTTCalculationParams" filters::adaptive_concurrency::v3::gradient_controller_config::MinimumRttCalculationParams {
        interval: Act("1 ms at least"),
        fixed_value: Act("above 0 s; required without `interval`, beside which it is listed"),
        request_count: Act("above 0; default 50"),
        jitter: Act("default 15 %"),
        min_concurrency: Act("above 0; default 3"),
        buffer: Act("default 25 %"),
    }

    "LocalRateLimit" filters::local_ratelimit::v3::LocalRateLimit {
        stat_prefix: Act("required, as in Envoy"),
        status: Act("below 400 it is 429; UNAVAILABLE to gRPC"),
        token_bucket: Act("as in Envoy, but that an update of the resource leaves the tokens as they are"),
        filter_enabled: Act("default 0 %, as in Envoy"),
        filter_enforced: Act("default 0 %, as in Envoy"),
        request_headers_to_add_when_not_enforced: Act,
        response_headers_to_add: Act("of refused calls"),
        descriptors: Act("as in Envoy"),
        stage: Act("0 to 10: the rules of routes and virtual hosts that it takes"),
        local_rate_limit_per_downstream_connection: Ignore("all connections share the tokens"),
        local_cluster_rate_limit: Ignore,
        enable_x_ratelimit_headers: Act("as in Envoy, of the moment of the request"),
        vh_rate_limits: Act("as in Envoy; an unknown one is refused"),
        always_consume_default_token_bucket: Act("default true"),
        rate_limited_as_resource_exhausted: Act,
        rate_limits: Act("what makes descriptors; without them the `rate_limits` of the route and the virtual host do"),
        max_dynamic_descriptors: Act("default 20; more than 1,024 is 1,024"),
        enable_retry_after_header: Ignore,
    }

    "LocalRateLimitDescriptor" rate_limits::LocalRateLimitDescriptor {
        entries: Act("not empty"),
        token_bucket: Act("required"),
        shadow_mode: Act("refuses nobody"),
    }

    "RateLimitDescriptor.Entry" rate_limits::rate_limit_descriptor::Entry {
        key: Act("required"),
        value: Act("without one, each value has a limit of its own; the last `max_dynamic_descriptors` are remembered"),
    }

    "RateLimit" route::RateLimit {
        stage: Act("0 to 10; of routes and virtual hosts, for filters of that stage"),
        disable_key: Ignore,
        actions: Act("not empty; all of them must make an entry"),
        limit: Ignore,
        hits_addend: Ignore,
        apply_on_stream_done: Ignore,
        x_ratelimit_option: Ignore,
    }

    "RateLimit.Action" route::rate_limit::Action {}
    one action_specifier: route::rate_limit::action::ActionSpecifier {
        SourceCluster "source_cluster": Ignore(NO_DESCRIPTOR),
        DestinationCluster "destination_cluster": Ignore(NO_DESCRIPTOR),
        RequestHeaders "request_headers": Act,
        QueryParameters "query_parameters": Ignore(NO_DESCRIPTOR),
        RemoteAddress "remote_address": Act("of the connection that a server's call came on; a client's own calls make no descriptor"),
        GenericKey "generic_key": Act,
        HeaderValueMatch "header_value_match": Act,
        DynamicMetadata "dynamic_metadata": Ignore(NO_DESCRIPTOR),
        Metadata "metadata": Ignore(NO_DESCRIPTOR),
        Extension "extension": Ignore(NO_DESCRIPTOR),
        MaskedRemoteAddress "masked_remote_address": Ignore(NO_DESCRIPTOR),
        QueryParameterValueMatch "query_parameter_value_match": Ignore(NO_DESCRIPTOR),
        RemoteAddressMatch "remote_address_match": Ignore(NO_DESCRIPTOR),
    }

    "RateLimit.Action.RequestHeaders" route::rate_limit::action::RequestHeaders {
        header_name: Act,
        descriptor_key: Act("required"),
        skip_if_absent: Act,
    }

    "RateLimit.Action.GenericKey" route::rate_limit::action::GenericKey {
        descriptor_value: Act("required"),
        default_value: Ignore,
        descriptor_key: Act("default `generic_key`"),
    }

    "RateLimit.Action.HeaderValueMatch" route::rate_limit::action::HeaderValueMatch {
        descriptor_value: Act("required"),
        default_value: Ignore,
        descriptor_key: Act("default `header_match`"),
        expect_match: Act("default true"),
        headers: Act("not empty"),
    }

    "TokenBucket" envoy_type::TokenBucket {
        max_tokens: Act("above 0"),
        tokens_per_fill: Act("default 1; they come evenly, as in Envoy"),
        fill_interval: Act("at least 50 ms, as in Envoy"),
    }

    "HttpStatus" envoy_type::HttpStatus {
        code: Act,
    }

    "HTTPFault" filters::fault::v3::HttpFault {
        delay: Act("A33"),
        abort: Act("A33; behind the delay"),
        upstream_cluster: Act("as in Envoy"),
        headers: Act("as in Envoy"),
        downstream_nodes: Ignore,
        max_active_faults: Act("counted over all filters of a mesh (A33)"),
        response_rate_limit: Ignore,
        delay_percent_runtime: Ignore(NO_RUNTIME),
        abort_percent_runtime: Ignore(NO_RUNTIME),
        delay_duration_runtime: Ignore(NO_RUNTIME),
        abort_http_status_runtime: Ignore(NO_RUNTIME),
        max_active_faults_runtime: Ignore(NO_RUNTIME),
        response_rate_limit_percent_runtime: Ignore(NO_RUNTIME),
        abort_grpc_status_runtime: Ignore(NO_RUNTIME),
        disable_downstream_cluster_stats: Ignore,
        filter_metadata: Ignore,
    }

    "FaultDelay" fault::FaultDelay {
        percentage: Act("none is 0 %"),
    }
    one fault_delay_secifier: fault::fault_delay::FaultDelaySecifier {
        FixedDelay "fixed_delay": Act,
        HeaderDelay "header_delay": Act("the headers lower the percentage at most"),
    }

    "FaultAbort" filters::fault::v3::FaultAbort {
        percentage: Act("none is 0 %"),
        response_body: Ignore,
    }
    one error_type: filters::fault::v3::fault_abort::ErrorType {
        HttpStatus "http_status": Act("200 to 599; 200 is UNKNOWN to gRPC"),
        GrpcStatus "grpc_status": Act("0 to 16"),
        HeaderAbort "header_abort": Act("the headers lower the percentage at most"),
    }

    "StatefulSession" filters::stateful_session::v3::StatefulSession {
        session_state: Act("a `CookieBasedSessionState` (A55), or as in Envoy a `HeaderBasedSessionState`; others are refused"),
        strict: Act("as in Envoy: the call fails rather than go elsewhere"),
        stat_prefix: Ignore(NO_MEANING),
        status_on_strict_destination_not_found: Ignore("it is UNAVAILABLE"),
    }

    "CookieBasedSessionState" sessions::cookie::v3::CookieBasedSessionState {
        cookie: Act("required"),
    }

    "HeaderBasedSessionState" sessions::header::v3::HeaderBasedSessionState {
        name: Act("required; the header has the endpoint's address in base64"),
    }

    "Cookie" http_type::Cookie {
        name: Act("required"),
        ttl: Act("told, not enforced"),
        path: Act("by RFC 6265; without one all paths"),
        attributes: Act,
    }

    "CookieAttribute" http_type::CookieAttribute {
        name: Act,
        value: Act,
    }

    "StatefulSessionPerRoute" filters::stateful_session::v3::StatefulSessionPerRoute {}
    one r#override: filters::stateful_session::v3::stateful_session_per_route::Override {
        Disabled "disabled": Act,
        StatefulSession "stateful_session": Act,
    }

    "RBAC" filters::rbac::v3::Rbac {
        rules: Act("of a server (A41)"),
        rules_stat_prefix: Ignore,
        matcher: Nack(LATER),
        shadow_rules: Act("as in Envoy: decided and told, without effect"),
        shadow_matcher: Ignore,
        shadow_rules_stat_prefix: Ignore,
        track_per_rule_stats: Ignore,
    }

    "RBACPerRoute" filters::rbac::v3::RbacPerRoute {
        rbac: Act("none takes the filter away"),
    }

    "RBAC" rbac::Rbac {
        action: Act("LOG decides nothing (A41)"),
        policies: Act("the first by name that matches is told"),
        audit_logging_options: Act("A59"),
    }

    "RBAC.AuditLoggingOptions" rbac::rbac::AuditLoggingOptions {
        audit_condition: Act,
        logger_configs: Act,
    }

    "RBAC.AuditLoggingOptions.AuditLoggerConfig" rbac::rbac::audit_logging_options::AuditLoggerConfig {
        audit_logger: Act("`StdoutAuditLog`; others are refused unless optional (A59)"),
        is_optional: Act,
    }

    "Policy" rbac::Policy {
        permissions: Act("not empty"),
        principals: Act("not empty"),
        condition: Nack("is not supported (A41)"),
        checked_condition: Nack("is not supported (A41)"),
        cel_config: Ignore("there are no conditions"),
    }

    "Permission" rbac::Permission {}
    one rule: rbac::permission::Rule {
        AndRules "and_rules": Act("not empty"),
        OrRules "or_rules": Act("not empty"),
        Any "any": Act("must be true"),
        Header "header": Act("not `:scheme`, nor `grpc-` (A41)"),
        UrlPath "url_path": Act,
        DestinationIp "destination_ip": Act("of our end of the connection"),
        DestinationPort "destination_port": Act("of our end of the connection"),
        DestinationPortRange "destination_port_range": Act("as in Envoy"),
        Metadata "metadata": Act("there is none: only what is inverted matches (A41)"),
        NotRule "not_rule": Act,
        RequestedServerName "requested_server_name": Act("it is empty (A41)"),
        Matcher "matcher": Nack(LATER),
        UriTemplate "uri_template": Nack(LATER),
        SourcedMetadata "sourced_metadata": Nack(LATER),
    }

    "Permission.Set" rbac::permission::Set {
        rules: Act("not empty"),
    }

    "Principal" rbac::Principal {}
    one identifier: rbac::principal::Identifier {
        AndIds "and_ids": Act("not empty"),
        OrIds "or_ids": Act("not empty"),
        Any "any": Act("must be true"),
        Authenticated "authenticated": Act("never holds for a caller that is not verified where calls are allowed"),
        SourceIp "source_ip": Act("the TCP peer (A41)"),
        DirectRemoteIp "direct_remote_ip": Act("the TCP peer (A41)"),
        RemoteIp "remote_ip": Act("the TCP peer (A41)"),
        Header "header": Act("not `:scheme`, nor `grpc-` (A41)"),
        UrlPath "url_path": Act,
        Metadata "metadata": Act("there is none: only what is inverted matches (A41)"),
        FilterState "filter_state": Nack(LATER),
        NotId "not_id": Act,
        SourcedMetadata "sourced_metadata": Nack(LATER),
        Custom "custom": Nack(LATER),
    }

    "Principal.Set" rbac::principal::Set {
        ids: Act("not empty"),
    }

    "Principal.Authenticated" rbac::principal::Authenticated {
        principal_name: Act("of the URIs, else the DNS names, else the subject (A41); none: any verified caller"),
    }

    "PathMatcher" matcher::PathMatcher {}
    one rule: matcher::path_matcher::Rule {
        Path "path": Act("of the path without its query"),
    }

    "MetadataMatcher" matcher::MetadataMatcher {
        filter: Act("`envoy.filters.http.jwt_authn`; of others there is no metadata (A41)"),
        path: Act("not empty"),
        value: Act("required"),
        invert: Act,
    }

    "MetadataMatcher.PathSegment" matcher::metadata_matcher::PathSegment {}
    one segment: matcher::metadata_matcher::path_segment::Segment {
        Key "key": Act,
    }

    "ValueMatcher" matcher::ValueMatcher {}
    one match_pattern: matcher::value_matcher::MatchPattern {
        NullMatch "null_match": Act,
        DoubleMatch "double_match": Act,
        StringMatch "string_match": Act,
        BoolMatch "bool_match": Act,
        PresentMatch "present_match": Act,
        ListMatch "list_match": Act,
        OrMatch "or_match": Act,
    }

    "DoubleMatcher" matcher::DoubleMatcher {}
    one match_pattern: matcher::double_matcher::MatchPattern {
        Range "range": Act,
        Exact "exact": Act,
    }

    "DoubleRange" envoy_type::DoubleRange {
        start: Act,
        end: Act("excluded"),
    }

    "ListMatcher" matcher::ListMatcher {}
    one match_pattern: matcher::list_matcher::MatchPattern {
        OneOf "one_of": Act("required"),
    }

    "OrMatcher" matcher::OrMatcher {
        value_matchers: Act("two or more"),
    }

    "JwtAuthentication" filters::jwt_authn::v3::JwtAuthentication {
        providers: Act("of a server"),
        rules: Act("as in Envoy: the first that matches"),
        filter_state_rules: Nack(LATER),
        bypass_cors_preflight: Ignore("such requests are checked, too"),
        requirement_map: Act,
        strip_failure_response: Act("who is refused is not told why"),
        stat_prefix: Ignore,
    }

    "JwtProvider" filters::jwt_authn::v3::JwtProvider {
        issuer: Act("empty: any"),
        audiences: Act("one of them; empty: any"),
        subjects: Act,
        require_expiration: Act,
        max_lifetime: Act,
        forward: Act("cookies stay in any case"),
        from_headers: Act("without any place: `Authorization: Bearer` and the parameter `access_token`"),
        from_params: Act,
        from_cookies: Act,
        forward_payload_header: Act("taken out of requests that come with it"),
        pad_forward_payload_header: Act,
        payload_in_metadata: Act("for policies (`MetadataMatcher`) and handlers (`server::Claims`)"),
        normalize_payload_in_metadata: Act,
        header_in_metadata: Act,
        failed_status_in_metadata: Nack(LATER),
        clock_skew_seconds: Act("default 60 s"),
        jwt_cache_config: Ignore("each token is verified"),
        claim_to_headers: Act("texts, numbers and truth values; taken out of requests that come with them"),
        clear_route_cache: Nack("a route is chosen once, before the filters"),
    }
    one jwks_source_specifier: filters::jwt_authn::v3::jwt_provider::JwksSourceSpecifier {
        RemoteJwks "remote_jwks": Act("fetched as soon as a listener names it; up to 1 MiB and 100 keys, of the kinds of `local_jwks`"),
        LocalJwks "local_jwks": Act("inline, up to 1 MiB and 100 keys: RSA of 2048 to 8192 bits, P-256, P-384, P-521 (feature `aws-lc`), Ed25519"),
    }

    "RemoteJwks" filters::jwt_authn::v3::RemoteJwks {
        http_uri: Act("required; no redirect is followed"),
        cache_duration: Act("default 10 min, at least 1 s; the last good set is used for an hour beyond it while no other can be had"),
        async_fetch: Act("the set is fetched in the background in any case"),
        retry_policy: Ignore("a fetch that failed is repeated after `failed_refetch_duration`, then ever less often, some 30 s apart at last"),
    }

    "JwksAsyncFetch" filters::jwt_authn::v3::JwksAsyncFetch {
        fast_listener: Act("not set: a listener waits for the first fetch while an older one serves"),
        failed_refetch_duration: Act("default 1 s, at least 100 ms; jittered, and longer after each failure"),
    }

    "HttpUri" core::HttpUri {
        uri: Act("`https` alone: what comes in plaintext is not taken"),
        timeout: Act("default, and at most, 5 s"),
    }
    one http_upstream_type: core::http_uri::HttpUpstreamType {
        Cluster "cluster": Act("required; it must speak HTTP/2, and have a TLS context"),
    }

    "JwtProvider.NormalizePayload" filters::jwt_authn::v3::jwt_provider::NormalizePayload {
        space_delimited_claims: Act,
    }

    "JwtHeader" filters::jwt_authn::v3::JwtHeader {
        name: Act("two headers of it are refused"),
        value_prefix: Act("the value begins so; its case does not matter"),
    }

    "JwtClaimToHeader" filters::jwt_authn::v3::JwtClaimToHeader {
        header_name: Act,
        claim_name: Act("`a.b` is `b` of `a`"),
        claim_path: Act("in place of `claim_name`"),
    }

    "PathSegment" filters::jwt_authn::v3::jwt_claim_to_header::PathSegment {
        key: Act,
    }

    "RequirementRule" filters::jwt_authn::v3::RequirementRule {
        r#match: Act("required; conditions that gRPC gives no meaning are refused"),
    }
    one requirement_type: filters::jwt_authn::v3::requirement_rule::RequirementType {
        Requires "requires": Act("not set: nothing is required"),
        RequirementName "requirement_name": Act,
    }

    "JwtRequirement" filters::jwt_authn::v3::JwtRequirement {}
    one requires_type: filters::jwt_authn::v3::jwt_requirement::RequiresType {
        ProviderName "provider_name": Act("all of the call's tokens in the provider's places must be good"),
        ProviderAndAudiences "provider_and_audiences": Act,
        RequiresAny "requires_any": Act,
        RequiresAll "requires_all": Act,
        AllowMissingOrFailed "allow_missing_or_failed": Act,
        AllowMissing "allow_missing": Act("in `requires_any`, of the providers beside it; else of all"),
        ExtractOnlyWithoutValidation "extract_only_without_validation": Nack("a token that is not verified says nothing"),
    }

    "ProviderWithAudiences" filters::jwt_authn::v3::ProviderWithAudiences {
        provider_name: Act,
        audiences: Act("in place of the provider's"),
    }

    "JwtRequirementOrList" filters::jwt_authn::v3::JwtRequirementOrList {
        requirements: Act("two or more"),
    }

    "JwtRequirementAndList" filters::jwt_authn::v3::JwtRequirementAndList {
        requirements: Act("two or more"),
    }

    "PerRouteConfig" filters::jwt_authn::v3::PerRouteConfig {}
    one requirement_specifier: filters::jwt_authn::v3::per_route_config::RequirementSpecifier {
        Disabled "disabled": Act("true is the only value"),
        RequirementName "requirement_name": Act("of `requirement_map`; another one refuses the route's calls"),
    }

    "ExtAuthz" filters::ext_authz::v3::ExtAuthz {
        transport_api_version: Ignore("there is v3 alone"),
        failure_mode_allow: Act("default: a call whose check fails is denied; refused where a `SecurityFloor` demands mTLS"),
        failure_mode_allow_header_add: Act("`x-envoy-auth-failure-mode-allowed: true`"),
        with_request_body: Ignore("a call is checked before its body comes (A92)"),
        clear_route_cache: Ignore("a route is chosen once, before the filters (A92)"),
        status_on_error: Act("default 403, and gRPC's code for it"),
        validate_mutations: Ignore("always: a call whose answer has a header that is none is denied (A92)"),
        metadata_context_namespaces: Ignore("the service is told no metadata (A92)"),
        typed_metadata_context_namespaces: Ignore("the service is told no metadata (A92)"),
        route_metadata_context_namespaces: Ignore("the service is told no metadata (A92)"),
        route_typed_metadata_context_namespaces: Ignore("the service is told no metadata (A92)"),
        filter_enabled: Act("default: all calls; runtime keys have no meaning"),
        filter_enabled_metadata: Ignore("calls are checked whatever it says (A92)"),
        deny_at_disable: Act("with `status_on_error`"),
        include_peer_certificate: Act("on a server"),
        stat_prefix: Ignore,
        bootstrap_metadata_labels_key: Ignore,
        allowed_headers: Act("not set: all"),
        disallowed_headers: Act("goes before `allowed_headers`"),
        include_tls_session: Ignore,
        charge_cluster_response_stats: Ignore,
        encode_raw_headers: Ignore("always: the service is told `header_map` (A92)"),
        decoder_header_mutation_rules: Act("of requests and of responses (A92)"),
        enable_dynamic_metadata_ingestion: Ignore,
        filter_metadata: Ignore,
        emit_filter_state_stats: Ignore,
        max_denied_response_body_bytes: Ignore("4 KiB of it are told to the caller"),
        enforce_response_header_limits: Ignore,
        shadow_mode: Nack("what the service says is obeyed"),
        emit_client_span: Ignore,
    }
    one services: filters::ext_authz::v3::ext_authz::Services {
        GrpcService "grpc_service": Act("required"),
        HttpService "http_service": Nack("a service is asked by gRPC alone (A92)"),
    }

    "ExtAuthzPerRoute" filters::ext_authz::v3::ExtAuthzPerRoute {}
    one r#override: filters::ext_authz::v3::ext_authz_per_route::Override {
        Disabled "disabled": Act("as in Envoy; gRPC has `FilterConfig.disabled` for it"),
        CheckSettings "check_settings": Act("as in Envoy, where A92 ignores it"),
    }

    "CheckSettings" filters::ext_authz::v3::CheckSettings {
        context_extensions: Act("the levels' together, the more specific go before"),
        disable_request_body_buffering: Ignore("no body is buffered (A92)"),
        with_request_body: Ignore("a call is checked before its body comes (A92)"),
        emit_client_span: Ignore,
    }
    one service_override: filters::ext_authz::v3::check_settings::ServiceOverride {
        GrpcService "grpc_service": Act,
        HttpService "http_service": Nack("a service is asked by gRPC alone (A92)"),
    }

    "GrpcService" core::GrpcService {
        timeout: Act("above 0; default 10 s"),
        initial_metadata: Ignore("a control plane sends none of its own with calls beside the mesh's (A102)"),
        retry_policy: Ignore("a call is repeated only if the service did nothing of it"),
    }
    one target_specifier: core::grpc_service::TargetSpecifier {
        EnvoyGrpc "envoy_grpc": Nack("`google_grpc` must be set (A102)"),
        GoogleGrpc "google_grpc": Act("required"),
    }

    "GrpcService.GoogleGrpc" core::grpc_service::GoogleGrpc {
        target_uri: Act("one of the bootstrap's `allowed_grpc_services`, also if the control plane is trusted (A102)"),
        channel_credentials: Ignore(BOOTSTRAP_CREDENTIALS),
        channel_credentials_plugin: Ignore(BOOTSTRAP_CREDENTIALS),
        call_credentials: Ignore(BOOTSTRAP_CREDENTIALS),
        call_credentials_plugin: Ignore(BOOTSTRAP_CREDENTIALS),
        stat_prefix: Ignore,
        credentials_factory_name: Ignore(BOOTSTRAP_CREDENTIALS),
        config: Ignore(BOOTSTRAP_CREDENTIALS),
        per_stream_buffer_limit_bytes: Ignore,
        channel_args: Ignore,
    }

    "HeaderMutationRules" mutation_rules::HeaderMutationRules {
        allow_all_routing: Ignore("pseudo headers and `host` are never changed (A92)"),
        allow_envoy: Act("default: headers `x-envoy-*` are not changed, as in Envoy"),
        disallow_system: Ignore("pseudo headers and `host` are never changed (A92)"),
        disallow_all: Act,
        allow_expression: Act,
        disallow_expression: Act("goes before the other rules"),
        disallow_is_error: Act("the call is denied"),
    }

    "ListStringMatcher" matcher::ListStringMatcher {
        patterns: Act("one of them"),
    }

    "RuntimeFeatureFlag" core::RuntimeFeatureFlag {
        default_value: Act("required"),
        runtime_key: Ignore(NO_RUNTIME),
    }

    "Int32Range" envoy_type::Int32Range {
        start: Act,
        end: Act("excluded"),
    }

    "ConfigSource" core::ConfigSource {
        authorities: Ignore,
        initial_fetch_timeout: Ignore("A57 says 15 s"),
        resource_api_version: Act("version 3 is the only one"),
    }
    one config_source_specifier: core::config_source::ConfigSourceSpecifier {
        Path "path": Nack(OTHER_SOURCE),
        PathConfigSource "path_config_source": Nack(OTHER_SOURCE),
        ApiConfigSource "api_config_source": Act("of secrets (SDS) alone; elsewhere it is refused"),
        Ads "ads": Act,
        Self_ "self": Act,
    }

    "RouteConfiguration" route::RouteConfiguration {
        name: Act,
        virtual_hosts: Act,
        vhds: Ignore,
        internal_only_headers: Ignore,
        response_headers_to_add: Act("as in Envoy") of "filter",
        response_headers_to_remove: Act("as in Envoy") of "filter",
        request_headers_to_add: Act("as in Envoy") of "filter",
        request_headers_to_remove: Act("as in Envoy") of "filter",
        most_specific_header_mutations_wins: Act("as in Envoy") of "filter",
        validate_clusters: Ignore("a route may name a cluster that comes later") if is_true,
        max_direct_response_body_size_bytes: Ignore,
        cluster_specifier_plugins: Ignore,
        request_mirror_policies: ClientActs("as in Envoy; the route's, else the virtual host's, else the route configuration's") of "mirror",
        ignore_port_in_host_matching: Ignore(NO_MEANING),
        vhost_header: Ignore,
        ignore_path_parameters_in_path_matching: Ignore,
        typed_per_filter_config: Act("as in Envoy; the virtual host's goes before it") of "filter",
        metadata: Ignore,
        route_specifiers: Ignore,
    }

    "VirtualHost" route::VirtualHost {
        name: Act,
        domains: Act("A28; at least one"),
        routes: Act,
        matcher: CallFails("its routes are not read"),
        require_tls: Ignore,
        virtual_clusters: Ignore,
        rate_limits: Act("for `local_ratelimit`, by its `vh_rate_limits`; no filter in a composite takes them") of "filter",
        request_headers_to_add: Act("as in Envoy") of "filter",
        request_headers_to_remove: Act("as in Envoy") of "filter",
        response_headers_to_add: Act("as in Envoy") of "filter",
        response_headers_to_remove: Act("as in Envoy") of "filter",
        cors: Ignore,
        typed_per_filter_config: Act("A39; what is not supported is refused unless it is optional") of "filter",
        include_request_attempt_count: ClientActs("`x-envoy-attempt-count`, from 1; what the call has of that name is replaced"),
        include_attempt_count_in_response: ClientActs("of responses from endpoints; answers of the mesh's own have none"),
        retry_policy: ClientActs("for routes that have none (A44)") of "retry",
        retry_policy_typed_config: Ignore,
        hedge_policy: ClientActs("for routes that have none") of "retry",
        include_is_timeout_retry_header: Ignore,
        per_request_buffer_limit_bytes: Ignore,
        request_body_buffer_limit: Ignore,
        request_mirror_policies: ClientActs("as in Envoy; the route's, else the virtual host's, else the route configuration's") of "mirror",
        metadata: Ignore,
        route_specifiers: Ignore,
    }

    "Route" route::Route {
        name: Act,
        r#match: Act("required"),
        metadata: Ignore,
        decorator: Ignore,
        typed_per_filter_config: Act("A39; what is not supported is refused unless it is optional") of "filter",
        request_headers_to_add: Act("as in Envoy") of "filter",
        request_headers_to_remove: Act("as in Envoy") of "filter",
        response_headers_to_add: Act("as in Envoy") of "filter",
        response_headers_to_remove: Act("as in Envoy") of "filter",
        tracing: Ignore,
        per_request_buffer_limit_bytes: Ignore,
        stat_prefix: Ignore,
        request_body_buffer_limit: Ignore,
        route_specifiers: Ignore,
    }
    one action: route::route::Action {
        Route "route": ClientActs("a server's call fails (A36)"),
        Redirect "redirect": ClientActs("as in Envoy; a server's call fails (A36)") of "filter" or CallFails,
        DirectResponse "direct_response": ClientActs("as in Envoy; a server's call fails (A36)") of "filter" or CallFails,
        FilterAction "filter_action": CallFails,
        NonForwardingAction "non_forwarding_action": Act("a server serves the call itself (A36); a client's call fails"),
    }

    "RouteMatch" route::RouteMatch {
        case_sensitive: Act("for literal paths and prefixes"),
        runtime_fraction: Act,
        headers: Act,
        query_parameters: Act("gRPC has none: the route matches no request"),
        cookies: Ignore(NO_MEANING),
        grpc: Ignore(NO_MEANING),
        tls_context: Ignore(NO_MEANING),
        dynamic_metadata: Ignore(NO_MEANING),
        filter_state: Ignore(NO_MEANING),
    }
    one path_specifier: route::route_match::PathSpecifier {
        Prefix "prefix": Act,
        Path "path": Act,
        SafeRegex "safe_regex": Act,
        ConnectMatcher "connect_matcher": Nack(LATER),
        PathSeparatedPrefix "path_separated_prefix": Act("as in Envoy"),
        PathMatchPolicy "path_match_policy": Nack(LATER),
    }

    "HeaderMatcher" route::HeaderMatcher {
        name: Act,
        invert_match: Act,
        treat_missing_header_as_empty: Act("as in Envoy"),
    }
    one header_match_specifier: route::header_matcher::HeaderMatchSpecifier {
        ExactMatch "exact_match": Act,
        SafeRegexMatch "safe_regex_match": Act,
        RangeMatch "range_match": Act,
        PresentMatch "present_match": Act,
        PrefixMatch "prefix_match": Act,
        SuffixMatch "suffix_match": Act,
        ContainsMatch "contains_match": Act,
        StringMatch "string_match": Act,
    }

    "StringMatcher" matcher::StringMatcher {
        ignore_case: Act("not for `safe_regex` (A63)"),
    }
    one match_pattern: matcher::string_matcher::MatchPattern {
        Exact "exact": Act,
        Prefix "prefix": Act,
        Suffix "suffix": Act,
        SafeRegex "safe_regex": Act,
        Contains "contains": Act,
        Custom "custom": Nack(LATER),
    }

    "RegexMatcher" matcher::RegexMatcher {
        regex: Act("the whole text must match"),
    }
    one engine_type: matcher::regex_matcher::EngineType {
        GoogleRe2 "google_re2": Act("RE2 is meant anyway; its `max_program_size` is not read (A28)"),
    }

    "RuntimeFractionalPercent" core::RuntimeFractionalPercent {
        default_value: Act,
        runtime_key: Ignore("there is no runtime; the default holds (A28)"),
    }

    "FractionalPercent" envoy_type::FractionalPercent {
        numerator: Act("capped at all"),
        denominator: Act,
    }

    "RouteAction" route::RouteAction {
        cluster_not_found_response_code: Ignore,
        metadata_match: Ignore,
        prefix_rewrite: Act("as in Envoy") of "filter",
        regex_rewrite: Act("as in Envoy") of "filter",
        path_rewrite_policy: Ignore,
        path_rewrite: Ignore,
        append_x_forwarded_host: Ignore,
        timeout: Ignore(IN_ENVOYS_PROFILE) of "timeout" if is_positive,
        idle_timeout: Ignore(IN_ENVOYS_PROFILE) of "timeout" if is_positive,
        flush_timeout: Ignore,
        early_data_policy: Ignore,
        retry_policy: Act("A44; the virtual host's is not merged into it") of "retry",
        retry_policy_typed_config: Ignore,
        request_mirror_policies: Act("as in Envoy; the route's, else the virtual host's, else the route configuration's") of "mirror",
        priority: Ignore,
        rate_limits: Act("for `local_ratelimit`; no filter in a composite takes them") of "filter",
        include_vh_rate_limits: Act("as in Envoy") of "filter",
        hash_policy: Act("for clusters whose policy has affinity (A42)"),
        cors: Ignore,
        max_grpc_timeout: Ignore("replaced by `max_stream_duration`") if is_positive,
        grpc_timeout_offset: Ignore,
        upgrade_configs: Ignore,
        internal_redirect_policy: Ignore,
        internal_redirect_action: Ignore,
        max_internal_redirects: Ignore,
        hedge_policy: Act("the virtual host's is not merged into it") of "retry",
        max_stream_duration: Act of "timeout",
    }
    one cluster_specifier: route::route_action::ClusterSpecifier {
        Cluster "cluster": Act,
        ClusterHeader "cluster_header": Act("as in Envoy; clusters that no route names are asked for, up to 100"),
        WeightedClusters "weighted_clusters": Act,
        ClusterSpecifierPlugin "cluster_specifier_plugin": CallFails,
        InlineClusterSpecifierPlugin "inline_cluster_specifier_plugin": CallFails,
    }
    one host_rewrite_specifier: route::route_action::HostRewriteSpecifier {
        HostRewriteLiteral "host_rewrite_literal": Act("from a `trusted_xds_server`, unless the application set the authority (A81)") of "filter",
        AutoHostRewrite "auto_host_rewrite": Act("from a `trusted_xds_server`, unless the application set the authority (A81)"),
        HostRewriteHeader "host_rewrite_header": Ignore,
        HostRewritePathRegex "host_rewrite_path_regex": Ignore,
        HostRewrite "host_rewrite": Ignore,
    }

    "RequestMirrorPolicy" route::route_action::RequestMirrorPolicy {
        cluster: Act("this or `cluster_header`; it holds no call back, whether it exists or not"),
        cluster_header: Act("as in Envoy; the clusters that the virtual host's routes name"),
        runtime_fraction: Act("default all calls"),
        trace_sampled: Ignore,
        disable_shadow_host_suffix_append: Act,
        request_headers_mutations: Act("of the copy alone"),
        host_rewrite_literal: Act("from a `trusted_xds_server`, unless the application set the authority (A81)"),
    }

    "RetryPolicy" route::RetryPolicy {
        retry_on: Act("gRPC's five codes (A44) and Envoy's conditions; unknown words are listed"),
        num_retries: Act("default 1, at least 1; at most 5 attempts in all (A6)"),
        per_try_timeout: Act("to the response's head, as in Envoy"),
        per_try_idle_timeout: Act("as in Envoy; what the call sends counts, too") of "timeout",
        retry_priority: Ignore,
        retry_host_predicate: Act("`previous_hosts`, which holds anyway; others are listed"),
        retry_options_predicates: Ignore,
        host_selection_retry_max_attempts: Act("not read: one that did not fail is looked for among all endpoints"),
        retriable_status_codes: Act("for `retriable-status-codes`"),
        retry_back_off: Act("default 25 ms and 250 ms; each delay is twice the one before, 20 % more or less"),
        rate_limited_retry_back_off: Act("after `grpc-retry-pushback-ms`; up to half as long again"),
        retriable_headers: Act("for `retriable-headers`"),
        retriable_request_headers: Act("one must match, if there are any"),
        refresh_cluster_on_retry: Ignore("every attempt goes to the same cluster (A31)"),
    }

    "RetryBackOff" route::retry_policy::RetryBackOff {
        base_interval: Act("required; less than 1 ms is 1 ms"),
        max_interval: Act("default 10 times the base, and not less than it"),
    }

    "RateLimitedRetryBackOff" route::retry_policy::RateLimitedRetryBackOff {
        reset_headers: Act("the first that says a time; at least one"),
        max_interval: Act("default 300 s; a longer time is not believed"),
    }

    "ResetHeader" route::retry_policy::ResetHeader {
        name: Act,
        format: Act("seconds, or a time as seconds since 1970"),
    }

    "HedgePolicy" route::HedgePolicy {
        initial_requests: Ignore("nor does Envoy act on it"),
        additional_request_chance: Ignore("nor does Envoy act on it"),
        hedge_on_per_try_timeout: Act("with `per_try_timeout`; the next attempt starts without a further delay"),
    }

    "RetryHostPredicate" route::retry_policy::RetryHostPredicate {
        name: Act("for people"),
    }
    one config_type: route::retry_policy::retry_host_predicate::ConfigType {
        TypedConfig "typed_config": Act("`previous_hosts`; others are listed"),
    }

    "MaxStreamDuration" route::route_action::MaxStreamDuration {
        max_stream_duration: Act("A31; 0 s: no limit"),
        grpc_timeout_header_max: Act("A31; before `max_stream_duration`"),
        grpc_timeout_header_offset: Ignore(NO_MEANING),
    }

    "WeightedCluster" route::WeightedCluster {
        clusters: Act("the weights add up to 1 to 4294967295"),
        total_weight: Ignore("the sum of the weights is used"),
        runtime_key_prefix: Ignore,
    }
    one random_value_specifier: route::weighted_cluster::RandomValueSpecifier {
        HeaderName "header_name": Ignore,
        UseHashPolicy "use_hash_policy": Ignore,
    }

    "HashPolicy" route::route_action::HashPolicy {
        terminal: Act,
    }
    one policy_specifier: route::route_action::hash_policy::PolicySpecifier {
        Header "header": Act,
        Cookie "cookie": Act("as in Envoy"),
        ConnectionProperties "connection_properties": Ignore("a call has no connection that it came on"),
        QueryParameter "query_parameter": Act("as in Envoy"),
        FilterState "filter_state": Act,
    }

    "HashPolicy.Header" route::route_action::hash_policy::Header {
        header_name: Act("required; binary headers are not hashed"),
        regex_rewrite: Act,
    }

    "HashPolicy.Cookie" route::route_action::hash_policy::Cookie {
        name: Act("without one the policy is ignored"),
        ttl: Act("a call without the cookie gets one, which its response sets"),
        path: Act,
        attributes: Act,
    }

    "HashPolicy.CookieAttribute" route::route_action::hash_policy::CookieAttribute {
        name: Act,
        value: Act,
    }

    "HashPolicy.QueryParameter" route::route_action::hash_policy::QueryParameter {
        name: Act("without one the policy is ignored"),
    }

    "HashPolicy.FilterState" route::route_action::hash_policy::FilterState {
        key: Act("`io.grpc.channel_id`; others are ignored (A42)"),
    }

    "ClusterWeight" route::weighted_cluster::ClusterWeight {
        name: Act("required, or `cluster_header`"),
        cluster_header: Act("as in Envoy, if there is no `name`; clusters that no route names are asked for, up to 100"),
        weight: Act("required"),
        metadata_match: Ignore,
        request_headers_to_add: Act("as in Envoy") of "filter",
        request_headers_to_remove: Act("as in Envoy") of "filter",
        response_headers_to_add: Act("as in Envoy") of "filter",
        response_headers_to_remove: Act("as in Envoy") of "filter",
        typed_per_filter_config: Act("A39; what is not supported is refused unless it is optional") of "filter",
    }
    one host_rewrite_specifier: route::weighted_cluster::cluster_weight::HostRewriteSpecifier {
        HostRewriteLiteral "host_rewrite_literal": Act("as the route's, if that has none") of "filter",
    }

    "FilterConfig" route::FilterConfig {
        config: Act,
        is_optional: Act,
        disabled: Act,
    }

    "RedirectAction" route::RedirectAction {
        host_redirect: Act,
        port_redirect: Act("0 to 65535"),
        response_code: Act,
        strip_query: Act,
    }
    one scheme_rewrite_specifier: route::redirect_action::SchemeRewriteSpecifier {
        HttpsRedirect "https_redirect": Act,
        SchemeRedirect "scheme_redirect": Act,
    }
    one path_rewrite_specifier: route::redirect_action::PathRewriteSpecifier {
        PathRedirect "path_redirect": Act,
        PrefixRewrite "prefix_rewrite": Act,
        RegexRewrite "regex_rewrite": Act,
        PathRewrite "path_rewrite": Ignore,
    }

    "DirectResponseAction" route::DirectResponseAction {
        status: Act("200 to 599"),
        body: Act("to gRPC, the message of the status"),
        body_format: Ignore,
    }

    "DataSource" core::DataSource {
        watched_directory: Act("of TLS contexts: the file is read every 10 s, not every 10 minutes"),
    }
    one specifier: core::data_source::Specifier {
        Filename "filename": Act("of TLS contexts, below the folders that code allows (`MeshBuilder::allow_files_below`); others are not read"),
        InlineBytes "inline_bytes": Act,
        InlineString "inline_string": Act,
        EnvironmentVariable "environment_variable": Ignore(NOT_LOCAL),
    }

    "RegexMatchAndSubstitute" matcher::RegexMatchAndSubstitute {
        pattern: Act("required"),
        substitution: Act,
    }

    "HeaderValueOption" core::HeaderValueOption {
        header: Act("required"),
        append: Act("if `append_action` is not set"),
        append_action: Act,
        keep_empty_value: Act,
    }

    "HeaderValue" core::HeaderValue {
        key: Act("`:…` and `host` are refused; `grpc-*`, `content-type` and `te` stay as they are"),
        value: Act("with REQ, RESP, UPSTREAM_CLUSTER, ROUTE_NAME, PROTOCOL and RESPONSE_CODE; a header with another substitution is not added"),
        raw_value: Act,
    }

    "HeaderMutation" filters::header_mutation::v3::HeaderMutation {
        mutations: Act,
        most_specific_header_mutations_wins: Act,
    }

    "HeaderMutationPerRoute" filters::header_mutation::v3::HeaderMutationPerRoute {
        mutations: Act("of each level, as in Envoy"),
    }

    "Mutations" filters::header_mutation::v3::Mutations {
        request_mutations: Act,
        query_parameter_mutations: Ignore(NO_MEANING),
        response_mutations: Act,
        response_trailers_mutations: Ignore,
        request_trailers_mutations: Ignore,
    }

    "mutation_rules.v3.HeaderMutation" mutation_rules::HeaderMutation {}
    one action: mutation_rules::header_mutation::Action {
        Remove "remove": Act,
        Append "append": Act,
        RemoveOnMatch "remove_on_match": Act,
    }

    "RemoveOnMatch" mutation_rules::header_mutation::RemoveOnMatch {
        key_matcher: Act("required"),
    }

    "Cluster" cluster::Cluster {
        transport_socket_matches: Act("the first that is for an endpoint goes before `transport_socket`"),
        transport_socket_matcher: Nack(LATER),
        name: Act,
        alt_stat_name: Ignore,
        stats_matcher: Ignore,
        eds_cluster_config: Act("required if the type is EDS"),
        connect_timeout: Act,
        per_connection_buffer_limit_bytes: Ignore,
        per_connection_buffer_high_watermark_timeout: Ignore,
        lb_policy: Act("ROUND_ROBIN, LEAST_REQUEST, RANDOM, RING_HASH, MAGLEV; others are refused"),
        load_assignment: Act("if the type is STATIC, STRICT_DNS or LOGICAL_DNS"),
        health_checks: Ignore,
        max_requests_per_connection: Ignore,
        circuit_breakers: Act("A32, A105; Envoy's other limits"),
        upstream_http_protocol_options: Ignore,
        common_http_protocol_options: Ignore,
        http_protocol_options: Ignore,
        http2_protocol_options: Ignore,
        typed_extension_protocol_options: Ignore,
        dns_refresh_rate: Act("if names are resolved; at least 1 ms; unset: when the records expire"),
        dns_jitter: Act("if names are resolved"),
        dns_failure_refresh_rate: Act("if names are resolved"),
        respect_dns_ttl: Act("if names are resolved: goes before `dns_refresh_rate`"),
        dns_lookup_family: Act("if names are resolved"),
        dns_resolvers: Act("if names are resolved and `dns_resolution_config` is not set"),
        use_tcp_for_dns_lookups: Ignore,
        dns_resolution_config: Act("if names are resolved"),
        typed_dns_resolver_config: Ignore,
        wait_for_warm_on_init: Ignore,
        outlier_detection: Act("A50; Envoy's consecutive failures"),
        cleanup_interval: Ignore,
        upstream_bind_config: Ignore,
        lb_subset_config: Ignore,
        common_lb_config: Act,
        transport_socket: Act("raw_buffer or UpstreamTlsContext (A29); others are refused and never become plaintext"),
        metadata: Ignore,
        protocol_selection: Ignore,
        upstream_connection_options: Ignore,
        close_connections_on_host_health_failure: Ignore,
        ignore_health_on_host_removal: Ignore,
        filters: Ignore,
        load_balancing_policy: Act("A52"),
        lrs_server: Ignore("must be `self`; load reports are not supported yet"),
        lrs_report_endpoint_metrics: Ignore,
        track_timeout_budgets: Ignore,
        upstream_config: Ignore,
        track_cluster_stats: Ignore,
        preconnect_policy: Ignore,
        connection_pool_per_downstream_connection: Ignore,
        queuing_policies: Ignore,
    }
    one cluster_discovery_type: cluster::cluster::ClusterDiscoveryType {
        Type "type": Act("EDS, STATIC (as unset), STRICT_DNS, LOGICAL_DNS; DNS needs the feature `dns`; others are refused"),
        ClusterType "cluster_type": Act("aggregate (A37) and DNS clusters; others are refused"),
    }
    one lb_config: cluster::cluster::LbConfig {
        RingHashLbConfig "ring_hash_lb_config": Act("if `lb_policy` is RING_HASH"),
        MaglevLbConfig "maglev_lb_config": Act("if `lb_policy` is MAGLEV"),
        OriginalDstLbConfig "original_dst_lb_config": Ignore,
        LeastRequestLbConfig "least_request_lb_config": Act("if `lb_policy` is LEAST_REQUEST"),
        RoundRobinLbConfig "round_robin_lb_config": Act("if `lb_policy` is ROUND_ROBIN"),
    }

    "CircuitBreakers" cluster::CircuitBreakers {
        thresholds: Act("the first of priority DEFAULT (A32)"),
        per_host_thresholds: Act("`max_connections` of the first of priority DEFAULT (A105)"),
    }

    "CircuitBreakers.Thresholds" cluster::circuit_breakers::Thresholds {
        priority: Act("HIGH is listed as ignored"),
        max_connections: Act("as in Envoy: of more than one to an endpoint; per endpoint 1 to 10 (A105)"),
        max_pending_requests: Act("as in Envoy, if set: calls that wait for an endpoint or a stream"),
        max_requests: Act("1024 if unset; 0 lets no call pass (A32)") of "cluster",
        max_retries: Act("no limit if unset: the mesh's own budget holds anyway") of "retry",
        retry_budget: Act("in place of `max_retries`; a share of the calls that have a retry policy") of "retry",
        track_remaining: Ignore(NO_MEANING),
        max_connection_pools: Ignore(NO_MEANING),
    }

    "RetryBudget" cluster::circuit_breakers::thresholds::RetryBudget {
        budget_percent: Act("0 to 100; 20 if unset"),
        budget_interval: Ignore,
        min_retry_concurrency: Act("3 if unset"),
    }

    "OutlierDetection" cluster::OutlierDetection {
        consecutive_5xx: Act("as in Envoy, if this or its enforcing percentage is set"),
        interval: Act("10 s if unset; 0 s is refused"),
        base_ejection_time: Act("30 s if unset"),
        max_ejection_percent: Act("10 if unset; one endpoint may always be ejected"),
        enforcing_consecutive_5xx: Act("100 if unset"),
        enforcing_success_rate: Act("100 if unset; 0 turns it off"),
        success_rate_minimum_hosts: Act("5 if unset"),
        success_rate_request_volume: Act("100 if unset"),
        success_rate_stdev_factor: Act("1900 if unset"),
        consecutive_gateway_failure: Act("as in Envoy, if this or its enforcing percentage is set"),
        enforcing_consecutive_gateway_failure: Act("0 if unset"),
        split_external_local_origin_errors: Act("as in Envoy, for consecutive failures"),
        consecutive_local_origin_failure: Act("as in Envoy, with `split_external_local_origin_errors`"),
        enforcing_consecutive_local_origin_failure: Act("100 if unset"),
        enforcing_local_origin_success_rate: Ignore("gRPC has one success rate for failures of any origin"),
        failure_percentage_threshold: Act("85 if unset; more than this ejects"),
        enforcing_failure_percentage: Act("unset or 0 turns it off (A50)"),
        enforcing_failure_percentage_local_origin: Ignore("gRPC has one percentage for failures of any origin"),
        failure_percentage_minimum_hosts: Act("5 if unset"),
        failure_percentage_request_volume: Act("50 if unset"),
        max_ejection_time: Act("300 s if unset, or `base_ejection_time` if that is longer"),
        max_ejection_time_jitter: Ignore,
        successful_active_health_check_uneject_host: Ignore,
        monitors: Ignore,
        always_eject_one_host: Ignore("one endpoint may always be ejected (A50)"),
        detect_degraded_hosts: Ignore if is_true,
    }

    "EdsClusterConfig" cluster::cluster::EdsClusterConfig {
        eds_config: Act,
        service_name: Act("required for an `xdstp:` cluster (A47)"),
    }

    "CommonLbConfig" cluster::cluster::CommonLbConfig {
        healthy_panic_threshold: Act("0 to 100 %, by default 50 %; in `Profile::Envoy`"),
        update_merge_window: Ignore("a large cluster's changes are taken together"),
        ignore_new_hosts_until_first_hc: Ignore,
        close_connections_on_host_set_change: Ignore,
        consistent_hashing_lb_config: Ignore,
        override_host_status: Act("UNKNOWN and HEALTHY if unset (A55)"),
    }
    one locality_config_specifier: cluster::cluster::common_lb_config::LocalityConfigSpecifier {
        ZoneAwareLbConfig "zone_aware_lb_config": Act(ZONES),
        LocalityWeightedLbConfig "locality_weighted_lb_config": Act("EDS clusters weigh localities anyway (A27)"),
    }

    "CommonLbConfig.ZoneAwareLbConfig" cluster::cluster::common_lb_config::ZoneAwareLbConfig {
        routing_enabled: Act(ROUTING_ENABLED),
        min_cluster_size: Act(MIN_CLUSTER_SIZE),
        fail_traffic_on_panic: Act(FAIL_ON_PANIC),
    }

    "HealthStatusSet" core::HealthStatusSet {
        statuses: Act("UNKNOWN, HEALTHY and DRAINING; others are ignored"),
    }

    "CustomClusterType" cluster::cluster::CustomClusterType {
        name: Act("not read: the type counts"),
        typed_config: Act("required"),
    }

    "ClusterConfig" clusters::aggregate::v3::ClusterConfig {
        clusters: Act("at least one; nested at most 16 deep"),
    }

    "DnsCluster" clusters::dns::v3::DnsCluster {
        dns_refresh_rate: Act("at least 1 ms; unset: when the records expire"),
        dns_failure_refresh_rate: Act,
        respect_dns_ttl: Act("goes before `dns_refresh_rate`"),
        dns_jitter: Act,
        typed_dns_resolver_config: Ignore("the system's servers are asked"),
        dns_lookup_family: Act,
        all_addresses_in_single_endpoint: Act("as LOGICAL_DNS; else as STRICT_DNS"),
        dns_min_refresh_rate: Ignore("at least 1 s is what records hold"),
    }

    "DnsCluster.RefreshRate" clusters::dns::v3::dns_cluster::RefreshRate {
        base_interval: Act("required; at least 1 ms"),
        max_interval: Act("at least `base_interval`; ten times that if unset"),
    }

    "RefreshRate" cluster::cluster::RefreshRate {
        base_interval: Act("required; at least 1 ms"),
        max_interval: Act("at least `base_interval`; ten times that if unset"),
    }

    "DnsResolutionConfig" core::DnsResolutionConfig {
        resolvers: Act("IP addresses"),
        dns_resolver_options: Ignore,
    }

    "LeastRequestLbConfig" cluster::cluster::LeastRequestLbConfig {
        choice_count: Act("2 to 10; more is 10, less is refused (A48)"),
        active_request_bias: Ignore(NO_MEANING),
        slow_start_config: Act,
    }

    "RoundRobinLbConfig" cluster::cluster::RoundRobinLbConfig {
        slow_start_config: Act,
    }

    "Cluster.SlowStartConfig" cluster::cluster::SlowStartConfig {
        slow_start_window: Act("without it there is no slow start"),
        aggression: Act("above 0"),
        min_weight_percent: Act("0 to 100"),
    }

    "RuntimeDouble" core::RuntimeDouble {
        default_value: Act,
        runtime_key: Ignore("there is no runtime; the default holds (A28)"),
    }

    "MaglevLbConfig" cluster::cluster::MaglevLbConfig {
        table_size: Act("a prime up to 5,000,011; others are refused"),
    }

    "RingHashLbConfig" cluster::cluster::RingHashLbConfig {
        minimum_ring_size: Act(RING_SIZE),
        hash_function: Act("XX_HASH; others are refused (A42)"),
        maximum_ring_size: Act(RING_SIZE),
    }

    "TransportSocketMatch" cluster::cluster::TransportSocketMatch {
        name: Act("not read"),
        r#match: Act("by `envoy.transport_socket_match` of the metadata of an endpoint, or of its locality; equal values, as in Envoy"),
        transport_socket: Act("required; raw_buffer or UpstreamTlsContext"),
    }

    "TransportSocket" core::TransportSocket {
        name: Act("not read: the type counts"),
    }
    one config_type: core::transport_socket::ConfigType {
        TypedConfig "typed_config": Act("required"),
    }

    "UpstreamTlsContext" tls::UpstreamTlsContext {
        common_tls_context: Act("required"),
        sni: Act("a DNS name of at most 255 bytes (A101)"),
        auto_host_sni: Act("A101"),
        auto_sni_san_validation: Act("A101; DNS names, with wildcards"),
        allow_renegotiation: Ignore("never done"),
        max_session_keys: Ignore("sessions are never resumed"),
        enforce_rsa_key_usage: Ignore("the key usage of a peer's certificate is always looked at"),
    }

    "DownstreamTlsContext" tls::DownstreamTlsContext {
        common_tls_context: Act("required, with a provider of the own certificate"),
        require_client_certificate: Act("A29; with roots alone. Without it, a client may show a certificate"),
        require_sni: Nack("is not supported (A29)") if is_true,
        disable_stateful_session_resumption: Ignore("sessions are never resumed"),
        session_timeout: Ignore("sessions are never resumed"),
        ocsp_staple_policy: Nack("must be LENIENT_STAPLING: nothing is stapled (A29)"),
        full_scan_certs_on_sni_mismatch: Ignore("there is one certificate"),
        prefer_client_ciphers: Ignore("the server's order holds"),
    }
    one session_ticket_keys_type: tls::downstream_tls_context::SessionTicketKeysType {
        SessionTicketKeys "session_ticket_keys": Ignore("sessions are never resumed"),
        SessionTicketKeysSdsSecretConfig "session_ticket_keys_sds_secret_config": Ignore("sessions are never resumed"),
        DisableStatelessSessionResumption "disable_stateless_session_resumption": Ignore("sessions are never resumed"),
    }

    "CommonTlsContext" tls::CommonTlsContext {
        tls_params: Nack(LATER),
        tls_certificates: Act("one, if none of the others is set; more are refused"),
        tls_certificate_sds_secret_configs: Act("one, if no provider instance is set; more are refused"),
        tls_certificate_provider_instance: Act("A29"),
        custom_tls_certificate_selector: Nack(LATER),
        tls_certificate_certificate_provider: Nack(LATER),
        tls_certificate_certificate_provider_instance: Act("if `tls_certificate_provider_instance` is not set"),
        alpn_protocols: Ignore("`h2` is asked for, and a peer that does not choose it is refused"),
        custom_handshaker: Nack(LATER),
        key_log: Ignore("keys are never written"),
    }
    one validation_context_type: tls::common_tls_context::ValidationContextType {
        ValidationContext "validation_context": Act("A29"),
        ValidationContextSdsSecretConfig "validation_context_sds_secret_config": Act("as in Envoy"),
        CombinedValidationContext "combined_validation_context": Act("A29"),
        ValidationContextCertificateProvider "validation_context_certificate_provider": Nack(LATER),
        ValidationContextCertificateProviderInstance "validation_context_certificate_provider_instance": Act("A29"),
    }

    "CombinedCertificateValidationContext" tls::common_tls_context::CombinedCertificateValidationContext {
        default_validation_context: Act,
        validation_context_sds_secret_config: Act("as in Envoy, if no provider instance is set: its roots hold, and its names beside the default's"),
        validation_context_certificate_provider: Nack(LATER),
        validation_context_certificate_provider_instance: Act("if `ca_certificate_provider_instance` is not set"),
    }

    "CertificateValidationContext" tls::CertificateValidationContext {
        trusted_ca: Act("as in Envoy, if neither `ca_certificate_provider_instance` nor `custom_validator_config` is set"),
        ca_certificate_provider_instance: Act("A29; refused in a secret"),
        system_root_certs: Act("A82, if neither of the two is set; with conditions on names alone; on servers it is refused"),
        watched_directory: Act("the file is read every 10 s, not every 10 minutes"),
        verify_certificate_spki: Nack(LATER),
        verify_certificate_hash: Nack(LATER),
        match_typed_subject_alt_names: Act("EMAIL, DNS, URI, IP_ADDRESS; others are refused; with a SPIFFE validator URI alone"),
        match_subject_alt_names: Act("A29; if `match_typed_subject_alt_names` is not set"),
        require_signed_certificate_timestamp: Nack(LATER) if is_true,
        crl: Act("A69; in PEM, sent along or in a file beside roots that the resource has itself; a chain of which any issuer has no list in force is refused"),
        allow_expired_certificate: Ignore("never allowed"),
        trust_chain_verification: Ignore("chains are always verified"),
        custom_validator_config: Act("a SPIFFECertValidatorConfig; others are refused, and so are other roots beside it, but for `trusted_ca`"),
        only_verify_leaf_cert_crl: Act("of `crl`; what comes with the roots of a provider is looked up for the whole chain"),
        max_verify_depth: Nack(LATER),
        suppress_client_ca_list: Ignore("no list is sent"),
    }

    "SPIFFECertValidatorConfig" tls::SpiffeCertValidatorConfig {
        trust_domains: Act("required, if `trust_bundles` is not set; each once"),
        trust_bundles: Act("a SPIFFE bundle map (A87); goes before `trust_domains`"),
    }

    "SPIFFECertValidatorConfig.TrustDomain" tls::spiffe_cert_validator_config::TrustDomain {
        name: Act("required; without `spiffe://`"),
        trust_bundle: Act("required; roots alone, in PEM"),
    }

    "TlsCertificate" tls::TlsCertificate {
        certificate_chain: Act("required"),
        private_key: Act("required; sent along, it is refused over a control plane's connection in plaintext"),
        pkcs12: Nack(LATER),
        watched_directory: Act("the files are read every 10 s, not every 10 minutes"),
        private_key_provider: Nack(LATER),
        password: Nack("keys are not decrypted"),
        ocsp_staple: Ignore("nothing is stapled"),
        signed_certificate_timestamp: Ignore("none is sent"),
        tls_params: Nack(LATER),
    }

    "SdsSecretConfig" tls::SdsSecretConfig {
        name: Act("required"),
        sds_config: Act("required; `ads`, `self`, or `api_config_source` with an agent's Unix socket"),
    }

    "ApiConfigSource" core::ApiConfigSource {
        api_type: Act("GRPC; others are refused"),
        transport_api_version: Act("version 3 is the only one"),
        cluster_names: Ignore("`grpc_services` is read"),
        grpc_services: Act("one; more are refused"),
        refresh_delay: Ignore("for REST"),
        request_timeout: Ignore("for REST"),
        rate_limit_settings: Ignore,
        set_node_on_first_message_only: Act("always so"),
        config_validators: Nack(LATER),
    }

    "Secret" tls::Secret {
        name: Act,
    }
    one r#type: tls::secret::Type {
        TlsCertificate "tls_certificate": Act,
        SessionTicketKeys "session_ticket_keys": Nack("sessions are never resumed, and nothing asks for such a secret"),
        ValidationContext "validation_context": Act,
        GenericSecret "generic_secret": Nack("nothing asks for such a secret"),
    }

    "SubjectAltNameMatcher" tls::SubjectAltNameMatcher {
        san_type: Act("EMAIL, DNS, URI, IP_ADDRESS; others are refused"),
        matcher: Act("required"),
        oid: Nack(LATER),
    }

    "CertificateProviderPluginInstance" tls::CertificateProviderPluginInstance {
        instance_name: Act("a provider of the bootstrap or of code; others are refused"),
        certificate_name: Ignore("a provider has one certificate"),
    }

    "CertificateProviderInstance" tls::common_tls_context::CertificateProviderInstance {
        instance_name: Act("a provider of the bootstrap or of code; others are refused"),
        certificate_name: Ignore("a provider has one certificate"),
    }

    "LoadBalancingPolicy" cluster::LoadBalancingPolicy {
        policies: Act("the first supported one; nested at most 16 deep"),
    }

    "Policy" cluster::load_balancing_policy::Policy {
        typed_extension_config: Act("required"),
    }

    "TypedExtensionConfig" core::TypedExtensionConfig {
        name: Act("not read: the type counts"),
        typed_config: Act("required"),
    }

    "WrrLocality" policies::wrr_locality::v3::WrrLocality {
        endpoint_picking_policy: Act("required"),
    }

    "RoundRobin" policies::round_robin::v3::RoundRobin {
        slow_start_config: Act,
        locality_lb_config: Act(OF_LOCALITIES),
    }

    "LeastRequest" policies::least_request::v3::LeastRequest {
        choice_count: Act("2 to 10; more is 10, less is refused (A48)"),
        active_request_bias: Ignore(NO_MEANING),
        slow_start_config: Act,
        locality_lb_config: Act(OF_LOCALITIES),
        enable_full_scan: Ignore if is_true,
        selection_method: Ignore,
    }

    "LocalityLbConfig" policies::common::v3::LocalityLbConfig {}
    one locality_config_specifier: policies::common::v3::locality_lb_config::LocalityConfigSpecifier {
        ZoneAwareLbConfig "zone_aware_lb_config": Act(ZONES),
        LocalityWeightedLbConfig "locality_weighted_lb_config": Act("localities share by weight, as under `WrrLocality`"),
    }

    "LocalityLbConfig.ZoneAwareLbConfig" policies::common::v3::locality_lb_config::ZoneAwareLbConfig {
        routing_enabled: Act(ROUTING_ENABLED),
        min_cluster_size: Act(MIN_CLUSTER_SIZE),
        fail_traffic_on_panic: Act(FAIL_ON_PANIC),
        force_locality_direct_routing: Act("as `force_local_zone` with a `min_size` of 1, which goes before it"),
        force_local_zone: Act,
        locality_basis: Act("an unknown one is refused"),
    }

    "ForceLocalZone" policies::common::v3::locality_lb_config::zone_aware_lb_config::ForceLocalZone {
        min_size: Act("1 if unset"),
    }

    "Maglev" policies::maglev::v3::Maglev {
        table_size: Act("a prime up to 5,000,011; others are refused"),
        consistent_hashing_lb_config: Ignore,
        locality_weighted_lb_config: Act,
    }

    "RingHash" policies::ring_hash::v3::RingHash {
        hash_function: Act("XX_HASH; others are refused (A42)"),
        minimum_ring_size: Act(RING_SIZE),
        maximum_ring_size: Act(RING_SIZE),
        use_hostname_for_hashing: Ignore(NO_MEANING),
        hash_balance_factor: Ignore(NO_MEANING),
        consistent_hashing_lb_config: Ignore(NO_MEANING),
        locality_weighted_lb_config: Ignore("the weights of localities always count (A42)"),
    }

    "RandomSubsetting" policies::random_subsetting::v3::RandomSubsetting {
        subset_size: Act("required, at least 1 (A68)"),
        child_policy: Act("required"),
    }

    "PickFirst" policies::pick_first::v3::PickFirst {
        shuffle_address_list: Act("by weight (A62, A113)"),
    }

    "ClientSideWeightedRoundRobin" policies::client_side_weighted_round_robin::v3::ClientSideWeightedRoundRobin {
        enable_oob_load_report: Act,
        oob_reporting_period: Act("if `enable_oob_load_report`; 10 s if unset"),
        blackout_period: Act("10 s if unset"),
        weight_expiration_period: Act("3 min if unset"),
        weight_update_period: Act("1 s if unset, at least 100 ms"),
        error_utilization_penalty: Act("1 if unset; a negative one is refused"),
        metric_names_for_computing_utilization: Act("A114; names of no metric are never reported"),
        slow_start_config: Act("A100"),
        oob_reporting_config: Ignore("reports come over the endpoint's own connection"),
    }

    "SlowStartConfig" policies::common::v3::SlowStartConfig {
        slow_start_window: Act("without it there is no slow start"),
        aggression: Act("above 0"),
        min_weight_percent: Act("0 to 100"),
    }

    "Random" policies::random::v3::Random {
        locality_lb_config: Act(OF_LOCALITIES),
    }

    "ClusterLoadAssignment" endpoint::ClusterLoadAssignment {
        cluster_name: Act,
        endpoints: Act,
        named_endpoints: Ignore,
        policy: Act,
    }

    "ClusterLoadAssignment.Policy" endpoint::cluster_load_assignment::Policy {
        drop_overloads: Act of "cluster",
        overprovisioning_factor: Act("greater than 0, by default 140; in `Profile::Envoy`"),
        endpoint_stale_after: Ignore,
        weighted_priority_health: Ignore,
    }

    "DropOverload" endpoint::cluster_load_assignment::policy::DropOverload {
        category: Act("required"),
        drop_percentage: Act("required"),
    }

    "LocalityLbEndpoints" endpoint::LocalityLbEndpoints {
        locality: Act("required"),
        metadata: Act("`envoy.transport_socket_match`; all else is ignored"),
        lb_endpoints: Act,
        load_balancing_weight: Act("a locality without one takes no calls (A27)"),
        priority: Act("contiguous from 0"),
        proximity: Ignore,
    }
    one lb_config: endpoint::locality_lb_endpoints::LbConfig {
        LoadBalancerEndpoints "load_balancer_endpoints": Ignore,
        LedsClusterLocalityConfig "leds_cluster_locality_config": Ignore,
    }

    "LbEndpoint" endpoint::LbEndpoint {
        health_status: Act("UNKNOWN and HEALTHY take calls (A27), DRAINING keeps those it has; in `Profile::Envoy` DEGRADED after them"),
        metadata: Act("`hash_key` of `envoy.lb` (A76) and `envoy.transport_socket_match`; all else is ignored"),
        load_balancing_weight: Act("by policies that weigh endpoints, such as RING_HASH; 0 is refused"),
    }
    one host_identifier: endpoint::lb_endpoint::HostIdentifier {
        Endpoint "endpoint": Act("required"),
        EndpointName "endpoint_name": Nack(LATER),
    }

    "Endpoint" endpoint::Endpoint {
        address: Act("required"),
        health_check_config: Ignore,
        hostname: Act("with `auto_host_sni` (A101) and `auto_host_rewrite` (A81)"),
        additional_addresses: Act("tried in turn, 250 ms apart (A61)"),
        observability_name: Ignore,
    }

    "AdditionalAddress" endpoint::endpoint::AdditionalAddress {
        address: Act("required"),
    }

    "Address" core::Address {}
    one address: core::address::Address {
        SocketAddress "socket_address": Act,
        Pipe "pipe": Act("as in Envoy"),
        EnvoyInternalAddress "envoy_internal_address": Nack(LATER),
    }

    "SocketAddress" core::SocketAddress {
        protocol: Ignore("TCP is used"),
        address: Act("an IP address; a name only where names are resolved"),
        resolver_name: Ignore,
        ipv4_compat: Ignore,
        network_namespace_filepath: Ignore,
    }
    one port_specifier: core::socket_address::PortSpecifier {
        PortValue "port_value": Act("0 to 65535"),
        NamedPort "named_port": Nack(LATER),
    }

    "Pipe" core::Pipe {
        path: Act("required"),
        mode: Ignore("for servers"),
    }

    "Locality" core::Locality {
        region: Act,
        zone: Act,
        sub_zone: Act,
    }
}
