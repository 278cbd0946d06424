//! What all access control on the way of a call says together.

use super::audit::{AuditLog, Record};
use super::{Action, InboundCall, RbacFilter};

/// How many characters of what a caller sent are kept.
const MOST_SHOWN: usize = 200;

/// Why a call is refused: for the server's own log, never for the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refusal<'a> {
    /// The filter; empty: none admitted the call, and one had to.
    pub(crate) filter: &'a str,
    /// The policy that denied it; empty: none allowed it.
    pub(crate) policy: &'a str,
}

/// What the filters that a call has passed say of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Access {
    admitted: bool,
}

/// Decides whether a call passes all of the filters, in their order. With `deny_by_default` a policy that allows must have
/// matched, too. What is to be written down of it goes to `log`, which
/// policies without audit logging need not have.
pub(crate) fn decide<'a>(
    call: &InboundCall<'_>,
    mut filters: impl Iterator<Item = (&'a str, &'a RbacFilter)>,
    deny_by_default: bool,
    log: Option<&AuditLog>,
) -> Result<(), Refusal<'a>> {
    let mut access = Access::new(deny_by_default);
    filters.try_for_each(|(name, filter)| access.pass(call, name, filter, log))?;
    access.end()
}

impl Access {
    /// Of a call that has passed none yet.
    pub(crate) fn new(deny_by_default: bool) -> Self {
        Self { admitted: !deny_by_default }
    }

    /// Decides whether it passes one more.
    pub(crate) fn pass<'a>(
        &mut self,
        call: &InboundCall<'_>,
        name: &'a str,
        filter: &'a RbacFilter,
        log: Option<&AuditLog>,
    ) -> Result<(), Refusal<'a>> {
        if let Some(shadow) = &filter.shadow {
            let decision = shadow.decide(call);
            let policy = decision.policy.map_or("", |policy| policy);
            if !decision.allowed {
                // Callers choose how often, and how long it is.
                tracing::debug!(
                    "shadow rules would have refused a call: {}",
                    Refusal { filter: name, policy }.describe(call, "")
                );
            }
            shadow.audit.log(&record(call, name, policy, decision.allowed), log);
        }
        let Some(rules) = &filter.rules else { return Ok(()) };
        let decision = rules.decide(call);
        let policy = decision.policy.map_or("", |policy| policy);
        rules.audit.log(&record(call, name, policy, decision.allowed), log);
        if !decision.allowed {
            return Err(Refusal { filter: name, policy });
        }
        self.admitted |= rules.action() == Action::Allow;
        Ok(())
    }

    /// Decides, behind all filters, whether it was admitted at all.
    pub(crate) fn end(self) -> Result<(), Refusal<'static>> {
        if self.admitted { Ok(()) } else { Err(Refusal { filter: "", policy: "" }) }
    }
}

fn record<'a>(call: &InboundCall<'a>, filter: &'a str, policy: &'a str, authorized: bool) -> Record<'a> {
    Record {
        rpc_method: call.head.bare_path(),
        principal: call.caller.name(),
        policy_name: filter,
        matched_rule: policy,
        authorized,
    }
}

impl Refusal<'_> {
    /// Which rules, of which call, for the server's operator.
    pub(crate) fn describe(self, call: &InboundCall<'_>, route: &str) -> String {
        let by = match self {
            Self { filter: "", .. } => "no policy that allows it was asked".to_owned(),
            Self { filter, policy: "" } => format!("no policy of filter `{filter}` allows it"),
            Self { filter, policy } => format!("policy `{policy}` of filter `{filter}` denies it"),
        };
        let route = if route.is_empty() { String::new() } else { format!(", route {route}") };
        let address = call.addresses.map(|(_, peer)| format!(" at {peer}")).unwrap_or_default();
        let caller = match call.caller.name() {
            "" => "an unverified caller",
            name => name,
        };
        format!("{by}; path `{:.MOST_SHOWN$}`{route}, from {caller:.MOST_SHOWN$}{address}", call.head.bare_path())
    }
}
