//! The models, and what holds in each.

use std::sync::{Arc, Weak};

use loom::sync::atomic::{AtomicU32, Ordering::SeqCst};
use loom::thread;

use crate::breaker::CircuitBreaker;
use crate::current::Current;
use crate::outcomes::{Criteria, Ended, Outcome, Outcomes, Streak};
use crate::resource::endpoints::Address;
use crate::resource::outlier_detection::{Consecutive, FailurePercentage, OutlierDetection};
use crate::slots::{Slots, Unavailable};
use crate::subchannel::Observer;
use crate::under_way::{Held, UnderWay};

/// The models by what they show.
pub(crate) const ALL: &[(&str, fn())] = &[
    ("a breaker admits its limit and no more, and is empty in the end", breaker),
    ("a breaker whose limit shrinks admits nobody beyond the smaller one", shrinking_breaker),
    ("of retries that begin at once, as many as may be are under way", retries),
    ("a budget has room for what fits, whatever else is tried", held),
    ("failures in a row are told once, whoever counts the last", streak),
    ("a lost connection is one failure, however many calls it takes with it", lost_connection),
    ("no outcome is lost between two looks, and the first after a sleep wakes", totals),
    ("a connection that drains gives no slot away, and ends when the last is given back", draining),
    ("who waits for a snapshot gets it, whenever it comes", first_snapshot),
    ("a call that starts after a snapshot is in force takes no older one", newer_snapshot),
];

/// Runs each in a thread of its own, the last one in this.
fn at_once<const N: usize>(steps: [Box<dyn FnOnce() + Send>; N]) {
    let mut steps: Vec<_> = steps.into();
    let last = steps.pop().expect("a step at least");
    let threads: Vec<_> = steps.into_iter().map(|step| thread::spawn(step)).collect();
    last();
    threads.into_iter().for_each(|thread| thread.join().expect("the step holds"));
}

fn breaker() {
    const LIMIT: u32 = 1;
    let breaker = Arc::<CircuitBreaker>::default();
    let (inside, admitted) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let enter = || {
        let (breaker, inside, admitted) = (breaker.clone(), inside.clone(), admitted.clone());
        Box::new(move || {
            if let Some(permit) = breaker.acquire(LIMIT) {
                assert!(inside.fetch_add(1, SeqCst) < LIMIT);
                admitted.fetch_add(1, SeqCst);
                inside.fetch_sub(1, SeqCst);
                drop(permit);
            }
        }) as Box<dyn FnOnce() + Send>
    };
    at_once([enter(), enter(), enter()]);
    let admitted = admitted.load(SeqCst);
    assert!(admitted > 0, "the first finds a place");
    assert_eq!(u64::from(admitted) + breaker.refused(), 3);
    assert_eq!(breaker.in_flight(), 0);
}

fn shrinking_breaker() {
    let breaker = Arc::<CircuitBreaker>::default();
    let held = breaker.acquire(2).expect("there is room for two");
    let admitted = Arc::new(AtomicU32::new(0));
    let enter = |limit| {
        let (breaker, admitted) = (breaker.clone(), admitted.clone());
        Box::new(move || {
            if let Some(permit) = breaker.acquire(limit) {
                admitted.fetch_add(limit, SeqCst);
                std::mem::forget(permit);
            }
        }) as Box<dyn FnOnce() + Send>
    };
    at_once([enter(2), enter(1), enter(2)]);
    assert_eq!(admitted.load(SeqCst), 2, "one by the larger limit, none by the smaller");
    drop(held);
    assert_eq!(breaker.in_flight(), 1);
}

fn retries() {
    let under_way = Arc::new(UnderWay::default());
    let most = Arc::new(AtomicU32::new(0));
    let now = Arc::new(AtomicU32::new(0));
    let call = || {
        let (under_way, most, now) = (under_way.clone(), most.clone(), now.clone());
        Box::new(move || {
            under_way.begin_call();
            // A retry for each call, and never more than one.
            if under_way.begin_retry(|calls| calls.min(1)) {
                most.fetch_max(now.fetch_add(1, SeqCst) + 1, SeqCst);
                now.fetch_sub(1, SeqCst);
                under_way.end_retries(1);
            }
            under_way.end_call();
        }) as Box<dyn FnOnce() + Send>
    };
    at_once([call(), call()]);
    assert_eq!(most.load(SeqCst), 1);
    // All places are there again.
    under_way.begin_call();
    assert!(under_way.begin_retry(|calls| calls) && !under_way.begin_retry(|calls| calls));
}

fn held() {
    const LIMIT: usize = 10;
    let held = Arc::new(Held::default());
    let fits = || {
        let held = held.clone();
        Box::new(move || {
            assert!(held.hold(5, LIMIT), "there is room for both");
            held.release(5);
        }) as Box<dyn FnOnce() + Send>
    };
    let too_much = held.clone();
    at_once([fits(), fits(), Box::new(move || assert!(!too_much.hold(LIMIT + 1, LIMIT)))]);
    assert!(held.hold(LIMIT, LIMIT) && !held.hold(1, LIMIT), "nothing is left behind");
}

/// Counts what it is told.
#[derive(Debug)]
struct Told {
    failed: AtomicU32,
    awake: AtomicU32,
}

impl Observer for Told {
    fn endpoint_failed(&self, _: &Address, _: Streak) {
        self.failed.fetch_add(1, SeqCst);
    }

    fn outcomes_arrive(&self) {
        self.awake.fetch_add(1, SeqCst);
    }
}

/// An endpoint whose outcomes are counted.
struct Endpoint {
    told: Arc<Told>,
    criteria: Criteria,
    outcomes: Outcomes,
}

