//! Calls that are sent to another cluster too (`request_mirror_policies`): what the mirror sees, and that nothing that
//! befalls it is felt by the calls.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use http::request::Parts;
use mesh_core::mirror::MirrorCounts;
use mesh_core::testing::{Resource, Resources, RouteBuilder, cluster, endpoints, route, route_config, virtual_host};
use mesh_core::{Address, ClusterBuilder, Mesh, MeshBuilder, RouteBuilder as OwnRoute, Snapshot};
use mesh_examples::helloworld::HelloRequest;
use mesh_xds_proto::envoy::config::common::mutation_rules::v3::{HeaderMutation, header_mutation::Action};
use mesh_xds_proto::envoy::config::core::v3::{HeaderValue, HeaderValueOption, RuntimeFractionalPercent};
use mesh_xds_proto::envoy::config::route::v3::route as action;
use mesh_xds_proto::envoy::config::route::v3::route_action::RequestMirrorPolicy;
use mesh_xds_proto::envoy::r#type::v3::FractionalPercent;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::support::PATIENCE;
use crate::support::backend::Backend;
use crate::support::client::{Client, metadata, quick};
use crate::support::greeter::Greeter;
use crate::support::network::{BlackHole, ClosedPort};
use crate::support::timed::timed;
use crate::support::witness::witness;

/// Copies go to this cluster.
fn to(cluster: &str) -> RequestMirrorPolicy {
    RequestMirrorPolicy { cluster: cluster.to_owned(), ..Default::default() }
}

/// A route to the greeter with these mirrors.
fn mirrored(policies: impl IntoIterator<Item = RequestMirrorPolicy>) -> RouteBuilder {
    with_mirrors(route().cluster("greeter"), policies)
}

fn with_mirrors(route: RouteBuilder, policies: impl IntoIterator<Item = RequestMirrorPolicy>) -> RouteBuilder {
    route.modify(|route| match &mut route.action {
        Some(action::Action::Route(action)) => action.request_mirror_policies = policies.into_iter().collect(),
        _ => panic!("it forwards"),
    })
}

/// A greeter whose calls go to a mirror too.
async fn start(mirror: SocketAddr, route: RouteBuilder) -> Greeter {
    start_with(mirror, route, quick()).await
}

async fn start_with(mirror: SocketAddr, route: RouteBuilder, mesh: MeshBuilder) -> Greeter {
    let mirror = [Resource::from(cluster("mirror")), endpoints("mirror").endpoint(mirror).into()];
    with_resources(mirror, route, mesh).await
}

async fn with_resources(mirror: impl IntoIterator<Item = Resource>, route: RouteBuilder, mesh: MeshBuilder) -> Greeter {
    let routes = route_config("greeter").routes([route]);
    Greeter::start_with(mesh, |plain| mirror.into_iter().fold(plain.with(routes), Resources::with)).await
}

fn counts(greeter: &Greeter) -> MirrorCounts {
    greeter.mesh.status().mirroring
}

/// Makes so many calls, none of which may fail.
async fn call(greeter: &Greeter, times: u32) {
    for _ in 0..times {
        assert_eq!(greeter.client.hello().await.expect("no mirror fails a call"), "a");
    }
}

/// Calls until a copy is seen: a mirror that could not be reached is left alone for a moment.
async fn calls_until_copied(greeter: &Greeter, mirror: &Backend) {
    let copied = async {
        while mirror.calls() == 0 {
            call(greeter, 1).await;
        }
    };
    tokio::time::timeout(PATIENCE, copied).await.expect("a copy comes");
}

