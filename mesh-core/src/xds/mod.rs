//! The xDS client: knows streams, names and versions, not what a cluster is.
//!
//! ```text
//! Subscriber ─ names ─▸ Store ─ what changed ─▸ driver ─▸ Ads (no I/O) ─▸ Transport ─▸ control plane
//!     ▴                   ▴        (client.rs)    │                          │
//!     └── values, verdicts┘◂──────── updates ─────┘◂─────── responses ───────┘
//! ```
//!
//! One task drives one stream for all targets. It never waits for a subscriber: these take the latest state of each
//! resource from the store whenever they like.

pub(crate) mod ads;
pub(crate) mod client;
pub(crate) mod message;
pub(crate) mod resource_type;
pub(crate) mod store;
pub(crate) mod transport;

use http::StatusCode;

pub(crate) use ads::StreamState;
pub(crate) use client::{Subscriber, XdsClient, XdsOptions};
pub(crate) use store::{Change, Counters, IgnoredSummary, ResourceReport, ResourceState, Verdict};

/// The code of gRPC that a response of HTTP without one stands for (gRPC's `http-grpc-status-mapping.md`): never success.
pub(crate) fn grpc_code_of_http(status: StatusCode) -> u8 {
    const UNKNOWN: u8 = 2;
    match status.as_u16() {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502..=504 => 14,
        _ => UNKNOWN,
    }
}

/// The name of a gRPC status code, as in gRPC's `statuscodes.md`.
pub(crate) fn status_code_name(code: u64) -> String {
    const NAMES: [&str; 17] = [
        "OK",
        "CANCELLED",
        "UNKNOWN",
        "INVALID_ARGUMENT",
        "DEADLINE_EXCEEDED",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED",
        "FAILED_PRECONDITION",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNIMPLEMENTED",
        "INTERNAL",
        "UNAVAILABLE",
        "DATA_LOSS",
        "UNAUTHENTICATED",
    ];
    match usize::try_from(code).ok().and_then(|code| NAMES.get(code)) {
        Some(name) => (*name).into(),
        None => format!("status {code}"),
    }
}
