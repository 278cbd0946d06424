//! `.proto` files → descriptors, without what no generated code uses.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use prost_types::field_descriptor_proto::Type;
use prost_types::{
    DescriptorProto, EnumDescriptorProto, EnumOptions, FieldDescriptorProto, FieldOptions, FileDescriptorProto,
    FileDescriptorSet, MessageOptions, ServiceDescriptorProto,
};

/// Packages that hold nothing but options for other tools: validation rules, documentation
/// and versioning marks, HTTP bindings.
const ANNOTATIONS: [&str; 5] =
    ["envoy.annotations", "google.api", "udpa.annotations", "validate", "xds.annotations.v3"];

/// What those packages extend, and nothing else uses.
const DESCRIPTOR_FILE: &str = "google/protobuf/descriptor.proto";

/// What mesh never looks into, and Istio sends with every endpoint.
const OPAQUE: &str = ".envoy.config.core.v3.Metadata";

/// Compiles every `.proto` file below `folder`, which is also the only include path.
pub(crate) fn compile(folder: &Path) -> Result<FileDescriptorSet, Box<dyn Error>> {
    let mut compiler = protox::Compiler::new([folder])?;
    compiler.include_imports(true).include_source_info(false);
    compiler.open_files(proto_files(folder)?)?;
    Ok(strip(compiler.file_descriptor_set()))
}

/// Makes the fields of opaque messages `bytes`, which are the same on the wire and cost no tree of allocations.
pub(crate) fn make_opaque(set: &mut FileDescriptorSet) {
    let messages = set.file.iter_mut().flat_map(|file| &mut file.message_type);
    messages.for_each(make_fields_opaque);
}

fn make_fields_opaque(message: &mut DescriptorProto) {
    for field in message.field.iter_mut().filter(|field| field.type_name() == OPAQUE) {
        field.set_type(Type::Bytes);
        field.type_name = None;
    }
    message.nested_type.iter_mut().for_each(make_fields_opaque);
}

/// The `.proto` files below `folder` in the order of their paths, so that the output does not
/// depend on the file system.
fn proto_files(folder: &Path) -> Result<Vec<PathBuf>, Box<dyn Error>> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "proto") {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

fn strip(set: FileDescriptorSet) -> FileDescriptorSet {
    let (dropped, mut kept): (Vec<_>, Vec<_>) = set.file.into_iter().partition(is_annotation);
    for file in &mut kept {
        file.dependency.retain(|name| !dropped.iter().any(|file| file.name() == name));
        strip_file(file);
    }
    FileDescriptorSet { file: kept }
}

fn is_annotation(file: &FileDescriptorProto) -> bool {
    ANNOTATIONS.contains(&file.package()) || file.name() == DESCRIPTOR_FILE
}

fn strip_file(file: &mut FileDescriptorProto) {
    // They index `dependency`, which has just become shorter.
    assert!(file.public_dependency.is_empty() && file.weak_dependency.is_empty());
    file.options = None;
    file.source_code_info = None;
    file.message_type.iter_mut().for_each(strip_message);
    file.enum_type.iter_mut().for_each(strip_enum);
    file.service.iter_mut().for_each(strip_service);
}

fn strip_message(message: &mut DescriptorProto) {
    let map_entry = message.options.take().and_then(|options| options.map_entry);
    message.options = map_entry.map(|map_entry| MessageOptions { map_entry: Some(map_entry), ..Default::default() });
    message.field.iter_mut().for_each(strip_field);
    message.oneof_decl.iter_mut().for_each(|oneof| oneof.options = None);
    message.nested_type.iter_mut().for_each(strip_message);
    message.enum_type.iter_mut().for_each(strip_enum);
}

/// `packed` stays, because it changes the encoding. `deprecated` goes: mesh has to read the
/// fields that others still send.
fn strip_field(field: &mut FieldDescriptorProto) {
    let packed = field.options.take().and_then(|options| options.packed);
    field.options = packed.map(|packed| FieldOptions { packed: Some(packed), ..Default::default() });
    assert_ne!(field.r#type(), Type::Group, "groups are proto2");
}

fn strip_enum(item: &mut EnumDescriptorProto) {
    let allow_alias = item.options.take().and_then(|options| options.allow_alias);
    item.options = allow_alias.map(|allow| EnumOptions { allow_alias: Some(allow), ..Default::default() });
    item.value.iter_mut().for_each(|value| value.options = None);
}

fn strip_service(service: &mut ServiceDescriptorProto) {
    service.options = None;
    service.method.iter_mut().for_each(|method| method.options = None);
}
