//! Endpoints that fail: calls go elsewhere, and come back when the endpoint does.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use mesh_core::balance::BalanceOptions;
use mesh_core::connect::ConnectivityState;
use mesh_core::testing::{
    ControlPlane, EndpointsBuilder, Resources, cluster, endpoint, endpoints, locality, route, route_config, type_url,
};
use mesh_core::{CallInfo, Mesh, Profile};
use mesh_examples::helloworld::HelloRequest;
use mesh_examples::helloworld::greeter_client::GreeterClient;
use mesh_tonic::MeshChannel;
use mesh_xds_proto::envoy::config::core::v3::HealthStatus;
use mesh_xds_proto::envoy::config::endpoint::v3::ClusterLoadAssignment;
use mesh_xds_proto::envoy::config::route::v3::RetryPolicy;
use mesh_xds_proto::envoy::r#type::v3::Percent;
use tokio::time::Instant;
use tonic::{Code, Status};

use crate::support::backend::Backend;
use crate::support::clock::pass_over_stalls;
use crate::support::network::{BadServer, BlackHole, ClosedPort};
use crate::support::{in_time, until};

type Client = GreeterClient<MeshChannel>;

/// Timers that are short enough for a test.
fn quick() -> BalanceOptions {
    BalanceOptions::new()
        .backoff(Duration::from_millis(20), Duration::from_millis(100))
        .connect_timeout(Duration::from_millis(200))
        .failover_timeout(Duration::from_millis(300))
}

async fn mesh(control_plane: &ControlPlane) -> Mesh {
    pass_over_stalls();
    Mesh::builder().control_plane(control_plane).balance(quick()).build().await.unwrap()
}

async fn client_of(mesh: &Mesh) -> Client {
    let channel = MeshChannel::new(mesh, "xds:///greeter").unwrap();
    channel.target().ready().await.unwrap();
    GreeterClient::new(channel)
}

async fn call(client: &mut Client) -> Result<String, Status> {
    Ok(client.say_hello(HelloRequest::default()).await?.into_inner().message)
}

/// Answers by name; failures under `failed`.
async fn calls(client: &mut Client, count: u32) -> BTreeMap<String, u32> {
    let mut answers = BTreeMap::new();
    for _ in 0..count {
        let name = call(client).await.unwrap_or_else(|_| "failed".into());
        *answers.entry(name).or_default() += 1;
    }
    answers
}

/// Waits until the mesh knows that `address` cannot be used.
async fn wait_until_unusable(mesh: &Mesh, address: SocketAddr) {
    wait_for_state(mesh, address, |state| !matches!(state, ConnectivityState::Ready | ConnectivityState::Connecting))
        .await;
}

