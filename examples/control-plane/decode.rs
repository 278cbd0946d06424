//! Text to resources: JSON and YAML in protobuf's JSON form.

use std::error::Error;

use mesh_core::testing::Resource;
use mesh_xds_proto::FILE_DESCRIPTOR_SET;
use prost_reflect::{DescriptorPool, DeserializeOptions, DynamicMessage, MessageDescriptor, ReflectMessage};
use prost_types::Any;
use serde::Deserialize;
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
        self.collect(serde_json::from_str(text)?, &mut resources)?;
        Ok(resources)
    }

    /// The resources in a YAML text of one or more documents.
    pub(crate) fn yaml(&self, text: &str) -> Result<Vec<Resource>, Box<dyn Error>> {
        let mut resources = Vec::new();
        for document in serde_yaml_ng::Deserializer::from_str(text) {
            self.collect(Value::deserialize(document)?, &mut resources)?;
        }
        Ok(resources)
    }

    /// A document is a resource, a list of them, or nothing.
    fn collect(&self, document: Value, resources: &mut Vec<Resource>) -> Result<(), Box<dyn Error>> {
        match document {
            Value::Null => Ok(()),
            Value::Array(list) => list.into_iter().try_for_each(|item| self.collect(item, resources)),
            resource => {
                resources.push(self.resource(resource)?);
                Ok(())
            }
        }
    }

    fn resource(&self, json: Value) -> Result<Resource, Box<dyn Error>> {
        let options = DeserializeOptions::new().deny_unknown_fields(true);
        let any = DynamicMessage::deserialize_with_options(self.any.clone(), json, &options)?.transcode_to::<Any>()?;
        let message = self.unpack(&any)?;
        if message.descriptor().full_name() == WRAPPER {
            return self.wrapped(&any, &message);
        }
        let name = name_of(&message).ok_or_else(|| format!("{} has no name", any.type_url))?;
        Ok(Resource::from_any(any.type_url.clone(), name, &any))
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
