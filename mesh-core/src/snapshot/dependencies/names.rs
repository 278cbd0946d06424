//! Clusters whose endpoints are names: the addresses of the names take their places.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::view::{Missing, Resolved};
use crate::resource::cluster::{DnsEndpoints, DnsName};
use crate::resource::endpoints::{Address, Endpoint, Endpoints, LocalityEndpoints, Particulars, Priority};
use crate::snapshot::Problem;

/// What the names came to, and from what: the same addresses are the same endpoints, not only endpoints that are alike.
#[derive(Debug)]
pub(super) struct Joined {
    from: Arc<DnsEndpoints>,
    /// In the order of the names.
    addresses: Vec<Option<Arc<[IpAddr]>>>,
    pub(super) endpoints: Arc<Endpoints>,
}

impl Joined {
    /// Whether these are the names.
    pub(super) fn is_of(&self, names: &Arc<DnsEndpoints>) -> bool {
        Arc::ptr_eq(&self.from, names)
    }
}

/// The endpoints at the addresses of their names. A name that has none is passed over as long as another has.
pub(super) fn join(
    from: &Arc<DnsEndpoints>,
    known: Option<Joined>,
    resolve: impl Fn(&DnsName) -> Resolved,
) -> Result<Joined, Missing> {
    let mut problem: Option<Problem> = None;
    let mut addresses = Vec::new();
    for name in from.names() {
        addresses.push(match resolve(&name) {
            Resolved::Pending => return Err(Missing::Pending(format!("DNS name `{}`", name.host))),
            Resolved::Addresses(addresses) => Some(addresses),
            Resolved::Failed(why) => {
                problem.get_or_insert(why);
                None
            }
        });
    }
    if let Some(known) = known.filter(|known| known.is_of(from) && known.addresses == addresses) {
        return Ok(known);
    }
    let mut found = addresses.iter().cloned();
    let endpoints = resolved(from, || found.next().flatten());
    match problem {
        Some(problem) if endpoints.is_empty() => Err(Missing::Absent(problem)),
        _ => Ok(Joined { from: from.clone(), addresses, endpoints: Arc::new(endpoints) }),
    }
}

/// The endpoints with the addresses that `next` has for each name, in their order.
fn resolved(from: &DnsEndpoints, mut next: impl FnMut() -> Option<Arc<[IpAddr]>>) -> Endpoints {
    let mut priorities = Vec::with_capacity(from.endpoints.priorities.len());
    for priority in &from.endpoints.priorities {
        let mut localities = Vec::with_capacity(priority.localities.len());
        for locality in &priority.localities {
            let mut endpoints = Vec::with_capacity(locality.endpoints.len());
            for endpoint in &locality.endpoints {
                match &endpoint.address {
                    Address::Host(_, port) => add(endpoint, *port, next(), from.logical, &mut endpoints),
                    _ => endpoints.push(endpoint.clone()),
                }
            }
            localities.push(LocalityEndpoints { endpoints, ..locality.clone() });
        }
        priorities.push(Priority { localities });
    }
    Endpoints { priorities, ..(*from.endpoints).clone() }
}

fn add(endpoint: &Endpoint, port: u16, addresses: Option<Arc<[IpAddr]>>, logical: bool, endpoints: &mut Vec<Endpoint>) {
    let addresses = addresses.iter().flat_map(|addresses| addresses.iter());
    let sockets = addresses.map(|ip| Address::Socket(SocketAddr::new(*ip, port)));
    match logical {
        // It keeps its name, so that another answer is no other endpoint.
        true => {
            let reached_at: Arc<[Address]> = sockets.collect();
            if !reached_at.is_empty() {
                let known = endpoint.particulars.as_deref().cloned().unwrap_or_default();
                let particulars = Particulars { reached_at: Some(reached_at), ..known };
                endpoints.push(endpoint.clone().with(particulars));
            }
        }
        false => endpoints.extend(sockets.map(|address| Endpoint { address, ..endpoint.clone() })),
    }
}