async fn wait_for_state(mesh: &Mesh, address: SocketAddr, wanted: impl Fn(ConnectivityState) -> bool) {
    let address = address.to_string();
    let reached = async {
        loop {
            let status = mesh.status();
            let mut endpoints =
                status.targets.iter().flat_map(|target| &target.clusters).flat_map(|cluster| &cluster.endpoints);
            let state =
                endpoints.find(|endpoint| endpoint.address.to_string() == address).and_then(|found| found.state);
            if state.is_some_and(&wanted) {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    in_time("the endpoint reaches the state", reached).await;
}

/// One of three endpoints does not work: no call fails once that is known.
async fn one_of_three_is(dead: SocketAddr) {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let control_plane = ControlPlane::new();
    control_plane.set(Resources::service("greeter", [a.address(), b.address(), dead]));
    let mesh = mesh(&control_plane).await;
    let mut client = client_of(&mesh).await;
    wait_until_unusable(&mesh, dead).await;
    let callers: Vec<_> = (0..32)
        .map(|_| {
            let mut client = client.clone();
            tokio::spawn(async move { calls(&mut client, 100).await })
        })
        .collect();
    for caller in callers {
        let answers = caller.await.unwrap();
        assert_eq!(answers.get("failed"), None, "{answers:?}");
        assert_eq!(answers.values().sum::<u32>(), 100);
    }
    assert!(call(&mut client).await.is_ok());
}

#[tokio::test]
async fn an_endpoint_that_refuses_gets_no_calls() {
    one_of_three_is(ClosedPort::new().address()).await;
}

#[tokio::test]
async fn an_endpoint_that_accepts_and_resets_gets_no_calls() {
    let server = BadServer::resetting().await;
    one_of_three_is(server.address()).await;
}

#[tokio::test]
async fn an_endpoint_that_accepts_and_stays_silent_gets_no_calls() {
    let server = BadServer::silent().await;
    one_of_three_is(server.address()).await;
}

#[tokio::test]
async fn an_endpoint_whose_packets_are_dropped_gets_no_calls() {
    let hole = BlackHole::new();
    one_of_three_is(hole.address()).await;
}

#[tokio::test]
async fn two_of_three_dead_endpoints_cost_no_calls() {
    let (closed, silent) = (ClosedPort::new(), BadServer::silent().await);
    let backend = Backend::start("a").await;
    let control_plane = ControlPlane::new();
    control_plane.set(Resources::service("greeter", [closed.address(), silent.address(), backend.address()]));
    let mesh = mesh(&control_plane).await;
    let mut client = client_of(&mesh).await;
    assert_eq!(calls(&mut client, 200).await, BTreeMap::from([("a".into(), 200)]));
}

#[tokio::test]
async fn a_dead_endpoint_costs_no_attempt_of_a_retry_policy() {
    let (closed, resetting) = (ClosedPort::new(), BadServer::resetting().await);
    let policy = || RetryPolicy { retry_on: "unavailable".into(), num_retries: Some(3), ..Default::default() };
    for (dead, names, callers) in
        [(closed.address(), &["a", "b"][..], 1), (closed.address(), &["a", "b"], 32), (resetting.address(), &["a"], 2)]
    {
        let mut backends = Vec::new();
        for name in names {
            backends.push(Backend::start(name).await);
        }
        let addresses = backends.iter().map(Backend::address).chain([dead]);
        let routes = route_config("greeter").routes([route().retry(policy()).cluster("greeter")]);
        let control_plane = ControlPlane::new();
        control_plane.set(Resources::service("greeter", addresses).with(routes));
        let mesh = mesh(&control_plane).await;
        let client = client_of(&mesh).await;
        let running: Vec<_> = (0..callers)
            .map(|_| {
                let mut client = client.clone();
                tokio::spawn(async move { calls(&mut client, 100).await })
            })
            .collect();
        for caller in running {
            assert_eq!(caller.await.unwrap().get("failed"), None);
        }
        assert_eq!(backends.iter().map(Backend::calls).sum::<u64>(), 100 * callers, "an attempt for each call");
    }
}

#[tokio::test]
async fn all_endpoints_dead_fails_at_once_and_names_them() {
    let ports = [ClosedPort::new(), ClosedPort::new(), ClosedPort::new()];
    let control_plane = ControlPlane::new();
    control_plane.set(Resources::service("greeter", ports.iter().map(ClosedPort::address)));
    let mesh = mesh(&control_plane).await;
    let mut client = GreeterClient::new(MeshChannel::new(&mesh, "xds:///greeter").unwrap());
    let begin = Instant::now();
    let status = call(&mut client).await.unwrap_err();
    assert!(begin.elapsed() < Duration::from_secs(10), "at once, and not when the wait of calls that have hope ends");
    assert_eq!(status.code(), Code::Unavailable);
    for port in &ports {
        let why = format!("{}: Connection refused", port.address());
        assert!(status.message().contains(&why), "`{why}` is missing in: {status}");
    }
    for part in ["target xds:///greeter", "cluster greeter", "route", "node test", "control plane in-process"] {
        assert!(status.message().contains(part), "`{part}` is missing in: {status}");
    }
}

#[tokio::test]
async fn an_endpoint_that_returns_is_used_again() {
    let (stays, mut leaves) = (Backend::start("stays").await, Backend::start("leaves").await);
    let control_plane = ControlPlane::new();
    control_plane.set(Resources::service("greeter", [stays.address(), leaves.address()]));
    let mesh = mesh(&control_plane).await;
    let mut client = client_of(&mesh).await;
    let ready = |state| state == ConnectivityState::Ready;
    wait_for_state(&mesh, leaves.address(), ready).await;
    leaves.stop().await;
    wait_until_unusable(&mesh, leaves.address()).await;
    assert_eq!(calls(&mut client, 50).await, BTreeMap::from([("stays".into(), 50)]));
    leaves.restart().await;
    wait_for_state(&mesh, leaves.address(), ready).await;
    assert_eq!(calls(&mut client, 50).await, BTreeMap::from([("leaves".into(), 25), ("stays".into(), 25)]));
}

#[tokio::test]
async fn the_second_priority_takes_the_calls_while_the_first_is_down() {
    let (mut first, second) = (Backend::start("first").await, Backend::start("second").await);
    let control_plane = ControlPlane::new();
    let assignment = endpoints("greeter")
        .locality(locality("near", "", "").endpoint(first.address()))
        .locality(locality("far", "", "").priority(1).endpoint(second.address()));
    control_plane.set(Resources::service("greeter", [first.address()]).with(assignment));
    let mesh = mesh(&control_plane).await;
    let mut client = client_of(&mesh).await;
    assert_eq!(calls(&mut client, 20).await, BTreeMap::from([("first".into(), 20)]));
    first.stop().await;
    wait_until_unusable(&mesh, first.address()).await;
    // Until the second priority is connected, calls wait for it.
    assert_eq!(calls(&mut client, 20).await, BTreeMap::from([("second".into(), 20)]));
    first.restart().await;
    wait_for_state(&mesh, first.address(), |state| state == ConnectivityState::Ready).await;
    assert_eq!(calls(&mut client, 20).await, BTreeMap::from([("first".into(), 20)]));
}

#[tokio::test]
async fn a_priority_that_leaves_the_configuration_keeps_no_connection() {
    use HealthStatus::Healthy;
    let (mut first, second) = (Backend::start("first").await, Backend::start("second").await);
    let control_plane = ControlPlane::new();
    let both = by_priority(&[&[(&first, Healthy)], &[(&second, Healthy)]]);
    control_plane.set(Resources::service("greeter", [first.address()]).with(both));
    let mesh = mesh(&control_plane).await;
    let mut client = client_of(&mesh).await;
    first.stop().await;
    wait_until_unusable(&mesh, first.address()).await;
    assert_eq!(calls(&mut client, 20).await, BTreeMap::from([("second".into(), 20)]));
    first.restart().await;
    wait_for_state(&mesh, first.address(), |state| state == ConnectivityState::Ready).await;
    assert_eq!(calls(&mut client, 20).await, BTreeMap::from([("first".into(), 20)]));
    assert_eq!(second.connections(), 1, "it may be needed again at any time");
    control_plane.put(by_priority(&[&[(&first, Healthy)]]));
    second.wait_for_connections(0).await;
    assert_eq!(calls(&mut client, 20).await, BTreeMap::from([("first".into(), 20)]));
}

#[tokio::test]
async fn priorities_and_localities_of_weight_zero_get_nothing() {
    let (used, lower, zero) =
        (Backend::start("used").await, Backend::start("lower").await, Backend::start("zero").await);
    let control_plane = ControlPlane::new();
    let assignment = endpoints("greeter")
        .locality(locality("a", "", "").endpoint(used.address()))
        .locality(locality("b", "", "").weight(0).endpoint(zero.address()))
        .locality(locality("c", "", "").priority(1).endpoint(lower.address()));
    control_plane.set(Resources::service("greeter", [used.address()]).with(assignment));
    let mesh = mesh(&control_plane).await;
    let mut client = client_of(&mesh).await;
    assert_eq!(calls(&mut client, 900).await, BTreeMap::from([("used".into(), 900)]));
    assert_eq!((lower.connections(), zero.connections()), (0, 0), "nothing connects to what gets no calls");
}

#[tokio::test]
async fn localities_share_the_calls_by_weight() {
    let (many, few) = (Backend::start("many").await, Backend::start("few").await);
    let control_plane = ControlPlane::new();
    let assignment = endpoints("greeter")
        .locality(locality("a", "", "").weight(90).endpoint(many.address()))
        .locality(locality("b", "", "").weight(10).endpoint(few.address()));
    control_plane.set(Resources::service("greeter", [many.address()]).with(assignment));
    let mesh = mesh(&control_plane).await;
    let mut client = client_of(&mesh).await;
    wait_for_state(&mesh, many.address(), |state| state == ConnectivityState::Ready).await;
    wait_for_state(&mesh, few.address(), |state| state == ConnectivityState::Ready).await;
    let answers = calls(&mut client, 1000).await;
    // Five standard deviations of a binomial distribution around 900.
    assert!((852..=948).contains(&answers["many"]), "{answers:?}");
}

#[tokio::test]
async fn endpoints_that_the_control_plane_calls_unhealthy_get_no_calls() {
    let (good, bad) = (Backend::start("good").await, Backend::start("bad").await);
    let control_plane = ControlPlane::new();
    let unhealthy = mesh_core::testing::endpoint(bad.address()).health(HealthStatus::Unhealthy);
    let assignment = endpoints("greeter").endpoint(good.address()).endpoint(unhealthy);
    control_plane.set(Resources::service("greeter", [good.address()]).with(assignment));
    let mesh = mesh(&control_plane).await;
    let mut client = client_of(&mesh).await;
    assert_eq!(calls(&mut client, 50).await, BTreeMap::from([("good".into(), 50)]));
    assert_eq!(bad.connections(), 0);
}

#[tokio::test]
async fn round_robin_calls_in_turn_and_random_by_chance() {
    use mesh_xds_proto::envoy::config::cluster::v3::cluster::LbPolicy;
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    for policy in [LbPolicy::RoundRobin, LbPolicy::Random] {
        let control_plane = ControlPlane::new();
        let resources = Resources::service("greeter", [a.address(), b.address()]);
        control_plane.set(resources.with(cluster("greeter").lb(policy)));
        let mesh = mesh(&control_plane).await;
        let mut client = client_of(&mesh).await;
        for backend in [&a, &b] {
            wait_for_state(&mesh, backend.address(), |state| state == ConnectivityState::Ready).await;
        }
        let before = a.calls();
        for _ in 0..400 {
            call(&mut client).await.unwrap();
        }
        let share = a.calls() - before;
        match policy {
            LbPolicy::RoundRobin => assert_eq!(share, 200),
            // By chance: 200, and six standard deviations are 60. That it is exactly 200 would be one case in 25.
            _ => assert!((140..=260).contains(&share), "{share} of 400"),
        }
    }
}

#[tokio::test]
async fn least_request_leaves_a_busy_endpoint_alone() {
    use mesh_xds_proto::envoy::config::cluster::v3::cluster::LbPolicy;
    let (busy, idle) = (Backend::start("busy").await, Backend::start("idle").await);
    let control_plane = ControlPlane::new();
    let resources = Resources::service("greeter", [busy.address(), idle.address()]);
    control_plane.set(resources.with(cluster("greeter").lb(LbPolicy::LeastRequest)));
    let mesh = mesh(&control_plane).await;
    let client = client_of(&mesh).await;
    for backend in [&busy, &idle] {
        wait_for_state(&mesh, backend.address(), |state| state == ConnectivityState::Ready).await;
    }
    let start = |count: u32| {
        let one = |_| {
            let mut client = client.clone();
            tokio::spawn(async move { call(&mut client).await })
        };
        (0..count).map(one).collect::<Vec<_>>()
    };
    busy.hold();
    idle.hold();
    let mut started = start(200);
    until("all calls at an endpoint", || busy.in_flight() + idle.in_flight() == 200).await;
    let held = busy.in_flight();
    idle.release();
    let open = || started.iter().filter(|call| !call.is_finished()).count() as u64;
    until("answers to those that are not held", || open() <= held).await;
    idle.hold();
    started.extend(start(100));
    until("all further calls at an endpoint", || busy.in_flight() + idle.in_flight() == held + 100).await;
    // Of two draws both fall on the busy one in a quarter of the calls: 75 are expected here, five standard deviations
    // are 22. Calls in turn would leave 50.
    assert!(idle.in_flight() >= 53, "{} of 100 went to the idle endpoint", idle.in_flight());
    busy.release();
    idle.release();
    for call in started {
        call.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_call_tells_where_it_went() {
    let backend = Backend::start("a").await;
    let control_plane = ControlPlane::new();
    control_plane.set(Resources::service("greeter", [backend.address()]));
    let mesh = mesh(&control_plane).await;
    let reply = client_of(&mesh).await.say_hello(HelloRequest::default()).await.unwrap();
    let info = reply.extensions().get::<CallInfo>().unwrap();
    assert_eq!((info.cluster(), info.endpoint().to_string()), ("greeter", backend.address().to_string()));
}

/// An assignment of `greeter`: of each priority its endpoints with their health.
fn by_priority(priorities: &[&[(&Backend, HealthStatus)]]) -> EndpointsBuilder {
    let locality = |(priority, members): (u32, &&[(&Backend, HealthStatus)])| {
        let members = members.iter().map(|(backend, health)| endpoint(backend.address()).health(*health));
        locality(format!("region-{priority}"), "", "").priority(priority).all(members)
    };
    (0..).zip(priorities).map(locality).fold(endpoints("greeter"), EndpointsBuilder::locality)
}

/// A mesh in Envoy's profile, all of whose endpoints in use are connected.
async fn envoy_like(control_plane: &ControlPlane, connected: &[&Backend]) -> (Mesh, Client) {
    let mesh =
        Mesh::builder().control_plane(control_plane).balance(quick()).profile(Profile::Envoy).build().await.unwrap();
    let client = client_of(&mesh).await;
    for backend in connected {
        wait_for_state(&mesh, backend.address(), |state| state == ConnectivityState::Ready).await;
    }
    (mesh, client)
}

/// That so many of a thousand is that share, but for six standard deviations.
#[track_caller]
fn assert_about(found: u32, share: f64) {
    let deviation = (1000.0 * share * (1.0 - share)).sqrt();
    assert!((f64::from(found) - 1000.0 * share).abs() <= 6.0 * deviation, "{found} of 1000, not {share}");
}

#[tokio::test]
async fn all_calls_go_to_the_first_of_three_priorities_and_to_the_second_when_that_is_killed() {
    use HealthStatus::Healthy;
    let (mut first, second, third) = (Backend::start("0").await, Backend::start("1").await, Backend::start("2").await);
    let control_plane = ControlPlane::new();
    let assignment = by_priority(&[&[(&first, Healthy)], &[(&second, Healthy)], &[(&third, Healthy)]]);
    control_plane.set(Resources::service("greeter", [first.address()]).with(assignment));
    let mesh = mesh(&control_plane).await;
    let mut client = client_of(&mesh).await;
    assert_eq!(calls(&mut client, 900).await, BTreeMap::from([("0".into(), 900)]));
    first.stop().await;
    wait_until_unusable(&mesh, first.address()).await;
    assert_eq!(calls(&mut client, 300).await, BTreeMap::from([("1".into(), 300)]));
    assert_eq!(third.connections(), 0);
}

#[tokio::test]
async fn in_envoys_profile_calls_spill_over_and_in_grpcs_they_do_not() {
    use HealthStatus::{Healthy, Unhealthy};
    let (a, b, c) = (Backend::start("a").await, Backend::start("b").await, Backend::start("c").await);
    let control_plane = ControlPlane::new();
    let assignment = by_priority(&[&[(&a, Healthy), (&b, Unhealthy)], &[(&c, Healthy)]]);
    control_plane.set(Resources::service("greeter", [a.address()]).with(assignment.clone()));
    let (_mesh, mut client) = envoy_like(&control_plane, &[&a, &c]).await;
    let answers = calls(&mut client, 1000).await;
    // Half of the endpoints, times 1.4.
    assert_about(answers["a"], 0.7);
    assert_eq!(answers["a"] + answers["c"], 1000);
    let factor = |assignment: &mut ClusterLoadAssignment| {
        assignment.policy.get_or_insert_default().overprovisioning_factor = Some(100);
    };
    control_plane.put(assignment.modify(factor));
    control_plane.acked(type_url::ENDPOINTS).await;
    let grpc = mesh(&control_plane).await;
    assert_eq!(calls(&mut client_of(&grpc).await, 100).await, BTreeMap::from([("a".into(), 100)]));
    assert_about(calls(&mut client, 1000).await["a"], 0.5);
}

#[tokio::test]
async fn in_envoys_profile_degraded_endpoints_take_what_healthy_ones_cannot() {
    use HealthStatus::{Degraded, Healthy, Unhealthy};
    let (a, b, c) = (Backend::start("a").await, Backend::start("b").await, Backend::start("c").await);
    let control_plane = ControlPlane::new();
    let resources = Resources::service("greeter", [a.address()]);
    let assignment = by_priority(&[&[(&a, Healthy), (&b, Degraded)], &[(&c, Unhealthy)]]);
    control_plane.set(resources.with(assignment));
    let (_mesh, mut client) = envoy_like(&control_plane, &[&a, &b]).await;
    let answers = calls(&mut client, 1000).await;
    assert_about(answers["a"], 0.7);
    assert_about(answers["b"], 0.3);
    let grpc = mesh(&control_plane).await;
    assert_eq!(calls(&mut client_of(&grpc).await, 100).await, BTreeMap::from([("a".into(), 100)]));
}

#[tokio::test]
async fn in_envoys_profile_health_is_disregarded_below_the_panic_threshold() {
    use HealthStatus::{Healthy, Unhealthy};
    let (a, b, c) = (Backend::start("a").await, Backend::start("b").await, Backend::start("c").await);
    let control_plane = ControlPlane::new();
    let assignment = by_priority(&[&[(&a, Healthy), (&b, Unhealthy), (&c, Unhealthy)]]);
    control_plane.set(Resources::service("greeter", [a.address()]).with(assignment));
    let (_mesh, mut client) = envoy_like(&control_plane, &[&a, &b, &c]).await;
    // In turn, but for a picker that is replaced meanwhile.
    let are_thirds = |answers: &BTreeMap<String, u32>| answers.len() == 3 && answers.values().all(|share| *share >= 90);
    let answers = calls(&mut client, 300).await;
    assert!(are_thirds(&answers), "a third is less than half: {answers:?}");
    let threshold = |percent: f64| {
        cluster("greeter").modify(|cluster| {
            cluster.common_lb_config.get_or_insert_default().healthy_panic_threshold = Some(Percent { value: percent });
        })
    };
    control_plane.put(threshold(101.0));
    let (_, nack) = control_plane.next_nack().await.error.expect("a reason");
    assert!(nack.contains("common_lb_config.healthy_panic_threshold.value: 101 is not a percentage"), "{nack}");
    let answers = calls(&mut client, 300).await;
    assert!(are_thirds(&answers), "the last good one serves on: {answers:?}");
    control_plane.put(threshold(30.0));
    let calm = async {
        while calls(&mut client, 3).await != BTreeMap::from([("a".into(), 3)]) {
            tokio::task::yield_now().await;
        }
    };
    in_time("a third is more than 30 %", calm).await;
    assert_eq!(calls(&mut client, 100).await, BTreeMap::from([("a".into(), 100)]));
}
