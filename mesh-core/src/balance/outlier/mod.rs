//! Outlier detection: endpoints that fail take no calls for a while (A50), with Envoy's consecutive failures in addition.
//!
//! Calls count how they end at their endpoint ([`EndpointStats`](crate::connect::EndpointStats)). Every interval the
//! [`Detector`] looks at the counts of each priority; an endpoint that fails too often in a row comes to it at once. It
//! says whom to eject and who returns, and has neither a clock nor randomness of its own. An ejected endpoint keeps its
//! connections and the calls it has, and is to its policy what an unreachable one is.
//!
//! ```text
//! call ends ─ Recorder ─ Classify ▸ EndpointStats.record ┬ totals ────────▸ interval ▸ Detector.sweep ┬▸ eject, restore
//!                                                        └ too many in a row ───────▸ Detector.fail ──┘   ▸ new picker
//! ```

mod algorithm;
mod counts;
mod detector;

pub(crate) use algorithm::Totals;
pub(crate) use counts::{EjectionCounts, Method, Unenforced};
pub(crate) use detector::{Detector, Group, Look};
