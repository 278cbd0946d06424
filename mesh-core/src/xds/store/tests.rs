//! What subscribers and listings see of updates.

use super::ignored::{MAX_IGNORED, MAX_IGNORED_NAMES};
use super::*;
use crate::xds::ads::Summary;
use crate::xds::ads::tests::{PART, THING};

/// A store with one subscriber.
struct Bench {
    store: Store,
    id: SubscriberId,
}

impl Bench {
    fn watching(names: &[&str]) -> Self {
        let mut store = Store::default();
        let id = store.register(Arc::default());
        let mut bench = Self { store, id };
        names.iter().for_each(|name| bench.watch(name));
        bench.store.take_interests();
        bench
    }

    fn watch(&mut self, name: &str) {
        self.store.watch(self.id, &THING, &name.into());
    }

    fn unwatch(&mut self, name: &str) {
        self.store.unwatch(self.id, &THING, &name.into());
    }

    fn apply(&mut self, name: &str, kind: UpdateKind) {
        let resources = vec![Update { resource_type: &THING, name: name.into(), kind }];
        self.store.apply(Updates { resources, ..Updates::default() }, SystemTime::UNIX_EPOCH);
    }

    fn connectivity(&mut self, error: Option<&str>) {
        let connectivity = Some(error.map(Into::into));
        self.store.apply(Updates { connectivity, ..Updates::default() }, SystemTime::UNIX_EPOCH);
    }

    fn changes(&mut self) -> Vec<String> {
        self.store.take_changes(self.id).iter().map(|change| change.name.to_string()).collect()
    }

    fn interests(&mut self) -> Vec<String> {
        let interests = self.store.take_interests();
        interests.iter().map(|i| format!("{}{}", if i.wanted { "+" } else { "-" }, i.name)).collect()
    }

    fn get(&self, name: &str) -> (Option<String>, Verdict, Option<String>) {
        let state = self.store.get(&THING, name);
        let value = state.value::<String>().map(|value| value.to_string());
        (value, state.verdict, state.error.map(|error| error.to_string()))
    }
}

fn value(value: &str) -> UpdateKind {
    let ignored = vec![IgnoredField { path: "shadow".into(), reason: "" }];
    UpdateKind::Value { value: Arc::new(value.to_owned()), version: "1".into(), ignored }
}

fn error(kind: ErrorKind, keep: bool) -> UpdateKind {
    UpdateKind::Error { kind, text: "why".into(), keep }
}

const NONE: [&str; 0] = [];

#[test]
fn the_protocol_hears_of_each_name_once() {
    let mut bench = Bench::watching(&[]);
    bench.watch("a");
    bench.watch("b");
    let other = bench.store.register(Arc::default());
    bench.store.watch(other, &THING, &"a".into());
    assert_eq!(bench.interests(), ["+a", "+b"]);
    bench.unwatch("a");
    bench.unwatch("b");
    assert_eq!(bench.interests(), ["-b"]);
    bench.store.unwatch(other, &THING, &"a".into());
    assert_eq!(bench.interests(), ["-a"]);
    assert_eq!(bench.interests(), NONE);
}

#[test]
fn a_name_that_came_and_went_unnoticed_leaves_nothing() {
    let mut bench = Bench::watching(&["a"]);
    bench.watch("b");
    bench.unwatch("b");
    bench.unwatch("a");
    bench.watch("a");
    assert_eq!(bench.interests(), NONE);
    assert_eq!(bench.store.resources().len(), 1);
}

#[test]
fn a_removed_resource_is_forgotten_unless_somebody_came_meanwhile() {
    let mut bench = Bench::watching(&["a", "b"]);
    bench.apply("a", value("x"));
    bench.apply("b", value("x"));
    bench.unwatch("a");
    bench.unwatch("b");
    bench.interests();
    bench.watch("b");
    bench.changes();
    bench.apply("a", UpdateKind::Removed);
    bench.apply("b", UpdateKind::Removed);
    assert_eq!(bench.store.resources().len(), 1);
    assert_eq!(bench.changes(), ["b"]);
    assert_eq!(bench.get("b"), (None, Verdict::Pending, None));
    assert_eq!(bench.interests(), ["+b"]);
}

#[test]
fn changes_are_coalesced_and_seen_together() {
    let mut bench = Bench::watching(&["a", "b"]);
    bench.apply("a", value("x"));
    bench.apply("b", value("x"));
    bench.apply("a", value("y"));
    bench.apply("stranger", value("y"));
    assert_eq!(bench.changes(), ["a", "b"]);
    assert_eq!(bench.changes(), NONE);
    assert_eq!(bench.get("a"), (Some("y".into()), Verdict::Present, None));
}

