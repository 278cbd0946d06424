//! `ClusterLoadAssignment` (A27).

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use http::uri::Authority;
use mesh_xds_proto::envoy::config::core::v3 as core;
use mesh_xds_proto::envoy::config::core::v3::HealthStatus;
use mesh_xds_proto::envoy::config::core::v3::address::Address as AddressKind;
use mesh_xds_proto::envoy::config::core::v3::socket_address::PortSpecifier;
use mesh_xds_proto::envoy::config::endpoint::v3 as proto;
use mesh_xds_proto::envoy::config::endpoint::v3::cluster_load_assignment::policy;
use mesh_xds_proto::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
use prost::Message;
use prost_types::value::Kind;

use super::place::{At, Report, quoted};
use super::plain_endpoints::PlainEndpoints;
use super::seen::Seen;
use super::value::per_million;
use crate::resource::endpoints::{
    Address, DropOverload, Endpoint, Endpoints, Health, Locality, LocalityEndpoints, Particulars, Priority,
};
use crate::resource::socket_match::{Labels, SocketLabels};
use crate::resource::verdict::Fields;

/// Where an assignment stands decides what it may leave out, and what its addresses may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// A resource of its own (A27).
    Eds,
    /// In its cluster (Envoy's STATIC): localities need neither a name nor a weight, and priorities may have gaps.
    Inline,
    /// As that, and addresses may be names.
    Names,
}

/// A resource of its own; of each locality, the `plain` endpoints are not in the message any more.
pub(super) fn assignment(
    message: proto::ClusterLoadAssignment,
    plain: &[PlainEndpoints],
    at: &At<'_>,
) -> Option<Endpoints> {
    join(message, plain, Form::Eds, at)
}

/// As it stands in a cluster.
pub(super) fn endpoints(message: proto::ClusterLoadAssignment, form: Form, at: &At<'_>) -> Option<Endpoints> {
    join(message, &[], form, at)
}

fn join(message: proto::ClusterLoadAssignment, plain: &[PlainEndpoints], form: Form, at: &At<'_>) -> Option<Endpoints> {
    message.judge(at);
    let mut localities = Vec::with_capacity(message.endpoints.len());
    let mut addresses = Seen::with_room(plain.iter().map(Vec::len).sum());
    for (index, group) in message.endpoints.iter().enumerate() {
        let at = &at.item("endpoints", index);
        let members = Members { plain: plain.get(index).map_or(&[], Vec::as_slice), others: &group.lb_endpoints };
        if let Some(locality) = locality_endpoints(group, &members, form, &mut addresses, at) {
            localities.push((group.priority, index, locality));
        }
    }
    let mut priorities = by_priority(localities, form, at);
    forget_doubles(&mut priorities, addresses);
    let policy = message.policy.unwrap_or_default();
    let at = &at.field("policy");
    let drops = drops(&policy, at);
    if policy.overprovisioning_factor == Some(0) {
        at.field("overprovisioning_factor").error("must be greater than 0");
    }
    Some(Endpoints { priorities, drops, overprovisioning: policy.overprovisioning_factor })
}

/// The localities, each with its priority and its place in the message, in the order in which they are tried.
fn by_priority(mut localities: Vec<(u32, usize, LocalityEndpoints)>, form: Form, at: &At<'_>) -> Vec<Priority> {
    // Stable: within a priority they keep their order.
    localities.sort_by_key(|(priority, ..)| *priority);
    let mut builders: Vec<(u32, Builder)> = Vec::with_capacity(1);
    for (priority, index, locality) in localities {
        match builders.last_mut() {
            Some((last, builder)) if *last == priority => builder.add(locality, form, &at.item("endpoints", index)),
            _ => builders.push((priority, Builder::of(locality))),
        }
    }
    if form == Form::Eds {
        check_contiguous(&builders, at);
    }
    // Not collected, which would keep the room of the builders.
    let mut priorities = Vec::with_capacity(builders.len());
    priorities.extend(builders.into_iter().map(|(_, builder)| builder.finish()));
    priorities
}

