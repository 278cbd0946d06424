//! A retry storm: four tiers, a hundred clients, and a last tier that does nothing for 20 s.
//!
//! The last tier serves 24 calls at a time in 100 ms each and is asked for five sixths of what it can. With the mesh's
//! layers the load of no tier grows beyond its budget, what nobody waits for any more is not worked on, and calls succeed
//! as soon as the tier works again. The control run has what one writes without a mesh: two attempts at each hop, a timeout
//! for each, and servers that go on when their callers have gone. It does not recover.

use std::sync::atomic::{AtomicU32, Ordering};

use http_body_util::Empty;
use tokio::sync::{Semaphore, watch};
use tokio::time::{sleep, timeout};
use tower::ServiceBuilder;
use tower::util::BoxCloneSyncService;

use super::*;
use crate::call::AnswerProtocol;
use crate::deadline::{DeadlineLayer, InboundProtocol};
use crate::resource::answer::Answer;
use crate::timeout::{RequestBody as SentBody, TimeoutLayer};

const CLIENTS: u32 = 100;
/// Between two calls of a client.
const PAUSE: Duration = Duration::from_millis(500);
const DEADLINE: Duration = Duration::from_secs(1);
const PER_TRY: Duration = Duration::from_millis(400);
const SERVICE_TIME: Duration = Duration::from_millis(100);
const CONCURRENCY: usize = 24;

const FAILS_AT: Duration = Duration::from_secs(10);
const WORKS_AT: Duration = Duration::from_secs(30);
/// Ten seconds later calls must succeed.
const RECOVERED_AT: Duration = Duration::from_secs(40);
const END: Duration = Duration::from_secs(44);

/// A protocol whose failed answers have the header `failed`.
#[derive(Debug)]
struct Wire;

const FAILED: HeaderName = HeaderName::from_static("failed");
const STOP: HeaderName = HeaderName::from_static("stop");
const TIMEOUT: HeaderName = HeaderName::from_static("timeout-ms");

impl RetryProtocol for Wire {
    fn is_repeatable(&self, _: &Method) -> bool {
        true
    }

    fn code_of_response(&self, _: StatusCode, headers: &HeaderMap) -> Option<RetryCode> {
        headers.contains_key(FAILED).then_some(RetryCode::Unavailable)
    }

    fn code_of_error(&self, _: &Error) -> Option<RetryCode> {
        Some(RetryCode::Unavailable)
    }

    fn pushback(&self, headers: &HeaderMap) -> Option<Pushback> {
        headers.contains_key(STOP).then_some(Pushback::Stop)
    }

    fn tell_attempts(&self, previous: u32) -> (HeaderName, HeaderValue) {
        (HeaderName::from_static("previous"), previous.into())
    }
}

impl AnswerProtocol for Wire {
    fn respond(&self, answer: Answer) -> Response<Bytes> {
        answer.into_http()
    }
}

impl InboundProtocol for Wire {
    fn timeout(&self, headers: &HeaderMap) -> Option<Duration> {
        headers.get(TIMEOUT)?.to_str().ok()?.parse().ok().map(Duration::from_millis)
    }

    fn expired(&self) -> Response<()> {
        failed()
    }

    fn expired_trailers(&self) -> HeaderMap {
        failed().into_parts().0.headers
    }

    fn refused(&self, _: &crate::error::Error) -> Response<()> {
        Response::new(())
    }

    fn forbid_retry(&self, headers: &mut HeaderMap) {
        if headers.contains_key(FAILED) {
            headers.insert(STOP, HeaderValue::from_static(""));
        }
    }
}

fn failed() -> Response<()> {
    let mut response = Response::new(());
    response.headers_mut().insert(FAILED, HeaderValue::from_static(""));
    response
}

fn succeeded(outcome: &Result<Response<()>, Error>) -> bool {
    outcome.as_ref().is_ok_and(|response| !response.headers().contains_key(FAILED))
}

type Hop = BoxCloneSyncService<Request<()>, Response<()>, Error>;

/// How calls go from tier to tier.
#[derive(Clone, Copy)]
struct Style {
    /// The client's side of a hop; whether it is to the last tier.
    call: fn(Hop, bool) -> Hop,
    /// A server that answers as a call to the next tier ends.
    serve: fn(Hop) -> Hop,
}

const MESH: Style = Style { call: mesh_call, serve: mesh_serve };
const NAIVE: Style = Style { call: naive_call, serve: |next| next };

fn mesh_call(server: Hop, is_last: bool) -> Hop {
    let mut policy = RetryPolicy::on("unavailable").expect("a condition").max_attempts(5);
    if is_last {
        policy = policy.per_try_timeout(PER_TRY);
    }
    let tell = |left: Duration| (TIMEOUT, HeaderValue::from(u64::try_from(left.as_millis()).unwrap_or(u64::MAX)));
    let client = ServiceBuilder::new()
        .layer(TimeoutLayer::new().tell_peer(tell))
        .layer(RetryLayer::new().policy(policy).protocol(&Wire))
        .map_request(|request: Request<RequestBody<SentBody<()>>>| request.map(drop))
        .map_response(|response: Response<()>| response.map(|()| Empty::<Bytes>::new()))
        .service(server);
    BoxCloneSyncService::new(client.map_response(|response| response.map(drop)))
}

