//! How a cluster is balanced: `lb_policy` (A27, A48) and `load_balancing_policy` (A52).

use std::sync::Arc;

use mesh_xds_proto::envoy::config::cluster::v3 as proto;
use mesh_xds_proto::envoy::config::cluster::v3::LoadBalancingPolicy;
use mesh_xds_proto::envoy::config::cluster::v3::cluster::common_lb_config::LocalityConfigSpecifier;
use mesh_xds_proto::envoy::config::cluster::v3::cluster::ring_hash_lb_config::HashFunction as LegacyHashFunction;
use mesh_xds_proto::envoy::config::cluster::v3::cluster::{LbConfig, LbPolicy, RingHashLbConfig};
use mesh_xds_proto::envoy::extensions::load_balancing_policies::client_side_weighted_round_robin::v3::ClientSideWeightedRoundRobin;
use mesh_xds_proto::envoy::extensions::load_balancing_policies::least_request::v3::LeastRequest;
use mesh_xds_proto::envoy::extensions::load_balancing_policies::maglev::v3::Maglev as MaglevMessage;
use mesh_xds_proto::envoy::extensions::load_balancing_policies::pick_first::v3::PickFirst;
use mesh_xds_proto::envoy::extensions::load_balancing_policies::random::v3::Random;
use mesh_xds_proto::envoy::extensions::load_balancing_policies::random_subsetting::v3::RandomSubsetting;
use mesh_xds_proto::envoy::extensions::load_balancing_policies::ring_hash::v3::RingHash as RingHashMessage;
use mesh_xds_proto::envoy::extensions::load_balancing_policies::ring_hash::v3::ring_hash::HashFunction;
use mesh_xds_proto::envoy::extensions::load_balancing_policies::round_robin::v3::RoundRobin;
use mesh_xds_proto::envoy::extensions::load_balancing_policies::wrr_locality::v3::WrrLocality;

use super::named_policy::{self, named_policy};
use super::place::{At, cut, quoted};
use super::slow_start::started_slowly;
use super::value::Extension;
use super::weighted_round_robin::weighted_round_robin;
use super::zone_aware;
use crate::error::with_causes;
use crate::resource::cluster::{Balancing, EndpointPolicy, Maglev, RingHash, Subset};
use crate::resource::verdict::Fields;

/// How deep policies may be nested (A52).
const MAX_DEPTH: usize = 16;

/// `load_balancing_policy` if it is set, else `lb_policy`.
pub(super) fn balancing(cluster: &proto::Cluster, at: &At<'_>) -> Option<Balancing> {
    judge_config(cluster, at);
    match &cluster.load_balancing_policy {
        Some(list) => first_supported(list, &at.field("load_balancing_policy"), 0),
        None => by_name(cluster, at),
    }
}

/// Of an aggregate, which has no endpoints to balance: whatever it says is listed. Envoy wants CLUSTER_PROVIDED there.
pub(super) fn unused_balancing(cluster: &proto::Cluster, at: &At<'_>) -> Balancing {
    const LEAVES: &str = "each leaf of an aggregate has its own policy (A75)";
    if cluster.load_balancing_policy.is_some() {
        at.field("load_balancing_policy").ignored(LEAVES);
    }
    if ![LbPolicy::RoundRobin, LbPolicy::ClusterProvided].contains(&cluster.lb_policy()) {
        at.field("lb_policy").ignored(LEAVES);
    }
    zone_aware::unused(cluster, LEAVES, at);
    Balancing::default()
}

/// The configuration beside `lb_policy` counts only if it is that policy's.
fn judge_config(cluster: &proto::Cluster, at: &At<'_>) {
    let is = |policy: LbPolicy| cluster.load_balancing_policy.is_none() && cluster.lb_policy() == policy;
    const OTHER: &str = "the cluster is balanced by another policy";
    if ![LbPolicy::RoundRobin, LbPolicy::LeastRequest, LbPolicy::Random].into_iter().any(is) {
        zone_aware::unused(cluster, OTHER, at);
    }
    match &cluster.lb_config {
        Some(LbConfig::LeastRequestLbConfig(config)) => match &at.field("least_request_lb_config") {
            at if is(LbPolicy::LeastRequest) => config.judge(at),
            at => at.ignored(OTHER),
        },
        Some(LbConfig::RoundRobinLbConfig(config)) => match &at.field("round_robin_lb_config") {
            at if is(LbPolicy::RoundRobin) => config.judge(at),
            at => at.ignored(OTHER),
        },
        Some(LbConfig::MaglevLbConfig(config)) => match &at.field("maglev_lb_config") {
            at if is(LbPolicy::Maglev) => config.judge(at),
            at => at.ignored(OTHER),
        },
        Some(LbConfig::RingHashLbConfig(config)) => match &at.field("ring_hash_lb_config") {
            at if is(LbPolicy::RingHash) => config.judge(at),
            at => at.ignored(OTHER),
        },
        _ => {}
    }
}

