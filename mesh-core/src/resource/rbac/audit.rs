//! Audit logging (A59): which decisions are written down, and how.

use std::io::{Stdout, stdout};
use std::time::SystemTime;

use serde::Serialize;

use crate::aside::Lines;

/// What is written down of the decisions of an [`Rbac`](super::Rbac).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Audit {
    pub(crate) allowed: bool,
    pub(crate) denied: bool,
    /// How many loggers write to the standard output.
    pub(crate) stdout: usize,
}

/// One decision, as A59 names its parts.
#[derive(Debug, Serialize)]
pub(crate) struct Record<'a> {
    pub(crate) rpc_method: &'a str,
    /// The caller's verified name; empty if it has none.
    pub(crate) principal: &'a str,
    /// The filter.
    pub(crate) policy_name: &'a str,
    /// The policy that matched; empty if none did.
    pub(crate) matched_rule: &'a str,
    pub(crate) authorized: bool,
}

#[derive(Serialize)]
struct Line<'a> {
    /// Seconds since 1970.
    timestamp: String,
    #[serde(flatten)]
    record: &'a Record<'a>,
}

/// Where decisions are written down. No call waits for that: what the output does not take is lost, and counted.
#[derive(Debug)]
pub(crate) struct AuditLog(Lines<Stdout>);

impl Default for AuditLog {
    fn default() -> Self {
        Self(Lines::to(stdout()))
    }
}

impl AuditLog {
    /// Lines that were not written.
    pub(crate) fn lost(&self) -> u64 {
        self.0.lost()
    }

    /// Resolves when everything is written. The caller bounds the time.
    pub(crate) async fn written(&self) {
        self.0.written().await;
    }
}

impl Audit {
    /// Has the decision written down if it is one of those that are.
    pub(crate) fn log(self, record: &Record<'_>, log: Option<&AuditLog>) {
        let is_logged = if record.authorized { self.allowed } else { self.denied };
        if let Some(log) = log.filter(|_| is_logged) {
            (0..self.stdout).for_each(|_| log.0.push(record.line(SystemTime::now())));
        }
    }
}

impl Record<'_> {
    fn line(&self, now: SystemTime) -> String {
        let timestamp = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs()).to_string();
        let mut line = serde_json::to_string(&Line { timestamp, record: self }).unwrap_or_default();
        line.push('\n');
        line
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_record_is_a_line_of_json_as_grpc_writes_it() {
        let record = Record {
            rpc_method: "/pkg.Service/Foo",
            principal: "spiffe://foo/user1",
            policy_name: "example_policy",
            matched_rule: "admin_access",
            authorized: true,
        };
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_649_376_211);
        assert_eq!(
            record.line(now),
            "{\"timestamp\":\"1649376211\",\"rpc_method\":\"/pkg.Service/Foo\",\"principal\":\"spiffe://foo/user1\",\
             \"policy_name\":\"example_policy\",\"matched_rule\":\"admin_access\",\"authorized\":true}\n"
        );
    }
}
