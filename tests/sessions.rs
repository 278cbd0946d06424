//! Sessions (A55, A60): the calls of one go to the endpoint that answered its first, as its cookie says.

use std::collections::BTreeSet;

use mesh_core::identity::KeyMaterial;
use mesh_core::testing::{
    ControlPlane, EndpointBuilder, Resources, RouteBuilder, cluster, endpoint, endpoints, listener, route,
    route_config, virtual_host,
};
use mesh_core::{CallInfo, Mesh};
use mesh_examples::helloworld::HelloRequest;
use mesh_xds_proto::envoy::config::core::v3::{HealthStatus, HealthStatusSet, TypedExtensionConfig};
use mesh_xds_proto::envoy::extensions::filters::http::stateful_session::v3::stateful_session_per_route::Override;
use mesh_xds_proto::envoy::extensions::filters::http::stateful_session::v3::{
    StatefulSession, StatefulSessionPerRoute,
};
use mesh_xds_proto::envoy::extensions::http::stateful_session::cookie::v3::CookieBasedSessionState;
use mesh_xds_proto::envoy::extensions::http::stateful_session::header::v3::HeaderBasedSessionState;
use mesh_xds_proto::envoy::extensions::load_balancing_policies::pick_first::v3::PickFirst;
use mesh_xds_proto::envoy::r#type::http::v3::{Cookie, CookieAttribute};
use tonic::{Code, Request, Status};

use crate::support::backend::Backend;
use crate::support::client::{Client, assert_says, quick, quick_mesh};
use crate::support::in_time;
use crate::support::pki::{Authority, dns};
use crate::support::secured::{Site, context, host_name, secured_by};
use crate::support::tls::{TlsFront, server};

fn kept_in(cookie: Cookie) -> StatefulSession {
    let state = mesh_core::testing::any(&CookieBasedSessionState { cookie: Some(cookie) });
    let state = TypedExtensionConfig { name: "cookie".to_owned(), typed_config: Some(state) };
    StatefulSession { session_state: Some(state), ..Default::default() }
}

fn cookie() -> Cookie {
    Cookie { name: "session".to_owned(), ..Default::default() }
}

/// Some backends, and a control plane that sends the calls of a session to one of them.
struct Greeters {
    backends: Vec<Backend>,
    control_plane: ControlPlane,
    _mesh: Mesh,
    client: Client,
}

impl Greeters {
    async fn start(count: usize) -> Self {
        Self::with(count, &kept_in(cookie()), route().cluster("greeter")).await
    }

    async fn with(count: usize, session: &StatefulSession, route: RouteBuilder) -> Self {
        let mut backends = Vec::new();
        for number in 0..count {
            backends.push(Backend::start(&number.to_string()).await);
        }
        let control_plane = ControlPlane::new();
        let service = Resources::service("greeter", backends.iter().map(Backend::address));
        let listener = listener("greeter").rds("greeter").filter("session", session);
        control_plane.set(service.with(listener).with(route_config("greeter").routes([route])));
        let mesh = quick_mesh(&control_plane).await;
        let client = Client::new(&mesh, "xds:///greeter");
        Self { backends, control_plane, _mesh: mesh, client }
    }

    /// Of which health endpoints may have sessions.
    fn may_have_sessions(&self, statuses: &[HealthStatus]) {
        let statuses = statuses.iter().map(|status| *status as i32).collect();
        self.control_plane.put(cluster("greeter").modify(|cluster| {
            let config = cluster.common_lb_config.get_or_insert_default();
            config.override_host_status = Some(HealthStatusSet { statuses });
        }));
    }

    /// The control plane says so of the health of this backend; waits until new calls keep to it.
    async fn drain(&self, number: usize) {
        let health = |backend: usize| if backend == number { HealthStatus::Draining } else { HealthStatus::Healthy };
        let all = (0..self.backends.len()).map(|at| endpoint(self.backends[at].address()).health(health(at)));
        self.control_plane.put(endpoints("greeter").all(all));
        let drained = number.to_string();
        in_time("it drains", async { while answering(&self.client).await.contains(&drained) {} }).await;
    }
}

