//! What is sent to another cluster beside the call itself (`request_mirror_policies`, as in Envoy).

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use http::uri::Authority;
use http::{HeaderMap, HeaderName, Uri};

use super::filter::header_mutation::Change;
use super::rewrite::rewrite_authority;

/// A share of a route's calls is sent to another cluster too.
#[derive(Clone, Debug)]
pub(crate) struct MirrorPolicy {
    pub(crate) cluster: MirrorCluster,
    /// Of a million calls.
    pub(crate) share: u32,
    /// Whether the copy's authority is told from the call's by `-shadow` at the end of its host.
    pub(crate) has_suffix: bool,
    /// What is changed in the copy's headers.
    pub(crate) headers: Vec<Change>,
    /// What the copy gets in place of its authority, if the control plane may say so.
    pub(crate) host: Option<Authority>,
    /// Until when no copy is sent, as the last one could not be: on the clock of who sends them.
    pub(crate) rests_until: Arc<AtomicU64>,
}

/// Where copies go.
#[derive(Clone, Debug)]
pub(crate) enum MirrorCluster {
    Named(Arc<str>),
    /// The cluster that this header of the request names.
    Header(HeaderName),
}

impl MirrorPolicy {
    /// All calls are sent to `cluster` too.
    pub(crate) fn to(cluster: MirrorCluster) -> Self {
        Self {
            cluster,
            share: 1_000_000,
            has_suffix: true,
            headers: Vec::new(),
            host: None,
            rests_until: Arc::default(),
        }
    }

    /// Whether a call is mirrored; `random` is below a million.
    pub(crate) fn takes(&self, random: impl FnOnce() -> u32) -> bool {
        self.share >= 1_000_000 || random() < self.share
    }

    /// Gives the URI the authority of a copy.
    pub(crate) fn address(&self, uri: &mut Uri, may_rewrite: bool) {
        if let Some(host) = self.host.as_ref().filter(|_| may_rewrite) {
            rewrite_authority(uri, host);
        }
        if self.has_suffix
            && let Some(shadow) = uri.authority().and_then(shadow)
        {
            rewrite_authority(uri, &shadow);
        }
    }
}

impl MirrorCluster {
    /// The cluster's name for a call with these headers.
    pub(crate) fn name<'a>(&'a self, headers: &'a HeaderMap) -> Option<&'a str> {
        match self {
            Self::Named(name) => Some(name),
            Self::Header(header) => headers.get(header)?.to_str().ok(),
        }
    }
}

/// `host-shadow:port`; an address in brackets cannot have a suffix.
fn shadow(authority: &Authority) -> Option<Authority> {
    if authority.host().starts_with('[') {
        return None;
    }
    let shadow = match authority.port() {
        Some(port) => format!("{}-shadow:{port}", authority.host()),
        None => format!("{}-shadow", authority.host()),
    };
    Authority::try_from(shadow).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> MirrorPolicy {
        MirrorPolicy::to(MirrorCluster::Named("mirror".into()))
    }

    #[test]
    fn a_copys_host_ends_in_shadow_unless_the_policy_says_otherwise() {
        let plain = MirrorPolicy { has_suffix: false, ..all() };
        let host = Some(Authority::from_static("other:1"));
        let elsewhere = MirrorPolicy { host: host.clone(), ..all() };
        let elsewhere_plain = MirrorPolicy { host, ..plain.clone() };
        for (policy, may_rewrite, uri, expected) in [
            (&all(), true, "http://greeter/s/M", "http://greeter-shadow/s/M"),
            (&all(), true, "http://greeter:80/s/M?q", "http://greeter-shadow:80/s/M?q"),
            (&all(), true, "http://[::1]:80/", "http://[::1]:80/"),
            (&all(), true, "/s/M", "/s/M"),
            (&plain, true, "http://greeter/s/M", "http://greeter/s/M"),
            (&elsewhere, true, "http://greeter/s/M", "http://other-shadow:1/s/M"),
            (&elsewhere, false, "http://greeter/s/M", "http://greeter-shadow/s/M"),
            (&elsewhere_plain, true, "http://greeter/s/M", "http://other:1/s/M"),
        ] {
            let mut changed = Uri::from_static(uri);
            policy.address(&mut changed, may_rewrite);
            assert_eq!(changed.to_string(), expected, "{policy:?}");
        }
    }

    #[test]
    fn a_share_of_the_calls_is_taken() {
        for (share, taken) in
            [(0, [false, false]), (1, [true, false]), (999_999, [true, false]), (1_000_000, [true; 2])]
        {
            let policy = MirrorPolicy { share, ..all() };
            assert_eq!([0, 999_999].map(|random| policy.takes(|| random)), taken, "{share}");
        }
    }

    #[test]
    fn a_header_may_name_the_cluster() {
        let headers = [(HeaderName::from_static("x-mirror"), "canary".parse().expect("a value"))];
        let headers: HeaderMap = headers.into_iter().collect();
        let by = |name| MirrorCluster::Header(HeaderName::from_static(name));
        assert_eq!(by("x-mirror").name(&headers), Some("canary"));
        assert_eq!(by("x-other").name(&headers), None);
    }
}