impl Endpoint {
    fn new(policy: &OutlierDetection, mild: bool) -> Arc<Self> {
        let told = Arc::new(Told { failed: AtomicU32::new(0), awake: AtomicU32::new(0) });
        let observer: Arc<dyn Observer> = told.clone();
        let observer: Weak<dyn Observer> = Arc::downgrade(&observer);
        let criteria = Criteria::new(observer);
        criteria.set(Some(policy), mild);
        Arc::new(Self { told, criteria, outcomes: Outcomes::default() })
    }

    fn records(self: &Arc<Self>, ended: Ended) -> Box<dyn FnOnce() + Send> {
        let me = self.clone();
        Box::new(move || me.outcomes.record(ended, &Address, &me.criteria))
    }

    fn failed(&self) -> u32 {
        self.told.failed.load(SeqCst)
    }
}

fn streak() {
    let twice = Some(Consecutive { failures: 2, enforcing: 100 });
    let policy = OutlierDetection {
        consecutive_5xx: twice,
        consecutive_local_origin_failure: None,
        split_local_origin: false,
        ..OutlierDetection::LOCAL
    };
    let endpoint = Endpoint::new(&policy, false);
    let fails = || endpoint.records(Ended::Answered(Outcome::ServerError));
    at_once([fails(), fails(), fails()]);
    assert_eq!(endpoint.failed(), 1);
    endpoint.outcomes.forget_streaks();
    at_once([fails(), fails()]);
    assert_eq!(endpoint.failed(), 2, "a new row is told of again");
}

fn lost_connection() {
    let once = Some(Consecutive { failures: 2, enforcing: 100 });
    let policy = OutlierDetection { consecutive_local_origin_failure: once, ..OutlierDetection::LOCAL };
    let endpoint = Endpoint::new(&policy, true);
    endpoint.outcomes.connected();
    let lost = || endpoint.records(Ended::ConnectionLost);
    at_once([lost(), lost(), lost()]);
    assert_eq!(endpoint.failed(), 0, "three calls of one connection are one failure of two");
    endpoint.outcomes.connected();
    at_once([lost(), lost()]);
    assert_eq!(endpoint.failed(), 1, "and the second connection is the second");
}

fn totals() {
    let by_percentage = FailurePercentage { threshold: 50, enforcing: 100, minimum_hosts: 1, request_volume: 1 };
    let policy = OutlierDetection { failure_percentage: Some(by_percentage), ..OutlierDetection::LOCAL };
    let endpoint = Endpoint::new(&policy, false);
    // A cluster begins asleep: the first outcome wakes it.
    endpoint.records(Ended::Answered(Outcome::Success))();
    assert_eq!(endpoint.told.awake.load(SeqCst), 1);
    let (success, failure) = (Ended::Answered(Outcome::Success), Ended::Answered(Outcome::Failure));
    let looker = endpoint.clone();
    let seen = Arc::new(AtomicU32::new(0));
    let looked = seen.clone();
    let look = Box::new(move || {
        let (successes, failures) = looker.outcomes.take_totals();
        looked.fetch_add(successes + failures, SeqCst);
        if successes + failures == 0 {
            looker.criteria.sleep();
        }
    });
    at_once([endpoint.records(success), endpoint.records(failure), look]);
    let (successes, failures) = endpoint.outcomes.take_totals();
    assert_eq!(seen.load(SeqCst) + successes + failures, 3);
    let before = endpoint.told.awake.load(SeqCst);
    endpoint.criteria.sleep();
    at_once([endpoint.records(success), endpoint.records(failure)]);
    assert_eq!(endpoint.told.awake.load(SeqCst), before + 1, "two at once wake once");
}

fn draining() {
    let slots = Arc::new(Slots::new(1));
    let (admitted, drained) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let call = || {
        let (slots, admitted, drained) = (slots.clone(), admitted.clone(), drained.clone());
        Box::new(move || {
            let before = drained.load(SeqCst);
            match slots.try_acquire() {
                Ok(()) => {
                    assert_eq!(before, 0, "the connection drained before the call came");
                    assert!(admitted.fetch_add(1, SeqCst) < 1, "there is one slot");
                    admitted.fetch_sub(1, SeqCst);
                    slots.release();
                }
                Err(why) => assert_ne!(why, Unavailable::Closed),
            }
        }) as Box<dyn FnOnce() + Send>
    };
    let (drainer, drained) = (slots.clone(), drained.clone());
    let drain = Box::new(move || {
        drainer.drain();
        drained.store(1, SeqCst);
    });
    at_once([call(), call(), drain]);
    assert_eq!((slots.try_acquire(), slots.in_flight()), (Err(Unavailable::Draining), 0));
    slots.close();
    assert_eq!(slots.try_acquire(), Err(Unavailable::Closed));
}

fn first_snapshot() {
    let current = Arc::new(Current::<u32>::empty());
    let waiter = current.clone();
    let waits = move || {
        let found = loom::future::block_on(waiter.wait_for(|version| *version >= 2));
        assert_eq!(*found, 2);
    };
    let publishes = move || {
        current.publish(Arc::new(1));
        current.publish(Arc::new(2));
    };
    at_once([Box::new(waits), Box::new(publishes)]);
}

fn newer_snapshot() {
    let current = Arc::new(Current::<u32>::empty());
    let reported = Arc::new(AtomicU32::new(0));
    let (publisher, reports) = (current.clone(), reported.clone());
    let publishes = move || {
        for version in 1..=2 {
            publisher.publish(Arc::new(version));
            reports.store(version, SeqCst);
        }
    };
    let calls = move || {
        for _ in 0..2 {
            let in_force = reported.load(SeqCst);
            let taken = current.load().map_or(0, |version| *version);
            assert!(taken >= in_force, "took {taken} after {in_force}");
        }
    };
    at_once([Box::new(publishes), Box::new(calls)]);
}
