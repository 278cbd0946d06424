//! Whatever happens: any events in any order.

use proptest::prelude::*;

use super::*;

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
