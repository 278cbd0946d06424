//! Which calls a limit of their own is for: descriptors that rules make of a call, and the limits of some of them.

use std::borrow::Cow;

use http::HeaderName;
use tokio::time::Instant;

use super::rate_limit::TokenBucket;
use crate::resource::matcher::RequestHead;
use crate::resource::matcher::header::HeaderMatch;

/// The limits of calls with certain descriptors.
#[derive(Debug, Default)]
pub(crate) struct Descriptors {
    /// Each makes a descriptor of a call, or none.
    rules: Vec<Vec<Action>>,
    /// Those that fill slowest first.
    limits: Vec<DescriptorLimit>,
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
    /// A constant where the headers all match, or where they do not; otherwise there is no descriptor.
    Matching {
        key: Box<str>,
        value: Box<str>,
        headers: Vec<HeaderMatch>,
        expected: bool,
    },
}

/// The limit of calls with this descriptor.
#[derive(Debug)]
pub(crate) struct DescriptorLimit {
    pub(crate) entries: Vec<(Box<str>, Box<str>)>,
    pub(crate) bucket: TokenBucket,
    /// A call that finds no token passes.
    pub(crate) is_shadow: bool,
}

/// What the limits say of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Matched {
    /// No descriptor of the call has a limit.
    None,
    Passes,
    Refused,
}

impl Descriptors {
    pub(crate) fn new(rules: Vec<Vec<Action>>, mut limits: Vec<DescriptorLimit>) -> Self {
        limits.sort_by_key(|limit| std::cmp::Reverse(limit.bucket.time_to_fill_one()));
        Self { rules, limits }
    }

    /// Whether they limit no call.
    pub(super) fn is_idle(&self) -> bool {
        self.rules.is_empty() || self.limits.is_empty()
    }

    /// Takes a token of each limit that the call has a descriptor of, as in Envoy: up to the first that has none.
    pub(super) fn take(&self, head: &RequestHead<'_>, now: Instant) -> Matched {
        let mut matched = Matched::None;
        let is_for = |limit: &&DescriptorLimit| self.rules.iter().any(|rule| makes(rule, &limit.entries, head));
        for limit in self.limits.iter().filter(is_for) {
            if !limit.bucket.take(now) && !limit.is_shadow {
                return Matched::Refused;
            }
            matched = Matched::Passes;
        }
        matched
    }

    /// Goes on with the tokens of those for the same calls.
    pub(super) fn inherit(&self, before: &Self) {
        for limit in &self.limits {
            if let Some(before) = before.limits.iter().find(|before| before.entries == limit.entries) {
                limit.bucket.inherit(&before.bucket);
            }
        }
    }
}

/// Whether a rule makes this descriptor of a call.
fn makes(rule: &[Action], entries: &[(Box<str>, Box<str>)], head: &RequestHead<'_>) -> bool {
    let mut left = entries.iter();
    for action in rule {
        match action.entry(head) {
            None => return false,
            Some(None) => {}
            Some(Some((key, value))) => {
                let is_same = |(own_key, own_value): &(Box<str>, Box<str>)| **own_key == *key && **own_value == *value;
                if !left.next().is_some_and(is_same) {
                    return false;
                }
            }
        }
    }
    left.next().is_none()
}

impl Action {
    /// `None`: there is no descriptor; `Some(None)`: it has no such entry.
    fn entry<'a>(&'a self, head: &RequestHead<'a>) -> Option<Option<(&'a str, Cow<'a, str>)>> {
        match self {
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

    impl DescriptorLimit {
        fn of(entries: &[(&str, &str)], max_tokens: u32, interval: Duration) -> Self {
            let entries = entries.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
            Self { entries, bucket: TokenBucket::new(max_tokens, 1, interval), is_shadow: false }
        }
    }

    fn header(name: &'static str, is_skipped: bool) -> Action {
        Action::Header { name: HeaderName::from_static(name), key: name.into(), is_skipped }
    }

    fn constant(key: &str, value: &str) -> Action {
        Action::Constant { key: key.into(), value: value.into() }
    }

    fn matched(descriptors: &Descriptors, headers: &[(&'static str, &str)], now: Instant) -> Matched {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().expect("a value"));
        }
        let head = RequestHead { path: "/a.B/C", method: &Method::POST, authority: "svc.test", headers: &map };
        descriptors.take(&head, now)
    }

    #[test]
    fn a_limit_is_for_calls_of_which_a_rule_makes_its_descriptor_whole() {
        let rules = || vec![vec![constant("all", "1"), header("x-user", false), header("x-tier", true)]];
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
            let expected = if is_matched { Matched::Passes } else { Matched::None };
            assert_eq!(matched(&descriptors, headers, Instant::now()), expected, "{entries:?} for {headers:?}");
        }
    }

    #[test]
    fn a_call_takes_a_token_of_each_of_its_limits_the_slowest_first() {
        let limits = vec![
            DescriptorLimit::of(&[("quick", "1")], 2, Duration::from_secs(1)),
            DescriptorLimit::of(&[("slow", "1")], 1, HOUR),
        ];
        let descriptors = Descriptors::new(vec![vec![constant("quick", "1")], vec![constant("slow", "1")]], limits);
        let now = Instant::now();
        let results = [(); 3].map(|()| matched(&descriptors, &[], now));
        assert_eq!(results, [Matched::Passes, Matched::Refused, Matched::Refused]);
        assert!(descriptors.limits[1].bucket.take(now), "the slow one refused before the quick one lost another");
        assert!(!descriptors.limits[1].bucket.take(now));
    }

    #[test]
    fn a_shadow_refuses_nobody() {
        let shadow = DescriptorLimit { is_shadow: true, ..DescriptorLimit::of(&[("a", "1")], 0, HOUR) };
        let descriptors = Descriptors::new(vec![vec![constant("a", "1")]], vec![shadow]);
        assert_eq!(matched(&descriptors, &[], Instant::now()), Matched::Passes);
    }
}
