//! A filter that chooses for each call which filters it passes (A103).

use mesh_core::server::ServerOptions;
use mesh_core::testing::{ListenerBuilder, RouteBuilder, any, filter_chain, listener, route, route_config};
use mesh_xds_proto::envoy::config::common::mutation_rules::v3::{
    HeaderMutation as Change, header_mutation::Action as ChangeAction,
};
use mesh_xds_proto::envoy::config::core::v3::{HeaderValue, HeaderValueOption};
use mesh_xds_proto::envoy::config::core::v3::{RuntimeFractionalPercent, TypedExtensionConfig};
use mesh_xds_proto::envoy::config::rbac::v3 as rbac;
use mesh_xds_proto::envoy::config::route::v3::HeaderMatcher;
use mesh_xds_proto::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use mesh_xds_proto::envoy::extensions::common::matching::v3::{ExtensionWithMatcher, ExtensionWithMatcherPerRoute};
use mesh_xds_proto::envoy::extensions::filters::common::matcher::action::v3::SkipFilter;
use mesh_xds_proto::envoy::extensions::filters::http::composite::v3::{
    Composite, CompositePerRoute, ExecuteFilterAction, FilterChainConfiguration,
};
use mesh_xds_proto::envoy::extensions::filters::http::fault::v3::{FaultAbort, HttpFault, fault_abort};
use mesh_xds_proto::envoy::extensions::filters::http::header_mutation::v3::{HeaderMutation, Mutations};
use mesh_xds_proto::envoy::extensions::filters::http::rbac::v3::Rbac;
use mesh_xds_proto::envoy::extensions::filters::http::router::v3::Router;
use mesh_xds_proto::envoy::extensions::filters::http::stateful_session::v3::StatefulSession;
use mesh_xds_proto::envoy::r#type::matcher::v3::HttpRequestHeaderMatchInput;
use mesh_xds_proto::envoy::r#type::v3::FractionalPercent;
use mesh_xds_proto::xds::core::v3::TypedExtensionConfig as XdsExtension;
use mesh_xds_proto::xds::r#type::matcher::v3::Matcher;
use mesh_xds_proto::xds::r#type::matcher::v3::matcher::matcher_tree::{MatchMap, TreeType};
use mesh_xds_proto::xds::r#type::matcher::v3::matcher::on_match::OnMatch as Leads;
use mesh_xds_proto::xds::r#type::matcher::v3::matcher::{MatcherTree, MatcherType, OnMatch};
use prost::{Message, Name};
use tonic::Code;

use crate::open_streams::{Chat, ending};
use crate::support::client::{assert_says, metadata};
use crate::support::configured::Setting;
use crate::support::greeter::Greeter;
use crate::support::rbac::{any as any_call, deny};

fn xds<M: Message + Name>(message: &M) -> XdsExtension {
    XdsExtension { name: "named".to_owned(), typed_config: Some(any(message)) }
}

fn envoy<M: Message + Name>(message: &M) -> TypedExtensionConfig {
    TypedExtensionConfig { name: "named".to_owned(), typed_config: Some(any(message)) }
}

fn action<M: Message + Name>(message: &M) -> OnMatch {
    OnMatch { keep_matching: false, on_match: Some(Leads::Action(xds(message))) }
}

/// A call passes this filter.
fn run<M: Message + Name>(filter: &M) -> ExecuteFilterAction {
    ExecuteFilterAction { typed_config: Some(envoy(filter)), ..Default::default() }
}

/// By the value of the header `x-for`.
fn by_header<const N: usize>(branches: [(&str, OnMatch); N]) -> Matcher {
    let map = branches.into_iter().map(|(value, branch)| (value.to_owned(), branch)).collect();
    let input = xds(&HttpRequestHeaderMatchInput { header_name: "x-for".to_owned() });
    let tree = MatcherTree { input: Some(input), tree_type: Some(TreeType::ExactMatchMap(MatchMap { map })) };
    Matcher { on_no_match: None, matcher_type: Some(MatcherType::MatcherTree(tree)) }
}