/// A priority while its localities are collected.
struct Builder {
    priority: Priority,
    seen: Seen<Arc<Locality>>,
    weight: u32,
}

impl Builder {
    fn of(first: LocalityEndpoints) -> Self {
        let mut seen = Seen::default();
        seen.insert(first.locality.clone());
        Self { weight: first.weight, priority: Priority { localities: vec![first] }, seen }
    }

    fn add(&mut self, locality: LocalityEndpoints, form: Form, at: &At<'_>) {
        if !self.seen.insert(Arc::clone(&locality.locality)) && form == Form::Eds {
            at.field("locality").error("stands twice in its priority");
        }
        match self.weight.checked_add(locality.weight) {
            Some(sum) => self.weight = sum,
            None => at.field("load_balancing_weight").error("the priority's weights add up to more than 4294967295"),
        }
        self.priority.localities.push(locality);
    }

    fn finish(mut self) -> Priority {
        self.priority.localities.shrink_to_fit();
        self.priority
    }
}

/// The endpoints of a locality.
struct Members<'a> {
    plain: &'a [(usize, SocketAddr)],
    /// Those at all other places.
    others: &'a [proto::LbEndpoint],
}

impl Members<'_> {
    fn len(&self) -> usize {
        self.plain.len() + self.others.len()
    }

    fn read(&self, form: Form, addresses: &mut Seen<Address>, labelled: &mut Labelled, at: &At<'_>) -> Vec<Endpoint> {
        // Not collected: in large configurations a vector that grows by doubling leaves a third of its memory unused.
        let mut endpoints = Vec::with_capacity(self.len());
        let (mut plain, mut others) = (self.plain.iter().peekable(), self.others.iter());
        for place in 0..self.len() {
            let at = &at.item("lb_endpoints", place);
            endpoints.extend(match plain.next_if(|(plain, _)| *plain == place) {
                Some((_, address)) => plain_endpoint(*address, form, addresses, labelled, at),
                None => others.next().and_then(|member| endpoint(member, form, addresses, labelled, at)),
            });
        }
        endpoints
    }
}

/// A locality without a weight takes no calls, and nothing in it is read (A27).
fn locality_endpoints(
    group: &proto::LocalityLbEndpoints,
    members: &Members<'_>,
    form: Form,
    addresses: &mut Seen<Address>,
    at: &At<'_>,
) -> Option<LocalityEndpoints> {
    group.judge(at);
    let default = (form != Form::Eds).then_some(1);
    let weight = group.load_balancing_weight.or(default).filter(|&weight| weight > 0);
    let Some(weight) = weight else {
        if group.load_balancing_weight.is_none() && members.len() > 0 {
            at.field("lb_endpoints").ignored("a locality without a weight takes no calls (A27)");
        }
        return None;
    };
    let default = core::Locality::default();
    let locality = match form {
        Form::Eds => at.required("locality", group.locality.as_ref()),
        Form::Inline | Form::Names => Some(group.locality.as_ref().unwrap_or(&default)),
    };
    let locality = locality.inspect(|locality| locality.judge(&at.field("locality")));
    let mut labelled = Labelled::of(group, at);
    let endpoints = members.read(form, addresses, &mut labelled, at);
    let core::Locality { region, zone, sub_zone } = locality?.clone();
    Some(LocalityEndpoints { locality: Arc::new(Locality { region, zone, sub_zone }), weight, endpoints })
}

fn check_contiguous(priorities: &[(u32, Builder)], at: &At<'_>) {
    let missing = (0..).zip(priorities).find(|(expected, (priority, _))| expected != priority);
    if let Some((missing, _)) = missing {
        at.field("endpoints").error(format!("priorities must be contiguous from 0, and there is no {missing}"));
    }
}

