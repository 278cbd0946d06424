//! Tests of what takes real time, on machines that stand still now and then.

use std::panic::{AssertUnwindSafe, resume_unwind};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, SystemTime};

use futures_util::FutureExt;
use tokio::time::Instant;

/// How often the clock is looked at.
const TICK: Duration = Duration::from_millis(10);
/// A look that comes so much later than it should: nothing ran meanwhile.
const STILL: Duration = Duration::from_millis(100);
/// A machine that stands still during each of so many runs runs no test of real time.
const RUNS: u32 = 10;

/// Runs a test whose times are real ones: certificates that end within seconds, timers that are over before a machine
/// that stands still looks again. A failure while it stood still tells nothing, and the test runs once more; any other is
/// the test's.
pub(crate) async fn timed(test: impl AsyncFn()) {
    for _ in 1..RUNS {
        let before = stood_still();
        let Err(failure) = AssertUnwindSafe(test()).catch_unwind().await else { return };
        // Whoever watches the clock may wake later than the test.
        thread::sleep(STILL);
        if stood_still() == before {
            resume_unwind(failure);
        }
        eprintln!("the machine stood still meanwhile: once more");
    }
    test().await;
}

/// How often this process stood still since the first look.
fn stood_still() -> u64 {
    static TIMES: AtomicU64 = AtomicU64::new(0);
    static WATCH: OnceLock<thread::JoinHandle<()>> = OnceLock::new();
    WATCH.get_or_init(|| {
        thread::spawn(|| {
            loop {
                let (real, wall) = (Instant::now(), SystemTime::now());
                thread::sleep(TICK);
                // A machine that was suspended finds only the time of day changed.
                if real.elapsed().max(wall.elapsed().unwrap_or_default()) > TICK + STILL {
                    TIMES.fetch_add(1, Ordering::Relaxed);
                }
            }
        })
    });
    TIMES.load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test]
    #[should_panic(expected = "its own")]
    async fn a_failure_is_the_tests_own_unless_the_machine_stood_still() {
        timed(async || panic!("its own")).await;
    }

    /// In a process of its own, which is stopped from outside.
    #[test]
    fn a_test_that_failed_while_the_machine_stood_still_runs_once_more() {
        let script = "\"$0\" --exact support::timed::tests::in_a_process_that_is_stopped --ignored & \
                      (while kill -STOP $! && sleep 0.3 && kill -CONT $! && sleep 0.3; do :; done) 2>/dev/null; wait $!";
        let own = std::env::current_exe().expect("the path of the tests");
        let output = std::process::Command::new("sh").args(["-c", script]).arg(own).output().expect("a shell");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("1 passed"), "{said}");
    }

    #[tokio::test]
    #[ignore = "waits until its process is stopped: run by the test above"]
    async fn in_a_process_that_is_stopped() {
        let runs = Cell::new(0);
        timed(async || {
            runs.set(runs.get() + 1);
            let before = stood_still();
            while runs.get() == 1 && stood_still() == before {
                tokio::time::sleep(TICK).await;
            }
            assert_eq!(runs.get(), 2, "the first run fails");
        })
        .await;
    }
}
