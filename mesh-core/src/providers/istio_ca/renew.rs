//! When a certificate is asked for: at half of its life, after failures again and again.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::{Instant, sleep};

use super::IstioCa;
use super::issue::{issue, roots};
use crate::aside::Ongoing;
use crate::backoff::{Backoff, BackoffConfig};
use crate::error::Error;
use crate::identity::{KeyMaterial, Publisher, TrustBundle};

/// The shortest time between an answer and the next request.
const BETWEEN_REQUESTS: Duration = Duration::from_secs(1);
/// How often the wall clock is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(10);
const RETRY_MAX: Duration = Duration::from_secs(30);
/// How often the file of roots is looked at between two requests.
const ROOTS_INTERVAL: Duration = Duration::from_secs(10);

/// Publishes certificates, for ever.
pub(super) async fn renew(ca: IstioCa, publisher: Publisher) {
    let ca = Arc::new(ca);
    let mut backoff = Backoff::new(BackoffConfig { max: RETRY_MAX, ..Default::default() });
    let mut held: Option<KeyMaterial> = None;
    let reading = Ongoing::default();
    loop {
        let mut failure = None;
        let pause = match issue(&ca, &publisher).await {
            Ok(material) => {
                backoff.reset();
                let pause = until_renewal(&material, fastrand::f64());
                publisher.publish(held.insert(material).clone());
                pause
            }
            Err(failed) => {
                publisher.fail(&**failure.insert(failed.into_error(&ca).report()));
                backoff.next_delay(fastrand::f64())
            }
        };
        tokio::select! {
            () = pass(pause.max(BETWEEN_REQUESTS), SystemTime::now) => {}
            () = follow_roots(&ca, &reading, held.as_mut(), failure.as_deref(), &publisher) => {}
        }
    }
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
fn until_renewal(material: &KeyMaterial, random: f64) -> Duration {
    let Some(identity) = &material.identity else { return BETWEEN_REQUESTS };
    let life = identity.not_after().duration_since(SystemTime::now()).unwrap_or_default();
    life.mul_f64(0.4 + 0.2 * random.clamp(0.0, 1.0))
}

/// Publishes the certificate that is held with other roots whenever the file has others, which makes the CA answer no
/// sooner: `failure` goes on. Never ends.
async fn follow_roots(
    ca: &Arc<IstioCa>,
    reading: &Ongoing<Result<TrustBundle, Error>>,
    held: Option<&mut KeyMaterial>,
    failure: Option<&str>,
    publisher: &Publisher,
) {
    let Some(held) = held else { return std::future::pending().await };
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

    use rcgen::{CertificateParams, KeyPair};

    use super::*;
    use crate::identity::Identity;

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
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.not_after = (SystemTime::now() + Duration::from_secs(1000)).into();
        let pem = params.self_signed(&key).unwrap().pem();
        let identity = Identity::from_pem(pem.as_bytes(), key.serialize_pem().as_bytes()).unwrap();
        let material = KeyMaterial::new().identity(identity);
        for (random, seconds) in [(0.0, 400), (0.5, 500), (1.0, 600)] {
            let due = until_renewal(&material, random).as_secs();
            assert!((seconds - 2..=seconds).contains(&due), "{random}: {due}");
        }
    }
}
