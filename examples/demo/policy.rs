//! What the control plane says of the vault: mTLS on both sides, and who may call.

use std::net::SocketAddr;

use mesh_core::testing::{
    Resources, any, cluster, endpoints, filter_chain, listener, route, route_config, server_listener,
};
use mesh_xds_proto::envoy::config::core::v3::TransportSocket;
use mesh_xds_proto::envoy::config::core::v3::transport_socket::ConfigType;
use mesh_xds_proto::envoy::config::rbac::v3::permission::Rule;
use mesh_xds_proto::envoy::config::rbac::v3::principal::{Authenticated, Identifier};
use mesh_xds_proto::envoy::config::rbac::v3::{Permission, Policy, Principal, Rbac as Rules};
use mesh_xds_proto::envoy::extensions::filters::http::rbac::v3::Rbac;
use mesh_xds_proto::envoy::extensions::transport_sockets::tls::v3::common_tls_context::ValidationContextType;
use mesh_xds_proto::envoy::extensions::transport_sockets::tls::v3::{
    CertificateProviderPluginInstance, CertificateValidationContext, CommonTlsContext, DownstreamTlsContext,
    UpstreamTlsContext,
};
use mesh_xds_proto::envoy::r#type::matcher::v3::StringMatcher;
use mesh_xds_proto::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use prost::Name;

use crate::vault::VAULT;

/// What is called, as `xds:///vault`.
pub(crate) const SERVICE: &str = "vault";
/// The certificates that both sides show, and the roots that they trust.
pub(crate) const PROVIDER: &str = "demo";

/// The vault at this address serves this caller alone.
pub(crate) fn resources(address: SocketAddr, admitted: &str) -> Resources {
    let secured = UpstreamTlsContext { common_tls_context: Some(tls([VAULT])), ..Default::default() };
    let cluster = cluster(SERVICE).modify(|cluster| cluster.transport_socket = Some(socket(&secured)));
    let accepted = DownstreamTlsContext {
        common_tls_context: Some(tls([])),
        require_client_certificate: Some(true),
        ..Default::default()
    };
    let chain = filter_chain().filter("rbac", &allow(admitted));
    let chain = chain.modify(|chain| chain.transport_socket = Some(socket(&accepted)));
    Resources::new()
        .with(listener(SERVICE))
        .with(route_config(SERVICE).routes([route().cluster(SERVICE)]))
        .with(cluster)
        .with(endpoints(SERVICE).endpoint(address))
        .with(server_listener(address).chains([chain]))
}

/// The own certificate is shown, and the peer is one of these; with none, any whom the roots vouch for.
fn tls<const N: usize>(peers: [&str; N]) -> CommonTlsContext {
    let instance = || Some(CertificateProviderPluginInstance { instance_name: PROVIDER.into(), ..Default::default() });
    let validation = CertificateValidationContext {
        ca_certificate_provider_instance: instance(),
        match_subject_alt_names: peers.map(exact).into(),
        ..Default::default()
    };
    CommonTlsContext {
        tls_certificate_provider_instance: instance(),
        validation_context_type: Some(ValidationContextType::ValidationContext(validation)),
        ..Default::default()
    }
}

fn socket(context: &impl Name) -> TransportSocket {
    TransportSocket { name: "tls".into(), config_type: Some(ConfigType::TypedConfig(any(context))) }
}

fn exact(name: &str) -> StringMatcher {
    StringMatcher { match_pattern: Some(MatchPattern::Exact(name.into())), ..Default::default() }
}

fn allow(caller: &str) -> Rbac {
    let caller = Identifier::Authenticated(Authenticated { principal_name: Some(exact(caller)) });
    let policy = Policy {
        permissions: vec![Permission { rule: Some(Rule::Any(true)) }],
        principals: vec![Principal { identifier: Some(caller) }],
        ..Default::default()
    };
    Rbac {
        rules: Some(Rules { policies: [("callers".into(), policy)].into(), ..Default::default() }),
        ..Default::default()
    }
}
