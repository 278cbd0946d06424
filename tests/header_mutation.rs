//! Changes of headers: at each level of a route configuration, and by the filter `header_mutation`.

use mesh_core::testing::{ListenerBuilder, RouteBuilder, any, listener, route, route_config, virtual_host};
use mesh_examples::helloworld::HelloRequest;
use mesh_xds_proto::envoy::config::common::mutation_rules::v3::HeaderMutation as Change;
use mesh_xds_proto::envoy::config::common::mutation_rules::v3::header_mutation::{Action, RemoveOnMatch};
use mesh_xds_proto::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use mesh_xds_proto::envoy::config::core::v3::{HeaderValue, HeaderValueOption};
use mesh_xds_proto::envoy::config::route::v3::route_action::ClusterSpecifier;
use mesh_xds_proto::envoy::config::route::v3::{RouteConfiguration, route as action};
use mesh_xds_proto::envoy::extensions::filters::http::header_mutation::v3::{
    HeaderMutation, HeaderMutationPerRoute, Mutations,
};
use mesh_xds_proto::envoy::r#type::matcher::v3::{StringMatcher, string_matcher};
use tonic::Request;
use tonic::metadata::MetadataMap;

use crate::support::client::metadata;
use crate::support::greeter::Greeter;

fn append(key: &str, value: &str) -> HeaderValueOption {
    let header = HeaderValue { key: key.to_owned(), value: value.to_owned(), ..Default::default() };
    HeaderValueOption { header: Some(header), ..Default::default() }
}

fn overwrite(key: &str, value: &str) -> HeaderValueOption {
    let append_action = HeaderAppendAction::OverwriteIfExistsOrAdd as i32;
    HeaderValueOption { append_action, ..append(key, value) }
}

async fn start(listener: ListenerBuilder, routes: RouteConfiguration) -> Greeter {
    Greeter::start(|plain| plain.with(listener).with(routes)).await
}

async fn routing(route: RouteBuilder) -> Greeter {
    start(listener("greeter"), route_config("greeter").routes([route]).build()).await
}

