//! DNS: targets whose endpoints are a name's addresses, and the names in clusters' configurations.
//!
//! An answer that fails leaves the last good one in force.

mod names;
mod reach;
mod resolver;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

pub(crate) use self::names::{NameSubscriber, Names};
use self::resolver::{Question, ask, asked};
use super::{Source, connectivity};
use crate::backoff::{Backoff, BackoffConfig};
use crate::connect::ConnectivityState;
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
    /// So long after it was asked for, the name is asked for again if none of its addresses can be reached.
    pub(crate) reresolution_interval: Duration,
}

/// Publishes the target's snapshots until nobody uses it any more.
pub(crate) async fn follow(source: Source, name: DnsTarget, clusters: Arc<dyn PrepareClusters>) {
    let mut connectivity = connectivity::Aggregate::new(clusters);
    let mut backoff = Backoff::new(BackoffConfig::default());
    let mut published: Option<Arc<[IpAddr]>> = None;
    source.waiting_for(Some(format!("DNS name `{}` (asked {})", name.host, asked(name.server.as_slice()))));
    let question = Question { host: &name.host, servers: name.server.as_slice(), family: AddressFamily::Both };
    loop {
        let begin = Instant::now();
        let Some(answer) = connectivity.shown_until(&source, ask(question)).await else { return };
        source.waiting_for(None);
        let again = match answer {
            Ok(answer) => {
                backoff.reset();
                if published.as_ref() != Some(&answer.addresses) {
                    let socket = |address: &IpAddr| Address::Socket(SocketAddr::new(*address, name.port));
                    let snapshot = fixed::of_addresses(&name.target, answer.addresses.iter().map(socket));
                    connectivity.publish(Arc::new(snapshot), &source);
                    published = Some(answer.addresses);
                }
                Again::after_answer(begin, Instant::now() + answer.valid_for, name.reresolution_interval)
            }
            Err(problem) => {
                tracing::warn!(target = %name.target, %problem, "resolving failed");
                if published.is_none() {
                    let snapshot = Snapshot { routing: Err(problem), clusters: Arc::new([]) };
                    connectivity.publish(Arc::new(snapshot), &source);
                }
                let due = Instant::now() + backoff.next_delay(fastrand::f64());
                Again { expires: due, unreachable: due }
            }
        };
        if !again.pause(&mut connectivity, &source).await {
            return;
        }
    }
}

/// When a name is asked for again.
#[derive(Clone, Copy)]
struct Again {
    expires: Instant,
    /// While none of its addresses can be reached: others may be right by now.
    unreachable: Instant,
}

impl Again {
    /// After an answer that holds until `expires`, to a question of the time `asked`.
    fn after_answer(asked: Instant, expires: Instant, interval: Duration) -> Self {
        let soonest = asked + SHORTEST_INTERVAL;
        let expires = expires.max(soonest);
        Self { expires, unreachable: expires.min(asked + interval) }
    }

    /// Waits until then, and shows the connectivity meanwhile; `false` when nobody uses the target any more.
    async fn pause(self, connectivity: &mut connectivity::Aggregate, source: &Source) -> bool {
        let mut state = connectivity.look().state;
        loop {
            let due = if state == ConnectivityState::TransientFailure { self.unreachable } else { self.expires };
            tokio::select! {
                biased;
                () = source.dropped() => return false,
                () = sleep_until(due) => return true,
                now = connectivity.changed() => {
                    state = now.state;
                    source.readiness(now);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_asked_for_when_its_answer_expires_and_sooner_if_it_leads_nowhere() {
        let asked = Instant::now();
        let seconds = Duration::from_secs;
        for (valid_for, expires, unreachable) in [(300, 300, 30), (30, 30, 30), (20, 20, 20), (0, 1, 1)] {
            let again = Again::after_answer(asked, asked + seconds(valid_for), seconds(30));
            assert_eq!((again.expires - asked, again.unreachable - asked), (seconds(expires), seconds(unreachable)));
        }
    }
}
