//! Audit logging (A59): which decisions are written down, and how.

use std::io::Write;
use std::time::SystemTime;

use serde::Serialize;

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

impl Audit {
    /// Writes the decision down if it is one of those that are.
    pub(crate) fn log(self, record: &Record<'_>) {
        if if record.authorized { self.allowed } else { self.denied } {
            let line = record.line(SystemTime::now());
            // Nobody is left to tell that the output is closed.
            (0..self.stdout).for_each(|_| drop(std::io::stdout().lock().write_all(line.as_bytes())));
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
