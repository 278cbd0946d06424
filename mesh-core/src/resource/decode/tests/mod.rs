//! Tests of the decoders through the four resource types, as the xDS client uses them.

mod affinity;
mod circuit_breakers;
mod conformance;
mod errors;
mod fixture;
mod fuzz;
mod istio;
mod load;
mod named_policy;
mod outlier_detection;
mod retry_policy;
mod routing;
#[cfg(feature = "tls")]
mod secrets;
mod sessions;
mod subsetting;
mod verdicts;
#[cfg(not(any(feature = "filter", feature = "timeout", feature = "mirror", feature = "retry", feature = "cluster")))]
mod without_layers;
mod zones;
