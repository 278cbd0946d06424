//! Role-based access control (A41): who may make which calls, as a pure and total decision.
//!
//! ```text
//! Rbac: ALLOW or DENY ─ policies by name ─ each: one of its permissions and one of its principals, trees of Rule
//!                         └ index.rs: those that a caller of this name, or a call of this path, may match at all
//! ```

pub(crate) mod access;
pub(crate) mod audit;
mod index;
pub(crate) mod metadata;
mod rule;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

use audit::Audit;
use index::PolicyIndex;
pub use rule::Rule;
pub(crate) use rule::{Callers, InboundCall, Kind};

/// Policies that together allow calls, or deny them (A41).
///
/// ```
/// use mesh_core::authorize::{Policy, Rbac, Rule};
///
/// let readers = Policy::new([Rule::path_prefix("/library.Books/")], [Rule::principal("spiffe://example.org/reader")]);
/// let rbac = Rbac::allow([("readers", readers)]);
/// # let _ = rbac;
/// ```
pub struct Rbac {
    action: Action,
    /// Sorted by name, which is the order in which they are tried.
    policies: Vec<(Arc<str>, Policy)>,
    index: PolicyIndex,
    pub(crate) audit: Audit,
}

/// Whom a policy is for, and what for.
#[derive(Debug)]
pub struct Policy {
    permissions: Box<[Rule]>,
    principals: Box<[Rule]>,
}

/// What is done with a call that a policy matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Allow,
    Deny,
}

/// What an [`Rbac`] says of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Decision<'a> {
    pub(crate) allowed: bool,
    /// The policy that matched.
    pub(crate) policy: Option<&'a Arc<str>>,
}

impl Rbac {
    /// Allows the calls that one of the policies matches, and no others.
    pub fn allow<N: Into<Arc<str>>>(policies: impl IntoIterator<Item = (N, Policy)>) -> Self {
        Self::new(Action::Allow, policies, Audit::default())
    }

    /// Denies the calls that one of the policies matches, and no others.
    pub fn deny<N: Into<Arc<str>>>(policies: impl IntoIterator<Item = (N, Policy)>) -> Self {
        Self::new(Action::Deny, policies, Audit::default())
    }

    pub(crate) fn new<N: Into<Arc<str>>>(
        action: Action,
        policies: impl IntoIterator<Item = (N, Policy)>,
        audit: Audit,
    ) -> Self {
        let mut policies: Vec<_> = policies.into_iter().map(|(name, policy)| (name.into(), policy)).collect();
        policies.sort_by(|(one, _), (other, _)| one.cmp(other));
        let index = PolicyIndex::new(policies.iter().map(|(_, policy)| policy));
        Self { action, policies, index, audit }
    }

    pub(crate) fn action(&self) -> Action {
        self.action
    }

    /// Of several policies that match, the first by name is told.
    pub(crate) fn decide(&self, call: &InboundCall<'_>) -> Decision<'_> {
        let found = self.index.first(call, |place| self.policies[place].1.matches(call, self.action));
        Decision {
            allowed: found.is_some() == (self.action == Action::Allow),
            policy: found.map(|place| &self.policies[place].0),
        }
    }
}

// Of the fuzzers alone.
#[cfg(all(any(test, fuzzing), feature = "testing", feature = "jwt", feature = "rbac"))]
impl Rbac {
    /// The same without the index.
    pub(crate) fn decide_by_walk(&self, call: &InboundCall<'_>) -> Decision<'_> {
        let found = self.policies.iter().find(|(_, policy)| policy.matches(call, self.action));
        Decision { allowed: found.is_some() == (self.action == Action::Allow), policy: found.map(|(name, _)| name) }
    }
}

impl Policy {
    /// Matches calls that one of the permissions holds for, from callers whom one of the principals holds for. Without
    /// one or without the other it matches nothing.
    pub fn new(permissions: impl IntoIterator<Item = Rule>, principals: impl IntoIterator<Item = Rule>) -> Self {
        Self { permissions: permissions.into_iter().collect(), principals: principals.into_iter().collect() }
    }

    fn matches(&self, call: &InboundCall<'_>, action: Action) -> bool {
        let one_of = |rules: &[Rule]| rules.iter().any(|rule| rule.holds(call, action));
        one_of(&self.permissions) && one_of(&self.principals)
    }
}

impl fmt::Debug for Rbac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rbac").field("action", &self.action).field("policies", &self.policies).finish_non_exhaustive()
    }
}

/// The filter `envoy.filters.http.rbac`, or what a route puts in its place.
#[derive(Debug, Default)]
pub(crate) struct RbacFilter {
    /// `None`: every call passes, and none is admitted by it.
    pub(crate) rules: Option<Rbac>,
    /// Decided too, and told; what they say changes nothing.
    pub(crate) shadow: Option<Rbac>,
}
