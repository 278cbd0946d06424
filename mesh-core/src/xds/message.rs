//! The messages of ADS as the protocol machine sees them: what it asks, and a view into the bytes of a response.
//!
//! A response is not decoded as a whole: 10,000 resources, most of them unchanged or not asked for, are walked in place
//! and cost no allocation, whatever the peer sends.

use std::fmt;
use std::sync::Arc;

use super::resource_type::ResourceType;

/// The names of a request, shared with those that repeat them.
pub(crate) type Names = Arc<[Arc<str>]>;

/// One `DiscoveryRequest`: a subscription, an ACK or a NACK.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) resource_type: &'static ResourceType,
    /// The version that is in use; empty if none is.
    pub(crate) version: Arc<str>,
    /// Of the response that this answers; empty if there was none.
    pub(crate) nonce: Arc<str>,
    pub(crate) names: Names,
    /// Why the response was rejected.
    pub(crate) error: Option<Arc<str>>,
    /// Whether it is the first on its stream, and so introduces the node.
    pub(crate) first: bool,
}

/// Bytes that are not the message they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("malformed protobuf")
    }
}

/// One `DiscoveryResponse`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Response<'a> {
    pub(crate) version: &'a str,
    pub(crate) type_url: &'a str,
    pub(crate) nonce: &'a str,
    body: &'a [u8],
}

/// One resource of a response, out of its `Any` and its `Resource` wrapper, if it has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RawResource<'a> {
    pub(crate) type_url: &'a str,
    /// The wrapper's name, or else the resource's own; `None` if there is none or it is not UTF-8.
    pub(crate) name: Option<&'a str>,
    /// `None` for a wrapper without a resource: a heartbeat, which says that nothing changed.
    pub(crate) value: Option<&'a [u8]>,
    /// What else its wrapper says.
    pub(crate) unheeded: Unheeded,
}

/// The fields of a wrapper that nothing acts on, as far as they are set: a bit for each of [`UNHEEDED`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Unheeded(u8);

/// By number and name.
pub(crate) const UNHEEDED: [(u32, &str); 6] =
    [(1, "version"), (4, "aliases"), (6, "ttl"), (7, "cache_control"), (8, "resource_name"), (9, "metadata")];

impl Unheeded {
    fn note(&mut self, number: u32) {
        if let Some(place) = UNHEEDED.iter().position(|(known, _)| *known == number) {
            self.0 |= 1 << place;
        }
    }

    /// Their names.
    pub(crate) fn names(self) -> impl Iterator<Item = &'static str> {
        UNHEEDED.iter().enumerate().filter(move |(place, _)| self.0 & (1 << place) != 0).map(|(_, (_, name))| *name)
    }
}

/// What a control plane says of one resource that it cannot send (xRFC TP3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RawError<'a> {
    pub(crate) name: &'a str,
    pub(crate) code: u64,
    pub(crate) message: &'a str,
}

const WRAPPER: &str = "type.googleapis.com/envoy.service.discovery.v3.Resource";

impl<'a> Response<'a> {
    /// Reads everything but the resources.
    pub(crate) fn parse(body: &'a [u8]) -> Result<Self, Malformed> {
        let mut response = Self { version: "", type_url: "", nonce: "", body };
        for field in Fields(body) {
            match field? {
                (1, Value::Bytes(bytes)) => response.version = text(bytes)?,
                (4, Value::Bytes(bytes)) => response.type_url = text(bytes)?,
                (5, Value::Bytes(bytes)) => response.nonce = text(bytes)?,
                _ => {}
            }
        }
        Ok(response)
    }

    /// The resources in their order.
    pub(crate) fn resources(&self) -> Resources<'a> {
        Resources(Fields(self.body))
    }

    /// The resources that the control plane has errors for.
    pub(crate) fn errors(&self) -> impl Iterator<Item = Result<RawError<'a>, Malformed>> + use<'a> {
        fields_of(self.body, 7).map(resource_error)
    }
}

/// The resources of a response.
pub(crate) struct Resources<'a>(Fields<'a>);

impl<'a> Iterator for Resources<'a> {
    type Item = Result<RawResource<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.find_map(|field| match field {
            Ok((2, Value::Bytes(any))) => Some(resource(any)),
            _ => None,
        })
    }
}

/// The submessages in one field of a message that was walked to its end before.
fn fields_of(body: &[u8], wanted: u32) -> impl Iterator<Item = &[u8]> {
    Fields(body).filter_map(move |field| match field {
        Ok((number, Value::Bytes(bytes))) if number == wanted => Some(bytes),
        _ => None,
    })
}

