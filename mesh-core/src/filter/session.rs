//! Sessions of calls (A55, A60): which endpoint, and which cluster of its route, a call goes to, and what tells the
//! application where it went.

use std::sync::Arc;

use http::Response;
use http::request::Parts;

use crate::call::{Call, CallInfo, Session};
use crate::resource::filter::stateful_session::{Place, StatefulSession};
use crate::resource::route::RouteAction;
use crate::snapshot::ClusterEntry;

/// A call that may have a session.
#[derive(Debug)]
pub(super) struct Visit {
    /// The place of the filter among the others.
    pub(super) filter: usize,
    place: Place,
}

/// Sends the call to its session; `None`: the filter has nothing to do with the call.
pub(super) fn join(config: &StatefulSession, filter: usize, head: &mut Parts) -> Option<Visit> {
    let place = config.place(head.uri.path(), &head.headers)?;
    if let Some(call) = head.extensions.get_mut::<Call>()
        && !place.addresses.is_empty()
    {
        call.session = Some(Arc::new(Session { addresses: place.addresses.clone(), strict: config.strict }));
        choose_cluster(call, &place.cluster);
    }
    Some(Visit { filter, place })
}

/// The session's cluster takes the place of the chosen one, if the route names it.
fn choose_cluster(call: &mut Call, name: &str) {
    let Some((choice, entry)) = named(call, name) else { return };
    (call.choice, call.cluster) = (choice, Some(entry));
}

fn named(call: &Call, name: &str) -> Option<(usize, Arc<ClusterEntry>)> {
    let (snapshot, route) = (call.snapshot.as_ref()?, call.route?);
    let table = snapshot.routing.as_ref().ok()?;
    let RouteAction::Forward(forward) = &table.virtual_host.routes[route].action else { return None };
    let choice = forward.clusters().iter().position(|cluster| *cluster.name == *name)?;
    let entry = snapshot.clusters.get(table.cluster_index(route, choice))?;
    Some((choice, entry.clone()))
}

/// Has the response say where the session is, unless the application knows. `cluster`: the one that the route named.
pub(super) fn tell<R>(config: &StatefulSession, visit: &Visit, cluster: &str, response: &mut Response<R>) {
    // What a filter answered, no endpoint did.
    let Some(endpoint) = response.extensions().get::<CallInfo>().map(|info| info.endpoint().clone()) else { return };
    config.tell(&visit.place, &endpoint, cluster, response.headers_mut());
}