fn otherwise(mut matcher: Matcher, branch: OnMatch) -> Matcher {
    matcher.on_no_match = Some(Box::new(branch));
    matcher
}

fn composite(matcher: Matcher) -> ExtensionWithMatcher {
    let extension_config = Some(envoy(&Composite::default()));
    ExtensionWithMatcher { xds_matcher: Some(matcher), extension_config, ..Default::default() }
}

fn abort(code: u32) -> HttpFault {
    let percentage = Some(FractionalPercent { numerator: 100, denominator: 0 });
    let error_type = Some(fault_abort::ErrorType::GrpcStatus(code));
    HttpFault { abort: Some(FaultAbort { percentage, error_type, ..Default::default() }), ..Default::default() }
}

/// Gives requests and responses this header.
fn header(name: &str, value: &str) -> HeaderMutation {
    let header = HeaderValue { key: name.to_owned(), value: value.to_owned(), ..Default::default() };
    let option = HeaderValueOption { header: Some(header), ..Default::default() };
    let change = Change { action: Some(ChangeAction::Append(option)) };
    let mutations =
        Mutations { request_mutations: vec![change.clone()], response_mutations: vec![change], ..Default::default() };
    HeaderMutation { mutations: Some(mutations), ..Default::default() }
}

async fn start(listener: ListenerBuilder, route: RouteBuilder) -> Greeter {
    Greeter::start(|plain| plain.with(listener).with(route_config("greeter").routes([route]))).await
}

async fn with<M: Message + Name>(filter: &M) -> Greeter {
    start(listener("greeter").filter("composite", filter), route().cluster("greeter")).await
}

async fn code(greeter: &Greeter, wanted: &str) -> Code {
    let pairs = [("x-for", wanted)];
    let pairs = if wanted.is_empty() { &[][..] } else { &pairs[..] };
    greeter.client.hello_with(metadata(pairs)).await.map_or_else(|status| status.code(), |_| Code::Ok)
}

#[tokio::test]
async fn each_call_passes_the_filters_that_its_headers_lead_to() {
    let skip = action(&SkipFilter {});
    let matcher = by_header([("five", action(&run(&abort(5)))), ("six", action(&run(&abort(6)))), ("none", skip)]);
    let greeter = with(&composite(matcher)).await;
    for (wanted, expected) in [
        ("five", Code::NotFound),
        ("six", Code::AlreadyExists),
        ("none", Code::Ok),
        ("other", Code::Unavailable),
        ("", Code::Unavailable),
    ] {
        assert_eq!(code(&greeter, wanted).await, expected, "{wanted}");
    }
    assert_eq!(greeter.backend.calls(), 1);
    let status = greeter.client.hello().await.expect_err("nothing is for it");
    assert_says(&status, &["filter `composite` has no action for the call"]);
    let settings = greeter.mesh.in_force(&greeter.mesh.target("xds:///greeter").unwrap());
    let filters = "route `any path` http_filters: composite (xds)";
    assert!(settings.iter().any(|setting| setting.to_string() == filters), "{settings:#?}");
}

#[tokio::test]
async fn a_chain_of_filters_is_passed_in_its_order_there_and_back() {
    let chain = FilterChainConfiguration {
        typed_config: vec![envoy(&header("x-seen", "one")), envoy(&header("x-seen", "two"))],
    };
    let run = ExecuteFilterAction { filter_chain: Some(chain), ..Default::default() };
    let matcher = otherwise(by_header([("five", action(&run_abort()))]), action(&run));
    let listener = listener("greeter")
        .filter("before", &header("x-seen", "before"))
        .filter("composite", &composite(matcher))
        .filter("after", &header("x-seen", "after"));
    let greeter = start(listener, route().cluster("greeter")).await;
    let mut answer = greeter.client.greeter();
    let response = answer.say_hello(mesh_examples::helloworld::HelloRequest::default()).await.expect("it is let pass");
    let values = |metadata: &tonic::metadata::MetadataMap| {
        let values = metadata.get_all("x-seen").iter().map(|value| value.to_str().unwrap().to_owned());
        values.collect::<Vec<_>>().join(" ")
    };
    assert_eq!(values(&greeter.backend.seen()[0].metadata), "before one two after");
    assert_eq!(values(response.metadata()), "after two one before");
    assert_eq!(code(&greeter, "five").await, Code::NotFound);
}

