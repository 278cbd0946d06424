//! A rate that a client holds its own calls to (`envoy.filters.http.local_ratelimit`).

use std::time::Duration;

use mesh_core::testing::{ControlPlane, Resources, RouteBuilder, listener, route, route_config, virtual_host};
use mesh_examples::helloworld::HelloRequest;
use mesh_xds_proto::envoy::config::core::v3::{HeaderValue, HeaderValueOption, RuntimeFractionalPercent};
use mesh_xds_proto::envoy::config::route::v3::rate_limit::{self, action};
use mesh_xds_proto::envoy::config::route::v3::route::Action;
use mesh_xds_proto::envoy::config::route::v3::{RateLimit, RouteConfiguration};
use mesh_xds_proto::envoy::extensions::common::ratelimit::v3::rate_limit_descriptor::Entry;
use mesh_xds_proto::envoy::extensions::common::ratelimit::v3::{
    LocalRateLimitDescriptor, VhRateLimitsOptions, XRateLimitHeadersRfcVersion,
};
use mesh_xds_proto::envoy::extensions::filters::http::local_ratelimit::v3::LocalRateLimit;
use mesh_xds_proto::envoy::r#type::v3::{FractionalPercent, HttpStatus, TokenBucket};
use tonic::Code;

use crate::support::backend::Backend;
use crate::support::client::{Client, assert_says, quick_mesh};
use crate::support::greeter::Greeter;
use crate::support::in_time;

fn percent(numerator: u32) -> Option<RuntimeFractionalPercent> {
    let default_value = Some(FractionalPercent { numerator, denominator: 0 });
    Some(RuntimeFractionalPercent { default_value, ..Default::default() })
}

fn bucket(max_tokens: u32, fill_interval: Duration) -> Option<TokenBucket> {
    let fill_interval = Some(fill_interval.try_into().expect("a duration"));
    Some(TokenBucket { max_tokens, tokens_per_fill: None, fill_interval })
}

/// So many calls, and then one an hour.
fn limit(max_tokens: u32) -> LocalRateLimit {
    LocalRateLimit {
        stat_prefix: "limit".to_owned(),
        token_bucket: bucket(max_tokens, Duration::from_secs(3_600)),
        filter_enabled: percent(100),
        filter_enforced: percent(100),
        ..Default::default()
    }
}

fn header(key: &str, value: &str) -> HeaderValueOption {
    let header = HeaderValue { key: key.to_owned(), value: value.to_owned(), ..Default::default() };
    HeaderValueOption { header: Some(header), ..Default::default() }
}

async fn start(limit: &LocalRateLimit, route: RouteBuilder) -> Greeter {
    let listener = listener("greeter").filter("limit", limit);
    Greeter::start(|plain| plain.with(listener).with(route_config("greeter").routes([route]))).await
}

async fn limited(limit: &LocalRateLimit) -> Greeter {
    start(limit, route().cluster("greeter")).await
}

/// How many of so many calls are answered.
async fn answered(greeter: &Greeter, calls: u32) -> u32 {
    let mut answered = 0;
    for _ in 0..calls {
        answered += u32::from(greeter.client.hello().await.is_ok());
    }
    answered
}

#[tokio::test]
async fn calls_beyond_the_rate_fail_at_once_and_are_neither_sent_nor_retried() {
    let greeter = start(&limit(3), route().cluster("greeter").retry_on("unavailable", 3)).await;
    assert_eq!(answered(&greeter, 10).await, 3);
    let status = greeter.client.hello().await.expect_err("there is no token");
    assert_eq!((status.code(), status.message()), (Code::Unavailable, "local_rate_limited"));
    assert_eq!(greeter.backend.calls(), 3);
}

#[tokio::test]
async fn tokens_come_back_with_time() {
    let quick = LocalRateLimit { token_bucket: bucket(1, Duration::from_millis(50)), ..limit(1) };
    let greeter = limited(&quick).await;
    greeter.client.hello().await.expect("the first token");
    let refilled = async { while greeter.client.hello().await.is_err() {} };
    in_time("another token", refilled).await;
}

#[tokio::test]
async fn channels_to_a_target_share_its_tokens() {
    let greeter = limited(&limit(4)).await;
    let other = Client::new(&greeter.mesh, "xds:///greeter");
    assert_eq!(answered(&greeter, 2).await, 2);
    let mut answered = 0;
    for _ in 0..5 {
        answered += u32::from(other.hello().await.is_ok());
    }
    assert_eq!(answered, 2);
}

