//! What control planes do.

use super::*;

#[test]
fn istiod_gets_new_names_apart_from_a_nack() {
    let mut bench = Bench::asked(&THING, &["a"]);
    bench.respond(&THING, "1", "n1", &[("a", "bad")]);
    bench.subscribe(&THING, &["b"]);
    assert_eq!(
        bench.requests(),
        ["Thing version= nonce=n1 a error=Thing `a`: value: is bad", "Thing version= nonce=n1 a,b"]
    );
}

#[test]
fn istiod_is_asked_again_for_names_whose_request_met_a_response() {
    let mut bench = Bench::asked(&THING, &["a"]);
    bench.respond(&THING, "1", "n1", &[("a", "x")]);
    bench.requests();
    bench.subscribe(&THING, &["b"]);
    assert_eq!(bench.requests(), ["Thing version=1 nonce=n1 a,b"]);
    // This response was on its way: for istiod the request had a stale nonce.
    bench.respond(&THING, "2", "n2", &[("a", "bad")]);
    let nack = "Thing version=1 nonce=n2 a,b error=Thing `a`: value: is bad";
    assert_eq!(bench.requests(), [nack, "Thing version=1 nonce=n2 a,b"]);
    // The second request may have met one, too.
    bench.respond(&THING, "3", "n3", &[("a", "bad")]);
    bench.wait(1.0);
    assert_eq!(bench.requests().len(), 2);
    bench.respond(&THING, "4", "n4", &[("a", "y")]);
    assert_eq!(bench.requests(), ["Thing version=4 nonce=n4 a,b"]);
}

#[test]
fn go_control_plane_that_answers_each_nack_with_the_same_is_slowed_down() {
    let mut bench = Bench::asked(&THING, &["a"]);
    let (mut nacks, mut times) = (0, Vec::new());
    bench.respond(&THING, "1", "n0", &[("a", "bad")]);
    while bench.now - bench.start < Duration::from_secs(60) {
        for request in bench.requests() {
            assert!(request.contains("error="), "{request}");
            nacks += 1;
            times.push((bench.now - bench.start).as_secs_f64());
            bench.respond(&THING, "1", &format!("n{nacks}"), &[("a", "bad")]);
        }
        let wake = bench.ads.poll_wake().unwrap();
        bench.now = wake;
        bench.ads.handle_wake(wake);
    }
    assert_eq!(times[0], 0.0);
    assert!(times.iter().filter(|time| **time < 2.0).count() <= 10, "{times:?}");
    assert!(times.windows(2).last().is_some_and(|pair| pair[1] - pair[0] >= 5.0), "{times:?}");
}

#[test]
fn a_correction_is_acknowledged_at_once_although_a_nack_waits() {
    let mut bench = Bench::asked(&THING, &["a"]);
    bench.respond(&THING, "1", "n1", &[("a", "bad")]);
    bench.requests();
    bench.respond(&THING, "1", "n2", &[("a", "bad")]);
    assert_eq!(bench.requests(), NONE);
    bench.respond(&THING, "2", "n3", &[("a", "x")]);
    assert_eq!(bench.requests(), ["Thing version=2 nonce=n3 a"]);
    assert_eq!(bench.ads.poll_wake(), None);
}

#[test]
fn new_names_do_not_wait_for_a_nack_that_waits() {
    let mut bench = Bench::asked(&THING, &["a"]);
    bench.respond(&THING, "1", "n1", &[("a", "bad")]);
    bench.requests();
    bench.respond(&THING, "1", "n2", &[("a", "bad")]);
    bench.subscribe(&THING, &["b"]);
    assert_eq!(bench.requests(), ["Thing version= nonce=n2 a,b"]);
    bench.wait(0.2);
    assert_eq!(bench.requests(), ["Thing version= nonce=n2 a,b error=Thing `a`: value: is bad"]);
}

#[test]
fn the_first_nack_of_a_new_stream_goes_at_once() {
    let mut bench = Bench::asked(&THING, &["a"]);
    for nonce in ["n1", "n2"] {
        bench.respond(&THING, "1", nonce, &[("a", "bad")]);
        assert_eq!(bench.requests().len(), 1);
        bench.close("gone");
        bench.open();
        bench.requests();
    }
}
