//! A service mesh linked into the service: discovery, routing, load balancing, retries and deadlines as tower layers,
//! configured by an xDS control plane.
//!
//! A `Mesh` is what a process has one of: the stream to its control plane, the connections to its endpoints. Channels are
//! made from it by an adapter, such as `mesh_tonic::MeshChannel` for gRPC:
//!
//! ```no_run
//! # #[cfg(all(feature = "discover", feature = "route", feature = "balance"))]
//! # async fn example() -> Result<(), mesh_core::Error> {
//! let mesh = mesh_core::Mesh::builder().bootstrap_from_env()?.build().await?; // GRPC_XDS_BOOTSTRAP
//! let greeter = mesh.target("xds:///greeter")?;
//! greeter.ready().await?;
//! for field in mesh.ignored_fields() {
//!     println!("{} {} is set and nothing acts on it", field.resource_type, field.path);
//! }
//! mesh.shutdown().await;
//! # Ok(()) }
//! ```
//!
//! A call passes the layers `discover`, `route`, `timeout`, `filter`, `mirror`, `retry`, `cluster` and `balance` onto a
//! connection of `connect`; the module `stack` puts them in order and says why. Each can be used by hand. The module
//! `testing` is a control plane in the box, for tests. `docs/fields.md` in the repository has the verdict on every xDS field,
//! [`verdicts`] the same as data.
//!
//! # Features
//!
//! | feature | what it adds |
//! |---|---|
//! | `discover`, `route`, `timeout`, `filter`, `mirror`, `retry`, `cluster`, `balance`, `deadline` | the layer of that name; a `Mesh` takes `discover`, `route` and `balance` |
//! | `server` | [`Mesh::server`] and its listeners |
//! | `rbac`, `jwt` | [`authorize::RbacLayer`]; `jwt_authn` and [`authorize::JwtLayer`] |
//! | `dns` | `dns:` targets, and clusters that are resolved by DNS |
//! | `tls`, with `aws-lc` or `ring` | TLS for endpoints, servers and the control plane |
//! | `post-quantum` | key exchange by X25519MLKEM768 wherever the peer can do it; off by default |
//! | `spiffe`, `istio` | certificates from a SPIFFE Workload API; from Istio's CA (off by default) |
//! | `testing` | the embedded control plane, for your own tests; off by default |
//!
//! Of `aws-lc` and `ring`, `aws-lc` is on by default.
//!
//! # Logs
//!
//! The mesh logs through `tracing`: resources that are rejected, certificates that near their end, clusters below the
//! security floor. Any subscriber shows them.

mod aside;
#[cfg(feature = "server")]
pub mod authorize;
mod backoff;
#[cfg(feature = "balance")]
pub mod balance;
mod bootstrap;
mod call;
#[cfg(feature = "cluster")]
pub mod cluster;
pub mod connect;
pub mod context;
mod criticality;
#[cfg(feature = "deadline")]
pub mod deadline;
#[cfg(feature = "discover")]
pub mod discover;
mod error;
#[cfg_attr(not(feature = "tls"), allow(dead_code, reason = "without TLS only the token's file is read"))]
mod files;
#[cfg(feature = "filter")]
pub mod filter;
#[cfg(all(any(test, fuzzing), feature = "testing", feature = "jwt", feature = "rbac"))]
#[doc(hidden)]
pub mod fuzzing;
mod http2;
#[cfg(feature = "tls")]
pub mod identity;
#[cfg(all(feature = "discover", feature = "route", feature = "balance"))]
mod mesh;
#[cfg(feature = "mirror")]
pub mod mirror;
mod names;
mod origin;
mod profile;
#[cfg(any(feature = "spiffe", feature = "istio"))]
pub mod providers;
mod replay;
mod resource;
#[cfg(feature = "retry")]
pub mod retry;
#[cfg(feature = "route")]
pub mod route;
#[cfg(feature = "server")]
pub mod server;
mod snapshot;
#[cfg(all(feature = "discover", feature = "route", feature = "balance"))]
pub mod stack;
mod sync;
#[cfg(feature = "testing")]
pub mod testing;
#[cfg(feature = "timeout")]
pub mod timeout;
#[cfg(feature = "tls")]
mod tls;
mod xds;

pub use bootstrap::{Bootstrap, BootstrapBuilder, GrpcService};
pub use call::{Call, CallInfo, CallOptions, Classify, Protocol};
pub use criticality::Criticality;
#[cfg(feature = "discover")]
pub use discover::Target;
pub use error::{BoxError, Error, ErrorKind};
#[cfg(all(feature = "tls", feature = "discover", feature = "route", feature = "balance"))]
pub use mesh::CertificateProviderStatus;
#[cfg(all(feature = "discover", feature = "route", feature = "balance"))]
pub use mesh::{
    ClusterStatus, ControlPlaneStatus, EjectionCount, EjectionStatus, EndpointStatus, IgnoredField, LeafStatus, Mesh,
    MeshBuilder, MeshStatus, ResourceStatus, Setting, SettingScope, TargetStatus,
};
#[cfg(all(feature = "discover", feature = "route", feature = "balance", feature = "server"))]
pub use mesh::{ServerBuilder, ServerConnection, ServerStatus};
pub use origin::Origin;
pub use profile::Profile;
pub use resource::endpoints::Address;
pub use resource::retry_policy::RetryPolicy;
pub use resource::verdict::{FieldVerdict, Verdict, verdicts};
pub use snapshot::Snapshot;
pub use snapshot::fixed::{ClusterBuilder, RouteBuilder, SnapshotBuilder};
#[cfg(feature = "tls")]
pub use tls::{SecurityFloor, TlsVersion};
