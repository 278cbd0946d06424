//! Events in, effects out: each rule of the protocol by itself.

use std::cell::Cell;

use proptest::prelude::*;

use super::*;
use crate::xds::message::Response;
use crate::xds::resource_type::{Decoded, FieldError};

/// Responses of this type are complete, as those of LDS and CDS are.
pub(crate) static THING: ResourceType =
    ResourceType { type_url: "type.googleapis.com/test.Thing", name: "Thing", absence_deletes: true, decode };
/// Responses of this type hold what changed, as those of RDS and EDS may.
pub(crate) static PART: ResourceType =
    ResourceType { type_url: "type.googleapis.com/test.Part", name: "Part", absence_deletes: false, decode };

thread_local! {
    static DECODED: Cell<u32> = const { Cell::new(0) };
}

/// The name is field 1 and the value field 2; the value `bad` is invalid.
fn decode(bytes: &[u8]) -> Decoded {
    DECODED.set(DECODED.get() + 1);
    let resource = TestResource::decode_from(bytes);
    let value: Result<Arc<dyn Any + Send + Sync>, _> = match resource.value.as_str() {
        "bad" => Err(vec![FieldError { path: "value".into(), problem: "is bad".into() }]),
        value => Ok(Arc::new(value.to_owned())),
    };
    Decoded { value, ignored: Vec::new() }
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct TestResource {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(string, tag = "2")]
    pub(crate) value: String,
}

impl TestResource {
    fn decode_from(bytes: &[u8]) -> Self {
        prost::Message::decode(bytes).unwrap_or_default()
    }
}

/// The bytes of a response; the types of prost, but not those of xDS, write it.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct TestResponse {
    #[prost(string, tag = "1")]
    pub(crate) version: String,
    #[prost(message, repeated, tag = "2")]
    pub(crate) resources: Vec<prost_types::Any>,
    #[prost(string, tag = "4")]
    pub(crate) type_url: String,
    #[prost(string, tag = "5")]
    pub(crate) nonce: String,
    #[prost(bytes = "vec", repeated, tag = "7")]
    pub(crate) errors: Vec<Vec<u8>>,
}

pub(crate) fn packed(ty: &ResourceType, name: &str, value: &str) -> prost_types::Any {
    let resource = TestResource { name: name.into(), value: value.into() };
    prost_types::Any { type_url: ty.type_url.into(), value: prost::Message::encode_to_vec(&resource) }
}

pub(crate) fn response(ty: &ResourceType, version: &str, nonce: &str, resources: &[(&str, &str)]) -> TestResponse {
    TestResponse {
        version: version.into(),
        resources: resources.iter().map(|(name, value)| packed(ty, name, value)).collect(),
        type_url: ty.type_url.into(),
        nonce: nonce.into(),
        errors: Vec::new(),
    }
}

fn resource_error(name: &str, code: i32, message: &str) -> Vec<u8> {
    use mesh_xds_proto::envoy::service::discovery::v3::{ResourceError, ResourceName};
    let error = ResourceError {
        resource_name: Some(ResourceName { name: name.into(), dynamic_parameter_constraints: None }),
        error_detail: Some(mesh_xds_proto::google::rpc::Status { code, message: message.into(), details: Vec::new() }),
    };
    prost::Message::encode_to_vec(&error)
}

fn options() -> AdsOptions {
    AdsOptions {
        does_not_exist_timeout: Duration::from_secs(15),
        timeout_is_transient: false,
        fail_on_data_errors: false,
        backoff: BackoffConfig::default(),
    }
}

/// The machine and the time.
struct Bench {
    ads: Ads,
    start: Instant,
    now: Instant,
}

impl Bench {
    fn new() -> Self {
        Self::with(options())
    }

    fn with(options: AdsOptions) -> Self {
        let now = Instant::now();
        Self { ads: Ads::new(options, now), start: now, now }
    }

    /// With an open stream and these names asked for.
    fn asked(ty: &'static ResourceType, names: &[&str]) -> Self {
        Self::asked_with(options(), ty, names)
    }

    fn asked_with(options: AdsOptions, ty: &'static ResourceType, names: &[&str]) -> Self {
        let mut bench = Self::with(options);
        bench.subscribe(ty, names);
        bench.open();
        bench.requests();
        bench
    }

