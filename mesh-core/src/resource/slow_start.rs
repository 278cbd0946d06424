//! Slow start: an endpoint that is new, or is back, gets its share of the calls bit by bit (A100, Envoy's
//! `slow_start_config`).

use std::time::Duration;

/// How the share grows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct SlowStart {
    /// From READY until the whole share; above 0.
    window: Duration,
    /// 1 ÷ `aggression`: 1 lets the share grow evenly, less lets it grow faster at first.
    exponent: f64,
    /// The least share, from 0 to 1.
    min: f64,
}

impl SlowStart {
    /// `aggression`, where it is not set.
    pub(crate) const AGGRESSION: f64 = 1.0;
    /// `min_weight_percent`, where it is not set.
    pub(crate) const MIN_WEIGHT_PERCENT: f64 = 10.0;
    /// An endpoint is never taken to be READY for a shorter time.
    const FLOOR: Duration = Duration::from_secs(1);

    /// `None` if there is no window. `aggression` is above 0, `min_weight_percent` from 0 to 100.
    pub(crate) fn new(window: Duration, aggression: f64, min_weight_percent: f64) -> Option<Self> {
        (!window.is_zero()).then_some(Self { window, exponent: 1.0 / aggression, min: min_weight_percent / 100.0 })
    }

    /// The part of its share that an endpoint gets that has been READY for so long, above 0 and at most 1.
    pub(crate) fn factor(&self, ready_for: Duration) -> f64 {
        if ready_for >= self.window {
            return 1.0;
        }
        let time = ready_for.max(Self::FLOOR).as_secs_f64() / self.window.as_secs_f64();
        time.powf(self.exponent).max(self.min).min(1.0)
    }

    /// Where no `slow_start_config` says how: the share grows evenly.
    pub(crate) fn evenly(window: Duration) -> Option<Self> {
        Self::new(window, Self::AGGRESSION, Self::MIN_WEIGHT_PERCENT)
    }

    /// When an endpoint gets its whole share.
    pub(crate) fn window(&self) -> Duration {
        self.window
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_grows_to_the_whole_within_the_window() {
        let hundred = Duration::from_secs(100);
        for (aggression, min, seconds, expected) in [
            (1.0, 10.0, 0, 0.1),
            (1.0, 10.0, 9, 0.1),
            (1.0, 10.0, 25, 0.25),
            (1.0, 10.0, 99, 0.99),
            (1.0, 10.0, 100, 1.0),
            (1.0, 10.0, 1_000, 1.0),
            (2.0, 10.0, 25, 0.5),
            (0.5, 10.0, 50, 0.25),
            (0.5, 10.0, 10, 0.1),
            // Never nothing: READY for less than a second counts as a second.
            (1.0, 0.0, 0, 0.01),
            (1.0, 100.0, 0, 1.0),
        ] {
            let slow_start = SlowStart::new(hundred, aggression, min).expect("a window");
            let factor = slow_start.factor(Duration::from_secs(seconds));
            assert!((factor - expected).abs() < 1e-9, "aggression {aggression}, {min} %, {seconds} s: {factor}");
        }
    }

    #[test]
    fn a_window_shorter_than_a_second_changes_nothing_and_none_is_none() {
        let slow_start = SlowStart::new(Duration::from_millis(500), 1.0, 10.0).expect("a window");
        assert_eq!(slow_start.factor(Duration::ZERO), 1.0);
        assert_eq!(SlowStart::new(Duration::ZERO, 1.0, 10.0), None);
    }

    #[test]
    fn no_configuration_leads_to_a_share_that_is_no_number() {
        for window in [Duration::from_nanos(1), Duration::MAX] {
            for aggression in [f64::MIN_POSITIVE, f64::MAX] {
                let slow_start = SlowStart::new(window, aggression, 0.0).expect("a window");
                for ready_for in [Duration::ZERO, Duration::from_secs(5), Duration::MAX] {
                    let factor = slow_start.factor(ready_for);
                    assert!((0.0..=1.0).contains(&factor), "{window:?} {aggression} {ready_for:?}: {factor}");
                }
            }
        }
    }
}
