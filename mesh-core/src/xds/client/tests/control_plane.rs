//! The client, its transport and the resources against the embedded control plane, whatever goes wrong there.

use super::*;
use crate::resource::cluster::Cluster;
use crate::resource::endpoints::Endpoints;
use crate::resource::{CLUSTER, ENDPOINTS};
use crate::testing::{ControlPlane, Fault, Resources, cluster, endpoints, type_url};
use crate::xds::transport::connector::InProcess;
use crate::xds::transport::grpc::{GrpcOptions, GrpcTransport};

fn bootstrap() -> Bootstrap {
    Bootstrap::builder("inprocess:test").insecure().node_id("test").build().unwrap()
}

fn connect(control_plane: &ControlPlane) -> XdsClient {
    let connector = control_plane.connector();
    let connect: InProcess = Arc::new(move || Ok(Box::new(connector.connect()?)));
    let runtime = Handle::current();
    let transport = GrpcTransport::in_process(connect, &bootstrap(), GrpcOptions::default(), &runtime).unwrap();
    let (transport, tasks, cancel) = (Arc::new(transport), TaskTracker::new(), CancellationToken::new());
    XdsClient::start(&bootstrap(), XdsOptions::default(), transport, &runtime, &tasks, &cancel)
}

/// How many endpoints an assignment has.
fn size(subscriber: &Subscriber, name: &str) -> Option<usize> {
    let endpoints = subscriber.get(&ENDPOINTS, name).value::<Endpoints>()?;
    let localities = endpoints.priorities.iter().flat_map(|priority| &priority.localities);
    Some(localities.map(|locality| locality.endpoints.len()).sum())
}

async fn wait_for_size(subscriber: &mut Subscriber, name: &str, wanted: usize) {
    let waiting = async {
        while size(subscriber, name) != Some(wanted) {
            subscriber.changed().await;
        }
    };
    timeout(Duration::from_secs(600), waiting).await.expect("the new assignment");
}

fn assignment(count: u16) -> crate::testing::EndpointsBuilder {
    endpoints("greeter").all((1..=count).map(|port| format!("127.0.0.1:{port}")))
}

#[tokio::test(start_paused = true)]
async fn resources_arrive_and_are_acknowledged() {
    let control_plane = ControlPlane::new();
    control_plane.set(Resources::service("greeter", ["127.0.0.1:1"]));
    let client = connect(&control_plane);
    let mut subscriber = client.subscriber();
    subscriber.watch(&[(&CLUSTER, &names(&["greeter"])), (&ENDPOINTS, &names(&["greeter"]))]);
    wait_for_size(&mut subscriber, "greeter", 1).await;
    control_plane.acked(type_url::ENDPOINTS).await;
    control_plane.acked(type_url::CLUSTER).await;
    assert!(subscriber.get(&CLUSTER, "greeter").value::<Cluster>().is_some());
    control_plane.put(assignment(2));
    wait_for_size(&mut subscriber, "greeter", 2).await;
    drop((client, subscriber));
    control_plane.wait_for_streams(0).await;
    control_plane.wait_for_connections(0).await;
}

#[tokio::test(start_paused = true)]
async fn no_fault_of_the_control_plane_takes_a_good_value_away_or_keeps_the_next() {
    let faults: [(&str, Fault); 18] = [
        ("silence", Fault::silence()),
        ("lose", Fault::lose().times(1)),
        ("delay", Fault::delay(Duration::from_secs(20))),
        ("half open", Fault::half_open()),
        ("cut at once", Fault::cut_connections_after(0)),
        ("cut later", Fault::cut_connections_after(100)),
        ("refuse connections", Fault::refuse_connections()),
        ("refuse streams", Fault::refuse_streams(14, "overloaded")),
        ("reset streams", Fault::reset_streams()),
        ("withhold headers", Fault::withhold_headers()),
        ("close stream", Fault::close_stream(0, "")),
        ("reset stream", Fault::reset_stream()),
        ("duplicate", Fault::duplicate()),
        ("repeat", Fault::repeat_resources()),
        ("wrong type URL", Fault::wrong_type_url("type.googleapis.com/envoy.config.route.v3.RouteConfiguration")),
        ("garbage resources", Fault::garbage_resources(7)),
        ("garbage message", Fault::garbage_message(7)),
        ("huge message", Fault::huge_message()),
    ];
    for (name, fault) in faults {
        let control_plane = ControlPlane::new();
        control_plane.set(Resources::service("greeter", ["127.0.0.1:1"]));
        let client = connect(&control_plane);
        let mut subscriber = client.subscriber();
        subscriber.watch(&[(&CLUSTER, &names(&["greeter"])), (&ENDPOINTS, &names(&["greeter"]))]);
        wait_for_size(&mut subscriber, "greeter", 1).await;
        control_plane.acked(type_url::ENDPOINTS).await;
        control_plane.inject(fault);
        control_plane.put(assignment(2));
        if matches!(name, "refuse connections" | "refuse streams" | "reset streams" | "withhold headers") {
            control_plane.kill_connections();
        }
        let _ = timeout(Duration::from_secs(30), async {
            while size(&subscriber, "greeter") != Some(2) {
                subscriber.changed().await;
                assert!(size(&subscriber, "greeter").is_some(), "{name}: the good value is gone");
            }
        })
        .await;
        assert!(size(&subscriber, "greeter").is_some(), "{name}: the good value is gone");
        control_plane.heal();
        if matches!(name, "lose" | "wrong type URL") {
            // It waits for an ACK that cannot be (a reply to a type that was not asked for would subscribe to all of
            // it); only a new stream helps.
            control_plane.kill_connections();
        }
        control_plane.put(assignment(3));
        wait_for_size(&mut subscriber, "greeter", 3).await;
        let known = subscriber.get(&CLUSTER, "greeter").value::<Cluster>();
        assert!(known.is_some(), "{name}: the cluster is gone");
    }
}

#[tokio::test(start_paused = true)]
async fn a_control_plane_that_comes_late_is_enough() {
    let control_plane = ControlPlane::new();
    control_plane.stop().await;
    let client = connect(&control_plane);
    let mut subscriber = client.subscriber();
    subscriber.watch(&[(&ENDPOINTS, &names(&["greeter"]))]);
    failed(&client, 5).await;
    assert!(client.status().to_string().starts_with("control plane inprocess:test failed 5 times in "));
    control_plane.set(Resources::service("greeter", ["127.0.0.1:1"]));
    control_plane.restart().await.unwrap();
    wait_for_size(&mut subscriber, "greeter", 1).await;
}

#[tokio::test(start_paused = true)]
async fn a_rejected_resource_is_refused_by_name_and_field() {
    let control_plane = ControlPlane::new();
    let client = connect(&control_plane);
    let mut subscriber = client.subscriber();
    control_plane.put(cluster("good"));
    control_plane.put(cluster("bad").modify(|cluster| cluster.lb_policy = 77));
    subscriber.watch(&[(&CLUSTER, &names(&["good", "bad"]))]);
    let nack = control_plane.next_nack().await;
    let (code, text) = nack.error.unwrap();
    assert_eq!(code, 3);
    assert!(text.starts_with("Cluster `bad`: lb_policy: "), "{text}");
    assert!(subscriber.get(&CLUSTER, "good").value::<Cluster>().is_some());
    assert!(matches!(subscriber.get(&CLUSTER, "bad").verdict, Verdict::Invalid(_)));
    control_plane.put(cluster("bad"));
    while subscriber.get(&CLUSTER, "bad").verdict != Verdict::Present {
        subscriber.changed().await;
    }
}
