//! What an authorization service is told of a call.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::SystemTime;

use http::HeaderName;
use http::request::Parts;
use mesh_xds_proto::envoy::config::core::v3::address::Address as Kind;
use mesh_xds_proto::envoy::config::core::v3::socket_address::PortSpecifier;
use mesh_xds_proto::envoy::config::core::v3::{Address, HeaderMap, HeaderValue, SocketAddress};
use mesh_xds_proto::envoy::service::auth::v3::attribute_context::{HttpRequest, Peer, Request};
use mesh_xds_proto::envoy::service::auth::v3::{AttributeContext, CheckRequest};
use prost::Message;

use super::ExtAuthz;
use crate::resource::matcher::RequestHead;

/// Both ends of the connection that a call came on.
#[derive(Clone, Debug)]
pub(crate) struct Parties {
    pub(crate) peer_address: SocketAddr,
    /// The caller's verified name, if it has one.
    pub(crate) peer: Option<String>,
    /// The caller's certificate in PEM, with `%` for what a URL cannot hold.
    pub(crate) certificate: Option<String>,
    pub(crate) local_address: SocketAddr,
    /// The name in the certificate that the caller was shown.
    pub(crate) local: Option<String>,
}

/// One question.
pub(crate) struct Asked<'a> {
    pub(crate) head: &'a Parts,
    /// `None` on a client.
    pub(crate) parties: Option<Parties>,
    pub(crate) context_extensions: &'a BTreeMap<String, String>,
    pub(crate) time: SystemTime,
}

impl ExtAuthz {
    /// The encoded `CheckRequest`, as A92 fills it; `host`, of which A92 says nothing, is the authority as in Envoy.
    pub(crate) fn request(&self, asked: Asked<'_>) -> Vec<u8> {
        let Asked { head, parties, context_extensions, time } = asked;
        let (source, destination) = parties.map(|parties| self.parties(parties)).unzip();
        let request = Request { time: Some(time.into()), http: Some(self.http(head)) };
        let attributes = AttributeContext {
            source,
            destination,
            request: Some(request),
            context_extensions: context_extensions.clone(),
            ..Default::default()
        };
        CheckRequest { attributes: Some(attributes) }.encode_to_vec()
    }

    fn parties(&self, parties: Parties) -> (Peer, Peer) {
        let source = Peer {
            address: Some(address(parties.peer_address)),
            principal: parties.peer.unwrap_or_default(),
            certificate: parties.certificate.filter(|_| self.include_peer_certificate).unwrap_or_default(),
            ..Default::default()
        };
        let destination = Peer {
            address: Some(address(parties.local_address)),
            principal: parties.local.unwrap_or_default(),
            ..Default::default()
        };
        (source, destination)
    }

    fn http(&self, head: &Parts) -> HttpRequest {
        // As routes and policies see it: what the service decides on is what they do.
        let RequestHead { path, authority, .. } = RequestHead::of_parts(head);
        let told = head.headers.iter().filter(|(name, _)| self.tells(name));
        let headers = told.map(|(name, value)| HeaderValue {
            key: name.as_str().to_owned(),
            raw_value: value.as_bytes().to_vec().into(),
            ..Default::default()
        });
        HttpRequest {
            method: head.method.as_str().to_owned(),
            header_map: Some(HeaderMap { headers: headers.collect() }),
            path: path.to_owned(),
            host: authority.to_owned(),
            size: -1,
            protocol: "HTTP/2".to_owned(),
            ..Default::default()
        }
    }

    fn tells(&self, name: &HeaderName) -> bool {
        let name = name.as_str().as_bytes();
        let matches = |list: &[_]| list.iter().any(|text: &super::TextMatch| text.matches(name));
        !matches(&self.disallowed_headers) && self.allowed_headers.as_ref().is_none_or(|allowed| matches(allowed))
    }
}

fn address(address: SocketAddr) -> Address {
    let socket = SocketAddress {
        address: address.ip().to_string(),
        port_specifier: Some(PortSpecifier::PortValue(address.port().into())),
        ..Default::default()
    };
    Address { address: Some(Kind::SocketAddress(socket)) }
}
