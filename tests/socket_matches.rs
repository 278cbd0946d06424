//! `transport_socket_matches`: what secures the connections to an endpoint, by the endpoint's metadata.

use mesh_core::testing::{EndpointBuilder, Resources, cluster, endpoint, endpoints};
use mesh_core::{Mesh, MeshBuilder, SecurityFloor};
use mesh_xds_proto::envoy::config::cluster::v3::cluster::TransportSocketMatch;
use mesh_xds_proto::envoy::config::core::v3::TransportSocket;
use mesh_xds_proto::envoy::extensions::transport_sockets::tls::v3 as tls;

use crate::support::backend::Backend;
use crate::support::client::{Client, assert_says, impatient, quick};
use crate::support::secured::{
    CLIENT, SERVER, Site, connections, context, instance, raw_socket, says_in_time, socket_match, tls_mode, tls_socket,
    validation,
};

/// An endpoint behind TLS and one in plaintext.
struct Mixed {
    site: Site,
    plain: Backend,
}

/// What Istio's proxies have: `tlsMode-istio`, and plaintext for all else.
fn istio() -> Vec<TransportSocketMatch> {
    vec![socket_match(Some("istio"), tls_socket(&context(&[SERVER]))), socket_match(None, raw_socket())]
}

impl Mixed {
    async fn start() -> Self {
        Self { site: Site::mutual().await, plain: Backend::start("plain").await }
    }

    fn ask(&self, default: Option<TransportSocket>, matches: Vec<TransportSocketMatch>) {
        self.site.control_plane.put(cluster("greeter").modify(|cluster| {
            cluster.transport_socket = default;
            cluster.transport_socket_matches = matches;
        }));
    }

    fn behind_tls(&self, mode: Option<&str>) -> EndpointBuilder {
        labelled(endpoint(self.site.front.address()), mode)
    }

    fn in_plaintext(&self, mode: Option<&str>) -> EndpointBuilder {
        labelled(endpoint(self.plain.address()), mode)
    }

    fn list(&self, listed: impl IntoIterator<Item = EndpointBuilder>) {
        let all = listed.into_iter().fold(endpoints("greeter"), |all, one| all.endpoint(one));
        self.site.control_plane.put(all);
    }

    async fn mesh(&self, builder: MeshBuilder, floor: SecurityFloor) -> Mesh {
        self.site.mesh(builder.certificate_provider("default", self.site.material()).security_floor(floor)).await
    }
}

fn labelled(endpoint: EndpointBuilder, mode: Option<&str>) -> EndpointBuilder {
    endpoint.modify(|endpoint| endpoint.metadata = mode.map(tls_mode).unwrap_or_default().into())
}

#[tokio::test]
async fn each_endpoint_is_secured_as_its_metadata_says_or_as_the_cluster_does() {
    let mixed = Mixed::start().await;
    mixed.list([mixed.behind_tls(Some("istio")), mixed.in_plaintext(None)]);
    mixed.ask(None, istio());
    let mesh = mixed.mesh(quick(), SecurityFloor::new()).await;
    let client = Client::new(&mesh, "xds:///greeter");
    client.hello_until("a").await;
    client.hello_until("plain").await;
    let secured = connections(&mesh);
    assert_eq!(secured.len(), 1, "{secured:?}");
    assert_eq!(secured[0].peer.uris[..], [SERVER.to_owned()]);

    // What fits no match is as the cluster's own socket says; labels of another value fit none.
    let plain = vec![socket_match(Some("disabled"), raw_socket())];
    mixed.list([mixed.behind_tls(Some("other")), mixed.in_plaintext(Some("disabled"))]);
    mixed.ask(Some(tls_socket(&context(&[SERVER]))), plain);
    client.hello_until("a").await;
    client.hello_until("plain").await;

    // Labels of a locality are those of its endpoints.
    let by_locality = endpoints("greeter").endpoint(mixed.behind_tls(None)).modify(|assignment| {
        assignment.endpoints[0].metadata = tls_mode("istio").into();
    });
    mixed.site.control_plane.put(by_locality);
    mixed.ask(None, istio());
    client.hello_until("a").await;
    for _ in 0..10 {
        assert_eq!(client.hello().await.unwrap(), "a");
    }
    assert_eq!(connections(&mesh).len(), 1);
}