fn run_abort() -> ExecuteFilterAction {
    run(&abort(5))
}

#[tokio::test]
async fn a_share_of_the_calls_passes_the_filters_and_the_others_none() {
    let run = ExecuteFilterAction { sample_percent: Some(share(20)), ..run_abort() };
    let greeter = with(&composite(by_header([("five", action(&run))]))).await;
    let mut aborted = 0_u32;
    for _ in 0..1_000 {
        aborted += u32::from(code(&greeter, "five").await == Code::NotFound);
    }
    // 200 expected; six standard deviations are 76.
    assert!((124..=276).contains(&aborted), "{aborted} of 1000");
    assert_eq!(greeter.backend.calls(), u64::from(1_000 - aborted));
}

#[tokio::test]
async fn a_route_replaces_the_whole_tree() {
    let own = ExtensionWithMatcherPerRoute { xds_matcher: Some(by_header([("six", action(&run(&abort(6))))])) };
    let route = route().cluster("greeter").filter_config("composite", &own);
    let filter = composite(by_header([("five", action(&run_abort()))]));
    let greeter = start(listener("greeter").filter("composite", &filter), route).await;
    assert_eq!(code(&greeter, "six").await, Code::AlreadyExists);
    assert_eq!(code(&greeter, "five").await, Code::Unavailable, "the listener's tree is not asked");
}

#[tokio::test]
async fn composites_may_be_nested_and_have_envoys_newer_form() {
    let chain = FilterChainConfiguration { typed_config: vec![envoy(&abort(6))] };
    let named = ExecuteFilterAction { filter_chain_name: "six".to_owned(), ..Default::default() };
    let inner = Composite {
        named_filter_chains: [("six".to_owned(), chain)].into_iter().collect(),
        matcher: Some(by_header([("x", action(&named))])),
    };
    let outer = composite(by_header([("x", action(&run(&inner)))]));
    let route = route().cluster("greeter");
    let greeter = start(listener("greeter").filter("composite", &outer), route.clone()).await;
    assert_eq!(code(&greeter, "x").await, Code::AlreadyExists);

    let wrapped = Composite { matcher: None, ..inner.clone() };
    let wrapping = ExtensionWithMatcher {
        extension_config: Some(envoy(&wrapped)),
        ..composite(by_header([("x", action(&named))]))
    };
    let greeter = start(listener("greeter").filter("composite", &wrapping), route.clone()).await;
    assert_eq!(code(&greeter, "x").await, Code::AlreadyExists);

    let own = CompositePerRoute { matcher: Some(by_header([("x", action(&SkipFilter {}))])) };
    let greeter = start(listener("greeter").filter("composite", &inner), route.filter_config("composite", &own)).await;
    assert_eq!(code(&greeter, "x").await, Code::Ok);
}

/// Denies calls with the header `x-admin`.
fn guard() -> Rbac {
    let present = Some(HeaderMatchSpecifier::PresentMatch(true));
    let header = HeaderMatcher { name: "x-admin".into(), header_match_specifier: present, ..Default::default() };
    let permission = rbac::Permission { rule: Some(rbac::permission::Rule::Header(header)) };
    let principal = rbac::Principal { identifier: Some(rbac::principal::Identifier::Any(true)) };
    let policy = rbac::Policy { permissions: vec![permission], principals: vec![principal], ..Default::default() };
    let policies = [("header".to_owned(), policy)].into();
    let rules = rbac::Rbac { action: rbac::rbac::Action::Deny as i32, policies, ..Default::default() };
    Rbac { rules: Some(rules), ..Default::default() }
}

