//! A call that waits for what another service says of it (A92).

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::time::{Instant, timeout_at};

use crate::call::Call;
use crate::resource::ext_authz::{Asked, AuthorizationService, Checked, ExtAuthzConfig, Parties, Verdict};
use crate::xds::transport::side_channel::SideChannel;

const CHECK: &str = "/envoy.service.auth.v3.Authorization/Check";
const TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
/// What makes the check a part of the call's trace (A72).
const TRACE: [&str; 3] = ["traceparent", "tracestate", "grpc-trace-bin"];

/// A check that is under way.
pub(crate) struct Check {
    config: ExtAuthzConfig,
    index: usize,
    request: Bytes,
    headers: HeaderMap,
    /// The end of a client's call; a server knows its own.
    deadline: Option<Instant>,
}

/// What a filter that asks does with a call.
pub(super) enum Begun {
    Passes,
    Decided(Verdict),
    Waits(Check),
}

/// Begins the check of a call. `parties` are those of the connection that it came on.
pub(super) fn begin(config: &ExtAuthzConfig, index: usize, head: &Parts, parties: Option<Parties>) -> Begun {
    let Some(filter) = &config.filter else { return Begun::Passes };
    match filter.is_checked(|| fastrand::u32(..1_000_000)) {
        Checked::No => return Begun::Passes,
        Checked::Denied => return Begun::Decided(Verdict::Deny(filter.denial_at_disable())),
        Checked::Yes => {}
    }
    let context_extensions = &config.context_extensions;
    let request = filter.request(Asked { head, parties, context_extensions, time: SystemTime::now() });
    let trace = TRACE.into_iter().filter_map(|name| Some((HeaderName::from_static(name), head.headers.get(name)?)));
    let headers = trace.map(|(name, value)| (name, value.clone())).collect();
    let deadline = head.extensions.get::<Call>().and_then(Call::remaining);
    let deadline = deadline.map(|remaining| Instant::now() + remaining);
    Begun::Waits(Check { config: config.clone(), index, request: request.into(), headers, deadline })
}

impl Check {
    /// The place of the filter.
    pub(crate) fn filter(&self) -> usize {
        self.index
    }

    /// Asks, and decides by the answer, or by its lack when the time for it is over. `None`: the call's own time is over
    /// before.
    pub(crate) async fn verdict(&self, deadline: Option<Instant>) -> Option<Verdict> {
        // What begins a check has a filter.
        let filter = self.config.filter.as_ref()?;
        let AuthorizationService { channel, timeout } = self.config.service.as_ref().unwrap_or(&filter.service);
        let deadline = deadline.into_iter().chain(self.deadline).min();
        let limit = Instant::now() + *timeout;
        let ends = deadline.map_or(limit, |deadline| deadline.min(limit));
        let answer = match timeout_at(ends, self.ask(channel, ends)).await {
            Ok(answer) => answer,
            Err(_) if ends < limit => return None,
            Err(_) => Err(format!("no answer within {timeout:?}")),
        };
        Some(filter.verdict(answer.map_err(|why| format!("the check at {} failed: {why}", channel.target()))))
    }

    async fn ask(&self, channel: &SideChannel, ends: Instant) -> Result<Bytes, String> {
        let mut headers = self.headers.clone();
        headers.insert(TIMEOUT, grpc_timeout(ends.saturating_duration_since(Instant::now())));
        channel.call(CHECK, headers, self.request.clone()).await.map_err(|error| error.to_string())
    }
}

/// As the wire has it: at most eight digits, and rounded up, so that whoever answers in time is not cut short.
fn grpc_timeout(remaining: Duration) -> HeaderValue {
    const MOST: u128 = 99_999_999;
    let micros = remaining.as_micros() + 1;
    let text = match micros {
        0..=MOST => format!("{micros}u"),
        _ => format!("{}m", micros.div_ceil(1_000).min(MOST)),
    };
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("0m"))
}

impl std::fmt::Debug for Check {
    /// Without what the call's headers say.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Check").field("index", &self.index).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_told_in_eight_digits_at_most() {
        for (remaining, told) in [
            (Duration::ZERO, "1u"),
            (Duration::from_millis(200), "200001u"),
            (Duration::from_secs(99), "99000001u"),
            (Duration::from_secs(100), "100001m"),
            (Duration::from_secs(3_600_000), "99999999m"),
        ] {
            assert_eq!(grpc_timeout(remaining), told);
        }
    }
}
