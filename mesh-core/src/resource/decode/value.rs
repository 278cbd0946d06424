//! Small values that many messages contain: durations, percentages, config sources, extensions.

use std::time::Duration;

use http::StatusCode;
use mesh_xds_proto::envoy::config::core::v3::config_source::ConfigSourceSpecifier;
use mesh_xds_proto::envoy::config::core::v3::{ConfigSource, RuntimeFeatureFlag, RuntimeFractionalPercent};
use mesh_xds_proto::envoy::r#type::v3::fractional_percent::DenominatorType;
use mesh_xds_proto::envoy::r#type::v3::{FractionalPercent, HttpStatus};
use mesh_xds_proto::{udpa, xds};
use prost::{Message, Name};
use prost_types::Any;

use super::place::At;
use crate::resource::filter::fault::Share;
use crate::resource::verdict::Fields;
use crate::resource::verdict::table::OTHER_SOURCE;

/// 10,000 years, the greatest `google.protobuf.Duration`.
const MAX_SECONDS: i64 = 315_576_000_000;

/// A duration, which must not be negative; `None` if it is not set, or is wrong and reported.
pub(crate) fn duration(value: Option<prost_types::Duration>, at: &At<'_>) -> Option<Duration> {
    let prost_types::Duration { seconds, nanos } = value?;
    match (u64::try_from(seconds), u32::try_from(nanos)) {
        (Ok(whole), Ok(fraction)) if seconds <= MAX_SECONDS && fraction < 1_000_000_000 => {
            Some(Duration::new(whole, fraction))
        }
        _ => {
            at.error(format!("{seconds} s and {nanos} ns is not a duration from 0 s to {MAX_SECONDS} s"));
            None
        }
    }
}

/// Parts of a million, capped at all of them.
pub(crate) fn per_million(percent: &FractionalPercent, at: &At<'_>) -> Option<u32> {
    let Share { numerator, denominator } = share(percent, at)?;
    Some(numerator.saturating_mul(1_000_000 / denominator).min(1_000_000))
}

/// A share whose numerator a call may lower.
pub(crate) fn share(percent: &FractionalPercent, at: &At<'_>) -> Option<Share> {
    percent.judge(at);
    let FractionalPercent { numerator, denominator } = *percent;
    let denominator = match DenominatorType::try_from(denominator) {
        Ok(DenominatorType::Hundred) => 100,
        Ok(DenominatorType::TenThousand) => 10_000,
        Ok(DenominatorType::Million) => 1_000_000,
        Err(_) => {
            at.field("denominator").error(format!("{denominator} is no known denominator"));
            return None;
        }
    };
    Some(Share { numerator, denominator })
}

/// A percentage, rounded to a whole one.
pub(crate) fn whole_percent(value: f64, at: &At<'_>) -> Option<u32> {
    let whole = (0..=100_u32).find(|whole| (0.0..=100.0).contains(&value) && value.round() == f64::from(*whole));
    if whole.is_none() {
        at.field("value").error(format!("{value} is not a percentage from 0 to 100"));
    }
    whole
}

/// The default of a fraction that a runtime could change; `None` if it says none, which is all.
pub(crate) fn runtime_fraction(fraction: &RuntimeFractionalPercent, at: &At<'_>) -> Option<u32> {
    fraction.judge(at);
    per_million(fraction.default_value.as_ref()?, &at.field("default_value"))
}

/// The default of a flag that a runtime could change.
pub(crate) fn is_on(flag: &RuntimeFeatureFlag, at: &At<'_>) -> bool {
    flag.judge(at);
    at.required("default_value", flag.default_value).unwrap_or(true)
}

/// A status that says an error; `None` if it says none, or is wrong and reported.
pub(crate) fn error_status(message: &HttpStatus, at: &At<'_>) -> Option<StatusCode> {
    message.judge(at);
    let code = u16::try_from(message.code).ok().filter(|code| (100..600).contains(code));
    let Some(status) = code.and_then(|code| StatusCode::from_u16(code).ok()) else {
        at.field("code").error(format!("{} is not a status of HTTP from 100 to 599", message.code));
        return None;
    };
    (status.as_u16() >= 400).then_some(status)
}

/// Reports a source other than the control plane that sent the resource.
pub(crate) fn from_control_plane(source: Option<&ConfigSource>, at: &At<'_>) {
    let Some(source) = source else {
        return at.error("must be set");
    };
    source.judge(at);
    match source.config_source_specifier {
        None => at.error(OTHER_SOURCE),
        Some(ConfigSourceSpecifier::ApiConfigSource(_)) => at.field("api_config_source").error(OTHER_SOURCE),
        Some(_) => {}
    }
}

