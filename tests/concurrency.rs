//! How many calls a server serves at a time (`envoy.filters.http.adaptive_concurrency`, or code), and which it refuses first.

use std::time::Duration;

use mesh_core::context::Context;
use mesh_core::deadline::DeadlineLayer;
use mesh_core::filter::{ConcurrencyLimit, ConcurrencyLimitLayer, ConcurrencyStatus};
use mesh_core::server::ServerOptions;
use mesh_core::testing::{ControlPlane, FilterChainBuilder, Resources, filter_chain, listener, server_listener};
use mesh_core::{Criticality, Mesh};
use mesh_examples::helloworld::HelloRequest;
use mesh_tonic::{Grpc, MeshChannel, MeshServer, deadline_layer};
use mesh_xds_proto::envoy::config::core::v3::RuntimeFeatureFlag;
use mesh_xds_proto::envoy::extensions::filters::http::adaptive_concurrency::v3 as pb;
use mesh_xds_proto::envoy::r#type::v3::{HttpStatus, Percent};
use pb::adaptive_concurrency::ConcurrencyControllerConfig::GradientControllerConfig as Gradient;
use pb::gradient_controller_config::{ConcurrencyLimitCalculationParams, MinimumRttCalculationParams};
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, yield_now};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;
use tonic::{Code, Request, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::support::PATIENCE;
use crate::support::backend::Backend;
use crate::support::client::{Client, metadata, quick, quick_mesh};
use crate::support::configured::Setting;
use crate::support::in_time;
use crate::support::served::Served;
use crate::support::tier::Tier;
use crate::support::timed::timed;

const HEADER: &str = "x-request-criticality";

fn seconds(seconds: i64) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds, nanos: 0 })
}