#[tokio::test]
async fn a_refused_call_has_the_status_and_the_headers_that_are_configured() {
    for (limit, code) in [
        (LocalRateLimit { status: Some(HttpStatus { code: 403 }), ..limit(1) }, Code::PermissionDenied),
        (LocalRateLimit { status: Some(HttpStatus { code: 200 }), ..limit(1) }, Code::Unavailable),
        (LocalRateLimit { rate_limited_as_resource_exhausted: true, ..limit(1) }, Code::ResourceExhausted),
    ] {
        let limit = LocalRateLimit { response_headers_to_add: vec![header("x-limited", "true")], ..limit };
        let greeter = limited(&limit).await;
        greeter.client.hello().await.expect("the only token");
        let status = greeter.client.hello().await.expect_err("there is no token");
        assert_eq!(status.code(), code);
        assert_eq!(status.metadata().get("x-limited").expect("a header"), "true");
    }
}

#[tokio::test]
async fn answers_tell_how_much_more_there_is_if_the_limit_says_so() {
    let told = |metadata: &tonic::metadata::MetadataMap| {
        ["limit", "remaining", "reset"].map(|name| {
            let value = metadata.get(format!("x-ratelimit-{name}"))?.to_str().ok()?;
            value.parse::<u64>().ok()
        })
    };
    let version = XRateLimitHeadersRfcVersion::DraftVersion03 as i32;
    let telling = limited(&LocalRateLimit { enable_x_ratelimit_headers: version, ..limit(2) }).await;
    let hello = async |greeter: &Greeter| match greeter.client.greeter().say_hello(HelloRequest::default()).await {
        Ok(response) => told(response.metadata()),
        Err(status) => told(status.metadata()),
    };
    assert_eq!(hello(&telling).await, [Some(2), Some(1), Some(0)]);
    for _ in 0..2 {
        let [limit, remaining, reset] = hello(&telling).await;
        assert_eq!((limit, remaining), (Some(2), Some(0)), "of the last that passes, and of one that is refused");
        assert!(reset.is_some_and(|seconds| (3_500..3_600).contains(&seconds)), "{reset:?}");
    }
    assert_eq!(hello(&limited(&limit(2)).await).await, [None; 3]);
}

#[tokio::test]
async fn a_limit_that_is_not_enforced_marks_the_calls_that_it_would_refuse() {
    let marked = vec![header("x-over-limit", "yes")];
    let limit =
        LocalRateLimit { filter_enforced: percent(0), request_headers_to_add_when_not_enforced: marked, ..limit(2) };
    let greeter = limited(&limit).await;
    assert_eq!(answered(&greeter, 4).await, 4);
    let marks =
        greeter.backend.seen().iter().map(|call| call.metadata.contains_key("x-over-limit")).collect::<Vec<_>>();
    assert_eq!(marks, [false, false, true, true]);
}

#[tokio::test]
async fn without_a_word_on_its_shares_a_limit_limits_nothing() {
    let silent = LocalRateLimit { filter_enabled: None, ..limit(1) };
    assert_eq!(answered(&limited(&silent).await, 5).await, 5);
    let half = LocalRateLimit { filter_enabled: percent(50), ..limit(1) };
    let answered = answered(&limited(&half).await, 400).await;
    // 200 expected, and the one token; six standard deviations are 60.
    assert!((140..=262).contains(&answered), "{answered} of 400");
}

#[tokio::test]
async fn routes_have_limits_of_their_own_and_leave_the_listeners_alone() {
    let backend = Backend::start("a").await;
    let control_plane = ControlPlane::new();
    let strict = route().header("x-tier", "free").cluster("greeter").filter_config("limit", &limit(1));
    let routes = route_config("greeter").routes([strict, route().cluster("greeter")]);
    let open = LocalRateLimit { stat_prefix: "limit".to_owned(), ..Default::default() };
    let service = Resources::service("greeter", [backend.address()]).with(routes);
    control_plane.set(service.with(listener("greeter").filter("limit", &open)));
    let mesh = quick_mesh(&control_plane).await;
    let client = Client::new(&mesh, "xds:///greeter");
    let free = || {
        let mut metadata = tonic::metadata::MetadataMap::new();
        metadata.insert("x-tier", "free".parse().expect("a value"));
        client.hello_with(metadata)
    };
    free().await.expect("the only token");
    let refused = free().await.expect_err("there is no other");
    assert_says(&refused, &["local_rate_limited"]);
    for _ in 0..5 {
        client.hello().await.expect("another route, without a limit");
    }
}

