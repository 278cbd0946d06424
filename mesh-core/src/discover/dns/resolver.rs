//! Asks DNS servers for the addresses of a name, and says in words what went wrong.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::config::{ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::system_conf::read_system_conf;
use hickory_resolver::{Resolver, TokioResolver};
use tokio::time::Instant;

use crate::resource::cluster::AddressFamily;
use crate::snapshot::Problem;

/// A server that neither answers nor refuses is given up after this, whatever number of tries that is.
const PATIENCE: Duration = Duration::from_secs(15);

/// What is asked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Question<'a> {
    pub(super) host: &'a str,
    /// None: the system's.
    pub(super) servers: &'a [SocketAddr],
    pub(super) family: AddressFamily,
}

pub(super) struct Answer {
    /// At least one, in order, so that the same set is the same value.
    pub(super) addresses: Arc<[IpAddr]>,
    pub(super) valid_for: Duration,
}

/// The addresses of a name, and how long they hold.
///
/// # Errors
///
/// When there are none, or nobody says so within 15 s; the problem names the host and who was asked.
pub(super) async fn ask(question: Question<'_>) -> Result<Answer, Problem> {
    let resolver = resolver(question).map_err(|error| failed(question, &error))?;
    let lookup = match tokio::time::timeout(PATIENCE, resolver.lookup_ip(question.host)).await {
        Ok(lookup) => lookup.map_err(|error| failed(question, &error))?,
        Err(_) => return Err(failed(question, &NetError::Timeout)),
    };
    let mut addresses: Vec<_> = lookup.iter().collect();
    addresses.sort_unstable();
    addresses.dedup();
    if addresses.is_empty() {
        return Err(problem(question, NO_ADDRESS, ASK_AGAIN));
    }
    let valid_for = lookup.valid_until().saturating_duration_since(Instant::now().into_std());
    Ok(Answer { addresses: addresses.into(), valid_for })
}

/// Made for each lookup: the system's configuration may have changed, and nothing must answer from a cache.
fn resolver(question: Question<'_>) -> Result<TokioResolver, NetError> {
    let mut builder = match question.servers {
        [] => Resolver::builder_tokio()?,
        servers => {
            let servers = servers.iter().map(name_server).collect();
            let config = ResolverConfig::from_name_servers(servers);
            Resolver::builder_with_config(config, TokioRuntimeProvider::default())
        }
    };
    let options = builder.options_mut();
    options.cache_size = 0;
    options.ip_strategy = match question.family {
        AddressFamily::V4 => LookupIpStrategy::Ipv4Only,
        AddressFamily::V6 => LookupIpStrategy::Ipv6Only,
        AddressFamily::V4ElseV6 => LookupIpStrategy::Ipv4thenIpv6,
        AddressFamily::V6ElseV4 => LookupIpStrategy::Ipv6thenIpv4,
        AddressFamily::Both => LookupIpStrategy::Ipv6AndIpv4,
    };
    builder.build()
}

fn name_server(server: &SocketAddr) -> NameServerConfig {
    let at_port = |mut connection: ConnectionConfig| {
        connection.port = server.port();
        connection
    };
    let connections = vec![at_port(ConnectionConfig::udp()), at_port(ConnectionConfig::tcp())];
    NameServerConfig::new(server.ip(), true, connections)
}

/// The resolver's error in words: its own are for those who debug resolvers.
fn failed(question: Question<'_>, error: &NetError) -> Problem {
    match error {
        NetError::Dns(DnsError::NoRecordsFound(none)) => match none.response_code {
            ResponseCode::NXDomain => problem(question, "there is no such name (NXDOMAIN)", CHECK_NAME),
            _ => problem(question, NO_ADDRESS, ASK_AGAIN),
        },
        NetError::Dns(DnsError::ResponseCode(ResponseCode::ServFail)) => {
            problem(question, "the server failed (SERVFAIL)", CHECK_SERVER)
        }
        NetError::Dns(DnsError::ResponseCode(ResponseCode::Refused)) => {
            problem(question, "the server refused to answer (REFUSED)", CHECK_SERVER)
        }
        NetError::Timeout => problem(question, "no answer in time", CHECK_SERVER),
        NetError::NoConnections => problem(question, "no server could be reached", CHECK_SERVER),
        other => problem(question, &other.to_string(), CHECK_SERVER),
    }
}

const NO_ADDRESS: &str = "the name has no address";
const CHECK_NAME: &str = "check the name; it is asked for again in the background";
const ASK_AGAIN: &str = "give the name an A or AAAA record; it is asked for again in the background";
const CHECK_SERVER: &str = "check the DNS server; it is asked again in the background";

fn problem(question: Question<'_>, reason: &str, next_step: &'static str) -> Problem {
    let (host, asked) = (question.host, asked(question.servers));
    Problem {
        message: format!("DNS name `{host}` could not be resolved: {reason} (asked {asked})").into(),
        resource: format!("DNS name `{host}`").into(),
        next_step,
    }
}

/// Who was asked.
pub(super) fn asked(servers: &[SocketAddr]) -> String {
    let system = || {
        let (config, _) = read_system_conf().ok()?;
        let servers: Vec<String> = config.name_servers().iter().map(|server| server.ip.to_string()).collect();
        (!servers.is_empty()).then(|| format!("the system's DNS servers, {}", servers.join(", ")))
    };
    match servers {
        [] => system().unwrap_or_else(|| "the system's DNS servers".to_owned()),
        [server] => format!("DNS server {server}"),
        servers => {
            let servers: Vec<String> = servers.iter().map(ToString::to_string).collect();
            format!("the DNS servers {}", servers.join(", "))
        }
    }
}
