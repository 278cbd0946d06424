//! Weighted round robin by what the endpoints report of their load (A58): each in turn, the less loaded more often.
//!
//! Reports make the weights of the endpoints (`connect/`); here they become a schedule, anew every
//! `weight_update_period`, and with each change of the endpoints.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::time::Instant;

use super::static_stride::{StaticStride, Turn};
use super::{Choice, Member, PickRequest, Policy};
use crate::resource::weighted_round_robin::WeightedRoundRobin as Config;

pub(super) struct WeightedRoundRobin {
    config: Arc<Config>,
    turn: Turn,
    /// `None`: all weigh alike.
    schedule: ArcSwap<Option<StaticStride>>,
}

impl WeightedRoundRobin {
    pub(super) fn new(config: Arc<Config>, members: &[Member], random: u64, now: Instant) -> Self {
        let schedule = schedule(&config, members, now);
        Self { config, turn: Turn::new(random), schedule: ArcSwap::from_pointee(schedule) }
    }
}

impl Policy for WeightedRoundRobin {
    fn pick(&self, members: &[Member], _: &PickRequest<'_>) -> Choice {
        Choice::Endpoint(match &**self.schedule.load() {
            Some(schedule) => schedule.pick(&self.turn),
            None => self.turn.among(members.len()),
        })
    }

    fn handle_tick(&self, members: &[Member], now: Instant) {
        self.schedule.store(Arc::new(schedule(&self.config, members, now)));
    }
}

/// By the weights as they are now. An endpoint without one has the mean of the others'; with fewer than two weights all
/// are alike, but for those that start slowly (A100).
fn schedule(config: &Config, members: &[Member], now: Instant) -> Option<StaticStride> {
    let (blackout, expiration) = (config.blackout_period, config.weight_expiration_period);
    let known: Vec<_> = members.iter().map(|member| member.stats.load.weight(blackout, expiration, now)).collect();
    let mean = mean(known.iter().flatten().copied());
    let weight = |(member, known): (&Member, &Option<f64>)| {
        let weight = mean.map_or(1.0, |mean| known.unwrap_or(mean));
        weight * ramp(config, member, now)
    };
    let weights: Vec<f64> = members.iter().zip(&known).map(weight).collect();
    StaticStride::new(&weights)
}

/// `None` for fewer than two.
fn mean(known: impl Iterator<Item = f64> + Clone) -> Option<f64> {
    let count = known.clone().count();
    // Divided first: the sum of large weights may be no number.
    #[expect(clippy::cast_precision_loss, reason = "a count of endpoints")]
    let mean = known.map(|weight| weight / count as f64).sum();
    (count >= 2).then_some(mean)
}

fn ramp(config: &Config, member: &Member, now: Instant) -> f64 {
    let Some(slow_start) = &config.slow_start else { return 1.0 };
    slow_start.factor(member.stats.load.ready_for(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::testing::ready as members;
    use super::*;
    use crate::resource::slow_start::SlowStart;

    const SECOND: Duration = Duration::from_secs(1);

    /// What each member gets of a hundred picks.
    fn shares(policy: &WeightedRoundRobin, members: &[Member]) -> Vec<u32> {
        let mut shares = vec![0; members.len()];
        for _ in 0..10_000 {
            let Choice::Endpoint(index) = policy.pick(members, &PickRequest::default()) else { panic!("a choice") };
            shares[index] += 1;
        }
        shares.iter().map(|picks| (picks + 50) / 100).collect()
    }

    /// Members that are READY now and report these weights; 0 is none.
    fn reporting(weights: &[f64], now: Instant) -> Vec<Member> {
        let members = members(weights.len());
        for (member, weight) in members.iter().zip(weights) {
            member.stats.load.handle_ready(now);
            member.stats.load.handle_weight(*weight, now);
        }
        members
    }

    #[test]
    fn calls_are_shared_by_weight_once_the_blackout_is_over() {
        let now = Instant::now() + SECOND;
        let members = reporting(&[1.0, 3.0], now);
        let policy = WeightedRoundRobin::new(Arc::default(), &members, 0, now);
        assert_eq!(shares(&policy, &members), [50, 50], "blacked out");
        policy.handle_tick(&members, now + 10 * SECOND);
        assert_eq!(shares(&policy, &members), [25, 75]);
        policy.handle_tick(&members, now + 180 * SECOND);
        assert_eq!(shares(&policy, &members), [50, 50], "expired");
    }

    #[test]
    fn a_member_without_a_weight_has_the_mean_and_fewer_than_two_weights_are_none() {
        let now = Instant::now();
        let config = Arc::new(Config { blackout_period: Duration::ZERO, ..Config::default() });
        for (weights, expected) in [
            (&[2.0, 0.0, 6.0, 4.0][..], vec![13, 25, 38, 25]),
            (&[2.0, 0.0, 0.0, 0.0], vec![25; 4]),
            (&[0.0, 0.0, 0.0, 0.0], vec![25; 4]),
            (&[2.0, 0.0, 2.0, 0.0], vec![25; 4]),
            (&[7.0], vec![100]),
        ] {
            let members = reporting(weights, now);
            let policy = WeightedRoundRobin::new(config.clone(), &members, 1 << 40, now);
            assert_eq!(shares(&policy, &members), expected, "{weights:?}");
        }
    }

    #[test]
    fn slow_start_scales_a_weight_whether_it_is_known_or_the_mean() {
        let start = Instant::now();
        let now = start + 1_000 * SECOND;
        let slow_start = SlowStart::new(100 * SECOND, 1.0, 10.0);
        let config = Arc::new(Config { blackout_period: Duration::ZERO, slow_start, ..Config::default() });
        let members = reporting(&[0.0, 0.0], start);
        members[1].stats.load.handle_ready(now);
        let policy = WeightedRoundRobin::new(config, &members, 0, now + 25 * SECOND);
        assert_eq!(shares(&policy, &members), [80, 20], "no weight is known");
        let later = now + 50 * SECOND;
        members[0].stats.load.handle_weight(1.0, later);
        members[1].stats.load.handle_weight(4.0, later);
        policy.handle_tick(&members, later);
        assert_eq!(shares(&policy, &members), [33, 67]);
        policy.handle_tick(&members, now + 100 * SECOND);
        assert_eq!(shares(&policy, &members), [20, 80]);
    }
}