/// Waits until nothing of a copy is left.
async fn wait_for_no_copies(greeter: &Greeter) -> MirrorCounts {
    let gone = async {
        while counts(greeter).in_flight > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.expect("copies end");
    counts(greeter)
}

fn hello(name: String) -> HelloRequest {
    HelloRequest { name }
}

async fn next(heads: &mut mpsc::UnboundedReceiver<Parts>) -> Parts {
    let head = tokio::time::timeout(PATIENCE, heads.recv()).await;
    head.expect("a copy comes").expect("the witness lives")
}

#[tokio::test]
async fn each_call_goes_to_the_mirror_too_with_a_shadow_at_its_host() {
    let (mirror, mut heads) = witness().await;
    let greeter = start(mirror, mirrored([to("mirror")])).await;
    for id in ["1", "2"] {
        greeter.client.hello_with(metadata(&[("x-id", id)])).await.expect("what the mirror resets is not the call");
        let head = next(&mut heads).await;
        assert_eq!(head.uri, "http://greeter-shadow/helloworld.Greeter/SayHello");
        assert_eq!(
            (&head.headers["x-id"], &head.headers["content-type"]),
            (&id.parse().unwrap(), &"application/grpc".parse().unwrap())
        );
    }
    assert_eq!(wait_for_no_copies(&greeter).await.sent, 2);
}

#[tokio::test]
async fn a_mirrored_stream_is_whole_and_its_answers_are_nobodys() {
    let mirror = Backend::start("mirror").await;
    let greeter = start(mirror.address(), mirrored([to("mirror")])).await;
    let hellos = stream::iter((0..1_000).map(|number| hello(number.to_string())));
    let reply = greeter.client.greeter().collect_hellos(hellos).await.expect("it is answered").into_inner();
    assert_eq!((reply.message.as_str(), greeter.backend.messages()), ("a", 1_000));
    let counts = wait_for_no_copies(&greeter).await;
    assert_eq!(mirror.messages(), 1_000, "{counts:?}");
    let replies = greeter.client.greeter().say_hello_stream(hello("20".to_owned())).await.expect("a stream");
    let replies: Vec<_> = replies.into_inner().map(|reply| reply.expect("a reply").message).collect().await;
    assert_eq!(replies, vec!["a"; 20]);
    mirror.wait_for_calls(2).await;
    assert_eq!((counts.cut, wait_for_no_copies(&greeter).await.held), (0, 0));
}

#[tokio::test]
async fn a_mirror_that_is_dead_or_fails_changes_no_call() {
    let (closed, hole) = (ClosedPort::new(), BlackHole::new());
    let failing = Backend::start("mirror").await;
    failing.fail(Status::internal("always"));
    for mirror in [closed.address(), hole.address(), failing.address()] {
        let greeter = start(mirror, mirrored([to("mirror")])).await;
        call(&greeter, 20).await;
        let MirrorCounts { sent, skipped, .. } = counts(&greeter);
        assert_eq!((greeter.backend.calls(), sent + skipped), (20, 20));
    }
    failing.wait_for_calls(20).await;
}

#[tokio::test]
async fn a_mirror_that_cannot_be_reached_is_tried_now_and_then_and_used_when_it_returns() {
    let mut mirror = Backend::start("mirror").await;
    mirror.stop().await;
    let greeter = start(mirror.address(), mirrored([to("mirror")])).await;
    let left_alone = async {
        while counts(&greeter).skipped < 20 {
            call(&greeter, 1).await;
        }
    };
    tokio::time::timeout(PATIENCE, left_alone).await.expect("most calls have no copy");
    mirror.restart().await;
    calls_until_copied(&greeter, &mirror).await;
}

#[tokio::test]
async fn a_mirror_that_never_answers_takes_no_more_than_its_bound_and_no_shutdown_waits_for_it() {
    let mirror = Backend::start("mirror").await;
    mirror.hold();
    let greeter = start_with(
        mirror.address(),
        mirrored([to("mirror")]),
        quick().mirror_max_in_flight(4).mirror_buffer_size(1_000, 10_000),
    )
    .await;
    call(&greeter, 10).await;
    mirror.wait_for_in_flight(4).await;
    let MirrorCounts { sent, skipped, cut, in_flight, held, .. } = counts(&greeter);
    assert_eq!((sent, skipped, cut, in_flight), (4, 6, 0, 4));
    assert!(held <= 1_000, "no more than four small messages: {held}");
    let start = Instant::now();
    greeter.mesh.shutdown().await;
    assert!(start.elapsed() < PATIENCE, "a copy held the shutdown up: {:?}", start.elapsed());
    mirror.wait_for_in_flight(0).await;
}

#[tokio::test]
async fn a_copy_ends_with_its_calls_deadline() {
    timed(async || {
        let mirror = Backend::start("mirror").await;
        mirror.hold();
        let greeter = start(mirror.address(), mirrored([to("mirror")])).await;
        greeter.mesh.ready().await.expect("ready");
        greeter.client.hello_within(Duration::from_millis(900)).await.expect("in time");
        mirror.wait_for_calls(1).await;
        assert!(mirror.seen()[0].metadata.contains_key("grpc-timeout"));
        wait_for_no_copies(&greeter).await;
        mirror.wait_for_in_flight(0).await;
    })
    .await;
}

#[tokio::test]
async fn a_stream_that_outgrows_the_buffer_is_mirrored_no_more_and_goes_on() {
    let narrow = |server: tonic::transport::Server| server.initial_stream_window_size(10_000);
    let mirror = Backend::start_with("mirror", "127.0.0.1:0", narrow).await;
    // It has the call and reads none of its messages.
    mirror.hold();
    let greeter = start_with(
        mirror.address(),
        mirrored([to("mirror")]),
        quick().mirror_max_in_flight(8).mirror_buffer_size(20_000, 1 << 20),
    )
    .await;
    let (send, hellos) = mpsc::channel(1);
    let mut client = greeter.client.greeter();
    let call = tokio::spawn(async move { client.collect_hellos(ReceiverStream::new(hellos)).await });
    send.send(hello("first".to_owned())).await.expect("it is read");
    mirror.wait_for_calls(1).await;
    for _ in 0..100 {
        send.send(hello("x".repeat(5_000))).await.expect("it is read");
        assert!(counts(&greeter).held <= 20_000, "{:?}", counts(&greeter));
    }
    drop(send);
    let reply = call.await.expect("no panic").expect("the call goes on").into_inner();
    assert_eq!((reply.message.as_str(), greeter.backend.messages()), ("a", 101));
    let MirrorCounts { sent, cut, held, .. } = wait_for_no_copies(&greeter).await;
    assert_eq!((sent, cut, held), (1, 1, 0));
    mirror.wait_for_in_flight(0).await;
    assert_eq!(mirror.messages(), 0);
}

#[tokio::test]
async fn all_copies_together_hold_no_more_than_their_bound() {
    let narrow = |server: tonic::transport::Server| server.initial_stream_window_size(1_000);
    let mirror = Backend::start_with("mirror", "127.0.0.1:0", narrow).await;
    mirror.hold();
    let greeter = start_with(
        mirror.address(),
        mirrored([to("mirror")]),
        quick().mirror_max_in_flight(100).mirror_buffer_size(50_000, 100_000),
    )
    .await;
    greeter.mesh.ready().await.expect("ready");
    for _ in 0..20 {
        // The connection takes a frame, and holds the rest of it until there is room; another one waits behind it.
        let hellos = stream::iter([hello("x".repeat(9_000)), hello("x".repeat(9_000))]);
        greeter.client.greeter().collect_hellos(hellos).await.expect("it is answered");
        assert!(counts(&greeter).held <= 100_000, "{:?}", counts(&greeter));
    }
    let counts = counts(&greeter);
    assert!(counts.cut >= 5, "not all have room: {counts:?}");
    assert_eq!((greeter.backend.calls(), greeter.backend.messages()), (20, 40));
}

#[tokio::test]
async fn a_call_that_is_given_up_takes_its_copy_with_it() {
    let mirror = Backend::start("mirror").await;
    let greeter = start(mirror.address(), mirrored([to("mirror")])).await;
    let (send, hellos) = mpsc::channel(1);
    let mut client = greeter.client.greeter();
    let call = tokio::spawn(async move { client.collect_hellos(ReceiverStream::new(hellos)).await });
    send.send(hello("first".to_owned())).await.expect("it is read");
    mirror.wait_for_in_flight(1).await;
    call.abort();
    mirror.wait_for_in_flight(0).await;
    wait_for_no_copies(&greeter).await;
}

fn share(numerator: u32) -> RequestMirrorPolicy {
    let default_value = Some(FractionalPercent { numerator, denominator: 0 });
    let fraction = RuntimeFractionalPercent { default_value, ..Default::default() };
    RequestMirrorPolicy { runtime_fraction: Some(fraction), ..to("mirror") }
}

#[tokio::test]
async fn a_share_of_the_calls_is_mirrored() {
    let mirror = Backend::start("mirror").await;
    let greeter = start(mirror.address(), mirrored([share(20), share(0)])).await;
    call(&greeter, 1_000).await;
    let sent = wait_for_no_copies(&greeter).await.sent;
    // 200 expected; six standard deviations are 76.
    assert!((124..=276).contains(&sent), "{sent} of 1000");
    assert_eq!(mirror.calls(), sent);
    let target = greeter.mesh.target("xds:///greeter").expect("a target");
    let settings: Vec<_> = greeter.mesh.in_force(&target).iter().map(ToString::to_string).collect();
    let expected = "route `any path` request_mirror_policies: mirror 20 %, mirror 0 % (xds)";
    assert!(settings.iter().any(|line| line == expected), "{settings:#?}");
}

#[tokio::test]
async fn a_mirror_whose_cluster_is_not_there_holds_no_call_back_and_is_used_when_it_comes() {
    let greeter = with_resources([], mirrored([to("mirror")]), quick()).await;
    call(&greeter, 3).await;
    let waiting = greeter.mesh.status().targets[0].clusters.iter().find_map(|cluster| cluster.problem.clone());
    assert_eq!(waiting.as_deref(), Some("Cluster `mirror` is not there yet"));
    let mirror = Backend::start("mirror").await;
    greeter.control_plane.put(endpoints("mirror").endpoint(mirror.address()));
    greeter.control_plane.put(cluster("mirror"));
    // It is connected without a call.
    mirror.wait_for_connections(1).await;
    calls_until_copied(&greeter, &mirror).await;
}

#[tokio::test]
async fn the_most_specific_levels_mirrors_hold_alone() {
    let names = ["m1", "m2", "m3"];
    let mirrors = [Backend::start("m1").await, Backend::start("m2").await, Backend::start("m3").await];
    let known = std::iter::zip(names, &mirrors).flat_map(|(name, backend)| {
        [Resource::from(cluster(name)), endpoints(name).endpoint(backend.address()).into()]
    });
    let greeter = with_resources(known, mirrored([]), quick()).await;
    call(&greeter, 1).await;
    for (route, host, whole, expected) in [
        (vec![to("m1")], vec![to("m2")], vec![to("m3")], [1, 0, 0]),
        (vec![], vec![to("m2")], vec![to("m3")], [0, 1, 0]),
        (vec![], vec![], vec![to("m3")], [0, 0, 1]),
        (vec![to("m1"), to("m3")], vec![to("m2")], vec![], [1, 0, 1]),
    ] {
        let host = virtual_host(["*"]).route(mirrored(route)).modify(|message| message.request_mirror_policies = host);
        let routes = route_config("greeter").with(host).modify(|message| message.request_mirror_policies = whole);
        greeter.control_plane.put(routes);
        let reached = async {
            loop {
                let before = mirrors.each_ref().map(Backend::calls);
                call(&greeter, 1).await;
                wait_for_no_copies(&greeter).await;
                let calls = std::iter::zip(&mirrors, before).map(|(mirror, before)| mirror.calls() - before);
                if calls.eq(expected) {
                    break;
                }
            }
        };
        let in_time = tokio::time::timeout(PATIENCE, reached).await.is_ok();
        assert!(in_time, "never {expected:?}");
    }
}

#[tokio::test]
async fn copies_have_headers_and_hosts_of_their_own() {
    let (mirror, mut heads) = witness().await;
    let append = |key: &str, value: &str| HeaderMutation {
        action: Some(Action::Append(HeaderValueOption {
            header: Some(HeaderValue { key: key.to_owned(), value: value.to_owned(), ..Default::default() }),
            ..Default::default()
        })),
    };
    let remove = HeaderMutation { action: Some(Action::Remove("x-secret".to_owned())) };
    let policy = RequestMirrorPolicy {
        cluster_header: "x-mirror".to_owned(),
        disable_shadow_host_suffix_append: true,
        // Only a trusted control plane rewrites hosts.
        host_rewrite_literal: "elsewhere".to_owned(),
        request_headers_mutations: vec![append("x-copy-of", "%UPSTREAM_CLUSTER%"), remove],
        ..Default::default()
    };
    // That one names the cluster makes it known.
    let greeter = start(mirror, mirrored([policy, share(0)])).await;
    greeter.client.hello_with(metadata(&[("x-mirror", "mirror"), ("x-secret", "1")])).await.expect("a call");
    let head = next(&mut heads).await;
    assert_eq!(head.uri.authority().expect("an authority"), "greeter");
    assert_eq!(head.headers["x-copy-of"], "greeter");
    assert!(!head.headers.contains_key("x-secret"));
    let seen = &greeter.backend.seen()[0].metadata;
    assert!(seen.contains_key("x-secret") && !seen.contains_key("x-copy-of"), "the call is as it was: {seen:?}");
    for unknown in [metadata(&[]), metadata(&[("x-mirror", "nowhere")])] {
        greeter.client.hello_with(unknown).await.expect("a call");
    }
    assert_eq!(wait_for_no_copies(&greeter).await.sent, 1);
}

#[tokio::test]
async fn a_call_that_is_tried_again_has_one_copy() {
    let mirror = Backend::start("mirror").await;
    let greeter = start(mirror.address(), mirrored([to("mirror")]).retry_on("unavailable", 3)).await;
    greeter.backend.fail_times(2, Status::unavailable("twice"));
    call(&greeter, 1).await;
    assert_eq!((greeter.backend.calls(), wait_for_no_copies(&greeter).await.sent), (3, 1));
    assert_eq!(mirror.calls(), 1);
}

#[tokio::test]
async fn a_snapshot_made_in_code_may_mirror_its_calls() {
    let (backend, mirror) = (Backend::start("a").await, Backend::start("mirror").await);
    let at =
        |name: &'static str, backend: &Backend| ClusterBuilder::new(name).endpoint(Address::Socket(backend.address()));
    let snapshot = Snapshot::builder("greeter").cluster(at("a", &backend)).cluster(at("b", &mirror));
    let snapshot = snapshot.route(OwnRoute::any().cluster("a").mirror("b", 1_000_000)).build().expect("a snapshot");
    let mesh = Mesh::builder().snapshot("xds:///greeter", snapshot).build().await.expect("a mesh");
    assert_eq!(Client::new(&mesh, "xds:///greeter").hello().await.expect("a call"), "a");
    mirror.wait_for_calls(1).await;
    let unknown =
        Snapshot::builder("greeter").cluster(at("a", &backend)).route(OwnRoute::any().cluster("a").mirror("b", 1));
    assert!(unknown.build().expect_err("`b` is missing").to_string().contains("the cluster `b`, which was not added"));
}

#[tokio::test]
async fn a_bad_mirror_is_rejected_by_field_and_the_last_good_one_serves() {
    let mirror = Backend::start("mirror").await;
    let greeter = start(mirror.address(), mirrored([to("mirror")])).await;
    call(&greeter, 1).await;
    let percent = FractionalPercent { numerator: 1, denominator: 9 };
    let fraction = RuntimeFractionalPercent { default_value: Some(percent), ..Default::default() };
    for (bad, says) in [
        (to(""), "request_mirror_policies[0].cluster: must be set, or `cluster_header`"),
        (
            RequestMirrorPolicy { cluster_header: "x".to_owned(), ..to("mirror") },
            "request_mirror_policies[0].cluster_header: must not be set beside `cluster`",
        ),
        (
            RequestMirrorPolicy { cluster_header: "a b".to_owned(), ..to("") },
            "request_mirror_policies[0].cluster_header: \"a b\" is not the name of a header",
        ),
        (
            RequestMirrorPolicy { runtime_fraction: Some(fraction), ..to("mirror") },
            "request_mirror_policies[0].runtime_fraction.default_value.denominator: 9 is no known denominator",
        ),
        (
            RequestMirrorPolicy { host_rewrite_literal: "a b".to_owned(), ..to("mirror") },
            "request_mirror_policies[0].host_rewrite_literal: \"a b\" is not an authority",
        ),
        (
            RequestMirrorPolicy { request_headers_mutations: vec![HeaderMutation::default()], ..to("mirror") },
            "request_mirror_policies[0].request_headers_mutations[0]: `remove`, `append` or",
        ),
    ] {
        greeter.control_plane.put(route_config("greeter").routes([mirrored([bad])]));
        let nack = greeter.control_plane.next_nack().await.error.expect("a NACK says why").1;
        assert!(nack.contains(says), "{nack}");
        let before = counts(&greeter).sent;
        call(&greeter, 1).await;
        assert_eq!(counts(&greeter).sent, before + 1, "the last good routes mirror");
    }
}