#[tokio::test]
async fn s5_an_endpoint_whose_metadata_changes_is_connected_anew_and_no_call_takes_the_old_connection() {
    let mixed = Mixed::start().await;
    mixed.list([mixed.behind_tls(Some("istio"))]);
    mixed.ask(None, istio());
    let mesh = mixed.mesh(impatient(), SecurityFloor::new()).await;
    let client = Client::new(&mesh, "xds:///greeter");
    assert_eq!(client.hello().await.unwrap(), "a");
    // The same address, which speaks TLS alone: in plaintext nothing is answered.
    mixed.list([mixed.behind_tls(None)]);
    let failed = async { while client.hello().await.is_ok() {} };
    tokio::time::timeout(crate::support::PATIENCE, failed).await.expect("it is connected in plaintext");
    let calls = mixed.site.backend.calls();
    assert!(client.hello().await.is_err());
    assert_eq!(mixed.site.backend.calls(), calls);
    // Another context of the same endpoint, which asks for somebody else.
    mixed.list([mixed.behind_tls(Some("istio"))]);
    assert_eq!(client.recovers().await, "a");
    mixed.ask(None, vec![socket_match(Some("istio"), tls_socket(&context(&[CLIENT])))]);
    says_in_time(&client, "the cluster asks for another peer").await;
}

#[tokio::test]
async fn s7_an_endpoint_below_the_floor_is_not_connected_and_is_listed_while_its_cluster_lives() {
    let mixed = Mixed::start().await;
    mixed.list([mixed.behind_tls(Some("istio")), mixed.in_plaintext(None)]);
    mixed.ask(None, istio());
    let mesh = mixed.mesh(quick(), SecurityFloor::new().require_mtls()).await;
    let client = Client::new(&mesh, "xds:///greeter");
    for _ in 0..20 {
        assert_eq!(client.hello().await.unwrap(), "a");
    }
    assert_eq!(mixed.plain.connections(), 0, "not one byte in plaintext");
    let says = "an endpoint of cluster `greeter` is below the security floor of this mesh: it is in plaintext, and mTLS is \
                required";
    let problem = |mesh: &Mesh, at: &Backend| {
        let endpoints = mesh.status().targets[0].clusters[0].endpoints.clone();
        let listed = endpoints.into_iter().find(|one| one.address.to_string() == at.address().to_string());
        listed.expect("it is listed").last_error.map(|error| error.to_string())
    };
    assert!(problem(&mesh, &mixed.plain).is_some_and(|error| error.contains(says)), "{:?}", mesh.status());
    assert_eq!(mesh.status().targets[0].clusters[0].problem, None);

    // TLS that shows no certificate of this process is too little as well.
    let mut anonymous = context(&[SERVER]);
    anonymous.common_tls_context.as_mut().unwrap().tls_certificate_provider_instance = None;
    let matches = vec![socket_match(Some("istio"), tls_socket(&context(&[SERVER])))];
    mixed.ask(Some(tls_socket(&anonymous)), matches);
    let told = async {
        while !problem(&mesh, &mixed.plain)
            .is_some_and(|error| error.contains("asks for no certificate of this process"))
        {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(crate::support::PATIENCE, told).await.expect("it is said");
    assert_eq!(client.hello().await.unwrap(), "a");

    // Without any other, calls fail and say so.
    mixed.list([mixed.in_plaintext(None)]);
    mixed.ask(None, istio());
    let alone = mixed.mesh(impatient(), SecurityFloor::new().require_mtls()).await;
    assert_says(&Client::new(&alone, "xds:///greeter").hello().await.unwrap_err(), &[says]);
    assert_eq!(mixed.plain.connections(), 0);
}

#[tokio::test]
async fn a_match_that_cannot_be_done_is_refused_by_its_field_and_never_becomes_plaintext() {
    let mixed = Mixed::start().await;
    mixed.site.control_plane.set(Resources::service("greeter", [mixed.site.front.address()]));
    mixed.site.ask(&context(&[SERVER]));
    let mesh = mixed.mesh(quick(), SecurityFloor::new()).await;
    let client = Client::new(&mesh, "xds:///greeter");
    assert_eq!(client.hello().await.unwrap(), "a");
    let mut unknown = context(&[SERVER]);
    validation(&mut unknown).ca_certificate_provider_instance =
        Some(tls::CertificateProviderPluginInstance { instance_name: "nobody".into(), ..instance() });
    let without = TransportSocketMatch { transport_socket: None, ..socket_match(None, raw_socket()) };
    let other = TransportSocket { name: "quic".into(), ..Default::default() };
    for (matching, field) in [
        (socket_match(None, tls_socket(&unknown)), "validation_context.ca_certificate_provider_instance.instance_name"),
        (socket_match(None, other), "transport_socket.typed_config"),
        (without, "transport_socket: must be set"),
    ] {
        mixed.ask(None, vec![socket_match(None, raw_socket()), matching]);
        let (_, nack) = mixed.site.control_plane.next_nack().await.error.expect("a NACK says why");
        assert!(nack.contains("transport_socket_matches[1].") && nack.contains(field), "{nack}");
        assert_eq!(client.hello().await.unwrap(), "a", "the last good one serves");
    }
}
