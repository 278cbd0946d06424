//! The xDS messages that the mesh library reads and sends: what prost generates from the files
//! in `proto/`, checked in.
//!
//! A module is a protobuf package, so `envoy.config.cluster.v3.Cluster` is
//! [`envoy::config::cluster::v3::Cluster`] and `envoy.type.v3` is `envoy::r#type::v3`. The
//! well-known types are those of [`prost_types`]. Every message has a type URL:
//!
//! ```
//! use mesh_xds_proto::envoy::config::cluster::v3::Cluster;
//! use prost::Name;
//!
//! assert_eq!(Cluster::type_url(), "type.googleapis.com/envoy.config.cluster.v3.Cluster");
//! ```
//!
//! `bytes` fields are [`prost::bytes::Bytes`], maps are ordered. There are no services here: mesh
//! sends these messages itself. After a change to a `.proto` file run
//! `cargo run -p mesh-xds-proto-generator`.
#![expect(
    missing_docs,
    clippy::exhaustive_enums,
    clippy::large_enum_variant,
    clippy::module_inception,
    reason = "generated; the published xDS API documents the messages"
)]

// Not a `mod`, so that rustfmt leaves the generated files as the generator writes them.
include!("generated/mod.rs");

/// The messages above, and the services, as an encoded `google.protobuf.FileDescriptorSet`.
/// Options and comments are left out.
#[cfg(feature = "descriptors")]
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!("generated/fds.bin");
