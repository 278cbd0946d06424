//! Requests to bytes.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use mesh_xds_proto::envoy::config::core::v3::{Locality, Node, node::UserAgentVersionType};
use mesh_xds_proto::envoy::service::discovery::v3::DiscoveryRequest;
use mesh_xds_proto::google::rpc::Status;
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint};
use prost_types::value::Kind;

use crate::bootstrap::NodeConfig;
use crate::profile::Profile;
use crate::xds::message::{Names, Request};

/// `DiscoveryRequest.resource_names`.
const NAMES_FIELD: u32 = 3;
/// `INVALID_ARGUMENT`, which every client of xDS gives as the reason of a NACK.
const INVALID_ARGUMENT: i32 = 3;
/// We understand resources in their wrapper.
const WRAPPED_RESOURCES: &str = "xds.config.resource-in-sotw";
/// We do not spill to other priorities by ourselves (A27).
const NO_OVERPROVISIONING: &str = "envoy.lb.does_not_support_overprovisioning";

/// Writes requests. It keeps the encoded names of each type: every ACK repeats them, 400 kB for 10,000.
#[derive(Debug)]
pub(crate) struct Encoder {
    node: Node,
    names: HashMap<&'static str, (Names, Bytes)>,
}

impl Encoder {
    pub(crate) fn new(node: &NodeConfig, profile: Profile) -> Self {
        Self { node: to_proto(node, profile), names: HashMap::new() }
    }

    pub(crate) fn encode(&mut self, request: &Request) -> Bytes {
        let names = self.names(request);
        let error = |text: &Arc<str>| Status { code: INVALID_ARGUMENT, message: (**text).into(), details: Vec::new() };
        let head = DiscoveryRequest {
            version_info: (*request.version).into(),
            node: request.first.then(|| self.node.clone()),
            resource_names: Vec::new(),
            resource_locators: Vec::new(),
            type_url: request.resource_type.type_url.into(),
            response_nonce: (*request.nonce).into(),
            error_detail: request.error.as_ref().map(error),
        };
        let mut bytes = BytesMut::with_capacity(head.encoded_len() + names.len());
        // The order of fields does not matter, so the names may follow at the end.
        head.encode_raw(&mut bytes);
        bytes.put(names);
        bytes.freeze()
    }

    fn names(&mut self, request: &Request) -> Bytes {
        match self.names.get(request.resource_type.type_url) {
            Some((names, bytes)) if Arc::ptr_eq(names, &request.names) => bytes.clone(),
            _ => {
                let bytes = encode_names(&request.names);
                self.names.insert(request.resource_type.type_url, (request.names.clone(), bytes.clone()));
                bytes
            }
        }
    }
}

fn encode_names(names: &Names) -> Bytes {
    let length = |name: &Arc<str>| 1 + encoded_len_varint(as_u64(name.len())) + name.len();
    let mut bytes = BytesMut::with_capacity(names.iter().map(length).sum());
    for name in names.iter() {
        encode_key(NAMES_FIELD, WireType::LengthDelimited, &mut bytes);
        encode_varint(as_u64(name.len()), &mut bytes);
        bytes.put_slice(name.as_bytes());
    }
    bytes.freeze()
}

