//! When a certificate is asked for: at half of its life, after failures again and again.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::{Instant, sleep};

use super::IstioCa;
use super::issue::{issue, roots};
use crate::aside::Ongoing;
use crate::backoff::{Backoff, BackoffConfig, bounded};
use crate::error::Error;
use crate::identity::{Identity, KeyMaterial, Publisher, TrustBundle};

/// The shortest time between two requests.
const BETWEEN_REQUESTS: Duration = Duration::from_secs(1);
/// How often the wall clock is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// While a certificate lasts, nobody waits for its successor.
const RETRY_MAX: Duration = Duration::from_secs(30);
/// Without a certificate nothing works: what the return of the CA costs is 3.6 s at most, and the time of an answer.
const RETRY_MAX_IN_NEED: Duration = Duration::from_secs(3);
/// Which share of what is left of a certificate may pass until the CA is asked again.
const SHARE_OF_REST: u32 = 10;
/// How often the file of roots is looked at between two requests.
const ROOTS_INTERVAL: Duration = Duration::from_secs(10);

/// Publishes certificates, for ever.
pub(super) async fn renew(ca: IstioCa, publisher: Publisher) {
    let ca = Arc::new(ca);
    let mut backoff = Backoff::new(BackoffConfig { max: RETRY_MAX, ..Default::default() });
    let mut held: Option<Held> = None;
    let reading = Ongoing::default();
    loop {
        let asked = Instant::now();
        let mut failure = None;
        let pause = match issue(&ca, &publisher).await {
            Ok(material) => {
                backoff.reset();
                publisher.publish(material.clone());
                let held = held.insert(Held::new(material));
                until_renewal(held.left(), fastrand::f64()).max(BETWEEN_REQUESTS)
            }
            Err(failed) => {
                publisher.fail(&**failure.insert(failed.into_error(&ca).report()));
                let left = held.as_ref().map_or(Duration::ZERO, Held::left);
                after_failure(&mut backoff, left, asked.elapsed(), fastrand::f64())
            }
        };
        tokio::select! {
            () = pass(pause, SystemTime::now) => {}
            () = follow_roots(&ca, &reading, held.as_mut(), failure.as_deref(), &publisher) => {}
        }
    }
}

/// What was issued last.
struct Held {
    material: KeyMaterial,
    /// When its certificate ends, by the clock of timers: nobody sets it.
    end: Instant,
}

impl Held {
    fn new(material: KeyMaterial) -> Self {
        let end = Instant::now() + bounded(rest(&material));
        Self { material, end }
    }

    /// By the clock that says less.
    fn left(&self) -> Duration {
        self.end.saturating_duration_since(Instant::now()).min(rest(&self.material))
    }
}

/// How much of its certificate's life is left by the wall clock.
fn rest(material: &KeyMaterial) -> Duration {
    let end = material.identity.as_ref().map(Identity::not_after);
    end.and_then(|end| end.duration_since(SystemTime::now()).ok()).unwrap_or_default()
}

/// Ends when so much time has passed by either clock: that of timers stands still while the machine sleeps, and
/// certificates end by the other one.
async fn pass(time: Duration, now: impl Fn() -> SystemTime) {
    let (since, begin) = (Instant::now(), now());
    let is_over = || since.elapsed() >= time || now().duration_since(begin).is_ok_and(|passed| passed >= time);
    while !is_over() {
        sleep(time.saturating_sub(since.elapsed()).min(LOOK_EVERY)).await;
    }
}

/// 40 to 60 % of the life since receipt; `random` is from 0 to 1.
fn until_renewal(life: Duration, random: f64) -> Duration {
    life.mul_f64(0.4 + 0.2 * random.clamp(0.0, 1.0))
}

/// From a request that failed to the next: the more often the less is left of the certificate.
fn until_retry(backoff: &mut Backoff, left: Duration, random: f64) -> Duration {
    let most = (left / SHARE_OF_REST).max(RETRY_MAX_IN_NEED);
    backoff.next_delay_within(most, random).max(BETWEEN_REQUESTS)
}

/// From the failure of a request that took so long to the next one. A CA that is silent, and not away, is in trouble: it has a pause
/// then, too, and those who ask it do not stay in step.
fn after_failure(backoff: &mut Backoff, left: Duration, took: Duration, random: f64) -> Duration {
    let rest = until_retry(backoff, left, random).saturating_sub(took);
    rest.max(BETWEEN_REQUESTS.mul_f64(0.5 + random))
}

