//! Envoy's zone-aware choice: calls stay in the zone of the process as far as the endpoints there can take them.

use std::collections::BTreeMap;

use mesh_core::testing::{
    ClusterBuilder, ControlPlane, EndpointsBuilder, Resources, cluster, endpoint, endpoints, locality, type_url,
};
use mesh_core::{Bootstrap, Mesh, MeshBuilder, Profile};
use mesh_xds_proto::envoy::config::cluster::v3::cluster::common_lb_config::{
    LocalityConfigSpecifier, ZoneAwareLbConfig,
};
use mesh_xds_proto::envoy::config::core::v3::HealthStatus;
use mesh_xds_proto::envoy::extensions::load_balancing_policies::common::v3::LocalityLbConfig;
use mesh_xds_proto::envoy::extensions::load_balancing_policies::common::v3::locality_lb_config as in_policy;
use mesh_xds_proto::envoy::extensions::load_balancing_policies::common::v3::locality_lb_config::zone_aware_lb_config::ForceLocalZone;
use mesh_xds_proto::envoy::extensions::load_balancing_policies::random::v3::Random;
use mesh_xds_proto::envoy::r#type::v3::Percent;

use crate::support::backend::Backend;
use crate::support::client::{Client, assert_says, quick};
use crate::support::{in_time, until};

const ZONES: [&str; 3] = ["a", "b", "c"];

/// Two backends in each zone, named like it.
struct Zones(Vec<Backend>);

impl Zones {
    async fn start() -> Self {
        let mut backends = Vec::new();
        for zone in ZONES {
            backends.extend([Backend::start(zone).await, Backend::start(zone).await]);
        }
        Self(backends)
    }

    fn assignment(&self) -> EndpointsBuilder {
        let locality =
            |(zone, backends): (&str, &[Backend])| locality("r", zone, "").all(backends.iter().map(Backend::address));
        ZONES.into_iter().zip(self.0.chunks(2)).map(locality).fold(endpoints("greeter"), EndpointsBuilder::locality)
    }

    /// All of the endpoints are connected, and nothing of the callers' cluster is.
    async fn are_connected(&self) {
        until("every endpoint is connected", || self.0.iter().all(|backend| backend.connections() > 0)).await;
    }
}

/// The cluster of the callers, of which so many are in each zone. Nothing listens there, and nobody connects.
fn callers(counts: [u16; 3]) -> EndpointsBuilder {
    let address = |zone: usize, number: u16| format!("192.0.2.{zone}:{}", 1000 + number);
    let locality = |(zone, count): (usize, u16)| {
        locality("r", ZONES[zone], "").all((0..count).map(|number| address(zone, number)))
    };
    counts.into_iter().enumerate().map(locality).fold(endpoints("callers"), EndpointsBuilder::locality)
}

fn zone_aware(config: ZoneAwareLbConfig) -> ClusterBuilder {
    cluster("greeter").modify(|cluster| {
        let common = cluster.common_lb_config.get_or_insert_default();
        common.locality_config_specifier = Some(LocalityConfigSpecifier::ZoneAwareLbConfig(config));
    })
}

fn in_zone_a() -> Bootstrap {
    let bootstrap = Bootstrap::builder("in-process").insecure().node_id("test").locality("r", "a", "");
    bootstrap.build().expect("a bootstrap")
}

fn caller(control_plane: &ControlPlane) -> MeshBuilder {
    quick().control_plane(control_plane).bootstrap(in_zone_a()).profile(Profile::Envoy).local_cluster("callers")
}

/// Of six hundred calls, how many were answered in each zone.
async fn shares(client: &Client) -> BTreeMap<String, u32> {
    let mut shares = BTreeMap::new();
    for _ in 0..600 {
        *shares.entry(client.hello().await.expect("an answer")).or_default() += 1;
    }
    shares
}

/// That each share is that, but for six standard deviations.
#[track_caller]
fn assert_about(found: &BTreeMap<String, u32>, wanted: [f64; 3]) {
    for (zone, wanted) in ZONES.into_iter().zip(wanted) {
        let found = f64::from(found.get(zone).copied().unwrap_or_default());
        let deviation = (600.0 * wanted * (1.0 - wanted)).sqrt();
        assert!((found - 600.0 * wanted).abs() <= 6.0 * deviation, "{zone}: {found} of 600, not {wanted}");
    }
}

/// Waits until a hundred calls in a row stay in the zone.
async fn all_stay(client: &Client) {
    let staying = async {
        let mut stayed = 0;
        while stayed < 100 {
            stayed = if client.hello().await.expect("an answer") == "a" { stayed + 1 } else { 0 };
        }
    };
    in_time("all calls stay", staying).await;
}