/// Removes an endpoint that takes no calls if its address stands elsewhere too: an address is one endpoint.
fn forget_doubles(priorities: &mut [Priority], mut addresses: Seen<Address>) {
    for locality in priorities.iter_mut().flat_map(|priority| &mut priority.localities) {
        let endpoints = &mut locality.endpoints;
        endpoints.retain(|endpoint| is_checked(endpoint.health) || addresses.insert(endpoint.address.clone()));
    }
}

/// Whether gRPC looks at an endpoint of this health at all.
fn is_checked(health: Health) -> bool {
    health.is_usable() || health == Health::Draining
}

/// Labels of a locality's endpoints. Most of these have the same.
struct Labelled {
    locality: Option<Arc<Labels>>,
    last: Option<Arc<SocketLabels>>,
}

impl Labelled {
    fn of(group: &proto::LocalityLbEndpoints, at: &At<'_>) -> Self {
        let at = &at.field("metadata");
        let metadata = metadata(&group.metadata, &[SOCKET_MATCH], at);
        Self { locality: socket_labels(metadata.as_ref()), last: None }
    }

    fn endpoint(&mut self, metadata: Option<&core::Metadata>) -> Option<Arc<SocketLabels>> {
        let labels = SocketLabels { endpoint: socket_labels(metadata), locality: self.locality.clone() };
        if labels == SocketLabels::default() {
            return None;
        }
        if self.last.as_deref() != Some(&labels) {
            self.last = Some(Arc::new(labels));
        }
        self.last.clone()
    }
}

/// An endpoint of which nothing but the address is said.
fn plain_endpoint(
    address: SocketAddr,
    form: Form,
    addresses: &mut Seen<Address>,
    labelled: &mut Labelled,
    at: &At<'_>,
) -> Option<Endpoint> {
    let address = Address::Socket(address);
    if !addresses.insert(address.clone()) {
        stands_twice(&address, form, at);
    }
    let socket_labels = labelled.endpoint(None);
    Some(Endpoint::new(address).with(Particulars { socket_labels, ..Default::default() }))
}

fn stands_twice(address: &Address, form: Form, at: &At<'_>) {
    if form == Form::Eds {
        at.field("endpoint").field("address").error(format!("{address} stands twice in the assignment"));
    }
}

fn endpoint(
    member: &proto::LbEndpoint,
    form: Form,
    addresses: &mut Seen<Address>,
    labelled: &mut Labelled,
    at: &At<'_>,
) -> Option<Endpoint> {
    let health = health(member.health_status);
    if !is_checked(health) {
        // What is wrong with it is no reason to refuse the others.
        let report = Report::default();
        let address = address_of(member, form, &report.root())?;
        let metadata = metadata(&member.metadata, &[SOCKET_MATCH], &report.root().field("metadata"));
        // Whoever connects to it all the same (Envoy, in panic) does so as it asks.
        let socket_labels = labelled.endpoint(metadata.as_ref());
        let (hostname, authority) = (hostname(member, &address, form), authority(member, &address, form));
        let endpoint = Endpoint { health, ..Endpoint::new(address) };
        let endpoint = endpoint.with(Particulars { hostname, authority, socket_labels, ..Default::default() });
        return Some(endpoint).filter(|_| report.error_count() == 0);
    }
    member.judge(at);
    let weight = member.load_balancing_weight.unwrap_or(1);
    if weight == 0 {
        at.field("load_balancing_weight").error("must be greater than 0");
    }
    let address = address_of(member, form, at)?;
    let mut is_new = addresses.insert(address.clone());
    let reached_at = additional(member, &address, at);
    for other in reached_at.iter().flat_map(|all| all.iter().skip(1)) {
        is_new &= addresses.insert(other.clone());
    }
    if !is_new {
        stands_twice(&address, form, at);
    }
    let metadata = metadata(&member.metadata, &[HASH_KEY, SOCKET_MATCH], &at.field("metadata"));
    let hash_key = metadata.as_ref().and_then(hash_key);
    let socket_labels = labelled.endpoint(metadata.as_ref());
    let (hostname, authority) = (hostname(member, &address, form), authority(member, &address, form));
    let endpoint = Endpoint { weight, health, ..Endpoint::new(address) };
    Some(endpoint.with(Particulars { hash_key, hostname, authority, socket_labels, reached_at }))
}