fn resource(any: &[u8]) -> Result<RawResource<'_>, Malformed> {
    let (type_url, value) = open_any(any)?;
    if type_url != WRAPPER {
        let unheeded = Unheeded::default();
        return Ok(RawResource { type_url, name: peek_name(value), value: Some(value), unheeded });
    }
    let (mut name, mut inner, mut unheeded) = ("", None, Unheeded::default());
    for field in Fields(value) {
        match field? {
            (3, Value::Bytes(bytes)) => name = text(bytes)?,
            (2, Value::Bytes(bytes)) => inner = Some(open_any(bytes)?),
            (number, _) => unheeded.note(number),
        }
    }
    let name = Some(name).filter(|name| !name.is_empty());
    Ok(match inner {
        None => RawResource { type_url: WRAPPER, name, value: None, unheeded },
        Some((type_url, value)) => {
            RawResource { type_url, name: name.or_else(|| peek_name(value)), value: Some(value), unheeded }
        }
    })
}

fn open_any(any: &[u8]) -> Result<(&str, &[u8]), Malformed> {
    let (mut type_url, mut value): (&str, &[u8]) = ("", &[]);
    for field in Fields(any) {
        match field? {
            (1, Value::Bytes(bytes)) => type_url = text(bytes)?,
            (2, Value::Bytes(bytes)) => value = bytes,
            _ => {}
        }
    }
    Ok((type_url, value))
}

/// The name of a resource without decoding it: field 1 in every resource type of xDS.
fn peek_name(resource: &[u8]) -> Option<&str> {
    let mut name = None;
    for field in Fields(resource) {
        match field {
            Ok((1, Value::Bytes(bytes))) => name = text(bytes).ok(),
            Ok(_) => {}
            // The decoder will say what is wrong with the rest.
            Err(Malformed) => break,
        }
    }
    name.filter(|name| !name.is_empty())
}

fn resource_error(bytes: &[u8]) -> Result<RawError<'_>, Malformed> {
    let mut error = RawError { name: "", code: 2, message: "" };
    for field in Fields(bytes) {
        match field? {
            (1, Value::Bytes(resource_name)) => {
                for bytes in fields_of(resource_name, 1) {
                    error.name = text(bytes)?;
                }
            }
            (2, Value::Bytes(status)) => (error.code, error.message) = read_status(status)?,
            _ => {}
        }
    }
    Ok(error)
}

/// A `google.rpc.Status`.
fn read_status(bytes: &[u8]) -> Result<(u64, &str), Malformed> {
    let (mut code, mut message) = (0, "");
    for field in Fields(bytes) {
        match field? {
            (1, Value::Varint(value)) => code = value,
            (2, Value::Bytes(bytes)) => message = text(bytes)?,
            _ => {}
        }
    }
    Ok((code, message))
}

fn text(bytes: &[u8]) -> Result<&str, Malformed> {
    std::str::from_utf8(bytes).map_err(|_| Malformed)
}

/// The fields of a protobuf message, one level deep.
pub(crate) struct Fields<'a>(pub(crate) &'a [u8]);

/// The value of a field, as far as anything reads it.
pub(crate) enum Value<'a> {
    Varint(u64),
    Fixed,
    Bytes(&'a [u8]),
}

/// A field's number and value.
pub(crate) type Field<'a> = Result<(u32, Value<'a>), Malformed>;

impl<'a> Iterator for Fields<'a> {
    type Item = Field<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_none() {
            self.0 = &[];
        }
        Some(field.ok_or(Malformed))
    }
}

impl<'a> Fields<'a> {
    /// The next field, and all of its bytes.
    pub(crate) fn next_with_bytes(&mut self) -> Option<(Field<'a>, &'a [u8])> {
        let before = self.0;
        let field = self.next()?;
        Some((field, &before[..before.len() - self.0.len()]))
    }

    fn field(&mut self) -> Option<(u32, Value<'a>)> {
        let key = u32::try_from(self.varint()?).ok()?;
        let value = match key & 7 {
            0 => Value::Varint(self.varint()?),
            1 => self.fixed(8)?,
            2 => {
                let length = usize::try_from(self.varint()?).ok()?;
                Value::Bytes(self.take(length)?)
            }
            5 => self.fixed(4)?,
            // Groups; no message of xDS has them.
            _ => return None,
        };
        Some((key >> 3, value)).filter(|(number, _)| *number != 0)
    }

