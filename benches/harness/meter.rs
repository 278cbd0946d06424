//! Wall time, CPU time, memory and allocations of this process.

use std::time::Duration;

use alloc_tracker::{ProcessSpan, Session};
use rustix::time::{ClockId, clock_gettime};
use tokio::time::Instant;

/// What a stretch of work took.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Used {
    /// Wall time.
    pub elapsed: Duration,
    /// CPU time of the whole process, user and system.
    pub cpu: Duration,
    /// Calls to the allocator, reallocations included; zero in a program whose global allocator
    /// is not `alloc_tracker`'s.
    pub allocations: u64,
}

/// Counts from its start to its stop.
#[derive(Debug)]
pub struct Meter {
    session: Session,
    span: ProcessSpan,
    cpu: Duration,
    start: Instant,
}

impl Meter {
    /// Starts to count.
    #[must_use]
    pub fn start() -> Self {
        let session = Session::new();
        let span = session.operation("work").measure_process();
        Self { session, span, cpu: cpu_time(), start: Instant::now() }
    }

    /// What was used since the start.
    #[must_use]
    pub fn stop(self) -> Used {
        let elapsed = self.start.elapsed();
        let cpu = cpu_time().saturating_sub(self.cpu);
        drop(self.span);
        let report = self.session.to_report();
        let allocations = report.operations().map(|(_, operation)| operation.total_allocations_count()).sum();
        Used { elapsed, cpu, allocations }
    }
}

/// CPU time of this process since it began, threads that have ended included.
#[must_use]
pub fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::try_from(time).expect("a CPU clock does not run backwards")
}

/// Resident memory of this process in bytes; zero where `/proc` is not mounted.
#[must_use]
pub fn resident() -> u64 {
    statm(1)
}

/// The part of it that is pages of files: code that ran, of this executable and its libraries.
#[must_use]
pub fn resident_code() -> u64 {
    statm(2)
}

fn statm(field: usize) -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = statm.split(' ').nth(field).and_then(|pages| pages.parse().ok()).unwrap_or(0);
    pages * u64::try_from(rustix::param::page_size()).expect("a page is small")
}
