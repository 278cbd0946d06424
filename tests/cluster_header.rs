//! Clusters that a header of the call names (`cluster_header`): also those that no route does.

use mesh_core::testing::{
    ControlPlane, RequestKind, Resources, RouteBuilder, SeenRequest, cluster, endpoint, endpoints, listener, route,
    route_config, type_url,
};
use mesh_core::{CallInfo, Mesh};
use mesh_examples::helloworld::HelloRequest;
use mesh_xds_proto::envoy::config::route::v3::WeightedCluster;
use mesh_xds_proto::envoy::config::route::v3::route::Action;
use mesh_xds_proto::envoy::config::route::v3::route_action::ClusterSpecifier;
use mesh_xds_proto::envoy::config::route::v3::weighted_cluster::ClusterWeight;
use tonic::{Code, Request, Status};

use crate::support::backend::Backend;
use crate::support::client::{Client, assert_says, impatient_mesh, quick_mesh};
use crate::support::{PATIENCE, in_time, until};

/// Calls go to the cluster that their header `x-cluster` names.
fn by_header() -> RouteBuilder {
    route().cluster("any").modify(|route| {
        let Some(Action::Route(action)) = &mut route.action else { panic!("it forwards calls") };
        action.cluster_specifier = Some(ClusterSpecifier::ClusterHeader("x-cluster".to_owned()));
    })
}

/// A greeter whose only route goes by a header, and each backend in a cluster of its name.
fn control_plane(backends: &[&Backend]) -> ControlPlane {
    let control_plane = ControlPlane::new();
    let resources =
        Resources::new().with(listener("greeter").rds("greeter")).with(route_config("greeter").routes([by_header()]));
    control_plane.set(backends.iter().fold(resources, |resources, backend| {
        resources.with(cluster(backend.name())).with(endpoints(backend.name()).endpoint(backend.address()))
    }));
    control_plane
}

/// Who answered a call that names a cluster, and which cluster that was.
async fn call(client: &Client, cluster: &str) -> Result<(String, String), Status> {
    let mut request = Request::new(HelloRequest::default());
    request.metadata_mut().insert("x-cluster", cluster.parse().expect("a header's value"));
    let response = client.greeter().say_hello(request).await?;
    let cluster = response.extensions().get::<CallInfo>().expect("every response has it").cluster().to_owned();
    Ok((response.into_inner().message, cluster))
}

fn clusters_of(mesh: &Mesh) -> Vec<String> {
    let target = mesh.status().targets.into_iter().next().expect("a target in use");
    let mut names: Vec<_> = target.clusters.iter().map(|cluster| cluster.name.to_string()).collect();
    names.sort();
    names
}

#[tokio::test]
async fn a_cluster_that_no_route_names_is_asked_for_when_a_call_names_it() {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let control_plane = control_plane(&[&a, &b]);
    let mesh = quick_mesh(&control_plane).await;
    let client = Client::new(&mesh, "xds:///greeter");
    assert_eq!(call(&client, "a").await.unwrap(), ("a".to_owned(), "a".to_owned()));
    assert_eq!((clusters_of(&mesh), b.connections()), (vec!["a".to_owned()], 0));
    assert_eq!(call(&client, "b").await.unwrap(), ("b".to_owned(), "b".to_owned()));
    for name in ["a", "b", "a"] {
        assert_eq!(call(&client, name).await.unwrap().0, name);
    }
    assert_eq!(clusters_of(&mesh), ["a", "b"]);
    let settings = mesh.in_force(&mesh.target("xds:///greeter").unwrap());
    assert!(settings.iter().any(|setting| setting.to_string() == "route `any path` cluster_header: x-cluster (xds)"));
    assert!(settings.iter().any(|setting| setting.scope.to_string() == "cluster `b`"));
}

#[tokio::test]
async fn a_share_of_the_calls_goes_where_their_header_says() {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let control_plane = control_plane(&[&a, &b]);
    let shared = |weights: [(&str, &str, u32); 2]| {
        let weighted = weights.map(|(name, header, weight)| ClusterWeight {
            name: name.to_owned(),
            cluster_header: header.to_owned(),
            weight: Some(weight),
            ..Default::default()
        });
        let by_weight = WeightedCluster { clusters: weighted.into(), ..Default::default() };
        route().cluster("any").modify(|route| {
            let Some(Action::Route(action)) = &mut route.action else { panic!("it forwards calls") };
            action.cluster_specifier = Some(ClusterSpecifier::WeightedClusters(by_weight));
        })
    };
    control_plane.put(route_config("greeter").routes([shared([("a", "", 80), ("", "x-cluster", 20)])]));
    let mesh = quick_mesh(&control_plane).await;
    let client = Client::new(&mesh, "xds:///greeter");
    let mut by_header = 0;
    for _ in 0..1_000 {
        by_header += i32::from(call(&client, "b").await.unwrap().1 == "b");
    }
    // 200 expected; six standard deviations are 76.
    assert!((124..=276).contains(&by_header), "{by_header} of 1000");
    let settings = mesh.in_force(&mesh.target("xds:///greeter").unwrap());
    let weights = "route `any path` weighted_clusters: a 80, header x-cluster 20 (xds)";
    assert!(settings.iter().any(|setting| setting.to_string() == weights), "{settings:#?}");

    control_plane.put(route_config("greeter").routes([shared([("a", "", 80), ("", "no header", 20)])]));
    let nack = control_plane.next_nack().await.error.expect("a NACK says why").1;
    assert!(nack.contains("clusters[1].cluster_header: \"no header\" is not the name of a header"), "{nack}");
    call(&client, "b").await.expect("the last good one serves");
    control_plane.put(route_config("greeter").routes([shared([("", "", 80), ("b", "ignored", 0)])]));
    let nack = control_plane.next_nack().await.error.expect("a NACK says why").1;
    assert!(nack.contains("clusters[0].name: must be set"), "{nack}");
}

