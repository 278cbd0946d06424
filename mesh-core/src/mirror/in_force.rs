//! Where copies of a route's calls go, for those who ask.

use super::MirrorLayer;
use super::bounds::Limits;
use crate::origin::Held;
use crate::resource::mirror::{MirrorCluster, MirrorPolicy};
use crate::snapshot::RouteTable;

impl<M> MirrorLayer<M> {
    /// What bounds the copies of all calls.
    pub(crate) fn in_force(&self) -> Held {
        let Limits { in_flight, held, held_per_call, duration: _, origin } = self.limits;
        let bounds = format!("{in_flight} copies in flight, {held_per_call} bytes of each, {held} of all");
        Held::new("mirroring", bounds, origin)
    }
}

/// "canary 20 %, header x-mirror 100 %"
pub(crate) fn in_force(table: &RouteTable, route: usize) -> Option<Held> {
    let mirrors = table.mirrors(route);
    let named: Vec<_> = mirrors.iter().map(named).collect();
    (!named.is_empty()).then(|| Held::new("request_mirror_policies", named.join(", "), table.origin))
}

fn named(policy: &MirrorPolicy) -> String {
    let share = f64::from(policy.share) / 10_000.0;
    match &policy.cluster {
        MirrorCluster::Named(name) => format!("{name} {share} %"),
        MirrorCluster::Header(name) => format!("header {name} {share} %"),
    }
}
