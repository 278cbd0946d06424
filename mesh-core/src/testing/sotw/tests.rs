use mesh_xds_proto::google::rpc::Status;

use super::*;
use crate::testing::type_url::{CLUSTER, ENDPOINTS, LISTENER, ROUTE_CONFIGURATION};
use crate::testing::{Resource, Resources, cluster, endpoints};

/// A stream and the store behind it; `[names]` of a response stand for the response.
struct Case {
    store: Store,
    stream: Sotw,
}

impl Case {
    fn with(resources: Resources) -> Self {
        let mut store = Store::default();
        store.set(resources);
        Self { store, stream: Sotw::default() }
    }

    fn request(&mut self, type_url: &str, names: &[&str], nonce: &str, error: bool) -> RequestKind {
        let request = DiscoveryRequest {
            type_url: type_url.to_owned(),
            resource_names: names.iter().map(ToString::to_string).collect(),
            response_nonce: nonce.to_owned(),
            error_detail: error.then(Status::default),
            ..Default::default()
        };
        self.stream.handle_request(&request).0
    }

    fn response(&mut self, type_url: &str) -> Option<Response> {
        self.stream.poll_response(type_url, &self.store)
    }

    /// How many resources the due response has, and its nonce.
    fn due(&mut self, type_url: &str) -> Option<(usize, String)> {
        self.response(type_url).map(|response| (response.resources.len(), response.nonce))
    }
}

fn sent(resources: usize, nonce: u32) -> Option<(usize, String)> {
    Some((resources, nonce.to_string()))
}

fn two() -> Resources {
    Resources::service("a", ["127.0.0.1:1"]).and(Resources::service("b", ["127.0.0.1:2"]))
}

#[test]
fn a_type_waits_for_its_acknowledgement() {
    let mut case = Case::with(two());
    case.request(ENDPOINTS, &["a"], "", false);
    assert_eq!(case.due(ENDPOINTS), sent(1, 1));
    case.store.put([endpoints("a").endpoint("127.0.0.1:9").into()]);
    assert_eq!(case.due(ENDPOINTS), None);
    assert_eq!(case.request(ENDPOINTS, &["a"], "1", false), RequestKind::Ack);
    assert!(!case.stream.is_settled(ENDPOINTS, &case.store));
    assert_eq!(case.due(ENDPOINTS), sent(1, 2));
    assert_eq!(case.request(ENDPOINTS, &["a"], "2", false), RequestKind::Ack);
    assert_eq!(case.due(ENDPOINTS), None);
    assert!(case.stream.is_settled(ENDPOINTS, &case.store));
}

#[test]
fn other_types_do_not_wait_for_it() {
    let mut case = Case::with(two());
    case.request(ENDPOINTS, &["a"], "", false);
    assert_eq!(case.due(ENDPOINTS), sent(1, 1));
    case.request(CLUSTER, &["a"], "", false);
    assert_eq!(case.due(CLUSTER), sent(1, 2));
}

#[test]
fn listeners_and_clusters_come_complete_and_others_by_their_change() {
    let mut case = Case::with(two());
    for type_url in [CLUSTER, ENDPOINTS] {
        case.request(type_url, &["a", "b"], "", false);
    }
    assert_eq!(case.due(CLUSTER), sent(2, 1));
    assert_eq!(case.due(ENDPOINTS), sent(2, 2));
    case.request(CLUSTER, &["a", "b"], "1", false);
    case.request(ENDPOINTS, &["a", "b"], "2", false);
    case.store.put([cluster("a").max_requests(1).into(), endpoints("a").into()]);
    assert_eq!(case.due(CLUSTER), sent(2, 3));
    assert_eq!(case.due(ENDPOINTS), sent(1, 4));
}

#[test]
fn a_missing_listener_is_reported_at_once_and_missing_routes_never() {
    let mut case = Case::with(Resources::new());
    case.request(LISTENER, &["a"], "", false);
    assert_eq!(case.due(LISTENER), sent(0, 1));
    case.request(ROUTE_CONFIGURATION, &["a"], "", false);
    assert_eq!(case.due(ROUTE_CONFIGURATION), None);
    assert!(!case.stream.is_settled(ROUTE_CONFIGURATION, &case.store));
    case.store.put(two().into_resources());
    assert_eq!(case.due(ROUTE_CONFIGURATION), sent(1, 2));
}

#[test]
fn a_removed_cluster_makes_a_response_and_removed_endpoints_make_none() {
    let mut case = Case::with(two());
    for (type_url, nonce) in [(CLUSTER, "1"), (ENDPOINTS, "2")] {
        case.request(type_url, &["a", "b"], "", false);
        assert!(case.due(type_url).is_some());
        case.request(type_url, &["a", "b"], nonce, false);
        assert!(case.store.remove(type_url, "a"));
    }
    assert_eq!(case.due(CLUSTER), sent(1, 3));
    assert_eq!(case.due(ENDPOINTS), None);
    assert!(case.stream.is_settled(ENDPOINTS, &case.store));
    case.store.put([endpoints("a").endpoint("127.0.0.1:1").into()]);
    assert_eq!(case.due(ENDPOINTS), sent(1, 4));
}

#[test]
fn what_nobody_asked_for_is_not_sent() {
    let mut case = Case::with(two());
    case.request(CLUSTER, &["a"], "", false);
    assert_eq!(case.due(CLUSTER), sent(1, 1));
    case.request(CLUSTER, &["a"], "1", false);
    case.store.put([cluster("b").max_requests(1).into()]);
    assert_eq!(case.due(CLUSTER), None);
    assert!(case.stream.is_settled(CLUSTER, &case.store));
}

