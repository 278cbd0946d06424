//! DNS: targets whose endpoints are a name's addresses, and the names in clusters' configurations.
//!
//! An answer that fails leaves the last good one in force.

mod names;
mod resolver;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

pub(crate) use self::names::{NameSubscriber, Names};
use self::resolver::{Question, ask};
use super::xds::publish_snapshot;
use super::{Source, connectivity};
use crate::backoff::{Backoff, BackoffConfig};
use crate::resource::cluster::AddressFamily;
use crate::resource::endpoints::Address;
use crate::snapshot::{PrepareClusters, Snapshot, fixed};

/// Records that expire sooner are asked for again after this.
const SHORTEST_INTERVAL: Duration = Duration::from_secs(1);

/// A target that is a name.
#[derive(Clone, Debug)]
pub(crate) struct DnsTarget {
    pub(crate) target: Arc<str>,
    /// `None`: the system's servers.
    pub(crate) server: Option<SocketAddr>,
    pub(crate) host: Arc<str>,
    pub(crate) port: u16,
}

/// Publishes the target's snapshots until nobody uses it any more.
pub(crate) async fn follow(source: Source, name: DnsTarget, clusters: Arc<dyn PrepareClusters>) {
    let mut connectivity = connectivity::Aggregate::default();
    let mut backoff = Backoff::new(BackoffConfig::default());
    let mut published: Option<Arc<[IpAddr]>> = None;
    let question = Question { host: &name.host, servers: name.server.as_slice(), family: AddressFamily::Both };
    loop {
        let answer = tokio::select! {
            biased;
            () = source.dropped() => return source.close(),
            answer = ask(question) => answer,
        };
        let wait = match answer {
            Ok(answer) => {
                backoff.reset();
                if published.as_ref() != Some(&answer.addresses) {
                    let socket = |address: &IpAddr| Address::Socket(SocketAddr::new(*address, name.port));
                    let snapshot = fixed::of_addresses(&name.target, answer.addresses.iter().map(socket));
                    publish_snapshot(Arc::new(snapshot), &source, &*clusters, &mut connectivity);
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
