//! How well a target is connected, and when no call of it would have to wait.

use std::time::Duration;

use mesh_core::connect::ConnectivityState;
use mesh_core::testing::{ControlPlane, Resources, cluster, endpoints, listener, route, route_config};
use mesh_core::{CallOptions, ErrorKind, Mesh, SecurityFloor};
use mesh_examples::helloworld::HelloRequest;
use tokio::time::Instant;
use tonic::Request;

use crate::support::PATIENCE;
use crate::support::backend::Backend;
use crate::support::client::{Client, assert_says, impatient_mesh, quick, quick_mesh};
use crate::support::dns::{Answer, Dns, HERE, THERE, twins};
use crate::support::timed::timed;

/// A control plane whose one route goes to each of the clusters with its weight.
fn weighted<'a>(clusters: impl IntoIterator<Item = (&'a str, u32, &'a Backend)>) -> ControlPlane {
    let (mut resources, mut weights) = (Resources::new().with(listener("greeter")), Vec::new());
    for (name, weight, backend) in clusters {
        weights.push((name, weight));
        resources = resources.with(cluster(name)).with(endpoints(name).endpoint(backend.address()));
    }
    let control_plane = ControlPlane::new();
    control_plane.set(resources.with(route_config("greeter").routes([route().weighted(weights)])));
    control_plane
}

async fn within_patience<T>(event: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, event).await.expect("it comes")
}

#[tokio::test]
async fn a_target_is_ready_when_each_cluster_is_that_takes_calls() {
    let (alive, mut dead) = (Backend::start("alive").await, Backend::start("dead").await);
    dead.stop().await;
    let unused = Backend::start("unused").await;
    let control_plane = weighted([("alive", 1, &alive), ("dead", 99, &dead), ("unused", 0, &unused)]);
    let mesh = impatient_mesh(&control_plane).await;
    let target = mesh.target("xds:///greeter").unwrap();
    let error = mesh.ready().await.unwrap_err();
    assert_eq!((error.kind(), error.cluster()), (ErrorKind::NoEndpoint, Some("dead")), "{error:?}");
    assert_eq!(*target.connectivity().borrow(), ConnectivityState::Ready, "one of them is, which is enough in gRPC");
    dead.restart().await;
    target.ready().await.unwrap();
    assert_eq!(unused.connections(), 0);
}

#[tokio::test]
async fn up_to_sixteen_clusters_are_connected_before_their_first_call_and_no_more() {
    let names: Vec<String> = (0..17).map(|number| format!("c{number}")).collect();
    for count in [16, 17] {
        let backend = Backend::start("a").await;
        let control_plane = weighted(names[..count].iter().map(|name| (name.as_str(), 1, &backend)));
        let mesh = quick_mesh(&control_plane).await;
        let client = Client::new(&mesh, "xds:///greeter");
        mesh.ready().await.unwrap();
        if count == 16 {
            backend.wait_for_connections(16).await;
            continue;
        }
        let mut connectivity = mesh.target("xds:///greeter").unwrap().connectivity();
        assert_eq!(*connectivity.borrow(), ConnectivityState::Idle);
        client.hello().await.unwrap();
        assert_eq!(backend.connections(), 1);
        let ready = connectivity.wait_for(|state| *state == ConnectivityState::Ready);
        within_patience(ready).await.unwrap();
    }
}