#[test]
fn an_empty_first_request_means_everything_of_listeners_and_clusters() {
    let mut case = Case::with(two());
    case.request(CLUSTER, &[], "", false);
    assert_eq!(case.due(CLUSTER), sent(2, 1));
    case.request(CLUSTER, &[], "1", false);
    case.store.put([cluster("c").into()]);
    assert_eq!(case.due(CLUSTER), sent(3, 2));
    case.request(ENDPOINTS, &[], "", false);
    assert_eq!(case.due(ENDPOINTS), None);
}

#[test]
fn an_empty_list_after_names_means_nothing() {
    let mut case = Case::with(two());
    case.request(CLUSTER, &["a"], "", false);
    assert_eq!(case.due(CLUSTER), sent(1, 1));
    case.request(CLUSTER, &[], "1", false);
    case.store.put([cluster("a").max_requests(1).into()]);
    assert_eq!(case.due(CLUSTER), None);
    case.request(CLUSTER, &["*"], "1", false);
    assert_eq!(case.due(CLUSTER), sent(2, 2));
}

#[test]
fn a_name_that_is_added_is_sent_and_one_that_is_dropped_and_added_again_too() {
    let mut case = Case::with(two());
    case.request(ENDPOINTS, &["a"], "", false);
    assert_eq!(case.due(ENDPOINTS), sent(1, 1));
    case.request(ENDPOINTS, &["a"], "1", false);
    case.request(ENDPOINTS, &["a", "b"], "1", false);
    assert_eq!(case.due(ENDPOINTS), sent(1, 2));
    case.request(ENDPOINTS, &["b"], "2", false);
    assert_eq!(case.due(ENDPOINTS), None);
    assert_eq!(case.request(ENDPOINTS, &["a", "b"], "2", false), RequestKind::Subscribe);
    assert_eq!(case.due(ENDPOINTS), sent(1, 3));
}

#[test]
fn who_asks_for_the_same_again_gets_it_again() {
    let mut case = Case::with(two());
    for (type_url, nonces) in [(ENDPOINTS, ["1", "2"]), (CLUSTER, ["3", "4"])] {
        case.request(type_url, &["a"], "", false);
        assert!(case.due(type_url).is_some());
        assert_eq!(case.request(type_url, &["a"], nonces[0], false), RequestKind::Ack);
        assert_eq!(case.due(type_url), None);
        assert_eq!(case.request(type_url, &["a"], nonces[0], false), RequestKind::Subscribe);
        assert!(case.due(type_url).is_some());
        assert_eq!(case.request(type_url, &["a"], nonces[1], false), RequestKind::Ack);
        assert_eq!(case.due(type_url), None);
    }
}

#[test]
fn a_stale_request_has_no_effect() {
    let mut case = Case::with(two());
    case.request(ENDPOINTS, &["a"], "", false);
    assert_eq!(case.due(ENDPOINTS), sent(1, 1));
    case.request(ENDPOINTS, &["a"], "1", false);
    case.store.put([endpoints("a").into()]);
    assert_eq!(case.due(ENDPOINTS), sent(1, 2));
    assert_eq!(case.request(ENDPOINTS, &["a", "b"], "1", false), RequestKind::Stale);
    assert_eq!(case.due(ENDPOINTS), None);
    assert_eq!(case.request(ENDPOINTS, &["a", "b"], "2", false), RequestKind::Ack);
    assert_eq!(case.due(ENDPOINTS), sent(1, 3));
}

#[test]
fn what_was_rejected_is_not_sent_again_until_it_changes() {
    let mut case = Case::with(two());
    case.request(CLUSTER, &["a"], "", false);
    assert_eq!(case.due(CLUSTER), sent(1, 1));
    assert_eq!(case.request(CLUSTER, &["a"], "1", true), RequestKind::Nack);
    assert_eq!(case.due(CLUSTER), None);
    assert!(!case.stream.is_settled(CLUSTER, &case.store));
    case.store.put([cluster("a").max_requests(1).into()]);
    assert_eq!(case.due(CLUSTER), sent(1, 2));
    case.request(CLUSTER, &["a"], "2", false);
    assert!(case.stream.is_settled(CLUSTER, &case.store));
}

#[test]
fn a_resend_has_the_same_version_and_another_nonce() {
    let mut case = Case::with(two());
    case.request(ENDPOINTS, &["a"], "", false);
    let first = case.response(ENDPOINTS).unwrap();
    case.request(ENDPOINTS, &["a"], "1", false);
    case.store.resend(ENDPOINTS);
    let again = case.response(ENDPOINTS).unwrap();
    assert_eq!((again.version_info, again.resources), (first.version_info, first.resources));
    assert_ne!(again.nonce, first.nonce);
}

#[test]
fn an_error_stands_in_the_place_of_a_resource() {
    let mut case = Case::with(two().with(Resource::error(CLUSTER, "c", 7, "denied")));
    case.request(CLUSTER, &["a", "c"], "", false);
    let response = case.response(CLUSTER).unwrap();
    assert_eq!((response.resources.len(), response.resource_errors.len()), (1, 1));
}

#[test]
fn clusters_go_before_endpoints_and_listeners_before_routes() {
    let mut case = Case::with(two());
    for type_url in [ROUTE_CONFIGURATION, "other", LISTENER, ENDPOINTS, CLUSTER] {
        case.request(type_url, &["a"], "", false);
    }
    assert_eq!(case.stream.types(), [CLUSTER, ENDPOINTS, LISTENER, ROUTE_CONFIGURATION, "other"]);
}