    fn subscribe(&mut self, ty: &'static ResourceType, names: &[&str]) {
        names.iter().for_each(|name| self.ads.handle_subscribe(ty, (*name).into()));
    }

    fn unsubscribe(&mut self, ty: &'static ResourceType, names: &[&str]) {
        names.iter().for_each(|name| self.ads.handle_unsubscribe(ty, name));
    }

    fn open(&mut self) {
        self.ads.handle_connecting(self.now);
        self.ads.handle_opened(self.now);
    }

    fn close(&mut self, error: &str) {
        self.ads.handle_closed(self.now, error, 0.5);
    }

    /// Time goes by, with a wake wherever one is due.
    fn wait(&mut self, seconds: f64) {
        let end = self.now + Duration::from_secs_f64(seconds);
        while let Some(wake) = self.ads.poll_wake().filter(|wake| *wake <= end) {
            self.now = self.now.max(wake);
            self.ads.handle_wake(self.now);
            if self.ads.poll_wake().is_some_and(|wake| wake <= self.now) {
                return;
            }
        }
        self.now = end;
    }

    fn respond(&mut self, ty: &ResourceType, version: &str, nonce: &str, resources: &[(&str, &str)]) {
        self.take(&response(ty, version, nonce, resources));
    }

    fn take(&mut self, response: &TestResponse) {
        let bytes = prost::Message::encode_to_vec(response);
        self.ads.handle_response(self.now, Response::parse(&bytes).unwrap());
    }

    /// What is sent now, one line per request.
    fn requests(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.ads.poll_request(self.now)).map(|request| show(&request)).collect()
    }

    /// What the store is told, one line per update.
    fn updates(&mut self) -> Vec<String> {
        let updates = self.ads.take_updates();
        let connectivity = updates.connectivity.map(|error| format!("connectivity: {error:?}"));
        updates.resources.iter().map(show_update).chain(connectivity).collect()
    }
}

fn show(request: &Request) -> String {
    let Request { resource_type, version, nonce, names, error, first } = request;
    let node = if *first { " node" } else { "" };
    let error = error.as_ref().map(|error| format!(" error={error}")).unwrap_or_default();
    format!("{}{node} version={version} nonce={nonce} {}{error}", resource_type.name, names.join(","))
}

fn show_update(update: &Update) -> String {
    let what = match &update.kind {
        UpdateKind::Value { value, version, .. } => {
            format!("= {} @{version}", value.downcast_ref::<String>().unwrap())
        }
        UpdateKind::Confirmed { version } => format!("confirmed @{version}"),
        UpdateKind::Error { kind, text, keep } => {
            format!("{kind:?}{}: {text}", if *keep { " (kept)" } else { "" })
        }
        UpdateKind::Removed => "removed".into(),
    };
    format!("{} {} {what}", update.resource_type.name, update.name)
}

const NONE: [&str; 0] = [];

// Subscriptions, ACK and NACK (A27, the xDS protocol).

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

// What is in a response (A46).

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
    assert_eq!(bench.updates(), NONE);
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

// Timers and failures (A57).

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

// Data errors (A53, A88) and errors from the control plane (xRFC TP3).

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

// What control planes do.

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
    bench.wait(0.1);
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

// Whatever happens.

#[derive(Clone, Debug)]
enum Event {
    Subscribe(bool, u8),
    Unsubscribe(bool, u8),
    Open,
    Close,
    Poll,
    Wait(u16),
    /// Resources by name and kind of value, and the errors of others.
    Respond(bool, Vec<(u8, u8)>, Vec<u8>),
    Garbage(Vec<u8>),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (any::<bool>(), 0..6_u8).prop_map(|(ty, name)| Event::Subscribe(ty, name)),
        3 => (any::<bool>(), 0..6_u8).prop_map(|(ty, name)| Event::Unsubscribe(ty, name)),
        1 => Just(Event::Open),
        1 => Just(Event::Close),
        4 => Just(Event::Poll),
        2 => (0..20_000_u16).prop_map(Event::Wait),
        4 => (any::<bool>(), proptest::collection::vec((0..8_u8, 0..4_u8), 0..6), proptest::collection::vec(0..8_u8, 0..3))
            .prop_map(|(ty, resources, errors)| Event::Respond(ty, resources, errors)),
        1 => proptest::collection::vec(any::<u8>(), 0..40).prop_map(Event::Garbage),
    ]
}

