//! What end-to-end tests stand on: servers that do as told, and networks that break on command.
//!
//! The control plane is [`mesh_core::testing`]. Everything here listens on loopback at a port that the system
//! chooses, ends when it is dropped, and lets a test wait for events instead of sleeping.

pub(crate) mod agent;
pub(crate) mod authorization;
pub(crate) mod backend;
pub(crate) mod client;
pub(crate) mod clock;
pub(crate) mod configured;
pub(crate) mod dns;
pub(crate) mod frames;
pub(crate) mod greeter;
pub(crate) mod istio;
pub(crate) mod jwt;
pub(crate) mod log;
pub(crate) mod network;
pub(crate) mod orca;
pub(crate) mod pki;
pub(crate) mod rbac;
pub(crate) mod relay;
pub(crate) mod sds;
pub(crate) mod secured;
pub(crate) mod secured_server;
pub(crate) mod served;
pub(crate) mod tier;
pub(crate) mod timed;
pub(crate) mod timeout;
pub(crate) mod tls;
pub(crate) mod unary;
pub(crate) mod witness;

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

/// How long a test waits for an event before it fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// What comes of the event; a test that waits for it in vain fails, and says for what.
pub(crate) async fn in_time<T>(what: &str, event: impl Future<Output = T>) -> T {
    match timeout(PATIENCE, event).await {
        Ok(outcome) => outcome,
        Err(_) => panic!("{what}: not after {PATIENCE:?}"),
    }
}

/// Waits [in time](in_time) until it is so, for what tells nobody when it is.
pub(crate) async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let reached = async {
        while !is_so() {
            tokio::task::yield_now().await;
        }
    };
    in_time(what, reached).await;
}

/// A number that tests can read and wait for.
#[derive(Clone, Debug)]
pub(crate) struct Counter(watch::Sender<u64>);

impl Counter {
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(0))
    }

    pub(crate) fn get(&self) -> u64 {
        *self.0.borrow()
    }

    pub(crate) fn add(&self, amount: u64) {
        self.0.send_modify(|count| *count += amount);
    }

    pub(crate) fn subtract(&self, amount: u64) {
        self.0.send_modify(|count| *count -= amount);
    }

    /// Waits until `wanted` is true of it.
    pub(crate) async fn wait_for(&self, what: &str, wanted: impl FnMut(&u64) -> bool) {
        let mut changes = self.0.subscribe();
        let reached = timeout(PATIENCE, changes.wait_for(wanted)).await.is_ok();
        assert!(reached, "{what}: still {} after {PATIENCE:?}", self.get());
    }
}

/// Adds one to a counter for as long as it lives.
#[derive(Debug)]
pub(crate) struct Counted(Counter);

impl Counted {
    pub(crate) fn by(counter: &Counter) -> Self {
        counter.add(1);
        Self(counter.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.subtract(1);
    }
}
