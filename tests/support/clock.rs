//! Time that does not pass while the machine stands still.

use std::cell::Cell;
use std::time::{Duration, SystemTime};

use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio::time::{advance, pause};

/// How often the time of a test is set forward.
const TICK: Duration = Duration::from_millis(2);
/// By how much at most: what is beyond that is a time in which nothing ran, and no reason to give anything up.
pub(crate) const MOST: Duration = Duration::from_millis(50);

thread_local! {
    static IS_RUNNING: Cell<bool> = const { Cell::new(false) };
    static PACE: Cell<u32> = const { Cell::new(1) };
}

/// From now on the time of this test, which [passes over stalls](pass_over_stalls), passes so many times as fast as the real one.
pub(crate) fn pass_times(pace: u32) {
    PACE.set(pace);
}

/// From now on time passes in this test's runtime, which must not be paused, as it really does, but for the times in which the
/// machine stood still; one of several threads knows no other time than the real one. What is valid for a time of day, as
/// certificates are, goes by that in any case.
pub(crate) fn pass_over_stalls() {
    if Handle::current().runtime_flavor() != RuntimeFlavor::CurrentThread || IS_RUNNING.replace(true) {
        return;
    }
    pause();
    let (tick, mut ticks) = mpsc::channel(1);
    // While work that blocks is under way, a clock that is paused does not run ahead by itself.
    Handle::current().spawn_blocking(move || {
        while !matches!(tick.try_send(()), Err(TrySendError::Closed(()))) {
            std::thread::sleep(TICK);
        }
    });
    tokio::spawn(async move {
        let mut last = SystemTime::now();
        while ticks.recv().await.is_some() {
            let now = SystemTime::now();
            // That somebody set it back is no time that passed.
            let passed = now.duration_since(last).unwrap_or_default();
            last = now;
            advance(passed.min(MOST) * PACE.get()).await;
        }
    });
}

#[cfg(test)]
mod tests {
    use tokio::time::{Instant, sleep};

    use super::*;

    #[tokio::test]
    async fn time_passes_but_for_that_in_which_nothing_ran() {
        pass_over_stalls();
        let before = (Instant::now(), SystemTime::now());
        sleep(Duration::from_millis(100)).await;
        assert!(before.0.elapsed() >= Duration::from_millis(100));
        assert!(before.1.elapsed().unwrap() >= Duration::from_millis(100), "it does not run ahead");
        let before = Instant::now();
        // Nothing else runs on this thread.
        std::thread::sleep(Duration::from_millis(500));
        sleep(Duration::from_millis(1)).await;
        assert!(before.elapsed() < Duration::from_millis(400), "{:?}", before.elapsed());
    }
}