#[tokio::test]
async fn the_connectivity_of_a_name_is_shown_while_dns_is_silent() {
    timed(async || {
        let mut backend = Backend::start("a").await;
        let dns = Dns::start(Answer::Addresses(0, vec![HERE])).await;
        let mesh = quick().build().await.unwrap();
        let target = mesh.target(&dns.target("greeter.test", backend.address().port())).unwrap();
        target.ready().await.unwrap();
        dns.change(Answer::Silence);
        dns.asked_again(1).await;
        backend.stop().await;
        let mut connectivity = target.connectivity();
        let failed = connectivity.wait_for(|state| *state == ConnectivityState::TransientFailure);
        tokio::time::timeout(Duration::from_secs(2), failed).await.expect("before DNS is given up").unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_name_is_not_asked_for_while_its_answer_holds() {
    let backend = Backend::start("a").await;
    let mesh = quick().build().await.unwrap();
    let (long, short) = (Answer::Addresses(3600, vec![HERE]), Answer::Addresses(1, vec![HERE]));
    let (long, short) = (Dns::start(long).await, Dns::start(short).await);
    let ready = async |dns: &Dns| {
        let target = mesh.target(&dns.target("greeter.test", backend.address().port())).unwrap();
        target.ready().await.unwrap();
        target
    };
    let _targets = (ready(&long).await, ready(&short).await);
    let asked = long.asked();
    short.asked_again(1).await;
    assert_eq!(long.asked(), asked);
}

#[tokio::test]
async fn a_name_is_resolved_again_when_none_of_its_addresses_can_be_reached() {
    let (mut here, _there) = twins().await;
    let dns = Dns::start(Answer::Addresses(3600, vec![HERE])).await;
    let mesh = quick().dns_reresolution_interval(Duration::from_millis(20)).build().await.unwrap();
    let client = Client::new(&mesh, &dns.target("greeter.test", here.address().port()));
    assert_eq!(client.hello().await.unwrap(), "here");
    dns.change(Answer::Addresses(3600, vec![THERE]));
    here.stop().await;
    assert_eq!(client.recovers().await, "there");
}

#[tokio::test]
async fn a_call_that_waits_for_ready_waits_for_a_target_that_has_no_routes_yet() {
    let backend = Backend::start("late").await;
    let control_plane = ControlPlane::new();
    let mesh = impatient_mesh(&control_plane).await;
    let client = Client::new(&mesh, "xds:///greeter");
    let status = client.hello().await.unwrap_err();
    assert!(status.message().contains("Listener `greeter` does not exist"), "{status}");
    let mut greeter = client.greeter();
    let mut request = Request::new(HelloRequest::default());
    request.extensions_mut().insert(CallOptions::new().wait_for_ready(true));
    let mut waiting = std::pin::pin!(greeter.say_hello(request));
    // It is called now, not only when the routes are there.
    assert!(futures_util::poll!(&mut waiting).is_pending());
    control_plane.set(Resources::service("greeter", [backend.address()]));
    assert_eq!(within_patience(waiting).await.unwrap().into_inner().message, "late");
}

/// Routes that go to a good cluster and to one of which it is known that it cannot be used.
#[tokio::test(start_paused = true)]
async fn who_waits_for_what_cannot_get_ready_hears_at_once_why_as_its_calls_do() {
    let alive = Backend::start("alive").await;
    let secured = || Mesh::builder().security_floor(SecurityFloor::new().require_mtls());
    let invalid = cluster("other").modify(|cluster| cluster.lb_policy = 99);
    for (builder, other, why) in [
        (Mesh::builder(), None, "Cluster `other` does not exist"),
        (Mesh::builder(), Some(invalid), "lb_policy"),
        (Mesh::builder(), Some(cluster("other")), "ClusterLoadAssignment `other` does not exist"),
        (secured(), Some(cluster("other").eds_service_name("alive")), "require_mtls"),
    ] {
        let control_plane = weighted([("alive", 1, &alive)]);
        control_plane.put(route_config("greeter").routes([route().weighted([("alive", 0), ("other", 1)])]));
        if let Some(other) = other {
            control_plane.put(other);
        }
        let mesh = builder.control_plane(&control_plane).build().await.unwrap();
        let client = Client::new(&mesh, "xds:///greeter");
        let before = Instant::now();
        let error = mesh.ready().await.unwrap_err();
        // The control plane may take 15 s to say that there is no such resource.
        assert!(before.elapsed() < Duration::from_secs(16), "{why}: after {:?}", before.elapsed());
        assert!(error.report().contains(why) && error.cluster() == Some("other"), "{why}: {error:?}");
        let before = Instant::now();
        let target = mesh.target("xds:///greeter").unwrap();
        assert_eq!(target.ready().await.unwrap_err().report(), error.report());
        assert_says(&client.hello().await.unwrap_err(), &[why]);
        assert_eq!(before.elapsed(), Duration::ZERO, "{why}: there was nothing left to wait for");
        // It is no more than the verdict of the moment.
        control_plane.put(route_config("greeter").routes([route().cluster("alive")]));
        if why != "require_mtls" {
            tokio::time::resume();
            client.recovers().await;
            target.ready().await.unwrap();
            tokio::time::pause();
        }
    }
}