/// Who answered a call of a session, and the cookie that the response sets.
async fn call(client: &Client, cookie: Option<&str>) -> Result<(String, Option<String>), Status> {
    let mut request = Request::new(HelloRequest::default());
    if let Some(cookie) = cookie {
        request.metadata_mut().insert("cookie", cookie.parse().unwrap());
    }
    let response = client.greeter().say_hello(request).await?;
    let set = response.metadata().get("set-cookie").map(|value| value.to_str().unwrap().to_owned());
    Ok((response.into_inner().message, set))
}

/// Who answers a new session, and its cookie.
async fn begin(client: &Client) -> (String, String) {
    let (name, set) = call(client, None).await.unwrap();
    let set = set.expect("a session begins");
    (name, set.split(';').next().unwrap().to_owned())
}

/// Begins sessions until one is at this backend; its cookie.
async fn session_at(client: &Client, wanted: &str) -> String {
    loop {
        let (name, cookie) = begin(client).await;
        if name == wanted {
            return cookie;
        }
    }
}

/// Everyone who answers many calls without a session.
async fn answering(client: &Client) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for _ in 0..20 {
        names.insert(client.hello().await.unwrap());
    }
    names
}

#[tokio::test]
async fn calls_of_a_session_go_to_its_endpoint_and_those_of_none_anywhere() {
    let greeters = Greeters::start(4).await;
    for wanted in ["0", "1", "2", "3"] {
        let cookie = session_at(&greeters.client, wanted).await;
        for _ in 0..10 {
            let answer = call(&greeters.client, Some(&cookie)).await.unwrap();
            assert_eq!(answer, (wanted.to_owned(), None), "the cookie is set once");
        }
    }
}

#[tokio::test]
async fn the_cookie_is_set_as_configured_and_says_endpoint_and_cluster() {
    let attributes = vec![CookieAttribute { name: "SameSite".to_owned(), value: "Strict".to_owned() }];
    let ttl = Some(prost_types::Duration { seconds: 120, nanos: 0 });
    let cookie = Cookie { ttl, path: "/helloworld.Greeter".to_owned(), attributes, ..cookie() };
    let greeters = Greeters::with(1, &kept_in(cookie), route().cluster("greeter")).await;
    let (_, set) = call(&greeters.client, None).await.unwrap();
    let set = set.expect("a session begins");
    let (value, rest) = set.strip_prefix("session=").unwrap().split_once("; ").unwrap();
    assert_eq!(rest, "Max-Age=120; Path=/helloworld.Greeter; SameSite=Strict; HttpOnly");
    let plain = format!("{};greeter", greeters.backends[0].address());
    assert_eq!(base64::Engine::decode(&base64::prelude::BASE64_STANDARD, value).unwrap(), plain.as_bytes());
}

/// Who answered a call with this header, and the header of the response.
async fn call_with_header(client: &Client, session: Option<&str>) -> (String, Option<String>) {
    let mut request = Request::new(HelloRequest::default());
    if let Some(session) = session {
        request.metadata_mut().insert("x-session", session.parse().unwrap());
    }
    let response = client.greeter().say_hello(request).await.unwrap();
    let told = response.metadata().get("x-session").map(|value| value.to_str().unwrap().to_owned());
    (response.into_inner().message, told)
}

