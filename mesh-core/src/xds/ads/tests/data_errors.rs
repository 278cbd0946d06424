//! Data errors (A53, A88) and errors from the control plane (xRFC TP3).

use super::*;

fn fatal() -> AdsOptions {
    AdsOptions { fail_on_data_errors: true, ..options() }
}

#[test]
fn a_deleted_resource_stays_in_use_unless_data_errors_are_fatal() {
    for (options, kept) in [(options(), " (kept)"), (fatal(), "")] {
        let mut bench = Bench::asked_with(options, &THING, &["a", "b"]);
        bench.respond(&THING, "1", "n1", &[("a", "x"), ("b", "x")]);
        bench.requests();
        bench.updates();
        bench.respond(&THING, "2", "n2", &[("b", "x")]);
        assert_eq!(bench.requests(), ["Thing version=2 nonce=n2 a,b"]);
        let text = "the control plane no longer sends it (version `2`)";
        assert_eq!(bench.updates(), [format!("Thing a DoesNotExist{kept}: {text}")]);
        bench.respond(&THING, "3", "n3", &[("b", "x")]);
        assert_eq!(bench.updates(), NONE, "said once");
        bench.respond(&THING, "4", "n4", &[("a", "x"), ("b", "x")]);
        let back = if kept.is_empty() { "Thing a = x @4" } else { "Thing a confirmed @4" };
        assert_eq!(bench.updates(), [back]);
    }
}

#[test]
fn a_rejected_resource_leaves_the_one_before_in_use_unless_data_errors_are_fatal() {
    for (options, kept) in [(options(), " (kept)"), (fatal(), "")] {
        let mut bench = Bench::asked_with(options, &PART, &["a"]);
        bench.respond(&PART, "1", "n1", &[("a", "x")]);
        bench.updates();
        bench.respond(&PART, "2", "n2", &[("a", "bad")]);
        assert_eq!(bench.updates(), [format!("Part a Invalid{kept}: value: is bad")]);
        bench.respond(&PART, "3", "n3", &[("a", "x")]);
        let back = if kept.is_empty() { "Part a = x @3" } else { "Part a confirmed @3" };
        assert_eq!(bench.updates(), [back]);
    }
}

#[test]
fn absence_deletes_nothing_that_did_not_come_yet() {
    let mut bench = Bench::asked(&THING, &["a"]);
    bench.respond(&THING, "1", "n1", &[]);
    assert_eq!(bench.updates(), NONE);
    bench.wait(15.0);
    assert_eq!(bench.updates(), ["Thing a DoesNotExist: not received within 15 s of asking for it"]);
}

#[test]
fn absence_deletes_nothing_of_types_that_send_changes() {
    let mut bench = Bench::asked(&PART, &["a", "b"]);
    bench.respond(&PART, "1", "n1", &[("a", "x"), ("b", "x")]);
    bench.updates();
    bench.respond(&PART, "2", "n2", &[("a", "y")]);
    assert_eq!(bench.updates(), ["Part a = y @2"]);
}

#[test]
fn a_rejected_resource_that_disappears_is_deleted() {
    let mut bench = Bench::asked(&THING, &["a"]);
    bench.respond(&THING, "1", "n1", &[("a", "bad")]);
    bench.updates();
    bench.respond(&THING, "2", "n2", &[]);
    assert_eq!(bench.updates(), ["Thing a DoesNotExist: the control plane no longer sends it (version `2`)"]);
}

#[test]
fn resource_errors_follow_the_table_of_a88() {
    // code, cached, fatal → what the store is told
    let table = [
        (5, false, false, "DoesNotExist: NOT_FOUND: no"),
        (5, true, false, "DoesNotExist (kept): NOT_FOUND: no"),
        (5, true, true, "DoesNotExist: NOT_FOUND: no"),
        (7, false, true, "Refused: PERMISSION_DENIED: no"),
        (7, true, false, "Refused (kept): PERMISSION_DENIED: no"),
        (7, true, true, "Refused: PERMISSION_DENIED: no"),
        (14, false, false, "Refused: UNAVAILABLE: no"),
        (14, true, false, "Refused (kept): UNAVAILABLE: no"),
        (14, true, true, "Refused (kept): UNAVAILABLE: no"),
        (99, false, false, "Refused: status 99: no"),
    ];
    for (code, cached, is_fatal, wanted) in table {
        let mut bench = Bench::asked_with(if is_fatal { fatal() } else { options() }, &THING, &["a"]);
        if cached {
            bench.respond(&THING, "1", "n1", &[("a", "x")]);
            bench.updates();
        }
        let mut error = response(&THING, "2", "n2", &[]);
        error.errors = vec![resource_error("a", code, "no"), resource_error("stranger", code, "no")];
        bench.take(&error);
        assert_eq!(bench.updates(), [format!("Thing a {wanted}")], "{code} {cached} {is_fatal}");
        assert_eq!(bench.requests(), ["Thing version=2 nonce=n2 a"]);
        bench.wait(60.0);
        bench.take(&error);
        assert_eq!(bench.updates(), NONE, "the clock stopped, and it is said once");
    }
}

#[test]
fn a_slow_control_plane_is_not_a_missing_resource_when_it_reports_those() {
    let slow = AdsOptions { does_not_exist_timeout: Duration::from_secs(30), timeout_is_transient: true, ..options() };
    let mut bench = Bench::asked_with(slow, &THING, &["a"]);
    bench.wait(30.0);
    assert_eq!(bench.updates(), ["Thing a TimedOut: not received within 30 s of asking for it"]);
}
