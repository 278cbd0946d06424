//! Which calls a limit of their own is for: descriptors that rules make of a call, and the limits of some of them.

use std::borrow::Cow;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;
use parking_lot::Mutex;
use smallvec::SmallVec;
use tokio::time::Instant;

use super::rate_limit::TokenBucket;
use crate::resource::matcher::RequestHead;
use crate::resource::matcher::header::HeaderMatch;

/// The limits of calls with certain descriptors.
#[derive(Clone, Debug, Default)]
pub(crate) struct Descriptors {
    rules: Vec<Arc<Rule>>,
    /// Those that fill slowest first.
    limits: Arc<[DescriptorLimit]>,
}

/// Makes a descriptor of a call, or none.
#[derive(Debug)]
pub(crate) struct Rule {
    /// Of a rule of the routes: it is for filters of the same stage.
    pub(crate) stage: u32,
    pub(crate) actions: Vec<Action>,
}

/// The rules of a route or of a virtual host.
#[derive(Debug, Default)]
pub(crate) struct RateLimits {
    pub(crate) rules: Vec<Arc<Rule>>,
    /// Those of the virtual host hold, too, whatever the filter says.
    pub(crate) includes_host: bool,
}

/// Whether the rules of the virtual host hold where the filter has none itself (Envoy's `vh_rate_limits`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum HostRateLimits {
    /// If the route has none.
    #[default]
    Override,
    Include,
    Ignore,
}

/// What an entry of a descriptor is made of.
#[derive(Debug)]
pub(crate) enum Action {
    Constant {
        key: Box<str>,
        value: Box<str>,
    },
    /// The header's value; without it there is no descriptor, or one without this entry if it `is_skipped`.
    Header {
        name: HeaderName,
        key: Box<str>,
        is_skipped: bool,
    },
    /// The IP address of the caller; of calls that a client makes itself there is no descriptor.
    RemoteAddress,
    /// Of what nothing here knows the value: there is never a descriptor.
    Unknown,
    /// A constant where the headers all match, or where they do not; otherwise there is no descriptor.
    Matching {
        key: Box<str>,
        value: Box<str>,
        headers: Vec<HeaderMatch>,
        expected: bool,
    },
}

/// A key, and a value or any.
pub(crate) type Entry = (Box<str>, Option<Box<str>>);

/// The limit of calls with this descriptor.
#[derive(Debug)]
pub(crate) struct DescriptorLimit {
    /// Keys and values; `None`: any value, and each has a limit of its own.
    pub(crate) entries: Vec<Entry>,
    pub(crate) buckets: Buckets,
    /// A call that finds no token passes.
    pub(crate) is_shadow: bool,
}

/// What the limits say of a call.
#[derive(Debug)]
pub(super) enum Matched {
    /// No descriptor of the call has a limit.
    None,
    /// With the bucket of the strictest.
    Passes(Arc<TokenBucket>),
    Refused(Arc<TokenBucket>),
}

/// The entries that a rule makes of a call.
type Made<'a> = SmallVec<[(&'a str, Cow<'a, str>); 2]>;

impl Descriptors {
    pub(crate) fn new(rules: Vec<Arc<Rule>>, mut limits: Vec<DescriptorLimit>) -> Self {
        limits.sort_by_key(|limit| std::cmp::Reverse(limit.buckets.time_to_fill_one()));
        Self { rules, limits: limits.into() }
    }

    /// The same limits with other rules.
    pub(super) fn with_rules(&self, rules: Vec<Arc<Rule>>) -> Self {
        Self { rules, limits: self.limits.clone() }
    }

    /// Whether they limit calls as soon as they have rules, and have none.
    pub(super) fn lack_rules(&self) -> bool {
        self.rules.is_empty() && self.have_limits()
    }

    pub(super) fn have_limits(&self) -> bool {
        !self.limits.is_empty()
    }

    /// Whether they limit no call.
    pub(super) fn is_idle(&self) -> bool {
        self.rules.is_empty() || self.limits.is_empty()
    }