/// What the other side and the subscribers may rely on.
#[derive(Default)]
struct Model {
    wanted: [std::collections::BTreeSet<String>; 2],
    asked: [Option<std::collections::BTreeSet<String>>; 2],
    is_open: bool,
    responses: u32,
}

impl Model {
    fn check_request(&mut self, request: &Request) {
        let ty = usize::from(request.resource_type.type_url == PART.type_url);
        let names: std::collections::BTreeSet<String> = request.names.iter().map(|name| name.to_string()).collect();
        assert!(self.is_open, "sent without a stream");
        assert_eq!(names.len(), request.names.len(), "a name twice");
        if request.error.is_some() {
            assert_eq!(self.asked[ty].as_ref(), Some(&names), "a NACK names what was asked for");
            return;
        }
        let has_wildcard = request.resource_type.absence_deletes;
        assert!(!names.is_empty() || self.asked[ty].is_some() && !has_wildcard, "a wildcard");
        if has_wildcard && self.wanted[ty].is_empty() {
            assert_eq!(names.len(), 1);
        } else {
            assert_eq!(names, self.wanted[ty], "asks for what is wanted");
        }
        self.asked[ty] = Some(names);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn whatever_happens_only_what_is_wanted_is_asked_for(events in proptest::collection::vec(event(), 0..80)) {
        let mut bench = Bench::new();
        let mut model = Model::default();
        let types = [&THING, &PART];
        for event in events {
            match event {
                Event::Subscribe(ty, name) => {
                    model.wanted[usize::from(ty)].insert(name.to_string());
                    bench.subscribe(types[usize::from(ty)], &[&name.to_string()]);
                }
                Event::Unsubscribe(ty, name) => {
                    model.wanted[usize::from(ty)].remove(&name.to_string());
                    bench.unsubscribe(types[usize::from(ty)], &[&name.to_string()]);
                }
                Event::Open if !model.is_open => {
                    bench.open();
                    model.is_open = true;
                    model.asked = [None, None];
                }
                Event::Close if model.is_open => {
                    bench.close("closed");
                    model.is_open = false;
                }
                Event::Open | Event::Close => {}
                Event::Poll => {
                    let mut count = 0;
                    while let Some(request) = bench.ads.poll_request(bench.now) {
                        model.check_request(&request);
                        count += 1;
                        prop_assert!(count <= 4, "at most a NACK and a request per type");
                    }
                }
                Event::Wait(millis) => {
                    bench.now += Duration::from_millis(millis.into());
                    bench.ads.handle_wake(bench.now);
                }
                Event::Respond(ty, resources, errors) if model.is_open => {
                    model.responses += 1;
                    let resources: Vec<_> =
                        resources.iter().map(|(name, value)| (name.to_string(), ["x", "y", "bad", "z"][usize::from(*value)])).collect();
                    let resources: Vec<_> = resources.iter().map(|(name, value)| (name.as_str(), *value)).collect();
                    let number = model.responses.to_string();
                    let mut response = response(types[usize::from(ty)], &number, &number, &resources);
                    response.errors = errors.iter().map(|name| resource_error(&name.to_string(), 5, "no")).collect();
                    bench.take(&response);
                }
                Event::Garbage(bytes) if model.is_open => {
                    if let Ok(response) = Response::parse(&bytes) {
                        bench.ads.handle_response(bench.now, response);
                    }
                }
                Event::Respond(..) | Event::Garbage(_) => {}
            }
            bench.updates_are_consistent();
        }
        // In the end, when no NACK waits any more, exactly what is wanted was asked for.
        if model.is_open {
            bench.now += Duration::from_secs(10);
            while let Some(request) = bench.ads.poll_request(bench.now) {
                model.check_request(&request);
            }
            for ty in 0..2 {
                if !model.wanted[ty].is_empty() {
                    prop_assert_eq!(model.asked[ty].as_ref(), Some(&model.wanted[ty]));
                }
            }
        }
    }
}

impl Bench {
    /// An update is about a name that is known, or about its removal; deadlines are counted right.
    fn updates_are_consistent(&mut self) {
        drop(self.updates());
        for subscriptions in &self.ads.types {
            subscriptions.check();
        }
    }
}
