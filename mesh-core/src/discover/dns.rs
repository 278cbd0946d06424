//! Follows a DNS name: its addresses become the target's endpoints, resolved again when their records expire.
//!
//! An answer that fails leaves the last good one in force.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::system_conf::read_system_conf;
use hickory_resolver::{Resolver, TokioResolver};
use tokio::time::Instant;

use super::xds::publish_snapshot;
use super::{Source, connectivity};
use crate::backoff::{Backoff, BackoffConfig};
use crate::resource::endpoints::Address;
use crate::snapshot::{PrepareClusters, Problem, Snapshot, fixed};

/// Records that expire sooner are asked for again after this.
const SHORTEST_INTERVAL: Duration = Duration::from_secs(1);

/// A name to follow.
#[derive(Clone, Debug)]
pub(crate) struct DnsName {
    pub(crate) target: Arc<str>,
    /// `None`: the system's servers.
    pub(crate) server: Option<SocketAddr>,
    pub(crate) host: Arc<str>,
    pub(crate) port: u16,
}

/// Publishes the target's snapshots until nobody uses it any more.
pub(crate) async fn follow(source: Source, name: DnsName, clusters: Arc<dyn PrepareClusters>) {
    let mut connectivity = connectivity::Aggregate::default();
    let mut backoff = Backoff::new(BackoffConfig::default());
    let mut published: Option<Vec<SocketAddr>> = None;
    loop {
        let answer = tokio::select! {
            biased;
            () = source.dropped() => return source.close(),
            answer = resolve(&name) => answer,
        };
        let wait = match answer {
            Ok(answer) => {
                backoff.reset();
                if published.as_ref() != Some(&answer.addresses) {
                    let addresses = answer.addresses.iter().copied().map(Address::Socket);
                    let snapshot = Arc::new(fixed::of_addresses(&name.target, addresses));
                    publish_snapshot(snapshot, &source, &*clusters, &mut connectivity);
                    published = Some(answer.addresses);
                }
                answer.valid_for.max(SHORTEST_INTERVAL)
            }
            Err(problem) => {
                tracing::warn!(target = %name.target, %problem, "resolving failed");
                if published.is_none() {
                    let snapshot = Snapshot { routing: Err(problem), clusters: Arc::new([]) };
                    publish_snapshot(Arc::new(snapshot), &source, &*clusters, &mut connectivity);
                }
                backoff.next_delay(fastrand::f64())
            }
        };
        let again = Instant::now() + wait;
        loop {
            tokio::select! {
                biased;
                () = source.dropped() => return source.close(),
                () = tokio::time::sleep_until(again) => break,
                state = connectivity.changed() => source.connectivity(state),
            }
        }
    }
}

struct Answer {
    /// In order, so that the same set is the same value.
    addresses: Vec<SocketAddr>,
    valid_for: Duration,
}

async fn resolve(name: &DnsName) -> Result<Answer, Problem> {
    let resolver = resolver(name.server).map_err(|error| failed(name, &error))?;
    let lookup = resolver.lookup_ip(&*name.host).await.map_err(|error| failed(name, &error))?;
    let mut addresses: Vec<_> = lookup.iter().map(|address| SocketAddr::new(address, name.port)).collect();
    addresses.sort_unstable();
    addresses.dedup();
    if addresses.is_empty() {
        return Err(problem(name, NO_ADDRESS, ASK_AGAIN));
    }
    let valid_for = lookup.valid_until().saturating_duration_since(Instant::now().into_std());
    Ok(Answer { addresses, valid_for })
}

/// Made for each lookup: the system's configuration may have changed, and nothing must answer from a cache.
fn resolver(server: Option<SocketAddr>) -> Result<TokioResolver, NetError> {
    let mut builder = match server {
        None => Resolver::builder_tokio()?,
        Some(server) => {
            let at_port = |mut connection: ConnectionConfig| {
                connection.port = server.port();
                connection
            };
            let connections = vec![at_port(ConnectionConfig::udp()), at_port(ConnectionConfig::tcp())];
            let server = NameServerConfig::new(server.ip(), true, connections);
            let config = ResolverConfig::from_name_servers(vec![server]);
            Resolver::builder_with_config(config, TokioRuntimeProvider::default())
        }
    };
    builder.options_mut().cache_size = 0;
    builder.build()
}

/// The resolver's error in words: its own are for those who debug resolvers.
fn failed(name: &DnsName, error: &NetError) -> Problem {
    match error {
        NetError::Dns(DnsError::NoRecordsFound(none)) => match none.response_code {
            ResponseCode::NXDomain => problem(name, "there is no such name (NXDOMAIN)", CHECK_NAME),
            _ => problem(name, NO_ADDRESS, ASK_AGAIN),
        },
        NetError::Dns(DnsError::ResponseCode(ResponseCode::ServFail)) => {
            problem(name, "the server failed (SERVFAIL)", CHECK_SERVER)
        }
        NetError::Dns(DnsError::ResponseCode(ResponseCode::Refused)) => {
            problem(name, "the server refused to answer (REFUSED)", CHECK_SERVER)
        }
        NetError::Timeout => problem(name, "no answer in time", CHECK_SERVER),
        NetError::NoConnections => problem(name, "no server could be reached", CHECK_SERVER),
        other => problem(name, &other.to_string(), CHECK_SERVER),
    }
}

const NO_ADDRESS: &str = "the name has no address";
const CHECK_NAME: &str = "check the name; it is asked for again in the background";
const ASK_AGAIN: &str = "give the name an A or AAAA record; it is asked for again in the background";
const CHECK_SERVER: &str = "check the DNS server; it is asked again in the background";

fn problem(name: &DnsName, reason: &str, next_step: &'static str) -> Problem {
    let host = &name.host;
    Problem {
        message: format!("DNS name `{host}` could not be resolved: {reason} (asked {})", asked(name.server)).into(),
        resource: format!("DNS name `{host}`").into(),
        next_step,
    }
}

/// Who was asked.
fn asked(server: Option<SocketAddr>) -> String {
    let system = || {
        let (config, _) = read_system_conf().ok()?;
        let servers: Vec<String> = config.name_servers().iter().map(|server| server.ip.to_string()).collect();
        (!servers.is_empty()).then(|| format!("the system's DNS servers, {}", servers.join(", ")))
    };
    match server {
        Some(server) => format!("DNS server {server}"),
        None => system().unwrap_or_else(|| "the system's DNS servers".to_owned()),
    }
}
