//! Endpoints that say no more than their IP address and port, as nearly all do: read where they lie.
//!
//! An assignment may have ten thousand, and to make a message of each is most of the work that it takes. Whatever else
//! there is, and what is malformed, is left to the generated types.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};

use crate::xds::message::{Fields, Value};

/// The plain endpoints of one locality, each with its place among all of the locality.
pub(super) type PlainEndpoints = Vec<(usize, SocketAddr)>;

/// A `ClusterLoadAssignment` in two parts.
pub(super) struct Split<'a> {
    /// The message without its plain endpoints.
    pub(super) rest: Cow<'a, [u8]>,
    /// Those, by locality.
    pub(super) plain: Vec<PlainEndpoints>,
}

// Fields that the parts are told by.
const ENDPOINTS: u32 = 2;
const LB_ENDPOINTS: u32 = 2;
/// The key of [`ENDPOINTS`] on the wire, before its length.
const ENDPOINTS_KEY: u8 = 2 << 3 | 2;

impl<'a> Split<'a> {
    /// Takes the plain endpoints out of an assignment; none of one that is malformed.
    pub(super) fn new(assignment: &'a [u8]) -> Self {
        split(assignment).unwrap_or(Self { rest: assignment.into(), plain: Vec::new() })
    }
}

fn split(assignment: &[u8]) -> Option<Split<'_>> {
    let (mut rest, mut plain) = (Vec::new(), Vec::new());
    let mut fields = Fields(assignment);
    while let Some((field, bytes)) = fields.next_with_bytes() {
        match field.ok()? {
            (ENDPOINTS, Value::Bytes(locality)) => {
                let (locality, endpoints) = split_locality(locality)?;
                rest.push(ENDPOINTS_KEY);
                prost::encode_length_delimiter(locality.len(), &mut rest).ok()?;
                rest.extend(locality);
                plain.push(endpoints);
            }
            _ => rest.extend_from_slice(bytes),
        }
    }
    Some(Split { rest: rest.into(), plain })
}

fn split_locality(locality: &[u8]) -> Option<(Vec<u8>, PlainEndpoints)> {
    /// The shortest form of one that is plain has about so many bytes.
    const SHORT: usize = 20;
    let (mut rest, mut plain) = (Vec::new(), Vec::with_capacity(locality.len() / SHORT));
    let mut place = 0;
    let mut fields = Fields(locality);
    while let Some((field, bytes)) = fields.next_with_bytes() {
        let member = match field.ok()? {
            (LB_ENDPOINTS, Value::Bytes(member)) => Some(member),
            _ => None,
        };
        match member.and_then(address) {
            Some(address) => plain.push((place, address)),
            None => rest.extend_from_slice(bytes),
        }
        place += usize::from(member.is_some());
    }
    Some((rest, plain))
}

/// The address of an `LbEndpoint` that has nothing else.
fn address(member: &[u8]) -> Option<SocketAddr> {
    let endpoint = only_first_field(member)?;
    let address = only_first_field(endpoint)?;
    let mut socket_address = Fields(only_first_field(address)?);
    let [ip, port, end] = std::array::from_fn(|_| socket_address.next());
    match (ip, port, end) {
        (Some(Ok((2, Value::Bytes(ip)))), Some(Ok((3, Value::Varint(port)))), None) => {
            let ip: IpAddr = std::str::from_utf8(ip).ok()?.parse().ok()?;
            Some(SocketAddr::new(ip, u16::try_from(port).ok()?))
        }
        _ => None,
    }
}

