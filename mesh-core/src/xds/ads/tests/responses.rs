//! What is in a response (A46).

use super::*;

#[test]
fn valid_resources_of_a_refused_response_are_used() {
    let mut bench = Bench::asked(&THING, &["a", "b", "c"]);
    bench.respond(&THING, "1", "n1", &[("a", "x"), ("b", "x"), ("c", "x")]);
    bench.requests();
    bench.updates();
    bench.respond(&THING, "2", "n2", &[("a", "y"), ("b", "bad"), ("c", "y")]);
    assert_eq!(bench.requests(), ["Thing version=1 nonce=n2 a,b,c error=Thing `b`: value: is bad"]);
    assert_eq!(bench.updates(), ["Thing a = y @2", "Thing b Invalid (kept): value: is bad", "Thing c = y @2"]);
}

#[test]
fn a_resource_without_a_name_is_refused_by_its_index() {
    let mut bench = Bench::asked(&THING, &["a"]);
    bench.respond(&THING, "1", "n1", &[("a", "x"), ("", "x")]);
    let refused = "Thing version= nonce=n1 a error=Thing at index 1: its name is missing or not UTF-8";
    assert_eq!(bench.requests(), [refused]);
    assert_eq!(bench.updates(), ["Thing a = x @1"]);
}

#[test]
fn a_resource_that_cannot_be_read_is_refused_by_its_index() {
    let mut bench = Bench::asked(&THING, &["a"]);
    let mut bytes = prost::Message::encode_to_vec(&response(&THING, "1", "n1", &[("a", "x")]));
    bytes.extend([0x12, 2, 0x0a, 9]);
    bench.ads.handle_response(bench.now, Response::parse(&bytes).unwrap());
    assert_eq!(bench.requests(), ["Thing version= nonce=n1 a error=Thing at index 1: malformed protobuf"]);
}

#[test]
fn a_resource_of_another_type_is_refused() {
    let mut bench = Bench::asked(&THING, &["a"]);
    let mut bad = response(&THING, "1", "n1", &[]);
    bad.resources.push(packed(&PART, "a", "x"));
    bench.take(&bad);
    let refused = "Thing version= nonce=n1 a error=Thing `a`: type URL `type.googleapis.com/test.Part` where \
        `type.googleapis.com/test.Thing` is wanted";
    assert_eq!(bench.requests(), [refused]);
    let told = "type URL `type.googleapis.com/test.Part` where `type.googleapis.com/test.Thing` is wanted";
    assert_eq!(bench.updates(), [format!("Thing a Invalid: {told}")]);
    bad.nonce = "n2".into();
    bench.take(&bad);
    assert_eq!(bench.updates(), NONE, "the same again is no news");
    bench.wait(20.0);
    assert_eq!(bench.updates(), NONE, "it is not missing");
    bench.respond(&THING, "3", "n3", &[("a", "x")]);
    assert_eq!(bench.updates(), ["Thing a = x @3"]);
    bad.nonce = "n4".into();
    bench.take(&bad);
    assert_eq!(bench.updates(), [format!("Thing a Invalid (kept): {told}")]);
    // The bytes are good under the right type.
    bench.respond(&THING, "5", "n5", &[("a", "x")]);
    assert_eq!(bench.updates(), ["Thing a confirmed @5"]);
    bench.respond(&THING, "6", "n6", &[("a", "y")]);
    assert_eq!(bench.updates(), ["Thing a = y @6"]);
}

#[test]
fn a_type_url_of_another_host_is_the_same_type() {
    let mut bench = Bench::asked(&THING, &["a"]);
    let mut other = response(&THING, "1", "n1", &[("a", "x")]);
    other.resources[0].type_url = "example.com/test.Thing".into();
    bench.take(&other);
    assert_eq!(bench.requests(), ["Thing version=1 nonce=n1 a"]);
}

#[test]
fn a_name_that_occurs_twice_is_refused_and_the_first_used() {
    let mut bench = Bench::asked(&THING, &["a"]);
    bench.respond(&THING, "1", "n1", &[("a", "x"), ("a", "y")]);
    assert_eq!(bench.requests(), ["Thing version= nonce=n1 a error=Thing `a`: the response has this name twice"]);
    assert_eq!(bench.updates(), ["Thing a = x @1"]);
}

