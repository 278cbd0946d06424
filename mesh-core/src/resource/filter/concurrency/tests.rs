//! Limits in virtual time, around a server that is modelled.

use std::collections::BTreeMap;

use super::*;

const SECOND: Duration = Duration::from_secs(1);
const MILLI: Duration = Duration::from_millis(1);

fn controller() -> GradientController {
    GradientController::new()
}

/// A server that serves some calls at a time in parallel: more than those take turns.
struct Server {
    limit: ConcurrencyLimit,
    parallel: u32,
    /// Of a call that none holds up.
    latency: Duration,
    now: Instant,
    ends: BTreeMap<(Instant, u64), Permit>,
    calls: u64,
    refused: u64,
}

impl Server {
    fn new(limit: ConcurrencyLimit, parallel: u32, latency: Duration) -> Self {
        Self { limit, parallel, latency, now: Instant::now(), ends: BTreeMap::new(), calls: 0, refused: 0 }
    }

    fn status(&self) -> ConcurrencyStatus {
        self.limit.status_of("test".into())
    }

    fn call(&mut self) -> bool {
        match self.limit.admit(Criticality::Critical, self.now) {
            Ok(permit) => {
                let turns = f64::from(self.ends.len() as u32 + 1) / f64::from(self.parallel);
                self.calls += 1;
                self.ends.insert((self.now + self.latency.mul_f64(turns.max(1.0)), self.calls), permit);
                true
            }
            Err(_) => {
                self.refused += 1;
                false
            }
        }
    }

    /// Serves for so long, with so many callers more than it can serve, and tells each limit that it has meanwhile.
    fn run(&mut self, time: Duration, mut tell: impl FnMut(u32)) {
        let end = self.now + time;
        loop {
            while self.call() {}
            tell(self.status().limit);
            match self.ends.pop_first() {
                Some(((at, _), permit)) if at <= end => {
                    self.now = at;
                    permit.served(at);
                }
                later => {
                    self.ends.extend(later);
                    self.now = end;
                    return;
                }
            }
        }
    }
}

#[test]
fn the_limit_settles_a_little_above_what_the_server_serves_in_parallel() {
    for (parallel, latency) in [(20, 10 * MILLI), (50, 5 * MILLI)] {
        let mut server = Server::new(ConcurrencyLimit::adaptive(controller()), parallel, latency);
        server.run(10 * SECOND, |_| ());
        // Where limit = limit × gradient + √(limit × gradient), and calls take limit / parallel turns.
        let knee = f64::from(parallel) * 1.25;
        let settled = knee + knee.sqrt();
        let mut limits = Vec::new();
        server.run(5 * SECOND, |limit| limits.push(f64::from(limit)));
        let (least, most) =
            limits.iter().fold((f64::MAX, 0.0_f64), |(least, most), limit| (least.min(*limit), most.max(*limit)));
        assert!(least >= settled * 0.8 && most <= settled * 1.25, "{parallel}: {least} to {most}, and not {settled}");
        let min_rtt = server.status().min_rtt.expect("it is measured").as_secs_f64();
        assert!((min_rtt / latency.as_secs_f64() - 1.0).abs() < 0.05, "{min_rtt} s");
        assert!(server.refused > 0 && server.status().refused() == server.refused);
    }
}

#[test]
fn the_minimum_is_measured_again_and_one_that_is_wrong_at_once() {
    let every_20_seconds = controller().min_rtt_interval(20 * SECOND);
    let mut server = Server::new(ConcurrencyLimit::adaptive(every_20_seconds), 20, 10 * MILLI);
    let min_rtt = |server: &Server| server.status().min_rtt.expect("it is measured").as_millis();
    server.run(10 * SECOND, |_| ());
    assert!((9..12).contains(&min_rtt(&server)), "{}", min_rtt(&server));
    // Every call takes longer for good: the limit falls to its least, and stays there for five windows.
    server.latency = 40 * MILLI;
    server.run(5 * SECOND, |_| ());
    assert!((37..43).contains(&min_rtt(&server)), "{} ms, before its time", min_rtt(&server));
    // Faster calls do not lower the limit, and are told by the next measurement.
    server.latency = 5 * MILLI;
    server.run(10 * SECOND, |_| ());
    assert!((37..43).contains(&min_rtt(&server)), "{}", min_rtt(&server));
    let mut least = u32::MAX;
    server.run(20 * SECOND, |limit| least = least.min(limit));
    assert!((4..7).contains(&min_rtt(&server)), "{}", min_rtt(&server));
    assert_eq!(least, 3, "it is measured with the least concurrency");
}

