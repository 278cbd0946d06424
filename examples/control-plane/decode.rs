//! Text to resources: JSON and YAML in protobuf's JSON form.

use std::error::Error;
use std::fmt;

use mesh_core::testing::Resource;
use mesh_xds_proto::FILE_DESCRIPTOR_SET;
use prost_reflect::{DescriptorPool, DeserializeOptions, DynamicMessage, MessageDescriptor, ReflectMessage};
use prost_types::Any;
use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// The wrapper in which a control plane may send a resource, with a name and a time to live of its own.
const WRAPPER: &str = "envoy.service.discovery.v3.Resource";

/// Knows all messages that mesh knows.
pub(crate) struct Decoder {
    any: MessageDescriptor,
}

impl Decoder {
    /// Reads the descriptors.
    pub(crate) fn new() -> Result<Self, Box<dyn Error>> {
        let pool = DescriptorPool::decode(FILE_DESCRIPTOR_SET)?;
        let any = pool.get_message_by_name("google.protobuf.Any").ok_or("the descriptors have no Any")?;
        Ok(Self { any })
    }

    /// The resources in a JSON text.
    pub(crate) fn json(&self, text: &str) -> Result<Vec<Resource>, Box<dyn Error>> {
        let mut resources = Vec::new();
        let place = || self.check(&mut serde_json::Deserializer::from_str(text)).err();
        self.collect(serde_json::from_str(text)?, &mut resources).map_err(|wrong| wrong.at(place()))?;
        Ok(resources)
    }

    /// The resources in a YAML text of one or more documents.
    pub(crate) fn yaml(&self, text: &str) -> Result<Vec<Resource>, Box<dyn Error>> {
        let mut resources = Vec::new();
        let documents = || serde_yaml_ng::Deserializer::from_str(text);
        let place = || documents().find_map(|document| self.check(document).err());
        for document in documents() {
            self.collect(Value::deserialize(document)?, &mut resources).map_err(|wrong| wrong.at(place()))?;
        }
        Ok(resources)
    }

    /// Reads straight from the text, whose errors then have a line.
    fn check<'de, D: Deserializer<'de>>(&self, document: D) -> Result<(), D::Error> {
        document.deserialize_any(Check(self))
    }

    /// A document is a resource, a list of them, or nothing.
    fn collect(&self, document: Value, resources: &mut Vec<Resource>) -> Result<(), Wrong> {
        match document {
            Value::Null => Ok(()),
            Value::Array(list) => list.into_iter().try_for_each(|item| self.collect(item, resources)),
            resource => {
                let label = label(&resource);
                resources.push(self.resource(resource).map_err(|problem| Wrong { label, problem })?);
                Ok(())
            }
        }
    }

    fn resource(&self, json: Value) -> Result<Resource, Box<dyn Error>> {
        let any = self.message(json)?.transcode_to::<Any>()?;
        let message = self.unpack(&any)?;
        if message.descriptor().full_name() == WRAPPER {
            return self.wrapped(&any, &message);
        }
        let name = name_of(&message).ok_or_else(|| format!("{} has no name", any.type_url))?;
        Ok(Resource::from_any(any.type_url.clone(), name, &any))
    }

    fn message<'de, D: Deserializer<'de>>(&self, resource: D) -> Result<DynamicMessage, D::Error> {
        let options = DeserializeOptions::new().deny_unknown_fields(true);
        DynamicMessage::deserialize_with_options(self.any.clone(), resource, &options)
    }

    /// It is asked for by its own name, and by the type of what is inside.
    fn wrapped(&self, any: &Any, wrapper: &DynamicMessage) -> Result<Resource, Box<dyn Error>> {
        let name = name_of(wrapper).ok_or("the wrapped resource has no name")?;
        let inner = wrapper.get_field_by_name("resource").ok_or("the wrapper has no resource")?;
        let inner: Any = inner.as_message().ok_or("the wrapped resource is no message")?.transcode_to()?;
        Ok(Resource::from_any(inner.type_url, name, any))
    }

    fn unpack(&self, any: &Any) -> Result<DynamicMessage, Box<dyn Error>> {
        let name = any.type_url.rsplit('/').next().unwrap_or_default();
        let pool = self.any.parent_pool();
        let descriptor = pool.get_message_by_name(name).ok_or_else(|| format!("message `{name}` is not known"))?;
        Ok(DynamicMessage::decode(descriptor, any.value.as_slice())?)
    }
}

/// A load assignment is named after its cluster, everything else by itself.
fn name_of(message: &DynamicMessage) -> Option<String> {
    let text = |field| message.get_field_by_name(field).and_then(|value| value.as_str().map(str::to_owned));
    ["name", "cluster_name"].into_iter().find_map(text).filter(|name| !name.is_empty())
}

/// A resource that is wrong.
#[derive(Debug)]
struct Wrong {
    label: String,
    problem: Box<dyn Error>,
}

impl Wrong {
    /// What the parser says of the same, with its place, if it stumbles over it too.
    fn at(self, place: Option<impl Error + 'static>) -> Self {
        match place {
            Some(error) => Self { problem: error.into(), ..self },
            None => self,
        }
    }
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.label, self.problem)
    }
}

impl Error for Wrong {}

/// "Cluster `greeter`", as far as that can be read.
fn label(resource: &Value) -> String {
    let text = |key: &&str| resource.get(key).and_then(Value::as_str);
    let kind = text(&"@type").and_then(|url| url.rsplit(['/', '.']).next()).unwrap_or("a resource without `@type`");
    match ["name", "cluster_name", "clusterName"].iter().find_map(text) {
        Some(name) => format!("{kind} `{name}`"),
        None => kind.to_owned(),
    }
}

/// Passes over a document: nothing, a resource, or a list of them.
struct Check<'a>(&'a Decoder);

impl<'de> DeserializeSeed<'de> for Check<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, document: D) -> Result<(), D::Error> {
        self.0.check(document)
    }
}

impl<'de> Visitor<'de> for Check<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a resource or a list of them")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while list.next_element_seed(Check(self.0))?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, resource: A) -> Result<(), A::Error> {
        self.0.message(MapAccessDeserializer::new(resource)).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        Decoder::new().unwrap().yaml(text).unwrap_err().to_string()
    }

    #[test]
    fn an_error_names_the_resource_the_field_and_the_line() {
        let text = r#"
"@type": type.googleapis.com/envoy.config.cluster.v3.Cluster
name: first
---
- "@type": type.googleapis.com/envoy.config.cluster.v3.Cluster
  name: second
- "@type": type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment
  cluster_name: greeter
  endpoints:
    - lb_endpoints:
        - endpoint: { adress: {} }
"#;
        let said = error(text);
        assert!(said.starts_with("ClusterLoadAssignment `greeter`: "), "{said}");
        assert!(said.contains("adress") && said.contains("line 11"), "{said}");
        assert!(error(&text.replace("adress", "address: [")).contains("line 1"), "syntax has a line too");

        let said = error(r#"{"@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster", "type": "EDS"}"#);
        assert!(said.starts_with("Cluster: ") && said.contains("no name"), "{said}");
        let said = error("name: greeter");
        assert!(said.starts_with("a resource without `@type` `greeter`: "), "{said}");
        let json = r#"[{"@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            "name": "greeter", "lb_policy": "NO_SUCH"}]"#;
        let said = Decoder::new().unwrap().json(json).unwrap_err().to_string();
        assert!(said.starts_with("Cluster `greeter`: ") && said.contains("line 2"), "{said}");
    }
}
