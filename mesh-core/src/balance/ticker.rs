//! What tells the policies of one cluster the time, while it is in use.

use std::sync::Weak;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::balancer::Balancer;
use crate::connect::Connect;

/// Ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Ticker {
    period: Duration,
    task: AbortHandle,
}

impl Ticker {
    pub(crate) fn start<C: Connect>(balancer: Weak<Balancer<C>>, period: Duration, handle: &Handle) -> Self {
        Self { period, task: handle.spawn(tick(balancer, period)).abort_handle() }
    }

    pub(crate) fn period(&self) -> Duration {
        self.period
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn tick<C: Connect>(balancer: Weak<Balancer<C>>, period: Duration) {
    loop {
        tokio::time::sleep(period).await;
        let Some(balancer) = balancer.upgrade() else { return };
        balancer.handle_tick(Instant::now());
    }
}