/// Publishes the certificate that is held with other roots whenever the file has others, which makes the CA answer no
/// sooner: `failure` goes on. Never ends.
async fn follow_roots(
    ca: &Arc<IstioCa>,
    reading: &Ongoing<Result<TrustBundle, Error>>,
    held: Option<&mut Held>,
    failure: Option<&str>,
    publisher: &Publisher,
) {
    let Some(Held { material: held, .. }) = held else { return std::future::pending().await };
    loop {
        sleep(ROOTS_INTERVAL).await;
        let of = ca.clone();
        // A file that cannot be read now is complained of by the next request.
        if let Ok(Ok(trust)) = reading.run(move || roots(&of)).await
            && held.trust.as_ref() != Some(&trust)
        {
            held.trust = Some(trust);
            publisher.publish(held.clone());
            if let Some(failure) = failure {
                publisher.fail(failure);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// While a machine sleeps no timer runs; and a clock that is set, in either direction, delays nothing.
    #[tokio::test(start_paused = true)]
    async fn s2_a_renewal_is_due_by_whichever_clock_says_so_first() {
        let hour = Duration::from_secs(3600);
        let begin = SystemTime::now();
        for (step, expected) in [(2 * hour, LOOK_EVERY), (hour / 2, 2 * LOOK_EVERY), (Duration::ZERO, hour)] {
            let (start, looks) = (Instant::now(), Cell::new(0));
            // It jumps by a step at each look.
            pass(hour, || begin + step * looks.replace(looks.get() + 1)).await;
            assert!(start.elapsed() <= expected, "{step:?}: {:?}", start.elapsed());
        }
        let start = Instant::now();
        let looks = Cell::new(0);
        pass(hour, || begin - hour * looks.replace(looks.get() + 1)).await;
        assert_eq!(start.elapsed(), hour);
    }

    #[test]
    fn s2_a_certificate_is_renewed_at_half_of_what_is_left_at_its_receipt() {
        for (random, seconds) in [(0.0, 400), (0.5, 500), (1.0, 600)] {
            assert_eq!(until_renewal(Duration::from_secs(1000), random).as_secs(), seconds);
        }
    }

    const HOUR: Duration = Duration::from_secs(3600);

    /// When a process asks a CA that is away, since it gave a certificate of one hour; each request takes so long to fail.
    fn requests_in_vain(for_hours: u32, take: Duration, random: &mut fastrand::Rng) -> Vec<Duration> {
        let mut backoff = Backoff::new(BackoffConfig { max: RETRY_MAX, ..Default::default() });
        let mut asked = vec![until_renewal(HOUR, random.f64())];
        while let Some(&last) = asked.last()
            && last < for_hours * HOUR
        {
            let failed = last + take;
            asked.push(failed + after_failure(&mut backoff, HOUR.saturating_sub(failed), take, random.f64()));
        }
        asked
    }

    /// Issuer outage to expiry: certificates of 1 h, and a CA that is down for 3 h.
    #[test]
    fn r09_a_ca_that_returns_after_the_certificate_ended_is_asked_within_4_seconds() {
        let seed = fastrand::u64(..);
        println!("seed {seed}");
        let mut random = fastrand::Rng::with_seed(seed);
        const BOUND: Duration = Duration::from_secs(4);
        for take in [Duration::ZERO, Duration::from_millis(2500)] {
            for _ in 0..200 {
                let asked = requests_in_vain(3, take, &mut random);
                let pauses = || asked.windows(2).map(|pair| (pair[0], pair[1] - pair[0]));
                assert!(pauses().all(|(_, pause)| pause >= BETWEEN_REQUESTS), "at most one request in a second");
                // As soon as nine tenths of its life are over it matters.
                let in_need = pauses().filter(|(at, _)| *at + BOUND >= HOUR);
                assert!(in_need.clone().count() > 1000);
                in_need.for_each(|(at, pause)| assert!(pause <= BOUND, "at {at:?}: {pause:?}"));
                // Before, nobody is in a hurry, and a CA in trouble is not to have more of it.
                let early = pauses().filter(|(at, _)| *at < HOUR * 9 / 10).count();
                assert!(early <= 80, "{early} requests");
            }
        }
    }

    /// Each request is given up after 10 s.
    #[test]
    fn r09_a_ca_that_is_silent_has_a_pause_after_each_request() {
        let seed = fastrand::u64(..);
        println!("seed {seed}");
        let mut random = fastrand::Rng::with_seed(seed);
        let silence = Duration::from_secs(10);
        let asked = requests_in_vain(3, silence, &mut random);
        let pauses = asked.windows(2).map(|pair| pair[1] - pair[0] - silence);
        let in_need: Vec<_> = asked.iter().zip(pauses).filter(|(at, _)| **at >= HOUR).map(|(_, pause)| pause).collect();
        assert!(in_need.len() > 500);
        assert!(in_need.iter().all(|pause| (BETWEEN_REQUESTS / 2..=BETWEEN_REQUESTS * 3 / 2).contains(pause)));
        let mean = in_need.iter().sum::<Duration>() / u32::try_from(in_need.len()).unwrap();
        let off = in_need.iter().filter(|pause| pause.abs_diff(mean) > BETWEEN_REQUESTS / 4).count();
        assert!(off > in_need.len() / 4, "they do not stay in step: {off} of {}", in_need.len());
    }

    /// Nor do all who wait for it come at once.
    #[test]
    fn r09_processes_that_wait_for_a_ca_do_not_ask_in_step() {
        let seed = fastrand::u64(..);
        println!("seed {seed}");
        let mut random = fastrand::Rng::with_seed(seed);
        // All were started at the same moment, and renew at the same share of their certificates' lives.
        let mut seconds = vec![0; 10];
        for _ in 0..1000 {
            let mut backoff = Backoff::new(BackoffConfig { max: RETRY_MAX, ..Default::default() });
            let mut at = HOUR / 2;
            while at < 3 * HOUR {
                at += until_retry(&mut backoff, HOUR.saturating_sub(at), random.f64());
            }
            seconds[usize::try_from((at - 3 * HOUR).as_secs()).unwrap()] += 1;
        }
        // Evenly it were a third of them in each of three seconds.
        assert!(seconds.iter().all(|&asking| asking < 450), "{seconds:?}");
    }
}
