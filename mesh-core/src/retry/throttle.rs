//! gRPC's throttle of retries (A6): failures take tokens and successes give them back, and while half of them or less is left
//! nothing is tried again.

use crate::sync::atomic::{AtomicU32, Ordering};

/// How many tokens there are, and how many a success gives back; both in thousandths, which is as exact as gRPC is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Throttling {
    max: u32,
    ratio: u32,
}

/// The tokens of one cluster.
#[derive(Debug)]
pub(super) struct Throttle {
    terms: Throttling,
    tokens: AtomicU32,
}

const TOKEN: u32 = 1_000;

impl Throttling {
    /// `max_tokens` is held to 1 to 1,000 (A6), `token_ratio` to 0.001 to that.
    pub(super) fn new(max_tokens: u32, token_ratio: f32) -> Self {
        let max = max_tokens.clamp(1, 1_000) * TOKEN;
        // What is no number is 0.
        let ratio = (f64::from(token_ratio) * f64::from(TOKEN)) as u32;
        Self { max, ratio: ratio.clamp(1, max) }
    }

    /// For people: tokens, and what a success gives back.
    pub(super) fn parts(self) -> (u32, f64) {
        (self.max / TOKEN, f64::from(self.ratio) / f64::from(TOKEN))
    }
}

impl Throttle {
    pub(super) fn new(terms: Throttling) -> Self {
        Self { terms, tokens: AtomicU32::new(terms.max) }
    }

    /// An attempt failed in a way that its policy names, or that asks for no other.
    pub(super) fn failed(&self) {
        self.change(|tokens| tokens.saturating_sub(TOKEN));
    }

    /// An attempt succeeded. Failures that count for nothing change nothing.
    pub(super) fn succeeded(&self) {
        self.change(|tokens| (tokens + self.terms.ratio).min(self.terms.max));
    }

    /// Whether there may be another attempt.
    pub(super) fn allows(&self) -> bool {
        self.tokens.load(Ordering::Relaxed) > self.terms.max / 2
    }

    fn change(&self, next: impl Fn(u32) -> u32) {
        let changed = |tokens| Some(next(tokens)).filter(|next| *next != tokens);
        // Most calls of a cluster that works find it full, and write nothing.
        let _ = self.tokens.fetch_update(Ordering::Relaxed, Ordering::Relaxed, changed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_the_tokens_must_be_left_and_successes_give_back_a_part() {
        let throttle = Throttle::new(Throttling::new(4, 0.5));
        throttle.succeeded();
        throttle.failed();
        assert!(throttle.allows(), "3 of 4");
        throttle.failed();
        assert!(!throttle.allows(), "2 of 4");
        throttle.succeeded();
        assert!(throttle.allows(), "2.5 of 4");
        (0..10).for_each(|_| throttle.failed());
        (0..4).for_each(|_| throttle.succeeded());
        assert!(!throttle.allows(), "none, and 2 given back");
        throttle.succeeded();
        assert!(throttle.allows());
    }

    #[test]
    fn terms_are_kept_within_grpcs_bounds() {
        for (max, ratio, parts) in [
            (10, 0.1, (10, 0.1)),
            (0, 0.0, (1, 0.001)),
            (5_000, 2_000.0, (1_000, 1_000.0)),
            (10, f32::NAN, (10, 0.001)),
            (10, -1.0, (10, 0.001)),
            (10, 0.5466, (10, 0.546)),
        ] {
            assert_eq!(Throttling::new(max, ratio).parts(), parts, "{max}, {ratio}");
        }
    }
}