#[tokio::test]
async fn a_header_may_say_what_the_session_is_as_in_envoy() {
    let state = mesh_core::testing::any(&HeaderBasedSessionState { name: "X-Session".to_owned() });
    let state = TypedExtensionConfig { name: "header".to_owned(), typed_config: Some(state) };
    let session = StatefulSession { session_state: Some(state), ..Default::default() };
    let greeters = Greeters::with(3, &session, route().cluster("greeter")).await;
    for (number, backend) in greeters.backends.iter().enumerate() {
        let header = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, backend.address().to_string());
        for _ in 0..10 {
            let answer = call_with_header(&greeters.client, Some(&header)).await;
            assert_eq!(answer, (number.to_string(), None), "the application knows");
        }
    }
    for none in [None, Some("nonsense")] {
        let (name, told) = call_with_header(&greeters.client, none).await;
        let told = told.expect("a session begins");
        assert_eq!(call_with_header(&greeters.client, Some(&told)).await, (name, None));
    }
}

#[tokio::test]
async fn calls_for_another_path_have_no_session() {
    let cookie = Cookie { path: "/helloworld.Greet".to_owned(), ..cookie() };
    let greeters = Greeters::with(1, &kept_in(cookie), route().cluster("greeter")).await;
    assert_eq!(call(&greeters.client, None).await.unwrap(), ("0".to_owned(), None));
}