#[test]
fn the_limit_is_never_below_its_least_nor_above_its_most() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let bounded = controller().min_concurrency(4).max_concurrency(60).min_rtt_interval(SECOND);
    let mut server = Server::new(ConcurrencyLimit::adaptive(bounded), 1, MILLI);
    let (mut least, mut most) = (u32::MAX, 0);
    for _ in 0..400 {
        server.parallel = random.u32(1..200);
        server.latency = Duration::from_micros(random.u64(1..200_000));
        server.run(200 * MILLI, |limit| (least, most) = (least.min(limit), most.max(limit)));
    }
    assert_eq!((least, most), (4, 60));
}

#[test]
fn a_fixed_minimum_is_never_measured() {
    let fixed = controller().min_rtt(10 * MILLI);
    let mut server = Server::new(ConcurrencyLimit::adaptive(fixed), 20, 20 * MILLI);
    assert_eq!(server.status().limit, 3);
    server.run(100 * SECOND, |_| ());
    assert_eq!(server.status().min_rtt, Some(10 * MILLI));
    // Twice as slow as it should be, whatever the limit: it goes down.
    assert!(server.status().limit <= 5, "{}", server.status().limit);
}

/// As long-polling calls do, or ones whose clients send without end.
#[test]
fn calls_that_never_end_do_not_keep_all_others_out() {
    let soon = controller().max_concurrency(50).min_rtt_interval(2 * SECOND);
    let mut server = Server::new(ConcurrencyLimit::adaptive(soon), 1_000, 10 * MILLI);
    let mut endless = Vec::new();
    let mut fill = |server: &mut Server| {
        while let Ok(permit) = server.limit.admit(Criticality::Critical, server.now) {
            endless.push(permit);
        }
        endless.len()
    };
    assert_eq!(fill(&mut server), 3);
    server.now += 999 * MILLI;
    assert_eq!(fill(&mut server), 3, "they have a second to tell");
    server.now += MILLI;
    server.run(SECOND, |_| ());
    assert_eq!(server.status().limit, 50, "{:?}", server.status());
    // A measurement that such calls hold up ends with the minRTT of before.
    let before = server.status().min_rtt.expect("it is measured");
    while server.status().limit > 3 {
        server.run(20 * MILLI, |_| ());
    }
    fill(&mut server);
    server.now += SECOND;
    server.run(20 * MILLI, |_| ());
    assert_eq!((server.status().limit, server.status().min_rtt), (50, Some(before)));
}

/// Whom a share of the limit keeps out is not kept out for good.
#[test]
fn calls_that_never_end_do_not_keep_out_those_that_may_use_less_than_the_limit() {
    for of in [Criticality::Sheddable, Criticality::SheddablePlus] {
        let limit = ConcurrencyLimit::adaptive(controller().min_concurrency(4));
        let mut now = Instant::now();
        let mut endless = Vec::new();
        for _ in 0..3 {
            let before = endless.len();
            endless.extend(std::iter::from_fn(|| limit.admit(of, now).ok()));
            assert!(endless.len() > before, "{of}: none is let in beside {before}");
            now += SECOND;
        }
    }
}