fn mesh_serve(next: Hop) -> Hop {
    let handler = service_fn(move |_: Request<()>| {
        let next = next.clone();
        async move {
            let outcome = next.oneshot(Request::new(())).await;
            Ok::<_, Error>(if succeeded(&outcome) { Response::new(()) } else { failed() })
        }
    });
    let server = DeadlineLayer::new().protocol(&Wire).layer(handler);
    BoxCloneSyncService::new(server.map_response(|response| response.map(drop)))
}

fn naive_call(server: Hop, _: bool) -> Hop {
    BoxCloneSyncService::new(service_fn(move |_: Request<()>| {
        let server = server.clone();
        async move {
            for _ in 0..2 {
                // The server does not notice that its caller has gone.
                let answer = tokio::spawn(server.clone().oneshot(Request::new(())));
                if let Ok(Ok(outcome)) = timeout(PER_TRY, answer).await
                    && succeeded(&outcome)
                {
                    return outcome;
                }
            }
            Ok(failed())
        }
    }))
}

/// Calls that came to a tier until the last one worked again: a budget counts ten seconds back, so from the start.
type Load = Arc<AtomicU32>;

fn counted(tier: Hop, load: &Load, begin: Instant) -> Hop {
    let load = load.clone();
    BoxCloneSyncService::new(tier.map_request(move |request| {
        load.fetch_add(u32::from(begin.elapsed() < WORKS_AT), Ordering::Relaxed);
        request
    }))
}

/// Works off what comes, in order, as long as it works at all.
fn leaf(works: watch::Receiver<bool>) -> Hop {
    let places = Arc::new(Semaphore::new(CONCURRENCY));
    BoxCloneSyncService::new(service_fn(move |_: Request<()>| {
        let (places, mut works) = (places.clone(), works.clone());
        async move {
            let _place = places.acquire().await.expect("it is not closed");
            works.wait_for(|works| *works).await.expect("the sender outlives the calls");
            sleep(SERVICE_TIME).await;
            Ok(Response::new(()))
        }
    }))
}

struct Outcome {
    /// Calls of the clients until the last tier worked again.
    offered: u32,
    /// Of the four tiers.
    loads: [u32; 4],
    /// The share of the calls after the recovery that succeeded.
    goodput: f64,
}

async fn storm(style: Style, seed: u64) -> Outcome {
    // The jitter of the backoffs too.
    fastrand::seed(seed);
    let begin = Instant::now();
    let works = watch::Sender::new(true);
    let loads: [Load; 4] = Default::default();
    let mut tier = counted(leaf(works.subscribe()), &loads[3], begin);
    for (number, load) in loads[..3].iter().enumerate().rev() {
        tier = counted((style.serve)((style.call)(tier, number == 2)), load, begin);
    }
    // Calls until it works again; of the late ones those that succeeded, and all.
    let counts: Arc<[AtomicU32; 3]> = Arc::default();
    for _ in 0..CLIENTS {
        let (client, counts) = ((style.call)(tier.clone(), false), counts.clone());
        tokio::spawn(async move {
            sleep(PAUSE.mul_f64(fastrand::f64())).await;
            while begin.elapsed() < END {
                let (client, counts, late) = (client.clone(), counts.clone(), begin.elapsed() >= RECOVERED_AT);
                counts[0].fetch_add(u32::from(begin.elapsed() < WORKS_AT), Ordering::Relaxed);
                tokio::spawn(async move {
                    let mut request = Request::new(());
                    request.extensions_mut().insert(Call::new(Some(DEADLINE)));
                    let outcome = timeout(DEADLINE, client.oneshot(request)).await;
                    counts[2].fetch_add(u32::from(late), Ordering::Relaxed);
                    let good = outcome.is_ok_and(|outcome| succeeded(&outcome));
                    counts[1].fetch_add(u32::from(late && good), Ordering::Relaxed);
                });
                sleep(PAUSE.mul_f64(0.5 + fastrand::f64())).await;
            }
        });
    }
    tokio::time::sleep_until(begin + FAILS_AT).await;
    works.send_replace(false);
    tokio::time::sleep_until(begin + WORKS_AT).await;
    works.send_replace(true);
    tokio::time::sleep_until(begin + END + 2 * DEADLINE).await;
    let [offered, good, late] = [0, 1, 2].map(|count: usize| counts[count].load(Ordering::Relaxed));
    let loads = loads.map(|load| load.load(Ordering::Relaxed));
    Outcome { offered, loads, goodput: f64::from(good) / f64::from(late) }
}

#[tokio::test(start_paused = true)]
async fn a_retry_storm_does_not_arise_and_calls_succeed_soon_after_the_failure() {
    let seed = fastrand::u64(..);
    let Outcome { offered, loads, goodput } = storm(MESH, seed).await;
    println!("seed {seed}: {offered} calls, {loads:?} of the tiers, goodput {goodput}");
    for (tier, load) in loads.into_iter().enumerate() {
        let most = if tier == 3 { 1.3 } else { 1.2 };
        assert!(f64::from(load) <= most * f64::from(offered), "tier {tier} had {load} of {offered}, seed {seed}");
    }
    assert!(goodput >= 0.99, "{goodput}, seed {seed}");
}

#[tokio::test(start_paused = true)]
async fn naive_retries_do_not_recover_from_the_same_failure() {
    let seed = fastrand::u64(..);
    let Outcome { offered, loads, goodput } = storm(NAIVE, seed).await;
    println!("seed {seed}: {offered} calls, {loads:?} of the tiers, goodput {goodput}");
    assert!(f64::from(loads[3]) >= 5.0 * f64::from(offered), "{loads:?} of {offered}, seed {seed}");
    assert!(goodput <= 0.5, "{goodput}, seed {seed}");
}
