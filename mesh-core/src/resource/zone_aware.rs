//! Zone-aware choice (Envoy's `zone_aware_lb_config`), as the control plane asks for it.

/// How calls prefer endpoints of the caller's own locality; for [`Profile::Envoy`](crate::Profile) alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ZoneAware {
    /// The calls that go by zones, in percent.
    pub(crate) routing_enabled: u32,
    /// With fewer healthy endpoints calls do not go by zones.
    pub(crate) min_cluster_size: u64,
    /// In a panic calls fail, instead of going to endpoints of any health.
    pub(crate) fail_traffic_on_panic: bool,
    /// All calls stay in the caller's locality while that has so many healthy endpoints, whatever their share is.
    pub(crate) force_local_zone: Option<u32>,
    pub(crate) basis: LocalityBasis,
}

/// What the shares of localities are shares of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum LocalityBasis {
    /// The number of healthy endpoints.
    #[default]
    HealthyNumber,
    /// The sum of their weights.
    HealthyWeight,
}

impl Default for ZoneAware {
    /// Envoy's.
    fn default() -> Self {
        Self {
            routing_enabled: 100,
            min_cluster_size: 6,
            fail_traffic_on_panic: false,
            force_local_zone: None,
            basis: LocalityBasis::default(),
        }
    }
}