/// The name that is configured, else the one that is resolved (A101).
fn hostname(member: &proto::LbEndpoint, address: &Address, form: Form) -> Option<Arc<str>> {
    let Some(HostIdentifier::Endpoint(endpoint)) = &member.host_identifier else { return None };
    match address {
        _ if !endpoint.hostname.is_empty() => Some(endpoint.hostname.as_str().into()),
        Address::Host(host, _) if form == Form::Names => Some(host.clone()),
        _ => None,
    }
}

/// The same with its port if it is resolved (A81); `None` also if it can be no authority.
fn authority(member: &proto::LbEndpoint, address: &Address, form: Form) -> Option<Arc<Authority>> {
    let Some(HostIdentifier::Endpoint(endpoint)) = &member.host_identifier else { return None };
    let authority = match address {
        _ if !endpoint.hostname.is_empty() => Authority::try_from(endpoint.hostname.as_str()),
        Address::Host(..) if form == Form::Names => Authority::try_from(address.to_string()),
        _ => return None,
    };
    authority.ok().map(Arc::new)
}

/// In `envoy.lb` (A76).
const HASH_KEY: &str = "hash_key";
const READ_ALONE: &str = "only `hash_key` of `envoy.lb` (A76) and `envoy.transport_socket_match` are read";
const SOCKET_MATCH: &str = "envoy.transport_socket_match";

/// Large assignments have much metadata, and it is decoded only if it has one of these words.
fn metadata(metadata: &[u8], words: &[&str], at: &At<'_>) -> Option<core::Metadata> {
    if metadata.is_empty() {
        return None;
    }
    let has = |word: &&str| metadata.windows(word.len()).any(|window| window == word.as_bytes());
    if !words.iter().any(has) {
        at.ignored(READ_ALONE);
        return None;
    }
    let metadata = core::Metadata::decode(metadata);
    let metadata = metadata.map_err(|error| at.error(format!("cannot be decoded: {error}"))).ok()?;
    let is_read = |name: &String| name == "envoy.lb" || name == SOCKET_MATCH;
    if !metadata.filter_metadata.keys().all(is_read) || !metadata.typed_filter_metadata.is_empty() {
        at.ignored(READ_ALONE);
    }
    Some(metadata)
}

fn hash_key(metadata: &core::Metadata) -> Option<Arc<str>> {
    match &metadata.filter_metadata.get("envoy.lb")?.fields.get(HASH_KEY)?.kind {
        Some(Kind::StringValue(key)) if !key.is_empty() => Some(key.as_str().into()),
        _ => None,
    }
}

fn socket_labels(metadata: Option<&core::Metadata>) -> Option<Arc<Labels>> {
    let labels = &metadata?.filter_metadata.get(SOCKET_MATCH)?.fields;
    (!labels.is_empty()).then(|| Arc::new(labels.clone()))
}

fn health(status: i32) -> Health {
    match HealthStatus::try_from(status) {
        Ok(HealthStatus::Unknown) => Health::Unknown,
        Ok(HealthStatus::Healthy) => Health::Healthy,
        Ok(HealthStatus::Unhealthy) => Health::Unhealthy,
        Ok(HealthStatus::Draining) => Health::Draining,
        Ok(HealthStatus::Timeout) => Health::Timeout,
        Ok(HealthStatus::Degraded) => Health::Degraded,
        // A state that a later version of xDS added is not one that takes calls.
        Err(_) => Health::Unhealthy,
    }
}

