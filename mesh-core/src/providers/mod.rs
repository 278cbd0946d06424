//! Certificates without an agent beside the process: providers that obtain them over the network.
//!
//! ```text
//! WorkloadApi ┬ call.rs: a gRPC call over xds/transport ─▸ SPIFFE Workload API ┬▸ KeyMaterial ─▸ Publisher (identity/)
//! IstioCa     ┘                                         ─▸ Istio's CA            ┘
//! ```
//!
//! They are used as any other [`CertificateProvider`](crate::identity::CertificateProvider): by name, given to
//! `MeshBuilder::certificate_provider` or in the bootstrap's `certificate_providers`. What was obtained last stays in use
//! until it expires, however long whoever issues certificates cannot be reached.

mod call;
#[cfg(feature = "istio")]
mod istio_ca;
#[cfg(feature = "spiffe")]
mod workload_api;

#[cfg(feature = "istio")]
pub use istio_ca::IstioCa;
#[cfg(feature = "spiffe")]
pub use workload_api::WorkloadApi;