#[tokio::test]
async fn a_server_chooses_by_a_calls_headers_who_is_asked() {
    let open = action(&run(&header("x-seen", "open")));
    let filter = composite(by_header([("guarded", action(&run(&guard()))), ("open", open)]));
    let it = Setting::start(filter_chain().filter("choose", &filter), ServerOptions::new()).await;
    let code = async |pairs: &[(&'static str, &str)]| {
        it.client.hello_with(metadata(pairs)).await.map_or_else(|status| status.code(), |_| Code::Ok)
    };
    assert_eq!(code(&[("x-for", "guarded")]).await, Code::Ok);
    assert_eq!(code(&[("x-for", "guarded"), ("x-admin", "1")]).await, Code::PermissionDenied);
    assert_eq!(code(&[("x-for", "open"), ("x-admin", "1")]).await, Code::Ok);
    assert_eq!(it.greeter.seen().pop().unwrap().metadata.get("x-seen").unwrap(), "open");
    let status = it.client.hello().await.expect_err("nothing is for it");
    assert_eq!(
        (status.code(), status.message()),
        (Code::Unavailable, "this server is not configured to serve the call")
    );
    let why = it.server.status().last_refused_call.expect("the server's operator is told why");
    assert!(why.contains("filter `choose` has no action for the call"), "{why}");
}

#[tokio::test]
async fn s11_a_policy_that_a_composite_leads_to_ends_open_streams() {
    let leading_to = |then| filter_chain().filter("choose", &composite(otherwise(by_header([("x", skip())]), then)));
    let it = Setting::start(leading_to(skip()), ending()).await;
    let mut chat = Chat::open(&it, false).await;
    it.changes_to(leading_to(action(&run(&deny([any_call()]))))).await;
    assert_eq!(chat.end().await.code(), Code::PermissionDenied);
}

fn skip() -> OnMatch {
    action(&SkipFilter {})
}

/// Half of all calls pass this filter.
pub(crate) fn of_a_half<M: Message + Name>(filter: &M) -> ExtensionWithMatcher {
    let run = ExecuteFilterAction { sample_percent: Some(share(50)), ..run(filter) };
    composite(otherwise(by_header([("x", skip())]), action(&run)))
}

pub(crate) fn share(percent: u32) -> RuntimeFractionalPercent {
    let default_value = Some(FractionalPercent { numerator: percent, denominator: 0 });
    RuntimeFractionalPercent { default_value, ..Default::default() }
}

/// What a transport adds is not the same in every client, and clients do not choose by it (A28); a server has it as it came.
#[tokio::test]
async fn a_server_chooses_by_what_a_transport_adds_too() {
    let input = Some(xds(&HttpRequestHeaderMatchInput { header_name: "user-agent".to_owned() }));
    let map = [("grpc".to_owned(), action(&run(&abort(5))))].into();
    let tree = MatcherTree { input, tree_type: Some(TreeType::PrefixMatchMap(MatchMap { map })) };
    let tree = Matcher { on_no_match: None, matcher_type: Some(MatcherType::MatcherTree(tree)) };
    let filter = composite(otherwise(tree, action(&SkipFilter {})));
    let it = Setting::start(filter_chain().filter("choose", &filter), ServerOptions::new()).await;
    let status = it.client.hello().await.expect_err("its user agent begins so");
    assert_eq!(status.code(), Code::NotFound);
    let greeter = start(listener("greeter").filter("choose", &filter), route().cluster("greeter")).await;
    assert_eq!(code(&greeter, "x").await, Code::Ok);
}

/// A route does not say whose it is (A103).
#[tokio::test]
async fn a_filter_that_a_side_does_not_have_fails_the_calls_that_a_route_sends_there() {
    let tree = by_header([
        ("session", action(&run(&StatefulSession::default()))),
        ("guarded", action(&run(&guard()))),
        ("none", action(&SkipFilter {})),
    ]);
    let own = ExtensionWithMatcherPerRoute { xds_matcher: Some(tree) };
    let filter = composite(by_header([("x", action(&SkipFilter {}))]));
    let routes = route_config("r").routes([route().non_forwarding().filter_config("choose", &own)]);
    let it = Setting::start(filter_chain().filter("choose", &filter).inline(routes), ServerOptions::new()).await;
    let client =
        start(listener("greeter").filter("choose", &filter), route().cluster("greeter").filter_config("choose", &own));
    let client = client.await;
    for (wanted, of_client, of_server) in [
        ("none", Code::Ok, Code::Ok),
        ("session", Code::Ok, Code::Unavailable),
        ("guarded", Code::Unavailable, Code::Ok),
    ] {
        assert_eq!(code(&client, wanted).await, of_client, "{wanted}");
        let served = it.client.hello_with(metadata(&[("x-for", wanted)])).await;
        assert_eq!(served.map_or_else(|status| status.code(), |_| Code::Ok), of_server, "{wanted}");
    }
}

async fn nack_of(greeter: &Greeter, listener: ListenerBuilder) -> String {
    greeter.control_plane.put(listener);
    greeter.control_plane.next_nack().await.error.expect("a NACK says why").1
}

#[tokio::test]
async fn a_bad_tree_is_rejected_by_field_and_the_last_good_one_serves() {
    let good = by_header([("five", action(&run_abort()))]);
    let greeter = with(&composite(good.clone())).await;
    assert_eq!(code(&greeter, "five").await, Code::NotFound);
    let keeps = OnMatch { keep_matching: true, ..action(&SkipFilter {}) };
    let deep = (0..16).fold(good.clone(), |inner, _| {
        let branch = OnMatch { keep_matching: false, on_match: Some(Leads::Matcher(Box::new(inner))) };
        by_header([("five", branch)])
    });
    let nested = (0..9).fold(composite(good.clone()), |inner, _| composite(by_header([("x", action(&run(&inner)))])));
    let tree = "http_filters[0].typed_config.xds_matcher";
    let missing = ExecuteFilterAction { filter_chain_name: "six".to_owned(), ..Default::default() };
    let mut no_input = good.clone();
    let Some(MatcherType::MatcherTree(map)) = &mut no_input.matcher_type else { panic!("a map") };
    map.input = Some(xds(&SkipFilter {}));
    let inner = Composite { matcher: Some(good.clone()), ..Composite::default() };
    let two = ExtensionWithMatcher { extension_config: Some(envoy(&inner)), ..composite(good.clone()) };
    for (bad, path, problem) in [
        (two, "extension_config.typed_config.matcher", "must not be set"),
        (ExtensionWithMatcher { xds_matcher: None, ..composite(good.clone()) }, "xds_matcher", "must be set"),
        (composite(Matcher::default()), tree, "`matcher_list` or `matcher_tree` must be set"),
        (
            composite(by_header([("x", keeps)])),
            "exact_match_map.map[x].keep_matching",
            "no action may be one of several",
        ),
        (
            composite(by_header([("x", action(&abort(5)))])),
            "map[x].action.typed_config",
            "is not an action of this filter",
        ),
        (composite(by_header([("x", action(&run(&Router::default())))])), "action.typed_config.typed_config", "router"),
        (composite(by_header([("x", action(&ExecuteFilterAction::default()))])), "map[x].action", "`typed_config` or"),
        (composite(by_header([("x", action(&missing))])), "filter_chain_name", "is none of `named_filter_chains`"),
        (composite(no_input), "matcher_tree.input.typed_config", "only headers of the request are"),
        (composite(deep), "map[five].matcher", "is nested deeper than 16"),
        (nested, "map[x].action.typed_config.typed_config", "filters are nested too deep"),
    ] {
        let nack = nack_of(&greeter, listener("greeter").filter("composite", &bad)).await;
        assert!(nack.contains(path) && nack.contains(problem), "{path}: {problem}: {nack}");
        assert_eq!(code(&greeter, "five").await, Code::NotFound);
    }
}
