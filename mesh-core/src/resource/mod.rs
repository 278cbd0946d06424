//! Protobuf to validated types, by pure functions that collect every error with its field path.
//!
//! The types stand here, without protobuf: a listener's routes, a cluster, its endpoints, and how requests are matched; and
//! what filters count or ask while calls run: token buckets, limits, keys, the service of `ext_authz`, the audit log.
//! [`decode`] makes them from bytes; [`verdict`] says what becomes of every field of every message that it opens.

pub(crate) mod answer;
pub(crate) mod circuit_breakers;
#[cfg_attr(not(feature = "server"), allow(dead_code, reason = "no call is served"))]
pub(crate) mod claims;
pub(crate) mod cluster;
pub(crate) mod cookie;
mod decode;
mod display;
pub(crate) mod domain;
#[cfg(feature = "tls")]
pub(crate) mod downstream_tls;
pub(crate) mod endpoints;
#[cfg_attr(not(feature = "filter"), allow(dead_code, unused_imports, reason = "no call is checked"))]
pub(crate) mod ext_authz;
pub(crate) mod filter;
pub(crate) mod filter_chain;
pub(crate) mod hash_policy;
#[cfg(feature = "jwt")]
pub(crate) mod jwt;
pub(crate) mod level;
pub(crate) mod listener;
pub(crate) mod local;
pub(crate) mod matcher;
pub(crate) mod mirror;
pub(crate) mod named_policy;
pub(crate) mod outlier_detection;
#[cfg_attr(not(feature = "rbac"), allow(dead_code, reason = "policies are not made in code"))]
pub(crate) mod rbac;
pub(crate) mod retry_policy;
pub(crate) mod rewrite;
pub(crate) mod route;
pub(crate) mod route_answer;
pub(crate) mod route_config;
#[cfg(feature = "tls")]
pub(crate) mod secret;
pub(crate) mod security;
pub(crate) mod slow_start;
pub(crate) mod socket_match;
#[cfg(feature = "tls")]
pub(crate) mod upstream_tls;
pub(crate) mod verdict;
pub(crate) mod weighted_round_robin;
pub(crate) mod zone_aware;

#[cfg(feature = "tls")]
pub(crate) use decode::SECRET;
#[cfg(any(test, fuzzing))]
pub(crate) use decode::trial;
pub(crate) use decode::{CLUSTER, ENDPOINTS, LISTENER, ROUTE_CONFIGURATION};
