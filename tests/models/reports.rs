//! Load reports, of which no model needs anything.

use std::sync::Arc;

use crate::resource::weighted_round_robin::WeightedRoundRobin;

#[derive(Debug, Default)]
pub(crate) struct Reports {}

impl Reports {
    pub(crate) fn weigh(&self, _: Option<&Arc<WeightedRoundRobin>>) {}
}