#[tokio::test]
async fn an_update_gives_nobody_new_tokens_unless_it_changes_the_rate() {
    let marked = |max_tokens, mark| LocalRateLimit {
        response_headers_to_add: vec![header("x-version", mark)],
        ..limit(max_tokens)
    };
    let own =
        |mark| route().header("x-own", "1").name("own").cluster("greeter").filter_config("limit", &marked(1, mark));
    let routes = |mark| route_config("greeter").routes([own(mark), route().cluster("greeter")]);
    let greeter = limited(&marked(2, "1")).await;
    greeter.control_plane.put(routes("own 1"));
    let refused = async |own: bool, version: &str| {
        let mut metadata = tonic::metadata::MetadataMap::new();
        if own {
            metadata.insert("x-own", "1".parse().expect("a value"));
        }
        let mut answered = 0;
        loop {
            match greeter.client.hello_with(metadata.clone()).await {
                Ok(_) => answered += 1,
                Err(status) if status.metadata().get("x-version").is_some_and(|seen| seen == version) => {
                    return answered;
                }
                // Those in force still are the ones before.
                Err(_) => tokio::task::yield_now().await,
            }
        }
    };
    let refused = async |own, version| in_time("the update is in force", refused(own, version)).await;
    let first = refused(true, "own 1").await + refused(false, "1").await;
    assert!(first <= 3, "{first}");
    greeter.control_plane.put(listener("greeter").filter("limit", &marked(2, "2")));
    assert_eq!(refused(false, "2").await, 0, "of the listener");
    greeter.control_plane.put(routes("own 2"));
    assert_eq!(refused(true, "own 2").await, 0, "of the route");
    greeter.control_plane.put(listener("greeter").filter("limit", &marked(5, "3")));
    assert_eq!(refused(false, "3").await, 5, "another rate begins with a full bucket");
}

#[tokio::test]
async fn a_bad_limit_is_rejected_by_field_and_the_last_good_one_serves() {
    let greeter = limited(&limit(100)).await;
    greeter.client.hello().await.expect("a token");
    let with = |token_bucket| LocalRateLimit { token_bucket, ..limit(1) };
    let second = Duration::from_secs(1);
    let no_tokens = bucket(1, second).map(|bucket| TokenBucket { tokens_per_fill: Some(0), ..bucket });
    let no_interval = bucket(1, second).map(|bucket| TokenBucket { fill_interval: None, ..bucket });
    for (bad, says) in [
        (LocalRateLimit { stat_prefix: String::new(), ..limit(1) }, "typed_config.stat_prefix: must be set"),
        (with(bucket(0, second)), "typed_config.token_bucket.max_tokens: must be above 0"),
        (with(no_tokens), "typed_config.token_bucket.tokens_per_fill: must be above 0"),
        (with(no_interval), "typed_config.token_bucket.fill_interval: must be set"),
        (with(bucket(1, Duration::from_millis(49))), "typed_config.token_bucket.fill_interval: must be at least 50 ms"),
        (
            LocalRateLimit { status: Some(HttpStatus { code: 99 }), ..limit(1) },
            "typed_config.status.code: 99 is not a status of HTTP from 100 to 599",
        ),
    ] {
        greeter.control_plane.put(listener("greeter").filter("limit", &bad));
        let nack = greeter.control_plane.next_nack().await.error.expect("a NACK says why").1;
        assert!(nack.contains(says), "{nack}");
        greeter.client.hello().await.expect("the last good limit");
    }
    let without = LocalRateLimit { token_bucket: None, ..limit(1) };
    let routes = route_config("greeter").routes([route().cluster("greeter").filter_config("limit", &without)]);
    greeter.control_plane.put(routes);
    let nack = greeter.control_plane.next_nack().await.error.expect("a NACK says why").1;
    assert!(nack.contains("[limit].token_bucket: must be set where the filter is overridden"), "{nack}");
}

/// Makes calls those of `of`.
fn rule(of: &str) -> RateLimit {
    let key = action::GenericKey { descriptor_value: of.to_owned(), ..Default::default() };
    let action = rate_limit::Action { action_specifier: Some(action::ActionSpecifier::GenericKey(key)) };
    RateLimit { actions: vec![action], ..Default::default() }
}

/// Three calls of a route, two of a virtual host; all others pass.
fn by_descriptor(vh_rate_limits: VhRateLimitsOptions) -> LocalRateLimit {
    let descriptor = |of: &str, tokens| LocalRateLimitDescriptor {
        entries: vec![Entry { key: "generic_key".into(), value: of.into() }],
        token_bucket: bucket(tokens, Duration::from_secs(3_600)),
        ..Default::default()
    };
    let descriptors = vec![descriptor("route", 3), descriptor("host", 2)];
    LocalRateLimit { token_bucket: None, descriptors, vh_rate_limits: vh_rate_limits as i32, ..limit(1) }
}

