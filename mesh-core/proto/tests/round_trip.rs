//! The generated types agree with the names and the bytes that other implementations use.

use mesh_xds_proto::envoy::config::listener::v3::{ApiListener, Listener};
use mesh_xds_proto::envoy::config::route::v3::{RouteConfiguration, VirtualHost};
use mesh_xds_proto::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use mesh_xds_proto::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::RouteSpecifier;
use prost::{Message, Name};
use prost_types::Any;

const HCM_URL: &str =
    "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";

fn manager() -> HttpConnectionManager {
    let host = VirtualHost { name: "greeter".into(), domains: vec!["*".into()], ..Default::default() };
    let routes = RouteConfiguration { name: "routes".into(), virtual_hosts: vec![host], ..Default::default() };
    HttpConnectionManager { route_specifier: Some(RouteSpecifier::RouteConfig(routes)), ..Default::default() }
}

fn listener() -> Listener {
    let api_listener = Any::from_msg(&manager()).expect("a Vec grows");
    Listener {
        name: "greeter".into(),
        api_listener: Some(ApiListener { api_listener: Some(api_listener) }),
        ..Default::default()
    }
}

#[test]
fn type_urls_are_those_of_xds() {
    assert_eq!(Listener::type_url(), "type.googleapis.com/envoy.config.listener.v3.Listener");
    assert_eq!(HttpConnectionManager::type_url(), HCM_URL);
}

#[test]
fn listener_with_its_connection_manager_survives_encoding() {
    let any = Any::from_msg(&listener()).expect("a Vec grows");
    assert_eq!(any.type_url, Listener::type_url());
    let decoded: Listener = any.to_msg().expect("what was just encoded");
    assert_eq!(decoded, listener());

    let inner = decoded.api_listener.and_then(|api| api.api_listener).expect("set above");
    assert_eq!(inner.type_url, HCM_URL);
    assert_eq!(HttpConnectionManager::decode(inner.value.as_slice()), Ok(manager()));
}

#[test]
fn field_numbers_are_those_of_the_published_schema() {
    let named = Listener { name: "l".into(), ..Default::default() };
    assert_eq!(named.encode_to_vec(), b"\x0a\x01l");
    let with_api = Listener { api_listener: Some(ApiListener::default()), ..Default::default() };
    assert_eq!(with_api.encode_to_vec(), b"\x9a\x01\x00", "api_listener is field 19");
}
