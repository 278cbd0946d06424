//! How important a call is, in the words of Google's SRE book ("Handling Overload"): what is refused first when not all can
//! be served.

use std::fmt;
use std::str::FromStr;

use http::{HeaderMap, HeaderName};

use crate::error::Error;

/// How important a call is. Under overload, calls that are less important are refused first; see
/// [`ConcurrencyLimit::share`](crate::filter::ConcurrencyLimit::share).
///
/// Whoever makes the first call of a tree says it, in the header [`HEADER`](Self::HEADER), and every call that is made to
/// serve that one has the same. A caller that nobody trusts may say what it likes: a gateway takes the header out.
///
/// ```
/// use mesh_core::Criticality;
///
/// let mut batch = http::Request::new(());
/// batch.headers_mut().insert(Criticality::HEADER, Criticality::Sheddable.into());
/// assert!(Criticality::Sheddable < Criticality::default());
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Criticality {
    /// `SHEDDABLE`: it is expected that such calls often fail, such as those of batch jobs that try again.
    Sheddable,
    /// `SHEDDABLE_PLUS`: it is expected that such calls fail sometimes.
    SheddablePlus,
    /// `CRITICAL`: that such a call fails is felt. Calls that say nothing, or what is not known, are these.
    #[default]
    Critical,
    /// `CRITICAL_PLUS`: that such a call fails is serious.
    CriticalPlus,
}

impl Criticality {
    /// The header that says it, unless code names another: `x-request-criticality`.
    pub const HEADER: HeaderName = HeaderName::from_static("x-request-criticality");

    /// From the least to the most important.
    pub(crate) const ALL: [Self; 4] = [Self::Sheddable, Self::SheddablePlus, Self::Critical, Self::CriticalPlus];

    /// As the header has it, such as `SHEDDABLE_PLUS`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sheddable => "SHEDDABLE",
            Self::SheddablePlus => "SHEDDABLE_PLUS",
            Self::Critical => "CRITICAL",
            Self::CriticalPlus => "CRITICAL_PLUS",
        }
    }

    /// What a call says in this header; of several values the least, so that nobody gains by saying two.
    pub(crate) fn of(headers: &HeaderMap, header: &HeaderName) -> Option<Self> {
        headers.get_all(header).iter().filter_map(|value| value.to_str().ok()?.parse().ok()).min()
    }
}

impl FromStr for Criticality {
    type Err = Error;

    /// The case does not matter.
    fn from_str(text: &str) -> Result<Self, Error> {
        let mut all = Self::ALL.into_iter();
        let found = all.find(|one| one.as_str().eq_ignore_ascii_case(text.trim()));
        found.ok_or_else(|| Error::setup("a criticality is CRITICAL_PLUS, CRITICAL, SHEDDABLE_PLUS or SHEDDABLE"))
    }
}

impl fmt::Display for Criticality {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl From<Criticality> for http::HeaderValue {
    fn from(criticality: Criticality) -> Self {
        Self::from_static(criticality.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_criticality_is_what_the_header_says_and_of_two_the_least() {
        for (values, expected) in [
            (&[][..], None),
            (&["CRITICAL_PLUS"][..], Some(Criticality::CriticalPlus)),
            (&["sheddable_plus"], Some(Criticality::SheddablePlus)),
            (&["CRITICAL_PLUS", "SHEDDABLE"], Some(Criticality::Sheddable)),
            (&["IMPORTANT"], None),
            (&["IMPORTANT", "CRITICAL"], Some(Criticality::Critical)),
        ] {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(Criticality::HEADER, value.parse().expect("a value"));
            }
            assert_eq!(Criticality::of(&headers, &Criticality::HEADER), expected, "{values:?}");
        }
    }
}