#[test]
fn a_wrapped_resource_is_unwrapped_and_a_heartbeat_changes_nothing() {
    use mesh_xds_proto::envoy::service::discovery::v3::Resource;
    let wrap = |name: &str, resource| prost_types::Any {
        type_url: "type.googleapis.com/envoy.service.discovery.v3.Resource".into(),
        value: prost::Message::encode_to_vec(&Resource { name: name.into(), resource, ..Default::default() }),
    };
    let mut bench = Bench::asked(&THING, &["a", "b"]);
    let mut wrapped = response(&THING, "1", "n1", &[]);
    wrapped.resources = vec![wrap("a", Some(packed(&THING, "a", "x"))), wrap("", Some(packed(&THING, "b", "y")))];
    bench.take(&wrapped);
    assert_eq!(bench.updates(), ["Thing a = x @1", "Thing b = y @1"]);
    let mut heartbeat = response(&THING, "2", "n2", &[]);
    heartbeat.resources = vec![wrap("a", None), wrap("b", None)];
    bench.take(&heartbeat);
    assert_eq!(bench.updates(), NONE);
    assert_eq!(bench.requests(), ["Thing version=2 nonce=n2 a,b"]);
}

#[test]
fn what_a_wrapper_says_beside_its_name_is_listed() {
    use mesh_xds_proto::envoy::service::discovery::v3::Resource;
    let mut bench = Bench::asked(&THING, &["a"]);
    let mut wrapped = response(&THING, "1", "n1", &[]);
    let ttl = Some(prost_types::Duration { seconds: 1, nanos: 0 });
    let wrapper = Resource { name: "a".into(), resource: Some(packed(&THING, "a", "x")), ttl, ..Default::default() };
    wrapped.resources = vec![prost_types::Any {
        type_url: "type.googleapis.com/envoy.service.discovery.v3.Resource".into(),
        value: prost::Message::encode_to_vec(&wrapper),
    }];
    bench.take(&wrapped);
    let [Update { kind: UpdateKind::Value { ignored, .. }, .. }] = &bench.ads.take_updates().resources[..] else {
        panic!("one value")
    };
    assert_eq!(ignored.iter().map(|field| &*field.path).collect::<Vec<_>>(), ["Resource.ttl"]);
}

#[test]
fn a_heartbeat_of_what_never_came_does_not_stop_its_timer() {
    use mesh_xds_proto::envoy::service::discovery::v3::Resource;
    let mut bench = Bench::asked(&THING, &["a"]);
    let beat = Resource { name: "a".into(), ..Default::default() };
    let mut heartbeat = response(&THING, "1", "n1", &[]);
    heartbeat.resources = vec![prost_types::Any {
        type_url: "type.googleapis.com/envoy.service.discovery.v3.Resource".into(),
        value: prost::Message::encode_to_vec(&beat),
    }];
    bench.take(&heartbeat);
    assert_eq!(bench.updates(), NONE);
    bench.wait(15.0);
    assert_eq!(bench.updates(), ["Thing a DoesNotExist: not received within 15 s of asking for it"]);
}

#[test]
fn an_unchanged_resource_is_not_decoded_again() {
    let mut bench = Bench::asked(&THING, &["a", "b"]);
    bench.respond(&THING, "1", "n1", &[("a", "x"), ("b", "bad")]);
    bench.requests();
    bench.updates();
    DECODED.set(0);
    bench.respond(&THING, "2", "n2", &[("a", "x"), ("b", "bad")]);
    assert_eq!(DECODED.get(), 0);
    assert_eq!(bench.updates(), NONE);
    bench.wait(1.0);
    assert_eq!(bench.requests(), ["Thing version= nonce=n2 a,b error=Thing `b`: value: is bad"]);
    bench.respond(&THING, "3", "n3", &[("a", "x"), ("b", "y")]);
    assert_eq!(DECODED.get(), 1);
    assert_eq!(bench.updates(), ["Thing b = y @3"]);
}

#[test]
fn a_hundred_thousand_names_that_nobody_asked_for_are_skipped() {
    let mut bench = Bench::asked(&THING, &["a"]);
    let names: Vec<String> = (0..100_000).map(|i| format!("stranger-{i}")).collect();
    let mut resources: Vec<_> = names.iter().map(|name| (name.as_str(), "bad")).collect();
    resources.push(("a", "x"));
    DECODED.set(0);
    bench.respond(&THING, "1", "n1", &resources);
    assert_eq!(DECODED.get(), 1);
    assert_eq!(bench.requests(), ["Thing version=1 nonce=n1 a"]);
    let updates = bench.ads.take_updates();
    assert_eq!(updates.resources.len(), 1);
    assert_eq!((updates.responses[0].valid, updates.responses[0].strangers), (1, 100_000));
}