    /// Takes a token of each limit that the call has a descriptor of, as in Envoy: up to the first that has none.
    pub(super) fn take(&self, head: &RequestHead<'_>, caller: Option<IpAddr>, now: Instant) -> Matched {
        let made = self.rules.iter().filter_map(|rule| make(&rule.actions, head, caller));
        let mut found: SmallVec<[(usize, Made<'_>); 2]> =
            made.filter_map(|made| self.limit_of(&made).map(|limit| (limit, made))).collect();
        found.sort_by_key(|(limit, _)| *limit);
        found.dedup();
        let mut strictest = None;
        for (limit, made) in found {
            let limit = &self.limits[limit];
            let bucket = limit.buckets.of(&made);
            if !bucket.take(now) && !limit.is_shadow {
                return Matched::Refused(bucket);
            }
            strictest.get_or_insert(bucket);
        }
        strictest.map_or(Matched::None, Matched::Passes)
    }

    /// The limit that names all values goes before those for any.
    fn limit_of(&self, made: &Made<'_>) -> Option<usize> {
        let mut matching = (0..self.limits.len()).filter(|limit| self.limits[*limit].is_for(made));
        let first = matching.clone().next();
        matching.find(|limit| !self.limits[*limit].buckets.are_many()).or(first)
    }

    /// Goes on with the tokens of those for the same calls.
    pub(super) fn inherit(&self, before: &Self) {
        for limit in &*self.limits {
            if let Some(before) = before.limits.iter().find(|before| before.entries == limit.entries) {
                limit.buckets.inherit(&before.buckets);
            }
        }
    }
}

impl DescriptorLimit {
    fn is_for(&self, made: &Made<'_>) -> bool {
        let is_same = |((key, value), made): (&Entry, &(&str, Cow<'_, str>))| {
            **key == *made.0 && value.as_ref().is_none_or(|value| **value == *made.1)
        };
        self.entries.len() == made.len() && self.entries.iter().zip(made).all(is_same)
    }
}

/// The descriptor that a rule makes of a call, if it makes one.
fn make<'a>(rule: &'a [Action], head: &RequestHead<'a>, caller: Option<IpAddr>) -> Option<Made<'a>> {
    let entries = rule.iter().map(|action| action.entry(head, caller)).filter(|entry| !matches!(entry, Some(None)));
    entries.map(Option::flatten).collect()
}

/// The tokens of a limit: one bucket, or one for each of the values that calls had of late.
#[derive(Debug)]
pub(crate) struct Buckets {
    /// What each is like; where there is one, that.
    like: Arc<TokenBucket>,
    /// How many values are remembered; `None`: the limit names all of its values.
    most: Option<usize>,
    by_values: Mutex<Remembered>,
}

type Values = Box<[Box<str>]>;

/// Buckets by the values of a descriptor.
#[derive(Clone, Debug, Default)]
struct Remembered {
    /// Each with the number of its last use.
    buckets: HashMap<Values, (Arc<TokenBucket>, u64)>,
    uses: u64,
}

impl Buckets {
    pub(crate) fn one(bucket: TokenBucket) -> Self {
        Self { like: Arc::new(bucket), most: None, by_values: Mutex::default() }
    }

    /// One for each value, of which the `most` that were used last are remembered.
    pub(crate) fn each(bucket: TokenBucket, most: usize) -> Self {
        Self { most: Some(most), ..Self::one(bucket) }
    }

    fn are_many(&self) -> bool {
        self.most.is_some()
    }

    fn time_to_fill_one(&self) -> Duration {
        self.like.time_to_fill_one()
    }

    fn of(&self, made: &Made<'_>) -> Arc<TokenBucket> {
        let Some(most) = self.most else { return self.like.clone() };
        let values: Values = made.iter().map(|(_, value)| (**value).into()).collect();
        self.by_values.lock().get(values, most, &self.like)
    }

    /// Buckets are shared with what they were of: that may be in use still.
    fn inherit(&self, before: &Self) {
        self.like.inherit(&before.like);
        if self.most.is_some() && self.like.is_like(&before.like) {
            // Given back before the other is taken: where routes alone changed, both are one.
            let remembered = before.by_values.lock().clone();
            let mut own = self.by_values.lock();
            if own.buckets.is_empty() {
                *own = remembered;
            }
        }
    }
}

impl Remembered {
    fn get(&mut self, values: Values, most: usize, like: &TokenBucket) -> Arc<TokenBucket> {
        self.uses += 1;
        if !self.buckets.contains_key(&values) && self.buckets.len() >= most {
            self.forget_oldest();
        }
        let (bucket, last) = self.buckets.entry(values).or_insert_with(|| (Arc::new(like.another()), 0));
        *last = self.uses;
        bucket.clone()
    }

    fn forget_oldest(&mut self) {
        let oldest = self.buckets.iter().min_by_key(|(_, (_, last))| *last).map(|(values, _)| values.clone());
        oldest.and_then(|values| self.buckets.remove(&values));
    }
}

impl Action {
    /// `None`: there is no descriptor; `Some(None)`: it has no such entry.
    fn entry<'a>(&'a self, head: &RequestHead<'a>, caller: Option<IpAddr>) -> Option<Option<(&'a str, Cow<'a, str>)>> {
        match self {
            Self::Unknown => None,
            Self::RemoteAddress => Some(Some(("remote_address", Cow::Owned(caller?.to_canonical().to_string())))),
            Self::Constant { key, value } => Some(Some((key, Cow::Borrowed(value)))),
            Self::Header { name, key, is_skipped } => match value_of(name, head) {
                Some(value) => Some(Some((key, value))),
                None => is_skipped.then_some(None),
            },
            Self::Matching { key, value, headers, expected } => {
                let all = headers.iter().all(|header| header.matches(head));
                (all == *expected).then_some(Some((key, Cow::Borrowed(value))))
            }
        }
    }
}

/// Several values are joined, as Envoy does.
fn value_of<'a>(name: &HeaderName, head: &RequestHead<'a>) -> Option<Cow<'a, str>> {
    let mut values = head.headers.get_all(name).iter().map(|value| value.to_str().ok());
    let first = values.next()??;
    let mut joined = Cow::Borrowed(first);
    for value in values {
        let joined = joined.to_mut();
        joined.push(',');
        joined.push_str(value?);
    }
    Some(joined).filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::{HeaderMap, Method};

    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);
    const ANY: &str = "*";

    impl DescriptorLimit {
        fn of(entries: &[(&str, &str)], max_tokens: u32, interval: Duration) -> Self {
            let value = |value: &str| Some(value.into()).filter(|_| value != ANY);
            let entries: Vec<Entry> = entries.iter().map(|(key, of)| ((*key).into(), value(of))).collect();
            let (bucket, any) = (TokenBucket::new(max_tokens, 1, interval), entries.iter().any(|(_, of)| of.is_none()));
            let buckets = if any { Buckets::each(bucket, 2) } else { Buckets::one(bucket) };
            Self { entries, buckets, is_shadow: false }
        }
    }

    fn header(name: &'static str, is_skipped: bool) -> Action {
        Action::Header { name: HeaderName::from_static(name), key: name.into(), is_skipped }
    }

    fn rule<const N: usize>(actions: [Action; N]) -> Arc<Rule> {
        Arc::new(Rule { stage: 0, actions: actions.into() })
    }

    #[test]
    fn a_call_has_the_address_of_its_caller_and_a_client_none() {
        let limits = vec![DescriptorLimit::of(&[("remote_address", ANY)], 1, HOUR)];
        let descriptors = Descriptors::new(vec![rule([Action::RemoteAddress])], limits);
        let headers = HeaderMap::new();
        let head = RequestHead { path: "/a.B/C", method: &Method::POST, authority: "svc.test", headers: &headers };
        let now = Instant::now();
        let mut by = |caller: &str| match descriptors.take(&head, caller.parse().ok(), now) {
            Matched::None => None,
            Matched::Passes(_) => Some(true),
            Matched::Refused(_) => Some(false),
        };
        let found = ["192.0.2.7", "2001:db8::7", "::ffff:192.0.2.7", "nobody", "2001:db8::7"].map(&mut by);
        assert_eq!(found, [PASSES, PASSES, REFUSED, None, REFUSED]);
    }

    fn constant(key: &str, value: &str) -> Action {
        Action::Constant { key: key.into(), value: value.into() }
    }

    fn matched(descriptors: &Descriptors, headers: &[(&'static str, &str)], now: Instant) -> Option<bool> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().expect("a value"));
        }
        let head = RequestHead { path: "/a.B/C", method: &Method::POST, authority: "svc.test", headers: &map };
        match descriptors.take(&head, Some([192, 0, 2, 7].into()), now) {
            Matched::None => None,
            Matched::Passes(_) => Some(true),
            Matched::Refused(_) => Some(false),
        }
    }

    const PASSES: Option<bool> = Some(true);
    const REFUSED: Option<bool> = Some(false);

    #[test]
    fn a_limit_is_for_calls_of_which_a_rule_makes_its_descriptor_whole() {
        let rules = || vec![rule([constant("all", "1"), header("x-user", false), header("x-tier", true)])];
        let both = [("all", "1"), ("x-user", "ada"), ("x-tier", "free")];
        for (entries, headers, is_matched) in [
            (&both[..], &[("x-user", "ada"), ("x-tier", "free")][..], true),
            (&both, &[("x-user", "ada")], false),
            (&both[..2], &[("x-user", "ada")], true),
            (&both[..2], &[("x-user", "ada"), ("x-tier", "free")], false),
            (&both[..1], &[], false),
            (&both[..2], &[("x-user", "eve")], false),
            (&[("all", "1"), ("x-user", "ada,eve")], &[("x-user", "ada"), ("x-user", "eve")], true),
            (&[("x-user", "ada"), ("all", "1")], &[("x-user", "ada")], false),
        ] {
            let descriptors = Descriptors::new(rules(), vec![DescriptorLimit::of(entries, 1, HOUR)]);
            let expected = PASSES.filter(|_| is_matched);
            assert_eq!(matched(&descriptors, headers, Instant::now()), expected, "{entries:?} for {headers:?}");
        }
    }

    #[test]
    fn a_call_takes_a_token_of_each_of_its_limits_the_slowest_first() {
        let limits = vec![
            DescriptorLimit::of(&[("quick", "1")], 2, Duration::from_secs(1)),
            DescriptorLimit::of(&[("slow", "1")], 1, HOUR),
        ];
        let rules = vec![rule([constant("quick", "1")]), rule([constant("slow", "1")])];
        let descriptors = Descriptors::new(rules, limits);
        let now = Instant::now();
        let results = [(); 3].map(|()| matched(&descriptors, &[], now));
        assert_eq!(results, [PASSES, REFUSED, REFUSED]);
        assert!(descriptors.limits[1].buckets.like.take(now), "the slow one refused before the quick one lost another");
        assert!(!descriptors.limits[1].buckets.like.take(now));
    }

    #[test]
    fn a_shadow_refuses_nobody() {
        let shadow = DescriptorLimit { is_shadow: true, ..DescriptorLimit::of(&[("a", "1")], 0, HOUR) };
        let descriptors = Descriptors::new(vec![rule([constant("a", "1")])], vec![shadow]);
        assert_eq!(matched(&descriptors, &[], Instant::now()), PASSES);
    }

    #[test]
    fn each_value_has_tokens_of_its_own_and_those_of_late_are_remembered() {
        let limits = || {
            vec![DescriptorLimit::of(&[("x-user", ANY)], 1, HOUR), DescriptorLimit::of(&[("x-user", "eve")], 2, HOUR)]
        };
        let rules = || vec![rule([header("x-user", false)])];
        let (descriptors, now) = (Descriptors::new(rules(), limits()), Instant::now());
        let by = |descriptors: &Descriptors, users: &[&str]| {
            users.iter().map(|user| matched(descriptors, &[("x-user", user)], now)).collect::<Vec<_>>()
        };
        assert_eq!(by(&descriptors, &["ada", "bob", "ada", "bob"]), [PASSES, PASSES, REFUSED, REFUSED]);
        assert_eq!(by(&descriptors, &["eve", "eve", "eve"]), [PASSES, PASSES, REFUSED], "the limit that names her");
        let after = Descriptors::new(rules(), limits());
        after.inherit(&descriptors);
        assert_eq!(by(&after, &["ada", "bob", "eve"]), [REFUSED; 3], "an update brings nobody tokens");
        // As when a route table changes and the filter does not.
        let same = descriptors.with_rules(rules());
        let (tell, told) = std::sync::mpsc::channel();
        std::thread::spawn({
            let (same, descriptors) = (same.clone(), descriptors.clone());
            move || {
                same.inherit(&descriptors);
                tell.send(()).expect("it is waited for");
            }
        });
        told.recv_timeout(Duration::from_secs(10)).expect("it goes on with itself");
        assert_eq!(by(&same, &["ada", "bob", "eve"]), [REFUSED; 3], "other rules bring nobody tokens");
        assert_eq!(
            by(&descriptors, &["ada", "cid", "ada", "bob"]),
            [REFUSED, PASSES, REFUSED, PASSES],
            "bob was forgotten"
        );
    }
}