/// The old field: localities always share by weight.
fn by_name(cluster: &proto::Cluster, at: &At<'_>) -> Option<Balancing> {
    let policy = match LbPolicy::try_from(cluster.lb_policy) {
        Ok(LbPolicy::RoundRobin) => {
            let at = &at.field("round_robin_lb_config");
            let slow_start = match &cluster.lb_config {
                Some(LbConfig::RoundRobinLbConfig(config)) => config.slow_start_config.as_ref(),
                _ => None,
            };
            started_slowly(EndpointPolicy::RoundRobin, slow_start, at)
        }
        Ok(LbPolicy::LeastRequest) => {
            let at = &at.field("least_request_lb_config");
            let (choices, slow_start) = match &cluster.lb_config {
                Some(LbConfig::LeastRequestLbConfig(config)) => {
                    (config.choice_count, config.slow_start_config.as_ref())
                }
                _ => (None, None),
            };
            started_slowly(least_request(choices, &at.field("choice_count"))?, slow_start, at)
        }
        Ok(LbPolicy::Random) => EndpointPolicy::Random,
        Ok(LbPolicy::Maglev) => {
            let size = match &cluster.lb_config {
                Some(LbConfig::MaglevLbConfig(config)) => config.table_size,
                _ => None,
            };
            let specifier = cluster.common_lb_config.as_ref().and_then(|config| config.locality_config_specifier);
            let locality_weighted = matches!(specifier, Some(LocalityConfigSpecifier::LocalityWeightedLbConfig(_)));
            return maglev(size, locality_weighted, &at.field("maglev_lb_config")).map(whole_priority);
        }
        Ok(LbPolicy::RingHash) => {
            let config = match &cluster.lb_config {
                Some(LbConfig::RingHashLbConfig(config)) => config,
                _ => &RingHashLbConfig::default(),
            };
            let at = &at.field("ring_hash_lb_config");
            let is_xx = config.hash_function() == LegacyHashFunction::XxHash;
            return ring_hash_of(is_xx, config.minimum_ring_size, config.maximum_ring_size, at).map(whole_priority);
        }
        Ok(LbPolicy::LoadBalancingPolicyConfig) => {
            at.field("load_balancing_policy").error("must be set, because `lb_policy` says so");
            return None;
        }
        Ok(other) => {
            at.field("lb_policy").error(format!("{} is not supported yet", other.as_str_name()));
            return None;
        }
        Err(_) => {
            at.field("lb_policy").error(format!("{} is no known policy", cluster.lb_policy));
            return None;
        }
    };
    let specifier = cluster.common_lb_config.as_ref().and_then(|config| config.locality_config_specifier.as_ref());
    zone_aware::in_cluster(Balancing::new(true, policy), specifier, &at.field("common_lb_config"))
}

/// 2 if it is not set; more than 10 is 10 (A48). `at`: the number itself.
pub(super) fn least_request(choices: Option<u32>, at: &At<'_>) -> Option<EndpointPolicy> {
    let choices = choices.unwrap_or(2);
    if choices < 2 {
        at.error(format!("{choices} is less than 2"));
        return None;
    }
    Some(EndpointPolicy::LeastRequest { choices: choices.min(10) })
}