#[tokio::test]
async fn calls_that_name_a_cluster_at_the_same_time_wait_for_it_together() {
    let a = Backend::start("a").await;
    let control_plane = control_plane(&[&a]);
    let mesh = quick_mesh(&control_plane).await;
    let client = Client::new(&mesh, "xds:///greeter");
    let calls = (0..50).map(|_| call(&client, "a"));
    let answers = futures_util::future::join_all(calls).await;
    assert!(answers.iter().all(|answer| answer.as_ref().is_ok_and(|(name, _)| name == "a")), "{answers:?}");
    let requests = control_plane.requests();
    let asks = |request: &&SeenRequest| request.type_url == type_url::CLUSTER && request.kind == RequestKind::Subscribe;
    assert_eq!(requests.iter().filter(asks).filter(|request| request.names.contains("a")).count(), 1);
}

#[tokio::test]
async fn a_call_that_waits_for_its_cluster_ends_with_the_mesh_and_says_so() {
    let a = Backend::start("a").await;
    let control_plane = control_plane(&[&a]);
    let mesh = quick_mesh(&control_plane).await;
    let client = Client::new(&mesh, "xds:///greeter");
    assert_eq!(call(&client, "a").await.unwrap().0, "a");
    let waiting = tokio::spawn(async move { call(&client, "late").await });
    let is_asked_for = |request: &SeenRequest| request.names.contains("late");
    until("a request for the cluster", || control_plane.requests().iter().any(is_asked_for)).await;
    mesh.shutdown().await;
    let ended = tokio::time::timeout(PATIENCE / 2, waiting).await.expect("it ends with the mesh");
    assert_says(&ended.unwrap().unwrap_err(), &["shut down"]);
}

#[tokio::test]
async fn a_cluster_that_does_not_exist_fails_calls_by_its_name_and_no_others() {
    let a = Backend::start("a").await;
    let control_plane = control_plane(&[&a]);
    let mesh = impatient_mesh(&control_plane).await;
    let client = Client::new(&mesh, "xds:///greeter");
    let status = call(&client, "nowhere").await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert_says(&status, &["Cluster `nowhere` does not exist", "xds:///greeter"]);
    assert_eq!(call(&client, "a").await.unwrap().0, "a");
    // It comes after all.
    control_plane.put_all(Resources::new().with(cluster("nowhere")).with(endpoints("nowhere").endpoint(a.address())));
    let served = async {
        while call(&client, "nowhere").await.is_err() {
            // A call that fails at once leaves no time for what would make the next one succeed.
            tokio::task::yield_now().await;
        }
    };
    in_time("the cluster that came after all", served).await;
    let status = client.hello().await.unwrap_err();
    assert_says(&status, &["takes the cluster from the header `x-cluster`, which the call does not have"]);
}

#[tokio::test]
async fn what_calls_name_is_followed_as_what_routes_name() {
    let (a, b, leaf) = (Backend::start("a").await, Backend::start("b").await, Backend::start("leaf").await);
    let control_plane = control_plane(&[&a, &leaf]);
    control_plane.put(cluster("all").aggregate(["leaf"]));
    let mesh = quick_mesh(&control_plane).await;
    let client = Client::new(&mesh, "xds:///greeter");
    assert_eq!(call(&client, "a").await.unwrap().0, "a");
    assert_eq!(call(&client, "all").await.unwrap().0, "leaf");
    control_plane.put(endpoints("a").all([endpoint(b.address())]));
    in_time("the endpoints change", async { while call(&client, "a").await.unwrap().0 != "b" {} }).await;
    // Other routes name some of them; no call fails meanwhile.
    control_plane.put(route_config("greeter").routes([by_header(), route().cluster("a")]));
    for _ in 0..20 {
        assert_eq!(call(&client, "a").await.unwrap().0, "b");
        assert_eq!(call(&client, "all").await.unwrap().0, "leaf");
    }
}
