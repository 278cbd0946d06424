//! Matching of a text: `envoy.type.matcher.v3.StringMatcher` (A63).

use regex::bytes::Regex;

use super::pattern::{Budget, containing, whole};

/// A condition on a text.
#[derive(Debug)]
pub(crate) enum TextMatch {
    Exact(Literal),
    Prefix(Literal),
    Suffix(Literal),
    /// Found anywhere, or over the whole text: which of the two was decided when it was compiled.
    Pattern(Regex),
}

/// A text to compare with.
#[derive(Debug)]
pub(crate) struct Literal {
    text: Box<str>,
    ignore_case: bool,
}

impl TextMatch {
    pub(crate) fn exact(text: &str, ignore_case: bool) -> Self {
        Self::Exact(Literal::new(text, ignore_case))
    }

    pub(crate) fn prefix(text: &str, ignore_case: bool) -> Self {
        Self::Prefix(Literal::new(text, ignore_case))
    }

    pub(crate) fn suffix(text: &str, ignore_case: bool) -> Self {
        Self::Suffix(Literal::new(text, ignore_case))
    }

    /// Compiled to a search, so that it takes linear time whatever the text.
    pub(crate) fn contains(text: &str, ignore_case: bool, budget: &Budget) -> Result<Self, String> {
        containing(text, ignore_case, budget).map(Self::Pattern)
    }

    /// `ignore_case` has no effect on a pattern (A63).
    pub(crate) fn regex(pattern: &str, budget: &Budget) -> Result<Self, String> {
        whole(pattern, budget).map(Self::Pattern)
    }

    pub(crate) fn matches(&self, value: &[u8]) -> bool {
        match self {
            Self::Exact(literal) => literal.equals(value),
            Self::Prefix(literal) => literal.starts(value),
            Self::Suffix(literal) => literal.ends(value),
            Self::Pattern(regex) => regex.is_match(value),
        }
    }
}

impl Literal {
    pub(crate) fn new(text: &str, ignore_case: bool) -> Self {
        Self { text: text.into(), ignore_case }
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    pub(crate) fn ignores_case(&self) -> bool {
        self.ignore_case
    }

    pub(crate) fn equals(&self, value: &[u8]) -> bool {
        let text = self.text.as_bytes();
        if self.ignore_case { value.eq_ignore_ascii_case(text) } else { value == text }
    }

    pub(crate) fn starts(&self, value: &[u8]) -> bool {
        value.get(..self.text.len()).is_some_and(|start| self.equals(start))
    }

    pub(crate) fn ends(&self, value: &[u8]) -> bool {
        let start = value.len().checked_sub(self.text.len());
        start.is_some_and(|start| self.equals(&value[start..]))
    }
}