/// The ring as xDS describes it, whose fields have the same names in both messages.
fn ring_hash_of(is_xx: bool, min: Option<u64>, max: Option<u64>, at: &At<'_>) -> Option<EndpointPolicy> {
    if !is_xx {
        at.field("hash_function").error("must be XX_HASH (A42)");
    }
    let default = RingHash::default();
    let (min_size, max_size) = (min.unwrap_or(default.min_size), max.unwrap_or(default.max_size));
    let config = RingHash { min_size, max_size, header: None };
    ring_hash(config, ["minimum_ring_size", "maximum_ring_size"], at).filter(|_| is_xx)
}

/// One ring over all endpoints of a priority (A42); `names` are those of its bounds.
pub(super) fn ring_hash(config: RingHash, names: [&'static str; 2], at: &At<'_>) -> Option<EndpointPolicy> {
    const MAX: u64 = 8 << 20;
    let errors = at.report().error_count();
    let RingHash { min_size, max_size, .. } = config;
    for (name, size) in names.into_iter().zip([min_size, max_size]) {
        match size {
            0 => at.field(name).error("0 is less than 1"),
            1..=MAX => {}
            _ => at.field(name).error(format!("{size} is more than {MAX}")),
        }
    }
    if min_size > max_size && max_size > 0 {
        at.field(names[0]).error(format!("{min_size} is more than the `{}`, {max_size}", names[1]));
    }
    (at.report().error_count() == errors).then_some(EndpointPolicy::RingHash(config))
}

/// One table over all endpoints of a priority, as in Envoy.
fn maglev(size: Option<u64>, locality_weighted: bool, at: &At<'_>) -> Option<EndpointPolicy> {
    /// The largest that Envoy takes.
    const MAX: u64 = 5_000_011;
    let table_size = match size {
        None => Maglev::default().table_size,
        Some(size) => match u32::try_from(size).ok().filter(|size| u64::from(*size) <= MAX && is_prime(*size)) {
            Some(size) => size,
            None => {
                at.field("table_size").error(format!("{size} is not a prime from 2 to {MAX}"));
                return None;
            }
        },
    };
    Some(EndpointPolicy::Maglev(Maglev { table_size, locality_weighted }))
}

fn is_prime(number: u32) -> bool {
    number >= 2
        && (2..).take_while(|divisor| divisor * divisor <= number).all(|divisor: u32| !number.is_multiple_of(divisor))
}

fn whole_priority(policy: EndpointPolicy) -> Balancing {
    Balancing::new(false, policy)
}

/// The first policy of a supported type counts, and is not passed over if its configuration is wrong (A52).
fn first_supported(list: &LoadBalancingPolicy, at: &At<'_>, depth: usize) -> Option<Balancing> {
    list.judge(at);
    if depth == MAX_DEPTH {
        at.error(format!("is nested more than {MAX_DEPTH} deep"));
        return None;
    }
    let mut unsupported = Vec::new();
    for (index, policy) in list.policies.iter().enumerate() {
        let at = &at.item("policies", index);
        policy.judge(at);
        let config = at.required("typed_extension_config", policy.typed_extension_config.as_ref())?;
        let at = &at.field("typed_extension_config");
        config.judge(at);
        let at = &at.field("typed_config");
        let extension = Extension::open(config.typed_config.as_ref(), at)?;
        match supported(&extension, at, depth) {
            Found::Policy(balancing) => return balancing,
            Found::Nothing => unsupported.push(quoted(&extension.type_name)),
        }
    }
    at.error(format!("none of its policies is supported yet: {}", cut(&unsupported.join(", "))));
    None
}

/// What a type of policy came to.
enum Found {
    /// It is supported; `None` if its configuration is wrong, which is reported.
    Policy(Option<Balancing>),
    Nothing,
}

fn supported(extension: &Extension<'_>, at: &At<'_>, depth: usize) -> Found {
    if named_policy::is_known(&extension.type_name)
        && let Some(config) = extension.structure(at)
    {
        let at = &at.field("value");
        return Found::Policy(named_policy(&extension.type_name, &config, at).map(whole_priority));
    }
    if let Some(own) = at.report().local.policies.make(&extension.type_name, || extension.structure(at)) {
        let own = own.map_err(|error| at.field("value").error(with_causes(&*error)));
        return Found::Policy(own.ok().map(|own| whole_priority(EndpointPolicy::Named(own))));
    }
    Found::Policy(if extension.is::<WrrLocality>() {
        wrr_locality(extension, at, depth)
    } else if extension.is::<RoundRobin>() {
        let config = extension.unpack::<RoundRobin>(at);
        let config = config.inspect(|config| config.judge(at));
        config.and_then(|config| {
            let policy = started_slowly(EndpointPolicy::RoundRobin, config.slow_start_config.as_ref(), at);
            zone_aware::in_policy(whole_priority(policy), config.locality_lb_config.as_ref(), at)
        })
    } else if extension.is::<LeastRequest>() {
        let config = extension.unpack::<LeastRequest>(at);
        let config = config.inspect(|config| config.judge(at));
        config.and_then(|config| {
            let policy = least_request(config.choice_count, &at.field("choice_count"))?;
            let policy = started_slowly(policy, config.slow_start_config.as_ref(), at);
            zone_aware::in_policy(whole_priority(policy), config.locality_lb_config.as_ref(), at)
        })
    } else if extension.is::<ClientSideWeightedRoundRobin>() {
        let config = extension.unpack::<ClientSideWeightedRoundRobin>(at);
        let config = config.and_then(|config| weighted_round_robin(&config, at));
        config.map(|config| whole_priority(EndpointPolicy::WeightedRoundRobin(Arc::new(config))))
    } else if extension.is::<PickFirst>() {
        let config = extension.unpack::<PickFirst>(at);
        let config = config.inspect(|config| config.judge(at));
        config.map(|config| whole_priority(EndpointPolicy::PickFirst { shuffle: config.shuffle_address_list }))
    } else if extension.is::<Random>() {
        let config = extension.unpack::<Random>(at);
        let config = config.inspect(|config| config.judge(at));
        config.and_then(|config| {
            zone_aware::in_policy(whole_priority(EndpointPolicy::Random), config.locality_lb_config.as_ref(), at)
        })
    } else if extension.is::<MaglevMessage>() {
        let config = extension.unpack::<MaglevMessage>(at);
        let config = config.inspect(|config| config.judge(at));
        config.and_then(|config| {
            maglev(config.table_size, config.locality_weighted_lb_config.is_some(), at).map(whole_priority)
        })
    } else if extension.is::<RandomSubsetting>() {
        random_subsetting(extension, at, depth)
    } else if extension.is::<RingHashMessage>() {
        let config = extension.unpack::<RingHashMessage>(at);
        let config = config.inspect(|config| config.judge(at));
        config.and_then(|config| {
            let is_xx = matches!(config.hash_function(), HashFunction::DefaultHash | HashFunction::XxHash);
            ring_hash_of(is_xx, config.minimum_ring_size, config.maximum_ring_size, at).map(whole_priority)
        })
    } else {
        return Found::Nothing;
    })
}

/// A part of the endpoints, balanced by the policy inside (A68).
fn random_subsetting(extension: &Extension<'_>, at: &At<'_>, depth: usize) -> Option<Balancing> {
    let config = extension.unpack::<RandomSubsetting>(at)?;
    config.judge(at);
    let size = at.required("subset_size", config.subset_size);
    if size == Some(0) {
        at.field("subset_size").error("must be greater than 0");
    }
    let inner = at.required("child_policy", config.child_policy)?;
    let at = &at.field("child_policy");
    let inner = first_supported(&inner, at, depth + 1)?;
    if inner.subset.is_some() {
        at.error("must not choose a subset of the subset");
        return None;
    }
    Some(Balancing { subset: Some(Subset::OfPriority(size?)), ..inner })
}

/// Localities share by weight, and the policy inside is each locality's own.
fn wrr_locality(extension: &Extension<'_>, at: &At<'_>, depth: usize) -> Option<Balancing> {
    let config = extension.unpack::<WrrLocality>(at)?;
    config.judge(at);
    let inner = at.required("endpoint_picking_policy", config.endpoint_picking_policy)?;
    let inner = first_supported(&inner, &at.field("endpoint_picking_policy"), depth + 1)?;
    let subset = inner.subset.map(|(Subset::OfPriority(size) | Subset::OfLocality(size))| Subset::OfLocality(size));
    if inner.zones.is_some() {
        at.field("endpoint_picking_policy").ignored("`zone_aware_lb_config` in it: its localities share by weight");
    }
    Some(Balancing { by_locality: true, subset, zones: None, ..inner })
}
