//! Policies in words, for those who ask what is in force: the names are those of the fields.

use std::fmt::{self, Display, Formatter};

use super::cluster::{Balancing, EndpointPolicy, HealthSet, Maglev, RingHash, Subset};
use super::hash_policy::{HashPolicy, HashSource};
use super::named_policy::NamedPolicy;
use super::outlier_detection::{Consecutive, FailurePercentage, OutlierDetection, SuccessRate};
use super::retry_policy::{Hedge, RetryPolicy};
use super::weighted_round_robin::WeightedRoundRobin;
use super::zone_aware::{LocalityBasis, ZoneAware};

impl Display for Balancing {
    /// "wrr_locality, round_robin"
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { by_locality, policy, subset, zones } = self;
        if *by_locality {
            f.write_str("wrr_locality, ")?;
        }
        if let Some(Subset::OfPriority(size) | Subset::OfLocality(size)) = subset {
            write!(f, "random_subsetting (subset_size {size}), ")?;
        }
        policy.fmt(f)?;
        zones.iter().try_for_each(|zones| write!(f, ", {zones}"))
    }
}

impl Display for ZoneAware {
    /// "zone_aware (routing_enabled 100 %, min_cluster_size 6)"
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { routing_enabled, min_cluster_size, fail_traffic_on_panic, force_local_zone, basis } = self;
        write!(f, "zone_aware (routing_enabled {routing_enabled} %, min_cluster_size {min_cluster_size}")?;
        if *fail_traffic_on_panic {
            f.write_str(", fail_traffic_on_panic")?;
        }
        if let Some(least) = force_local_zone {
            write!(f, ", force_local_zone (min_size {least})")?;
        }
        if *basis == LocalityBasis::HealthyWeight {
            f.write_str(", locality_basis HEALTHY_HOSTS_WEIGHT")?;
        }
        f.write_str(")")
    }
}

impl Display for EndpointPolicy {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::RoundRobin => f.write_str("round_robin"),
            Self::LeastRequest { choices } => write!(f, "least_request (choice_count {choices})"),
            Self::Random => f.write_str("random"),
            Self::Named(NamedPolicy { name, config, made: _ }) => write!(f, "{name} {}", config.json()),
            Self::PickFirst { shuffle } => write!(f, "pick_first (shuffle_address_list {shuffle})"),
            Self::RingHash(RingHash { min_size, max_size, header }) => {
                write!(f, "ring_hash (minimum_ring_size {min_size}, maximum_ring_size {max_size}")?;
                match header {
                    Some(header) => write!(f, ", request_hash_header {})", header.name()),
                    None => f.write_str(")"),
                }
            }
            Self::Maglev(Maglev { table_size, locality_weighted: _ }) => write!(f, "maglev (table_size {table_size})"),
            Self::PeakEwma => f.write_str("peak_ewma"),
            Self::WeightedRoundRobin(config) => config.fmt(f),
            Self::SlowStart { policy, slow_start } => {
                write!(f, "{policy}, slow_start_window {:?}", slow_start.window())
            }
        }
    }
}

impl Display for WeightedRoundRobin {
    /// "client_side_weighted_round_robin (blackout_period 10s, weight_expiration_period 180s, weight_update_period 1s)"
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { blackout_period, weight_expiration_period, weight_update_period, .. } = self;
        f.write_str("client_side_weighted_round_robin (")?;
        if let Some(period) = self.out_of_band() {
            write!(f, "oob_reporting_period {period:?}, ")?;
        }
        write!(
            f,
            "blackout_period {blackout_period:?}, weight_expiration_period {weight_expiration_period:?}, \
             weight_update_period {weight_update_period:?})"
        )?;
        match &self.slow_start {
            Some(slow_start) => write!(f, ", slow_start_window {:?}", slow_start.window()),
            None => Ok(()),
        }
    }
}

impl Display for HealthSet {
    /// "HEALTHY, DRAINING"
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { unknown, healthy, draining } = *self;
        let all = [("UNKNOWN", unknown), ("HEALTHY", healthy), ("DRAINING", draining)];
        let names: Vec<_> = all.into_iter().filter(|(_, is_in)| *is_in).map(|(name, _)| name).collect();
        f.write_str(if names.is_empty() { "none" } else { "" })?;
        f.write_str(&names.join(", "))
    }
}

impl Display for OutlierDetection {
    /// "consecutive_5xx 5; interval 10s, base_ejection_time 30s, max_ejection_time 300s, max_ejection_percent 10"
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self {
            interval,
            base_ejection_time,
            max_ejection_time,
            max_ejection_percent,
            success_rate,
            failure_percentage,
            consecutive_5xx,
            consecutive_gateway_failure,
            consecutive_local_origin_failure,
            split_local_origin,
        } = self;
        let mut methods = Vec::new();
        if let Some(SuccessRate { stdev_factor, minimum_hosts, request_volume, enforcing }) = success_rate {
            let what = format!("{stdev_factor} (minimum_hosts {minimum_hosts}, request_volume {request_volume})");
            methods.push(method("success_rate_stdev_factor", what, *enforcing));
        }
        if let Some(FailurePercentage { threshold, minimum_hosts, request_volume, enforcing }) = failure_percentage {
            let what = format!("{threshold} (minimum_hosts {minimum_hosts}, request_volume {request_volume})");
            methods.push(method("failure_percentage_threshold", what, *enforcing));
        }
        for (name, consecutive) in [
            ("consecutive_5xx", consecutive_5xx),
            ("consecutive_gateway_failure", consecutive_gateway_failure),
            ("consecutive_local_origin_failure", consecutive_local_origin_failure),
        ] {
            if let Some(Consecutive { failures, enforcing }) = consecutive {
                methods.push(method(name, failures.to_string(), *enforcing));
            }
        }
        if *split_local_origin {
            methods.push("split_external_local_origin_errors".to_owned());
        }
        write!(
            f,
            "{}; interval {interval:?}, base_ejection_time {base_ejection_time:?}, max_ejection_time \
             {max_ejection_time:?}, max_ejection_percent {max_ejection_percent}",
            methods.join(", ")
        )
    }
}