/// The values of a header as the backend saw them and as the application sees them, of a call with this metadata.
async fn call(greeter: &Greeter, pairs: &[(&'static str, &str)]) -> (MetadataMap, MetadataMap) {
    let mut request = Request::new(HelloRequest::default());
    *request.metadata_mut() = metadata(pairs);
    let reply = greeter.client.greeter().say_hello(request).await.expect("an answer");
    (greeter.backend.seen().pop().expect("a call").metadata, reply.metadata().clone())
}

fn values(metadata: &MetadataMap, name: &str) -> Vec<String> {
    metadata.get_all(name).iter().map(|value| value.to_str().expect("text").to_owned()).collect()
}

#[tokio::test]
async fn a_route_adds_and_removes_headers_of_requests_and_responses() {
    let route = route().name("r1").cluster("greeter").modify(|route| {
        route.request_headers_to_add = vec![
            append("x-appended", "route"),
            overwrite("x-set", "route"),
            append("x-facts", "%REQ(x-user)% of %UPSTREAM_CLUSTER% by %ROUTE_NAME%, 100%%"),
            append("x-empty", "%REQ(x-none)%"),
        ];
        route.request_headers_to_remove = vec!["x-secret".to_owned(), "x-set".to_owned()];
        route.response_headers_to_add = vec![append("x-answered-by", "%UPSTREAM_CLUSTER% %RESPONSE_CODE%")];
    });
    let greeter = routing(route).await;
    let pairs = [("x-user", "ada"), ("x-appended", "app"), ("x-set", "app"), ("x-secret", "s")];
    let (seen, answered) = call(&greeter, &pairs).await;
    assert_eq!(values(&seen, "x-appended"), ["app", "route"]);
    assert_eq!(values(&seen, "x-set"), ["route"], "removals come before additions");
    assert_eq!(values(&seen, "x-facts"), ["ada of greeter by r1, 100%"]);
    assert_eq!(values(&seen, "x-secret"), [""; 0]);
    assert_eq!(values(&seen, "x-empty"), [""; 0]);
    assert_eq!(values(&answered, "x-answered-by"), ["greeter 200"]);
}

#[tokio::test]
async fn every_level_changes_headers_and_the_order_is_the_configurations_choice() {
    let levels = |most_specific_wins| {
        let weighted = route().weighted([("greeter", 1)]).modify(|route| {
            route.request_headers_to_add = vec![append("x-all", "route"), overwrite("x-last", "route")];
            let Some(action::Action::Route(action)) = &mut route.action else { panic!("it forwards") };
            let Some(ClusterSpecifier::WeightedClusters(clusters)) = &mut action.cluster_specifier else {
                panic!("to weighted clusters")
            };
            let additions = vec![append("x-all", "cluster"), overwrite("x-last", "cluster")];
            clusters.clusters[0].request_headers_to_add = additions;
            clusters.clusters[0].response_headers_to_add = vec![append("x-by", "cluster")];
        });
        let host = virtual_host(["*"]).route(weighted).modify(|host| {
            host.request_headers_to_add = vec![append("x-all", "host"), overwrite("x-last", "host")];
        });
        let mut routes = route_config("greeter").with(host).build();
        routes.request_headers_to_add = vec![append("x-all", "whole"), overwrite("x-last", "whole")];
        routes.response_headers_to_add = vec![append("x-by", "whole")];
        routes.most_specific_header_mutations_wins = most_specific_wins;
        routes
    };
    for (most_specific_wins, all, last, by) in [
        (false, ["cluster", "route", "host", "whole"], "whole", ["cluster", "whole"]),
        (true, ["cluster", "whole", "host", "route"], "route", ["cluster", "whole"]),
    ] {
        let greeter = start(listener("greeter"), levels(most_specific_wins)).await;
        let (seen, answered) = call(&greeter, &[]).await;
        assert_eq!(values(&seen, "x-all"), all);
        assert_eq!(values(&seen, "x-last"), [last]);
        assert_eq!(values(&answered, "x-by"), by);
    }
}

fn mutations(request: Vec<Action>, response: Vec<Action>) -> Option<Mutations> {
    let changes = |actions: Vec<Action>| actions.into_iter().map(|action| Change { action: Some(action) }).collect();
    let (request_mutations, response_mutations) = (changes(request), changes(response));
    Some(Mutations { request_mutations, response_mutations, ..Default::default() })
}

#[tokio::test]
async fn the_filter_changes_headers_and_routes_add_to_its_changes() {
    let prefix = string_matcher::MatchPattern::Prefix("x-internal-".to_owned());
    let key_matcher = Some(StringMatcher { match_pattern: Some(prefix), ignore_case: false });
    let filter = HeaderMutation {
        mutations: mutations(
            vec![Action::Append(append("x-all", "filter")), Action::RemoveOnMatch(RemoveOnMatch { key_matcher })],
            vec![Action::Append(append("x-by", "filter"))],
        ),
        ..Default::default()
    };
    let per_route = HeaderMutationPerRoute {
        mutations: mutations(
            vec![Action::Append(append("x-all", "route")), Action::Remove("x-gone".to_owned())],
            vec![],
        ),
    };
    let routes = route_config("greeter").routes([route().cluster("greeter").filter_config("headers", &per_route)]);
    let greeter = start(listener("greeter").filter("headers", &filter), routes.build()).await;
    let (seen, answered) = call(&greeter, &[("x-internal-a", "1"), ("x-internal-b", "2"), ("x-gone", "3")]).await;
    assert_eq!(values(&seen, "x-all"), ["filter", "route"]);
    for gone in ["x-internal-a", "x-internal-b", "x-gone"] {
        assert!(seen.get(gone).is_none(), "{gone}");
    }
    assert_eq!(values(&answered, "x-by"), ["filter"]);
}

#[tokio::test]
async fn grpcs_own_headers_stay_and_pseudo_headers_are_refused() {
    let own = route().cluster("greeter").modify(|route| {
        route.request_headers_to_add = vec![overwrite("content-type", "text/html"), overwrite("grpc-timeout", "1n")];
        route.request_headers_to_remove = vec!["te".to_owned()];
        route.response_headers_to_add = vec![overwrite("grpc-status", "5")];
    });
    let greeter = routing(own).await;
    let (seen, _) = call(&greeter, &[]).await;
    assert_eq!(values(&seen, "content-type"), ["application/grpc"]);
    assert!(seen.get("grpc-timeout").is_none());
    let ignored: Vec<_> = greeter.mesh.ignored_fields().into_iter().map(|field| field.path).collect();
    let path = "virtual_hosts.routes.request_headers_to_add.header.key";
    assert!(ignored.iter().any(|ignored| ignored == path), "{ignored:?}");

    for (name, value, says) in [
        (
            ":path",
            "/",
            "routes[0].request_headers_to_add[0].header.key: \":path\" is not the name of a header that can",
        ),
        ("host", "x", "routes[0].request_headers_to_add[0].header.key: \"host\" is not the name of a header that can"),
        ("x", "50%", "routes[0].request_headers_to_add[0].header.value: \"50%\" has a `%` without its second"),
    ] {
        let bad = route().cluster("greeter").modify(|route| route.request_headers_to_add = vec![append(name, value)]);
        greeter.control_plane.put(route_config("greeter").routes([bad]));
        let nack = greeter.control_plane.next_nack().await.error.expect("a NACK says why").1;
        assert!(nack.contains(says), "{nack}");
        call(&greeter, &[]).await;
    }
}

#[tokio::test]
async fn a_header_with_a_substitution_that_is_not_known_is_listed_and_not_added() {
    let route = route().cluster("greeter").modify(|route| {
        route.request_headers_to_add = vec![append("x-peer", "%DOWNSTREAM_REMOTE_ADDRESS%"), append("x-there", "1")];
    });
    let greeter = routing(route).await;
    let (seen, _) = call(&greeter, &[]).await;
    assert_eq!((values(&seen, "x-peer").len(), values(&seen, "x-there").len()), (0, 1));
    let ignored: Vec<_> = greeter.mesh.ignored_fields().into_iter().map(|field| field.path).collect();
    let path = "virtual_hosts.routes.request_headers_to_add.header.value";
    assert!(ignored.iter().any(|ignored| ignored == path), "{ignored:?}");
}

#[tokio::test]
async fn overrides_of_filters_that_the_listener_does_not_have_are_checked_and_unused() {
    let per_route =
        HeaderMutationPerRoute { mutations: mutations(vec![Action::Append(append("x-all", "route"))], vec![]) };
    let greeter = routing(route().cluster("greeter").filter_config("nowhere", &per_route)).await;
    assert!(call(&greeter, &[]).await.0.get("x-all").is_none());
    let bad = HeaderMutationPerRoute { mutations: mutations(vec![Action::Remove(":path".to_owned())], vec![]) };
    let bad = route().cluster("greeter").modify(|route| {
        route.typed_per_filter_config.insert("nowhere".to_owned(), any(&bad));
    });
    greeter.control_plane.put(route_config("greeter").routes([bad]));
    let nack = greeter.control_plane.next_nack().await.error.expect("a NACK says why").1;
    assert!(nack.contains("typed_per_filter_config[nowhere].mutations.request_mutations[0].remove"), "{nack}");
}
