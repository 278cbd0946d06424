//! Latencies of calls, in a room of fixed size.

use std::fmt;
use std::time::Duration;

/// Each power of two of microseconds has so many places: a latency is known to a thirty-second of it.
const PLACES: usize = 32;
const PLACES_LOG2: u32 = PLACES.ilog2();
/// Longer ones, of 19 hours, are as long.
const LONGEST: u64 = (1 << 36) - 1;
const LENGTH: usize = (36 - PLACES_LOG2 as usize + 1) * PLACES;

/// A histogram of latencies: 4 KiB, however many there are.
pub(super) struct Samples {
    counts: Box<[u32; LENGTH]>,
    count: u32,
}

impl Samples {
    pub(super) fn new() -> Self {
        Self { counts: Box::new([0; LENGTH]), count: 0 }
    }

    pub(super) fn add(&mut self, latency: Duration) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(LONGEST).min(LONGEST);
        // As many as there can be of one latency, and still the count of all can be told.
        if self.count < u32::MAX {
            self.counts[place(micros)] += 1;
            self.count += 1;
        }
    }

    pub(super) fn count(&self) -> u32 {
        self.count
    }

    pub(super) fn clear(&mut self) {
        self.counts.fill(0);
        self.count = 0;
    }

    /// The latency that this share of them does not exceed; `None`: there are none.
    pub(super) fn percentile(&self, share: f64) -> Option<Duration> {
        if self.count == 0 {
            return None;
        }
        let wanted = (f64::from(self.count) * share).max(1.0);
        let mut seen = 0;
        let found = self.counts.iter().position(|count| {
            seen += count;
            f64::from(seen) >= wanted
        });
        // Rounding may ask for more than there are.
        let last = || self.counts.iter().rposition(|count| *count > 0);
        found.or_else(last).map(latency)
    }
}

fn place(micros: u64) -> usize {
    let shift = micros.checked_ilog2().unwrap_or_default().saturating_sub(PLACES_LOG2);
    let within = usize::try_from(micros >> shift).expect("below twice the places");
    shift as usize * PLACES + within
}

/// The middle of a place.
fn latency(place: usize) -> Duration {
    let (shift, within) = match place / PLACES {
        0 => (0, place),
        row => (row - 1, PLACES + place % PLACES),
    };
    let (low, width) = ((within as u64) << shift, 1_u64 << shift);
    Duration::from_nanos(low * 1_000 + width * 500)
}

impl fmt::Debug for Samples {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Samples").field("count", &self.count).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_latency_is_known_to_a_thirty_second() {
        let mut micros = 1_u64;
        while micros < LONGEST {
            let mut samples = Samples::new();
            samples.add(Duration::from_micros(micros));
            let found = samples.percentile(0.5).expect("one").as_secs_f64() * 1e6;
            assert!((found - micros as f64).abs() <= (micros as f64 / 32.0).max(0.5), "{micros}: {found}");
            micros += micros / 7 + 1;
        }
    }

    #[test]
    fn shares_are_of_all_that_are_there_and_extremes_have_a_place() {
        let mut samples = Samples::new();
        assert_eq!(samples.percentile(0.5), None);
        for latency in [Duration::ZERO, Duration::MAX, Duration::from_millis(1)] {
            samples.add(latency);
        }
        let at = |share: f64| samples.percentile(share).expect("three").as_micros();
        assert_eq!((at(0.0), at(0.33)), (0, 0));
        assert!((980..1_020).contains(&at(0.5)), "{}", at(0.5));
        assert!(at(1.0) > 60_000_000_000, "{}", at(1.0));
        samples.clear();
        assert_eq!((samples.count(), samples.percentile(1.0)), (0, None));
    }
}