#[test]
fn who_comes_later_learns_what_is_known() {
    let mut bench = Bench::watching(&["a", "b"]);
    bench.apply("a", value("x"));
    let notify = Arc::<Notify>::default();
    bench.id = bench.store.register(notify);
    bench.watch("a");
    bench.watch("b");
    assert_eq!(bench.changes(), ["a"]);
}

#[test]
fn what_is_not_watched_any_more_is_no_change() {
    let mut bench = Bench::watching(&["a"]);
    bench.apply("a", value("x"));
    bench.unwatch("a");
    assert_eq!(bench.changes(), NONE);
}

#[test]
fn verdicts_follow_errors_and_values() {
    let why = || Some("why".to_owned());
    let table = [
        (ErrorKind::Invalid, Verdict::Invalid("why".into()), "nacked"),
        (ErrorKind::DoesNotExist, Verdict::DoesNotExist, "does_not_exist"),
        (ErrorKind::Refused, Verdict::Refused("why".into()), "received_error"),
        (ErrorKind::TimedOut, Verdict::Refused("why".into()), "timeout"),
    ];
    for (kind, verdict, cache_state) in table {
        let mut bench = Bench::watching(&["a"]);
        assert_eq!(bench.get("a"), (None, Verdict::Pending, None));
        assert_eq!(bench.store.resources()[0].cache_state(), "requested");
        bench.apply("a", error(kind, false));
        assert_eq!(bench.get("a"), (None, verdict.clone(), why()));
        assert_eq!(bench.store.resources()[0].cache_state(), cache_state);
        bench.apply("a", value("x"));
        assert_eq!(bench.get("a"), (Some("x".into()), Verdict::Present, None));
        assert_eq!(bench.store.resources()[0].cache_state(), "acked");
        bench.apply("a", error(kind, true));
        assert_eq!(bench.get("a"), (Some("x".into()), Verdict::Present, why()));
        bench.apply("a", UpdateKind::Confirmed { version: "2".into() });
        assert_eq!(bench.get("a"), (Some("x".into()), Verdict::Present, None));
        assert_eq!(&*bench.store.resources()[0].version, "2");
        bench.apply("a", error(kind, false));
        assert_eq!(bench.get("a"), (None, verdict, why()));
    }
}

#[test]
fn a_lost_control_plane_is_why_a_resource_is_pending() {
    let mut bench = Bench::watching(&["a", "b"]);
    bench.apply("a", value("x"));
    bench.changes();
    bench.connectivity(Some("refused"));
    bench.connectivity(Some("refused again"));
    assert_eq!(bench.changes(), ["b"], "it is news for who waits alone");
    let error = Some("refused again".to_owned());
    assert_eq!(bench.get("a"), (Some("x".into()), Verdict::Present, None));
    assert_eq!(bench.get("b"), (None, Verdict::Pending, error.clone()));
    assert_eq!(bench.get("never asked for"), (None, Verdict::Pending, error));
    bench.connectivity(None);
    assert_eq!(bench.get("a"), (Some("x".into()), Verdict::Present, None));
}

#[test]
fn ignored_fields_are_summed_up_and_bounded() {
    let mut bench = Bench::watching(&["a", "b", "c", "d", "e", "f"]);
    for name in ["a", "b", "c", "d", "e", "f", "a"] {
        bench.apply(name, value("x"));
    }
    let [summary] = &bench.store.ignored_fields()[..] else { panic!("one kind") };
    assert_eq!((summary.resource_type, summary.path.as_str(), summary.count), ("Thing", "shadow", 7));
    assert_eq!(summary.names.len(), MAX_IGNORED_NAMES);
    for i in 0..2 * MAX_IGNORED {
        let ignored = vec![IgnoredField { path: i.to_string(), reason: "" }];
        let kind = UpdateKind::Value { value: Arc::new(()), version: "1".into(), ignored };
        bench.apply("a", kind);
    }
    assert_eq!(bench.store.ignored_fields().len(), MAX_IGNORED);
}

#[test]
fn responses_are_counted_per_type() {
    let mut store = Store::default();
    for nack in [None, Some("why".into())] {
        let summary = Summary { resource_type: &PART, version: "1".into(), valid: 3, invalid: 2, strangers: 1, nack };
        store.apply(Updates { responses: vec![summary], ..Updates::default() }, SystemTime::UNIX_EPOCH);
    }
    let counters = Counters { resources_valid: 6, resources_invalid: 4, strangers: 2, nacks: 1 };
    assert_eq!(store.counters().iter().map(|(_, counters)| *counters).collect::<Vec<_>>(), [counters]);
}