/// Routes with these rules.
fn routes_with(of_route: Option<RateLimit>, of_host: Option<RateLimit>, includes: bool) -> RouteConfiguration {
    let of_route = route().cluster("greeter").modify(|route| {
        let Some(Action::Route(action)) = &mut route.action else { panic!("{route:?}") };
        action.rate_limits.extend(of_route);
        action.include_vh_rate_limits = Some(includes);
    });
    let host = virtual_host(["greeter"]).route(of_route).modify(|host| host.rate_limits.extend(of_host));
    route_config("greeter").with(host).build()
}

#[tokio::test]
async fn routes_and_their_virtual_hosts_say_which_calls_a_limit_is_for() {
    use VhRateLimitsOptions::{Ignore, Include, Override};
    for (of_route, option, includes, expected) in [
        (false, Override, false, 2),
        (true, Override, false, 3),
        (true, Include, false, 2),
        (true, Ignore, false, 3),
        (true, Ignore, true, 2),
        (false, Ignore, false, 5),
    ] {
        let listener = listener("greeter").filter("limit", &by_descriptor(option));
        let routes = routes_with(of_route.then(|| rule("route")), Some(rule("host")), includes);
        let greeter = Greeter::start(|plain| plain.with(listener).with(routes)).await;
        let answered = answered(&greeter, 5).await;
        assert_eq!(answered, expected, "the route has rules: {of_route}, {option:?}, includes: {includes}");
        assert_eq!(greeter.mesh.ignored_fields(), []);
    }
}

#[tokio::test]
async fn a_rule_that_makes_no_descriptor_leaves_its_place_to_no_other() {
    let cluster = action::SourceCluster::default();
    let action = rate_limit::Action { action_specifier: Some(action::ActionSpecifier::SourceCluster(cluster)) };
    let of_route = RateLimit { actions: vec![action], ..Default::default() };
    let listener = listener("greeter").filter("limit", &by_descriptor(VhRateLimitsOptions::Override));
    let routes = routes_with(Some(of_route), Some(rule("host")), false);
    let greeter = Greeter::start(|plain| plain.with(listener).with(routes)).await;
    assert_eq!(answered(&greeter, 5).await, 5);
    let ignored = greeter.mesh.ignored_fields();
    assert!(format!("{ignored:?}").contains("source_cluster"), "{ignored:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn routes_change_and_each_value_of_a_descriptor_keeps_its_tokens() {
    let descriptor = LocalRateLimitDescriptor {
        entries: vec![Entry { key: "generic_key".into(), value: String::new() }],
        token_bucket: bucket(3, Duration::from_secs(3_600)),
        ..Default::default()
    };
    let limit = LocalRateLimit { descriptors: vec![descriptor], ..by_descriptor(VhRateLimitsOptions::Override) };
    let of = |value: &str| routes_with(Some(rule(value)), None, false);
    let listener = listener("greeter").filter("limit", &limit);
    let greeter = Greeter::start(|plain| plain.with(listener).with(of("one"))).await;
    assert_eq!(answered(&greeter, 5).await, 3);
    for (value, left) in [("two", 3), ("three", 3), ("one", 0)] {
        greeter.control_plane.put(of(value));
        let mut found = 0;
        let refused_all = async {
            while found < left {
                found += u32::from(greeter.client.hello().await.is_ok());
            }
        };
        in_time("the routes are in force", refused_all).await;
        assert_eq!(answered(&greeter, 5).await, 0, "of {value}");
    }
}

#[tokio::test]
async fn a_limit_takes_the_rules_of_its_stage_and_bad_ones_are_rejected_by_field() {
    let of_stage = |stage| RateLimit { stage: Some(stage), ..rule("route") };
    for (stage, expected) in [(0, 5), (1, 3)] {
        let listener =
            listener("greeter").filter("limit", &LocalRateLimit { stage, ..by_descriptor(Default::default()) });
        let routes = routes_with(Some(of_stage(1)), None, false);
        let greeter = Greeter::start(|plain| plain.with(listener).with(routes)).await;
        assert_eq!(answered(&greeter, 5).await, expected, "of stage {stage}");
        let empty = RateLimit { actions: Vec::new(), ..rule("") };
        for (of_route, of_host, says) in [
            (Some(empty), None, "virtual_hosts[0].routes[0].route.rate_limits[0].actions: must not be empty"),
            (None, Some(of_stage(11)), "virtual_hosts[0].rate_limits[0].stage: 11 is more than 10"),
        ] {
            greeter.control_plane.put(routes_with(of_route, of_host, false));
            let nack = greeter.control_plane.next_nack().await.error.expect("a NACK says why").1;
            assert!(nack.contains(says), "{nack}");
        }
    }
}