    fn fixed(&mut self, length: usize) -> Option<Value<'a>> {
        self.take(length).map(|_| Value::Fixed)
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.0.split_first()?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use mesh_xds_proto::envoy::config::cluster::v3::Cluster;
    use mesh_xds_proto::envoy::service::discovery::v3 as discovery;
    use mesh_xds_proto::google::rpc::Status;
    use proptest::prelude::*;
    use prost::{Message, Name};
    use prost_types::Any;

    use super::*;

    fn cluster(name: &str) -> Cluster {
        Cluster { name: name.into(), ..Default::default() }
    }

    fn any<M: Message + Name>(message: &M) -> Any {
        Any { type_url: M::type_url(), value: message.encode_to_vec() }
    }

    fn wrapped(name: &str, resource: Option<Any>) -> Any {
        any(&discovery::Resource { name: name.into(), resource, version: "7".into(), ..Default::default() })
    }

    #[test]
    fn a_response_reads_as_its_generated_type_wrote_it() {
        let error = discovery::ResourceError {
            resource_name: Some(discovery::ResourceName { name: "gone".into(), dynamic_parameter_constraints: None }),
            error_detail: Some(Status { code: 7, message: "denied".into(), details: Vec::new() }),
        };
        let bytes = discovery::DiscoveryResponse {
            version_info: "v".into(),
            resources: vec![
                any(&cluster("a")),
                wrapped("alias", Some(any(&cluster("b")))),
                wrapped("", Some(any(&cluster("c")))),
                wrapped("d", None),
            ],
            canary: true,
            type_url: Cluster::type_url(),
            nonce: "n".into(),
            control_plane: None,
            resource_errors: vec![error],
        }
        .encode_to_vec();
        let response = Response::parse(&bytes).unwrap();
        assert_eq!((response.version, response.nonce), ("v", "n"));
        assert_eq!(response.type_url, Cluster::type_url());
        let resources: Vec<_> = response.resources().map(Result::unwrap).collect();
        let names: Vec<_> = resources.iter().map(|resource| resource.name.unwrap()).collect();
        assert_eq!(names, ["a", "alias", "c", "d"]);
        assert_eq!(resources[1].value, Some(&cluster("b").encode_to_vec()[..]));
        assert_eq!(resources[1].type_url, Cluster::type_url());
        assert_eq!(resources[3].value, None);
        let unheeded: Vec<Vec<_>> = resources.iter().map(|resource| resource.unheeded.names().collect()).collect();
        assert_eq!(unheeded, [vec![], vec!["version"], vec!["version"], vec!["version"]]);
        let errors: Vec<_> = response.errors().map(Result::unwrap).collect();
        assert_eq!(errors, [RawError { name: "gone", code: 7, message: "denied" }]);
    }

    #[test]
    fn the_last_name_wins_as_in_protobuf() {
        let twice = [cluster("a").encode_to_vec(), cluster("b").encode_to_vec()].concat();
        assert_eq!(peek_name(&twice), Some("b"));
        assert_eq!(peek_name(&[]), None);
        assert_eq!(peek_name(&[0x0a, 1, 0xff]), None);
        assert_eq!(peek_name(&[0x0a, 1, b'x', 0xff]), Some("x"));
    }

    #[test]
    fn broken_bytes_are_malformed() {
        for bytes in [&[0x0a][..], &[0x0a, 5, b'x'], &[0x0b], &[0x00], &[0xff; 11], &[0x0a, 1, 0xff]] {
            assert_eq!(Response::parse(bytes).map(|_| ()), Err(Malformed), "{bytes:x?}");
        }
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes: Vec<u8>) {
            if let Ok(response) = Response::parse(&bytes) {
                let _ = (response.resources().count(), response.errors().count());
            }
            let _ = resource(&bytes);
            let _ = peek_name(&bytes);
        }

        #[test]
        fn what_prost_reads_reads_the_same(bytes: Vec<u8>) {
            if let (Ok(ours), Ok(theirs)) =
                (Response::parse(&bytes), discovery::DiscoveryResponse::decode(&bytes[..]))
            {
                prop_assert_eq!(ours.version, theirs.version_info);
                prop_assert_eq!(ours.nonce, theirs.nonce);
                prop_assert_eq!(ours.resources().count(), theirs.resources.len());
            }
        }
    }
}
