//! When a cluster looks at what its calls counted, for outlier detection: only while there is something to look at.

use tokio::time::Instant;

use super::{Balancer, State};
use crate::balance::outlier::EjectionCounts;
use crate::connect::{Connect, Streak};
use crate::resource::endpoints::Address;

impl<C: Connect> Balancer<C> {
    /// How often endpoints were ejected, over all configurations of the cluster.
    pub(crate) fn ejections(&self) -> &EjectionCounts {
        self.ejections.get_or_init(Box::default)
    }

    pub(super) fn eject(&self, endpoint: &Address, streak: Streak) {
        let mut state = self.state.lock();
        let Some(active) = &mut state.active else { return };
        if active.endpoint_failed(endpoint, streak, self.ejections()) {
            self.rebuild(&mut state);
            self.arm_sweep(&mut state);
        }
    }

    pub(super) fn look_again(&self) {
        let mut state = self.state.lock();
        if let Some(active) = &mut state.active {
            active.outcomes_arrive();
            self.arm_sweep(&mut state);
        }
    }

    /// A timer that lives until the interval is over; there is none while nothing happens.
    pub(super) fn arm_sweep(&self, state: &mut State<C>) {
        let Some(active) = &mut state.active else { return };
        let due = active.next_sweep(Instant::now());
        if state.sweep.as_ref().map(|(armed, _)| *armed) == due {
            return;
        }
        if let Some((_, timer)) = state.sweep.take() {
            timer.abort();
        }
        if let Some(due) = due {
            let me = self.me.clone();
            let task = active.environment.handle.spawn(async move {
                tokio::time::sleep_until(due).await;
                if let Some(balancer) = me.upgrade() {
                    balancer.sweep(due);
                }
            });
            state.sweep = Some((due, task.abort_handle()));
        }
    }

    fn sweep(&self, due: Instant) {
        let mut state = self.state.lock();
        // Another may have been armed since.
        if state.sweep.take_if(|(armed, _)| *armed == due).is_none() {
            return;
        }
        let Some(active) = &mut state.active else { return };
        if active.sweep(self.ejections()) {
            self.rebuild(&mut state);
        }
        self.arm_sweep(&mut state);
    }
}
