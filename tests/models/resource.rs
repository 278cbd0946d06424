//! What outcomes refer to.

#[path = "../../mesh-core/src/resource/outlier_detection.rs"]
#[allow(dead_code, reason = "the models need a part of it")]
pub(crate) mod outlier_detection;

pub(crate) mod endpoints {
    /// An endpoint.
    #[derive(Debug)]
    pub(crate) struct Address;
}

pub(crate) mod weighted_round_robin {
    /// How load reports are weighed.
    #[derive(Debug)]
    pub(crate) struct WeightedRoundRobin;
}