/// Serves two calls at a time until five have told how long one takes.
fn gradient() -> pb::GradientControllerConfig {
    pb::GradientControllerConfig {
        concurrency_limit_params: Some(ConcurrencyLimitCalculationParams {
            concurrency_update_interval: Some(prost_types::Duration { seconds: 0, nanos: 1_000_000 }),
            ..Default::default()
        }),
        min_rtt_calc_params: Some(MinimumRttCalculationParams {
            interval: seconds(3_600),
            request_count: Some(5),
            min_concurrency: Some(2),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn filter(gradient: pb::GradientControllerConfig) -> pb::AdaptiveConcurrency {
    pb::AdaptiveConcurrency { concurrency_controller_config: Some(Gradient(gradient)), ..Default::default() }
}

fn chain(filter: &pb::AdaptiveConcurrency) -> FilterChainBuilder {
    filter_chain().filter("limit", filter)
}

/// A call of this criticality that the greeter holds.
async fn held(client: &Client, greeter: &Backend, of: Option<Criticality>) -> JoinHandle<Result<String, Status>> {
    let in_flight = greeter.in_flight();
    let (client, of) = (client.clone(), of.map(|of| metadata(&[(HEADER, of.as_str())])));
    let call = tokio::spawn(async move { client.hello_with(of.unwrap_or_default()).await });
    greeter.wait_for_in_flight(in_flight + 1).await;
    call
}

async fn of(client: &Client, criticality: Criticality) -> Result<String, (Code, String)> {
    let answer = client.hello_with(metadata(&[(HEADER, criticality.as_str())])).await;
    answer.map_err(|status| (status.code(), status.message().to_owned()))
}

/// Waits for what the test asks for again and again.
async fn soon(what: &str, asked: impl Future<Output = ()>) {
    in_time(what, asked).await;
}

fn only(mut all: Vec<ConcurrencyStatus>) -> ConcurrencyStatus {
    assert_eq!(all.len(), 1, "{all:?}");
    all.remove(0)
}

/// A client whose listener has the filter, of a greeter that the mesh does not serve.
async fn limited_client(limit: &pb::AdaptiveConcurrency) -> (Backend, ControlPlane, Mesh, Client) {
    let greeter = Backend::start("a").await;
    let control_plane = ControlPlane::new();
    let limited = listener("greeter").filter("limit", limit);
    control_plane.set(Resources::service("greeter", [greeter.address()]).with(limited));
    let mesh = quick_mesh(&control_plane).await;
    let client = Client::new(&mesh, "xds:///greeter");
    (greeter, control_plane, mesh, client)
}

#[tokio::test]
async fn a_clients_limit_refuses_one_call_more_before_it_is_sent() {
    let (greeter, _control_plane, mesh, client) = limited_client(&filter(gradient())).await;
    greeter.hold();
    let calls = [held(&client, &greeter, None).await, held(&client, &greeter, None).await];
    let refused = client.hello_within(PATIENCE).await.expect_err("two are under way");
    assert_eq!((refused.code(), refused.message()), (Code::Unavailable, "reached concurrency limit"));
    assert_eq!(greeter.calls(), 2);
    greeter.release();
    for call in calls {
        assert_eq!(call.await.expect("no panic").expect("it is answered"), "a");
    }
    assert_eq!(client.hello().await.expect("there is room again"), "a");
    assert_eq!(mesh.ignored_fields(), []);
}

#[tokio::test]
async fn a_stream_counts_until_its_response_begins() {
    let endless = tokio_stream::pending::<HelloRequest>;
    let (greeter, _control_plane, _mesh, client) = limited_client(&filter(gradient())).await;
    let mut streams = Vec::new();
    for _ in 0..5 {
        streams.push(client.greeter().chat(endless()).await.expect("those before it count no more"));
    }
    assert_eq!(greeter.in_flight(), 5);
    let it = Setting::start(chain(&filter(gradient())), ServerOptions::new()).await;
    for number in 1..=5 {
        streams.push(it.client.greeter().chat(endless()).await.expect("those before it count no more"));
        let status = only(it.server.status().concurrency);
        assert_eq!((status.in_flight, it.greeter.in_flight()), (0, number));
    }
}

#[tokio::test]
async fn a_servers_limit_is_learnt_from_its_calls_and_one_more_is_refused() {
    timed(async || {
        let it = Setting::start(chain(&filter(gradient())), ServerOptions::new()).await;
        let concurrency = || only(it.server.status().concurrency);
        it.greeter.hold();
        let first = held(&it.client, &it.greeter, None).await;
        let second = held(&it.client, &it.greeter, None).await;
        let refused = it.client.hello().await.expect_err("two are served");
        assert_eq!((refused.code(), refused.message()), (Code::Unavailable, "reached concurrency limit"));
        let status = concurrency();
        assert!(status.name.ends_with("/limit"), "{status:?}");
        assert_eq!((status.limit, status.in_flight, status.refused(), status.min_rtt), (2, 2, 1, None));
        it.greeter.release();
        first.await.expect("no panic").expect("it is served");
        second.await.expect("no panic").expect("it is served");
        let call = async || drop(it.client.hello().await.expect("one call at a time is served"));
        soon("a minRTT", async {
            while concurrency().min_rtt.is_none() {
                call().await;
            }
        })
        .await;
        // Calls that come one after the other hold none up, and the limit rises.
        soon("a higher limit", async {
            while concurrency().limit < 10 {
                call().await;
            }
        })
        .await;
        let learnt = concurrency();
        // What was learnt and counted outlives an update.
        let mut updated = gradient();
        updated.concurrency_limit_params.as_mut().expect("set").max_concurrency_limit = Some(7);
        it.changes_to(chain(&filter(updated))).await;
        soon("the update", async {
            while concurrency().limit > 7 {
                yield_now().await;
            }
        })
        .await;
        let after = concurrency();
        assert_eq!((after.limit, after.min_rtt, after.refused(), after.in_flight), (7, learnt.min_rtt, 1, 0));
    })
    .await;
}

#[tokio::test]
async fn a_limit_that_is_switched_off_limits_nothing_and_its_status_is_as_it_says() {
    timed(async || {
        let off = RuntimeFeatureFlag { default_value: Some(false), runtime_key: "off".into() };
        let it = Setting::start(
            chain(&pb::AdaptiveConcurrency { enabled: Some(off), ..filter(gradient()) }),
            ServerOptions::new(),
        )
        .await;
        it.greeter.hold();
        let mut calls = Vec::new();
        for _ in 0..3 {
            calls.push(held(&it.client, &it.greeter, None).await);
        }
        assert_eq!(it.server.status().concurrency, []);
        let unauthorized = Some(HttpStatus { code: 401 });
        let answering =
            pb::AdaptiveConcurrency { concurrency_limit_exceeded_status: unauthorized, ..filter(gradient()) };
        it.changes_to(chain(&answering)).await;
        let mut client = it.client.greeter();
        // Those that were let in before do not count.
        soon("the update", async {
            while it.server.status().concurrency.is_empty() {
                yield_now().await;
            }
        })
        .await;
        calls.push(held(&it.client, &it.greeter, None).await);
        calls.push(held(&it.client, &it.greeter, None).await);
        let refused = client.say_hello(Request::new(HelloRequest::default())).await.expect_err("two are served");
        assert_eq!(refused.code(), Code::Unauthenticated);
        it.greeter.release();
        for call in calls {
            call.await.expect("no panic").expect("it is served");
        }
    })
    .await;
}

#[tokio::test]
async fn a_bad_limit_is_refused_by_field_and_the_last_good_one_serves() {
    let it = Setting::start(chain(&filter(gradient())), ServerOptions::new()).await;
    let limits = |change: fn(&mut ConcurrencyLimitCalculationParams)| {
        let mut bad = gradient();
        change(bad.concurrency_limit_params.as_mut().expect("set"));
        filter(bad)
    };
    let measured = |change: fn(&mut MinimumRttCalculationParams)| {
        let mut bad = gradient();
        change(bad.min_rtt_calc_params.as_mut().expect("set"));
        filter(bad)
    };
    let percentile = Some(Percent { value: 100.5 });
    for (bad, says) in [
        (pb::AdaptiveConcurrency::default(), "gradient_controller_config: must be set"),
        (
            filter(pb::GradientControllerConfig { sample_aggregate_percentile: percentile, ..gradient() }),
            "gradient_controller_config.sample_aggregate_percentile.value: 100.5 is not",
        ),
        (
            filter(pb::GradientControllerConfig { concurrency_limit_params: None, ..gradient() }),
            "gradient_controller_config.concurrency_limit_params: must be set",
        ),
        (
            limits(|limits| limits.max_concurrency_limit = Some(0)),
            "gradient_controller_config.concurrency_limit_params.max_concurrency_limit: must be above 0",
        ),
        (
            limits(|limits| limits.concurrency_update_interval = seconds(0)),
            "gradient_controller_config.concurrency_limit_params.concurrency_update_interval: must be at least",
        ),
        (
            measured(|measured| measured.interval = seconds(-1)),
            "gradient_controller_config.min_rtt_calc_params.interval: ",
        ),
        (
            measured(|measured| measured.interval = None),
            "gradient_controller_config.min_rtt_calc_params.fixed_value: must be set without `interval`",
        ),
        (
            measured(|measured| measured.request_count = Some(0)),
            "gradient_controller_config.min_rtt_calc_params.request_count: must be above 0",
        ),
        (
            measured(|measured| measured.min_concurrency = Some(0)),
            "gradient_controller_config.min_rtt_calc_params.min_concurrency: must be above 0",
        ),
        (
            measured(|measured| measured.buffer = Some(Percent { value: f64::NAN })),
            "gradient_controller_config.min_rtt_calc_params.buffer.value: NaN is not",
        ),
        (
            measured(|measured| measured.jitter = Some(Percent { value: -1.0 })),
            "gradient_controller_config.min_rtt_calc_params.jitter.value: -1 is not",
        ),
        (
            pb::AdaptiveConcurrency { enabled: Some(RuntimeFeatureFlag::default()), ..filter(gradient()) },
            "enabled.default_value: must be set",
        ),
        (
            pb::AdaptiveConcurrency {
                concurrency_limit_exceeded_status: Some(HttpStatus { code: 99 }),
                ..filter(gradient())
            },
            "concurrency_limit_exceeded_status.code: 99 is not",
        ),
    ] {
        it.control_plane.put(server_listener(it.server.address()).chains([chain(&bad)]));
        let nack = it.control_plane.next_nack().await.error.expect("a NACK says why").1;
        assert!(nack.contains(&format!("http_filters[0].typed_config.{says}")), "{says}: {nack}");
        it.client.hello().await.expect("the last good limit");
        assert_eq!(only(it.server.status().concurrency).in_flight, 0);
    }
}

#[tokio::test]
async fn calls_that_are_less_important_are_refused_first() {
    use Criticality::{Critical, CriticalPlus, Sheddable, SheddablePlus};
    let greeter = Backend::start("a").await;
    let limit = ConcurrencyLimit::fixed(8).share(Critical, 90);
    let options = ServerOptions::new().concurrency_limit(limit);
    let server = Served::start(options, |server| server.add_service(greeter.service())).await;
    let mesh = quick().build().await.expect("a mesh");
    let client = Client::new(&mesh, &server.target());
    greeter.hold();
    let mut calls = Vec::new();
    let unavailable = |text: &str| Err((Code::Unavailable, text.to_owned()));
    for (first, places) in [(Sheddable, 4), (SheddablePlus, 6), (Critical, 8), (CriticalPlus, 8)] {
        while calls.len() < places {
            calls.push(held(&client, &greeter, Some(first)).await);
        }
        let text = match first {
            CriticalPlus => "reached concurrency limit".to_owned(),
            less => format!("reached concurrency limit of {less} calls"),
        };
        assert_eq!(of(&client, first).await, unavailable(&text));
    }
    // Whoever says nothing is CRITICAL.
    let refused = client.hello().await.expect_err("it is full");
    assert_eq!(refused.message(), "reached concurrency limit of CRITICAL calls");
    let status = only(server.status().concurrency);
    assert_eq!((&*status.name, status.limit, status.in_flight), ("code", 8, 8));
    assert_eq!(status.shed, [(Sheddable, 1), (SheddablePlus, 1), (Critical, 2), (CriticalPlus, 1)]);
    greeter.release();
    for call in calls {
        call.await.expect("no panic").expect("it is served");
    }
    assert_eq!(of(&client, Sheddable).await.as_deref(), Ok("a"));
    assert_eq!(only(server.status().concurrency).in_flight, 0);
}

#[tokio::test]
async fn calls_that_serve_another_are_as_important_as_that() {
    let backend = Backend::start("a").await;
    let mesh = Mesh::builder().build().await.expect("a mesh");
    let next = Client::new(&mesh, &format!("static:///{}", backend.address()));
    let below = Tier::start(deadline_layer(), Duration::ZERO, &next).await;
    let between = Client::new(&mesh, &format!("static:///{}", below.address()));
    let above = Tier::start(deadline_layer(), Duration::ZERO, &between).await;
    let client = Client::new(&mesh, &format!("static:///{}", above.address()));
    let seen = |header: &'static str| {
        let values = backend.seen().pop().expect("a call").metadata;
        values.get_all(header).iter().map(|value| value.to_str().expect("text").to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(of(&client, Criticality::SheddablePlus).await.as_deref(), Ok("a"));
    assert_eq!(seen(HEADER), ["SHEDDABLE_PLUS"]);
    client.hello().await.expect("it is served");
    assert_eq!(seen(HEADER), [""; 0], "nobody said it");
    client.hello_with(metadata(&[(HEADER, "whatever")])).await.expect("it is served");
    assert_eq!(seen(HEADER), [""; 0], "what is not known is not handed on");
    // Under the name that code gives it, and unless a handler says something else.
    let named = || DeadlineLayer::new().protocol(&Grpc).criticality_header("x-tier".parse().expect("a name"));
    let handler = move || {
        let next = next.clone();
        async move {
            let own = Context::current().criticality().expect("the caller said it");
            let less = metadata(&[("x-tier", "SHEDDABLE")]);
            if own == Criticality::CriticalPlus { next.hello_with(less).await } else { next.hello().await }
        }
    };
    let tier = Tier::serving(named(), handler).await;
    let client = Client::new(&mesh, &format!("static:///{}", tier.address()));
    client.hello_with(metadata(&[("x-tier", "CRITICAL"), (HEADER, "SHEDDABLE")])).await.expect("it is served");
    assert_eq!((seen("x-tier"), seen(HEADER)), (vec!["CRITICAL".to_owned()], vec![]));
    client.hello_with(metadata(&[("x-tier", "CRITICAL_PLUS")])).await.expect("it is served");
    assert_eq!(seen("x-tier"), ["SHEDDABLE"]);
}

/// Kubernetes kills a pod that does not answer its probes, and the calls of one that is only busy would go to the others.
#[tokio::test]
async fn health_checks_are_answered_however_many_calls_are_served() {
    timed(async || {
        let greeter = Backend::start("a").await;
        let control_plane = ControlPlane::new();
        let socket = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = socket.local_addr().expect("a bound listener");
        let adaptive = filter(pb::GradientControllerConfig {
            min_rtt_calc_params: gradient()
                .min_rtt_calc_params
                .map(|params| MinimumRttCalculationParams { min_concurrency: Some(1), ..params }),
            ..gradient()
        });
        let served_by = async |mesh: &Mesh, socket, options| {
            let services = |server: MeshServer| {
                let health = server.health();
                server.add_service(health).add_service(greeter.service())
            };
            Served::start_at(socket, mesh, options, services).await
        };
        control_plane.put(server_listener(address).chains([chain(&adaptive)]));
        let configured = quick().control_plane(&control_plane).build().await.expect("a mesh");
        let by_control_plane = served_by(&configured, socket, ServerOptions::new()).await;
        let plain = quick().build().await.expect("a mesh");
        let socket = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let limit = ServerOptions::new().concurrency_limit(ConcurrencyLimit::fixed(1));
        let by_code = served_by(&plain, socket, limit).await;
        for server in [&by_control_plane, &by_code] {
            let client = Client::new(&plain, &server.target());
            greeter.hold();
            let call = held(&client, &greeter, None).await;
            assert_eq!(client.hello().await.expect_err("it is full").code(), Code::Unavailable);
            let channel = MeshChannel::new(&plain, &server.target()).expect("a target");
            let answer = HealthClient::new(channel).check(HealthCheckRequest::default()).await.expect("an answer");
            assert_eq!(answer.into_inner().status(), ServingStatus::Serving);
            let status = only(server.status().concurrency);
            assert_eq!((status.in_flight, status.refused()), (1, 1), "health checks are not counted");
            greeter.release();
            call.await.expect("no panic").expect("it is served");
        }
    })
    .await;
}

/// Of a server that the mesh knows nothing of.
#[tokio::test]
async fn the_layer_alone_limits_any_server() {
    let greeter = Backend::start("a").await;
    let layer = ConcurrencyLimitLayer::new(ConcurrencyLimit::fixed(2)).protocol(&Grpc);
    let layer = layer.criticality_header("x-tier".parse().expect("a name"));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("a bound listener");
    let server = Server::builder().layer(layer.clone()).add_service(greeter.service());
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    let mesh = quick().build().await.expect("a mesh");
    let client = Client::new(&mesh, &format!("static:///{address}"));
    greeter.hold();
    let first = held(&client, &greeter, None).await;
    let refused = client.hello_with(metadata(&[("x-tier", "SHEDDABLE")])).await.expect_err("half is taken");
    assert_eq!(refused.code(), Code::Unavailable);
    let second = held(&client, &greeter, Some(Criticality::Sheddable)).await;
    assert_eq!(client.hello().await.expect_err("it is full").message(), "reached concurrency limit");
    // A call that its caller gives up frees its place.
    first.abort();
    greeter.wait_for_in_flight(1).await;
    let third = held(&client, &greeter, None).await;
    assert_eq!((layer.status().in_flight, layer.status().refused()), (2, 2));
    greeter.release();
    second.await.expect("no panic").expect("it is served");
    third.await.expect("no panic").expect("it is served");
}