#[tokio::test]
async fn calls_stay_in_their_zone_as_far_as_its_endpoints_can_take_them() {
    let zones = Zones::start().await;
    let control_plane = ControlPlane::new();
    let all = Resources::service("greeter", [zones.0[0].address()]).with(zones.assignment());
    // Half of the callers are here, and a third of the endpoints: two of three calls stay.
    control_plane
        .set(all.with(zone_aware(ZoneAwareLbConfig::default())).with(cluster("callers")).with(callers([2, 1, 1])));
    let mesh = caller(&control_plane).build().await.unwrap();
    let client = Client::new(&mesh, "xds:///greeter");
    client.hello().await.unwrap();
    zones.are_connected().await;
    control_plane.acked(type_url::ENDPOINTS).await;
    assert_about(&shares(&client).await, [2.0 / 3.0, 1.0 / 6.0, 1.0 / 6.0]);
    control_plane.put(callers([1, 1, 1]));
    all_stay(&client).await;
    // What is known of the callers holds until there is something better.
    control_plane.remove(type_url::CLUSTER, "callers");
    control_plane.acked(type_url::CLUSTER).await;
    all_stay(&client).await;
    let bad = ZoneAwareLbConfig { routing_enabled: Some(Percent { value: 101.0 }), ..Default::default() };
    control_plane.put(zone_aware(bad));
    let (_, text) = control_plane.next_nack().await.error.expect("a NACK says why");
    assert!(text.contains("common_lb_config.zone_aware_lb_config.routing_enabled.value: 101"), "{text}");
    all_stay(&client).await;
}

#[tokio::test]
async fn the_policy_itself_may_keep_all_calls_in_their_zone() {
    let zones = Zones::start().await;
    let control_plane = ControlPlane::new();
    let forced = in_policy::ZoneAwareLbConfig {
        force_local_zone: Some(ForceLocalZone { min_size: Some(2) }),
        ..Default::default()
    };
    let specifier = in_policy::LocalityConfigSpecifier::ZoneAwareLbConfig(forced);
    let policy = Random { locality_lb_config: Some(LocalityLbConfig { locality_config_specifier: Some(specifier) }) };
    let all = Resources::service("greeter", [zones.0[0].address()]).with(zones.assignment());
    let greeter = cluster("greeter").policy("random", &policy);
    control_plane.set(all.with(greeter).with(cluster("callers").fixed(callers([3, 0, 0]))));
    let mesh = caller(&control_plane).build().await.unwrap();
    let client = Client::new(&mesh, "xds:///greeter");
    all_stay(&client).await;
    zones.are_connected().await;
    assert_eq!(shares(&client).await, BTreeMap::from([("a".to_owned(), 600)]));
}

#[tokio::test]
async fn without_a_local_cluster_every_zone_gets_its_share_and_the_field_is_listed() {
    let zones = Zones::start().await;
    let control_plane = ControlPlane::new();
    let all = Resources::service("greeter", [zones.0[0].address()]).with(zones.assignment());
    control_plane.set(all.with(zone_aware(ZoneAwareLbConfig::default())));
    for mesh in
        [quick().control_plane(&control_plane).profile(Profile::Envoy), caller(&control_plane).profile(Profile::Grpc)]
    {
        let mesh = mesh.build().await.unwrap();
        let client = Client::new(&mesh, "xds:///greeter");
        client.hello().await.unwrap();
        zones.are_connected().await;
        let ignored = mesh.ignored_fields();
        assert!(ignored.iter().any(|field| field.path == "common_lb_config.zone_aware_lb_config"), "{ignored:?}");
        let shares = shares(&client).await;
        assert!(shares.len() == 3, "{shares:?}");
    }
}

#[tokio::test]
async fn calls_fail_in_a_panic_if_that_is_asked() {
    use HealthStatus::{Healthy, Unhealthy};
    let zones = Zones::start().await;
    let control_plane = ControlPlane::new();
    let assignment = |healthy: usize| {
        let health = |index: usize| if index < healthy { Healthy } else { Unhealthy };
        let members = zones.0.iter().enumerate();
        let members = members.map(|(index, backend)| endpoint(backend.address()).health(health(index)));
        endpoints("greeter").locality(locality("r", "a", "").all(members))
    };
    let all = Resources::service("greeter", [zones.0[0].address()]).with(assignment(6));
    let failing = ZoneAwareLbConfig { fail_traffic_on_panic: true, ..Default::default() };
    control_plane.set(all.with(zone_aware(failing)));
    let mesh = quick().control_plane(&control_plane).profile(Profile::Envoy).build().await.unwrap();
    let client = Client::new(&mesh, "xds:///greeter");
    client.hello().await.unwrap();
    // Two of six are less than half.
    control_plane.put(assignment(2));
    // A call that fails at once leaves no time for news of the control plane.
    let refused = async {
        loop {
            match client.hello().await {
                Err(status) => break status,
                Ok(_) => tokio::task::yield_now().await,
            }
        }
    };
    let refusal = in_time("a call fails", refused).await;
    assert_says(&refusal, &["cluster `greeter` has no endpoint for this call", "4 unhealthy for the control plane"]);
    control_plane.put(assignment(3));
    let answered = async {
        while client.hello().await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    in_time("calls are answered again", answered).await;
}

#[tokio::test]
async fn a_local_cluster_needs_a_control_plane_and_a_place() {
    let build = |builder: MeshBuilder| builder.profile(Profile::Envoy).local_cluster("callers").build();
    let error = build(Mesh::builder()).await.unwrap_err().to_string();
    assert!(error.contains("the mesh has no control plane"), "{error}");
    let nowhere = Bootstrap::builder("in-process").insecure().node_id("test").build().unwrap();
    let error = build(quick().control_plane(&ControlPlane::new()).bootstrap(nowhere)).await.unwrap_err().to_string();
    assert!(error.contains("the bootstrap does not say where this process is"), "{error}");
}