/// The submessage in field 1 of a message that has no other field.
fn only_first_field(message: &[u8]) -> Option<&[u8]> {
    let mut fields = Fields(message);
    match (fields.next(), fields.next()) {
        (Some(Ok((1, Value::Bytes(inner)))), None) => Some(inner),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use mesh_xds_proto::envoy::config::core::v3::{
        Address, Locality, Metadata, SocketAddress, address, socket_address::PortSpecifier,
    };
    use mesh_xds_proto::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
    use mesh_xds_proto::envoy::config::endpoint::v3::{
        ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints,
    };
    use prost::Message;

    use super::*;
    use crate::resource::ENDPOINTS;
    use crate::resource::endpoints::{self, Endpoints};
    use crate::resource::socket_match::Labels;
    use crate::xds::resource_type::Extensions;

    fn member(ip: &str, port: u32) -> LbEndpoint {
        let port = Some(PortSpecifier::PortValue(port));
        let socket = SocketAddress { address: ip.to_owned(), port_specifier: port, ..Default::default() };
        let address = Some(Address { address: Some(address::Address::SocketAddress(socket)) });
        let endpoint = Endpoint { address, ..Default::default() };
        LbEndpoint { host_identifier: Some(HostIdentifier::Endpoint(endpoint)), ..Default::default() }
    }

    fn assignment(localities: &[&[LbEndpoint]]) -> ClusterLoadAssignment {
        let locality =
            |members: &&[LbEndpoint]| LocalityLbEndpoints { lb_endpoints: members.to_vec(), ..Default::default() };
        ClusterLoadAssignment {
            cluster_name: "greeter".to_owned(),
            endpoints: localities.iter().map(locality).collect(),
            ..Default::default()
        }
    }

    #[test]
    fn what_is_more_than_an_address_stays_in_the_message() {
        let weighted = LbEndpoint { load_balancing_weight: Some(2), ..member("10.0.0.2", 80) };
        let others = [weighted, member("host", 80), member("10.0.0.3", 65_536)];
        let [a, b, c] = others.clone();
        let bytes =
            assignment(&[&[member("10.0.0.1", 80), a, b, member("::1", 65_535), c], &[], &[member("10.0.0.4", 1)]])
                .encode_to_vec();
        let Split { rest, plain } = Split::new(&bytes);
        let rest = ClusterLoadAssignment::decode(&*rest).expect("a message");
        assert_eq!(rest, assignment(&[&others, &[], &[]]));
        let found = |place, address: &str| (place, address.parse().expect("an address"));
        let expected = [vec![found(0, "10.0.0.1:80"), found(3, "[::1]:65535")], vec![], vec![found(0, "10.0.0.4:1")]];
        assert_eq!(plain, expected);
    }

    #[test]
    fn plain_endpoints_keep_their_places_and_have_the_labels_of_their_locality() {
        let labels = |mode: &str| {
            let mode = prost_types::Value { kind: Some(prost_types::value::Kind::StringValue(mode.to_owned())) };
            let fields = prost_types::Struct { fields: [("tlsMode".to_owned(), mode)].into() };
            let filter_metadata = [("envoy.transport_socket_match".to_owned(), fields)].into();
            Metadata { filter_metadata, ..Default::default() }.encode_to_vec().into()
        };
        let labelled = LbEndpoint { metadata: labels("own"), ..member("10.0.0.1", 80) };
        let weighted = LbEndpoint { load_balancing_weight: Some(2), ..member("10.0.0.3", 80) };
        let mixed = [labelled, member("10.0.0.2", 80), weighted, member("10.0.0.4", 80)];
        let mut assignment = assignment(&[&mixed, &[member("10.0.0.5", 80)]]);
        for (locality, zone) in assignment.endpoints.iter_mut().zip(["a", "b"]) {
            locality.locality = Some(Locality { zone: zone.to_owned(), ..Default::default() });
            locality.load_balancing_weight = Some(1);
        }
        assignment.endpoints[0].metadata = labels("istio");
        let decoded = (ENDPOINTS.decode)(&assignment.encode_to_vec(), &Extensions::default()).value.expect("endpoints");
        let endpoints = decoded.downcast::<Endpoints>().expect("endpoints");
        let found = |locality: usize| -> Vec<_> {
            let endpoints = endpoints.priorities[0].localities[locality].endpoints.iter();
            let told = |endpoint: &endpoints::Endpoint| {
                let of = |labels: &Option<Arc<Labels>>| labels.as_ref().map(|labels| labels["tlsMode"].clone());
                let labels = endpoint.socket_labels().map(|labels| (of(&labels.endpoint), of(&labels.locality)));
                (endpoint.address.to_string(), labels)
            };
            endpoints.map(told).collect()
        };
        let mode = |mode: &str| {
            Some(prost_types::Value { kind: Some(prost_types::value::Kind::StringValue(mode.to_owned())) })
        };
        let expected = [
            ("10.0.0.1:80", (mode("own"), mode("istio"))),
            ("10.0.0.2:80", (None, mode("istio"))),
            ("10.0.0.3:80", (None, mode("istio"))),
            ("10.0.0.4:80", (None, mode("istio"))),
        ];
        assert_eq!(found(0), expected.map(|(address, labels)| (address.to_owned(), Some(labels))));
        assert_eq!(found(1), [("10.0.0.5:80".to_owned(), None)]);
    }

    #[test]
    fn what_is_malformed_is_left_to_the_decoder_as_it_is() {
        let bytes = assignment(&[&[member("10.0.0.1", 80)]]).encode_to_vec();
        for length in 0..bytes.len() {
            let Split { rest, plain } = Split::new(&bytes[..length]);
            let same = ClusterLoadAssignment::decode(&bytes[..length]).map_err(|error| error.to_string());
            let split = ClusterLoadAssignment::decode(&*rest).map_err(|error| error.to_string());
            assert_eq!((split, plain.concat()), (same, Vec::new()), "of {length} bytes");
        }
    }
}
