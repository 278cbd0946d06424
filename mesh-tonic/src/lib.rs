//! The mesh for [tonic]: [`MeshChannel`] takes the place of `tonic::transport::Channel` under every generated client.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use mesh_core::Mesh;
//! use mesh_tonic::MeshChannel;
//!
//! let mesh = Mesh::builder().bootstrap_from_env()?.build().await?;
//! let channel = MeshChannel::new(&mesh, "xds:///greeter")?;
//! // let reply = GreeterClient::new(channel).say_hello(request).await?;
//! # let _ = channel; Ok(()) }
//! ```
//!
//! The largest message that a client takes is the generated client's to set (`max_decoding_message_size`, 4 MiB by
//! default), and its codec's to refuse: a larger one ends in tonic's `OUT_OF_RANGE`, where other implementations of gRPC
//! say `RESOURCE_EXHAUSTED`.
//!
//! Only what mentions gRPC is here: the deadline's header, the status that an error becomes, what retries read and write,
//! the form of the mesh's own answers.
//! Everything else is [`mesh_core`], which is also exported from here: a dependency on this crate alone is enough.

mod answer;
mod body;
mod channel;
mod classify;
mod deadline;
mod grpc;
#[cfg(feature = "health")]
mod health;
mod prepared;
mod retry;
#[cfg(feature = "server")]
mod server;
mod status;

pub use body::ResponseBody;
pub use channel::{MeshChannel, MeshChannelBuilder, ResponseFuture};
pub use deadline::{deadline_layer, decode_timeout, encode_timeout};
pub use grpc::Grpc;
#[cfg(feature = "health")]
pub use health::ServerHealth;
pub use mesh_core;
pub use prepared::{Prepare, Prepared, PreparedLayer};
#[cfg(feature = "server")]
pub use server::{MeshServer, Services};
pub use status::Error;
