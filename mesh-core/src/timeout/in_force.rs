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
        all.push(idle(table, forward, profile.value));
        all.push(match timeout {
            Some(timeout) => Held::new("timeout", format!("{timeout:?}"), table.origin),
            None => Held::new("timeout", "none", Origin::Default),
        });
    }
    all
}

fn idle(table: &RouteTable, forward: &Forward, profile: Profile) -> Held {
    let (deadline, of_listener) = (forward.deadline(), table.limits.stream_idle_timeout);
    let limit = deadline.idle(of_listener, profile).map_or("none".to_owned(), |idle| format!("{idle:?}"));
    match (deadline.has_idle(), of_listener) {
        (true, _) => Held::new("idle_timeout", limit, table.origin),
        (false, Some(_)) => Held::new("idle_timeout", format!("{limit}, as the listener says"), table.origin),
        (false, None) => Held::new("idle_timeout", limit, Origin::Default),
    }
}

fn longest(table: &RouteTable, forward: &Forward) -> Held {
    let deadline = forward.deadline();
    let limit = deadline.max(table.limits.max_stream_duration).map_or("none".to_owned(), |max| format!("{max:?}"));
    match (deadline.has_max(), table.limits.max_stream_duration) {
        (true, _) => Held::new("max_stream_duration", limit, table.origin),
        (false, Some(_)) => Held::new("max_stream_duration", format!("{limit}, as the listener says"), table.origin),
        (false, None) => Held::new("max_stream_duration", limit, Origin::Default),
    }
}