fn method(name: &str, what: String, enforcing: u32) -> String {
    match enforcing {
        100 => format!("{name} {what}"),
        enforcing => format!("{name} {what} at {enforcing} %"),
    }
}

impl Display for RetryPolicy {
    /// "unavailable,reset; 3 attempts, base_interval 25ms, max_interval 250ms"
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self {
            conditions,
            max_attempts,
            backoff,
            per_try_timeout,
            per_try_idle_timeout,
            hedge,
            status_codes,
            headers,
            request_headers,
            rate_limited,
        } = self;
        let words: Vec<_> = conditions.words().collect();
        write!(f, "{}; {max_attempts} attempts", words.join(","))?;
        write!(f, ", base_interval {:?}, max_interval {:?}", backoff.initial, backoff.max)?;
        if let Some(timeout) = per_try_timeout {
            write!(f, ", per_try_timeout {timeout:?}")?;
        }
        if let Some(timeout) = per_try_idle_timeout {
            write!(f, ", per_try_idle_timeout {timeout:?}")?;
        }
        if let Some(Hedge { delay, at_once: _ }) = hedge {
            write!(f, ", hedged after {delay:?}")?;
        }
        if !status_codes.is_empty() {
            write!(f, ", retriable_status_codes {status_codes:?}")?;
        }
        for (name, headers) in [("retriable_headers", headers), ("retriable_request_headers", request_headers)] {
            if !headers.is_empty() {
                let names: Vec<_> = headers.iter().map(|header| header.name()).collect();
                write!(f, ", {name} {}", names.join(" "))?;
            }
        }
        match rate_limited {
            Some(limited) => write!(f, ", rate_limited_retry_back_off up to {:?}", limited.max),
            None => Ok(()),
        }
    }
}

impl Display for HashPolicy {
    /// "header x-user, terminal"
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match &self.source {
            HashSource::Header(header, _) => write!(f, "header {}", header.name())?,
            HashSource::ChannelId => f.write_str("filter_state io.grpc.channel_id")?,
            HashSource::QueryParameter(name) => write!(f, "query_parameter {name}")?,
            HashSource::Cookie(cookie) => write!(f, "cookie {}", cookie.name)?,
        }
        f.write_str(if self.terminal { ", terminal" } else { "" })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::resource::matcher::header::HeaderSource;
    use crate::resource::slow_start::SlowStart;
    use crate::resource::weighted_round_robin::Reporting;

    #[test]
    fn policies_are_told_in_the_words_of_their_fields() {
        let header = HeaderSource::of("x-user");
        let reporting = Reporting::OutOfBand(WeightedRoundRobin::OOB_REPORTING_PERIOD);
        let weighted = WeightedRoundRobin { reporting, ..WeightedRoundRobin::default() };
        let slow_start = SlowStart::new(Duration::from_secs(60), 1.0, 10.0).expect("a window");
        let slowly = EndpointPolicy::SlowStart { policy: Box::new(EndpointPolicy::RoundRobin), slow_start };
        let ring = RingHash { header, ..RingHash::default() };
        let subset = Balancing {
            subset: Some(Subset::OfLocality(3)),
            ..Balancing::new(true, EndpointPolicy::LeastRequest { choices: 4 })
        };
        for (policy, words) in [
            (Balancing::default(), "wrr_locality, round_robin"),
            (subset, "wrr_locality, random_subsetting (subset_size 3), least_request (choice_count 4)"),
            (
                Balancing::new(false, EndpointPolicy::RingHash(ring)),
                "ring_hash (minimum_ring_size 1024, maximum_ring_size 8388608, request_hash_header x-user)",
            ),
            (Balancing::new(false, EndpointPolicy::Maglev(Maglev::default())), "maglev (table_size 65537)"),
            (Balancing::new(false, EndpointPolicy::PeakEwma), "peak_ewma"),
            (
                Balancing::new(true, EndpointPolicy::WeightedRoundRobin(Arc::new(weighted))),
                "wrr_locality, client_side_weighted_round_robin (oob_reporting_period 10s, blackout_period 10s, \
                 weight_expiration_period 180s, weight_update_period 1s)",
            ),
            (Balancing::new(false, slowly), "round_robin, slow_start_window 60s"),
        ] {
            assert_eq!(policy.to_string(), words);
        }
        assert_eq!(
            OutlierDetection::LOCAL.to_string(),
            "consecutive_local_origin_failure 5, split_external_local_origin_errors; interval 10s, base_ejection_time 10s, \
             max_ejection_time 300s, max_ejection_percent 30"
        );
        let retry = RetryPolicy::on("reset,unavailable").expect("known words").hedge(Duration::from_millis(50));
        assert_eq!(
            retry.to_string(),
            "unavailable,reset; 2 attempts, base_interval 25ms, max_interval 250ms, hedged after 50ms"
        );
    }
}
