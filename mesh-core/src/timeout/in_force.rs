//! How long calls of a route may take, for those who ask.

use crate::origin::{Held, Origin, Sourced};
use crate::profile::Profile;
use crate::resource::route::{Forward, RouteAction};
use crate::snapshot::RouteTable;

/// What limits the calls of a route, beside what the application gives each.
pub(crate) fn in_force(table: &RouteTable, route: usize, profile: Sourced<Profile>) -> Vec<Held> {
    let RouteAction::Forward(forward) = &table.virtual_host.routes[route].action else { return Vec::new() };
    let mut all = vec![longest(table, forward)];
    if profile.value == Profile::Envoy {
        let timeout = forward.deadline().timeout(profile.value);
        all.push(match timeout {
            Some(timeout) => Held::new("timeout", format!("{timeout:?}"), table.origin),
            None => Held::new("timeout", "none", Origin::Default),
        });
    }
    all
}

fn longest(table: &RouteTable, forward: &Forward) -> Held {
    let deadline = forward.deadline();
    let limit = deadline.max(table.listener_max).map_or("none".to_owned(), |max| format!("{max:?}"));
    match (deadline.has_max(), table.listener_max) {
        (true, _) => Held::new("max_stream_duration", limit, table.origin),
        (false, Some(_)) => Held::new("max_stream_duration", format!("{limit}, as the listener says"), table.origin),
        (false, None) => Held::new("max_stream_duration", limit, Origin::Default),
    }
}