/// Whether they are of a kind that never ends or the server hangs, nobody knows: a few more are let in.
#[test]
fn calls_that_never_end_keep_others_out_for_a_second_at_a_time_where_the_minimum_is_known() {
    let limit = ConcurrencyLimit::adaptive(controller().min_rtt(10 * MILLI).max_concurrency(100));
    let mut now = Instant::now();
    let mut endless = Vec::new();
    let mut fill = |now: Instant| {
        endless.extend(std::iter::from_fn(|| limit.admit(Criticality::Critical, now).ok()));
        endless.len()
    };
    assert_eq!(fill(now), 3);
    for most in [4, 6, 8, 10, 13] {
        now += SECOND - MILLI;
        let before = fill(now);
        assert!(before < most, "{before} before a second has passed");
        now += MILLI;
        fill(now);
        now += SECOND;
        assert_eq!(fill(now), most);
    }
}

#[test]
fn each_criticality_has_its_share_of_the_limit() {
    use Criticality::{Critical, CriticalPlus, Sheddable, SheddablePlus};
    let now = Instant::now();
    let limit = ConcurrencyLimit::fixed(10).share(Critical, 90);
    let mut served = Vec::new();
    let mut fill = |of: Criticality| {
        let before = served.len();
        served.extend(std::iter::from_fn(|| limit.admit(of, now).ok()));
        served.len() - before
    };
    assert_eq!([Sheddable, SheddablePlus, Critical, CriticalPlus].map(&mut fill), [5, 3, 1, 1]);
    assert_eq!([CriticalPlus, Critical, SheddablePlus, Sheddable].map(&mut fill), [0; 4]);
    let status = limit.status_of("test".into());
    assert_eq!((status.in_flight, status.refused()), (10, 8));
    let told = |of: Criticality| {
        let answer = limit.admit(of, now).expect_err("it is full");
        String::from_utf8(answer.body().to_vec()).expect("text")
    };
    assert_eq!(told(Sheddable), "reached concurrency limit of SHEDDABLE calls");
    assert_eq!(told(CriticalPlus), "reached concurrency limit");
    drop(served);
    assert_eq!(limit.status_of("test".into()).in_flight, 0);
    let none = ConcurrencyLimit::fixed(0).share(Sheddable, 0);
    assert!(none.admit(Sheddable, now).is_ok(), "there is one place for everybody");
}

#[test]
fn what_is_refused_is_never_told_that_all_is_well() {
    let now = Instant::now();
    for (asked, told) in [(429, 429), (599, 599), (200, 503), (302, 503), (399, 503), (600, 503)] {
        let limit = ConcurrencyLimit::fixed(1).status(StatusCode::from_u16(asked).expect("a status"));
        let _served = limit.admit(Criticality::Critical, now).expect("a place");
        let answer = limit.admit(Criticality::Critical, now).expect_err("it is full");
        assert_eq!(answer.status(), AnswerStatus::Http(StatusCode::from_u16(told).expect("a status")), "{asked}");
    }
}

#[test]
fn a_limit_goes_on_with_what_the_one_before_it_learnt_and_counted() {
    let mut server = Server::new(ConcurrencyLimit::adaptive(controller()), 20, 10 * MILLI);
    server.run(10 * SECOND, |_| ());
    let before = server.status();
    for (now, in_flight) in [
        (ConcurrencyLimit::adaptive(controller()), before.in_flight),
        (ConcurrencyLimit::adaptive(controller().max_concurrency(1_001)), before.in_flight),
    ] {
        now.inherit(&server.limit);
        let status = now.status_of("test".into());
        assert_eq!((status.limit, status.min_rtt, status.in_flight), (before.limit, before.min_rtt, in_flight));
        assert_eq!(status.shed, before.shed);
    }
    let low = ConcurrencyLimit::adaptive(controller().max_concurrency(10));
    low.inherit(&server.limit);
    assert_eq!(low.status_of("test".into()).limit, 10);
    let fixed = ConcurrencyLimit::fixed(7);
    fixed.inherit(&server.limit);
    assert_eq!((fixed.status_of("test".into()).limit, fixed.status_of("test".into()).min_rtt), (7, None));
    assert_eq!(fixed.status_of("test".into()).in_flight, before.in_flight);
}
