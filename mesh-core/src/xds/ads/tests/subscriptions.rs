//! Subscriptions, ACK and NACK (A27, the xDS protocol).

use super::*;

#[test]
fn names_known_together_go_in_one_request_per_type() {
    let mut bench = Bench::new();
    let names: Vec<String> = (0..10_000).map(|i| format!("name-{i}")).collect();
    for name in &names {
        bench.subscribe(&THING, &[name]);
        bench.subscribe(&PART, &[name]);
    }
    bench.open();
    let all = names.join(",");
    assert_eq!(bench.requests(), [format!("Thing node version= nonce= {all}"), format!("Part version= nonce= {all}")]);
    assert_eq!(bench.requests(), NONE);
}

#[test]
fn the_node_goes_with_the_first_request_of_each_stream_only() {
    let mut bench = Bench::asked(&THING, &["a"]);
    bench.subscribe(&PART, &["p"]);
    assert_eq!(bench.requests(), ["Part version= nonce= p"]);
    bench.close("gone");
    bench.open();
    assert_eq!(bench.requests(), ["Thing node version= nonce= a", "Part version= nonce= p"]);
}

#[test]
fn a_good_response_is_acknowledged_with_its_version_and_nonce() {
    let mut bench = Bench::asked(&THING, &["a", "b"]);
    bench.respond(&THING, "1", "n1", &[("a", "x"), ("b", "y")]);
    assert_eq!(bench.requests(), ["Thing version=1 nonce=n1 a,b"]);
    assert_eq!(bench.updates(), ["Thing a = x @1", "Thing b = y @1"]);
    assert_eq!(bench.requests(), NONE);
}

#[test]
fn a_bad_response_is_refused_with_the_version_in_use_and_its_nonce() {
    let mut bench = Bench::asked(&THING, &["a"]);
    bench.respond(&THING, "1", "n1", &[("a", "x")]);
    bench.requests();
    bench.respond(&THING, "2", "n2", &[("a", "bad")]);
    assert_eq!(bench.requests(), ["Thing version=1 nonce=n2 a error=Thing `a`: value: is bad"]);
}

#[test]
fn types_have_versions_and_nonces_of_their_own() {
    let mut bench = Bench::asked(&THING, &["a"]);
    bench.subscribe(&PART, &["p"]);
    bench.requests();
    bench.respond(&THING, "7", "n7", &[("a", "x")]);
    bench.respond(&PART, "9", "n9", &[("p", "x")]);
    assert_eq!(bench.requests(), ["Thing version=7 nonce=n7 a", "Part version=9 nonce=n9 p"]);
    bench.subscribe(&PART, &["q"]);
    assert_eq!(bench.requests(), ["Part version=9 nonce=n9 p,q"]);
}

#[test]
fn responses_that_come_faster_than_requests_go_are_answered_by_the_last() {
    let mut bench = Bench::asked(&THING, &["a"]);
    bench.respond(&THING, "1", "n1", &[("a", "bad")]);
    bench.respond(&THING, "2", "n2", &[("a", "x")]);
    assert_eq!(bench.requests(), ["Thing version=2 nonce=n2 a"]);
}

#[test]
fn two_hundred_names_shrink_to_one_in_one_request() {
    for ty in [&THING, &PART] {
        let names: Vec<String> = (0..200).map(|i| format!("name-{i}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut bench = Bench::asked(ty, &names);
        bench.unsubscribe(ty, &names[1..]);
        assert_eq!(bench.requests(), [format!("{} version= nonce= name-0", ty.name)]);
        assert_eq!(bench.updates().len(), 199);
        assert_eq!(bench.requests(), NONE);
    }
}

#[test]
fn a_stream_never_begins_with_an_empty_list() {
    let mut bench = Bench::asked(&THING, &["a"]);
    bench.subscribe(&PART, &["p"]);
    bench.requests();
    bench.unsubscribe(&PART, &["p"]);
    bench.close("gone");
    bench.open();
    assert_eq!(bench.requests(), ["Thing node version= nonce= a"]);
}

#[test]
fn the_last_name_of_a_type_with_a_wildcard_stays_until_another_comes() {
    let mut bench = Bench::asked(&THING, &["a", "b", "c"]);
    bench.respond(&THING, "1", "n1", &[("a", "x"), ("b", "x"), ("c", "x")]);
    bench.requests();
    bench.updates();
    bench.unsubscribe(&THING, &["a", "b", "c"]);
    assert_eq!(bench.requests(), ["Thing version=1 nonce=n1 a"]);
    assert_eq!(bench.updates(), ["Thing b removed", "Thing c removed"]);
    bench.respond(&THING, "2", "n2", &[("a", "y")]);
    assert_eq!(bench.requests(), ["Thing version=2 nonce=n2 a"]);
    bench.subscribe(&THING, &["d"]);
    assert_eq!(bench.requests(), ["Thing version=2 nonce=n2 d"]);
    assert_eq!(bench.updates(), ["Thing a = y @2", "Thing a removed"]);
}

#[test]
fn the_name_that_stayed_needs_no_request_to_be_wanted_again() {
    let mut bench = Bench::asked(&THING, &["a"]);
    bench.respond(&THING, "1", "n1", &[("a", "x")]);
    bench.requests();
    bench.unsubscribe(&THING, &["a"]);
    assert_eq!(bench.requests(), NONE);
    bench.subscribe(&THING, &["a"]);
    assert_eq!(bench.requests(), NONE);
    bench.subscribe(&THING, &["b"]);
    assert_eq!(bench.requests(), ["Thing version=1 nonce=n1 a,b"]);
}

#[test]
fn the_last_name_of_another_type_is_unsubscribed_and_its_responses_still_acknowledged() {
    let mut bench = Bench::asked(&PART, &["p"]);
    bench.unsubscribe(&PART, &["p"]);
    assert_eq!(bench.requests(), ["Part version= nonce= "]);
    bench.respond(&PART, "1", "n1", &[("p", "x")]);
    assert_eq!(bench.requests(), ["Part version=1 nonce=n1 "]);
    assert_eq!(bench.updates(), ["Part p removed"]);
}

#[test]
fn a_type_that_was_not_asked_for_gets_no_reply() {
    let mut bench = Bench::asked(&THING, &["a"]);
    bench.respond(&PART, "1", "n1", &[("p", "x")]);
    let other = ResourceType { type_url: "type.googleapis.com/test.Other", ..THING };
    bench.respond(&other, "1", "n1", &[("p", "x")]);
    assert_eq!((bench.requests(), bench.updates()), (vec![], vec![]));
}

#[test]
fn a_name_left_and_wanted_again_before_the_control_plane_knows_keeps_its_value() {
    let mut bench = Bench::asked(&THING, &["a", "b"]);
    bench.respond(&THING, "1", "n1", &[("a", "x"), ("b", "x")]);
    bench.requests();
    bench.updates();
    bench.unsubscribe(&THING, &["a"]);
    bench.subscribe(&THING, &["a"]);
    assert_eq!((bench.requests(), bench.updates()), (vec![], vec![]));
    bench.wait(60.0);
    assert_eq!(bench.updates(), NONE);
}

#[test]
fn a_name_that_comes_with_an_acknowledgement_needs_no_request_of_its_own() {
    let mut bench = Bench::asked(&THING, &["a"]);
    bench.respond(&THING, "1", "n1", &[("a", "x")]);
    bench.subscribe(&THING, &["b"]);
    assert_eq!(bench.requests(), ["Thing version=1 nonce=n1 a,b"]);
    assert_eq!(bench.requests(), NONE);
}