fn as_u64(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

fn to_proto(node: &NodeConfig, profile: Profile) -> Node {
    let NodeConfig { id, cluster, locality, metadata } = node;
    Node {
        id: (**id).into(),
        cluster: cluster.clone(),
        metadata: (!metadata.is_empty()).then(|| to_struct(metadata)),
        locality: locality.as_ref().map(|locality| Locality {
            region: locality.region.clone(),
            zone: locality.zone.clone(),
            sub_zone: locality.sub_zone.clone(),
        }),
        user_agent_name: "mesh".into(),
        user_agent_version_type: Some(UserAgentVersionType::UserAgentVersion(env!("CARGO_PKG_VERSION").into())),
        client_features: client_features(profile),
        dynamic_parameters: Default::default(),
        extensions: Vec::new(),
        listening_addresses: Vec::new(),
    }
}

fn client_features(profile: Profile) -> Vec<String> {
    let features = match profile {
        Profile::Grpc => &[NO_OVERPROVISIONING, WRAPPED_RESOURCES][..],
        Profile::Envoy => &[WRAPPED_RESOURCES],
    };
    features.iter().map(|feature| (*feature).to_owned()).collect()
}

fn to_struct(map: &serde_json::Map<String, serde_json::Value>) -> prost_types::Struct {
    prost_types::Struct { fields: map.iter().map(|(key, value)| (key.clone(), to_value(value))).collect() }
}

fn to_value(value: &serde_json::Value) -> prost_types::Value {
    let kind = match value {
        serde_json::Value::Null => Kind::NullValue(0),
        serde_json::Value::Bool(value) => Kind::BoolValue(*value),
        // `Struct` has doubles only; a larger integer loses digits there in every implementation.
        serde_json::Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or(f64::NAN)),
        serde_json::Value::String(text) => Kind::StringValue(text.clone()),
        serde_json::Value::Array(values) => {
            Kind::ListValue(prost_types::ListValue { values: values.iter().map(to_value).collect() })
        }
        serde_json::Value::Object(map) => Kind::StructValue(to_struct(map)),
    };
    prost_types::Value { kind: Some(kind) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Bootstrap;
    use crate::xds::ads::tests::THING;

    fn node() -> NodeConfig {
        let json = r#"{
            "xds_servers": [{"server_uri": "a:1", "channel_creds": [{"type": "insecure"}]}],
            "node": {"id": "n", "cluster": "c", "locality": {"zone": "z"},
                "metadata": {"a": {"b": [1, "x", true, null]}}}
        }"#;
        Bootstrap::from_json(json).unwrap().node().clone()
    }

    fn request(names: &Names, first: bool) -> Request {
        let error = Some("why".into());
        Request { resource_type: &THING, version: "v".into(), nonce: "n".into(), names: names.clone(), error, first }
    }

    #[test]
    fn a_request_reads_as_its_generated_type() {
        let mut encoder = Encoder::new(&node(), Profile::Grpc);
        let names: Names = ["a".into(), "".into(), "x".repeat(300).into()].into();
        for _ in 0..2 {
            let decoded = DiscoveryRequest::decode(encoder.encode(&request(&names, false))).unwrap();
            let expected = DiscoveryRequest {
                version_info: "v".into(),
                resource_names: names.iter().map(|name| name.to_string()).collect(),
                type_url: THING.type_url.into(),
                response_nonce: "n".into(),
                error_detail: Some(Status { code: 3, message: "why".into(), details: Vec::new() }),
                ..Default::default()
            };
            assert_eq!(decoded, expected);
        }
        let other: Names = ["b".into()].into();
        let decoded = DiscoveryRequest::decode(encoder.encode(&request(&other, false))).unwrap();
        assert_eq!(decoded.resource_names, ["b"]);
    }

    fn introduced(profile: Profile) -> Node {
        let bytes = Encoder::new(&node(), profile).encode(&request(&Names::default(), true));
        DiscoveryRequest::decode(bytes).unwrap().node.unwrap()
    }

    #[test]
    fn the_first_request_introduces_the_node() {
        let node = introduced(Profile::Grpc);
        assert_eq!((node.id.as_str(), node.cluster.as_str(), node.user_agent_name.as_str()), ("n", "c", "mesh"));
        assert_eq!(node.locality.unwrap().zone, "z");
        assert_eq!(node.client_features, [NO_OVERPROVISIONING, WRAPPED_RESOURCES]);
        assert_eq!(introduced(Profile::Envoy).client_features, [WRAPPED_RESOURCES]);
        let version = UserAgentVersionType::UserAgentVersion(env!("CARGO_PKG_VERSION").into());
        assert_eq!(node.user_agent_version_type, Some(version));
        let Some(Kind::StructValue(inner)) = &node.metadata.unwrap().fields["a"].kind else { panic!("a struct") };
        let Some(Kind::ListValue(list)) = &inner.fields["b"].kind else { panic!("a list") };
        let kinds: Vec<_> = list.values.iter().map(|value| value.kind.clone().unwrap()).collect();
        let wanted = [Kind::NumberValue(1.0), Kind::StringValue("x".into()), Kind::BoolValue(true), Kind::NullValue(0)];
        assert_eq!(kinds, wanted);
    }
}
