//! Policies by the names that gRPC knows them under, with their JSON configuration in a `TypedStruct` (A52).

use prost_types::value::Kind;
use prost_types::{Struct, Value};

use super::lb_policy::{least_request, ring_hash};
use super::place::At;
use crate::resource::cluster::{EndpointPolicy, RingHash};
use crate::resource::matcher::header::HeaderSource;

/// Whether gRPC has a policy of this name that is supported here.
pub(super) fn is_known(name: &str) -> bool {
    matches!(name, "pick_first" | "round_robin" | "least_request_experimental" | "ring_hash_experimental")
}

/// The policy of a name that [is known](is_known); `None` if its configuration is wrong.
pub(super) fn named_policy(name: &str, config: &Struct, at: &At<'_>) -> Option<EndpointPolicy> {
    match name {
        "round_robin" => Some(EndpointPolicy::RoundRobin),
        "pick_first" => boolean(config, "shuffleAddressList", at).map(|shuffle| EndpointPolicy::PickFirst { shuffle }),
        "least_request_experimental" => {
            let choices = number(config, "choiceCount", at)?;
            let choices = choices.map(|choices| u32::try_from(choices).unwrap_or(u32::MAX));
            least_request(choices, &at.field("choiceCount"))
        }
        "ring_hash_experimental" => ring_hash_by_header(config, at),
        _ => None,
    }
}

fn ring_hash_by_header(config: &Struct, at: &At<'_>) -> Option<EndpointPolicy> {
    let min = number(config, "minRingSize", at)?.unwrap_or(RingHash::default().min_size);
    // As in gRPC's JSON, not as in xDS.
    let max = number(config, "maxRingSize", at)?.unwrap_or(4096);
    let header = hash_header(config, at)?;
    ring_hash(RingHash { min_size: min, max_size: max, header }, ["minRingSize", "maxRingSize"], at)
}

/// The header of A76: not binary, as its hash would differ from that of its text.
fn hash_header(config: &Struct, at: &At<'_>) -> Option<Option<HeaderSource>> {
    const FIELD: &str = "requestHashHeader";
    let name = match kind(config, FIELD) {
        None => return Some(None),
        Some(Kind::StringValue(name)) => name,
        Some(_) => {
            at.field(FIELD).error("must be a string");
            return None;
        }
    };
    let source = HeaderSource::of(name).filter(|source| *source != HeaderSource::Nowhere);
    if source.is_none() {
        at.field(FIELD).error("must be the name of a header that is not binary");
    }
    source.map(Some)
}

/// A whole number, which JSON may have as a string; the outer `None`: it is neither, and that is reported.
fn number(config: &Struct, field: &'static str, at: &At<'_>) -> Option<Option<u64>> {
    let number = match kind(config, field) {
        None => return Some(None),
        Some(Kind::NumberValue(number)) if *number >= 0.0 && number.fract() == 0.0 => Some(*number as u64),
        Some(Kind::StringValue(text)) => text.parse().ok(),
        Some(_) => None,
    };
    if number.is_none() {
        at.field(field).error("must be a whole number from 0");
    }
    number.map(Some)
}

/// A boolean, false if it is not set; `None`: it is none, and that is reported.
fn boolean(config: &Struct, field: &'static str, at: &At<'_>) -> Option<bool> {
    match kind(config, field) {
        None => Some(false),
        Some(Kind::BoolValue(value)) => Some(*value),
        Some(_) => {
            at.field(field).error("must be a boolean");
            None
        }
    }
}

/// What a field is; `null` is as if it were not there.
fn kind<'s>(config: &'s Struct, field: &str) -> Option<&'s Kind> {
    match config.fields.get(field) {
        Some(Value { kind: Some(kind) }) if !matches!(kind, Kind::NullValue(_)) => Some(kind),
        _ => None,
    }
}