fn address_of(member: &proto::LbEndpoint, form: Form, at: &At<'_>) -> Option<Address> {
    let endpoint = match &member.host_identifier {
        Some(HostIdentifier::Endpoint(endpoint)) => Some(endpoint),
        // Refused by the table.
        Some(HostIdentifier::EndpointName(_)) => return None,
        None => None,
    };
    let endpoint = at.required("endpoint", endpoint)?;
    let at = &at.field("endpoint");
    endpoint.judge(at);
    let message = at.required("address", endpoint.address.as_ref())?;
    address(message, form == Form::Names, &at.field("address"))
}

/// All addresses of an endpoint that has more than one, the first first (A61).
fn additional(member: &proto::LbEndpoint, first: &Address, at: &At<'_>) -> Option<Arc<[Address]>> {
    let Some(HostIdentifier::Endpoint(endpoint)) = &member.host_identifier else { return None };
    if endpoint.additional_addresses.is_empty() {
        return None;
    }
    let at = &at.field("endpoint");
    let other = |(index, message): (usize, &proto::endpoint::AdditionalAddress)| {
        let at = &at.item("additional_addresses", index);
        message.judge(at);
        let message = at.required("address", message.address.as_ref())?;
        address(message, false, &at.field("address"))
    };
    let others = endpoint.additional_addresses.iter().enumerate().filter_map(other);
    Some([first.clone()].into_iter().chain(others).collect())
}

/// An address; a host name only if names are allowed.
pub(super) fn address(message: &core::Address, names: bool, at: &At<'_>) -> Option<Address> {
    message.judge(at);
    match &message.address {
        Some(AddressKind::SocketAddress(message)) => socket_address(message, names, &at.field("socket_address")),
        Some(AddressKind::Pipe(message)) => pipe(message, &at.field("pipe")),
        // Refused by the table.
        Some(AddressKind::EnvoyInternalAddress(_)) => None,
        None => {
            at.error("`socket_address` or `pipe` must be set");
            None
        }
    }
}

fn socket_address(message: &core::SocketAddress, names: bool, at: &At<'_>) -> Option<Address> {
    message.judge(at);
    let ip = message.address.parse::<IpAddr>();
    let is_name = names && !message.address.is_empty();
    if ip.is_err() && !is_name {
        at.field("address").error(format!("{} is not an IP address", quoted(&message.address)));
    }
    let port = match message.port_specifier {
        Some(PortSpecifier::PortValue(port)) => {
            let narrow = u16::try_from(port);
            narrow.map_err(|_| at.field("port_value").error(format!("{port} is not a port (0 to 65535)"))).ok()
        }
        // Refused by the table.
        Some(PortSpecifier::NamedPort(_)) => None,
        None => at.required("port_value", None),
    };
    match ip {
        Ok(ip) => Some(Address::Socket(SocketAddr::new(ip, port?))),
        Err(_) if is_name => Some(Address::Host(message.address.as_str().into(), port?)),
        Err(_) => None,
    }
}

fn pipe(message: &core::Pipe, at: &At<'_>) -> Option<Address> {
    message.judge(at);
    if message.path.is_empty() {
        at.field("path").error("must be set");
    }
    Some(Address::Unix(Path::new(&message.path).into()))
}

fn drops(message: &proto::cluster_load_assignment::Policy, at: &At<'_>) -> Vec<DropOverload> {
    message.judge(at);
    let drops = message.drop_overloads.iter().enumerate();
    drops.filter_map(|(index, drop)| drop_overload(drop, &at.item("drop_overloads", index))).collect()
}

fn drop_overload(message: &policy::DropOverload, at: &At<'_>) -> Option<DropOverload> {
    message.judge(at);
    if message.category.is_empty() {
        at.field("category").error("must be set");
    }
    let percentage = at.required("drop_percentage", message.drop_percentage.as_ref())?;
    let per_million = per_million(percentage, &at.field("drop_percentage"))?;
    Some(DropOverload { category: message.category.as_str().into(), per_million })
}