#[tokio::test]
async fn a_route_may_have_no_sessions() {
    let off = StatefulSessionPerRoute { r#override: Some(Override::Disabled(true)) };
    let route = route().cluster("greeter").filter_config("session", &off);
    let greeters = Greeters::with(1, &kept_in(cookie()), route).await;
    assert_eq!(call(&greeters.client, None).await.unwrap(), ("0".to_owned(), None));
}

#[tokio::test]
async fn a_session_whose_endpoint_is_gone_moves_and_is_told_so() {
    let mut greeters = Greeters::start(2).await;
    let cookie = session_at(&greeters.client, "0").await;
    greeters.backends[0].stop().await;
    in_time("it is gone", async { while answering(&greeters.client).await.contains("0") {} }).await;
    let (name, set) = call(&greeters.client, Some(&cookie)).await.unwrap();
    let moved = set.expect("the session is elsewhere now");
    assert_eq!(name, "1");
    assert_eq!(call(&greeters.client, moved.split(';').next()).await.unwrap(), ("1".to_owned(), None));
}

#[tokio::test]
async fn a_strict_session_fails_rather_than_move() {
    let session = StatefulSession { strict: true, ..kept_in(cookie()) };
    let greeters = Greeters::with(2, &session, route().cluster("greeter")).await;
    let cookie = session_at(&greeters.client, "0").await;
    assert_eq!(call(&greeters.client, Some(&cookie)).await.unwrap().0, "0");
    greeters.control_plane.put(endpoints("greeter").endpoint(greeters.backends[1].address()));
    in_time("it is gone", async { while answering(&greeters.client).await.contains("0") {} }).await;
    let status = call(&greeters.client, Some(&cookie)).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert_says(&status, &["session is at", &greeters.backends[0].address().to_string(), "cluster `greeter`"]);
    assert_eq!(greeters.client.hello().await.unwrap(), "1");
}

#[tokio::test]
async fn an_endpoint_that_is_draining_keeps_its_sessions_if_the_cluster_says_so_and_gets_no_others() {
    let greeters = Greeters::start(2).await;
    greeters.may_have_sessions(&[HealthStatus::Healthy, HealthStatus::Draining]);
    let cookie = session_at(&greeters.client, "0").await;
    greeters.drain(0).await;
    for _ in 0..10 {
        assert_eq!(call(&greeters.client, Some(&cookie)).await.unwrap(), ("0".to_owned(), None));
        assert_eq!(begin(&greeters.client).await.0, "1");
    }
    // It is gone: so is the session.
    greeters.control_plane.put(endpoints("greeter").endpoint(greeters.backends[1].address()));
    in_time("the session moves", async { while call(&greeters.client, Some(&cookie)).await.unwrap().0 == "0" {} })
        .await;
    greeters.backends[0].wait_for_connections(0).await;
}

#[tokio::test]
async fn an_endpoint_that_is_draining_loses_its_sessions_unless_the_cluster_says_otherwise() {
    let greeters = Greeters::start(2).await;
    let cookie = session_at(&greeters.client, "0").await;
    greeters.drain(0).await;
    let (name, set) = call(&greeters.client, Some(&cookie)).await.unwrap();
    assert_eq!((name.as_str(), set.is_some()), ("1", true));
}

#[tokio::test]
async fn a_client_that_starts_late_connects_to_an_endpoint_that_is_draining_for_its_sessions_alone() {
    let greeters = Greeters::start(2).await;
    greeters.may_have_sessions(&[HealthStatus::Healthy, HealthStatus::Draining]);
    let cookie = session_at(&greeters.client, "0").await;
    greeters.drain(0).await;
    let connections = greeters.backends[0].connections();
    let late = quick_mesh(&greeters.control_plane).await;
    let client = Client::new(&late, "xds:///greeter");
    assert_eq!(begin(&client).await.0, "1");
    assert_eq!(greeters.backends[0].connections(), connections);
    for _ in 0..5 {
        assert_eq!(call(&client, Some(&cookie)).await.unwrap(), ("0".to_owned(), None));
    }
    assert_eq!(begin(&client).await.0, "1");
    assert_eq!(greeters.backends[0].connections(), connections + 1);
}

/// It is connected for its session alone, and then the control plane has another name for it.
#[tokio::test]
async fn s5_a_session_goes_on_over_a_connection_that_is_secured_as_its_endpoint_is_now() {
    let authority = Authority::new();
    let config = || server(&authority.issue(&[dns("one.shop.test"), dns("two.shop.test")], |_| {}), None);
    let backend = Backend::start("b").await;
    let front = TlsFront::start(backend.address(), config()).await;
    let config = config();
    let site = Site::with(authority, config).await;
    let mut asked = context(&[]);
    asked.common_tls_context.as_mut().unwrap().tls_certificate_provider_instance = None;
    (asked.auto_host_sni, asked.auto_sni_san_validation) = (true, true);
    site.control_plane.put(secured_by(cluster("greeter"), &asked).modify(|cluster| {
        let statuses = [HealthStatus::Healthy, HealthStatus::Draining].map(|status| status as i32).to_vec();
        cluster.common_lb_config.get_or_insert_default().override_host_status = Some(HealthStatusSet { statuses });
    }));
    site.control_plane.put(listener("greeter").rds("greeter").filter("session", &kept_in(cookie())));
    let known_as = |name: &str, health| {
        let other = endpoint(front.address()).modify(|member| host_name(member, "one.shop.test"));
        site.control_plane
            .put(endpoints("greeter").endpoint(site.endpoint_known_as(name).health(health)).endpoint(other));
    };
    known_as("one.shop.test", HealthStatus::Healthy);
    let roots = || KeyMaterial::new().trust(site.authority.trust());
    let early = site.mesh(quick().certificate_provider("default", roots())).await;
    let session = session_at(&Client::new(&early, "xds:///greeter"), "a").await;
    known_as("one.shop.test", HealthStatus::Draining);
    let late = site.mesh(quick().certificate_provider("default", roots())).await;
    let client = Client::new(&late, "xds:///greeter");
    assert_eq!(call(&client, Some(&session)).await.unwrap(), ("a".to_owned(), None));

    known_as("two.shop.test", HealthStatus::Draining);
    let has_new_name =
        || site.front.clients().last().is_some_and(|one| one.server_name.as_deref() == Some("two.shop.test"));
    in_time("a connection for the new name", async {
        while !has_new_name() {
            assert_eq!(call(&client, Some(&session)).await.unwrap().0, "a");
        }
    })
    .await;
}

#[tokio::test]
async fn a_session_goes_before_pick_first() {
    let greeters = Greeters::start(3).await;
    let cookie = session_at(&greeters.client, "2").await;
    greeters.control_plane.put(cluster("greeter").policy("pick_first", &PickFirst::default()));
    let late = quick_mesh(&greeters.control_plane).await;
    let client = Client::new(&late, "xds:///greeter");
    in_time("the first answers who has no session", async { while begin(&client).await.0 != "0" {} }).await;
    for _ in 0..5 {
        assert_eq!(call(&client, Some(&cookie)).await.unwrap(), ("2".to_owned(), None));
        assert_eq!(begin(&client).await.0, "0");
    }
}

#[tokio::test]
async fn a_session_keeps_its_cluster_among_those_of_its_route() {
    let both = route().weighted([("greeter", 1), ("canary", 1)]);
    let greeters = Greeters::with(2, &kept_in(cookie()), both).await;
    let canary: [EndpointBuilder; 1] = [endpoint(greeters.backends[1].address())];
    greeters.control_plane.put_all(
        Resources::new()
            .with(cluster("canary"))
            .with(endpoints("canary").all(canary))
            .with(endpoints("greeter").endpoint(greeters.backends[0].address())),
    );
    for (wanted, cluster) in [("0", "greeter"), ("1", "canary")] {
        let cookie = session_at(&greeters.client, wanted).await;
        for _ in 0..20 {
            let mut request = Request::new(HelloRequest::default());
            request.metadata_mut().insert("cookie", cookie.parse().unwrap());
            let response = greeters.client.greeter().say_hello(request).await.unwrap();
            assert!(response.metadata().get("set-cookie").is_none());
            assert_eq!(response.extensions().get::<CallInfo>().unwrap().cluster(), cluster);
            assert_eq!(response.into_inner().message, wanted);
        }
    }
    // The route does not name the cluster any more: the session begins anew.
    let cookie = session_at(&greeters.client, "1").await;
    let route = route().cluster("greeter");
    let host = virtual_host(["*"]).route(route);
    greeters.control_plane.put(route_config("greeter").with(host));
    in_time("the first alone answers who has no session", async {
        while begin(&greeters.client).await.0 != "0" || answering(&greeters.client).await.len() > 1 {}
    })
    .await;
    let (name, set) = call(&greeters.client, Some(&cookie)).await.unwrap();
    assert_eq!((name.as_str(), set.is_some()), ("0", true));
}

#[tokio::test]
async fn retries_stay_with_the_session() {
    let route = route().cluster("greeter").retry_on("unavailable", 2);
    let greeters = Greeters::with(2, &kept_in(cookie()), route).await;
    let cookie = session_at(&greeters.client, "0").await;
    greeters.backends[0].fail_times(2, Status::unavailable("busy"));
    let before = greeters.backends[0].calls();
    assert_eq!(call(&greeters.client, Some(&cookie)).await.unwrap(), ("0".to_owned(), None));
    assert_eq!(greeters.backends[0].calls(), before + 3);
}

#[tokio::test]
async fn a_cookie_of_nonsense_is_no_session() {
    let greeters = Greeters::start(2).await;
    for cookie in ["session=%%%", "session=", "session=bm9uc2Vuc2U=", "other=1"] {
        let (_, set) = call(&greeters.client, Some(cookie)).await.unwrap();
        assert!(set.is_some(), "{cookie}: a session begins");
    }
}

#[tokio::test]
async fn a_bad_session_is_refused_by_name_and_the_last_good_one_serves() {
    let greeters = Greeters::start(2).await;
    let cookie = session_at(&greeters.client, "0").await;
    let nameless = kept_in(Cookie::default());
    greeters.control_plane.put(listener("greeter").rds("greeter").filter("session", &nameless));
    let (_, text) = greeters.control_plane.next_nack().await.error.expect("a NACK says why");
    assert!(text.contains("session_state.typed_config.cookie.name: must be set"), "{text}");
    for _ in 0..5 {
        assert_eq!(call(&greeters.client, Some(&cookie)).await.unwrap(), ("0".to_owned(), None));
    }
}
