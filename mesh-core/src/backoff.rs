//! Exponential backoff with jitter, as gRPC's connection backoff has it (`doc/connection-backoff.md`, A57).
//!
//! The random number is an argument, so that a machine without I/O can be tested with a table.

use std::time::Duration;

/// At most a year: a time that an application sets can be added to any other.
pub(crate) fn bounded(time: Duration) -> Duration {
    time.min(Duration::from_secs(365 * 24 * 3600))
}

/// How delays grow.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BackoffConfig {
    /// The first delay. Default 1 s.
    pub(crate) initial: Duration,
    /// What each delay is over the one before. Default 1.6.
    pub(crate) multiplier: f64,
    /// The longest delay before jitter. Default 120 s.
    pub(crate) max: Duration,
    /// The share by which a delay is made longer or shorter, so that clients do not return in step. Default 0.2.
    pub(crate) jitter: f64,
}

impl Default for BackoffConfig {
    fn default() -> Self {
        Self { initial: Duration::from_secs(1), multiplier: 1.6, max: Duration::from_secs(120), jitter: 0.2 }
    }
}

/// The delays between the attempts at one thing.
#[derive(Clone, Debug)]
pub(crate) struct Backoff {
    config: BackoffConfig,
    base: Duration,
}

impl Backoff {
    pub(crate) fn new(config: BackoffConfig) -> Self {
        Self { config, base: config.initial.min(config.max) }
    }

    /// Starts again from the first delay: the thing succeeded.
    pub(crate) fn reset(&mut self) {
        self.base = self.config.initial.min(self.config.max);
    }

    /// The delay before the next attempt; `random` is from 0 to 1.
    pub(crate) fn next_delay(&mut self, random: f64) -> Duration {
        self.next_delay_within(Duration::MAX, random)
    }

    /// As [`next_delay`](Self::next_delay), where the next attempt has this longest delay before jitter.
    pub(crate) fn next_delay_within(&mut self, max: Duration, random: f64) -> Duration {
        let jitter = 1.0 + self.config.jitter * (2.0 * random - 1.0);
        let delay = scale(self.base.min(max), jitter, Duration::MAX);
        self.base = scale(self.base, self.config.multiplier, self.config.max);
        delay
    }
}

/// `duration * factor`, at most `max`; configuration never makes it panic.
fn scale(duration: Duration, factor: f64, max: Duration) -> Duration {
    Duration::try_from_secs_f64(duration.as_secs_f64() * factor).unwrap_or(max).min(max)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delays(config: BackoffConfig, random: f64, count: usize) -> Vec<f64> {
        let mut backoff = Backoff::new(config);
        (0..count).map(|_| backoff.next_delay(random).as_secs_f64()).collect()
    }

    #[test]
    fn delays_grow_by_the_multiplier_to_the_maximum() {
        let delays = delays(BackoffConfig::default(), 0.5, 13);
        let expected = [1.0, 1.6, 2.56, 4.096, 6.5536];
        for (delay, expected) in delays.iter().zip(expected) {
            assert!((delay - expected).abs() < 1e-6, "{delays:?}");
        }
        assert_eq!(delays[11..], [120.0, 120.0]);
    }

    #[test]
    fn jitter_moves_a_delay_by_its_share_either_way() {
        assert_eq!(delays(BackoffConfig::default(), 0.0, 1), [0.8]);
        assert_eq!(delays(BackoffConfig::default(), 1.0, 1), [1.2]);
    }

    #[test]
    fn an_attempt_in_need_is_made_sooner_and_the_delays_grow_on() {
        let mut backoff = Backoff::new(BackoffConfig::default());
        let second = Duration::from_secs(1);
        let delays: Vec<_> = (0..4).map(|_| backoff.next_delay_within(2 * second, 1.0).as_secs_f64()).collect();
        assert_eq!(delays, [1.2, 1.92, 2.4, 2.4]);
        assert!(backoff.next_delay(0.5) > 6 * second);
    }

    #[test]
    fn success_starts_again_from_the_first_delay() {
        let mut backoff = Backoff::new(BackoffConfig::default());
        backoff.next_delay(0.5);
        backoff.next_delay(0.5);
        backoff.reset();
        assert_eq!(backoff.next_delay(0.5), Duration::from_secs(1));
    }

    #[test]
    fn absurd_settings_do_not_panic() {
        let config =
            BackoffConfig { initial: Duration::MAX, multiplier: f64::INFINITY, max: Duration::MAX, jitter: f64::NAN };
        delays(config, 0.5, 3);
    }
}