/// Reports a source other than `self`, the only one that load reports may go to (A27).
pub(crate) fn is_self(source: &ConfigSource, at: &At<'_>) {
    match source.config_source_specifier {
        Some(ConfigSourceSpecifier::Self_(_)) => source.judge(at),
        _ => at.error("must be `self`"),
    }
}

/// A packed extension and its type, unwrapped if it is a `TypedStruct`.
pub(crate) struct Extension<'a> {
    any: &'a Any,
    /// Full name of the message, or what a `TypedStruct` calls itself.
    pub(crate) type_name: String,
    is_struct: bool,
}

impl<'a> Extension<'a> {
    /// Looks into a field that must be set.
    pub(crate) fn open(any: Option<&'a Any>, at: &At<'_>) -> Option<Self> {
        let Some(any) = any else {
            at.error("must be set");
            return None;
        };
        let wrapped = match type_name(&any.type_url) {
            name if name == xds::r#type::v3::TypedStruct::full_name() => {
                unpack::<xds::r#type::v3::TypedStruct>(any, at)?.type_url
            }
            name if name == udpa::r#type::v1::TypedStruct::full_name() => {
                unpack::<udpa::r#type::v1::TypedStruct>(any, at)?.type_url
            }
            name => return Some(Self { any, type_name: name.to_owned(), is_struct: false }),
        };
        Some(Self { any, type_name: type_name(&wrapped).to_owned(), is_struct: true })
    }

    /// Whether this is a packed `M`. The JSON form of a known type, in a `TypedStruct`, is not understood.
    pub(crate) fn is<M: Name>(&self) -> bool {
        !self.is_struct && self.type_name == M::full_name()
    }

    /// The configuration in a `TypedStruct`, whose two types are alike; `None`: it is none.
    pub(crate) fn structure(&self, at: &At<'_>) -> Option<prost_types::Struct> {
        let wrapper = self.is_struct.then(|| unpack::<xds::r#type::v3::TypedStruct>(self.any, at))??;
        Some(wrapper.value.unwrap_or_default())
    }

    /// The message, if it can be decoded.
    pub(crate) fn unpack<M: Message + Default + Name>(&self, at: &At<'_>) -> Option<M> {
        unpack(self.any, at)
    }
}

/// The name behind the last `/` of a type URL.
pub(crate) fn type_name(type_url: &str) -> &str {
    type_url.rsplit_once('/').map_or(type_url, |(_, name)| name)
}

fn unpack<M: Message + Default + Name>(any: &Any, at: &At<'_>) -> Option<M> {
    let message = M::decode(any.value.as_slice());
    message.map_err(|error| at.error(format!("is not a valid {}: {error}", M::NAME))).ok()
}

/// Whether a duration asks for anything: 0 s is "no limit", which holds anyway.
pub(crate) fn is_positive(value: &Option<prost_types::Duration>) -> bool {
    value.is_some_and(|duration| duration.seconds != 0 || duration.nanos != 0)
}

/// Whether a switch is on.
pub(crate) fn is_true(value: &Option<bool>) -> bool {
    *value == Some(true)
}

#[cfg(test)]
mod tests {
    use super::super::place::Report;
    use super::*;

    #[test]
    fn a_duration_is_neither_negative_nor_beyond_what_protobuf_allows() {
        for (seconds, nanos, expected) in [
            (0, 0, Some(Duration::ZERO)),
            (1, 999_999_999, Some(Duration::new(1, 999_999_999))),
            (MAX_SECONDS, 0, Some(Duration::from_secs(315_576_000_000))),
            (-1, 0, None),
            (0, -1, None),
            (0, 1_000_000_000, None),
            (MAX_SECONDS + 1, 0, None),
            (i64::MIN, i32::MIN, None),
        ] {
            let report = Report::default();
            let value = duration(Some(prost_types::Duration { seconds, nanos }), &report.root());
            assert_eq!(value, expected, "{seconds} s, {nanos} ns");
            assert_eq!(report.error_count() > 0, expected.is_none());
        }
    }

    #[test]
    fn a_fraction_is_capped_and_its_denominator_known() {
        for (numerator, denominator, expected) in [
            (25, 0, Some(250_000)),
            (250, 0, Some(1_000_000)),
            (u32::MAX, 0, Some(1_000_000)),
            (25, 1, Some(2_500)),
            (25, 2, Some(25)),
            (0, 2, Some(0)),
            (1, 3, None),
            (1, -1, None),
        ] {
            let report = Report::default();
            let value = per_million(&FractionalPercent { numerator, denominator }, &report.root());
            assert_eq!(value, expected, "{numerator} of {denominator}");
        }
    }
}
