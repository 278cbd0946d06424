//! Timers and failures (A57).

use super::*;

#[test]
fn a_resource_that_does_not_come_in_time_does_not_exist() {
    let mut bench = Bench::asked(&THING, &["a", "b"]);
    bench.wait(7.0);
    bench.respond(&THING, "1", "n1", &[("b", "x"), ("a:80", "x")]);
    bench.requests();
    bench.updates();
    bench.wait(7.9);
    assert_eq!(bench.updates(), NONE);
    bench.wait(0.1);
    let text =
        "not received within 15 s of asking for it; the last response had 1 that nobody asked for, such as `a:80`";
    assert_eq!(bench.updates(), [format!("Thing a DoesNotExist: {text}")]);
    bench.wait(60.0);
    assert_eq!(bench.updates(), NONE);
    bench.respond(&THING, "2", "n2", &[("a", "x"), ("b", "x")]);
    assert_eq!(bench.updates(), ["Thing a = x @2"]);
}

#[test]
fn each_name_has_a_clock_of_its_own() {
    let mut bench = Bench::asked(&PART, &["a"]);
    bench.wait(10.0);
    bench.subscribe(&PART, &["b"]);
    bench.requests();
    bench.wait(5.0);
    assert_eq!(bench.updates(), ["Part a DoesNotExist: not received within 15 s of asking for it"]);
    bench.wait(9.9);
    assert_eq!(bench.updates(), NONE);
    bench.wait(0.1);
    assert_eq!(bench.updates(), ["Part b DoesNotExist: not received within 15 s of asking for it"]);
}

#[test]
fn the_clock_starts_when_the_request_goes_out_on_an_open_stream() {
    let mut bench = Bench::new();
    bench.subscribe(&THING, &["a"]);
    bench.ads.handle_connecting(bench.now);
    bench.wait(60.0);
    bench.ads.handle_opened(bench.now);
    // The stream cannot take a request yet.
    bench.wait(60.0);
    assert_eq!(bench.updates(), NONE);
    bench.requests();
    bench.wait(14.9);
    assert_eq!(bench.updates(), NONE);
    bench.wait(0.1);
    assert_eq!(bench.updates().len(), 1);
}

#[test]
fn the_clock_stops_with_the_stream_and_starts_anew_on_the_next() {
    let mut bench = Bench::asked(&THING, &["a"]);
    bench.wait(14.0);
    bench.close("gone");
    bench.updates();
    bench.wait(60.0);
    bench.open();
    bench.requests();
    bench.wait(14.9);
    assert_eq!(bench.updates(), NONE);
    bench.wait(0.1);
    assert_eq!(bench.updates().len(), 1);
}

#[test]
fn the_clock_does_not_run_for_what_is_cached() {
    let mut bench = Bench::asked(&THING, &["a"]);
    bench.respond(&THING, "1", "n1", &[("a", "x")]);
    bench.requests();
    bench.close("gone");
    bench.open();
    bench.requests();
    bench.updates();
    assert_eq!(bench.ads.poll_wake(), None);
}

#[test]
fn the_clock_of_a_name_that_is_dropped_stops() {
    let mut bench = Bench::asked(&PART, &["a", "b"]);
    bench.unsubscribe(&PART, &["a", "b"]);
    bench.requests();
    assert_eq!(bench.ads.poll_wake(), None);
}

#[test]
fn a_rejected_resource_did_come() {
    let mut bench = Bench::asked(&THING, &["a"]);
    bench.respond(&THING, "1", "n1", &[("a", "bad")]);
    assert_eq!(bench.updates(), ["Thing a Invalid: value: is bad"]);
    bench.requests();
    bench.wait(60.0);
    assert_eq!(bench.updates(), NONE);
}

#[test]
fn a_stream_that_ends_without_a_response_is_a_connectivity_error() {
    let mut bench = Bench::asked(&THING, &["a"]);
    bench.close("UNAVAILABLE: refused");
    assert_eq!(bench.updates(), ["connectivity: Some(\"UNAVAILABLE: refused\")"]);
    bench.open();
    bench.requests();
    assert_eq!(bench.updates(), NONE);
    bench.respond(&THING, "1", "n1", &[]);
    assert_eq!(bench.updates(), ["connectivity: None"]);
}

#[test]
fn a_stream_that_ends_after_a_response_is_no_error() {
    let mut bench = Bench::asked(&THING, &["a"]);
    bench.respond(&THING, "1", "n1", &[]);
    bench.close("OK");
    assert_eq!(bench.updates(), NONE);
    assert_eq!(bench.ads.status().failures, 0);
    assert_eq!(bench.ads.status().last_error.as_deref(), Some("OK"));
}

#[test]
fn attempts_back_off_and_a_response_resets_them() {
    let mut bench = Bench::new();
    bench.subscribe(&THING, &["a"]);
    let mut waits = Vec::new();
    for round in 0..6 {
        bench.open();
        bench.requests();
        if round == 4 {
            bench.respond(&THING, "1", "n1", &[]);
        }
        bench.close("gone");
        let until = bench.ads.poll_wake().unwrap();
        assert!(!bench.ads.poll_connect(bench.now) && bench.ads.poll_connect(until));
        waits.push((until - bench.now).as_millis());
        bench.now = until;
    }
    assert_eq!(waits, [1000, 1600, 2560, 4096, 1000, 1600]);
    assert_eq!(bench.ads.status().failures, 1);
}

#[test]
fn nothing_is_connected_to_while_nothing_is_wanted() {
    let mut bench = Bench::new();
    assert!(!bench.ads.poll_connect(bench.now));
    bench.subscribe(&THING, &["a"]);
    assert!(bench.ads.poll_connect(bench.now));
    bench.open();
    bench.requests();
    bench.unsubscribe(&THING, &["a"]);
    bench.close("gone");
    assert_eq!(bench.ads.poll_wake(), None);
    assert!(!bench.ads.poll_connect(bench.now + Duration::from_secs(60)));
    bench.subscribe(&THING, &["a"]);
    assert!(bench.ads.poll_wake().is_some());
}

#[test]
fn a_new_stream_asks_for_everything_with_the_kept_version_and_no_nonce() {
    let mut bench = Bench::asked(&THING, &["a"]);
    bench.subscribe(&PART, &["p"]);
    bench.requests();
    bench.respond(&THING, "1", "n1", &[("a", "x")]);
    bench.respond(&PART, "2", "n2", &[("p", "x")]);
    bench.requests();
    bench.updates();
    bench.close("gone");
    bench.open();
    assert_eq!(bench.requests(), ["Thing node version=1 nonce= a", "Part version=2 nonce= p"]);
    assert_eq!(bench.updates(), NONE);
}

#[test]
fn a_version_is_not_claimed_when_something_of_it_is_missing() {
    let mut bench = Bench::asked(&THING, &["a"]);
    bench.respond(&THING, "1", "n1", &[("a", "x")]);
    bench.requests();
    bench.close("gone");
    bench.subscribe(&THING, &["b"]);
    bench.open();
    assert_eq!(bench.requests(), ["Thing node version= nonce= a,b"]);
    bench.subscribe(&THING, &["c"]);
    assert_eq!(bench.requests(), ["Thing version= nonce= a,b,c"]);
}
